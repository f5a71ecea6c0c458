package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// networkJudge judges connections, datagrams and ports by a NetworkSection.
type networkJudge struct {
	effect                Effect
	allow, deny           *prefixes // nil: the list is empty
	allowPorts, denyPorts *ports
	listen                listenJudge
	unix                  unixJudge
}

// newNetwork prepares s and reports its faults under path. It returns nil for
// a section that says nothing.
func newNetwork(s *NetworkSection, path string, f *faults) *networkJudge {
	if s == nil {
		return nil
	}
	checkEffect(s.Effect, path+".effect", f)
	out := path + ".outbound"
	j := &networkJudge{
		allow:      newPrefixes(s.Outbound.Allow, out+".allow", f),
		deny:       newPrefixes(s.Outbound.Deny, out+".deny", f),
		allowPorts: newPorts(s.Outbound.AllowPorts, out+".allowPorts", f),
		denyPorts:  newPorts(s.Outbound.DenyPorts, out+".denyPorts", f),
		listen:     newListen(&s.Listen, path+".listen", f),
		unix:       newUnix(&s.Unix, path+".unix", f),
	}
	if !speaks(s.Effect) || !j.speaks() {
		return nil
	}
	j.effect = *s.Effect
	return j
}

// speaks reports whether any list says something.
func (j *networkJudge) speaks() bool {
	return j.allow != nil || j.deny != nil || j.allowPorts != nil || j.denyPorts != nil ||
		j.listen.speaks() || j.unix.speaks()
}

// listenJudge judges the ports that are bound and listened on.
type listenJudge struct {
	allow, deny *ports // nil: the list is empty
}

func newListen(s *ListenSection, path string, f *faults) listenJudge {
	return listenJudge{
		allow: newPorts(s.AllowPorts, path+".allowPorts", f),
		deny:  newPorts(s.DenyPorts, path+".denyPorts", f),
	}
}

func (j *listenJudge) speaks() bool { return j.allow != nil || j.deny != nil }

// judge says nothing about port 0: the kernel will choose one, and what it
// chose is judged when the program listens on it.
func (j *listenJudge) judge(port uint16) (Detection, string) {
	switch {
	case port == 0:
	case j.deny.has(port):
		number := strconv.Itoa(int(port))
		return DeniedListenPort, listed("port "+number, number, j.deny.entry(port))
	case j.allow != nil && !j.allow.has(port):
		return DeniedListenPort, notListed("port " + strconv.Itoa(int(port)))
	}
	return NothingDetected, ""
}

// judge looks at the address lists first and then, for destinations on the
// internet, at the port lists.
//
// Loopback is the container itself: an address allow list need not name it,
// but a deny entry that covers it holds.
func (j *networkJudge) judge(dst netip.AddrPort) (Detection, string) {
	addr, port := canonicalAddr(dst.Addr()), dst.Port()
	if entry, ok := j.deny.match(addr); ok {
		return DeniedIP, listed(addr.String(), addr.String(), entry)
	}
	if j.allow != nil && !addr.IsLoopback() {
		if _, ok := j.allow.match(addr); !ok {
			return DeniedIP, notListed(addr.String())
		}
	}
	if !internet(addr) {
		return NothingDetected, ""
	}
	if j.denyPorts.has(port) {
		number := strconv.Itoa(int(port))
		return DeniedOutboundPort, listed("port "+number, number, j.denyPorts.entry(port))
	}
	if j.allowPorts != nil && !j.allowPorts.has(port) {
		return DeniedOutboundPort, notListed("port " + strconv.Itoa(int(port)))
	}
	return NothingDetected, ""
}

