package policy

import (
	"net/netip"
	"strings"
	"testing"
)

func TestOutbound(t *testing.T) {
	const deny, miss = " is on the deny list", " is not on the allow list"
	private := list("10.0.0.0/8", "192.168.0.0/16")
	for _, c := range []struct {
		name   string
		lists  OutboundSection
		dst    string
		found  Detection
		reason string // "" is allowed
	}{
		{"inside a prefix", OutboundSection{Deny: private}, "10.255.0.1:80", DeniedIP, "10.255.0.1" + deny + " (10.0.0.0/8)"},
		{"before a prefix", OutboundSection{Deny: private}, "9.255.255.255:80", "", ""},
		{"first of a prefix", OutboundSection{Deny: private}, "10.0.0.0:80", DeniedIP, "10.0.0.0" + deny + " (10.0.0.0/8)"},
		{"last of a prefix", OutboundSection{Deny: private}, "10.255.255.255:80", DeniedIP, "10.255.255.255" + deny + " (10.0.0.0/8)"},
		{"behind a prefix", OutboundSection{Deny: private}, "11.0.0.0:80", "", ""},
		{"an address", OutboundSection{Deny: list("169.254.169.254")}, "169.254.169.254:80", DeniedIP, "169.254.169.254" + deny},
		{"its neighbour", OutboundSection{Deny: list("169.254.169.254")}, "169.254.169.253:80", "", ""},
		{"a prefix inside another", OutboundSection{Deny: list("10.1.0.0/16", "10.0.0.0/8", "10.1.2.3")}, "10.2.0.1:80", DeniedIP, "10.2.0.1" + deny + " (10.0.0.0/8)"},
		{"IPv6", OutboundSection{Deny: list("2001:db8::/32")}, "[2001:db8:ffff::1]:80", DeniedIP, "2001:db8:ffff::1" + deny + " (2001:db8::/32)"},
		{"IPv6 in another spelling", OutboundSection{Deny: list("2001:DB8:0:0::1")}, "[2001:db8::1]:80", DeniedIP, "2001:db8::1" + deny + " (2001:DB8:0:0::1)"},
		{"all of IPv4", OutboundSection{Deny: list("0.0.0.0/0")}, "8.8.8.8:80", DeniedIP, "8.8.8.8" + deny + " (0.0.0.0/0)"},
		{"all of IPv6 is no IPv4", OutboundSection{Deny: list("::/0")}, "8.8.8.8:80", "", ""},

		{"mapped destination", OutboundSection{Deny: private}, "[::ffff:10.0.0.1]:80", DeniedIP, "10.0.0.1" + deny + " (10.0.0.0/8)"},
		{"mapped entry", OutboundSection{Deny: list("::ffff:10.0.0.0/104")}, "10.0.0.1:80", DeniedIP, "10.0.0.1" + deny + " (::ffff:10.0.0.0/104)"},
		{"mapped address as an entry", OutboundSection{Deny: list("::ffff:10.0.0.1")}, "10.0.0.1:80", DeniedIP, "10.0.0.1" + deny + " (::ffff:10.0.0.1)"},
		{"a zone is no way around", OutboundSection{Deny: list("fe80::/10")}, "[fe80::1%eth0]:80", DeniedIP, "fe80::1" + deny + " (fe80::/10)"},
		{"unspecified is loopback", OutboundSection{Deny: list("127.0.0.1")}, "0.0.0.0:80", DeniedIP, "127.0.0.1" + deny},
		{"unspecified is loopback, IPv6", OutboundSection{Deny: list("::1")}, "[::]:80", DeniedIP, "::1" + deny},

		{"on the allow list", OutboundSection{Allow: private}, "10.1.2.3:80", "", ""},
		{"not on the allow list", OutboundSection{Allow: private}, "8.8.8.8:80", DeniedIP, "8.8.8.8" + miss},
		{"not on the allow list, IPv6", OutboundSection{Allow: private}, "[2001:db8::1]:80", DeniedIP, "2001:db8::1" + miss},
		{"allow list, loopback", OutboundSection{Allow: private}, "127.0.0.53:53", "", ""},
		{"allow list, loopback, IPv6", OutboundSection{Allow: private}, "[::1]:53", "", ""},
		{"loopback denied", OutboundSection{Deny: list("127.0.0.0/8")}, "127.0.0.1:80", DeniedIP, "127.0.0.1" + deny + " (127.0.0.0/8)"},
		{"deny beats allow", OutboundSection{Allow: private, Deny: list("10.1.0.0/16")}, "10.1.0.1:80", DeniedIP, "10.1.0.1" + deny + " (10.1.0.0/16)"},
		{"deny beats allow, beside", OutboundSection{Allow: private, Deny: list("10.1.0.0/16")}, "10.2.0.1:80", "", ""},

		{"denied port", OutboundSection{DenyPorts: list("25", "6660-6669")}, "8.8.8.8:25", DeniedOutboundPort, "port 25" + deny},
		{"denied range", OutboundSection{DenyPorts: list("25", "6660-6669")}, "8.8.8.8:6669", DeniedOutboundPort, "port 6669" + deny + " (6660-6669)"},
		{"behind the range", OutboundSection{DenyPorts: list("25", "6660-6669")}, "8.8.8.8:6670", "", ""},
		{"port allowed", OutboundSection{AllowPorts: list("443")}, "8.8.8.8:443", "", ""},
		{"port not allowed", OutboundSection{AllowPorts: list("443")}, "8.8.8.8:80", DeniedOutboundPort, "port 80" + miss},
		{"port 0", OutboundSection{AllowPorts: list("1-65535")}, "8.8.8.8:0", DeniedOutboundPort, "port 0" + miss},
		{"port 65535", OutboundSection{AllowPorts: list("1-65535")}, "8.8.8.8:65535", "", ""},
		{"port on both lists", OutboundSection{AllowPorts: list("25"), DenyPorts: list("25")}, "8.8.8.8:25", DeniedOutboundPort, "port 25" + deny},
		{"address before port", OutboundSection{Deny: list("8.8.8.8"), DenyPorts: list("25")}, "8.8.8.8:25", DeniedIP, "8.8.8.8" + deny},
		{"allowed address, denied port", OutboundSection{Allow: list("8.8.8.8"), DenyPorts: list("25")}, "8.8.8.8:25", DeniedOutboundPort, "port 25" + deny},

		{"port, RFC 1918", OutboundSection{DenyPorts: list("25")}, "172.31.0.1:25", "", ""},
		{"port, beside RFC 1918", OutboundSection{DenyPorts: list("25")}, "172.32.0.1:25", DeniedOutboundPort, "port 25" + deny},
		{"port, carrier-grade NAT", OutboundSection{DenyPorts: list("25")}, "100.127.0.1:25", "", ""},
		{"port, link-local", OutboundSection{DenyPorts: list("80")}, "169.254.169.254:80", "", ""},
		{"port, loopback", OutboundSection{DenyPorts: list("25")}, "127.0.0.1:25", "", ""},
		{"port, unique local", OutboundSection{DenyPorts: list("25")}, "[fd00::1]:25", "", ""},
		{"port, link-local IPv6", OutboundSection{DenyPorts: list("25")}, "[fe80::1]:25", "", ""},
		{"port, mapped private", OutboundSection{DenyPorts: list("25")}, "[::ffff:10.0.0.1]:25", "", ""},
		{"port, IPv6", OutboundSection{DenyPorts: list("25")}, "[2001:db8::1]:25", DeniedOutboundPort, "port 25" + deny},

		{"empty lists", OutboundSection{}, "8.8.8.8:25", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := compile(t, Rule{Network: &NetworkSection{Effect: new(Prevent), Outbound: c.lists}})
			check(t, e.Decide(outbound(c.dst)), c.found, c.reason)
		})
	}
}

