//go:build platforms

package platforms

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// storms are programs that must not feel it when all their processes get
// signals that mean nothing to them, or that they catch: of the first kind
// the test sends them, of the second python, node and dash set up timers or
// have children that end. Each prints what it found and leaves files.
var storms = []struct{ name, needs, script string }{
	{"dash", "dash", `for i in $(seq 40); do seq 3000 | sort -r | grep 7 | tail -n 3 | tr 1 2 >>out; (sleep 0.01 & wait; echo $i >>waited); done; wc -l out waited`},
	{"make", "make", `for i in $(seq 30); do printf '#include <stdio.h>\nint f%d(void) { return printf("") + %d; }\n' $i $i >f$i.c; done
{ echo 'int main(void) { int n = 0;'; for i in $(seq 30); do echo "int f$i(void); n += f$i();"; done; echo 'return n % 251; }'; } >main.c
printf 'OBJ := $(patsubst %%.c,%%.o,$(sort $(wildcard *.c)))\nprogram: $(OBJ)\n\t$(CC) -o $@ $^\n%%.o: %%.c\n\t$(CC) -O0 -c -o $@ $<\n' >Makefile
make -s -j 4 && ./program; echo $?`},
	{"git", "git", `export HOME=$PWD GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z'
git config --global user.name a; git config --global user.email a@b; git config --global init.defaultBranch main
git init -q x; cd x; for i in $(seq 8); do seq $i 400 >f$i; git add .; git commit -qm $i; done
git checkout -q -b side HEAD~3; echo side >side; git add .; git commit -qm side; git checkout -q main; git merge -q -m merge side; git gc -q; git fsck; cd ..
git clone -q x y; git -C y log --format=%H; git -C y status --short; rm -rf x/.git y/.git`},
	{"python", "python3", `cat >p.py <<'END'
import os, signal, socket, subprocess, threading
ticks = 0
def tick(*_):
    global ticks
    ticks += 1
signal.signal(signal.SIGALRM, tick)
signal.siginterrupt(signal.SIGALRM, False) # SA_RESTART: without it see "Open" in docs/supervision.md
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
l = socket.create_server(("127.0.0.1", 0))
def serve():
    for i in range(100):
        c, _ = l.accept()
        c.sendall(c.recv(10)[::-1])
        c.close()
t = threading.Thread(target=serve)
t.start()
got = []
for i in range(100):
    c = socket.create_connection(l.getsockname())
    c.sendall(b"%05d" % i)
    got.append(c.recv(10))
    c.close()
t.join()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(("127.0.0.1", 0))
v = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for i in range(100):
    v.sendto(b"x%d" % i, u.getsockname())
    got.append(u.recvfrom(10)[0])
for i in range(25):
    got.append(subprocess.run(["/bin/echo", str(i)], stdout=subprocess.PIPE, check=True).stdout)
signal.setitimer(signal.ITIMER_REAL, 0)
print(ticks > 0, len(got), got[5], got[150], got[-1])
END
/usr/bin/python3 p.py`},
	{"node", "node", `cat >p.js <<'END'
const { execFile } = require('child_process'), net = require('net'), fs = require('fs');
process.on('SIGWINCH', () => {}); process.on('SIGCONT', () => {});
const run = (i) => new Promise((ok, bad) => execFile('/bin/echo', [String(i)], (e, out) => e ? bad(e) : ok(out.trim())));
const ask = (port, i) => new Promise((ok, bad) => {
  const c = net.connect(port, '127.0.0.1', () => c.end(String(i)));
  let s = ''; c.on('data', (d) => s += d).on('end', () => ok(s)).on('error', bad);
});
const server = net.createServer({ allowHalfOpen: true }, (c) => { let s = ''; c.on('data', (d) => s += d).on('end', () => c.end('<' + s + '>')); });
server.listen(0, '127.0.0.1', async () => {
  const got = [];
  for (let i = 0; i < 60; i++) got.push(await ask(server.address().port, i));
  got.push(...await Promise.all([...Array(20).keys()].map(run)));
  fs.writeFileSync('got', got.join('\n'));
  console.log(got.length, got[59], got[79]);
  server.close();
});
END
node p.js`},
	{"java", "java", `cat >P.java <<'END'
import java.io.*; import java.net.*; import java.nio.file.*; import java.util.*;
public class P {
  public static void main(String[] args) throws Exception {
    List<String> got = Collections.synchronizedList(new ArrayList<>());
    try (ServerSocket l = new ServerSocket(0, 50, InetAddress.getLoopbackAddress())) {
      Thread t = new Thread(() -> { try { for (int i = 0; i < 40; i++) try (Socket c = l.accept()) { c.getOutputStream().write(c.getInputStream().read() + 1); } } catch (IOException e) { e.printStackTrace(); } });
      t.start();
      for (int i = 0; i < 40; i++) try (Socket c = new Socket(l.getInetAddress(), l.getLocalPort())) { c.getOutputStream().write(i); got.add("" + c.getInputStream().read()); }
      t.join();
    }
    for (int i = 0; i < 10; i++) { Process p = new ProcessBuilder("/bin/echo", "" + i).start(); got.add(new String(p.getInputStream().readAllBytes()).trim() + p.waitFor()); }
    Files.write(Path.of("got"), got);
    System.out.println(got.size() + " " + got.get(39) + " " + got.get(49));
  }
}
END
java -Xshare:auto -XX:TieredStopAtLevel=1 P.java`},
}

