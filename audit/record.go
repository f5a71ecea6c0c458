// Package audit is the diary: what was decided, and what then happened.
//
// [New] makes a [Record] of an event and its verdict after the reply. A
// [Queue] takes records without ever blocking, merges retries, numbers what is
// left and writes it to its sinks; what it or a sink loses, it confesses in a
// record of its own.
//
// Much of a record was chosen by the target: paths, arguments, names. All of
// it is escaped when the record is made, so that no sink needs to think of
// control characters.
package audit

import (
	"time"

	"appdefender/policy"
)

// How much a permission or refusal is worth; the word is a record's level.
const (
	// Performed calls were done by us, with the arguments that were judged.
	Performed = "performed"
	// Verified calls were looked at again after the kernel had done them.
	Verified = "verified"
	// Checked calls were judged and continued: the target may have changed
	// the arguments in between.
	Checked = "checked"
	// Observed is what was seen, too late to be stopped.
	Observed = "observed"
	// Refused calls were not done.
	Refused = "refused"
)

// The types of records. The first three are the reference's words, the last is
// for the Defender's own news.
const (
	typeProcesses = "processes"
	typeNetwork   = "network"
	typeFiles     = "filesystem"
	typeDefender  = "defender"
)

// Record is one line of the diary. Empty fields are left out of its JSON.
type Record struct {
	ID         string    `json:"_id,omitempty"` // instance and sequence, given by the queue
	Time       time.Time `json:"time,omitzero"`
	Type       string    `json:"type,omitempty"`
	AttackType string    `json:"attackType,omitempty"`
	Effect     string    `json:"effect,omitempty"`
	RuleName   string    `json:"ruleName,omitempty"`
	CustomRule string    `json:"customRuleName,omitempty"`
	Techniques []string  `json:"attackTechniques,omitempty"` // ATT&CK's, in the reference's words
	Incident   bool      `json:"incident,omitempty"`         // it is more than an audit
	Category   string    `json:"category,omitempty"`         // of the incident
	Msg        string    `json:"msg,omitempty"`
	Severity   string    `json:"severity,omitempty"`
	Count      int       `json:"count,omitempty"`

	// Where it happened.
	AppID         string `json:"appID,omitempty"`
	Hostname      string `json:"hostname,omitempty"`
	ContainerName string `json:"containerName,omitempty"`
	ImageName     string `json:"imageName,omitempty"`
	ImageID       string `json:"imageId,omitempty"`
	ProfileID     string `json:"profileId,omitempty"`
	Version       string `json:"version,omitempty"`

	// Who did it. For a launch, ProcessPath and Command are the program's and
	// whoever starts it is the first ancestor.
	User         string            `json:"user,omitempty"`
	PID          int               `json:"pid,omitempty"`
	ProcessPath  string            `json:"processPath,omitempty"`
	Command      string            `json:"command,omitempty"`
	Interpreters []string          `json:"interpreters,omitempty"`
	Ancestry     []policy.Ancestor `json:"ancestry,omitempty"`

	// What it was about.
	Domain    string `json:"domain,omitempty"`
	QueryType string `json:"queryType,omitempty"`
	IP        string `json:"ip,omitempty"`
	Port      int    `json:"port,omitempty"`
	FilePath  string `json:"filepath,omitempty"` // of a file or Unix socket
	MD5       string `json:"md5,omitempty"`
	Call      string `json:"call,omitempty"`

	// What came of it.
	Reason  string `json:"reason,omitempty"`
	Level   string `json:"level,omitempty"`
	Refused bool   `json:"refused,omitempty"` // it was really stopped
	DryRun  bool   `json:"dryRun,omitempty"`
	Err     string `json:"err,omitempty"`

	// Events are what a record of [Sums] stands for, the most frequent first.
	Events []Tally `json:"events,omitempty"`

	// The file launched, for recognising a retry. Ino is 0 if unknown.
	Dev uint64 `json:"-"`
	Ino uint64 `json:"-"`
}

// Source is where the records of one Defender come from.
type Source struct {
	Instance  string // unique for each start of a Defender
	AppID     string
	Container string
	Image     string
	ImageID   string
	Hostname  string // the machine's; an AppID takes its place
	Version   string // the Defender's
	DryRun    bool   // nothing is refused
	// KeepSecrets leaves passwords and the like in command lines, URLs and
	// names, which package scrub takes away otherwise.
	KeepSecrets bool
}

