package defender

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"appdefender/audit"
	"appdefender/defender/proc"
	"appdefender/defender/supervisor"
	"appdefender/policy"
)

// handle decides, replies and records.
func (d *Defender) handle(c *supervisor.Call) {
	if isLookup(c) {
		d.lookup(c)
		return
	}
	if !isEvent(c) {
		if d.learn != nil {
			d.learn.bound(c)
		}
		c.Reply(supervisor.Reply{Proceed: true})
		return
	}
	ev := d.describe(c)
	asked := d.inform(&ev, c)
	v := d.decide(&ev)
	if r := c.File.Replaced; r != nil && !v.Tell() {
		// Who renames one file over another removes that.
		removed := ev
		removed.File = d.file(r)
		d.inform(&removed, c) // the rules about that file may ask for more
		if rv := d.decide(&removed); rv.Tell() {
			ev, v = removed, rv
		}
	}
	if v.Tell() {
		d.complete(&ev, c)
	}
	if d.tcpClosed && v.Allow && ev.Kind == policy.Unknown && c.Name == "connect" {
		d.toldClosed.Do(func() {
			d.notice("a TCP connect that cannot be read is let pass, and fails with EACCES all the same: the policy that the target started under refused such calls, and until the next start so does the kernel")
		})
	}
	d.remember(c, &ev, v.Allow)
	if !v.Allow && c.Op == supervisor.Exec && c.TID == d.target.PID() {
		refused := v // of its own: v is not to be allocated for each call
		d.refused.Store(&refused)
	}
	if v.Allow && ev.Kind == policy.Launch && c.Program.Foreign {
		// Its calls could not be seen, and none would work.
		d.notice("%s is a 32-bit program and cannot run in this target", c.Program.Path)
		c.Reply(supervisor.Reply{Errno: unix.ENOEXEC})
		return
	}
	if v.Allow && d.written != nil {
		d.written.expect(c, &ev)
	}
	r := supervisor.Reply{Proceed: v.Allow}
	if v.Allow && d.byDNS(&ev) {
		r = supervisor.Reply{Errno: unix.ECONNREFUSED}
	}
	if c.Op == supervisor.Exec {
		r.Recheck, r.Unverifiable = d.recheck(&ev, asked), d.unverifiable(c)
	}
	d.settle(c, &ev, v, r)
}

// isEvent reports whether a call is one that rules are about. A stream socket
// opens its port by listening, not by its bind: that may be a client's choice
// of a source port. A datagram socket on a port that the kernel chose is a
// client's as well.
func isEvent(c *supervisor.Call) bool {
	if c.Op != supervisor.Bind || c.Unknown != nil {
		return true
	}
	return c.Network != "tcp" && c.Addr.Port() != 0
}

// needs reports whether a rule asks about any of these.
func (d *Defender) needs(n policy.Needs) func() bool {
	return func() bool {
		return d.engine.Load() == nil || d.asked()&n != 0 // without a policy everything is refused
	}
}

// watchPrograms returns what is asked about the files of programs.
func (d *Defender) watchPrograms() (watch supervisor.Watch) {
	asked := d.asked()
	for _, c := range [...]struct {
		need  policy.Needs
		watch supervisor.Watch
	}{
		{policy.NeedFileless, supervisor.WatchFileless},
		{policy.NeedWritable, supervisor.WatchWritable},
		{policy.NeedSetUID, supervisor.WatchSetUID},
		{policy.NeedModified, supervisor.WatchTimes},
	} {
		if asked.Has(c.need) {
			watch |= c.watch
		}
	}
	return watch
}

// asked is what the rule asks about, and what is learned.
func (d *Defender) asked() policy.Needs { return d.engine.Load().Needs() | d.learnt() }

// learnt is what is found out for what is learned.
func (d *Defender) learnt() policy.Needs {
	if d.learn == nil {
		return 0
	}
	return d.learn.needs
}

// settle replies, and records what happened.
func (d *Defender) settle(c *supervisor.Call, ev *policy.Event, v policy.Verdict, r supervisor.Reply) {
	if !v.Tell() && c.Op != supervisor.Exec {
		c.Reply(r)
		return
	}
	r.Then = d.then(c, ev, v)
	c.Reply(r)
}

