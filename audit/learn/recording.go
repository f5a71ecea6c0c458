// Package learn turns what a target was seen to do into the least policy that
// would have refused nothing of it.
//
// A [Recording] keeps each thing a target did once, with a count, two times and
// one example, and is bounded. [Build] makes a policy of recordings, each entry
// with its evidence; [Extend] adds to a policy what recordings need.
//
// What a policy allows is never wider than what was seen, but where seen names
// are plainly of one kind: temporary names, hashes, versions, and many of one
// folder, domain or network. The thresholds are the constants of this package.
package learn

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"appdefender/audit"
	"appdefender/audit/scrub"
	"appdefender/policy"
)

// What a Recording keeps at most. What does not fit is counted in Header.Lost.
const (
	maxObservations = 20000
	maxBytes        = 16 << 20
	// saturated is how many names of one folder or domain are told apart, if
	// the policy will have one entry for all of them anyway.
	saturated = 64
	// maxCommand bounds the example's command line, in bytes.
	maxCommand = 1024
)

// Observation is one thing a target did: an event, as an example of all that
// mean the same to a policy.
type Observation struct {
	policy.Event
	Count int       `json:"count,omitzero"`
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
	// Detected are the detections that one of these events would have set off,
	// by their keys in a policy file: "processes.setUID".
	Detected []string `json:"detected,omitzero"`
	// KernelPort says that the port of a Listen was chosen by the kernel.
	KernelPort bool `json:"kernelPort,omitzero"`
}

// Header says whose recording it is, and how much of what happened it has.
type Header struct {
	Recording int    `json:"recording"` // the version of the format: 1
	Container string `json:"container,omitzero"`
	Image     string `json:"image,omitzero"`
	AppID     string `json:"appID,omitzero"`
	Version   string `json:"version,omitzero"` // the Defender's
	// Facts are what is known about every event.
	Facts policy.Needs `json:"facts,omitzero"`
	// Sections are those of which every event was seen, so that what is absent
	// did not happen. A recording made of audits has none.
	Sections []policy.Section `json:"sections,omitzero"`
	// Lost counts events that did not fit.
	Lost int `json:"lost,omitzero"`
}

// Workload is what rules are selected by.
func (h *Header) Workload() policy.Workload {
	return policy.Workload{Image: h.Image, Container: h.Container, AppID: h.AppID}
}

// Recording is what one target did. It may be used by many goroutines.
type Recording struct {
	mu      sync.Mutex
	head    Header
	all     map[string]*Observation
	bytes   int
	crowds  map[string]*crowd
	secrets bool // are kept
	change  int  // of the set of observations
	counts  int  // of anything
	refused int  // events that a policy refused, and that are left out
}

// crowd are the names seen in one folder or domain, until there are enough of
// them to be one.
type crowd struct{ names map[string]struct{} }

// NewRecording returns an empty recording.
func NewRecording(h Header) *Recording {
	h.Recording = 1
	return &Recording{head: h, all: make(map[string]*Observation), crowds: make(map[string]*crowd)}
}

// KeepSecrets leaves passwords and the like in command lines and names, which
// are taken out of them otherwise.
func (r *Recording) KeepSecrets() { r.secrets = true }

// Header returns what is said about the recording.
func (r *Recording) Header() Header {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.head
}

// Changes returns two numbers: one grows when something new was seen, the
// other also when something was seen again.
func (r *Recording) Changes() (news, all int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.change, r.counts
}

// Add records an event, of which it keeps no memory.
func (r *Recording) Add(ev *policy.Event, at time.Time) {
	n := 1
	if !ev.Answer.Empty() {
		n = 0 // the same lookup, judged again with its answer
	}
	found := detected(ev)
	if ev.Kind == policy.FileWrite && ev.File.Op == policy.OpWritten && len(found) == 0 {
		return // that it is written was told before
	}
	r.add(&Observation{Event: *ev, Count: n, First: at, Last: at, Detected: found})
}

// AddListen is Add for a process that had the kernel choose a port: one of the
// kernel's range counts as any of that range.
func (r *Recording) AddListen(ev *policy.Event, at time.Time) {
	port := ev.Addr.Port()
	r.add(&Observation{Event: *ev, Count: 1, First: at, Last: at, KernelPort: ephemeralLow <= port && port <= ephemeralHigh})
}

