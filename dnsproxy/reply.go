package dnsproxy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"unicode/utf8"

	"github.com/miekg/dns"

	"appdefender/policy"
)

const (
	ourUDPSize   = 1232 // what we can take in one datagram; no path fragments it
	maxUDPSize   = 4096 // what we send in one datagram, whatever a client offers
	refusalTTL   = 10   // seconds, as in soaData; short, so that a changed policy takes hold
	staleTTL     = 30   // RFC 8767 4
	localTTL     = 3600
	maxExtra     = 128 // bytes of a rule's name in an answer
	clientCookie = 8   // bytes
	serverCookie = 8
)

// toName is a pointer to the question's name (RFC 1035 4.1.4).
var toName = []byte{0xC0, headerLen}

// begin appends a header and the question.
func (q *query) begin(b []byte, rcode int, bits uint16) []byte {
	bits |= bitQR | q.bits&(maskOpcode|bitRD|bitCD) | uint16(rcode&0xF) //nolint:gosec // four bits
	b = binary.BigEndian.AppendUint16(b, q.id)
	b = binary.BigEndian.AppendUint16(b, bits)
	if q.question == nil {
		return append(b, make([]byte, 8)...)
	}
	b = append(b, 0, 1, 0, 0, 0, 0, 0, 0)
	return append(b, q.question...)
}

// count adds n to a count in the header: 6 is that of answers, 8 of authority
// records, 10 of additional ones.
func count(b []byte, at, n int) {
	binary.BigEndian.PutUint16(b[at:], binary.BigEndian.Uint16(b[at:])+uint16(n)) //nolint:gosec // a few
}

// record appends the start of a record about the question's name.
func record(b []byte, rrtype uint16, class uint16, ttl uint32, data string) []byte {
	b = append(b, toName...)
	b = binary.BigEndian.AppendUint16(b, rrtype)
	b = binary.BigEndian.AppendUint16(b, class)
	b = binary.BigEndian.AppendUint32(b, ttl)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data))) //nolint:gosec // ours
	return append(b, data...)
}

// end appends the OPT record if and only if the query has one, with the given
// options and our cookie.
func (q *query) end(b []byte, rcode int, options []byte, secret []byte) []byte {
	if !q.edns {
		return b
	}
	count(b, 10, 1)
	do := byte(0)
	if q.do {
		do = 0x80
	}
	b = append(b, 0, 0, byte(dns.TypeOPT), ourUDPSize>>8, ourUDPSize&0xFF, byte(rcode>>4), 0, do, 0, 0, 0)
	at := len(b)
	b = append(b, options...)
	if q.cookie != nil {
		// Nobody but the target reaches us, so that a cookie is never asked
		// for, only given (RFC 7873 5.2.3).
		b = append(b, 0, dns.EDNS0COOKIE, 0, clientCookie+serverCookie)
		b = append(b, q.cookie[:clientCookie]...)
		mac := hmac.New(sha256.New, secret)
		mac.Write(q.cookie[:clientCookie])
		b = append(b, mac.Sum(nil)[:serverCookie]...)
	}
	binary.BigEndian.PutUint16(b[at-2:], uint16(len(b)-at)) //nolint:gosec // a few hundred
	return b
}

// plain returns an answer without records.
func (p *Proxy) plain(q *query, rcode int) []byte {
	if rcode > 0xF && !q.edns { // cannot be said without an OPT record
		rcode = dns.RcodeServerFailure
	}
	return q.end(q.begin(make([]byte, 0, 320), rcode, bitRA), rcode, nil, p.secret)
}

// refusal answers a name that is refused, as the rule wants it. By default the
// name does not exist, for a while: the SOA's minimum bounds how long a
// resolver may remember it (RFC 2308 5).
//
// REFUSED sends a resolver to its next server, which is the same proxy.
func (p *Proxy) refusal(q *query, v *policy.Verdict) []byte {
	rcode := dns.RcodeNameError
	addr, _ := netip.ParseAddr(v.Answer)
	switch {
	case v.Answer == policy.AnswerRefused:
		rcode = dns.RcodeRefused
	case v.Answer == policy.AnswerEmpty, addr.IsValid():
		rcode = dns.RcodeSuccess
	}
	b := q.begin(make([]byte, 0, 512), rcode, bitRA)
	switch {
	case rcode == dns.RcodeRefused:
	case addr.Is4() && q.qtype == dns.TypeA, addr.Is6() && q.qtype == dns.TypeAAAA:
		b = record(b, q.qtype, q.qclass, refusalTTL, string(addr.AsSlice()))
		count(b, 6, 1)
	default:
		b = q.soa(b)
	}
	return q.end(b, rcode, extendedError(dns.ExtendedErrorCodeBlocked, cut(v.Rule, maxExtra)), p.secret)
}

