package audit

import (
	"fmt"
	"path"

	"appdefender/policy"
)

const unknownProcess = "unknown process"

// Message says for people what was detected, in the sentences of the reference
// audit format.
func Message(ev *policy.Event, v policy.Verdict) string {
	who := clean(ev.Subject.Path)
	if who == "" {
		who = unknownProcess
	}
	switch v.Detection {
	case policy.DeniedProcess:
		return fmt.Sprintf("%s launched and is explicitly denied by runtime rule. Full command: %s", programName(ev.Program), CommandLine(ev.Program.Command))
	case policy.DeniedDNS:
		return fmt.Sprintf("DNS resolution of domain name %s triggered by %s explicitly denied by a runtime rule", clean(ev.Domain), who)
	case policy.DeniedIP:
		return fmt.Sprintf("Outbound connection %s to IP %s is explicitly denied by a runtime rule", who, clean(ev.Addr.Addr().String()))
	case policy.DeniedOutboundPort:
		return fmt.Sprintf("Outbound connection %s to port %d (IP: %s) is explicitly denied by a runtime rule.", who, ev.Addr.Port(), clean(ev.Addr.Addr().String()))
	case policy.DeniedListenPort:
		return fmt.Sprintf("Process %s is listening on port %d explicitly denied by a runtime rule", who, ev.Addr.Port())
	case policy.DeniedUnix:
		return fmt.Sprintf("Connection of %s to Unix socket %s is explicitly denied by a runtime rule", who, fileName(&ev.File))
	case policy.DeniedFile:
		return fmt.Sprintf("%s changed explicitly monitored file %s", who, fileName(&ev.File))
	case policy.Unreadable:
		return fmt.Sprintf("Call %s of %s could not be read (%s)", clean(ev.Call), who, clean(ev.Why))
	case policy.Swapped:
		return fmt.Sprintf("%s was launched in place of the judged program and ended", programName(ev.Program))
	}
	return clean(v.Reason)
}

// programName is what people call the program of a launch: the file, unless
// the file is only a vehicle.
func programName(p policy.Program) string {
	name := p.Path
	switch {
	case p.Loaded != "":
		name = p.Loaded
	case p.Applet != "" && path.Base(p.Typed) == p.Applet:
		name = p.Typed
	case p.Applet != "":
		name = p.Path + " " + p.Applet
	case p.Path == "":
		name = p.Typed
	}
	if name == "" {
		return unknownProcess
	}
	return clean(name)
}

// fileName is what people call a file or socket.
func fileName(f *policy.File) string {
	switch {
	case f.Path != "":
		return clean(f.Path)
	case f.Typed != "":
		return clean(f.Typed)
	}
	return "without a name"
}
