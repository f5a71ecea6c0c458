package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// uses returns an engine whose rule uses one custom rule and prevents nothing
// else.
func uses(t testing.TB, kind, script, effect string) *Engine {
	t.Helper()
	e, err := Compile(&Policy{
		Version:     1,
		CustomRules: []CustomRule{{Name: "c", Type: kind, Script: script, Message: "m"}},
		Rules:       []Rule{{Name: "r", Custom: []CustomRef{{Rule: "c", Effect: effect}}}},
	}, Workload{Image: "nginx:1.27", Container: "web", AppID: "shop:1"})
	if err != nil {
		t.Fatalf("%s:\n%v", script, err)
	}
	return e
}

func TestCustomRules(t *testing.T) {
	jake := below(command("/usr/bin/nc", "-l", "80"), "/bin/bash", "/sbin/tini")
	jake.Subject.User = "jake"
	jake.Program.Modified, jake.Program.Digests = true, list("ab", "cd")
	mysql := below(command("/bin/sh", "-c", "id"), "/usr/sbin/mysql")
	tty := with(command("/bin/sh"), func(ev *Event) { ev.Subject.Interactive = true })
	busybox := launch("/bin/nc", "/bin/busybox")
	busybox.Program.Applet = "nc"
	script := with(launch("/app/x", "/app/x"), func(ev *Event) { ev.Program.Interpreters = list("/usr/bin/dash") })
	dial := below(outbound("[::ffff:169.254.169.254]:80"), "/usr/bin/curl", "/bin/sh", "/sbin/tini")
	dial.Subject.Command = list("curl", "-s", "x")
	web := with(outbound("1.1.1.5:443"), func(ev *Event) { ev.Name, ev.Resolved = "one.example.com", true })
	etc := below(write("open", "/etc/passwd"), "/usr/bin/vi", "/bin/bash")
	typed := with(write("open", "/srv/x"), func(ev *Event) { ev.File.Typed = "/tmp/link" })
	moved := pair("rename", "/tmp/a", "/etc/b")
	elf := with(write(OpWritten, "/srv/x"), func(ev *Event) {
		ev.File.Type, ev.File.MD5, ev.File.SHA256 = "elf", "0123", "4567"
	})
	listen := &Event{Kind: Listen, Addr: netip.MustParseAddrPort("0.0.0.0:4444"), Proto: "tcp", Subject: Process{Path: "/usr/bin/nc"}}
	name := below(lookup("API.Evil.test."), "/usr/bin/dig")
	name.QType = "TXT"
	for _, c := range []struct {
		kind, script string
		ev           *Event
		want         bool
	}{
		// Every documented expression.
		{"processes", `proc.name = "nc"`, jake, true},
		{"network-outgoing", `net.outgoing_ip = "169.254.169.254" or net.outgoing_ip = "169.254.170.2"`, dial, true},
		{"network-outgoing", `net.outgoing_ip = "169.254.169.254" or net.outgoing_ip = "169.254.170.2"`, web, false},
		{"processes", `proc.pname in ("mysql", "sqlplus", "postgres") and proc.pname != proc.name`, mysql, true},
		{"processes", `proc.pname in ("mysql", "sqlplus", "postgres") and proc.pname != proc.name`, below(command("/usr/sbin/mysql"), "/usr/sbin/mysql"), false},
		{"filesystem", `file.path startswith "/etc"`, etc, true},
		{"network-outgoing", `net.outgoing_ip => "1.1.1.1" and net.outgoing_ip <= "1.1.1.9"`, web, true},
		{"network-outgoing", `net.outgoing_ip => "1.1.1.1" and net.outgoing_ip <= "1.1.1.9"`, dial, false},
		{"filesystem", `file.path = "/tmp/file"`, write("create", "/tmp/file"), true},
		{"processes", `proc.interactive`, tty, true},
		{"processes", `proc.interactive`, jake, false},
		{"processes", `proc.user = "jake" and proc.name in ("nc", "netcat") and proc.cmdline contains "-l"`, jake, true},
		{"filesystem", `file.type = "elf" and not proc.name in ("dpkg", "apk", "rpm")`, elf, true},
		{"network-outgoing", `proc.name in ("sh", "curl") and not net.private_subnet and net.outgoing_port != "443"`, dial, false},
		{"network-outgoing", `net.private_subnet and net.outgoing_port = 80 and proc.name = "curl"`, dial, true},

		// What this system adds.
		{"processes", `proc.name = "nc" and proc.name = "busybox"`, busybox, true},
		{"processes", `proc.name = "dash" and proc.path = "/app/x" and proc.path = "/usr/bin/dash"`, script, true},
		{"processes", `proc.path = "/bin/nc" and proc.path = "/bin/busybox"`, busybox, true},
		{"processes", `proc.args = "-l" and proc.args != "-x" and proc.cmdline = "nc -l 80" and proc.cmdline startswith "nc -l"`, jake, true},
		{"processes", `proc.ancestors = "/sbin/tini" and proc.ancestors = "/bin/bash" and proc.ppath = "/bin/bash" and proc.pname = "bash"`, jake, true},
		{"processes", `proc.ancestors contains "mysql"`, jake, false},
		{"processes", `app.id startswith "shop" and container.name = "web" and container.image = "nginx:1.27"`, jake, true},
		{"processes", `proc.modified and proc.sha256 = "cd" and not (proc.new or proc.altered or proc.fileless or proc.writable or proc.setuid or proc.main)`, jake, true},
		{"network-outgoing", `proc.pname = "sh" and proc.ppath = "/bin/sh" and proc.path = "/usr/bin/curl" and proc.ancestors = "/sbin/tini" and proc.cmdline contains "-s x" and proc.args = "curl" and net.protocol = "tcp"`, dial, true},
		{"network-outgoing", `net.resolved and net.name = "one.example.com"`, web, true},
		{"network-outgoing", `net.resolved`, dial, false},
		{"filesystem", `file.dir = "/etc" and file.name = "passwd" and file.op = open and proc.pname = "bash"`, etc, true},
		{"filesystem", `file.dir = "/"`, write("mkdir", "/x"), true},
		{"filesystem", `file.path = "/tmp/link" and file.path = "/srv/x"`, typed, true},
		{"filesystem", `file.path startswith "/etc" and file.op = rename`, moved, true},
		{"filesystem", `file.path startswith "/etc"`, pair("symlink", "/tmp/a", "/etc/b"), false},
		{"filesystem", `file.md5 = "0123" and file.sha256 = "4567" and file.type in (elf, secret)`, elf, true},
		{"filesystem", `file.type = folder`, write("mkdir", "/x"), true},
		{"filesystem", `file.type = regular`, with(write("open", "/x"), func(ev *Event) { ev.File.Type = "regular" }), false}, // only what was written counts
		{"filesystem", `file.path = "/srv/x"`, elf, false},                                                                    // and here only before
		{"listening", `net.listening_port = 4444 and net.listening_ip = "0.0.0.0" and net.protocol = "tcp" and proc.name = "nc"`, listen, true},
		{"listening", `net.listening_port < 1024`, listen, false},
		{"dns", `dns.name = "api.evil.test" and dns.type = "TXT" and proc.name = "dig"`, name, true},
		{"dns", `dns.name contains "good"`, name, false},
		{"processes", `proc.name = "nc"`, dial, false}, // another kind of event
	} {
		e := uses(t, c.kind, c.script, "prevent")
		v := e.Decide(c.ev)
		if v.Tell() != c.want {
			t.Errorf("%s: %+v", c.script, v)
		}
		if n := testing.AllocsPerRun(10, func() { e.Decide(c.ev) }); !c.want && n > 0 && c.kind != "dns" { // the name's letters are upper-case
			t.Errorf("%s: %v allocations", c.script, n)
		}
	}
}

