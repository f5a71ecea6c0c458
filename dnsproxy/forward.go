package dnsproxy

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

var errNoUpstream = errors.New("there is no upstream resolver")

const (
	// rounds is how often a list of upstreams is gone through, as resolvers do.
	rounds = 2
	// failsToDown is after how many failures in a row a server is left out,
	// and probeEvery how often it is then asked whether it is back.
	failsToDown = 2
	probeEvery  = 500 * time.Millisecond
)

// server is an upstream and how it fares.
type server struct {
	Upstream
	// exchange sends a query and returns the answer to just that.
	exchange func(ctx context.Context, query, question []byte) (*answer, error)
	sockets  *sockets // of one that is asked by UDP
	// whole asks again by TCP where a datagram was too small for the answer.
	whole func(ctx context.Context, a *answer, query, question []byte) *answer

	fails atomic.Int32 // in a row
}

func (s *server) down() bool { return s.fails.Load() >= failsToDown }

// attempt is what came of asking one server.
type attempt struct {
	s   *server
	a   *answer
	err error
}

// forward asks the upstreams in order until one has an answer. It does as the
// resolver does whose place we took: one that does not reply, or says that it
// cannot or will not, is passed over for the next, and a refusal by the last
// is as good as any. But one that is known not to reply waits for last, and
// one that is slow has the next beside it. tried is what came of the first if
// it was asked already: it comes after the others then.
func (p *Proxy) forward(ctx context.Context, q *query, tried attempt) (*answer, error) {
	order := p.order(q)
	if i := slices.Index(order, tried.s); i >= 0 {
		order = append(slices.Delete(order, i, i+1), tried.s)
	}
	if len(order) == 0 {
		return nil, errNoUpstream
	}
	if len(order) == 1 {
		return p.only(ctx, order[0], q, tried.s != nil)
	}
	var (
		results  = make(chan attempt, rounds*len(order))
		done     = map[*server]bool{} // not to be asked again
		last     = errNoUpstream
		refusing *answer // the last answer that was none
		next     int
		waiting  int
	)
	if tried.a != nil && failed(tried.a.rcode) {
		refusing, done[tried.s] = tried.a, true
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hedge := time.NewTimer(p.hedge)
	defer hedge.Stop()
	ask := func() {
		for next < rounds*len(order) {
			s, round := order[next%len(order)], next/len(order)
			next++
			if done[s] {
				continue
			}
			waiting++
			// Some old servers do not answer what has EDNS (RFC 6891 6.2.2).
			edns := round == 0 || q.do
			p.work.Go(func() {
				a, err := p.ask(ctx, s, q, edns)
				results <- attempt{s, a, err}
			})
			hedge.Reset(p.hedge)
			return
		}
	}
	ask()
	for waiting > 0 {
		select {
		case r := <-results:
			waiting--
			switch {
			case r.err != nil:
				last = fmt.Errorf("asking %s: %w", r.s, r.err)
			case failed(r.a.rcode):
				refusing, done[r.s] = r.a, true
			default:
				return r.a, nil
			}
			ask()
		case <-hedge.C:
			if next < len(order) { // in the first round alone: no storm
				ask()
			}
		case <-ctx.Done():
			return nil, errors.Join(last, ctx.Err())
		}
	}
	if refusing != nil {
		return refusing, nil
	}
	return nil, last
}

// only asks the one server that there is. again says that it was asked before.
func (p *Proxy) only(ctx context.Context, s *server, q *query, again bool) (a *answer, err error) {
	for round := range rounds {
		if round == 0 && again {
			continue
		}
		a, err = p.ask(ctx, s, q, round == 0 || q.do)
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", s, err)
	}
	return a, nil
}

// order returns the servers for q, those that are up first.
func (p *Proxy) order(q *query) []*server {
	ours := p.Addrs()
	var up, down []*server
	for _, s := range p.routes.of(q.domain()) {
		if a, ok := s.addr(); ok && slices.Contains(ours, a) { // ourselves: never a loop
			continue
		}
		if s.down() {
			down = append(down, s)
		} else {
			up = append(up, s)
		}
	}
	return append(up, down...)
}

// ask asks one server and remembers how it fares.
func (p *Proxy) ask(ctx context.Context, s *server, q *query, edns bool) (*answer, error) {
	within, cancel := context.WithTimeout(ctx, p.tryFor)
	defer cancel()
	start, query := time.Now(), q.upstream(edns)
	a, err := s.exchange(within, query, q.question)
	if err == nil && edns && (a.rcode == dns.RcodeFormatError || a.rcode == dns.RcodeNotImplemented) && !q.do {
		if plain, err := s.exchange(within, q.upstream(false), q.question); err == nil {
			a = plain
		}
	}
	switch {
	case err == nil:
		s.fails.Store(0)
	case ctx.Err() != nil && time.Since(start) < p.hedge:
		// Another was quicker. One that was given its time has failed, even if
		// its answer would have come some day.
	default:
		p.missed(s)
	}
	return a, err
}

// missed notes that a server did not answer.
func (p *Proxy) missed(s *server) {
	if s.fails.Add(1) == failsToDown {
		p.work.Go(func() { p.probe(s) })
	}
}

// probe asks a server that is down for the root's name servers until it says
// anything at all.
func (p *Proxy) probe(s *server) {
	root := query{bits: bitRD, question: []byte{0, 0, byte(dns.TypeNS), 0, dns.ClassINET}}
	root.name = root.question[:1]
	for s.down() {
		select {
		case <-p.life.Done():
			return
		case <-time.After(probeEvery):
		}
		ctx, cancel := context.WithTimeout(p.life, p.tryFor)
		if _, err := s.exchange(ctx, root.upstream(false), root.question); err == nil {
			s.fails.Store(0)
		}
		cancel()
	}
}

// upstream returns the query as an upstream gets it: under a random id, with
// an OPT record of our own. It says that we understand AD (RFC 6840 5.7), which
// reply hides from who does not.
func (q *query) upstream(edns bool) []byte {
	var id [2]byte
	_, _ = rand.Read(id[:])
	return q.anew(binary.BigEndian.Uint16(id[:]), q.bits&(bitRD|bitCD)|bitAD, edns, ourUDPSize)
}

// anew builds the query from what was read of it.
func (q *query) anew(id, bits uint16, edns bool, size uint16) []byte {
	b := make([]byte, 0, headerLen+len(q.question)+11)
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, bits)
	b = append(b, 0, 1, 0, 0, 0, 0, 0, 0)
	b = append(b, q.question...)
	if edns {
		do := byte(0)
		if q.do {
			do = 0x80
		}
		b[11] = 1
		b = append(b, 0, 0, byte(dns.TypeOPT), byte(size>>8), byte(size), 0, 0, do, 0, 0, 0)
	}
	return b
}
