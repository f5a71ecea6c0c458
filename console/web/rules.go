package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"appdefender/console"
	"appdefender/console/store"
	"appdefender/policy"
)

type rulesData struct {
	Generation uint64
	Who        string
	At         time.Time
	Rules      []ruleLine
}

// ruleLine is a rule in the list.
type ruleLine struct {
	Position    int // from 1
	Last        bool
	Name        string
	Disabled    bool
	Scope       []scopeLine
	Sections    []sectionLine
	Changed     lastChange
	UnreachedBy string // an enabled rule above that leaves this one nothing
}

type scopeLine struct {
	Word     string
	Patterns []string
}

type sectionLine struct {
	Name    string
	Effect  string // "" says nothing
	Entries string // how many, and how many detections, for people
}

func (p *pages) getRules(w http.ResponseWriter, r *http.Request) error {
	now, err := p.srv.Policy()
	if err != nil {
		return err
	}
	changes, err := p.history.of(r.Context(), p.srv.Store(), now.Generation)
	if err != nil {
		return err
	}
	d := rulesData{Generation: now.Generation, Who: now.Who, At: now.At}
	everything := "" // the first enabled rule that takes every workload
	for i := range now.Policy.Rules {
		rule := &now.Policy.Rules[i]
		line := ruleLine{
			Position: i + 1,
			Last:     i == len(now.Policy.Rules)-1,
			Name:     rule.Name,
			Disabled: rule.Disabled,
			Scope:    scopeLines(&rule.Scope),
			Sections: sectionLines(rule),
			Changed:  changes[rule.Name],
		}
		if !rule.Disabled {
			line.UnreachedBy = everything
			if everything == "" && unscoped(&rule.Scope) {
				everything = rule.Name
			}
		}
		d.Rules = append(d.Rules, line)
	}
	return p.render(w, r, http.StatusOK, "rules.html", view{Title: "App-Embedded policy", Nav: runtimePath, Data: d})
}

// unscoped reports whether a scope selects every workload for sure.
func unscoped(s *policy.Scope) bool {
	for _, patterns := range [][]string{s.Images, s.Containers, s.AppIDs} {
		excludes := slices.ContainsFunc(patterns, func(p string) bool { return strings.HasPrefix(p, "-") })
		if excludes || len(patterns) > 0 && !slices.Contains(patterns, "*") {
			return false
		}
	}
	return true
}

func scopeLines(s *policy.Scope) []scopeLine {
	var lines []scopeLine
	for _, l := range []scopeLine{{"Images", s.Images}, {"Containers", s.Containers}, {"App IDs", s.AppIDs}} {
		if len(l.Patterns) > 0 && !slices.Equal(l.Patterns, []string{"*"}) {
			lines = append(lines, l)
		}
	}
	return lines
}

func sectionLines(r *policy.Rule) []sectionLine {
	lines := []sectionLine{{Name: "Processes"}, {Name: "DNS"}, {Name: "Network"}, {Name: "Files"}}
	form := &ruleForm{Rule: complete(*r)}
	set := func(l *sectionLine, e *policy.Effect, denied, allowed int) {
		if e == nil || *e == policy.Disable {
			return
		}
		l.Effect = e.String()
		var counts []string
		if denied > 0 {
			counts = append(counts, fmt.Sprintf("%d denied", denied))
		}
		if allowed > 0 {
			counts = append(counts, fmt.Sprintf("%d allowed", allowed))
		}
		if n := form.Detections(strings.ToLower(l.Name)).On; n > 0 {
			counts = append(counts, plural(n, "detection"))
		}
		l.Entries = strings.Join(counts, ", ")
	}
	if s := r.Processes; s != nil {
		set(&lines[0], s.Effect, len(s.Deny), len(s.Allow))
	}
	if s := r.Network; s != nil {
		o := &s.Outbound
		set(&lines[2], s.Effect, len(o.Deny)+len(o.DenyPorts)+len(o.DenyNames)+len(s.Listen.DenyPorts)+len(s.Unix.Deny),
			len(o.Allow)+len(o.AllowPorts)+len(o.AllowNames)+len(o.AllowFamilies)+len(s.Listen.AllowPorts)+len(s.Unix.Allow))
	}
	if s := r.DNS; s != nil {
		set(&lines[1], s.Effect, len(s.Deny), len(s.Allow))
	}
	if s := r.Files; s != nil {
		set(&lines[3], s.Effect, len(s.Deny), len(s.Allow))
	}
	return lines
}

// change changes the newest policy. What it does is meant for whatever the
// policy is by then, so it is tried again when somebody else was faster.
func (p *pages) change(ctx context.Context, who, what string, change func(*policy.Policy) error) error {
	var err error
	for range 3 {
		if _, err = p.srv.ChangePolicy(ctx, who, what, 0, change); !errors.Is(err, store.ErrConflict) {
			break
		}
	}
	return err
}

func ruleIndex(p *policy.Policy, name string) (int, error) {
	i := slices.IndexFunc(p.Rules, func(r policy.Rule) bool { return r.Name == name })
	if i < 0 {
		return i, noRule(name)
	}
	return i, nil
}

func noRule(name string) error {
	return console.Errorf(http.StatusNotFound, "There is no rule %q any more. Somebody may have renamed or deleted it.", name)
}

func (p *pages) postMove(w http.ResponseWriter, r *http.Request) error {
	name, to := r.PostFormValue("name"), r.PostFormValue("to")
	step, ok := map[string]int{"up": -1, "down": 1}[to]
	if !ok {
		return console.Errorf(http.StatusBadRequest, "to: %q is neither up nor down", to)
	}
	err := p.change(r.Context(), console.Who(r), fmt.Sprintf("moved rule %q %s", name, to), func(pol *policy.Policy) error {
		i, err := ruleIndex(pol, name)
		if err != nil {
			return err
		}
		if j := i + step; j >= 0 && j < len(pol.Rules) {
			pol.Rules[i], pol.Rules[j] = pol.Rules[j], pol.Rules[i]
		}
		return nil
	})
	return p.backToRules(w, r, "", err)
}

func (p *pages) postDisable(w http.ResponseWriter, r *http.Request) error {
	name, disabled := r.PostFormValue("name"), r.PostFormValue("disabled") == "true"
	what := fmt.Sprintf("enabled rule %q", name)
	if disabled {
		what = fmt.Sprintf("disabled rule %q", name)
	}
	err := p.change(r.Context(), console.Who(r), what, func(pol *policy.Policy) error {
		i, err := ruleIndex(pol, name)
		if err == nil {
			pol.Rules[i].Disabled = disabled
		}
		return err
	})
	return p.backToRules(w, r, "", err)
}

func (p *pages) postDelete(w http.ResponseWriter, r *http.Request) error {
	name := r.PostFormValue("name")
	_, err := p.srv.DeleteRule(r.Context(), console.Who(r), 0, name)
	if errors.Is(err, store.ErrNotFound) {
		err = noRule(name)
	}
	return p.backToRules(w, r, "deleted", err)
}

func (p *pages) backToRules(w http.ResponseWriter, r *http.Request, done string, err error) error {
	if err != nil {
		return err
	}
	to := runtimePath
	if done != "" {
		to += "?" + url.Values{"done": {done}}.Encode()
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}
