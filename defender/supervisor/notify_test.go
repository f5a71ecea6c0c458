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

// TestBounds leaves threads and descriptors for others.
func TestBounds(t *testing.T) {
	const many = 1 << 20
	for _, test := range []struct {
		threads, files             uint64
		blocks, receives, remember int
	}{
		{many, many, 4032, 4064, 64},
		{1600, many, 400, 533, 64},
		{many, 1024, 128, 170, 4},
		{20, 64, 5, 8, 1},
	} {
		if n := blockable(test.threads, test.files); n != test.blocks {
			t.Errorf("%d threads, %d descriptors: %d calls may block", test.threads, test.files, n)
		}
		if n := receivable(test.threads, test.files); n != test.receives {
			t.Errorf("%d threads, %d descriptors: %d receivers", test.threads, test.files, n)
		}
		if n := keepable(test.files); n != test.remember {
			t.Errorf("%d descriptors: %d pidfds a receiver", test.files, n)
		}
	}
}