func TestCustomEffects(t *testing.T) {
	rules := []CustomRule{
		{Name: "nc", Type: "processes", Script: `proc.name = "nc"`, Message: "%proc.name was started by %proc.pname"},
		{Name: "all", Type: "processes", Script: `proc.name != ""`},
		{Name: "elf", Type: "filesystem", Script: `file.type = elf or file.type = folder`, Message: "%file.path"},
	}
	engine := func(refs ...CustomRef) *Engine {
		e, err := Compile(&Policy{Version: 1, CustomRules: rules, Rules: []Rule{{
			Name: "r", Custom: refs,
			Processes: &ProcessesSection{Effect: new(Prevent), Deny: list("nc"), Allow: list("nothing")},
		}}}, Workload{})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	nc := below(command("/usr/bin/nc"), "/bin/sh")
	custom := func(allow bool, effect Effect, incident bool) Verdict {
		return Verdict{
			Allow: allow, Effect: effect, Detection: Custom, Rule: "r", Reason: `custom rule "nc"`,
			Custom: "nc", Message: "nc was started by sh", Incident: incident,
		}
	}
	denied := Verdict{Effect: Prevent, Detection: DeniedProcess, Rule: "r", Reason: `"/usr/bin/nc" is on the deny list (nc)`}
	for _, c := range []struct {
		name string
		e    *Engine
		ev   *Event
		want Verdict
	}{
		{"prevent", engine(CustomRef{Rule: "nc", Effect: "prevent", Action: "incident"}), nc, custom(false, Prevent, true)},
		{"block", engine(CustomRef{Rule: "nc", Effect: "block", Action: "audit"}), nc, custom(false, Block, false)},
		{"alert ends it too", engine(CustomRef{Rule: "nc", Effect: "alert"}), nc, custom(true, Alert, false)},
		{"allow", engine(CustomRef{Rule: "nc", Effect: "allow"}), nc, Verdict{Allow: true, Rule: "r"}},
		{"disable", engine(CustomRef{Rule: "nc", Effect: "disable"}), nc, denied},
		{"the first that holds", engine(CustomRef{Rule: "nc", Effect: "allow"}, CustomRef{Rule: "all", Effect: "prevent"}), nc, Verdict{Allow: true, Rule: "r"}},
		{
			"without a message", engine(CustomRef{Rule: "all", Effect: "prevent"}), nc,
			Verdict{Effect: Prevent, Detection: Custom, Rule: "r", Reason: `custom rule "all"`, Custom: "all"},
		},
		{
			"content is told, not prevented", engine(CustomRef{Rule: "elf", Effect: "prevent"}), with(write(OpWritten, "/x"), func(ev *Event) { ev.File.Type = "elf" }),
			Verdict{Allow: true, Effect: Alert, Detection: Custom, Rule: "r", Reason: `custom rule "elf"`, Custom: "elf", Message: "/x"},
		},
		{
			"a folder is prevented", engine(CustomRef{Rule: "elf", Effect: "prevent"}), write("mkdir", "/x"),
			Verdict{Effect: Prevent, Detection: Custom, Rule: "r", Reason: `custom rule "elf"`, Custom: "elf", Message: "/x"},
		},
	} {
		if got := c.e.Decide(c.ev); got != c.want {
			t.Errorf("%s:\ngot  %+v\nwant %+v", c.name, got, c.want)
		}
	}
	rules[0].AttackTechniques = list("commandAndControlGeneral", "ingressToolTransfer")
	if got := engine(CustomRef{Rule: "nc", Effect: "alert"}).Decide(nc).Techniques(); !slices.Equal(got, rules[0].AttackTechniques) {
		t.Errorf("techniques %q", got)
	}
	e := engine(CustomRef{Rule: "elf", Effect: "prevent"})
	if !e.Refuses(Files) || e.Refuses(DNS) || !e.Needs().Has(NeedFileWrites|NeedContent) {
		t.Errorf("refuses files %t, dns %t; needs %s", e.Refuses(Files), e.Refuses(DNS), e.Needs())
	}
	if e := engine(CustomRef{Rule: "nc", Effect: "alert"}); e.Needs() != NeedSubject {
		t.Errorf("the message needs %s", e.Needs())
	}
}

// Of a lookup a rule holds before it is answered and after: an answer that was
// kept is one of then. Only who asks must be known before.
func TestCustomLookups(t *testing.T) {
	answered := with(lookup("a.test"), func(ev *Event) { ev.Answer.Addrs = []netip.Addr{netip.MustParseAddr("192.0.2.1")} })
	e := uses(t, "dns", `dns.name = "a.test"`, "prevent")
	if v := e.Decide(answered); v.Allow || v.Custom != "c" {
		t.Errorf("got %+v", v)
	}
	if v := uses(t, "dns", `dns.name = "a.test"`, "alert").Decide(answered); !v.Allow || !v.Tell() {
		t.Errorf("got %+v", v)
	}
	for script, want := range map[string]bool{`dns.name = "a.test" and app.id = "x"`: false, `proc.name = "x"`: true, `proc.user = "x"`: true, `proc.interactive`: true} {
		if e := uses(t, "dns", script, "alert"); e.AsksWho() != want {
			t.Errorf("%s: %v", script, e.AsksWho())
		}
	}
	if uses(t, "processes", `proc.pname = "x"`, "alert").AsksWho() {
		t.Error("a rule about programs asks who looks up")
	}
}

func TestCustomFaults(t *testing.T) {
	p := &Policy{
		Version: 1,
		CustomRules: []CustomRule{
			{ID: 7, Name: "a", Type: "processes", Script: `proc.name = "x"`},
			{ID: 7, Name: "a", Type: "process", Script: `x`},
			{Name: " ", Type: "processes", Script: `file.path = "x"`, Message: "%net.name"},
			{Name: "s", Type: "dns", Script: `proc.service = "x"`, AttackTechniques: list("a,b")},
			{Name: "content", Type: "filesystem", Script: `file.md5 = "x"`},
		},
		Rules: []Rule{{Name: "r", Custom: []CustomRef{
			{Rule: "a", Effect: "default", Action: "page"}, {Rule: "a", Effect: "alert"}, {Rule: "b", Effect: "Allow"}, {Rule: "content", Effect: "prevent"},
		}}},
	}
	want := []string{
		`customRules[1].name: "a" is the name of another custom rule`,
		`customRules[1].id: 7 is already the id of customRules[0]`,
		`customRules[1].type: "process" is not a type of custom rule; one of processes, filesystem, network-outgoing, dns, listening`,
		`customRules[2].name: missing`,
		"customRules[2].script: line 1, column 1: file.path is an attribute of rules of type filesystem, and this one is of type processes\n  file.path = \"x\"\n  ^",
		"customRules[2].message: line 1, column 2: net.name is an attribute of rules of type network-outgoing, and this one is of type processes\n  %net.name\n   ^",
		`customRules[3].attackTechniques[0]: "a,b" is not the name of a technique, such as resourceHijacking`,
		"customRules[3].script: line 1, column 1: proc.service is an attribute of hosts, which have services; a container has none\n  proc.service = \"x\"\n  ^",
		`rules[0].custom[0].effect: "default" is not an effect of custom rules; one of allow, disable, alert, prevent, block, incident`,
		`rules[0].custom[0].action: "page" is not an action; audit or incident`,
		`rules[0].custom[1].rule: "a" is used already`,
		`rules[0].custom[2].rule: "b" is not the name of a custom rule`,
		`rules[0].custom[2].effect: "Allow" is not an effect of custom rules; one of allow, disable, alert, prevent, block, incident`,
	}
	got := p.Validate()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("missing %s", want[i])
		case i >= len(want) || got[i].Error() != want[i]:
			t.Errorf("got %s", got[i])
		}
	}
	if notes := p.Notes(); len(notes) != 1 || notes[0].Path != "rules[0].custom[3].effect" {
		t.Errorf("notes %v", notes)
	}
}

