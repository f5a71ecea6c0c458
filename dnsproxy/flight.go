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
	done chan struct{}
	e    *entry // of what was answered, kept or not
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
	f, lead := p.fly(q, key)
	switch {
	case lead == nil:
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

// fly returns the flight of q, and if it is a new one what flies it. An empty
// key is of a query that is like no other.
func (p *Proxy) fly(q *query, key string) (f *flight, lead func()) {
	p.flights.mu.Lock()
	defer p.flights.mu.Unlock()
	if f := p.flights.byKey[key]; f != nil && key != "" {
		return f, nil
	}
	f = &flight{done: make(chan struct{})}
	if key != "" {
		// One may have landed since the cache was looked into.
		if e := p.cache.get([]byte(key)); e != nil && e.fresh(p.now()) {
			f.e = e
			close(f.done)
			return f, nil
		}
	}
	leave, ok := p.begin()
	if !ok {
		f.err = errBusy
		close(f.done)
		return f, nil
	}
	if key != "" {
		p.flights.byKey[key] = f
	}
	// The asker may leave before its query has its answer.
	own := *q
	own.question = slices.Clone(q.question)
	own.name = own.question[:len(q.name)]
	own.cookie = nil
	return f, func() {
		defer leave()
		defer close(f.done)
		ctx, cancel := context.WithTimeout(p.life, p.giveUp)
		defer cancel()
		var a *answer
		if a, f.err = p.forward(ctx, &own); f.err == nil {
			ev := own.lookup()
			f.e = &entry{answer: a, key: key, domain: ev.Domain, qtype: ev.QType, born: p.now()}
			if key != "" && a.ttl > 0 {
				p.cache.put(f.e)
			}
		}
		if key != "" {
			p.flights.mu.Lock()
			delete(p.flights.byKey, key)
			p.flights.mu.Unlock()
		}
	}
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
