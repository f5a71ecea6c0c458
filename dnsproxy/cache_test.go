package dnsproxy

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"appdefender/policy"
)

// clock is a time that tests set.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time        { return time.Unix(0, c.at.Load()) }
func (c *clock) pass(by time.Duration) { c.at.Add(int64(by)) }

func rr(t testing.TB, s string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// answering answers every question with records, "authority:" before those of
// that section.
func answering(t testing.TB, rcode int, records ...string) dns.HandlerFunc {
	var an, ns []dns.RR
	for _, s := range records {
		if rest, ok := strings.CutPrefix(s, "authority:"); ok {
			ns = append(ns, rr(t, rest))
		} else {
			an = append(an, rr(t, s))
		}
	}
	return func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetRcode(m, rcode)
		r.RecursionAvailable = true
		r.Answer, r.Ns = an, ns
		if m.IsEdns0() != nil {
			r.SetEdns0(1232, m.IsEdns0().Do())
		}
		_ = w.WriteMsg(r)
	}
}

const soa = "authority:test. 900 IN SOA ns.test. a.test. 1 2 3 4 30"

func TestHowLongAnswersAreKept(t *testing.T) {
	for _, tt := range []struct {
		what    string
		rcode   int
		records []string
		kept    int // seconds
	}{
		{"a minute", 0, []string{"good.test. 60 IN A 192.0.2.1"}, 60},
		{"the shortest of several", 0, []string{"good.test. 60 IN CNAME b.test.", "b.test. 7 IN A 192.0.2.1"}, 7},
		{"not at all", 0, []string{"good.test. 0 IN A 192.0.2.1"}, 0},
		{"no longer than an hour", 0, []string{"good.test. 999999 IN A 192.0.2.1"}, 3600},
		{"no such name", dns.RcodeNameError, []string{soa}, 30},
		{"no such name, the SOA's own time", dns.RcodeNameError, []string{strings.Replace(soa, "900", "9", 1)}, 9},
		{"no such name, at most a minute", dns.RcodeNameError, []string{strings.Replace(soa, " 30", " 900", 1)}, 60},
		{"no such name, without SOA", dns.RcodeNameError, nil, 0},
		{"no such type", 0, []string{soa}, 30},
		{"no such type of an alias", 0, []string{"good.test. 60 IN CNAME b.test.", soa}, 30},
		{"no such name of an alias", dns.RcodeNameError, []string{"good.test. 5 IN CNAME b.test.", soa}, 5},
		{"a delegation", 0, []string{"authority:test. 900 IN NS ns.test."}, 0},
		{"a failure", dns.RcodeServerFailure, []string{soa}, 0},
		{"a refusal", dns.RcodeRefused, nil, 0},
	} {
		t.Run(tt.what, func(t *testing.T) {
			up := newUpstream(t, answering(t, tt.rcode, tt.records...))
			p := newProxy(t, Config{Upstreams: Plain(up.addr)})
			var c clock
			p.clock = c.now
			askTwice := func() int64 {
				before := up.udp.Load()
				exchange(t, p, ask("good.test.", dns.TypeA), true)
				return up.udp.Load() - before
			}
			askTwice()
			if tt.kept > 0 {
				c.pass(time.Duration(tt.kept)*time.Second - time.Nanosecond)
				if askTwice() != 0 {
					t.Errorf("asked again before %d seconds", tt.kept)
				}
				c.pass(time.Nanosecond)
			}
			if askTwice() == 0 {
				t.Errorf("kept for longer than %d seconds", tt.kept)
			}
		})
	}
}

