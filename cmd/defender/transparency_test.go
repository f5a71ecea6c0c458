package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestNoLeak starts many short processes: the supervisor holds no more for
// the last of them than for those in the middle.
func TestNoLeak(t *testing.T) {
	t.Parallel()
	needRoot(t) // to look at the supervisor
	const half = 1000
	p := run{policy: denyProgram}.startProtected(t, "sh", "-c", fmt.Sprintf(
		`echo ready; n() { i=0; while [ $i -lt %d ]; do /bin/true; i=$((i+1)); done; }
n; echo middle; while [ ! -e seen ]; do sleep 0.01; done; n; echo end; while [ ! -e seen2 ]; do sleep 0.01; done`, half))
	f := p.family()
	count := func(what string) int {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", f.supervisor, what))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	look := func(mark, seen string) (fds, threads int) {
		waitFor(t, func() bool { return strings.Contains(p.out.String(), mark) })
		fds, threads = count("fd"), count("task")
		if err := os.WriteFile(p.dir+"/"+seen, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return fds, threads
	}
	fds, threads := look("middle", "seen")
	fds2, threads2 := look("end", "seen2")
	if r := p.wait(); r.status != 0 {
		t.Errorf("status %d: %s", r.status, r.err)
	}
	// A pool of pidfds and of threads that wait may still fill up.
	if fds2-fds > half/10 || threads2-threads > half/100 {
		t.Errorf("after %d processes %d descriptors and %d threads, after as many again %d and %d", half, fds, threads, fds2, threads2)
	}
}
