package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"appdefender/dnsproxy"
	"appdefender/policy"
)

// nameServers are beside the Defender's: those people choose, and the forwarder that
// one writes in an hour with the usual library.
var nameServers = []string{"defender", "dnsmasq", "unbound", "naive"}

// denied is how many names are on the lists of the Defender and of naive.
const denied = 10_000

// nameRows ask name servers. Each runs alone on this machine beside the one
// who asks, with one upstream that answers every name.
func nameRows() []row {
	load := func(name, what string, names int, bounds []bound) row {
		return row{
			name: name, group: groupNames, what: what, unit: "q/s", more: true, variants: nameServers, base: "dnsmasq", needs: []string{"dnsperf"}, turns: 3, bounds: bounds,
			measure: func(b *bench, v variant) (float64, error) { rate, _, err := b.lookups(v.name, names); return rate, err },
		}
	}
	best := []bound{{"defender", beats, 0}}
	cpu := load("dns-cpu", "processor time of the name server for a query from its cache", 1000, best)
	cpu.unit, cpu.more = "µs", false
	cpu.measure = func(b *bench, v variant) (float64, error) { _, cost, err := b.lookups(v.name, 1000); return cost, err }
	return []row{
		load("dns", "queries from the cache, dnsperf with 100 in flight", 1000, best),
		cpu,
		load("dns-forward", "queries that must be forwarded, 100 in flight", 2_000_000, nil),
		{
			name: "dns-miss", group: groupNames, what: "a query that must be forwarded, one after the other; bare is the upstream itself", unit: "µs",
			variants: append([]string{"bare"}, nameServers...), bounds: []bound{{"defender", addedAtMost, 100}},
			measure: func(b *bench, v variant) (float64, error) { return b.miss(v.name) },
		},
	}
}

// nameServer starts a name server with an upstream behind it, and waits until
// it answers. bare is the upstream itself.
func (b *bench) nameServer(server string) (addr *net.UDPAddr, pid int, stop func(), err error) {
	up, err := newUpstream()
	if err != nil {
		return nil, 0, nil, err
	}
	addr = up.LocalAddr().(*net.UDPAddr)
	if server == "bare" {
		return addr, 0, func() { up.Close() }, nil
	}
	fail := func(err error) (*net.UDPAddr, int, func(), error) {
		up.Close()
		return nil, 0, nil, fmt.Errorf("%s: %w", server, err)
	}
	port, err := freePort()
	if err != nil {
		return fail(err)
	}
	argv, err := b.nameServerArgs(server, addr.Port, port)
	if err != nil {
		return fail(err)
	}
	cmd := b.command(variant{}, argv...)
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		up.Close()
	}
	addr = &net.UDPAddr{IP: addr.IP, Port: port}
	if err := answers(b.ctx, addr.String()); err != nil {
		stop()
		return fail(err)
	}
	return addr, cmd.Process.Pid, stop, nil
}

// lookups asks a name server for so many different names, round and round, and
// returns the answers a second and the microseconds of its processor time for
// one of them.
func (b *bench) lookups(server string, names int) (rate, cost float64, err error) {
	queries := b.path(fmt.Sprintf("queries-%d", names))
	if _, err := os.Stat(queries); err != nil {
		var text strings.Builder
		for i := range names {
			fmt.Fprintf(&text, "host%d.bench.example A\n", i)
		}
		if err := os.WriteFile(queries, []byte(text.String()), 0o644); err != nil {
			return 0, 0, err
		}
	}
	seconds := "3"
	if b.quick {
		seconds = "1"
	}
	addr, pid, stop, err := b.nameServer(server)
	if err != nil {
		return 0, 0, err
	}
	defer stop()
	ask := func(args ...string) (string, error) {
		return b.output(append([]string{"dnsperf", "-s", addr.IP.String(), "-p", strconv.Itoa(addr.Port), "-d", queries, "-q", "100", "-c", "8", "-T", "1"}, args...)...)
	}
	if names <= 1000 { // once through, so that all of them are in the cache
		if _, err := ask("-n", "2"); err != nil {
			return 0, 0, err
		}
	}
	before, err := cpuTime(pid)
	if err != nil {
		return 0, 0, err
	}
	out, err := ask("-l", seconds)
	if err != nil {
		return 0, 0, err
	}
	after, err := cpuTime(pid)
	if err != nil {
		return 0, 0, err
	}
	completed, err := number(out, `Queries completed:\s+(\d+)`)
	if err != nil {
		return 0, 0, err
	}
	if codes := lastCodes(out); codes != "" {
		return 0, 0, fmt.Errorf("%s answered %s", server, codes)
	}
	rate, err = number(out, `Queries per second:\s+([\d.]+)`)
	return rate, (after - before) * 1e6 / completed, err
}

