package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// spool opens a spool of small bounds, whose notices are gathered.
func spool(t testing.TB, conf SpoolConfig) (*Spool, *notices) {
	t.Helper()
	told := new(notices)
	conf.Source = &Source{Instance: "ignored", Version: "1"}
	conf.Notice = told.add
	if conf.MinFree == 0 {
		conf.MinFree = -1
	}
	s := OpenSpool(conf)
	t.Cleanup(func() { s.Close() })
	if s.Instance() == "" {
		s.Number("i")
	}
	return s, told
}

type notices struct {
	mu   sync.Mutex
	msgs []string
}

func (n *notices) add(msg string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.msgs = append(n.msgs, msg)
}

// read returns what was told since the last read.
func (n *notices) read() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	msgs := n.msgs
	n.msgs = nil
	return msgs
}

func write(t testing.TB, s *Spool, msgs ...string) {
	t.Helper()
	for _, m := range msgs {
		if err := s.Write(Record{ID: "queue-7", Msg: m, Count: 1}); err != nil {
			t.Fatal(err)
		}
	}
}

// fill writes n records of a hundred bytes and more.
func fill(t testing.TB, s *Spool, n int) {
	t.Helper()
	for i := range n {
		write(t, s, fmt.Sprintf("%d %s", i+1, strings.Repeat("x", 100)))
	}
}

// waiting returns "id msg" of what waits, peeked and acknowledged in batches,
// and checks that sequences have no gap.
func waiting(t testing.TB, s *Spool, batch int) []string {
	t.Helper()
	var got []string
	for s.Len() > 0 {
		first, records := s.Peek(batch, 1<<20)
		if len(records) == 0 {
			t.Fatalf("%d records wait, but none is given", s.Len())
		}
		got = append(got, show(t, s, first, records)...)
		s.Ack(first + uint64(len(records)) - 1)
	}
	return got
}

func show(t testing.TB, s *Spool, first uint64, records []json.RawMessage) []string {
	t.Helper()
	var got []string
	for i, raw := range records {
		var r Record
		if err := json.Unmarshal(raw, &r); err != nil {
			t.Fatalf("%v in %s", err, raw)
		}
		if want := fmt.Sprintf("%s-%d", s.Instance(), first+uint64(i)); r.ID != want {
			t.Fatalf("a record has the id %q, not %q", r.ID, want)
		}
		got = append(got, strings.TrimRight(r.ID+" "+r.Msg, "x "))
	}
	return got
}

// crash returns a copy of a directory as the end of its process leaves it.
func crash(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func segments(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+segmentExt))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestSpoolOrder(t *testing.T) {
	for _, tt := range []struct{ name, dir string }{{"disk", t.TempDir()}, {"memory", ""}} {
		t.Run(tt.name, func(t *testing.T) {
			s, told := spool(t, SpoolConfig{Dir: tt.dir})
			if first, records := s.Peek(5, 1<<20); first != 1 || len(records) > 0 {
				t.Errorf("an empty spool gives %d records from %d", len(records), first)
			}
			write(t, s, "a", "b", "c")
			first, records := s.Peek(2, 1<<20)
			check(t, "two", show(t, s, first, records), "i-1 a", "i-2 b")
			first, records = s.Peek(9, 1)
			check(t, "few bytes", show(t, s, first, records), "i-1 a")

			s.Ack(2)
			s.Ack(1) // older
			first, records = s.Peek(9, 1<<20)
			check(t, "after an acknowledgement", show(t, s, first, records), "i-3 c")
			s.Ack(1000) // of what does not exist
			write(t, s, "d")
			check(t, "after too high a one", waiting(t, s, 9), "i-4 d")
			check(t, "notices", told.read())
		})
	}
}

func TestSpoolReady(t *testing.T) {
	s, _ := spool(t, SpoolConfig{})
	select {
	case <-s.Ready():
		t.Error("ready while empty")
	default:
	}
	write(t, s, "a", "b")
	<-s.Ready()
}

func TestSpoolSurvivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	s, _ := spool(t, SpoolConfig{Dir: dir})
	write(t, s, "a", "b", "c")
	s.Ack(1)
	s.Sync()
	write(t, s, "d")
	s.Ack(2) // not synced: a crash forgets it

	again, told := spool(t, SpoolConfig{Dir: crash(t, dir)})
	if got := again.Instance(); got != "i" {
		t.Errorf("the instance is %q", got)
	}
	again.Resume(2)
	check(t, "after a crash", waiting(t, again, 9), "i-3 c", "i-4 d")

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(Record{}); err == nil {
		t.Error("a closed spool takes a record")
	}
	again, _ = spool(t, SpoolConfig{Dir: dir})
	write(t, again, "e")
	check(t, "after an orderly end", waiting(t, again, 9), "i-3 c", "i-4 d", "i-5 e")
	again.Close()
	again, _ = spool(t, SpoolConfig{Dir: dir})
	write(t, again, "f")
	check(t, "after an end with nothing left", waiting(t, again, 9), "i-6 f")
	check(t, "notices", told.read())
}

func TestSpoolSegments(t *testing.T) {
	dir := t.TempDir()
	s, told := spool(t, SpoolConfig{Dir: dir, MaxBytes: 64 << 10})
	fill(t, s, 200)
	if n := len(segments(t, dir)); n < 5 {
		t.Errorf("there are %d segments", n)
	}
	s, _ = spool(t, SpoolConfig{Dir: crash(t, dir), MaxBytes: 64 << 10})
	got := waiting(t, s, 7)
	if len(got) != 200 || got[0] != "i-1 1" || got[199] != "i-200 200" {
		t.Errorf("%d records, from %q to %q", len(got), got[0], got[len(got)-1])
	}
	if left := segments(t, s.Dir()); len(left) != 1 {
		t.Errorf("when nothing waits there are %q", left)
	}
	check(t, "notices", told.read())
}

func TestSpoolTornLine(t *testing.T) {
	dir := t.TempDir()
	s, _ := spool(t, SpoolConfig{Dir: dir})
	write(t, s, "a", "b")
	s.Sync()
	for name, tail := range map[string]string{
		"half":            `12345678 {"msg":"ha`,
		"zeros":           strings.Repeat("\x00", 100),
		"all but the end": string(line(t, "c")[:len(line(t, "c"))-1]),
	} {
		t.Run(name, func(t *testing.T) {
			dir := crash(t, dir)
			appendTo(t, segments(t, dir)[0], tail)
			s, told := spool(t, SpoolConfig{Dir: dir})
			check(t, "notices", told.read(), fmt.Sprintf("the last line of %q was torn: one audit record is lost", segments(t, dir)[0]))
			write(t, s, "d")
			check(t, "records", waiting(t, s, 9), "i-1 a", "i-2 b", "i-3 1 record was lost: the audit spool was full or damaged", "i-4 d")
			if n := s.Dropped(); n != 1 {
				t.Errorf("%d are dropped", n)
			}
		})
	}
}

