// Package main measures the name server beside those that people choose:
// cached queries a second, the processor time each costs, and what a query
// that must be asked upstream takes longer than at the upstream itself.
//
//	go run ./internal/bench/dns
//
// It needs dnsperf, dnsmasq and unbound (Debian packages dnsperf,
// dnsmasq-base, unbound); a server that is not there is left out. All of it
// stays on loopback.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/miekg/dns"

	"appdefender/dnsproxy"
	"appdefender/policy"
)

const (
	names       = 1000  // in the cache
	denyEntries = 10000 // on the proxy's list
)

func main() {
	seconds := flag.Int("seconds", 5, "of each run")
	rounds := flag.Int("rounds", 3, "of which the best counts")
	serve := flag.String("serve", "", "be one of the servers: proxy, naive or upstream")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if *serve != "" {
		err = be(ctx, *serve, flag.Args())
	} else {
		err = run(ctx, *seconds, *rounds)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // the signal's handler ends with us
	}
}

// server is one of those measured.
type server struct {
	name string
	port int
	args []string // nil: it is not installed
}

func run(ctx context.Context, seconds, rounds int) error {
	dir, err := os.MkdirTemp("", "bench-dns")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	up := freePort()
	upstream := "127.0.0.1:" + strconv.Itoa(up)
	servers := []*server{
		{name: "defender", port: freePort()},
		{name: "dnsmasq", port: freePort()},
		{name: "unbound", port: freePort()},
		{name: "naive", port: freePort()},
	}
	for _, s := range servers {
		if s.args, err = command(s, self, dir, upstream, up); err != nil {
			return err
		}
	}
	stop, err := start(ctx, &server{port: up, args: []string{self, "-serve", "upstream", upstream}})
	if err != nil {
		return err
	}
	defer stop()
	queries := filepath.Join(dir, "queries")
	var list bytes.Buffer
	for i := range names {
		fmt.Fprintf(&list, "host%d.example.com A\n", i)
	}
	if err := os.WriteFile(queries, list.Bytes(), 0o600); err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "server\tqueries/s\tCPU/query\tmiss, median\tmiss, added\t")
	direct, err := misses(up, "direct")
	if err != nil {
		return err
	}
	for _, s := range servers {
		if s.args == nil {
			fmt.Fprintf(w, "%s\tnot installed\t\t\t\t\n", s.name)
			continue
		}
		if err := measure(ctx, w, s, queries, seconds, rounds, direct); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	fmt.Fprintf(w, "upstream itself\t\t\t%v\t\t\n", direct.Round(time.Microsecond))
	return w.Flush()
}

func measure(ctx context.Context, w *tabwriter.Writer, s *server, queries string, seconds, rounds int, direct time.Duration) error {
	stop, err := start(ctx, s)
	if err != nil {
		return err
	}
	defer stop()
	pid := stopPID[s]
	if _, err := dnsperf(ctx, s.port, queries, 1); err != nil { // fills the cache
		return err
	}
	var best float64
	var cpu time.Duration
	for range rounds {
		before := cpuTime(pid)
		rate, err := dnsperf(ctx, s.port, queries, seconds)
		if err != nil {
			return err
		}
		if rate.perSecond > best {
			best, cpu = rate.perSecond, time.Duration(float64(cpuTime(pid)-before)/rate.queries)
		}
	}
	miss, err := misses(s.port, s.name)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s\t%.0f\t%v\t%v\t%v\t\n", s.name, best, cpu.Round(10*time.Nanosecond), miss.Round(time.Microsecond), (miss - direct).Round(time.Microsecond))
	return nil
}

// command returns how to start a server, nil if it is not installed.
func command(s *server, self, dir, upstream string, up int) ([]string, error) {
	at := "127.0.0.1:" + strconv.Itoa(s.port)
	switch s.name {
	case "dnsmasq":
		path, err := exec.LookPath("dnsmasq")
		if err != nil {
			return nil, nil //nolint:nilerr // it is not there
		}
		return []string{path, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "--pid-file=",
			"--listen-address=127.0.0.1", "--port=" + strconv.Itoa(s.port), "--cache-size=10000", "--user=root", "--server=127.0.0.1#" + strconv.Itoa(up)}, nil
	case "unbound":
		path, err := exec.LookPath("unbound")
		if err != nil {
			return nil, nil //nolint:nilerr // it is not there
		}
		conf := filepath.Join(dir, "unbound.conf")
		text := fmt.Sprintf(`server:
  interface: 127.0.0.1
  port: %d
  num-threads: 2
  so-reuseport: yes
  do-daemonize: no
  use-syslog: no
  verbosity: 0
  chroot: ""
  username: ""
  pidfile: ""
  do-not-query-localhost: no
  module-config: "iterator"
forward-zone:
  name: "."
  forward-addr: 127.0.0.1@%d
remote-control:
  control-enable: no
`, s.port, up)
		return []string{path, "-d", "-c", conf}, os.WriteFile(conf, []byte(text), 0o600)
	case "defender":
		return []string{self, "-serve", "proxy", at, upstream}, nil
	}
	return []string{self, "-serve", "naive", at, upstream}, nil
}

var stopPID = map[*server]int{}

