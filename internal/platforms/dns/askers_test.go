//go:build platforms

package dns

import (
	"bufio"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestWhoAsks has a hundred processes and a hundred threads ask at the same
// time, each for a name of its own, and end at once. Each record names who it
// was.
func TestWhoAsks(t *testing.T) {
	dir := world(t)
	const askers = 100
	threads := `import socket, threading
def ask(i):
    try: socket.getaddrinfo("t%d.evil.test" % i, 80)
    except socket.gaierror: pass
all = [threading.Thread(target=ask, args=(i,)) for i in range(100)]
for t in all: t.start()
for t in all: t.join()
`
	for _, conf := range []string{"rewrite", "leave"} {
		t.Run(conf, func(t *testing.T) {
			start := protected(t, dir, "--resolv-conf", conf, "--audit-log", "-")
			write(t, filepath.Join(dir, "policy.yaml"), "version: 1\nrules:\n  - {name: r, dns: {effect: prevent, deny: [\"**.evil.test\"]}}\n")
			cmd := start("sh", "-c", `i=0; while [ $i -lt 100 ]; do getent hosts p$i.evil.test & i=$((i+1)); done; python3 -c "$0"; wait`, threads)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			byName := make(map[string]string)
			pids := make(map[int]string)
			for s := bufio.NewScanner(strings.NewReader(string(out))); s.Scan(); {
				var rec struct {
					Domain, Command, ProcessPath string
					PID                          int
				}
				if json.Unmarshal(s.Bytes(), &rec) != nil || rec.Domain == "" {
					continue
				}
				name := strings.TrimSuffix(rec.Domain, ".corp.test")
				byName[name] = rec.Command
				if owner := pids[rec.PID]; owner != "" && owner != rec.Command {
					t.Errorf("process %d is %q and %q", rec.PID, owner, rec.Command)
				}
				pids[rec.PID] = rec.Command
			}
			for i := range askers {
				p, q := fmt.Sprintf("p%d.evil.test", i), fmt.Sprintf("t%d.evil.test", i)
				if want := "getent hosts " + p; byName[p] != want {
					t.Errorf("%s was asked for by %q, want %q", p, byName[p], want)
				}
				if !strings.Contains(byName[q], "python3 -c ") {
					t.Errorf("%s was asked for by %q", q, byName[q])
				}
			}
			if len(pids) != askers+1 {
				t.Errorf("%d processes have asked", len(pids))
			}
			if t.Failed() {
				t.Logf("%s", regexp.MustCompile(`(?m)^{.*\n`).ReplaceAll(out, nil))
			}
		})
	}
}