// Merge adds all that another recording has. What is known about the sum is
// what is known about both.
func (r *Recording) Merge(other *Recording) {
	h, list := other.Header(), other.List()
	r.mu.Lock()
	r.head.Lost += h.Lost
	r.refused += other.refused
	r.head.Facts &= h.Facts
	r.head.Sections = slices.DeleteFunc(slices.Clone(r.head.Sections), func(s policy.Section) bool { return !slices.Contains(h.Sections, s) })
	r.mu.Unlock()
	for i := range list {
		r.add(&list[i])
	}
}

// Resume is Merge with an earlier recording of the same target, whose header
// may be one that says less since nothing had started yet.
func (r *Recording) Resume(earlier *Recording) {
	if len(earlier.List()) > 0 {
		r.Merge(earlier)
	}
}

// Limit takes away the sections of which not everything is seen.
func (r *Recording) Limit(sections ...policy.Section) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.head.Sections = slices.DeleteFunc(slices.Clone(r.head.Sections), func(s policy.Section) bool { return !slices.Contains(sections, s) })
}

// RecordingName is the name of the recording beside a learned policy:
// learned.events.jsonl beside learned.yaml.
func RecordingName(file string) string {
	ext := path.Ext(file)
	if ext != ".yaml" && ext != ".yml" && ext != ".json" {
		ext = ""
	}
	return strings.TrimSuffix(file, ext) + ".events.jsonl"
}

// List returns the observations, in the order of their keys.
func (r *Recording) List() []Observation {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Observation, 0, len(r.all))
	for _, key := range slices.Sorted(maps.Keys(r.all)) {
		list = append(list, *r.all[key])
	}
	return list
}

func (r *Recording) add(o *Observation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts++
	key := r.key(o)
	if known, ok := r.all[key]; ok {
		known.Count += o.Count
		if known.First.IsZero() || !o.First.IsZero() && o.First.Before(known.First) {
			known.First = o.First
		}
		if o.Last.After(known.Last) {
			known.Last = o.Last
		}
		if known.Subject.Path == "" && o.Subject.Path != "" {
			known.Subject = o.Subject
			known.keep(r.secrets)
			r.bytes += len(known.Subject.Path) // about
		}
		return
	}
	mine := *o
	mine.keep(r.secrets)
	size := 300 + 2*len(key) + mine.size()
	if len(r.all) >= maxObservations || r.bytes+size > maxBytes {
		r.head.Lost += max(1, o.Count)
		return
	}
	r.bytes += size
	r.all[key] = &mine
	r.change++
}

// keep makes the observation's memory its own, and short.
func (o *Observation) keep(secrets bool) {
	if !secrets {
		o.Domain, o.Name, o.Why = withoutSecret(o.Domain), withoutSecret(o.Name), scrub.Line(o.Why)
		aliases := slices.Clone(o.Aliases)
		for i, a := range aliases {
			aliases[i] = withoutSecret(a)
		}
		o.Aliases = aliases
		o.Program.Command, o.Subject.Command = scrub.Args(audit.FirstArgs(o.Program.Command)), scrub.Args(audit.FirstArgs(o.Subject.Command))
	}
	o.Domain, o.QType, o.Name = strings.Clone(o.Domain), strings.Clone(o.QType), strings.Clone(o.Name)
	o.Answer = policy.Answer{}
	o.Program.Command = brief(o.Program.Command)
	o.Subject.Command = brief(o.Subject.Command)
	o.Subject.Ancestors = slices.Clone(o.Subject.Ancestors[:min(len(o.Subject.Ancestors), 8)])
}

func (o *Observation) size() int {
	n := len(o.Domain) + len(o.Subject.Path) + len(o.File.Path) + len(o.File.To) + len(o.File.Typed) + len(o.Program.Typed) +
		len(o.Program.Path) + len(o.Program.Loaded) + len(o.Why)
	for _, list := range [][]string{o.Program.Command, o.Subject.Command, o.Program.Interpreters} {
		for _, s := range list {
			n += len(s) + 16
		}
	}
	for i := range o.Program.Contents {
		n += len(o.Program.Contents[i].Path) + 200
	}
	for _, a := range o.Subject.Ancestors {
		n += len(a.Path) + 24
	}
	return n
}

// withoutSecret is a domain with each label that is a secret exchanged for one
// that a policy has a star for.
func withoutSecret(domain string) string {
	if scrub.Line(domain) == domain {
		return domain
	}
	labels := strings.Split(domain, ".")
	for i, l := range labels {
		if scrub.Line(l) != l {
			labels[i] = redactedLabel
		}
	}
	if domain = strings.Join(labels, "."); scrub.Line(domain) != domain {
		return redactedLabel // it is one secret as a whole
	}
	return domain
}

