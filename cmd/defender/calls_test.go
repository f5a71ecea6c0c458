package main

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestReachByUser lowers the priority of all processes of the Defender's user.
// It stays in a pid namespace, or it would reach everybody on this machine.
func TestReachByUser(t *testing.T) {
	t.Parallel()
	needRoot(t)
	// A shell is the namespace's first process, the Defender is not.
	contained := []string{"unshare", "-pf", "--mount-proc", "sh", "-c", `"$@"; exit $?`, "sh"}
	for _, way := range []string{"nice-user", "nice-own-user", "ioprio-user"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			mark := []string{"OWN_PID_NAMESPACE=1"}
			native := run{env: mark}.native(t, append(append([]string{}, contained...), victim("host"), victim("reach"), "parent", way)...)
			if !strings.HasPrefix(native.out, way+": ok\n") {
				t.Skipf("alone: %s%s", native.out, native.err)
			}
			r := run{wrap: contained, env: mark}.protected(t, victim("reach"), "parent", way)
			if want := fmt.Sprintf("%s: EPERM\nalive\n", way); r.out != want {
				t.Errorf("protected: %q %s, want %q", r.out, r.err, want)
			}
		})
	}
}

// TestReachComing signals threads that the supervisor is about to start. It stays in
// a pid namespace, where nobody else starts anything.
func TestReachComing(t *testing.T) {
	t.Parallel()
	needRoot(t)
	contained := []string{"unshare", "-pf", "--mount-proc", "sh", "-c", `"$@"; exit $?`, "sh"}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil && strings.HasSuffix(string(load), " 0\n") {
		t.Skipf("/proc/loadavg does not tell the number given last: %s", load) // gVisor
	}
	policy := denyProgram + "    network: {effect: prevent, outbound: {deny: [127.0.0.2]}}\n"
	r := run{policy: policy, wrap: contained, env: []string{"OWN_PID_NAMESPACE=1"}}.protected(t,
		victim("reach"), "parent", "coming-threads", victim("exec"), "plain", victim("prog-d"))
	if r.out != "coming-threads: ok\nalive\nexec: EACCES\n" || r.status != 1 {
		t.Errorf("status %d: %q %s", r.status, r.out, r.err)
	}
}

// listenWays opens a port in every way there is. own says that it takes a
// port of the test's choice, where a rule could be about it.
var listenWays = []struct {
	way string
	own bool
}{
	{"tcp", true}, {"everywhere", true}, {"unspec", true}, {"tcp6", true}, {"mapped", true}, {"short6", true},
	{"garbage", true}, {"mptcp", true}, {"reuse", true}, {"twice", true}, {"udp", true}, {"udp6", true},
	{"bound-twice", false}, {"unbound", false}, {"unbound6", false}, {"any-port", false}, {"late-port", false},
	{"udp-any-port", false}, {"source-port", false}, {"listen-udp", false}, {"wrong-family", false},
	{"too-short", false}, {"no-memory", false}, {"no-socket", false}, {"not-ours", false}, {"unix", false},
}

// ownNetwork starts what follows with a network of its own, so that no other
// program has its ports.
var ownNetwork = []string{"unshare", "-n", "sh", "-c", `ip link set lo up && exec "$@"`, "sh"}

// TestListenAllowed opens ports where no rule is about them: all must be as it
// is alone.
func TestListenAllowed(t *testing.T) {
	t.Parallel()
	needRoot(t)
	needTool(t, "ip")
	type try struct{ way, port string }
	var tries []try
	for _, w := range listenWays {
		tries = append(tries, try{w.way, "18080"})
	}
	// Ports below 1024 belong to those with CAP_NET_BIND_SERVICE.
	for _, way := range []string{"tcp", "udp", "no-service", "user", "namespace", "other-namespace"} {
		tries = append(tries, try{way, "80"})
	}
	for _, test := range tries {
		t.Run(test.way+" "+test.port, func(t *testing.T) {
			t.Parallel()
			native := run{}.native(t, append(append([]string{}, ownNetwork...), victim("listen"), test.way, test.port)...)
			r := run{wrap: ownNetwork}.protected(t, victim("listen"), test.way, test.port)
			if r.out != native.out || r.status != native.status {
				t.Errorf("protected: %q %s, alone: %q", r.out, r.err, native.out)
			}
		})
	}
}

