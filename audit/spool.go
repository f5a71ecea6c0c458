package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// SpoolConfig says how a Spool works.
type SpoolConfig struct {
	// Dir is where records are kept; "" keeps them in memory alone. It is
	// made if missing, for its owner alone.
	Dir string
	// Source signs the spool's own records. It must not be nil.
	Source *Source
	// MaxBytes bounds what lies in Dir; 0 means 64 MiB.
	MaxBytes int64
	// MaxMemory bounds what lies in memory, where there is no Dir or while it
	// cannot be written; 0 means 16 MiB.
	MaxMemory int64
	// MinFree is how much of the disk stays free for others; 0 means a tenth
	// of it, 64 MiB at most. Negative means nothing.
	MinFree int64
	// Notice is told, for people, when the spool cannot do as it should and
	// when it can again. It must not block. nil tells nobody.
	Notice func(string)
}

const (
	maxSegment = 4 << 20 // of one segment, in bytes, and one record more
	maxRecord  = 1 << 20 // of one record, in bytes
	// checkFree is how many bytes are written between two looks at the disk.
	checkFree = 64 << 10
	// standIns is room for what the spool itself has to say.
	standIns = 4 << 10
)

// Spool is a [Sink] that keeps records until the Console has them.
//
// Records lie in a directory, one a line with a checksum, in segments of a few
// MiB, each removed when all of its records are acknowledged. A record is
// written at once, so the end of the process loses none. [Spool.Sync], called
// once a second, forces them to the disk: a crash of the machine loses about a
// second. A line that such an end tore is cut off, and said.
//
// A full spool keeps what it has, for the start of an attack tells more than
// its end. What does not fit is counted, and the next record that fits comes
// after one that says how many are missing. Where the directory cannot be
// written, or its disk has little left, records wait in memory until it can.
//
// A record's position says where it lies and never changes. What the Console
// sees is its sequence, which is the position less a shift: a Defender that
// becomes another instance numbers from 1 again, and no record is rewritten.
//
// Lock order: saving, then mu.
type Spool struct {
	src         *Source
	tell        func(string)
	maxBytes    int64
	maxMemory   int64
	minFree     int64
	segmentSize int64
	home        *home // nil if everything is in memory
	ready       chan struct{}

	saving sync.Mutex // held while the state is written

	mu       sync.Mutex
	segments []*segment // oldest first; those in memory after those on disk
	next     uint64     // position of the next record
	opened   uint64     // position of the last record of an earlier run
	state    state
	changed  bool // state is not written yet
	dropped  uint64
	written  int64  // bytes since the last look at the disk
	refused  uint64 // position of a record that the Console does not take
	fallen   bool   // records wait in memory though there is a home
	full     bool   // until something of it is gone
	unsynced bool   // said that the disk does not take what is written
	closed   bool
	news     []string // for tell, once mu is free
}

// state is what of a Spool outlives the process besides its records.
type state struct {
	Instance string `json:"instance"` // "" until there is one
	Shift    int64  `json:"shift"`    // position less sequence
	Acked    uint64 `json:"acked"`    // position of the last record acknowledged
	Lost     uint64 `json:"lost"`     // records to confess
}

// errShort means that what is left of the disk is for others.
var errShort = errors.New("the disk has little space left")

// errClosed is what a closed Spool answers.
var errClosed = errors.New("the spool is closed")

