package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// denyProgram refuses prog-d by its name.
const denyProgram = `version: 1
rules:
  - name: no prog-d
    processes: {effect: prevent, deny: [prog-d]}
`

// allowPrograms refuses all programs but these.
func allowPrograms(names ...string) string {
	return fmt.Sprintf(`version: 1
rules:
  - name: only these
    processes: {effect: prevent, allow: [%s]}
`, strings.Join(names, ", "))
}

func denyNetwork(addrs ...string) string {
	for i := range addrs {
		addrs[i] = fmt.Sprintf("%q", addrs[i])
	}
	return fmt.Sprintf(`version: 1
rules:
  - name: not there
    network: {effect: prevent, outbound: {deny: [%s]}}
`, strings.Join(addrs, ", "))
}

// TestExecWays starts a denied program in every way there is to name it.
func TestExecWays(t *testing.T) {
	t.Parallel()
	const ran, refused = "prog-d ran\n", "exec: EACCES\n"
	tests := []struct {
		way               string
		native, protected string
	}{
		{"plain", ran, refused},
		{"cwd", ran, refused},
		{"dots", ran, refused},
		{"dirfd", ran, refused},
		{"dirfd-keep", ran, refused},
		{"empty-path", ran, refused},
		{"empty-path-read", ran, refused},
		{"proc-fd", ran, refused},
		{"proc-fd-high", ran, refused},
		{"proc-task-fd", ran, refused},
		{"dev-fd", ran, refused},
		{"thread-self-fd", ran, refused},
		{"proc-root", ran, refused},
		{"proc-parent-root", ran, refused},
		{"proc-exe", ran, refused},
		{"symlinks", ran, refused},
		{"no-argv", ran, refused},
		{"thread", ran, refused},
		{"threads", ran, refused},
		{"vfork", ran, refused},
		{"spawn", ran, refused},
		{"traced", ran, refused}, // even if allowed, see TestDebugger
		{"map-files", ran, refused},
		{"open-tree", ran, refused},
		{"dispatch", ran, refused},
		{"turned", ran, refused},
		{"turned-at-filter", ran, refused},
		{"setuid", ran, refused},
		{"setuid-again", ran, refused},
		{"check", "check: ok\n", "check: ok\n"}, // only asks: nothing runs
	}
	for _, test := range tests {
		t.Run(test.way, func(t *testing.T) {
			t.Parallel()
			switch test.way {
			case "setuid", "setuid-again", "map-files", "open-tree":
				needRoot(t)
			}
			if test.way == "traced" && traced {
				test.protected = "traceme: EPERM\n" + refused // a process has one tracer
			}
			turned := strings.HasPrefix(test.way, "turned") // of what its own tracer traces, see TestDebugger
			native := run{}.native(t, victim("exec"), test.way, victim("prog-d"))
			switch {
			case test.way == "check" && native.out == "check: EINVAL\n":
				t.Skip("needs Linux 6.14, for AT_EXECVE_CHECK")
			case slices.Contains([]string{"map-files", "open-tree", "dispatch", "turned", "turned-at-filter"}, test.way) && native.out != ran:
				t.Skipf("not on every kernel: %s%s", native.out, native.err)
			}
			needExec(t, native)
			if native.out != test.native {
				t.Errorf("alone: %q%s, want %q", native.out, native.err, test.native)
			}
			r := run{policy: denyProgram}.protected(t, victim("exec"), test.way, victim("prog-d"))
			if turned && traced {
				test.protected = map[string]string{
					"turned":           "seize: EPERM\nexec: EPERM\n",  // the call stays what it was
					"turned-at-filter": "seize: EPERM\nexec: ENOSYS\n", // which its own filter does not let pass
				}[test.way]
			}
			if r.out != test.protected {
				t.Errorf("protected: %q%s (status %d), want %q", r.out, r.err, r.status, test.protected)
			}
			n := len(r.of("explicitlyDeniedProcess"))
			if test.way == "traced" {
				n += len(r.of("unreadableCall"))
			}
			if turned && traced {
				return // nobody turns anything
			}
			if strings.HasSuffix(test.protected, refused) && n == 0 || test.way == "check" && n != 0 {
				t.Errorf("%d audits of a denied process: %+v", n, r.records)
			}
			if test.way == "traced" || turned {
				return
			}
			// What is allowed works in the same way, for everybody.
			want := strings.ReplaceAll(test.native, "prog-d", "prog-a")
			for _, as := range []run{{}, {wrap: []string{"taskset", "-c", "0"}}, {uid: 1000}} {
				if as.uid != 0 && (os.Getuid() != 0 || strings.HasPrefix(test.way, "setuid") || test.way == "map-files" || test.way == "open-tree") {
					continue
				}
				as.policy = denyProgram
				if r := as.protected(t, victim("exec"), test.way, victim("prog-d")); r.out != test.protected {
					t.Errorf("protected %v, uid %d: %q%s, want %q", as.wrap, as.uid, r.out, r.err, test.protected)
				}
				if r := as.protected(t, victim("exec"), test.way, victim("prog-a")); r.out != want || len(r.of("explicitlyDeniedProcess")) != 0 {
					t.Errorf("protected %v, uid %d, allowed: %q%s, audits %+v, want %q", as.wrap, as.uid, r.out, r.err, r.records, want)
				}
			}
		})
	}
}

// loader is the C library's.
var loader = map[string]string{"amd64": "/lib64/ld-linux-x86-64.so.2", "arm64": "/lib/ld-linux-aarch64.so.1"}[runtime.GOARCH]

