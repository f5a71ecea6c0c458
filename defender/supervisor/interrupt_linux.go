package supervisor

import (
	"sync"
	"time"

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
	running bool
}

// maxBlocked leaves receivers for calls that do not block.
const maxBlocked = early.Slots - 64

// full reports whether no more calls may block.
func (w *watch) full() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.blocked) >= maxBlocked
}

// run runs f, which blocks in one system call of this thread, and interrupts
// it once the target's call is gone or a signal waits for the target.
//
// Precondition: the OS thread is locked.
func (w *watch) run(c *Call, f func()) {
	w.mu.Lock()
	if w.blocked == nil {
		w.blocked = make(map[*Call]int)
	}
	w.blocked[c] = sys.Gettid()
	if !w.running {
		w.running = true
		go w.look()
	}
	w.mu.Unlock()
	f()
	w.mu.Lock() // from here on no interrupt can come
	delete(w.blocked, c)
	w.mu.Unlock()
}

// look runs while anything blocks.
func (w *watch) look() {
	for {
		time.Sleep(4 * time.Millisecond)
		w.mu.Lock()
		if len(w.blocked) == 0 {
			w.running = false
			w.mu.Unlock()
			return
		}
		for c, tid := range w.blocked {
			if c.s.closed.Load() || c.pending() != nil || c.s.interrupted(c.TID) {
				_ = sys.Tgkill(tid, interruptSignal)
			}
		}
		w.mu.Unlock()
	}
}
