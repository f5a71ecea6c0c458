package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestZeroEngineRefuses(t *testing.T) {
	for _, e := range []*Engine{nil, {}} {
		for _, ev := range []*Event{launch("/bin/ls", "/bin/ls"), lookup("a.test"), outbound("127.0.0.1:80"), {}} {
			if v := e.Decide(ev); v.Allow || !v.Tell() || v.Reason != "no policy is in force" {
				t.Errorf("kind %d: got %+v", ev.Kind, v)
			}
		}
		if !e.Refuses(DNS) || e.Rule() != "" {
			t.Errorf("Refuses %t, Rule %q", e.Refuses(DNS), e.Rule())
		}
	}
}

func TestNoRuleMatches(t *testing.T) {
	e, err := Compile(&Policy{Version: 1}, Workload{})
	if err != nil {
		t.Fatal(err)
	}
	for _, ev := range []*Event{launch("/bin/ls", "/bin/ls"), lookup("a.test"), outbound("8.8.8.8:80"), {Section: DNS}} {
		if v := e.Decide(ev); v != (Verdict{Allow: true}) {
			t.Errorf("kind %d: got %+v", ev.Kind, v)
		}
	}
	if e.Refuses(Processes) || e.Refuses(NoSection) || e.Rule() != "" {
		t.Error("an engine without a rule refuses")
	}
}

func TestCompileFaults(t *testing.T) {
	e, err := Compile(&Policy{Rules: []Rule{{Disabled: true}}}, Workload{})
	if e != nil || err == nil {
		t.Fatalf("got %v, %v", e, err)
	}
	if want := "version: missing; write 1\nrules[0].name: missing"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if fault := (Fault{}); !errors.As(err, &fault) {
		t.Error("no Fault in the error")
	}
	if _, err := Compile(nil, Workload{}); err == nil {
		t.Error("no policy is a policy")
	}
}

func TestEffects(t *testing.T) {
	for _, c := range []struct {
		effect  Effect
		want    Verdict
		refuses bool
	}{
		{Prevent, Verdict{Effect: Prevent, Detection: DeniedDNS, Rule: "r", Reason: `"a.test" is on the deny list`}, true},
		{Block, Verdict{Effect: Block, Detection: DeniedDNS, Rule: "r", Reason: `"a.test" is on the deny list`}, true},
		{Alert, Verdict{Allow: true, Effect: Alert, Detection: DeniedDNS, Rule: "r", Reason: `"a.test" is on the deny list`}, false},
		{Disable, Verdict{Allow: true, Rule: "r"}, false},
	} {
		e := compile(t, Rule{DNS: &DNSSection{Effect: &c.effect, Deny: list("a.test")}})
		if v := e.Decide(lookup("a.test")); v != c.want {
			t.Errorf("%s: got %+v, want %+v", c.effect, v, c.want)
		}
		if got := e.Refuses(DNS); got != c.refuses {
			t.Errorf("%s: Refuses(DNS) = %t", c.effect, got)
		}
		if e.Refuses(Processes) || e.Refuses(Network) {
			t.Errorf("%s: refuses sections it lacks", c.effect)
		}
	}
}

func TestUnknown(t *testing.T) {
	full := func(e Effect) *DNSSection { return &DNSSection{Effect: &e, Deny: list("a.test")} }
	empty := func(e Effect) *DNSSection { return &DNSSection{Effect: &e} }
	const silent = Disable // stands for: allowed, nothing told
	for _, c := range []struct {
		name    string
		rule    Rule
		section Section
		want    Effect
	}{
		{"section prevents", Rule{DNS: full(Prevent)}, DNS, Prevent},
		{"section blocks", Rule{DNS: full(Block)}, DNS, Block},
		{"section alerts", Rule{DNS: full(Alert)}, DNS, Alert},
		{"section disabled", Rule{DNS: full(Disable)}, DNS, silent},
		{"section with empty lists", Rule{DNS: empty(Prevent)}, DNS, silent},
		{"section absent", Rule{DNS: full(Prevent)}, Network, silent},
		{"no section: the strictest", Rule{DNS: full(Prevent)}, NoSection, Prevent},
		{"no section, none speaks", Rule{DNS: empty(Prevent)}, NoSection, silent},
		{"a section nobody knows", Rule{DNS: full(Prevent)}, Section(99), silent},
		{"onUnknown over the section", Rule{DNS: full(Alert), OnUnknown: new(Prevent)}, DNS, Prevent},
		{"onUnknown, lists empty", Rule{DNS: empty(Disable), OnUnknown: new(Alert)}, DNS, Alert},
		{"onUnknown, section absent", Rule{OnUnknown: new(Block)}, Processes, Block},
		{"onUnknown disabled", Rule{DNS: full(Prevent), OnUnknown: new(Disable)}, DNS, silent},
	} {
		ev := &Event{Kind: Unknown, Section: c.section, Call: "connect", Why: "the address is gone"}
		want := Verdict{
			Allow: !c.want.Refuses(), Effect: c.want, Detection: Unreadable, Rule: "r",
			Reason: "connect could not be read: the address is gone",
		}
		if c.want == silent {
			want = Verdict{Allow: true, Rule: "r"}
		}
		e := compile(t, c.rule)
		if v := e.Decide(ev); v != want {
			t.Errorf("%s: got %+v, want %+v", c.name, v, want)
		}
		if c.want.Refuses() && !e.Refuses(c.section) {
			t.Errorf("%s: refused, but Refuses says it cannot be", c.name)
		}
	}
}

