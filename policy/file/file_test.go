package file

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"appdefender/policy"
)

const sample = `# the whole format
version: 1
rules:
  - name: sample
    scope: {images: ["*"], containers: [sample-task], appIDs: ["*"]}
    disabled: false
    processes:
      effect: prevent
      deny: [mkdir, /usr/bin/nc]
      allow: []
    dns: {effect: block, allow: [gmail.com, "*.gmail.com"], deny: []}
    network:
      effect: alert
      outbound:
        deny: [10.0.0.0/8, "169.254.169.254"]
        denyPorts: [25, 6660-6669]
        allowPorts: [1-65535]
      listen: {allowPorts: [8080], denyPorts: [22]}
      unix: {allow: [], deny: [docker.sock, "@agent*"]}
    files: {effect: prevent, deny: [/etc/, "/usr/bin/*"], allow: []}
    onUnknown: disable
`

const sampleJSON = `{
	"version": 1,
	"rules": [{
		"name": "sample",
		"scope": {"images": ["*"], "containers": ["sample-task"], "appIDs": ["*"]},
		"disabled": false,
		"processes": {"effect": "prevent", "deny": ["mkdir", "\/usr\/bin\/nc"], "allow": []},
		"dns": {"effect": "block", "allow": ["gmail.com", "*.gmail.com"], "deny": []},
		"network": {
			"effect": "alert",
			"outbound": {
				"deny": ["10.0.0.0/8", "169.254.169.254"],
				"denyPorts": [25, "6660-6669"],
				"allowPorts": ["1-65535"]
			},
			"listen": {"allowPorts": [8080], "denyPorts": ["22"]},
			"unix": {"allow": [], "deny": ["docker.sock", "@agent*"]}
		},
		"files": {"effect": "prevent", "deny": ["/etc/", "/usr/bin/*"], "allow": []},
		"onUnknown": "disable"
	}]
}
`

const sampleAlias = `
version: 1
rules:
  - name: sample
    scope: {images: &all ["*"], containers: [sample-task], appIDs: *all}
    processes: {effect: prevent, deny: [mkdir, /usr/bin/nc], allow: []}
    dns: {effect: block, allow: [gmail.com, "*.gmail.com"], deny: []}
    network:
      effect: alert
      outbound: {deny: [10.0.0.0/8, 169.254.169.254], denyPorts: [25, 6660-6669], allowPorts: [1-65535]}
      listen: {allowPorts: [8080], denyPorts: [22]}
      unix: {allow: [], deny: [docker.sock, "@agent*"]}
    files: {effect: prevent, deny: [/etc/, "/usr/bin/*"], allow: []}
    onUnknown: disable
`

