package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// TestKin starts a denied program in processes that are related to the target
// in an unusual way.
func TestKin(t *testing.T) {
	t.Parallel()
	for _, way := range []string{
		"orphan", "setsid", "parent", "thread-signal", "vm", "vm-apart", "vfork-chain", "ptrace", "pdeathsig", "leader-gone",
		"untraced", "untraced3", "untraced-seized", "untraced3-seized", "untraced-traceme",
	} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			native := run{}.native(t, victim("kin"), way, victim("prog-d"))
			if !strings.HasSuffix(native.out, "prog-d ran\n") {
				t.Fatalf("alone: %q %s", native.out, native.err)
			}
			// Who avoids the tracer makes no call that is judged, and nobody
			// else may be its tracer.
			want, audits := "exec: EACCES\n", 1
			if traced && strings.HasPrefix(way, "untraced") {
				want, audits = "exec: ENOSYS\n", 0
			}
			r := run{policy: denyProgram}.protected(t, victim("kin"), way, victim("prog-d"))
			if !strings.HasSuffix(r.out, want) || strings.Contains(r.out, "ran") {
				t.Errorf("protected: %q %s, want %q", r.out, r.err, want)
			}
			if n := len(r.of("explicitlyDeniedProcess")) + len(r.of("unreadableCall")); n != audits {
				t.Errorf("%d audits: %+v", n, r.records)
			}
			if audits == 0 {
				return
			}
			r = run{}.protected(t, victim("kin"), way, victim("prog-a"))
			if alone := strings.ReplaceAll(native.out, "prog-d", "prog-a"); r.out != alone {
				t.Errorf("allowed: %q %s, alone %q", r.out, r.err, alone)
			}
		})
	}
}

// TestOwnFilter has the target install a seccomp filter of its own: it takes
// away, as it does alone, and gives nothing.
func TestOwnFilter(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"trace", "trace-data", "trace-exec", "errno", "trap", "kill", "log", "sync", "listener", "listener-sync"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			native := run{}.native(t, victim("own"), way, victim("prog-d"))
			want := strings.ReplaceAll(native.out, "prog-d ran\n", "exec: EACCES\n")
			want = strings.ReplaceAll(want, "listener: ok", "listener: EBUSY") // one for all filters
			if traced {
				// gVisor makes none.
				want = strings.ReplaceAll(want, "listener: EINVAL", "listener: EBUSY")
			}
			if way == "trace-exec" && !traced {
				want = "exec: EACCES\n" // asked before a tracer is
			}
			r := run{policy: denyProgram}.protected(t, victim("own"), way, victim("prog-d"))
			if r.out != want || r.status != native.status {
				t.Errorf("protected: %q %s, status %d, want %q, %d", r.out, r.err, r.status, want, native.status)
			}
		})
	}
}

// TestTyping is a known limit: who has a terminal may type into it, where the
// kernel lets him alone. We read none.
func TestTyping(t *testing.T) {
	t.Parallel()
	native := run{}.native(t, victim("tty"))
	r := run{policy: denyProgram}.protected(t, victim("tty"))
	if r.out != native.out || r.status != native.status || !strings.HasPrefix(native.out, "type: ") {
		t.Errorf("alone: %q %s, protected: %q %s", native.out, native.err, r.out, r.err)
	}
}

// TestStrictMode is a known difference: who has a filter cannot enter seccomp's
// first mode. What it would have lost it has lost already.
func TestStrictMode(t *testing.T) {
	t.Parallel()
	native := run{}.native(t, victim("own"), "strict", victim("prog-d"))
	r := run{policy: denyProgram}.protected(t, victim("own"), "strict", victim("prog-d"))
	if native.status != 128+9 || r.out != "strict: EINVAL\nexec: EACCES\n" {
		t.Errorf("alone: status %d, protected: %q %s", native.status, r.out, r.err)
	}
}

