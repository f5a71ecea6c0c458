package compat

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"appdefender/policy"
)

// Export converts a native policy, which must be valid. The error is an
// [Errors] that lists what has no place in the other form; the notes say what
// means a little less or more there.
func Export(p *policy.Policy) (*Policy, []Fault, error) {
	c := exporter{ids: numbers(p)}
	out := &Policy{ID: PolicyID, Rules: []Rule{}}
	for i := range p.Rules {
		out.Rules = append(out.Rules, c.rule(&p.Rules[i], fmt.Sprintf("rules[%d].", i)))
	}
	if len(c.faults) > 0 {
		return nil, nil, c.faults
	}
	return out, c.notes, nil
}

// exporter collects faults and notes.
type exporter struct {
	ids    map[string]int // of custom rules
	faults Errors
	notes  Errors
}

func (c *exporter) rule(r *policy.Rule, at string) Rule {
	out := Rule{Name: r.Name, Notes: r.Notes, Disabled: r.Disabled, Collections: []Collection{collection(r)}, WildFireAnalysis: "disable"}
	for _, ref := range r.Custom {
		action := ref.Action
		if action == "" {
			action = "audit"
		}
		effect := ref.Effect
		if effect == "incident" {
			effect, action = "alert", "incident"
		}
		out.CustomRules = append(out.CustomRules, CustomRule{ID: c.ids[ref.Rule], Action: action, Effect: effect})
	}
	if r.OnUnknown != nil {
		c.faults.add(at+"onUnknown", "has no counterpart")
	}
	if s := r.Processes; s != nil {
		out.Processes = c.processes(s, at+"processes.")
	}
	if s := r.Network; s != nil {
		out.Network = c.network(s, at+"network.")
	}
	if s := r.DNS; s != nil {
		for _, own := range []struct {
			key string
			set bool
		}{
			{"answer", s.Answer != "" && s.Answer != policy.AnswerNoName}, {"private", len(s.Private) > 0},
			{"detect.minerPools", s.Detect.MinerPools != nil}, {"detect.rebinding", s.Detect.Rebinding != nil},
			{"detect.tunnels", s.Detect.Tunnels != nil}, {"detect.encryptedDNS", s.Detect.EncryptedDNS != nil},
		} {
			c.none(own.set, at+"dns."+own.key)
		}
		out.DNS = &DNS{Effect: effectWord(s.Effect), Whitelist: exportDomains(s.Allow), Blacklist: exportDomains(s.Deny)}
	}
	if s := r.Files; s != nil {
		out.Filesystem = c.files(s, at+"files.")
		out.AdvancedProtection = c.same(s.Effect, at+"files.detect.malware", s.Detect.Malware)
	}
	return out
}

func (c *exporter) processes(s *policy.ProcessesSection, at string) *Processes {
	d := &s.Detect
	out := &Processes{
		Effect: effectWord(s.Effect), Whitelist: full(s.Allow), Blacklist: full(s.Deny),
		SkipModified:         !c.same(s.Effect, at+"detect.modified and alteredPackages", d.Modified, d.AlteredPackages),
		CheckNewBinaries:     c.same(s.Effect, at+"detect.newBinaries", d.NewBinaries),
		CheckCryptoMiners:    c.same(s.Effect, at+"detect.cryptoMiners", d.CryptoMiners),
		CheckLateralMovement: c.same(s.Effect, at+"detect.lateralMovement", d.LateralMovement),
		BlockAllBinaries:     c.same(s.Effect, at+"detect.onlyMainProcess", d.OnlyMainProcess),
	}
	for _, own := range []struct {
		key    string
		effect *policy.Effect
	}{
		{"reverseShell", d.ReverseShell}, {"fileless", d.Fileless}, {"writablePath", d.WritablePath}, {"setUID", d.SetUID},
		{"shellsFromServers", d.ShellsFromServers}, {"packageManagersFromServers", d.PackageManagersFromServers},
	} {
		c.none(own.effect != nil, at+"detect."+own.key)
	}
	c.none(len(s.Parents) > 0, at+"parents")
	for _, l := range []struct {
		key     string
		entries []string
	}{{"allow", s.Allow}, {"deny", s.Deny}} {
		for i, e := range l.entries {
			if strings.ContainsAny(e, "/*:") {
				c.notes.add(fmt.Sprintf("%s%s[%d]", at, l.key, i), "%q is no name; only names are sure to be understood there", e)
			}
		}
	}
	switch {
	case len(s.Exempt) > 0 && !slices.Equal(s.Exempt, s.Allow):
		c.faults.add(at+"exempt", "there, exactly what is on the allow list is exempt from detections")
	case len(s.Exempt) == 0 && len(s.Allow) > 0 && detects(d):
		c.notes.add(at+"allow", "there, what is on the allow list is exempt from detections")
	}
	return out
}

