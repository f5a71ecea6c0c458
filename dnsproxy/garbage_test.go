package dnsproxy

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"

	"github.com/miekg/dns"
)

// damage changes a message as a broken or hostile sender might: bits, lengths,
// counts, pointers, pieces of another one.
func damage(r *rand.Rand, msg, other []byte) []byte {
	b := slices.Clone(msg)
	for range 1 + r.IntN(4) {
		if len(b) < 4 {
			break
		}
		at := r.IntN(len(b))
		switch r.IntN(7) {
		case 0:
			b[at] ^= 1 << r.IntN(8)
		case 1:
			b[at] = byte(r.Uint32())
		case 2:
			b = b[:at]
		case 3:
			b = append(b[:at], other[min(r.IntN(len(other)), len(other)-1):]...)
		case 4: // a pointer, often to itself
			binary.BigEndian.PutUint16(b[min(at, len(b)-2):], 0xC000|uint16(r.IntN(len(b)+2)))
		case 5: // a count of records
			if len(b) >= headerLen {
				binary.BigEndian.PutUint16(b[4+2*r.IntN(4):], uint16(r.Uint32()))
			}
		case 6:
			b = append(b, b[at:]...)
		}
	}
	return b
}

// TestGarbage sends the proxy damaged queries, and has it read damaged answers:
// five thousand of each, or as many as TEST_GARBAGE says. It answers what it
// must, keeps no more memory for them, and then answers as before.
func TestGarbage(t *testing.T) {
	n := 5000
	if s := os.Getenv("TEST_GARBAGE"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	up := newUpstream(t, answerA)
	p := newProxy(t, Config{Upstreams: Plain(up.addr), CacheBytes: 1 << 20})
	var queries, answers [][]byte
	for _, qtype := range []uint16{dns.TypeA, dns.TypeHTTPS, dns.TypeTXT, dns.TypeANY} {
		q := ask("good.test.", qtype)
		queries = append(queries, packed(t, q))
		q.SetEdns0(1232, true)
		opt := q.IsEdns0()
		opt.Option = append(opt.Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"})
		queries = append(queries, packed(t, q))
		m := new(dns.Msg).SetReply(q)
		for _, s := range []string{
			"good.test. 60 IN CNAME a.test.", "a.test. 60 IN CNAME good.test.", "a.test. 60 IN A 192.0.2.1", "a.test. 60 IN HTTPS 1 b.test. ipv4hint=192.0.2.1 alpn=h2",
			"a.test. 60 IN TXT one two", "test. 60 IN DNAME example.", "a.test. 60 IN RRSIG A 8 2 60 20300101000000 20200101000000 1 test. AAAA",
		} {
			m.Answer = append(m.Answer, rr(t, s))
		}
		m.Ns = append(m.Ns, rr(t, "test. 60 IN SOA ns.test. a.test. 1 2 3 4 5"))
		m.SetEdns0(1232, true)
		m.Compress = true
		answers = append(answers, packed(t, m))
	}
	question := queries[0][headerLen:]
	r := rand.New(rand.NewPCG(6, 18))
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what is in pools lives for two
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	w, buf := p.newWorker(), make([]byte, 0, maxUDPSize)
	before, answered, read := 0, 0, 0
	for i := range n {
		if i == n/2 { // what is kept is full by now
			before = heap()
		}
		raw := damage(r, queries[r.IntN(len(queries))], answers[r.IntN(len(answers))])
		reply := w.quick(buf, raw, true)
		if reply == nil {
			reply = p.Exchange(context.Background(), raw, wget, true)
		}
		if reply != nil {
			answered++
			if len(reply) > maxUDPSize || len(reply) < headerLen || string(reply[:2]) != string(raw[:2]) || reply[2]&0x80 == 0 {
				t.Fatalf("%x is answered with %x", raw, reply)
			}
			if err := new(dns.Msg).Unpack(reply); err != nil {
				t.Fatalf("%x is answered with %x: %v", raw, reply, err)
			}
		}
		msg := damage(r, answers[r.IntN(len(answers))], queries[r.IntN(len(queries))])
		if len(msg) < headerLen {
			continue
		}
		if a, err := readAnswer(msg, binary.BigEndian.Uint16(msg), question); err == nil {
			read++
			if len(a.wire) > dns.MaxMsgSize || len(a.about.Names)+len(a.about.Addrs) > len(msg) {
				t.Fatalf("%x is read as %+v", msg, a)
			}
		}
	}
	if answered < n/10 || read < n/100 {
		t.Errorf("of %d, %d were answered and %d read: that was no test", n, answered, read)
	}
	if grown := heap() - before; grown > 4<<20 {
		t.Errorf("the second half of %d took %d bytes that are not given back", n, grown)
	}
	if got := exchange(t, p, ask("last.good.test.", dns.TypeA), true); got.Rcode != dns.RcodeSuccess || len(got.Answer) == 0 {
		t.Errorf("in the end: %v", got)
	}
}

func packed(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
