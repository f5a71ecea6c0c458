package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// dnsJudge judges lookups by the lists of a DNSSection.
type dnsJudge struct {
	effect      Effect
	allow, deny *domains // nil: the list is empty
	answer      string   // Verdict.Answer
	checks      []active
	strictest   Effect
}

// dnsChecks are the detections of a DNSSection.
var dnsChecks = []detector[DNSSection]{
	{key: "detect.minerPools", detection: MiningPool, kind: Lookup,
		effect: func(s *DNSSection) *Effect { return s.Detect.MinerPools },
		holds: func(ev *Event) string {
			if host := pool(foldDomain(ev.Domain)); host != "" {
				return quote(host) + " is a mining pool"
			}
			return ""
		}},
	{key: "detect.encryptedDNS", detection: EncryptedDNS, kind: Lookup,
		effect: func(s *DNSSection) *Effect { return s.Detect.EncryptedDNS },
		holds: func(ev *Event) string {
			if host, ok := encryptedDNS.match(foldDomain(ev.Domain)); ok {
				return quote(host) + " resolves names where nobody can see which"
			}
			return ""
		}},
	{key: "detect.tunnels", detection: Tunnel, kind: Lookup,
		effect: func(s *DNSSection) *Effect { return s.Detect.Tunnels },
		holds: func(ev *Event) string {
			if _, home := atHome.match(foldDomain(ev.Domain)); home {
				return ""
			}
			return ev.Tunnel
		}},
}

// rebinding is the check for public names that lead to private addresses,
// those in exempt aside.
func rebinding(exempt *domains) detector[DNSSection] {
	return detector[DNSSection]{
		key: "detect.rebinding", detection: Rebinding, kind: Lookup,
		effect: func(s *DNSSection) *Effect { return s.Detect.Rebinding },
		holds: func(ev *Event) string {
			for _, addr := range ev.Answer.Addrs {
				if !private(addr) {
					continue
				}
				name := foldDomain(ev.Domain)
				if _, ok := exempt.match(name); ok {
					return ""
				}
				if _, ok := atHome.match(name); ok || strings.IndexByte(name, '.') < 0 {
					return ""
				}
				return quoteDomain(name) + " leads to " + addr.String()
			}
			return ""
		},
	}
}

// atHome are the names that are no public ones (RFC 6761, RFC 6762, RFC 8375,
// and what ICANN reserves for private use).
var atHome = newDomains([]string{
	"**.internal", "**.local", "**.localhost", "**.home.arpa", "**.in-addr.arpa", "**.ip6.arpa", "**.test", "**.invalid",
	"**.lan", "**.home", "**.corp", "**.intranet", "**.private",
}, "", new(faults))

// private reports whether an address is not one on the internet, or leads to
// one that is not.
func private(a netip.Addr) bool {
	a = a.Unmap()
	inner := embeddedIn(a)
	if _, ok := inner.find(private4); ok {
		return true
	}
	return a.IsUnspecified() || !internet(a) || ula.Contains(a)
}

func private4(a netip.Addr) bool { return a.IsUnspecified() || !internet(a) }

// Words for DNSSection.Answer and Verdict.Answer, beside addresses.
const (
	AnswerNoName  = "nxdomain"
	AnswerRefused = "refused"
	AnswerEmpty   = "empty"
)

// parseAnswer reads how refused lookups are answered.
func parseAnswer(s string) (string, error) {
	switch s {
	case "", AnswerNoName:
		return "", nil
	case AnswerRefused, AnswerEmpty:
		return s, nil
	}
	addr, err := netip.ParseAddr(s)
	switch {
	case err != nil || addr.Zone() != "":
		return "", fmt.Errorf("%q is none of nxdomain, refused, empty, nor an address", s)
	case addr.IsUnspecified():
		return "", fmt.Errorf("%q leads to the application itself; choose an address that nobody has", s)
	}
	return addr.Unmap().String(), nil
}

// newDNS prepares s and reports its faults under path. It returns nil for a
// section that says nothing.
func newDNS(s *DNSSection, path string, f *faults) *dnsJudge {
	if s == nil {
		return nil
	}
	checkEffect(s.Effect, path+".effect", f)
	j := &dnsJudge{
		allow: newDomains(s.Allow, path+".allow", f),
		deny:  newDomains(s.Deny, path+".deny", f),
	}
	var err error
	if j.answer, err = parseAnswer(s.Answer); err != nil {
		f.add(path+".answer", "%s", err)
	}
	exempt := newDomains(s.Private, path+".private", f)
	j.checks = newChecks(s, append(dnsChecks[:len(dnsChecks):len(dnsChecks)], rebinding(exempt)), s.Effect, path, f)
	if speaks(s.Effect) {
		j.effect = *s.Effect
	} else {
		j.allow, j.deny = nil, nil
	}
	j.strictest = strictest(j.allow != nil || j.deny != nil, j.effect, j.checks)
	if j.strictest == Disable {
		return nil
	}
	return j
}

// judge judges the name asked for, and the names that its answer leads to if
// it is known. Those are judged by the deny list alone: who allows a name
// allows it with its aliases, which others choose and change.
//
// localhost is the container itself (RFC 6761 6.3): an allow list need not
// name it, but a deny entry that covers it holds.
func (j *dnsJudge) judge(ev *Event) (Detection, string) {
	name := foldDomain(ev.Domain)
	if entry, ok := j.deny.match(name); ok {
		return DeniedDNS, listed(quoteDomain(name), name, entry)
	}
	if j.allow != nil && name != "localhost" && !strings.HasSuffix(name, ".localhost") {
		if _, ok := j.allow.match(name); !ok {
			return DeniedDNS, notListed(quoteDomain(name))
		}
	}
	if j.deny != nil {
		for _, target := range ev.Answer.Names {
			target = foldDomain(target)
			if entry, ok := j.deny.match(target); ok {
				return DeniedDNS, quoteDomain(name) + " leads to " + listed(quoteDomain(target), target, entry)
			}
		}
	}
	return NothingDetected, ""
}

