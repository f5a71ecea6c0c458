package policy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestValidate(t *testing.T) {
	p := &Policy{
		Version: 2,
		Rules: []Rule{
			{
				Name:      "a",
				Scope:     Scope{Images: list("*", "", "-"), AppIDs: list("x ", "-ok")},
				Processes: &ProcessesSection{Deny: list("nc", "", "bin/nc")},
				Network: &NetworkSection{
					Effect: new(Effect(9)),
					Outbound: OutboundSection{
						Allow:      list("10.0.0.1/8", "x"),
						DenyPorts:  list("25", "0"),
						AllowPorts: list("80-"),
					},
				},
			},
			{Name: "a", Disabled: true, OnUnknown: new(Effect(77))},
			{Name: " ", DNS: &DNSSection{Effect: new(Alert), Allow: list("a.test", "a.*"), Deny: list("a.test")}},
		},
	}
	var got []string
	for _, f := range p.Validate() {
		got = append(got, f.Error())
	}
	want := []string{
		`version: 2 is not supported by this version; write 1`,
		`rules[0].scope.images[1]: empty`,
		`rules[0].scope.images[2]: "-" excludes nothing; write what to exclude behind it`,
		`rules[0].scope.appIDs[0]: "x " has white space around it`,
		`rules[0].processes.effect: missing; one of disable, alert, prevent, block`,
		`rules[0].processes.deny[1]: empty`,
		`rules[0].processes.deny[2]: "bin/nc" is a relative path; write an absolute one or a name`,
		`rules[0].network.effect: 9 is not an effect; one of disable, alert, prevent, block`,
		`rules[0].network.outbound.allow[0]: "10.0.0.1/8" has host bits set; write 10.0.0.0/8, or 10.0.0.1 for the one address`,
		`rules[0].network.outbound.allow[1]: "x" is neither an address nor a prefix such as 10.0.0.0/8`,
		`rules[0].network.outbound.allowPorts[0]: "80-" is neither a port, 1 to 65535, nor a range such as 6660-6669`,
		`rules[0].network.outbound.denyPorts[1]: "0" is neither a port, 1 to 65535, nor a range such as 6660-6669`,
		`rules[1].name: "a" is already the name of rules[0]`,
		`rules[1].onUnknown: 77 is not an effect; one of disable, alert, prevent, block`,
		`rules[2].name: missing`,
		`rules[2].dns.allow[1]: "a.*": a "*" stands alone or as the whole first label ("*.example.com", "**.example.com")`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

func TestEntries(t *testing.T) {
	long := strings.Repeat("a", 64)
	domain := func(s string) error { _, err := parseDomain(s); return err }
	prefix := func(s string) error { _, err := parsePrefix(s); return err }
	port := func(s string) error { _, _, err := parsePorts(s); return err }
	const star = `: a "*" stands alone or as the whole first label ("*.example.com", "**.example.com")`
	for _, c := range []struct {
		check func(string) error
		entry string
		want  string // "" is no fault
	}{
		{domain, "example.com", ""},
		{domain, "*.example.com", ""},
		{domain, "**.example.com", ""},
		{domain, ".example.com", ""},
		{domain, "Example.COM.", ""},
		{domain, "_acme-challenge.a-.xn--bcher-kva.test", ""},
		{domain, "localhost", ""},
		{domain, "", "empty"},
		{domain, ".", `".": no name`},
		{domain, "*.", `"*.": no name`},
		{domain, "**", `"**"` + star},
		{domain, "*a.test", `"*a.test"` + star},
		{domain, "a.*.test", `"a.*.test"` + star},
		{domain, "*.*.test", `"*.*.test"` + star},
		{domain, "***.test", `"***.test"` + star},
		{domain, "a..test", `"a..test": empty label`},
		{domain, "..a.test", `"..a.test": empty label`},
		{domain, "bücher.test", `"bücher.test": label "bücher" is not ASCII; write its xn-- form`},
		{domain, "-evil.test", `"-evil.test": label "-evil" begins with a hyphen`},
		{domain, " evil.test", `" evil.test": label " evil" has a ' '; letters, digits, hyphens and underscores make a label`},
		{domain, "https://evil.test/", `"https://evil.test/": label "https://evil" has a ':'; letters, digits, hyphens and underscores make a label`},
		{domain, "10.0.0.1", `"10.0.0.1" is an address, not a name; addresses belong in network.outbound`},
		{domain, "::1", `"::1" is an address, not a name; addresses belong in network.outbound`},
		{domain, long + ".test", `"` + long + `.test": label "` + long + `" is longer than 63 characters`},
		{domain, strings.Repeat("a.", 127), ""},
		{domain, strings.Repeat("a.", 128), `"` + strings.Repeat("a.", 128) + `": longer than 253 characters`},

		{prefix, "10.0.0.0/8", ""},
		{prefix, "10.0.0.1", ""},
		{prefix, "10.0.0.1/32", ""},
		{prefix, "::ffff:10.0.0.0/104", ""},
		{prefix, "2001:db8::/32", ""},
		{prefix, "0.0.0.0/0", ""},
		{prefix, "", "empty"},
		{prefix, "10.0.0.0/33", `"10.0.0.0/33" is not a prefix such as 10.0.0.0/8 or 2001:db8::/32`},
		{prefix, "10.0.0/8", `"10.0.0/8" is not a prefix such as 10.0.0.0/8 or 2001:db8::/32`},
		{prefix, "10.0.0.01", `"10.0.0.01" is neither an address nor a prefix such as 10.0.0.0/8`},
		{prefix, "10.*", `"10.*" is neither an address nor a prefix such as 10.0.0.0/8`},
		{prefix, "evil.test", `"evil.test" is neither an address nor a prefix such as 10.0.0.0/8`},
		{prefix, "8.8.8.8:53", `"8.8.8.8:53" is neither an address nor a prefix such as 10.0.0.0/8`},
		{prefix, "2001:db8::1/32", `"2001:db8::1/32" has host bits set; write 2001:db8::/32, or 2001:db8::1 for the one address`},
		{prefix, "fe80::1%eth0", `"fe80::1%eth0" has a zone; write fe80::1`},

		{port, "1", ""},
		{port, "65535", ""},
		{port, "6660-6669", ""},
		{port, "25-25", ""},
		{port, "", "empty"},
		{port, "6669-6660", `"6669-6660" runs backwards; write 6660-6669`},
		{port, "65536", `"65536" is neither a port, 1 to 65535, nor a range such as 6660-6669`},
		{port, "-25", `"-25" is neither a port, 1 to 65535, nor a range such as 6660-6669`},
		{port, "025", `"025" is neither a port, 1 to 65535, nor a range such as 6660-6669`},
		{port, "0x19", `"0x19" is neither a port, 1 to 65535, nor a range such as 6660-6669`},
		{port, "1-2-3", `"1-2-3" is neither a port, 1 to 65535, nor a range such as 6660-6669`},
		{port, "25 - 26", `"25 - 26" is neither a port, 1 to 65535, nor a range such as 6660-6669`},
		{port, "smtp", `"smtp" is neither a port, 1 to 65535, nor a range such as 6660-6669`},

		{checkProgram, "mkdir", ""},
		{checkProgram, "/usr/bin/mkdir", ""},
		{checkProgram, "/opt/My App/run", ""},
		{checkProgram, "*", ""},
		{checkProgram, "*/mkdir", ""},
		{checkProgram, "/usr/bin/*", ""},
		{checkProgram, "python3.*", ""},
		{checkProgram, "", "empty"},
		{checkProgram, "mkdir ", `"mkdir " has white space around it`},
		{checkProgram, "bin/mkdir", `"bin/mkdir" is a relative path; write an absolute one or a name`},
		{checkProgram, "./mkdir", `"./mkdir" is a relative path; write an absolute one or a name`},
		{checkProgram, "/usr/bin/", `"/usr/bin/" is a directory; write "/usr/bin/*" for the programs in it`},
		{checkProgram, "/bin/../sbin/nc", `"/bin/../sbin/nc" has a ".", a ".." or a double slash; write "/sbin/nc"`},
		{checkProgram, "//bin/nc", `"//bin/nc" has a ".", a ".." or a double slash; write "/bin/nc"`},
		{checkProgram, "sha256:" + strings.Repeat("aB", 32), ""},
		{checkProgram, "sha256:aa", `"sha256:aa" has 2 hexadecimals; this digest has 64`},
		{checkProgram, "sha256:" + strings.Repeat("g", 64), `"sha256:` + strings.Repeat("g", 64) + `" has a 'g'; a digest is hexadecimals`},
	} {
		got := ""
		if err := c.check(c.entry); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%q:\ngot  %s\nwant %s", c.entry, got, c.want)
		}
	}
}
