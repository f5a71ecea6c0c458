package policy

import (
	"errors"
	"slices"
)

// Engine is the one rule of a Policy that counts for a workload, ready to
// judge. It does not change and may be used by many goroutines at once.
//
// The nil and the zero Engine refuse everything. An Engine of Compile in which
// no rule matches the workload refuses nothing and tells nothing.
type Engine struct {
	compiled  bool
	rule      string // "" if no rule matched
	onUnknown *Effect
	needs     Needs
	effects   [Files + 1]Effect // the strictest of each section, and of all
	workload  Workload
	customs   [RawSocket + 1]customSet // by the kind of event
	judges
}

// judges are the sections of a rule that say something. A section that is
// absent or disabled, or whose lists are all empty, is nil.
type judges struct {
	processes *processJudge
	dns       *dnsJudge
	network   *networkJudge
	files     *fileJudge
}

// need returns what the sections ask about.
func (j *judges) need() Needs {
	var n Needs
	if j.processes != nil {
		n |= j.processes.needs()
	}
	if j.dns != nil {
		n |= allNeeds(j.dns.checks)
	}
	if j.network != nil {
		n |= j.network.needs()
	}
	if j.files != nil {
		n |= j.files.needs()
	}
	return n
}

// finding is what a judge says of an event; the zero finding is nothing.
type finding struct {
	effect    Effect
	detection Detection
	reason    string
	malware   string // its name, of MalwareFile and MalwareProcess
}

// newJudges prepares the sections of r and reports their faults under path.
func newJudges(r *Rule, path string, f *faults) judges {
	if r.OnUnknown != nil {
		checkEffect(r.OnUnknown, path+".onUnknown", f)
	}
	return judges{
		processes: newProcesses(r.Processes, path+".processes", f),
		dns:       newDNS(r.DNS, path+".dns", f),
		network:   newNetwork(r.Network, path+".network", f),
		files:     newFiles(r.Files, path+".files", f),
	}
}

// speaks reports whether a section of effect e ever detects anything.
func speaks(e *Effect) bool { return e != nil && *e != Disable }

// Compile selects the first enabled rule of p whose scope matches w. The error
// joins every fault of p, in any of its rules, and the Engine is then nil.
func Compile(p *Policy, w Workload) (*Engine, error) {
	e := &Engine{compiled: true}
	chosen := false
	found := p.read(func(r *Rule, s *selector, j judges, customs []customJudge) {
		if chosen || r.Disabled || !s.matches(w) {
			return
		}
		chosen = true
		e.rule, e.workload, e.judges, e.customs = r.Name, w, j, newCustomSets(customs)
		e.needs = j.need()
		for i := range customs {
			e.needs |= customs[i].needs
		}
		if r.OnUnknown != nil {
			e.onUnknown = new(*r.OnUnknown)
		}
	})
	if len(found) > 0 {
		errs := make([]error, len(found))
		for i, fault := range found {
			errs[i] = fault
		}
		return nil, errors.Join(errs...)
	}
	e.effects = e.strictest()
	return e, nil
}

// Rule returns the name of the selected rule, or "" if none matched.
func (e *Engine) Rule() string {
	if e == nil {
		return ""
	}
	return e.rule
}

// DeniedPaths returns the paths of programs that a list denies, in no order. A
// file that has one of them beside the name it is started by has it in
// Program.Within.
func (e *Engine) DeniedPaths() []string {
	if e == nil || e.processes == nil {
		return nil
	}
	return e.processes.paths
}

// Refuses reports whether an event of section s could ever be refused. The
// section NoSection stands for all of them.
func (e *Engine) Refuses(s Section) bool {
	if e == nil || !e.compiled {
		return true
	}
	if e.onUnknown != nil && e.onUnknown.Refuses() {
		return true
	}
	return e.effect(s).Refuses()
}

// effect returns the strictest effect of section s, and Disable if s says
// nothing. For NoSection it is that of the strictest section.
func (e *Engine) effect(s Section) Effect {
	if int(s) < len(e.effects) {
		return e.effects[s]
	}
	return Disable
}

