//go:build platforms

package dns

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestWays asks a server that is none of resolv.conf's, in every way a program
// can. What the proxy answers has to come from that server. Where it cannot, the
// query goes there as well, but the name of a refused one does not.
func TestWays(t *testing.T) {
	dir := world(t)
	address(t, "192.0.2.53/32")
	address(t, "fd00::53/128")
	asked := server(t, "192.0.2.53", "fd00::53") // others than the one in resolv.conf, which the proxy asks
	ask := filepath.Join(dir, "ask")
	run(t, "gcc", "-O1", "-o", ask, "../../../testdata/victims/ask.c")
	start := protected(t, dir, "--resolv-conf", "leave", "--audit-log", "-")
	// fd00::54 is nobody's: what comes from there is ours.
	ways := []string{"sendto", "bound", "connected", "connected-write", "sendmsg", "control", "sendmmsg", "connected-elsewhere", "tcp", "mptcp", "fastopen", "fastopen-connect"}
	connected := []string{"connected", "connected-write", "tcp", "mptcp", "fastopen", "fastopen-connect"}
	nobody := []string{"--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"}
	for _, user := range []struct {
		what    string
		user    []string
		port    string   // the lowest that needs no capability
		servers []string // whose answers can be ours
		others  []string
	}{
		{"root", nil, "1024", []string{"192.0.2.53", "::ffff:192.0.2.53", "fd00::53", "fd00::54"}, nil},
		{"nobody", nobody, "1024", nil, []string{"192.0.2.53", "::ffff:192.0.2.53", "fd00::53"}},
		{"nobody with port 53", nobody, "0", []string{"fd00::54"}, []string{"192.0.2.53", "fd00::53"}},
	} {
		as := func(cmd *exec.Cmd) (string, string) {
			if user.user != nil {
				cmd = exec.Command("setpriv", append(slices.Clone(user.user), cmd.Args...)...)
			}
			var out, log strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &log
			_ = cmd.Run() // the output tells
			return strings.TrimSpace(out.String()), log.String()
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte(user.port), 0o644); err != nil {
			t.Skip(err)
		}
		for _, server := range slices.Concat(user.servers, user.others) {
			for _, way := range ways {
				t.Run(user.what+"/"+server+"/"+way, func(t *testing.T) {
					allowed, refused := way+": 127.0.0.1", way+": NXDOMAIN"
					if way == "connected-elsewhere" { // its answer would be for a port that it has left
						allowed, refused = way+": ok", way+": ok"
					}
					asked()
					if got, log := as(start(ask, way, server, "good.test")); got != allowed {
						t.Errorf("allowed: %q\n%s", got, log)
					}
					believed := slices.Contains(user.servers, server) || slices.Contains(connected, way)
					if n := asked()["good.test."]; (n > 0) == believed && way != "connected-elsewhere" {
						t.Errorf("believed %t, and the servers were asked %d times", believed, n)
					}
					for _, name := range []string{"evil.test", "hidden.test"} {
						got, log := as(start(ask, way, server, name))
						if got != refused {
							t.Errorf("%s: %q\n%s", name, got, log)
						}
						// Who does not wait ends before it is known where a name leads.
						if !strings.Contains(log, `"domain":"`+name+`"`) && (name == "evil.test" || got != way+": ok") {
							t.Errorf("no audit of %s\n%s", name, log)
						}
						if n := asked()[name+"."]; n > 0 {
							t.Errorf("the servers were asked %d times for %s", n, name)
						}
					}
				})
			}
		}
	}
}
