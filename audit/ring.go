package audit

import (
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"appdefender/audit/scrub"
	"appdefender/policy"
)

// The types of forensic events, in the reference's words.
const (
	forensicProcess   = "Process spawned"
	forensicBinary    = "Binary created"
	forensicStarted   = "Container started"
	forensicListening = "Listening port"
	forensicConnected = "Connection established"
	forensicAudit     = "Runtime audit"
	forensicIncident  = "Incident"
	forensicDNS       = "DNS query"
	// Changes of files that are no programs; the reference has no word for
	// them.
	forensicFile = "File changed"
)

// ForensicEvent is one thing that happened in the container, with the field
// names of the reference. Empty fields are left out.
type ForensicEvent struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	PID       int       `json:"pid,omitempty"`
	PPID      int       `json:"ppid,omitempty"`
	User      string    `json:"user,omitempty"`
	Process   string    `json:"process,omitempty"` // the program's file
	Path      string    `json:"path,omitempty"`    // of a file: what was changed
	Command   string    `json:"command,omitempty"`

	Domain     string `json:"domainName,omitempty"`
	DomainType string `json:"domainType,omitempty"`
	DstIP      string `json:"dstIP,omitempty"`
	DstPort    int    `json:"dstPort,omitempty"`
	Outbound   bool   `json:"outbound,omitempty"`
	Port       int    `json:"port,omitempty"`

	Message  string `json:"message,omitempty"`
	Attack   string `json:"attack,omitempty"`
	Effect   string `json:"effect,omitempty"`
	Category string `json:"category,omitempty"`
	// Refused says that it was not let happen.
	Refused bool `json:"refused,omitempty"`
}

// Ring remembers the last that happened in the container, in memory alone:
// launches, connections, listening ports, lookups, file changes and records.
// What an event holds is kept as it is and made fit for reading only when
// somebody asks, so that remembering costs little. A nil Ring remembers
// nothing. It is safe for several goroutines.
type Ring struct {
	src *Source
	max int

	mu     sync.Mutex
	events []moment // from first on, wrapping around
	first  int
	n      int
	size   int // bytes, of all
	lost   uint64
}

// moment is one event as it is kept.
type moment struct {
	at      time.Time
	kind    policy.Kind
	record  bool
	refused bool
	pid     int32
	ppid    int32
	user    string
	path    string
	text    string // a domain, a file, a message
	more    string // its type, its operation, the attack's type
	effect  string
	about   string // an incident's category
	argv    []string
	addr    netip.AddrPort
}

// momentSize is what a moment takes beside its texts, in bytes.
const momentSize = 240

// maxMomentArgs bounds the arguments kept of one launch, in bytes.
const maxMomentArgs = 4096

// NewRing returns a Ring that takes so many bytes at most, and nil for 0.
func NewRing(src *Source, bytes int) *Ring {
	if bytes <= 0 {
		return nil
	}
	r := &Ring{src: src, max: bytes}
	r.add(moment{at: time.Now(), kind: policy.Unknown, text: forensicStarted})
	return r
}

// Event remembers an event and whether it was let happen. A launch's arguments
// are those of its Program.
func (r *Ring) Event(ev *policy.Event, pid, ppid int, allowed bool, at time.Time) {
	if r == nil {
		return
	}
	m := moment{at: at, kind: ev.Kind, refused: !allowed, pid: int32(pid), ppid: int32(ppid), user: ev.Subject.User, path: ev.Subject.Path} //nolint:gosec // a pid has 22 bits
	switch ev.Kind {
	case policy.Launch:
		m.path, m.argv = resolved(ev.Program), keptArgs(ev.Program.Command)
		if m.path == "" {
			m.path = ev.Program.Typed
		}
	case policy.Lookup:
		m.text, m.more = ev.Domain, ev.QType
	case policy.Outbound, policy.Listen:
		m.addr, m.text = ev.Addr, ev.Name
	case policy.UnixConnect:
		m.text = ev.File.Path
	case policy.FileWrite:
		m.text, m.more = ev.File.Path, ev.File.Op
		if ev.File.To != "" {
			m.text = ev.File.To
		}
		if ev.File.Type == "elf" {
			m.about = forensicBinary
		}
	default:
		return
	}
	r.add(m)
}

// Write remembers a record; a Ring is a [Sink] as well.
func (r *Ring) Write(rec Record) error {
	if r == nil || rec.Type == typeDefender {
		return nil
	}
	r.add(moment{
		at: rec.Time, record: true, refused: rec.Refused, pid: int32(rec.PID), user: rec.User, path: rec.ProcessPath, //nolint:gosec // a pid has 22 bits
		text: rec.Msg, more: rec.AttackType, effect: rec.Effect, about: rec.Category,
	})
	return nil
}

