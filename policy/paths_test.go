package policy

import (
	"path"
	"slices"
	"strings"
	"testing"
)

func TestPaths(t *testing.T) {
	for _, c := range []struct {
		entries []string
		path    string
		want    string // the entry, "" for none
	}{
		{list("/etc"), "/etc", "/etc"},
		{list("/etc"), "/etc/passwd", "/etc"},
		{list("/etc"), "/etc/ssl/certs/a.pem", "/etc"},
		{list("/etc"), "/etcetera", ""},
		{list("/etc"), "/", ""},
		{list("/etc"), "/srv/etc", ""},
		{list("/etc/"), "/etc/passwd", "/etc/"},
		{list("/etc/"), "/etc", "/etc/"},
		{list("/etc/passwd"), "/etc/passwd", "/etc/passwd"},
		{list("/etc/passwd"), "/etc/passwd-", ""},
		{list("/etc/passwd"), "/etc", ""},
		{list("/"), "/", "/"},
		{list("/"), "/x", "/"},
		{list("/*"), "/x", "/*"},
		{list("/*"), "/", ""},
		{list("/usr/bin/*"), "/usr/bin/nc", "/usr/bin/*"},
		{list("/usr/bin/*"), "/usr/bin/x/y", "/usr/bin/*"},
		{list("/usr/bin/*"), "/usr/bin", ""},
		{list("/usr/bin/*", "/usr/bin"), "/usr/bin", "/usr/bin"},
		{list("/usr/bin", "/usr/bin/*"), "/usr/bin", "/usr/bin"},
		{list("/home/*/.ssh/*"), "/home/a/.ssh/id", "/home/*/.ssh/*"},
		{list("/home/*/.ssh/*"), "/home/a/ssh/id", ""},
		{list("*.pem"), "/srv/a.pem", "*.pem"},
		{list("*.pem"), "/srv/a.pem/b", ""},
		{list("*/bin/*"), "/opt/bin/x", "*/bin/*"},
		{list("docker.sock"), "/run/docker.sock", "docker.sock"},
		{list("docker.sock"), "/run/docker.sock/x", ""},
		{list("*"), "/", "*"},
		{list("*"), "@x", "*"},
		{list("*"), "", ""},
		{list("@bus"), "@bus", "@bus"},
		{list("@bus"), "@bus2", ""},
		{list("@/tmp/.X11-unix/*"), "@/tmp/.X11-unix/X0", "@/tmp/.X11-unix/*"},
		{list("X0", "/tmp", "*0"), "@/tmp/.X11-unix/X0", ""},
		{list("@/tmp/*"), "/tmp/x", ""},
		{list("/a/b/c/d"), "/a/b", ""},
		{list("/a/b/c/d", "/a"), "/a/b/c/d/e", "/a"},
	} {
		var f faults
		l := newPaths(c.entries, true, "", &f)
		if len(f) > 0 {
			t.Errorf("%q: %v", c.entries, f)
			continue
		}
		if got, ok := l.match(c.path); got != c.want || ok != (c.want != "") {
			t.Errorf("%q, %q: %q, %t, want %q", c.entries, c.path, got, ok, c.want)
		}
	}
}

// below agrees with the plain reading of it.
func TestPathsBelow(t *testing.T) {
	entries := list("/etc/passwd", "/usr/bin/*", "/home/*/.ssh", "/var/lib/x/", "/", "/usr", "*.pem", "name", "/usr-local/x", "/opt*")
	l := newPaths(entries, false, "", new(faults))
	for _, c := range []struct {
		folder string
		want   bool
	}{
		{"/etc", true}, {"/etc/passwd", true}, {"/etc/shadow", false}, {"/et", false}, {"/usr", true}, {"/usr/bin", true},
		{"/usr/lib", false}, {"/home", true}, {"/home/a", false}, {"/var", true}, {"/var/lib", true}, {"/var/lib/x", true},
		{"/var/lib/xy", false}, {"/", true}, {"/usr-local", true}, {"/srv", false}, {"@etc", false}, {"", false},
	} {
		if entry, ok := l.below(c.folder); ok != c.want {
			t.Errorf("%s: %q, %t", c.folder, entry, ok)
		}
	}
	var none *paths
	if _, ok := none.below("/"); ok {
		t.Error("the nil list has an entry")
	}
}