// Outcome is what happened to an event after its verdict.
type Outcome struct {
	Level   string    // [Performed], [Verified], [Checked], [Observed] or [Refused]
	Refused bool      // it was really stopped
	Err     error     // what went wrong with the reply
	Time    time.Time // the zero Time is now
}

// New returns the record of one event. It does not keep its arguments.
func New(src *Source, ev *policy.Event, v policy.Verdict, out Outcome) Record {
	r := src.record(out.Time)
	if !src.KeepSecrets {
		var e policy.Event
		e, v = withoutSecrets(ev, v)
		ev = &e
	}
	r.Type = typeOf(ev)
	r.AttackType = string(v.Detection)
	r.Effect = v.Effect.String()
	r.RuleName = Clean(v.Rule)
	for _, t := range v.Techniques() {
		r.Techniques = append(r.Techniques, Clean(t))
	}
	r.CustomRule, r.Category = Clean(v.Custom), category(v)
	r.Incident = r.Category != ""
	r.Msg = Message(ev, v)
	r.Severity = "medium"
	if v.Effect.Refuses() {
		r.Severity = "high"
	}
	r.User = Clean(ev.Subject.User)
	r.PID = ev.Subject.PID
	r.ProcessPath = Clean(ev.Subject.Path)
	r.Command = CommandLine(ev.Subject.Command)
	r.Domain = Clean(ev.Domain)
	r.QueryType = Clean(ev.QType)
	if ev.Kind == policy.Outbound {
		r.Domain = Clean(ev.Name)
	}
	r.Call = Clean(ev.Call)
	r.Reason = Clean(v.Reason)
	r.Level = out.Level
	r.Refused = out.Refused
	if out.Err != nil {
		r.Err = Clean(out.Err.Error())
	}
	if ev.Addr.IsValid() {
		r.IP = Clean(ev.Addr.Addr().String())
		r.Port = int(ev.Addr.Port())
	}
	if ev.Kind == policy.FileWrite || ev.Kind == policy.UnixConnect {
		r.FilePath, r.MD5 = fileName(&ev.File), Clean(ev.File.MD5)
	}
	if ev.Kind == policy.Launch {
		p := ev.Program
		r.ProcessPath = Clean(resolved(p))
		r.Command = CommandLine(p.Command)
		r.Dev, r.Ino = p.Dev, p.Ino
		for _, path := range p.Interpreters {
			r.Interpreters = append(r.Interpreters, Clean(path))
		}
		if ev.Subject.PID != 0 || ev.Subject.Path != "" {
			r.Ancestry = append(r.Ancestry, policy.Ancestor{PID: ev.Subject.PID, Path: Clean(ev.Subject.Path)})
		}
	}
	for _, a := range ev.Subject.Ancestors {
		r.Ancestry = append(r.Ancestry, policy.Ancestor{PID: a.PID, Path: Clean(a.Path)})
	}
	return r
}

// Notice returns a record of the Defender's own news, such as a level of
// protection that this machine does not allow.
func Notice(src *Source, msg string, at time.Time) Record {
	r := src.record(at)
	r.Type = typeDefender
	r.Msg = Clean(msg)
	return r
}

// record returns a record that says where it comes from.
func (s *Source) record(at time.Time) Record {
	if at.IsZero() {
		at = time.Now()
	}
	r := Record{
		Time:          at.UTC().Round(time.Microsecond),
		Count:         1,
		AppID:         Clean(s.AppID),
		Hostname:      Clean(s.Hostname),
		ContainerName: Clean(s.Container),
		ImageName:     Clean(s.Image),
		ImageID:       Clean(s.ImageID),
		Version:       s.Version,
		DryRun:        s.DryRun,
	}
	if s.AppID != "" {
		r.Hostname = r.AppID
	}
	if s.AppID != "" || s.Container != "" {
		r.ProfileID = r.AppID + "_" + r.ContainerName
	}
	return r
}

func typeOf(ev *policy.Event) string {
	switch ev.Kind {
	case policy.Launch:
		return typeProcesses
	case policy.Lookup, policy.Outbound, policy.Listen, policy.UnixConnect, policy.RawSocket:
		return typeNetwork
	case policy.FileWrite:
		return typeFiles
	}
	switch ev.Section {
	case policy.DNS, policy.Network:
		return typeNetwork
	case policy.Files:
		return typeFiles
	}
	return typeProcesses
}

// resolved is the file that a launch is about: behind a loader, the program.
func resolved(p policy.Program) string {
	if p.Loaded != "" {
		return p.Loaded
	}
	return p.Path
}
