package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"appdefender/internal/sys"
)

// processOf returns the process that thread tid belongs to.
func processOf(tid int) int {
	if st, err := sys.ReadStatus(tid); err == nil {
		return st.TGID
	}
	return tid
}

// pids are pidfds that a receiver has opened: opening one costs as much as
// all else in an answer. One whose process has died is found by its error,
// and while it lives its number means nobody else.
type pids map[int]int

// maxPids is how many a receiver keeps.
var maxPids = sync.OnceValue(func() int { return keepable(fileLimit()) })

func keepable(files uint64) int { return int(max(1, min(64, files/256))) }

// getFD duplicates descriptor fd of thread tid into this process.
//
// Before Linux 6.9 a pidfd means a process, not a thread: then it is the
// descriptor of the first thread, which shares the table in any ordinary
// program. It lives longer than the thread, whose number may then be another
// process's: it is kept for the first thread alone.
//
// A thread with a table of its own (unshare(2), CLONE_FILES) has another file
// under the number: what the first one has there says nothing about the call.
func (p pids) getFD(c *Call, fd int) (int, error) {
	got, err := p.duplicate(c, fd)
	if errors.Is(err, unix.EMFILE) {
		p.forget()
		got, err = p.duplicate(c, fd)
	}
	return got, err
}

func (p pids) duplicate(c *Call, fd int) (int, error) {
	if pidfd, ok := p[c.TID]; ok {
		got, err := unix.PidfdGetfd(pidfd, fd, 0)
		if err != unix.ESRCH {
			return got, err
		}
		unix.Close(pidfd)
		delete(p, c.TID)
	}
	pidfd, err := unix.PidfdOpen(c.TID, sys.PidfdThread)
	if err == unix.EINVAL {
		if pidfd, err = unix.PidfdOpen(c.PID(), 0); err == nil && c.PID() != c.TID {
			defer unix.Close(pidfd)
			return shared(c.TID, pidfd, fd)
		}
	}
	if err != nil {
		return -1, err
	}
	if len(p) >= maxPids() {
		p.forget()
	}
	p[c.TID] = pidfd
	return unix.PidfdGetfd(pidfd, fd, 0)
}

var errOwnTable = errors.New("the descriptors are not those of the process's first thread, and only Linux 6.9 and later have a pidfd of another")

// shared duplicates a descriptor of the process behind pidfd that is its
// thread tid's as well.
func shared(tid, pidfd, fd int) (int, error) {
	var theirs, ours unix.Stat_t
	there := unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", tid, fd), &theirs)
	got, err := unix.PidfdGetfd(pidfd, fd, 0)
	switch {
	case err == unix.EBADF && there == unix.ENOENT:
		return -1, err
	case err == unix.EBADF, err == nil && there == unix.ENOENT:
		err = errOwnTable
	case err != nil:
	case there != nil:
		err = there
	default:
		if err = unix.Fstat(got, &ours); err == nil && (theirs.Dev != ours.Dev || theirs.Ino != ours.Ino) {
			err = errOwnTable
		}
	}
	if err != nil && got >= 0 {
		unix.Close(got)
		return -1, err
	}
	return got, err
}

func (p pids) forget() {
	for tid, fd := range p {
		unix.Close(fd)
		delete(p, tid)
	}
}

// interrupted reports whether a signal waits for the call's thread that would
// end a blocking call: for itself, or for its process where we may trace it
// (see notify.restart). A process whose other threads job control has stopped
// is not stopped, for its parent, before this one is.
func (c *Call) interrupted() bool {
	if c.task != nil && c.task.halted.Load() {
		return true
	}
	st, err := sys.ReadStatus(c.TID)
	if err != nil {
		return false // the call's end is found by asking whether it is pending
	}
	pending := st.Pending
	if c.s.cfg.Levels.Trace || st.Threads == 1 {
		pending |= st.Shared
	}
	return pending&^st.Blocked&^st.Ignored != 0 || st.Threads > 1 && halted(st.TGID, c.TID)
}

// halted reports whether job control has stopped the process of thread tid.
// The first thread tells, or if it is the one that asks, any of the others.
func halted(pid, tid int) bool {
	threads := []string{strconv.Itoa(pid)}
	if pid == tid {
		const some = 64
		dir, err := os.Open(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return false
		}
		defer dir.Close()
		threads, _ = dir.Readdirnames(some)
	}
	return slices.ContainsFunc(threads, func(t string) bool {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", pid, t))
		if err != nil {
			return false
		}
		// "pid (comm) state": comm may hold anything but ends at the last ")".
		i := bytes.LastIndexByte(data, ')')
		return i >= 0 && bytes.HasPrefix(data[i:], []byte(") T"))
	})
}

// sameRights reports whether a failed lookup of ours is what the target would
// have met: same user and capabilities, or fewer than ours.
func sameRights(tid int) bool {
	theirs, err := sys.ReadStatus(tid)
	return err == nil && (sys.Us.UID[3] == 0 || theirs.UID[3] == sys.Us.UID[3] && theirs.CapEff&^sys.Us.CapEff == 0)
}

// sameUser reports whether thread tid sees of the file system what we see: a
// look-up of ours that failed would have failed there in the same way.
func sameUser(tid int) bool {
	theirs, err := sys.ReadStatus(tid)
	const walks = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH
	return err == nil && theirs.UID[3] == sys.Us.UID[3] && theirs.CapEff&walks == sys.Us.CapEff&walks
}

// readFull, readString and look are looks at a target's memory and /proc
// entries.
func readFull(tid int, addr uint64, buf []byte) error {
	return sys.AsTarget(tid, func() error { return sys.ReadFull(tid, addr, buf) })
}

func readString(tid int, addr uint64, limit int) (s string, err error) {
	err = sys.AsTarget(tid, func() error { s, err = sys.ReadString(tid, addr, limit); return err })
	return s, err
}

// procName is the name of a file in the folder that /proc has of a thread.
func procName(tid int, name string) string { return "/proc/" + strconv.Itoa(tid) + "/" + name }

func openProc(tid int, name string) (fd int, err error) {
	path := procName(tid, name)
	err = sys.AsTarget(tid, func() error {
		fd, err = unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil && !(errors.Is(err, unix.ENOENT) && strings.HasPrefix(name, "fd/")) {
		return -1, errUnreadable(fmt.Errorf("opening %s: %w", path, err))
	}
	return fd, err
}

func readlinkProc(tid int, name string) (to string, err error) {
	err = sys.AsTarget(tid, func() error { to, err = readlink(procName(tid, name)); return err })
	return to, err
}

func statProc(tid int, name string) (st unix.Stat_t, err error) {
	err = sys.AsTarget(tid, func() error { return unix.Stat(procName(tid, name), &st) })
	return st, err
}

// commandLine returns the argv of a process.
func commandLine(pid int) ([]string, error) {
	data, err := sys.ReadProc(procName(pid, "cmdline"), make([]byte, 4<<10))
	if err != nil || len(data) == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00"), nil
}
