package rules

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// event has a value of every type.
type event struct {
	names []string
	path  string
	argv  []string
	kind  string
	tty   bool
	port  int
	ip    netip.Addr
}

var schema = &Schema[*event]{
	Attributes: map[string]Attribute[*event]{
		"name": {Type: String, Strings: func(e *event, i int) (string, int) {
			if i >= len(e.names) {
				return "", -1
			}
			return e.names[i], i + 1
		}},
		"path": {Type: String, Strings: One(func(e *event) string { return e.path }), Costly: true},
		"cmd":  {Type: Command, Parts: func(e *event) []string { return e.argv }, Costly: true},
		"kind": {Type: Enum, Strings: One(func(e *event) string { return e.kind }), Words: []string{"elf", "folder"}, Costly: true},
		"tty":  {Type: Bool, Bool: func(e *event) bool { return e.tty }, Costly: true},
		"port": {Type: Integer, Integer: func(e *event) int { return e.port }},
		"ip":   {Type: Address, Address: func(e *event) netip.Addr { return e.ip }, Costly: true},
	},
	Explain: func(name string) string {
		if name == "service" {
			return "exists on hosts only"
		}
		return ""
	},
}

var sample = &event{
	names: []string{"sh", "dash"}, path: "/usr/bin/dash", argv: []string{"sh", "-c", "nc -l 80"}, kind: "elf", tty: true, port: 443,
	ip: netip.MustParseAddr("10.1.2.3"),
}

// Every type of attribute with every operator: whether it holds for the
// sample, or "-" where it is a fault.
func TestTypesAndOperators(t *testing.T) {
	type row map[string]string // operator → "right side:T|F" … or "right side:-"
	for attr, ops := range map[string]row{
		"name": {
			"=": `"sh":T "dash":T "s":F "SH":F path:F name:T port:- 5:- kind:F cmd:-`, "!=": `"sh":F "bash":T name:F path:T`, "<": `"z":-`, "<=": `"z":-`, ">": `"a":-`, ">=": `"a":-`,
			"startswith": `"da":T "as":F "":T`, "contains": `"as":T "x":F`, "in": `("a","dash"):T ("a"):F (5):- (path):-`, "not in": `("a"):T ("sh"):F`,
		},
		"path": {"=": `"/usr/bin/dash":T "/usr/bin/Dash":F`, "startswith": `"/usr/":T "usr":F 5:-`, "contains": `"bin":T name:T`, "in": `("/x","/usr/bin/dash"):T`},
		"cmd": {
			"=": `"sh\x20-c\x20nc\x20-l\x2080":T "sh\x20-c":F "":F`, "!=": `"sh":T`, "<": `"z":-`,
			"startswith": `"sh\x20-c":T "sh\x20-c\x20n":T "sh\x20-x":F "sh":T "":T`, "contains": `"-l":T "c\x20nc":T "\x20-c\x20":T "-c\x20\x20":F "h\x20-c\x20nc\x20-l\x2080":T "80\x20":F name:T`,
			"in": `("x","sh\x20-c\x20nc\x20-l\x2080"):T`,
		},
		"kind": {"=": `"elf":T elf:T folder:F "x":- x:- 5:-`, "!=": `folder:T elf:F`, "<": `elf:-`, "startswith": `"e":-`, "contains": `"e":-`, "in": `(elf,folder):T ("folder"):F (x):-`},
		"tty":  {"=": `true:T false:F tty:T "true":- port:- 1:-`, "!=": `true:F false:T`, "<": `true:-`, "startswith": `"t":-`, "contains": `"t":-`, "in": `(true):T`},
		"port": {
			"=": `443:T "443":T 80:F "x":- ip:- port:T`, "!=": `"443":F 80:T`, "<": `444:T 443:F "1000":T`, "<=": `443:T 442:F`, ">": `442:T 443:F`, ">=": `443:T`, "=>": `443:T 444:F`,
			"startswith": `"44":T 44:T "3":F`, "contains": `"43":T "5":F`, "in": `(80,443):T ("443"):T (80):F ("x"):-`,
		},
		"ip": {
			"=": `"10.1.2.3":T "10.0.0.0/8":T "10.1.0.0/24":F "::ffff:10.1.2.3":T "x":- "10.1.2.3/8":- ip:T name:- 5:-`, "!=": `"10.0.0.0/8":F "11.0.0.0/8":T`,
			"<": `"10.1.2.4":T "9.0.0.0":F "::1":F "10.0.0.0/8":-`, "<=": `"10.1.2.3":T`, ">": `"10.1.2.2":T "10.10.0.0":F "::1":F`, ">=": `"10.1.2.3":T`, "=>": `"9.9.9.9":T`,
			"startswith": `"10.1.":T "1.":F`, "contains": `".2.":T`, "in": `("192.0.2.1","10.0.0.0/8"):T ("192.0.2.0/24"):F`,
		},
	} {
		for op, cases := range ops {
			for _, c := range strings.Fields(cases) {
				cut := strings.LastIndexByte(c, ':')
				script, want := attr+" "+op+" "+c[:cut], c[cut+1:]
				got := "-"
				rule, err := Compile(script, schema)
				if err == nil {
					got = map[bool]string{true: "T", false: "F"}[rule.Matches(sample)]
				}
				if got != want {
					t.Errorf("%s: %s, want %s (%v)", script, got, want, err)
				}
			}
		}
	}
}

