package supervisor

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"appdefender/internal/early"
	"appdefender/internal/sys"
)

// protectSelf answers a call that could kill, stop or starve us: with EPERM if
// it is aimed at one of our threads, else it goes on. It is no event: no
// policy can allow it.
//
// The numbers lie in registers, but a descriptor can be exchanged by another
// thread after we looked: see signalByFD.
func (s *Supervisor) protectSelf(c *Call) {
	target := c.argInt(0)
	switch c.regs.NR {
	case unix.SYS_PIDFD_SEND_SIGNAL:
		s.signalByFD(c)
		return
	case unix.SYS_SETPRIORITY:
		target = whose(c, unix.PRIO_PROCESS, unix.PRIO_PGRP)
	case unix.SYS_IOPRIO_SET:
		target = whose(c, ioprioProcess, ioprioGroup)
	case unix.SYS_SETPGID:
		target = -c.argInt(1)
	}
	// Before all else: a number that nobody has yet may be that of our next thread.
	free := target > 0 && errors.Is(unix.Kill(target, 0), unix.ESRCH)
	switch {
	case !ourNumbers(c.TID):
		_ = c.proceed()
	case isOurs(target):
		_ = c.refuse(unix.EPERM)
	case free:
		_ = c.refuse(unix.ESRCH)
	default:
		_ = c.proceed()
	}
}

// signalByFD answers a pidfd_send_signal of SIGKILL or SIGSTOP. For whoever may
// signal us it is made on our duplicate of the descriptor, with no more rights
// than the caller has; nobody can ask who sent such a signal. From others the
// kernel keeps us safe. The rights of a user namespace of its own we cannot use
// for the caller: such a call goes on.
func (s *Supervisor) signalByFD(c *Call) {
	const group = 1 << 2 // PIDFD_SIGNAL_PROCESS_GROUP (Linux 6.9)
	fd, tid, numbers := c.argInt(0), c.TID, ourNumbers(c.TID)
	if fd >= 0 && s.cfg.Levels.GetFD && numbers && mayKillUs(c.TID) { // below 0 are its own (PIDFD_SELF)
		switch err := c.duplicate(fd); {
		case errors.Is(err, unix.EBADF): // or by now it is one
			_ = c.refuse(unix.EBADF)
			return
		case err != nil:
			_ = c.refuse(unix.EPERM)
			return
		}
		fd, tid = c.socket, unix.Getpid()
	}
	target := s.processBehind(tid, fd)
	if c.argInt(3)&group != 0 {
		target = -target
	}
	switch {
	case isOurs(target) && numbers:
		_ = c.refuse(unix.EPERM)
		return
	case c.socket < 0:
		_ = c.proceed()
		return
	}
	foreign, err := sys.Within(c.TID, 1<<unix.CAP_KILL, func() error { return c.sendSignal() })
	var errno syscall.Errno
	switch {
	case err == nil:
		_ = c.succeed(0)
	case foreign:
		_ = c.proceed()
	case errors.As(err, &errno):
		_ = c.refuse(errno)
	default:
		_ = c.refuse(unix.EPERM)
	}
}

// sendSignal makes a pidfd_send_signal on c.socket.
func (c *Call) sendSignal() error {
	var info *unix.Siginfo
	if at := c.arg(2); at != 0 {
		b, err := c.readBytes(at, int(unsafe.Sizeof(*info)))
		if err != nil {
			return err
		}
		info = (*unix.Siginfo)(unsafe.Pointer(&b[0]))
	}
	if err := c.pending(); err != nil {
		return err
	}
	return unix.PidfdSendSignal(c.socket, unix.Signal(c.argInt(1)), info, c.argInt(3))
}

// mayKillUs reports whether the kernel lets thread tid signal us (kill(2)), or may.
func mayKillUs(tid int) bool {
	st, err := sys.ReadStatus(tid)
	if err != nil || st.CapEff>>unix.CAP_KILL&1 == 1 {
		return true
	}
	us := []int{sys.Us.UID[0], sys.Us.UID[2]}
	return slices.Contains(us, st.UID[0]) || slices.Contains(us, st.UID[1])
}

// The kinds of whom ioprio_set(2) is about.
const ioprioProcess, ioprioGroup, ioprioUser = 1, 2, 3

// whose returns whom a setpriority or ioprio_set is about, in the terms of
// kill(2): a thread, a group, or everybody (-1) if it is all processes of our
// user.
func whose(c *Call, process, group int) int {
	switch c.argInt(0) {
	case process:
		return c.argInt(1)
	case group:
		return -c.argInt(1)
	}
	user := c.argInt(1)
	if st, err := sys.ReadStatus(c.TID); user == 0 && err == nil {
		user = st.UID[0] // 0 is the caller's own
	}
	if user == sys.Us.UID[0] {
		return -1
	}
	return 0
}

// OurGroups returns our process groups: the supervisor's, the guardian's and
// the watcher's, which leads its own.
func OurGroups() []int { return append([]int{unix.Getpgrp(), early.Group()}, early.Family()...) }

// isOurs reports whether a number is one of our threads or family, or a
// set of processes with us in it.
func isOurs(tid int) bool {
	if tid == -1 || slices.Contains(early.Family(), tid) || slices.Contains(OurGroups(), -tid) {
		return true
	}
	if tid <= 0 {
		return false
	}
	_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid))
	return err == nil
}

var ourPIDs = statID("/proc/self/ns/pid")

// ourNumbers reports whether thread tid counts processes as we do, or may: in
// a pid namespace of its own, ours has other numbers or none.
func ourNumbers(tid int) bool {
	st, err := statProc(tid, "ns/pid")
	return err != nil || id{st.Dev, st.Ino} == ourPIDs
}

// processBehind returns the process that a descriptor of the target stands
// for, a pidfd or a directory of /proc; 0 if it is neither.
func (s *Supervisor) processBehind(tid, fd int) int {
	// Wherever procfs is mounted, its file tells the number.
	if dir, err := openProc(tid, fmt.Sprintf("fd/%d", fd)); err == nil {
		defer unix.Close(dir)
		if onProc(dir) {
			st, err := sys.ReadStatusAt(fmt.Sprintf("/proc/self/fd/%d/status", dir))
			switch {
			case err != nil:
			case len(st.NSPID) > 0:
				return st.NSPID[0]
			case ourProc(dir):
				return st.PID
			}
		}
	}
	var data []byte
	err := sys.AsTarget(tid, func() (err error) {
		data, err = os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", tid, fd))
		return err
	})
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "Pid:"); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(value))
			return n
		}
	}
	return 0
}
