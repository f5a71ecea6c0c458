package supervisor

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"appdefender/internal/early"
	"appdefender/internal/sys"
)

// notify hears of calls over a seccomp listener.
//
// One receiver, an OS thread of its own, leads: it waits for the next call,
// and the rest are parked. The kernel would wake every thread that waits, and
// two of them cost twice the call. The leader answers what it takes at once
// and goes on. Where it may block (a program or path on a slow disk, a connect
// that waits for the network), another receiver takes the lead meanwhile; and
// where it blocks unforeseen, as on a page of the target's memory that never
// comes, it loses the lead to another.
//
// There are no locks between receivers; what they share is atomic or behind
// the short mutexes of interrupt_linux.go.
type notify struct {
	s        *Supervisor
	listener int
	slots    chan int
	wg       sync.WaitGroup
	threads  threads

	parked atomic.Int32  // receivers that wait for a turn and were promised none
	turns  atomic.Uint32 // promised and not yet taken; a futex
	vacant atomic.Bool   // nobody leads: there was no slot for another receiver

	leader  atomic.Pointer[lead] // what handles a call, nil while it waits for one
	calls   atomic.Uint64        // that were taken
	guarded atomic.Bool          // guard runs

	together atomic.Bool // callers and we wake each other on one processor

	holds sync.Map // by thread, of *hold
}

// lead is one receiver's: whether it leads.
type lead struct {
	b  *notify
	on atomic.Bool
}

// Notify returns a supervisor for the calls that arrive at listener, which is
// the supervisor's from then on.
func Notify(listener int, cfg Config) *Supervisor {
	s := newSupervisor(cfg)
	b := &notify{s: s, listener: listener, slots: make(chan int, early.Slots)}
	for i := range early.Slots {
		b.slots <- i
	}
	s.b = b
	return s
}

// maxReceivers leaves threads for the target and descriptors, as maxBlocked does: what a target
// serves by itself may keep every receiver that reads it. Beyond that calls
// fail with EAGAIN.
var maxReceivers = sync.OnceValue(func() int { return receivable(threadLimit(), fileLimit()) })

func receivable(threads, files uint64) int {
	return int(max(8, min(early.Slots-32, threads/3, files/6)))
}

// maxParked is how many receivers are kept for later.
const maxParked = 8

func (b *notify) start() {
	b.wg.Go(b.receive)
}

func (b *notify) close() {
	ended, stop := make(chan struct{}), make(chan struct{})
	go func() { b.wg.Wait(); close(ended) }()
	go func() {
		defer close(stop)
		select {
		case <-ended:
		case <-time.After(maxEnd):
		}
	}()
	b.threads.interruptUntil(stop)
	unix.Close(b.listener)
}

// maxEnd is how long receivers are waited for when the target has ended: one
// may still read what never comes, and nothing but our own end wakes it.
const maxEnd = 5 * time.Second

// pass gives the lead to another receiver, if this one has it.
func (l *lead) pass() {
	if l != nil && l.on.CompareAndSwap(true, false) && !l.b.s.closed.Load() {
		l.b.next()
	}
}

// guard looks after the leader while there are calls. Reading the target's
// memory may block like anything else: the target can have it on a slow disk,
// or serve its page faults itself (userfaultfd(2)). Others shall not wait.
func (b *notify) guard() {
	last := b.calls.Load()
	for !b.s.closed.Load() {
		time.Sleep(50 * time.Millisecond)
		n, l := b.calls.Load(), b.leader.Load()
		switch {
		case n != last:
			last = n
		case l != nil && l.on.Load():
			l.pass()
		default:
			b.guarded.Store(false)
			if b.calls.Load() == n || !b.guarded.CompareAndSwap(false, true) {
				return
			}
		}
	}
}

// next has a parked receiver lead, or a new one.
func (b *notify) next() {
	for {
		n := b.parked.Load()
		if n == 0 {
			b.wg.Go(b.receive)
			return
		}
		if b.parked.CompareAndSwap(n, n-1) {
			b.turns.Add(1)
			sys.FutexWake(&b.turns)
			return
		}
	}
}

