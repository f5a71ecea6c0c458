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

// Levels is what supervision can do here, found by doing it to a throw-away
// child: kernels, container profiles and security modules refuse different
// parts, and no version number tells which.
type Levels struct {
	Listener   bool // calls can be stopped and refused at all
	Killable   bool // a taken call is interrupted by fatal signals only
	SyncWakeUp bool
	GetFD      bool // connects and datagrams can be performed
	Trace      bool // execs can be verified
	// Lost says for people what is missing and what would bring it back.
	Lost []string
}

// ErrNotSupported means that this kernel or container refuses supervision.
var ErrNotSupported = errors.New("supervision is not possible here")

// magic is the errno the self-test spoofs: no connect gives it by itself.
const magic = unix.EXFULL

// SelfTest makes the probe install the filter and answers its three calls: a
// refusal, a continue, and an exec that fails. It ends the probe.
func SelfTest(probe early.Child) (Levels, error) {
	// The tracer must stay one OS thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var l Levels
	if err := sys.NotifSizes(len(early.Slot(0))); err != nil {
		probe.Dismiss()
		return l, fmt.Errorf("%w: %w", ErrNotSupported, err)
	}
	probe.Go()
	fd, err := probe.Listener()
	if err != nil {
		return l, fmt.Errorf("%w: %w", ErrNotSupported, err)
	}
	defer unix.Close(fd)
	l.Killable = probe.Killable()
	l.SyncWakeUp = sys.SyncWakeUp(fd) == nil
	t := &selfTest{fd: fd, levels: &l}
	for i, step := range []func(*sys.Notif) error{t.refuse, t.pass, t.exec} {
		n, err := t.next()
		if err == nil {
			err = step(n)
		}
		if err != nil {
			_ = unix.Kill(probe.PID(), unix.SIGKILL)
			return l, fmt.Errorf("%w: self-test call %d: %w", ErrNotSupported, i+1, err)
		}
	}
	got, err := probe.Done()
	if want := [3]syscall.Errno{magic, unix.EBADF, unix.ENOENT}; err == nil && got != want {
		err = fmt.Errorf("the probe's calls ended in %v, not in %v", got, want)
	}
	if err != nil {
		return l, fmt.Errorf("%w: %w", ErrNotSupported, err)
	}
	l.Listener = true
	if sys.Us.UID[3] == 0 && !sys.Can(unix.CAP_SYS_PTRACE) {
		l.Lost = append(l.Lost, "a process that changes its user cannot be read until its next exec, and onUnknown judges its calls (add the capability SYS_PTRACE)")
	}
	return l, nil
}

type selfTest struct {
	fd     int
	levels *Levels
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
		buf := make([]byte, len(early.Slot(0)))
		notif, err := sys.Recv(t.fd, buf)
		if err == unix.EINTR || err == unix.ENOENT {
			continue
		}
		return notif, err
	}
}

// refuse reads the call's argument, duplicates its socket and spoofs an errno.
func (t *selfTest) refuse(n *sys.Notif) error {
	var buf [16]byte
	if err := sys.ReadFull(int(n.TID), n.Data.Args[1], buf[:]); err != nil {
		return err
	}
	if string(buf[:]) != "appdefender-test" {
		return fmt.Errorf("read %q", buf)
	}
	known := make(pids)
	defer known.forget()
	fd, err := known.getFD(&Call{TID: int(n.TID), pid: int(n.TID)}, int(n.Data.Args[0]))
	if err == nil {
		t.levels.GetFD = true
		unix.Close(fd)
	} else {
		t.levels.Lost = append(t.levels.Lost, fmt.Sprintf(
			"connections are checked, not performed, and other name servers cannot be redirected: pidfd_getfd: %v (add the capability SYS_PTRACE)", err))
	}
	return sys.Send(t.fd, &sys.Resp{ID: n.ID, Error: -int32(magic)})
}

func (t *selfTest) pass(n *sys.Notif) error { return sys.Continue(t.fd, n.ID) }

// exec goes through the one stop of a failed exec; see Call.proceedExec.
func (t *selfTest) exec(n *sys.Notif) error {
	tid := int(n.TID)
	err := sys.Seize(tid, sys.TraceExec)
	if err != nil {
		t.levels.Lost = append(t.levels.Lost, fmt.Sprintf(
			"started programs are checked, not verified: ptrace: %v (add the capability SYS_PTRACE)", err))
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