// OpenSpool returns the spool of a directory with what an earlier run left
// there, and starts nothing.
//
// A directory has one owner. Where several Defenders share one, such as a
// volume of several containers, the second takes the sub-directory 2, and so
// on. A directory that cannot be used is no error, for a target must run
// without: the spool is then in memory alone, and Notice says so.
func OpenSpool(conf SpoolConfig) *Spool {
	s := &Spool{
		src:       conf.Source,
		tell:      conf.Notice,
		maxBytes:  conf.MaxBytes,
		maxMemory: conf.MaxMemory,
		minFree:   conf.MinFree,
		ready:     make(chan struct{}, 1),
		next:      1,
	}
	if s.tell == nil {
		s.tell = func(string) {}
	}
	if s.maxBytes <= 0 {
		s.maxBytes = 64 << 20
	}
	if s.maxMemory <= 0 {
		s.maxMemory = 16 << 20
	}
	s.segmentSize = min(maxSegment, s.maxBytes/16, s.maxMemory/4)
	s.mu.Lock()
	defer s.unlock()
	if conf.Dir == "" {
		return s
	}
	err := checkLimit()
	if err == nil {
		err = s.open(conf.Dir)
	}
	if err != nil {
		s.say("audit records are kept in memory and do not survive a restart: using the data directory %q: %v", conf.Dir, err)
		s.abandon()
	}
	return s
}

// checkLimit reports an error if a file may not grow as large as ours do: a
// write beyond that limit is not only an error but a signal that ends us.
func checkLimit() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err == nil && limit.Cur < maxFile {
		return errors.New("the limit on the size of files (ulimit -f) is too low")
	}
	return nil
}

// abandon gives the directory up and begins anew in memory.
func (s *Spool) abandon() {
	for _, seg := range s.segments {
		seg.close()
	}
	if s.home != nil {
		s.home.close()
	}
	s.home, s.segments, s.state, s.next, s.opened = nil, nil, state{}, 1, 0
}

// unlock frees mu and only then tells what happened, so that who is told may
// use the spool.
func (s *Spool) unlock() {
	news := s.news
	s.news = nil
	s.mu.Unlock()
	for _, msg := range news {
		s.tell(msg)
	}
}

func (s *Spool) say(format string, args ...any) {
	s.news = append(s.news, fmt.Sprintf(format, args...))
}

// Dir returns the directory that the spool owns, or "" if it is in memory
// alone.
func (s *Spool) Dir() string {
	if s.home == nil {
		return ""
	}
	return s.home.path
}

// Instance returns what record ids begin with, or "" before [Spool.Number].
func (s *Spool) Instance() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Instance
}

// Len returns how many records wait for an acknowledgement.
func (s *Spool) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.next - 1 - s.state.Acked) //nolint:gosec // bounded by memory
}

// Dropped returns how many records were lost here since the start.
func (s *Spool) Dropped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// Ready receives after records were added. It has one reader.
func (s *Spool) Ready() <-chan struct{} { return s.ready }