func TestGrammar(t *testing.T) {
	for _, c := range []struct {
		script string
		want   bool
	}{
		{`tty`, true},
		{`not tty`, false},
		{`not not tty`, true},
		{`(tty)`, true},
		{`(name) = "sh"`, true},
		{`"sh" = name`, true},
		{`400 < port`, true},
		{`"500" > port and 443 <= port`, true},
		{`"a bell" contains name`, false},
		{`"a sh" contains name`, true},
		{`not name = "sh"`, false},
		{`not name = "bash"`, true},
		{`not name = "bash" and tty`, true},
		{`not (name = "bash" or tty)`, false},
		{`tty or tty and name = "x"`, true}, // and binds tighter
		{`(tty or tty) and name = "x"`, false},
		{`name = "x" and tty or port = 443`, true},
		{`name = "x" and (tty or port = 443)`, false},
		{"tty\n  and\r\n\tport=443", true},
		{`name="sh"and port=443`, true},
		{`path != name`, true},
		{`port = -1`, false},
		{`cmd contains "-c" and not name in ("a", "b", "c", "d", "e", "f", "g", "h", "i")`, true},
		{`name in ("a", "b", "c", "d", "e", "f", "g", "h", "i", "dash")`, true},
		{`cmd in ("a", "b", "c", "d", "e", "f", "g", "h", "i", "sh -c nc -l 80")`, true},
		{`path = "\x2fusr\x2Fbin/dash"`, true},
		{`path != "\"\\\n\r\t"`, true},
	} {
		rule, err := Compile(c.script, schema)
		if err != nil {
			t.Errorf("%s:\n%v", c.script, err)
		} else if got := rule.Matches(sample); got != c.want {
			t.Errorf("%s: %t", c.script, got)
		}
	}
}

