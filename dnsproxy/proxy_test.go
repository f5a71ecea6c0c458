package dnsproxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/dns"

	"appdefender/policy"
)

// addresses lets cmp compare them.
var addresses = cmpopts.EquateComparable(netip.AddrPort{}, netip.Addr{})

var wget = policy.Process{PID: 12, Path: "/usr/bin/wget"}

// judge refuses evil.test and what is below it, tells of alert.test, and lets
// everything else pass in silence.
func judge(ev *policy.Event) policy.Verdict {
	switch d := ev.Domain; {
	case ev.Kind != policy.Lookup:
		return policy.Verdict{Detection: policy.Unreadable}
	case d == "evil.test", strings.HasSuffix(d, ".evil.test"):
		return policy.Verdict{Detection: policy.DeniedDNS, Rule: "sample", Reason: "listed"}
	case d == "alert.test":
		return policy.Verdict{Allow: true, Effect: policy.Alert, Detection: policy.DeniedDNS, Rule: "sample"}
	}
	return policy.Verdict{Allow: true}
}

// diary keeps what was recorded.
type diary struct {
	mu     sync.Mutex
	events []policy.Event
	errs   []error
	told   chan struct{}
}

func newDiary() *diary { return &diary{told: make(chan struct{}, 1000)} }

func (d *diary) record(ev *policy.Event, _ policy.Verdict, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, *ev)
	d.errs = append(d.errs, err)
	d.told <- struct{}{}
}

// upstream is a server on a free loopback port, over UDP and TCP.
type upstream struct {
	conn *net.UDPConn
	addr netip.AddrPort
	udp  atomic.Int64 // queries taken
	tcp  atomic.Int64
}

func newUpstream(t testing.TB, answer dns.HandlerFunc) *upstream {
	t.Helper()
	u := new(upstream)
	pc, l, err := bindBoth(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	u.conn, u.addr = pc, pc.LocalAddr().(*net.UDPAddr).AddrPort()
	count := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		if w.RemoteAddr().Network() == "udp" {
			u.udp.Add(1)
		} else {
			u.tcp.Add(1)
		}
		answer(w, m)
	})
	for _, s := range []*dns.Server{
		{PacketConn: pc, Handler: count, UDPSize: 4096},
		{Listener: l, Handler: count},
	} {
		ready := make(chan struct{})
		s.NotifyStartedFunc = func() { close(ready) }
		go func() { _ = s.ActivateAndServe() }()
		<-ready
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return u
}

// send sends something that nobody asked for.
func (u *upstream) send(t testing.TB, b []byte, to netip.AddrPort) {
	t.Helper()
	if _, err := u.conn.WriteToUDPAddrPort(b, to); err != nil {
		t.Fatal(err)
	}
}

// answerA answers every question with one address, and echoes EDNS.
func answerA(w dns.ResponseWriter, m *dns.Msg) {
	r := new(dns.Msg).SetReply(m)
	r.RecursionAvailable = true
	r.CheckingDisabled = m.CheckingDisabled
	r.Answer = []dns.RR{&dns.A{
		Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
		A:   net.IPv4(192, 0, 2, 1),
	}}
	if opt := m.IsEdns0(); opt != nil {
		r.SetEdns0(4096, opt.Do())
	}
	_ = w.WriteMsg(r)
}

// silent never answers.
func silent(dns.ResponseWriter, *dns.Msg) {}

func withRcode(code int) dns.HandlerFunc {
	return func(w dns.ResponseWriter, m *dns.Msg) { _ = w.WriteMsg(new(dns.Msg).SetRcode(m, code)) }
}