// What is kept is given as each asker asks: id, case, flags, EDNS, remaining time.
func TestKeptAnswersAreLikeTheirQueries(t *testing.T) {
	up := newUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetReply(m)
		r.AuthenticatedData, r.RecursionAvailable = true, true
		r.Answer = []dns.RR{rr(t, "good.test. 60 IN CNAME b.good.test."), rr(t, "b.good.test. 60 IN A 192.0.2.1")}
		_ = w.WriteMsg(r)
	})
	p := newProxy(t, Config{Upstreams: Plain(up.addr)})
	var c clock
	p.clock = c.now
	exchange(t, p, ask("good.test.", dns.TypeA), true)
	c.pass(15 * time.Second)
	for _, edns := range []bool{false, true} {
		for _, ad := range []bool{false, true} {
			for _, udp := range []bool{false, true} {
				q := ask("GoOd.tEsT.", dns.TypeA)
				q.AuthenticatedData = ad
				if edns {
					q.SetEdns0(1232, false)
				}
				r := exchange(t, p, q, udp)
				if r.Id != q.Id || r.Question[0].Name != "GoOd.tEsT." || r.AuthenticatedData != ad || (r.IsEdns0() != nil) != edns ||
					len(r.Answer) != 2 || r.Answer[0].Header().Ttl != 45 || r.Answer[0].Header().Name != "GoOd.tEsT." {
					t.Errorf("edns %v, ad %v: got\n%s", edns, ad, r)
				}
			}
		}
	}
	if n := up.udp.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	for what, change := range map[string]func(*dns.Msg){
		"another type": func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
		"DNSSEC":       func(m *dns.Msg) { m.SetEdns0(1232, true) },
		"unchecked":    func(m *dns.Msg) { m.CheckingDisabled = true },
		"no recursion": func(m *dns.Msg) { m.RecursionDesired = false },
		"class CHAOS":  func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
	} {
		before := up.udp.Load()
		m := ask("good.test.", dns.TypeA)
		change(m)
		exchange(t, p, m, true)
		if up.udp.Load() == before {
			t.Errorf("%s: answered from what was kept for another query", what)
		}
	}
}

// A refusal never comes from what is kept, and what is kept never gets round one.
func TestPolicyHoldsOverKeptAnswers(t *testing.T) {
	up := newUpstream(t, answerA)
	var refuse atomic.Bool
	p := newProxy(t, Config{Upstreams: Plain(up.addr), Decide: func(*policy.Event) policy.Verdict {
		if refuse.Load() {
			return policy.Verdict{Detection: policy.DeniedDNS}
		}
		return policy.Verdict{Allow: true}
	}})
	serve(t, p, "127.0.0.1:0")
	for i, want := range []int{dns.RcodeSuccess, dns.RcodeNameError, dns.RcodeSuccess, dns.RcodeNameError} {
		refuse.Store(i%2 == 1)
		for _, network := range []string{"udp", "tcp"} {
			c := dns.Client{Net: network, Timeout: time.Minute}
			r, _, err := c.Exchange(ask("good.test.", dns.TypeA), p.Addrs()[0].String())
			if err != nil || r.Rcode != want {
				t.Errorf("step %d by %s: %v, %v", i, network, r, err)
			}
		}
	}
}

// Many who ask the same at once cost one query, and each is judged and told of.
func TestAskersOfTheSameShareOneFlight(t *testing.T) {
	release := make(chan struct{})
	up := newUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		<-release
		answerA(w, m)
	})
	const askers = 50
	var judged atomic.Int64
	d := newDiary()
	p := newProxy(t, Config{Upstreams: Plain(up.addr), Record: d.record, Decide: func(ev *policy.Event) policy.Verdict {
		if judged.Add(1) == askers {
			close(release)
		}
		return policy.Verdict{Allow: true, Detection: policy.DeniedDNS}
	}})
	p.tryFor, p.giveUp, p.hedge = time.Minute, time.Minute, time.Minute
	var all sync.WaitGroup
	for i := range askers {
		all.Go(func() {
			raw, _ := ask("alert.test.", dns.TypeA).Pack()
			raw[0], raw[1] = 0, byte(i)
			b := p.Exchange(context.Background(), raw, policy.Process{PID: i + 1}, true)
			r := new(dns.Msg)
			if err := r.Unpack(b); err != nil || int(r.Id) != i || len(r.Answer) != 1 {
				t.Errorf("asker %d: %v, %v", i, r, err)
			}
		})
	}
	all.Wait()
	if n := up.udp.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	seen := map[int]bool{}
	for _, ev := range d.events {
		seen[ev.Subject.PID] = true
	}
	if len(seen) != askers {
		t.Errorf("told of %d askers", len(seen))
	}
}

