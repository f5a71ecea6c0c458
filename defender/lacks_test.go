package defender

import (
	"slices"
	"testing"

	"appdefender/policy"
)

func TestLacks(t *testing.T) {
	const files = "the rule's section files says nothing without --file-monitoring"
	for _, c := range []struct {
		needs      policy.Needs
		monitoring bool
		want       []string
	}{
		{0, false, nil},
		{policy.NeedSubject | policy.NeedModified, false, nil},
		{policy.NeedFileWrites, true, nil},
		{policy.NeedFileWrites, false, []string{files}},
		{policy.NeedContent | policy.NeedPackages, true, nil},
		{policy.NeedContent | policy.NeedProgramContent, false, []string{files + ", but of programs when they start"}},
	} {
		if got := lacks(c.needs, c.monitoring); !slices.Equal(got, c.want) {
			t.Errorf("%s, %t: %q", c.needs, c.monitoring, got)
		}
	}
}
