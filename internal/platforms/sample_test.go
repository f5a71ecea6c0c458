//go:build platforms

package platforms

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"appdefender/internal/containers"
)

// samplePolicy is the sample task's, with the effect to be filled in.
const samplePolicy = `version: 1
rules:
  - name: sample
    scope: {containers: [sample-task]}
    processes: {effect: %[1]s, deny: [mkdir]}
    dns: {effect: %[1]s, allow: [gmail.com]}
`

// Addresses of the test's own loopback servers. Every container of these
// tests shares the machine's network, so nothing leaves it.
const (
	upstreamAddr = "127.77.0.1"
	webAddr      = "127.77.0.2"
)

// servers are a name server that knows every name, and the web server all
// names lead to.
func servers(t *testing.T) {
	t.Helper()
	stop, err := startServers()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

func startServers() (stop func(), err error) {
	var running []func()
	stop = func() {
		for _, f := range running {
			f()
		}
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			r.Answer = append(r.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
				A:   net.ParseIP(webAddr),
			})
		}
		_ = w.WriteMsg(r)
	})
	for _, network := range []string{"udp", "tcp"} {
		started := make(chan error, 2)
		s := &dns.Server{Addr: upstreamAddr + ":53", Net: network, Handler: handler, NotifyStartedFunc: func() { started <- nil }}
		go func() { started <- s.ListenAndServe() }()
		if err := <-started; err != nil {
			stop()
			return nil, err
		}
		running = append(running, func() { _ = s.Shutdown() })
	}
	l, err := net.Listen("tcp", webAddr+":80")
	if err != nil {
		stop()
		return nil, err
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello from %s\n", r.Host) })}
	go func() { _ = web.Serve(l) }()
	running = append(running, func() { _ = web.Close() })
	return stop, nil
}

// alpineLike is a root file system of busybox and the C library it needs, as
// small images have: its shell starts every applet as a program.
func alpineLike(t *testing.T) string {
	t.Helper()
	dir, work := t.TempDir(), t.TempDir()
	if err := os.Chmod(work, 0o777); err != nil { // apt's own user downloads
		t.Fatal(err)
	}
	run(t, work, "apt-get", "download", "-qq", "busybox")
	debs, err := filepath.Glob(filepath.Join(work, "busybox_*.deb"))
	if err != nil || len(debs) != 1 {
		t.Fatalf("found %v: %v", debs, err)
	}
	run(t, work, "dpkg", "-x", debs[0], "x")
	bin := filepath.Join(dir, "bin")
	for _, d := range []string{"bin", "etc", "tmp", "lib64", "lib/x86_64-linux-gnu"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "tmp"), 0o1777); err != nil {
		t.Fatal(err)
	}
	run(t, work, "cp", "x/bin/busybox", bin)
	for lib := range strings.FieldsSeq(run(t, work, "sh", "-c", `ldd x/bin/busybox | grep -o '/lib[^ ]*'`)) {
		run(t, work, "cp", "-L", lib, filepath.Join(dir, lib))
	}
	for _, applet := range []string{"sh", "mkdir", "wget", "sleep", "ls", "cat", "nslookup", "env", "id", "kill", "ps"} {
		if err := os.Symlink("busybox", filepath.Join(bin, applet)); err != nil {
			t.Fatal(err)
		}
	}
	addDefender(t, dir)
	return dir
}

// bootstrapped is a minimal Debian, made once: it takes half a minute.
var bootstrapped = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(shared, "debian")
	args := []string{"--variant=minbase", "--include=wget,bind9-dnsutils,iproute2,procps,gosu", "bookworm", dir}
	out, err := exec.Command("debootstrap", append(args, archive()...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("debootstrap: %w\n%s", err, out)
	}
	return dir, nil
})

// debian is a root file system with the C library's resolver, wget and dig.
func debian(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("debootstrap"); err != nil {
		t.Skip("needs debootstrap: make test-platforms installs it")
	}
	dir, err := bootstrapped()
	if err != nil {
		t.Fatal(err)
	}
	addDefender(t, dir)
	return dir
}

// addDefender puts the program, the sample task's script and a resolver of
// its own kind (a static Go program) into a root file system.
func addDefender(t *testing.T, dir string) {
	t.Helper()
	run(t, "", "cp", defender(t), filepath.Join(dir, "defender"))
	resolver := exec.Command("go", "build", "-o", filepath.Join(dir, "goresolve"), "../../testdata/goresolve")
	resolver.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := resolver.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	passwd := "root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n"
	if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte(passwd), 0o644); err != nil {
		t.Fatal(err)
	}
	local := filepath.Join(dir, "usr/local/bin")
	if err := os.MkdirAll(local, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "", "cp", filepath.Join(root(t), "testdata/sample-task/entry.sh"), local)
}