func TestFaults(t *testing.T) {
	const all = "cmd, ip, kind, name, path, port, tty"
	for _, c := range []struct{ script, want string }{
		{``, "line 1, column 1: empty; write a condition, such as proc.name = \"nc\"\n  \n  ^"},
		{`name = and`, "line 1, column 8: \"and\" here; want a string, an integer or an attribute\n  name = and\n         ^"},
		{"tty and\n\tname == \"x\"", "line 2, column 7: \"==\" is not part of the language; write =\n  \tname == \"x\"\n  \t     ^"},
		{`näme = "x"`, "line 1, column 2: 'ä' is not part of the language\n  näme = \"x\"\n   ^"},
		{`name = "ä" tty`, "line 1, column 12: \"tty\" here; want and, or, or the end\n  name = \"ä\" tty\n             ^"},
		{`na = "x"`, `line 1, column 1: "na" is no attribute; one of ` + all},
		{`pathx = "x"`, `line 1, column 1: "pathx" is no attribute; did you mean path?`},
		{`prt = 5`, `line 1, column 1: "prt" is no attribute; did you mean port?`},
		{`nime = "x"`, `line 1, column 1: "nime" is no attribute; did you mean name?`},
		{`service = "x"`, `line 1, column 1: service exists on hosts only`},
		{`name`, `line 1, column 1: name is a string, not a condition; compare it`},
		{`"x"`, `line 1, column 1: a condition is wanted, not a value`},
		{`tty and 5`, `line 1, column 9: a condition is wanted, not a value`},
		{`"a" = "a"`, `line 1, column 5: two constants are compared, which is always the same`},
		{`name = x`, `line 1, column 8: x is no attribute; a text stands in quotes: "x"`},
		{`name = pth`, `line 1, column 8: "pth" is no attribute; did you mean path?`},
		{`name = service`, `line 1, column 8: service exists on hosts only`},
		{`port = x`, `line 1, column 8: "x" is no attribute; one of ` + all},
		{`kind = exe`, `line 1, column 8: kind is never "exe"; one of elf, folder`},
		{`tty = yes`, `line 1, column 7: tty is true or false`},
		{`x = name`, `line 1, column 1: x is no attribute; a text stands in quotes: "x"`},
		{`name = 5`, `line 1, column 8: name is a string; write "5"`},
		{`name < "x"`, `line 1, column 6: name is a string, which has no order; want = or !=`},
		{`name = port`, `line 1, column 6: name is a string and port is an integer`},
		{`port = "x"`, `line 1, column 8: port is an integer, and "x" is none`},
		{`port = 99999999999999999999`, `line 1, column 8: port is an integer, and "99999999999999999999" is none`},
		{`port = 5x`, `line 1, column 8: port is an integer, and "5x" is none`},
		{`ip = "x"`, `line 1, column 6: ip is an address, and "x" is neither one nor a prefix such as 10.0.0.0/8`},
		{`ip = "10.0.0.1/8"`, `line 1, column 6: "10.0.0.1/8" has host bits set; write 10.0.0.0/8`},
		{`ip < "10.0.0.0/8"`, `line 1, column 6: "10.0.0.0/8" is a prefix, which has no order; want = or !=`},
		{`kind = "exe"`, `line 1, column 8: kind is never "exe"; one of elf, folder`},
		{`tty = 1`, `line 1, column 7: tty is true or false`},
		{`name = "a" = "b"`, `line 1, column 12: "=" here; comparisons are joined by and`},
		{`(name = "a") = tty`, `line 1, column 7: a condition is compared; join conditions by and and or`},
		{`name in "a"`, `line 1, column 9: the string "a" here; want a list, such as ("a", "b")`},
		{`name in ()`, `line 1, column 10: ")" here; want a string or an integer`},
		{`name in ("a" "b")`, `line 1, column 14: the string "b" here; want "," or ")"`},
		{`name in ("a", path)`, `line 1, column 15: "path" here; want a string or an integer`},
		{`"a" in ("a")`, `line 1, column 1: in wants an attribute on its left`},
		{`name not "a"`, `line 1, column 6: "not" here; want an operator, or "not" before the comparison`},
		{`(tty`, `line 1, column 5: the end here; want ")"`},
		{"(tty\n", "line 1, column 5: the end here; want \")\"\n  (tty\n      ^"},
		{"tty and\n  \n", "line 1, column 8: the end here; want a string, an integer or an attribute\n  tty and\n         ^"},
		{`tty)`, `line 1, column 4: ")" here; want and, or, or the end`},
		{`tty AND tty`, `line 1, column 5: "AND" here; keywords are lower-case: write and`},
		{`name IN ("x")`, `line 1, column 6: "IN" here; keywords are lower-case: write in`},
		{`NOT tty`, `line 1, column 1: "NOT" here; keywords are lower-case: write not`},
		{`name = "x`, `line 1, column 8: the string does not end`},
		{"name = \"x\n\"", `line 1, column 8: the string does not end in its line`},
		{`name = "\d"`, `line 1, column 9: after a backslash there is one of " \ n r t and x with two hexadecimals`},
		{`name = "\x4"`, `line 1, column 9: after a backslash there is one of " \ n r t and x with two hexadecimals`},
		{`name = 'x'`, `line 1, column 8: "'" is not part of the language; write double quotes`},
		{`tty && tty`, `line 1, column 5: "&&" is not part of the language; write and`},
		{`!tty`, `line 1, column 1: "!" is not part of the language; write not`},
		{"tty \x1b", "line 1, column 5: '\\x1b' is not part of the language\n  tty ?\n      ^"},
		{strings.Repeat("(", 101) + "tty", `line 1, column 101: nested deeper than 100`},
		{strings.Repeat("not ", 101) + "tty", `line 1, column 401: nested deeper than 100`},
		{strings.Repeat(" ", maxScript+1), `line 1, column 1: longer than 64 KiB`},
	} {
		_, err := Compile(c.script, schema)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%s: %v", c.script, err)
			continue
		}
		got := err.Error()
		if !strings.Contains(c.want, "\n") {
			got, _, _ = strings.Cut(got, "\n")
		}
		if got != c.want {
			t.Errorf("%s:\n%s\nwant:\n%s", c.script, got, c.want)
		}
	}
}

