package supervisor

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"appdefender/internal/sys"
)

// tracer hears of calls as the tracer of every thread of the target: the
// filter says SECCOMP_RET_TRACE, and the thread stops.
//
// Only the OS thread that traces may look at stops and end them, and only the
// thread that forked the target hears of its end. Both are the first thread of
// the process, which [Supervisor.Run] keeps: it waits, judges and answers,
// one call after the other. What may block runs on a goroutine, and its answer
// comes back to this thread. So does all of a call once the target may hold
// back what we read of it (see holders): others' calls shall not wait for that.
//
// If we die, the kernel kills every tracee (PTRACE_O_EXITKILL): without a
// tracer their calls would fail with ENOSYS.
type tracer struct {
	s       *Supervisor
	tasks   map[int]*task // those with something to remember, by thread
	pids    pids
	thread  int
	stopped func(pid int)

	holds  bool         // the target may hold back what we read
	asides atomic.Int64 // calls that goroutines have
	wg     sync.WaitGroup
	over   chan struct{} // closed when there is no tracee any more

	mu   sync.Mutex
	done []func() // of the goroutines, to be run on our thread
}

// task is a thread of the target.
type task struct {
	tid  int
	regs sys.Regs
	call *Call // that it stands in
	left atomic.Bool
	// Job control has stopped other threads of its process, and waits for it.
	halted atomic.Bool

	// launched is told of an exec that runs. It returns false if it lets the
	// thread go by itself, later.
	launched func(loaded bool, pid int) bool
	restart  bool // its call starts again from the exit stop
}

// Trace returns a supervisor that traces. stopped is told of a process that
// job control has stopped.
func Trace(cfg Config, stopped func(pid int)) *Supervisor {
	s := newSupervisor(cfg)
	s.b = &tracer{s: s, tasks: make(map[int]*task), pids: make(pids), stopped: stopped, over: make(chan struct{})}
	return s
}

// Run seizes process pid, a child of the calling thread, calls then with the
// result, and answers calls until no tracee and no child of this thread is
// left.
//
// Precondition: the OS thread is locked, and the process's first.
func (s *Supervisor) Run(pid int, then func(error)) {
	b, ok := s.b.(*tracer)
	if !ok {
		then(errors.New("this supervisor does not trace"))
		return
	}
	b.thread = sys.Gettid()
	err := sys.Seize(pid, sys.TraceAll)
	if err != nil {
		err = fmt.Errorf("tracing the target: %w", err)
	}
	then(err)
	for {
		pid, status, err := sys.WaitOnce()
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			b.pids.forget()
			close(b.over)
			return // ECHILD
		default:
			b.event(pid, status)
		}
		b.runDone() // after the event: it may tell that the thread is no more
	}
}

func (b *tracer) start() { catchOnce() }

// close waits for calls that goroutines still have to be recorded, as close of
// notify does.
func (b *tracer) close() {
	ended := make(chan struct{})
	go func() { b.wg.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(maxEnd):
	}
}

// event handles one change of a tracee. It lets the thread go on, except into
// a stop of job control or while a goroutine has its call.
func (b *tracer) event(tid int, status unix.WaitStatus) {
	if status.Exited() || status.Signaled() {
		b.ended(tid)
		b.s.exited(tid, status)
		return
	}
	if !status.Stopped() {
		return
	}
	event, sig := int(status)>>16, status.StopSignal()
	t := b.tasks[tid]
	switch {
	case event == sys.EventSeccomp:
		b.settleLaunch(t, false, 0)
		b.call(tid)
	case event == sys.EventExec:
		// In a process of many threads the one that called has a new number.
		if former, err := sys.EventMsg(tid); err == nil && int(former) != tid {
			b.ended(tid)
			if t = b.tasks[int(former)]; t != nil {
				delete(b.tasks, t.tid)
				t.tid = tid
				b.tasks[tid] = t
			}
		}
		if b.settleLaunch(t, true, tid) {
			_ = sys.Cont(tid, 0)
		}
	case event == sys.EventExit:
		// When another thread execs, it takes over the number of the first. We
		// must not answer the one and meet the other, with its registers and
		// its stop unseen: nobody takes a number over before we have let its
		// owner go here. Of a SIGKILL we hear at the end only.
		b.ended(tid)
		_ = sys.Cont(tid, 0)
	case event == sys.EventStop && sig != unix.SIGTRAP:
		// A stop by job control: leave it in there, and hear of its end.
		_ = sys.Listen(tid)
		b.stopped(tid)
		b.halt(tid)
	case event != 0: // a fork, a new thread's first stop, the end of a group stop
		_ = sys.Cont(tid, 0)
	case sig == sys.SyscallStop:
		if t != nil && t.restart {
			t.restart = false
			_ = t.regs.Return(t.call.regs.NR, -int64(errRestart))
			b.forget(t)
			// Another thread may have taken the signal: without one the kernel
			// looks at the result only if there is a stop to make.
			_ = sys.Interrupt(tid)
		}
		_ = sys.Cont(tid, 0)
	default:
		b.settleLaunch(t, false, 0)
		_ = sys.Cont(tid, sig)
	}
}