// TestEmbedded judges addresses of IPv6 by those of IPv4 in them.
func TestEmbedded(t *testing.T) {
	const deny, miss = " is on the deny list", " is not on the allow list"
	denied := OutboundSection{Deny: list("10.0.0.0/8")}
	allowed := OutboundSection{Allow: list("10.0.0.0/8")}
	leads := func(addr string) string { return addr + " leads to 10.1.2.3" + deny + " (10.0.0.0/8)" }
	for _, c := range []struct {
		name   string
		lists  OutboundSection
		addr   string
		reason string // "" is allowed
	}{
		{"a translator's", denied, "64:ff9b::a01:203", leads("64:ff9b::a01:203")},
		{"a local translator's, of 96 bits", denied, "64:ff9b:1:77::a01:203", leads("64:ff9b:1:77::a01:203")},
		{"of 64 bits", denied, "64:ff9b:1:77:a:102:300:0", leads("64:ff9b:1:77:a:102:300:0")},
		{"of 56 bits", denied, "64:ff9b:1:770a:1:203::", leads("64:ff9b:1:770a:1:203::")},
		{"of 48 bits", denied, "64:ff9b:1:a01:2:300::", leads("64:ff9b:1:a01:2:300::")},
		{"behind it", denied, "64:ff9b:2::a01:203", ""},
		{"a stateless translator's", denied, "::ffff:0:a01:203", leads("::ffff:0:a01:203")},
		{"compatible", denied, "::a01:203", leads("::a01:203")},
		{"6to4", denied, "2002:a01:203:1::1", leads("2002:a01:203:1::1")},
		{"a Teredo server's", denied, "2001:0:a01:203::1", leads("2001:0:a01:203::1")},
		{"a Teredo host's", denied, "2001::f5fe:fdfc", leads("2001::f5fe:fdfc")},
		{"ISATAP", denied, "fe80::5efe:a01:203", leads("fe80::5efe:a01:203")},
		{"ISATAP, unique", denied, "2001:db8::200:5efe:a01:203", leads("2001:db8::200:5efe:a01:203")},
		{"one that only looks so", denied, "2001:db8::a01:203", ""},
		{"denied as it is written", OutboundSection{Deny: list("64:ff9b::/96")}, "64:ff9b::808:808", "64:ff9b::808:808" + deny + " (64:ff9b::/96)"},
		{"loopback has none", OutboundSection{Deny: list("0.0.0.0/8")}, "::1", ""},

		{"allowed by what it stands for", allowed, "64:ff9b::a01:203", ""},
		{"not allowed by what it stands for", allowed, "64:ff9b::808:808", "64:ff9b::808:808" + miss},
		{"a tunnel is not what is behind it", allowed, "2002:a01:203::1", "2002:a01:203::1" + miss},
		{"a local translator may be any", allowed, "64:ff9b:1::a01:203", "64:ff9b:1::a01:203" + miss},
		{"a translator's loopback is not ours", OutboundSection{Allow: list("192.0.2.1")}, "64:ff9b::7f00:1", "64:ff9b::7f00:1" + miss},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := compile(t, Rule{Network: &NetworkSection{Effect: new(Prevent), Outbound: c.lists}})
			found := DeniedIP
			if c.reason == "" {
				found = NothingDetected
			}
			check(t, e.Decide(outbound("["+c.addr+"]:443")), found, c.reason)
		})
	}
}

