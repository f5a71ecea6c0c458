package dnsproxy

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// flights are the questions that upstreams are being asked. Whoever has the
// same one meanwhile waits for the same answer: it saves work, and an attacker
// who sends forged answers gets one chance, not one for each asker.
type flights struct {
	mu    sync.Mutex
	byKey map[string]*flight
}

type flight struct {
	q     query // without a cookie; of no datagram
	key   string
	leave func() // the one who leads calls it, at the end

	done chan struct{} // closed when the rest is there
	e    *entry        // of what was answered, kept or not
	err  error
}

// resolve finds the answer to q: of a flight, or of old, a stale entry or nil,
// if that takes too long or fails (RFC 8767).
func (p *Proxy) resolve(ctx context.Context, q *query, key string, old *entry) (e *entry, stale bool, err error) {
	if !old.usable(p.now()) {
		old = nil
	}
	if old != nil && p.now().UnixNano() < old.retry.Load() {
		return old, true, nil
	}
	f, first := p.fly(q, key)
	lead := func() {
		defer f.leave()
		p.lead(f, attempt{})
	}
	switch {
	case !first:
	case old != nil:
		go func() {
			lead()
			old.recheck(f, p.now())
		}()
	default:
		lead() // nothing to wait for beside it
	}
	var late <-chan time.Time
	if old != nil {
		t := time.NewTimer(p.staleAfter)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-f.done:
	case <-late:
		return old, true, nil
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	if old.recheck(f, p.now()) {
		return old, true, nil
	}
	return f.e, false, f.err
}

// recheck reports whether the entry, if there is one, stands in for a flight
// that failed, and then lets the upstreams rest for a while.
//
// Precondition: the flight is done.
func (e *entry) recheck(f *flight, now time.Time) bool {
	if e == nil || f.err == nil && !failed(f.e.rcode) {
		return false
	}
	e.retry.Store(now.Add(staleRecheck).UnixNano())
	return true
}

// failed reports whether an upstream says that it cannot or will not answer.
func failed(rcode int) bool {
	return rcode == dns.RcodeServerFailure || rcode == dns.RcodeNotImplemented || rcode == dns.RcodeRefused
}

// fly returns the flight of q. The first to have it must land it and leave. An
// empty key is of a query that is like no other.
func (p *Proxy) fly(q *query, key string) (f *flight, first bool) {
	p.flights.mu.Lock()
	defer p.flights.mu.Unlock()
	if f := p.flights.byKey[key]; f != nil && key != "" {
		return f, false
	}
	f = &flight{key: key, done: make(chan struct{})}
	if key != "" {
		// One may have landed since the cache was looked into.
		if e := p.cache.get([]byte(key)); e != nil && e.fresh(p.now()) {
			f.e = e
			close(f.done)
			return f, false
		}
	}
	var ok bool
	if f.leave, ok = p.begin(); !ok {
		f.err = errBusy
		close(f.done)
		return f, false
	}
	if key != "" {
		p.flights.byKey[key] = f
	}
	// The asker may leave before its query has its answer.
	f.q = *q
	f.q.question = slices.Clone(q.question)
	f.q.name = f.q.question[:len(q.name)]
	f.q.cookie = nil
	return f, true
}

// lead asks upstreams until there is an answer or none can be had.
func (p *Proxy) lead(f *flight, tried attempt) {
	ctx, cancel := context.WithTimeout(p.life, p.giveUp)
	defer cancel()
	a, err := p.forward(ctx, &f.q, tried)
	p.land(f, a, err)
}

// land gives a flight's answer to all who wait for it. It is called once.
func (p *Proxy) land(f *flight, a *answer, err error) {
	defer close(f.done)
	if f.err = err; err == nil {
		ev := f.q.lookup()
		f.e = &entry{answer: a, key: f.key, domain: ev.Domain, qtype: ev.QType, born: p.now()}
		if f.key != "" && a.ttl > 0 {
			p.cache.put(f.e)
		}
	}
	if f.key != "" {
		p.flights.mu.Lock()
		delete(p.flights.byKey, f.key)
		p.flights.mu.Unlock()
	}
}

// launch asks the first server for what in waits for, and returns at once: end
// is called when in has its reply. Nothing is started and no timer is set for
// it, which would take longer than the rest. It reports false, having done
// nothing, where that cannot be.
func (p *Proxy) launch(in *inquiry, end func()) bool {
	order := p.order(&in.q)
	if len(order) == 0 || order[0].sockets == nil || order[0].down() || in.kept.usable(p.now()) {
		return false
	}
	f, first := p.fly(&in.q, in.key)
	if !first {
		return false
	}
	s := order[0]
	landed := func() {
		defer f.leave()
		p.finish(in, f.e, false, f.err)
		end()
	}
	good := func(a *answer) bool {
		return a.rcode != dns.RcodeFormatError && a.rcode != dns.RcodeNotImplemented && (!failed(a.rcode) || len(order) == 1)
	}
	query := f.q.upstream(true)
	s.sockets.begin(query, f.q.question, p.hedge, func(a *answer, err error) {
		if err == nil && good(a) && !a.truncated() {
			s.fails.Store(0)
			p.land(f, a, nil)
			landed()
			return
		}
		p.work.Go(func() { // f has not left
			defer landed()
			switch {
			case err != nil && len(order) > 1:
				p.missed(s)
			case err == nil && good(a):
				ctx, cancel := context.WithTimeout(p.life, p.tryFor)
				defer cancel()
				p.land(f, s.whole(ctx, a, query, f.q.question), nil)
				return
			}
			p.lead(f, attempt{s, a, err})
		})
	})
	return true
}

// begin counts a flight, unless the proxy has ended or has too many already.
// What has begun has ended when Serve returns.
func (p *Proxy) begin() (end func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life.Err() != nil || p.working >= maxInFlight {
		return nil, false
	}
	p.working++
	p.work.Add(1)
	return func() {
		p.mu.Lock()
		p.working--
		p.mu.Unlock()
		p.work.Done()
	}, true
}
