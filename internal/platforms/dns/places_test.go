//go:build platforms

package dns

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"appdefender/policy"
)

// protected returns how to start a command behind a Defender whose policy
// refuses evil.test.
func protected(t *testing.T, dir string, flags ...string) func(argv ...string) *exec.Cmd {
	t.Helper()
	policy := filepath.Join(dir, "policy.yaml")
	write(t, policy, "version: 1\nrules:\n  - {name: r, dns: {effect: prevent, deny: [evil.test]}}\n")
	bin, err := filepath.Abs("../../../bin/defender")
	if err != nil {
		t.Fatal(err)
	}
	for d := dir; d != "/" && d != "/tmp"; d = filepath.Dir(d) { // other users must get there
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return func(argv ...string) *exec.Cmd {
		args := append([]string{"run", "--policy", policy}, flags...)
		return exec.Command(bin, append(append(args, "--"), argv...)...)
	}
}

// asks is a script that fails unless one name is found and the other is not.
const asks = `getent hosts good.test >/dev/null || exit 11; getent hosts evil.test >/dev/null && exit 12; `

func check(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The containers of a task share loopback, and may share resolv.conf.
func TestTwoDefenders(t *testing.T) {
	dir := world(t)
	run := protected(t, dir, "--resolv-conf", "rewrite")
	before, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	stay := run("sh", "-c", asks+"echo ready; read line; "+asks+"true")
	in, err := stay.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := stay.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stay.Stderr = os.Stderr
	if err := stay.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Errorf("the first is not ready: %v", err)
	}
	check(t, run("sh", "-c", asks+"test $(grep -c appdefender /etc/resolv.conf) = 2"))
	_, _ = in.Write([]byte("\n"))
	if err := stay.Wait(); err != nil {
		t.Errorf("the first, when the second had gone: %v", err)
	}
	if after, err := os.ReadFile("/etc/resolv.conf"); err != nil || string(after) != string(before) {
		t.Errorf("resolv.conf is now %q, %v", after, err)
	}
}

func TestResolvConfIsNotOurs(t *testing.T) {
	dir := world(t)
	t.Run("read-only", func(t *testing.T) {
		run(t, "mount", "-o", "remount,bind,ro", "/etc/resolv.conf")
		defer run(t, "mount", "-o", "remount,bind,rw", "/etc/resolv.conf")
		out, err := protected(t, dir, "--resolv-conf", "rewrite", "--audit-log", "-")("sh", "-c", asks+"true").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "resolv.conf") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("not root", func(t *testing.T) {
		cmd := protected(t, dir)("sh", "-c", asks+"true")
		check(t, exec.Command("setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"}, cmd.Args...)...))
	})
	t.Run("not root, musl, and the server on another machine", func(t *testing.T) {
		if _, err := exec.LookPath("musl-gcc"); err != nil {
			t.Skip("musl-gcc is not installed")
		}
		address(t, "192.0.2.53/32")
		asked := server(t, "192.0.2.53")
		write(t, filepath.Join(dir, "musl.c"), muslSource)
		musl := filepath.Join(dir, "musl")
		run(t, "musl-gcc", "-static", "-o", musl, filepath.Join(dir, "musl.c"))
		before, err := os.ReadFile("/etc/resolv.conf")
		if err != nil {
			t.Fatal(err)
		}
		defer write(t, "/etc/resolv.conf", string(before))
		write(t, "/etc/resolv.conf", "nameserver 192.0.2.53\n")
		as := func(cmd *exec.Cmd) string {
			cmd = exec.Command("setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"}, cmd.Args...)...)
			out, _ := cmd.Output()
			return string(out)
		}
		start := protected(t, dir, "--audit-log", "none")
		for name, like := range map[string]string{"good.test": "good.test", "evil.test": "missing.test", "hidden.test": "missing.test"} {
			want := as(exec.Command(musl, like))
			asked()
			if got := as(start(musl, name)); got != want || got == "" {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
			if name == "evil.test" && asked()["evil.test."] > 0 {
				t.Error("the server was asked for evil.test")
			}
		}
	})
	t.Run("read-only and not root, c-ares", func(t *testing.T) {
		if _, err := exec.LookPath("node"); err != nil {
			t.Skip("node is not installed")
		}
		run(t, "mount", "-o", "remount,bind,ro", "/etc/resolv.conf")
		defer run(t, "mount", "-o", "remount,bind,rw", "/etc/resolv.conf")
		cmd := protected(t, dir)("node", "-e", `const d=require("dns");d.resolve4("good.test",(e)=>{if(e)process.exit(11);d.resolve4("evil.test",(e)=>process.exit(e&&e.code=="ENOTFOUND"?0:12))})`)
		check(t, exec.Command("setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"}, cmd.Args...)...))
	})
}

// A connection goes where an allowed lookup led, and is recorded by that name.
func TestOnlyWhatWasLookedUp(t *testing.T) {
	dir := world(t)
	for _, addr := range []string{"192.0.2.1", "192.0.2.2"} {
		address(t, addr+"/32")
		l, err := net.Listen("tcp", addr+":80")
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Minute}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { _ = s.Close() })
	}
	start := protected(t, dir, "--resolv-conf", "rewrite", "--audit-log", "-")
	write(t, filepath.Join(dir, "policy.yaml"), `version: 1
rules:
  - name: r
    dns: {effect: prevent, deny: [evil.test]}
    network: {effect: alert, outbound: {deny: [192.0.2.1], unresolved: prevent}}
`)
	out, err := start("sh", "-c", `curl -s http://192.0.2.1/ && exit 11
curl -s http://web.test/ || exit 12
curl -s http://192.0.2.1/ || exit 13
curl -s http://192.0.2.2/ && exit 14
true`).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, part := range []string{`"ip":"192.0.2.2"`, `"attackType":"` + string(policy.Unresolved) + `"`, `"domain":"web.test"`} {
		if !strings.Contains(string(out), part) {
			t.Errorf("no audit has %s:\n%s", part, out)
		}
	}
}
