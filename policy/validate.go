package policy

import (
	"fmt"
	"strings"
)

// Fault is one thing wrong with a Policy.
type Fault struct {
	Path string // of the faulty value, e.g. "rules[0].dns.allow[2]"
	Msg  string
}

// Error returns the fault as one line.
func (f Fault) Error() string {
	if f.Path == "" {
		return f.Msg
	}
	return f.Path + ": " + f.Msg
}

// faults collects what is wrong with a policy, or with one part of it.
type faults []Fault

func (f *faults) add(path, format string, args ...any) {
	*f = append(*f, Fault{Path: path, Msg: fmt.Sprintf(format, args...)})
}

// addEntry adds a fault of entry i of the list at path.
func (f *faults) addEntry(path string, i int, err error) {
	f.add(fmt.Sprintf("%s[%d]", path, i), "%s", err)
}

// Validate reports every fault of p, not only the first; disabled rules are
// looked at too. Compile accepts exactly the policies without a fault.
//
// An entry that is on both lists of a section is no fault: deny wins.
func (p *Policy) Validate() []Fault {
	return p.read(func(*Rule, *selector, judges, []customJudge) {})
}

// read prepares all of p, gives each rule with what was made of it, and
// returns the faults. What was made of a faulty policy is of no use.
func (p *Policy) read(each func(*Rule, *selector, judges, []customJudge)) faults {
	var f faults
	if p == nil {
		f.add("", "no policy")
		return f
	}
	switch p.Version {
	case 1:
	case 0:
		f.add("version", "missing; write 1")
	default:
		f.add("version", "%d is not supported by this version; write 1", p.Version)
	}
	scripts := newScripts(p, &f)
	first := make(map[string]int, len(p.Rules))
	for i := range p.Rules {
		r, at := &p.Rules[i], fmt.Sprintf("rules[%d]", i)
		if strings.TrimSpace(r.Name) == "" {
			f.add(at+".name", "missing")
		} else if j, taken := first[r.Name]; taken {
			f.add(at+".name", "%q is already the name of rules[%d]", r.Name, j)
		} else {
			first[r.Name] = i
		}
		s := newSelector(&r.Scope, at+".scope", &f)
		customs := newCustoms(r, scripts, at, &f)
		each(r, s, newJudges(r, at, &f), customs)
	}
	return f
}

// Notes says what p asks for and cannot have, though it is valid: effects that
// are less than what is written.
func (p *Policy) Notes() []Fault {
	var f faults
	scripts := newScripts(p, new(faults))
	for i := range p.Rules {
		r, at := &p.Rules[i], fmt.Sprintf("rules[%d]", i)
		s := newSelector(&r.Scope, "", new(faults))
		for _, field := range []struct {
			key string
			of  *patterns
		}{{"images", &s.images}, {"containers", &s.containers}, {"appIDs", &s.appIDs}} {
			if field.of.empty() {
				f.add(at+".scope."+field.key, "excludes all that it selects: the rule is for nothing")
			}
		}
		for i, ref := range r.Custom {
			if s := scripts[ref.Rule]; s != nil && s.late && ref.Effect == Prevent.String() {
				f.add(fmt.Sprintf("%s.custom[%d].effect", at, i), "alerts and cannot prevent: the rule asks what a file holds, which is known after it was written")
			}
		}
		if s := r.Files; s != nil {
			notes(s, fileChecks, s.Effect, at+".files", &f)
		}
	}
	return f
}

// checkEffect reports an effect that is missing or none. A section needs one
// even if its lists are empty: whoever fills them later must have chosen.
func checkEffect(e *Effect, path string, f *faults) {
	switch {
	case e == nil:
		f.add(path, "missing; %s", effectWords)
	case *e == Inherit:
		f.add(path, "%q is an effect of detections only; %s", *e, effectWords)
	case *e > Inherit:
		f.add(path, "%d is not an effect; %s", uint8(*e), effectWords)
	}
}
