package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestSelf has a program look at itself and do things to itself and its family:
// nothing of it may be other than alone.
func TestSelf(t *testing.T) {
	t.Parallel()
	for _, as := range []run{{}, {uid: 1000}, {wrap: []string{"taskset", "-c", "0"}}, {wrap: []string{"setarch", "-R"}}} {
		bare := as
		bare.wrap = nil
		native := bare.native(t, append(append([]string{}, as.wrap...), victim("self"))...)
		as.policy = denyProgram
		r := as.protected(t, victim("self"))
		// The first process dies with its supervisor.
		want := strings.Replace(native.out, "pdeathsig 0", "pdeathsig 9", 1)
		if r.says("set-uid programs gain no privileges") {
			want = strings.ReplaceAll(want, "no_new_privs 0", "no_new_privs 1")
		}
		if r.out != want || r.status != native.status || native.status != 0 {
			t.Errorf("%v, user %d: status %d, alone %d: %s\n%s", as.wrap, as.uid, r.status, native.status, r.err, difference(want, r.out))
		}
		if list := r.audits(); len(list) > 0 {
			t.Errorf("audits: %+v", list)
		}
	}
}

// difference returns the lines that differ.
func difference(want, got string) string {
	var b strings.Builder
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		var x, y string
		if i < len(w) {
			x = w[i]
		}
		if i < len(g) {
			y = g[i]
		}
		if x != y {
			fmt.Fprintf(&b, "%q, alone %q\n", y, x)
		}
	}
	return b.String()
}

// TestVisible compares /proc/self/status with what it is alone: only these
// lines may differ, as docs/supervision.md lists them.
func TestVisible(t *testing.T) {
	t.Parallel()
	needRoot(t)
	ordinary := []string{ // numbers, sizes and counts that differ from run to run
		"Tgid", "Pid", "PPid", "NStgid", "NSpid", "NSpgid", "NSsid", "SigQ", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches",
		"VmPeak", "VmSize", "VmHWM", "VmRSS", "VmPTE", "VmStk", "VmData", "VmLib", "RssAnon", "RssFile", "RssShmem",
	}
	differ := []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "Seccomp", "Seccomp_filters"}
	if traced {
		differ = append(differ, "TracerPid")
	}
	native, r := run{}.native(t, "cat", "/proc/self/status"), run{policy: denyProgram}.protected(t, "cat", "/proc/self/status")
	w, g := strings.Split(native.out, "\n"), strings.Split(r.out, "\n")
	if len(w) != len(g) || len(w) < 10 {
		t.Fatalf("%q %s, alone %q", r.out, r.err, native.out)
	}
	for i := range w {
		key, _, _ := strings.Cut(w[i], ":")
		if w[i] != g[i] && !slices.Contains(ordinary, key) && !slices.Contains(differ, key) {
			t.Errorf("%q, alone %q", g[i], w[i])
		}
	}
}

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