// canonicalAddr writes an address in the one form the lists are kept in, as
// Event.Addr promises. It is done again here since another form of a denied
// address would pass: a prefix contains no address with a zone.
func canonicalAddr(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.IsUnspecified() { // the kernel connects it to loopback
		if a.Is4() {
			return netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		return netip.IPv6Loopback()
	}
	return a
}

var carrierGrade = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598

// internet reports whether port lists concern a: they do not concern private,
// carrier-grade NAT, link-local and loopback addresses. An address that is
// not known counts as one on the internet.
func internet(a netip.Addr) bool {
	return !a.IsPrivate() && !a.IsLoopback() && !carrierGrade.Contains(a) &&
		!a.IsLinkLocalUnicast() && !a.IsLinkLocalMulticast() && !a.IsInterfaceLocalMulticast()
}

// prefixes is a list of address prefixes, none inside another and in order of
// address, so that one binary search finds the only one that can hold an
// address. IPv4 comes before IPv6.
type prefixes struct {
	sorted []listedPrefix
}

type listedPrefix struct {
	netip.Prefix
	entry string // as written
}

// newPrefixes reads entries and reports their faults under path. An empty
// list is nil.
func newPrefixes(entries []string, path string, f *faults) *prefixes {
	if len(entries) == 0 {
		return nil
	}
	all := make([]listedPrefix, 0, len(entries))
	for i, s := range entries {
		p, err := parsePrefix(s)
		if err != nil {
			f.addEntry(path, i, err)
			continue
		}
		all = append(all, listedPrefix{p, s})
	}
	slices.SortStableFunc(all, func(a, b listedPrefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits() // the wider one first: it swallows the others
	})
	kept := all[:0]
	for _, p := range all {
		if len(kept) == 0 || !kept[len(kept)-1].Contains(p.Addr()) {
			kept = append(kept, p)
		}
	}
	return &prefixes{sorted: kept}
}

// match returns the entry that covers a. The nil list covers nothing.
func (p *prefixes) match(a netip.Addr) (entry string, ok bool) {
	if p == nil {
		return "", false
	}
	low, high := 0, len(p.sorted) // the first prefix that begins behind a
	for low < high {
		if mid := (low + high) / 2; p.sorted[mid].Addr().Compare(a) <= 0 {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == 0 || !p.sorted[low-1].Contains(a) {
		return "", false
	}
	return p.sorted[low-1].entry, true
}

// parsePrefix reads an address or a prefix in CIDR form. IPv4-mapped IPv6 is
// read as the IPv4 it means; other IPv6 prefixes, ::/0 too, hold no IPv4.
func parsePrefix(s string) (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, errors.New("empty")
	}
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a prefix such as 10.0.0.0/8", s)
		}
		if a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q has a zone; write %s", s, a.WithZone(""))
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a prefix such as 10.0.0.0/8 or 2001:db8::/32", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%q has host bits set; write %s, or %s for the one address", s, p.Masked(), p.Addr())
	}
	if p.Addr().Is4In6() {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p, nil
}

// ports is a list of ports.
type ports struct {
	bits   [1 << 16 / 64]uint64
	ranges []portRange // in the order of the entries
}

type portRange struct {
	low, high uint16
	entry     string // as written
}

// newPorts reads entries and reports their faults under path. An empty list
// is nil.
func newPorts(entries []string, path string, f *faults) *ports {
	if len(entries) == 0 {
		return nil
	}
	p := &ports{ranges: make([]portRange, 0, len(entries))}
	for i, s := range entries {
		low, high, err := parsePorts(s)
		if err != nil {
			f.addEntry(path, i, err)
			continue
		}
		p.ranges = append(p.ranges, portRange{low, high, s})
		for n := int(low); n <= int(high); n++ {
			p.bits[n/64] |= 1 << (n % 64)
		}
	}
	return p
}

// has reports whether a port is on the list. The nil list has none.
func (p *ports) has(port uint16) bool {
	return p != nil && p.bits[port/64]&(1<<(port%64)) != 0
}

// entry returns the first entry that covers a port on the list.
func (p *ports) entry(port uint16) string {
	for _, r := range p.ranges {
		if r.low <= port && port <= r.high {
			return r.entry
		}
	}
	return ""
}

// parsePorts reads a port or a range of ports, both ends included.
func parsePorts(s string) (low, high uint16, err error) {
	if s == "" {
		return 0, 0, errors.New("empty")
	}
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	low, okLow := parsePort(first)
	high, okHigh := parsePort(last)
	switch {
	case !okLow || !okHigh:
		return 0, 0, fmt.Errorf("%q is neither a port, 1 to 65535, nor a range such as 6660-6669", s)
	case low > high:
		return 0, 0, fmt.Errorf("%q runs backwards; write %d-%d", s, high, low)
	}
	return low, high, nil
}

// parsePort reads a decimal port. A leading zero is refused, since in some
// files it means octal.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && s[0] != '0'
}
