package main

import (
	"crypto/md5" //nolint:gosec // an attribute of files
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"appdefender/policy"
)

// deed is what a target does for a custom rule to look at. In its texts DIR,
// BIN and SHELL stand for what they do in a rowCase.
type deed struct {
	script string // says done if nothing stopped it
	flags  []string
	wrap   []string
	needs  []string
	given  map[string][]byte
}

// customCase is something that custom rules can say, about a deed: one rule
// that holds, one that does not, and perhaps another deed of which the first
// rule does not hold either.
type customCase struct {
	kind         string // the type of the rules
	name         string // attribute, operator, escape, or an example's number
	holds, fails string
	deed         *deed // nil is that of the type
	other        *deed
	late         bool // known after the deed: prevent alerts
}

const (
	launches  = "processes"
	changes   = "filesystem"
	connects  = "network-outgoing"
	looksUp   = "dns"
	listens   = "listening"
	everyType = ""
)

var customTypes = []string{launches, changes, connects, looksUp, listens}

// documented is what docs/policy.md says that custom rules can say.
type documented struct {
	attributes         map[string][]string // by type; those of every type under ""
	operators, effects []string
	escapes            []string
	words              map[string][]string // of attributes that have few
}

func readDocumented(t *testing.T) documented {
	t.Helper()
	page, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "\n## Custom rules\n")
	text, _, found := strings.Cut(text, "\n## ")
	if !found {
		t.Fatal("no chapter about custom rules")
	}
	quoted := func(s string) (all []string) {
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(s, -1) {
			all = append(all, m[1])
		}
		return all
	}
	between := func(from, to string) string {
		_, s, ok := strings.Cut(text, from)
		s, _, ends := strings.Cut(s, to)
		if !ok || !ends {
			t.Fatalf("nothing between %q and %q", from, to)
		}
		return s
	}
	d := documented{attributes: make(map[string][]string), words: make(map[string][]string)}
	d.effects = quoted(between("with an effect:", "They are looked at"))
	d.escapes = quoted(between("letter case included; in them", "are escapes"))
	cell := func(line string) string { return strings.Split(line, "|")[1] }
	for line := range strings.Lines(between("| operator | of | |\n|---|---|---|\n", "\n\n")) {
		d.operators = append(d.operators, quoted(cell(line))...)
	}
	for line := range strings.Lines(between("| attribute | type | |\n|---|---|---|\n", "\n\n")) {
		d.attributes[everyType] = append(d.attributes[everyType], quoted(cell(line))...)
	}
	for line := range strings.Lines(between("| type of rule | looks at | attributes besides |\n|---|---|---|\n", "\n\n")) {
		kind := quoted(cell(line))[0]
		names := strings.Split(line, "|")[3]
		d.attributes[kind] = quoted(names)
		for _, m := range regexp.MustCompile("`([a-z.]+)` \\(([a-z]+(?:, [a-z]+){2,})\\)").FindAllStringSubmatch(names, -1) {
			d.words[m[1]] = strings.Split(m[2], ", ")
		}
	}
	return d
}

// customDeeds are the deeds of the types, and what a section says that denies
// them.
func customDeeds(t *testing.T) (deeds map[string]*deed, denied map[string]func(*policy.Rule)) {
	t.Helper()
	dnsFlags := []string{"--resolv-conf", "leave", "--upstream", nameServer(t, "127.0.0.2")}
	deeds = map[string]*deed{
		launches: {script: "BIN/prog-a -l 80 >/dev/null && echo done"},
		changes:  {script: "SHELL -c ': >x' one two && echo done", flags: monitoring},
		connects: {script: "BIN/net sendto 127.0.0.2 9 >/dev/null && echo done"},
		looksUp:  {script: "BIN/ask connected 192.0.2.53 yahoo.test | grep -q ' 127.0.0.2$' && echo done", flags: dnsFlags},
		listens:  {script: "BIN/listen udp 18080 >/dev/null && echo done", wrap: ownNetwork, needs: []string{"root", "ip"}},
	}
	effect := new(policy.Prevent)
	denied = map[string]func(*policy.Rule){
		launches: func(r *policy.Rule) {
			r.Processes = &policy.ProcessesSection{Effect: effect, Deny: []string{"prog-a"}}
		},
		changes: func(r *policy.Rule) { r.Files = &policy.FilesSection{Effect: effect, Deny: []string{"x"}} },
		connects: func(r *policy.Rule) {
			r.Network = &policy.NetworkSection{Effect: effect, Outbound: policy.OutboundSection{Deny: []string{"127.0.0.2"}}}
		},
		looksUp: func(r *policy.Rule) { r.DNS = &policy.DNSSection{Effect: effect, Deny: []string{"yahoo.test"}} },
		listens: func(r *policy.Rule) {
			r.Network = &policy.NetworkSection{Effect: effect, Listen: policy.ListenSection{DenyPorts: []string{"18080"}}}
		},
	}
	return deeds, denied
}

