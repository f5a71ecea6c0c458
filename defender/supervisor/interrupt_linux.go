package supervisor

import (
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"appdefender/internal/early"
	"appdefender/internal/sys"
)

const interruptSignal = early.InterruptSignal

var catchOnce = sync.OnceFunc(early.CatchSignals)

// threads are the receivers' OS threads.
type threads struct {
	mu  sync.Mutex
	ids map[int]struct{}
}

func (t *threads) add() int {
	catchOnce()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ids == nil {
		t.ids = make(map[int]struct{})
	}
	tid := sys.Gettid()
	t.ids[tid] = struct{}{}
	return tid
}

func (t *threads) remove(tid int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.ids, tid)
}

// interruptUntil interrupts all of them, again and again since a signal may
// come just before the call it is meant for, until stop is closed.
func (t *threads) interruptUntil(stop <-chan struct{}) {
	for {
		t.mu.Lock()
		for tid := range t.ids {
			_ = sys.Tgkill(tid, interruptSignal)
		}
		t.mu.Unlock()
		select {
		case <-stop:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// watch looks after receivers that block in a call they perform.
type watch struct {
	mu      sync.Mutex
	blocked map[*Call]int // the receiver's thread
	fresh   []*Call       // those that other calls still wait for
	running bool
}

// maxBlocked leaves receivers and descriptors for calls that do not block, and
// threads for the target: each call that blocks takes one of ours, and a Go
// program that gets no thread dies.
var maxBlocked = sync.OnceValue(func() int { return blockable(threadLimit(), fileLimit()) })

func blockable(threads, files uint64) int { return int(min(early.Slots-64, threads/4, files/8)) }

// fileLimit returns how many descriptors we may have.
func fileLimit() uint64 {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return math.MaxUint64
	}
	return l.Cur // which is the most that we may have: the Go runtime sees to it
}

// threadLimit returns how many threads this user and this container may have.
func threadLimit() uint64 {
	most := uint64(math.MaxUint64)
	var l unix.Rlimit
	if sys.Us.UID[0] != 0 && unix.Getrlimit(unix.RLIMIT_NPROC, &l) == nil {
		most = l.Cur
	}
	for _, name := range []string{"/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"} {
		data, err := os.ReadFile(name)
		if n, perr := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64); err == nil && perr == nil {
			most = min(most, n)
		}
	}
	return most
}

// full reports whether no more calls may block.
func (w *watch) full() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.blocked) >= maxBlocked()
}

// run performs a call that may block this thread. Once it has, other calls no
// longer wait for it; and it is interrupted, with EINTR, when the target's call
// is gone or a signal waits for the target.
//
// Precondition: the OS thread is locked.
func (w *watch) run(c *Call, name []byte) (int, error) {
	w.mu.Lock()
	if w.blocked == nil {
		w.blocked = make(map[*Call]int)
	}
	w.blocked[c] = sys.Gettid()
	w.fresh = append(w.fresh, c)
	if !w.running {
		w.running = true
		go w.look()
	}
	w.mu.Unlock()
	n, err := c.perform(name, 0)
	w.mu.Lock() // from here on no interrupt can come
	delete(w.blocked, c)
	if i := slices.Index(w.fresh, c); i >= 0 {
		w.fresh = slices.Delete(w.fresh, i, i+1)
	}
	w.mu.Unlock()
	return n, err
}

// look runs while anything blocks. It spends a tenth of its time on asking
// after signals, however many calls there are.
func (w *watch) look() {
	next := time.Now()
	for {
		time.Sleep(time.Millisecond)
		w.mu.Lock()
		if len(w.blocked) == 0 {
			w.running = false
			w.mu.Unlock()
			return
		}
		w.fresh = slices.DeleteFunc(w.fresh, (*Call).overdue)
		if now := time.Now(); now.After(next) {
			w.interrupt()
			took := time.Since(now)
			next = now.Add(took + max(3*time.Millisecond, 9*took))
		}
		w.mu.Unlock()
	}
}

// overdue sees to it that nobody waits for a call that blocks. It returns false
// if it must be asked again: an interrupt that comes just before the call is
// lost.
func (c *Call) overdue() bool {
	if c.onTracer() {
		c.s.b.(*tracer).overdue()
		return false
	}
	c.slow()
	return true
}

// onTracer reports whether the tracer itself performs the call, and nobody
// else may ask after it.
func (c *Call) onTracer() bool { return c.task != nil && !c.worker }

// interrupt interrupts every call that is to be given up.
func (w *watch) interrupt() {
	for c, tid := range w.blocked {
		if c.onTracer() {
			continue
		}
		if c.s.closed.Load() || c.pending() != nil || c.interrupted() {
			_ = sys.Tgkill(tid, interruptSignal)
		}
	}
}
