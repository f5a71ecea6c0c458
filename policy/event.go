package policy

import (
	"fmt"
	"net/netip"
)

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
	// Listen is a bind to a port or a listen on it; Event.Addr says which.
	Listen
	// UnixConnect is a connection or datagram to a Unix socket; Event.File
	// says which.
	UnixConnect
	// FileWrite is a change to the file system; Event.File says which.
	FileWrite
	// RawSocket is the making of a socket that sees or sends whole packets, or
	// leads to addresses of another family; Event.Proto says which.
	RawSocket
)

var kindWords = [...]string{"unknown", "launch", "lookup", "outbound", "listen", "unixConnect", "fileWrite", "rawSocket"}

// String returns the kind's word in recorded events.
func (k Kind) String() string {
	if int(k) < len(kindWords) {
		return kindWords[k]
	}
	return "kind(?)"
}

// MarshalText returns the kind's word.
func (k Kind) MarshalText() ([]byte, error) {
	if int(k) >= len(kindWords) {
		return nil, fmt.Errorf("%d is not a kind of event", uint8(k))
	}
	return []byte(kindWords[k]), nil
}

// UnmarshalText reads the kind's word.
func (k *Kind) UnmarshalText(text []byte) error {
	for i, word := range kindWords {
		if string(text) == word {
			*k = Kind(i)
			return nil
		}
	}
	return fmt.Errorf("%q is not a kind of event", text)
}

// section is the part of a rule that events of the kind belong to.
func (k Kind) section() Section {
	switch k {
	case Launch:
		return Processes
	case Lookup:
		return DNS
	case Outbound, Listen, UnixConnect, RawSocket:
		return Network
	case FileWrite:
		return Files
	}
	return NoSection
}

// Section is a part of a rule.
type Section uint8

const (
	NoSection Section = iota
	Processes
	DNS
	Network
	Files
)

var sectionWords = [...]string{"", "processes", "dns", "network", "files"}

// String returns the section's key in policy files.
func (s Section) String() string {
	if int(s) < len(sectionWords) {
		return sectionWords[s]
	}
	return ""
}

// MarshalText returns the section's key.
func (s Section) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the section's key.
func (s *Section) UnmarshalText(text []byte) error {
	for i, word := range sectionWords {
		if string(text) == word {
			*s = Section(i)
			return nil
		}
	}
	return fmt.Errorf("%q is not a section", text)
}

// Event is one thing the target tries to do.
//
// Some of what a rule may ask about costs input and output, or a call that
// must be stopped for it: [Engine.Needs] says what to fill in. A fact that
// nobody needs may be left empty. In JSON an event is one line of a recording.
type Event struct {
	Kind    Kind    `json:"kind"`
	Section Section `json:"section,omitzero"` // of an Unknown event; otherwise it follows from Kind

	// Of an Outbound event: Resolved says that an allowed lookup returned the
	// address. Scan says that the sender tries many ports or addresses in a short
	// time (see NeedScans).
	Resolved bool `json:"resolved,omitzero"`
	Scan     Scan `json:"scan,omitzero"`

	// Unsure are facts that were needed and could not be had. A detection
	// that rests on one of them holds, and so does the deny list of digests.
	Unsure Needs `json:"unsure,omitzero"`

	Subject Process `json:"subject,omitzero"` // who asks
	Program Program `json:"program,omitzero"` // of a Launch

	Domain string `json:"domain,omitzero"` // of a Lookup: lower-case A-labels, no trailing dot
	QType  string `json:"qtype,omitzero"`  // of a Lookup: "A", "AAAA", …

	Answer Answer `json:"answer,omitzero"` // of a Lookup that was answered: where it leads
	Tunnel string `json:"tunnel,omitzero"` // of a Lookup: what makes it look like data carried out in names, for people

	// Addr is the destination of an Outbound event, or what a Listen binds to
	// (port 0: the kernel will choose), in canonical form: no IPv4-mapped
	// IPv6, no zone, and for a destination the unspecified address as
	// loopback.
	Addr  netip.AddrPort `json:"addr,omitzero"`
	Proto string         `json:"proto,omitzero"` // "tcp", "udp", …; of a RawSocket "raw", "packet" or one of Families

	// Of an Outbound event that is Resolved: for which name that was last, and for
	// which others (see NeedNames): many names may share an address.
	Name    string   `json:"name,omitzero"`
	Aliases []string `json:"aliases,omitzero"`

	File File `json:"file,omitzero"` // of a FileWrite and a UnixConnect

	Call string `json:"call,omitzero"` // of an Unknown event: the system call's name or number
	Why  string `json:"why,omitzero"`  // of an Unknown event: what could not be read, for people
}