// quoteDomain quotes a name for people; the root's is a dot.
func quoteDomain(name string) string {
	if name == "" {
		name = "."
	}
	return strconv.Quote(name)
}

// domains is a list of domain patterns. A lookup costs a hash for each label
// of the name, but for no more labels than the longest pattern has: a long
// name is no dearer than a short one.
type domains struct {
	entries []string // as written
	names   map[string]domain
	labels  int // of the longest pattern
	every   int // where "*" is in entries, or -1
}

// domain says which entries cover a name itself and what is below it, as
// indexes into domains.entries plus one, 0 for none.
type domain struct {
	itself, below int
}

// newDomains reads entries and reports their faults under path. An empty list
// is nil.
func newDomains(entries []string, path string, f *faults) *domains {
	if len(entries) == 0 {
		return nil
	}
	d := &domains{entries: slices.Clone(entries), names: make(map[string]domain, len(entries)), every: -1}
	for i, s := range entries {
		if s == "*" {
			d.every = i
			continue
		}
		p, err := parseDomain(s)
		if err != nil {
			f.addEntry(path, i, err)
			continue
		}
		known := d.names[p.name]
		if p.itself {
			known.itself = i + 1
		}
		if p.below {
			known.below = i + 1
		}
		d.names[p.name] = known
		d.labels = max(d.labels, strings.Count(p.name, ".")+1)
	}
	return d
}

// match returns the entry that covers name, which foldDomain has folded. The
// nil list covers nothing.
func (d *domains) match(name string) (entry string, ok bool) {
	if d == nil {
		return "", false
	}
	if d.every >= 0 {
		return d.entries[d.every], true
	}
	end := len(name)
	for range d.labels {
		dot := lastDot(name[:end])
		known, listed := d.names[name[dot+1:]]
		switch {
		case listed && dot < 0 && known.itself > 0:
			return d.entries[known.itself-1], true
		case listed && dot >= 0 && known.below > 0:
			return d.entries[known.below-1], true
		case dot < 0:
			return "", false
		}
		end = dot
	}
	return "", false
}

// lastDot returns the index of the last dot that ends a label, or -1. A dot
// behind an odd number of backslashes is part of its label: `a\.evil.test` is
// a name below test, not below evil.test.
func lastDot(s string) int {
	for {
		dot := strings.LastIndexByte(s, '.')
		i := dot
		for i > 0 && s[i-1] == '\\' {
			i--
		}
		if dot < 0 || (dot-i)%2 == 0 {
			return dot
		}
		s = s[:dot]
	}
}

// foldDomain returns name in lower case and without the trailing dot. It
// allocates only for a name that has an upper-case letter. Only ASCII letters
// have case in the DNS.
func foldDomain(name string) string {
	if n := len(name); n > 0 && lastDot(name) == n-1 {
		name = name[:n-1]
	}
	for i := range len(name) {
		if 'A' <= name[i] && name[i] <= 'Z' {
			b := []byte(name)
			for ; i < len(b); i++ {
				if 'A' <= b[i] && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return name
}

// domainPattern is an entry of a DNS list but for "*".
type domainPattern struct {
	name          string // folded
	itself, below bool   // what it covers
}

// parseDomain reads an entry of a DNS list.
//
// Stars count only as one leading label. A star elsewhere is refused, not
// guessed at: in "api.*.test" the writer expects a meaning we do not give.
func parseDomain(s string) (domainPattern, error) {
	p := domainPattern{itself: true}
	name := s
	if rest, ok := strings.CutPrefix(s, "**."); ok {
		p.below, name = true, rest
	} else if rest, ok := strings.CutPrefix(s, "*."); ok {
		p.below, p.itself, name = true, false, rest
	} else if rest, ok := strings.CutPrefix(s, "."); ok {
		p.below, name = true, rest
	}
	p.name = foldDomain(name)

	switch {
	case s == "":
		return p, errors.New("empty")
	case strings.Contains(p.name, "*"):
		return p, fmt.Errorf(`%q: a "*" stands alone or as the whole first label ("*.example.com", "**.example.com")`, s)
	case p.name == "":
		return p, fmt.Errorf("%q: no name", s)
	case len(p.name) > 253:
		return p, fmt.Errorf("%q: longer than 253 characters", s)
	}
	if _, err := netip.ParseAddr(p.name); err == nil {
		return p, fmt.Errorf("%q is an address, not a name; addresses belong in network.outbound", s)
	}
	for label := range strings.SplitSeq(p.name, ".") {
		if err := checkLabel(label); err != nil {
			return p, fmt.Errorf("%q: %w", s, err)
		}
	}
	return p, nil
}

func checkLabel(label string) error {
	switch {
	case label == "":
		return errors.New("empty label")
	case len(label) > 63:
		return fmt.Errorf("label %q is longer than 63 characters", label)
	case label[0] == '-':
		return fmt.Errorf("label %q begins with a hyphen", label)
	}
	for i := range len(label) {
		switch c := label[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		case c >= 0x80:
			return fmt.Errorf("label %q is not ASCII; write its xn-- form", label)
		default:
			return fmt.Errorf("label %q has a %q; letters, digits, hyphens and underscores make a label", label, c)
		}
	}
	return nil
}