// Write adds one record. It replaces the record's id, when it is read, by the
// spool's own. One that does not fit is counted and confessed here, so it is
// no error.
func (s *Spool) Write(r Record) error {
	line, err := encodeLine(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.unlock()
	if s.closed {
		return errClosed
	}
	if len(line) > maxRecord || !s.confess(int64(len(line))) || !s.append(line) {
		s.lose(1)
		return nil
	}
	select {
	case s.ready <- struct{}{}:
	default:
	}
	return nil
}

// lose counts records that are gone.
func (s *Spool) lose(n uint64) {
	s.dropped += n
	s.state.Lost += n
	s.changed = true
}

// confess makes sure that there is room for so many bytes, and puts before
// them what there is to confess.
func (s *Spool) confess(need int64) bool {
	if s.state.Lost > 0 {
		need += standIns
	}
	if s.full {
		return false // or a small record would still fit now and then, and a confession after it
	}
	if !s.room(need) {
		s.full = true
		s.say("the audit spool is full: new records are lost until the Console takes old ones")
		return false
	}
	if s.state.Lost == 0 {
		return true
	}
	line, err := encodeLine(confession(s.src, s.state.Lost, "the audit spool was full or damaged"))
	if err != nil || !s.append(line) {
		return false
	}
	s.state.Lost, s.changed = 0, true
	return true
}

// room reports whether so many bytes fit within the bounds.
func (s *Spool) room(need int64) bool {
	disk, memory := s.sizes()
	if s.home != nil && !s.fallen {
		return disk+need <= s.maxBytes
	}
	return memory+need <= s.maxMemory
}

func (s *Spool) sizes() (disk, memory int64) {
	for _, seg := range s.segments {
		if seg.file != nil {
			disk += seg.size()
		} else {
			memory += seg.size()
		}
	}
	return disk, memory
}

// append adds one line, on disk or else in memory.
func (s *Spool) append(line []byte) bool {
	if s.home != nil && !s.fallen {
		err := s.checkFree(int64(len(line)))
		if err == nil {
			err = s.appendFile(line)
		}
		if err == nil {
			s.next++
			return true
		}
		s.fall(err)
		if !s.room(int64(len(line))) {
			return false
		}
	}
	seg := s.tail()
	if seg == nil || seg.file != nil || seg.size() >= s.segmentSize {
		seg = &segment{first: s.next}
		s.segments = append(s.segments, seg)
	}
	_ = seg.append(line) // memory takes it
	s.next++
	return true
}

func (s *Spool) appendFile(line []byte) error {
	seg := s.tail()
	if seg == nil || seg.size() >= s.segmentSize {
		var err error
		if seg, err = s.home.create(s.next); err != nil {
			return err
		}
		s.segments = append(s.segments, seg)
	}
	return seg.append(line)
}

func (s *Spool) tail() *segment {
	if len(s.segments) == 0 {
		return nil
	}
	return s.segments[len(s.segments)-1]
}

// checkFree looks now and then at what is left of the disk.
func (s *Spool) checkFree(n int64) error {
	if s.written -= n; s.written > 0 {
		return nil
	}
	s.written = checkFree
	return s.home.reserve(s.minFree, checkFree)
}

// fall lets records wait in memory because the directory cannot be written.
func (s *Spool) fall(err error) {
	s.fallen = true
	s.say("audit records wait in memory, not in %q: %v", s.home.path, err)
	// The next segment would have the name of an empty one.
	if seg := s.tail(); seg != nil && len(seg.ends) == 0 {
		s.home.remove(seg)
		s.segments = s.segments[:len(s.segments)-1]
	}
}

// rise moves what waits in memory to the directory, if that works again.
func (s *Spool) rise() {
	if !s.fallen {
		return
	}
	disk, memory := s.sizes()
	if disk+memory > s.maxBytes || s.home.reserve(s.minFree, memory+checkFree) != nil {
		return
	}
	for _, seg := range s.segments {
		if seg.file == nil && s.home.move(seg) != nil {
			return
		}
	}
	if len(s.segments) == 0 {
		seg, err := s.home.create(s.next)
		if err != nil {
			return
		}
		s.segments = append(s.segments, seg)
	}
	s.fallen, s.full, s.written = false, false, 0
	s.say("audit records go to %q again", s.home.path)
}

// Peek returns the first records that wait for an acknowledgement, with their
// ids, and the sequence of the first of them. They are as many as there are at
// hand and within both bounds, but one at least if there is any.
func (s *Spool) Peek(maxRecords, maxBytes int) (first uint64, records []json.RawMessage) {
	s.mu.Lock()
	defer s.unlock()
	pos := s.state.Acked + 1
	first = s.sequence(pos)
	for _, seg := range s.segments {
		if pos > seg.last() {
			continue
		}
		for line := range seg.lines(int(pos-seg.first), maxRecords, maxBytes) { //nolint:gosec // bounded
			body, ok := decodeLine(line)
			switch {
			case pos == s.refused:
				body = s.standIn("the Console did not take it")
			case !ok:
				body = s.standIn("its line in the audit spool is damaged")
			}
			records = append(records, s.withID(body, s.sequence(pos)))
			pos++
		}
		break
	}
	return first, records
}

// standIn takes the sequence of a record that is lost.
func (s *Spool) standIn(why string) []byte {
	line, _ := encodeLine(confession(s.src, 1, why))
	body, _ := decodeLine(line)
	return body
}

// Refuse puts a record that says so in the place of the first that waits,
// which the Console will never take. Otherwise the rest would wait for it.
func (s *Spool) Refuse() {
	s.mu.Lock()
	defer s.unlock()
	if pos := s.state.Acked + 1; pos < s.next && pos != s.refused {
		s.refused = pos
		s.dropped++
	}
}

func (s *Spool) withID(body []byte, sequence uint64) json.RawMessage {
	b := append(make([]byte, 0, len(body)+64), `{"_id":`...)
	b = strconv.AppendQuote(b, s.state.Instance+"-"+strconv.FormatUint(sequence, 10))
	if body = body[1:]; len(body) > 1 {
		b = append(b, ',')
	}
	return append(b, body...)
}

// sequence returns what the Console calls the record at a position.
func (s *Spool) sequence(pos uint64) uint64 {
	return uint64(int64(pos) - s.state.Shift) //nolint:gosec // positions are bounded by time
}

// Ack drops the records up to a sequence, which the Console has. What it says
// of records that do not exist yet, or that are dropped already, is ignored.
func (s *Spool) Ack(sequence uint64) {
	s.mu.Lock()
	defer s.unlock()
	if sequence > s.sequence(s.state.Acked) {
		s.drop(min(sequence, s.sequence(s.next-1)))
	}
}

// drop drops the records up to a sequence that exists.
func (s *Spool) drop(sequence uint64) {
	s.state.Acked = uint64(int64(sequence) + s.state.Shift) //nolint:gosec // as in sequence
	s.changed = true
	for len(s.segments) > 0 {
		seg := s.segments[0]
		// The last file stays, for its name: it tells the next position.
		if seg.last() > s.state.Acked || seg.file != nil && len(s.segments) == 1 {
			break
		}
		if seg.file != nil {
			s.home.remove(seg)
		}
		s.segments = s.segments[1:]
		s.full = s.full && !s.room(standIns)
	}
	if s.state.Lost > 0 && s.confess(0) {
		select {
		case s.ready <- struct{}{}:
		default:
		}
	}
}

// Number makes the spool that of a new instance: what waits is numbered from 1.
func (s *Spool) Number(instance string) {
	s.mu.Lock()
	s.state.Instance = instance
	s.state.Shift = int64(s.state.Acked) //nolint:gosec // as in sequence
	s.changed = true
	s.unlock()
	s.Sync()
}

// Resume tells the spool, before the first [Spool.Peek] after a restart, up to
// which sequence the Console has the records of this instance.
//
// The Console may have some that are no longer here, because the machine
// crashed before they were on the disk or they waited in memory. Their
// sequences are taken: what was written since is numbered after them, for the
// Console would take it for what it has.
func (s *Spool) Resume(sequence uint64) {
	s.mu.Lock()
	defer s.unlock()
	left := s.sequence(s.opened)
	switch {
	case sequence > math.MaxInt64/2:
	case sequence <= s.sequence(s.state.Acked):
	case sequence <= left:
		s.drop(sequence)
	default:
		if s.opened > s.state.Acked {
			s.drop(left)
		}
		s.state.Shift -= int64(sequence - left) //nolint:gosec // bounded above
		s.changed = true
	}
}

// Rewind numbers what waits anew, from the sequence after the one given, which
// is lower than what was acknowledged: the Console lost records that it had,
// such as when it was restored from a backup.
func (s *Spool) Rewind(sequence uint64) {
	s.mu.Lock()
	defer s.unlock()
	if acked := s.sequence(s.state.Acked); sequence < acked {
		s.state.Shift += int64(acked - sequence) //nolint:gosec // as in sequence
		s.changed = true
	}
}

// Sync forces what was written to the disk, and moves there what had to wait
// in memory. Call it once a second; it may take as long as the disk does, and
// keeps nobody else waiting meanwhile but for that move.
func (s *Spool) Sync() {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	if s.home == nil || s.closed {
		s.mu.Unlock()
		return
	}
	s.rise()
	var dirty []*segment
	for _, seg := range s.segments {
		if seg.file != nil && seg.dirty {
			seg.dirty = false
			dirty = append(dirty, seg)
		}
	}
	st, changed := s.state, s.changed
	s.changed = false
	s.unlock()

	var err error
	for _, seg := range dirty {
		// One that was acknowledged meanwhile is closed.
		if e := seg.file.Sync(); e != nil && !errors.Is(e, os.ErrClosed) {
			err = e
		}
	}
	unsaved := false
	if changed {
		data, _ := json.Marshal(st)
		if e := s.home.save(stateName, data); e != nil {
			err, unsaved = e, true
		}
	}
	s.mu.Lock()
	defer s.unlock()
	s.changed = s.changed || unsaved
	if err != nil && !s.unsynced && !s.fallen {
		s.say("forcing audit records to the disk of %q: %v", s.home.path, err)
	}
	s.unsynced = err != nil
}

// Close forces everything to the disk and gives the directory back. It may be
// called twice.
func (s *Spool) Close() error {
	s.Sync()
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	defer s.unlock()
	if s.closed || s.home == nil {
		s.closed = true
		return nil
	}
	s.closed = true
	for _, seg := range s.segments {
		seg.close()
	}
	s.home.close()
	return nil
}

// Save keeps a file of that name in the spool's directory, for what belongs to
// the instance and must live and die with its records. It is a no-op for a
// spool in memory.
func (s *Spool) Save(name string, data []byte) error {
	s.saving.Lock()
	defer s.saving.Unlock()
	if s.home == nil {
		return nil
	}
	return s.home.save(name, data)
}

// Load returns what [Spool.Save] kept. The error is fs.ErrNotExist if there is
// nothing.
func (s *Spool) Load(name string) ([]byte, error) {
	if s.home == nil {
		return nil, errNothing
	}
	return s.home.load(name)
}

// Forget removes what [Spool.Save] kept.
func (s *Spool) Forget(name string) {
	if s.home != nil {
		_ = s.home.root.Remove(name)
	}
}

// confession is a record that says how many others are missing.
func confession(src *Source, n uint64, why string) Record {
	noun := "records were"
	if n == 1 {
		noun = "record was"
	}
	r := Notice(src, fmt.Sprintf("%d %s lost: %s", n, noun, why), time.Time{})
	r.Count = int(min(n, 1<<31-1)) //nolint:gosec // bounded
	return r
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumSize is the size of a line's checksum, in hexadecimal, and the space
// after it.
const sumSize = 9

// encodeLine returns the line of one record, without its id: the checksum of
// its JSON, a space, the JSON, a newline.
func encodeLine(r Record) ([]byte, error) {
	r.ID = ""
	b := bytes.NewBuffer(make([]byte, sumSize, 512))
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return nil, err
	}
	line := b.Bytes()
	copy(line, sum(line[sumSize:len(line)-1]))
	return line, nil
}

func sum(body []byte) string {
	return fmt.Sprintf("%08x ", crc32.Checksum(body, castagnoli))
}

// SpoolLine returns the JSON of a record in a line of a spool's file, without
// the line's end, unless it is none or damaged.
func SpoolLine(line []byte) ([]byte, bool) {
	return decodeLine(append(line[:len(line):len(line)], '\n'))
}

// decodeLine returns the JSON in a line, unless the line is damaged.
func decodeLine(line []byte) ([]byte, bool) {
	if len(line) < sumSize+len("{}\n") {
		return nil, false
	}
	body := line[sumSize : len(line)-1]
	return body, string(line[:sumSize]) == sum(body) && body[0] == '{'
}
