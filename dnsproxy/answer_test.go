package dnsproxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"appdefender/policy"
)

// real judges by a policy as it is.
func real(t testing.TB, s policy.DNSSection) func(*policy.Event) policy.Verdict {
	t.Helper()
	e, err := policy.Compile(&policy.Policy{Version: 1, Rules: []policy.Rule{{Name: "sample", DNS: &s}}}, policy.Workload{})
	if err != nil {
		t.Fatal(err)
	}
	return e.Decide
}

// An allowed name may lead to one that is not.
func TestAnswersAreJudged(t *testing.T) {
	for _, tt := range []struct {
		what    string
		qtype   uint16
		records []string
		refused bool
	}{
		{"harmless", dns.TypeA, []string{"good.test. 60 IN CNAME b.test.", "b.test. 60 IN A 192.0.2.1"}, false},
		{"an alias", dns.TypeA, []string{"good.test. 60 IN CNAME b.test.", "b.test. 60 IN CNAME EVIL.test.", "evil.test. 60 IN A 192.0.2.1"}, true},
		{"an alias that is asked for", dns.TypeCNAME, []string{"good.test. 60 IN CNAME evil.test."}, true},
		{"a whole zone's alias", dns.TypeA, []string{"test. 60 IN DNAME evil.test.", "good.test. 60 IN CNAME good.evil.test.", "good.evil.test. 60 IN A 192.0.2.1"}, true},
		{"a service", dns.TypeHTTPS, []string{"good.test. 60 IN HTTPS 1 evil.test. alpn=h3"}, true},
		{"a service's alias", dns.TypeHTTPS, []string{"good.test. 60 IN HTTPS 0 evil.test."}, true},
		{"a service that is the name itself", dns.TypeHTTPS, []string{"good.test. 60 IN HTTPS 1 . alpn=h3"}, false},
		{"another service", dns.TypeSVCB, []string{"good.test. 60 IN SVCB 1 a.evil.test. port=53"}, true},
		{"a private address", dns.TypeA, []string{"good.test. 60 IN A 10.0.0.1"}, true},
		{"a private hint", dns.TypeHTTPS, []string{"good.test. 60 IN HTTPS 1 . ipv4hint=192.0.2.1,10.0.0.1"}, true},
		{"a private IPv6 hint", dns.TypeHTTPS, []string{"good.test. 60 IN HTTPS 1 . ipv6hint=fd00::1"}, true},
		{"what does not belong there", dns.TypeA, []string{"good.test. 60 IN A 192.0.2.1", "x.test. 60 IN CNAME evil.test."}, false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			up := newUpstream(t, answering(t, 0, tt.records...))
			d := newDiary()
			judge := real(t, policy.DNSSection{Effect: new(policy.Prevent), Deny: []string{"**.evil.test"},
				Detect: policy.DNSDetections{Rebinding: new(policy.Prevent)}})
			p := newProxy(t, Config{Upstreams: Plain(up.addr), Record: d.record, Decide: func(ev *policy.Event) policy.Verdict {
				out := *ev
				out.Domain = strings.Replace(ev.Domain, "good.test", "good.example", 1) // .test is private
				return judge(&out)
			}})
			w := p.newWorker()
			raw, _ := ask("good.test.", tt.qtype).Pack()
			for i := range 2 { // from upstream, and from the cache
				r := exchange(t, p, ask("good.test.", tt.qtype), true)
				if (r.Rcode == dns.RcodeNameError) != tt.refused || len(d.events) != i+1 && tt.refused || len(d.events) > 0 && !tt.refused {
					t.Errorf("time %d: told of %d, got\n%s", i, len(d.events), r)
				}
				if quick := w.quick(nil, raw, true) != nil; quick == tt.refused {
					t.Errorf("from the cache: %v", quick)
				}
			}
			for _, addr := range []string{"192.0.2.1", "10.0.0.1", "fd00::1"} {
				if _, ok := p.Resolved(netip.MustParseAddr(addr)); ok && tt.refused {
					t.Errorf("%s of a refused answer is known", addr)
				}
			}
		})
	}
}

func TestRefusalForms(t *testing.T) {
	type want struct {
		rcode int
		data  string
	}
	for form, types := range map[string]map[uint16]want{
		"":                   {dns.TypeA: {dns.RcodeNameError, ""}, dns.TypeMX: {dns.RcodeNameError, ""}},
		policy.AnswerRefused: {dns.TypeA: {dns.RcodeRefused, ""}},
		policy.AnswerEmpty:   {dns.TypeA: {0, ""}},
		"192.0.2.9":          {dns.TypeA: {0, "192.0.2.9"}, dns.TypeAAAA: {0, ""}},
		"2001:db8::9":        {dns.TypeA: {0, ""}, dns.TypeAAAA: {0, "2001:db8::9"}},
	} {
		p := newProxy(t, Config{Decide: real(t, policy.DNSSection{Effect: new(policy.Prevent), Deny: []string{"*"}, Answer: form})})
		for qtype, want := range types {
			q := ask("a.b.test.", qtype)
			q.SetEdns0(1232, false)
			r := exchange(t, p, q, true)
			data := ""
			if len(r.Answer) == 1 {
				data = dns.Field(r.Answer[0], 1)
			}
			soa := len(r.Ns) == 1
			ede := r.IsEdns0().Option
			if r.Rcode != want.rcode || data != want.data || soa != (want.data == "" && want.rcode != dns.RcodeRefused) ||
				len(ede) != 1 || ede[0].(*dns.EDNS0_EDE).InfoCode != dns.ExtendedErrorCodeBlocked {
				t.Errorf("%q, %s: got\n%s", form, dns.TypeToString[qtype], r)
			}
		}
	}
}

