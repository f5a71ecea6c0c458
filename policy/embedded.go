package policy

import "net/netip"

// Prefixes whose addresses have one of IPv4 in them, by which a translator or a
// tunnel sends them on.
var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	siit       = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765, "IPv4-translated"
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291 2.5.5.1, automatic tunnels
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380
	isatap     = [4]byte{0x00, 0x00, 0x5e, 0xfe}          // RFC 5214 6.1, behind any prefix
	ula        = netip.MustParsePrefix("fc00::/7")
)

// Translated returns the address that a stands for: of one with the well-known
// prefix of translators the IPv4 address in it, which is what it means wherever
// it is used, and else a itself. What allows the one allows the other.
func Translated(a netip.Addr) netip.Addr {
	if !nat64.Contains(a) {
		return a
	}
	b := a.As16()
	return netip.AddrFrom4([4]byte(b[12:]))
}

// embedded are the IPv4 addresses that packets to an address may be sent on to.
// What is denied there is denied here. An allow list takes no notice of them
// but by [Translated]: whether there is such a translator or tunnel, and which
// of the local prefix's forms is meant, only its network knows.
type embedded struct {
	addrs [4]netip.Addr
	n     int
}

func (e *embedded) add(a, b, c, d byte) {
	if v4 := netip.AddrFrom4([4]byte{a, b, c, d}); !v4.IsUnspecified() {
		e.addrs[e.n] = v4
		e.n++
	}
}

func embeddedIn(a netip.Addr) (e embedded) {
	if !a.Is6() || a.IsLoopback() {
		return e
	}
	b := a.As16()
	switch {
	case nat64.Contains(a), siit.Contains(a), compatible.Contains(a):
		e.add(b[12], b[13], b[14], b[15])
	case nat64Local.Contains(a): // in each form of RFC 6052 2.2 that is not shorter than it
		e.add(b[6], b[7], b[9], b[10])
		e.add(b[7], b[9], b[10], b[11])
		e.add(b[9], b[10], b[11], b[12])
		e.add(b[12], b[13], b[14], b[15])
	case sixToFour.Contains(a):
		e.add(b[2], b[3], b[4], b[5])
	case teredo.Contains(a): // the server, and the host behind its own translator
		e.add(b[4], b[5], b[6], b[7])
		e.add(^b[12], ^b[13], ^b[14], ^b[15])
	case [4]byte{b[8] &^ 2, b[9], b[10], b[11]} == isatap: // the bit says that the address is unique
		e.add(b[12], b[13], b[14], b[15])
	}
	return e
}

// find returns the first of the addresses for which f holds.
func (e *embedded) find(f func(netip.Addr) bool) (netip.Addr, bool) {
	for _, a := range e.addrs[:e.n] {
		if f(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}