// TestSignalsArrive compares signals, with what they carry, to what they are
// without us.
func TestSignalsArrive(t *testing.T) {
	t.Parallel()
	for _, how := range []string{
		"queue", "trap", "trap-unhandled", "stop-unhandled", "int3", "step",
		"stop", "stop-threads", "stop-connect", "exec-storm", "stop-storm", "kill-storm",
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			native := run{}.native(t, victim("signals"), how, victim("prog-a"))
			r := run{policy: denyProgram}.protected(t, victim("signals"), how, victim("prog-a"))
			told := func(r result) string { return strings.ReplaceAll(r.out, "prog-a ran\n", "") }
			if told(r) != told(native) || r.status != native.status {
				t.Errorf("protected: %q %s, status %d; alone: %q, %d", told(r), r.err, r.status, told(native), native.status)
			}
			if list := r.audits(); len(list) > 0 {
				t.Errorf("audits: %+v", list)
			}
		})
	}
}

// TestThreadsThatExec has a thread become another program, which takes the
// number of the process's first thread, while calls of that and others stand.
// An answer that meets the wrong one would spoil its registers.
func TestThreadsThatExec(t *testing.T) {
	t.Parallel()
	for _, wrap := range [][]string{nil, {"taskset", "-c", "0"}} {
		r := run{policy: denyProgram, wrap: wrap}.protected(t, victim("storm"), "40")
		if r.out != "done\n" || r.status != 0 || len(r.audits()) > 0 {
			t.Errorf("%v: %q %s, status %d, audits %+v", wrap, r.out, r.err, r.status, r.records)
		}
	}
}

// TestCrowd has two thousand processes exec at once.
func TestCrowd(t *testing.T) {
	t.Parallel()
	if r := (run{policy: denyProgram}).protected(t, victim("storm"), "crowd", "2000"); r.out != "left: 0\n" {
		t.Errorf("%q %s", r.out, r.err)
	}
}

// TestReusedNumbers has the numbers of processes come round again and again:
// no answer may meet another process than the one that asked.
func TestReusedNumbers(t *testing.T) {
	t.Parallel()
	needRoot(t)
	const few = `echo 600 >/proc/sys/kernel/pid_max && "$@"; exit $?`
	const script = `"$0" procs 1500 </dev/null & i=0
while [ $i -lt 100 ]; do "$1" 2>/dev/null; "$2"; i=$((i+1)); done; wait`
	if !kernelIs(6, 14) {
		t.Skip("needs Linux 6.14, where a pid namespace has a pid_max of its own")
	}
	r := run{policy: denyProgram, wrap: []string{"unshare", "-pf", "--mount-proc", "sh", "-c", few, "sh"}}.protected(t,
		"sh", "-c", script, victim("storm"), victim("prog-d"), victim("prog-a"))
	if n := strings.Count(r.out, "prog-a ran\n"); n != 100 || strings.Contains(r.out, "prog-d") || !strings.Contains(r.out, "ready\n") || r.status != 0 {
		t.Errorf("status %d, %d allowed programs ran: %q %s", r.status, n, r.out, r.err)
	}
}

// TestBlockedFastOpen blocks a message of the target for good; other calls go
// on.
func TestBlockedFastOpen(t *testing.T) {
	t.Parallel()
	if r := (run{policy: denyProgram}).protected(t, victim("storm"), "fastopen"); r.out != "connect: ok\n" {
		t.Errorf("%q %s", r.out, r.err)
	}
}

// TestNothingIsLeft counts what the supervisor holds before and after some
// thousand processes.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	descriptors := func(pid int) int {
		list, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		return len(list)
	}
	p := run{policy: denyProgram}.startProtected(t, "sh", "-c",
		fmt.Sprintf("%s procs 200 </dev/null; while [ ! -e go ]; do sleep 0.02; done; exec %s procs 4000 </dev/null", victim("storm"), victim("storm")))
	f := p.family()
	fds := descriptors(f.supervisor)
	if fds == 0 {
		t.Skip("needs to look into the supervisor")
	}
	if err := os.WriteFile(p.dir+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	most := 0
	waitFor(t, func() bool {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", f.supervisor)); err != nil {
			return true
		}
		most = max(most, descriptors(f.supervisor))
		return false
	})
	if r := p.wait(); r.status != 0 || r.out != "ready\nready\n" {
		t.Errorf("status %d: %q %s", r.status, r.out, r.err)
	}
	// One pidfd for each of the last 64 threads is kept by a receiver.
	if limit := fds + 64*12; most > limit {
		t.Errorf("%d descriptors, %d at the beginning", most, fds)
	}
}

