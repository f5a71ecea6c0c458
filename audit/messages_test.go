package audit

import (
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"

	"appdefender/policy"
)

// Every message of the reference is ours: the templates of its table, with
// something in each place.
func TestReferenceMessages(t *testing.T) {
	table, err := os.ReadFile("testdata/audit-messages.tsv")
	if err != nil {
		t.Fatal(err)
	}
	file := policy.Event{Kind: policy.FileWrite, Subject: wget, File: policy.File{Path: "/tmp/x", Findings: []policy.Finding{
		{What: policy.FoundMalware, Detail: "Mirai"}, {What: policy.FoundForeignELF, Detail: "MIPS"},
	}}}
	of := map[string]policy.Event{
		"processes": mkdir, "filesystem": file,
		"network": {Kind: policy.Outbound, Subject: wget, Domain: "yahoo.com", Addr: netip.MustParseAddrPort("198.51.100.7:25")},
	}
	without := map[string]bool{ // rows that are told by others than the judge, or are no more than words
		"wildfireMalware": true, "(same as event)": true, "customRule": true,
	}
	place := regexp.MustCompile(`<[^>]*>`)
	seen := 0
	for line := range strings.SplitSeq(strings.TrimSpace(string(table)), "\n") {
		row := strings.Split(line, "\t")
		ev, ok := of[row[0]]
		if !ok || without[row[2]] {
			continue
		}
		seen++
		var want strings.Builder
		want.WriteString("^")
		for i, text := range place.Split(row[3], -1) {
			if i > 0 {
				want.WriteString(".+")
			}
			want.WriteString(strings.ReplaceAll(regexp.QuoteMeta(text), ` \.\.\. `, `.*`))
		}
		template := strings.TrimSuffix(want.String(), `\.`) + `\.?$` // some tables print a full stop, some do not
		got := Message(&ev, policy.Verdict{Detection: policy.Detection(row[2]), Reason: "?"})
		if !regexp.MustCompile(template).MatchString(got) {
			t.Errorf("%s:\ngot  %s\nwant %s", row[2], got, row[3])
		}
	}
	if seen < 19 {
		t.Errorf("only %d rows", seen)
	}
}