func TestParse(t *testing.T) {
	want := &policy.Policy{
		Version: 1,
		Rules: []policy.Rule{{
			Name: "sample",
			Scope: policy.Scope{
				Images:     []string{"*"},
				Containers: []string{"sample-task"},
				AppIDs:     []string{"*"},
			},
			Processes: &policy.ProcessesSection{
				Effect: new(policy.Prevent),
				Deny:   []string{"mkdir", "/usr/bin/nc"},
				Allow:  []string{},
			},
			DNS: &policy.DNSSection{
				Effect: new(policy.Block),
				Allow:  []string{"gmail.com", "*.gmail.com"},
				Deny:   []string{},
			},
			Network: &policy.NetworkSection{
				Effect: new(policy.Alert),
				Outbound: policy.OutboundSection{
					Deny:       []string{"10.0.0.0/8", "169.254.169.254"},
					DenyPorts:  []string{"25", "6660-6669"},
					AllowPorts: []string{"1-65535"},
				},
				Listen: policy.ListenSection{AllowPorts: []string{"8080"}, DenyPorts: []string{"22"}},
				Unix:   policy.UnixSection{Allow: []string{}, Deny: []string{"docker.sock", "@agent*"}},
			},
			Files:     &policy.FilesSection{Effect: new(policy.Prevent), Allow: []string{}, Deny: []string{"/etc/", "/usr/bin/*"}},
			OnUnknown: new(policy.Disable),
		}},
	}
	for _, c := range []struct{ name, data string }{
		{"YAML", sample},
		{"JSON", sampleJSON},
		{"aliases", sampleAlias},
		{"byte order mark", "\ufeff" + sample},
		{"CRLF", strings.ReplaceAll(sample, "\n", "\r\n")},
	} {
		got, err := Parse(c.name, []byte(c.data))
		if err != nil {
			t.Errorf("%s:\n%v", c.name, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// lines joins lines, and the file they make begins as every policy does.
func lines(lines ...string) string {
	return "version: 1\nrules:\n" + strings.Join(lines, "\n") + "\n"
}

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name string
		data string
		want []string // without the file's name
	}{
		{
			"five mistakes", lines(
				`  - name: web`,
				`    dns:`,
				`      effect: prevnt`,
				`      allow: [gmail.com, "mail.*.com"]`,
				`    network:`,
				`      effct: alert`,
				`      outbound:`,
				`        deny: [10.0.0.1/8]`,
				`        denyPorts: [25, 70000]`,
			), []string{
				`5:15: rules[0].dns.effect: "prevnt" is not an effect; one of disable, alert, prevent, block`,
				`6:26: rules[0].dns.allow[1]: "mail.*.com": a "*" stands alone or as the whole first label ("*.example.com", "**.example.com")`,
				`8:7: rules[0].network.effct: unknown key; did you mean "effect"?`,
				`10:16: rules[0].network.outbound.deny[0]: "10.0.0.1/8" has host bits set; write 10.0.0.0/8, or 10.0.0.1 for the one address`,
				`11:25: rules[0].network.outbound.denyPorts[1]: "70000" is neither a port, 1 to 65535, nor a range such as 6660-6669`,
			},
		},
		{
			"the same in JSON",
			"{\n\t\"version\": 1,\n\t\"rules\": [{\"name\": \"a\", \"dns\": {\"effect\": \"prevnt\",\n\t\t\"deny\": [null], \"dny\": 1}}]\n}",
			[]string{
				`3:44: rules[0].dns.effect: "prevnt" is not an effect; one of disable, alert, prevent, block`,
				`4:12: rules[0].dns.deny[0]: empty; leave it out or give it a value`,
				`4:19: rules[0].dns.dny: unknown key; did you mean "deny"?`,
			},
		},
		{"empty", "", []string{`1:1: empty; a policy begins with version: 1`}},
		{"UTF-16", "\xff\xfev\x00e\x00r\x00", []string{`1:1: the file is in UTF-16 or UTF-32; save it as UTF-8`}},
		{"UTF-16 without a mark", "\x00v\x00e\x00r", []string{`1:1: the file is in UTF-16 or UTF-32; save it as UTF-8`}},
		{"only a comment", "# nothing\n", []string{`1:1: empty; a policy begins with version: 1`}},
		{"null", "~", []string{`1:1: empty; a policy begins with version: 1`}},
		{"a word", "version", []string{`1:1: a string; want a mapping (key: value)`}},
		{"a list", "- version: 1\n", []string{`1:1: a list; want a mapping (key: value)`}},
		{"an empty mapping", "{}", []string{`1:1: version: missing; write 1`}},
		{"no YAML", "version: 1\nrules: [\n", []string{`3:1: did not find expected node content`}},
		{"no text", "version: 1\x00", []string{`1:1: control characters are not allowed (value: 0)`}},
		{"tab before a key", "version: 1\n\trules: []\n", []string{`2:1: a tab; YAML is indented by spaces`}},
		{"tab before an item", "version: 1\nrules:\n\t- name: a\n", []string{`3:1: a tab; YAML is indented by spaces`}},
		{"tab behind spaces", "version: 1\nrules:\n  \t- name: a\n", []string{`3:3: a tab; YAML is indented by spaces`}},
		{"alias of nothing", "version: *v\n", []string{`1:10: unknown anchor 'v' referenced`}},
		{"two documents", "version: 1\n---\nversion: 1\n", []string{`2:1: another document; a policy file holds one`}},
		{"an empty second document", "version: 1\n---\n", []string{`2:1: another document; a policy file holds one`}},
		{"no YAML in a second document", "version: 2\n---\n[", []string{
			`1:10: version: 2 is not supported by this version; write 1`,
			`4:1: did not find expected node content`,
		}},

		{"duplicate key", "version: 1\nrules: []\nversion: 2\n", []string{`3:1: version: a second time; first in line 1`}},
		{"duplicate key, quoted", "version: 1\n\"version\": 1\n", []string{`2:1: version: a second time; first in line 1`}},
		{"duplicate unknown key", "version: 1\nx: 1\nx: 1\n", []string{
			`2:1: x: unknown key; one of version, rules, customRules`,
			`3:1: x: a second time; first in line 2`,
		}},
		{"a list as a key", "version: 1\n? [rules]\n: []\n", []string{`2:3: a list as a key; keys are strings`}},
		{"a number as a key", "version: 1\n1: []\n", []string{`2:1: an integer as a key; keys are strings`}},
		{"a key of two lines", "version: 1\n\"a\\nb\": 1\n", []string{`2:1: "a\nb": unknown key; one of version, rules, customRules`}},
		{"merge key", "version: 1\n<<: {rules: []}\n", []string{`2:1: <<: merge keys are not supported; repeat the keys or use an alias for the whole value`}},
		{"letter case of a key", lines(`  - name: a`, `    scope: {appIds: [x]}`), []string{`4:13: rules[0].scope.appIds: unknown key; did you mean "appIDs"?`}},
		{"swapped letters", lines(`  - nmae: a`), []string{`3:5: rules[0].nmae: unknown key; did you mean "name"?`}},
		{"no near key", lines(`  - name: a`, `    dns: {effect: alert, forbid: [x]}`), []string{`4:26: rules[0].dns.forbid: unknown key; one of effect, allow, deny, answer, private, detect`}},
		{"a script", lines(`  - name: a`, `    custom: [{rule: x, effect: prevent}, {rule: nc, effect: no}]`, `customRules:`, `  - {name: nc, type: processes, script: 'proc.nam = "nc"'}`), []string{
			`4:21: rules[0].custom[0].rule: "x" is not the name of a custom rule`,
			`4:61: rules[0].custom[1].effect: "no" is not an effect of custom rules; one of allow, disable, alert, prevent, block, incident`,
			`6:41: customRules[0].script: line 1, column 1: "proc.nam" is no attribute; did you mean proc.name?`,
			`  proc.nam = "nc"`,
			`  ^`,
		}},
		{"a detection nobody knows", lines(`  - name: a`, `    processes: {effect: alert, detect: {modifed: alert, fileless: yes}}`), []string{
			`4:41: rules[0].processes.detect.modifed: unknown key; did you mean "modified"?`,
			`4:67: rules[0].processes.detect.fileless: "yes" is not an effect; one of disable, alert, prevent, block`,
		}},
		{"key of a later version in the wrong place", lines(`  - name: a`, `    listen: {}`), []string{
			`4:5: rules[0].listen: unknown key; one of name, notes, scope, disabled, processes, dns, network, files, custom, onUnknown`,
		}},

		{"version as a string", `version: "1"`, []string{`1:10: version: a string; want a decimal integer`}},
		{"version as a number", `version: 1.0`, []string{`1:10: version: a number; want a decimal integer`}},
		{"version too long", `version: 99999999999999999999`, []string{`1:10: version: a number; want a decimal integer`}},
		{"rules as a mapping", "version: 1\nrules: {name: a}\n", []string{`2:8: rules: a mapping; want a list`}},
		{"a rule as a word", lines(`  - web`), []string{`3:5: rules[0]: a string; want a mapping (key: value)`}},
		{"a rule as nothing", lines(`  -`, `  - name: a`), []string{`3:4: rules[0]: empty; leave it out or give it a value`}},
		{"yes", lines(`  - name: a`, `    disabled: yes`), []string{`4:15: rules[0].disabled: a string; want true or false`}},
		{"a section as nothing", lines(`  - name: a`, `    dns:`), []string{`4:9: rules[0].dns: empty; leave it out or give it a value`}},
		{"a list as a word", lines(`  - name: a`, `    dns: {effect: alert, deny: evil.test}`), []string{`4:32: rules[0].dns.deny: a string; want a list; write ["evil.test"]`}},
		{"an effect as a list", lines(`  - name: a`, `    dns: {effect: [alert]}`), []string{`4:19: rules[0].dns.effect: a list; want a word`}},
		{"an effect as nothing", lines(`  - name: a`, `    dns: {effect: }`), []string{`4:19: rules[0].dns.effect: empty; leave it out or give it a value`}},
		{"an effect as a boolean", lines(`  - name: a`, `    dns: {effect: true}`), []string{`4:19: rules[0].dns.effect: "true" is not an effect; one of disable, alert, prevent, block`}},
		{"an effect with a tag", lines(`  - name: a`, `    dns: {effect: !x alert}`), []string{`4:19: rules[0].dns.effect: a value of type "!x"; want a word`}},
		{"onUnknown", lines(`  - name: a`, `    onUnknown: Prevent`), []string{`4:16: rules[0].onUnknown: "Prevent" is not an effect; one of disable, alert, prevent, block`}},
		{
			"entries of other types", lines(
				`  - name: a`,
				`    processes:`,
				`      effect: alert`,
				`      deny: [null, ~, true, 1.5, 2001-01-01, [nc], {nc: 1}, !x nc, 7z, 7]`,
			), []string{
				`6:14: rules[0].processes.deny[0]: empty; leave it out or give it a value`,
				`6:20: rules[0].processes.deny[1]: empty; leave it out or give it a value`,
				`6:23: rules[0].processes.deny[2]: a boolean; want a string; write "true" in quotes`,
				`6:29: rules[0].processes.deny[3]: a number; want a string; write "1.5" in quotes`,
				`6:34: rules[0].processes.deny[4]: a date; want a string; write "2001-01-01" in quotes`,
				`6:46: rules[0].processes.deny[5]: a list; want a string`,
				`6:52: rules[0].processes.deny[6]: a mapping; want a string`,
				`6:61: rules[0].processes.deny[7]: a value of type "!x"; want a string; write "nc" in quotes`,
			},
		},

		{"a section without an effect", lines(`  - name: a`, `    dns: {deny: [x]}`), []string{`4:5: rules[0].dns.effect: missing; one of disable, alert, prevent, block`}},
		{"a rule without a name", lines(`  - disabled: true`, `  - name: ""`), []string{
			`3:5: rules[0].name: missing`,
			`4:11: rules[1].name: missing`,
		}},
		{"a name twice", lines(`  - name: a`, `  - name: a`), []string{`4:11: rules[1].name: "a" is already the name of rules[0]`}},
		{"no version", "rules: []\n", []string{`1:1: version: missing; write 1`}},
		{"faults beside a spoiled entry", lines(`  - name: a`, `    dns: {effect: alert, deny: [null, "", "a..b"]}`), []string{
			`4:33: rules[0].dns.deny[0]: empty; leave it out or give it a value`,
			`4:39: rules[0].dns.deny[1]: empty`,
			`4:43: rules[0].dns.deny[2]: "a..b": empty label`,
		}},
		{"an octal port", lines(`  - name: a`, `    network: {effect: alert, outbound: {denyPorts: [025, 0x19]}}`), []string{
			`4:53: rules[0].network.outbound.denyPorts[0]: "025" is neither a port, 1 to 65535, nor a range such as 6660-6669`,
			`4:58: rules[0].network.outbound.denyPorts[1]: "0x19" is neither a port, 1 to 65535, nor a range such as 6660-6669`,
		}},
		{"an alias inside itself", "version: 1\nrules: &r [{name: a, scope: *r}]\n", []string{`2:8: rules[0].scope: a list; want a mapping (key: value)`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Parse("p.yaml", []byte(c.data))
			if p != nil || err == nil {
				t.Fatalf("got %+v, %v", p, err)
			}
			got := strings.Split(err.Error(), "\n")
			for i := range c.want {
				if c.want[i][0] != ' ' { // a line that belongs to the one above
					c.want[i] = "p.yaml:" + c.want[i]
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestErrorsHavePositions(t *testing.T) {
	_, err := Parse("p.yaml", []byte(lines(`  - name: a`, `    dns: {effect: alert, deny: ["a..b"]}`)))
	var faults *Errors
	if !errors.As(err, &faults) {
		t.Fatalf("got %v", err)
	}
	want := []Fault{{Line: 4, Col: 33, Path: "rules[0].dns.deny[0]", Msg: `"a..b": empty label`}}
	if diff := cmp.Diff(want, faults.Faults); diff != "" {
		t.Error(diff)
	}
}

// A file of some kilobytes may not stand for more than memory holds.
func TestAliasBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("version: 1\nrules:\n  - name: a\n    dns: {effect: alert, deny: &d [")
	b.WriteString(strings.Repeat("a.test,", 1000))
	b.WriteString("]}\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "  - {name: r%d, dns: {effect: alert, deny: *d}}\n", i)
	}
	_, err := Parse("bomb", []byte(b.String()))
	if err == nil {
		t.Fatal("a million entries in a few kilobytes")
	}
	if want := "too much: the file's aliases stand for more than 100000 values"; strings.Count(err.Error(), "\n") > 0 || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %.500s", err)
	}
}

func TestSize(t *testing.T) {
	data := []byte("version: 1\n#" + strings.Repeat("x", maxSize))
	if _, err := Parse("p", data); err == nil || err.Error() != "p:1:1: larger than 16 MiB" {
		t.Errorf("got %v", err)
	}
	if _, err := Parse("p", data[:maxSize]); err != nil {
		t.Error(err)
	}
	for _, mark := range []string{"\n", "\r", ",", "[", "{", "- ", "?\t"} {
		data := []byte("version: 1\nrules: " + strings.Repeat(mark, maxMarks))
		if _, err := Parse("p", data); err == nil || err.Error() != "p:1:1: more than 262144 lines, commas and brackets" {
			t.Errorf("%q: got %.100v", mark, err)
		}
	}
}

// A file of nothing but mistakes: each is told. Looking for each in all others
// would not come to an end here.
func TestManyFaults(t *testing.T) {
	var b strings.Builder
	b.WriteString("version: 1\n")
	for i := range 10_000 {
		fmt.Fprintf(&b, "junk%d: 1\n", i)
	}
	b.WriteString("rules:\n  - name: a\n    dns:\n      effect: alert\n      deny:\n")
	b.WriteString(strings.Repeat("        - a..b\n", 10_000))
	_, err := Parse("p", []byte(b.String()))
	var faults *Errors
	if !errors.As(err, &faults) || len(faults.Faults) != 20_000 {
		t.Fatalf("got %.500v", err)
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if _, err := Load(path); !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "reading policy: ") {
		t.Errorf("no file: %v", err)
	}
	if _, err := Load(t.TempDir()); err == nil {
		t.Error("a directory is a policy")
	}
	if err := os.WriteFile(path, []byte(sample), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := Load(path); err != nil || p.Rules[0].Name != "sample" {
		t.Errorf("got %+v, %v", p, err)
	}
	if err := os.WriteFile(path, []byte("version: 3"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := path + ":1:10: version: 3 is not supported by this version; write 1"
	if p, err := Load(path); p != nil || err == nil || err.Error() != want {
		t.Errorf("got %+v, %v", p, err)
	}
}

// The default selects every workload and refuses nothing; of what is nothing
// special it does not tell.
func TestDefault(t *testing.T) {
	e, err := policy.Compile(Default(), policy.Workload{})
	if err != nil {
		t.Fatal(err)
	}
	if e.Rule() != "default" {
		t.Errorf("rule %q", e.Rule())
	}
	for _, s := range []policy.Section{policy.Processes, policy.DNS, policy.Network, policy.Files, policy.NoSection} {
		if e.Refuses(s) {
			t.Errorf("section %q may refuse", s)
		}
	}
	if n := e.Needs(); n.Has(policy.NeedPackages) || n.Has(policy.NeedProgramMalware) || n.Has(policy.NeedDigests) {
		t.Errorf("it has whole programs read: %s", n)
	}
	for _, ev := range []policy.Event{{}, {Kind: policy.Launch}, {Kind: policy.Lookup}, {Kind: policy.Outbound}} {
		if v := e.Decide(&ev); !v.Allow || v.Tell() {
			t.Errorf("kind %d: %+v", ev.Kind, v)
		}
	}
}

// The decoder knows the kind of every field, and every field has a key.
func TestSchema(t *testing.T) {
	var walk func(typ reflect.Type)
	walk = func(typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice:
			walk(typ.Elem())
		case reflect.Struct:
			for name, i := range fieldsOf(typ).index {
				if name == "" || name == "-" {
					t.Errorf("%s.%s has no yaml key", typ, typ.Field(i).Name)
				}
				walk(typ.Field(i).Type)
			}
		case reflect.String, reflect.Bool, reflect.Int:
		default:
			if typ != reflect.TypeFor[policy.Effect]() {
				t.Errorf("the decoder cannot read a %s", typ)
			}
		}
	}
	walk(reflect.TypeFor[policy.Policy]())
}

func BenchmarkParse(b *testing.B) {
	var s strings.Builder
	s.WriteString(lines(`  - name: a`, `    dns:`, `      effect: prevent`, `      deny:`))
	for i := range 10_000 {
		fmt.Fprintf(&s, "        - \"*.host%d.example.com\"\n", i)
	}
	data := []byte(s.String())
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("p", data); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{sample, sampleJSON, sampleAlias, string(defaultPolicy), "version: 1\nrules: &r [*r]\n", "version: 1\n---\n", "? [a]\n: b\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("p", data)
		if (p == nil) == (err == nil) {
			t.Fatalf("got %v, %v", p, err)
		}
		if err == nil {
			if found := p.Validate(); len(found) > 0 {
				t.Fatalf("faults that Parse missed: %v", found)
			}
			return
		}
		var faults *Errors
		if !errors.As(err, &faults) || len(faults.Faults) == 0 {
			t.Fatalf("error without faults: %v", err)
		}
		for i, f := range faults.Faults {
			if f.Line < 1 || f.Col < 1 || f.Msg == "" {
				t.Errorf("fault without a place or a word: %+v", f)
			}
			if i > 0 && f.Line < faults.Faults[i-1].Line {
				t.Error("faults are not in order")
			}
		}
	})
}

// People write names in their own letters; lookups have another form.
func TestNamesInOtherLetters(t *testing.T) {
	p, err := Parse("p.yaml", []byte(lines(`  - name: a`,
		`    dns: {effect: prevent, deny: ["*.B\u00fccher.example", "\uff42\uff41\uff44.test"], allow: ["**.\u4f8b\u3048.test"], private: ["*"]}`,
		`    network: {effect: alert, outbound: {allowNames: ["stra\u00dfe.test"], denyNames: [".\u65e5\u672c.test"]}}`)))
	if err != nil {
		t.Fatal(err)
	}
	got := [][]string{p.Rules[0].DNS.Deny, p.Rules[0].DNS.Allow, p.Rules[0].Network.Outbound.AllowNames, p.Rules[0].Network.Outbound.DenyNames}
	want := [][]string{{"*.xn--bcher-kva.example", "bad.test"}, {"**.xn--r8jz45g.test"}, {"xn--strae-oqa.test"}, {".xn--wgv71a.test"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := Parse("p.yaml", []byte(lines(`  - name: a`, `    dns: {effect: prevent, deny: ["a\u0378.test"]}`))); err == nil || !strings.Contains(err.Error(), "not ASCII") {
		t.Errorf("a letter that is none: %v", err)
	}
}
