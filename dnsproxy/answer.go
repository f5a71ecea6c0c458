package dnsproxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"appdefender/policy"
)

const (
	maxTTL         = 3600 // seconds that an answer is kept, whatever it says
	maxNegativeTTL = 60   // seconds that the lack of one is
	maxChain       = 32   // aliases followed
)

var (
	errUnreadable = errors.New("unreadable answer")
	errMismatch   = errors.New("the answer is to another query")
)

// answer is what an upstream said to one question, in the form that it is
// sent in: it is kept as bytes, and what differs between two askers (id, case,
// flags, time to live, OPT) is written over them. It does not change.
type answer struct {
	wire  []byte   // the message, without OPT
	ttls  []uint16 // where the TTL of each record is in wire, in order
	rcode int      // with the bits of EDNS
	ede   []byte   // its extended errors, as options of an OPT record
	ttl   uint32   // seconds that it may be kept
	about policy.Answer
}

// readAnswer reads raw, an upstream's answer to question, and keeps of it what
// belongs there. The error is errMismatch if it is the answer to something
// else, late or forged.
func readAnswer(raw []byte, id uint16, question []byte) (a *answer, err error) {
	// Strangers write what the library reads here. A fault in it must cost an
	// answer, not the target.
	defer func() {
		if fault := recover(); fault != nil {
			a, err = nil, fmt.Errorf("%w: %v", errUnreadable, fault)
		}
	}()
	if len(raw) < headerLen || binary.BigEndian.Uint16(raw) != id || raw[2]&0x80 == 0 {
		return nil, errMismatch
	}
	m := new(dns.Msg)
	if err := m.Unpack(raw); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	for i, n := range []int{len(m.Question), len(m.Answer), len(m.Ns), len(m.Extra)} {
		if int(binary.BigEndian.Uint16(raw[4+2*i:])) != n {
			return nil, fmt.Errorf("%w: it has not the records it says", errUnreadable)
		}
	}
	// Some servers leave the question out of what they refuse.
	bare := len(m.Question) == 0 && m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError
	if m.Opcode != dns.OpcodeQuery || !bare && (len(raw) < headerLen+len(question) || !sameQuestion(raw[headerLen:headerLen+len(question)], question)) {
		return nil, errMismatch
	}
	if bare {
		name, _, err := dns.UnpackDomainName(question, 0)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errUnreadable, err)
		}
		rest := question[len(question)-4:]
		m.Question = []dns.Question{{Name: name, Qtype: binary.BigEndian.Uint16(rest), Qclass: binary.BigEndian.Uint16(rest[2:])}}
		m.Answer, m.Ns = nil, nil
	}
	return newAnswer(m)
}

func sameQuestion(a, b []byte) bool {
	n := len(b) - 4 // no case in type and class
	return len(a) == len(b) && string(a[n:]) == string(b[n:]) && equalFold(a[:n], b[:n])
}

func newAnswer(m *dns.Msg) (*answer, error) {
	a := &answer{rcode: m.Rcode}
	m.Rcode &= 0xF
	m.Answer = a.chain(m.Question[0], m.Answer)
	m.Ns = slices.DeleteFunc(m.Ns, ofOneHop)
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok && len(a.ede) <= maxExtra {
				a.ede = append(a.ede, extendedError(e.InfoCode, cut(e.ExtraText, maxExtra))...)
			}
		}
	}
	// Nobody asked for the rest. An address there, of whatever name, would be
	// one that no look-up was judged for.
	m.Extra = nil
	a.ttl = keepFor(m, a.rcode)
	for _, section := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range section {
			a.leadsTo(rr, m.Question[0].Name)
			rr.Header().Ttl = min(rr.Header().Ttl, maxTTL)
		}
	}
	if m.Answer == nil && a.ttl > 0 {
		for _, rr := range m.Ns {
			rr.Header().Ttl = min(rr.Header().Ttl, a.ttl)
		}
	}
	m.Compress = true
	var err error
	if a.wire, err = m.Pack(); err != nil || len(a.wire) > dns.MaxMsgSize {
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return a, a.findTTLs()
}

// chain returns the records that answer the question: its own, and those of
// the names that it is an alias of. What else an upstream puts there is none
// of ours to pass on.
func (a *answer) chain(q dns.Question, records []dns.RR) []dns.RR {
	owners := map[string]bool{fold(q.Name): true}
	for range maxChain {
		known := len(owners)
		for _, rr := range records {
			switch rr := rr.(type) {
			case *dns.CNAME:
				if owners[fold(rr.Hdr.Name)] {
					owners[fold(rr.Target)] = true
				}
			case *dns.DNAME: // its CNAME is there as well (RFC 6672 3.1)
				for name := range owners {
					if dns.IsSubDomain(fold(rr.Hdr.Name), name) {
						owners[fold(rr.Hdr.Name)] = true
						break
					}
				}
			}
		}
		if len(owners) == known {
			break
		}
	}
	var kept []dns.RR
	for _, rr := range records {
		if h := rr.Header(); owners[fold(h.Name)] && !ofOneHop(rr) {
			kept = append(kept, rr)
		}
	}
	return kept
}

// fold returns a name of the DNS library in lower case.
func fold(name string) string { return strings.ToLower(name) }

// ofOneHop reports whether a record concerns two speakers alone.
func ofOneHop(rr dns.RR) bool {
	t := rr.Header().Rrtype
	return t == dns.TypeOPT || t == dns.TypeTSIG || t == dns.TypeSIG
}

