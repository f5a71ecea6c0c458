package defender

import (
	"slices"
	"testing"
	"time"

	"appdefender/defender/supervisor"
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

// TestNew tells new programs, also where the file system does not say since
// when there is a file.
func TestNew(t *testing.T) {
	d := &Defender{started: time.Unix(1e9, 0)}
	before, after := d.started, d.started.Add(startGrace+time.Second)
	for _, c := range []struct {
		born, changed time.Time
		isNew         bool
	}{
		{before, before, false}, {before, after, false}, {after, after, true}, {time.Time{}, after, true}, {time.Time{}, before, false},
	} {
		p := supervisor.Program{Facts: supervisor.Facts{Born: c.born, Changed: c.changed}}
		if got := d.program(&p).New; got != c.isNew {
			t.Errorf("born %v, changed %v: new %t", c.born, c.changed, got)
		}
	}
}
