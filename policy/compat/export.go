package compat

import (
	"fmt"
	"strconv"
	"strings"

	"appdefender/policy"
)

// Export converts a native policy, which must be valid. The error is an
// [Errors] that lists what has no place in the other form.
func Export(p *policy.Policy) (*Policy, error) {
	var faults Errors
	out := &Policy{ID: PolicyID, Rules: []Rule{}}
	for i := range p.Rules {
		out.Rules = append(out.Rules, exportRule(&p.Rules[i], fmt.Sprintf("rules[%d].", i), &faults))
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return out, nil
}

func exportRule(r *policy.Rule, at string, faults *Errors) Rule {
	out := Rule{Name: r.Name, Disabled: r.Disabled, Collections: []Collection{collection(r)}, WildFireAnalysis: "disable"}
	if r.OnUnknown != nil {
		faults.add(at+"onUnknown", "has no counterpart")
	}
	if s := r.Processes; s != nil {
		out.Processes = &Processes{
			Effect: effectWord(s.Effect), Whitelist: full(s.Allow), Blacklist: full(s.Deny),
			SkipModified: true, // they are not detected
		}
	}
	if s := r.Network; s != nil {
		out.Network = &Network{
			Effect:                  effectWord(s.Effect),
			WhitelistIPs:            full(s.Outbound.Allow),
			BlacklistIPs:            full(s.Outbound.Deny),
			WhitelistListeningPorts: exportPorts(s.Listen.AllowPorts, false),
			BlacklistListeningPorts: exportPorts(s.Listen.DenyPorts, true),
			WhitelistOutboundPorts:  exportPorts(s.Outbound.AllowPorts, false),
			BlacklistOutboundPorts:  exportPorts(s.Outbound.DenyPorts, true),
		}
	}
	if s := r.Network; s != nil && len(s.Unix.Allow)+len(s.Unix.Deny) > 0 {
		faults.add(at+"network.unix", "has no counterpart")
	}
	if s := r.Files; s != nil {
		out.Filesystem = &Filesystem{
			Effect: effectWord(s.Effect), Whitelist: full(s.Allow), Blacklist: full(s.Deny),
			SkipEncryptedBinaries: true, // they are not detected
		}
	}
	if s := r.DNS; s != nil {
		out.DNS = &DNS{Effect: effectWord(s.Effect), Whitelist: exportDomains(s.Allow), Blacklist: exportDomains(s.Deny)}
	}
	return out
}

func effectWord(e *policy.Effect) string {
	if e == nil {
		return policy.Disable.String()
	}
	return e.String()
}

// full is the list, never nil: clients of the other form expect a list.
func full(entries []string) []string { return append([]string{}, entries...) }

func exportPorts(entries []string, deny bool) []PortRange {
	out := []PortRange{}
	for _, s := range entries {
		first, last, isRange := strings.Cut(s, "-")
		if !isRange {
			last = first
		}
		start, _ := strconv.Atoi(first) // the policy is valid
		end, _ := strconv.Atoi(last)
		out = append(out, PortRange{Start: start, End: end, Deny: deny})
	}
	return out
}

// exportDomains writes the entries for a name and all below it as two.
func exportDomains(entries []string) []string {
	out := []string{}
	for _, s := range entries {
		name, both := strings.CutPrefix(s, "**.")
		if !both {
			name, both = strings.CutPrefix(s, ".")
		}
		if both {
			out = append(out, name, "*."+name)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// collection is a rule's scope, under the rule's name.
func collection(r *policy.Rule) Collection {
	any := func(patterns []string) []string {
		if len(patterns) == 0 {
			return []string{"*"}
		}
		return patterns
	}
	c := Collection{
		Name: r.Name, AppIDs: any(r.Scope.AppIDs), Images: any(r.Scope.Images), Containers: any(r.Scope.Containers),
		AccountIDs: any(nil), Clusters: any(nil), CodeRepos: any(nil), Functions: any(nil), Hosts: any(nil), Labels: any(nil), Namespaces: any(nil),
	}
	if len(r.Scope.AppIDs)+len(r.Scope.Images)+len(r.Scope.Containers) == 0 {
		c.Name, c.System = everything, true
	}
	return c
}
