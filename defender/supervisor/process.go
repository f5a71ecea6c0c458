package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"appdefender/internal/sys"
)

// processOf returns the process that thread tid belongs to.
func processOf(tid int) int {
	if st, err := readStatus(tid); err == nil {
		return st.tgid
	}
	return tid
}

// pids are pidfds that a receiver has opened: opening one costs as much as
// all else in an answer. One whose process has died is found by its error,
// and while it lives its number means nobody else.
type pids map[int]int

const maxPids = 64

// getFD duplicates descriptor fd of thread tid into this process.
//
// Before Linux 6.9 a pidfd means a process, not a thread: then it is the
// descriptor of the first thread, which shares the table in any ordinary
// program.
func (p pids) getFD(c *Call, fd int) (int, error) {
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
		pidfd, err = unix.PidfdOpen(c.PID(), 0)
	}
	if err != nil {
		return -1, err
	}
	if len(p) >= maxPids {
		p.forget()
	}
	p[c.TID] = pidfd
	return unix.PidfdGetfd(pidfd, fd, 0)
}

func (p pids) forget() {
	for tid, fd := range p {
		unix.Close(fd)
		delete(p, tid)
	}
}

// status is what we need of /proc/PID/status, which anybody may read.
type status struct {
	tgid             int
	uid, gid         [4]int // real, effective, saved, file system
	pending, blocked uint64 // signals: SigPnd|ShdPnd, SigBlk
	ignored          uint64
	capEff, capPrm   uint64
}

func readStatus(tid int) (*status, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return nil, err
	}
	var st status
	for line := range bytes.Lines(data) {
		key, value, ok := strings.Cut(strings.TrimSpace(string(line)), ":")
		if !ok {
			continue
		}
		value = strings.TrimSpace(value)
		switch key {
		case "Tgid":
			st.tgid, err = strconv.Atoi(value)
		case "Uid":
			_, err = fmt.Sscan(value, &st.uid[0], &st.uid[1], &st.uid[2], &st.uid[3])
		case "Gid":
			_, err = fmt.Sscan(value, &st.gid[0], &st.gid[1], &st.gid[2], &st.gid[3])
		case "SigPnd", "ShdPnd":
			var v uint64
			v, err = strconv.ParseUint(value, 16, 64)
			st.pending |= v
		case "SigBlk":
			st.blocked, err = strconv.ParseUint(value, 16, 64)
		case "SigIgn":
			st.ignored, err = strconv.ParseUint(value, 16, 64)
		case "CapPrm":
			st.capPrm, err = strconv.ParseUint(value, 16, 64)
		case "CapEff":
			st.capEff, err = strconv.ParseUint(value, 16, 64)
		}
		if err != nil {
			return nil, fmt.Errorf("reading status of %d: %q: %w", tid, line, err)
		}
	}
	return &st, nil
}

// interrupted reports whether a signal waits for thread tid that would end
// its blocking call.
func interrupted(tid int) bool {
	st, err := readStatus(tid)
	return err != nil || st.pending&^st.blocked&^st.ignored != 0
}

// asTarget runs f, and where that is not permitted, once more with the user
// and group of thread tid: a root supervisor without CAP_SYS_PTRACE may look
// into a process of another user only as that user. A process that changed
// its user without an exec is not dumpable and stays closed.
//
// f must be one look at the target, never a walk through the file system:
// our groups are not the target's.
//
// Precondition: the OS thread is locked.
func asTarget(tid int, f func() error) error {
	err := f()
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) || !canSwitchUser {
		return err
	}
	st, serr := readStatus(tid)
	if serr != nil || st.uid[0] == 0 || st.uid[0] != st.uid[1] || st.gid[0] != st.gid[1] {
		return err
	}
	if sys.SetThreadIDs(st.uid[0], st.gid[0]) != nil {
		return err
	}
	err = f()
	if back := sys.SetThreadIDs(0, 0); back != nil {
		// A receiver with a stranger's rights must not go on.
		panic(fmt.Sprintf("returning to user 0: %v", back))
	}
	return err
}

// sameRights reports whether a failed lookup of ours is what the target would
// have met: same user and capabilities, or fewer than ours.
func sameRights(tid int) bool {
	theirs, err := readStatus(tid)
	return err == nil && (ourUID == 0 || theirs.uid[3] == ourUID && theirs.capEff&^ourCaps == 0)
}

var ourUID, ourCaps = func() (int, uint64) {
	st, err := readStatus(os.Getpid())
	if err != nil {
		return os.Geteuid(), 0
	}
	return st.uid[3], st.capEff
}()

// canSwitchUser: root with CAP_SETUID and CAP_SETGID.
var canSwitchUser = ourUID == 0 && ourCaps>>unix.CAP_SETUID&1 == 1 && ourCaps>>unix.CAP_SETGID&1 == 1

// readFull, readString and look are looks at a target's memory and /proc
// entries.
func readFull(tid int, addr uint64, buf []byte) error {
	return asTarget(tid, func() error { return sys.ReadFull(tid, addr, buf) })
}

func readString(tid int, addr uint64, limit int) (s string, err error) {
	err = asTarget(tid, func() error { s, err = sys.ReadString(tid, addr, limit); return err })
	return s, err
}

func openProc(tid int, name string) (fd int, err error) {
	path := fmt.Sprintf("/proc/%d/%s", tid, name)
	err = asTarget(tid, func() error {
		fd, err = unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil && !(errors.Is(err, unix.ENOENT) && strings.HasPrefix(name, "fd/")) {
		return -1, errUnreadable(fmt.Errorf("opening %s: %w", path, err))
	}
	return fd, err
}

func readlinkProc(tid int, name string) (to string, err error) {
	err = asTarget(tid, func() error { to, err = readlink(fmt.Sprintf("/proc/%d/%s", tid, name)); return err })
	return to, err
}

func statProc(tid int, name string) (st unix.Stat_t, err error) {
	err = asTarget(tid, func() error { return unix.Stat(fmt.Sprintf("/proc/%d/%s", tid, name), &st) })
	return st, err
}

// commandLine returns the argv of a process.
func commandLine(pid int) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(data) == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00"), nil
}