// refusedPort is an address where nobody listens.
func refusedPort(t testing.TB) netip.AddrPort {
	t.Helper()
	pc, l, err := bindBoth(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	defer l.Close()
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

func newProxy(t testing.TB, conf Config) *Proxy {
	t.Helper()
	if conf.Decide == nil {
		conf.Decide = judge
	}
	p, err := New(conf)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// serve listens on addr and serves until the test ends.
func serve(t testing.TB, p *Proxy, addr string) {
	t.Helper()
	if err := p.Listen(netip.MustParseAddrPort(addr)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve returned %v", err)
		}
	})
}

func ask(name string, qtype uint16) *dns.Msg {
	return new(dns.Msg).SetQuestion(name, qtype)
}

func exchange(t testing.TB, p *Proxy, m *dns.Msg, udp bool) *dns.Msg {
	t.Helper()
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	b := p.Exchange(context.Background(), raw, wget, udp)
	r := new(dns.Msg)
	if err := r.Unpack(b); err != nil {
		t.Fatalf("answer %x: %v", b, err)
	}
	return r
}

// lookup asks a proxy that listens.
func lookup(t testing.TB, p *Proxy, name string) *dns.Msg {
	t.Helper()
	c := &dns.Client{Timeout: time.Minute}
	r, _, err := c.Exchange(ask(name, dns.TypeA), p.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestVerdicts(t *testing.T) {
	tests := []struct {
		what   string
		name   string
		qtype  uint16
		rcode  int
		answer int
		told   string // the domain in the diary
	}{
		{"allowed", "good.test.", dns.TypeA, dns.RcodeSuccess, 1, ""},
		{"the root", ".", dns.TypeNS, dns.RcodeSuccess, 1, ""},
		{"an unknown type", "good.test.", 65280, dns.RcodeSuccess, 1, ""},
		{"any type", "good.test.", dns.TypeANY, dns.RcodeSuccess, 1, ""},
		{"a zone transfer", "good.test.", dns.TypeAXFR, dns.RcodeNotImplemented, 0, ""},
		{"refused", "evil.test.", dns.TypeA, dns.RcodeNameError, 0, "evil.test"},
		{"refused, below", "a.b.evil.test.", dns.TypeAAAA, dns.RcodeNameError, 0, "a.b.evil.test"},
		{"refused, in capitals", "EVIL.Test.", dns.TypeTXT, dns.RcodeNameError, 0, "evil.test"},
		{"refused, unknown type", "evil.test.", 65280, dns.RcodeNameError, 0, "evil.test"},
		{"refused, zone transfer", "evil.test.", dns.TypeAXFR, dns.RcodeNameError, 0, "evil.test"},
		{"only a suffix", "notevil.test.", dns.TypeA, dns.RcodeSuccess, 1, ""},
		{"a dot inside a label", `x\.evil.test.`, dns.TypeA, dns.RcodeSuccess, 1, ""},
		{"alert", "alert.test.", dns.TypeA, dns.RcodeSuccess, 1, "alert.test"},
	}
	up := newUpstream(t, answerA)
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			for _, udp := range []bool{true, false} {
				d := newDiary()
				p := newProxy(t, Config{Upstreams: Plain(up.addr), Record: d.record})
				r := exchange(t, p, ask(tt.name, tt.qtype), udp)
				if r.Rcode != tt.rcode || len(r.Answer) != tt.answer {
					t.Errorf("udp %v: got %s with %d records, want %s with %d", udp,
						dns.RcodeToString[r.Rcode], len(r.Answer), dns.RcodeToString[tt.rcode], tt.answer)
				}
				var told []policy.Event
				if tt.told != "" {
					told = []policy.Event{{
						Kind: policy.Lookup, Section: policy.DNS, Subject: wget,
						Domain: tt.told, QType: dns.Type(tt.qtype).String(),
					}}
				}
				if diff := cmp.Diff(told, d.events, addresses, cmpopts.IgnoreFields(policy.Event{}, "Answer")); diff != "" {
					t.Errorf("recorded (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// An answer has what its query had: id, exact case, flags, EDNS or none.
func TestAnswersLikeTheirQueries(t *testing.T) {
	type flags struct{ rd, cd, edns, do bool }
	up := newUpstream(t, answerA)
	p := newProxy(t, Config{Upstreams: Plain(up.addr)})
	for _, name := range []string{"GoOd.TEST.", "EvIl.tEsT.", `w\000eird\ \255.test.`} {
		for _, f := range []flags{{}, {rd: true}, {cd: true}, {rd: true, edns: true}, {edns: true, do: true, cd: true}} {
			q := ask(name, dns.TypeA)
			q.RecursionDesired, q.CheckingDisabled = f.rd, f.cd
			if f.edns {
				q.SetEdns0(4096, f.do)
			}
			r := exchange(t, p, q, true)
			got := flags{rd: r.RecursionDesired, cd: r.CheckingDisabled}
			if opt := r.IsEdns0(); opt != nil {
				got.edns, got.do = true, opt.Do()
				if opt.UDPSize() != ourUDPSize {
					t.Errorf("%s %+v: UDP size %d", name, f, opt.UDPSize())
				}
			}
			if got != f {
				t.Errorf("%s: got %+v, want %+v", name, got, f)
			}
			if r.Id != q.Id || !r.Response || r.Opcode != q.Opcode {
				t.Errorf("%s: header %+v answers %+v", name, r.MsgHdr, q.MsgHdr)
			}
			if diff := cmp.Diff(q.Question, r.Question); diff != "" {
				t.Errorf("question (-want +got):\n%s", diff)
			}
		}
	}
}

// The upstream sees a new id and our own EDNS, but the asker's DO and CD.
func TestUpstreamQuery(t *testing.T) {
	seen := make(chan *dns.Msg, 1)
	up := newUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		seen <- m
		answerA(w, m)
	})
	p := newProxy(t, Config{Upstreams: Plain(up.addr)})
	q := ask("good.test.", dns.TypeA)
	q.CheckingDisabled = true
	q.SetEdns0(4096, true)
	q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
	exchange(t, p, q, true)
	m := <-seen
	opt := m.IsEdns0()
	if opt == nil || !opt.Do() || opt.UDPSize() != ourUDPSize || len(opt.Option) != 0 || !m.CheckingDisabled || !m.RecursionDesired {
		t.Errorf("upstream got\n%s", m)
	}
	exchange(t, p, ask("good.test.", dns.TypeA), true)
	if m = <-seen; m.IsEdns0() == nil || m.IsEdns0().Do() || m.CheckingDisabled || !m.AuthenticatedData {
		t.Errorf("upstream got\n%s", m)
	}
}

func TestRefusal(t *testing.T) {
	p := newProxy(t, Config{})
	for _, tt := range []struct{ name, zone string }{
		{"evil.test.", "evil.test."},
		{"a.evil.test.", "evil.test."},
		{"b.a.evil.test.", "a.evil.test."},
	} {
		q := ask(tt.name, dns.TypeMX)
		q.SetEdns0(1232, false)
		r := exchange(t, p, q, true)
		if len(r.Ns) != 1 {
			t.Fatalf("%s: authority %v", tt.name, r.Ns)
		}
		soa, ok := r.Ns[0].(*dns.SOA)
		if !ok || soa.Hdr.Name != tt.zone || soa.Hdr.Ttl != 10 || soa.Minttl != 10 {
			t.Errorf("%s: authority %v", tt.name, r.Ns[0])
		}
		ede := r.IsEdns0().Option
		if len(ede) != 1 || ede[0].(*dns.EDNS0_EDE).InfoCode != 15 || ede[0].(*dns.EDNS0_EDE).ExtraText != "sample" {
			t.Errorf("%s: options %v", tt.name, ede)
		}
	}
}

func TestRawMessages(t *testing.T) {
	good, _ := ask("good.test.", dns.TypeA).Pack()
	edit := func(f func(b []byte) []byte) []byte { return f(append([]byte(nil), good...)) }
	ednsOf := func(version uint8, opts int) []byte {
		q := ask("good.test.", dns.TypeA)
		for range opts {
			o := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
			o.SetVersion(version)
			q.Extra = append(q.Extra, o)
		}
		b, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const dropped = -1
	tests := []struct {
		what  string
		raw   []byte
		rcode int
	}{
		{"good", good, dns.RcodeSuccess},
		{"empty", nil, dropped},
		{"no header", good[:11], dropped},
		{"a response", edit(func(b []byte) []byte { b[2] |= 0x80; return b }), dropped},
		{"a header alone", good[:12], dns.RcodeFormatError},
		{"cut in the name", good[:15], dns.RcodeFormatError},
		{"cut after the name", good[:len(good)-4], dns.RcodeFormatError},
		{"cut after the type", good[:len(good)-2], dns.RcodeFormatError},
		{"no question", edit(func(b []byte) []byte { b[5] = 0; return b[:12] }), dns.RcodeFormatError},
		{"two questions", edit(func(b []byte) []byte { b[5] = 2; return append(b, b[12:]...) }), dns.RcodeFormatError},
		{"an answer promised", edit(func(b []byte) []byte { b[7] = 1; return b }), dns.RcodeFormatError},
		{"opcode STATUS", edit(func(b []byte) []byte { b[2] |= 2 << 3; return b }), dns.RcodeNotImplemented},
		{"opcode UPDATE", edit(func(b []byte) []byte { b[2] |= 5 << 3; return b }), dns.RcodeNotImplemented},
		{"a name that points to itself", edit(func(b []byte) []byte { return append(b[:12], 0xC0, 12, 0, 1, 0, 1) }), dns.RcodeFormatError},
		{"class CHAOS", edit(func(b []byte) []byte { b[len(b)-1] = 3; return b }), dns.RcodeSuccess},
		{"one OPT", ednsOf(0, 1), dns.RcodeSuccess},
		{"two OPT", ednsOf(0, 2), dns.RcodeFormatError},
		{"EDNS version 1", ednsOf(1, 1), dns.RcodeBadVers},
	}
	up := newUpstream(t, answerA)
	p := newProxy(t, Config{Upstreams: Plain(up.addr)})
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			b := p.Exchange(context.Background(), tt.raw, wget, true)
			if b == nil || tt.rcode == dropped {
				if b != nil || tt.rcode != dropped {
					t.Errorf("got %x, want code %d", b, tt.rcode)
				}
				return
			}
			r := new(dns.Msg)
			if err := r.Unpack(b); err != nil {
				t.Fatal(err)
			}
			if r.Rcode != tt.rcode || r.Id != binary.BigEndian.Uint16(tt.raw) || !r.Response || !r.RecursionDesired {
				t.Errorf("got %+v, want code %d", r.MsgHdr, tt.rcode)
			}
			ev, v, err := p.Judge(tt.raw, wget)
			if unreadable := tt.rcode != dns.RcodeSuccess; unreadable != (err != nil) || unreadable != (ev.Kind == policy.Unknown) || unreadable == v.Allow {
				t.Errorf("judged %+v: %+v, %v", ev, v, err)
			}
		})
	}
}

func TestJudgeDoesNotAsk(t *testing.T) {
	up := newUpstream(t, answerA)
	p := newProxy(t, Config{Upstreams: Plain(up.addr)})
	raw, _ := ask("Evil.test.", dns.TypeAAAA).Pack()
	ev, v, err := p.Judge(raw, wget)
	want := policy.Event{Kind: policy.Lookup, Section: policy.DNS, Subject: wget, Domain: "evil.test", QType: "AAAA"}
	if diff := cmp.Diff(want, ev, addresses); diff != "" || v.Allow || err != nil {
		t.Errorf("%+v, %v (-want +got):\n%s", v, err, diff)
	}
	if n := up.udp.Load(); n != 0 {
		t.Errorf("asked upstream %d times", n)
	}
}

func TestUpstreams(t *testing.T) {
	type want struct {
		rcode int
		err   string
		asked []int64 // each upstream, by UDP
	}
	one := func(h dns.HandlerFunc) []dns.HandlerFunc { return []dns.HandlerFunc{h} }
	forged := func(change func(r *dns.Msg)) dns.HandlerFunc {
		return func(w dns.ResponseWriter, m *dns.Msg) {
			r := new(dns.Msg).SetRcode(m, dns.RcodeNameError)
			change(r)
			_ = w.WriteMsg(r)
			answerA(w, m)
		}
	}
	tests := []struct {
		what string
		ups  []dns.HandlerFunc // nil: nobody listens there
		want want
	}{
		{"the first answers", []dns.HandlerFunc{answerA, answerA}, want{0, "", []int64{1, 0}}},
		{"the first is not there", []dns.HandlerFunc{nil, answerA}, want{0, "", []int64{0, 1}}},
		{"the first is silent", []dns.HandlerFunc{silent, answerA}, want{0, "", []int64{1, 1}}},
		{"the first cannot", []dns.HandlerFunc{withRcode(dns.RcodeServerFailure), answerA}, want{0, "", []int64{1, 1}}},
		{"the first will not", []dns.HandlerFunc{withRcode(dns.RcodeRefused), answerA}, want{0, "", []int64{1, 1}}},
		{"all refuse", []dns.HandlerFunc{withRcode(dns.RcodeServerFailure), withRcode(dns.RcodeRefused)}, want{dns.RcodeRefused, "", []int64{1, 1}}},
		{"there is no such name", []dns.HandlerFunc{withRcode(dns.RcodeNameError), answerA}, want{dns.RcodeNameError, "", []int64{1, 0}}},
		{"none", nil, want{dns.RcodeServerFailure, "no upstream", nil}},
		{"none there", one(nil), want{dns.RcodeServerFailure, "connection refused", []int64{0}}},
		{"another id first", one(forged(func(r *dns.Msg) { r.Id++ })), want{0, "", []int64{1}}},
		{"another name first", one(forged(func(r *dns.Msg) { r.Question[0].Name = "other.test." })), want{0, "", []int64{1}}},
		{"another type first", one(forged(func(r *dns.Msg) { r.Question[0].Qtype = dns.TypeMX })), want{0, "", []int64{1}}},
		{"a query first", one(forged(func(r *dns.Msg) { r.Response = false })), want{0, "", []int64{1}}},
		{"another case", one(func(w dns.ResponseWriter, m *dns.Msg) {
			m.Question[0].Name = strings.ToUpper(m.Question[0].Name)
			answerA(w, m)
		}), want{0, "", []int64{1}}},
		{"no question in a refusal", one(func(w dns.ResponseWriter, m *dns.Msg) {
			r := new(dns.Msg).SetRcode(m, dns.RcodeFormatError)
			r.Question = nil
			_ = w.WriteMsg(r)
		}), want{dns.RcodeFormatError, "", []int64{2}}}, // again without EDNS
		{"unreadable", one(func(w dns.ResponseWriter, m *dns.Msg) {
			b, _ := new(dns.Msg).SetReply(m).Pack()
			b[7] = 1 // an answer promised
			_, _ = w.Write(b)
		}), want{dns.RcodeServerFailure, "unreadable", []int64{2}}},
	}
	for i := range 2 * len(tests) {
		tt, listens := tests[i/2], i%2 == 1
		t.Run(fmt.Sprintf("%s, listens %t", tt.what, listens), func(t *testing.T) {
			t.Parallel()
			var conf Config
			var ups []*upstream
			for _, h := range tt.ups {
				u := &upstream{addr: refusedPort(t)}
				if h != nil {
					u = newUpstream(t, h)
				}
				ups = append(ups, u)
				conf.Upstreams = append(conf.Upstreams, Plain(u.addr)...)
			}
			d := newDiary()
			conf.Record = d.record
			p := newProxy(t, conf)
			var r *dns.Msg
			if listens {
				serve(t, p, "127.0.0.1:0")
				r = lookup(t, p, "alert.test.")
			} else {
				r = exchange(t, p, ask("alert.test.", dns.TypeA), true)
			}
			<-d.told
			if r.Rcode != tt.want.rcode {
				t.Errorf("got %s, want %s", dns.RcodeToString[r.Rcode], dns.RcodeToString[tt.want.rcode])
			}
			if r.Question[0].Name != "alert.test." {
				t.Errorf("question %v", r.Question)
			}
			for i, u := range ups {
				if got := u.udp.Load(); got != tt.want.asked[i] {
					t.Errorf("upstream %d was asked %d times, want %d", i, got, tt.want.asked[i])
				}
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			if len(d.errs) != 1 {
				t.Fatalf("recorded %d times", len(d.errs))
			}
			if err := d.errs[0]; (err == nil) != (tt.want.err == "") || err != nil && !strings.Contains(err.Error(), tt.want.err) {
				t.Errorf("recorded error %v, want %q", err, tt.want.err)
			}
		})
	}
}

// A proxy never asks itself, whatever its configuration says.
func TestNoLoop(t *testing.T) {
	addr := refusedPort(t)
	p := newProxy(t, Config{Upstreams: Plain(addr)})
	serve(t, p, addr.String())
	r := exchange(t, p, ask("good.test.", dns.TypeA), true)
	if r.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %s", dns.RcodeToString[r.Rcode])
	}
}

func TestTruncation(t *testing.T) {
	// big answers with n addresses; over UDP it obeys the asker's size.
	big := func(n int) dns.HandlerFunc {
		return func(w dns.ResponseWriter, m *dns.Msg) {
			r := new(dns.Msg).SetReply(m)
			for i := range n {
				r.Answer = append(r.Answer, &dns.A{
					Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET},
					A:   net.IPv4(192, 0, byte(i>>8), byte(i)),
				})
			}
			if opt := m.IsEdns0(); opt != nil {
				r.SetEdns0(4096, opt.Do())
			}
			if w.RemoteAddr().Network() == "udp" {
				size := 512
				if opt := m.IsEdns0(); opt != nil {
					size = int(opt.UDPSize())
				}
				r.Truncate(size)
			}
			_ = w.WriteMsg(r)
		}
	}
	tests := []struct {
		what     string
		n        int
		size     uint16 // the asker's; 0 is no EDNS
		udp      bool
		complete bool
		tcp      int64 // queries upstream
	}{
		{"fits", 5, 0, true, true, 0},
		{"fits EDNS", 60, 1232, true, true, 0},
		{"fits the asker, not us", 150, 4096, true, true, 1},
		{"does not fit 512", 60, 0, true, false, 0},
		{"does not fit a size below 512", 60, 100, true, false, 0},
		{"does not fit EDNS", 150, 1232, true, false, 1},
		{"does not fit the largest", 400, 65535, true, false, 1},
		{"by TCP", 400, 0, false, true, 1},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			up := newUpstream(t, big(tt.n))
			p := newProxy(t, Config{Upstreams: Plain(up.addr)})
			q := ask("good.test.", dns.TypeA)
			limit := 512
			if tt.size > 0 {
				q.SetEdns0(tt.size, false)
				limit = min(max(limit, int(tt.size)), maxUDPSize)
			}
			raw, _ := q.Pack()
			b := p.Exchange(context.Background(), raw, wget, tt.udp)
			r := new(dns.Msg)
			if err := r.Unpack(b); err != nil {
				t.Fatal(err)
			}
			if r.Truncated == tt.complete || (len(r.Answer) == tt.n) != tt.complete {
				t.Errorf("truncated %v, %d records of %d", r.Truncated, len(r.Answer), tt.n)
			}
			if tt.udp && len(b) > limit {
				t.Errorf("%d bytes for a limit of %d", len(b), limit)
			}
			if (r.IsEdns0() != nil) != (tt.size > 0) {
				t.Errorf("EDNS: %v", r.IsEdns0())
			}
			if got := up.tcp.Load(); got != tt.tcp {
				t.Errorf("%d queries by TCP, want %d", got, tt.tcp)
			}
		})
	}
}

