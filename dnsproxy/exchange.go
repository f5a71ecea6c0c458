package dnsproxy

import (
	"context"
	"errors"
	"net/netip"

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

// Judge reads and judges one raw query without answering it, for callers that
// can only refuse or let pass. What is no query is judged too, as an Unknown
// event; the error says why.
func (p *Proxy) Judge(query []byte, who policy.Process) (policy.Event, policy.Verdict, error) {
	m, _, err := read(query)
	ev := policy.Event{Kind: policy.Unknown, Section: policy.DNS, Subject: who}
	if err != nil {
		ev.Why = err.Error()
	} else {
		ev = lookup(m, who)
	}
	return ev, p.conf.Decide(&ev), err
}

// serve takes one query all the way: decide, reply, record. The asker is
// looked up first; it may be gone after the reply.
func (p *Proxy) serve(ctx context.Context, query []byte, who func() policy.Process, udp, free bool, send func([]byte) error) {
	o := p.answer(ctx, query, who, udp, free)
	if o.reply != nil {
		o.err = errors.Join(o.err, send(o.reply))
	}
	if o.verdict.Tell() && p.conf.Record != nil {
		p.conf.Record(&o.event, o.verdict, o.err)
	}
}

// answer makes the reply to one query. free says that it may be asked
// upstream; otherwise there are too many already.
func (p *Proxy) answer(ctx context.Context, query []byte, who func() policy.Process, udp, free bool) (o outcome) {
	m, rcode, err := read(query)
	if err != nil {
		if m != nil {
			o.reply = pack(newReply(m, rcode), m, udp)
		}
		return o
	}
	o.event = lookup(m, who())
	o.verdict = p.conf.Decide(&o.event)

	var r *dns.Msg
	switch {
	case !o.verdict.Allow:
		r = refusal(m, o.verdict.Rule)
	case isTransfer(m):
		// One message cannot hold a zone, and half of one is worse than none.
		r = newReply(m, dns.RcodeNotImplemented)
	case !free:
		p.overflows.Add(1)
		o.err = errBusy
		r = newReply(m, dns.RcodeServerFailure)
	default:
		r, o.err = p.forward(ctx, m, udp)
		if o.err != nil {
			r = newReply(m, dns.RcodeServerFailure)
		}
	}
	o.reply = pack(r, m, udp)
	return o
}

// lookup describes a query for the judge.
// Precondition: read returned m without an error.
func lookup(m *dns.Msg, who policy.Process) policy.Event {
	q := m.Question[0]
	return policy.Event{
		Kind:    policy.Lookup,
		Section: policy.DNS,
		Subject: who,
		Domain:  domain(q.Name),
		QType:   dns.Type(q.Qtype).String(),
	}
}

func isTransfer(m *dns.Msg) bool {
	t := m.Question[0].Qtype
	return t == dns.TypeAXFR || t == dns.TypeIXFR
}

func (p *Proxy) asker(network string, client netip.AddrPort) policy.Process {
	if p.conf.Asker == nil {
		return policy.Process{}
	}
	return p.conf.Asker(network, client)
}

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