// TestFamilies judges sockets that no address list knows.
func TestFamilies(t *testing.T) {
	for _, c := range []struct {
		name   string
		lists  OutboundSection
		family string
		found  Detection
	}{
		{"a list", OutboundSection{Deny: list("10.0.0.0/8")}, "vsock", DeniedFamily},
		{"a list of ports", OutboundSection{DenyPorts: list("25")}, "can", DeniedFamily},
		{"no list", OutboundSection{}, "vsock", NothingDetected},
		{"allowed", OutboundSection{Allow: list("10.0.0.0/8"), AllowFamilies: list("vsock")}, "vsock", NothingDetected},
		{"another allowed", OutboundSection{AllowFamilies: list("vsock")}, "rxrpc", DeniedFamily},
		{"of a later kernel", OutboundSection{Allow: list("10.0.0.0/8")}, "unknown", DeniedFamily},
		{"whole packets", OutboundSection{Allow: list("10.0.0.0/8")}, "raw", NothingDetected},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := compile(t, Rule{Network: &NetworkSection{Effect: new(Prevent), Outbound: c.lists}})
			if v := e.Decide(&Event{Kind: RawSocket, Proto: c.family}); v.Detection != c.found || v.Allow != (c.found == NothingDetected) {
				t.Errorf("%+v", v)
			}
		})
	}
	_, err := Compile(&Policy{Version: 1, Rules: []Rule{{Name: "r", Network: &NetworkSection{Effect: new(Prevent),
		Outbound: OutboundSection{AllowFamilies: list("vsocks")}}}}}, Workload{})
	if err == nil || !strings.Contains(err.Error(), `rules[0].network.outbound.allowFamilies[0]: "vsocks" is no family of sockets`) {
		t.Error(err)
	}
}