func TestStale(t *testing.T) {
	var broken, silence atomic.Bool
	up := newUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		switch {
		case silence.Load():
		case broken.Load():
			_ = w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeServerFailure))
		default:
			answerA(w, m)
		}
	})
	p := newProxy(t, Config{Upstreams: Plain(up.addr)})
	var c clock
	p.clock = c.now
	p.staleAfter = time.Minute
	get := func(stale bool, want int) {
		t.Helper()
		q := ask("good.test.", dns.TypeA)
		q.SetEdns0(1232, false)
		r := exchange(t, p, q, true)
		ede := r.IsEdns0().Option
		if r.Rcode != want || stale != (len(ede) == 1 && ede[0].(*dns.EDNS0_EDE).InfoCode == dns.ExtendedErrorCodeStaleAnswer) ||
			stale && r.Answer[0].Header().Ttl != staleTTL {
			t.Errorf("want stale %v, got\n%s", stale, r)
		}
	}
	get(false, 0)
	broken.Store(true)
	c.pass(time.Hour)
	get(true, 0)
	before := up.udp.Load()
	get(true, 0) // without asking again for now
	if up.udp.Load() != before {
		t.Error("asked again at once")
	}
	silence.Store(true)
	p.staleAfter = time.Millisecond
	c.pass(staleRecheck)
	get(true, 0)
	silence.Store(false)
	p.staleAfter = time.Minute
	c.pass(2 * staleFor)
	get(false, dns.RcodeServerFailure)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	p.work.Wait()
}

func TestCacheIsBounded(t *testing.T) {
	const size = 64 << 10
	c := newCache(size)
	key := func(i int) string { return fmt.Sprintf("name %d", i) }
	hot := key(-1)
	put := func(k string) {
		c.put(&entry{key: k, answer: &answer{wire: make([]byte, 100), ttl: 60}, born: time.Unix(0, 0)})
	}
	put(hot)
	for i := range 10000 {
		put(key(i))
		if c.get([]byte(hot)) == nil {
			t.Fatalf("what is used was dropped after %d", i)
		}
	}
	total, entries := 0, 0
	for i := range c.shards {
		s := &c.shards[i]
		total += s.bytes
		n, sum := 0, 0
		for e := s.ring.next; e != &s.ring; e = e.next {
			n, sum = n+1, sum+e.size()
		}
		if n != len(s.byKey) || sum != s.bytes {
			t.Errorf("shard %d: %d entries, %d in order; %d bytes, %d counted", i, len(s.byKey), n, sum, s.bytes)
		}
		entries += n
	}
	if total > size || entries < 64 {
		t.Errorf("%d bytes, %d entries", total, entries)
	}
	c.put(&entry{key: "huge", answer: &answer{wire: make([]byte, size)}})
	if c.get([]byte("huge")) != nil {
		t.Error("an answer larger than the cache is kept")
	}
	none := newCache(-1)
	none.put(&entry{key: "x", answer: &answer{}})
	if none.get([]byte("x")) != nil {
		t.Error("no cache keeps something")
	}
}

// An upstream may put anything into an answer; only what belongs there goes on.
func TestLyingUpstream(t *testing.T) {
	up := newUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetReply(m)
		r.Answer = []dns.RR{
			rr(t, "other.test. 60 IN A 192.0.2.66"),
			rr(t, "b.test. 60 IN A 192.0.2.1"),
			rr(t, "GOOD.test. 60 IN CNAME B.test."),
			rr(t, "c.test. 60 IN CNAME good.test."),
		}
		r.Extra = []dns.RR{rr(t, "bank.test. 60 IN A 192.0.2.66")}
		_ = w.WriteMsg(r)
	})
	p := newProxy(t, Config{Upstreams: Plain(up.addr)})
	r := exchange(t, p, ask("good.test.", dns.TypeA), true)
	if len(r.Answer) != 2 || len(r.Extra) != 0 {
		t.Errorf("got\n%s", r)
	}
}