// customRule returns a policy with custom rules of one type, by their names
// and scripts, of which each has the effect.
func customRule(kind, effect string, scripts ...string) *policy.Policy {
	p := &policy.Policy{Version: 1, Rules: []policy.Rule{{Name: "r"}}}
	for i := 0; i < len(scripts); i += 2 {
		p.CustomRules = append(p.CustomRules, policy.CustomRule{Name: scripts[i], Type: kind, Script: scripts[i+1], Message: "told"})
		p.Rules[0].Custom = append(p.Rules[0].Custom, policy.CustomRef{Rule: scripts[i], Effect: effect})
	}
	return p
}

// do does a deed under a policy.
func (d *deed) do(t *testing.T, p *policy.Policy) result {
	t.Helper()
	need(t, d.needs...)
	r := run{flags: append([]string{"--app-id", "shop:1", "--container", "web", "--image", "nginx:1.27"}, d.flags...), wrap: d.wrap, dir: workDir(t, 0)}
	guarded(t, &r)
	give(t, r.dir, d.given)
	text := texts(t, r.dir, "")
	for i := range p.CustomRules {
		c := &p.CustomRules[i]
		c.Script = text.Replace(c.Script)
	}
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	r.policy = string(data)
	return r.protected(t, "sh", "-c", text.Replace(d.script))
}

// test has a deed done under both rules, the one that does not hold before the
// other.
func (c *customCase) test(t *testing.T, d *deed, effect string) {
	t.Helper()
	got := d.do(t, customRule(c.kind, effect, "fails", c.fails, "holds", c.holds))
	prevented := effect == "prevent" && !c.late
	if (got.out == "done\n") == prevented {
		t.Errorf("it said %q and %q", got.out, got.err)
	}
	audits := got.audits()
	if len(audits) == 0 {
		t.Errorf("nothing is told: %s", got.err)
	}
	for _, a := range audits {
		if a.AttackType != "customRule" || a.CustomRuleName != "holds" || a.Refused != prevented || a.Msg != "told" || (a.Effect == "prevent") != prevented {
			t.Errorf("told of %+v", a)
		}
	}
	if c.other == nil {
		return
	}
	if got := c.other.do(t, customRule(c.kind, effect, "holds", c.holds)); len(got.audits()) > 0 || got.out != "done\n" {
		t.Errorf("another deed: %q %s, audits %+v", got.out, got.err, got.audits())
	}
}

// TestCustomRules has something done for everything that docs/policy.md says
// of custom rules, and for every example of the reference.
func TestCustomRules(t *testing.T) {
	t.Parallel()
	docs := readDocumented(t)
	deeds, denied := customDeeds(t)
	cases := slices.Concat(attributeCases(t, deeds), wordCases(t), languageCases(), exampleCases(t, deeds))
	missing := make(map[string]bool) // "type name"
	for _, kind := range customTypes {
		for _, name := range slices.Concat(docs.attributes[everyType], docs.attributes[kind]) {
			missing[kind+" "+name] = true
		}
	}
	for _, name := range slices.Concat(docs.operators, docs.escapes) {
		missing[connects+" "+name] = true
	}
	for name, words := range docs.words {
		for _, w := range words {
			missing[changes+" "+name+" "+w] = true
		}
	}
	for _, id := range exampleNumbers(t) {
		missing["example "+id] = true
	}
	for i := range cases {
		c := &cases[i]
		d := c.deed
		if d == nil {
			d = deeds[c.kind]
		}
		about := c.kind + " " + c.name
		if !missing[about] && !missing[connects+" "+c.name] && !missing["example "+c.name] {
			t.Errorf("%s is not documented, or is there twice", about)
		}
		delete(missing, about)
		delete(missing, "example "+c.name)
		if slices.Contains(docs.operators, c.name) || slices.Contains(docs.escapes, c.name) {
			delete(missing, connects+" "+c.name)
		}
		effect := []string{"prevent", "alert"}[i%2]
		if strings.HasPrefix(c.name, "file.op ") {
			effect = "prevent" // the file system may not know how to do it
		}
		t.Run(c.kind+"/"+c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, d, effect)
		})
	}
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		t.Errorf("%s: no case", name)
	}
	for _, kind := range customTypes {
		for _, effect := range docs.effects {
			t.Run("effect/"+kind+"/"+effect, func(t *testing.T) {
				t.Parallel()
				testCustomEffect(t, kind, effect, deeds[kind], denied[kind])
			})
		}
	}
}

