package sys

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ptrace options and events (ptrace(2)). x/sys keeps some of them to itself.
const (
	TraceExec = unix.PTRACE_O_TRACEEXEC
	// TraceAll follows every thread and child, tells stops by calls from
	// signals, and kills all tracees when their tracer dies.
	TraceAll = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK |
		unix.PTRACE_O_TRACECLONE | TraceExec | unix.PTRACE_O_TRACEEXIT | unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_EXITKILL

	EventExec    = unix.PTRACE_EVENT_EXEC
	EventExit    = unix.PTRACE_EVENT_EXIT
	EventSeccomp = unix.PTRACE_EVENT_SECCOMP
	EventStop    = 128 // PTRACE_EVENT_STOP
	// SyscallStop is the signal of a stop at a call's exit.
	SyscallStop = unix.SIGTRAP | 0x80
)

// Seize attaches to thread tid without stopping it. All requests for it, and
// WaitTracee, must come from the calling OS thread.
func Seize(tid int, options uintptr) error { return ptrace(unix.PTRACE_SEIZE, tid, options) }

// Interrupt stops a seized thread on its way back from the kernel.
func Interrupt(tid int) error { return ptrace(unix.PTRACE_INTERRUPT, tid, 0) }

// Detach lets a stopped thread go on with signal sig, or none.
func Detach(tid int, sig syscall.Signal) error { return ptrace(unix.PTRACE_DETACH, tid, uintptr(sig)) }

// Cont lets a stopped thread go on with signal sig, or none.
func Cont(tid int, sig syscall.Signal) error { return ptrace(unix.PTRACE_CONT, tid, uintptr(sig)) }

// ContToExit lets a stopped thread go on to the exit of its call.
func ContToExit(tid int) error { return ptrace(unix.PTRACE_SYSCALL, tid, 0) }

// Listen leaves a thread in its group stop, to hear when that ends.
func Listen(tid int) error { return ptrace(unix.PTRACE_LISTEN, tid, 0) }

// EventMsg returns what an event of a stopped thread carries. It fails with
// ESRCH for one that is not stopped, as after SIGKILL.
func EventMsg(tid int) (uint, error) {
	var msg uint
	// Not by way of ptrace: there the address would be but a number, which a
	// stack that grows leaves behind.
	if _, _, e := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_GETEVENTMSG, uintptr(tid), 0, uintptr(unsafe.Pointer(&msg)), 0, 0); e != 0 {
		return 0, e
	}
	return msg, nil
}

func ptrace(req, tid int, data uintptr) error {
	if _, _, e := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(req), uintptr(tid), 0, data, 0, 0); e != 0 {
		return e
	}
	return nil
}

// WaitTracee waits for the next stop or end of a tracee of this OS thread, and
// for nothing else: not for children, and not for other threads' tracees.
// On the thread that has children, it waits for those as well.
func WaitTracee() (int, unix.WaitStatus, error) {
	for {
		pid, status, err := WaitOnce()
		if err != unix.EINTR {
			return pid, status, err
		}
	}
}

// WaitOnce is WaitTracee that returns EINTR when a signal interrupts it.
func WaitOnce() (int, unix.WaitStatus, error) {
	var status unix.WaitStatus
	pid, err := unix.Wait4(-1, &status, unix.WNOTHREAD|unix.WALL, nil)
	return pid, status, err
}
