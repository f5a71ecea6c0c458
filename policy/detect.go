package policy

import "slices"

// detector is one detection: where its effect stands in a section of type S, and
// what it looks for.
type detector[S any] struct {
	key       string // below the section
	effect    func(*S) *Effect
	detection Detection
	kind      Kind  // of the events looked at
	needs     Needs // what it asks about
	rests     Needs // facts that, if they could not be had, make it hold
	// asks returns what of needs it asks about one event, by what that says
	// without any of them. nil is that it asks about all.
	asks func(*Event) Needs
	// late says that the fact is known only after the deed: to prevent it is
	// out of reach.
	late bool
	// holds returns for people what was found, or "" for nothing. It
	// allocates only when it found something.
	holds func(*Event) string
}

// active is a check that a rule asks for.
type active struct {
	effect    Effect // Alert, Prevent or Block
	asked     Effect // the same, where it is not too late
	detection Detection
	kind      Kind
	needs     Needs
	rests     Needs
	asks      func(*Event) Needs // never nil
	holds     func(*Event) string
}

// newChecks returns what section s asks for, the strictest first, and reports
// faults under at. section is the effect that Inherit stands for.
func newChecks[S any](s *S, table []detector[S], section *Effect, at string, f *faults) []active {
	var list []active
	reported := ""
	for i := range table {
		c := &table[i]
		e := c.effect(s)
		if e == nil {
			continue
		}
		if *e > Inherit && reported != c.key {
			reported = c.key // one key may stand for two detections
			f.add(at+"."+c.key, "%d is not an effect; %s", uint8(*e), effectWords)
		}
		if asked := resolve(e, section); asked != Disable {
			effect := asked
			if c.late && effect == Prevent {
				effect = Alert
			}
			asks := c.asks
			if asks == nil {
				asks = func(*Event) Needs { return c.needs }
			}
			list = append(list, active{effect, asked, c.detection, c.kind, c.needs, c.rests, asks, c.holds})
		}
	}
	slices.SortStableFunc(list, func(a, b active) int { return severity(b.effect) - severity(a.effect) })
	return list
}

// resolve returns what the effect e comes to in a section of that effect.
func resolve(e, section *Effect) Effect {
	switch {
	case *e != Inherit:
		return *e
	case section == nil:
		return Disable // a fault, reported where it is missing
	}
	return *section
}

// notes says which settings of s cannot be had.
func notes[S any](s *S, table []detector[S], section *Effect, at string, f *faults) {
	for i := range table {
		c := &table[i]
		e := c.effect(s)
		if e == nil || !c.late || section == nil {
			continue
		}
		if *e == Prevent || *e == Inherit && *section == Prevent {
			says := "alerts and cannot prevent: what a file holds is known after it was written"
			if c.needs.Has(NeedProgramContent) {
				says += "; the start of such a program is prevented"
			}
			f.add(at+"."+c.key, "%s", says)
		}
	}
}

// run returns the strictest finding of the checks if it is stricter than f,
// and else f.
func run(list []active, ev *Event, f finding) finding {
	for i := range list {
		c := &list[i]
		if f.detection != NothingDetected && severity(c.effect) <= severity(f.effect) {
			break
		}
		if c.kind != ev.Kind {
			continue
		}
		if ev.Unsure&c.rests != 0 {
			return finding{effect: c.effect, detection: c.detection, reason: "it could not be found out that this is not so"}
		}
		if reason := c.holds(ev); reason != "" {
			return finding{effect: c.effect, detection: c.detection, reason: reason}
		}
	}
	return f
}

// strictest returns the strictest effect of lists, if there are any, and
// checks, and Disable if there is neither.
func strictest(lists bool, effect Effect, checks []active) Effect {
	strict := Disable
	if lists {
		strict = effect
	}
	if len(checks) > 0 && severity(checks[0].effect) > severity(strict) {
		strict = checks[0].effect
	}
	return strict
}

// needsFor returns what the checks ask about one event.
func needsFor(checks []active, ev *Event) Needs {
	var n Needs
	for i := range checks {
		if c := &checks[i]; c.kind == ev.Kind {
			n |= c.asks(ev)
		}
	}
	return n
}

// allNeeds joins what checks need.
func allNeeds(checks []active) Needs {
	var n Needs
	for i := range checks {
		n |= checks[i].needs
	}
	return n
}