// TestCustomRulesAskLater has rules hold whose questions are not those of the
// call that is judged first: a rename also removes what it replaces, and what is
// written is judged when it is closed.
func TestCustomRulesAskLater(t *testing.T) {
	t.Parallel()
	prog, err := os.ReadFile(victim("prog-a"))
	if err != nil {
		t.Fatal(err)
	}
	script := func(command string) string { return "script -qec '" + command + "' /dev/null >/dev/null && echo done" }
	for _, c := range []customCase{
		{kind: changes, name: "replaced", holds: `file.op = unlink and file.name = "old" and proc.name = "mv"`,
			fails: `file.op = unlink and file.name = "old" and not proc.name = "mv"`,
			deed:  &deed{script: "mv -f new old && echo done", flags: monitoring, given: map[string][]byte{"new": []byte("1"), "old": []byte("2")}}},
		{kind: changes, name: "replaced interactively", holds: `file.op = unlink and file.name = "old" and proc.interactive`,
			fails: `file.op = unlink and file.name = "old" and not proc.interactive`,
			deed:  &deed{script: script("mv -f new old"), needs: []string{"script"}, flags: monitoring, given: map[string][]byte{"new": []byte("1"), "old": []byte("2")}}},
		{kind: changes, name: "written interactively", holds: `file.type = elf and proc.interactive`, fails: `file.type = elf and not proc.interactive`, late: true,
			deed: &deed{script: script("cat given >x"), needs: []string{"script"}, flags: monitoring, given: map[string][]byte{"given": prog}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, c.deed, "prevent")
		})
	}
}

// testCustomEffect has a deed done that a list of the rule prevents, under a
// custom rule that holds.
func testCustomEffect(t *testing.T, kind, effect string, d *deed, deny func(*policy.Rule)) {
	t.Helper()
	const attribute = `app.id = "shop:1" and `
	holds := map[string]string{
		launches: `proc.name = "prog-a"`, changes: `file.name = "x"`, connects: `net.outgoing_port = 9`, looksUp: `dns.name = "yahoo.test"`, listens: `net.listening_port = 18080`,
	}[kind]
	p := customRule(kind, effect, "c", attribute+holds)
	deny(&p.Rules[0])
	if effect == "block" { // which comes to who is still there
		lasting := *d
		lasting.script += "; sleep 60"
		d = &lasting
	}
	got := d.do(t, p)
	if done := got.out == "done\n"; done != slices.Contains([]string{"allow", "alert", "incident"}, effect) {
		t.Errorf("it said %q and %q", got.out, got.err)
	}
	if ended := got.status == 128+15; ended != (effect == "block") {
		t.Errorf("status %d: %s", got.status, got.err)
	}
	audits := got.audits()
	if effect == "allow" {
		if len(audits) > 0 {
			t.Errorf("told of %+v", audits)
		}
		return
	}
	if len(audits) == 0 {
		t.Fatal("nothing is told")
	}
	want := record{AttackType: "customRule", CustomRuleName: "c", Effect: effect, Refused: effect == "prevent" || effect == "block"}
	switch effect {
	case "disable": // the list holds
		want = record{AttackType: audits[0].AttackType, Effect: "prevent", Refused: true}
		if want.AttackType == "customRule" {
			t.Error("what is disabled is told")
		}
	case "incident":
		want.Effect, want.Category = "alert", "customRule"
	}
	for _, a := range audits {
		is := record{AttackType: a.AttackType, CustomRuleName: a.CustomRuleName, Effect: a.Effect, Refused: a.Refused, Category: a.Category}
		if fmt.Sprint(is) != fmt.Sprint(want) {
			t.Errorf("got  %+v\nwant %+v", is, want)
		}
	}
}