// then records what came of a call. It is a function of its own for what it keeps
// is allocated.
func (d *Defender) then(c *supervisor.Call, ev *policy.Event, v policy.Verdict) func(supervisor.Outcome) {
	at := time.Now() // receivers reply at their own pace, and records are told in order
	return func(out supervisor.Outcome) {
		// A launch that the kernel then refused was none. A connect to nobody is
		// an attempt all the same.
		if v.Tell() && (!v.Allow || !out.Failed || ev.Kind == policy.Outbound) {
			d.record(ev, v, out, at)
		}
		if v.Allow && ev.Kind == policy.Launch && !out.Failed && out.Swapped == nil {
			d.scripts.started(c, ev, out.Level)
		}
		if s := out.Swapped; s != nil {
			d.recordSwap(ev, v, s, out, at)
		}
	}
}

// unverifiable judges a launch that the supervisor cannot verify as a call
// that cannot be read.
func (d *Defender) unverifiable(c *supervisor.Call) func(error) bool {
	return func(why error) bool {
		ev := policy.Event{Kind: policy.Unknown, Section: policy.Processes, Call: c.Name, Why: why.Error()}
		v := d.decide(&ev)
		if v.Tell() {
			ev.Subject = d.who(c)
			level := supervisor.Checked
			if !v.Allow {
				level = supervisor.Refused
			}
			d.record(&ev, v, supervisor.Outcome{Level: level}, time.Now())
		}
		return v.Allow
	}
}

// describe turns a call into an event, with what the judge needs and no more:
// the rest is read for records only.
func (d *Defender) describe(c *supervisor.Call) policy.Event {
	var ev policy.Event
	section := policy.Network
	switch c.Op {
	case supervisor.Exec:
		section = policy.Processes
	case supervisor.Change:
		section = policy.Files
	}
	switch {
	case c.Unknown != nil:
		ev.Kind, ev.Section, ev.Call, ev.Why = policy.Unknown, section, c.Name, c.Unknown.Error()
	case c.Op == supervisor.Exec:
		ev.Kind, ev.Program = policy.Launch, d.program(c.Program)
	case c.Op == supervisor.Change:
		ev.Kind, ev.File = policy.FileWrite, d.file(&c.File)
	case c.Op == supervisor.RawSocket:
		ev.Kind, ev.Proto = policy.RawSocket, c.Network
	case c.Network == supervisor.NetworkUnix:
		ev.Kind, ev.File = policy.UnixConnect, policy.File{Path: c.File.Path, Typed: c.File.Typed, Shared: c.File.Shared}
	case c.Op == supervisor.Bind || c.Op == supervisor.Listen:
		ev.Kind, ev.Addr, ev.Proto = policy.Listen, c.Addr, c.Network
	default:
		ev.Kind, ev.Addr, ev.Proto = policy.Outbound, c.Addr, c.Network
		d.named(&ev)
	}
	return ev
}

// inform finds out what the rule asks about beyond the call itself. What cannot
// be had is said to be unsure. It returns what it was asked for.
func (d *Defender) inform(ev *policy.Event, c *supervisor.Call) policy.Needs {
	needs := d.engine.Load().NeedsFor(ev) | d.learnt()
	if ev.Kind == policy.Launch && c.Program.Emulated() {
		needs = d.asked() // the emulator is judged as well, and not known yet
	}
	switch {
	case needs&(policy.NeedAncestry|policy.NeedUser|policy.NeedCommand) != 0:
		ev.Subject = d.who(c)
	case needs.Has(policy.NeedSubject):
		ev.Subject = proc.Brief(c.PID())
	}
	var err error
	if needs.Has(policy.NeedInteractive) {
		if ev.Subject.Interactive, err = proc.Interactive(c.TID); err != nil {
			ev.Unsure |= policy.NeedInteractive
		}
	}
	if ev.Kind == policy.Outbound && ev.Addr.IsValid() && needs.Has(policy.NeedScans) {
		ev.Scan = d.scans.attempt(ev.Addr, ev.Resolved, time.Now())
	}
	if ev.Kind != policy.Launch {
		return needs
	}
	if needs.Has(policy.NeedArgv) {
		if ev.Program.Command, err = c.Argv(); err != nil {
			ev.Unsure |= policy.NeedArgv
		}
	}
	if needs.Has(policy.NeedRemoteIO) {
		if ev.Program.RemoteIO, err = c.RemoteIO(); err != nil {
			ev.Unsure |= policy.NeedRemoteIO
		}
	}
	if needs.Has(policy.NeedDigests) && slices.Contains(ev.Program.Digests, "") {
		ev.Unsure |= policy.NeedDigests
	}
	for _, x := range c.Program.Examined {
		if x, ok := x.(examined); ok {
			x.take(ev)
		}
	}
	ev.Program.Main = c.TID == d.target.PID() || needs.Has(policy.NeedMain) && c.PID() == d.target.PID()
	return needs
}

