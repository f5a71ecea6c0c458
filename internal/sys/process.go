package sys

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PidfdThread is PIDFD_THREAD of pidfd_open(2) (Linux 6.9): the number may be
// any thread's.
const PidfdThread = unix.O_EXCL

// Codes of a child's change (sigaction(2), si_code of SIGCHLD).
const (
	Exited  = 1 // CLD_EXITED
	Trapped = 4 // CLD_TRAPPED: a stop for its tracer
	Stopped = 5 // CLD_STOPPED: job control
)

// PeekChild waits for a child of this OS thread to change, and leaves the
// change to be taken by a wait. status is the exit status, or the signal.
func PeekChild() (pid int, code, status int32, err error) {
	// siginfo_t as waitid(2) fills it in.
	var info struct {
		signo, errno, code, _ int32
		pid, uid, status      int32
		_                     [128 - 28]byte
	}
	_, _, e := unix.Syscall6(unix.SYS_WAITID, unix.P_ALL, 0, uintptr(unsafe.Pointer(&info)),
		unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT|unix.WNOTHREAD, 0, 0)
	if e != 0 {
		return 0, 0, 0, e
	}
	return int(info.pid), info.code, info.status, nil
}

// setThreadIDs changes the real and effective ids of the calling OS thread
// alone, keeping the saved ones, with which the way back is open.
// Precondition: the OS thread is locked.
func setThreadIDs(uid, gid int) error {
	const keep = ^uintptr(0)
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), keep); e != 0 {
		return e
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), keep); e != 0 {
		return e
	}
	return nil
}

// Gettid is the calling OS thread's id.
func Gettid() int { return unix.Gettid() }

// Tgkill sends a signal to one thread of this process.
func Tgkill(tid int, sig syscall.Signal) error { return unix.Tgkill(unix.Getpid(), tid, sig) }

// Connect is connect(2) with the bytes of a sockaddr as given. It may block.
func Connect(fd int, addr []byte) error {
	var p unsafe.Pointer
	if len(addr) > 0 {
		p = unsafe.Pointer(&addr[0])
	}
	if _, _, e := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(p), uintptr(len(addr))); e != 0 {
		return e
	}
	return nil
}

// SocketOption reads an int option of SOL_SOCKET. It never waits.
func SocketOption(fd, option int) (int, error) {
	var v int32
	size := uint32(4)
	if _, _, e := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, uintptr(option),
		uintptr(unsafe.Pointer(&v)), uintptr(unsafe.Pointer(&size)), 0); e != 0 {
		return 0, e
	}
	return int(v), nil
}

// Message is what sendmsg(2) sends: a destination (empty for none), a payload
// and control data, all in our memory.
type Message struct {
	Name, Payload, Control []byte
}

// Sendmsg is sendmsg(2) with the bytes as given. It may block.
func Sendmsg(fd int, m *Message, flags int) (int, error) {
	var hdr unix.Msghdr
	var iov unix.Iovec
	if len(m.Name) > 0 {
		hdr.Name, hdr.Namelen = &m.Name[0], uint32(len(m.Name))
	}
	if len(m.Payload) > 0 {
		iov.Base = &m.Payload[0]
		iov.SetLen(len(m.Payload))
	}
	hdr.Iov, hdr.Iovlen = &iov, 1
	if len(m.Control) > 0 {
		hdr.Control = &m.Control[0]
		hdr.SetControllen(len(m.Control))
	}
	n, _, e := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&hdr)), uintptr(flags))
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// LandlockNet returns an error unless Landlock can restrict TCP
// (landlock(7), ABI 4).
func LandlockNet() error {
	const version = 1 // LANDLOCK_CREATE_RULESET_VERSION
	abi, _, e := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, version)
	if e != 0 {
		return e
	}
	if abi < 4 {
		return fmt.Errorf("its version is %d", abi)
	}
	return nil
}