// await parks a receiver until it is to lead. It returns false if it is not
// needed any more.
func (b *notify) await() bool {
	if b.parked.Load() >= maxParked && !b.vacant.Load() {
		return false
	}
	b.parked.Add(1)
	if b.vacant.Swap(false) {
		b.next()
	}
	for !b.s.closed.Load() {
		if n := b.turns.Load(); n == 0 {
			sys.FutexWait(&b.turns, 0)
		} else if b.turns.CompareAndSwap(n, n-1) {
			return true
		}
	}
	return false
}

// receive is one receiver. Its slot in shared memory holds the notification
// from the moment the kernel hands it out until it is answered, so that a
// guardian can answer for us.
func (b *notify) receive() {
	runtime.LockOSThread() // for ptrace; never unlocked: the thread ends with us
	takeTurns()
	slot, ok := b.slot()
	if !ok {
		return
	}
	buf := early.Slot(slot)
	defer b.free(slot)
	tid := b.threads.add()
	defer b.threads.remove(tid)
	known := make(pids)
	defer known.forget()
	l := &lead{b: b}
	l.on.Store(true)
	for !b.s.closed.Load() {
		n, err := sys.Recv(b.listener, buf)
		if err != nil {
			clear(buf)
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) && !b.deserted() {
				continue
			}
			return // the listener is closed, or nobody is left to listen to
		}
		b.calls.Add(1)
		if early.Slots-len(b.slots) > maxReceivers() {
			_ = sys.Send(b.listener, &sys.Resp{ID: n.ID, Error: -int32(unix.EAGAIN)})
			clear(buf)
			continue
		}
		b.leader.Store(l)
		if !b.guarded.Load() && b.guarded.CompareAndSwap(false, true) {
			go b.guard()
		}
		b.handle(n, buf, known, l)
		clear(buf)
		b.leader.CompareAndSwap(l, nil)
		if !l.on.Load() {
			if !b.await() {
				return
			}
			l.on.Store(true)
		}
	}
}

// slot takes a slot for a receiver that is to lead. Without one, with 4096
// calls at once, it leaves the lead to whoever parks or ends next: those look
// at vacant after they have parked or freed their slot, and we look for both
// after we have set it, so one of us sees the other.
func (b *notify) slot() (int, bool) {
	select {
	case slot := <-b.slots:
		return slot, true
	default:
	}
	b.vacant.Store(true)
	if b.parked.Load() > 0 && b.vacant.Swap(false) {
		b.next()
		return 0, false
	}
	select {
	case slot := <-b.slots:
		if b.vacant.Swap(false) {
			return slot, true
		}
		b.slots <- slot // somebody else has seen to it
	default:
	}
	return 0, false
}

// free gives a slot back at a receiver's end.
func (b *notify) free(slot int) {
	b.slots <- slot
	if b.vacant.Swap(false) && !b.s.closed.Load() {
		b.next()
	}
}

// deserted reports whether no process has the filter any more.
func (b *notify) deserted() bool {
	p := []unix.PollFd{{Fd: int32(b.listener), Events: unix.POLLIN}}
	_, err := unix.Poll(p, 0)
	return err == nil && p[0].Revents&unix.POLLHUP != 0
}

func (b *notify) handle(n *sys.Notif, slot []byte, known pids, l *lead) {
	c := &Call{s: b.s, lead: l, regs: n.Data, id: n.ID, slot: slot, pids: known, TID: int(n.TID), socket: -1, word: 8}
	defer c.closeSocket()
	if n.TID == 0 {
		// A process outside our pid namespace: there is nothing to look at.
		c.Unknown = errors.New("the process has no number in our pid namespace")
	}
	b.s.dispatch(c)
}

func (b *notify) pending(c *Call) error { return sys.Valid(b.listener, c.id) }