func networkRule(rest string) string {
	return fmt.Sprintf("version: 1\nrules:\n  - name: r\n    network: {effect: prevent, %s}\n", rest)
}

// TestListenWays opens a denied port in every way there is.
func TestListenWays(t *testing.T) {
	t.Parallel()
	needRoot(t)
	needTool(t, "ip")
	for _, test := range listenWays {
		t.Run(test.way, func(t *testing.T) {
			t.Parallel()
			if test.way == "mptcp" {
				needMPTCP(t)
			}
			argv := []string{victim("listen"), test.way, "18080"}
			native := run{}.native(t, append(append([]string{}, ownNetwork...), argv...)...)
			r := run{wrap: ownNetwork, policy: networkRule(`listen: {denyPorts: ["18080"]}`)}.protected(t, argv...)
			n := len(r.of("explicitlyDeniedListeningPort"))
			if !test.own {
				if r.out != native.out || n > 0 {
					t.Errorf("protected: %q %s, alone: %q, %d audits", r.out, r.err, native.out, n)
				}
				return
			}
			if !strings.HasSuffix(r.out, ": EACCES\n") || strings.Contains(r.out, "listen: ok") || n != 1 {
				t.Errorf("protected: %q %s, alone: %q, audits %+v", r.out, r.err, native.out, r.records)
			}
			if rec := r.of("explicitlyDeniedListeningPort"); n == 1 && rec[0].Port != 18080 {
				t.Errorf("audit %+v", rec[0])
			}
			for _, rest := range []string{`listen: {denyPorts: ["18081"]}`, `listen: {allowPorts: ["18080"]}`} {
				if r := (run{wrap: ownNetwork, policy: networkRule(rest)}).protected(t, argv...); r.out != native.out || len(r.audits()) > 0 {
					t.Errorf("%s: %q %s, alone: %q, audits %+v", rest, r.out, r.err, native.out, r.records)
				}
			}
		})
	}
	// A port that the kernel chose is a port.
	for _, way := range []string{"unbound", "unbound6", "any-port"} {
		t.Run(way+" where one port is allowed", func(t *testing.T) {
			t.Parallel()
			r := run{wrap: ownNetwork, policy: networkRule(`listen: {allowPorts: ["18080"]}`)}.protected(t, victim("listen"), way, "1")
			if !strings.HasSuffix(r.out, "listen: EACCES\n") || len(r.of("explicitlyDeniedListeningPort")) != 1 {
				t.Errorf("%q %s, audits %+v", r.out, r.err, r.records)
			}
		})
	}
}

// unixSinks listens on path, on path.d for datagrams, and on the abstract name
// of path's base. Whoever connects is told the process that is seen.
func unixSinks(t *testing.T, path string) *atomic.Int64 {
	t.Helper()
	var arrived atomic.Int64
	for _, name := range []string{path, "@" + filepath.Base(path)} {
		l, err := net.Listen("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				arrived.Add(1)
				raw, _ := c.(*net.UnixConn).SyscallConn()
				_ = raw.Control(func(fd uintptr) {
					if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
						fmt.Fprintf(c, "%d", cred.Pid)
					}
				})
				c.Close()
			}
		}()
	}
	d, err := net.ListenPacket("unixgram", path+".d")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	go func() {
		for buf := make([]byte, 64); ; {
			if _, _, err := d.ReadFrom(buf); err != nil {
				return
			}
			arrived.Add(1)
		}
	}()
	return &arrived
}

