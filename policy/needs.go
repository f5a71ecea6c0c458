package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Needs is a set of what a rule asks about beyond what every event has. Each
// is a fact that costs the caller input and output to find out, or an event
// for which calls must be stopped.
type Needs uint32

const (
	NeedDigests        Needs = 1 << iota // Program.Digests
	NeedModified                         // Program.Modified and New
	NeedPackages                         // Program.Altered
	NeedSubject                          // Process.Path
	NeedAncestry                         // Process.Ancestors
	NeedUser                             // Process.User
	NeedFileless                         // Program.Fileless
	NeedWritable                         // Program.Writable
	NeedSetUID                           // Program.SetUID
	NeedRemoteIO                         // Program.RemoteIO
	NeedMain                             // Program.Main
	NeedNames                            // Event.Name and Resolved
	NeedScans                            // Event.Scan
	NeedListenPorts                      // Listen events
	NeedUnixSockets                      // UnixConnect events
	NeedRawSockets                       // RawSocket events
	NeedFileWrites                       // FileWrite events
	NeedFileType                         // File.Type and Image
	NeedContent                          // File events of OpWritten, with Findings and digests
	NeedArgv                             // Program.Command
	NeedInteractive                      // Process.Interactive
	NeedCommand                          // Process.Command
	NeedProgramContent                   // Program.Contents of files that were changed since the target started
	NeedProgramMalware                   // Program.Contents of all files
)

var needWords = [...]string{
	"digests", "modified", "packages", "subject", "ancestry", "user", "fileless", "writable", "setuid", "remoteIO", "main", "names", "scans",
	"listenPorts", "unixSockets", "rawSockets", "fileWrites", "fileType", "content", "argv", "interactive", "command", "programContent", "programMalware",
}

// String returns the words of the set, joined by commas.
func (n Needs) String() string {
	var list []string
	for i, word := range needWords {
		if n.Has(1 << i) {
			list = append(list, word)
		}
	}
	return strings.Join(list, ",")
}

// MarshalText returns the words of the set.
func (n Needs) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads the words of a set.
func (n *Needs) UnmarshalText(text []byte) error {
	*n = 0
	if len(text) == 0 {
		return nil
	}
	for word := range strings.SplitSeq(string(text), ",") {
		i := slices.Index(needWords[:], word)
		if i < 0 {
			return fmt.Errorf("%q is nothing that a rule needs", word)
		}
		*n |= 1 << i
	}
	return nil
}

// Has reports whether all of these are needed.
func (n Needs) Has(these Needs) bool { return n&these == these }

// AsksWho reports whether the verdict on a lookup may depend on who asks, or
// tells of it: whoever that is must then be known before.
func (e *Engine) AsksWho() bool { return e != nil && e.customs[Lookup].needs != 0 }

// Needs returns what the rule asks about. A caller fills in these facts and
// stops the calls of these events; whatever else it tells does no harm.
func (e *Engine) Needs() Needs {
	if e == nil {
		return 0
	}
	return e.needs
}

// NeedsFor returns what the rule asks about one event, by what the event itself
// says: less than Needs, for a rule about shells asks nothing of other programs.
func (e *Engine) NeedsFor(ev *Event) Needs {
	if e == nil {
		return 0
	}
	var n Needs
	if int(ev.Kind) < len(e.customs) {
		n = e.customs[ev.Kind].needsFor(e.scene(ev))
	}
	switch ev.Kind.section() {
	case Processes:
		if j := e.processes; j != nil {
			n |= j.listNeeds() | needsFor(j.checks, ev)
		}
		if e.files != nil {
			n |= e.files.needs() & (NeedProgramContent | NeedProgramMalware)
		}
	case DNS:
		if e.dns != nil {
			n |= needsFor(e.dns.checks, ev)
		}
	case Network:
		if j := e.network; j != nil {
			n |= j.listNeeds() | needsFor(j.checks, ev)
		}
	case Files:
		if e.files != nil {
			n |= needsFor(e.files.checks, ev)
		}
	case NoSection:
	}
	return n
}
