package defender

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"appdefender/audit"
	"appdefender/defender/content"
	"appdefender/defender/supervisor"
	"appdefender/policy"
)

// Bounds of what is watched and looked at. Each watch and each file that waits
// for a look holds a descriptor.
const (
	maxWatches  = 256      // files and folders
	maxNames    = 8192     // in all folders
	maxLooks    = 2048     // files that wait
	maxData     = 64 << 20 // bytes of a file that is no program
	lookAgain   = time.Second
	lookAtLast  = 5 * time.Second // for what waits when the target has ended
	afterRename = 50 * time.Millisecond
)

// written looks at files when the target has written them. Before an open, a
// rename or a link goes on, the file or its folder is watched (inotify(7)); when
// the last descriptor or mapping that may write is closed, a goroutine reads
// the file and has it judged. It is never waited for, rests as long as it
// works, and counts what it had no time for. A program is looked at again when
// it starts.
type written struct {
	d    *Defender
	fd   int // of inotify
	file *os.File
	most int // files that wait

	mu      sync.Mutex
	watches map[int32]*watch
	order   []int32 // the oldest first
	names   int
	waiting map[fileID]bool
	looked  map[fileID]time.Time
	later   map[*later]bool
	queue   chan look
	ending  bool // nothing is put off any more
	closed  bool
	lost    int
	told    int // of them

	read, worked chan struct{}
}

// watch is a file, or a folder with the names in it that the target may be
// writing to.
type watch struct {
	fd    int // O_PATH
	names map[string]writer
}

// writer is who has opened a file last.
type writer struct {
	path string
	who  policy.Process
}

// look is a file to be looked at.
type look struct {
	fd int // O_PATH
	id fileID
	writer
}

// later is a file that is to be looked at in a while.
type later struct {
	fd   int
	name string
	writer
	id fileID // if it waits under it
}

type fileID struct{ dev, ino uint64 }

func newWritten(d *Defender) (*written, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	w := &written{
		d: d, fd: fd, file: os.NewFile(uintptr(fd), "inotify"), most: maxLooks,
		watches: make(map[int32]*watch), waiting: make(map[fileID]bool), looked: make(map[fileID]time.Time), later: make(map[*later]bool),
		read: make(chan struct{}), worked: make(chan struct{}),
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil && limit.Cur/4 < maxLooks {
		w.most = int(limit.Cur / 4)
	}
	w.queue = make(chan look, w.most)
	go w.readEvents()
	go w.work()
	return w, nil
}

// expect watches what a call is about to write to. The call waits.
func (w *written) expect(c *supervisor.Call, ev *policy.Event) {
	for _, f := range c.Written() {
		path := f.Path
		if strings.HasPrefix(path, "/proc/") || strings.HasPrefix(path, "/sys/") {
			continue
		}
		if ev.Subject.Command == nil { // it is not known as a whole
			ev.Subject = w.d.who(c)
		}
		by := writer{path, ev.Subject}
		w.mu.Lock()
		err := w.watch(f.FD, f.Name, by)
		w.mu.Unlock()
		if err == nil && !f.Renamed {
			continue
		}
		wait := afterRename // it is there already
		if !f.Renamed {
			wait = lookAgain // it cannot be watched
		}
		w.mu.Lock()
		w.putOff(f.FD, f.Name, by, wait, fileID{})
		w.mu.Unlock()
	}
}

// putOff has enqueue called in a while. w.mu is held.
func (w *written) putOff(fd int, name string, by writer, wait time.Duration, id fileID) {
	kept, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil || len(w.later) >= w.most {
		if err == nil {
			unix.Close(kept)
		}
		w.lost++
		return
	}
	l := &later{kept, name, by, id}
	w.later[l] = true
	if id != (fileID{}) {
		w.waiting[id] = true
	}
	time.AfterFunc(wait, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.due(l)
	})
}

// due looks at what was put off. w.mu is held.
func (w *written) due(l *later) {
	if !w.later[l] {
		return
	}
	delete(w.later, l)
	delete(w.waiting, l.id)
	w.enqueue(l.fd, l.name, l.writer)
	unix.Close(l.fd)
}

// watch watches the file fd, or the folder fd for a name.
func (w *written) watch(fd int, name string, by writer) error {
	mask := uint32(unix.IN_CLOSE_WRITE)
	if name != "" {
		mask |= unix.IN_ONLYDIR
	}
	n, err := unix.InotifyAddWatch(w.fd, fmt.Sprintf("/proc/self/fd/%d", fd), mask)
	if err != nil {
		return err
	}
	at := w.watches[int32(n)]
	if at == nil {
		kept, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return err
		}
		at = &watch{fd: kept, names: make(map[string]writer)}
		w.watches[int32(n)] = at
		w.order = append(w.order, int32(n))
	}
	if _, known := at.names[name]; !known {
		w.names++
	}
	at.names[name] = by
	for len(w.watches) > maxWatches || w.names > maxNames {
		w.forget(w.order[0], true)
	}
	return nil
}

// forget ends a watch. What may still be written then is looked at as it is.
func (w *written) forget(n int32, looked bool) {
	at := w.watches[n]
	if at == nil {
		return
	}
	for i, o := range w.order {
		if o == n {
			w.order = append(w.order[:i], w.order[i+1:]...)
			break
		}
	}
	delete(w.watches, n)
	w.names -= len(at.names)
	if looked {
		_, _ = unix.InotifyRmWatch(w.fd, uint32(n))
		for name, by := range at.names {
			w.enqueue(at.fd, name, by)
		}
	}
	unix.Close(at.fd)
}