// TestExecByAnother starts a denied program through another one: a loader, a
// multi-call program, an interpreter.
func TestExecByAnother(t *testing.T) {
	t.Parallel()
	dir := workDir(t, 0)
	made := 0
	script := func(text string) string {
		made++
		name := filepath.Join(dir, fmt.Sprintf("script%d", made))
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return name
	}
	mkdir := needTool(t, "mkdir")
	if resolved, err := filepath.EvalSymlinks(mkdir); err == nil && filepath.Base(resolved) != "mkdir" {
		t.Skipf("needs a mkdir of its own: it is %s", resolved)
	}
	const byName, byPath = "mkdir", "/usr/bin/mkdir"
	tests := []struct {
		name string
		deny string
		env  []string
		argv []string // makes "made"
		need string
	}{
		{"loader", byName, nil, []string{loader, mkdir, "made"}, loader},
		{"loader, by path", byPath, nil, []string{loader, "/usr/bin/mkdir", "made"}, loader},
		{"loader with options", byName, nil, []string{loader, "--library-path", "/lib", "--inhibit-cache", "--argv0", "x", mkdir, "made"}, loader},
		{"loader of a script", byName, nil, []string{script("#!" + loader + " " + mkdir + "\n")}, loader},
		{"loader with an endless option", byName, nil, []string{victim("exec"), "argv0", loader, loader, "--library-path", strings.Repeat("/", 131000), mkdir, "made"}, loader},
		{"loader with many options", byName, nil, []string{victim("exec"), "many", loader, "--inhibit-cache", mkdir, "made"}, loader},
		{"loader that says another byte order", byName, nil, []string{"sh", "-c", `cp $0 l; printf '\2' | dd of=l bs=1 seek=5 conv=notrunc 2>/dev/null; chmod +x l; ./l $1 made; true`, loader, mkdir}, loader},
		{"busybox", byName, nil, []string{"busybox", "mkdir", "made"}, "busybox"},
		{"busybox under the applet's name", byName, nil, []string{victim("exec"), "argv0", "/bin/busybox", "mkdir", "made"}, "busybox"},
		{"busybox under an endless name", byName, nil, []string{victim("exec"), "long-name", "/bin/busybox", "mkdir", "made"}, "busybox"},
		{"busybox by fd", byName, nil, []string{victim("exec"), "proc-fd", "/bin/busybox", "mkdir", "made"}, "busybox"},
		{"busybox of a script", byName, nil, []string{script("#!/bin/busybox mkdir\n")}, "busybox"},
		{"env", byName, nil, []string{"env", "mkdir", "made"}, ""},
		{"xargs", byName, nil, []string{"sh", "-c", "echo made | xargs mkdir"}, ""},
		{"sh", byName, nil, []string{"sh", "-c", "mkdir made; true"}, ""},
		{"script of env", byName, nil, []string{script("#!/usr/bin/env -S mkdir made\n")}, ""},
		{"script of script", byName, nil, []string{script("#!" + script("#!"+mkdir+"\n") + " made\n")}, ""},
		{"link", byName, nil, []string{"sh", "-c", "ln -s /usr/bin/mkdir innocent && ./innocent made; true"}, ""},
		{"link named so", byPath, nil, []string{"sh", "-c", "ln -s /bin/mkdir innocent && ./innocent made; true"}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if test.need != "" {
				needTool(t, test.need)
			}
			did := func(r result) bool {
				// A script makes a directory of its own name, which exists:
				// it says so.
				_, err := os.Stat(filepath.Join(r.dir, "made"))
				return err == nil || strings.Contains(r.err, "File exists")
			}
			if native := (run{env: test.env}).native(t, test.argv...); !did(native) {
				t.Errorf("alone it made nothing: %+v", native)
			}
			policy := fmt.Sprintf("version: 1\nrules:\n  - name: r\n    processes: {effect: prevent, deny: [%s]}\n", test.deny)
			r := run{policy: policy, env: test.env}.protected(t, test.argv...)
			// What is too long to be judged is refused for that.
			if did(r) || len(r.of("explicitlyDeniedProcess"))+len(r.of("unreadableCall")) == 0 {
				t.Errorf("protected: made=%v, audits %+v, output %s", did(r), r.records, r.err)
			}
		})
	}
}

// needExec skips a way that the kernel itself does not go: Linux 5.10 executes
// nothing by a descriptor that is closed on exec.
func needExec(t *testing.T, native result) {
	t.Helper()
	if native.out == "exec: ENOENT\n" {
		t.Skip("this kernel does not execute it alone either")
	}
}

// TestFileless starts a program without a file where only some may run.
func TestFileless(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"memfd", "memfd-proc"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			native := run{}.native(t, victim("exec"), way, victim("prog-a"))
			needExec(t, native)
			if native.out != "prog-a ran\n" {
				t.Errorf("alone: %+v", native)
			}
			policy := allowPrograms(victim("exec"), victim("prog-a"))
			r := run{policy: policy}.protected(t, victim("exec"), way, victim("prog-a"))
			if r.out != "exec: EACCES\n" || len(r.of("explicitlyDeniedProcess")) != 1 {
				t.Errorf("protected: %+v", r)
			}
		})
	}
}

// TestOtherTables calls the kernel through the other call tables of x86-64.
func TestOtherTables(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"int80", "int80-execveat", "x32", "x32-native-number"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			native := run{}.native(t, victim("abi"), way, victim("prog-d"))
			t.Logf("alone: %s", native.out)
			r := run{policy: denyProgram}.protected(t, victim("abi"), way, victim("prog-d"))
			if r.out != "exec: ENOSYS\n" {
				t.Errorf("protected: %q %s, want ENOSYS", r.out, r.err)
			}
		})
	}
}

// withoutPtrace starts what follows as a default container does.
var withoutPtrace = []string{"setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"}

