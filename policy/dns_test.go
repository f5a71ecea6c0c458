package policy

import (
	"strings"
	"testing"
)

func TestLookup(t *testing.T) {
	const deny, miss = " is on the deny list", " is not on the allow list"
	for _, c := range []struct {
		name        string
		allow, deny []string
		domain      string
		reason      string // "" is allowed
	}{
		{"listed name", nil, list("evil.test"), "evil.test", `"evil.test"` + deny},
		{"its subdomain", nil, list("evil.test"), "a.evil.test", ""},
		{"its parent", nil, list("evil.test"), "test", ""},
		{"only a suffix", nil, list("evil.test"), "notevil.test", ""}, // no label boundary
		{"listed name as a label", nil, list("evil.test"), "evil.test.example", ""},

		{"below", nil, list("*.evil.test"), "a.evil.test", `"a.evil.test"` + deny + " (*.evil.test)"},
		{"far below", nil, list("*.evil.test"), "a.b.c.evil.test", `"a.b.c.evil.test"` + deny + " (*.evil.test)"},
		{"below, not itself", nil, list("*.evil.test"), "evil.test", ""},
		{"below, only a suffix", nil, list("*.evil.test"), "notevil.test", ""},
		{"a whole top level", nil, list("*.test"), "evil.test", `"evil.test"` + deny + " (*.test)"},

		{"both: itself", nil, list("**.evil.test"), "evil.test", `"evil.test"` + deny + " (**.evil.test)"},
		{"both: below", nil, list("**.evil.test"), "a.evil.test", `"a.evil.test"` + deny + " (**.evil.test)"},
		{"both: only a suffix", nil, list("**.evil.test"), "notevil.test", ""},
		{"dot: itself", nil, list(".evil.test"), "evil.test", `"evil.test"` + deny + " (.evil.test)"},
		{"dot: below", nil, list(".evil.test"), "a.evil.test", `"a.evil.test"` + deny + " (.evil.test)"},
		{"name and below, as two entries", nil, list("*.evil.test", "evil.test"), "evil.test", `"evil.test"` + deny},

		{"every name", nil, list("*"), "a.test", `"a.test"` + deny + " (*)"},
		{"every name, the root", nil, list("*"), "", `"."` + deny + " (*)"},
		{"every name, a single label", list("*"), nil, "localhost", ""},

		{"upper case in the entry", nil, list("*.EVIL.test"), "a.evil.test", `"a.evil.test"` + deny + " (*.EVIL.test)"},
		{"upper case in the query", nil, list("evil.test"), "eViL.tEsT", `"evil.test"` + deny},
		{"trailing dot in the query", nil, list("evil.test"), "evil.test.", `"evil.test"` + deny},
		{"trailing dot in the entry", nil, list("evil.test."), "evil.test", `"evil.test"` + deny + " (evil.test.)"},
		{"Kelvin sign is no k", nil, list("k.test"), "\u212a.test", ""},
		{"underscore", nil, list("_dns.evil.test"), "_dns.evil.test", `"_dns.evil.test"` + deny},

		{"on the allow list", list("gmail.com", "*.gmail.com"), nil, "gmail.com", ""},
		{"below on the allow list", list("gmail.com", "*.gmail.com"), nil, "mail.gmail.com", ""},
		{"not on the allow list", list("gmail.com"), nil, "yahoo.com", `"yahoo.com"` + miss},
		{"allowed name as a prefix", list("gmail.com"), nil, "gmail.com.evil.test", `"gmail.com.evil.test"` + miss},
		{"allowed name as a suffix", list("*.gmail.com"), nil, "evilgmail.com", `"evilgmail.com"` + miss},
		{"escaped dot is no boundary", list("*.gmail.com"), nil, `evil\.gmail.com`, `"evil\\.gmail.com"` + miss},
		{"escaped backslash, then a boundary", list("*.gmail.com"), nil, `a\\.gmail.com`, ""},
		{"escaped trailing dot", list("gmail.com"), nil, `gmail.com\.`, `"gmail.com\\."` + miss},
		{"the root on an allow list", list("gmail.com"), nil, "", `"."` + miss},
		{"empty labels", list("gmail.com"), nil, "..", `"."` + miss},

		{"deny beats allow", list("*.evil.test"), list("a.evil.test"), "a.evil.test", `"a.evil.test"` + deny},
		{"deny beats the same entry", list("evil.test"), list("evil.test"), "evil.test", `"evil.test"` + deny},
		{"deny beats allow, a sibling", list("*.evil.test"), list("a.evil.test"), "b.evil.test", ""},
		{"deny leaves the rest", nil, list("evil.test"), "good.test", ""},
		{"empty lists", nil, nil, "evil.test", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := compile(t, Rule{DNS: &DNSSection{Effect: new(Prevent), Allow: c.allow, Deny: c.deny}})
			check(t, e.Decide(lookup(c.domain)), DeniedDNS, c.reason)
		})
	}
}

// naiveDomain is what an entry means, said as plainly as possible.
func naiveDomain(entry, name string) bool {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	entry = strings.TrimSuffix(strings.ToLower(entry), ".")
	if entry == "*" {
		return true
	}
	if rest, ok := strings.CutPrefix(entry, "*."); ok {
		return strings.HasSuffix(name, "."+rest)
	}
	if rest, ok := strings.CutPrefix(strings.TrimPrefix(entry, "**"), "."); ok {
		return name == rest || strings.HasSuffix(name, "."+rest)
	}
	return name == entry
}

func FuzzDomains(f *testing.F) {
	f.Add("evil.test", "*.evil.test", "a.evil.test")
	f.Add("**.evil.test", ".b.test", "EVIL.test.")
	f.Add("*", "a", "")
	f.Fuzz(func(t *testing.T, a, b, name string) {
		var bad faults
		d := newDomains(list(a, b), "", &bad)
		if len(bad) > 0 {
			return
		}
		// Beyond ASCII and with escapes the naive matcher is too naive.
		for _, c := range name {
			if c >= 0x80 || c == '\\' {
				return
			}
		}
		entry, got := d.match(foldDomain(name))
		if want := naiveDomain(a, name) || naiveDomain(b, name); got != want {
			t.Errorf("%q in [%q %q]: got %t, want %t", name, a, b, got, want)
		}
		if got && !naiveDomain(entry, name) {
			t.Errorf("%q is not covered by %q, which was named", name, entry)
		}
	})
}
