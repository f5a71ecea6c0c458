package dnsproxy

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// connectedTo returns the local ports of this machine's UDP sockets that are
// connected to addr.
func connectedTo(t *testing.T, addr netip.AddrPort) (ports []uint16) {
	t.Helper()
	data, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		t.Fatal(err)
	}
	to := fmt.Sprintf("0100007F:%04X", addr.Port())
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == to {
			var port uint16
			if _, err := fmt.Sscanf(f[1], "0100007F:%X", &port); err != nil {
				t.Fatal(err)
			}
			ports = append(ports, port)
		}
	}
	return ports
}

// Each query comes from a port of its own, and not from one that somebody found
// and sent an answer to before it was asked.
func TestPorts(t *testing.T) {
	var mu sync.Mutex
	from := map[string]int{}
	up := newUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		mu.Lock()
		from[w.RemoteAddr().String()]++
		mu.Unlock()
		answerA(w, m)
	})
	p := newProxy(t, Config{Upstreams: Plain(up.addr)})
	serve(t, p, "127.0.0.1:0")
	const n = 50
	for i := range n {
		if r := lookup(t, p, fmt.Sprintf("n%d.test.", i)); r.Rcode != 0 {
			t.Fatalf("got\n%s", r)
		}
	}
	mu.Lock()
	if len(from) < n-5 { // the system may give one again by chance
		t.Errorf("%d queries came from %d ports", n, len(from))
	}
	mu.Unlock()
	// Whoever can send as the upstream fills the sockets that wait for use.
	found := connectedTo(t, up.addr)
	if len(found) == 0 {
		t.Fatal("no socket waits")
	}
	for id := range 3 {
		r := new(dns.Msg).SetQuestion("new.test.", dns.TypeA)
		r.Id, r.Response = uint16(id), true
		raw, _ := r.Pack()
		for _, port := range found {
			up.send(t, raw, netip.AddrPortFrom(up.addr.Addr(), port))
		}
	}
	for len(connectedTo(t, up.addr)) > 0 {
		time.Sleep(time.Millisecond) // until the readers have seen it
	}
	if r := lookup(t, p, "new.test."); r.Rcode != 0 || len(r.Answer) != 1 {
		t.Errorf("got\n%s", r)
	}
}

// What waits for use is closed when nobody asks for a while.
func TestSocketsAreClosed(t *testing.T) {
	up := newUpstream(t, answerA)
	p := newProxy(t, Config{Upstreams: Plain(up.addr)})
	p.hedge = 10 * time.Millisecond
	serve(t, p, "127.0.0.1:0")
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() { lookup(t, p, fmt.Sprintf("n%d.test.", i)) })
	}
	all.Wait()
	s := p.servers[0].sockets
	s.mu.Lock()
	if n := len(s.ready); n > maxReady {
		t.Errorf("%d sockets wait", n)
	}
	s.mu.Unlock()
	for len(connectedTo(t, up.addr)) > 0 {
		time.Sleep(time.Millisecond)
	}
	for idle := false; !idle; {
		s.mu.Lock()
		idle = s.sweep == nil
		s.mu.Unlock()
	}
	if r := lookup(t, p, "later.test."); r.Rcode != 0 {
		t.Errorf("got\n%s", r)
	}
}

// A server that is slow has the next beside it, and its socket is given up.
func TestSlowServer(t *testing.T) {
	slow, quick := newUpstream(t, silent), newUpstream(t, answerA)
	p := newProxy(t, Config{Upstreams: Plain(slow.addr, quick.addr)})
	p.hedge = 5 * time.Millisecond
	serve(t, p, "127.0.0.1:0")
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if r := lookup(t, p, fmt.Sprintf("n%d.test.", i)); r.Rcode != 0 || len(r.Answer) != 1 {
				t.Errorf("got\n%s", r)
			}
		})
	}
	all.Wait()
	if !p.servers[0].down() {
		t.Error("the slow one is not passed over")
	}
	s := p.servers[0].sockets
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.asked) > 0 {
		t.Errorf("%d still wait", len(s.asked))
	}
}