// attributeCases are those of attributes.
func attributeCases(t *testing.T, deeds map[string]*deed) []customCase {
	t.Helper()
	out, err := exec.Command("id", "-un").Output()
	if err != nil {
		t.Fatal(err)
	}
	user := strings.TrimSpace(string(out))
	prog, err := os.ReadFile(victim("prog-a"))
	if err != nil {
		t.Fatal(err)
	}
	var list []customCase
	// Who does it. The program that starts is the process for its rules.
	who := map[string][2]string{
		launches: {"BIN/prog-a", "-l 80"}, changes: {"SHELL", "one two"}, connects: {"BIN/net", "sendto 127.0.0.2"},
		looksUp: {"BIN/ask", "connected 192.0.2.53"}, listens: {"BIN/listen", "udp 18080"},
	}
	for _, kind := range customTypes {
		path, args := who[kind][0], who[kind][1]
		name := path[strings.LastIndexByte(path, '/')+1:]
		if name == "SHELL" {
			name = filepath.Base(texts(t, "", "").Replace("SHELL"))
		}
		shell := filepath.Base(texts(t, "", "").Replace("SHELL"))
		first, _, _ := strings.Cut(args, " ")
		for _, a := range [][3]string{
			{"proc.name", fmt.Sprintf(`proc.name = %q`, name), fmt.Sprintf(`proc.name = "%sx"`, name)},
			{"proc.path", fmt.Sprintf(`proc.path = %q`, path), `proc.path = "/nowhere"`},
			{"proc.pname", fmt.Sprintf(`proc.pname = %q`, shell), `proc.pname = "init"`},
			{"proc.ppath", `proc.ppath = "SHELL"`, `proc.ppath = "/nowhere"`},
			{"proc.ancestors", `proc.ancestors = "SHELL"`, `proc.ancestors startswith "/nowhere"`},
			{"proc.cmdline", fmt.Sprintf(`proc.cmdline contains " %s"`, args), fmt.Sprintf(`proc.cmdline contains " %s "`, strings.ReplaceAll(args, " ", "  "))},
			{"proc.args", fmt.Sprintf(`proc.args = %q`, first), fmt.Sprintf(`proc.args = %q`, args)},
			{"proc.user", fmt.Sprintf(`proc.user = %q`, user), `proc.user = "jake"`},
			{"app.id", `app.id = "shop:1"`, `app.id = "shop"`},
			{"container.name", `container.name = "web"`, `container.name = "we"`},
			{"container.image", `container.image startswith "nginx:"`, `container.image = "nginx"`},
		} {
			list = append(list, customCase{kind: kind, name: a[0], holds: a[1], fails: a[2]})
		}
		// A terminal of its own.
		d := *deeds[kind]
		d.needs = append(slices.Clone(d.needs), "script")
		d.script = "script -qec \"" + strings.ReplaceAll(strings.TrimSuffix(strings.TrimSuffix(d.script, "&& echo done"), ">/dev/null "), `"`, `\"`) + "\" /dev/null >/dev/null && echo done"
		if kind == looksUp {
			d.script = strings.Replace(d.script, "| grep -q ' 127.0.0.2$' ", `| grep -q ' 127.0.0.2\$' `, 1)
		}
		list = append(list, customCase{kind: kind, name: "proc.interactive", holds: "proc.interactive", fails: "not proc.interactive and " + interactiveEvent[kind], deed: &d, other: deeds[kind]})
	}
	start := func(script string, needs ...string) *deed { return &deed{script: script, needs: needs} }
	altered := start("cp /usr/bin/tac altered && printf x >>altered && mount --bind altered /usr/bin/tac && /usr/bin/tac </dev/null && echo done", "root", "dpkg")
	altered.wrap = ownMounts
	late := start("sleep 12; cp BIN/prog-a late; ./late >/dev/null && echo done")
	ordinary := deeds[launches]
	// A condition that must not hold is about the same program: the shell and
	// its tools are others.
	condition := func(attribute, program string, d *deed) customCase {
		return customCase{kind: launches, name: attribute, holds: attribute, fails: fmt.Sprintf(`proc.name = %q and not %s`, program, attribute), deed: d, other: ordinary}
	}
	main := condition("proc.main", "echo", start("exec env echo done"))
	main.holds, main.other = `proc.main and proc.name = "echo"`, start("env echo done; :")
	written := func(given []byte) *deed {
		return &deed{script: "cat given >x && echo done", flags: monitoring, given: map[string][]byte{"given": given}}
	}
	named := &deed{script: "BIN/ask connected 192.0.2.53 yahoo.test >/dev/null; BIN/net sendto 127.0.0.2 9 >/dev/null && echo done", flags: deeds[looksUp].flags}
	return append(list,
		customCase{kind: launches, name: "proc.sha256", holds: fmt.Sprintf(`proc.sha256 = "%x"`, sha256.Sum256(prog)), fails: fmt.Sprintf(`proc.sha256 = "%x"`, sha256.Sum256(nil))},
		condition("proc.modified", "late", late),
		condition("proc.new", "late", late),
		condition("proc.altered", "tac", altered),
		customCase{kind: launches, name: "proc.fileless", holds: "proc.fileless", fails: "proc.fileless and proc.main", deed: start("BIN/exec memfd BIN/prog-a >/dev/null && echo done"), other: ordinary},
		condition("proc.writable", "prog-a", start("mkdir -m 777 d; cp BIN/prog-a d; d/prog-a >/dev/null && echo done")),
		condition("proc.setuid", "x", start("cp BIN/prog-a x; chmod u+s x; ./x >/dev/null && echo done", "root")),
		main,

		customCase{kind: changes, name: "file.path", holds: `file.path = "DIR/x"`, fails: `file.path = "x"`},
		customCase{kind: changes, name: "file.dir", holds: `file.dir = "DIR"`, fails: `file.dir = "DIR/"`},
		customCase{kind: changes, name: "file.name", holds: `file.name = "x"`, fails: `file.name = "DIR/x"`},
		customCase{kind: changes, name: "file.op", holds: `file.op = create`, fails: `file.op != "create" and file.name = "x"`},
		customCase{kind: changes, name: "file.type", holds: `file.type = elf`, fails: `file.type in (secret, folder)`, deed: written(prog), other: written([]byte("text")), late: true},
		customCase{kind: changes, name: "file.md5", holds: fmt.Sprintf(`file.md5 = "%x"`, md5.Sum(prog)), fails: fmt.Sprintf(`file.md5 = "%x"`, md5.Sum(nil)), deed: written(prog), late: true}, //nolint:gosec
		customCase{kind: changes, name: "file.sha256", holds: fmt.Sprintf(`file.sha256 = "%x"`, sha256.Sum256(prog)), fails: fmt.Sprintf(`file.sha256 = "%x"`, sha256.Sum256(nil)), deed: written(prog), late: true},

		customCase{kind: connects, name: "net.outgoing_ip", holds: `net.outgoing_ip = "127.0.0.0/30"`, fails: `net.outgoing_ip = "127.0.0.3"`},
		customCase{kind: connects, name: "net.outgoing_port", holds: `net.outgoing_port = 9`, fails: `net.outgoing_port = "90"`},
		customCase{kind: connects, name: "net.private_subnet", holds: `not net.private_subnet`, fails: `net.private_subnet`, deed: &deed{
			script: "BIN/net sendto 192.0.2.77 9 >/dev/null && echo done", wrap: onInternet("192.0.2.77"), needs: []string{"root", "ip"},
		}, other: deeds[connects]},
		customCase{kind: connects, name: "net.protocol", holds: `net.protocol = "udp"`, fails: `net.protocol = "tcp" and net.outgoing_port = 9`},
		customCase{kind: connects, name: "net.name", holds: `net.name = "yahoo.test"`, fails: `net.name = "google.test"`, deed: named, other: deeds[connects]},
		customCase{kind: connects, name: "net.resolved", holds: `net.resolved`, fails: `not net.resolved and net.outgoing_port = 9`, deed: named, other: deeds[connects]},

		customCase{kind: looksUp, name: "dns.name", holds: `dns.name = "yahoo.test"`, fails: `dns.name = "test"`},
		customCase{kind: looksUp, name: "dns.type", holds: `dns.type = "A"`, fails: `dns.type = "AAAA"`},

		customCase{kind: listens, name: "net.listening_ip", holds: `net.listening_ip = "127.0.0.1"`, fails: `net.listening_ip = "0.0.0.0"`},
		customCase{kind: listens, name: "net.listening_port", holds: `net.listening_port = 18080`, fails: `net.listening_port < 1024`},
		customCase{kind: listens, name: "net.protocol", holds: `net.protocol = "udp"`, fails: `net.protocol = "tcp"`},
	)
}