// keptArgs bounds arguments. What is left out is not kept alive.
func keptArgs(argv []string) []string {
	n := 0
	for i, arg := range argv {
		if n += len(arg); n > maxMomentArgs {
			kept := slices.Clone(argv[:i+1])
			kept[i] = shorten(arg)
			return kept
		}
	}
	return argv
}

func (m *moment) bytes() int {
	n := momentSize + len(m.user) + len(m.path) + len(m.text) + len(m.more)
	for _, arg := range m.argv {
		n += 16 + len(arg)
	}
	return n
}

func (r *Ring) add(m moment) {
	size := m.bytes()
	if size > r.max {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.size+size > r.max {
		old := &r.events[r.first]
		r.size -= old.bytes()
		*old = moment{}
		r.first = (r.first + 1) % len(r.events)
		r.n--
		r.lost++
	}
	if r.n == len(r.events) {
		// Twice as many, in order.
		grown := make([]moment, max(64, 2*r.n))
		copy(grown, r.events[r.first:])
		copy(grown[len(r.events)-r.first:], r.events[:r.first])
		r.events, r.first = grown, 0
	}
	r.events[(r.first+r.n)%len(r.events)] = m
	r.n++
	r.size += size
}

// Snapshot returns what is remembered, oldest first, without secrets unless
// the Source keeps them, and how many events had to make room.
func (r *Ring) Snapshot() (events []ForensicEvent, forgotten uint64) {
	if r == nil {
		return nil, 0
	}
	r.mu.Lock()
	kept := make([]moment, r.n)
	for i := range kept {
		kept[i] = r.events[(r.first+i)%len(r.events)]
	}
	forgotten = r.lost
	r.mu.Unlock()
	// Records come late, for retries are gathered.
	slices.SortStableFunc(kept, func(a, b moment) int { return a.at.Compare(b.at) })
	programs := make(map[int32]string) // what a process last became
	for i := range kept {
		m := &kept[i]
		switch {
		case m.kind == policy.Launch && !m.record && !m.refused:
			programs[m.pid] = m.path
		case m.path == "":
			m.path = programs[m.pid]
		}
		events = append(events, r.event(m))
	}
	return events, forgotten
}

// event makes a moment fit for reading.
func (r *Ring) event(m *moment) ForensicEvent {
	text, argv := m.text, m.argv
	if !r.src.KeepSecrets && !m.record { // a record has none
		text, argv = scrub.Line(text), scrub.Args(argv)
	}
	e := ForensicEvent{
		Timestamp: m.at.UTC().Round(time.Microsecond), PID: int(m.pid), PPID: int(m.ppid),
		User: Clean(m.user), Process: Clean(m.path), Refused: m.refused,
	}
	switch {
	case m.record:
		e.Type, e.Message, e.Attack, e.Effect, e.Category = forensicAudit, text, m.more, m.effect, m.about
		if m.about != "" {
			e.Type = forensicIncident
		}
	case m.kind == policy.Launch:
		e.Type, e.Path, e.Command = forensicProcess, e.Process, CommandLine(argv)
	case m.kind == policy.Lookup:
		e.Type, e.Domain, e.DomainType = forensicDNS, Clean(text), Clean(m.more)
	case m.kind == policy.Outbound:
		e.Type, e.Outbound, e.Domain = forensicConnected, true, Clean(text)
		e.DstIP, e.DstPort = m.addr.Addr().String(), int(m.addr.Port())
	case m.kind == policy.UnixConnect:
		e.Type, e.Outbound, e.Path = forensicConnected, true, Clean(text)
	case m.kind == policy.Listen:
		e.Type, e.Port = forensicListening, int(m.addr.Port())
	case m.kind == policy.FileWrite:
		e.Type, e.Path, e.Message = forensicFile, Clean(text), Clean(m.more)
		if m.about != "" {
			e.Type = m.about
		}
	default:
		e.Type = text
	}
	return e
}

// ForensicHeader are the columns of [ForensicEvent.Row].
func ForensicHeader() []string {
	return []string{"timestamp", "type", "pid", "ppid", "user", "process", "path", "command", "domainName", "domainType",
		"dstIP", "dstPort", "port", "message", "attack", "effect", "category", "refused"}
}

// Row returns the event as a line of a table.
func (e *ForensicEvent) Row() []string {
	number := func(n int) string {
		if n == 0 {
			return ""
		}
		return strconv.Itoa(n)
	}
	refused := ""
	if e.Refused {
		refused = "true"
	}
	return []string{e.Timestamp.Format(time.RFC3339Nano), e.Type, number(e.PID), number(e.PPID), e.User, e.Process, e.Path, e.Command,
		e.Domain, e.DomainType, e.DstIP, number(e.DstPort), number(e.Port), e.Message, e.Attack, e.Effect, e.Category, refused}
}
