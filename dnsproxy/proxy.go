// Package dnsproxy answers the target's lookups: it is the door for names.
//
// The life of a query: its bytes are read, the name in it becomes a
// [policy.Event], the judge decides, an allowed query is asked upstream and a
// refused one is answered with "no such name", the reply is sent, and then
// what was worth telling is recorded. Queries come from the listeners of a
// [Proxy], or from whoever took one out of a system call ([Proxy.Exchange]);
// both take the same path.
//
// A query is never passed on as it came. The message that goes upstream and
// the one that goes back are built anew from what was read and judged, so
// that no resolver can read another name out of the same bytes.
//
// Answers are kept for as long as they say, and longer to stand in for
// upstreams that fail. The judge is asked before the cache is, each time.
package dnsproxy

import (
	"container/list"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"appdefender/policy"
)

const (
	maxInFlight    = 512              // queries being answered
	maxConns       = 256              // TCP connections of clients
	idleTimeout    = 10 * time.Second // of a client's TCP connection
	writeTimeout   = 5 * time.Second
	tryTimeout     = 2 * time.Second         // for one upstream
	giveUpTimeout  = 8 * time.Second         // for all of them
	hedgeTimeout   = 600 * time.Millisecond  // for one, until the next is asked as well
	staleTimeout   = 1800 * time.Millisecond // for all of them, until a stale answer goes out (RFC 8767 5)
	acceptPause    = 10 * time.Millisecond
	maxSocketFails = 100 // in a row, until a listener is given up
)

// Config says how a Proxy judges and where it asks.
type Config struct {
	// Upstreams are asked in order, as a resolv.conf's. With none, what is
	// allowed gets SERVFAIL.
	Upstreams []Upstream
	// Bootstrap are the name servers that know the addresses of upstreams
	// that have but a name. They are asked for nothing else.
	Bootstrap []netip.AddrPort
	// Hosts are names of addresses for Resolved, for ever; see ParseHosts. If localhost
	// is 127.0.0.1 alone there, it is for AAAA as well.
	Hosts map[netip.Addr][]string
	// Search is the resolvers' search list. A resolver that is told that a
	// name is not there goes on with the name below each of these: they are
	// judged and refused, but one refusal is recorded, not all.
	Search []string
	// CacheBytes bounds the answers that are kept, in bytes: 0 for 4 MiB,
	// less for none.
	CacheBytes int
	// Decide is the judge. Its Allow is what to do, dry run included.
	// It must not be nil and is called from many goroutines.
	Decide func(*policy.Event) policy.Verdict
	// AsksWho reports whether the judge must know who asks. Then each query is
	// judged with its asker, and none is answered before that is known. nil
	// is never.
	AsksWho func() bool
	// Busy is told how many allowed queries have got SERVFAIL because too many
	// were in flight: the first, and again whenever they are twice as many. nil
	// tells nobody. It must not block.
	Busy func(n uint64)
	// Record is told each verdict worth telling, after the reply, with what
	// went wrong while answering. nil tells nobody. It must not block.
	Record func(*policy.Event, policy.Verdict, error)
	// Asker says which process sends from a client's address; network is
	// "udp" or "tcp". It is called for what is worth telling or goes
	// upstream, before that, for the asker may be gone after it. nil means that nobody knows.
	Asker func(network string, client netip.AddrPort) policy.Process
	// Known is Asker where that takes no time; ok is false where it would.
	// Without it all do.
	Known func(network string, client netip.AddrPort) (who policy.Process, ok bool)
}

// Proxy is a DNS forwarder that judges each name. Create one with [New].
type Proxy struct {
	conf Config

	cache      *cache
	flights    flights
	servers    []*server
	routes     routes
	pins       pins
	localhost4 bool // see onlyIPv4
	tunnels    tunnels
	refused    refusals
	secret     []byte // of cookies

	slots     chan struct{} // one for each query in flight
	overflows atomic.Uint64 // see Config.Busy

	// Fixed but in tests.
	idle, tryFor, giveUp, hedge, staleAfter time.Duration
	clock                                   func() time.Time

	// What asks upstreams lives as long as the proxy, not as the query that
	// it began with.
	life context.Context
	end  context.CancelFunc
	work sync.WaitGroup

	mu      sync.Mutex // guards what follows
	doors   []door
	working int // flights
}

// door is one address we listen on.
type door struct {
	udp *net.UDPConn
	tcp *net.TCPListener
}

