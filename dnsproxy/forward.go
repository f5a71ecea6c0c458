package dnsproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

var (
	errNoUpstream = errors.New("there is no upstream resolver")
	errUnreadable = errors.New("unreadable answer")
	errMismatch   = errors.New("the answer is to another query")
)

// rounds is how often a list of upstreams is gone through, as resolvers do.
const rounds = 2

// forward asks the upstreams in order until one has an answer. It does as the
// resolver does whose place we took: one that does not reply, or says that it
// cannot or will not, is passed over for the next, and a refusal by the last
// is as good as any.
func (p *Proxy) forward(ctx context.Context, q *dns.Msg, udp bool) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, p.giveUp)
	defer cancel()
	var (
		ours     = p.Addrs()
		last     = errNoUpstream
		refusing *dns.Msg                    // the last answer that was none
		done     = map[netip.AddrPort]bool{} // not to be asked again
	)
	for range rounds {
		for _, u := range p.conf.Upstreams {
			if ctx.Err() != nil || done[u] || slices.Contains(ours, unmap(u)) { // ourselves: never a loop
				continue
			}
			r, err := p.ask(ctx, u, q, udp)
			switch {
			case err != nil:
				last = fmt.Errorf("asking %s: %w", u, err)
			case r.Rcode == dns.RcodeServerFailure, r.Rcode == dns.RcodeNotImplemented, r.Rcode == dns.RcodeRefused:
				refusing, done[u] = r, true
			default:
				return relay(q, r), nil
			}
		}
	}
	if refusing != nil {
		return relay(q, refusing), nil
	}
	return nil, last
}

// ask asks one upstream by UDP, and again by TCP if the answer was too long.
func (p *Proxy) ask(ctx context.Context, to netip.AddrPort, q *dns.Msg, udp bool) (*dns.Msg, error) {
	r, err := p.roundTrip(ctx, "udp", to, q)
	if err != nil || !r.Truncated {
		return r, err
	}
	full, err := p.roundTrip(ctx, "tcp", to, q)
	if err != nil && udp {
		return r, nil // the asker may see for itself whether TCP works
	}
	return full, err
}

// roundTrip sends q over a socket of its own, hence from a random port, under
// a random id, and waits for the answer to just that.
func (p *Proxy) roundTrip(ctx context.Context, network string, to netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, p.tryFor)
	defer cancel()

	m := &dns.Msg{
		MsgHdr: dns.MsgHdr{
			Id:                dns.Id(),
			RecursionDesired:  q.RecursionDesired,
			AuthenticatedData: q.AuthenticatedData,
			CheckingDisabled:  q.CheckingDisabled,
		},
		Question: q.Question,
	}
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(ourUDPSize, opt.Do())
	}
	query, err := m.Pack()
	if err != nil {
		return nil, err
	}

	var d net.Dialer
	conn, err := d.DialContext(ctx, network, to.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	if network == "tcp" {
		if _, err := conn.Write(frame(query)); err != nil {
			return nil, err
		}
		raw, err := readFrame(conn)
		if err != nil {
			return nil, err
		}
		return parseAnswer(raw, m)
	}
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, maxUDPSize)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		r, err := parseAnswer(buf[:n], m)
		if errors.Is(err, errMismatch) {
			continue // late, or forged: the right one may still come
		}
		return r, err
	}
}

// parseAnswer parses raw if it is the answer to m.
func parseAnswer(raw []byte, m *dns.Msg) (*dns.Msg, error) {
	if len(raw) < headerLen || uint16(raw[0])<<8|uint16(raw[1]) != m.Id || raw[2]>>7 == 0 {
		return nil, errMismatch
	}
	r, err := unpack(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	if len(r.Question) == 0 && r.Rcode != dns.RcodeSuccess && r.Rcode != dns.RcodeNameError {
		return r, nil // some servers leave the question out of what they refuse
	}
	if r.Opcode != dns.OpcodeQuery || len(r.Question) != 1 || !sameQuestion(r.Question[0], m.Question[0]) {
		return nil, errMismatch
	}
	return r, nil
}

func sameQuestion(a, b dns.Question) bool {
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}