// TestExecAllowed starts programs whose start is special in the kernel;
// all are allowed and must work as they do alone.
func TestExecAllowed(t *testing.T) {
	t.Parallel()
	dir := workDir(t, 0)
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	program, err := os.ReadFile(victim("setuid"))
	if err != nil {
		t.Fatal(err)
	}
	unreadable := file("unreadable", string(program), 0o711)
	setuid := file("set-uid", string(program), 0o755|os.ModeSetuid)
	args := victim("args")
	line := func(n int) string { // a #! line of n bytes without its end
		return "#!" + args + " " + strings.Repeat("a", n-3-len(args))
	}
	tests := []struct {
		name string
		run  run
		argv []string
	}{
		{"script", run{}, []string{file("script", "#!"+args+" an argument \nrest\n", 0o755), "x", "", "y"}},
		{"script without a line end", run{}, []string{file("noend", "#!"+args, 0o755), "x"}},
		{"script of a full line", run{}, []string{file("full", line(253)+"\n", 0o755), "x"}},
		{"script of a line as long as the kernel looks", run{}, []string{file("longest", line(255)+"\n", 0o755), "x"}},
		{"script of a longer line", run{}, []string{file("longer", line(256)+"\n", 0o755), "x"}},
		{"script of a cut line", run{}, []string{file("cut", line(300)+"\n", 0o755), "x"}},
		{"script of scripts", run{}, []string{file("outer", "#!"+file("inner", "#!"+args+" inner\n", 0o755)+" outer\n", 0o755), "x"}},
		{"script by directory", run{}, []string{victim("exec"), "dirfd-keep", filepath.Join(dir, "script"), "x"}},
		{"script by descriptor", run{}, []string{victim("exec"), "empty-path-read", filepath.Join(dir, "script"), "x"}},
		{"script by closing descriptor", run{}, []string{victim("exec"), "empty-path", filepath.Join(dir, "script"), "x"}},
		{"script by proc", run{}, []string{victim("exec"), "proc-fd", filepath.Join(dir, "script"), "x"}},
		{"script without arguments", run{}, []string{victim("exec"), "no-argv", filepath.Join(dir, "script")}},
		{"script of bad interpreter", run{}, []string{"sh", "-c", file("bad", "#!/nowhere\n", 0o755)}},
		{"no script", run{}, []string{"sh", "-c", file("plain", "echo plain\n", 0o755)}},
		{"not executable", run{}, []string{"sh", "-c", file("noexec", "echo plain\n", 0o644)}},
		{"directory", run{}, []string{victim("exec"), "plain", "/tmp"}},
		{"nothing", run{}, []string{victim("exec"), "plain", "/nowhere"}},
		{"below a file", run{}, []string{victim("exec"), "plain", "/etc/passwd/x"}},
		{"trailing slash", run{}, []string{victim("exec"), "plain", victim("prog-a") + "/"}},
		{"empty path", run{}, []string{victim("exec"), "plain", ""}},
		{"endless path", run{}, []string{victim("exec"), "plain", strings.Repeat("/x", 2100)}},
		{"long path", run{}, []string{victim("exec"), "plain", strings.Repeat("/", 4000) + victim("prog-a")[1:]}},
		{"executable, not readable", run{uid: 1000}, []string{unreadable}},
		{"executable, not readable, by root's defender", run{}, []string{victim("drop"), "exec", unreadable}},
		{"set-uid", run{}, []string{victim("drop"), "exec", setuid}},
		{"set-uid, without CAP_SYS_PTRACE", run{wrap: withoutPtrace}, []string{victim("drop"), "dumpable", setuid}},
		{"changed user, without CAP_SYS_PTRACE", run{wrap: withoutPtrace}, []string{victim("drop"), "dumpable", victim("exec"), "plain", victim("prog-a")}},
		{"threads", run{}, []string{victim("exec"), "threads", victim("prog-a")}},
		{"pid namespace", run{}, []string{"unshare", "-pf", "sh", "-c", "/proc/self/exe -c 'echo yes'"}},
		{"pid namespace with its own proc", run{}, []string{"unshare", "-pf", "--mount-proc", "sh", "-c", "/proc/self/exe -c 'echo yes'"}},
		{"another root", run{}, []string{"unshare", "-r", "--root", bin, "/exec", "plain", "/prog-a"}},
		{"another root's proc-less descriptor", run{}, []string{"unshare", "-r", "--root", bin, "/exec", "empty-path", "/prog-a"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if strings.HasPrefix(test.name, "set-uid, without") {
				needNotify(t, "the kernel gives a traced program no privileges")
			}
			needTool(t, test.argv[0])
			if test.run.uid != 0 || test.argv[0] == victim("drop") || test.argv[0] == "unshare" {
				needRoot(t)
			}
			dir := workDir(t, test.run.uid)
			n := test.run
			n.dir = dir
			argv := append(append([]string{}, n.wrap...), test.argv...)
			native := n.native(t, argv...)
			n.policy = denyProgram
			r := n.protected(t, test.argv...)
			if r.out != native.out || r.err != native.err || r.status != native.status {
				t.Errorf("protected: status %d, output %q, errors %q\nalone: status %d, output %q, errors %q",
					r.status, r.out, r.err, native.status, native.out, native.err)
			}
			for _, rec := range r.records {
				if rec.Type != "defender" { // news are allowed
					t.Errorf("audit: %+v", rec)
				}
			}
		})
	}
}

// TestDebugger traces processes inside the target. An exec that somebody else
// traces cannot be verified: it is refused where a rule refuses programs, and
// goes on elsewhere.
func TestDebugger(t *testing.T) {
	t.Parallel()
	needNotify(t, "a process has one tracer")
	needTool(t, "strace")
	alert := strings.ReplaceAll(denyProgram, "prevent", "alert")
	for name, argv := range map[string][]string{
		"traceme": {victim("exec"), "traced", victim("prog-a")},
		"strace":  {"strace", "-f", "-o", "/dev/null", victim("exec"), "spawn", victim("prog-a")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, policy := range []string{"", alert} {
				if r := (run{policy: policy}).protected(t, argv...); r.out != "prog-a ran\n" || r.status != 0 {
					t.Errorf("%q: %+v", policy, r)
				}
			}
			if r := (run{policy: denyProgram}).protected(t, argv...); r.out == "prog-a ran\n" || len(r.of("unreadableCall")) == 0 {
				t.Errorf("prevent: %+v", r)
			}
		})
	}
}

// TestManyArguments: all arguments that the kernel takes are judged, however
// many harmless ones come first, and who needs many of them has them.
func TestManyArguments(t *testing.T) {
	t.Parallel()
	const policy = "version: 1\nrules:\n  - name: r\n    processes: {effect: prevent, deny: [prog-d], detect: {cryptoMiners: prevent}}\n"
	for _, n := range []string{"5000", "30000", "100000"} {
		t.Run(n, func(t *testing.T) {
			t.Parallel()
			r := run{policy: policy}.protected(t, "sh", "-c", victim("prog-a")+" $(seq "+n+") --donate-level=1")
			if told := r.of("cryptoMinerProcess"); len(told) != 1 || !told[0].Refused || strings.Contains(r.out, "ran") {
				t.Errorf("%q, %q, told of %d", r.out, r.err, len(told))
			}
			many := victim("prog-a") + " $(seq " + n + ")"
			if _, err := exec.LookPath("busybox"); err == nil {
				many += " && busybox true $(seq " + n + ")"
			}
			r = run{policy: policy}.protected(t, "sh", "-c", many+" && echo done")
			if !strings.HasSuffix(r.out, "done\n") || len(r.audits()) > 0 {
				t.Errorf("%q, %q, told of %+v", r.out, r.err, r.audits())
			}
		})
	}
}