func TestDeadUpstreamIsLeftOut(t *testing.T) {
	dead := newUpstream(t, silent)
	alive := newUpstream(t, answerA)
	p := newProxy(t, Config{Upstreams: Plain(dead.addr, alive.addr), CacheBytes: -1})
	p.hedge = 5 * time.Millisecond
	down := func() bool { return p.routes.rest[0].down() }
	for !down() {
		exchange(t, p, ask("good.test.", dns.TypeA), true)
	}
	asked := dead.udp.Load()
	for range 20 {
		exchange(t, p, ask("good.test.", dns.TypeA), true)
	}
	if n := dead.udp.Load() - asked; n > 2 { // probes
		t.Errorf("the dead one was asked %d times", n)
	}
	_ = p.Close()
	p.work.Wait()
}

func TestDeadUpstreamComesBack(t *testing.T) {
	var back atomic.Bool
	up := newUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		if back.Load() {
			answerA(w, m)
		}
	})
	p := newProxy(t, Config{Upstreams: Plain(up.addr)})
	p.tryFor = 5 * time.Millisecond
	exchange(t, p, ask("good.test.", dns.TypeA), true)
	if !p.routes.rest[0].down() {
		t.Fatal("it is not down")
	}
	back.Store(true)
	p.work.Wait() // for the probe that finds it
	if p.routes.rest[0].down() {
		t.Error("it is still down")
	}
}

func TestLocalhost(t *testing.T) {
	p := newProxy(t, Config{})
	for _, tt := range []struct {
		name  string
		qtype uint16
		want  string // "" is no data, "-" is not ours
	}{
		{"localhost.", dns.TypeA, "127.0.0.1"},
		{"LocalHost.", dns.TypeAAAA, "::1"},
		{"a.b.localhost.", dns.TypeA, "127.0.0.1"},
		{"localhost.", dns.TypeMX, ""},
		{"notlocalhost.", dns.TypeA, "-"},
		{`x\009localhost.`, dns.TypeA, "-"},
		{"localhost.test.", dns.TypeA, "-"},
	} {
		r := exchange(t, p, ask(tt.name, tt.qtype), true)
		got := "-"
		if r.Rcode == dns.RcodeSuccess {
			got = ""
			if len(r.Answer) == 1 {
				got = dns.Field(r.Answer[0], 1)
			} else if len(r.Ns) != 1 {
				t.Errorf("%s: no SOA", tt.name)
			}
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
	for hosts, want := range map[string]int{
		"127.0.0.1 localhost\n": 0, "127.0.0.1 localhost\n::1 localhost ip6-localhost\n": 1, "127.0.0.1 here\n": 1, "::1 LocalHost.\n": 1, "": 1,
	} {
		p := newProxy(t, Config{Hosts: ParseHosts([]byte(hosts))})
		if r := exchange(t, p, ask("localhost.", dns.TypeAAAA), true); r.Rcode != dns.RcodeSuccess || len(r.Answer) != want || len(r.Ns) != 1-want {
			t.Errorf("with %q in the hosts file: %s", hosts, r)
		}
	}
}

func TestCookies(t *testing.T) {
	up := newUpstream(t, answerA)
	p := newProxy(t, Config{Upstreams: Plain(up.addr)})
	for cookie, want := range map[string]int{
		"0102030405060708":                           dns.RcodeSuccess,
		"0102030405060708" + "1111111111111111":      dns.RcodeSuccess, // not one of ours: a new one
		"01020304050607":                             dns.RcodeFormatError,
		"0102030405060708" + "11":                    dns.RcodeFormatError,
		"0102030405060708" + strings.Repeat("1", 66): dns.RcodeFormatError,
	} {
		q := ask("good.test.", dns.TypeA)
		q.SetEdns0(1232, false)
		q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: cookie}}
		r := exchange(t, p, q, true)
		if r.Rcode != want {
			t.Errorf("%s: got %s", cookie, dns.RcodeToString[r.Rcode])
		}
		if want != dns.RcodeSuccess {
			continue
		}
		o := r.IsEdns0().Option
		if len(o) != 1 || !strings.HasPrefix(o[0].(*dns.EDNS0_COOKIE).Cookie, "0102030405060708") || len(o[0].(*dns.EDNS0_COOKIE).Cookie) != 32 {
			t.Errorf("%s: got\n%s", cookie, r)
		}
	}
}

