package compat

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"appdefender/policy"
)

// Import converts a policy, which chooses custom rules from library. One rule
// alone, as people export it from the other system, is a policy too. The error is an [Errors] that lists every fault;
// the notes say what was left out because no Defender would act on it, or
// means a little less here.
func Import(data []byte, library ...policy.CustomRule) (*policy.Policy, []Fault, error) {
	var p Policy
	c := importer{library: library}
	if single(data) {
		r, notes, err := ImportRule(data, library...)
		if err != nil {
			return nil, nil, err
		}
		return &policy.Policy{Version: 1, Rules: []policy.Rule{r}, CustomRules: library}, notes, nil
	}
	decode(data, &p, &c.faults)
	if len(c.faults) > 0 {
		return nil, nil, c.faults
	}
	if p.ID != "" && p.ID != PolicyID {
		c.notes.add("_id", "%q is left out: this is %q here", p.ID, PolicyID)
	}
	if p.Owner != "" {
		c.notes.add("owner", "%q is left out: it is no part of the policy", p.Owner)
	}
	out := &policy.Policy{Version: 1, Rules: []policy.Rule{}, CustomRules: library}
	for i := range p.Rules {
		out.Rules = append(out.Rules, c.rule(&p.Rules[i], fmt.Sprintf("rules[%d].", i)))
	}
	c.validate(out, "")
	if len(c.faults) > 0 {
		return nil, nil, c.faults
	}
	return out, c.notes, nil
}

// single reports whether data is one rule: it has collections or a name, and
// no rules.
func single(data []byte) bool {
	var keys map[string]json.RawMessage
	if json.Unmarshal(data, &keys) != nil || keys["rules"] != nil {
		return false
	}
	return keys["name"] != nil || keys["collections"] != nil || keys["resources"] != nil
}

// ImportRule converts one rule, as Import does; paths begin in the rule.
func ImportRule(data []byte, library ...policy.CustomRule) (policy.Rule, []Fault, error) {
	var r Rule
	c := importer{library: library}
	decode(data, &r, &c.faults)
	if len(c.faults) > 0 {
		return policy.Rule{}, nil, c.faults
	}
	out := c.rule(&r, "")
	c.validate(&policy.Policy{Version: 1, Rules: []policy.Rule{out}, CustomRules: library}, "rules[0].")
	if len(c.faults) > 0 {
		return policy.Rule{}, nil, c.faults
	}
	return out, c.notes, nil
}

// importer collects faults and notes.
type importer struct {
	library []policy.CustomRule
	faults  Errors
	notes   Errors
}

// validate adds the native policy's faults by their names there, which differ
// only at the last step, without the prefix cut.
func (c *importer) validate(p *policy.Policy, cut string) {
	for _, f := range p.Validate() {
		path := strings.TrimPrefix(f.Path, cut)
		if strings.Contains(path, "custom[") && strings.HasSuffix(path, ".rule") && slices.ContainsFunc(c.faults, func(known Fault) bool {
			return known.Path == strings.TrimSuffix(strings.Replace(path, "custom[", "customRules[", 1), ".rule")+"._id"
		}) {
			continue // a rule that is not in the library has no name either
		}
		for _, r := range [][2]string{
			{"scope.", "collections[0]."}, {"custom[", "customRules["},
			{"network.listen.allowPorts", "network.whitelistListeningPorts"}, {"network.listen.denyPorts", "network.blacklistListeningPorts"},
			{"files.allow", "filesystem.whitelist"}, {"files.deny", "filesystem.blacklist"},
			{"network.outbound.allowPorts", "network.whitelistOutboundPorts"}, {"network.outbound.denyPorts", "network.blacklistOutboundPorts"},
			{"network.outbound.allow", "network.whitelistIPs"}, {"network.outbound.deny", "network.blacklistIPs"},
			{".allow", ".whitelist"}, {".exempt", ".whitelist"}, {".deny", ".blacklist"},
		} {
			if strings.Contains(path, r[0]) {
				path = strings.Replace(path, r[0], r[1], 1)
				break
			}
		}
		if !slices.ContainsFunc(c.faults, func(known Fault) bool { return known.Path == path }) {
			c.faults.add(path, "%s", f.Msg)
		}
	}
}

