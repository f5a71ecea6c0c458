// Package child carries the duties of a container's first process: it starts
// the target, passes signals on, hands over the terminal, reaps orphans and
// returns the exit status.
//
// Children belong to the thread that forked them, and orphans come to our
// first thread. [Child.Reap] therefore runs there and nowhere else, and waits for
// that thread's children only: a wait in any other place would take the stops
// of the threads that the supervisor traces.
package child

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"appdefender/internal/early"
	"appdefender/internal/sys"
)

// Exit statuses of a target that never ran, as shells and container runtimes
// have them.
const (
	ExitNotExecutable = 126
	ExitNotFound      = 127
)

// LookPath finds the program that a container runtime would start for name:
// in PATH if it has no slash. The error comes with its exit status.
func LookPath(name string) (path string, exit int, err error) {
	path, err = exec.LookPath(name)
	switch {
	case err == nil, errors.Is(err, exec.ErrDot):
		return path, 0, nil
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EISDIR):
		return "", ExitNotExecutable, err
	}
	return "", ExitNotFound, err
}

// Status turns a wait status into an exit status: 0 to 255, or 128+n for a
// death by signal n.
func Status(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// Child is the target's first process.
type Child struct {
	pid  int
	done chan struct{}
	once sync.Once
	ws   unix.WaitStatus
	tty  int // a descriptor of the terminal whose foreground we had; -1 without

	halted atomic.Bool // awaitContinued runs

	alone chan struct{} // closed when no child is left
}

// New returns the child for the process pid, which need not run yet.
func New(pid int) *Child {
	c := &Child{pid: pid, done: make(chan struct{}), alone: make(chan struct{}), tty: -1}
	for fd := range 3 {
		if pgrp, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err != nil || pgrp != early.Group() {
			continue
		}
		// One of our own: 0 and 1 are given to the target.
		if own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			c.tty = own
		}
		break
	}
	return c
}

// PID returns the process id.
func (c *Child) PID() int { return c.pid }

// Done is closed when the child has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// WaitStatus returns how the child ended. Precondition: Done is closed.
func (c *Child) WaitStatus() unix.WaitStatus { return c.ws }

// Exited notes the end of a process; ends of others than the child are
// orphans' and of no interest.
func (c *Child) Exited(pid int, ws unix.WaitStatus) {
	if pid == c.pid {
		c.once.Do(func() { c.ws = ws; close(c.done) })
	}
}

// Reap waits for children until there is none left. It must be called on the
// process's first thread (main, with the thread locked in an init function).
//
// It looks before it takes: our children are also the supervisor's tracees
// during an exec, and a wait by their own parent sees those stops whatever it
// asks for (wait_consider_task in kernel/exit.c). They are the tracer's.
func (c *Child) Reap() {
	defer close(c.alone)
	for {
		pid, code, status, err := sys.PeekChild()
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return // ECHILD
		case code == sys.Trapped:
			if !c.untrace(pid) {
				time.Sleep(20 * time.Microsecond) // the tracer is about to take it
			}
		case code == sys.Stopped:
			take(pid)
			c.Stopped(pid)
		default:
			if pid == c.pid {
				// Before it is taken: afterwards nobody else can ask.
				if code != sys.Exited {
					status += 128
				}
				early.Ended(int(status))
			}
			if ws, ok := take(pid); ok {
				c.Exited(pid, ws)
			}
		}
	}
}

// untrace lets a child go that has made us its tracer: who asks to be traced
// (PTRACE_TRACEME) is by its parent, and orphans have none but us. It would stand
// in its first stop for good, and nothing else would be heard of behind it. It
// reports false for one that another thread of ours traces.
func (c *Child) untrace(pid int) bool {
	if st, err := sys.ReadStatus(pid); err != nil || st.Tracer != sys.Gettid() {
		return false
	}
	var ws unix.WaitStatus
	got, err := unix.Wait4(pid, &ws, unix.WNOTHREAD|unix.WNOHANG|unix.WALL, nil)
	switch {
	case err != nil || got != pid:
	case ws.Stopped():
		sig := ws.StopSignal()
		if sig == unix.SIGTRAP { // of an exec, for a tracer alone
			sig = 0
		}
		_ = sys.Detach(pid, sig)
	default:
		c.Exited(pid, ws)
	}
	return true
}

// take consumes the change of a child that PeekChild has shown.
func take(pid int) (ws unix.WaitStatus, ok bool) {
	got, err := unix.Wait4(pid, &ws, unix.WUNTRACED|unix.WNOTHREAD|unix.WNOHANG, nil)
	return ws, err == nil && got == pid && !ws.Stopped()
}

