package endtoend

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSums: a target that tries nine times is told of five times, then once
// for being many, and at its end once more for the rest. The audit log has
// each.
func TestSums(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.rule("prevent", "mkdir")
	log := filepath.Join(t.TempDir(), "audit.log")
	flags := []string{
		"run", "--console", s.url, "--ca", s.ca(), "--token-file", s.token("t"), "--data-dir", t.TempDir(),
		"--app-id", "shop", "--container", "web", "--resolv-conf", "leave", "--audit-log", log, "--wait-for-policy", "1m", "--",
	}
	protect := func(argv ...string) *process {
		return start(t, append(append([]string{filepath.Join(bin, "defender")}, flags...), argv...)...)
	}
	p := protect("sh", "-c", `for i in 1 2 3 4 5 6 7 8 9; do /usr/bin/mkdir /tmp; done 2>/dev/null; echo tried`)
	if p.exit(); p.out.String() != "tried\n" {
		t.Fatalf("the target said %q and %q", &p.out, &p.err)
	}
	text, err := os.ReadFile(log)
	if n := strings.Count(string(text), "explicitlyDeniedProcess"); n != 9 || err != nil {
		t.Errorf("the log has %d of 9: %v", n, err)
	}
	told := s.audits(url.Values{"type": {"processes"}})
	for range 20 {
		if len(told) >= 7 {
			break
		}
		protect("true").exit() // what a slow Console did not get in time is the next one's to send
		told = s.audits(url.Values{"type": {"processes"}})
	}
	if len(told) != 7 {
		t.Fatalf("there are %d records: %+v", len(told), told)
	}
	const launched = "/usr/bin/mkdir launched and is explicitly denied by runtime rule. Full command: /usr/bin/mkdir /tmp"
	count := make(map[string]int)
	for _, a := range told {
		count[a.Record.Msg] += a.Record.Count
	}
	for msg, n := range map[string]int{
		launched: 5,
		"High rate of explicitlyDeniedProcess events, reporting aggregation started; last event: " + launched:                        1,
		"In the past 10 minutes, container web had 3 events of type explicitlyDeniedProcess; The most recent event was: " + launched: 3,
	} {
		if count[msg] != n {
			t.Errorf("%d times %q, want %d", count[msg], msg, n)
		}
	}
}