// TestUnixWays reaches a denied Unix socket in every way there is.
func TestUnixWays(t *testing.T) {
	t.Parallel()
	tests := []struct {
		way    string
		denied string // "": it is no way to a denied socket
	}{
		{"plain", "connect"}, {"unterminated", "connect"}, {"relative", "connect"}, {"dots", "connect"}, {"symlink", "connect"},
		{"cwd", "connect"}, {"fd", "connect"}, {"abstract", "connect"}, {"sendto", "sendto"}, {"sendmsg", "sendmsg"},
		{"sendmmsg", "sendmmsg"}, {"dgram-connect", "connect"},
		{"no-socket", ""}, {"nothing", ""}, {"pair", ""},
	}
	for _, test := range tests {
		t.Run(test.way, func(t *testing.T) {
			t.Parallel()
			place := func() string {
				path := filepath.Join(workDir(t, 0), "run", fmt.Sprintf("s%d", runs.Add(1)))
				if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				return path
			}
			path := place()
			unixSinks(t, path)
			argv := []string{victim("unix"), test.way, path}
			native := run{}.native(t, argv...)
			allowed := run{policy: networkRule(`unix: {deny: ["/nowhere"]}`)}.protected(t, argv...)
			if allowed.out != native.out || len(allowed.audits()) > 0 {
				t.Errorf("allowed: %q %s, alone: %q, audits %+v", allowed.out, allowed.err, native.out, allowed.records)
			}
			path = place()
			arrived := unixSinks(t, path)
			argv[2] = path
			r := run{policy: networkRule(fmt.Sprintf("unix: {deny: [%q, %q, %q]}", path, path+".d", "@"+filepath.Base(path)))}.protected(t, argv...)
			n := len(r.of("explicitlyDeniedUnixSocket"))
			if test.denied == "" {
				if r.out != native.out || n > 0 {
					t.Errorf("protected: %q %s, alone: %q, %d audits", r.out, r.err, native.out, n)
				}
				return
			}
			if !strings.Contains(native.out, ": ok\n") {
				t.Fatalf("alone: %q %s", native.out, native.err)
			}
			if r.out != test.denied+": EACCES\n" || n != 1 {
				t.Errorf("protected: %q %s, audits %+v", r.out, r.err, r.records)
			}
			// Datagrams keep their order: ours is the first.
			c, err := net.Dial("unixgram", path+".d")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write([]byte("last")); err != nil {
				t.Fatal(err)
			}
			for arrived.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
			if n := arrived.Load(); n != 1 {
				t.Errorf("the denied socket was reached %d times", n-1)
			}
		})
	}
}

// TestUnixHardLink reaches a socket by a name that nobody denied: that it has
// another one is enough where there is a deny list, unless the name is allowed.
func TestUnixHardLink(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, unix, want string }{
		{"denied", `{deny: ["SOCKET"]}`, "connect: EACCES\n"},
		{"another denied", `{deny: ["/nowhere"]}`, "connect: EACCES\n"},
		{"allowed by that name", `{deny: ["/nowhere"], allow: [hard]}`, "connect: ok\nseen: me\n"},
		{"allowed by the other", `{allow: ["SOCKET"]}`, "connect: EACCES\n"},
		{"nothing denied", `{allow: ["*"]}`, "connect: ok\nseen: me\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := workDir(t, 0)
			path := filepath.Join(dir, fmt.Sprintf("h%d", runs.Add(1)))
			unixSinks(t, path)
			r := run{dir: dir, policy: networkRule("unix: " + strings.ReplaceAll(c.unix, "SOCKET", path))}.protected(t, victim("unix"), "hard-link", path)
			if told := r.of("explicitlyDeniedUnixSocket"); r.out != c.want || (len(told) == 1) != strings.HasSuffix(c.want, "EACCES\n") {
				t.Errorf("%q %s, want %q; audits %+v", r.out, r.err, c.want, r.records)
			}
		})
	}
}