// lookups are ways to ask for yahoo.com: what the audit names, and a command
// that fails when it is refused.
var lookups = []struct {
	name, by, command string
	image             string
}{
	{"busybox wget", "/bin/busybox", "wget -q -O - http://yahoo.com/", "alpine"},
	{"busybox nslookup elsewhere", "/bin/busybox", "nslookup yahoo.com " + upstreamAddr, "alpine"},
	{"static Go", "/goresolve", "/goresolve yahoo.com", "alpine"},
	{"glibc wget", "/usr/bin/wget", "wget -q -O - http://yahoo.com/", "debian"},
	{"dig elsewhere over UDP", "/usr/bin/dig", "dig +time=3 +tries=1 @" + upstreamAddr + " yahoo.com | grep -q 'status: NOERROR'", "debian"},
	{"dig elsewhere over TCP", "/usr/bin/dig", "dig +tcp +time=3 +tries=1 @" + upstreamAddr + " yahoo.com | grep -q 'status: NOERROR'", "debian"},
	{"glibc getent", "/usr/bin/getent", "getent hosts yahoo.com", "debian"},
	{"static Go on Debian", "/goresolve", "/goresolve yahoo.com", "debian"},
}

// TestSampleTask runs the sample task and every way to resolve a name, as two
// users, under the three effects.
func TestSampleTask(t *testing.T) {
	containers.Need(t)
	servers(t)
	images := map[string]string{
		"alpine": image(t, "appdefender-test/alpine", alpineLike(t)),
		"debian": image(t, "appdefender-test/debian", debian(t)),
	}
	users := map[string][]string{"root": nil, "uid 1000": {"--user", "1000"}}
	for user, options := range users {
		for kind, img := range images {
			t.Run("entry.sh/"+kind+"/"+user, func(t *testing.T) { sampleTask(t, kind, img, options) })
		}
		for _, l := range lookups {
			t.Run(l.name+"/"+user, func(t *testing.T) {
				denied := "DNS resolution of domain name yahoo.com triggered by " + l.by + " explicitly denied by a runtime rule"
				for _, effect := range []string{"prevent", "alert", "disable"} {
					r := container{
						image: images[l.image], options: append([]string{"--dns", upstreamAddr}, options...),
						files:   map[string]string{"/policy.yaml": fmt.Sprintf(samplePolicy, effect)},
						command: []string{"/defender", "run", "--policy", "/policy.yaml", "--container", "sample-task", "--", "sh", "-c", l.command + " || exit 44"},
					}.start(t)
					if want := map[string]int{"prevent": 44}[effect]; r.exit != want {
						t.Errorf("%s: exit status %d, want %d", effect, r.exit, want)
					}
					if want := effect != "disable"; r.told(denied) != want || (r.detections() > 0) != want {
						t.Errorf("%s: told %v, want %v: %+v", effect, r.told(denied), want, r.records)
					}
				}
			})
		}
	}
}

// sampleTask runs the document's script: mkdir and two lookups, refused, and
// the script's own end.
func sampleTask(t *testing.T, kind, img string, options []string) {
	wget := map[string]string{"alpine": "/bin/busybox", "debian": "/usr/bin/wget"}[kind]
	mkdir := map[string]string{"alpine": "/bin/mkdir", "debian": "/usr/bin/mkdir"}[kind]
	task := container{
		image: img, options: append([]string{"--dns", upstreamAddr, "-w", "/tmp"}, options...),
		files: map[string]string{"/policy.yaml": fmt.Sprintf(samplePolicy, "prevent")},
		// A bare name, found in PATH, as in the task definition.
		command: []string{"/defender", "run", "--policy", "/policy.yaml", "--container", "sample-task", "--", "entry.sh"},
	}
	bare := task
	bare.command = []string{"entry.sh"}
	native := bare.start(t)
	r := task.start(t)
	if r.exit != 42 || native.exit != 42 {
		t.Errorf("exit status %d, natively %d, want 42", r.exit, native.exit)
	}
	if !strings.Contains(r.stderr, "Permission denied") || strings.Contains(native.stderr, "Permission denied") {
		t.Errorf("mkdir said %q, natively %q", r.stderr, native.stderr)
	}
	for _, msg := range []string{
		mkdir + " launched and is explicitly denied by runtime rule. Full command: mkdir test",
		"DNS resolution of domain name google.com triggered by " + wget + " explicitly denied by a runtime rule",
		"DNS resolution of domain name yahoo.com triggered by " + wget + " explicitly denied by a runtime rule",
	} {
		if !r.told(msg) {
			t.Errorf("not told: %s\n%+v", msg, r.records)
		}
	}
}