// keepFor returns how long an answer may be kept, in seconds: the shortest TTL
// in it, or of a name or type that is not there what RFC 2308 5 says.
func keepFor(m *dns.Msg, rcode int) uint32 {
	if m.Truncated || rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError {
		return 0
	}
	answered := false
	ttl := uint32(maxTTL)
	for _, rr := range m.Answer {
		answered = answered || rr.Header().Rrtype == m.Question[0].Qtype
		ttl = min(ttl, rr.Header().Ttl)
	}
	for _, rr := range m.Ns {
		ttl = min(ttl, rr.Header().Ttl)
	}
	if answered && rcode == dns.RcodeSuccess {
		return ttl
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(ttl, soa.Minttl, maxNegativeTTL)
		}
	}
	return 0 // RFC 2308 5: without an SOA it must not be kept
}

// leadsTo notes the names and addresses that a record gives to an asker.
func (a *answer) leadsTo(rr dns.RR, asked string) {
	name := func(s string) {
		if strings.EqualFold(s, asked) {
			return
		}
		var buf [maxName + 1]byte
		n, err := dns.PackDomainName(s, buf[:], 0, nil, false)
		if err != nil || n <= 1 {
			return
		}
		if d := domain(buf[:n]); !slices.Contains(a.about.Names, d) {
			a.about.Names = append(a.about.Names, d)
		}
	}
	addr := func(b []byte) {
		if ip, ok := netip.AddrFromSlice(b); ok && !slices.Contains(a.about.Addrs, ip.Unmap()) {
			a.about.Addrs = append(a.about.Addrs, ip.Unmap())
		}
	}
	service := func(s *dns.SVCB) {
		name(s.Hdr.Name)
		name(s.Target)
		for _, v := range s.Value {
			switch v := v.(type) {
			case *dns.SVCBIPv4Hint:
				for _, ip := range v.Hint {
					addr(ip)
				}
			case *dns.SVCBIPv6Hint:
				for _, ip := range v.Hint {
					addr(ip)
				}
			}
		}
	}
	switch rr := rr.(type) {
	case *dns.CNAME:
		name(rr.Target)
	case *dns.DNAME:
		name(rr.Target)
	case *dns.A:
		name(rr.Hdr.Name)
		addr(rr.A)
	case *dns.AAAA:
		name(rr.Hdr.Name)
		addr(rr.AAAA)
	case *dns.SVCB:
		service(rr)
	case *dns.HTTPS:
		service(&rr.SVCB)
	}
}

// findTTLs notes where the TTLs are in wire, which the library wrote.
func (a *answer) findTTLs() error {
	b := a.wire
	at := headerLen
	n, ok := skipName(b[at:])
	if !ok {
		return errUnreadable
	}
	at += n + 4
	for at < len(b) {
		n, ok := skipName(b[at:])
		if !ok || at+n+10 > len(b) {
			return errUnreadable
		}
		a.ttls = append(a.ttls, uint16(at+n+4)) //nolint:gosec // newAnswer bounds wire
		at += n + 10 + int(binary.BigEndian.Uint16(b[at+n+8:]))
	}
	if at != len(b) {
		return errUnreadable
	}
	return nil
}

// reply writes the answer to q into b, which it overwrites. It was fresh for
// age; a stale one is beyond its time. What does not fit limit is left out,
// from the end, as whole records: there are resolvers that know no TCP and
// take what they get.
//
// Precondition: the question is q's but for case.
func (a *answer) reply(b []byte, q *query, age time.Duration, stale bool, limit int, secret []byte) []byte {
	rcode := a.rcode
	if rcode > 0xF && !q.edns { // cannot be said without an OPT record
		rcode = dns.RcodeServerFailure
	}
	b = append(b[:0], a.wire...)
	binary.BigEndian.PutUint16(b, q.id)
	bits := binary.BigEndian.Uint16(b[2:])&(bitAA|bitTC|bitRA|bitAD) | bitQR | q.bits&(bitRD|bitCD) | uint16(rcode&0xF) //nolint:gosec // four bits
	if q.bits&bitAD == 0 && !q.do {
		bits &^= bitAD // RFC 6840 5.8
	}
	binary.BigEndian.PutUint16(b[2:], bits)
	copy(b[headerLen:], q.name)
	passed := uint32(max(0, age) / time.Second) //nolint:gosec // no cache lives that long
	for _, at := range a.ttls {
		ttl := binary.BigEndian.Uint32(b[at:])
		switch {
		case stale:
			ttl = staleTTL
		case ttl > passed:
			ttl -= passed
		default:
			ttl = 0
		}
		binary.BigEndian.PutUint32(b[at:], ttl)
	}
	var options []byte
	if q.edns {
		if options = a.ede; stale {
			options = append(options[:len(options):len(options)], staleError...)
		}
		limit -= 11 + len(options)
		if q.cookie != nil {
			limit -= 4 + clientCookie + serverCookie
		}
	}
	if len(b) > limit {
		b = a.shorten(b, len(q.question), limit)
	}
	return q.end(b, rcode, options, secret)
}

var staleError = extendedError(dns.ExtendedErrorCodeStaleAnswer, "")

// shorten takes records off the end of a message until it fits, and says so.
func (a *answer) shorten(b []byte, question, limit int) []byte {
	answers, authority := int(binary.BigEndian.Uint16(b[6:])), int(binary.BigEndian.Uint16(b[8:]))
	kept, end := 0, headerLen+question
	for _, at := range a.ttls {
		next := int(at) + 6 + int(binary.BigEndian.Uint16(b[at+4:]))
		if next > limit {
			break
		}
		kept, end = kept+1, next
	}
	b[2] |= bitTC >> 8
	binary.BigEndian.PutUint16(b[6:], uint16(min(kept, answers)))                   //nolint:gosec // fewer than before
	binary.BigEndian.PutUint16(b[8:], uint16(min(max(kept-answers, 0), authority))) //nolint:gosec // the same
	return b[:end]
}
