package inject

import (
	"fmt"

	"appdefender/policy"
	policyfile "appdefender/policy/file"
)

// scopes is a policy that is asked for whom it has rules.
type scopes struct{ policy *policy.Policy }

// scopes reads the policy of the options. Without rules, or with faults, which
// are told elsewhere, it says nothing.
func (o *Options) scopes() scopes {
	p, err := policyfile.Parse("policy", o.Policy)
	if err != nil || len(p.Rules) == 0 {
		return scopes{}
	}
	return scopes{p}
}

// none reports whether no rule is for w, which the policy then lets do all.
func (s scopes) none(w policy.Workload) bool {
	if s.policy == nil {
		return false
	}
	e, err := policy.Compile(s.policy, w)
	return err == nil && e.Rule() == ""
}

// noRule is what people should know of a container that no rule is for.
func noRule(w policy.Workload) string {
	return fmt.Sprintf("No rule of the policy is for the container %q (image %q, App ID %q): it refuses nothing there.", w.Container, w.Image, w.AppID)
}
