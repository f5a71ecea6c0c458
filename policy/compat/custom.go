package compat

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"appdefender/policy"
)

// LibraryRule is a custom rule as the library of the other form keeps it.
type LibraryRule struct {
	ID               int      `json:"_id"`
	Name             string   `json:"name"`
	Type             string   `json:"type"`
	Script           string   `json:"script"`
	Message          string   `json:"message"`
	Description      string   `json:"description"`
	Owner            string   `json:"owner"`
	Modified         int64    `json:"modified"`
	MinVersion       string   `json:"minVersion"`
	AttackTechniques []string `json:"attackTechniques"`
	VulnIDs          []string `json:"vulnIDs"`
}

// elsewhere are types of custom rules that are not about what an application
// does on its machine.
var elsewhere = []string{"kubernetes-audit", "waas-request", "waas-response"}

// ImportCustomRules converts a library of custom rules, a list of them or one
// alone. The error is an [Errors] that lists every fault; the notes say what
// was left out.
func ImportCustomRules(data []byte) ([]policy.CustomRule, []Fault, error) {
	var c importer
	var library []LibraryRule
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '{' {
		data = slices.Concat([]byte("["), data, []byte("]"))
	}
	decode(data, &library, &c.faults)
	if len(c.faults) > 0 {
		return nil, nil, c.faults
	}
	var out []policy.CustomRule
	var from []int // where out's rules stand in the library
	for i := range library {
		r, at := &library[i], fmt.Sprintf("[%d].", i)
		if slices.Contains(elsewhere, r.Type) {
			c.notes.add(at+"type", "rule %q is left out: no Defender of applications judges %s", r.Name, r.Type)
			continue
		}
		if r.ID == 0 {
			c.faults.add(at+"_id", "missing; policies choose the rule by it")
		}
		for _, left := range []struct {
			key string
			set bool
		}{{"owner", r.Owner != ""}, {"modified", r.Modified != 0}, {"minVersion", r.MinVersion != ""}, {"vulnIDs", len(r.VulnIDs) > 0}} {
			if left.set {
				c.notes.add(at+left.key, "left out: it is no part of the rule")
			}
		}
		out = append(out, policy.CustomRule{
			ID: r.ID, Name: r.Name, Type: r.Type, Description: r.Description, Script: r.Script, Message: r.Message,
			AttackTechniques: list(r.AttackTechniques),
		})
		from = append(from, i)
	}
	p := &policy.Policy{Version: 1, CustomRules: out}
	for _, f := range p.Validate() {
		path := strings.TrimPrefix(f.Path, "customRules")
		for i := range out {
			if rest, ok := strings.CutPrefix(path, fmt.Sprintf("[%d]", i)); ok {
				path = fmt.Sprintf("[%d]%s", from[i], strings.Replace(rest, ".id", "._id", 1))
				break
			}
		}
		c.faults.add(path, "%s", f.Msg)
	}
	if len(c.faults) > 0 {
		return nil, nil, c.faults
	}
	return out, c.notes, nil
}

// custom converts the use of a custom rule of the library.
func (c *importer) custom(r *CustomRule, library []policy.CustomRule, at string) policy.CustomRef {
	ref := policy.CustomRef{Effect: r.Effect, Action: r.Action}
	i := slices.IndexFunc(library, func(l policy.CustomRule) bool { return l.ID == r.ID })
	switch {
	case r.ID == 0:
		c.faults.add(at+"._id", "missing; it says which custom rule")
	case i < 0:
		c.faults.add(at+"._id", "there is no custom rule %d in the library; import that too", r.ID)
	default:
		ref.Rule = library[i].Name
	}
	if r.Effect == policy.Block.String() {
		c.notes.add(at+".effect", "block ends the whole application here")
	}
	return ref
}

// IDs gives each custom rule of a policy, by its name, the number it goes by in
// the other form: its own, or the next that is free.
func IDs(p *policy.Policy) map[string]int {
	ids := make(map[string]int, len(p.CustomRules))
	next := 1
	for i := range p.CustomRules {
		next = max(next, p.CustomRules[i].ID+1)
	}
	for i := range p.CustomRules {
		r := &p.CustomRules[i]
		ids[r.Name] = r.ID
		if r.ID == 0 {
			ids[r.Name] = next
			next++
		}
	}
	return ids
}

// known are the attributes that scripts have in the other form.
var known = map[string]bool{
	"proc.name": true, "proc.pname": true, "proc.path": true, "proc.user": true, "proc.cmdline": true, "proc.interactive": true,
	"file.path": true, "file.dir": true, "file.type": true, "file.md5": true,
	"net.outgoing_port": true, "net.outgoing_ip": true, "net.private_subnet": true,
}

// ExportCustomRules converts the custom rules of a native policy, which must
// be valid, to a library, with the numbers that Export uses. The error is an
// [Errors] that lists what has no place in the other form.
func ExportCustomRules(p *policy.Policy) ([]LibraryRule, error) {
	var c exporter
	out := []LibraryRule{}
	ids := IDs(p)
	for i := range p.CustomRules {
		r, at := &p.CustomRules[i], fmt.Sprintf("customRules[%d].", i)
		c.none(r.Type == "dns" || r.Type == "listening", at+"type")
		for _, name := range r.Attributes() {
			if !known[name] {
				c.faults.add(at+"script", "%s has no counterpart", name)
			}
		}
		out = append(out, LibraryRule{
			ID: ids[r.Name], Name: r.Name, Type: r.Type, Script: r.Script, Message: r.Message, Description: r.Description,
			AttackTechniques: full(r.AttackTechniques), VulnIDs: []string{},
		})
	}
	if len(c.faults) > 0 {
		return nil, c.faults
	}
	return out, nil
}