func (c *exporter) network(s *policy.NetworkSection, at string) *Network {
	o := &s.Outbound
	for _, own := range []struct {
		key string
		set bool
	}{
		{"outbound.allowNames", len(o.AllowNames) > 0}, {"outbound.denyNames", len(o.DenyNames) > 0}, {"outbound.unresolved", o.Unresolved != nil},
		{"unix", len(s.Unix.Allow)+len(s.Unix.Deny) > 0},
		{"detect.cloudMetadata", s.Detect.CloudMetadata != nil}, {"detect.portScan", s.Detect.PortScan != nil},
		{"detect.rawSockets", s.Detect.RawSockets != nil}, {"detect.minerPools", s.Detect.MinerPools != nil},
		{"detect.encryptedDNS", s.Detect.EncryptedDNS != nil},
	} {
		c.none(own.set, at+own.key)
	}
	return &Network{
		Effect:                  effectWord(s.Effect),
		WhitelistIPs:            full(o.Allow),
		BlacklistIPs:            full(o.Deny),
		WhitelistListeningPorts: exportPorts(s.Listen.AllowPorts, false),
		BlacklistListeningPorts: exportPorts(s.Listen.DenyPorts, true),
		WhitelistOutboundPorts:  exportPorts(o.AllowPorts, false),
		BlacklistOutboundPorts:  exportPorts(o.DenyPorts, true),
	}
}

func (c *exporter) files(s *policy.FilesSection, at string) *Filesystem {
	d := &s.Detect
	c.none(len(s.Malware) > 0, at+"malware")
	c.none(len(s.Trusted) > 0, at+"trusted")
	return &Filesystem{
		Effect: effectWord(s.Effect), Whitelist: full(s.Allow), Blacklist: full(s.Deny),
		CheckNewFiles:         c.same(s.Effect, at+"detect.binaries, certificates and privateKeys", d.Binaries, d.Certificates, d.PrivateKeys),
		BackdoorFiles:         c.same(s.Effect, at+"detect.sshAndAdminFiles", d.SSHAndAdminFiles),
		SkipEncryptedBinaries: !c.same(s.Effect, at+"detect.packedBinaries", d.PackedBinaries),
		SuspiciousELFHeaders:  c.same(s.Effect, at+"detect.suspiciousELF and foreignArchitecture", d.SuspiciousELF, d.ForeignArchitecture),
	}
}

// none reports a setting that the other form does not know.
func (c *exporter) none(set bool, path string) {
	if set {
		c.faults.add(path, "has no counterpart")
	}
}

// same reports whether detections, which are one switch in the other form, are
// on. It is a fault if they differ, or have an effect of their own.
func (c *exporter) same(section *policy.Effect, path string, effects ...*policy.Effect) bool {
	on := 0
	for _, e := range effects {
		switch {
		case e == nil || *e == policy.Disable:
		case *e == policy.Inherit || section != nil && *e == *section:
			on++
		default:
			c.faults.add(path, "%q has no counterpart: the section's effect is that of its detections", e)
			return false
		}
	}
	if on > 0 && on < len(effects) {
		c.faults.add(path, "one without the other has no counterpart")
	}
	return on > 0
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