// interactiveEvent tells the deed from what script(1) does beside it.
var interactiveEvent = map[string]string{
	launches: `proc.name = "prog-a"`, changes: `file.name = "x"`, connects: `net.outgoing_port = 9`, looksUp: `dns.name = "yahoo.test"`, listens: `net.listening_port = 18080`,
}

// onInternet starts what follows in a network where an address is its own.
func onInternet(addr string) []string {
	return []string{"unshare", "-n", "sh", "-c", `ip link set lo up && ip address add ` + addr + `/32 dev lo && exec "$@"`, "sh"}
}

// wordCases are those of attributes that have few values.
func wordCases(t *testing.T) []customCase {
	t.Helper()
	prog, err := os.ReadFile(victim("prog-a"))
	if err != nil {
		t.Fatal(err)
	}
	var list []customCase
	ways := map[string]string{
		"open": "write", "create": "create", "rename": "rename-away", "link": "link-out", "unlink": "unlink", "symlink": "symlink-in", "truncate": "truncate",
		"chmod": "chmod", "chown": "chown", "mkdir": "mkdir", "mknod": "fifo", "rmdir": "rmdir", "setxattr": "setxattr", "mount": "mount",
	}
	for _, word := range slices.Sorted(maps.Keys(ways)) {
		// Not to /dev/null, which would be opened to write to.
		d := &deed{script: fmt.Sprintf(`[ "$(BIN/files %s DIR/guarded)" = "%[1]s: ok" ] && echo done`, ways[word]), flags: monitoring}
		if word == "mount" {
			d.needs = []string{"root"}
		}
		other := "create"
		if word == other {
			other = "open"
		}
		list = append(list, customCase{kind: changes, name: "file.op " + word, holds: "file.op = " + word, fails: "file.op = " + other, deed: d})
	}
	given := map[string]string{
		"elf": string(prog), "regular": "text\n", "secret": "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\n",
	}
	for _, word := range slices.Sorted(maps.Keys(given)) {
		other := "elf"
		if word == other {
			other = "regular"
		}
		list = append(list, customCase{kind: changes, name: "file.type " + word, holds: fmt.Sprintf("file.type = %q", word), fails: "file.type = " + other, late: true, deed: &deed{
			script: "cat given >x && echo done", flags: monitoring, given: map[string][]byte{"given": []byte(given[word])},
		}})
	}
	// A folder is known before it is made.
	return append(list, customCase{kind: changes, name: "file.type folder", holds: "file.type = folder", fails: "file.type = regular", deed: &deed{
		script: "mkdir x && echo done", flags: monitoring,
	}})
}