// TestExecRace changes what an exec leads to while it is judged. Not one denied
// program may run.
func TestExecRace(t *testing.T) {
	busybox, _ := exec.LookPath("busybox")
	for _, how := range []string{
		"shared", "vm", "symlink", "traced", "threads", "script",
		"dirfd", "fd", "proc-fd", "chdir", "chroot", "exchange", "argv", "args", "touched",
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			way, path, other, policy := how, victim("prog-a"), "d", denyProgram
			one := strings.HasPrefix(how, "arg") || how == "touched" // nothing but the denied program
			switch how {
			case "chroot":
				needRoot(t)
			case "argv", "touched":
				if path = busybox; path == "" {
					t.Skip("needs busybox")
				}
				policy = strings.ReplaceAll(denyProgram, "prog-d", "mkdir")
			case "args": // of a program that is what it is
				if path, _ = exec.LookPath("mkdir"); path == busybox {
					t.Skip("needs a mkdir of its own")
				}
				policy = "version: 1\ncustomRules: [{name: c, type: processes, script: 'proc.args = \"made\"'}]\n" +
					"rules:\n  - name: r\n    custom: [{rule: c, effect: prevent}]\n"
			case "script": // a link that changes between scripts of the two
				way = "symlink"
				dir := workDir(t, 0)
				for _, end := range []string{"a", "d"} {
					if err := os.WriteFile(filepath.Join(dir, "script-"+end), []byte("#!"+victim("prog-"+end)+"\n"), 0o755); err != nil {
						t.Fatal(err)
					}
				}
				path = filepath.Join(dir, "script-a")
			}
			race := func(r run, seconds string) (res result, allowed, denied int) {
				r.dir = workDir(t, 0)
				mark := filepath.Join(r.dir, "mark")
				r.env = []string{"MARK=" + mark}
				argv := []string{victim("execrace"), way, seconds, path, fmt.Sprint(len(path) - 1), other}
				if r.policy == "" {
					res = r.native(t, argv...)
				} else {
					res = r.protected(t, argv...)
				}
				ran, _ := os.ReadFile(mark)
				count := func(name string) int {
					return strings.Count(string(ran), name+"\n") + strings.Count(res.out, name+" ran\n")
				}
				allowed, denied = count("prog-a"), count("prog-d")
				if _, err := os.Stat(filepath.Join(r.dir, "made")); err == nil {
					denied++
				}
				if i := strings.Index(res.out, "ran="); i >= 0 {
					res.out = res.out[i:]
				}
				return res, allowed, denied
			}
			both := false
			for i := 0; i < 50 && !both; i++ {
				_, allowed, denied := race(run{}, "0.2")
				both = (allowed > 0 || one) && denied > 0
			}
			if !both {
				t.Error("alone, not both programs ran")
			}
			res, allowed, denied := race(run{policy: policy}, fmt.Sprint(raceTime.Seconds()))
			t.Logf("%s%d audits, %d of swapped programs", res.out, len(res.records), len(res.of("swappedProcess")))
			if denied > 0 {
				t.Errorf("the denied program ran %d times: %s", denied, res.out)
			}
			if allowed == 0 && how != "traced" && !one {
				t.Errorf("the allowed program never ran: %s%s", res.out, res.err)
			}
			if len(res.records) == 0 && !(traced && how == "traced") { // nobody may trace there, so nothing starts
				t.Error("no audit")
			}
		})
	}
}

// sinks listen where a victim should not come, and take whatever comes: a full
// queue would take nothing more, of the victim or of us.
type sinks struct {
	tcp  net.Listener
	udp  net.PacketConn
	port string

	mu   sync.Mutex
	n    int          // what came since the last look
	ours map[int]bool // marks of ours by their port: whether they came
}

// newSinks listens on one port of addr, over TCP and UDP.
func newSinks(t *testing.T, addr string) *sinks {
	t.Helper()
	for range 20 {
		tcp, err := net.Listen("tcp", net.JoinHostPort(addr, "0"))
		if err != nil {
			t.Skipf("needs %s: %v", addr, err)
		}
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err != nil {
			tcp.Close()
			continue
		}
		return take(t, tcp, udp)
	}
	t.Fatal("no port is free for both TCP and UDP")
	return nil
}

// beside returns sinks of another address with the same port.
func (s *sinks) beside(t *testing.T, addr string) *sinks {
	t.Helper()
	tcp, err := net.Listen("tcp", net.JoinHostPort(addr, s.port))
	if err != nil {
		t.Skipf("needs %s: %v", addr, err)
	}
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		tcp.Close()
		t.Skipf("needs %s: %v", addr, err)
	}
	return take(t, tcp, udp)
}

// mark is what a datagram of ours says.
const mark = "a mark of the test"

// take takes what comes until the test ends.
func take(t *testing.T, tcp net.Listener, udp net.PacketConn) *sinks {
	_, port, _ := net.SplitHostPort(tcp.Addr().String())
	s := &sinks{tcp: tcp, udp: udp, port: port, ours: make(map[int]bool)}
	t.Cleanup(func() { tcp.Close(); udp.Close() })
	go func() {
		for {
			c, err := tcp.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				s.come(c.RemoteAddr().(*net.TCPAddr).Port, false)
				go func() { // until the victim closes it
					_, _ = io.Copy(io.Discard, c)
					c.Close()
				}()
			}
		}
	}()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := udp.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				s.come(from.(*net.UDPAddr).Port, string(buf[:n]) == mark)
			}
		}
	}()
	return s
}

func (s *sinks) come(port int, marked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ours := s.ours[port]; ours {
		s.ours[port] = true
	} else if !marked { // one that was late is not counted either
		s.n++
	}
}