func (b *notify) answer(c *Call, a answer) error {
	b.wakeUp(c.Op != Exec || !a.proceed)
	if a.proceed {
		return sys.Continue(b.listener, c.id)
	}
	if a.errno != errRestart {
		return sys.Send(b.listener, &sys.Resp{ID: c.id, Val: a.value, Error: -int32(a.errno)})
	}
	return b.restart(c)
}

// wakeUp says whether a caller is to go on where we run. That is quick where it
// and we are all there is; a program that starts does better where it was, or
// on an idle processor, than behind whatever else waits here. What is asked for
// next is mostly of the same kind, and is heard of in the same way.
func (b *notify) wakeUp(together bool) {
	if b.s.cfg.Levels.SyncWakeUp && b.together.Load() != together {
		b.together.Store(together)
		_ = sys.SyncWakeUp(b.listener, together)
	}
}

// restart makes the target's thread handle its signals: the call returns EINTR
// or starts again, as the signal's handler has it.
//
// Another thread of the process may have taken the signal meanwhile, and a
// thread without one would see the number 512 itself. So it is interrupted as
// well: the kernel then looks for signals, and without one starts the call
// again. Where we may not trace it, only a signal to this very thread counts.
func (b *notify) restart(c *Call) error {
	interrupting := b.s.cfg.Levels.Trace && sys.AsTarget(c.TID, func() error { return sys.Seize(c.TID, 0) }) == nil
	if interrupting {
		_ = sys.Interrupt(c.TID)
	}
	err := sys.Send(b.listener, &sys.Resp{ID: c.id, Error: -int32(errRestart)})
	if interrupting {
		b.settle(c)
	}
	return err
}

// settle lets the thread go that restart has interrupted.
func (b *notify) settle(c *Call) {
	pid, status, err := sys.WaitTracee()
	switch {
	case err != nil:
	case status.Exited() || status.Signaled():
		b.s.exited(pid, status)
	case int(status)>>16 == sys.EventStop:
		b.release(pid, 0)
	default:
		b.release(pid, status.StopSignal())
	}
}

func (b *notify) wait(c *Call, name []byte, next func(int, error)) {
	if !c.Addr.Addr().IsLoopback() {
		c.slow() // a network takes its time; loopback hardly ever does
	}
	next(c.performBlocking(name))
}

// launch lets an exec run and looks at what it loaded.
//
// One stop a call: seize the thread with TRACEEXEC, let the call run, and
// interrupt at once. The thread then stops exactly once: in the exec event if
// a program was loaded, in the interrupt's stop if the call failed. Waiting
// for the exec event alone would hang on a failed call, and interrupting
// before the answer would abort it on kernels without killable waits.
//
// No two receivers wait for each other. A thread that execs ends the others of its
// process and waits until their tracers have seen that (de_thread in fs/exec.c);
// meanwhile it holds what seizing another thread of the process needs
// (cred_guard_mutex). But whoever seizes has no tracee, and whoever has one
// does nothing until the wait for it that could itself wait.
//
// Precondition: the OS thread is locked and stays the tracer.
func (b *notify) launch(c *Call, r Reply, then func(Outcome)) {
	// Before the answer, for another reason as well: in the turn that this takes
	// the scheduler settles that the caller sleeps (delayed dequeue, Linux 6.12).
	// Otherwise the caller takes the processor from us at the answer, and
	// whoever waits for it, as after vfork(2), is sent to another one.
	c.slow()
	then(b.verified(c, r))
}