func TestAnyIsShort(t *testing.T) {
	r := exchange(t, newProxy(t, Config{}), ask("good.test.", dns.TypeANY), true)
	if len(r.Answer) != 1 || r.Answer[0].(*dns.HINFO).Cpu != "RFC8482" {
		t.Errorf("got\n%s", r)
	}
}

// What fills the cache is read with one parser and written with another: they
// must agree with the library on every query there is.
func FuzzQuery(f *testing.F) {
	for _, name := range []string{"good.test.", ".", `\.\000.test.`} {
		q := ask(name, dns.TypeA)
		raw, _ := q.Pack()
		f.Add(raw)
		q.SetEdns0(1232, true)
		q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
		raw, _ = q.Pack()
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var q query
		if _, err := q.read(raw); err != nil {
			return
		}
		m := new(dns.Msg)
		if err := m.Unpack(raw); err != nil {
			return // it knows the insides of more records than we look at
		}
		buf := make([]byte, 256)
		n, err := dns.PackDomainName(m.Question[0].Name, buf, 0, nil, false)
		if err != nil || domain(buf[:n]) != q.domain() || m.Question[0].Qtype != q.qtype || m.Question[0].Qclass != q.qclass {
			t.Errorf("%x: read %q %d %d, the library %v", raw, q.domain(), q.qtype, q.qclass, m.Question)
		}
		if opt := m.IsEdns0(); (opt != nil) != q.edns || opt != nil && (opt.Do() != q.do || opt.UDPSize() != q.size) {
			t.Errorf("%x: EDNS %v, %v", raw, opt, q)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	q := ask("good.test.", dns.TypeA)
	r := new(dns.Msg).SetReply(q)
	r.Answer = []dns.RR{rr(f, "good.test. 60 IN CNAME b.test."), rr(f, "b.test. 7 IN A 192.0.2.1"), rr(f, "good.test. 60 IN HTTPS 1 c.test. ipv4hint=192.0.2.7")}
	r.SetEdns0(1232, true)
	raw, _ := r.Pack()
	f.Add(raw, uint16(512), true)
	sent, _ := q.Pack()
	f.Fuzz(func(t *testing.T, raw []byte, limit uint16, stale bool) {
		var q query
		if _, err := q.read(sent); err != nil {
			t.Fatal(err)
		}
		if len(raw) > 2 {
			copy(raw, sent[:2])
		}
		a, err := readAnswer(raw, q.id, q.question)
		if err != nil {
			return
		}
		max := max(int(limit), dns.MinMsgSize)
		b := a.reply(nil, &q, time.Second, stale, max, nil)
		m := new(dns.Msg)
		if err := m.Unpack(b); err != nil || len(b) > max {
			t.Errorf("%d bytes of %d: %x: %v", len(b), max, b, err)
		}
		if m.Id != q.id || !m.Response || len(m.Question) != 1 || !strings.EqualFold(m.Question[0].Name, "good.test.") {
			t.Errorf("%x answers %x", b, sent)
		}
	})
}

// The way from the cache takes no memory.
func TestQuickTakesNoMemory(t *testing.T) {
	up := newUpstream(t, answerA)
	p := newProxy(t, Config{Upstreams: Plain(up.addr)})
	q := ask("good.test.", dns.TypeA)
	q.SetEdns0(1232, false)
	raw, _ := q.Pack()
	w, buf := p.newWorker(), make([]byte, 0, maxUDPSize)
	if w.quick(buf, raw, true) != nil {
		t.Error("there was nothing to answer from")
	}
	p.Exchange(context.Background(), raw, wget, true)
	if n := testing.AllocsPerRun(100, func() {
		if w.quick(buf, raw, true) == nil {
			t.Error("not from the cache")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkQuick(b *testing.B) {
	up := newUpstream(b, answerA)
	p := newProxy(b, Config{Upstreams: Plain(up.addr)})
	raw, _ := ask("good.test.", dns.TypeA).Pack()
	p.Exchange(context.Background(), raw, wget, true)
	w, buf := p.newWorker(), make([]byte, 0, maxUDPSize)
	for b.Loop() {
		w.quick(buf, raw, true)
	}
}

// BenchmarkMiss asks a server that answers by hand for a new name each time.
func BenchmarkMiss(b *testing.B) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			buf[2] |= 0x80
			_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	p := newProxy(b, Config{Upstreams: Plain(unmap(conn.LocalAddr().(*net.UDPAddr).AddrPort()))})
	raw, _ := ask("aaaaaaaa.good.test.", dns.TypeA).Pack()
	b.ReportAllocs()
	for n := uint64(0); b.Loop(); n++ {
		for i := range 8 {
			raw[headerLen+1+i] = 'a' + byte(n>>(4*i)&15)
		}
		if p.Exchange(context.Background(), raw, wget, true) == nil {
			b.Fatal("no answer")
		}
	}
}

func TestParseUpstream(t *testing.T) {
	for s, want := range map[string]string{
		"10.0.0.2":                          "10.0.0.2:53",
		"10.0.0.2:5353":                     "10.0.0.2:5353",
		"2001:db8::1":                       "[2001:db8::1]:53",
		"[2001:db8::1]:54":                  "[2001:db8::1]:54",
		"tcp://10.0.0.2":                    "tcp://10.0.0.2:53",
		"tls://1.1.1.1#one.example":         "tls://1.1.1.1:853#one.example",
		"tls://one.example":                 "tls://one.example:853",
		"https://one.example/dns-query":     "https://one.example:443/dns-query",
		"https://1.1.1.1/q?x=1#one.example": "https://1.1.1.1:443/q?x=1#one.example",
		"/Corp.internal/10.0.0.2":           "/corp.internal/10.0.0.2:53",
		"/a.test/b.test/tls://10.0.0.2":     "/a.test/b.test/tls://10.0.0.2:853",
		"":                                  "!",
		"one.example":                       "!no address",
		"10.0.0.2:0":                        "!no port",
		"10.0.0.2:99999":                    "!",
		"0.0.0.0":                           "!no one's",
		"quic://10.0.0.2":                   "!none of",
		"udp://10.0.0.2#x":                  "!certificate",
		"tls://10.0.0.2/x":                  "!path",
		"//10.0.0.2":                        "!",
		"/a..b/10.0.0.2":                    "!no name",
		"/corp.internal/":                   "!",
	} {
		u, err := ParseUpstream(s)
		if part, bad := strings.CutPrefix(want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%q: got %v, %v; want an error with %q", s, u, err, part)
			}
			continue
		}
		if err != nil || u.String() != want {
			t.Errorf("%q: got %q, %v; want %q", s, u, err, want)
		} else if again, err := ParseUpstream(u.String()); err != nil || again.String() != want {
			t.Errorf("%q does not come back: %v, %v", want, again, err)
		}
	}
}

func TestSplitHorizon(t *testing.T) {
	at := func(s string) *upstream { return newUpstream(t, answering(t, 0, s)) }
	outside, inside, deep := at("x. 60 IN A 192.0.2.1"), at("x. 60 IN A 192.0.2.2"), at("x. 60 IN A 192.0.2.3")
	in, err := ParseUpstream("/corp.test/" + inside.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	below, err := ParseUpstream("/deep.corp.test/" + deep.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, Config{Upstreams: append(Plain(outside.addr), in, below)})
	for name, want := range map[string]*upstream{
		"good.test.": outside, "corp.test.": inside, "A.CORP.test.": inside, "notcorp.test.": outside,
		"deep.corp.test.": deep, "x.deep.corp.test.": deep, "xdeep.corp.test.": inside, `a\.corp.test.`: outside,
	} {
		before := want.udp.Load()
		exchange(t, p, ask(name, dns.TypeA), true)
		if want.udp.Load() != before+1 {
			t.Errorf("%s was asked elsewhere", name)
		}
	}
}