// TestStoppedSupervisor stops the supervisor, as it could be to have calls
// unanswered: the guardian continues it.
func TestStoppedSupervisor(t *testing.T) {
	t.Parallel()
	p := run{policy: denyNetwork("127.0.0.2")}.startProtected(t, victim("load"), "1", "/bin/true")
	f := p.family()
	for range 20 {
		_ = syscall.Kill(f.supervisor, syscall.SIGSTOP)
	}
	if r := p.wait(); r.status != 42 || r.out != "ready\ndone\n" {
		t.Errorf("status %d: %q %s", r.status, r.out, r.err)
	}
}

// TestFewThreads blocks more connects than there are threads for: those that
// remain fail, and the supervisor lives.
func TestFewThreads(t *testing.T) {
	t.Parallel()
	needTool(t, "prlimit")
	// The limit counts all threads of a user: this one has no others.
	r := run{uid: 61234, policy: denyNetwork("127.0.0.2"), wrap: []string{"prlimit", "--nproc=1600"}}.protected(t, victim("block"), "many")
	if r.out != "exec: ok\n" || r.status != 0 {
		t.Errorf("status %d: %q %s", r.status, r.out, r.err)
	}
}

// TestNamedElsewhere starts a program under the name of one that is allowed, in a
// root or in mounts of the target's own. Names there count for what is denied.
func TestNamedElsewhere(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, way := range []string{"named-chroot", "named-mount", "named-tree", "named-fd", "named-deleted", "named-root"} {
		for _, uid := range []int{0, 1000} {
			t.Run(fmt.Sprintf("%s/uid %d", way, uid), func(t *testing.T) {
				t.Parallel()
				argv := []string{victim("exec"), way, victim("prog-d"), victim("prog-a")}
				if native := (run{uid: uid}).native(t, argv...); native.out != "prog-d ran\n" {
					t.Skipf("not on every kernel, nor for everybody: %q %s", native.out, native.err)
				}
				for name, policy := range map[string]string{
					"allowed": allowPrograms(victim("exec"), victim("prog-a")),
					"denied":  strings.ReplaceAll(denyProgram, "prog-d", victim("prog-a")),
				} {
					r := run{uid: uid, policy: policy}.protected(t, argv...)
					if r.out != "exec: EACCES\n" || len(r.of("explicitlyDeniedProcess")) != 1 {
						t.Errorf("%s: %q %s, audits %+v", name, r.out, r.err, r.records)
					}
				}
			})
		}
	}
	t.Run("linked", func(t *testing.T) { // a second name
		t.Parallel()
		argv := []string{"sh", "-c", `ln "$0" innocent && exec ./innocent`, victim("prog-d")}
		if r := (run{}).native(t, argv...); r.out != "prog-d ran\n" {
			t.Skipf("not on every file system: %q %s", r.out, r.err)
		}
		r := run{policy: strings.ReplaceAll(denyProgram, "prog-d", victim("prog-d"))}.protected(t, argv...)
		if r.out != "" || len(r.of("explicitlyDeniedProcess")) != 1 {
			t.Errorf("%q %s, audits %+v", r.out, r.err, r.records)
		}
	})
	t.Run("below", func(t *testing.T) { // another root does not make it another program
		t.Parallel()
		argv := []string{victim("exec"), "below", victim("prog-d")}
		if r := (run{}).native(t, argv...); r.out != "prog-d ran\n" {
			t.Fatalf("alone: %q %s", r.out, r.err)
		}
		r := run{policy: strings.ReplaceAll(denyProgram, "prog-d", victim("prog-d"))}.protected(t, argv...)
		if r.out != "exec: EACCES\n" || len(r.of("explicitlyDeniedProcess")) != 1 {
			t.Errorf("denied: %q %s, audits %+v", r.out, r.err, r.records)
		}
		if r := (run{policy: allowPrograms(victim("exec"), victim("prog-d"))}).protected(t, argv...); r.out != "prog-d ran\n" || len(r.audits()) > 0 {
			t.Errorf("allowed: %q %s, audits %+v", r.out, r.err, r.records)
		}
	})
}

