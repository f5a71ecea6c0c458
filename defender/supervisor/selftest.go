package supervisor

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"appdefender/internal/early"
	"appdefender/internal/sys"
)

// Backend is a way to supervise.
type Backend string

const (
	ByNotify Backend = "notify"  // a seccomp listener
	ByPtrace Backend = "ptrace"  // a tracer of every thread
	Observe  Backend = "observe" // nothing is stopped
)

// Levels is what supervision can do here, found by doing it to a throw-away
// child: kernels, container profiles and security modules refuse different
// parts, and no version number tells which.
type Levels struct {
	Backend    Backend
	Killable   bool // a taken call is interrupted by fatal signals only
	SyncWakeUp bool
	GetFD      bool // connects and datagrams can be performed
	Trace      bool // execs can be verified
	// Lost says for people what is missing and what would bring it back.
	Lost []Lost
}

// Lost is something that supervision cannot do here.
type Lost struct {
	What string `json:"lost"`
	Why  string `json:"why"`            // what the kernel said
	Cure string `json:"cure,omitempty"` // what to change in the task definition
}

func (l Lost) String() string {
	s := l.What
	if l.Why != "" {
		s += ": " + l.Why
	}
	if l.Cure != "" {
		s += " (" + l.Cure + ")"
	}
	return s
}

// addPtrace brings back most of what a container profile takes.
const addPtrace = "add the capability SYS_PTRACE"

// cure is what helps against a refusal; a kernel that lacks a call lacks it.
func cure(err error) string {
	if errors.Is(err, unix.ENOSYS) {
		return ""
	}
	return addPtrace
}

// ErrNotSupported means that this kernel or container refuses supervision.
var ErrNotSupported = errors.New("supervision is not possible here")

// magic is the errno the self-test spoofs: no connect gives it by itself.
const magic = unix.EXFULL

// SelfTest finds out whether and how well a backend works here: the probe
// installs the filter, which must be the backend's, and makes three calls: one
// is refused, one continues, and one is an exec that fails. It ends the probe.
func SelfTest(by Backend, probe early.Child) (Levels, error) {
	// The tracer must stay one OS thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l := Levels{Backend: by}
	t := &selfTest{levels: &l, probe: probe}
	run := t.notify
	if by == ByPtrace {
		run = t.trace
	}
	err := run()
	if err == nil {
		got, derr := probe.Done()
		if want := [3]syscall.Errno{magic, unix.EBADF, unix.ENOENT}; derr == nil && got != want {
			derr = fmt.Errorf("the probe's calls ended in %v, not in %v", got, want)
		}
		err = derr
	}
	if err != nil {
		_ = unix.Kill(probe.PID(), unix.SIGKILL)
		return Levels{Backend: Observe}, err
	}
	if sys.Us.UID[3] == 0 && !sys.Can(unix.CAP_SYS_PTRACE) && by == ByNotify {
		l.Lost = append(l.Lost, Lost{
			What: "a process that changes its user cannot be read until its next exec, and onUnknown judges its calls",
			Cure: addPtrace,
		})
	}
	return l, nil
}

type selfTest struct {
	probe  early.Child
	fd     int
	levels *Levels
}

func (t *selfTest) notify() error {
	t.probe.Go()
	fd, err := t.probe.Listener()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	t.fd = fd
	t.levels.Killable = t.probe.Killable()
	t.levels.SyncWakeUp = sys.SyncWakeUp(fd, true) == nil
	for i, step := range []func(*sys.Notif) error{t.refuse, t.pass, t.exec} {
		n, err := t.next()
		if err == nil {
			err = step(n)
		}
		if err != nil {
			return fmt.Errorf("self-test call %d: %w", i+1, err)
		}
	}
	return nil
}

func (t *selfTest) next() (*sys.Notif, error) {
	p := []unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, 5000)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 || p[0].Revents&unix.POLLIN == 0 {
			return nil, errors.New("the call did not arrive")
		}
		buf := make([]byte, early.SlotSize)
		notif, err := sys.Recv(t.fd, buf)
		if err == unix.EINTR || err == unix.ENOENT {
			continue
		}
		return notif, err
	}
}

