package defender

import (
	"slices"
	"testing"

	"appdefender/defender/supervisor"
	"appdefender/policy"
)

// TestFamilies compares what is told of sockets with what policies can name.
func TestFamilies(t *testing.T) {
	told, named := supervisor.Families(), slices.Clone(policy.Families)
	slices.Sort(told)
	slices.Sort(named)
	if !slices.Equal(told, named) {
		t.Errorf("told %q\nnamed %q", told, named)
	}
}
