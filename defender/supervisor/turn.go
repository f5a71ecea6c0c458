package supervisor

import "golang.org/x/sys/unix"

// slice is how long a receiver may run before another thread's turn, in
// nanoseconds: the least that the kernel takes.
const slice = 100_000

// takeTurns asks the scheduler for many short turns instead of few long ones.
// Where all processors are busy, a thread that wakes up waits for the end of
// another's turn, some milliseconds, unless its own is the shorter (Linux
// 6.12): a call of the target would wait that long for our answer.
func takeTurns() {
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil || attr.Policy != unix.SCHED_NORMAL && attr.Policy != unix.SCHED_BATCH {
		return
	}
	attr.Runtime = slice
	_ = unix.SchedSetAttr(0, attr, 0) // older kernels take no notice of it
}
