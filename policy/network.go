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
	effect                Effect    // of the lists
	allow, deny           *prefixes // nil: the list is empty
	allowNames, denyNames *domains
	allowPorts, denyPorts *ports
	families              familyJudge
	listen                listenJudge
	unix                  unixJudge
	checks                []active
	strictest             Effect
}

// networkChecks are the detections of a NetworkSection. Unresolved
// destinations are not among them: what is on the allow list is none.
var networkChecks = []detector[NetworkSection]{
	{key: "detect.cloudMetadata", detection: CloudMetadata, kind: Outbound,
		effect: func(s *NetworkSection) *Effect { return s.Detect.CloudMetadata },
		holds: func(ev *Event) string {
			const is = " is the cloud's metadata or credentials service"
			a, port := canonicalAddr(ev.Addr.Addr()), ev.Addr.Port()
			if metadata(a, port) {
				return a.String() + is
			}
			inner := embeddedIn(a)
			if v4, ok := inner.find(func(a netip.Addr) bool { return metadata(a, port) }); ok {
				return a.String() + " leads to " + v4.String() + ", which" + is
			}
			return ""
		}},
	{key: "detect.portScan", detection: VerticalPorts, kind: Outbound, needs: NeedScans,
		effect: func(s *NetworkSection) *Effect { return s.Detect.PortScan },
		holds: func(ev *Event) string {
			if ev.Scan == ManyPorts {
				return "it tries many ports of " + ev.Addr.Addr().String()
			}
			return ""
		}},
	{key: "detect.portScan", detection: HorizontalScan, kind: Outbound, needs: NeedScans,
		effect: func(s *NetworkSection) *Effect { return s.Detect.PortScan },
		holds: func(ev *Event) string {
			if ev.Scan == ManyHosts {
				return "it tries port " + strconv.Itoa(int(ev.Addr.Port())) + " of many machines"
			}
			return ""
		}},
	{key: "detect.rawSockets", detection: RawTraffic, kind: RawSocket, needs: NeedRawSockets,
		effect: func(s *NetworkSection) *Effect { return s.Detect.RawSockets },
		holds: func(ev *Event) string {
			if slices.Contains(Families, ev.Proto) {
				return ""
			}
			return "a socket for whole packets (" + ev.Proto + ")"
		}},
	{key: "detect.encryptedDNS", detection: EncryptedDNS, kind: Outbound,
		effect: func(s *NetworkSection) *Effect { return s.Detect.EncryptedDNS },
		holds:  func(ev *Event) string { return resolverPort(ev.Addr) }},
	{key: "detect.minerPools", detection: MiningPool, kind: Outbound, needs: NeedNames,
		effect: func(s *NetworkSection) *Effect { return s.Detect.MinerPools },
		holds:  minerPool},
}

// minerPool finds a mining pool by its name, or a destination without a name
// by its port.
func minerPool(ev *Event) string {
	for name, i := ev.name(0); i >= 0; name, i = ev.name(i) {
		if host := pool(foldDomain(name)); host != "" {
			return quote(host) + " is a mining pool"
		}
	}
	if !ev.Resolved && poolPorts[ev.Addr.Port()] && internet(canonicalAddr(ev.Addr.Addr())) {
		return "port " + strconv.Itoa(int(ev.Addr.Port())) + " of an address that no lookup returned: mining pools listen there"
	}
	return ""
}

// metadata reports whether a port of a is where a cloud tells machines and
// containers who they are, and hands them credentials.
func metadata(a netip.Addr, port uint16) bool {
	if !a.Is4() {
		return slices.Contains(metadata6, a)
	}
	switch a.As4() {
	case [4]byte{169, 254, 169, 254}, // most clouds' machines
		[4]byte{169, 254, 170, 2},   // ECS tasks
		[4]byte{169, 254, 170, 23},  // EKS pods
		[4]byte{100, 100, 100, 200}, // Alibaba Cloud
		[4]byte{169, 254, 0, 23},    // Tencent Cloud
		[4]byte{169, 254, 42, 42},   // Scaleway
		[4]byte{192, 0, 0, 192}:     // Oracle Cloud, older
		return true
	case [4]byte{168, 63, 129, 16}: // Azure's wire server, which resolves names as well
		return port == 80 || port == 32526
	}
	return false
}