// languageCases are those of operators and escapes: of a connection to port 9
// of 127.0.0.2, and of arguments.
func languageCases() []customCase {
	var list []customCase
	for _, c := range [][3]string{
		{"=", `net.outgoing_port = 9`, `net.outgoing_port = 8`},
		{"!=", `net.outgoing_port != 8`, `net.outgoing_port != 9`},
		{"<", `net.outgoing_port < 10`, `net.outgoing_port < 9`},
		{"<=", `net.outgoing_ip <= "127.0.0.2"`, `net.outgoing_ip <= "127.0.0.1"`},
		{">", `net.outgoing_ip > "127.0.0.1"`, `net.outgoing_ip > "127.0.0.2"`},
		{">=", `net.outgoing_port >= 9`, `net.outgoing_port >= 10`},
		{"=>", `net.outgoing_ip => "127.0.0.2"`, `net.outgoing_ip => "127.0.0.3"`},
		{"in (…)", `net.outgoing_ip in ("127.0.0.1", "127.0.0.2")`, `proc.name in ("sendto", "ne")`},
		{"not in (…)", `net.outgoing_port not in (8, "10")`, `net.outgoing_port not in (8, "9")`},
		{"startswith", `net.outgoing_ip startswith "127.0."`, `proc.name startswith "nett"`},
		{"contains", `proc.path contains "/net"`, `net.outgoing_port contains "10"`},
		{"not", `not net.outgoing_port = 8`, `not proc.name = "net"`},
		{"and", `proc.name = "net" and not net.outgoing_port = 8`, `proc.name = "net" and net.outgoing_port = 8`},
		{"or", `net.outgoing_port = 8 or proc.name = "net"`, `net.outgoing_port = 8 or proc.name = "nc"`},
		{"(…)", `not (net.outgoing_port = 8 and proc.name = "net")`, `(net.outgoing_port = 8 or proc.name = "net") and net.outgoing_port = 7`},
	} {
		list = append(list, customCase{kind: connects, name: c[0], holds: c[1], fails: c[2]})
	}
	for _, c := range [][2]string{{`\"`, `"`}, {`\\`, `\\`}, {`\n`, `\n`}, {`\r`, `\r`}, {`\t`, `\t`}, {`\xHH`, `\310`}} {
		escape, printed := c[0], c[1] // here and by printf(1)
		d := &deed{script: `BIN/prog-a "$(printf 'a` + printed + `b')" >/dev/null && echo done`}
		text := strings.ReplaceAll(escape, "HH", "c8")
		list = append(list, customCase{kind: launches, name: escape, holds: `proc.args = "a` + text + `b"`, fails: `proc.args = "a` + text + `c" or proc.args = "a\x01b"`, deed: d})
	}
	return list
}