// What belongs to the upstream's hop stays there; what it says of an error
// goes on.
func TestRelay(t *testing.T) {
	up := newUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetReply(m)
		r.Rcode = dns.RcodeBadCookie // an extended code
		r.SetEdns0(4096, false)
		r.IsEdns0().Option = []dns.EDNS0{
			&dns.EDNS0_NSID{Code: dns.EDNS0NSID, Nsid: "00"},
			&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeStaleAnswer},
		}
		r.Extra = append(r.Extra, &dns.TSIG{
			Hdr: dns.RR_Header{Name: "key.", Rrtype: dns.TypeTSIG, Class: dns.ClassANY}, Algorithm: dns.HmacSHA256,
		})
		b, err := r.Pack()
		if err != nil {
			panic(err)
		}
		_, _ = w.Write(b)
	})
	p := newProxy(t, Config{Upstreams: Plain(up.addr)})
	q := ask("good.test.", dns.TypeA)
	q.SetEdns0(1232, false)
	r := exchange(t, p, q, true)
	if r.Rcode != dns.RcodeBadCookie || len(r.Extra) != 1 || len(r.IsEdns0().Option) != 1 {
		t.Errorf("got\n%s", r)
	}
	if r = exchange(t, p, ask("good.test.", dns.TypeA), true); r.Rcode != dns.RcodeServerFailure || len(r.Extra) != 0 {
		t.Errorf("without EDNS got\n%s", r)
	}
}