var metadata6 = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"),      // EC2
	netip.MustParseAddr("fd00:ec2::23"),       // EKS pods
	netip.MustParseAddr("fd20:ce::254"),       // Google Cloud
	netip.MustParseAddr("fe80::a9fe:a9fe"),    // OpenStack, by any interface
	netip.MustParseAddr("fd00:c1::a9fe:a9fe"), // Oracle Cloud
	netip.MustParseAddr("fd00:a9fe:a9fe::1"),  // Linode
	netip.MustParseAddr("fd00:42::42"),        // Scaleway
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
		allowNames: newDomains(s.Outbound.AllowNames, out+".allowNames", f),
		denyNames:  newDomains(s.Outbound.DenyNames, out+".denyNames", f),
		allowPorts: newPorts(s.Outbound.AllowPorts, out+".allowPorts", f),
		denyPorts:  newPorts(s.Outbound.DenyPorts, out+".denyPorts", f),
		families:   newFamilies(&s.Outbound, out+".allowFamilies", f),
		listen:     newListen(&s.Listen, path+".listen", f),
		unix:       newUnix(&s.Unix, path+".unix", f),
	}
	if speaks(s.Effect) {
		j.effect = *s.Effect
	} else {
		*j = networkJudge{}
	}
	lists := j.allow != nil || j.deny != nil || j.allowNames != nil || j.denyNames != nil ||
		j.allowPorts != nil || j.denyPorts != nil || j.families.judges || j.listen.speaks() || j.unix.speaks()
	exempt := j.allow
	if exempt == nil {
		exempt = newPrefixes(s.Outbound.Allow, "", new(faults))
	}
	j.checks = newChecks(s, append(networkChecks[:len(networkChecks):len(networkChecks)], unresolved(exempt), unresolvedFamily(s.Outbound.AllowFamilies)), s.Effect, path, f)
	j.strictest = strictest(lists, j.effect, j.checks)
	if j.strictest == Disable {
		return nil
	}
	return j
}

// unresolved is the check for destinations that no lookup returned, those in
// exempt aside.
func unresolved(exempt *prefixes) detector[NetworkSection] {
	return detector[NetworkSection]{
		key: "outbound.unresolved", detection: Unresolved, kind: Outbound, needs: NeedNames, rests: NeedNames,
		effect: func(s *NetworkSection) *Effect { return s.Outbound.Unresolved },
		holds: func(ev *Event) string {
			if ev.Resolved {
				return ""
			}
			addr := canonicalAddr(ev.Addr.Addr())
			if exempt.holds(addr) || addr.IsLoopback() {
				return ""
			}
			return "no allowed lookup returned " + addr.String()
		},
	}
}

// unresolvedFamily is the same for sockets that need no lookup.
func unresolvedFamily(allowed []string) detector[NetworkSection] {
	return detector[NetworkSection]{
		key: "outbound.unresolved", detection: DeniedFamily, kind: RawSocket, needs: NeedRawSockets,
		effect: func(s *NetworkSection) *Effect { return s.Outbound.Unresolved },
		holds: func(ev *Event) string {
			if !slices.Contains(Families, ev.Proto) || slices.Contains(allowed, ev.Proto) {
				return ""
			}
			return "no lookup returns addresses of " + ev.Proto
		},
	}
}

// needs returns what the section asks about.
func (j *networkJudge) needs() Needs { return allNeeds(j.checks) | j.listNeeds() }

// listNeeds returns what its lists ask about.
func (j *networkJudge) listNeeds() Needs {
	var n Needs
	if j.listen.speaks() {
		n |= NeedListenPorts
	}
	if j.unix.speaks() {
		n |= NeedUnixSockets
	}
	if j.allowNames != nil || j.denyNames != nil {
		n |= NeedNames
	}
	return n
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

// judge looks at the lists of addresses and names first and then, for
// destinations on the internet, at the port lists. A destination is allowed by
// its address or its name.
//
// Loopback is the container itself: an address allow list need not name it,
// but a deny entry that covers it holds.
func (j *networkJudge) judge(ev *Event) (Detection, string) {
	addr, port := canonicalAddr(ev.Addr.Addr()), ev.Addr.Port()
	if entry, ok := j.deny.match(addr); ok {
		return DeniedIP, listed(addr.String(), addr.String(), entry)
	}
	inner := embeddedIn(addr)
	for _, v4 := range inner.addrs[:inner.n] {
		if entry, ok := j.deny.match(v4); ok {
			return DeniedIP, addr.String() + " leads to " + listed(v4.String(), v4.String(), entry)
		}
	}
	if name, entry, ok := j.denyNames.matchName(ev); ok {
		return DeniedIP, addr.String() + ": " + listed(quoteDomain(name), name, entry)
	}
	if (j.allow != nil || j.allowNames != nil) && !addr.IsLoopback() {
		if !j.allow.holds(addr) {
			if _, _, ok := j.allowNames.matchName(ev); !ok {
				return DeniedIP, notListed(destination(addr, ev))
			}
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

// matchName returns the first of a destination's names that is covered, and by
// which entry. One that no lookup returned has none. The nil list covers nothing.
func (d *domains) matchName(ev *Event) (name, entry string, ok bool) {
	if d == nil || !ev.Resolved {
		return "", "", false
	}
	for name, i := ev.name(0); i >= 0; name, i = ev.name(i) {
		if entry, ok := d.match(foldDomain(name)); ok {
			return name, entry, true
		}
	}
	return "", "", false
}

// destination names a destination for people.
func destination(addr netip.Addr, ev *Event) string {
	if ev.Name == "" {
		return addr.String()
	}
	return addr.String() + " (" + quoteDomain(ev.Name) + ")"
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

// holds reports whether a, or the address that it stands for, is covered.
func (p *prefixes) holds(a netip.Addr) bool {
	_, ok := p.match(a)
	if v4 := Translated(a); !ok && v4 != a {
		_, ok = p.match(v4)
	}
	return ok
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
