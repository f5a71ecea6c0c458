package dnsproxy

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"appdefender/policy"
)

// errBusy is why an allowed query was not asked upstream.
var errBusy = errors.New("too many queries are in flight")

// outcome is what became of one query.
type outcome struct {
	reply   []byte // nil: say nothing
	event   policy.Event
	verdict policy.Verdict // the zero Verdict if nothing was judged
	err     error          // why an allowed query has no answer
}

// Exchange answers one raw query with one raw message, or with nil if the
// query is no DNS query at all. It is for queries that came by another way
// than the listeners; udp says that the answer must fit into a datagram.
func (p *Proxy) Exchange(ctx context.Context, query []byte, who policy.Process, udp bool) []byte {
	free := p.enter()
	if free {
		defer p.leave()
	}
	var reply []byte
	p.serve(ctx, query, func() policy.Process { return who }, udp, free, func(b []byte) error {
		reply = b
		return nil
	})
	return reply
}

// Admit takes a raw query that another server is to answer, since no answer of
// ours would be believed. It is judged and answered like any other, so that
// where it leads is judged too and known to Resolved. What returns is to be
// sent in its place: an allowed query built anew; for a refused one a question
// under the same id about a name that does not exist (RFC 6761 6.4), whose
// answer ends the wait of a resolver that looks at the id alone, as musl does;
// nil for what is no query, and when ctx has ended.
func (p *Proxy) Admit(ctx context.Context, raw []byte, who policy.Process) []byte {
	var q query
	if _, err := q.read(raw); err != nil {
		return nil
	}
	free := p.enter()
	if free {
		defer p.leave()
	}
	o := p.answer(ctx, raw, func() policy.Process { return who }, true, free)
	p.tell(&o)
	switch {
	case ctx.Err() != nil: // nobody waits any more
		return nil
	case !o.verdict.Allow:
		q.question = nowhere
		return q.anew(q.id, bitRD, false, 0)
	}
	return q.anew(q.id, q.bits&(bitRD|bitCD|bitAD), q.edns, q.size)
}

// nowhere asks for the address of "invalid".
var nowhere = []byte("\x07invalid\x00\x00\x01\x00\x01")

// Judge reads and judges one raw query without answering it, for callers that
// can only refuse or let pass. What is no query is judged too, as an Unknown
// event; the error says why.
func (p *Proxy) Judge(raw []byte, who policy.Process) (policy.Event, policy.Verdict, error) {
	var q query
	ev := policy.Event{Kind: policy.Unknown, Section: policy.DNS}
	_, err := q.read(raw)
	if err != nil {
		ev.Why = err.Error()
	} else {
		ev = q.lookup()
	}
	ev.Subject = who
	return ev, p.conf.Decide(&ev), err
}

// serve takes one query all the way: decide, reply, record.
func (p *Proxy) serve(ctx context.Context, raw []byte, who func() policy.Process, udp, free bool, send func([]byte) error) {
	o := p.answer(ctx, raw, who, udp, free)
	p.send(&o, send)
}

// send sends the reply, if there is one, and records.
func (p *Proxy) send(o *outcome, send func([]byte) error) {
	if o.reply != nil {
		o.err = errors.Join(o.err, send(o.reply))
	}
	p.tell(o)
}

// tell records what is worth it.
func (p *Proxy) tell(o *outcome) {
	if o.verdict.Tell() && p.conf.Record != nil && !(o.reply != nil && !o.verdict.Allow && p.repeats(&o.event)) {
		p.conf.Record(&o.event, o.verdict, o.err)
	}
}

// inquiry is a query on its way to its answer.
type inquiry struct {
	outcome
	q    query
	key  string // "" if the answer is not to be kept
	kept *entry // what the cache has, fresh or not
	who  func() policy.Process
	udp  bool
}

// answer makes the reply to one query. free says that it may be asked
// upstream; otherwise there are too many already.
func (p *Proxy) answer(ctx context.Context, raw []byte, who func() policy.Process, udp, free bool) outcome {
	in := &inquiry{who: who, udp: udp}
	if p.open(in, raw, free) {
		e, stale, err := p.resolve(ctx, &in.q, in.key, in.kept)
		p.finish(in, e, stale, err)
	}
	return in.outcome
}