// stormPolicy refuses what none of them does.
const stormPolicy = `version: 1
rules:
  - name: not these
    processes: {effect: prevent, deny: [no-such-program], detect: {fileless: prevent}}
    network: {effect: prevent, outbound: {deny: ["127.0.0.2"]}, listen: {denyPorts: [1]}}
    dns: {effect: prevent, deny: [evil.test]}
`

// TestStorm compares programs under a storm of signals alone and under both
// backends: what they print, how they end and which files they leave.
func TestStorm(t *testing.T) {
	root(t)
	bin := defender(t)
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(policy, []byte(stormPolicy), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, s := range storms {
		t.Run(s.name, func(t *testing.T) {
			if _, err := exec.LookPath(s.needs); err != nil {
				t.Skipf("needs %s: make test-platforms installs it", s.needs)
			}
			alone := inStorm(t, bin, "dash", "-c", s.script)
			if strings.TrimSpace(alone.out) == "" {
				t.Fatalf("alone it prints nothing: %+v", alone)
			}
			for _, backend := range []string{"notify", "ptrace"} {
				got := inStorm(t, bin, bin, "run", "--supervisor", backend, "--policy", policy, "--audit-log", "none", "--", "dash", "-c", s.script)
				t.Logf("%s: %d signals, alone %d", backend, got.signals, alone.signals)
				if got.out != alone.out || got.status != alone.status || got.files != alone.files {
					t.Errorf("%s: status %d, output %q\nalone: status %d, output %q\nfiles:\n%s\nalone:\n%s\nerrors:\n%s", backend,
						got.status, got.out, alone.status, alone.out, got.files, alone.files, got.err)
				}
			}
		})
	}
}

// hangAfter ends what would hang for ever. It is no limit on speed.
const hangAfter = 3 * time.Minute

type weathered struct {
	out, err, files string
	status, signals int
}

// inStorm runs a command in a new folder and a pid namespace of its own, and
// sends signals to all of its processes but the Defender's until it ends.
func inStorm(t *testing.T, bin string, argv ...string) weathered {
	t.Helper()
	cmd := exec.Command("unshare", append([]string{"-pf", "--mount-proc", "--kill-child", "sh", "-c", `"$@"; exit $?`, "sh"}, argv...)...)
	cmd.Dir = t.TempDir()
	mark := fmt.Sprintf("STORM=%d-%d", os.Getpid(), time.Now().UnixNano())
	cmd.Env = append(os.Environ(), mark, "LC_ALL=C")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errs, time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	signals := make(chan int)
	go func() {
		n := 0
		defer func() { signals <- n }()
		for {
			select {
			case <-ended:
				return
			case <-time.After(time.Millisecond):
				n += storm(bin, cmd.Process.Pid, mark)
			}
		}
	}()
	var state []byte
	hang := time.AfterFunc(hangAfter, func() {
		state, _ = exec.Command("ps", "-eLo", "pid,tid,ppid,pgid,stat,wchan:20,args", "--sort=pid").Output()
		_ = cmd.Process.Kill()
	})
	err := cmd.Wait()
	if !hang.Stop() {
		t.Errorf("%q hangs:\n%s", argv[:2], state)
	}
	close(ended)
	w := weathered{out: out.String(), err: errs.String(), status: cmd.ProcessState.ExitCode(), signals: <-signals}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	_ = filepath.WalkDir(cmd.Dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			data, _ := os.ReadFile(path)
			w.files += fmt.Sprintf("%s %x\n", strings.TrimPrefix(path, cmd.Dir), sha256.Sum256(data))
		}
		return nil
	})
	return w
}

