package supervisor

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestHold has a caller come again while another receiver still has it: it is
// waited for until it is known whether the caller will stop, and not for ever.
func TestHold(t *testing.T) {
	s := newSupervisor(Config{})
	defer s.raw.close()
	b := &notify{s: s, listener: -1}
	s.b = b
	call := func() *Call { return &Call{s: s, TID: 7, socket: -1} }

	first, ok := b.hold(call())
	if !ok {
		t.Fatal("the first has to wait")
	}
	late := call()
	if _, ok := b.hold(late); ok || late.errno != unix.EAGAIN {
		t.Errorf("while nothing is known: %v, errno %v", ok, late.errno)
	}

	first.interrupted.Store(true)
	close(first.settled)
	again := call()
	if _, ok := b.hold(again); ok || again.errno != 0 {
		t.Errorf("while it is about to stop: %v, errno %v", ok, again.errno)
	}
	b.let(7, first)
	second, ok := b.hold(call())
	if !ok {
		t.Fatal("it has stopped, and the next has to wait")
	}

	got := make(chan bool)
	go func() { _, ok := b.hold(call()); got <- ok }()
	b.let(7, second) // it could not be seized
	if !<-got {
		t.Error("it was let go, and the next has to wait")
	}
}
