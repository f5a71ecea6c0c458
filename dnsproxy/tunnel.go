package dnsproxy

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/miekg/dns"
)

// What a tunnel looks like: many names that were not asked for before, all
// below one that somebody registered, long and without pattern, for they are
// what is carried out. Its bounds are far from what a busy application does.
const (
	tunnelWindow  = time.Minute
	tunnelNames   = 40   // new names below one domain in a window …
	tunnelBytes   = 1600 // … that carry this much …
	tunnelEntropy = 3.2  // … at this many bits a letter: English has 2.5 to 3 in so few words
	tunnelOneName = 140  // one name that carries this much is enough
	tunnelOdd     = 20   // new names of a type that nobody has a use for (NULL, private ones)
	maxDomains    = 1024 // watched at once
)

// tunnels watches the names that go upstream.
//
// It counts by the domain, not by the process: a shell that starts a program
// for each name is many processes. Who asks is in the record.
type tunnels struct {
	mu       sync.Mutex
	byDomain map[string]*traffic
}

// traffic is what went below one domain in a window of time.
type traffic struct {
	since   time.Time
	names   int
	odd     int // of them of an odd type
	bytes   int
	letters [256]int
}

// note counts a name that is new to the cache, and says for people what makes
// it suspicious, or "".
func (t *tunnels) note(name string, qtype uint16, now time.Time) string {
	domain, err := publicsuffix.EffectiveTLDPlusOne(name)
	if err != nil || len(domain) >= len(name) || strings.HasSuffix(name, ".arpa") {
		return ""
	}
	data := name[:len(name)-len(domain)-1]
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.byDomain[domain]
	if f == nil || now.Sub(f.since) >= tunnelWindow {
		if f == nil && len(t.byDomain) >= maxDomains {
			t.forget(now)
		}
		f = &traffic{since: now}
		t.byDomain[domain] = f
	}
	f.names++
	if qtype == dns.TypeNULL || qtype >= 65280 {
		f.odd++
	}
	for i := range len(data) {
		if data[i] != '.' {
			f.letters[data[i]]++
			f.bytes++
		}
	}
	switch {
	case len(data) >= tunnelOneName:
		return fmt.Sprintf("%d letters below %q in one name", len(data), domain)
	case f.odd >= tunnelOdd:
		return fmt.Sprintf("%d names below %q of types without use within a minute", f.odd, domain)
	case f.names >= tunnelNames && f.bytes >= tunnelBytes && f.bytes/f.names >= 24:
		if bits := f.entropy(); bits >= tunnelEntropy {
			return fmt.Sprintf("%d new names below %q within a minute, %d letters with %.1f bits each", f.names, domain, f.bytes, bits)
		}
	}
	return ""
}

// forget drops what is over, or else what was quietest.
func (t *tunnels) forget(now time.Time) {
	quietest := ""
	for domain, f := range t.byDomain {
		if now.Sub(f.since) >= tunnelWindow {
			delete(t.byDomain, domain)
		} else if quietest == "" || f.bytes < t.byDomain[quietest].bytes {
			quietest = domain
		}
	}
	if len(t.byDomain) >= maxDomains {
		delete(t.byDomain, quietest)
	}
}

// entropy returns the bits that a letter carries, by how often each occurs.
func (f *traffic) entropy() float64 {
	var bits float64
	for _, n := range f.letters {
		if n > 0 {
			share := float64(n) / float64(f.bytes)
			bits -= share * math.Log2(share)
		}
	}
	return bits
}