// arrived counts what came since the last look, before a connection and a
// datagram of our own: over loopback whatever was sent is in the queue already,
// however slow the machine.
func (s *sinks) arrived(t *testing.T) int {
	t.Helper()
	var port int
	bind := func(fd uintptr) error { // before it connects: nobody else has this port then
		local, err := unix.Getsockname(int(fd))
		if err == nil {
			err = unix.Bind(int(fd), local)
		}
		if err == nil {
			local, err = unix.Getsockname(int(fd))
		}
		switch local := local.(type) {
		case *unix.SockaddrInet4:
			port = local.Port
		case *unix.SockaddrInet6:
			port = local.Port
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ours[port] = false
		return err
	}
	came := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.ours[port]
	}
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) { err = bind(fd) }), err)
	}}
	own, err := d.Dial("tcp", s.tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if !within(hangAfter, came) {
		t.Fatal("a connection of the test did not come")
	}
	note, err := d.Dial("udp", s.udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer note.Close()
	for range 100 { // a full queue loses one
		if _, err = io.WriteString(note, mark); err == nil && within(time.Second, came) {
			s.mu.Lock()
			defer s.mu.Unlock()
			n := s.n
			s.n = 0
			clear(s.ours)
			return n
		}
	}
	t.Fatalf("a mark of the test did not come: %v", err)
	return 0
}

// TestConnectWays reaches a denied address in every way there is.
func TestConnectWays(t *testing.T) {
	t.Parallel()
	const addr, other = "127.0.0.2", "127.0.0.1"
	tests := []struct {
		way  string
		addr string
		want string // of the protected run; "" is EACCES
	}{
		{way: "connect"},
		{way: "connect-long"},
		{way: "connect-garbage"},
		{way: "connect-nonblock"},
		{way: "mptcp"},
		{way: "smc"},
		{way: "mapped", addr: "::ffff:127.0.0.2"},
		{way: "mapped-short", addr: "::ffff:127.0.0.2"},
		{way: "mapped-udp", addr: "::ffff:127.0.0.2"},
		{way: "v4-on-v6-udp"},
		{way: "v4-connect-on-v6-udp"},
		{way: "sendto"},
		{way: "sendmsg"},
		{way: "sendmmsg", want: "sendmmsg: 1\n"},
		{way: "sendmmsg-first"},
		{way: "unspec"},
		{way: "unspec-connected"},
		{way: "fastopen"},
		{way: "fastopen-msg"},
		{way: "fastopen-connect"},
		{way: "connected-udp"},
		{way: "connected-sendmsg"},
		{way: "int80", want: "connect: ENOSYS\n"},
		{way: "int80-socketcall", want: "socketcall: ENOSYS\n"},
		{way: "x32", want: "connect: ENOSYS\n"},
	}
	for _, test := range tests {
		t.Run(test.way, func(t *testing.T) {
			switch test.way {
			case "mptcp":
				needMPTCP(t)
			case "smc":
				needSocket(t, unix.AF_SMC, 0)
			}
			denied := newSinks(t, addr)
			if test.addr == "" {
				test.addr = addr
			}
			native := run{}.native(t, victim("net"), test.way, test.addr, denied.port, other)
			if n := denied.arrived(t); n == 0 && !strings.Contains(native.out, "ENOSYS") {
				t.Errorf("alone, nothing arrived: %s%s", native.out, native.err)
			}
			r := run{policy: denyNetwork(addr)}.protected(t, victim("net"), test.way, test.addr, denied.port, other)
			if n := denied.arrived(t); n != 0 {
				t.Errorf("%d arrived at the denied address: %s", n, r.out)
			}
			if test.want == "" {
				call, _, _ := strings.Cut(native.out, ":")
				test.want = call + ": EACCES\n"
			}
			if r.out != test.want {
				t.Errorf("protected: %q %s, want %q", r.out, r.err, test.want)
			}
			if n := len(r.of("explicitlyDeniedIP")); n == 0 && !strings.Contains(test.want, "ENOSYS") {
				t.Errorf("no audit: %+v", r.records)
			}
			// An address that is not denied is reached in the same way.
			if test.addr == addr {
				allowed := denied.beside(t, "127.0.0.3")
				native := run{}.native(t, victim("net"), test.way, "127.0.0.3", denied.port, other)
				arrived := allowed.arrived(t)
				r := run{policy: denyNetwork(addr)}.protected(t, victim("net"), test.way, "127.0.0.3", denied.port, other)
				if n := allowed.arrived(t); n != arrived && !strings.Contains(test.want, "ENOSYS") || r.out != native.out && !strings.Contains(test.want, "ENOSYS") {
					t.Errorf("allowed: %d arrived, %q %s; alone: %d, %q", n, r.out, r.err, arrived, native.out)
				}
			}
		})
	}
}

func needMPTCP(t *testing.T) {
	t.Helper()
	needSocket(t, unix.AF_INET, unix.IPPROTO_MPTCP)
}

// needSocket skips a test where stream sockets of a family and protocol cannot
// be made.
func needSocket(t *testing.T, family, protocol int) {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_STREAM, protocol)
	if err != nil {
		t.Skipf("needs sockets of family %d, protocol %d in the kernel: %v", family, protocol, err)
	}
	unix.Close(fd)
}

// TestConnectUnspecified reaches the loopback address by the name 0.0.0.0.
func TestConnectUnspecified(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ way, addr, listen string }{
		{"connect", "0.0.0.0", "127.0.0.1"},
		{"sendto", "0.0.0.0", "127.0.0.1"},
		{"mapped", "::ffff:0.0.0.0", "127.0.0.1"},
		{"connect6", "::", "::1"},
		{"connect6", "::1", "::1"},
	} {
		t.Run(test.way+" "+test.addr, func(t *testing.T) {
			denied := newSinks(t, test.listen)
			native := run{}.native(t, victim("net"), test.way, test.addr, denied.port)
			if denied.arrived(t) == 0 {
				t.Errorf("alone, nothing arrived: %s%s", native.out, native.err)
			}
			r := run{policy: denyNetwork(test.listen)}.protected(t, victim("net"), test.way, test.addr, denied.port)
			if n := denied.arrived(t); n != 0 || !strings.HasSuffix(r.out, ": EACCES\n") {
				t.Errorf("%d arrived; %q %s", n, r.out, r.err)
			}
		})
	}
}

// TestOwnTable sends from a thread with descriptors of its own. Under the number
// of its UDP socket the first thread has a Unix socket, and before Linux 6.9
// only the first one's can be looked at: then the call is one that cannot be
// read.
func TestOwnTable(t *testing.T) {
	t.Parallel()
	denied := newSinks(t, "127.0.0.2")
	argv := []string{victim("net"), "own-table", "127.0.0.2", denied.port}
	if native := (run{}).native(t, argv...); denied.arrived(t) == 0 {
		t.Fatalf("alone, nothing arrived: %s%s", native.out, native.err)
	}
	r := run{policy: denyNetwork("127.0.0.2")}.protected(t, argv...)
	if n := denied.arrived(t); n != 0 || r.out != "sendmsg: EACCES\n" || len(r.of("explicitlyDeniedIP"))+len(r.of("unreadableCall")) != 1 {
		t.Errorf("%d arrived; %q %s, audits %+v", n, r.out, r.err, r.records)
	}
}

// TestRawSockets sends packets of a protocol of its own. It needs the
// capability that default containers have.
func TestRawSockets(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, test := range []struct{ way, addr string }{{"raw", "127.0.0.2"}, {"unspec-raw6", "::1"}} {
		t.Run(test.way, func(t *testing.T) {
			native := run{}.native(t, victim("net"), test.way, test.addr, "0")
			if native.out != "sendto: ok\n" {
				t.Skipf("alone: %s%s", native.out, native.err)
			}
			r := run{policy: denyNetwork(test.addr)}.protected(t, victim("net"), test.way, test.addr, "0")
			if r.out == native.out {
				t.Errorf("protected: %+v", r)
			}
		})
	}
}