// start starts a server and waits until it answers.
func start(ctx context.Context, s *server) (stop func(), err error) {
	cmd := exec.CommandContext(ctx, s.args[0], s.args[1:]...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stopPID[s] = cmd.Process.Pid
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	c := dns.Client{Timeout: 200 * time.Millisecond}
	for range 50 {
		if _, _, err = c.Exchange(new(dns.Msg).SetQuestion("start.example.com.", dns.TypeA), "127.0.0.1:"+strconv.Itoa(s.port)); err == nil {
			return stop, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	stop()
	return nil, err
}

type rate struct{ perSecond, queries float64 }

var (
	perSecond = regexp.MustCompile(`Queries per second:\s+([\d.]+)`)
	completed = regexp.MustCompile(`Queries completed:\s+(\d+)`)
)

func dnsperf(ctx context.Context, port int, queries string, seconds int) (rate, error) {
	out, err := exec.CommandContext(ctx, "dnsperf", "-s", "127.0.0.1", "-p", strconv.Itoa(port), "-d", queries,
		"-l", strconv.Itoa(seconds), "-c", "8", "-q", "100").CombinedOutput()
	if err != nil {
		return rate{}, fmt.Errorf("dnsperf: %w\n%s", err, out)
	}
	number := func(r *regexp.Regexp) float64 {
		m := r.FindSubmatch(out)
		if m == nil {
			return 0
		}
		n, _ := strconv.ParseFloat(string(m[1]), 64)
		return n
	}
	r := rate{number(perSecond), number(completed)}
	if r.queries == 0 {
		return r, fmt.Errorf("dnsperf completed nothing\n%s", out)
	}
	return r, nil
}

// misses returns the median time of queries for names that nobody has asked
// for, one after the other.
func misses(port int, tag string) (time.Duration, error) {
	conn, err := net.Dial("udp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	var took []time.Duration
	buf := make([]byte, 4096)
	for i := range 3000 {
		m := new(dns.Msg).SetQuestion(fmt.Sprintf("miss%d.%s.example.com.", i, tag), dns.TypeA)
		raw, err := m.Pack()
		if err != nil {
			return 0, err
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		begin := time.Now()
		if _, err := conn.Write(raw); err != nil {
			return 0, err
		}
		if _, err := conn.Read(buf); err != nil {
			return 0, err
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// cpuTime returns the processor time of a process and its threads.
func cpuTime(pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

func freePort() int {
	l, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return 0
	}
	defer l.Close()
	return l.LocalAddr().(*net.UDPAddr).Port
}

// be is one of our own servers.
func be(ctx context.Context, what string, args []string) error {
	if len(args) == 0 {
		return errors.New("no address to listen on")
	}
	at, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	switch what {
	case "upstream":
		return beUpstream(at)
	case "naive":
		return beNaive(at, args[1])
	}
	deny := make([]string, denyEntries)
	for i := range deny {
		deny[i] = fmt.Sprintf("**.denied%d.example.net", i)
	}
	engine, err := policy.Compile(&policy.Policy{Version: 1, Rules: []policy.Rule{{
		Name: "bench", DNS: &policy.DNSSection{Effect: new(policy.Prevent), Deny: deny},
	}}}, policy.Workload{})
	if err != nil {
		return err
	}
	up, err := dnsproxy.ParseUpstream(args[1])
	if err != nil {
		return err
	}
	p, err := dnsproxy.New(dnsproxy.Config{Upstreams: []dnsproxy.Upstream{up}, Decide: engine.Decide})
	if err != nil {
		return err
	}
	if err := p.Listen(at); err != nil {
		return err
	}
	return p.Serve(ctx)
}

// beUpstream answers everything with one address.
func beUpstream(at netip.AddrPort) error {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	buf := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		m := new(dns.Msg)
		if m.Unpack(buf[:n]) != nil || len(m.Question) != 1 {
			continue
		}
		r := new(dns.Msg).SetReply(m)
		r.RecursionAvailable = true
		if m.Question[0].Qtype == dns.TypeA {
			r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 3600}, A: net.IPv4(192, 0, 2, 1)}}
		}
		if raw, err := r.Pack(); err == nil {
			_, _ = conn.WriteToUDPAddrPort(raw, from)
		}
	}
}

// beNaive is the forwarder that one writes in an hour with the usual library.
func beNaive(at netip.AddrPort, upstream string) error {
	type kept struct{ m *dns.Msg }
	cache := make(chan map[string]kept, 1)
	cache <- map[string]kept{}
	deny := map[string]bool{}
	for i := range denyEntries {
		deny[fmt.Sprintf("denied%d.example.net.", i)] = true
	}
	h := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		name := strings.ToLower(m.Question[0].Name)
		for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
			if deny[name[off:]] {
				_ = w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeNameError))
				return
			}
		}
		c := <-cache
		known, ok := c[name]
		cache <- c
		if !ok {
			r, err := dns.Exchange(m, upstream)
			if err != nil {
				return
			}
			known = kept{r}
			c := <-cache
			c[name] = known
			cache <- c
		}
		r := known.m.Copy()
		r.Id = m.Id
		_ = w.WriteMsg(r)
	})
	return (&dns.Server{Addr: at.String(), Net: "udp", Handler: h}).ListenAndServe()
}