// The names of a refusal's SOA record and its serial, refresh, retry, expire
// and minimum.
const soaData = "\x0bappdefender\x07invalid\x00\x06nobody\x07invalid\x00" +
	"\x00\x00\x00\x01" + "\x00\x00\x07\x08" + "\x00\x00\x03\x84" + "\x00\x09\x3a\x80" + "\x00\x00\x00\x0a"

// soa appends the authority's record of something that is not there. Its owner
// is the name's parent, unless that is a top-level domain.
func (q *query) soa(b []byte) []byte {
	at := len(b)
	b = record(b, dns.TypeSOA, q.qclass, refusalTTL, soaData)
	if first := int(q.name[0]) + 1; len(q.name) > first && q.name[first] != 0 && q.name[first+1+int(q.name[first])] != 0 {
		b[at+1] += byte(first) // at most 64
	}
	count(b, 8, 1)
	return b
}

// extendedError returns an option of RFC 8914.
func extendedError(code uint16, text string) []byte {
	b := make([]byte, 0, 6+len(text))
	b = binary.BigEndian.AppendUint16(b, dns.EDNS0EDE)
	b = binary.BigEndian.AppendUint16(b, uint16(2+len(text))) //nolint:gosec // callers cut it
	b = binary.BigEndian.AppendUint16(b, code)
	return append(b, text...)
}

// local answers what needs no upstream, or returns nil.
func (p *Proxy) local(q *query) []byte {
	switch {
	case q.isTransfer():
		// One message cannot hold a zone, and half of one is worse than none.
		return p.plain(q, dns.RcodeNotImplemented)
	case q.qclass != dns.ClassINET:
		return nil
	case q.qtype == dns.TypeANY: // RFC 8482 4.2
		b := q.begin(make([]byte, 0, 320), dns.RcodeSuccess, bitRA)
		b = record(b, dns.TypeHINFO, q.qclass, localTTL, "\x07RFC8482\x00")
		count(b, 6, 1)
		return q.end(b, dns.RcodeSuccess, nil, p.secret)
	case isLocalhost(q.name): // RFC 6761 6.3
		b := q.begin(make([]byte, 0, 512), dns.RcodeSuccess, bitRA)
		switch q.qtype {
		case dns.TypeA:
			b = record(b, dns.TypeA, q.qclass, localTTL, "\x7f\x00\x00\x01")
			count(b, 6, 1)
		case dns.TypeAAAA:
			if p.localhost4 {
				b = q.soa(b)
				break
			}
			b = record(b, dns.TypeAAAA, q.qclass, localTTL, string(loopback6[:]))
			count(b, 6, 1)
		default:
			b = q.soa(b)
		}
		return q.end(b, dns.RcodeSuccess, nil, p.secret)
	}
	return nil
}

// onlyIPv4 reports whether a hosts file has localhost be 127.0.0.1 and not ::1,
// as in containers without IPv6: whoever asks for AAAA by itself is to hear
// nothing else.
func onlyIPv4(hosts map[netip.Addr][]string) bool {
	has := func(addr netip.Addr) bool { return slices.Contains(hosts[addr], "localhost") }
	return has(netip.AddrFrom4([4]byte{127, 0, 0, 1})) && !has(netip.IPv6Loopback())
}

var loopback6 = netip.IPv6Loopback().As16()

// isLocalhost reports whether a name is localhost or below it.
func isLocalhost(name []byte) bool {
	const last = "\x09localhost\x00"
	if len(name) < len(last) || !equalFold(name[len(name)-len(last):], last) {
		return false
	}
	for len(name) > len(last) { // at a boundary of labels
		name = name[min(1+int(name[0]), len(name)):]
	}
	return len(name) == len(last)
}

// equalFold compares names. Only ASCII letters have case.
func equalFold[T, U string | []byte](a T, b U) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

// cut shortens s to at most n bytes without breaking a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
