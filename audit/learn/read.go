package learn

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"appdefender/audit"
	"appdefender/policy"
)

// maxLine is how long the line of an event or record may be, in bytes.
const maxLine = 4 << 20

// Line is one line of a recording or an audit log.
type Line struct {
	Number int
	Raw    json.RawMessage
	Header *Header // of the first line of a recording; otherwise there is
	// either an observation, or a record, or both: what the record tells of.
	Observation *Observation
	Record      *audit.Record
}

// Workload is what rules are selected by, as far as the line says it.
func (l *Line) Workload() policy.Workload {
	switch {
	case l.Header != nil:
		return l.Header.Workload()
	case l.Record != nil:
		return policy.Workload{Image: l.Record.ImageName, Container: l.Record.ContainerName, AppID: l.Record.AppID}
	}
	return policy.Workload{}
}

// Lines calls each, which must not keep its argument, for every line of a recording, of events, of an audit log,
// or of what a Console's GET /api/v1/audits answers, packed by gzip or not. It
// goes on over a last line that was cut off, which is a note.
func Lines(name string, in io.Reader, each func(*Line) error) (notes []string, err error) {
	in, err = unpacked(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	sums := 0
	defer func() {
		if sums > 0 && err == nil {
			notes = append(notes, fmt.Sprintf("%s: of %d events only the last of many is known; start the Defender with --every-audit to have each", name, sums))
		}
	}()
	b := bufio.NewReaderSize(in, 1<<16)
	for n := 1; ; n++ {
		line, whole, err := readLine(b)
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return notes, nil
		case errors.Is(err, io.ErrUnexpectedEOF): // a gzip file that was cut off
			return append(notes, fmt.Sprintf("%s:%d: the file ends in the middle: the rest is missing", name, n)), nil
		case err != nil && !errors.Is(err, io.EOF):
			return notes, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		// What a crash or copytruncate left: zeros, or half a line.
		line = bytes.TrimSpace(bytes.Trim(line, "\x00"))
		if len(line) == 0 {
			continue
		}
		all, err := parse(line)
		if err != nil && !whole && (line[0] == '{' || len(line) > 9 && line[8] == ' ' && line[9] == '{') && !json.Valid(line) {
			return append(notes, fmt.Sprintf("%s:%d: the last line is incomplete and left out", name, n)), nil
		}
		if err != nil {
			return notes, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		for _, l := range all {
			l.Number = n
			if l.Record != nil && len(l.Record.Events) > 0 {
				sums += l.Record.Count
			}
			if err := each(l); err != nil {
				return notes, fmt.Errorf("%s:%d: %w", name, n, err)
			}
		}
	}
}

// unpacked reads what gzip packed.
func unpacked(in io.Reader) (io.Reader, error) {
	b := bufio.NewReader(in)
	if magic, _ := b.Peek(4); bytes.HasPrefix(magic, []byte{0x1f, 0x8b}) {
		return gzip.NewReader(b)
	} else if bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		return nil, errors.New(`packed by zstd; unpack it with "zstd -dc FILE | … -"`)
	}
	return b, nil
}

// readLine returns a line without its end; whole says that it had one.
func readLine(b *bufio.Reader) (line []byte, whole bool, err error) {
	for {
		part, err := b.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line[:len(line)-1], true, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return line, false, err
		case len(line) > maxLine:
			return nil, false, fmt.Errorf("a line is longer than %d MiB; is this a recording or an audit log?", maxLine>>20)
		}
	}
}

// parse reads one line.
func parse(line []byte) ([]*Line, error) {
	if record, ok := audit.SpoolLine(line); ok {
		line = record
	}
	var keys struct {
		Recording *int              `json:"recording"`
		Kind      *string           `json:"kind"`
		Audits    []json.RawMessage `json:"audits"`
		Record    json.RawMessage   `json:"record"`
	}
	if err := json.Unmarshal(line, &keys); err != nil {
		return nil, fmt.Errorf("%w: neither an event nor a record, one JSON object a line", err)
	}
	switch {
	case keys.Recording != nil:
		h := &Header{}
		if err := json.Unmarshal(line, h); err != nil {
			return nil, err
		}
		if h.Recording != 1 {
			return nil, fmt.Errorf("a recording of version %d, and this program knows version 1; use a newer one", h.Recording)
		}
		return []*Line{{Header: h}}, nil
	case keys.Kind != nil:
		o := &Observation{}
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields() // what is not known might have changed the verdict
		if err := d.Decode(o); err != nil {
			return nil, err
		}
		o.Count = max(1, o.Count)
		return []*Line{{Observation: o}}, nil
	case keys.Audits != nil:
		var all []*Line
		for _, raw := range keys.Audits {
			lines, err := parse(raw)
			if err != nil {
				return nil, err
			}
			all = append(all, lines...)
		}
		return all, nil
	case keys.Record != nil:
		return parse(keys.Record)
	}
	var r audit.Record
	if err := json.Unmarshal(line, &r); err != nil { // with keys of newer Defenders
		return nil, err
	}
	l := &Line{Record: &r, Raw: line}
	ev, ok, err := audit.Event(&r)
	if err != nil {
		return nil, err
	}
	if ok {
		l.Observation = &Observation{Event: ev, Count: max(1, r.Count), First: r.Time, Last: r.Time}
	}
	return []*Line{l}, nil
}

// Read reads recordings, events and records: a recording for each workload. What
// a policy refused when it happened counts if refused is true; otherwise it is
// left out, and the recording knows how much of that there was.
func Read(name string, in io.Reader, refused bool) ([]*Recording, []string, error) {
	var all []*Recording
	var current *Recording // what a header began
	byWorkload := make(map[policy.Workload]*Recording)
	notes, err := Lines(name, in, func(l *Line) error {
		if l.Header != nil {
			current = NewRecording(*l.Header)
			all = append(all, current)
			return nil
		}
		if l.Observation == nil {
			return nil
		}
		to := current
		if l.Record != nil || to == nil {
			w := l.Workload()
			if to = byWorkload[w]; to == nil {
				to = NewRecording(Header{Container: w.Container, Image: w.Image, AppID: w.AppID})
				byWorkload[w] = to
				all = append(all, to)
			}
		}
		if l.Record != nil && l.Record.Refused && !refused {
			to.refused += l.Observation.Count
			return nil
		}
		to.add(l.Observation)
		return nil
	})
	return all, notes, err
}

// segmentExt is that of a spool's files.
const segmentExt = ".records"

// Files returns the files that a name stands for: of a folder, those of the
// spools in it, the oldest first; any other is itself.
func Files(name string) ([]string, error) {
	info, err := os.Stat(name)
	if err != nil || !info.IsDir() {
		return []string{name}, err
	}
	var all []string
	err = filepath.WalkDir(name, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.HasSuffix(path, segmentExt) {
			all = append(all, path)
		}
		return err
	})
	slices.Sort(all)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("%s: a folder without a spool; give the --data-dir of a Defender, or a file", name)
	}
	return all, err
}
