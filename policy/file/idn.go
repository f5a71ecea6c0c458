package file

import (
	"strings"

	"golang.org/x/net/idna"

	"appdefender/policy"
)

// toASCII writes the names of p as lookups have them: bücher.example is
// xn--bcher-kva.example (RFC 5891, with the mapping of UTS 46, which resolvers
// use too). A name for which there is no such form stays and is a fault.
func toASCII(p *policy.Policy) {
	for i := range p.Rules {
		r := &p.Rules[i]
		if s := r.DNS; s != nil {
			namesToASCII(s.Allow)
			namesToASCII(s.Deny)
			namesToASCII(s.Private)
		}
		if s := r.Network; s != nil {
			namesToASCII(s.Outbound.AllowNames)
			namesToASCII(s.Outbound.DenyNames)
		}
	}
}

func namesToASCII(entries []string) {
	for i, s := range entries {
		if strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0 {
			continue
		}
		stars := s[:len(s)-len(strings.TrimLeft(s, "*."))]
		if name, err := idna.Lookup.ToASCII(s[len(stars):]); err == nil {
			entries[i] = stars + name
		}
	}
}
