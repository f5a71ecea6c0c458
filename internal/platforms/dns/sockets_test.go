//go:build platforms

package dns

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestResolverSockets has nscd look names up for the target: by its socket, and
// by the shared memory that it hands out there.
func TestResolverSockets(t *testing.T) {
	nscd, err := exec.LookPath("nscd")
	if err != nil {
		t.Skip("nscd is not installed")
	}
	dir := world(t)
	if err := os.MkdirAll("/run/nscd", 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-t", "tmpfs", "none", "/run/nscd")
	t.Cleanup(func() { run(t, "umount", "-l", "/run/nscd") })
	conf := filepath.Join(dir, "nscd.conf")
	write(t, conf, "enable-cache hosts yes\nshared hosts yes\npersistent hosts no\nmax-db-size hosts 33554432\npositive-time-to-live hosts 600\n")
	// It reads nsswitch.conf, where other services may stand before dns.
	write(t, filepath.Join(dir, "nsswitch.conf"), "passwd: files\ngroup: files\nhosts: files dns\n")
	run(t, "mount", "--bind", filepath.Join(dir, "nsswitch.conf"), "/etc/nsswitch.conf")
	t.Cleanup(func() { run(t, "umount", "-l", "/etc/nsswitch.conf") })
	cmd := exec.Command(nscd, "-F", "-f", conf)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	for range 200 {
		if c, err := net.Dial("unix", "/run/nscd/socket"); err == nil {
			c.Close()
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	// From now on its cache knows the name, and needs no server for it.
	if out, err := exec.Command("getent", "hosts", "evil.test").CombinedOutput(); err != nil || !strings.Contains(string(out), "127.0.0.66") {
		t.Fatalf("alone: %v %s", err, out)
	}
	if out, err := exec.Command(nscd, "-f", conf, "-g").CombinedOutput(); err != nil || !strings.Contains(string(out), "hosts cache") {
		t.Fatalf("nscd did not answer: %v %s", err, out)
	}
	run(t, "ln", "-s", "/run/nscd/socket", filepath.Join(dir, "link"))
	run(t, "ln", "/run/nscd/socket", "/run/nscd/hard")
	write(t, filepath.Join(dir, "file"), "")
	run(t, "mount", "--bind", "/run/nscd/socket", filepath.Join(dir, "file"))
	t.Cleanup(func() { run(t, "umount", "-l", filepath.Join(dir, "file")) })

	start := protected(t, dir, "--audit-log", "-")
	connects := `import socket,sys
for p in sys.argv[1:]:
    s=socket.socket(socket.AF_UNIX)
    try: s.connect(p); print(p)
    except ConnectionRefusedError: pass`
	paths := []string{"/run/nscd/socket", "/var/run/nscd/socket", filepath.Join(dir, "link"), filepath.Join(dir, "file"), "/run/nscd/hard", "/proc/self/root/run/nscd/socket"}
	t.Run("closed", func(t *testing.T) {
		out, err := start("sh", "-c", asks+"true").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "is closed to the target") || !strings.Contains(string(out), `"domain":"evil.test"`) {
			t.Errorf("%v\n%s", err, out)
		}
		cmd := start(append([]string{"python3", "-c", connects}, paths...)...)
		if out, err := cmd.Output(); err != nil || len(out) > 0 {
			t.Errorf("connected: %s %v", out, err)
		}
	})
	t.Run("allowed by a rule", func(t *testing.T) {
		start := protected(t, dir, "--resolv-conf", "leave") // or nscd would ask us
		write(t, filepath.Join(dir, "policy.yaml"), `version: 1
rules:
  - name: r
    dns: {effect: prevent, deny: [evil.test]}
    network: {effect: prevent, unix: {allow: [/run/nscd/socket]}}
`)
		check(t, start("getent", "hosts", "evil.test"))
	})
}

// TestInherited leaves sockets open for the target.
func TestInherited(t *testing.T) {
	dir := world(t)
	address(t, "192.0.2.1/32")
	l, err := net.Listen("tcp", "192.0.2.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	start := protected(t, dir, "--audit-log", "-")
	write(t, filepath.Join(dir, "policy.yaml"), `version: 1
rules:
  - name: r
    network: {effect: prevent, outbound: {deny: [192.0.2.1]}, listen: {denyPorts: [80]}, unix: {deny: [/run/docker.sock]}, detect: {rawSockets: prevent}}
`)
	var files []*os.File
	keep := func(c interface{ File() (*os.File, error) }, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		f, err := c.File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		files = append(files, f)
	}
	tcp, err := net.Dial("tcp", "192.0.2.1:80")
	keep(tcp.(*net.TCPConn), err)
	keep(net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 53}))
	keep(l.(*net.TCPListener), nil)
	raw, err := net.ListenPacket("ip4:icmp", "127.0.0.1")
	keep(raw.(*net.IPConn), err)
	unix, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	conn, err := net.Dial("unix", filepath.Join(dir, "s"))
	keep(conn.(*net.UnixConn), err)
	cmd := start("true")
	cmd.ExtraFiles = files
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, part := range []string{
		"descriptor 3 was open before the start, and what passes over it is not looked at: tcp to 192.0.2.1:80",
		"descriptor 4 was open before the start, and what passes over it is not looked at: udp to 192.0.2.1:53, a name server",
		"descriptor 5 was open before the start, and what passes over it is not looked at: tcp listening on 192.0.2.1:80",
		"descriptor 6 was open before the start, and what passes over it is not looked at: a socket for whole packets",
		"descriptor 7 was open before the start, and what passes over it is not looked at: a connection to " + filepath.Join(dir, "s"),
		`"attackType":"explicitlyDeniedIP"`, `"attackType":"explicitlyDeniedListeningPort"`, `"attackType":"suspiciousNetworkActivity"`, `"level":"observed"`,
	} {
		if !strings.Contains(string(out), part) {
			t.Errorf("no record has %s", part)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}