// Answer is where the answer to a lookup leads. The zero Answer is that of a
// lookup that was not answered yet.
type Answer struct {
	// Names are those that the name asked for is an alias of, and that other
	// services of it are at, in the form of Event.Domain.
	Names []string     `json:"names,omitzero"`
	Addrs []netip.Addr `json:"addrs,omitzero"`
}

// Empty reports whether the answer leads nowhere.
func (a *Answer) Empty() bool { return len(a.Names) == 0 && len(a.Addrs) == 0 }

// Process is a running process as the target's own file system names it.
type Process struct {
	PID       int        `json:"pid,omitzero"`
	Path      string     `json:"path,omitzero"`    // the executable's resolved path; "" if unreadable
	Command   []string   `json:"command,omitzero"` // argv
	User      string     `json:"user,omitzero"`    // name or number
	Ancestors []Ancestor `json:"ancestors,omitzero"`
	// Script is the package manager that it is, where Path is the interpreter of
	// that. Of other scripts it is "".
	Script string `json:"script,omitzero"`
	// Interactive is a standard input that is a terminal.
	Interactive bool `json:"interactive,omitzero"`
}

// Ancestor is one parent of a process, nearest first in a list.
type Ancestor struct {
	PID    int    `json:"pid"`
	Path   string `json:"path"`
	Script string `json:"script,omitzero"` // see Process.Script
}

// Program is what a Launch would start, with every name it goes by and what
// is known about its file.
type Program struct {
	// Typed is the path given to the kernel, made absolute but with its
	// symbolic links unresolved: /bin/sh where Path is /usr/bin/dash.
	Typed string `json:"typed,omitzero"`
	// Path is the resolved file, or "" if there is none with a name.
	Path string `json:"path,omitzero"`
	// Interpreters are the resolved files of a #! chain, outermost first.
	// The last one is what the kernel loads.
	Interpreters []string `json:"interpreters,omitzero"`
	// Loaded is the resolved file behind a program loader
	// (ld-linux-x86-64.so.2 PROG); "" if Path is no loader.
	Loaded string `json:"loaded,omitzero"`
	// Applet is the applet of a multi-call binary (busybox mkdir, or
	// /bin/mkdir where that is busybox); "" if Path is none.
	Applet string `json:"applet,omitzero"`
	// Within are other names of the same files: in a root or in mounts of the
	// target's own, and those of Engine.DeniedPaths that are hard links. A target
	// can have any file by any name: they count for what is denied, never for
	// what is allowed.
	Within []string `json:"within,omitzero"`
	// Command is argv as given, in a recording perhaps cut.
	Command []string `json:"command,omitzero"`
	// Dev and Ino identify the file judged; they are for the record and for
	// recognising a retry, never for the verdict.
	Dev uint64 `json:"-"`
	Ino uint64 `json:"-"`

	// Digests are the SHA-256 of Path, each of the Interpreters and Loaded, in
	// that order, in lower-case hexadecimals (see NeedDigests). A file without
	// a digest has "".
	Digests []string `json:"digests,omitzero"`

	// Contents are what the same files hold, in the same order (see
	// NeedProgramContent).
	Contents []Contents `json:"contents,omitzero"`

	// What holds for Path, an interpreter or Loaded; see the Need of the same
	// name.

	Fileless bool `json:"fileless,omitzero"` // no name leads to it: memfd, unlinked, deleted
	Modified bool `json:"modified,omitzero"` // written since the target started, its grace aside
	New      bool `json:"new,omitzero"`      // came into being since the target started, its grace aside
	Altered  bool `json:"altered,omitzero"`  // not as its package recorded it
	Writable bool `json:"writable,omitzero"` // on a temporary file system, or where anybody may write
	SetUID   bool `json:"setuid,omitzero"`   // has a set-user-id or set-group-id bit, or capabilities, that would act
	// RemoteIO is a standard input or output that is a socket connected to
	// another machine, or a terminal made by one who has such a socket there.
	RemoteIO bool `json:"remoteIO,omitzero"`
	// Main is the launch in the target's first process: what the container
	// was started for, and what that process becomes by further execs.
	Main bool `json:"main,omitzero"`
}

