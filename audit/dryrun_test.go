package audit

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"appdefender/policy"
)

func TestDryRun(t *testing.T) {
	v6 := connect
	v6.Addr = netip.MustParseAddrPort("[2001:db8::1]:443")
	alert := policy.Verdict{Allow: true, Effect: policy.Alert, Detection: policy.DeniedIP, Rule: "other", Reason: "listed"}
	unread := policy.Event{Section: policy.Processes, Subject: wget, Call: "execve", Why: "no path"}
	of := func(ev *policy.Event, v policy.Verdict) Record { return New(src, ev, v, Outcome{}) }
	again := of(&mkdir, process)
	again.Count = 2

	var out, sum strings.Builder
	d := NewDryRun(&out)
	for _, r := range []Record{
		of(&mkdir, process), of(&yahoo, name), of(&yahoo, name), of(&connect, alert), of(&v6, alert), again,
		of(&unread, policy.Verdict{Detection: policy.Unreadable}),
		Notice(src, "the level is observe", time.Time{}),
	} {
		if err := d.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	want := `dry run: would refuse mkdir test (/usr/bin/mkdir, pid 17, by /usr/bin/dash): "mkdir" is on the deny list (rule "sample")
dry run: would refuse lookup of yahoo.com (A) (pid 18, by /usr/bin/wget): "yahoo.com" is not on the allow list (rule "sample")
dry run: would refuse lookup of yahoo.com (A) (pid 18, by /usr/bin/wget): "yahoo.com" is not on the allow list (rule "sample")
dry run: would tell connection to 198.51.100.7:25 (pid 18, by /usr/bin/wget): listed (rule "other")
dry run: would tell connection to [2001:db8::1]:443 (pid 18, by /usr/bin/wget): listed (rule "other")
dry run: would refuse mkdir test (/usr/bin/mkdir, pid 17, by /usr/bin/dash): "mkdir" is on the deny list (rule "sample"), 2 times
dry run: would refuse unreadable call execve (pid 18, by /usr/bin/wget)
dry run: note: the level is observe
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if err := d.Summary(&sum); err != nil {
		t.Fatal(err)
	}
	want = `DRY RUN       TIMES  WHAT                             BY             RULE
would refuse  3      mkdir test                       /usr/bin/dash  sample
would refuse  2      lookup of yahoo.com (A)          /usr/bin/wget  sample
would refuse  1      unreadable call execve           /usr/bin/wget  
would tell    1      connection to 198.51.100.7:25    /usr/bin/wget  other
would tell    1      connection to [2001:db8::1]:443  /usr/bin/wget  other
`
	if diff := cmp.Diff(want, sum.String()); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
}

func TestDryRunWithNothingToRefuse(t *testing.T) {
	const nothing = "dry run: nothing would have been refused\n"
	var out, sum strings.Builder
	d := NewDryRun(&out)
	if err := d.Summary(&sum); err != nil || sum.String() != nothing {
		t.Errorf("got %q, %v", sum.String(), err)
	}
	if err := d.Write(New(src, &yahoo, policy.Verdict{Effect: policy.Alert, Detection: policy.DeniedDNS}, Outcome{})); err != nil {
		t.Fatal(err)
	}
	sum.Reset()
	if err := d.Summary(&sum); err != nil || !strings.HasPrefix(sum.String(), nothing) || !strings.Contains(sum.String(), "would tell") {
		t.Errorf("got %q, %v", sum.String(), err)
	}
}

func TestDryRunIsBounded(t *testing.T) {
	d := NewDryRun(new(strings.Builder))
	for i := range maxRows + 100 {
		ev := yahoo
		ev.Domain = fmt.Sprintf("%d.test", i)
		if err := d.Write(New(src, &ev, name, Outcome{})); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(d.counts); n > maxRows+2 {
		t.Errorf("%d rows", n)
	}
	var sum strings.Builder
	if err := d.Summary(&sum); err != nil || !strings.Contains(sum.String(), "100    (others)") {
		t.Errorf("no row for the rest, %v", err)
	}
}