func (c *importer) rule(r *Rule, at string) policy.Rule {
	out := policy.Rule{Name: r.Name, Disabled: r.Disabled, Scope: c.scopeOf(r, at)}
	out.Notes = r.Notes
	for _, left := range [][2]string{{"owner", r.Owner}, {"modified", r.Modified}, {"previousName", r.PreviousName}} {
		if left[1] != "" {
			c.notes.add(at+left[0], "%q is left out: it is history, not policy", left[1])
		}
	}
	if r.WildFireAnalysis != "" && r.WildFireAnalysis != "disable" {
		c.faults.add(at+"wildFireAnalysis", "files are sent to no service here; write disable to import the rest")
	}
	for i := range r.CustomRules {
		out.Custom = append(out.Custom, c.custom(&r.CustomRules[i], c.library, fmt.Sprintf("%scustomRules[%d]", at, i)))
	}
	if s := r.Processes; s != nil {
		at := at + "processes."
		out.Processes = &policy.ProcessesSection{
			Effect: c.effect(s.Effect, at+"effect"), Allow: list(s.Whitelist), Deny: list(s.Blacklist),
			Detect: policy.ProcessDetections{
				Modified:        on(!s.SkipModified),
				AlteredPackages: on(!s.SkipModified),
				NewBinaries:     on(s.CheckNewBinaries),
				CryptoMiners:    on(s.CheckCryptoMiners),
				LateralMovement: on(s.CheckLateralMovement),
				OnlyMainProcess: on(s.BlockAllBinaries),
			},
		}
		if detects(&out.Processes.Detect) {
			out.Processes.Exempt = slices.Clone(out.Processes.Allow) // there, what is allowed is not looked at
		}
	}
	if s := r.Network; s != nil {
		at := at + "network."
		out.Network = &policy.NetworkSection{Effect: c.effect(s.Effect, at+"effect"), Outbound: policy.OutboundSection{
			Allow:      c.addresses(s.WhitelistIPs, at+"whitelistIPs"),
			Deny:       c.addresses(s.BlacklistIPs, at+"blacklistIPs"),
			AllowPorts: c.ports(s.WhitelistOutboundPorts, at+"whitelistOutboundPorts", false),
			DenyPorts:  c.ports(s.BlacklistOutboundPorts, at+"blacklistOutboundPorts", true),
		}, Listen: policy.ListenSection{
			AllowPorts: c.ports(s.WhitelistListeningPorts, at+"whitelistListeningPorts", false),
			DenyPorts:  c.ports(s.BlacklistListeningPorts, at+"blacklistListeningPorts", true),
		}}
	}
	if s := r.DNS; s != nil {
		at := at + "dns."
		out.DNS = &policy.DNSSection{
			Effect: c.effect(s.Effect, at+"effect"),
			Allow:  c.domains(s.Whitelist, at+"whitelist", false),
			Deny:   c.domains(s.Blacklist, at+"blacklist", true),
		}
	}
	if s := r.Filesystem; s != nil {
		at := at + "filesystem."
		out.Files = &policy.FilesSection{
			Effect: c.effect(s.Effect, at+"effect"), Allow: list(s.Whitelist), Deny: list(s.Blacklist),
			Detect: policy.FileDetections{
				Binaries:            on(s.CheckNewFiles),
				Certificates:        on(s.CheckNewFiles),
				PrivateKeys:         on(s.CheckNewFiles),
				SSHAndAdminFiles:    on(s.BackdoorFiles),
				PackedBinaries:      on(!s.SkipEncryptedBinaries),
				SuspiciousELF:       on(s.SuspiciousELFHeaders),
				ForeignArchitecture: on(s.SuspiciousELFHeaders),
				Malware:             on(r.AdvancedProtection),
			},
		}
	}
	if r.AdvancedProtection {
		c.notes.add(at+"advancedProtection", "feeds of bad names and addresses do not exist here; files are compared with the rule's own list, files.malware")
	}
	return out
}

