//go:build platforms

package platforms

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"appdefender/internal/containers"
)

// TestTask runs the containers of one task, which share the network: each
// Defender answers its own target, by its own policy.
func TestTask(t *testing.T) {
	containers.Need(t)
	img := image(t, "appdefender-test/task", alpineLike(t))
	const first = "appdefender-task-first"
	run(t, "", "podman", "run", "-d", "--name", first, "--network", "none", img, "/bin/sleep", "3600")
	t.Cleanup(func() { _ = exec.Command("podman", "rm", "-f", "-t", "0", first).Run() })

	const script = "for i in 1 2 3 4 5; do nslookup -type=a %s.test; nslookup -type=a %s.test; cat /etc/resolv.conf; done; true"
	ended := make(chan result)
	for _, c := range []struct{ refused, allowed string }{{"evil", "other"}, {"other", "evil"}} {
		conf := filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(conf, []byte("nameserver 127.0.0.3\n"), 0o644); err != nil { // where nobody listens
			t.Fatal(err)
		}
		go func() {
			ended <- container{
				image:   img,
				network: "container:" + first,
				options: []string{"-v", conf + ":/etc/resolv.conf"},
				files: map[string]string{
					"/policy.yaml": "version: 1\nrules:\n  - {name: r, dns: {effect: prevent, deny: [" + c.refused + ".test]}}\n",
				},
				command: []string{"/defender", "run", "--policy", "/policy.yaml", "--", "sh", "-c", fmt.Sprintf(script, c.refused, c.allowed)},
			}.start(t)
		}()
	}
	var servers []string
	for range 2 {
		r := <-ended
		if n := strings.Count(r.stdout, "NXDOMAIN"); r.exit != 0 || n < 5 || strings.Count(r.stdout, "SERVFAIL") < 5 {
			t.Errorf("exit %d\n%s%s", r.exit, r.stdout, r.stderr)
		}
		var domains []string
		for _, rec := range r.records {
			if rec.Domain != "" && !slices.Contains(domains, rec.Domain) {
				domains = append(domains, rec.Domain)
			}
		}
		if len(domains) != 1 {
			t.Errorf("refused %v", domains)
		}
		for line := range strings.Lines(r.stdout) {
			if server, ok := strings.CutPrefix(line, "nameserver 127.53."); ok && !slices.Contains(servers, server) {
				servers = append(servers, server)
			}
		}
	}
	if len(servers) != 2 {
		t.Errorf("the name servers of the two are 127.53.%q", servers)
	}
}