// refuse reads the call's argument, duplicates its socket and spoofs an errno.
func (t *selfTest) refuse(n *sys.Notif) error {
	if err := t.read(int(n.TID), n.Data.Args[0], n.Data.Args[1]); err != nil {
		return err
	}
	return sys.Send(t.fd, &sys.Resp{ID: n.ID, Error: -int32(magic)})
}

func (t *selfTest) read(tid int, socket, address uint64) error {
	var buf [16]byte
	if err := sys.ReadFull(tid, address, buf[:]); err != nil {
		return err
	}
	if string(buf[:]) != "appdefender-test" {
		return fmt.Errorf("read %q", buf)
	}
	known := make(pids)
	defer known.forget()
	fd, err := known.getFD(&Call{TID: tid, pid: tid}, int(socket))
	if err != nil {
		t.levels.Lost = append(t.levels.Lost, Lost{
			What: "connections are checked, not performed, and other name servers cannot be redirected",
			Why:  fmt.Sprintf("pidfd_getfd: %v", err), Cure: cure(err),
		})
		return nil
	}
	t.levels.GetFD = true
	unix.Close(fd)
	return nil
}

func (t *selfTest) pass(n *sys.Notif) error { return sys.Continue(t.fd, n.ID) }

// exec goes through the one stop of a failed exec; see notify.launch.
func (t *selfTest) exec(n *sys.Notif) error {
	tid := int(n.TID)
	err := sys.Seize(tid, sys.TraceExec)
	if err != nil {
		t.levels.Lost = append(t.levels.Lost, Lost{
			What: "started programs are checked, not verified", Why: fmt.Sprintf("ptrace: %v", err), Cure: cure(err),
		})
		return sys.Continue(t.fd, n.ID)
	}
	if err := sys.Continue(t.fd, n.ID); err != nil {
		return err
	}
	// ESRCH: it has ended already, and we wait for that as well.
	if err := sys.Interrupt(tid); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	_, status, err := sys.WaitTracee()
	switch {
	case errors.Is(err, unix.ECHILD): // ended, and reaped as the child it is
		err = nil
	case err != nil:
	case status.Exited(): // before the interrupt came
	case status.Stopped() && int(status)>>16 == sys.EventStop:
		err = sys.Detach(tid, 0)
	default:
		err = fmt.Errorf("a failed exec stopped with status %#x", int(status))
	}
	t.levels.Trace = err == nil
	return err
}

// trace is the same for a tracer.
func (t *selfTest) trace() error {
	pid := t.probe.PID()
	if err := t.probe.Ready(); err != nil {
		return err
	}
	if err := sys.Seize(pid, sys.TraceAll); err != nil {
		return fmt.Errorf("ptrace: %w", err)
	}
	t.probe.Go()
	for calls := 0; ; {
		got, status, err := sys.WaitTracee()
		switch {
		case errors.Is(err, unix.ECHILD): // reaped as the child it is
			return t.traced(calls)
		case err != nil:
			return err
		case got != pid:
			continue // a child of this thread that has ended
		case status.Exited() || status.Signaled():
			return t.traced(calls)
		case int(status)>>16 == sys.EventSeccomp:
			calls++
			var r sys.Regs
			var mark uint
			if mark, err = sys.EventMsg(pid); err == nil && mark != traceMark {
				err = fmt.Errorf("its stop carries %#x, not %#x", mark, traceMark)
			}
			if err == nil {
				err = sys.ReadRegs(pid, &r)
			}
			if err == nil && calls == 1 {
				d := r.Data()
				if err = t.read(pid, d.Args[0], d.Args[1]); err == nil {
					err = r.Skip(-int64(magic))
				}
			}
		}
		if err != nil {
			return fmt.Errorf("self-test call %d: %w", calls, err)
		}
		if err := sys.Cont(pid, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
}

func (t *selfTest) traced(calls int) error {
	if err := t.probe.Failure(); err != nil {
		return err
	}
	if calls != 3 {
		return fmt.Errorf("%d of 3 calls arrived", calls)
	}
	t.levels.Trace = true
	if !sys.Can(unix.CAP_SYS_PTRACE) {
		t.levels.Lost = append(t.levels.Lost, Lost{What: "set-uid programs gain no privileges under a tracer", Cure: addPtrace})
	}
	return nil
}
