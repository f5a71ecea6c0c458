package dnsproxy

import (
	"container/list"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"appdefender/policy"
)

const (
	maxPins     = 16384
	maxPinNames = 8 // of one address, those looked up last
	// pinGrace is how long an address stays known when its time to live is
	// over, from its last use on: programs keep addresses for longer than they
	// may, and some, such as proxies, for as long as they run.
	pinGrace = time.Hour
)

// pins remembers for which names allowed lookups returned an address: many
// names share one, at whoever serves pages for others. An address that a name
// server made for a translator (DNS64, RFC 6147) and the one that it stands for
// are the same.
type pins struct {
	hosts map[netip.Addr][]string // for ever

	// lost counts addresses and names that were dropped for want of room: an
	// answer in the cache then no longer vouches for its addresses.
	lost atomic.Uint64

	mu     sync.Mutex
	byAddr map[netip.Addr]*list.Element
	used   list.List // of *pin, the longest unused first
}

type pin struct {
	addr  netip.Addr
	names []string // the one looked up last first; a new slice when it changes
	until time.Time
}

// add notes that name leads to addrs until then, and the grace beyond.
func (p *pins) add(name string, addrs []netip.Addr, until time.Time) {
	if len(addrs) == 0 {
		return
	}
	until = until.Add(pinGrace)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, addr := range addrs {
		addr = policy.Translated(addr)
		if e := p.byAddr[addr]; e != nil {
			known := e.Value.(*pin)
			if known.first(name); len(known.names) > maxPinNames {
				known.names = known.names[:maxPinNames]
				p.lost.Add(1)
			}
			if until.After(known.until) {
				known.until = until
			}
			p.used.MoveToBack(e)
			continue
		}
		if len(p.byAddr) >= maxPins {
			oldest := p.used.Front()
			p.used.Remove(oldest)
			delete(p.byAddr, oldest.Value.(*pin).addr)
			p.lost.Add(1)
		}
		p.byAddr[addr] = p.used.PushBack(&pin{addr, []string{name}, until})
	}
}

// first puts a name before the others of an address.
func (known *pin) first(name string) {
	if known.names[0] == name {
		return
	}
	names := append(make([]string, 0, maxPinNames+1), name)
	for _, other := range known.names {
		if other != name {
			names = append(names, other)
		}
	}
	known.names = names
}

func (p *pins) get(addr netip.Addr, now time.Time) ([]string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	hosts, ok := p.hosts[addr]
	if e := p.byAddr[addr]; e != nil {
		known := e.Value.(*pin)
		if now.Before(known.until) {
			if until := now.Add(pinGrace); until.After(known.until) {
				known.until = until
			}
			p.used.MoveToBack(e)
			if ok {
				return slices.Concat(known.names, hosts), true
			}
			return known.names, true
		}
		p.used.Remove(e)
		delete(p.byAddr, addr)
	}
	return hosts, ok
}

// Resolved returns the names that lookups of the target were allowed for and
// that led to addr, the last one first, and those of addr in the hosts file
// that the proxy was given. An address is known for as long as the answer said,
// and an hour beyond that or its last use. The slice is not to be changed.
func (p *Proxy) Resolved(addr netip.Addr) (names []string, ok bool) {
	return p.pins.get(policy.Translated(addr.Unmap().WithZone("")), p.now())
}

// ParseHosts reads a file of the form of /etc/hosts (hosts(5)) and returns the
// names of each address.
func ParseHosts(data []byte) map[netip.Addr][]string {
	hosts := make(map[netip.Addr][]string)
	for line := range strings.Lines(string(data)) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(f[0])
		if err != nil {
			continue // as the C library does
		}
		addr = policy.Translated(addr.Unmap().WithZone(""))
		if addr.IsUnspecified() {
			continue
		}
		for _, name := range f[1:] {
			if name = strings.ToLower(strings.TrimSuffix(name, ".")); !slices.Contains(hosts[addr], name) {
				hosts[addr] = append(hosts[addr], name)
			}
		}
	}
	return hosts
}