// TestSandboxOfItsOwn is a known limit: a target that forbids itself to connect
// (landlock(7)) connects all the same, because we do it for it. It tells when
// that has changed.
func TestSandboxOfItsOwn(t *testing.T) {
	t.Parallel()
	there := newSinks(t, "127.0.0.3")
	native := run{}.native(t, victim("net"), "landlock", "127.0.0.3", there.port)
	if native.out != "connect: EACCES\n" {
		t.Skipf("needs Landlock for TCP: %s", native.out)
	}
	r := run{policy: denyNetwork("127.0.0.2")}.protected(t, victim("net"), "landlock", "127.0.0.3", there.port)
	t.Logf("alone: %sprotected: %s", native.out, r.out)
}

func TestIOUring(t *testing.T) {
	t.Parallel()
	native := run{}.native(t, victim("net"), "io_uring", "127.0.0.1", "1")
	r := run{policy: denyNetwork("127.0.0.2")}.protected(t, victim("net"), "io_uring", "127.0.0.1", "1")
	if r.out != "io_uring_setup: ENOSYS\n" {
		t.Errorf("protected: %q, alone: %q", r.out, native.out)
	}
}

// TestConnectRace changes the address of a call, or its socket, while it is
// judged.
func TestConnectRace(t *testing.T) {
	for _, how := range []string{
		"connect", "sendto", "sendmsg", "sendmmsg", "name", "length", "vector", "swap-unix", "swap-stream", "swap-datagrams",
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			out, audits, n := connectRace(t, how)
			t.Logf("%s%d audits", out, audits)
			if n != 0 {
				t.Errorf("%d arrived at the denied address: %s", n, out)
			}
		})
	}
}

// TestUncheckedSwap is a known limit: a call on a Unix socket or on an
// established stream goes on in the kernel, and a thread that exchanges the
// descriptor for a datagram socket at that moment has it sent unjudged. It
// cannot choose the moment: many more of its calls meet us with the datagram
// socket, and are refused and told.
func TestUncheckedSwap(t *testing.T) {
	for _, how := range []string{"unix-send", "unix-sendmsg", "unix-connect", "stream-sendmsg"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			out, audits, n := connectRace(t, how)
			t.Logf("%d arrived at the denied address, %d audits: %s", n, audits, out)
			if n > 0 && audits == 0 {
				t.Error("nothing is told")
			}
		})
	}
}

// connectRace runs a race of the victim netrace and returns its output, the
// number of audits, and how much arrived at the denied address.
func connectRace(t *testing.T, how string) (out string, audits, arrived int) {
	const allow, deny = "127.0.0.3", "127.0.0.2"
	denied := newSinks(t, deny)
	denied.beside(t, allow)
	argv := []string{victim("netrace"), how, "0.2", allow, deny, denied.port}
	alone := 0
	for i := 0; i < 50 && alone == 0; i++ {
		run{}.native(t, argv...)
		alone = denied.arrived(t)
	}
	if alone == 0 {
		t.Error("alone, nothing arrived at the denied address")
	}
	argv[2] = fmt.Sprint(raceTime.Seconds())
	r := run{policy: denyNetwork(deny)}.protected(t, argv...)
	return r.out, len(r.records), denied.arrived(t)
}

// TestBlockingConnect ends a connect that would wait for minutes.
func TestBlockingConnect(t *testing.T) {
	t.Parallel()
	for how, want := range map[string]string{
		"eintr":    "connect: EINTR\n",
		"alarm":    "connect: EINTR\n",
		"restart":  "connect: EINTR\n",
		"sndtimeo": "connect: EINTR\n",
		"timeout":  "connect: EINPROGRESS\n",
		"other":    "connect: EINTR\n",
		"ignored":  "connect: EINTR\n",
		"many":     "exec: ok\n",
		"kill":     "",
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			native := run{}.native(t, victim("block"), how)
			if native.out != want {
				t.Errorf("alone: %q %s, want %q", native.out, native.err, want)
			}
			r := run{policy: denyNetwork("127.0.0.2")}.protected(t, victim("block"), how)
			if r.out != want || r.status != native.status {
				t.Errorf("protected: %q %s, status %d, want %q, %d", r.out, r.err, r.status, want, native.status)
			}
		})
	}
}

// TestStuckRead has the supervisor read memory and files that do not come, for
// the target serves them itself: other calls are answered.
func TestStuckRead(t *testing.T) {
	t.Parallel()
	for how, arg := range map[string]string{
		"page": "", "path": "", "message": "", "fuse-page": "", "fuse-file": "", "fifo": loader, "lease": "leased", "fanotify": "leased", "many": "",
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			dir := workDir(t, 0)
			if arg == "leased" {
				program, err := os.ReadFile(victim("prog-a"))
				if err != nil {
					t.Fatal(err)
				}
				arg = filepath.Join(dir, arg)
				give(t, dir, map[string][]byte{"leased": program})
			}
			argv := []string{victim("fault"), how, arg}
			native := run{}.native(t, argv...)
			if native.out == "unsupported\n" {
				t.Skip("needs /dev/userfaultfd, /dev/fuse and mounts")
			}
			for _, flags := range [][]string{nil, monitoring} {
				policy := denyNetwork("127.0.0.2") + "    processes: {effect: prevent, deny: [prog-d]}\n    files: {effect: prevent, deny: [/nowhere]}\n"
				if r := (run{policy: policy, flags: flags}).protected(t, argv...); r.out != "exec: ok\n" || r.out != native.out {
					t.Errorf("alone: %q, protected: %q %s", native.out, r.out, r.err)
				}
			}
		})
	}
}

// TestLeased has a program judged that another process has a lease on: it is
// not taken for another one because it cannot be read at once.
func TestLeased(t *testing.T) {
	t.Parallel()
	busybox := needTool(t, "busybox")
	dir := workDir(t, 0)
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "innocent")
	give(t, dir, map[string][]byte{"innocent": program})
	argv := []string{victim("fault"), "leased-again", name, "busybox", "mkdir", "made"}
	did := func(r result) bool { _, err := os.Stat(filepath.Join(r.dir, "made")); return err == nil }
	if r := (run{}).native(t, argv...); r.out == "unsupported\n" || !did(r) {
		t.Skipf("needs leases: %q %s", r.out, r.err)
	}
	policy := strings.ReplaceAll(denyProgram, "prog-d", "mkdir")
	if r := (run{policy: policy}).protected(t, argv...); did(r) || len(r.of("explicitlyDeniedProcess"))+len(r.of("unreadableCall"))+len(r.of("swappedProcess")) == 0 {
		t.Errorf("made %v: %q %s, audits %+v", did(r), r.out, r.err, r.records)
	}
}

