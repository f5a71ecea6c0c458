package policy

import (
	"net/netip"
	"strings"
	"testing"
)

// led is a lookup whose answer is known: where it leads, addresses or names.
func led(domain string, to ...string) *Event {
	ev := lookup(domain)
	for _, s := range to {
		if a, err := netip.ParseAddr(s); err == nil {
			ev.Answer.Addrs = append(ev.Answer.Addrs, a)
		} else {
			ev.Answer.Names = append(ev.Answer.Names, s)
		}
	}
	return ev
}

func TestAnswersAreJudged(t *testing.T) {
	lists := compile(t, Rule{DNS: &DNSSection{Effect: new(Prevent), Allow: list("**.good.example"), Deny: list("**.evil.example")}})
	rebind := compile(t, Rule{DNS: &DNSSection{Effect: new(Alert), Private: list("**.office.example"), Detect: DNSDetections{Rebinding: new(Prevent)}}})
	secret := compile(t, Rule{DNS: &DNSSection{Effect: new(Alert), Detect: DNSDetections{EncryptedDNS: new(Prevent)}},
		Network: &NetworkSection{Effect: new(Alert), Detect: NetworkDetections{EncryptedDNS: new(Prevent)}}})
	tunnel := compile(t, Rule{DNS: &DNSSection{Effect: new(Alert), Detect: DNSDetections{Tunnels: new(Prevent)}}})
	told := func(domain string) *Event { return with(lookup(domain), func(ev *Event) { ev.Tunnel = "much" }) }
	for _, c := range []struct {
		name   string
		e      *Engine
		ev     *Event
		want   Detection
		reason string
	}{
		{"leads to what is not on the allow list", lists, led("www.good.example", "cdn.example", "192.0.2.1"), "", ""},
		{"leads to what is denied", lists, led("www.good.example", "cdn.example", "a.EVIL.example"), DeniedDNS, `"www.good.example" leads to "a.evil.example"`},
		{"the name itself first", lists, led("x.example", "a.evil.example"), DeniedDNS, `"x.example" is not on`},
		{"localhost need not be allowed", lists, led("localhost", "127.0.0.1"), "", ""},
		{"below localhost neither", lists, led("a.localhost"), "", ""},
		{"what ends alike must", lists, led("a.notlocalhost"), DeniedDNS, "not on"},

		{"public", rebind, led("a.example", "192.0.2.1", "2001:db8::1"), "", ""},
		{"private", rebind, led("a.example", "192.0.2.1", "10.1.2.3"), Rebinding, `"a.example" leads to 10.1.2.3`},
		{"loopback", rebind, led("a.example", "127.0.0.1"), Rebinding, ""},
		{"metadata", rebind, led("a.example", "169.254.170.2"), Rebinding, ""},
		{"unspecified", rebind, led("a.example", "0.0.0.0"), Rebinding, ""},
		{"unspecified IPv6", rebind, led("a.example", "::"), Rebinding, ""},
		{"mapped", rebind, led("a.example", "::ffff:10.0.0.1"), Rebinding, ""},
		{"through NAT64", rebind, led("a.example", "64:ff9b::a00:1"), Rebinding, ""},
		{"through 6to4", rebind, led("a.example", "2002:a00:1::1"), Rebinding, ""},
		{"public through NAT64", rebind, led("a.example", "64:ff9b::102:304"), "", ""},
		{"unique local", rebind, led("a.example", "fd00::1"), Rebinding, ""},
		{"carrier grade", rebind, led("a.example", "100.64.0.1"), Rebinding, ""},
		{"a name that may", rebind, led("db.office.example", "10.1.2.3"), "", ""},
		{"a name at home", rebind, led("db.corp.internal", "10.1.2.3"), "", ""},
		{"a single label", rebind, led("db", "10.1.2.3"), "", ""},

		{"a resolver", secret, led("dns.google"), EncryptedDNS, "dns.google"},
		{"below one", secret, led("x.cloudflare-dns.com"), EncryptedDNS, ""},
		{"the canary", secret, led("use-application-dns.net"), EncryptedDNS, ""},
		{"another name", secret, led("google.com"), "", ""},
		{"port 853", secret, outbound("192.0.2.1:853"), EncryptedDNS, "853"},
		{"a resolver's address", secret, outbound("1.1.1.1:443"), EncryptedDNS, ""},
		{"a resolver's address, another port", secret, outbound("1.1.1.1:80"), "", ""},
		{"another address", secret, outbound("192.0.2.1:443"), "", ""},

		{"a tunnel", tunnel, told("a.example"), Tunnel, "much"},
		{"no tunnel", tunnel, lookup("a.example"), "", ""},
		{"names at home leave nobody's house", tunnel, told("a.svc.cluster.local"), "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := c.e.Decide(c.ev)
			if v.Detection != c.want || v.Allow != (c.want == "") || !strings.Contains(v.Reason, c.reason) {
				t.Errorf("got %+v", v)
			}
		})
	}
}

func TestHowRefusalsAreAnswered(t *testing.T) {
	for s, want := range map[string]string{
		"": "", "nxdomain": "", "refused": "refused", "empty": "empty", "192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8::1": "2001:db8::1",
		"0.0.0.0": "!itself", "::": "!itself", "fe80::1%lo": "!none of", "no": "!none of",
	} {
		p := &Policy{Version: 1, Rules: []Rule{{Name: "r", DNS: &DNSSection{Effect: new(Prevent), Deny: list("a.test"), Answer: s}}}}
		e, err := Compile(p, Workload{})
		if part, bad := strings.CutPrefix(want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), "rules[0].dns.answer: ") || !strings.Contains(err.Error(), part) {
				t.Errorf("%q: got %v", s, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", s, err)
		} else if v := e.Decide(lookup("a.test")); v.Answer != want || v.Allow {
			t.Errorf("%q: got %+v", s, v)
		}
	}
}