func line(t testing.TB, msg string) []byte {
	t.Helper()
	b, err := encodeLine(Record{Msg: msg})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func appendTo(t testing.TB, name, tail string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(tail); err != nil {
		t.Fatal(err)
	}
}

func TestSpoolDamagedLine(t *testing.T) {
	dir := t.TempDir()
	s, _ := spool(t, SpoolConfig{Dir: dir})
	write(t, s, "first", "second", "third")
	dir = crash(t, dir)
	name := segments(t, dir)[0]
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(strings.Replace(string(data), "second", "forged", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	s, told := spool(t, SpoolConfig{Dir: dir})
	check(t, "notices", told.read(), fmt.Sprintf("1 lines of %q are damaged: their audit records are lost", name))
	check(t, "records", waiting(t, s, 9), "i-1 first", "i-2 1 record was lost: its line in the audit spool is damaged", "i-3 third")
	if n := s.Dropped(); n != 1 {
		t.Errorf("%d are dropped", n)
	}
}

func TestSpoolMissingSegment(t *testing.T) {
	dir := t.TempDir()
	s, _ := spool(t, SpoolConfig{Dir: dir, MaxBytes: 64 << 10})
	fill(t, s, 100)
	dir = crash(t, dir)
	names := segments(t, dir)
	if err := os.Remove(names[1]); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to repair
		s, _ = spool(t, SpoolConfig{Dir: dir, MaxBytes: 64 << 10})
		first, records := s.Peek(1, 1<<20)
		check(t, "the first", show(t, s, first, records), "i-1 1")
		write(t, s, "new")
		s.Close()
	}
	s, _ = spool(t, SpoolConfig{Dir: dir, MaxBytes: 64 << 10})
	got := waiting(t, s, 9) // checks the sequences
	lost := 100 + 3 - len(got)
	want := fmt.Sprintf("i-%d %d records were lost: the audit spool was full or damaged", len(got)-2, lost)
	if lost < 2 || got[len(got)-3] != want {
		t.Errorf("%d are lost, and said so by %q, not %q", lost, got[len(got)-3], want)
	}
}

func TestSpoolLostState(t *testing.T) {
	dir := t.TempDir()
	s, _ := spool(t, SpoolConfig{Dir: dir})
	write(t, s, "a", "b")
	dir = crash(t, dir)
	if err := os.WriteFile(filepath.Join(dir, stateName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	told := new(notices)
	s = OpenSpool(SpoolConfig{Dir: dir, MinFree: -1, Source: new(Source), Notice: told.add})
	defer s.Close()
	if s.Instance() != "" || len(told.read()) != 1 {
		t.Errorf("the instance is %q", s.Instance())
	}
	s.Number("j")
	check(t, "records", waiting(t, s, 9), "j-1 a", "j-2 b")
}

// A full spool keeps the start of an attack.
func TestSpoolFull(t *testing.T) {
	for _, tt := range []struct {
		name string
		conf SpoolConfig
	}{
		{"disk", SpoolConfig{Dir: t.TempDir(), MaxBytes: 32 << 10}},
		{"memory", SpoolConfig{MaxMemory: 32 << 10}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, told := spool(t, tt.conf)
			fill(t, s, 1000)
			kept := s.Len()
			if kept < 100 || kept > 300 || s.Dropped() != uint64(1000-kept) {
				t.Errorf("%d are kept and %d dropped", kept, s.Dropped())
			}
			if n := len(told.read()); n != 1 {
				t.Errorf("%d notices", n)
			}
			if tt.conf.Dir != "" { // what is to confess survives too
				s.Close()
				s, _ = spool(t, tt.conf)
			}
			s.Ack(uint64(kept) / 2) // as soon as there is room
			if s.Len() != kept-kept/2+1 {
				t.Errorf("%d wait, and no confession", s.Len())
			}
			write(t, s, "after")
			got := waiting(t, s, 50)
			check(t, "the end", got[len(got)-3:],
				fmt.Sprintf("i-%d %d", kept, kept),
				fmt.Sprintf("i-%d %d records were lost: the audit spool was full or damaged", kept+1, 1000-kept),
				fmt.Sprintf("i-%d after", kept+2))
		})
	}
}

func TestSpoolHugeRecord(t *testing.T) {
	s, _ := spool(t, SpoolConfig{})
	write(t, s, strings.Repeat("y", 2*maxRecord), "b")
	check(t, "records", waiting(t, s, 9), "i-1 1 record was lost: the audit spool was full or damaged", "i-2 b")
}

func TestSpoolUnusableDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	piped := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(piped, segmentName(1)), 0o600); err != nil {
		t.Fatal(err)
	}
	linked := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(linked, segmentName(1))); err != nil {
		t.Fatal(err)
	}
	locked := t.TempDir()
	if err := os.Symlink(filepath.Join(t.TempDir(), "elsewhere"), filepath.Join(locked, lockName)); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{
		"no directory": file, "below a file": filepath.Join(file, "d"),
		"a pipe for a segment": piped, "a link for a segment": linked, "a link for the lock": locked,
	} {
		t.Run(name, func(t *testing.T) {
			s, told := spool(t, SpoolConfig{Dir: dir})
			msgs := told.read()
			if len(msgs) != 1 || !strings.Contains(msgs[0], "kept in memory") || s.Dir() != "" {
				t.Errorf("in %q; notices %q", s.Dir(), msgs)
			}
			write(t, s, "a")
			check(t, "records", waiting(t, s, 9), "i-1 a")
			if err := s.Save("x", nil); err != nil {
				t.Error(err)
			}
			if _, err := s.Load("x"); !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		})
	}
}