// customs adds 1,000 custom rules to a policy, none of which holds.
func customs(p *Policy, r *Rule) {
	for i := range 1000 {
		name := fmt.Sprint("c", i)
		kind := []string{"processes", "filesystem", "network-outgoing", "dns"}[i%4]
		script := []string{`proc.name = "tool%d" and proc.cmdline contains "-x"`, `file.path startswith "/srv/%d/"`, `net.outgoing_port = %d and net.private_subnet`, `dns.name = "host%d.test"`}[i%4]
		p.CustomRules = append(p.CustomRules, CustomRule{Name: name, Type: kind, Script: strings.ReplaceAll(script, "%d", fmt.Sprint(i))})
		r.Custom = append(r.Custom, CustomRef{Rule: name, Effect: "prevent"})
	}
}

func TestManyCustomRules(t *testing.T) {
	p := &Policy{Version: 1, Rules: []Rule{{Name: "r"}}}
	customs(p, &p.Rules[0])
	e, err := Compile(p, Workload{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range hot {
		if n := testing.AllocsPerRun(10, func() { e.Decide(c.ev) }); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
	if v := e.Decide(lookup("host3.test")); v.Custom != "c3" {
		t.Errorf("got %+v", v)
	}
	// The first rule wins, whether it is found by a key or not.
	p = &Policy{Version: 1, Rules: []Rule{{Name: "r"}}}
	for i, script := range list(`proc.name = "x"`, `proc.name startswith "n"`, `proc.path = "/usr/bin/nc"`, `proc.name in ("nc", "nc")`, `proc.name != ""`) {
		name := fmt.Sprint(i)
		p.CustomRules = append(p.CustomRules, CustomRule{Name: name, Type: "processes", Script: script})
		p.Rules[0].Custom = append([]CustomRef{{Rule: name, Effect: "alert"}}, p.Rules[0].Custom...)
		e, err := Compile(p, Workload{})
		if err != nil {
			t.Fatal(err)
		}
		if v := e.Decide(command("/usr/bin/nc")); i > 0 && v.Custom != name {
			t.Errorf("%s: got %+v", name, v)
		}
	}
}

// within are 1,000 custom rules that look for texts in command lines, paths
// and names.
func within(t testing.TB) *Engine {
	t.Helper()
	p := &Policy{Version: 1, Rules: []Rule{{Name: "r"}}}
	for i := range 1000 {
		name := fmt.Sprint("c", i)
		kind := []string{"processes", "filesystem", "dns"}[i%3]
		script := []string{`proc.cmdline contains "--option-%d=" and proc.args contains "-"`, `file.path contains "/secret-%d/"`, `dns.name contains "host%d."`}[i%3]
		p.CustomRules = append(p.CustomRules, CustomRule{Name: name, Type: kind, Script: strings.ReplaceAll(script, "%d", fmt.Sprint(i))})
		p.Rules[0].Custom = append(p.Rules[0].Custom, CustomRef{Rule: name, Effect: "prevent"})
	}
	e, err := Compile(p, Workload{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestManyTexts(t *testing.T) {
	e := within(t)
	for _, c := range hot {
		if n := testing.AllocsPerRun(10, func() { e.Decide(c.ev) }); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
	for _, c := range []struct {
		ev   *Event
		want string
	}{
		{command("/bin/x", strings.Repeat("a ", 2000)+"--option-999=7"), "c999"},
		{command("/bin/x", "--option-9=", "--option-6="), "c6"}, // the first in order
		{command("/bin/x", "--option-9"), ""},
		{command("/bin/x", "--option-9", "="), ""},
		{command("/bin/x"), ""},
		{write("open", "/srv/secret-1/x"), "c1"},
		{write("open", "/srv/secret-2/x"), ""},
		{pair("rename", "/srv/x", "/srv/secret-4/x"), "c4"},
		{lookup("a.HOST5.test"), "c5"},
	} {
		if v := e.Decide(c.ev); v.Custom != c.want {
			t.Errorf("%+v: got %q, want %q", c.ev, v.Custom, c.want)
		}
	}
}

// However a rule is found, the first that holds is the first of all.
func TestIndexes(t *testing.T) {
	words := list("a", "b", "ab", "abc", "-l", "1", "8", "80", "/", "/a", "/ab", "/b/", ".test", "x", "")
	kinds := map[string][]string{
		"processes":        list("proc.name", "proc.path", "proc.cmdline", "proc.args", "proc.ancestors"),
		"filesystem":       list("file.path", "file.dir", "file.name"),
		"network-outgoing": list("net.outgoing_port", "net.name", "proc.name"),
		"dns":              list("dns.name", "dns.type"),
	}
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same each time
	pick := func(list []string) string { return list[r.IntN(len(list))] }
	scripts := func(kind string) string {
		var parts []string
		for range 1 + r.IntN(3) {
			attribute := pick(kinds[kind])
			op, value := pick(list("=", "=", "!=", "startswith", "contains", "contains", "in")), fmt.Sprintf("%q", pick(words))
			if attribute == "net.outgoing_port" {
				op, value = pick(list("=", "in", "<")), pick(list("1", "8", `"80"`, "443"))
			}
			if op == "in" {
				value = "(" + value + ", " + value + ")"
			}
			part := attribute + " " + op + " " + value
			if r.IntN(4) == 0 {
				part = "not (" + part + ")"
			}
			parts = append(parts, part)
		}
		return strings.Join(parts, pick(list(" and ", " or ", " and ")))
	}
	path := func() string { return "/" + strings.Join(list(pick(words), pick(words)), "/") }
	held := 0
	for kind := range kinds {
		var all []string
		for range 300 {
			all = append(all, scripts(kind))
		}
		for range 100 {
			p := &Policy{Version: 1, Rules: []Rule{{Name: "r"}}}
			for i := range 40 {
				name := fmt.Sprint(i)
				p.CustomRules = append(p.CustomRules, CustomRule{Name: name, Type: kind, Script: pick(all)})
				p.Rules[0].Custom = append(p.Rules[0].Custom, CustomRef{Rule: name, Effect: "alert"})
			}
			e, err := Compile(p, Workload{})
			if err != nil {
				t.Fatal(err)
			}
			ev := map[string]*Event{
				"processes":        below(command(path(), pick(words), pick(words)), path()),
				"filesystem":       pair("rename", path(), path()),
				"network-outgoing": with(below(outbound("192.0.2.1:"+pick(list("1", "8", "80", "7"))), path()), func(ev *Event) { ev.Name = pick(words) }),
				"dns":              with(lookup(pick(words)+pick(words)), func(ev *Event) { ev.QType = pick(words) }),
			}[kind]
			s := scene{ev: ev, w: &e.workload, domain: foldDomain(ev.Domain)}
			set := &e.customs[ev.Kind]
			want := slices.IndexFunc(set.judges, func(j customJudge) bool { return j.looksAt(ev) && j.rule.Matches(s) })
			got := -1
			if j := set.first(s); j != nil {
				got = slices.IndexFunc(set.judges, func(k customJudge) bool { return k.name == j.name })
			}
			if got != want {
				t.Fatalf("%+v: rule %d, want %d of\n%+v", ev, got, want, p.CustomRules)
			}
			if want > 0 {
				held++
			}
		}
	}
	if held < 100 {
		t.Errorf("only %d times another than the first held", held)
	}
}

// What is ruled out by its pairs would not hold.
func FuzzTexts(f *testing.F) {
	f.Add("a b\x00-l 80", "b -l")
	f.Add("\x00\x00", "  ")
	f.Add("ab", "bc")
	f.Fuzz(func(t *testing.T, command, text string) {
		parts := strings.Split(command, "\x00")
		var p pairs
		p.addParts(parts)
		if strings.Contains(strings.Join(parts, " "), text) && !p.has(text) {
			t.Errorf("%q is within %q", text, parts)
		}
	})
}

func BenchmarkDecideTexts(b *testing.B) { decideEach(b, within(b), hot) }

func BenchmarkDecideCustom(b *testing.B) {
	p := &Policy{Version: 1, Rules: []Rule{{Name: "r"}}}
	customs(p, &p.Rules[0])
	e, err := Compile(p, Workload{})
	if err != nil {
		b.Fatal(err)
	}
	decideEach(b, e, hot)
}

// The effect incident is an alert that is more than an audit.
func TestEffectIncident(t *testing.T) {
	p := &Policy{Version: 1, CustomRules: []CustomRule{{Name: "nc", Type: "processes", Script: `proc.name = "nc"`}},
		Rules: []Rule{{Name: "r", Custom: []CustomRef{{Rule: "nc", Effect: "incident"}}}}}
	e, err := Compile(p, Workload{})
	if err != nil {
		t.Fatal(err)
	}
	v := e.Decide(&Event{Kind: Launch, Program: Program{Path: "/usr/bin/nc", Typed: "/usr/bin/nc"}})
	if !v.Allow || v.Effect != Alert || !v.Incident {
		t.Errorf("allow %v, effect %v, incident %v", v.Allow, v.Effect, v.Incident)
	}
}
