package sys

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Status is what we need of /proc/PID/status, which anybody may read.
type Status struct {
	TGID, PPID int
	PID        int    // its number where the file was opened
	NSPID      []int  // its numbers, from our pid namespace inwards; nil on gVisor
	Tracer     int    // the thread that traces it; 0 if none does, or from outside our pid namespace
	UID, GID   [4]int // real, effective, saved, file system
	Threads    int
	// Signals: waiting for the thread, for the process, blocked, ignored.
	Pending, Shared, Blocked, Ignored uint64
	CapEff, CapPrm                    uint64
}

// ReadStatus reads it for a process or thread.
func ReadStatus(tid int) (*Status, error) { return ReadStatusAt(fmt.Sprintf("/proc/%d/status", tid)) }

// ReadStatusAt is ReadStatus for a status file of any procfs.
func ReadStatusAt(name string) (*Status, error) {
	var buf [4 << 10]byte
	data, err := ReadProc(name, buf[:])
	if err != nil {
		return nil, err
	}
	var st Status
	for len(data) > 0 {
		var line []byte
		line, data, _ = bytes.Cut(data, []byte("\n"))
		key, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			continue
		}
		whole := func(n *int) { *n, err = strconv.Atoi(string(bytes.TrimSpace(value))) }
		bits := func(n *uint64) { *n, err = strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64) }
		four := func(ids *[4]int) {
			n := 0
			for _, id := range strings.Fields(string(value)) {
				if n < len(ids) && err == nil {
					ids[n], err = strconv.Atoi(id)
				}
				n++
			}
			if n < len(ids) && err == nil {
				err = io.ErrUnexpectedEOF
			}
		}
		switch string(key) {
		case "Tgid":
			whole(&st.TGID)
		case "Pid":
			whole(&st.PID)
		case "NSpid":
			for _, n := range strings.Fields(string(value)) {
				var v int
				if v, err = strconv.Atoi(n); err != nil {
					break
				}
				st.NSPID = append(st.NSPID, v)
			}
		case "PPid":
			whole(&st.PPID)
		case "TracerPid":
			whole(&st.Tracer)
		case "Uid":
			four(&st.UID)
		case "Gid":
			four(&st.GID)
		case "Threads":
			whole(&st.Threads)
		case "SigPnd":
			bits(&st.Pending)
		case "ShdPnd":
			bits(&st.Shared)
		case "SigBlk":
			bits(&st.Blocked)
		case "SigIgn":
			bits(&st.Ignored)
		case "CapPrm":
			bits(&st.CapPrm)
		case "CapEff":
			bits(&st.CapEff)
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %q: %w", name, string(line), err)
		}
	}
	return &st, nil
}

// ReadProc reads a file of procfs, into buf if it fits: package os would make
// a poller's file of it, with a dozen calls.
func ReadProc(name string, buf []byte) ([]byte, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	for n := 0; n < len(buf); {
		m, err := unix.Read(fd, buf[n:])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: name, Err: err}
		case m == 0:
			return buf[:n], nil
		}
		n += max(m, 0)
	}
	return os.ReadFile(name) // of a user in hundreds of groups
}

// Us is the status of this process at its start.
var Us = func() Status {
	st, err := ReadStatus(os.Getpid())
	if err != nil {
		return Status{TGID: os.Getpid(), UID: [4]int{os.Getuid(), os.Geteuid(), os.Geteuid(), os.Geteuid()}}
	}
	return *st
}()

// Can reports whether we have a capability, such as unix.CAP_SYS_PTRACE.
func Can(capability int) bool { return Us.CapEff>>capability&1 == 1 }

// canSwitchUser: root with CAP_SETUID and CAP_SETGID, where a process that changes
// its user is not made dumpable for it (proc_sys_fs(5), suid_dumpable: 1): a root
// target might then trace us.
var canSwitchUser = Us.UID[3] == 0 && Can(unix.CAP_SETUID) && Can(unix.CAP_SETGID) && !dumpsAll("/proc/sys/fs/suid_dumpable")

func dumpsAll(setting string) bool {
	data, err := os.ReadFile(setting)
	return err == nil && strings.TrimSpace(string(data)) == "1"
}

// AsTarget runs f, and where that is not permitted, once more with the user
// and group of thread tid: a root supervisor without CAP_SYS_PTRACE may look
// into a process of another user only as that user. A process that changed
// its user without an exec is not dumpable and stays closed.
//
// f must be one look at the target, never a walk through the file system:
// our groups are not the target's.
func AsTarget(tid int, f func() error) error {
	err := f()
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) || !canSwitchUser {
		return err
	}
	st, serr := ReadStatus(tid)
	if serr != nil || st.UID[0] == 0 || st.UID[0] != st.UID[1] || st.GID[0] != st.GID[1] {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if setThreadIDs(st.UID[0], st.GID[0]) != nil {
		return err
	}
	err = f()
	if back := setThreadIDs(0, 0); back != nil {
		// A receiver with a stranger's rights must not go on.
		panic(fmt.Sprintf("returning to user 0: %v", back))
	}
	return err
}