func (b *notify) verified(c *Call, r Reply) Outcome {
	// Under a tracer without CAP_SYS_PTRACE the kernel lets a program gain no
	// privileges (LSM_UNSAFE_PTRACE): better unverified than broken.
	if !b.s.cfg.Levels.Trace || c.Program.gains && !b.s.cfg.NoNewPrivs && !sys.Can(unix.CAP_SYS_PTRACE) {
		return Outcome{Level: Checked, Err: c.proceed()}
	}
	h, ok := b.hold(c)
	if !ok {
		c.replied = true
		return Outcome{Level: Checked, Failed: true, Err: sys.ErrGone}
	}
	err := sys.AsTarget(c.TID, func() error { return sys.Seize(c.TID, sys.TraceExec) })
	if err != nil {
		b.let(c.TID, h)
		if gone := c.pending(); gone != nil {
			c.replied = true
			return Outcome{Level: Checked, Failed: true, Err: gone}
		}
		err = fmt.Errorf("another process traces it: %w", err)
		if r.Unverifiable == nil || !r.Unverifiable(err) {
			return Outcome{Level: Refused, Failed: true, Err: errors.Join(err, c.refuse(unix.EACCES))}
		}
		return Outcome{Level: Checked, Err: c.proceed()}
	}
	sent := c.proceed()
	_ = sys.Interrupt(c.TID)
	h.interrupted.Store(true)
	close(h.settled)
	pid, status, err := sys.WaitTracee()
	b.let(c.TID, h) // before it runs on, and calls again
	out := Outcome{Level: Verified, Err: sent}
	switch {
	case err != nil: // it died, and was reaped as the child of ours it was
		out.Failed = true
	case status.Exited() || status.Signaled():
		out.Failed = true
		b.s.exited(pid, status)
	case int(status)>>16 == sys.EventExec:
		if out.Swapped = c.verify(pid, r); out.Swapped != nil {
			_ = unix.Kill(pid, unix.SIGKILL)
			b.release(pid, unix.SIGKILL)
		} else {
			b.release(pid, 0)
		}
	case int(status)>>16 == sys.EventStop:
		out.Failed = true
		b.release(pid, 0)
	default: // a signal was on its way: deliver it
		out.Failed = true
		b.release(pid, status.StopSignal())
	}
	return out
}

// hold is one receiver's trace of a caller, until the caller has stopped.
type hold struct {
	settled           chan struct{} // closed once it is known whether the caller will stop
	interrupted, over atomic.Bool   // it will; it has, or never will
}

// maxHold is how long a call waits for a receiver that is about to interrupt
// its caller. That takes it three calls of the kernel, none of which blocks: the
// seizing could, on another exec of the process, but comes before its answer,
// and so before this call. It is exceeded on a machine on which we do not run.
const maxHold = time.Second

// hold makes the caller ours to trace. It reports false if another receiver
// still has it, and then has the call made again: an exec that fails at once,
// such as that of a text without an interpreter's name, is followed by the next
// before the first is seen to have failed, and its receiver waits for a stop
// that cannot come while we have the call. Where that takes too long the call
// fails with EAGAIN.
func (b *notify) hold(c *Call) (*hold, bool) {
	h := &hold{settled: make(chan struct{})}
	var late <-chan time.Time
	for {
		had, ok := b.holds.LoadOrStore(c.TID, h)
		if !ok {
			return h, true
		}
		other := had.(*hold)
		if late == nil {
			late = time.After(maxHold)
		}
		select {
		case <-other.settled:
		case <-late:
			_ = c.refuse(unix.EAGAIN)
			return nil, false
		}
		if !other.over.Load() {
			// With the interrupt waiting the kernel looks at the result, and
			// restarts the call after the stop; else the thread would see it.
			_ = sys.Send(b.listener, &sys.Resp{ID: c.id, Error: -errRestartNoIntr})
			return nil, false
		}
	}
}

func (b *notify) let(tid int, h *hold) {
	b.holds.Delete(tid)
	h.over.Store(true)
	if !h.interrupted.Load() {
		close(h.settled)
	}
}

// errRestartNoIntr is ERESTARTNOINTR of the kernel: the call starts again
// whatever signal has come.
const errRestartNoIntr = 513

// release lets a stopped tracee go. One that was killed in the meantime is
// still ours until we have waited for it, and would be taken for the next.
func (b *notify) release(pid int, sig unix.Signal) {
	if sys.Detach(pid, sig) == nil {
		return
	}
	for {
		got, status, err := sys.WaitTracee()
		if err != nil {
			return // somebody else has reaped it
		}
		if status.Exited() || status.Signaled() {
			b.s.exited(got, status)
			return
		}
		if sys.Detach(got, 0) == nil {
			return
		}
	}
}
