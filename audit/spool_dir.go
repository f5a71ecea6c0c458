package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	lockName  = "lock"
	stateName = "spool.json"
	// segmentExt follows the first position, in 20 digits, in a segment's name.
	segmentExt = ".records"
	digits     = 20
	// maxHomes is how many Defenders share a directory.
	maxHomes = 16
	// maxPosition is out of reach, and far from where sums overflow.
	maxPosition = 1 << 60
	// maxFile bounds what is read of one file.
	maxFile = 40 << 20
)

var (
	// errTaken means that a directory belongs to another Defender.
	errTaken = errors.New("another Defender uses it")
	// errNothing is what a spool in memory has of any file.
	errNothing = fmt.Errorf("nothing is kept: %w", fs.ErrNotExist)
)

// segment is a run of records, one a line, in a file or in memory.
type segment struct {
	first uint64   // position of the first record
	ends  []uint32 // where each line ends
	file  *os.File // nil in memory
	data  []byte   // in memory
	dirty bool     // not yet forced to the disk
}

func (g *segment) size() int64 {
	if len(g.ends) == 0 {
		return 0
	}
	return int64(g.ends[len(g.ends)-1])
}

// last returns the position of the last record.
func (g *segment) last() uint64 { return g.first + uint64(len(g.ends)) - 1 }

// append adds a line. Of one that cannot be written whole, what was written is
// cut off, or else overwritten by the next.
func (g *segment) append(line []byte) error {
	if g.file != nil {
		if _, err := g.file.WriteAt(line, g.size()); err != nil {
			_ = g.file.Truncate(g.size())
			return err
		}
		g.dirty = true
	} else {
		g.data = append(g.data, line...)
	}
	g.ends = append(g.ends, uint32(g.size())+uint32(len(line))) //nolint:gosec // a segment is small
	return nil
}

// lines returns up to so many lines from the i-th on, as many as fit into
// maxBytes but one at least. A line that cannot be read comes as zeros.
func (g *segment) lines(i, maxLines, maxBytes int) iter.Seq[[]byte] {
	start := uint32(0)
	if i > 0 {
		start = g.ends[i-1]
	}
	n := i + 1
	for n < len(g.ends) && n-i < maxLines && int(g.ends[n]-start) <= maxBytes {
		n++
	}
	b := make([]byte, g.ends[n-1]-start)
	if g.file != nil {
		_, _ = g.file.ReadAt(b, int64(start))
	} else {
		copy(b, g.data[start:])
	}
	return func(yield func([]byte) bool) {
		from := start
		for _, end := range g.ends[i:n] {
			if !yield(b[from-start : end-start]) {
				return
			}
			from = end
		}
	}
}

func (g *segment) close() {
	if g.file != nil {
		_ = g.file.Close()
	}
}

// home is the directory of one Defender, locked. Nothing in it is followed out
// of it.
type home struct {
	path string
	root *os.Root
	lock *os.File
}

// claim takes dir, or the first of its sub-directories that is free.
func claim(dir string) (*home, error) {
	for n := 1; n <= maxHomes; n++ {
		path := dir
		if n > 1 {
			path = filepath.Join(dir, strconv.Itoa(n))
		}
		h, err := claimOne(path)
		if !errors.Is(err, errTaken) {
			return h, err
		}
	}
	return nil, fmt.Errorf("%d other Defenders use it", maxHomes)
}