func TestListeners(t *testing.T) {
	up := newUpstream(t, answerA)
	d := newDiary()
	var askers Askers
	p := newProxy(t, Config{
		Upstreams: Plain(up.addr),
		Record:    d.record,
		Asker: func(network string, client netip.AddrPort) policy.Process {
			who, _ := askers.Get(network, client)
			return who
		},
	})
	serve(t, p, "127.0.0.9:0")
	for _, network := range []string{"udp", "tcp"} {
		conn, err := dns.Dial(network, p.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		askers.Add(network, netip.MustParseAddrPort(conn.LocalAddr().String()), policy.Process{Path: "/bin/" + network})
		for _, name := range []string{"good.test.", "evil.test."} {
			q := ask(name, dns.TypeA)
			if err := conn.WriteMsg(q); err != nil {
				t.Fatal(err)
			}
			r, err := conn.ReadMsg()
			if err != nil {
				t.Fatal(err)
			}
			if r.Id != q.Id || (r.Rcode == dns.RcodeSuccess) != (name == "good.test.") {
				t.Errorf("%s by %s: got\n%s", name, network, r)
			}
		}
		<-d.told
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var paths []string
	for _, ev := range d.events {
		paths = append(paths, ev.Subject.Path)
	}
	if diff := cmp.Diff([]string{"/bin/udp", "/bin/tcp"}, paths); diff != "" {
		t.Errorf("askers (-want +got):\n%s", diff)
	}
}

// A judge that must know who asks knows it each time, also of what is in the
// cache.
func TestAsksWho(t *testing.T) {
	up := newUpstream(t, answerA)
	var refuses atomic.Bool
	p := newProxy(t, Config{
		Upstreams: Plain(up.addr),
		AsksWho:   func() bool { return true },
		Asker:     func(string, netip.AddrPort) policy.Process { return policy.Process{PID: 7, Path: "/bin/evil"} },
		Decide: func(ev *policy.Event) policy.Verdict {
			if refuses.Load() && ev.Subject.Path == "/bin/evil" {
				return policy.Verdict{Effect: policy.Prevent, Detection: policy.Custom}
			}
			return policy.Verdict{Allow: true}
		},
	})
	serve(t, p, "127.0.0.1:0")
	for _, name := range []string{"good.test.", "new.test."} {
		refuses.Store(false)
		if r := lookup(t, p, "good.test."); r.Rcode != dns.RcodeSuccess {
			t.Errorf("got\n%s", r)
		}
		refuses.Store(true)
		if r := lookup(t, p, name); r.Rcode != dns.RcodeNameError {
			t.Errorf("%s: got\n%s", name, r)
		}
	}
}

// An unconnected resolver looks where the reply comes from.
func TestReplyComesFromTheAddressAsked(t *testing.T) {
	p := newProxy(t, Config{})
	serve(t, p, "127.0.0.9:0")
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, _ := ask("evil.test.", dns.TypeA).Pack()
	if _, err := conn.WriteToUDPAddrPort(raw, p.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	_, from, err := conn.ReadFromUDPAddrPort(make([]byte, 512))
	if err != nil || unmap(from) != p.Addrs()[0] {
		t.Errorf("answer from %v (%v), asked %v", from, err, p.Addrs()[0])
	}
}

// Answers on one connection come as they are ready, not in order, and a client
// that has said its last word still gets them.
func TestPipelining(t *testing.T) {
	release := make(chan struct{})
	up := newUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		if m.Question[0].Name == "slow.test." {
			<-release
		}
		answerA(w, m)
	})
	p := newProxy(t, Config{Upstreams: Plain(up.addr)})
	p.tryFor = time.Minute
	p.giveUp = time.Minute
	serve(t, p, "127.0.0.1:0")
	conn, err := net.Dial("tcp", p.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var all []byte
	for _, name := range []string{"slow.test.", "quick.test.", "evil.test."} {
		raw, _ := ask(name, dns.TypeA).Pack()
		all = append(all, frame(raw)...)
	}
	if _, err := conn.Write(all); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for i := range 3 {
		if i == 2 {
			if got["slow.test."] {
				t.Error("the slow answer came before it was there")
			}
			close(release)
		}
		raw, err := readFrame(conn)
		if err != nil {
			t.Fatal(err)
		}
		r := new(dns.Msg)
		if err := r.Unpack(raw); err != nil {
			t.Fatal(err)
		}
		got[r.Question[0].Name] = true
	}
	if len(got) != 3 {
		t.Errorf("answers: %v", got)
	}
	if _, err := readFrame(conn); err == nil {
		t.Error("the connection stays open")
	}
}

func TestIdleConnectionIsClosed(t *testing.T) {
	p := newProxy(t, Config{})
	p.idle = time.Millisecond
	serve(t, p, "127.0.0.1:0")
	conn, err := net.Dial("tcp", p.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("read something")
	}
}

// With all slots taken nothing is asked upstream, but the judge still judges.
func TestOverflow(t *testing.T) {
	up := newUpstream(t, answerA)
	d := newDiary()
	busy := make(chan uint64, 10)
	p := newProxy(t, Config{Upstreams: Plain(up.addr), Record: d.record, Busy: func(n uint64) { busy <- n }})
	serve(t, p, "127.0.0.1:0")
	for p.enter() { //nolint:revive // fill them all
	}
	for _, network := range []string{"udp", "tcp"} {
		c := &dns.Client{Net: network, Timeout: time.Minute}
		for name, rcode := range map[string]int{"good.test.": dns.RcodeServerFailure, "evil.test.": dns.RcodeNameError} {
			r, _, err := c.Exchange(ask(name, dns.TypeA), p.Addrs()[0].String())
			if err != nil || r.Rcode != rcode {
				t.Errorf("%s by %s: %v, %v", name, network, r, err)
			}
		}
	}
	if r := exchange(t, p, ask("alert.test.", dns.TypeA), true); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("got\n%s", r)
	}
	for range 3 {
		<-d.told
	}
	if first, second := <-busy, <-busy; first != 1 || second != 2 || p.overflows.Load() != 3 || len(busy) != 0 {
		t.Errorf("%d overflows, told at %d and %d", p.overflows.Load(), first, second)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.events) != 3 || !errors.Is(errors.Join(d.errs...), errBusy) {
		t.Errorf("recorded %v, %v", d.events, d.errs)
	}
}

func TestServeEnds(t *testing.T) {
	t.Run("with a query in flight", func(t *testing.T) {
		asked := make(chan struct{}, 10)
		up := newUpstream(t, func(dns.ResponseWriter, *dns.Msg) { asked <- struct{}{} })
		p := newProxy(t, Config{Upstreams: Plain(up.addr)})
		p.tryFor, p.giveUp = time.Hour, time.Hour
		serve(t, p, "127.0.0.1:0") // whose cleanup waits for the end
		for _, network := range []string{"udp", "tcp"} {
			conn, err := dns.Dial(network, p.Addrs()[0].String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.WriteMsg(ask(network+".test.", dns.TypeA)); err != nil {
				t.Fatal(err)
			}
			<-asked
		}
	})
	t.Run("by Close", func(t *testing.T) {
		p := newProxy(t, Config{})
		if err := p.Listen(netip.MustParseAddrPort("127.0.0.1:0")); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() { ended <- p.Serve(context.Background()) }()
		for range 2 {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Run("without a listener", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := newProxy(t, Config{}).Serve(ctx); err != nil {
			t.Error(err)
		}
	})
}

func TestNewAndListenRefuse(t *testing.T) {
	_, err := New(Config{Upstreams: append([]Upstream{{}}, Plain(netip.MustParseAddrPort("192.0.2.1:0"))...)})
	for _, part := range []string{"decide", "upstreams[0]", "upstreams[1]"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v does not name %s", err, part)
		}
	}
	p := newProxy(t, Config{})
	for _, addr := range []netip.AddrPort{{}, netip.MustParseAddrPort("0.0.0.0:0"), netip.MustParseAddrPort("[::]:53")} {
		if err := p.Listen(addr); err == nil {
			t.Errorf("listens on %v", addr)
		}
	}
	if len(p.Addrs()) != 0 {
		t.Errorf("addresses %v without a listener", p.Addrs())
	}
	serve(t, p, "127.0.0.1:0")
	if err := p.Listen(netip.MustParseAddrPort("127.0.0.2:0")); err != nil || len(p.Addrs()) != 2 {
		t.Errorf("a second address: %v, %v", p.Addrs(), err)
	}
	if err := newProxy(t, Config{}).Listen(p.Addrs()[0]); err == nil {
		t.Error("two listen on one address")
	}
}

func TestDomain(t *testing.T) {
	for name, want := range map[string]string{
		".":                ".",
		"Example.COM.":     "example.com",
		`a\.b.test.`:       `a\046b.test`,
		`a\\.b.test.`:      `a\\.b.test`,
		`a\..`:             `a\046`,
		`\000\255X.Test.`:  `\000\255x.test`,
		`\@A.test.`:        `@a.test`,
		"xn--BCHER-kva.x.": "xn--bcher-kva.x",
	} {
		buf := make([]byte, 256)
		n, err := dns.PackDomainName(name, buf, 0, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		if got := domain(buf[:n]); got != want {
			t.Errorf("domain(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestAskers(t *testing.T) {
	at := netip.MustParseAddrPort
	who := func(pid int) policy.Process { return policy.Process{PID: pid} }
	type add struct {
		network, addr string
		pid           int
	}
	tests := []struct {
		what          string
		adds          []add
		network, addr string
		want          int // 0: unknown
	}{
		{"nothing added", nil, "udp", "127.0.0.1:40", 0},
		{"exact", []add{{"udp", "127.0.0.1:40", 1}}, "udp", "127.0.0.1:40", 1},
		{"another port", []add{{"udp", "127.0.0.1:40", 1}}, "udp", "127.0.0.1:41", 0},
		{"another address", []add{{"udp", "127.0.0.2:40", 1}}, "udp", "127.0.0.1:40", 0},
		{"another network", []add{{"tcp", "127.0.0.1:40", 1}}, "udp", "127.0.0.1:40", 0},
		{"udp4", []add{{"udp4", "127.0.0.1:40", 1}}, "udp", "127.0.0.1:40", 1},
		{"mapped", []add{{"udp", "[::ffff:127.0.0.1]:40", 1}}, "udp", "127.0.0.1:40", 1},
		{"asked as mapped", []add{{"udp", "127.0.0.1:40", 1}}, "udp", "[::ffff:127.0.0.1]:40", 1},
		{"unbound", []add{{"udp", "0.0.0.0:40", 1}}, "udp", "127.0.0.1:40", 1},
		{"unbound IPv6", []add{{"udp", "[::]:40", 1}}, "udp", "127.0.0.1:40", 1},
		{"mapped and unbound", []add{{"udp", "[::ffff:0.0.0.0]:40", 1}}, "udp", "127.0.0.1:40", 1},
		{"scope", []add{{"udp", "[fe80::1%lo]:40", 1}}, "udp", "[fe80::1]:40", 1},
		{"replaced", []add{{"udp", "127.0.0.1:40", 1}, {"udp", "127.0.0.1:40", 2}}, "udp", "127.0.0.1:40", 2},
		{"the newer, unbound", []add{{"udp", "127.0.0.1:40", 1}, {"udp", "0.0.0.0:40", 2}}, "udp", "127.0.0.1:40", 2},
		{"the newer, bound", []add{{"udp", "0.0.0.0:40", 1}, {"udp", "127.0.0.1:40", 2}}, "udp", "127.0.0.1:40", 2},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			var a Askers
			for _, x := range tt.adds {
				a.Add(x.network, at(x.addr), who(x.pid))
			}
			got, ok := a.Get(tt.network, at(tt.addr))
			if got.PID != tt.want || ok != (tt.want != 0) {
				t.Errorf("got %d, %v, want %d", got.PID, ok, tt.want)
			}
		})
	}
}

func TestAskersForgetTheLongestUnused(t *testing.T) {
	var a Askers
	at := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(1+i))
	}
	for i := range maxAskers {
		a.Add("udp", at(i), policy.Process{PID: i})
	}
	a.Get("udp", at(0))
	a.Add("udp", at(maxAskers), policy.Process{})
	for i, want := range map[int]bool{0: true, 1: false, 2: true, maxAskers: true} {
		if _, ok := a.Get("udp", at(i)); ok != want {
			t.Errorf("entry %d is known: %v", i, ok)
		}
	}
	if len(a.byKey) != maxAskers || a.used.Len() != maxAskers {
		t.Errorf("%d and %d entries", len(a.byKey), a.used.Len())
	}
}

func FuzzExchange(f *testing.F) {
	for _, name := range []string{"good.test.", "EVIL.test.", `\.\000.test.`, "."} {
		q := ask(name, dns.TypeA)
		raw, _ := q.Pack()
		f.Add(raw, raw, true)
		q.SetEdns0(1232, true)
		edns, _ := q.Pack()
		f.Add(edns, raw, false)
		r := new(dns.Msg).SetReply(q)
		answer, _ := r.Pack()
		f.Add(raw, answer, true)
	}
	// The upstream answers with the fuzzer's bytes, under the right id.
	var mu sync.Mutex
	var answer []byte
	pc, l, err := bindBoth(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		f.Fatal(err)
	}
	_ = l.Close()
	defer pc.Close()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			mu.Lock()
			r := append([]byte(nil), answer...)
			mu.Unlock()
			if len(r) >= 2 && n >= 2 {
				copy(r, buf[:2])
			}
			_, _ = pc.WriteToUDPAddrPort(r, from)
		}
	}()
	p := newProxy(f, Config{Upstreams: Plain(pc.LocalAddr().(*net.UDPAddr).AddrPort())})
	p.tryFor, p.giveUp = 5*time.Millisecond, 10*time.Millisecond

	f.Fuzz(func(t *testing.T, raw, up []byte, udp bool) {
		if len(up) > 60000 {
			return
		}
		mu.Lock()
		answer = up
		mu.Unlock()
		_, _, judgeErr := p.Judge(raw, wget)
		b := p.Exchange(context.Background(), raw, wget, udp)
		if b == nil {
			if len(raw) >= headerLen && raw[2]&0x80 == 0 {
				t.Errorf("query %x was dropped", raw)
			}
			return
		}
		r := new(dns.Msg)
		if err := r.Unpack(b); err != nil {
			t.Fatalf("answer %x: %v", b, err)
		}
		if r.Id != binary.BigEndian.Uint16(raw) || !r.Response {
			t.Errorf("answer %+v to %x", r.MsgHdr, raw)
		}
		if judgeErr == nil {
			q := new(dns.Msg)
			if err := q.Unpack(raw); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(q.Question, r.Question); diff != "" {
				t.Errorf("question (-want +got):\n%s", diff)
			}
			if (q.IsEdns0() == nil) != (r.IsEdns0() == nil) {
				t.Errorf("EDNS of %x in %x", raw, b)
			}
		}
	})
}

func TestCut(t *testing.T) {
	for _, tt := range []struct {
		s    string
		n    int
		want string
	}{{"rule", 4, "rule"}, {"rules", 4, "rule"}, {"ré", 2, "r"}, {"\x80\x80", 1, ""}} {
		if got := cut(tt.s, tt.n); got != tt.want {
			t.Errorf("cut(%q, %d) = %q, want %q", tt.s, tt.n, got, tt.want)
		}
	}
}