// TestRenamed starts a multi-call program or a loader under another name, to
// do what is denied.
func TestRenamed(t *testing.T) {
	t.Parallel()
	mkdir := needTool(t, "mkdir")
	if resolved, err := filepath.EvalSymlinks(mkdir); err == nil && filepath.Base(resolved) != "mkdir" {
		t.Skipf("needs a mkdir of its own: it is %s", resolved)
	}
	musl := map[string]string{"amd64": "/lib/ld-musl-x86_64.so.1", "arm64": "/lib/ld-musl-aarch64.so.1"}[runtime.GOARCH]
	// How the other name is made.
	const as = `f() { cp -L "$1" innocent; }; l() { ln "$(realpath "$1")" innocent || cp -L "$1" innocent; }; s() { ln -s "$1" innocent; }; `
	tests := []struct{ name, program, script string }{
		{"copy of busybox", "/bin/busybox", `f $P; exec $0 argv0 ./innocent mkdir made`},
		{"copy of busybox named as it", "/bin/busybox", `f $P; exec $0 argv0 ./innocent busyboxes mkdir made`},
		{"copy of busybox twice", "/bin/busybox", `f $P; exec $0 argv0 ./innocent busybox busybox mkdir made`},
		{"copy of busybox with something behind it", "/bin/busybox", `f $P; head -c 9000000 /dev/zero >>innocent; exec $0 argv0 ./innocent mkdir made`},
		{"hard link to busybox", "/bin/busybox", `l $P; exec $0 argv0 ./innocent mkdir made`},
		{"symbolic link to busybox", "/bin/busybox", `s $P; exec $0 argv0 ./innocent mkdir made`},
		{"busybox of busybox", "/bin/busybox", `exec $P busybox mkdir made`},
		{"busybox of its env", "/bin/busybox", `f $P; exec $0 argv0 ./innocent env mkdir made`},
		{"copy of busybox behind a loader", "/bin/busybox", `f $P; ! ` + loader + ` ./innocent true || exec ` + loader + ` --argv0 mkdir ./innocent made; exec $0 argv0 ./innocent mkdir made`},
		{"copy of a loader", loader, `f $P; exec ./innocent $M made`},
		{"hard link to a loader", loader, `l $P; exec ./innocent $M made`},
		{"symbolic link to a loader", loader, `s $P; exec ./innocent $M made`},
		{"loader by descriptor", loader, `f $P; exec $0 proc-fd ./innocent $M made`},
		{"script of a copied loader", loader, `f $P; printf '#!%s %s\n' "$PWD/innocent" "$M" >script; chmod +x script; ./script; true`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			needTool(t, test.program)
			// $0 is the victim "exec", $M and $P are to be had from others.
			argv := []string{"bash", "-c", "M=" + mkdir + " P=" + test.program + "; " + as + test.script, victim("exec")}
			did := func(r result) bool {
				_, err := os.Stat(filepath.Join(r.dir, "made"))
				return err == nil || strings.Contains(r.err, "File exists")
			}
			if native := (run{}).native(t, argv...); !did(native) {
				t.Fatalf("alone it made nothing: %+v", native)
			}
			r := run{policy: "version: 1\nrules:\n  - name: r\n    processes: {effect: prevent, deny: [mkdir]}\n"}.protected(t, argv...)
			if did(r) || len(r.of("explicitlyDeniedProcess")) == 0 {
				t.Errorf("protected: made=%v, audits %+v, output %s", did(r), r.records, r.err)
			}
		})
	}
	t.Run("musl's loader", func(t *testing.T) {
		t.Parallel()
		needTool(t, musl)
		needTool(t, "musl-gcc")
		dir := workDir(t, 0)
		program := filepath.Join(dir, "denied")
		source := filepath.Join(dir, "denied.c")
		if err := os.WriteFile(source, []byte("#include <unistd.h>\nint main(void) { return write(1, \"ran\\n\", 4) != 4; }\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("musl-gcc", "-o", program, source).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		argv := []string{musl, program}
		if native := (run{}).native(t, argv...); native.out != "ran\n" {
			t.Fatalf("alone: %+v", native)
		}
		r := run{policy: "version: 1\nrules:\n  - name: r\n    processes: {effect: prevent, deny: [denied]}\n"}.protected(t, argv...)
		if r.out != "" || len(r.of("explicitlyDeniedProcess")) == 0 {
			t.Errorf("protected: %+v", r)
		}
	})
}

// TestForeignProgram starts a program for the processor's other call table.
// Nothing of it could be seen: it does not start, and that is said.
func TestForeignProgram(t *testing.T) {
	t.Parallel()
	program := filepath.Join(workDir(t, 0), "program32")
	if err := os.WriteFile(program, program32(t), 0o755); err != nil {
		t.Fatal(err)
	}
	if native := (run{}).native(t, program); native.out != "ran\n" || native.status != 7 {
		t.Skipf("needs a kernel and a processor that run 32-bit programs: %+v", native)
	}
	for _, argv := range [][]string{{victim("exec"), "plain", program}, {victim("exec"), "spawn", program}, {victim("exec"), "proc-fd", program}} {
		r := run{}.protected(t, argv...)
		if r.out != "exec: ENOEXEC\n" || len(r.audits()) > 0 || !r.says("32-bit") {
			t.Errorf("%v: %q %s, audits %+v", argv, r.out, r.err, r.records)
		}
	}
}

// program32 is a program for the processor's 32-bit form that writes "ran" and
// exits with 7: its file, for there may be no compiler for it.
func program32(t *testing.T) []byte {
	t.Helper()
	const (
		base   = 0x100000
		before = 52 + 32 // the headers of the file and of its one segment
	)
	var machine elf.Machine
	var flags uint32
	var code []byte
	switch runtime.GOARCH {
	case "amd64":
		machine = elf.EM_386
		code = []byte{
			0xb8, 4, 0, 0, 0, // mov $4, %eax: write
			0xbb, 1, 0, 0, 0, // mov $1, %ebx
			0xb9, before + 34, 0, base >> 16, 0, // mov $text, %ecx
			0xba, 4, 0, 0, 0, // mov $4, %edx
			0xcd, 0x80, // int $0x80
			0xb8, 1, 0, 0, 0, // mov $1, %eax: exit
			0xbb, 7, 0, 0, 0, // mov $7, %ebx
			0xcd, 0x80,
		}
	case "arm64":
		machine, flags = elf.EM_ARM, 0x05000000 // EABI 5
		for _, word := range []uint32{
			0xe3a07004, // mov r7, #4: write
			0xe3a00001, // mov r0, #1
			0xe28f1010, // adr r1, text
			0xe3a02004, // mov r2, #4
			0xef000000, // svc 0
			0xe3a07001, // mov r7, #1: exit
			0xe3a00007, // mov r0, #7
			0xef000000,
		} {
			code = binary.LittleEndian.AppendUint32(code, word)
		}
	default:
		t.Skipf("has no 32-bit program for %s", runtime.GOARCH)
	}
	code = append(code, "ran\n"...)
	size := uint32(before + len(code))
	file, err := binary.Append(nil, binary.LittleEndian, elf.Header32{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS32), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Entry: base + before, Phoff: 52, Flags: flags, Ehsize: 52, Phentsize: 32, Phnum: 1,
	})
	if err == nil {
		file, err = binary.Append(file, binary.LittleEndian, elf.Prog32{
			Type: uint32(elf.PT_LOAD), Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Flags: uint32(elf.PF_R | elf.PF_X), Align: 0x1000,
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return append(file, code...)
}

// TestControlData sends what only some may send, with and without the right
// to: we have it, and must not lend it. What leads packets elsewhere than the
// judged address says nobody may.
func TestControlData(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for way, privileged := range map[string]bool{
		"mark": true, "hopopts": true, "ttl": false, "retopts": false, "bad": false, "options": false, "options-off": false, "rthdr": false,
	} {
		for _, who := range []string{"", "-none", "-user"} {
			t.Run(way+who, func(t *testing.T) {
				t.Parallel()
				addr := "127.0.0.1"
				if way == "hopopts" || way == "rthdr" {
					addr = "::1"
				}
				s := newSinks(t, addr)
				argv := []string{victim("control"), way + who, addr, s.port}
				native := run{}.native(t, argv...)
				if privileged && who != "" && !strings.HasSuffix(native.out, ": EPERM\n") {
					t.Fatalf("alone: %q %s", native.out, native.err)
				}
				want := native.out
				if slices.Contains([]string{"retopts", "options", "rthdr"}, way) {
					want = way + who + ": EPERM\n"
				}
				if r := (run{}).protected(t, argv...); r.out != want {
					t.Errorf("protected: %q %s, want %q, alone: %q", r.out, r.err, want, native.out)
				}
			})
		}
	}
}

// TestDetections does what a rule detects by what the supervisor finds out.
func TestDetections(t *testing.T) {
	t.Parallel()
	detect := func(section, key string) string {
		return fmt.Sprintf("version: 1\nrules:\n  - name: r\n    %s: {effect: alert, detect: {%s: prevent}}\n", section, key)
	}
	tests := []struct {
		name, policy, attack string
		argv                 []string
		ran                  string // by what it does alone
		harmless             []string
	}{
		{"in memory", detect("processes", "fileless"), "filelessProcess", []string{victim("exec"), "memfd", victim("prog-a")}, "prog-a ran\n", []string{victim("exec"), "plain", victim("prog-a")}},
		{"in memory, by proc", detect("processes", "fileless"), "filelessProcess", []string{victim("exec"), "memfd-proc", victim("prog-a")}, "prog-a ran\n", nil},
		{"deleted", detect("processes", "fileless"), "filelessProcess", []string{"sh", "-c", "cp " + victim("prog-a") + " x; exec 7<x; rm x; exec /proc/self/fd/7"}, "prog-a ran\n", nil},
		{"where anybody may write", detect("processes", "writablePath"), "tmpfsProcess", []string{"sh", "-c", "mkdir -m 777 d; cp " + victim("prog-a") + " d; exec d/prog-a"}, "prog-a ran\n", []string{victim("exec"), "plain", victim("prog-a")}},
		{"set-uid", detect("processes", "setUID"), "suidBinaries", []string{"sh", "-c", "cp " + victim("prog-a") + " x; chmod u+s x; exec ./x"}, "prog-a ran\n", []string{victim("exec"), "plain", victim("prog-a")}},
		{"not the main process", detect("processes", "onlyMainProcess"), "unexpectedProcess", []string{victim("exec"), "spawn", victim("prog-a")}, "prog-a ran\n", []string{victim("exec"), "plain", victim("prog-a")}},
		{"raw socket", "version: 1\nrules:\n  - name: r\n    network: {effect: alert, detect: {rawSockets: prevent}}\n", "suspiciousNetworkActivity", []string{victim("net"), "raw", "127.0.0.1", "1"}, "sendto: ok\n", []string{victim("net"), "sendto", "127.0.0.1", "9"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if test.name == "raw socket" || test.name == "set-uid" {
				needRoot(t)
			}
			if native := (run{}).native(t, test.argv...); native.out != test.ran {
				t.Fatalf("alone: %+v", native)
			}
			if r := (run{policy: test.policy}).protected(t, test.argv...); r.out == test.ran || len(r.of(test.attack)) == 0 {
				t.Errorf("protected: %q %s, audits %+v", r.out, r.err, r.records)
			}
			if test.harmless == nil {
				return
			}
			native := run{}.native(t, test.harmless...)
			if r := (run{policy: test.policy}).protected(t, test.harmless...); r.out != native.out || len(r.audits()) > 0 {
				t.Errorf("harmless: %q %s, alone: %q, audits %+v", r.out, r.err, native.out, r.records)
			}
		})
	}
}

// TestFileDetections changes files that a rule knows without a list.
func TestFileDetections(t *testing.T) {
	t.Parallel()
	const change = `cp ` + "$1" + ` prog; chmod 755 prog; mkdir .ssh; printf -- '-----BEGIN PRIVATE KEY-----\n' >key; `
	tests := []struct{ name, key, attack, script string }{
		{"a program", "binaries", "elfFileAccess", `echo x >>prog`},
		{"a program, cut", "binaries", "elfFileAccess", `truncate -s 1 prog`},
		{"a program, replaced", "binaries", "elfFileAccess", `cp key new; mv new prog`},
		{"who may log in", "sshAndAdminFiles", "sshAccess", `echo x >.ssh/authorized_keys`},
		{"a key", "certificates", "regFileAccess", `echo x >>key`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := workDir(t, 0)
			before := exec.Command("sh", "-c", change, "sh", victim("prog-a"))
			before.Dir = dir
			if out, err := before.CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
			policy := fmt.Sprintf("version: 1\nrules:\n  - name: r\n    files: {effect: alert, detect: {%s: prevent}}\n", test.key)
			argv := []string{"sh", "-c", "if " + test.script + "; then echo done; fi; echo ordinary >other; mkdir folder; rm other"}
			r := run{dir: dir, flags: monitoring, policy: policy}.protected(t, argv...)
			if n := len(r.of(test.attack)); r.out != "" || n == 0 || n != len(r.audits()) { // mv tries again
				t.Errorf("protected: %q %s, audits %+v", r.out, r.err, r.records)
			}
			if native := (run{dir: dir}).native(t, "sh", "-c", test.script+" && echo done"); native.out != "done\n" {
				t.Errorf("alone: %+v", native)
			}
		})
	}
}

// TestDigests refuses a program by its content, whatever its name; nothing
// that is not it.
func TestDigests(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(victim("prog-d"))
	if err != nil {
		t.Fatal(err)
	}
	rule := func(list string) string {
		return fmt.Sprintf("version: 1\nrules:\n  - name: r\n    processes: {effect: prevent, %s: [\"sha256:%x\"%s]}\n", list, sha256.Sum256(data),
			map[string]string{"allow": ", bash, cp, rm, ln, chmod"}[list])
	}
	// A file that is overwritten all the time must never run as the other.
	t.Run("race", func(t *testing.T) {
		t.Parallel()
		path := victim("prog-a")
		race := func(r run, seconds string) (result, string) {
			r.dir = workDir(t, 0)
			mark := filepath.Join(r.dir, "mark")
			r.env = []string{"MARK=" + mark}
			argv := []string{victim("execrace"), "content", seconds, path, fmt.Sprint(len(path) - 1), "d"}
			var res result
			if r.policy == "" {
				res = r.native(t, argv...)
			} else {
				res = r.protected(t, argv...)
			}
			data, _ := os.ReadFile(mark)
			return res, string(data)
		}
		if res, ran := race(run{}, "0.5"); !strings.Contains(ran, "prog-d\n") || !strings.Contains(ran, "prog-a\n") {
			t.Skipf("alone, not both programs ran: %s%s", res.out, res.err)
		}
		res, ran := race(run{policy: rule("deny")}, "3")
		t.Logf("%s%d audits, %d of swapped programs", res.out, len(res.records), len(res.of("swappedProcess")))
		if n := strings.Count(ran, "prog-d\n"); n > 0 {
			t.Errorf("the denied program ran %d times: %s", n, res.out)
		}
		if len(res.records) == 0 {
			t.Error("no audit")
		}
	})
	for name, script := range map[string]string{
		"itself":   `exec $0`,
		"copy":     `cp $0 innocent; exec ./innocent`,
		"link":     `ln -s $0 innocent; exec ./innocent`,
		"deleted":  `cp $0 innocent; exec 7<innocent; rm innocent; exec /proc/self/fd/7`,
		"a script": `printf '#!%s\n' $0 >script; chmod +x script; exec ./script`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			argv := []string{"bash", "-c", "cd . && " + script, victim("prog-d")}
			if native := (run{}).native(t, argv...); native.out != "prog-d ran\n" {
				t.Fatalf("alone: %+v", native)
			}
			r := run{policy: rule("deny")}.protected(t, argv...)
			if strings.Contains(r.out, "ran") || len(r.of("explicitlyDeniedProcess")) == 0 {
				t.Errorf("denied: %q %s, audits %+v", r.out, r.err, r.records)
			}
			if r := (run{policy: rule("allow")}).protected(t, argv...); r.out != "prog-d ran\n" || len(r.audits()) > 0 {
				t.Errorf("allowed: %q %s, audits %+v", r.out, r.err, r.records)
			}
			argv[3] = victim("prog-a")
			if r := (run{policy: rule("deny")}).protected(t, argv...); r.out != "prog-a ran\n" || len(r.audits()) > 0 {
				t.Errorf("another: %q %s, audits %+v", r.out, r.err, r.records)
			}
		})
	}
}
