package policy

import (
	"net/netip"
	"testing"
)

// compile returns the engine of a policy with the one rule r.
func compile(t testing.TB, r Rule) *Engine {
	t.Helper()
	r.Name = "r"
	e, err := Compile(&Policy{Version: 1, Rules: []Rule{r}}, Workload{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func list(entries ...string) []string { return entries }

func launch(typed, path string) *Event {
	return &Event{Kind: Launch, Program: Program{Typed: typed, Path: path}}
}

func lookup(domain string) *Event { return &Event{Kind: Lookup, Domain: domain} }

func outbound(addr string) *Event {
	return &Event{Kind: Outbound, Addr: netip.MustParseAddrPort(addr), Proto: "tcp"}
}

// check fails the test unless the verdict is a silent permission, where
// reason is "", or else a refusal with that detection and reason.
func check(t *testing.T, v Verdict, d Detection, reason string) {
	t.Helper()
	want := Verdict{Allow: true, Rule: "r"}
	if reason != "" {
		want = Verdict{Effect: Prevent, Detection: d, Rule: "r", Reason: reason}
	}
	if v != want {
		t.Errorf("got  %+v\nwant %+v", v, want)
	}
}
