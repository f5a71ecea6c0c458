package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rounds is how often each death is tried, each at another moment; a hundred
// times with TEST_DEATH_ROUNDS=100.
var rounds = func() int {
	if n, err := strconv.Atoi(os.Getenv("TEST_DEATH_ROUNDS")); err == nil {
		return n
	}
	return 12
}()

// TestDeath kills the defender's processes in the middle of a load of execs and
// connects. Closed, nothing of the target may live on; open, it goes on to its
// own end, and no call of it fails. Nothing ever hangs.
func TestDeath(t *testing.T) {
	tests := []struct {
		name    string
		victims func(family) []int
		open    bool
		// survives: the target goes on to its own end.
		survives bool
	}{
		{"supervisor, closed", func(f family) []int { return []int{f.supervisor} }, false, false},
		{"supervisor, open", func(f family) []int { return []int{f.supervisor} }, true, true},
		{"guardian, closed", func(f family) []int { return []int{f.guardian} }, false, false},
		{"guardian, open", func(f family) []int { return []int{f.guardian} }, true, true},
		{"both, closed", func(f family) []int { return []int{f.guardian, f.supervisor} }, false, false},
		{"their group, closed", func(f family) []int { return []int{-f.guardian} }, false, false},
		{"watcher, closed", func(f family) []int { return []int{f.watcher} }, false, true},
		{"watcher and supervisor, closed", func(f family) []int { return []int{f.watcher, f.supervisor} }, false, false},
		{"watcher and supervisor, open", func(f family) []int { return []int{f.watcher, f.supervisor} }, true, true},
		{"watcher and guardian, closed", func(f family) []int { return []int{f.watcher, f.guardian} }, false, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			whole := test.name == "watcher, closed" // nothing that works is hurt
			if traced && !whole {
				test.survives = false // the kernel ends the tracees of a dead tracer
			}
			for i := range rounds {
				r := run{policy: denyNetwork("127.0.0.2")}
				if test.open {
					r.flags = []string{"--on-failure", "open"}
				}
				if i%4 == 3 {
					r.wrap = []string{"taskset", "-c", "0"}
				}
				r.dir = workDir(t, 0)
				end := filepath.Join(r.dir, "end")
				p := r.startProtected(t, victim("load"), "1000", "/bin/true", end)
				f := p.family()
				time.Sleep(rand.N(150 * time.Millisecond))
				for _, pid := range test.victims(f) {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
				if test.survives {
					time.Sleep(50 * time.Millisecond)
					stop(t, end)
				}
				res := p.wait()
				p.alone()
				if t.Failed() {
					break
				}
				if _, err := os.Stat(end); (err == nil) != test.survives {
					t.Errorf("round %d: the target came to its end: %v", i, err == nil)
				}
				if !test.survives {
					if res.status == 0 || res.status == 42 {
						t.Errorf("round %d: status %d", i, res.status)
					}
					continue
				}
				if (whole || strings.HasSuffix(test.name, "supervisor, open")) && res.status != 42 {
					t.Errorf("round %d: status %d, want the target's 42: %s", i, res.status, res.err)
				}
				if whole && len(res.audits()) > 0 {
					t.Errorf("round %d: %+v", i, res.audits())
				}
				if strings.Contains(res.out, "ENOSYS") || !strings.HasSuffix(res.out, "done\n") {
					t.Errorf("round %d: %s", i, res.out)
				} else if res.out != "ready\ndone\n" {
					t.Errorf("round %d: a call failed: %s", i, res.out)
				}
			}
		})
	}
}

// TestDeathAsFirst kills the supervisor where it is the first process of a
// container: the kernel ends the rest, whatever was asked for.
func TestDeathAsFirst(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, mode := range []string{"closed", "open"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			for i := range rounds {
				r := run{
					policy: denyNetwork("127.0.0.2"), flags: []string{"--on-failure", mode},
					wrap: []string{"unshare", "-pf", "--mount-proc"}, dir: workDir(t, 0),
				}
				end := filepath.Join(r.dir, "end")
				p := r.startProtected(t, victim("load"), "100", "/bin/true", end)
				first := p.family().guardian // the child of unshare
				time.Sleep(rand.N(150 * time.Millisecond))
				_ = syscall.Kill(first, syscall.SIGKILL)
				if res := p.wait(); res.status == 0 || res.status == 42 {
					t.Errorf("round %d: status %d", i, res.status)
				}
				p.alone()
				if t.Failed() {
					break
				}
			}
		})
	}
}