// call handles a stop before a call.
func (b *tracer) call(tid int) {
	t := b.tasks[tid]
	if t == nil {
		t = &task{tid: tid}
		b.tasks[tid] = t
	}
	mark, err := sys.EventMsg(tid)
	if err == nil {
		err = sys.ReadRegs(tid, &t.regs)
	}
	if err != nil {
		return // killed: its end comes
	}
	c := &Call{s: b.s, regs: t.regs.Data(), task: t, pids: b.pids, TID: tid, socket: -1, word: 8}
	if mark != traceMark {
		// A filter of the target's own asks for a tracer, and it has none.
		_ = b.reply(t, answer{errno: unix.ENOSYS})
		return
	}
	if holders[c.regs.NR] {
		b.holds = true
		if _, judged := changes[c.regs.NR]; !judged || !b.s.cfg.Files {
			_ = b.reply(t, answer{proceed: true})
			return
		}
	}
	t.call = c
	if b.holds {
		b.aside(c)
		return
	}
	b.s.dispatch(c)
	if !c.worker {
		c.closeSocket()
	}
}

// aside has a goroutine describe and judge a call, which may take for ever. Of
// these there are no more than of calls that block.
func (b *tracer) aside(c *Call) {
	if b.asides.Load() >= int64(maxBlocked()) {
		_ = b.reply(c.task, answer{errno: unix.EAGAIN})
		return
	}
	b.asides.Add(1)
	c.worker, c.aside, c.pids = true, true, make(pids)
	b.wg.Go(func() {
		runtime.LockOSThread() // for the watch
		defer runtime.UnlockOSThread()
		defer b.asides.Add(-1)
		b.s.dispatch(c)
		c.closeSocket()
		c.pids.forget()
	})
}

// here runs f on the tracer's thread and waits for it. Once there is no tracee
// any more it does not run it.
func (b *tracer) here(c *Call, f func()) {
	if c.aside {
		b.post(f)
		return
	}
	f()
}

// halt has the calls given up that hold up a stop by job control of the
// process of thread tid.
func (b *tracer) halt(tid int) {
	pid := processOf(tid)
	for _, t := range b.tasks {
		if t.call != nil && t.call.worker && processOf(t.tid) == pid {
			t.halted.Store(true)
		}
	}
}

// forget drops a task about which there is nothing to remember.
func (b *tracer) forget(t *task) {
	t.call = nil
	if t.launched == nil && !t.restart && b.tasks[t.tid] == t {
		delete(b.tasks, t.tid)
	}
}

// ended forgets a thread that is no more.
func (b *tracer) ended(tid int) {
	t := b.tasks[tid]
	if t == nil {
		return
	}
	t.left.Store(true)
	delete(b.tasks, tid)
	b.settleLaunch(t, false, 0)
}

// pending asks the kernel whether the thread stands in its stop. Only the
// tracer may; a goroutine hears it from the tracer.
func (b *tracer) pending(c *Call) error {
	if c.task.left.Load() {
		return sys.ErrGone
	}
	if !c.worker {
		if _, err := sys.EventMsg(c.TID); err != nil {
			return sys.ErrGone
		}
	}
	return nil
}

func (b *tracer) answer(c *Call, a answer) error {
	err := sys.ErrGone
	b.here(c, func() {
		if !c.task.left.Load() {
			err = b.reply(c.task, a)
		}
	})
	return err
}