// An address nobody knows is not on an allow list.
func TestOutboundWithoutAddress(t *testing.T) {
	e := compile(t, Rule{Network: &NetworkSection{Effect: new(Prevent), Outbound: OutboundSection{Allow: list("0.0.0.0/0", "::/0")}}})
	check(t, e.Decide(&Event{Kind: Outbound}), DeniedIP, "invalid IP is not on the allow list")
}

// addrOf makes an address and port of some bytes.
func addrOf(s string) (netip.AddrPort, bool) {
	a, ok := netip.AddrFromSlice([]byte(s))
	return netip.AddrPortFrom(a, uint16(len(s))), ok
}

func FuzzPrefixes(f *testing.F) {
	f.Add("10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32", "\x0a\x01\x02\x03")
	f.Add("::ffff:10.0.0.0/104", "::/0", "0.0.0.0/0", "\x0a\x01\x02\x03")
	f.Add("10.0.0.0/8", "11.0.0.0/8", "10.0.0.1", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x01\x02\x03")
	f.Fuzz(func(t *testing.T, a, b, c, addr string) {
		var bad faults
		p := newPrefixes(list(a, b, c), "", &bad)
		if len(bad) > 0 {
			return
		}
		dst, ok := addrOf(addr)
		if !ok {
			return
		}
		ip := canonicalAddr(dst.Addr())
		naive := func(entry string) bool {
			one, err := parsePrefix(entry)
			return err == nil && one.Contains(ip)
		}
		entry, got := p.match(ip)
		if want := naive(a) || naive(b) || naive(c); got != want {
			t.Errorf("%s in [%q %q %q]: got %t, want %t", ip, a, b, c, got, want)
		}
		if got && !naive(entry) {
			t.Errorf("%s is not covered by %q, which was named", ip, entry)
		}
	})
}

func FuzzPorts(f *testing.F) {
	f.Add("25", "6660-6669", uint16(6665))
	f.Add("1-65535", "0", uint16(0))
	f.Add("-", "5-", uint16(5))
	f.Fuzz(func(t *testing.T, a, b string, port uint16) {
		var bad faults
		p := newPorts(list(a, b), "", &bad)
		if len(bad) > 0 {
			return
		}
		naive := func(entry string) bool {
			low, high, err := parsePorts(entry)
			return err == nil && low <= port && port <= high
		}
		if got, want := p.has(port), naive(a) || naive(b); got != want {
			t.Errorf("%d in [%q %q]: got %t, want %t", port, a, b, got, want)
		}
		if p.has(0) {
			t.Error("port 0 is on a list")
		}
		if p.has(port) && !naive(p.entry(port)) {
			t.Errorf("%d is not covered by %q, which was named", port, p.entry(port))
		}
	})
}
