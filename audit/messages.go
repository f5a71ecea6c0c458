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
	who := Clean(ev.Subject.Path)
	if who == "" {
		who = unknownProcess
	}
	if v.Detection == policy.Custom && v.Message != "" {
		return Clean(v.Message)
	}
	switch ev.Kind {
	case policy.Launch:
		if m := launched(&ev.Program, v); m != "" {
			return m
		}
	case policy.FileWrite:
		if m := wrote(who, &ev.File, v); m != "" {
			return m
		}
	}
	switch v.Detection {
	case policy.DeniedDNS:
		return fmt.Sprintf("DNS resolution of domain name %s triggered by %s explicitly denied by a runtime rule", Clean(ev.Domain), who)
	case policy.DeniedIP:
		return fmt.Sprintf("Outbound connection %s to IP %s is explicitly denied by a runtime rule", who, Clean(ev.Addr.Addr().String()))
	case policy.DeniedOutboundPort:
		return fmt.Sprintf("Outbound connection %s to port %d (IP: %s) is explicitly denied by a runtime rule.", who, ev.Addr.Port(), Clean(ev.Addr.Addr().String()))
	case policy.DeniedListenPort:
		return fmt.Sprintf("Process %s is listening on port %d explicitly denied by a runtime rule", who, ev.Addr.Port())
	case policy.DeniedUnix:
		return fmt.Sprintf("Connection of %s to Unix socket %s is explicitly denied by a runtime rule", who, fileName(&ev.File))
	case policy.CloudMetadata:
		return fmt.Sprintf("%s asked the cloud's metadata service (IP: %s)", who, Clean(ev.Addr.Addr().String()))
	case policy.VerticalPorts:
		return fmt.Sprintf("%s scans the ports of IP %s", who, Clean(ev.Addr.Addr().String()))
	case policy.HorizontalScan:
		return fmt.Sprintf("%s scans many machines for port %d", who, ev.Addr.Port())
	case policy.RawTraffic:
		return fmt.Sprintf("%s opened a socket for whole packets (%s)", who, Clean(ev.Proto))
	case policy.DeniedFamily:
		return fmt.Sprintf("%s opened a socket of a family (%s) that is explicitly denied by a runtime rule", who, Clean(ev.Proto))
	case policy.Unresolved:
		return fmt.Sprintf("Outbound connection %s to IP %s, which no allowed DNS resolution returned", who, Clean(ev.Addr.Addr().String()))
	case policy.MiningPool:
		if ev.Kind == policy.Lookup {
			return fmt.Sprintf("DNS resolution of mining pool %s triggered by %s", Clean(ev.Domain), who)
		}
		return fmt.Sprintf("Outbound connection %s to a mining pool (IP: %s, port %d)", who, Clean(ev.Addr.Addr().String()), ev.Addr.Port())
	case policy.Rebinding:
		return fmt.Sprintf("DNS resolution of domain name %s triggered by %s leads to a private address", Clean(ev.Domain), who)
	case policy.Tunnel:
		return fmt.Sprintf("%s carries data out by DNS resolution (%s)", who, Clean(ev.Domain))
	case policy.EncryptedDNS:
		if ev.Kind == policy.Lookup {
			return fmt.Sprintf("DNS resolution of encrypted resolver %s triggered by %s", Clean(ev.Domain), who)
		}
		return fmt.Sprintf("Outbound connection %s to an encrypted resolver (IP: %s, port %d)", who, Clean(ev.Addr.Addr().String()), ev.Addr.Port())
	case policy.Unreadable:
		if ev.Kind == policy.Unknown {
			return fmt.Sprintf("Call %s of %s could not be read (%s)", Clean(ev.Call), who, Clean(ev.Why))
		}
	}
	return Clean(v.Reason)
}