// TestOpenEndsWhatIsLeft lets the target's first process end after the
// supervisor has died: what it leaves behind must not be left without anybody
// who answers.
func TestOpenEndsWhatIsLeft(t *testing.T) {
	t.Parallel()
	needNotify(t, "the target ends with the defender")
	p := run{flags: []string{"--on-failure", "open"}}.startProtected(t, "sh", "-c",
		`(trap "" TERM; while :; do /bin/true || echo failed; sleep 0.01; done) & echo ready; while [ ! -e go ]; do sleep 0.01; done; exit 9`)
	f := p.family()
	_ = syscall.Kill(f.supervisor, syscall.SIGKILL)
	time.Sleep(50 * time.Millisecond)
	if err := os.WriteFile(filepath.Join(p.dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := p.wait()
	time.Sleep(50 * time.Millisecond)
	if r.status != 9 {
		t.Errorf("status %d, want 9: %s", r.status, r.err)
	}
	if left := marked(p.mark); len(left) != 0 {
		t.Errorf("left over: %s", describe(p.mark))
	}
}

// TestOpenWithClosedDescriptors kills a supervisor that was started without
// standard input and output: the guardian's own descriptors have their numbers.
func TestOpenWithClosedDescriptors(t *testing.T) {
	t.Parallel()
	for _, closed := range []string{"0<&-", "1>&-", "0<&- 1>&-", "0<&- 1>&- 2>&-"} {
		t.Run(closed, func(t *testing.T) {
			t.Parallel()
			dir := workDir(t, 0)
			script := fmt.Sprintf(`exec %s run --audit-log none --on-failure open -- sh -c 'echo >ready; while [ ! -e go ]; do sleep 0.01; done; /bin/true && echo >end; exit 9' %s`, victim("defender"), closed)
			p := run{dir: dir}.start(t, []string{"sh", "-c", script})
			waitFor(t, func() bool { _, err := os.Stat(filepath.Join(dir, "ready")); return err == nil })
			_ = syscall.Kill(children(p.cmd.Process.Pid)[0], syscall.SIGKILL)
			if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			r := p.wait()
			if _, err := os.Stat(filepath.Join(dir, "end")); err != nil || r.status != 9 {
				t.Errorf("status %d, want 9; %v; %s", r.status, err, r.err)
			}
			p.alone()
		})
	}
}

// TestOutOfMemory has the kernel kill the supervisor for the memory that
// another process of the container takes.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, mode := range []string{"closed", "open"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			group := memoryGroup(t, 200<<20)
			join := []string{"sh", "-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(group, "cgroup.procs")}
			r := run{policy: denyNetwork("127.0.0.2"), flags: []string{"--on-failure", mode}, wrap: join, dir: workDir(t, 0)}
			end := filepath.Join(r.dir, "end")
			survives := mode == "open" && !traced
			p := r.startProtected(t, victim("load"), "1000", "/bin/true", end)
			f := p.family()
			// The kernel takes the one with the highest score, then the eater.
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", f.supervisor), []byte("1000"), 0); err != nil {
				t.Skip(err)
			}
			eater := run{}.start(t, append(slices.Clone(join), "tail", "/dev/zero"))
			waitFor(t, func() bool { return !lives(f.supervisor) })
			_ = eater.cmd.Process.Kill()
			eater.wait()
			if survives {
				stop(t, end)
			}
			res := p.wait()
			p.alone()
			if _, err := os.Stat(end); (err == nil) != survives {
				t.Errorf("the target came to its end: %v", err == nil)
			}
			if survives != (res.status == 42) || strings.Contains(res.out, "ENOSYS") {
				t.Errorf("status %d: %s%s", res.status, res.out, res.err)
			}
		})
	}
}

// TestKilledGroup has a target leave the control group that the Defender is in,
// and kill all of that.
func TestKilledGroup(t *testing.T) {
	t.Parallel()
	needRoot(t)
	needTool(t, "setsid")
	outer, inner := controlGroups(t)
	join := []string{"sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, inner}
	argv := []string{"sh", "-c", `echo $$ >"$0/cgroup.procs"
setsid sh -c 'echo 1 >"$0/cgroup.kill"; "$1"; sleep 0.1; "$1"; echo end' "$1" "$2" & wait`, outer, inner, victim("prog-d")}
	if native := (run{}).native(t, append(slices.Clone(join), argv...)...); native.out != "prog-d ran\nprog-d ran\nend\n" {
		t.Skipf("needs control groups: %q %s", native.out, native.err)
	}
	r := run{policy: denyProgram, wrap: join}.protected(t, argv...)
	if strings.Contains(r.out, "ran") || r.status != 137 {
		t.Errorf("status %d: %q %s", r.status, r.out, r.err)
	}
}

// controlGroups makes a group and one in it.
func controlGroups(t *testing.T) (outer, inner string) {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		outer = filepath.Join(root, fmt.Sprintf("defender-test-%d-%d", os.Getpid(), runs.Add(1)))
		inner = filepath.Join(outer, "inner")
		if os.MkdirAll(inner, 0o755) != nil {
			continue
		}
		t.Cleanup(func() { _ = os.Remove(inner); _ = os.Remove(outer) })
		if _, err := os.Stat(filepath.Join(inner, "cgroup.kill")); err == nil {
			return outer, inner
		}
	}
	t.Skip("needs control groups that may be killed (Linux 5.14)")
	return "", ""
}