func TestNothingKnown(t *testing.T) {
	none := &event{}
	for script, want := range map[string]bool{
		`name = "sh"`: false, `name != "sh"`: true, `name = ""`: false, `path = ""`: true, `ip = "0.0.0.0/0"`: false, `ip != "10.0.0.1"`: true,
		`ip < "255.0.0.0"`: false, `ip startswith ""`: false, `cmd = ""`: true, `cmd contains ""`: true, `cmd contains "x"`: false, `ip = ip`: false, `port = 0`: true,
	} {
		rule, err := Compile(script, schema)
		if err != nil {
			t.Fatal(err)
		}
		if got := rule.Matches(none); got != want {
			t.Errorf("%s: %t", script, got)
		}
	}
}

func TestUses(t *testing.T) {
	rule, err := Compile(`name = "x" or not (port = 5 and name != path)`, schema)
	if err != nil || !slices.Equal(rule.Uses(), []string{"name", "path", "port"}) {
		t.Errorf("%v, %v", rule.Uses(), err)
	}
}

// A rule holds for no event that does not have its needle.
func TestNeedles(t *testing.T) {
	for _, c := range []struct{ script, want string }{
		{`name contains "sh"`, "name: sh"},
		{`cmd contains "-l 8"`, "cmd: -l 8"},
		{`cmd contains "l"`, ""}, // one byte
		{`name startswith "s"`, "name: ^s"},
		{`cmd startswith "sh"`, ""},
		{`name contains "abc" and path startswith "/" and tty`, "path: ^/"},
		{`name contains "abc" and path contains "abcd"`, "path: abcd"},
		{`name contains "abc" or path contains "abcd"`, ""},
		{`not name contains "abc"`, ""},
		{`port contains "80"`, ""},
		{`name contains path`, ""},
		{`"abc" contains name`, ""},
	} {
		rule, err := Compile(c.script, schema)
		if err != nil {
			t.Fatalf("%s: %v", c.script, err)
		}
		got := ""
		if attribute, text, start, ok := rule.Needle(); ok {
			got = attribute + ": " + map[bool]string{true: "^"}[start] + text
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.script, got, c.want)
		}
	}
}

// A rule holds for no event that has none of its keys.
func TestKeys(t *testing.T) {
	for _, c := range []struct{ script, want string }{
		{`name = "sh"`, "name: sh"},
		{`"sh" = name`, "name: sh"},
		{`name in ("a", "b")`, "name: a b"},
		{`port = 5 and name = "a" and path = "b"`, "name: a"},
		{`name = "a" or name in ("b", "c")`, "name: a b c"},
		{`(name = "a" and tty) or (name = "b" and port = 1)`, "name: a b"},
		{`name = "a" or path = "b"`, ""},
		{`name = "a" or tty`, ""},
		{`not name = "a"`, ""},
		{`name != "a"`, ""},
		{`name not in ("a")`, ""},
		{`name startswith "a"`, ""},
		{`name = path`, ""},
		{`kind = elf`, ""},
		{`cmd = "a"`, ""},
		{`port in (1, "07")`, "port: 1 7"},
		{`port = 5 and path contains "b"`, "port: 5"},
		{`port != 5`, ""},
		{`(port = 1 and name = "a") or name = "b"`, "name: a b"},
	} {
		rule, err := Compile(c.script, schema)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if attribute, values, ok := rule.Keys(); ok {
			got = attribute + ": " + strings.Join(values, " ")
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.script, got, c.want)
		}
	}
}

