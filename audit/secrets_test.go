package audit

import (
	"encoding/json"
	"strings"
	"testing"

	"appdefender/policy"
)

func TestRecordsHoldNoSecrets(t *testing.T) {
	argv := []string{"mysql", "-ptwo words", "--token", "abc123xyz", "-e", "select 1"}
	raw := strings.Join(argv, " ")
	who := policy.Process{PID: 3, Path: "/bin/sh", Command: []string{"sh", "-c", "PGPASSWORD=hunter2 psql"}}
	launch := policy.Event{Kind: policy.Launch, Subject: who, Program: policy.Program{Path: "/usr/bin/mysql", Command: argv}}
	lookup := policy.Event{Kind: policy.Lookup, Subject: who, Domain: "ghp_0123456789abcdefghijABCDEFGHIJ012345.evil.example"}
	verdicts := []policy.Verdict{
		{Effect: policy.Alert, Detection: policy.DeniedProcess, Reason: "it says " + raw},
		{Effect: policy.Alert, Detection: policy.Custom, Message: "somebody ran " + raw},
		{Effect: policy.Alert, Detection: policy.DeniedDNS, Reason: `"` + lookup.Domain + `" is not on the allow list`},
	}
	secrets := []string{"two words", "abc123xyz", "hunter2", "ghp_"}
	for _, ev := range []*policy.Event{&launch, &lookup} {
		for _, v := range verdicts {
			line, err := json.Marshal(New(&Source{}, ev, v, Outcome{}))
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range secrets {
				if strings.Contains(string(line), s) {
					t.Errorf("%q is in %s", s, line)
				}
			}
			if !strings.Contains(string(line), "REDACTED") {
				t.Errorf("nothing is hidden in %s", line)
			}
		}
	}
	if argv[1] != "-ptwo words" || launch.Program.Command[1] != "-ptwo words" {
		t.Error("the event was changed")
	}
	if r := New(&Source{KeepSecrets: true}, &launch, verdicts[0], Outcome{}); !strings.Contains(r.Command, "two words") || !strings.Contains(r.Msg, "abc123xyz") {
		t.Errorf("secrets that are to be kept are not: %q", r.Command)
	}
}
