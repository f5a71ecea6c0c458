package supervisor

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"appdefender/internal/sys"
)

// maxHeld is how many sockets are kept for messages that are to be sent later;
// more are lost, as datagrams may be.
const maxHeld = 256

// Taken is a datagram that was taken out of a call: the target heard that it
// was sent.
type Taken struct {
	Payload []byte
	// Answer has a datagram arrive at the target's socket as if from where the
	// message was meant to go. Programs that never connect their socket take an
	// answer from nobody else. nil where we may not: a raw socket needs
	// CAP_NET_RAW; IPv6 can do without, for a server on another machine, if port
	// 53 is ours to bind.
	Answer func([]byte) error
	// Send sends a message from the target's socket to where the one taken was
	// meant to go. nil where Answer is not, or too many wait to be sent.
	Send func([]byte) error
}

// rawSockets send packets with a source address of our choice; -1 where that
// is not permitted.
type rawSockets struct{ v4, v6 int }

func openRaw() rawSockets {
	open := func(family int) int {
		// IPPROTO_RAW is IP_HDRINCL, for IPv6 as well (raw(7), rawv6_init_sk).
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return -1
		}
		return fd
	}
	return rawSockets{v4: open(unix.AF_INET), v6: open(unix.AF_INET6)}
}

func (r *rawSockets) close() {
	for _, fd := range []int{r.v4, r.v6} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// sender returns how to send a datagram from one address to another of its
// family, nil if that is not permitted.
func (r *rawSockets) sender(from, to netip.AddrPort) func([]byte) error {
	var fd int
	var dst unix.Sockaddr
	if from.Addr().Is4() {
		fd, dst = r.v4, &unix.SockaddrInet4{Addr: to.Addr().As4()}
	} else {
		fd, dst = r.v6, &unix.SockaddrInet6{Addr: to.Addr().As16()}
	}
	if fd < 0 {
		return nil
	}
	return func(payload []byte) error {
		p, err := packet(from, to, payload)
		if err != nil {
			return err
		}
		return unix.Sendto(fd, p, 0, dst)
	}
}

// bindFree returns an IPv6 socket bound to an address that need not be ours:
// the kernel asks for no capability but that of the port (IPV6_FREEBIND).
func bindFree(addr netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	for _, opt := range [][2]int{{unix.IPPROTO_IPV6, unix.IPV6_FREEBIND}, {unix.SOL_SOCKET, unix.SO_REUSEADDR}} {
		if err == nil {
			err = unix.SetsockoptInt(fd, opt[0], opt[1], 1)
		}
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet6{Addr: addr.Addr().As16(), Port: int(addr.Port())})
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// CanTake reports whether a message may be answered by Reply.Take: a datagram
// of UDP on a socket that we have.
func (c *Call) CanTake() bool { return c.Op == Send && c.Network == "udp" && c.socket >= 0 }

// take swallows a datagram and hands it to f, on a goroutine of its own.
func (c *Call) take(f func(Taken)) error {
	local, err := c.bindLocal()
	if err != nil {
		return errors.Join(err, c.refuse(unix.EACCES))
	}
	t, from, to := Taken{Payload: c.Payload}, c.Addr, local
	if to.Addr().IsUnspecified() {
		home := netip.IPv6Loopback()
		if from.Addr().Is4() {
			home = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		to = netip.AddrPortFrom(home, local.Port())
	}
	// A socket that is bound to one device takes nothing from loopback, and a
	// link's address is seen to come from another link there.
	device, err := unix.GetsockoptInt(c.socket, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	free := func() {}
	if err == nil && device == 0 && from.Addr().Is4() == to.Addr().Is4() && !ofOneLink(from.Addr()) && !ofOneLink(to.Addr()) {
		t.Answer = c.s.raw.sender(from, to)
		if t.Answer == nil && from.Addr().Is6() {
			t.Answer, free = c.s.impersonate(from, to)
		}
	}
	if t.Answer == nil {
		t.Send, free = c.later()
	}
	c.s.takes.Go(func() {
		defer free()
		f(t)
	})
	return c.succeed(int64(len(t.Payload)))
}

func ofOneLink(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

// hold keeps what open returns until free is called, unless too much is kept.
func (s *Supervisor) hold(open func() (int, error)) (fd int, free func(), ok bool) {
	if s.held.Add(1) > maxHeld {
		s.held.Add(-1)
		return -1, func() {}, false
	}
	fd, err := open()
	if err != nil {
		s.held.Add(-1)
		return -1, func() {}, false
	}
	return fd, func() {
		unix.Close(fd)
		s.held.Add(-1)
	}, true
}

// impersonate sends from an IPv6 socket that has another's address, nil where
// that is not permitted or the other is on this machine.
func (s *Supervisor) impersonate(from, to netip.AddrPort) (send func([]byte) error, free func()) {
	fd, free, ok := s.hold(func() (int, error) { return bindFree(from) })
	if !ok {
		return nil, free
	}
	return func(b []byte) error {
		return unix.Sendto(fd, b, 0, &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())})
	}, free
}

// later sends another message in place of this one when the call has returned,
// nil if too many wait for that.
func (c *Call) later() (send func([]byte) error, free func()) {
	fd, free, ok := c.s.hold(func() (int, error) { return unix.FcntlInt(uintptr(c.socket), unix.F_DUPFD_CLOEXEC, 0) })
	if !ok {
		return nil, free
	}
	name := c.sockaddr
	return func(b []byte) error {
		_, err := sys.Sendmsg(fd, &sys.Message{Name: name, Payload: b}, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return err
	}, free
}

// packet returns a UDP datagram with its headers (RFC 791, RFC 8200, RFC 768).
func packet(from, to netip.AddrPort, payload []byte) ([]byte, error) {
	const header4, header6, udpHeader, ttl = 20, 40, 8, 64
	length := udpHeader + len(payload)
	if header4+length > 0xffff {
		return nil, unix.EMSGSIZE
	}
	var p, udp []byte
	src, dst := from.Addr().AsSlice(), to.Addr().AsSlice()
	if from.Addr().Is4() {
		p = make([]byte, header4+length)
		udp = p[header4:]
		p[0] = 4<<4 | header4/4
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		p[8], p[9] = ttl, unix.IPPROTO_UDP // the kernel fills in id and checksum
		copy(p[12:], src)
		copy(p[16:], dst)
	} else {
		p = make([]byte, header6+length)
		udp = p[header6:]
		p[0] = 6 << 4
		binary.BigEndian.PutUint16(p[4:], uint16(length))
		p[6], p[7] = unix.IPPROTO_UDP, ttl
		copy(p[8:], src)
		copy(p[24:], dst)
	}
	binary.BigEndian.PutUint16(udp[0:], from.Port())
	binary.BigEndian.PutUint16(udp[2:], to.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(length))
	copy(udp[udpHeader:], payload)
	binary.BigEndian.PutUint16(udp[6:], udpChecksum(src, dst, udp))
	return p, nil
}

// udpChecksum is that of RFC 768 and, which counts to the same, RFC 8200 8.1.
func udpChecksum(src, dst, udp []byte) uint16 {
	var sum uint32
	add := func(b []byte) {
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	add(src)
	add(dst)
	sum += unix.IPPROTO_UDP + uint32(len(udp))
	add(udp)
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	if sum = ^sum & 0xffff; sum == 0 {
		return 0xffff // 0 means "none"
	}
	return uint16(sum)
}
