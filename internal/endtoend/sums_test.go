package endtoend

import (
	"fmt"
	"net/url"
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
	p := protect("sh", "-c", `for i in 1 2 3 4 5 6 7 8 9; do /usr/bin/mkdir "$0/$i"; done 2>/dev/null; echo tried`, t.TempDir())
	if p.exit(); p.out.String() != "tried\n" {
		t.Fatalf("the target said %q and %q", &p.out, &p.err)
	}
	for i := 1; i <= 9; i++ {
		logged(log).says(t, fmt.Sprintf(`/%d"`, i))
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
	const launched = "/usr/bin/mkdir launched and is explicitly denied by runtime rule. Full command: /usr/bin/mkdir "
	for i, want := range []struct {
		begin string
		last  string
		count int
	}{
		{launched, "/1", 1}, {launched, "/2", 1}, {launched, "/3", 1}, {launched, "/4", 1}, {launched, "/5", 1},
		{"High rate of explicitlyDeniedProcess events, reporting aggregation started; last event: " + launched, "/6", 1},
		{"In the past 10 minutes, container web had 3 events of type explicitlyDeniedProcess; The most recent event was: " + launched, "/9", 3},
	} {
		if r := told[i].Record; !strings.HasPrefix(r.Msg, want.begin) || !strings.HasSuffix(r.Msg, want.last) || r.Count != want.count {
			t.Errorf("record %d: %d times %q", i, r.Count, r.Msg)
		}
	}
}
