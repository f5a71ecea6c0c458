package main

import (
	"fmt"
	"strings"
	"testing"
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