// TestOtherFamilies makes a socket of each family that there is: where
// destinations are listed, those whose addresses no list can name are refused.
func TestOtherFamilies(t *testing.T) {
	t.Parallel()
	const count = 64
	judged := map[int]bool{}
	for f := range count { // linux/socket.h
		switch f {
		case 0, unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_KEY, unix.AF_PACKET, unix.AF_RDS, unix.AF_ALG,
			unix.AF_KCM, unix.AF_SMC, unix.AF_XDP:
		default:
			judged[f] = true
		}
	}
	for _, above := range []string{"0", "7"} { // what the kernel does not look at
		argv := []string{victim("net"), "families", fmt.Sprint(count), above}
		native := run{}.native(t, argv...)
		lines := strings.SplitAfter(native.out, "\n")
		if len(lines) != count+1 {
			t.Fatalf("alone: %q %s", native.out, native.err)
		}
		want := func(allowed int) string {
			list := append([]string(nil), lines...)
			for f := range judged {
				if f != allowed {
					list[f] = fmt.Sprintf("%d socket: EACCES\n", f)
				}
			}
			return strings.Join(list, "")
		}
		for _, test := range []struct{ policy, want string }{
			{"", native.out},
			{denyNetwork("127.0.0.2"), want(-1)},
			{"version: 1\nrules:\n  - name: r\n    network: {effect: prevent, outbound: {allow: [10.0.0.0/8], allowFamilies: [vsock]}}\n", want(unix.AF_VSOCK)},
		} {
			r := run{policy: test.policy}.protected(t, argv...)
			if r.out != test.want || (len(r.of("explicitlyDeniedSocketFamily")) == 0) != (test.policy == "") {
				t.Errorf("%s\ngot  %q %s\nwant %q", test.policy, r.out, r.err, test.want)
			}
		}
	}
}

// TestBadAddresses gives calls addresses that their process may not read.
func TestBadAddresses(t *testing.T) {
	t.Parallel()
	native := run{}.native(t, victim("fault"), "none")
	r := run{policy: denyNetwork("127.0.0.2") + "    processes: {effect: prevent, deny: [prog-d]}\n"}.protected(t, victim("fault"), "none")
	if r.out != native.out || r.status != native.status || strings.Count(native.out, "EFAULT") != 4 || len(r.audits()) > 0 {
		t.Errorf("alone: %q, protected: %q %s, audits %+v", native.out, r.out, r.err, r.audits())
	}
}

// TestSocketsAreReleased looks for the supervisor's duplicates of sockets.
func TestSocketsAreReleased(t *testing.T) {
	t.Parallel()
	for victimName, want := range map[string]string{"rebind": "busy 0\n", "eof": "late 0\n"} {
		t.Run(victimName, func(t *testing.T) {
			t.Parallel()
			if r := (run{}).native(t, victim(victimName), "2000"); r.out != want {
				t.Errorf("alone: %q %s", r.out, r.err)
			}
			if r := (run{policy: denyNetwork("127.0.0.2")}).protected(t, victim(victimName), "2000"); r.out != want {
				t.Errorf("protected: %q %s", r.out, r.err)
			}
		})
	}
}

// TestReach attacks the supervisor and its guardian.
func TestReach(t *testing.T) {
	t.Parallel()
	tests := []struct {
		way       string
		protected string // "" is EPERM
		perfmon   bool   // CAP_PERFMON reads it from Linux 6.17 on (kernel/fork.c, may_access_mm): addresses, and a block of zeros
	}{
		{way: "kill"}, {way: "kill-64"}, {way: "stop"}, {way: "tkill"}, {way: "tkill-64"}, {way: "tgkill"}, {way: "tgkill-64"},
		{way: "sigqueue"}, {way: "tgsigqueue"}, {way: "pidfd"}, {way: "proc-pidfd"}, {way: "group"}, {way: "group-64"},
		{way: "child-joins-group"}, {way: "bound-proc-pidfd"}, {way: "threads-signals", protected: "ok"}, {way: "fasync-signals", protected: "ok"}, {way: "fasync"}, {way: "fasync-group"}, {way: "fasync-thread"}, {way: "all"},
		{way: "threads-queued-signals", protected: "ok"}, {way: "proc-pidfd-signals", protected: "ok"}, {way: "proc-pidfd-group"}, {way: "pidfd-race", protected: "ok"},
		{way: "clone-parent-signal", protected: "ok"}, {way: "exit-signal", protected: "ok"}, {way: "timer", protected: "EINVAL"},
		{way: "prlimit"}, {way: "affinity"}, {way: "scheduler"}, {way: "nice"}, {way: "ioprio"},
		{way: "threads-kill"}, {way: "threads-tkill"}, {way: "threads-tgkill"}, {way: "threads-sigqueue"}, {way: "threads-pidfd"},
		{way: "threads-affinity"}, {way: "threads-scheduler"}, {way: "threads-nice"}, {way: "threads-ioprio"},
		{way: "nice-group"}, {way: "threads-proc-tid-pidfd"}, {way: "threads-prlimit"}, {way: "threads-prlimit64"}, {way: "threads-seize"},
		{way: "attach"}, {way: "seize"}, {way: "readv"}, {way: "writev"}, {way: "kcmp"}, {way: "getfd"}, {way: "madvise"},
		{way: "mem", protected: "EACCES"}, {way: "environ", protected: "EACCES", perfmon: true}, {way: "maps", protected: "EACCES", perfmon: true},
		{way: "attr", protected: "EACCES"}, {way: "oom", protected: "ok"}, {way: "timerslack", protected: "ok"},
		{way: "fd", protected: "EACCES"}, {way: "fdinfo", protected: "EACCES"},
		{way: "root", protected: "EACCES"}, {way: "exe", protected: "EACCES"}, {way: "netns", protected: "EACCES"},
	}
	for _, uid := range []int{0, 1000} {
		for _, who := range []string{"parent", "grandparent"} {
			for _, test := range tests {
				t.Run(fmt.Sprintf("uid %d/%s/%s", uid, who, test.way), func(t *testing.T) {
					t.Parallel()
					native := run{uid: uid}.native(t, victim("host"), victim("reach"), who, test.way)
					r := run{uid: uid, policy: denyProgram}.protected(t, victim("reach"), who, test.way, victim("exec"), "plain", victim("prog-d"))
					if test.protected == "" {
						test.protected = "EPERM"
					}
					// Whatever it answers, supervision goes on.
					if !strings.HasSuffix(r.out, "alive\nexec: EACCES\n") || r.status != 1 {
						t.Errorf("protected: status %d, %q %s\nalone: %q", r.status, r.out, r.err, native.out)
					}
					got, _, _ := strings.Cut(strings.TrimPrefix(r.out, test.way+": "), "\n")
					refusals := map[string]bool{test.protected: true, "EPERM": true, "EACCES": true}
					if !refusals[got] && !strings.HasPrefix(native.out, test.way+": "+got) {
						t.Errorf("protected: %s, want %s; alone: %q", got, test.protected, native.out)
					}
					if got == "ok" && test.protected != "ok" && !(test.perfmon && uid == 0 && kernelIs(6, 17)) {
						t.Errorf("protected: ok, want %s; alone: %q", test.protected, native.out)
					}
				})
			}
		}
	}
}