// open answers a query as far as that needs no upstream. It reports whether one
// must be asked; finish is for what that says.
//
// The judge is asked each time, with what is in the cache or without: a change
// of policy holds at once.
func (p *Proxy) open(in *inquiry, raw []byte, free bool) (ask bool) {
	q := &in.q
	if rcode, err := q.read(raw); err != nil {
		if !errors.Is(err, errNoMessage) && !errors.Is(err, errResponse) {
			in.reply = p.plain(q, rcode)
		}
		return false
	}
	if q.cacheable() {
		key := q.key(make([]byte, 0, maxKey))
		in.key, in.kept = string(key), p.cache.get(key)
	}
	in.event = q.lookup()
	if in.kept == nil {
		in.event.Tunnel = p.tunnels.note(in.event.Domain, q.qtype, p.now())
	}
	if !p.decide(&in.outcome, in.who) {
		in.reply = p.refusal(q, &in.verdict)
		return false
	}
	if in.reply = p.local(q); in.reply != nil {
		return false
	}
	switch {
	case in.kept != nil && in.kept.fresh(p.now()):
		p.finish(in, in.kept, false, nil)
	case !free && in.kept.usable(p.now()):
		p.finish(in, in.kept, true, nil)
	case !free:
		if n := p.overflows.Add(1); p.conf.Busy != nil && n&(n-1) == 0 {
			p.conf.Busy(n)
		}
		p.finish(in, nil, false, errBusy)
	default:
		// Before the wait: its port may be another's when the answer is there.
		in.identify(in.who)
		return true
	}
	return false
}

// finish answers with what was found, unless the judge refuses that.
func (p *Proxy) finish(in *inquiry, e *entry, stale bool, err error) {
	q := &in.q
	if in.err = err; err != nil {
		in.reply = p.plain(q, dns.RcodeServerFailure)
		return
	}
	if in.event.Answer = e.about; !e.about.Empty() && !p.decide(&in.outcome, in.who) {
		in.reply = p.refusal(q, &in.verdict)
		return
	}
	p.pin(e)
	in.reply = e.reply(make([]byte, 0, len(e.wire)+256), q, p.now().Sub(e.born), stale, q.limit(in.udp), p.secret)
}

// decide asks the judge about what is known of the event so far.
func (p *Proxy) decide(o *outcome, who func() policy.Process) bool {
	if p.asksWho() {
		o.identify(who)
	}
	o.verdict = p.conf.Decide(&o.event)
	if o.verdict.Tell() {
		o.identify(who) // now: it may be gone after the reply
	}
	return o.verdict.Allow
}

func (p *Proxy) asksWho() bool { return p.conf.AsksWho != nil && p.conf.AsksWho() }

func (o *outcome) identify(who func() policy.Process) {
	if o.event.Subject.PID == 0 {
		o.event.Subject = who()
	}
}

// pin notes the addresses of an answer that is allowed.
func (p *Proxy) pin(e *entry) {
	if len(e.about.Addrs) > 0 {
		lost := p.pins.lost.Load()
		until := e.born.Add(time.Duration(e.ttl) * time.Second)
		if now := p.now(); now.After(until) {
			until = now
		}
		p.pins.add(e.domain, e.about.Addrs, until)
		e.pinned.Store(lost + 1)
	}
}

// worker answers, one after the other, queries that ask for no more than a
// look into the cache. Its memory is used again for each.
type worker struct {
	p     *Proxy
	q     query
	event policy.Event
}

func (p *Proxy) newWorker() *worker {
	return &worker{p: p, event: policy.Event{Kind: policy.Lookup, Section: policy.DNS}}
}

// quick writes over b the reply to a query whose answer is in the cache and
// which the judge lets pass without a word, or returns nil.
func (w *worker) quick(b, raw []byte, udp bool) []byte {
	p, q := w.p, &w.q
	if p.asksWho() {
		return nil
	}
	if _, err := q.read(raw); err != nil || !q.cacheable() || q.cookie != nil {
		return nil
	}
	var buf [maxKey]byte
	e := p.cache.get(q.key(buf[:0]))
	now := p.now()
	if e == nil || !e.fresh(now) {
		return nil
	}
	w.event.Domain, w.event.QType, w.event.Answer = e.domain, e.qtype, e.about
	if v := p.conf.Decide(&w.event); !v.Allow || v.Tell() {
		return nil
	}
	if len(e.about.Addrs) > 0 && e.pinned.Load() != p.pins.lost.Load()+1 {
		p.pin(e)
	}
	return e.reply(b, q, now.Sub(e.born), false, q.limit(udp), p.secret)
}

func (p *Proxy) asker(network string, client netip.AddrPort) policy.Process {
	if p.conf.Asker == nil {
		return policy.Process{}
	}
	return p.conf.Asker(network, client)
}

// known is asker for those that nobody has to be looked up for.
func (p *Proxy) known(network string, client netip.AddrPort) (policy.Process, bool) {
	switch {
	case p.conf.Asker == nil:
		return policy.Process{}, true
	case p.conf.Known == nil:
		return policy.Process{}, false
	}
	return p.conf.Known(network, client)
}

func (p *Proxy) now() time.Time { return p.clock() }

// enter takes a slot if one is free.
func (p *Proxy) enter() bool {
	select {
	case p.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (p *Proxy) leave() { <-p.slots }
