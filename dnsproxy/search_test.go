package dnsproxy

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"appdefender/policy"
)

// A resolver goes on with its search list; that is one refusal, not several.
func TestSearchIsOneRefusal(t *testing.T) {
	d := newDiary()
	var c clock
	c.pass(time.Hour)
	p := newProxy(t, Config{Record: d.record, Search: []string{"ns.svc.test", "corp.test"}, Decide: func(*policy.Event) policy.Verdict {
		return policy.Verdict{Detection: policy.DeniedDNS}
	}})
	p.clock = c.now
	as := func(pid int, name string) {
		raw, _ := ask(name, dns.TypeA).Pack()
		r := new(dns.Msg)
		if err := r.Unpack(p.Exchange(context.Background(), raw, policy.Process{PID: pid}, true)); err != nil || r.Rcode != dns.RcodeNameError {
			t.Errorf("%s is not refused: %v, %v", name, r, err)
		}
	}
	as(7, "yahoo.com.")
	as(7, "yahoo.com.ns.svc.test.")
	as(7, "YAHOO.com.corp.test.")
	as(7, "other.com.corp.test.")
	as(8, "yahoo.com.corp.test.")
	as(7, "yahoo.com.elsewhere.test.")
	c.pass(repeatWithin)
	as(7, "yahoo.com.corp.test.")
	var told []string
	for _, ev := range d.events {
		told = append(told, ev.Domain)
	}
	want := []string{"yahoo.com", "other.com.corp.test", "yahoo.com.corp.test", "yahoo.com.elsewhere.test", "yahoo.com.corp.test"}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

func TestSearchList(t *testing.T) {
	for file, want := range map[string][]string{
		"nameserver 10.0.0.1\n":                        nil,
		"search a.test B.test.\n":                      {"a.test", "b.test"},
		"search a.test\ndomain c.test\n":               {"c.test"},
		" search a.test\n#search b.test\nsearches c\n": nil,
	} {
		if diff := cmp.Diff(want, ParseResolvConf([]byte(file)).Search); diff != "" {
			t.Errorf("%q (-want +got):\n%s", file, diff)
		}
	}
}

// A flood of names that no upstream answers takes a bounded number of
// goroutines, is answered, and leaves the judge and the cache at work.
func TestFlood(t *testing.T) {
	up := newUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		if m.Question[0].Name == "good.test." {
			answerA(w, m)
		}
	})
	p := newProxy(t, Config{Upstreams: Plain(up.addr)})
	p.tryFor, p.giveUp = time.Hour, time.Hour
	exchange(t, p, ask("good.test.", dns.TypeA), true)
	serve(t, p, "127.0.0.1:0")
	conn, err := dns.Dial("udp", p.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	before := runtime.NumGoroutine()
	name := []byte("x0000.flood.test.")
	for i := range 4 * maxInFlight {
		for j, n := 4, i; j > 0; j, n = j-1, n/10 {
			name[j] = byte('0' + n%10)
		}
		if err := conn.WriteMsg(ask(string(name), dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		if i >= maxInFlight {
			// The rest is told so, each before the next.
			r, err := conn.ReadMsg()
			if err != nil || r.Rcode != dns.RcodeServerFailure {
				t.Fatalf("query %d: %v, %v", i, r, err)
			}
		} else {
			for len(p.slots) <= i {
				runtime.Gosched()
			}
		}
	}
	if n := runtime.NumGoroutine() - before; n > 4*maxInFlight {
		t.Errorf("%d goroutines", n)
	}
	for name, rcode := range map[string]int{"good.test.": dns.RcodeSuccess, "evil.test.": dns.RcodeNameError} {
		if err := conn.WriteMsg(ask(name, dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		if r, err := conn.ReadMsg(); err != nil || r.Rcode != rcode {
			t.Errorf("%s in the flood: %v, %v", name, r, err)
		}
	}
}