// brief cuts a command line.
func brief(argv []string) []string {
	n := 0
	for i, arg := range argv {
		if n += len(arg) + 1; n > maxCommand {
			short := slices.Clone(argv[:i+1])
			short[i] = strings.ToValidUTF8(arg[:max(0, len(arg)-(n-maxCommand))], "") + "…"
			return short
		}
	}
	return argv
}

// key is the same for events that mean the same to a policy made by [Build].
func (r *Recording) key(o *Observation) string {
	ev := &o.Event
	parts := []string{ev.Kind.String(), strings.Join(o.Detected, ",")}
	switch ev.Kind {
	case policy.Launch:
		p := &ev.Program
		parts = append(parts, maskProgram(p.Typed), maskProgram(p.Path), strings.Join(p.Interpreters, "\x01"), maskProgram(p.Loaded), p.Applet, ev.Subject.Path,
			fmt.Sprint(p.Fileless, p.Modified, p.New, p.Altered, p.Writable, p.SetUID, p.RemoteIO, p.Main, ev.Unsure))
	case policy.Lookup:
		parts = append(parts, r.name(ev.Kind, ev.Domain))
	case policy.Outbound:
		addr := ev.Addr.Addr().String()
		if named(ev) {
			addr = r.name(ev.Kind, ev.Name)
		}
		parts = append(parts, addr, fmt.Sprint(ev.Addr.Port(), named(ev), internet(ev.Addr.Addr()), loopback(ev.Addr.Addr()), ev.Scan))
	case policy.Listen:
		port := fmt.Sprint(ev.Addr.Port())
		if o.KernelPort {
			port = "chosen"
		}
		parts = append(parts, port)
	case policy.UnixConnect:
		parts = append(parts, r.file(ev, ev.File.Path))
	case policy.FileWrite:
		parts = append(parts, ev.File.Op, r.file(ev, ev.File.Path))
		if pair(&ev.File) {
			parts = append(parts, r.file(ev, ev.File.To))
		}
	case policy.RawSocket:
		parts = append(parts, ev.Proto)
	default:
		parts = append(parts, ev.Section.String(), ev.Call)
	}
	return strings.Join(parts, "\x00")
}

// file is the name of a file or socket in keys.
func (r *Recording) file(ev *policy.Event, p string) string {
	p = maskFile(p, ev.Subject.PID)
	dir := path.Dir(p)
	if !mayGeneralise(dir) {
		return p
	}
	if r.crowded(ev.Kind.String()+dir, p) {
		return dir + "/*"
	}
	return p
}

// name is a domain in keys.
func (r *Recording) name(kind policy.Kind, s string) string {
	s = maskDomain(s)
	_, parent, ok := strings.Cut(s, ".")
	if !ok || !mayWiden(parent) {
		return s
	}
	if r.crowded(kind.String()+parent, s) {
		return "*." + parent
	}
	return s
}

// crowded reports whether a group has so many members that this one need not
// be told from the others.
func (r *Recording) crowded(group, member string) bool {
	c := r.crowds[group]
	if c == nil {
		c = &crowd{names: make(map[string]struct{})}
		r.crowds[group] = c
	}
	if _, known := c.names[member]; known {
		return false
	}
	if len(c.names) >= saturated {
		return true
	}
	if len(r.crowds) > maxObservations {
		return false
	}
	c.names[member] = struct{}{}
	return false
}

// Write writes the recording as JSON lines, the header first.
func (r *Recording) Write(w io.Writer) error {
	b := bufio.NewWriter(w)
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r.Header()); err != nil {
		return err
	}
	list := r.List()
	slices.SortStableFunc(list, func(a, b Observation) int {
		return cmp.Or(a.First.Compare(b.First), cmp.Compare(a.Kind, b.Kind))
	})
	for i := range list {
		if err := e.Encode(&list[i]); err != nil {
			return err
		}
	}
	return b.Flush()
}

func pair(f *policy.File) bool {
	return f.Op == "rename" || f.Op == "link" || f.Op == "mount" && strings.HasPrefix(f.To, "/")
}

// named reports whether a destination can be allowed by its name.
func named(ev *policy.Event) bool { return ev.Resolved && ev.Name != "" }

// plain is an address as the lists of a policy have it.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

func loopback(a netip.Addr) bool { return plain(a).IsLoopback() || plain(a).IsUnspecified() }