func claimOne(path string) (*home, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	h := &home{path: path, root: root}
	if h.lock, err = h.open(lockName, os.O_RDWR|os.O_CREATE); err != nil {
		_ = root.Close()
		return nil, err
	}
	for {
		// The kernel lets it go when the process ends, however it does.
		err = syscall.Flock(int(h.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		h.close()
		if err == syscall.EWOULDBLOCK {
			return nil, errTaken
		}
		return nil, fmt.Errorf("locking it: %w", err)
	}
	return h, nil
}

func (h *home) close() {
	_ = h.lock.Close()
	_ = h.root.Close()
}

// open opens a regular file. What somebody put in its place, such as a pipe
// that would keep us waiting, is an error, and so is another user's file: in a
// folder that everybody may write, it could hold somebody else's pinned key.
func (h *home) open(name string, flags int) (*os.File, error) {
	f, err := h.root.OpenFile(name, flags|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%q is not a regular file", name)
	}
	if err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
			err = fmt.Errorf("%q belongs to another user", name)
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// save replaces a file as a whole and forces it to the disk.
func (h *home) save(name string, data []byte) error {
	temp := name + ".new"
	_ = h.root.Remove(temp)
	f, err := h.open(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = h.root.Rename(temp, name)
	}
	if err != nil {
		_ = h.root.Remove(temp)
	}
	return err
}

func (h *home) load(name string) ([]byte, error) {
	f, err := h.open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%q is larger than %d MiB", name, maxFile>>20)
	}
	return data, err
}

// reserve reports an error if, after n bytes more, less than minFree of the
// disk is free.
func (h *home) reserve(minFree, n int64) error {
	if minFree < 0 {
		return nil
	}
	var st syscall.Statfs_t
	if err := syscall.Fstatfs(int(h.lock.Fd()), &st); err != nil {
		return nil // then writing will tell
	}
	block := uint64(st.Bsize) //nolint:gosec // a size
	if minFree == 0 {
		minFree = int64(min(st.Blocks*block/10, 64<<20)) //nolint:gosec // bounded
	}
	if st.Bavail*block < uint64(minFree+n) { //nolint:gosec // both are positive
		return errShort
	}
	return nil
}

func segmentName(first uint64) string {
	return fmt.Sprintf("%0*d%s", digits, first, segmentExt)
}

// create makes the file of a new segment.
func (h *home) create(first uint64) (*segment, error) {
	name := segmentName(first)
	_ = h.root.Remove(name)
	f, err := h.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	return &segment{first: first, file: f}, nil
}

// move brings a segment from memory to a file.
func (h *home) move(seg *segment) error {
	g, err := h.create(seg.first)
	if err != nil {
		return err
	}
	if _, err := g.file.WriteAt(seg.data, 0); err != nil {
		h.remove(g)
		return err
	}
	seg.file, seg.data, seg.dirty = g.file, nil, true
	return nil
}

func (h *home) remove(seg *segment) {
	seg.close()
	_ = h.root.Remove(segmentName(seg.first))
}

// open claims a directory and reads what an earlier run left there.
func (s *Spool) open(dir string) error {
	h, err := claim(dir)
	if err != nil {
		return err
	}
	s.home = h
	data, err := h.load(stateName)
	if err == nil {
		err = json.Unmarshal(data, &s.state)
	}
	if st := &s.state; err == nil && (st.Acked > maxPosition || st.Shift < -maxPosition || st.Shift > int64(st.Acked)) { //nolint:gosec // checked before
		err = errors.New("its numbers cannot be")
	}
	if err != nil {
		s.state = state{}
		if !errors.Is(err, fs.ErrNotExist) {
			s.say("reading %q: %v; a new instance begins", filepath.Join(h.path, stateName), err)
		}
	}
	firsts, err := h.list()
	if err != nil {
		return err
	}
	moved := uint64(0)
	for i, first := range firsts {
		limit := uint64(0)
		if i+1 < len(firsts) {
			limit = firsts[i+1]
		}
		if moved, err = s.read(first, limit, moved); err != nil {
			return err
		}
	}
	if seg := s.tail(); seg != nil {
		s.next = seg.last() + 1
		s.state.Acked = max(s.state.Acked, s.segments[0].first-1)
	}
	// Records that waited in memory were acknowledged, but are not here.
	s.next = max(s.next, s.state.Acked+1)
	s.opened = s.next - 1
	if seg := s.tail(); seg != nil && seg.last() < s.opened {
		for _, seg := range s.segments {
			h.remove(seg)
		}
		s.segments = nil
	}
	return nil
}

// list returns the first positions of the segments, in order.
func (h *home) list() ([]uint64, error) {
	entries, err := fs.ReadDir(h.root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var firsts []uint64
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), segmentExt)
		if !ok || len(name) != digits {
			continue
		}
		if n, err := strconv.ParseUint(name, 10, 64); err == nil && n > 0 && n < maxPosition {
			firsts = append(firsts, n)
		}
	}
	slices.Sort(firsts)
	return firsts, nil
}

// read reads the segment of that name; the next one, if there is any, begins
// at limit. Where records are missing between two segments the second and all
// after it move up, for a sequence has no gaps; moved says by how much.
func (s *Spool) read(first, limit, moved uint64) (uint64, error) {
	f, err := s.home.open(segmentName(first), os.O_RDWR)
	if err != nil {
		return 0, err
	}
	seg := &segment{first: first, file: f}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%q is larger than %d MiB", segmentName(first), maxFile>>20)
	}
	if err != nil {
		seg.close()
		return 0, err
	}
	path := filepath.Join(s.home.path, segmentName(first))
	lost, damaged := uint64(0), uint64(0)
	for at := 0; ; {
		n := bytes.IndexByte(b[at:], '\n') + 1
		if n == 0 || limit > 0 && seg.last()+1 == limit {
			if at < len(b) {
				s.say("the last line of %q was torn: one audit record is lost", path)
				lost++
				_ = f.Truncate(int64(at))
			}
			break
		}
		if _, ok := decodeLine(b[at : at+n]); !ok {
			damaged++
		}
		at += n
		seg.ends = append(seg.ends, uint32(at)) //nolint:gosec // maxFile
	}
	if damaged > 0 {
		s.say("%d lines of %q are damaged: their audit records are lost", damaged, path)
		s.dropped += damaged // stand-ins confess them
	}
	if prev := s.tail(); prev != nil {
		seg.first = prev.last() + 1
		if missing := first - moved - seg.first; missing > 0 {
			s.say("%d audit records are missing before those of %q", missing, path)
			lost += missing
			moved += missing
		}
		if seg.first != first {
			if err := s.home.root.Rename(segmentName(first), segmentName(seg.first)); err != nil {
				seg.close()
				return 0, err
			}
		}
	}
	s.lose(lost)
	s.segments = append(s.segments, seg)
	return moved, nil
}
