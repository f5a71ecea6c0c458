package dnsproxy

import (
	"container/list"
	"net/netip"
	"strings"
	"sync"

	"appdefender/policy"
)

// maxAskers is how many sockets an Askers remembers.
const maxAskers = 4096

// Askers remembers which process owns the local socket that a query will come
// from. The zero Askers is empty and ready. It is safe for concurrent use.
type Askers struct {
	mu    sync.Mutex
	byKey map[askerKey]*list.Element
	used  list.List // of *asker, the longest unused first
	added uint64    // counts the calls of Add
}

type askerKey struct {
	network string
	client  netip.AddrPort
}

type asker struct {
	key   askerKey
	who   policy.Process
	added uint64
}

// Add says that who sends from client; network is "udp" or "tcp". What was
// known of that address is replaced. The address of a socket that is not yet
// bound to one may be unspecified; it then stands for any address with its
// port.
func (a *Askers) Add(network string, client netip.AddrPort, who policy.Process) {
	key := keyOf(network, client)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byKey == nil {
		a.byKey = make(map[askerKey]*list.Element)
	}
	a.added++
	if e, ok := a.byKey[key]; ok {
		e.Value = &asker{key, who, a.added}
		a.used.MoveToBack(e)
		return
	}
	if a.used.Len() >= maxAskers {
		oldest := a.used.Front()
		a.used.Remove(oldest)
		delete(a.byKey, oldest.Value.(*asker).key)
	}
	a.byKey[key] = a.used.PushBack(&asker{key, who, a.added})
}

// Get returns who sends from client. Of an address and its port alone, what
// was added last counts: ports are used again.
func (a *Askers) Get(network string, client netip.AddrPort) (policy.Process, bool) {
	key := keyOf(network, client)
	anyAddr := askerKey{key.network, netip.AddrPortFrom(netip.Addr{}, key.client.Port())}
	a.mu.Lock()
	defer a.mu.Unlock()
	var found *list.Element
	for _, k := range []askerKey{key, anyAddr} {
		if e, ok := a.byKey[k]; ok && (found == nil || e.Value.(*asker).added > found.Value.(*asker).added) {
			found = e
		}
	}
	if found == nil {
		return policy.Process{}, false
	}
	a.used.MoveToBack(found)
	return found.Value.(*asker).who, true
}

// keyOf makes equal what is the same socket: an IPv4 address in IPv6 clothes,
// the two unspecified addresses, a scope, "udp4".
func keyOf(network string, client netip.AddrPort) askerKey {
	addr := client.Addr().Unmap().WithZone("")
	if addr.IsUnspecified() {
		addr = netip.Addr{}
	}
	return askerKey{strings.TrimRight(network, "46"), netip.AddrPortFrom(addr, client.Port())}
}
