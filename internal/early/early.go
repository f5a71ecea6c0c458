// Package early runs the processes that must exist before the Go runtime
// does. A constructor in C forks them when the program was started as
// "PROGRAM run …" (or "check", for the probes alone), in microseconds, where a re-executed Go program takes
// milliseconds; and what was forked before Go has changed nothing: signals,
// limits and descriptors are those we were started with.
//
//	guardian ──┬─ supervisor (the Go program) ──┬─ stage, becomes the target
//	           └─ watcher                       └─ probe, for the self-test
//
// The guardian is the process that was started. It passes signals and the
// exit status on, and is the subreaper above everything, so that when the
// supervisor dies it can end every process of the target ("closed") or answer
// every call ("open"). The watcher does what it can if both were killed
// together. As process 1 there is neither: the kernel ends a container with
// its first process.
//
// Stage and probe share the supervisor's descriptor table until they have
// installed their filter: its listener appears in the supervisor without
// being sent, which the filter itself could stop.
package early

/*
#include <stdlib.h>
#include <string.h>
#include "early.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Probed reports whether the probes exist: whether the program was started
// with "run" or "check" as its first argument.
func Probed() bool { return C.early_page != nil && C.early_page.probe[0].pid > 0 }

// Available reports whether the early processes exist: that is, whether the
// program was started with "run" as its first argument.
func Available() bool {
	return C.early_page != nil && C.early_page.stage.pid > 0
}

// Guarded reports whether a guardian stands above us, and its process id.
func Guarded() (pid int, ok bool) {
	if C.early_page == nil || C.early_page.guardian == 0 {
		return 0, false
	}
	return int(C.early_page.guardian), true
}

// Family returns the process ids of guardian and watcher, none as process 1.
func Family() []int {
	var pids []int
	if C.early_page != nil {
		for _, pid := range []C.int32_t{C.early_page.guardian, C.early_page.watcher} {
			if pid > 0 {
				pids = append(pids, int(pid))
			}
		}
	}
	return pids
}

// WipeEnvironment overwrites the values of our own variables in this process's
// memory. /proc/PID/environ never shows them. [os.Getenv] keeps working.
func WipeEnvironment() { C.early_wipe_environment() }

// InterruptSignal ends a blocking system call of one of our threads, once
// [CatchSignals] was called. From others it is the target's.
const InterruptSignal = syscall.Signal(C.EARLY_INTERRUPT)

// Group returns the process group we were started in: the shell's job.
func Group() int {
	if C.early_page == nil {
		return unix.Getpgrp()
	}
	return int(C.early_page.group)
}

// Done notes in slot what was done for the call in it, for the guardian to
// tell if we die before we can. Clearing the slot clears the note.
func Done(slot []byte, value int64, errno syscall.Errno) {
	r := (*C.struct_early_result)(unsafe.Pointer(&slot[C.EARLY_RESULT_AT]))
	r.value, r.error = C.int64_t(value), -C.int32_t(errno)
	atomic.StoreUint32((*uint32)(&r.performed), 1)
}

// CatchSignals keeps the signals that Go does not catch from ending us, and
// passes on to the target what others send of those that are also our own.
func CatchSignals() { C.early_catch_signals() }

// Forwards tells the guardian that signals sent to us reach the target.
func Forwards() {
	if C.early_page != nil {
		atomic.StoreUint32((*uint32)(&C.early_page.forwards), 1)
	}
}

// Orders is what the stage must know to become the target.
type Orders struct {
	Path              string // of the program, as execve(2) takes it
	ArgvIndex         int    // where the target's argv begins in os.Args
	KeepPtrace        bool   // leave CAP_SYS_PTRACE to the target
	DieWithSupervisor bool   // the target's first process gets SIGKILL with us
	FailOpen          bool   // what the guardian does if we die
	NoTCPConnect      bool   // every TCP connect is performed for the target
}

// Child is the stage or the probe.
type Child struct {
	c    *C.struct_early_child
	name string
}

// Stage returns the child that becomes the target.
func Stage() Child { return Child{&C.early_page.stage, "stage"} }

// probes is the number of throw-away children: one for each way to supervise.
const probes = C.EARLY_PROBES

// Probe returns throw-away child n of the self-test.
func Probe(n int) Child { return Child{&C.early_page.probe[n], "probe"} }

// SetFilter gives the children that have not gone their seccomp filter: an
// array of struct sock_filter. A traced one stops calls for a tracer and has
// no listener. With [ClearFilter] the target runs without one.
func SetFilter(prog []byte, traced bool) error {
	n := len(prog) / 8
	if len(prog)%8 != 0 || n == 0 || n > C.EARLY_PROG_MAX {
		return fmt.Errorf("filter of %d bytes: not 1 to %d instructions", len(prog), C.EARLY_PROG_MAX)
	}
	C.memcpy(unsafe.Pointer(&C.early_page.prog), unsafe.Pointer(&prog[0]), C.size_t(len(prog)))
	C.early_page.prog_len = C.uint32_t(n)
	C.early_page.traced = C.uint32_t(flag(traced))
	return nil
}

// ClearFilter takes the filter back. [Child.Listener] then returns -1.
func ClearFilter() { C.early_page.prog_len = 0 }

// Give hands the stage its orders; they take effect with [Child.Go].
func Give(o Orders) error {
	if len(o.Path) >= C.EARLY_PATH_MAX {
		return fmt.Errorf("path of %d bytes: %w", len(o.Path), unix.ENAMETOOLONG)
	}
	p := C.early_page
	dst := unsafe.Slice((*byte)(unsafe.Pointer(&p.path)), C.EARLY_PATH_MAX)
	dst[copy(dst, o.Path)] = 0
	p.argv_index = C.int32_t(o.ArgvIndex)
	p.keep_ptrace = flag(o.KeepPtrace)
	p.die_with_supervisor = flag(o.DieWithSupervisor)
	p.no_tcp_connect = flag(o.NoTCPConnect)
	p.on_failure_open = C.uint32_t(flag(o.FailOpen))
	p.target = p.stage.pid
	return nil
}

func flag(b bool) C.int32_t {
	if b {
		return 1
	}
	return 0
}

// PID returns the child's process id.
func (c Child) PID() int { return int(c.c.pid) }

// Go lets the child begin. Once the stage goes, the guardian acts on our
// death.
func (c Child) Go() {
	if c.name == "stage" {
		atomic.StoreUint32((*uint32)(&C.early_page.started), 1)
	}
	c.order(C.ORDER_GO)
}

// dismiss ends a child that has not gone.
func (c Child) dismiss() {
	if atomic.CompareAndSwapUint32((*uint32)(&c.c.order), C.ORDER_WAIT, C.ORDER_QUIT) {
		futex((*uint32)(&c.c.order), futexWake, 64, nil)
	}
}

// DismissAll ends every child that has not gone.
func DismissAll() {
	Stage().dismiss()
	DismissProbes()
}

// DismissProbes ends the probes that have not gone.
func DismissProbes() {
	for n := range probes {
		Probe(n).dismiss()
	}
}

// Ended reports whether the child has ended, reaped or not.
func (c Child) Ended() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, c.PID(), &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err != nil || info.Signo != 0
}

func (c Child) order(o C.uint32_t) {
	atomic.StoreUint32((*uint32)(&c.c.order), uint32(o))
	futex((*uint32)(&c.c.order), futexWake, 64, nil)
}

// Ready waits until the child may be read and traced.
func (c Child) Ready() error { return c.await(C.STATE_WAITING) }

// Failure returns what the child failed at, as an [os.SyscallError], or nil.
func (c Child) Failure() error {
	if c.state() != C.STATE_FAILED {
		return nil
	}
	return os.NewSyscallError(C.GoString(&c.c.failed_call[0]), syscall.Errno(c.c.failed_errno))
}

func (c Child) state() uint32 { return atomic.LoadUint32((*uint32)(&c.c.state)) }

// Listener waits until the child has installed the filter and returns the
// listener's descriptor, which is the caller's from then on; -1 if the filter
// is for a tracer, or there is none.
func (c Child) Listener() (int, error) {
	if err := c.await(C.STATE_LISTENING); err != nil && !c.failedExec() {
		return -1, err
	}
	return int(c.c.listener), nil
}

// failedExec reports whether the stage could not execute its program. It had
// done all before that; Failure tells.
func (c Child) failedExec() bool {
	return c.state() == C.STATE_FAILED && C.GoString(&c.c.failed_call[0]) == "execve"
}

// Alone waits until the stage no longer shares our descriptor table, so that
// closing a descriptor here leaves the target's open.
func (c Child) Alone() error {
	if err := c.await(C.STATE_UNSHARED); err != nil && !c.failedExec() {
		return err
	}
	return nil
}

// Done waits for the probe's end and returns the errno of each of its calls:
// connect on a datagram socket, connect on descriptor -1, execve of "".
func (c Child) Done() ([3]syscall.Errno, error) {
	var r [3]syscall.Errno
	if err := c.await(C.STATE_DONE); err != nil {
		return r, err
	}
	for i := range r {
		r[i] = syscall.Errno(c.c.probe[i])
	}
	return r, nil
}

// await waits for a state of at least the given one. A child that died
// cannot reach it: the wait looks for that every tenth of a second.
func (c Child) await(want uint32) error {
	for {
		have := c.state()
		switch {
		case have == C.STATE_FAILED:
			return fmt.Errorf("the %s failed: %w", c.name, c.Failure())
		case have >= want:
			return nil
		}
		futex((*uint32)(&c.c.state), futexWait, have, &unix.Timespec{Nsec: 100_000_000})
		if c.Ended() && c.state() == have {
			return fmt.Errorf("the %s ended early", c.name)
		}
	}
}

// LostSetUID reports that no_new_privs had to be set: set-uid programs do not
// gain privileges in this target.
func (c Child) LostSetUID() bool { return c.c.new_privs_off != 0 }

// KeptPtrace reports that CAP_SYS_PTRACE could not be taken from the target.
func (c Child) KeptPtrace() bool { return c.c.kept_ptrace != 0 }

// Killable reports whether a taken call can be interrupted by a fatal signal
// only (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV).
func (c Child) Killable() bool { return c.c.killable != 0 }

// Operations of futex(2), not private: the words lie in shared memory.
const (
	futexWait = 0
	futexWake = 1
)

// Slots is the number of notification slots, SlotSize the bytes of each.
const (
	Slots    = C.EARLY_SLOTS
	SlotSize = C.EARLY_SLOT_SIZE
)

// Slot returns the memory that receiver n must take notifications in; see
// early.h. It is zero when nothing is in flight.
func Slot(n int) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&C.early_page.slots[n])), C.EARLY_SLOT_SIZE)
}

// ShareListener gives guardian and watcher, if there are any, the listener
// they need to answer calls after our death.
func ShareListener(fd int) error {
	var errs []error
	for _, sock := range []C.int32_t{C.early_page.guardian_sock, C.early_page.watcher_sock} {
		if sock >= 0 {
			err := unix.Sendmsg(int(sock), []byte{0}, unix.UnixRights(fd), nil, 0)
			errs = append(errs, os.NewSyscallError("sendmsg", err))
		}
	}
	return errors.Join(errs...)
}

// Finish tells the guardian that our coming exit is in order.
func Finish() {
	if C.early_page != nil {
		atomic.StoreUint32((*uint32)(&C.early_page.finished), 1)
	}
	Continued() // or it would not hear of our end
}

// Ended tells the guardian the target's exit status, in case that we die before
// we can return it ourselves.
func Ended(status int) {
	if C.early_page != nil {
		C.early_page.ended_status = C.int32_t(status)
		atomic.StoreUint32((*uint32)(&C.early_page.ended), 1)
	}
}

// Stopped tells the guardian that job control has stopped the target, so that
// it stops too and the shell sees the job stopped.
func Stopped() {
	if pid, ok := Guarded(); ok && atomic.CompareAndSwapUint32((*uint32)(&C.early_page.stopped), 0, 1) {
		_ = unix.Kill(pid, unix.SIGCHLD)
	}
}

// Continued tells it that the target goes on, or has ended. It returns when the
// guardian goes on too.
func Continued() {
	pid, ok := Guarded()
	if !ok {
		return
	}
	stopped := (*uint32)(&C.early_page.stopped)
	atomic.CompareAndSwapUint32(stopped, 1, 0)
	// From 2 on it stops: perhaps only after our signal.
	for atomic.LoadUint32(stopped) == 2 && unix.Getppid() == pid {
		_ = unix.Kill(pid, unix.SIGCONT)
		time.Sleep(time.Millisecond)
	}
}

func futex(word *uint32, op int, val uint32, timeout *unix.Timespec) {
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), uintptr(op), uintptr(val), uintptr(unsafe.Pointer(timeout)), 0, 0)
}