func TestCheckPath(t *testing.T) {
	for _, c := range []struct{ entry, want string }{
		{"", "empty"},
		{" /etc", `" /etc" has white space around it`},
		{"etc/passwd", `"etc/passwd" is a relative path; write an absolute one or a name`},
		{"/etc//x", `"/etc//x" has a ".", a ".." or a double slash; write "/etc/x"`},
		{"/etc/../x", `"/etc/../x" has a ".", a ".." or a double slash; write "/x"`},
		{"..", `".." is no name; write an absolute path`},
		{"@", `"@" is no name; "@*" is every name in the abstract namespace`},
	} {
		if err := checkPath(c.entry, true); err == nil || err.Error() != c.want {
			t.Errorf("%q: %v", c.entry, err)
		}
	}
	for _, good := range list("/", "/etc/", "a", "*/x", "/a/*/b", "@", "@x") {
		if err := checkPath(good, false); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}

func FuzzPaths(f *testing.F) {
	f.Add("/etc", "/usr/bin/*", "*.pem", "/etc/passwd")
	f.Add("/", "@x*", "name", "@xy")
	for _, p := range list("", "/", "a", "/a", "/a/", "//a", "/a/.", "/a/./b", "/../a", "/a/..", "/.a", "/a..", "a/../b", "/a//b") {
		f.Add("x", "y", "z", p)
	}
	f.Fuzz(func(t *testing.T, a, b, c, p string) {
		var bad faults
		l := newPaths(list(a, b, c), true, "", &bad)
		if len(bad) > 0 {
			return
		}
		got, ok := l.match(p)
		if ok && !slices.Contains(list(a, b, c), got) {
			t.Errorf("%q is no entry", got)
		}
		// A plain path covers what begins with it and a slash.
		for _, e := range list(a, b, c) {
			if root := strings.TrimSuffix(e, "/"); e[0] == '/' && !strings.Contains(e, "*") && strings.HasPrefix(p, root+"/") && !ok {
				t.Errorf("%q does not cover %q", e, p)
			}
		}
		l.below(p)
		if got, want := clean(p), path.Clean(p); got != want {
			t.Errorf("clean(%q) = %q, want %q", p, got, want)
		}
	})
}

func write(op, path string) *Event {
	return &Event{Kind: FileWrite, File: File{Op: op, Path: path, Typed: path}}
}

func pair(op, path, to string) *Event {
	ev := write(op, path)
	ev.File.To = to
	return ev
}

func TestFiles(t *testing.T) {
	deny := compile(t, Rule{Files: &FilesSection{Effect: new(Prevent), Deny: list("/etc", "/usr/bin/*", "*.pem", "/home/*/.ssh/*")}})
	allow := compile(t, Rule{Files: &FilesSection{Effect: new(Prevent), Allow: list("/tmp", "/var/log/*"), Deny: list("/tmp/no")}})
	for _, c := range []struct {
		name   string
		e      *Engine
		ev     *Event
		reason string
	}{
		{"below", deny, write("open", "/etc/passwd"), `"/etc/passwd" is on the deny list (/etc)`},
		{"itself", deny, write("chmod", "/etc"), `"/etc" is on the deny list`},
		{"elsewhere", deny, write("create", "/srv/x"), ""},
		{"by the path as typed", deny, &Event{Kind: FileWrite, File: File{Op: "open", Path: "/srv/x", Typed: "/srv/../etc/x"}}, `"/srv/../etc/x" is on the deny list (/etc)`},
		{"a hard link out of a denied folder", deny, pair("link", "/etc/shadow", "/tmp/x"), `"/etc/shadow" is on the deny list (/etc)`},
		{"a hard link into it", deny, pair("link", "/tmp/x", "/usr/bin/nc"), `"/usr/bin/nc" is on the deny list (/usr/bin/*)`},
		{"a rename into it", deny, pair("rename", "/tmp/x", "/etc/passwd"), `"/etc/passwd" is on the deny list (/etc)`},
		{"a symbolic link to it", deny, pair("symlink", "/tmp/x", "/etc/passwd"), ""},
		{"a rename of a folder above", deny, pair("rename", "/usr", "/usr2"), `what is below "/usr" is on the deny list (/usr/bin/*)`},
		{"a rename over a folder above", deny, pair("rename", "/x", "/home"), `what is below "/home" is on the deny list (/home/*/.ssh/*)`},
		{"a mount over a folder above", deny, pair("mount", "/usr", "tmpfs"), `what is below "/usr" is on the deny list (/usr/bin/*)`},
		{"a bind mount of a denied folder", deny, pair("mount", "/mnt", "/etc"), `"/etc" is on the deny list`},
		{"a bind mount of what is above it", deny, pair("mount", "/mnt", "/"), `what is below "/" is on the deny list (/etc)`},
		{"mode of a folder above", deny, write("chmod", "/usr"), ""},
		{"content", deny, write(OpWritten, "/etc/passwd"), ""},

		{"allowed", allow, write("open", "/tmp/x"), ""},
		{"not allowed", allow, write("open", "/srv/x"), `"/srv/x" is not on the allow list`},
		{"deny wins", allow, write("open", "/tmp/no"), `"/tmp/no" is on the deny list`},
		{"a typed path allows nothing", allow, &Event{Kind: FileWrite, File: File{Op: "open", Path: "/srv/x", Typed: "/tmp/x"}}, `"/srv/x" is not on the allow list`},
		{"a link from elsewhere", allow, pair("link", "/srv/x", "/tmp/x"), `"/srv/x" is not on the allow list`},
		{"a rename to elsewhere", allow, pair("rename", "/tmp/x", "/srv/x"), `"/srv/x" is not on the allow list`},
		{"a mount of no path", allow, pair("mount", "/tmp/m", "tmpfs"), ""},
		{"no name", allow, &Event{Kind: FileWrite, File: File{Op: "open"}}, "a file without a name is not on the allow list"},
	} {
		t.Run(c.name, func(t *testing.T) { check(t, c.e.Decide(c.ev), DeniedFile, c.reason) })
	}
}

func TestUnix(t *testing.T) {
	connect := func(typed, path string) *Event {
		return &Event{Kind: UnixConnect, File: File{Path: path, Typed: typed}}
	}
	network := func(u UnixSection) *Engine {
		return compile(t, Rule{Network: &NetworkSection{Effect: new(Prevent), Unix: u}})
	}
	deny := network(UnixSection{Deny: list("docker.sock", "/run/containerd", "@agent*")})
	allow := network(UnixSection{Allow: list("/dev/log", "@bus")})
	for _, c := range []struct {
		e      *Engine
		ev     *Event
		reason string
	}{
		{deny, connect("/var/run/docker.sock", "/run/docker.sock"), `"/run/docker.sock" is on the deny list (docker.sock)`},
		{deny, connect("/var/run/docker.sock", "/srv/engine"), `"/var/run/docker.sock" is on the deny list (docker.sock)`},
		{deny, connect("/tmp/x", "/run/containerd/containerd.sock"), `"/run/containerd/containerd.sock" is on the deny list (/run/containerd)`},
		{deny, connect("@agent-1", "@agent-1"), `"@agent-1" is on the deny list (@agent*)`},
		{deny, connect("/dev/log", "/dev/log"), ""},
		{allow, connect("/dev/log", "/dev/log"), ""},
		{allow, connect("@bus", "@bus"), ""},
		{allow, connect("/dev/log", "/run/docker.sock"), `"/run/docker.sock" is not on the allow list`},
		{allow, connect("", ""), "a file without a name is not on the allow list"},
	} {
		check(t, c.e.Decide(c.ev), DeniedUnix, c.reason)
	}
	check(t, deny.Decide(outbound("8.8.8.8:53")), NothingDetected, "")
}

func TestListen(t *testing.T) {
	network := func(l ListenSection) *Engine {
		return compile(t, Rule{Network: &NetworkSection{Effect: new(Prevent), Listen: l}})
	}
	deny := network(ListenSection{DenyPorts: list("4444", "6000-6063")})
	allow := network(ListenSection{AllowPorts: list("8080")})
	both := network(ListenSection{AllowPorts: list("1-65535"), DenyPorts: list("22")})
	for _, c := range []struct {
		e      *Engine
		addr   string
		reason string
	}{
		{deny, "0.0.0.0:4444", "port 4444 is on the deny list"},
		{deny, "[::]:6010", "port 6010 is on the deny list (6000-6063)"},
		{deny, "127.0.0.1:80", ""},
		{deny, "0.0.0.0:0", ""},
		{allow, "0.0.0.0:8080", ""},
		{allow, "0.0.0.0:0", ""},
		{allow, "127.0.0.1:8081", "port 8081 is not on the allow list"},
		{both, "0.0.0.0:22", "port 22 is on the deny list"},
		{both, "0.0.0.0:23", ""},
	} {
		ev := outbound(c.addr)
		ev.Kind = Listen
		check(t, c.e.Decide(ev), DeniedListenPort, c.reason)
	}
	check(t, deny.Decide(outbound("8.8.8.8:4444")), NothingDetected, "")
}

func TestNeeds(t *testing.T) {
	effect := func(e Effect) *Effect { return &e }
	for _, c := range []struct {
		name string
		rule Rule
		want Needs
	}{
		{"nothing", Rule{}, 0},
		{"listen", Rule{Network: &NetworkSection{Effect: effect(Alert), Listen: ListenSection{DenyPorts: list("1")}}}, NeedListenPorts},
		{"unix", Rule{Network: &NetworkSection{Effect: effect(Alert), Unix: UnixSection{Deny: list("x")}}}, NeedUnixSockets},
		{"files", Rule{Files: &FilesSection{Effect: effect(Alert), Deny: list("/x")}}, NeedFileWrites},
		{"disabled", Rule{Files: &FilesSection{Effect: effect(Disable), Deny: list("/x")}}, 0},
		{"outbound only", Rule{Network: &NetworkSection{Effect: effect(Alert), Outbound: OutboundSection{DenyPorts: list("1")}}}, 0},
	} {
		if got := compile(t, c.rule).Needs(); got != c.want {
			t.Errorf("%s: %b, want %b", c.name, got, c.want)
		}
	}
	var none *Engine
	if none.Needs() != 0 {
		t.Error("no engine needs something")
	}
}

func TestWords(t *testing.T) {
	for k := Unknown; k <= RawSocket; k++ {
		text, err := k.MarshalText()
		var back Kind
		if err != nil || back.UnmarshalText(text) != nil || back != k {
			t.Errorf("%s: read as %s", text, back)
		}
	}
	for s := NoSection; s <= Files; s++ {
		text, _ := s.MarshalText()
		var back Section
		if err := back.UnmarshalText(text); err != nil || back != s {
			t.Errorf("%s: read as %s", text, back)
		}
	}
	if _, err := Kind(99).MarshalText(); err == nil {
		t.Error("kind 99 has a word")
	}
	if err := new(Kind).UnmarshalText([]byte("Launch")); err == nil {
		t.Error("Launch is a kind")
	}
	if err := new(Section).UnmarshalText([]byte("x")); err == nil {
		t.Error("x is a section")
	}
	if k, s := Kind(99).String(), Section(99).String(); k != "kind(?)" || s != "" {
		t.Errorf("%q, %q", k, s)
	}
}
