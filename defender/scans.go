package defender

import (
	"net/netip"
	"sync"
	"time"

	"appdefender/policy"
)

// What counts as a scan: that many ports of one address, or that many addresses
// by one port, within the window. Who downloads by FTP or talks to a cluster
// opens fewer in that time, and who scans has no use for so few.
const (
	scanWindow = time.Minute
	manyPorts  = 25
	manyHosts  = 25
	maxScanned = 512 // addresses, and ports, of which tries are remembered
)

// scans counts the destinations that the target tries, all its processes
// together: a scan may start one for each, and leave its parent. A try counts
// by being made, whatever comes of it.
//
// What is told is the try of one port or address more, never that of one that
// was tried before: an application goes on to talk to its database while
// another process scans that. What was told is not remembered, or a second try
// would pass.
//
// The zero value is ready.
type scans struct {
	mu    sync.Mutex
	ports tries[netip.Addr, uint16] // of addresses
	hosts tries[uint16, netip.Addr] // of ports
}

// attempt notes a try of addr. An address that a lookup returned is none of
// many machines: crawlers and clients of large services look theirs up, and
// scans count through.
func (s *scans) attempt(addr netip.AddrPort, resolved bool, now time.Time) policy.Scan {
	if addr.Port() == 0 {
		return policy.NoScan // getaddrinfo asks for its own address in this way
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ports.add(addr.Addr(), addr.Port(), manyPorts, now) {
		return policy.ManyPorts
	}
	if !resolved && s.hosts.add(addr.Port(), addr.Addr(), manyHosts, now) {
		return policy.ManyHosts
	}
	return policy.NoScan
}

// tries are the latest destinations of kind V by one of kind K.
type tries[K, V comparable] struct {
	of map[K]*tried[V]
}

type tried[V comparable] struct {
	last time.Time
	list []attempt[V] // the oldest first
}

type attempt[V comparable] struct {
	what V
	at   time.Time
}

// add reports whether v is one more than most within the window, and otherwise
// remembers it.
func (t *tries[K, V]) add(k K, v V, most int, now time.Time) bool {
	known := t.of[k]
	if known == nil {
		if t.of == nil {
			t.of = make(map[K]*tried[V])
		}
		if len(t.of) >= maxScanned {
			t.forget(now)
		}
		known = &tried[V]{}
		t.of[k] = known
	}
	known.last = now
	kept := known.list[:0]
	seen := false
	for _, old := range known.list {
		if now.Sub(old.at) < scanWindow && old.what != v {
			kept = append(kept, old)
		}
		seen = seen || old.what == v
	}
	known.list = kept
	if !seen && len(kept) >= most {
		return true
	}
	known.list = append(known.list, attempt[V]{v, now})
	return false
}

// forget makes room: for what is too old to count, and if all counts for what
// was tried the longest ago.
func (t *tries[K, V]) forget(now time.Time) {
	var oldest K
	var at time.Time
	for k, known := range t.of {
		if now.Sub(known.last) >= scanWindow {
			delete(t.of, k)
		} else if at.IsZero() || known.last.Before(at) {
			oldest, at = k, known.last
		}
	}
	if len(t.of) >= maxScanned {
		delete(t.of, oldest)
	}
}