// readEvents reads what was closed until the descriptor is.
func (w *written) readEvents() {
	defer close(w.read)
	buf := make([]byte, 64<<10)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return
		}
		w.events(buf[:n])
	}
}

// events takes a sequence of struct inotify_event (inotify(7)).
func (w *written) events(b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ne := binary.NativeEndian
	for len(b) >= unix.SizeofInotifyEvent {
		n, mask, length := int32(ne.Uint32(b)), ne.Uint32(b[4:]), int(ne.Uint32(b[12:]))
		b = b[unix.SizeofInotifyEvent:]
		if length > len(b) {
			return
		}
		name := string(bytes.TrimRight(b[:length], "\x00"))
		b = b[length:]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			w.lost++ // at least
		case mask&unix.IN_IGNORED != 0:
			w.forget(n, false)
		case mask&unix.IN_CLOSE_WRITE != 0:
			if at := w.watches[n]; at != nil {
				if by, ok := at.names[name]; ok {
					w.enqueue(at.fd, name, by)
				}
			}
		}
	}
}

// enqueue has a file looked at: the file fd, or a name in the folder fd. One
// that waits already is not looked at twice, and one that was looked at just
// now a little later. w.mu is held.
func (w *written) enqueue(fd int, name string, by writer) {
	var file int
	var err error
	if name == "" {
		file, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	} else {
		file, err = unix.Openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if errors.Is(err, unix.ENOENT) {
		return
	}
	if err != nil {
		w.lost++
		return
	}
	var st unix.Stat_t
	if unix.Fstat(file, &st) != nil {
		unix.Close(file)
		w.lost++
		return
	}
	l := look{file, fileID{st.Dev, st.Ino}, by}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size == 0 || w.waiting[l.id] {
		unix.Close(file)
		return
	}
	if last, ok := w.looked[l.id]; ok && time.Since(last) < lookAgain && !w.ending {
		w.putOff(file, "", by, lookAgain, l.id)
		unix.Close(file)
		return
	}
	if !w.closed {
		select {
		case w.queue <- l:
			w.waiting[l.id] = true
			return
		default:
		}
	}
	w.lost++
	unix.Close(file)
}

// work looks at files, one after the other.
func (w *written) work() {
	defer close(w.worked)
	for l := range w.queue {
		begin := time.Now()
		w.mu.Lock()
		delete(w.waiting, l.id) // what is written from now on is another look's
		if len(w.looked) > 2*maxLooks {
			clear(w.looked)
		}
		w.looked[l.id] = begin
		ending := w.ending
		w.mu.Unlock()
		w.d.lookAt(l)
		unix.Close(l.fd)
		if len(w.queue) == 0 {
			w.confess()
		}
		if !ending {
			time.Sleep(min(time.Since(begin), time.Second))
		}
	}
	w.confess()
}

// confess tells how many files were not looked at.
func (w *written) confess() {
	w.mu.Lock()
	n := w.lost - w.told
	w.told = w.lost
	w.mu.Unlock()
	if n > 0 {
		w.d.notice("%d written files were not looked at: there were too many, or they could not be opened; programs are looked at when they start", n)
	}
}

// end looks at what waits. All processes of the target have ended, so nothing
// more is closed.
func (w *written) end() {
	w.mu.Lock()
	w.ending = true
	w.mu.Unlock()
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(w.fd, buf)
		if err != nil || n <= 0 {
			break
		}
		w.events(buf[:n])
	}
	_ = w.file.Close()
	<-w.read
	w.mu.Lock()
	for l := range w.later {
		w.due(l)
	}
	for len(w.order) > 0 {
		w.forget(w.order[0], false)
	}
	w.closed = true
	close(w.queue)
	w.mu.Unlock()
	select {
	case <-w.worked:
	case <-time.After(lookAtLast):
		w.mu.Lock()
		w.lost += len(w.queue)
		w.mu.Unlock()
		w.confess()
	}
}

// lookAt has a written file judged. What is too large is no program, or too
// large for one.
func (d *Defender) lookAt(l look) {
	if !d.asked().Has(policy.NeedContent) {
		return
	}
	ev := policy.Event{Kind: policy.FileWrite, Subject: l.who, File: policy.File{Path: l.path, Typed: l.path, Op: policy.OpWritten}}
	rep, err := readContent(l.fd)
	switch {
	case errors.Is(err, errNotLooked):
		return
	case err != nil:
		ev.Unsure |= policy.NeedContent
	default:
		ev.File.Type, ev.File.MD5, ev.File.SHA256, ev.File.Findings = rep.Type, rep.MD5, rep.SHA256, rep.Findings
	}
	v := d.decide(&ev)
	if !v.Tell() {
		return
	}
	d.queue.Add(audit.New(&d.src, &ev, v, audit.Outcome{Level: audit.Observed, Err: err, Time: time.Now()}))
	if v.Effect == policy.Block && !v.Allow {
		d.end()
	}
}

// errNotLooked is a file that nobody needs to look at.
var errNotLooked = errors.New("it is not looked at")

// readContent reads the file that an O_PATH descriptor stands for.
func readContent(fd int) (*content.Report, error) {
	r, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(r), "")
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errNotLooked
	}
	if st.Size() > maxData {
		magic := make([]byte, len(elf.ELFMAG))
		if _, err := f.ReadAt(magic, 0); err != nil || string(magic) != elf.ELFMAG {
			return nil, errNotLooked
		}
	}
	if st.Size() > maxContents {
		return nil, fmt.Errorf("it has %d bytes", st.Size())
	}
	return content.Read(io.LimitReader(f, st.Size()), st.Size())
}