// on is the effect of a detection that is switched on: its section's.
func on(enabled bool) *policy.Effect {
	if !enabled {
		return nil
	}
	e := policy.Inherit
	return &e
}

// detects reports whether any of the detections that the other form has is on.
func detects(d *policy.ProcessDetections) bool {
	return d.Modified != nil || d.AlteredPackages != nil || d.NewBinaries != nil || d.CryptoMiners != nil || d.LateralMovement != nil
}

// list is nil for an empty list, so that absent and empty are the same.
func list(entries []string) []string {
	if len(entries) == 0 {
		return nil
	}
	return entries
}

func (c *importer) effect(word, path string) *policy.Effect {
	var e policy.Effect
	if word == "" {
		c.faults.add(path, "missing; one of disable, alert, prevent, block")
		return nil
	}
	if err := e.UnmarshalText([]byte(word)); err != nil {
		c.faults.add(path, "%v", err)
		return nil
	}
	if e == policy.Block {
		c.notes.add(path, "block ends the whole application here")
	}
	return &e
}

// addresses reads addresses and prefixes. A prefix with host bits set, which
// is a fault in native policies, is taken for the whole network.
func (c *importer) addresses(entries []string, path string) []string {
	out := slices.Clone(list(entries))
	for i, s := range out {
		if p, err := netip.ParsePrefix(s); err == nil && p != p.Masked() {
			out[i] = p.Masked().String()
			c.notes.add(fmt.Sprintf("%s[%d]", path, i), "%q is read as %s", s, out[i])
		}
	}
	return out
}

func (c *importer) ports(ranges []PortRange, path string, deny bool) []string {
	var out []string
	for i, r := range ranges {
		at := fmt.Sprintf("%s[%d]", path, i)
		if r.Deny && !deny {
			c.faults.add(at+".deny", "true on a list of what is allowed")
		}
		if !r.Deny && deny {
			c.notes.add(at+".deny", "false, on a list of what is denied, is read as true")
		}
		if r.Start < 1 || r.End > 65535 || r.Start > r.End {
			c.faults.add(at, "%d to %d is no range of ports", r.Start, r.End)
			continue
		}
		s := strconv.Itoa(r.Start)
		if r.Start != r.End {
			s += "-" + strconv.Itoa(r.End)
		}
		out = append(out, s)
	}
	return out
}

// domains reads patterns of names. Of several stars only the right-most counts
// there: "*.s3.*.example.com" means "*.example.com". One that is not a label of
// its own, "*example.com", means every name that ends so; here it is the name
// and what is below it.
//
// That would leave out some of what is to be denied, so there it stays a fault.
func (c *importer) domains(entries []string, path string, deny bool) []string {
	out := slices.Clone(list(entries))
	for i, s := range out {
		star := strings.LastIndexByte(s, '*')
		rest, label := strings.CutPrefix(s[star+1:], ".")
		at := fmt.Sprintf("%s[%d]", path, i)
		switch {
		case star < 0 || rest == "" || star == 0 && label || star > 0 && s[star-1] != '.':
			// As it is here, or a fault.
		case label:
			out[i] = "*." + rest
			c.notes.add(at, "%q is read as %q: of several stars the last counts", s, out[i])
		case !deny:
			out[i] = "**." + rest
			c.notes.add(at, "%q is read as %q: other names that end in these letters are not meant", s, out[i])
		}
	}
	return out
}

// everything is the name of the collection that has no bounds.
const everything = "All"

// scopeOf reads the scope of a rule, old or new.
func (c *importer) scopeOf(r *Rule, at string) policy.Scope {
	res := r.Resources
	switch {
	case res == nil:
		return c.scope(r.Name, r.Collections, at+"collections")
	case len(r.Collections) > 0:
		c.faults.add(at+"resources", "stands beside collections; a rule has one or the other")
		return policy.Scope{}
	}
	c.bounds(at+"resources", []field{
		{"accountIDs", res.AccountIDs}, {"clusters", res.Clusters}, {"functions", res.Functions}, {"hosts", res.Hosts}, {"labels", res.Labels},
		{"namespaces", res.Namespaces},
	})
	return policy.Scope{Images: bounded(res.Images), Containers: bounded(res.Containers), AppIDs: bounded(res.AppIDs)}
}