// No SIGCHLD: dash catches it without SA_RESTART (see "Open" in
// docs/supervision.md). And apt itself fails when its reads are interrupted.
//
// storm sends one round of signals to the processes that have the mark, and
// returns how many signals there were. Whoever leads the namespace, and the
// Defender's own processes, have none.
func storm(bin string, above int, mark string) (n int) {
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid == above {
			continue
		}
		// First a handle on the process, then a look at whose it is.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		env, _ := os.ReadFile(filepath.Join("/proc", d.Name(), "environ"))
		exe, _ := os.Readlink(filepath.Join("/proc", d.Name(), "exe"))
		if bytes.Contains(env, []byte(mark)) && exe != bin {
			for _, s := range []unix.Signal{unix.SIGCONT, unix.SIGWINCH, unix.SIGURG, unix.SIGSTOP, unix.SIGCONT} {
				if unix.PidfdSendSignal(fd, s, nil, 0) == nil {
					n++
				}
			}
		}
		unix.Close(fd)
	}
	return n
}

// TestGdb has a debugger of the target's own stop a program and let it go on,
// with a rule that is not about programs.
func TestGdb(t *testing.T) {
	if _, err := exec.LookPath("gdb"); err != nil {
		t.Skip("needs gdb: make test-platforms installs it")
	}
	dir := t.TempDir()
	source, program, policy := filepath.Join(dir, "p.c"), filepath.Join(dir, "p"), filepath.Join(dir, "policy.yaml")
	for name, text := range map[string]string{
		source: "#include <stdio.h>\nint seven(void) { return 7; }\nint main(void) { printf(\"%d\\n\", seven()); return 3; }\n",
		policy: "version: 1\nrules:\n  - name: r\n    network: {effect: prevent, outbound: {deny: [127.0.0.2]}}\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run(t, dir, "gcc", "-g", "-o", program, source)
	argv := []string{"gdb", "-q", "-nx", "-batch", "-ex", "break seven", "-ex", "run", "-ex", "bt", "-ex", "finish", "-ex", "continue", program}
	number := regexp.MustCompile(`process [0-9]+|0x[0-9a-f]+`)
	alone := number.ReplaceAllString(run(t, dir, argv[0], argv[1:]...), "N")
	if !strings.Contains(alone, "exited with code 03") {
		t.Fatalf("alone: %s", alone)
	}
	args := append([]string{"run", "--supervisor", "notify", "--policy", policy, "--audit-log", "none", "--"}, argv...)
	if got := number.ReplaceAllString(run(t, dir, defender(t), args...), "N"); got != alone {
		t.Errorf("%s\nalone: %s", got, alone)
	}
}
