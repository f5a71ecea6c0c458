// Package policy decides what a protected application may do.
//
// It is pure: an [Event] and a [Policy] go in, a [Verdict] comes out. It opens
// no file, reads no clock and starts no goroutine, so a saved event can be
// judged again and must get the same verdict.
package policy

import "net/netip"

// Effect is what a rule asks for when one of its entries is violated.
type Effect uint8

const (
	// Prevent refuses the one activity. It is the zero value, so that an
	// effect nobody set refuses.
	Prevent Effect = iota
	// Block refuses the activity and ends the target.
	Block
	// Alert lets the activity pass and tells.
	Alert
	// Disable neither refuses nor tells.
	Disable
)

// String returns the effect's word in policy files and records.
func (e Effect) String() string {
	switch e {
	case Prevent:
		return "prevent"
	case Block:
		return "block"
	case Alert:
		return "alert"
	case Disable:
		return "disable"
	}
	return "effect(?)"
}

// Refuses reports whether the effect stops the activity.
func (e Effect) Refuses() bool { return e != Alert && e != Disable }

// Kind says what an Event tries.
type Kind uint8

const (
	// Unknown is a call that could not be read; Event.Section says which
	// section of the policy would have judged it.
	Unknown Kind = iota
	// Launch is the start of a program; Event.Program says which.
	Launch
	// Lookup is the resolution of a name; Event.Domain says which.
	Lookup
	// Outbound is a connection or datagram to an address; Event.Addr says
	// which.
	Outbound
)

// Section is a part of a rule.
type Section uint8

const (
	NoSection Section = iota
	Processes
	DNS
	Network
)

// String returns the section's key in policy files.
func (s Section) String() string {
	switch s {
	case Processes:
		return "processes"
	case DNS:
		return "dns"
	case Network:
		return "network"
	}
	return ""
}

// Event is one thing the target tries to do.
type Event struct {
	Kind    Kind
	Section Section // of an Unknown event; otherwise it follows from Kind
	Subject Process // who asks
	Program Program // of a Launch

	Domain string // of a Lookup: lower-case A-labels, no trailing dot
	QType  string // of a Lookup: "A", "AAAA", …

	// Addr is the destination of an Outbound event in canonical form: no
	// IPv4-mapped IPv6, no zone, the unspecified address as loopback.
	Addr  netip.AddrPort
	Proto string // of an Outbound event: "tcp", "udp", …

	Call string // of an Unknown event: the system call's name or number
	Why  string // of an Unknown event: what could not be read, for people
}

// Process is a running process as the target's own file system names it.
type Process struct {
	PID       int
	Path      string   // the executable's resolved path; "" if unreadable
	Command   []string // argv
	User      string   // name or number
	Ancestors []Ancestor
}

// Ancestor is one parent of a process, nearest first in a list.
type Ancestor struct {
	PID  int    `json:"pid"`
	Path string `json:"path"`
}

// Program is what a Launch would start, with every name it goes by.
type Program struct {
	// Typed is the path given to the kernel, made absolute but with its
	// symbolic links unresolved: /bin/sh where Path is /usr/bin/dash.
	Typed string
	// Path is the resolved file, or "" if there is none with a name.
	Path string
	// Interpreters are the resolved files of a #! chain, outermost first.
	// The last one is what the kernel loads.
	Interpreters []string
	// Loaded is the resolved file behind a program loader
	// (ld-linux-x86-64.so.2 PROG); "" if Path is no loader.
	Loaded string
	// Applet is the applet of a multi-call binary (busybox mkdir, or
	// /bin/mkdir where that is busybox); "" if Path is none.
	Applet string
	// Command is argv as given, possibly cut.
	Command []string
	// Dev and Ino identify the file judged; they are for the record and for
	// recognising a retry, never for the verdict.
	Dev, Ino uint64
}

// Detection names what was detected, in the words of the audit format.
type Detection string

const (
	NothingDetected    Detection = ""
	DeniedProcess      Detection = "explicitlyDeniedProcess"
	DeniedDNS          Detection = "explicitlyDeniedDNS"
	DeniedIP           Detection = "explicitlyDeniedIP"
	DeniedOutboundPort Detection = "explicitlyDeniedOutboundPort"
	Unreadable         Detection = "unreadableCall"
	// Swapped is an exec that loaded another file than the judged one.
	Swapped Detection = "swappedProcess"
)

// Verdict is the answer to one Event. The zero Verdict allows nothing.
type Verdict struct {
	Allow     bool
	Effect    Effect    // what the rule asks; meaningful with a Detection
	Detection Detection // NothingDetected when there is nothing to tell
	Rule      string    // the rule that answered; "" if none matched
	Reason    string    // for people: `"evil.test" is on the deny list`
}

// Tell reports whether the verdict is worth a record.
func (v Verdict) Tell() bool { return v.Detection != NothingDetected }

// Workload is what a rule's scope is matched against.
type Workload struct {
	Image     string // as in the task definition, e.g. "nginx:1.27"
	Container string
	AppID     string
}
