package supervisor

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"appdefender/internal/sys"
)

// errForeign is the failure of a performed call that the kernel may see
// otherwise: the target's capabilities are those of another user namespace.
var errForeign = errors.New("the target has its rights in another user namespace")

// bind describes a bind of an Internet socket. It is made with our copy of the
// address and with no more capabilities than the target has: who may not take
// port 80 may not take it through us.
func (s *Supervisor) bind(c *Call) {
	c.Op, c.Name = Bind, "bind"
	if c.Unknown != nil {
		c.unknown(c.Unknown)
		return
	}
	name, err := c.readName(c.arg(1), c.argInt(2), true)
	if err == nil {
		err = c.openSocket(c.argInt(0))
	}
	c.perform = func(name []byte, _ int) (int, error) {
		foreign, err := sys.Within(c.TID, 1<<unix.CAP_NET_BIND_SERVICE, func() error { return sys.Bind(c.socket, name) })
		if foreign && errors.Is(err, unix.EACCES) {
			err = errForeign
		}
		return 0, err
	}
	s.socketCall(c, name, err)
}

// listen describes a listen of an Internet socket. One that was never bound
// gets its port now, as listen(2) would have it, so that the port is judged.
func (s *Supervisor) listen(c *Call) {
	c.Op, c.Name = Listen, "listen"
	if c.Unknown != nil {
		c.unknown(c.Unknown)
		return
	}
	err := c.openSocket(c.argInt(0))
	backlog := c.argInt(1)
	c.perform = func([]byte, int) (int, error) { return 0, unix.Listen(c.socket, backlog) }
	var name []byte
	if err == nil && c.socket >= 0 && c.kind.internet() {
		if on, oerr := unix.GetsockoptInt(c.socket, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); oerr == nil && on == 0 && c.kind.listens() {
			name = c.bound()
		}
	}
	s.socketCall(c, name, err)
}

// listens reports whether listen(2) works on such a socket: on others it
// fails, and no port is opened.
func (k kind) listens() bool { return k.typ == unix.SOCK_STREAM || k.typ == unix.SOCK_SEQPACKET }

// bound returns the sockaddr that the socket is bound to; it binds one without
// a port. nil means that the kernel will refuse to listen.
func (c *Call) bound() []byte {
	at, err := localAddr(c.socket)
	if err == nil && at.Port() == 0 {
		var sa unix.Sockaddr
		if sa, err = unix.Getsockname(c.socket); err == nil {
			if err = unix.Bind(c.socket, sa); err == nil {
				at, err = localAddr(c.socket)
			}
		}
	}
	if err != nil {
		return nil
	}
	return sockaddr(c.kind.domain, at)
}

// localName is destination for a name to bind to: the unspecified address is
// every address, not loopback.
//
// inet_bind takes AF_UNSPEC for AF_INET if the address is 0.0.0.0.
func (c *Call) localName(name []byte) (netip.AddrPort, bool) {
	if len(name) < 2 {
		return netip.AddrPort{}, false
	}
	var addr netip.Addr
	switch family := int(binary.NativeEndian.Uint16(name)); {
	case (family == unix.AF_INET || family == unix.AF_UNSPEC) && len(name) >= 16:
		addr = netip.AddrFrom4([4]byte(name[4:8]))
	case family == unix.AF_INET6 && len(name) >= 24: // SIN6_LEN_RFC2133
		addr = netip.AddrFrom16([16]byte(name[8:24])).Unmap()
	default:
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(name[2:])), true
}