// A name server may make addresses for a translator (RFC 6147): it is the one
// behind that a name leads to.
func TestResolvedDNS64(t *testing.T) {
	up := newUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		answering(t, 0, m.Question[0].Name+" 60 IN AAAA 64:ff9b::192.0.2.8")(w, m)
	})
	p := newProxy(t, Config{Upstreams: Plain(up.addr)})
	exchange(t, p, ask("good.test.", dns.TypeAAAA), true)
	for addr, want := range map[string]bool{"64:ff9b::192.0.2.8": true, "192.0.2.8": true, "64:ff9b::192.0.2.9": false, "64:ff9b:1::192.0.2.8": false} {
		if names, ok := p.Resolved(netip.MustParseAddr(addr)); ok != want || want && names[0] != "good.test" {
			t.Errorf("%s: %q, %v", addr, names, ok)
		}
	}
}

func TestResolved(t *testing.T) {
	up := newUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		name := m.Question[0].Name
		answering(t, 0, name+" 60 IN CNAME cdn.test.", "cdn.test. 60 IN A 192.0.2.1", name+" 60 IN HTTPS 1 . ipv6hint=2001:db8::1")(w, m)
	})
	p := newProxy(t, Config{Upstreams: Plain(up.addr), Hosts: ParseHosts([]byte("# x\n192.0.2.7 db db.test # the base\n\n192.0.2.7 other\nno address\n::1 localhost\n0.0.0.0 blocked.test"))})
	var c clock
	p.clock = c.now
	is := func(addr, want string) {
		t.Helper()
		got, ok := p.Resolved(netip.MustParseAddr(addr))
		if strings.Join(got, " ") != want || ok != (want != "") {
			t.Errorf("%s: got %q, %v, want %q", addr, got, ok, want)
		}
	}
	is("192.0.2.1", "")
	is("192.0.2.7", "db db.test other")
	is("0.0.0.0", "")
	exchange(t, p, ask("Good.test.", dns.TypeA), true)
	is("192.0.2.1", "good.test")
	is("::ffff:192.0.2.1", "good.test")
	is("2001:db8::1", "good.test")
	is("64:ff9b::192.0.2.1", "good.test") // by a translator
	is("64:ff9b::192.0.2.2", "")
	exchange(t, p, ask("other.test.", dns.TypeA), true)
	is("192.0.2.1", "other.test good.test")
	exchange(t, p, ask("evil.test.", dns.TypeA), true)
	is("192.0.2.1", "other.test good.test")
	c.pass(time.Minute + pinGrace - 1)
	is("192.0.2.1", "other.test good.test") // which is a use
	c.pass(pinGrace - 1)
	is("192.0.2.1", "other.test good.test")
	c.pass(pinGrace)
	is("192.0.2.1", "")
	is("192.0.2.7", "db db.test other")
}

// Whoever serves pages for others has one address for many names.
func TestSharedAddress(t *testing.T) {
	up := newUpstream(t, answerA)
	p := newProxy(t, Config{Upstreams: Plain(up.addr)})
	ask := func(name string) {
		t.Helper()
		raw, _ := ask(name+".", dns.TypeA).Pack()
		if w := p.newWorker(); w.quick(nil, raw, true) == nil {
			p.Exchange(context.Background(), raw, wget, true)
		}
	}
	has := func(name string) bool {
		names, _ := p.Resolved(netip.AddrFrom4([4]byte{192, 0, 2, 1}))
		return slices.Contains(names, name) && len(names) <= maxPinNames
	}
	for _, name := range []string{"good.test", "also.test", "good.test"} {
		if ask(name); !has("good.test") {
			t.Errorf("after %s, good.test is forgotten", name)
		}
	}
	for i := range maxPinNames {
		ask(fmt.Sprintf("other%d.test", i))
	}
	if has("good.test") {
		t.Error("the names are not bounded")
	}
	if ask("good.test"); !has("good.test") {
		t.Error("answered from the cache without noting the name again")
	}
}