type field struct {
	key    string
	values []string
}

// bounds reports fields that a scope here does not have, if they mean
// something.
func (c *importer) bounds(at string, fields []field) {
	for _, f := range fields {
		if bounded(f.values) != nil {
			c.faults.add(at+"."+f.key, "not supported; a scope here is appIDs, images and containers")
		}
	}
}

// left notes what of a rule's collection does not select anything. Exported,
// a scope goes by its rule's name.
func (c *importer) left(rule string, col *Collection, at string) {
	var keys []string
	for _, left := range []struct {
		key string
		set bool
	}{
		{"name", col.Name != rule && col.Name != everything}, {"color", col.Color != ""}, {"description", col.Description != ""},
		{"owner", col.Owner != ""}, {"modified", col.Modified != ""}, {"system", col.System && col.Name != everything}, {"prisma", col.Prisma},
	} {
		if left.set {
			keys = append(keys, left.key)
		}
	}
	if len(keys) > 0 {
		c.notes.add(at, "left out, as it selects nothing: %s", strings.Join(keys, ", "))
	}
}

// scope joins collections to one scope. A workload in any of them is meant,
// but in a scope all fields must match: so they may differ in one field only.
func (c *importer) scope(rule string, collections []Collection, path string) policy.Scope {
	var scopes []policy.Scope
	for i := range collections {
		col, at := &collections[i], fmt.Sprintf("%s[%d]", path, i)
		c.left(rule, col, at)
		c.bounds(at, []field{
			{"accountIDs", col.AccountIDs}, {"clusters", col.Clusters}, {"codeRepos", col.CodeRepos}, {"functions", col.Functions},
			{"hosts", col.Hosts}, {"labels", col.Labels}, {"namespaces", col.Namespaces},
		})
		if col.AppIDs == nil && col.Images == nil && col.Containers == nil && col.Name != everything {
			c.faults.add(at, "what is in the collection %q is not known here; write its appIDs, images and containers", col.Name)
			continue
		}
		scopes = append(scopes, policy.Scope{Images: bounded(col.Images), Containers: bounded(col.Containers), AppIDs: bounded(col.AppIDs)})
	}
	if len(scopes) == 0 {
		if len(collections) == 0 {
			c.faults.add(path, "missing; without a collection the rule means nothing")
		}
		return policy.Scope{}
	}
	union := scopes[0]
	for i, s := range scopes[1:] {
		joined, ok := join(union, s)
		if !ok {
			c.faults.add(fmt.Sprintf("%s[%d]", path, i+1), "collections that differ in more than one field, or that exclude, cannot be one scope; make a rule for each")
			break
		}
		union = joined
	}
	return union
}

// bounded returns the patterns of a field, nil if they mean everything.
func bounded(values []string) []string {
	if len(values) == 0 || len(values) == 1 && values[0] == "*" {
		return nil
	}
	return values
}

// join returns the scope of what is in a or b, if there is one.
func join(a, b policy.Scope) (policy.Scope, bool) {
	if covers(a, b) {
		return a, true
	}
	if covers(b, a) {
		return b, true
	}
	differ := 0
	out := a
	for _, f := range []struct {
		a, b []string
		out  *[]string
	}{{a.Images, b.Images, &out.Images}, {a.Containers, b.Containers, &out.Containers}, {a.AppIDs, b.AppIDs, &out.AppIDs}} {
		if slices.Equal(f.a, f.b) {
			continue
		}
		differ++
		if excludes(f.a) || excludes(f.b) {
			return policy.Scope{}, false // an exclusion would hold for both
		}
		*f.out = append(slices.Clone(f.a), f.b...)
	}
	return out, differ <= 1
}

// covers reports whether a has at most the bounds of b.
func covers(a, b policy.Scope) bool {
	return (a.Images == nil || slices.Equal(a.Images, b.Images)) &&
		(a.Containers == nil || slices.Equal(a.Containers, b.Containers)) &&
		(a.AppIDs == nil || slices.Equal(a.AppIDs, b.AppIDs))
}

func excludes(patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return strings.HasPrefix(p, "-") })
}