// A kind of a later version is no way past the judge.
func TestUnheardOfKind(t *testing.T) {
	e := compile(t, Rule{OnUnknown: new(Prevent)})
	check(t, e.Decide(&Event{Kind: 99}), Unreadable, "a call could not be read")
}

func TestEffectText(t *testing.T) {
	for e := Prevent; e <= Disable; e++ {
		text, err := e.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back Effect
		if err := back.UnmarshalText(text); err != nil || back != e {
			t.Errorf("%s: read as %s, %v", text, back, err)
		}
	}
	for _, word := range []string{"", "Prevent", "prevnt", "effect(?)", "0"} {
		e := Alert
		if err := e.UnmarshalText([]byte(word)); err == nil || e != Alert {
			t.Errorf("%q: read as %s, %v", word, e, err)
		}
	}
	if _, err := Effect(9).MarshalText(); err == nil {
		t.Error("effect 9 has a word")
	}
}

// The Engine is the rule as it was compiled, whatever becomes of the Policy.
func TestEngineKeepsNothing(t *testing.T) {
	r := Rule{
		OnUnknown: new(Prevent),
		DNS:       &DNSSection{Effect: new(Prevent), Deny: list("*.a.test")},
	}
	e := compile(t, r)
	*r.OnUnknown, *r.DNS.Effect, r.DNS.Deny[0] = Disable, Disable, "b.test"
	check(t, e.Decide(lookup("x.a.test")), DeniedDNS, `"x.a.test" is on the deny list (*.a.test)`)
	check(t, e.Decide(&Event{Call: "execve"}), Unreadable, "execve could not be read")
}

// bigPolicy returns a policy of 1,000 rules, of which the last one is for the
// workload and has 10,000 domains, prefixes and processes on each list.
func bigPolicy() (*Policy, Workload) {
	p := &Policy{Version: 1}
	for i := range 1000 {
		p.Rules = append(p.Rules, Rule{
			Name:  fmt.Sprint("rule ", i),
			Scope: Scope{Containers: list(fmt.Sprint("c", i))},
			DNS:   &DNSSection{Effect: new(Prevent), Deny: list("*.a.test")},
		})
	}
	var domains, names, nets []string
	for i := range 10_000 {
		domains = append(domains, fmt.Sprintf("*.host%d.example.com", i))
		names = append(names, fmt.Sprintf("/usr/bin/tool%d", i))
		nets = append(nets, fmt.Sprintf("10.%d.%d.0/24", i/256, i%256), fmt.Sprintf("2001:db8:%x::/48", i))
	}
	and := func(entries []string, more ...string) []string {
		return append(entries[:len(entries):len(entries)], more...)
	}
	p.Rules[999].DNS = &DNSSection{Effect: new(Prevent), Deny: domains, Allow: and(domains, "**.allowed.test")}
	p.Rules[999].Processes = &ProcessesSection{Effect: new(Prevent), Deny: names, Allow: and(names, "/bin/*", "/opt/*/bin/*", "python*")}
	p.Rules[999].Network = &NetworkSection{Effect: new(Prevent), Outbound: OutboundSection{
		Deny: nets, Allow: and(nets, "192.0.2.0/24", "2001:db9::/32"), AllowPorts: list("1-1023"), DenyPorts: list("25"),
	}}
	p.Rules[999].Network.Listen = ListenSection{AllowPorts: list("8080"), DenyPorts: list("25")}
	p.Rules[999].Network.Unix = UnixSection{Allow: and(names, "@bus*", "/run/app.sock"), Deny: names}
	p.Rules[999].Files = &FilesSection{Effect: new(Prevent), Allow: and(names, "/var/log", "/opt/*/data/*"), Deny: names}
	on := new(Inherit)
	p.Rules[999].Processes.Detect = ProcessDetections{on, on, on, on, on, on, on, on, on, on, on, on}
	p.Rules[999].Processes.Parents = []ParentRule{{Programs: names, Deny: names}}
	p.Rules[999].DNS.Detect = DNSDetections{on, on, on, on}
	p.Rules[999].Network.Detect = NetworkDetections{on, on, on, on, on}
	p.Rules[999].Files.Detect = FileDetections{on, on, on, on, on, on, on, on}
	return p, Workload{Container: "c999"}
}