// TestLeaderGone starts programs from a process whose first thread has ended: it
// is still known who starts them.
func TestLeaderGone(t *testing.T) {
	t.Parallel()
	for parents, want := range map[string]string{"deny: [kin]": "exec: EACCES\n", "allow: [kin]": "prog-a ran\n"} {
		policy := fmt.Sprintf("version: 1\nrules:\n  - name: r\n    processes: {effect: prevent, parents: [{programs: [prog-a], %s}]}\n", parents)
		r := run{policy: policy}.protected(t, victim("kin"), "leader-gone", victim("prog-a"))
		if r.out != want || len(r.audits()) != strings.Count(want, "EACCES") {
			t.Errorf("%s: %q %s, audits %+v", parents, r.out, r.err, r.records)
		}
		for _, rec := range r.audits() {
			if strings.Contains(rec.Msg, "not known") {
				t.Errorf("%s: %s", parents, rec.Msg)
			}
		}
	}
}

// TestTraceMe has processes ask to be traced by their parent, which is us: they go
// on, and so does all that happens behind them.
func TestTraceMe(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"traceme", "orphan-traceme"} {
		want := "traceme: ok\nprog-a ran\n"
		if traced {
			want = "traceme: EPERM\nprog-a ran\n" // it is
		}
		if r := (run{policy: denyProgram}).protected(t, victim("kin"), way, victim("prog-a")); r.out != want || len(r.audits()) > 0 {
			t.Errorf("%s: %q %s, status %d, audits %+v", way, r.out, r.err, r.status, r.records)
		}
		refused := strings.ReplaceAll(want, "prog-a ran", "exec: EACCES")
		if r := (run{policy: denyProgram}).protected(t, victim("kin"), way, victim("prog-d")); r.out != refused || len(r.audits()) != 1 {
			t.Errorf("%s: %q %s, audits %+v", way, r.out, r.err, r.records)
		}
	}
}

// TestReachFirst attacks the supervisor where it is a container's first process.
func TestReachFirst(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, way := range []string{"kill", "stop", "threads-kill", "fasync-signals", "threads-signals", "threads-queued-signals", "proc-pidfd-signals"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			r := run{policy: denyProgram, wrap: []string{"unshare", "-pf", "--mount-proc"}}.protected(t,
				victim("reach"), "first", way, victim("exec"), "plain", victim("prog-d"))
			if !strings.HasSuffix(r.out, "alive\nexec: EACCES\n") || r.status != 1 {
				t.Errorf("status %d: %q %s", r.status, r.out, r.err)
			}
		})
	}
}

// TestReachGroup kills the group that the guardian was started in, by a
// descriptor of its leader, who is none of us.
func TestReachGroup(t *testing.T) {
	t.Parallel()
	r := run{policy: denyProgram, wrap: []string{"sh", "-c", `"$@"; exit $?`, "sh"}}.protected(t,
		victim("reach"), "grandparent", "proc-pidfd-group", victim("exec"), "plain", victim("prog-d"))
	if r.out != "proc-pidfd-group: EPERM\nalive\nexec: EACCES\n" || r.status != 1 {
		t.Errorf("status %d: %q %s", r.status, r.out, r.err)
	}
}

// TestMostReceivers has as many calls wait for their memory as may: the next one
// fails, and when they have it all is as before.
func TestMostReceivers(t *testing.T) {
	t.Parallel()
	needRoot(t)
	few := []string{"unshare", "-m", "sh", "-c", `mount -t tmpfs none /sys/fs/cgroup && echo 60 >/sys/fs/cgroup/pids.max && exec "$@"`, "sh"}
	r := run{policy: denyNetwork("127.0.0.2"), wrap: few}.protected(t, victim("fault"), "most")
	if r.out == "unsupported\n" {
		t.Skip("needs /dev/userfaultfd")
	}
	if r.out != "connect: EAGAIN\nexec: ok\n" || r.status != 0 || len(r.audits()) > 0 {
		t.Errorf("status %d: %q %s, audits %+v", r.status, r.out, r.err, r.records)
	}
}

