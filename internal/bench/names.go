package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"appdefender/dnsproxy"
	"appdefender/policy"
	"appdefender/policy/file"
)

// nameRows ask name servers under load. All run alone on this machine beside
// dnsperf, with one upstream that answers every name.
func nameRows() []row {
	servers := []string{"defender", "dnsmasq", "unbound"}
	dns := func(name, what string, names int, bounds []bound) row {
		return row{
			name: name, group: groupNames, what: what, unit: "q/s", more: true, variants: servers, base: "dnsmasq", needs: []string{"dnsperf"}, turns: 3, bounds: bounds,
			measure: func(b *bench, v variant) (float64, error) { rate, _, err := b.lookups(v.name, names); return rate, err },
		}
	}
	cpu := dns("dns-cpu", "processor time of the name server for a thousand queries from its cache", 1000, []bound{{"defender", beats, 0}})
	cpu.unit, cpu.more = "ms", false
	cpu.measure = func(b *bench, v variant) (float64, error) { _, cost, err := b.lookups(v.name, 1000); return cost, err }
	return []row{
		dns("dns", "queries from the cache, dnsperf with 100 in flight", 1000, []bound{{"defender", beats, 0}}),
		cpu,
		dns("dns-forward", "queries that must be forwarded", 2_000_000, nil),
	}
}

// lookups asks a name server for so many different names, round and round, and
// returns the answers a second and the milliseconds of its processor time for
// a thousand of them.
func (b *bench) lookups(server string, names int) (rate, cost float64, err error) {
	up, err := newUpstream()
	if err != nil {
		return 0, 0, err
	}
	defer up.Close()
	port, err := freePort()
	if err != nil {
		return 0, 0, err
	}
	argv, err := b.nameServer(server, up.LocalAddr().(*net.UDPAddr).Port, port)
	if err != nil {
		return 0, 0, err
	}
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
	cmd := b.command(variant{}, argv...)
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	if err := answers(b.ctx, addr); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", server, err)
	}
	ask := func(args ...string) (string, error) {
		return b.output(append([]string{"dnsperf", "-s", "127.0.0.1", "-p", fmt.Sprint(port), "-d", queries, "-q", "100", "-c", "8", "-T", "1"}, args...)...)
	}
	if names <= 1000 { // once through, so that all of them are in the cache
		if _, err := ask("-n", "2"); err != nil {
			return 0, 0, err
		}
	}
	before, err := cpuTime(cmd.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	out, err := ask("-l", seconds)
	if err != nil {
		return 0, 0, err
	}
	after, err := cpuTime(cmd.Process.Pid)
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
	return rate, (after - before) * 1000 / completed * 1000, err
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

func (b *bench) nameServer(server string, upstream, port int) ([]string, error) {
	up := fmt.Sprintf("127.0.0.1@%d", upstream)
	switch server {
	case "defender":
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		return []string{self, "-serve-dns", fmt.Sprintf("127.0.0.1:%d,127.0.0.1:%d,%s", upstream, port, b.path("policy.yaml"))}, nil
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

// serveNames is the Defender's name server alone, judging by a policy; what
// is "UPSTREAM,LISTEN,POLICY".
func serveNames(ctx context.Context, what string) error {
	var upstream, listen netip.AddrPort
	f := strings.SplitN(what, ",", 3)
	if len(f) != 3 {
		return fmt.Errorf("-serve-dns wants UPSTREAM,LISTEN,POLICY, not %q", what)
	}
	for i, to := range []*netip.AddrPort{&upstream, &listen} {
		var err error
		if *to, err = netip.ParseAddrPort(f[i]); err != nil {
			return err
		}
	}
	p, err := file.Load(f[2])
	if err != nil {
		return err
	}
	engine, err := policy.Compile(p, policy.Workload{})
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