// strictest returns the effect of each section.
func (e *Engine) strictest() (effects [Files + 1]Effect) {
	for s := range effects {
		effects[s] = Disable
	}
	consider := func(s Section, effect Effect) {
		for _, of := range []Section{s, NoSection} {
			if severity(effect) > severity(effects[of]) {
				effects[of] = effect
			}
		}
	}
	if e.processes != nil {
		consider(Processes, e.processes.strictest)
	}
	if e.dns != nil {
		consider(DNS, e.dns.strictest)
	}
	if e.network != nil {
		consider(Network, e.network.strictest)
	}
	if e.files != nil {
		consider(Files, e.files.strictest)
		consider(Processes, e.files.startEffect())
	}
	for kind := range e.customs {
		for _, j := range e.customs[kind].judges {
			if !j.allow {
				consider(Kind(kind).section(), j.effect)
			}
		}
	}
	return effects
}

// severity orders effects by what they do to the target.
func severity(e Effect) int {
	switch e {
	case Disable:
		return 0
	case Alert:
		return 1
	case Prevent:
		return 2
	}
	return 3
}

// Decide judges one event and does not keep it. It allocates only when it
// detects something, or to bring a name into the form that Event asks for.
//
// An event of no known kind is judged as one that could not be read.
func (e *Engine) Decide(ev *Event) Verdict {
	if e == nil || !e.compiled {
		return refuseAll(ev)
	}
	if v, holds := e.custom(ev); holds {
		return v
	}
	f := e.judge(ev)
	if f.detection == NothingDetected {
		return Verdict{Allow: true, Rule: e.rule}
	}
	return Verdict{
		Answer:    e.answer(ev, f.effect),
		Allow:     !f.effect.Refuses(),
		Effect:    f.effect,
		Detection: f.detection,
		Rule:      e.rule,
		Reason:    f.reason,
		Malware:   f.malware,
	}
}

// answer is what a lookup gets that the effect refuses.
func (e *Engine) answer(ev *Event, effect Effect) string {
	if ev.Kind == Lookup && effect.Refuses() && e.dns != nil {
		return e.dns.answer
	}
	return ""
}

// judge asks the section that the event belongs to.
func (e *Engine) judge(ev *Event) (f finding) {
	switch ev.Kind {
	case Launch:
		if e.processes != nil {
			f = e.processes.judge(ev)
		}
		if e.files != nil {
			f = e.files.judgeProgram(ev, f)
		}
	case Lookup:
		if j := e.dns; j != nil {
			f.effect = j.effect
			f.detection, f.reason = j.judge(ev)
			f = run(j.checks, ev, f)
		}
	case Outbound, Listen, UnixConnect, RawSocket:
		if j := e.network; j != nil {
			f.effect = j.effect
			switch ev.Kind {
			case Outbound:
				f.detection, f.reason = j.judge(ev)
			case Listen:
				f.detection, f.reason = j.listen.judge(ev.Addr.Port())
			case UnixConnect:
				f.detection, f.reason = j.unix.judge(&ev.File)
			case RawSocket:
				f.detection, f.reason = j.families.judge(ev.Proto)
			}
			f = run(j.checks, ev, f)
		}
	case FileWrite:
		if e.files != nil {
			f = e.files.judge(ev)
		}
	default:
		if effect := e.unknown(ev.Section); effect != Disable {
			f = finding{effect: effect, detection: Unreadable, reason: unreadable(ev)}
		}
	}
	return f
}

// unknown returns the effect on a call of section s that could not be read:
// the rule's onUnknown, or else the section's. A section whose lists are empty
// refuses nobody, so a call that would have come to it does no harm.
func (e *Engine) unknown(s Section) Effect {
	if e.onUnknown != nil {
		return *e.onUnknown
	}
	return e.effect(s)
}

// unreadable says for people what could not be read.
func unreadable(ev *Event) string {
	reason := "a call could not be read"
	if ev.Call != "" {
		reason = ev.Call + " could not be read"
	}
	if ev.Why != "" {
		reason += ": " + ev.Why
	}
	return reason
}

// refuseAll is the verdict where there is no policy. It tells, since a
// refusal nobody hears of looks like a broken target.
func refuseAll(ev *Event) Verdict {
	v := Verdict{Effect: Prevent, Detection: Unreadable, Reason: "no policy is in force"}
	switch ev.Kind {
	case Launch:
		v.Detection = DeniedProcess
	case Lookup:
		v.Detection = DeniedDNS
	case Outbound:
		v.Detection = DeniedIP
	case Listen:
		v.Detection = DeniedListenPort
	case UnixConnect:
		v.Detection = DeniedUnix
	case FileWrite:
		v.Detection = DeniedFile
	case RawSocket:
		if v.Detection = RawTraffic; slices.Contains(Families, ev.Proto) {
			v.Detection = DeniedFamily
		}
	}
	return v
}