func (b *tracer) reply(t *task, a answer) error {
	var err error
	switch {
	case a.proceed:
	case a.errno == errRestart:
		// The kernel restarts a call only where it has made one: at the exit.
		if err = t.regs.Skip(-int64(unix.EINTR)); err == nil {
			t.restart = true
			return gone(sys.ContToExit(t.tid))
		}
	case a.errno != 0:
		err = t.regs.Skip(-int64(a.errno))
	default:
		err = t.regs.Skip(a.value)
	}
	b.forget(t)
	if err == nil {
		err = sys.Cont(t.tid, 0)
	}
	return gone(err)
}

// gone turns the error of a request for a thread that was killed.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return sys.ErrGone
	}
	return err
}

// launch lets an exec run. Its event tells what was loaded; whatever else the
// thread does next says that the call has failed.
func (b *tracer) launch(c *Call, r Reply, then func(Outcome)) {
	t := c.task
	loads := func(pid int) {
		out := Outcome{Level: Verified}
		if out.Swapped = c.verify(pid, r); out.Swapped != nil {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		then(out)
	}
	b.here(c, func() { // with the answer: the event may come at once
		t.launched = func(loaded bool, pid int) bool {
			switch {
			case !loaded:
				then(Outcome{Level: Verified, Failed: true})
			case c.aside:
				b.wg.Go(func() {
					loads(pid)
					b.post(func() { _ = sys.Cont(pid, 0) })
				})
				return false
			default:
				loads(pid)
			}
			return true
		}
		c.replied, c.continued = true, true
		c.closeSocket()
		err := sys.ErrGone
		if !t.left.Load() {
			err = b.reply(t, answer{proceed: true})
		}
		if err != nil {
			b.settleLaunch(t, false, 0)
		}
	})
}

// settleLaunch tells an exec of the thread, if it has made one, how it ended,
// and reports whether the thread may go on.
func (b *tracer) settleLaunch(t *task, loaded bool, pid int) bool {
	if t == nil || t.launched == nil {
		return true
	}
	f := t.launched
	t.launched = nil
	goes := f(loaded, pid)
	b.forget(t)
	return goes
}

// stands reports whether process pid stands in a stop. Only its tracer may ask.
func (c *Call) stands(pid int) (is bool) {
	ask := func() {
		_, err := sys.EventMsg(pid)
		is = err == nil
	}
	if c.task != nil {
		c.s.b.(*tracer).here(c, ask)
	} else {
		ask()
	}
	return is
}

// wait performs on a goroutine, and calls next here. On loopback it tries here
// first: what takes no time saves the way to another thread and back. But a
// time limit of the socket would start again with the second try. A message of
// many is sent at once, for what follows it waits.
func (b *tracer) wait(c *Call, name []byte, next func(int, error)) {
	if c.part || c.aside {
		next(c.performBlocking(name))
		return
	}
	limit, err := unix.GetsockoptTimeval(c.socket, unix.SOL_SOCKET, unix.SO_SNDTIMEO)
	if err == nil && *limit == (unix.Timeval{}) && c.Addr.Addr().IsLoopback() {
		// A connect that was interrupted goes on, and a second one waits for it
		// (connect(2), EINTR).
		if n, err := c.s.watch.run(c, name); !errors.Is(err, unix.EINTR) {
			next(n, err)
			return
		}
	}
	c.worker = true
	go func() {
		runtime.LockOSThread() // for the watch
		defer runtime.UnlockOSThread()
		n, err := c.performBlocking(name)
		b.post(func() {
			c.worker = false
			next(n, err)
			c.closeSocket()
		})
	}()
}

// overdue ends the attempt of wait on this thread.
func (b *tracer) overdue() { _ = sys.Tgkill(b.thread, interruptSignal) }

// post has f run on the tracer's thread. A signal that comes just before the
// thread waits is lost, so it is sent until f has run.
func (b *tracer) post(f func()) {
	done := make(chan struct{})
	b.mu.Lock()
	b.done = append(b.done, func() { f(); close(done) })
	b.mu.Unlock()
	for {
		_ = sys.Tgkill(b.thread, interruptSignal)
		select {
		case <-done:
			return
		case <-b.over:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func (b *tracer) runDone() {
	b.mu.Lock()
	done := b.done
	b.done = nil
	b.mu.Unlock()
	for _, f := range done {
		f()
	}
}