func TestMessage(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"plain, 100 % and %5", "plain, 100 % and %5"},
		{"%name was spawned", "sh was spawned"},
		{"%path: %cmd on %ip:%port (%kind, %tty).", "/usr/bin/dash: sh -c nc -l 80 on 10.1.2.3:443 (elf, true)."},
		{"by %name.", "by sh."},
		{"%name%name", "shsh"},
	} {
		m, err := CompileMessage(c.text, schema)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
		} else if got := m.Expand(sample); got != c.want {
			t.Errorf("%s: %q", c.text, got)
		}
	}
	if m, err := CompileMessage("%name by %nobody", schema); m != nil || err == nil || !strings.HasPrefix(err.Error(), `line 1, column 11: "nobody" is no attribute`) {
		t.Errorf("%v", err)
	}
	m, err := CompileMessage("%name %path %ip %cmd", schema)
	if err != nil || m.Expand(&event{}) != "   " || len(m.Uses()) != 4 {
		t.Errorf("%v", err)
	}
}

func TestMatchesAllocatesNothing(t *testing.T) {
	for _, script := range []string{
		`name in ("a", "b") or path startswith "/opt" or cmd contains "-x y" or cmd = "sh" or kind = folder or not tty`,
		`port > 500 or port startswith "5" or ip = "192.0.2.0/24" or ip contains "192." or ip > "11.0.0.0" or path = name`,
		`name in ("1", "2", "3", "4", "5", "6", "7", "8", "9")`,
	} {
		rule, err := Compile(script, schema)
		if err != nil {
			t.Fatal(err)
		}
		if rule.Matches(sample) {
			t.Errorf("%s holds", script)
		}
		if n := testing.AllocsPerRun(100, func() { rule.Matches(sample) }); n != 0 {
			t.Errorf("%s: %v allocations", script, n)
		}
	}
}

func BenchmarkMatches(b *testing.B) {
	rule, err := Compile(`name in ("nc", "ncat") and cmd contains "-l" or ip >= "11.0.0.0" and path startswith "/opt"`, schema)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		rule.Matches(sample)
	}
}

// Parts are compared as the string that they make.
func FuzzParts(f *testing.F) {
	f.Add("sh", "-c", "nc -l", "c nc")
	f.Add("", "", " ", " ")
	f.Fuzz(func(t *testing.T, a, b, c, want string) {
		for _, parts := range [][]string{nil, {a}, {a, b}, {a, b, c}} {
			have := strings.Join(parts, " ")
			for _, op := range []string{"=", "startswith", "contains"} {
				if got := compareParts(op, parts, want); got != compareStrings(op, have, want) {
					t.Errorf("%q %s %q: %t", parts, op, want, got)
				}
				if got := compareBytes(op, []byte(have), want); op != "=" && got != compareStrings(op, have, want) {
					t.Errorf("%q %s %q: %t", have, op, want, got)
				}
			}
		}
	})
}

func hasOne(get func(*event, int) (string, int), e *event, values []string) bool {
	for v, next := get(e, 0); next >= 0; v, next = get(e, next) {
		if slices.Contains(values, v) {
			return true
		}
	}
	return false
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{
		`name in ("a", "b") and not tty`, `port => "1" or ip = "10.0.0.0/8"`, `(((tty`, `kind = elf`, "cmd contains \"\\x41\\\"\"\n", `"a" startswith name`, `not in (`, "%name",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, script string) {
		rule, err := Compile(script, schema)
		if (rule == nil) != (err != nil) {
			t.Fatal(rule, err)
		}
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Line < 1 || e.Col < 1 || strings.Count(err.Error(), "\n") != 2 {
				t.Errorf("%q", err)
			}
		} else {
			for _, e := range []*event{sample, {}} {
				if !rule.Matches(e) {
					continue
				}
				if before := (event{names: e.names, port: e.port}); !rule.Might(&before) {
					t.Errorf("%q holds, and could not before the costly attributes were known", script)
				}
				if attribute, values, ok := rule.Keys(); ok && !hasOne(schema.Attributes[attribute].Strings, e, values) {
					t.Errorf("%q holds without %s being one of %q", script, attribute, values)
				}
			}
		}
		if m, err := CompileMessage(script, schema); err == nil {
			m.Expand(sample)
		}
	})
}