// startGrace is how long after our start files may change that count as the
// image's own: entry points write programs.
const startGrace = 10 * time.Second

func (d *Defender) file(f *supervisor.File) policy.File {
	return policy.File{
		Path: f.Path, Typed: f.Typed, Op: f.Op, To: f.To,
		Type: f.Type, Image: !f.Born.IsZero() && f.Born.Before(d.started),
	}
}

func (d *Defender) program(p *supervisor.Program) policy.Program {
	image := d.started.Add(startGrace)
	born := p.Born
	if born.IsZero() {
		born = p.Changed // the file system does not say: it may be new if it was changed
	}
	return policy.Program{
		Typed: p.Typed, Path: p.Path, Interpreters: p.Interpreters,
		Loaded: p.Loaded, Applet: p.Applet, Within: p.Within, Dev: p.Dev, Ino: p.Ino,
		Fileless: p.Fileless, Writable: p.Writable, SetUID: p.SetUID,
		Digests: p.Digests, Modified: p.Changed.After(image), New: born.After(image),
	}
}

// complete reads what a record tells beyond the verdict's needs, while the
// target still stands in the call.
func (d *Defender) complete(ev *policy.Event, c *supervisor.Call) {
	ev.Subject = d.who(c)
	if ev.Kind == policy.Launch {
		ev.Program.Command, _ = c.Argv()
	}
}

// decide asks the judge. In a dry run nothing is refused; the verdict still
// says what would have been.
func (d *Defender) decide(ev *policy.Event) policy.Verdict {
	v := d.engine.Load().Decide(ev)
	if d.cfg.DryRun {
		v.Allow = true
	}
	if d.learn != nil && v.Allow {
		d.learn.add(ev)
	}
	return v
}

// recheck judges the file that was loaded in place of one that is no program
// by itself: its emulator, or another interpreter than was judged.
func (d *Defender) recheck(ev *policy.Event, asked policy.Needs) func(*supervisor.Program) bool {
	if ev.Kind != policy.Launch {
		return nil
	}
	return func(p *supervisor.Program) bool {
		loaded := *ev
		loaded.Program = d.program(p)
		loaded.Program.Main, loaded.Program.Command, loaded.Program.RemoteIO = ev.Program.Main, ev.Program.Command, ev.Program.RemoteIO
		for _, x := range p.Examined {
			if x, ok := x.(examined); ok {
				x.take(&loaded)
			}
		}
		if d.engine.Load().NeedsFor(&loaded)&^asked != 0 {
			return false // what nobody asked about the judged one
		}
		return d.decide(&loaded).Allow
	}
}

func (d *Defender) record(ev *policy.Event, v policy.Verdict, out supervisor.Outcome, at time.Time) {
	d.queue.Add(audit.New(&d.src, ev, v, audit.Outcome{
		Level: string(out.Level), Refused: !v.Allow, Err: out.Err, Time: at,
	}))
	if v.Effect == policy.Block && !v.Allow {
		d.end()
	}
}

// recordSwap tells of an exec that loaded another file than the judged one.
func (d *Defender) recordSwap(ev *policy.Event, v policy.Verdict, s *supervisor.Program, out supervisor.Outcome, at time.Time) {
	swap := *ev
	swap.Program = d.program(s)
	d.queue.Add(audit.New(&d.src, &swap, policy.Verdict{
		Effect: policy.Prevent, Detection: policy.Swapped, Rule: v.Rule,
		Reason: "it was not the program that was judged: " + ev.Program.Path,
	}, audit.Outcome{Level: string(out.Level), Refused: true, Time: at}))
}