// launched is the message of a detection at the start of a program, or "".
func launched(p *policy.Program, v policy.Verdict) string {
	name, command := programName(*p), CommandLine(p.Command)
	switch v.Detection {
	case policy.DeniedProcess:
		return fmt.Sprintf("%s launched and is explicitly denied by runtime rule. Full command: %s", name, command)
	case policy.ModifiedProcess:
		return fmt.Sprintf("A modified executable %s  was launched", name) // both spaces are the reference's
	case policy.NewProcess:
		return fmt.Sprintf("%s launched and is not part of the original image. Full command: %s", name, command)
	case policy.AlteredBinary:
		return name + " launched and is detected as an altered or corrupted package binary. The file metadata doesn't match what's reported by the package manager."
	case policy.CryptoMiner:
		return fmt.Sprintf("%s launched and is identified as a crypto miner. Full command: %s", name, command)
	case policy.ReverseShell:
		return fmt.Sprintf("%s launched and is identified as a reverse shell. Full command: %s", name, command)
	case policy.LateralMovement:
		return fmt.Sprintf("%s launched and is identified as a process used for lateral movement. Full command: %s", name, command)
	case policy.Fileless:
		return fmt.Sprintf("%s launched without a file. Full command: %s", name, command)
	case policy.WritablePath:
		return fmt.Sprintf("%s launched from a temporary file storage. Full command: %s", name, command)
	case policy.SetUID:
		return fmt.Sprintf("%s launched and gains privileges (SUID). Full command: %s", name, command)
	case policy.WebShell, policy.UnexpectedProcess:
		return fmt.Sprintf("%s launched and is not expected here: %s. Full command: %s", name, Clean(v.Reason), command)
	case policy.MalwareProcess:
		return fmt.Sprintf("%s launched and is detected as %s malware in the custom malware feed. Full command: %s", name, Clean(v.Malware), command)
	case policy.Swapped:
		return name + " was launched in place of the judged program and ended"
	}
	return ""
}

// wrote is the message of a detection of a change to the file system, or "".
func wrote(who string, f *policy.File, v policy.Verdict) string {
	name := fileName(f)
	switch v.Detection {
	case policy.DeniedFile:
		return who + " changed explicitly monitored file " + name
	case policy.AdminAccount:
		return who + " wrote to administrative accounts configuration file " + name
	case policy.SSHAccess:
		return who + " wrote to SSH configuration file " + name
	case policy.EncryptedBinary:
		return fmt.Sprintf("%s wrote a suspicious packed/encrypted binary to %s. Packing/encryption can conceal malicious executables.", who, name)
	case policy.MalwareFile:
		return fmt.Sprintf("%s created %s which was detected as %s malware in the custom malware feed", who, name, malware(f, v))
	case policy.BinaryChanged, policy.ELFChanged:
		return who + " changed the binary " + name
	case policy.SecretFile:
		return who + " created a key file at " + name
	case policy.RegularFile:
		return who + " wrote suspicious file to " + name
	case policy.ForeignELF:
		return fmt.Sprintf("Suspected malicious ELF file %s downloaded by process %s. Incompatible process architecture %s.", name, who, detail(f, policy.FoundForeignELF))
	case policy.SuspiciousELF:
		return fmt.Sprintf("Suspected malicious ELF file %s. File headers indicate anti-analysis techniques have been used to modify the file, which is used often by malware to avoid detection.", name)
	}
	return ""
}

// malware is the name of what was found, or the digest that it was found by.
func malware(f *policy.File, v policy.Verdict) string {
	if v.Malware != "" {
		return Clean(v.Malware)
	}
	if name := detail(f, policy.FoundMalware); name != "" {
		return name
	}
	if f.MD5 != "" {
		return Clean(f.MD5)
	}
	return Clean(f.SHA256)
}

func detail(f *policy.File, what policy.Content) string {
	for i := range f.Findings {
		if f.Findings[i].What == what {
			return Clean(f.Findings[i].Detail)
		}
	}
	return ""
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
	return Clean(name)
}

// fileName is what people call a file or socket.
func fileName(f *policy.File) string {
	switch {
	case f.Path != "":
		return Clean(f.Path)
	case f.Typed != "":
		return Clean(f.Typed)
	}
	return "without a name"
}