// What is dropped for want of room is noted again, though the cache answers.
func TestResolvedIsBounded(t *testing.T) {
	up := newUpstream(t, answerA)
	p := newProxy(t, Config{Upstreams: Plain(up.addr)})
	exchange(t, p, ask("good.test.", dns.TypeA), true)
	raw, _ := ask("good.test.", dns.TypeA).Pack()
	w := p.newWorker()
	if w.quick(nil, raw, true) == nil {
		t.Fatal("not from the cache")
	}
	for i := range maxPins {
		p.pins.add("x", []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})}, time.Now())
	}
	good := netip.AddrFrom4([4]byte{192, 0, 2, 1})
	if _, ok := p.Resolved(good); ok || len(p.pins.byAddr) != maxPins || p.pins.used.Len() != maxPins {
		t.Fatalf("%d and %d are kept", len(p.pins.byAddr), p.pins.used.Len())
	}
	if w.quick(nil, raw, true) == nil {
		t.Error("not from the cache")
	}
	if _, ok := p.Resolved(good); !ok {
		t.Error("the address is not noted again")
	}
	if up.udp.Load() != 1 {
		t.Error("asked again")
	}
}

func TestTunnels(t *testing.T) {
	data := func(i, n int) string { // hexadecimal, as tunnels have it
		sum := sha256.Sum256(fmt.Append(nil, i))
		return hex.EncodeToString(sum[:])[:n]
	}
	for _, tt := range []struct {
		what  string
		name  func(i int) string
		qtype uint16
		n     int
		found bool
	}{
		{"hexadecimal labels", func(i int) string { return data(i, 50) + ".t.evil.com" }, dns.TypeTXT, 50, true},
		{"below a suffix of two labels", func(i int) string { return data(i, 50) + ".evil.co.uk" }, dns.TypeA, 50, true},
		{"one long name", func(i int) string {
			return data(1, 60) + "." + data(2, 60) + "." + data(3, 60) + ".evil.com"
		}, dns.TypeA, 1, true},
		{"odd types", func(i int) string { return fmt.Sprintf("x%d.evil.com", i) }, dns.TypeNULL, 25, true},
		{"few", func(i int) string { return data(i, 50) + ".evil.com" }, dns.TypeA, 10, false},
		{"short", func(i int) string { return fmt.Sprintf("shard-%d.db.example.com", i) }, dns.TypeA, 1000, false},
		{"many domains", func(i int) string { return fmt.Sprintf("www.example%d.com", i) }, dns.TypeA, 5000, false},
		{"many customers of one provider", func(i int) string { return data(i, 30) + ".s3.amazonaws.com" }, dns.TypeA, 1000, false},
		{"without pattern, of one letter", func(i int) string { return strings.Repeat("a", 20+i%30) + ".evil.com" }, dns.TypeA, 200, false},
		{"addresses backwards", func(i int) string { return fmt.Sprintf("%d.2.0.192.in-addr.arpa", i) }, dns.TypePTR, 1000, false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			tunnels := tunnels{byDomain: map[string]*traffic{}}
			why := ""
			for i := range tt.n {
				why = tunnels.note(tt.name(i), tt.qtype, time.Unix(0, int64(i)))
			}
			if (why != "") != tt.found {
				t.Errorf("got %q", why)
			}
			if len(tunnels.byDomain) > maxDomains {
				t.Errorf("%d domains are watched", len(tunnels.byDomain))
			}
			if again := tunnels.note("a."+tt.name(0), dns.TypeA, time.Unix(120, 0)); again != "" && tt.what != "one long name" {
				t.Errorf("an hour later: %q", again)
			}
		})
	}
}

// A name that was answered already carries nothing more out.
func TestTunnelsAreNewNames(t *testing.T) {
	up := newUpstream(t, answerA)
	p := newProxy(t, Config{Upstreams: Plain(up.addr), Decide: real(t, policy.DNSSection{Effect: new(policy.Alert),
		Detect: policy.DNSDetections{Tunnels: new(policy.Prevent)}})})
	name := "0123456789abcdef0123456789abcdef.evil.com."
	for range 100 {
		if r := exchange(t, p, ask(name, dns.TypeA), true); r.Rcode != 0 {
			t.Fatalf("got\n%s", r)
		}
	}
	last := 0
	for i := range 100 {
		sum := sha256.Sum256(fmt.Append(nil, i))
		last = exchange(t, p, ask(hex.EncodeToString(sum[:])[:50]+".evil.com.", dns.TypeA), true).Rcode
	}
	if last != dns.RcodeNameError {
		t.Errorf("got %s", dns.RcodeToString[last])
	}
	if r := exchange(t, p, ask(name, dns.TypeA), true); r.Rcode != 0 {
		t.Errorf("what is known is refused as well: got\n%s", r)
	}
}

func FuzzParseHosts(f *testing.F) {
	f.Add([]byte("127.0.0.1 localhost\n::1\tlocalhost ip6 # x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for addr, names := range ParseHosts(data) {
			name := names[0]
			if name == "" && !strings.Contains(string(data), ".") || !addr.IsValid() || cmp.Diff(addr, addr.Unmap(), addresses) != "" {
				t.Errorf("%q: %v is %q", data, addr, name)
			}
		}
	})
}
