package dnsproxy

import (
	"container/list"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxPins = 16384
	// pinGrace is how long an address stays known when its time to live is
	// over, from its last use on: programs keep addresses for longer than they
	// may, and some, such as proxies, for as long as they run.
	pinGrace = time.Hour
)

// pins remembers for which name an allowed lookup last returned an address.
type pins struct {
	hosts map[netip.Addr]string // for ever

	// lost counts those that were dropped for want of room: an answer in the
	// cache then no longer vouches for its addresses.
	lost atomic.Uint64

	mu     sync.Mutex
	byAddr map[netip.Addr]*list.Element
	used   list.List // of *pin, the longest unused first
}

type pin struct {
	addr  netip.Addr
	name  string
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
		if e := p.byAddr[addr]; e != nil {
			known := e.Value.(*pin)
			known.name = name
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
		p.byAddr[addr] = p.used.PushBack(&pin{addr, name, until})
	}
}

func (p *pins) get(addr netip.Addr, now time.Time) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.byAddr[addr]; e != nil {
		known := e.Value.(*pin)
		if now.Before(known.until) {
			if until := now.Add(pinGrace); until.After(known.until) {
				known.until = until
			}
			p.used.MoveToBack(e)
			return known.name, true
		}
		p.used.Remove(e)
		delete(p.byAddr, addr)
	}
	name, ok := p.hosts[addr]
	return name, ok
}

// Resolved returns the name that a lookup of the target was last allowed for
// and that led to addr, or the name of addr in the hosts file that the proxy
// was given. It is known for as long as the answer said, and an hour beyond
// that or its last use.
func (p *Proxy) Resolved(addr netip.Addr) (name string, ok bool) {
	return p.pins.get(addr.Unmap().WithZone(""), p.now())
}

// ParseHosts reads a file of the form of /etc/hosts (hosts(5)) and returns the
// first name of each address.
func ParseHosts(data []byte) map[netip.Addr]string {
	hosts := make(map[netip.Addr]string)
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
		addr = addr.Unmap().WithZone("")
		if _, known := hosts[addr]; !known && !addr.IsUnspecified() {
			hosts[addr] = strings.ToLower(strings.TrimSuffix(f[1], "."))
		}
	}
	return hosts
}