// Contents are what a program's file holds.
type Contents struct {
	Path   string `json:"path,omitzero"`
	MD5    string `json:"md5,omitzero"` // in lower-case hexadecimals, as the next one
	SHA256 string `json:"sha256,omitzero"`
	// Findings are of a file that was changed since the target started: what
	// the image holds was put there.
	Findings []Finding `json:"findings,omitzero"`
}

// File is what a FileWrite changes, or the socket of a UnixConnect.
type File struct {
	// Path is the resolved path, of a socket in the abstract namespace "@"
	// and its name. The last part of it is not resolved where the call does
	// not follow it (rename, unlink, symlink, …).
	Path string `json:"path,omitzero"`
	// Typed is the path given to the kernel, made absolute but with its
	// symbolic links unresolved.
	Typed string `json:"typed,omitzero"`
	// Op is what is done: "open" (an existing file, for writing), "create",
	// "rename", "link", "unlink", "symlink", "truncate", "chmod", "chown",
	// "mkdir", "mknod", "rmdir", "setxattr", "mount". All are judged before
	// the change but "written", which is told of a file's content after it.
	Op string `json:"op,omitzero"`
	// To is the second path, resolved: the new name of a rename or link, the
	// source of a mount, and as written the target of a symlink.
	To string `json:"to,omitzero"`

	// Type is "elf", "secret" (a private key), "regular" or "folder": what is
	// at Path, and for "written" what is there now (see NeedFileType).
	Type string `json:"type,omitzero"`
	// Image says that the file was there when the target started (see
	// NeedFileType).
	Image bool `json:"image,omitzero"`
	// Shared says that a socket has other names besides Path (hard links).
	Shared bool `json:"shared,omitzero"`
	// MD5 and SHA256 are of a "written" file, in lower-case hexadecimals (see
	// NeedContent).
	MD5    string `json:"md5,omitzero"`
	SHA256 string `json:"sha256,omitzero"`
	// Findings are what was found in a "written" file (see NeedContent).
	Findings []Finding `json:"findings,omitzero"`
}

// OpWritten is the File.Op of an event that tells of a file's content after it
// was written. It comes too late to prevent; the start of a program does not
// (Program.Contents).
const OpWritten = "written"

// Finding is one thing found in the content of a file.
type Finding struct {
	What   Content `json:"what"`
	Detail string  `json:"detail,omitzero"` // the malware's name, the packer's, the architecture
}

// Content is a kind of Finding.
type Content string

const (
	FoundPacked     Content = "packed"              // packed or encrypted
	FoundELFHeader  Content = "suspiciousELF"       // headers against analysis
	FoundForeignELF Content = "foreignArchitecture" // for another processor
	FoundMalware    Content = "malware"             // its digest is on a list
	FoundPrivateKey Content = "privateKey"
)

// Scan is how many destinations a sender tries.
type Scan uint8

const (
	NoScan    Scan = iota
	ManyPorts      // of one address
	ManyHosts      // by one port
)
