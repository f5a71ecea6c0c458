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
	c := exporter{ids: IDs(p)}
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
	c.own(at+"onUnknown", r.OnUnknown, r.OnUnknown)
	if s := r.Processes; s != nil {
		out.Processes = c.processes(s, at+"processes.")
	}
	if s := r.Network; s != nil {
		out.Network = c.network(s, at+"network.")
	}
	if s := r.DNS; s != nil {
		c.none(s.Answer != "" && s.Answer != policy.AnswerNoName, at+"dns.answer")
		c.none(len(s.Private) > 0, at+"dns.private")
		out.DNS = &DNS{Effect: effectWord(s.Effect), Whitelist: exportDomains(s.Allow), Blacklist: exportDomains(s.Deny)}
	}
	for _, o := range owned(r) {
		c.own(at+o.key, *o.effect, o.section)
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
	c.none(len(o.AllowNames) > 0, at+"outbound.allowNames")
	c.none(len(o.DenyNames) > 0, at+"outbound.denyNames")
	c.none(len(o.AllowFamilies) > 0, at+"outbound.allowFamilies")
	if len(s.Unix.Allow)+len(s.Unix.Deny) > 0 {
		c.own(at+"unix", s.Effect, s.Effect)
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

// own reports a setting that the other form does not know, with its effect in
// a section of that effect. What only tells is left out, with a note.
func (c *exporter) own(path string, e, section *policy.Effect) {
	if e != nil && *e == policy.Inherit {
		e = section
	}
	switch {
	case e == nil:
	case e.Refuses():
		c.faults.add(path, "has no counterpart")
	case *e == policy.Alert:
		c.notes.add(path, "is left out: it only tells, and has no counterpart")
	}
}

// owned are the detections of a rule that the other form does not know.
func owned(r *policy.Rule) []ownedEffect {
	var all []ownedEffect
	if s := r.Processes; s != nil {
		d := &s.Detect
		for key, e := range map[string]**policy.Effect{
			"reverseShell": &d.ReverseShell, "fileless": &d.Fileless, "writablePath": &d.WritablePath, "setUID": &d.SetUID,
			"shellsFromServers": &d.ShellsFromServers, "packageManagersFromServers": &d.PackageManagersFromServers,
		} {
			all = append(all, ownedEffect{"processes.detect." + key, e, s.Effect})
		}
	}
	if s := r.DNS; s != nil {
		d := &s.Detect
		for key, e := range map[string]**policy.Effect{
			"minerPools": &d.MinerPools, "rebinding": &d.Rebinding, "tunnels": &d.Tunnels, "encryptedDNS": &d.EncryptedDNS,
		} {
			all = append(all, ownedEffect{"dns.detect." + key, e, s.Effect})
		}
	}
	if s := r.Network; s != nil {
		d := &s.Detect
		for key, e := range map[string]**policy.Effect{
			"detect.cloudMetadata": &d.CloudMetadata, "detect.portScan": &d.PortScan, "detect.rawSockets": &d.RawSockets,
			"detect.minerPools": &d.MinerPools, "detect.encryptedDNS": &d.EncryptedDNS, "outbound.unresolved": &s.Outbound.Unresolved,
		} {
			all = append(all, ownedEffect{"network." + key, e, s.Effect})
		}
	}
	slices.SortFunc(all, func(a, b ownedEffect) int { return strings.Compare(a.key, b.key) })
	return all
}

type ownedEffect struct {
	key     string
	effect  **policy.Effect
	section *policy.Effect
}

// Keep gives a rule that was imported what the other form cannot say of the
// rule in whose place it comes: who reads a policy, changes it and writes it
// back means to change no more than that. It returns what was kept, as notes.
func Keep(r, old *policy.Rule, at string) []Fault {
	var notes Errors
	was := owned(old)
	for _, o := range owned(r) {
		i := slices.IndexFunc(was, func(w ownedEffect) bool { return w.key == o.key })
		if i >= 0 && *was[i].effect != nil {
			*o.effect = *was[i].effect
			notes.add(at+o.key, "stays as it was: it has no counterpart")
		}
	}
	if r.OnUnknown = old.OnUnknown; old.OnUnknown != nil {
		notes.add(at+"onUnknown", "stays as it was: it has no counterpart")
	}
	if s, was := r.Network, old.Network; s != nil && was != nil && len(was.Unix.Allow)+len(was.Unix.Deny) > 0 {
		s.Unix = was.Unix
		notes.add(at+"network.unix", "stays as it was: it has no counterpart")
	}
	// What is one switch there may be half on here.
	if s, was := r.Processes, old.Processes; s != nil && was != nil {
		keepPart(was.Detect.Modified, was.Detect.AlteredPackages, &s.Detect.Modified, &s.Detect.AlteredPackages)
	}
	if s, was := r.Files, old.Files; s != nil && was != nil {
		d, old := &s.Detect, &was.Detect
		keepPart(old.Binaries, old.PrivateKeys, &d.Binaries, &d.PrivateKeys)
		keepPart(old.Certificates, old.PrivateKeys, &d.Certificates, &d.PrivateKeys)
		keepPart(old.SuspiciousELF, old.ForeignArchitecture, &d.SuspiciousELF, &d.ForeignArchitecture)
	}
	return notes
}

// keepPart leaves off what was off of two detections that are now on together,
// if the other was on.
func keepPart(wasA, wasB *policy.Effect, a, b **policy.Effect) {
	on := func(e *policy.Effect) bool { return e != nil && *e != policy.Disable }
	if on(wasA) != on(wasB) && on(*a) && on(*b) {
		*a, *b = wasA, wasB
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
	switch {
	case on == 0 || on == len(effects):
	case section == nil || section.Refuses():
		c.faults.add(path, "one without the other has no counterpart")
	default:
		c.notes.add(path, "are on together there")
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