// TestInterpreterOfELF has the kernel start a program as what another one's file
// names as its loader.
func TestInterpreterOfELF(t *testing.T) {
	t.Parallel()
	argv := []string{victim("exec"), "interpreter", victim("prog-d"), victim("prog-a")}
	if native := (run{}).native(t, argv...); native.out != "prog-d ran\n" {
		t.Skipf("not on every kernel: %q %s", native.out, native.err)
	}
	r := run{policy: denyProgram}.protected(t, argv...)
	if r.out != "exec: EACCES\n" || len(r.of("explicitlyDeniedProcess")) != 1 {
		t.Errorf("protected: %q %s, audits %+v", r.out, r.err, r.records)
	}
	argv[2] = argv[3]
	if r := (run{policy: denyProgram}).protected(t, argv...); r.out != "prog-a ran\n" || len(r.audits()) > 0 {
		t.Errorf("allowed: %q %s, audits %+v", r.out, r.err, r.records)
	}
}

// TestEmulated starts a program of another processor, for which the target has
// an emulator registered in a user namespace of its own.
func TestEmulated(t *testing.T) {
	t.Parallel()
	needTool(t, "unshare")
	machine := map[string]string{"amd64": `\xb7\x00`, "arm64": `\x3e\x00`}[runtime.GOARCH] // of the other one
	const script = `printf '\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0' >p
printf "$3" >>p; head -c 100 /dev/zero >>p; chmod +x p; mkdir m
mount -t binfmt_misc none m && printf '%s' ":victim:M:18:$1::$2:" >m/register && exec ./p`
	octal := map[string]string{"amd64": `\267\000`, "arm64": `\076\000`}[runtime.GOARCH]
	argv := func(emulator string) []string {
		return []string{"unshare", "-Urm", "sh", "-c", script, "sh", machine, victim(emulator), octal}
	}
	if native := (run{}).native(t, argv("prog-d")...); native.out != "prog-d ran\n" {
		t.Skipf("needs Linux 6.7, for binfmt_misc in a user namespace: %q %s", native.out, native.err)
	}
	if r := (run{policy: denyProgram}).protected(t, argv("prog-a")...); r.out != "prog-a ran\n" || len(r.audits()) > 0 {
		t.Errorf("allowed: %q %s, audits %+v", r.out, r.err, r.records)
	}
	const denyFromShell = `version: 1
rules:
  - name: r
    custom: [{rule: c, effect: prevent}]
customRules:
  - {name: c, type: processes, script: 'proc.name = "prog-d" and proc.pname in ("sh", "dash", "bash") and proc.args = "./p"', message: no}
`
	for name, policy := range map[string]string{"denied": denyProgram, "denied by what is asked of the emulator": denyFromShell} {
		if r := (run{policy: policy}).protected(t, argv("prog-d")...); r.out != "" || len(r.of("swappedProcess")) != 1 {
			t.Errorf("%s: %q %s, audits %+v", name, r.out, r.err, r.records)
		}
	}
	// A multi-call binary, whose function is the name that it is registered by.
	needTool(t, "busybox")
	link := filepath.Join(t.TempDir(), "echo")
	if err := os.Symlink("/bin/busybox", link); err != nil {
		t.Fatal(err)
	}
	applet := argv("prog-a")
	applet[len(applet)-2] = link
	if native := (run{}).native(t, applet...); native.out != "./p\n" {
		t.Fatalf("an applet, alone: %q %s", native.out, native.err)
	}
	if r := (run{policy: strings.ReplaceAll(denyProgram, "prog-d", "echo")}).protected(t, applet...); r.out != "" || len(r.of("swappedProcess")) != 1 {
		t.Errorf("denied applet: %q %s, audits %+v", r.out, r.err, r.records)
	}
}

// TestFewDescriptors has more processes connect than the supervisor may have
// descriptors.
func TestFewDescriptors(t *testing.T) {
	t.Parallel()
	needTool(t, "prlimit")
	r := run{policy: denyNetwork("127.0.0.2"), wrap: []string{"prlimit", "--nofile=128"}}.protected(t,
		"sh", "-c", `for i in $(seq 150); do "$0" connect 127.0.0.1 1; done`, victim("net"))
	if want := strings.Repeat("connect: ECONNREFUSED\n", 150); r.out != want || r.err != "" || len(r.audits()) > 0 {
		t.Errorf("%q %s, audits %+v", r.out, r.err, r.audits())
	}
}