// New checks conf and returns a Proxy that has not started anything.
func New(conf Config) (*Proxy, error) {
	var errs []error
	if conf.Decide == nil {
		errs = append(errs, errors.New("decide: missing"))
	}
	for i, u := range conf.Upstreams {
		if err := u.check(); err != nil {
			errs = append(errs, fmt.Errorf("upstreams[%d]: %q: %w", i, u, err))
		}
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("configuring DNS proxy: %w", errors.Join(errs...))
	}
	if conf.CacheBytes == 0 {
		conf.CacheBytes = cacheBytes
	}
	p := &Proxy{
		conf:       conf,
		cache:      newCache(conf.CacheBytes),
		flights:    flights{byKey: make(map[string]*flight)},
		localhost4: onlyIPv4(conf.Hosts),
		pins:       pins{hosts: conf.Hosts, byAddr: make(map[netip.Addr]*list.Element)},
		tunnels:    tunnels{byDomain: make(map[string]*traffic)},
		secret:     make([]byte, sha256.Size),
		slots:      make(chan struct{}, maxInFlight),
		idle:       idleTimeout, tryFor: tryTimeout, giveUp: giveUpTimeout, hedge: hedgeTimeout, staleAfter: staleTimeout,
		clock: time.Now,
	}
	_, _ = rand.Read(p.secret)
	p.life, p.end = context.WithCancel(context.Background())
	// Read before there is a target that could change them.
	var roots *x509.CertPool
	if slices.ContainsFunc(conf.Upstreams, Upstream.secure) {
		var err error
		if roots, err = x509.SystemCertPool(); err != nil {
			return nil, fmt.Errorf("configuring DNS proxy: reading the system's certificates: %w", err)
		}
	}
	for _, u := range conf.Upstreams {
		p.servers = append(p.servers, newServer(u, conf.Bootstrap, roots))
	}
	p.routes = newRoutes(p.servers)
	return p, nil
}

// Listen binds addr for UDP and TCP. Port 0 picks one that is free for both.
// It may be called for several addresses.
//
// The address must be one, not "all of them": only a socket bound to the
// address that was asked is sure to answer from it, and resolvers drop a reply
// from elsewhere.
func (p *Proxy) Listen(addr netip.AddrPort) error {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	if !addr.IsValid() || addr.Addr().IsUnspecified() {
		return fmt.Errorf("listening for DNS on %q: one address is needed", addr)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	udp, tcp, err := bindBoth(addr)
	if err != nil {
		return fmt.Errorf("listening for DNS on %q: %w", addr, err)
	}
	p.doors = append(p.doors, door{udp, tcp})
	return nil
}

// bindBoth binds addr twice. A port the system picked for UDP may be taken for
// TCP, so port 0 is tried several times.
func bindBoth(addr netip.AddrPort) (*net.UDPConn, *net.TCPListener, error) {
	family := "4"
	if addr.Addr().Is6() {
		family = "6"
	}
	var last error
	for range 20 {
		udp, err := net.ListenUDP("udp"+family, net.UDPAddrFromAddrPort(addr))
		if err != nil {
			return nil, nil, err
		}
		both := netip.AddrPortFrom(addr.Addr(), udp.LocalAddr().(*net.UDPAddr).AddrPort().Port())
		tcp, err := net.ListenTCP("tcp"+family, net.TCPAddrFromAddrPort(both))
		if err == nil {
			return udp, tcp, nil
		}
		_ = udp.Close()
		last = err
		if addr.Port() != 0 {
			break
		}
	}
	return nil, nil, last
}

// Addrs returns the addresses bound by Listen, in that order.
func (p *Proxy) Addrs() []netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	var addrs []netip.AddrPort
	for _, d := range p.doors {
		addrs = append(addrs, unmap(d.udp.LocalAddr().(*net.UDPAddr).AddrPort()))
	}
	return addrs
}

// Serve answers queries until ctx ends, then returns nil. A Proxy that does
// not listen only waits.
func (p *Proxy) Serve(ctx context.Context) error {
	p.mu.Lock()
	doors := slices.Clone(p.doors)
	p.mu.Unlock()
	if len(doors) == 0 {
		<-ctx.Done()
		defer p.work.Wait()
		return p.Close()
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, d := range doors {
		g.Go(func() error { return p.serveUDP(gctx, d.udp) })
		g.Go(func() error { return p.serveTCP(gctx, d.tcp) })
	}
	g.Go(func() error {
		<-gctx.Done()
		return p.Close()
	})
	err := g.Wait()
	p.work.Wait()
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("serving DNS: %w", err)
}

// Close ends the listeners; Serve then returns. It may be called twice.
func (p *Proxy) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
	for _, s := range p.servers {
		if s.sockets != nil {
			s.sockets.close()
		}
	}
	// The descriptors stay, closed, so that Addrs keeps its answer. A second
	// Close finds them closed, which is no fault.
	for _, d := range p.doors {
		_ = d.udp.Close()
		_ = d.tcp.Close()
	}
	return nil
}

// pause waits after an error that may pass, such as a lack of descriptors.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(acceptPause):
	}
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
