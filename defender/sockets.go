package defender

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"appdefender/defender/proc"
	"appdefender/defender/supervisor"
	"appdefender/internal/early"
	"appdefender/internal/sys"
	"appdefender/policy"
)

// resolverSockets are where services look names up for others: nscd, whose
// socket also gives away its cache as shared memory, and systemd-resolved
// (nss-resolve by varlink).
var resolverSockets = []string{
	"/run/nscd/socket", "/var/run/nscd/socket",
	"/run/systemd/resolve/io.systemd.Resolve", "/run/systemd/resolve/io.systemd.Resolve.Monitor",
}

// resolverSocket returns the one that path leads to, whatever it is called, or
// "" if it is none. An empty path asks whether there is any.
func resolverSocket(path string) string {
	var file os.FileInfo
	if path != "" {
		var err error
		if file, err = os.Stat(path); err != nil {
			return ""
		}
	}
	for _, name := range resolverSockets {
		if known, err := os.Stat(name); err == nil && (path == "" || path == name || os.SameFile(known, file)) {
			return name
		}
	}
	return ""
}

// watchUnix reports whether connects to Unix sockets are of interest.
func (d *Defender) watchUnix() bool {
	return d.needs(policy.NeedUnixSockets)() || resolverSocket("") != ""
}

// byDNS reports whether a connect is to a service that looks names up for
// others, where they would pass unjudged. It is then refused as if nobody
// listened there, and the C library asks a name server, which we are. A rule
// that allows the socket by its path leaves it open.
func (d *Defender) byDNS(ev *policy.Event) bool {
	if ev.Kind != policy.UnixConnect || d.engine.Load().AllowsUnix(&ev.File) {
		return false
	}
	name := resolverSocket(ev.File.Path)
	if name == "" {
		return false
	}
	if !d.closed.Swap(true) {
		d.notice("%s is closed to the target, whose lookups go to name servers and are judged; "+
			"where it has to be open, name it in network.unix.allow: names asked there are not judged", name)
	}
	return true
}

// maxInherited is how many open sockets are told of.
const maxInherited = 32

// inherited looks once at the sockets that the target gets from whoever
// started us: what it does with them is seen in no call. What a rule would
// have refused is recorded, and all are told of but those without a name on
// the standard streams.
//
// Precondition: the table of descriptors is still shared with the stage.
func (d *Defender) inherited() {
	fds, err := os.ReadDir(ownDescriptors)
	if err != nil {
		d.notice("descriptors that were open before the start are not known: %v", err)
		return
	}
	told := 0
	for _, entry := range fds {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// All of ours are close-on-exec.
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		ev, what := d.inheritedSocket(fd)
		if what == "" {
			continue
		}
		if told++; told <= maxInherited {
			d.notice("descriptor %d was open before the start, and what passes over it is not looked at: %s", fd, what)
		}
		if ev.Kind == policy.Unknown {
			continue
		}
		if v := d.decide(&ev); v.Tell() {
			ev.Subject = proc.Describe(early.Stage().PID())
			ev.Subject.Command = d.cfg.Argv
			v.Allow = true // it is open
			d.record(&ev, v, supervisor.Outcome{Level: observed}, time.Now())
		}
	}
	if told > maxInherited {
		d.notice("%d more sockets were open before the start", told-maxInherited)
	}
}

// inheritedSocket describes an open socket: as the event that opened it, of
// kind Unknown if there is none to judge, and for people, "" for what is no
// socket or not worth a word.
func (d *Defender) inheritedSocket(fd int) (ev policy.Event, what string) {
	domain, err := sys.SocketOption(fd, unix.SO_DOMAIN)
	if err != nil {
		return ev, ""
	}
	typ, _ := sys.SocketOption(fd, unix.SO_TYPE)
	listens, _ := sys.SocketOption(fd, unix.SO_ACCEPTCONN)
	local, _ := unix.Getsockname(fd)
	peer, err := unix.Getpeername(fd)
	proto := map[int]string{unix.SOCK_STREAM: "tcp", unix.SOCK_DGRAM: "udp", unix.SOCK_RAW: "raw"}[typ]
	switch {
	case domain == unix.AF_PACKET:
		proto = "packet"
		fallthrough
	case proto == "raw":
		return policy.Event{Kind: policy.RawSocket, Proto: proto}, "a socket for whole packets"
	case domain == unix.AF_UNIX:
		name, _ := peer.(*unix.SockaddrUnix)
		switch {
		case name != nil && name.Name != "":
			return policy.Event{Kind: policy.UnixConnect, File: policy.File{Path: name.Name, Typed: name.Name}}, "a connection to " + name.Name
		case fd <= 2:
			return ev, ""
		}
		return ev, "a Unix socket"
	case domain != unix.AF_INET && domain != unix.AF_INET6:
		return ev, fmt.Sprintf("a socket of family %d", domain)
	case err == nil:
		to := addrPort(peer)
		to = netip.AddrPortFrom(supervisor.Canonical(to.Addr()), to.Port())
		ev = policy.Event{Kind: policy.Outbound, Addr: to, Proto: proto}
		d.named(&ev)
		what = proto + " to " + to.String()
		if to.Port() == dnsPort {
			what += ", a name server: lookups there are not judged"
		}
		return ev, what
	}
	at := addrPort(local)
	if listens == 1 || proto == "udp" && at.Port() != 0 {
		return policy.Event{Kind: policy.Listen, Addr: at, Proto: proto}, proto + " listening on " + at.String()
	}
	return ev, "a " + proto + " socket that leads nowhere yet"
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)) //nolint:gosec // the kernel's
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port)) //nolint:gosec // the kernel's
	}
	return netip.AddrPort{}
}