// TestSecretsAreWiped looks for our variables where a target may look.
func TestSecretsAreWiped(t *testing.T) {
	t.Parallel()
	for _, flags := range [][]string{nil, {"--keep-ptrace"}} {
		r := run{env: []string{"DEFENDER_IMAGE=a-great-secret"}, flags: flags}.protected(t, "sh", "-c",
			`cat /proc/$PPID/environ /proc/[0-9]*/environ /proc/[0-9]*/task/*/environ 2>/dev/null | tr '\0' '\n' | grep -a '^DEFENDER_IMAGE=a-great'; env | grep DEFENDER_; true`)
		if r.out != "" || r.status != 0 {
			t.Errorf("%v: a target sees %q %s", flags, r.out, r.err)
		}
	}
}

// TestChangedUser judges a target that became another user. Without
// CAP_SYS_PTRACE nobody may look into a process between its setuid and its
// exec: what cannot be read is refused.
func TestChangedUser(t *testing.T) {
	t.Parallel()
	needRoot(t)
	denied := newSinks(t, "127.0.0.2")
	for _, test := range []struct {
		name  string
		wrap  []string
		blind bool
	}{
		{"as root", nil, false},
		{"on one processor", []string{"taskset", "-c", "0"}, false},
		{"with no_new_privs", []string{"setpriv", "--no-new-privs"}, false},
		{"without CAP_SYS_PTRACE", withoutPtrace, true},
		{"with hardly any capability", []string{"setpriv", "--bounding-set", "-all,+setuid,+setgid,+kill,+setpcap", "--inh-caps", "-all"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := run{wrap: test.wrap, policy: denyProgram + "    network: {effect: prevent, outbound: {deny: [127.0.0.2]}}\n"}
			for _, argv := range [][]string{
				{victim("drop"), "exec", victim("prog-d")},
				{victim("drop"), "dumpable", victim("prog-d")},
				{victim("drop"), "dumpable", victim("exec"), "plain", victim("prog-d")},
				{victim("drop"), "dumpable", victim("net"), "connect", "127.0.0.2", denied.port},
				{victim("drop"), "connect", "127.0.0.2", denied.port},
			} {
				res := r.protected(t, argv...)
				if !strings.HasSuffix(res.out, ": EACCES\n") || res.status != 1 || denied.arrived(t) != 0 {
					t.Errorf("%v: %q %s %+v", argv[1:], res.out, res.err, res.records)
				}
			}
			for _, argv := range [][]string{
				{victim("drop"), "dumpable", victim("prog-a")},
				{victim("drop"), "dumpable", victim("exec"), "plain", victim("prog-a")},
			} {
				if res := r.protected(t, argv...); res.out != "prog-a ran\n" {
					t.Errorf("%v: %q %s %+v", argv[1:], res.out, res.err, res.records)
				}
			}
			res := r.protected(t, victim("drop"), "exec", victim("prog-a"))
			if !test.blind && res.out != "prog-a ran\n" || test.blind && len(res.of("unreadableCall")) != 1 {
				t.Errorf("exec after setuid: %q %s %+v", res.out, res.err, res.records)
			}
		})
	}
}

// TestChangedUserConnects has a server that became another user connect under
// policies that refuse nothing, where nobody may look into it.
func TestChangedUserConnects(t *testing.T) {
	t.Parallel()
	needRoot(t)
	there := newSinks(t, "127.0.0.2")
	for _, test := range []struct {
		name, policy string
		flags        []string
		wrap         []string
	}{
		{name: "by default", wrap: withoutPtrace},
		{name: "by ptrace", wrap: withoutPtrace, flags: []string{"--supervisor", "ptrace"}},
		{name: "with CAP_SYS_PTRACE"},
		{name: "alert", wrap: withoutPtrace, policy: strings.Replace(denyNetwork("127.0.0.3"), "prevent", "alert", 1)},
		{name: "onUnknown", wrap: withoutPtrace, policy: denyNetwork("127.0.0.3") + "    onUnknown: alert\n"},
		{name: "dry run", wrap: withoutPtrace, policy: denyNetwork("127.0.0.3"), flags: []string{"--dry-run"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := run{wrap: test.wrap, policy: test.policy, flags: test.flags}.protected(t, victim("drop"), "connect", "127.0.0.2", there.port)
			if r.out != "connect: ok\n" || there.arrived(t) != 1 {
				t.Errorf("%q %s %+v", r.out, r.err, r.records)
			}
		})
	}
}

// TestNestedNamespace lets a target with a pid namespace of its own send
// signals there: its small numbers are not those of the defender.
func TestNestedNamespace(t *testing.T) {
	t.Parallel()
	needRoot(t)
	// The guardian is process 2 and the supervisor 3 of the outer namespace.
	const inner = `sleep 100 & sleep 100 & sleep 100 & kill $! && kill 2 && kill 3 && wait; echo done`
	r := run{wrap: []string{"unshare", "-pf", "--mount-proc", "sh", "-c", `"$@"; exit $?`, "sh"}}.protected(t,
		"unshare", "-pf", "--mount-proc", "sh", "-c", inner)
	if r.out != "done\n" || strings.Contains(r.err, "not permitted") {
		t.Errorf("%q %s", r.out, r.err)
	}
}

// TestManyDescriptors passes on more descriptors than anybody counted with.
func TestManyDescriptors(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := run{}
	script := fmt.Sprintf(`for i in $(seq 10 99); do eval "exec $i</dev/null"; done; exec 100>&3 3>&-; exec %s run -- bash -c 'ls /proc/self/fd | sort -n | tr "\n" " "; exec 100>&-; while [ ! -e closed ]; do sleep 0.02; done'`, victim("defender"))
	dir := workDir(t, 0)
	cmd := p.command(dir, needTool(t, "bash"), "-c", script)
	cmd.ExtraFiles = []*os.File{w}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	end := make(chan error, 1)
	go func() {
		_, err := r.Read(make([]byte, 1))
		end <- err
	}()
	select {
	case err := <-end:
		if err == nil {
			t.Error("the pipe has data")
		}
	case <-time.After(10 * time.Second):
		t.Error("the target closed the pipe, and somebody else still holds it")
	}
	if err := os.WriteFile(filepath.Join(dir, "closed"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
