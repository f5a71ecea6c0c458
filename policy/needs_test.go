package policy

import (
	"strings"
	"testing"
)

// everything is a rule with every detection.
func everything() Rule {
	on := new(Alert)
	return Rule{
		Processes: &ProcessesSection{Effect: on, Detect: ProcessDetections{on, on, on, on, on, on, on, on, on, on, on, on}},
		DNS:       &DNSSection{Effect: on, Detect: DNSDetections{on, on, on, on}},
		Network:   &NetworkSection{Effect: on, Detect: NetworkDetections{on, on, on, on, on}},
		Files:     &FilesSection{Effect: on, Detect: FileDetections{on, on, on, on, on, on, on, on}},
	}
}

// What a rule asks about one event is part of what it asks at all, and less of
// what is ordinary.
func TestNeedsFor(t *testing.T) {
	e := compile(t, everything())
	who := NeedSubject | NeedAncestry
	for _, c := range []struct {
		name      string
		ev        *Event
		asks, not Needs
	}{
		{"a program", command("/usr/bin/ls"), NeedArgv | NeedModified | NeedProgramContent, who | NeedRemoteIO | NeedScans},
		{"a shell", command("/usr/bin/dash"), who | NeedArgv | NeedRemoteIO, NeedScans},
		{"an interpreter", command("/usr/bin/python3.12"), NeedArgv | NeedRemoteIO, who},
		{"a package manager", command("/usr/bin/apt-get"), who, NeedRemoteIO},
		{"a package's script", command("/var/lib/dpkg/info/a.postinst"), who | NeedModified, 0},
		{"a connection", &Event{Kind: Outbound}, NeedScans | NeedNames, who | NeedModified | NeedArgv},
		{"an ordinary file", &Event{Kind: FileWrite, File: File{Op: "create", Path: "/tmp/x"}}, NeedFileWrites, who},
		{"a program's file", &Event{Kind: FileWrite, File: File{Op: "create", Path: "/usr/bin/x"}}, who, 0},
	} {
		got := e.NeedsFor(c.ev)
		if !got.Has(c.asks) || got&c.not != 0 || !e.Needs().Has(got) {
			t.Errorf("%s: %s", c.name, got)
		}
	}
	for _, c := range []struct {
		kind, script string
		ev           *Event
		want         Needs
	}{
		{"network-outgoing", `proc.name = "curl"`, &Event{Kind: Outbound}, NeedSubject},
		{"network-outgoing", `proc.name = "curl"`, command("/bin/ls"), 0},
		{"network-outgoing", `net.outgoing_port = 25 and proc.name = "curl"`, outbound("1.2.3.4:80"), 0},
		{"network-outgoing", `net.outgoing_port = 25 and proc.name = "curl"`, outbound("1.2.3.4:25"), NeedSubject},
		{"network-outgoing", `net.outgoing_port = 25 or proc.name = "curl"`, outbound("1.2.3.4:80"), NeedSubject},
		{"network-outgoing", `not (net.outgoing_port = 25 or proc.name = "curl")`, outbound("1.2.3.4:25"), 0},
		{"network-outgoing", `not (net.outgoing_port = 25 or proc.name = "curl")`, outbound("1.2.3.4:80"), NeedSubject},
		{"network-outgoing", `not (net.outgoing_port = 25 and not proc.interactive) and net.name startswith "x"`, outbound("1.2.3.4:25"), NeedInteractive | NeedNames},
		{"dns", `dns.name = "a.example" and proc.user = "root"`, &Event{Kind: Lookup, Domain: "A.example."}, NeedUser},
		{"dns", `dns.name = "a.example" and proc.user = "root"`, &Event{Kind: Lookup, Domain: "b.example."}, 0},
		{"processes", `proc.name in ("sh", "bash") and proc.cmdline contains "curl"`, command("/bin/sh"), NeedArgv},
		{"processes", `proc.name in ("sh", "bash") and proc.cmdline contains "curl"`, command("/bin/ls"), 0},
		{"filesystem", `file.type = elf and proc.name = "cp"`, &Event{Kind: FileWrite, File: File{Op: OpWritten, Path: "/x"}}, NeedFileWrites | NeedContent | NeedSubject},
		{"filesystem", `file.type = elf and proc.name = "cp"`, &Event{Kind: FileWrite, File: File{Op: "create", Path: "/x"}}, 0},
	} {
		if got := uses(t, c.kind, c.script, "alert").NeedsFor(c.ev); got != c.want {
			t.Errorf("%s asks %q of %+v, want %q", c.script, got, c.ev, c.want)
		}
	}
}