// Stopped passes a stop by job control on to the shell above us, through the
// guardian. As process 1 there is no shell: nobody could continue the target,
// and as process 1 itself it would not have stopped.
func (c *Child) Stopped(pid int) {
	if pid != c.pid {
		return
	}
	if _, ok := early.Guarded(); !ok {
		_ = unix.Kill(-c.pid, unix.SIGCONT)
		return
	}
	c.takeTerminal(early.Group())
	early.Stopped()
	if !c.halted.Swap(true) {
		go c.awaitContinued()
	}
}

// awaitContinued continues the guardian when somebody has continued the target
// itself: it would stay stopped, and whoever waits for it would wait for ever.
func (c *Child) awaitContinued() {
	for running := 0; running < 3; running++ {
		time.Sleep(20 * time.Millisecond)
		if state, _ := stat(c.pid); state == "T" || state == "t" {
			running = 0
		}
	}
	early.Continued()
	c.halted.Store(false)
}

// takeTerminal makes group the foreground of our terminal.
func (c *Child) takeTerminal(group int) {
	if c.tty >= 0 {
		_ = unix.IoctlSetPointerInt(c.tty, unix.TIOCSPGRP, group)
	}
}

// Forward passes signals on to the child until stop is closed. It returns once
// the signals are caught.
func (c *Child) Forward(stop <-chan struct{}) {
	// Ours, or the terminal's affair between it and the foreground group. An
	// audit log whose reader went away must not end us either: SIGPIPE. What
	// others send of these, the guardian and CatchSignals pass on.
	signal.Ignore(unix.SIGTTIN, unix.SIGTTOU, unix.SIGPIPE)
	early.CatchSignals()
	keep := []syscall.Signal{unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE,
		unix.SIGTTIN, unix.SIGTTOU, unix.SIGPROF, 32, 33, 34, early.InterruptSignal} // CatchSignals has them
	var catch []os.Signal
	for n := syscall.Signal(1); n <= 64; n++ {
		if !slices.Contains(keep, n) {
			catch = append(catch, n)
		}
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, catch...)
	early.Forwards()
	go func() {
		for {
			select {
			case <-stop:
				return // and what comes until our end is caught: the default action would be another status than the target's
			case s := <-signals:
				c.pass(s.(syscall.Signal))
			}
		}
	}()
}

func (c *Child) pass(s syscall.Signal) {
	if s == unix.SIGCONT {
		c.takeTerminal(c.pid)
		_ = unix.Kill(-c.pid, s)
		return
	}
	_ = unix.Kill(c.pid, s)
}

// EndRest ends what the target left behind: SIGTERM, and SIGKILL after grace.
// It returns how many processes there were. A container ends with its first
// process; elsewhere they would live on without supervision.
func (c *Child) EndRest(grace time.Duration) int {
	c.takeTerminal(early.Group())
	left := children()
	for _, pid := range left {
		_ = unix.Kill(pid, unix.SIGTERM)
		if state, _ := stat(pid); state == "T" {
			_ = unix.Kill(pid, unix.SIGCONT) // or it would not hear
		}
	}
	for deadline := time.Now().Add(grace); time.Now().Before(deadline); {
		if c.waitAlone(10 * time.Millisecond) {
			return len(left)
		}
	}
	c.KillAll()
	return len(left)
}

// KillAll sends SIGKILL to every child, and to what becomes one, until Reap
// has found that there is none. The list of children may lack some that come
// and go; the wait lacks none.
func (c *Child) KillAll() {
	for {
		for _, pid := range children() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if c.waitAlone(time.Millisecond) {
			return
		}
	}
}

// waitAlone waits for Reap to find that no child is left. A child that ended
// as a tracee was reaped by its tracer, and nothing woke Reap: it is
// interrupted, to look again.
func (c *Child) waitAlone(limit time.Duration) bool {
	select {
	case <-c.alone:
		return true
	case <-time.After(limit):
		_ = sys.Tgkill(os.Getpid(), early.InterruptSignal) // the first thread
		return false
	}
}

// children returns the children of our first thread.
func children() []int {
	pid := os.Getpid()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return childrenByParent(pid)
	}
	var list []int
	for _, f := range strings.Fields(string(data)) {
		if n, err := strconv.Atoi(f); err == nil {
			list = append(list, n)
		}
	}
	return list
}

// childrenByParent is children on kernels without CONFIG_PROC_CHILDREN.
func childrenByParent(parent int) []int {
	dirs, _ := os.ReadDir("/proc")
	var list []int
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if _, p := stat(pid); p == parent {
			list = append(list, pid)
		}
	}
	return list
}

// stat returns the state of a process, a letter as in proc(5), and its parent;
// of one that is gone, "" and 0.
func stat(pid int) (state string, parent int) {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	// pid (comm) state ppid: comm may hold anything but ends at the last ")".
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(f) < 2 {
		return "", 0
	}
	parent, _ = strconv.Atoi(f[1])
	return f[0], parent
}