// big returns the engine of bigPolicy.
func big(t testing.TB) *Engine {
	p, w := bigPolicy()
	e, err := Compile(p, w)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func mainProcess(ev *Event) *Event {
	return with(ev, func(ev *Event) { ev.Program.Main = true })
}

// healthcheck is what containers ask whether a server is well.
const healthcheck = `import sys, urllib.request
try:
    answer = urllib.request.urlopen("http://127.0.0.1:8080/health", timeout=3)
    sys.exit(0 if answer.status == 200 else 1)
except Exception as e:
    print(e)
`

// interpreter is given a program of so many healthchecks, of 196 bytes each.
func interpreter(n int) *Event {
	return mainProcess(below(command("/usr/bin/python3", "-c", strings.Repeat(healthcheck, n)), "/sbin/tini"))
}

type named struct {
	name string
	ev   *Event
}

// hot are events of each kind, ordinary and as long as they get in ordinary
// use.
var hot = []named{
	{"lookup", lookup("www.eu-west-1.allowed.test")},
	{"lookup of 127 labels", lookup(strings.Repeat("a.", 120) + "allowed.test")},
	{"launch", mainProcess(launch("/bin/ls", "/bin/ls"))},
	{"shell with a long command", mainProcess(below(command("/bin/sh", "-c", strings.Repeat("./configure --prefix=/usr:1 ", 100)), "/sbin/tini"))},
	{"interpreter with a program", interpreter(5)},
	{"script", below(&Event{Kind: Launch, Program: Program{
		Typed: "/opt/app/bin/run", Path: "/opt/app/bin/run", Interpreters: list("/bin/bash"), Main: true,
	}}, "/opt/app/bin/server", "/bin/bash", "/sbin/tini")},
	{"applet", &Event{Kind: Launch, Program: Program{Typed: "/bin/ls", Path: "/bin/busybox", Applet: "ls", Main: true}}},
	{"outbound IPv4", outbound("192.0.2.7:443")},
	{"outbound IPv6", outbound("[2001:db9::7]:443")},
	{"outbound loopback", outbound("127.0.0.1:5432")},
	{"listen", &Event{Kind: Listen, Addr: netip.MustParseAddrPort("0.0.0.0:8080")}},
	{"unix", &Event{Kind: UnixConnect, File: File{Path: "/run/app.sock", Typed: "/var/run/app.sock"}}},
	{"abstract", &Event{Kind: UnixConnect, File: File{Path: "@bus-7", Typed: "@bus-7"}}},
	{"write", write("open", "/var/log/app/app.log")},
	{"write of 2000 folders", write("open", "/opt"+strings.Repeat("/a", 2000)+"/data/x")},
	{"rename", pair("rename", "/var/log/app/app.log", "/var/log/app/app.log.1")},
	{"unknown", &Event{Kind: Unknown, Section: Section(99), Call: "connect"}},
}

func TestDecideAllocatesNothing(t *testing.T) {
	e := big(t)
	for _, c := range hot {
		if v := e.Decide(c.ev); v.Tell() {
			t.Errorf("%s: detected: %+v", c.name, v)
		}
		if n := testing.AllocsPerRun(100, func() { e.Decide(c.ev) }); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

// long are events that get longer than they are in ordinary use, or in which
// something of what is looked for begins everywhere, which no application does
// unless it wants to keep the judge busy.
var long = []named{
	{"interpreter with 3 KB of a program", interpreter(15)},
	{"3 KB of almost pools", mainProcess(below(command("/bin/sh", "-c", strings.Repeat("a.com:1 ", 375)), "/sbin/tini"))},
	{"3 KB of almost options", mainProcess(below(command("/bin/sh", "-c", strings.Repeat("--do", 750)), "/sbin/tini"))},
	{"3 KB of almost devices", mainProcess(below(command("/bin/sh", "-c", strings.Repeat("/dev/t ", 430)), "/sbin/tini"))},
	{"3 KB of almost sockets", mainProcess(below(command("/usr/bin/python3", "-c", strings.Repeat("ocke", 750)), "/sbin/tini"))},
	{"128 KB of a command", mainProcess(below(command("/bin/sh", "-c", strings.Repeat("./configure --prefix=/usr:1 ", 4680)), "/sbin/tini"))},
	{"write of 1300 hidden folders", write("open", "/opt"+strings.Repeat("/.s", 1300)+"/data/x")},
	{"write of 4 KB by another name", &Event{Kind: FileWrite, File: File{Op: "open", Path: "/var/log/x", Typed: strings.Repeat("/a", 2000)}}},
}

func BenchmarkDecide(b *testing.B) { decideEach(b, big(b), hot) }

// BenchmarkDecideLong has no bound: what it measures grows with the length.
func BenchmarkDecideLong(b *testing.B) { decideEach(b, big(b), long) }

func decideEach(b *testing.B, e *Engine, events []named) {
	b.Helper()
	for _, c := range events {
		b.Run(strings.ReplaceAll(c.name, " ", "-"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e.Decide(c.ev)
			}
		})
	}
}

// Compiling the biggest policy that is promised to be quick.
func BenchmarkCompile(b *testing.B) {
	p, w := bigPolicy()
	for b.Loop() {
		if _, err := Compile(p, w); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzDecide(f *testing.F) {
	f.Add(uint8(1), "/bin/ls", "/usr/bin/ls", "/bin/sh", "", "", "ls", "", "", uint16(0))
	f.Add(uint8(2), "", "", "", "", "", "x.evil.test", "", "10.0.0.0/8", uint16(0))
	f.Add(uint8(3), "*", "a/b", "**.x", "\x01\x02\x03\x04", "25", "1-2", "::/0", "fe80::1", uint16(25))
	f.Fuzz(func(t *testing.T, kind uint8, a, b, c, addr, d, g, h, i string, port uint16) {
		e1, e2 := Effect(kind%5), Effect(kind/5%5)
		lists := [][]string{{a}, {b, c}, {d}, {g, h, i}, nil}
		pick := func(n int) []string { return lists[(int(kind)+n)%len(lists)] }
		p := &Policy{Version: 1, Rules: []Rule{{
			Name:      "r",
			Processes: &ProcessesSection{Effect: &e1, Allow: pick(0), Deny: pick(1)},
			DNS:       &DNSSection{Effect: &e2, Allow: pick(2), Deny: pick(3)},
			Network: &NetworkSection{
				Effect:   &e1,
				Outbound: OutboundSection{Allow: pick(4), Deny: pick(5), AllowPorts: pick(6), DenyPorts: pick(7)},
				Listen:   ListenSection{AllowPorts: pick(8), DenyPorts: pick(9)},
				Unix:     UnixSection{Allow: pick(1), Deny: pick(2)},
			},
			Files:     &FilesSection{Effect: &e2, Allow: pick(3), Deny: pick(0)},
			OnUnknown: &e2,
		}}}
		e, err := Compile(p, Workload{Image: a, Container: b, AppID: c})
		if (err != nil) != (e == nil) || (err != nil) != (len(p.Validate()) > 0) {
			t.Fatalf("Compile gave %v, %v; Validate %v", e, err, p.Validate())
		}
		ev := outbound("192.0.2.1:1")
		ev.Kind, ev.Section, ev.Domain, ev.Call = Kind(kind%10), Section(kind%6), g, h
		ev.Program = Program{Typed: a, Path: b, Interpreters: lists[port%5], Loaded: c, Applet: i}
		ev.File = File{Path: a, Typed: b, To: c, Op: []string{"open", "rename", "mount", OpWritten}[port%4]}
		if ip, ok := addrOf(addr); ok {
			ev.Addr = ip
		}
		if v := e.Decide(ev); !v.Allow && !v.Tell() || v.Tell() && v.Reason == "" {
			t.Errorf("a refusal without a word: %+v", v)
		}
	})
}
