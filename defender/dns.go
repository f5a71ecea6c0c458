package defender

import (
	"context"
	"errors"
	"hash/fnv"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"appdefender/defender/proc"
	"appdefender/defender/supervisor"
	"appdefender/dnsproxy"
	"appdefender/policy"
)

// proxyAddr says where the proxy should listen, and whether resolv.conf may
// name it.
//
// Containers of one task share the loopback device, so each Defender has an
// address of its own there: resolv.conf can name any address, but only port 53.
func (d *Defender) proxyAddr(conf string) (netip.AddrPort, bool) {
	may := d.cfg.ResolvConf == ResolvRewrite
	if d.cfg.ResolvConf == ResolvAuto || d.cfg.ResolvConf == "" {
		may = os.Getpid() == 1 || isMount(conf)
	}
	if !may {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0), false
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(d.src.Instance))
	n := h.Sum32()
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 53, byte(n >> 8), byte(n)&0xfe | 1}), dnsPort), true
}

// listenDNS binds the proxy. Where port 53 is not ours to bind, any port will
// do: lookups are then redirected call by call.
func (d *Defender) listenDNS(addr netip.AddrPort, takeOver *bool) error {
	err := d.proxy.Listen(addr)
	if err != nil && *takeOver {
		*takeOver = false
		d.notice("/etc/resolv.conf stays as it is, name servers are redirected call by call: %v", err)
		err = d.proxy.Listen(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0))
	}
	if err != nil {
		return err
	}
	// For sockets that speak IPv6 only; without IPv6 there are none.
	_ = d.proxy.Listen(netip.AddrPortFrom(netip.IPv6Loopback(), 0))
	// Some resolvers (c-ares) take an answer only from the address that they
	// asked. Where that is one of this machine, it can be ours as well.
	for _, server := range d.upstreams() {
		if at := netip.AddrPortFrom(server.Addr(), 0); !listensOn(d.proxy.Addrs(), at.Addr()) {
			_ = d.proxy.Listen(at)
		}
	}
	return nil
}

func listensOn(addrs []netip.AddrPort, addr netip.Addr) bool {
	return slices.ContainsFunc(addrs, func(a netip.AddrPort) bool { return a.Addr() == addr.Unmap() })
}

// nearest returns the proxy's addresses, the one that a resolver asked first.
func nearest(addrs []netip.AddrPort, asked netip.Addr) []netip.AddrPort {
	addrs = slices.Clone(addrs)
	slices.SortStableFunc(addrs, func(a, b netip.AddrPort) int {
		switch {
		case a.Addr() == asked && b.Addr() != asked:
			return -1
		case b.Addr() == asked && a.Addr() != asked:
			return 1
		}
		return 0
	})
	return addrs
}

// isMount reports whether something is mounted on path itself.
func isMount(path string) bool {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == path {
			return true
		}
	}
	return false
}

// asker says who sent a query from a client's address.
func (d *Defender) asker(network string, client netip.AddrPort) policy.Process {
	if who, ok := d.askers.Get(network, client); ok {
		return who
	}
	if pid, ok := proc.SocketOwner(network, client); ok {
		return d.whoAsks(pid, pid)
	}
	return policy.Process{}
}

// whoAsks describes a thread of a process, for the rules about lookups.
func (d *Defender) whoAsks(pid, tid int) policy.Process {
	who := proc.Describe(pid)
	if d.asked().Has(policy.NeedInteractive) {
		who.Interactive, _ = proc.Interactive(tid) // of who is gone nobody knows
	}
	return who
}

// hosts returns the names of /etc/hosts. It is read before there is a target:
// what that writes there makes no address known.
func (d *Defender) hosts() map[netip.Addr][]string {
	const path = "/etc/hosts"
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		d.notice("the addresses in %s count as not looked up: %v", path, err)
	}
	return dnsproxy.ParseHosts(data)
}

// search returns the search list of resolv.conf; without one there is none.
func search(conf string) []string {
	data, err := os.ReadFile(conf)
	if err != nil {
		return nil
	}
	return dnsproxy.ParseResolvConf(data).Search
}

// isLookup reports whether a call speaks to a name server.
func isLookup(c *supervisor.Call) bool {
	return c.Unknown == nil && (c.Op == supervisor.Connect || c.Op == supervisor.Send) && c.Addr.Port() == dnsPort
}

// lookup answers a call to port 53: every name server is the proxy.
func (d *Defender) lookup(c *supervisor.Call) {
	who := d.whoAsks(c.PID(), c.TID)
	addrs := d.proxy.Addrs()
	ours := slices.Contains(addrs, c.Addr)
	remember := func(network string, local netip.AddrPort) { d.askers.Add(network, local, who) }
	switch {
	case c.CanPerform() && len(addrs) > 0 && (c.Op == supervisor.Connect || c.Network == "tcp" || ours):
		r := supervisor.Reply{Proceed: true, Connected: remember}
		if !ours {
			r.Redirect = nearest(addrs, c.Addr.Addr())
		}
		c.Reply(r)
	case c.CanTake():
		c.Reply(supervisor.Reply{Proceed: true, Take: func(t supervisor.Taken) { d.taken(t, who) }})
	case ours:
		c.Reply(supervisor.Reply{Proceed: true})
	case c.Op == supervisor.Send:
		// The query itself is in our hands: judge it, and let it go where it
		// was meant to or refuse it.
		ev, v, _ := d.proxy.Judge(c.Payload, who)
		d.settle(c, &ev, v, supervisor.Reply{Proceed: v.Allow})
	default:
		// Queries on this socket would pass unseen.
		ev := policy.Event{Kind: policy.Unknown, Section: policy.DNS, Subject: who, Call: c.Name,
			Why: "the name server " + c.Addr.String() + " cannot be redirected here"}
		v := d.decide(&ev)
		d.settle(c, &ev, v, supervisor.Reply{Proceed: v.Allow})
	}
}

// taken answers a query from a socket that was never connected: an answer from
// the proxy's own address would be dropped by its resolver. Where none can come
// under the server's name, the server is asked as it was meant to, with a
// query that we built, once the proxy knows where its answer leads.
func (d *Defender) taken(t supervisor.Taken, who policy.Process) {
	ctx, cancel := context.WithTimeout(d.running, 30*time.Second)
	defer cancel()
	if t.Answer != nil {
		if a := d.proxy.Exchange(ctx, t.Payload, who, true); a != nil {
			_ = t.Answer(a)
		}
		return
	}
	if query := d.proxy.Admit(ctx, t.Payload, who); query != nil && t.Send != nil {
		_ = t.Send(query)
	}
}

// named notes for which names the address of an Outbound event was looked up.
func (d *Defender) named(ev *policy.Event) {
	var names []string
	if names, ev.Resolved = d.proxy.Resolved(ev.Addr.Addr()); len(names) > 0 {
		ev.Name, ev.Aliases = names[0], names[1:]
	}
}

// recordLookup records what the proxy decided.
func (d *Defender) recordLookup(ev *policy.Event, v policy.Verdict, err error) {
	level := supervisor.Performed
	if !v.Allow {
		level = supervisor.Refused
	}
	d.record(ev, v, supervisor.Outcome{Level: level, Err: err}, time.Now())
}