// What a check asks nothing about does not set it off, whatever is known.
func TestAsksOfAll(t *testing.T) {
	names := []string{"/usr/bin/ls", "/usr/bin/dash", "/usr/bin/python3", "/usr/bin/apt-get", "/usr/bin/nc", "/usr/bin/nmap", "/tmp/xmrig", "/var/lib/dpkg/info/a.postinst"}
	for i := range processChecks {
		c := &processChecks[i]
		if c.asks == nil {
			continue
		}
		for _, name := range names {
			for _, by := range []string{"/usr/sbin/nginx", "/usr/bin/dpkg", ""} {
				ev := below(command(name, "-c", "sh", "-i", "/dev/tcp/"), by, by)
				p := &ev.Program
				p.Modified, p.New, p.Altered, p.Fileless, p.Writable, p.SetUID, p.RemoteIO = true, true, true, true, true, true, true
				asks := c.asks(ev)
				if !c.needs.Has(asks) {
					t.Errorf("%s asks %s, more than %s", c.key, asks, c.needs)
				}
				if asks == 0 && c.holds(ev) != "" {
					t.Errorf("%s of %s, by %q: it asked about nothing and holds", c.key, name, by)
				}
			}
		}
	}
}

func TestOrdinaryCommands(t *testing.T) {
	on := new(Prevent)
	e := compile(t, Rule{Processes: &ProcessesSection{Effect: on, Detect: ProcessDetections{LateralMovement: on, ShellsFromServers: on, Modified: on}}})
	shell := func(by string, args ...string) *Event { return below(command("/bin/dash", args...), by) }
	script := func(path string, by ...string) *Event {
		return with(below(command(path), by...), func(ev *Event) { ev.Program.Modified = true; ev.Program.Interpreters = []string{"/usr/bin/dash"} })
	}
	const pg, php = "/usr/lib/postgresql/15/bin/postgres", "/usr/sbin/php-fpm8.2"
	for _, c := range []struct {
		name string
		ev   *Event
		want Detection
	}{
		{"waiting for a port", command("/bin/nc", "-z", "db", "5432"), ""},
		{"with options", command("/bin/nc.openbsd", "-w", "2", "-zv", "db", "5432"), ""},
		{"busybox", with(command("/bin/busybox", "nc", "-z", "db", "5432"), func(ev *Event) { ev.Program.Applet = "nc" }), ""},
		{"talking", command("/bin/nc", "db", "5432"), LateralMovement},
		{"many ports", command("/bin/nc", "-z", "db", "1-65535"), LateralMovement},
		{"a shell too", command("/bin/nc", "-z", "-e", "/bin/sh", "db", "5432"), LateralMovement},
		{"a long option with an exec", command("/bin/ncat", "-z", "--exec=/bin/sh", "db", "5432"), LateralMovement},
		{"listening", command("/bin/nc", "-lz", "-p", "5432"), LateralMovement},
		{"another tool", command("/usr/bin/nmap", "-z", "db", "5432"), LateralMovement},
		{"no arguments", command("/bin/nc"), LateralMovement},

		{"initdb", shell(pg, "-c", "locale -a"), ""},
		{"initdb, newer", shell(pg, "-c", "--", "locale -a"), ""},
		{"mail()", shell(php, "-c", "/usr/sbin/sendmail -t -i"), ""},
		{"mail() with more", shell(php, "-c", "/usr/sbin/sendmail -t -i -X/var/www/x.php"), WebShell},
		{"mail() of a database", shell(pg, "-c", "/usr/sbin/sendmail -t -i"), WebShell},
		{"a list and more", shell(pg, "-c", "locale -a; id"), WebShell},
		{"a list with a name for it", shell(pg, "-c", "locale -a", "x"), WebShell},
		{"another option", shell(pg, "-ic", "locale -a"), WebShell},
		{"a shell in between", below(command("/bin/dash", "-c", "locale -a"), "/bin/dash", pg), WebShell},

		{"a package's script", script("/var/lib/dpkg/info/a.postinst", "/usr/bin/dpkg"), ""},
		{"through debconf", script("/var/lib/dpkg/info/a.config", "/usr/bin/perl", "/usr/bin/dash", "/usr/bin/dpkg"), ""},
		{"nobody's script", script("/var/lib/dpkg/info/a.postinst", "/usr/bin/dash"), ModifiedProcess},
		{"a package's program", script("/usr/bin/a", "/usr/bin/dpkg"), ModifiedProcess},
	} {
		v := e.Decide(c.ev)
		if v.Detection != c.want {
			t.Errorf("%s: %+v", c.name, v)
		}
		if c.want == "" && v.Reason != "" || c.want != "" && strings.TrimSpace(v.Reason) == "" {
			t.Errorf("%s: reason %q", c.name, v.Reason)
		}
	}
}
