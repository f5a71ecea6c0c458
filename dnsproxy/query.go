package dnsproxy

import (
	"encoding/binary"
	"errors"

	"github.com/miekg/dns"

	"appdefender/policy"
)

const (
	headerLen = 12
	maxName   = 255 // bytes of a name (RFC 1035 2.3.4)
	maxLabel  = 63
)

// Bits of the second word of a header (RFC 1035 4.1.1, RFC 4035 3.2).
const (
	bitQR = 1 << 15
	bitAA = 1 << 10
	bitTC = 1 << 9
	bitRD = 1 << 8
	bitRA = 1 << 7
	bitAD = 1 << 5
	bitCD = 1 << 4

	maskOpcode = 0xF << 11
)

var (
	errNoMessage = errors.New("not a DNS message")
	errResponse  = errors.New("a DNS response, not a query")
	errOpcode    = errors.New("a DNS message that is no plain query")
	errMalformed = errors.New("malformed DNS query")
	errVersion   = errors.New("a DNS query of an unknown EDNS version")
)

// query is what a query says, read without allocation. Its slices are parts of
// the message.
type query struct {
	id, bits      uint16
	name          []byte // as in the message; nil if it could not be read
	question      []byte // name, type and class
	qtype, qclass uint16

	edns   bool
	do     bool
	size   uint16 // of a datagram that the asker can take
	cookie []byte // RFC 7873; nil if there is none
}

// read parses a query strictly: it has the records that it says and nothing
// behind them. With an error it has as much of the query as an answer needs;
// the code is the answer's. There must be no answer to errNoMessage and
// errResponse: two proxies answering each other's answers would never end.
func (q *query) read(raw []byte) (rcode int, err error) {
	*q = query{}
	if len(raw) < headerLen {
		return 0, errNoMessage
	}
	q.id, q.bits = binary.BigEndian.Uint16(raw), binary.BigEndian.Uint16(raw[2:])
	switch {
	case q.bits&bitQR != 0:
		return 0, errResponse
	case q.bits&maskOpcode != 0:
		return dns.RcodeNotImplemented, errOpcode
	case binary.BigEndian.Uint16(raw[4:]) != 1:
		return dns.RcodeFormatError, errMalformed
	}
	end := headerLen
	for {
		if end >= len(raw) {
			return dns.RcodeFormatError, errMalformed
		}
		n := int(raw[end])
		end += 1 + n
		// There is nothing before the first name that it could point to.
		if n > maxLabel || end-headerLen > maxName {
			return dns.RcodeFormatError, errMalformed
		}
		if n == 0 {
			break
		}
	}
	if end+4 > len(raw) {
		return dns.RcodeFormatError, errMalformed
	}
	qtype, qclass := binary.BigEndian.Uint16(raw[end:]), binary.BigEndian.Uint16(raw[end+2:])
	if qtype == dns.TypeNone || qclass == 0 {
		return dns.RcodeFormatError, errMalformed
	}
	rest := raw[end+4:]
	count := func(i int) int { return int(binary.BigEndian.Uint16(raw[i:])) }
	first := count(6) + count(8) // what is no additional record is skipped: a serial for IXFR
	version := byte(0)
	for i := range first + count(10) {
		n, ok := skipName(rest)
		if !ok || n+10 > len(rest) {
			return dns.RcodeFormatError, errMalformed
		}
		data := n + 10 + int(binary.BigEndian.Uint16(rest[n+8:]))
		if data > len(rest) {
			return dns.RcodeFormatError, errMalformed
		}
		if binary.BigEndian.Uint16(rest[n:]) == dns.TypeOPT {
			if i < first || n != 1 || q.edns || !q.options(rest[n+10:data]) { // RFC 6891 6.1.1
				return dns.RcodeFormatError, errMalformed
			}
			q.edns, q.size = true, binary.BigEndian.Uint16(rest[n+2:])
			version, q.do = rest[n+5], rest[n+6]&0x80 != 0
		}
		rest = rest[data:]
	}
	if len(rest) > 0 {
		return dns.RcodeFormatError, errMalformed
	}
	q.name, q.question = raw[headerLen:end], raw[headerLen:end+4]
	q.qtype, q.qclass = qtype, qclass
	if version != 0 {
		return dns.RcodeBadVers, errVersion
	}
	return dns.RcodeSuccess, nil
}

// skipName returns the length of the name that b begins with.
func skipName(b []byte) (int, bool) {
	for n := 0; n < len(b) && n < maxName; n += 1 + int(b[n]) {
		switch {
		case b[n] == 0:
			return n + 1, true
		case b[n]&0xC0 == 0xC0:
			return n + 2, n+2 <= len(b)
		case b[n] > maxLabel:
			return 0, false
		}
	}
	return 0, false
}

// options reads the options of an OPT record.
func (q *query) options(b []byte) bool {
	for len(b) > 0 {
		if len(b) < 4 {
			return false
		}
		code, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if len(b) < 4+n {
			return false
		}
		if code == dns.EDNS0COOKIE && q.cookie == nil {
			if n != clientCookie && (n < 16 || n > 40) { // RFC 7873 5.2.2
				return false
			}
			q.cookie = b[4 : 4+n]
		}
		b = b[4+n:]
	}
	return true
}

// domain returns the name as the judge wants it: lower case, no trailing dot;
// the root is ".".
func (q *query) domain() string { return domain(q.name) }

// domain writes a name for the judge.
//
// A dot inside a label is written \046: "x\046evil.test" is below "test", and
// a comparison of suffixes must not find "evil.test" in it.
func domain(wire []byte) string {
	if len(wire) <= 1 {
		return "."
	}
	b := make([]byte, 0, len(wire))
	for len(wire) > 0 && wire[0] != 0 {
		n := int(wire[0])
		if len(b) > 0 {
			b = append(b, '.')
		}
		for _, c := range wire[1 : 1+n] {
			switch {
			case c == '\\':
				b = append(b, `\\`...)
			case c <= ' ', c >= 0x7f, c == '.':
				b = append(b, '\\', '0'+c/100, '0'+c/10%10, '0'+c%10)
			default:
				b = append(b, lower(c))
			}
		}
		wire = wire[1+n:]
	}
	return string(b)
}

// lookup describes the query for the judge, but for who asks.
func (q *query) lookup() policy.Event {
	return policy.Event{Kind: policy.Lookup, Section: policy.DNS, Domain: q.domain(), QType: dns.Type(q.qtype).String()}
}

func (q *query) isTransfer() bool { return q.qtype == dns.TypeAXFR || q.qtype == dns.TypeIXFR }

// cacheable reports whether the answer may be one that was given before.
func (q *query) cacheable() bool {
	data := q.qtype < 128 || q.qtype > 255 // RFC 6895 3.1
	return data && q.qclass == dns.ClassINET && q.bits&bitRD != 0
}

// maxKey is the length of the longest key.
const maxKey = maxName + 3

// key appends what queries with the same answer have in common: the name
// without case, the type, and whether DNSSEC is wanted and checked.
func (q *query) key(b []byte) []byte {
	for _, c := range q.name {
		b = append(b, lower(c)) // the lengths of labels are below the letters
	}
	flags := byte(q.bits & bitCD)
	if q.do {
		flags |= 1
	}
	return append(b, byte(q.qtype>>8), byte(q.qtype), flags)
}

// limit is how long an answer may be.
func (q *query) limit(udp bool) int {
	switch {
	case !udp:
		return dns.MaxMsgSize
	case !q.edns:
		return dns.MinMsgSize
	}
	return min(max(dns.MinMsgSize, int(q.size)), maxUDPSize)
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