// stop brings the victim load to its end.
func stop(t *testing.T, end string) {
	t.Helper()
	if err := os.WriteFile(end+".stop", nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// lives reports whether a process is there and no zombie.
func lives(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(data), ") Z ")
}

// memoryGroup makes a cgroup that may hold so many bytes.
func memoryGroup(t *testing.T, limit int) string {
	t.Helper()
	for _, at := range []struct{ root, file string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
		{"/sys/fs/cgroup", "memory.max"},
	} {
		dir := filepath.Join(at.root, fmt.Sprintf("defender-test-%d-%d", os.Getpid(), runs.Add(1)))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		if os.WriteFile(filepath.Join(dir, at.file), []byte(strconv.Itoa(limit)), 0) == nil {
			return dir
		}
	}
	t.Skip("needs a memory cgroup")
	return ""
}

// TestKilledTarget kills the target while calls of it are being answered.
func TestKilledTarget(t *testing.T) {
	t.Parallel()
	for range rounds {
		p := run{policy: denyNetwork("127.0.0.2")}.startProtected(t, victim("load"), "100", "/bin/true")
		f := p.family()
		time.Sleep(rand.N(100 * time.Millisecond))
		_ = syscall.Kill(f.target, syscall.SIGKILL)
		if r := p.wait(); r.status != 128+9 {
			t.Errorf("status %d, want 137: %s", r.status, r.err)
		}
		p.alone()
	}
}

// TestExecAgain is a target whose first process becomes another program over
// and over: supervisor and parent are one process here.
func TestExecAgain(t *testing.T) {
	t.Parallel()
	const script = `[ $1 = 0 ] && exit 7; exec sh "$0" $(($1 - 1))`
	dir := workDir(t, 0)
	again := filepath.Join(dir, "again")
	if err := os.WriteFile(again, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, wrap := range [][]string{nil, {"taskset", "-c", "0"}} {
		r := run{policy: denyProgram, wrap: wrap}.protected(t, "sh", again, "400")
		if r.status != 7 {
			t.Errorf("%v: status %d, want 7: %s", wrap, r.status, r.err)
		}
	}
}

// family are the processes of one run.
type family struct{ guardian, watcher, supervisor, target int }

// family waits until the target says that it is ready.
func (p *started) family() family {
	p.t.Helper()
	waitFor(p.t, func() bool { return strings.Contains(p.out.String(), "ready") })
	f := family{guardian: p.cmd.Process.Pid}
	// Where the defender is the first process of a namespace there is no
	// guardian, and unshare stands in its place.
	if cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", f.guardian)); strings.HasPrefix(string(cmd), "unshare\x00") {
		f.guardian = children(f.guardian)[0]
		return f
	}
	// The watcher, the guardian's other child, has none.
	list := slices.DeleteFunc(children(f.guardian), func(pid int) bool {
		if len(children(pid)) > 0 {
			return false
		}
		f.watcher = pid
		return true
	})
	if len(list) == 0 {
		p.t.Fatalf("there is no supervisor: %s", describe(p.mark))
	}
	f.supervisor = list[0]
	if list = children(f.supervisor); len(list) == 0 {
		p.t.Fatalf("there is no target: %s", describe(p.mark))
	}
	f.target = list[0]
	return f
}

// children returns the children of all threads of a process.
func children(pid int) []int {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var list []int
	for _, name := range files {
		data, _ := os.ReadFile(name)
		for _, f := range strings.Fields(string(data)) {
			if n, err := strconv.Atoi(f); err == nil {
				list = append(list, n)
			}
		}
	}
	return list
}

func waitFor(t *testing.T, f func() bool) {
	t.Helper()
	if !within(hangAfter, f) {
		t.Fatal("it does not happen")
	}
}