// In a folder that everybody may write, such as one below /tmp, another user
// could have put a pinned key of his own before we came.
func TestSpoolOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give a file away")
	}
	dir := t.TempDir()
	name := filepath.Join(dir, "enrolment.json")
	if err := errors.Join(os.WriteFile(name, []byte("{}"), 0o644), os.Chown(name, 12345, -1)); err != nil {
		t.Fatal(err)
	}
	s, _ := spool(t, SpoolConfig{Dir: dir})
	if got, err := s.Load("enrolment.json"); err == nil || errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "belongs to another user") {
		t.Errorf("read %q: %v", got, err)
	}
	if err := s.Save("enrolment.json", []byte("mine")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Load("enrolment.json"); err != nil || string(got) != "mine" {
		t.Errorf("read %q: %v", got, err)
	}
}

func TestSpoolHasOneOwner(t *testing.T) {
	dir := t.TempDir()
	a, _ := spool(t, SpoolConfig{Dir: dir})
	b, _ := spool(t, SpoolConfig{Dir: dir})
	if a.Dir() != dir || b.Dir() != filepath.Join(dir, "2") {
		t.Errorf("in %q and %q", a.Dir(), b.Dir())
	}
	write(t, a, "of a")
	write(t, b, "of b")
	check(t, "records of b", waiting(t, b, 9), "i-1 of b")
	a.Close()
	a, _ = spool(t, SpoolConfig{Dir: dir})
	if a.Dir() != dir {
		t.Errorf("again in %q", a.Dir())
	}
	check(t, "records of a", waiting(t, a, 9), "i-1 of a")

	for range maxHomes - 2 {
		spool(t, SpoolConfig{Dir: dir})
	}
	if last, told := spool(t, SpoolConfig{Dir: dir}); last.Dir() != "" || len(told.read()) != 1 {
		t.Errorf("the last one is in %q", last.Dir())
	}
}

func TestSpoolNumbersAnew(t *testing.T) {
	dir := t.TempDir()
	s, _ := spool(t, SpoolConfig{Dir: dir})
	write(t, s, "a", "b", "c")
	s.Ack(1)
	s.Number("j")
	first, records := s.Peek(9, 1<<20)
	check(t, "a new instance", show(t, s, first, records), "j-1 b", "j-2 c")
	s.Ack(1)
	s.Close()
	s, _ = spool(t, SpoolConfig{Dir: dir})
	write(t, s, "d")
	check(t, "after a restart", waiting(t, s, 9), "j-2 c", "j-3 d")
	write(t, s, "e")
	s.Number("k")
	s.Number("l")
	check(t, "two new instances", waiting(t, s, 9), "l-1 e")
}

// What the Console has of this instance may be more than the disk has.
func TestSpoolResume(t *testing.T) {
	tests := []struct {
		name string
		has  uint64
		want []string
	}{
		{"nothing new", 1, []string{"i-2 b", "i-3 c", "i-4 new"}},
		{"less", 0, []string{"i-2 b", "i-3 c", "i-4 new"}},
		{"some", 2, []string{"i-3 c", "i-4 new"}},
		{"all", 3, []string{"i-4 new"}},
		{"more", 10, []string{"i-11 new"}},
		{"absurd", 1<<64 - 1, []string{"i-2 b", "i-3 c", "i-4 new"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s, _ := spool(t, SpoolConfig{Dir: dir})
			write(t, s, "a", "b", "c")
			s.Ack(1)
			s.Close()
			s, _ = spool(t, SpoolConfig{Dir: dir})
			write(t, s, "new")
			s.Resume(tt.has)
			check(t, "records", waiting(t, s, 9), tt.want...)
		})
	}
}