// miss returns the median time of queries for names that nobody asked for
// before, one after the other.
func (b *bench) miss(server string) (float64, error) {
	addr, _, stop, err := b.nameServer(server)
	if err != nil {
		return 0, err
	}
	defer stop()
	c, err := net.DialUDP("udp", nil, addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	count := 3000
	if b.quick {
		count = 500
	}
	took := make([]float64, count)
	buf := make([]byte, 4096)
	for i := range took {
		query, err := new(dns.Msg).SetQuestion(fmt.Sprintf("miss%d.bench.example.", i), dns.TypeA).Pack()
		if err != nil {
			return 0, err
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		begun := time.Now()
		if _, err := c.Write(query); err != nil {
			return 0, err
		}
		if _, err := c.Read(buf); err != nil {
			return 0, fmt.Errorf("%s: %w", server, err)
		}
		took[i] = time.Since(begun).Seconds() * 1e6
	}
	_, median, _ := quartiles(took)
	return median, nil
}

// lastCodes returns dnsperf's line of response codes, "" if all were good.
func lastCodes(out string) string {
	for line := range strings.Lines(out) {
		if codes, ok := strings.CutPrefix(strings.TrimSpace(line), "Response codes:"); ok {
			if strings.Contains(codes, "NOERROR") && !strings.Contains(codes, ",") {
				return ""
			}
			return strings.TrimSpace(codes)
		}
	}
	return "nothing"
}

func (b *bench) nameServerArgs(server string, upstream, port int) ([]string, error) {
	up := fmt.Sprintf("127.0.0.1@%d", upstream)
	switch server {
	case "defender", "naive":
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		return []string{self, "-serve-dns", fmt.Sprintf("%s,127.0.0.1:%d,127.0.0.1:%d", server, upstream, port)}, nil
	case "dnsmasq":
		if _, err := exec.LookPath("dnsmasq"); err != nil {
			return nil, errMissing("there is no dnsmasq here")
		}
		return []string{
			"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--listen-address=127.0.0.1", "--bind-interfaces",
			fmt.Sprintf("--port=%d", port), "--server=" + strings.Replace(up, "@", "#", 1), "--cache-size=10000", "--dns-forward-max=1000", "--user=root", "--pid-file=",
		}, nil
	case "unbound":
		if _, err := exec.LookPath("unbound"); err != nil {
			return nil, errMissing("there is no unbound here")
		}
		conf := b.path("unbound.conf")
		text := fmt.Sprintf("server:\n  interface: 127.0.0.1\n  port: %d\n  do-daemonize: no\n  username: \"\"\n  chroot: \"\"\n  directory: %q\n  pidfile: \"\"\n"+
			"  use-syslog: no\n  logfile: /dev/null\n  module-config: \"iterator\"\n  num-threads: 2\n  so-reuseport: yes\n  do-not-query-localhost: no\n"+
			"remote-control:\n  control-enable: no\nforward-zone:\n  name: \".\"\n  forward-addr: %s\n", port, b.dir, up)
		return []string{"unbound", "-d", "-c", conf}, os.WriteFile(conf, []byte(text), 0o644)
	}
	return nil, fmt.Errorf("no name server is called %q", server)
}

// answers waits until a name server does.
func answers(ctx context.Context, addr string) error {
	query := make([]byte, 12)
	query[1], query[2], query[5] = 1, 1, 1
	query = append(query, "\x05ready\x05bench\x07example\x00\x00\x01\x00\x01"...)
	buf := make([]byte, 512)
	for deadline := time.Now().Add(20 * time.Second); ; {
		c, err := net.Dial("udp", addr)
		if err != nil {
			return err
		}
		_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond))
		_, err = c.Write(query)
		if err == nil {
			_, err = c.Read(buf)
		}
		c.Close()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("no answer: %w", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// newUpstream answers every query with one address for a day: the question is
// sent back with one record behind it, so that it costs as little as can be.
func newUpstream() (*net.UDPConn, error) {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	_ = conn.SetReadBuffer(4 << 20)
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			end := 12
			for end < n && buf[end] != 0 {
				end += int(buf[end]) + 1
			}
			end += 5 // the root label, type and class
			if n < 12 || end > n {
				continue
			}
			reply := append(buf[:end:end], 0xc0, 12, 0, 1, 0, 1, 0, 1, 0x51, 0x80, 0, 4, 192, 0, 2, 1)
			reply[2], reply[3] = 0x81|buf[2]&1, 0x80
			binary.BigEndian.PutUint16(reply[6:], 1)
			binary.BigEndian.PutUint32(reply[8:], 0) // no authority, no EDNS
			_, _ = conn.WriteToUDPAddrPort(reply, from)
		}
	}()
	return conn, nil
}

// serveNames is one of our own name servers; what is "defender" or "naive",
// then ",UPSTREAM,LISTEN".
func serveNames(ctx context.Context, what string) error {
	f := strings.Split(what, ",")
	if len(f) != 3 {
		return fmt.Errorf("-serve-dns wants SERVER,UPSTREAM,LISTEN, not %q", what)
	}
	upstream, err := netip.ParseAddrPort(f[1])
	if err != nil {
		return err
	}
	listen, err := netip.ParseAddrPort(f[2])
	if err != nil {
		return err
	}
	deny := make([]string, denied)
	for i := range deny {
		deny[i] = fmt.Sprintf("denied%d.example.net", i)
	}
	if f[0] == "naive" {
		return serveNaive(upstream.String(), listen.String(), deny)
	}
	for i := range deny {
		deny[i] = "**." + deny[i]
	}
	engine, err := policy.Compile(&policy.Policy{Version: 1, Rules: []policy.Rule{{
		Name: "bench", DNS: &policy.DNSSection{Effect: new(policy.Prevent), Deny: deny},
	}}}, policy.Workload{})
	if err != nil {
		return err
	}
	proxy, err := dnsproxy.New(dnsproxy.Config{Upstreams: dnsproxy.Plain(upstream), Decide: engine.Decide})
	if err != nil {
		return err
	}
	if err := proxy.Listen(listen); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return proxy.Serve(ctx) })
	g.Go(func() error { <-ctx.Done(); return proxy.Close() })
	return g.Wait()
}

// serveNaive judges by a map, keeps every answer for good, and asks upstream
// with a socket for each query.
func serveNaive(upstream, listen string, deny []string) error {
	refused := make(map[string]bool)
	for _, name := range deny {
		refused[name+"."] = true
	}
	var cache sync.Map
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		name := strings.ToLower(m.Question[0].Name)
		for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
			if refused[name[off:]] {
				_ = w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeNameError))
				return
			}
		}
		known, ok := cache.Load(name)
		if !ok {
			answer, err := dns.Exchange(m, upstream)
			if err != nil {
				return
			}
			cache.Store(name, answer)
			known = answer
		}
		answer := known.(*dns.Msg).Copy()
		answer.Id = m.Id
		_ = w.WriteMsg(answer)
	})
	return (&dns.Server{Addr: listen, Net: "udp", Handler: handler}).ListenAndServe()
}