const examplesFile = "../../policy/compat/testdata/custom-rules.json"

type example struct {
	ID           int `json:"_id"`
	Type, Script string
}

func examples(t *testing.T) map[string]example {
	t.Helper()
	var list []example
	data, err := os.ReadFile(examplesFile)
	if err == nil {
		err = json.Unmarshal(data, &list)
	}
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]example)
	for _, e := range list {
		all[fmt.Sprint(e.ID)] = e
	}
	return all
}

func exampleNumbers(t *testing.T) []string {
	t.Helper()
	return slices.Sorted(maps.Keys(examples(t)))
}

// exampleCases are the scripts of the reference's examples, word for word.
func exampleCases(t *testing.T, deeds map[string]*deed) []customCase {
	t.Helper()
	prog, err := os.ReadFile(victim("prog-a"))
	if err != nil {
		t.Fatal(err)
	}
	to := func(program, addr string) *deed {
		return &deed{script: program + " sendto " + addr + " 9 >/dev/null && echo done", wrap: onInternet(addr), needs: []string{"root", "ip"}}
	}
	asJake := &deed{
		script: "cp BIN/prog-a nc; chmod 755 . nc; BIN/drop exec DIR/nc -l 80 >/dev/null && echo done", needs: []string{"root"},
		wrap: inMounts("sed '/:1000:/d' /etc/passwd >passwd && echo jake:x:1000:1000::/:/bin/sh >>passwd && mount --bind passwd /etc/passwd"),
	}
	if _, err := os.Lstat("/tmp/file"); err != nil {
		t.Cleanup(func() { _ = os.Remove("/tmp/file") })
	}
	all := examples(t)
	example := func(id, fails string, d *deed) customCase {
		return customCase{kind: all[id].Type, name: id, holds: all[id].Script, fails: fails, deed: d}
	}
	interactive := example("1007", `not proc.interactive and proc.name = "prog-a"`, &deed{script: "script -qec BIN/prog-a /dev/null >/dev/null && echo done", needs: []string{"script"}})
	interactive.other = deeds[launches]
	written := example("1009", `file.type = "secret"`, &deed{script: "cat given >x && echo done", flags: monitoring, given: map[string][]byte{"given": prog}})
	written.late = true
	return []customCase{
		example("1001", `net.outgoing_ip = "169.254.170.3"`, to("BIN/net", "169.254.170.2")),
		example("1002", `proc.pname = "mysqld"`, &deed{script: "cp SHELL mysql; ./mysql -c 'BIN/prog-a >/dev/null && echo done'"}),
		example("1003", `proc.name = "net"`, &deed{script: "cp BIN/prog-a netcat; ./netcat >/dev/null && echo done"}),
		example("1004", `file.path startswith "/etc/x"`, &deed{
			script: "(: >>/etc/passwd) && echo done", flags: monitoring, needs: []string{"root"}, wrap: inMounts(otherPasswd),
		}),
		example("1005", `file.path = "/tmp/fil"`, &deed{script: "(: >>/tmp/file) && echo done", flags: monitoring}),
		example("1006", `net.outgoing_ip >= "1.1.1.6"`, to("BIN/net", "1.1.1.5")),
		interactive,
		example("1008", `proc.cmdline contains "-l 8 "`, asJake),
		written,
		example("1010", `net.outgoing_port = "443"`, &deed{
			script: "cp BIN/net sh; ./sh sendto 192.0.2.77 9 >/dev/null && echo done", wrap: onInternet("192.0.2.77"), needs: []string{"root", "ip"},
		}),
	}
}