func TestSpoolRewind(t *testing.T) {
	s, _ := spool(t, SpoolConfig{})
	write(t, s, "a", "b", "c", "d")
	s.Ack(3)
	s.Rewind(5)
	s.Rewind(1)
	write(t, s, "e")
	check(t, "records", waiting(t, s, 9), "i-2 d", "i-3 e")
}

func TestSpoolRefuse(t *testing.T) {
	s, _ := spool(t, SpoolConfig{})
	s.Refuse() // nothing waits
	write(t, s, "a", "b", "c")
	s.Ack(1)
	s.Refuse()
	s.Refuse()
	if n := s.Dropped(); n != 1 {
		t.Errorf("%d are dropped", n)
	}
	check(t, "records", waiting(t, s, 9), "i-2 1 record was lost: the Console did not take it", "i-3 c")
}

func TestSpoolFiles(t *testing.T) {
	dir := t.TempDir()
	s, _ := spool(t, SpoolConfig{Dir: dir})
	if _, err := s.Load("x"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	for _, want := range []string{"one", "two"} {
		if err := s.Save("x", []byte(want)); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Load("x"); err != nil || string(got) != want {
			t.Errorf("%q, %v", got, err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "x")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	s.Forget("x")
	if _, err := s.Load("x"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// Where the disk has little left, it is left to others.
func TestSpoolDiskNearlyFull(t *testing.T) {
	dir := t.TempDir()
	s, told := spool(t, SpoolConfig{Dir: dir, MinFree: 1 << 60})
	write(t, s, "a")
	if msgs := told.read(); len(msgs) != 1 || !strings.Contains(msgs[0], errShort.Error()) {
		t.Errorf("notices %q", msgs)
	}
	write(t, s, "b")
	s.Sync()
	check(t, "notices", told.read())
	s.Ack(1)

	s.minFree = -1
	s.Sync()
	check(t, "notices", told.read(), fmt.Sprintf("audit records go to %q again", dir))
	write(t, s, "c")
	s, _ = spool(t, SpoolConfig{Dir: crash(t, dir)})
	s.Resume(1)
	check(t, "records", waiting(t, s, 9), "i-2 b", "i-3 c")
}

// A segment in memory may begin where an empty file does.
func TestSpoolFallsOnAnEmptySegment(t *testing.T) {
	dir := t.TempDir()
	s, _ := spool(t, SpoolConfig{Dir: dir, MinFree: 1 << 60})
	write(t, s, "a")
	s.Ack(1)
	s.minFree = -1
	s.Sync() // makes a file, and nothing waits
	s.minFree = 1 << 60
	write(t, s, "b")
	if names := segments(t, dir); len(names) > 0 {
		t.Errorf("there are %q", names)
	}
	s.minFree = -1
	s.Sync()
	write(t, s, "c")
	s.Close()
	s, told := spool(t, SpoolConfig{Dir: dir})
	check(t, "records", waiting(t, s, 9), "i-2 b", "i-3 c")
	check(t, "notices", told.read())
}

// A disk that is full loses nothing while memory lasts, and nothing at all of
// what it has.
func TestSpoolDiskFull(t *testing.T) {
	dir := smallDisk(t)
	s, told := spool(t, SpoolConfig{Dir: dir, MaxMemory: 256 << 10})
	fill(t, s, 300)
	check(t, "notices while there is room", told.read())

	ballast := filepath.Join(dir, "ballast")
	eat(t, ballast)
	fill(t, s, 300)
	if msgs := told.read(); len(msgs) != 1 || !strings.Contains(msgs[0], "no space left on device") {
		t.Errorf("notices of a full disk: %q", msgs)
	}
	s.Sync()
	fill(t, s, 2000)
	inMemory := s.Len()
	if msgs := told.read(); len(msgs) != 1 || !strings.Contains(msgs[0], "spool is full") {
		t.Errorf("notices of full memory: %q", msgs)
	}
	if s.Dropped() == 0 || inMemory < 600 || inMemory+int(s.Dropped()) != 2600 {
		t.Errorf("%d wait and %d are dropped", inMemory, s.Dropped())
	}
	first, records := s.Peek(500, 1<<20)
	show(t, s, first, records)
	s.Ack(first + uint64(len(records)) - 1)
	acked := len(records)

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	s.Sync()
	write(t, s, "after")
	s.Sync()
	if msgs := told.read(); len(msgs) != 1 || !strings.Contains(msgs[0], "again") {
		t.Errorf("notices of a disk with room: %q", msgs)
	}
	dropped := s.Dropped()
	s.Close()
	s, _ = spool(t, SpoolConfig{Dir: dir})
	got := waiting(t, s, 100)
	if want := inMemory - acked + 2; len(got) != want {
		t.Errorf("%d wait after a restart, not %d", len(got), want)
	}
	check(t, "the end", got[len(got)-2:],
		fmt.Sprintf("i-%d %d records were lost: the audit spool was full or damaged", inMemory+1, dropped),
		fmt.Sprintf("i-%d after", inMemory+2))
}

// smallDisk mounts a disk of 1 MiB that only this thread sees. The thread
// ends with the test.
func smallDisk(t *testing.T) string {
	runtime.LockOSThread()
	dir := t.TempDir()
	if err := syscall.Unshare(syscall.CLONE_NEWNS | syscall.CLONE_FS); err != nil {
		t.Skipf("no mount namespace here: %v", err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Skipf("no mounts here: %v", err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no tmpfs here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// eat fills the disk to the last byte.
func eat(t *testing.T, name string) {
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

func TestSpoolAtOnce(t *testing.T) {
	const records = 3000
	s, _ := spool(t, SpoolConfig{Dir: t.TempDir(), MaxBytes: 4 << 20})
	var g sync.WaitGroup
	done := make(chan struct{})
	g.Go(func() {
		for i := range records {
			_ = s.Write(Record{Msg: fmt.Sprint(i + 1)})
		}
	})
	g.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				s.Sync()
				s.Dropped()
			}
		}
	})
	var got []string
	for len(got) < records {
		<-s.Ready()
		got = append(got, waiting(t, s, 100)...)
	}
	close(done)
	g.Wait()
	for i, r := range got {
		if want := fmt.Sprintf("i-%d %d", i+1, i+1); r != want {
			t.Fatalf("%q, not %q", r, want)
		}
	}
}

// A directory that anybody could have written is read without harm, and the
// sequences of what is in it have no gap.
func FuzzSpool(f *testing.F) {
	f.Add(`{"instance":"i","acked":1}`, string(line(f, "a"))+string(line(f, "b")), string(line(f, "c")))
	f.Add(`{"instance":"i","shift":-5,"acked":9,"lost":7}`, "00000000 {}\n\n", "torn")
	f.Add(`{"shift":9223372036854775807,"acked":18446744073709551615}`, "", "")
	f.Fuzz(func(t *testing.T, state, one, two string) {
		dir := t.TempDir()
		for name, data := range map[string]string{stateName: state, segmentName(1): one, segmentName(4): two} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s := OpenSpool(SpoolConfig{Dir: dir, MinFree: -1, Source: new(Source)})
		defer s.Close()
		if s.Dir() == "" {
			t.Fatal("it is not used")
		}
		s.Number("n")
		before := s.Len()
		write(t, s, "new")
		if got := waiting(t, s, 3); len(got) < before+1 || !strings.HasSuffix(got[len(got)-1], " new") {
			t.Fatalf("%d waited before %q", before, got)
		}
	})
}
