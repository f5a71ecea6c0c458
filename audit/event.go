package audit

import (
	"fmt"
	"net/netip"
	"strings"

	"appdefender/policy"
)

// Event returns the event that a record tells of, as far as the record knows
// it, so that it can be judged again. It is false for the Defender's own news,
// which are no events.
//
// A record keeps the command as a line for people, and of a program's names the resolved
// ones, and what the judge did not tell of was not recorded: a recording of
// events knows more.
func Event(r *Record) (policy.Event, bool, error) {
	ev := policy.Event{Subject: policy.Process{PID: r.PID, Path: r.ProcessPath, User: r.User, Ancestors: r.Ancestry}}
	ev.Subject.Command = arguments(r.Command)
	switch {
	case r.Type == typeDefender:
		return ev, false, nil
	case r.Call != "":
		ev.Call = r.Call
		ev.Section = map[string]policy.Section{typeProcesses: policy.Processes, typeNetwork: policy.Network, typeFiles: policy.Files}[r.Type]
	case r.Type == typeProcesses:
		ev.Kind = policy.Launch
		ev.Program = launchedProgram(r)
		ev.Subject.Path, ev.Subject.Command = "", nil
		if len(r.Ancestry) > 0 {
			ev.Subject.Path, ev.Subject.Ancestors = r.Ancestry[0].Path, r.Ancestry[1:]
		}
	case r.Type == typeFiles:
		ev.Kind = policy.FileWrite
		ev.File = policy.File{Path: r.FilePath, Op: "open", MD5: r.MD5}
	case r.Type == typeNetwork && r.FilePath != "":
		ev.Kind = policy.UnixConnect
		ev.File = policy.File{Path: r.FilePath}
	case r.Type == typeNetwork && r.IP != "":
		ip, err := netip.ParseAddr(r.IP)
		if err != nil {
			return ev, false, fmt.Errorf("ip: %w", err)
		}
		ev.Kind, ev.Addr = policy.Outbound, netip.AddrPortFrom(ip, uint16(r.Port)) //nolint:gosec // a record's port is one
		ev.Name, ev.Resolved = r.Domain, r.Domain != ""
		if r.AttackType == string(policy.DeniedListenPort) {
			ev.Kind = policy.Listen
		}
	case r.Type == typeNetwork && r.Domain != "":
		ev.Kind, ev.Domain, ev.QType = policy.Lookup, r.Domain, r.QueryType
	default:
		return ev, false, fmt.Errorf("type: %q is not a type of record that tells of an event", r.Type)
	}
	return ev, true, nil
}

// launchedProgram is the program of a record. What was detected is a fact about it.
func launchedProgram(r *Record) policy.Program {
	d := policy.Detection(r.AttackType)
	return policy.Program{
		Typed: r.ProcessPath, Path: r.ProcessPath, Interpreters: r.Interpreters, Command: arguments(r.Command),
		Modified: d == policy.ModifiedProcess, New: d == policy.NewProcess, Altered: d == policy.AlteredBinary,
		Fileless: d == policy.Fileless, Writable: d == policy.WritablePath, SetUID: d == policy.SetUID, RemoteIO: d == policy.ReverseShell,
	}
}

// arguments are those of a CommandLine, or all of it as one where an argument
// was quoted.
func arguments(line string) []string {
	switch {
	case line == "":
		return nil
	case strings.ContainsAny(line, `'"\`):
		return []string{line}
	}
	return strings.Fields(line)
}
