package supervisor

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// take swallows a datagram: the target hears that it was sent, and what f
// hands to its answer function comes back to the target's socket under the
// name of the server that the target wrote to. Resolvers that never connect
// their socket take an answer from no other (a raw socket sends it,
// which needs CAP_NET_RAW).
func (c *Call) take(f func([]byte, func([]byte) error)) error {
	local, err := c.bindLocal()
	if err != nil {
		return errors.Join(err, c.refuse(unix.EACCES))
	}
	to := local
	if to.Addr().IsUnspecified() {
		to = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), local.Port())
	}
	from, raw, payload := c.Addr, c.s.raw4, c.Payload
	go f(payload, func(answer []byte) error { return sendAs(raw, from, to, answer) })
	return c.succeed(int64(len(payload)))
}

// CanTake reports whether an answer to this message could be delivered under
// the name of the server it is for: an IPv4 datagram.
func (c *Call) CanTake() bool {
	if c.Op != Send || c.Network != "udp" || c.socket < 0 || c.s.raw4 < 0 || !c.Addr.Addr().Is4() {
		return false
	}
	local, err := localAddr(c.socket)
	return err == nil && (local.Addr().Is4() || local.Addr().IsUnspecified())
}

// sendAs sends a UDP datagram with the source address from (RFC 791, RFC 768).
func sendAs(raw int, from, to netip.AddrPort, payload []byte) error {
	const ipHeader, udpHeader = 20, 8
	total := ipHeader + udpHeader + len(payload)
	if total > 0xffff {
		return unix.EMSGSIZE
	}
	p := make([]byte, total)
	p[0] = 4<<4 | ipHeader/4
	binary.BigEndian.PutUint16(p[2:], uint16(total))
	p[8], p[9] = 64, unix.IPPROTO_UDP // the kernel fills in id and checksum
	src, dst := from.Addr().As4(), to.Addr().As4()
	copy(p[12:], src[:])
	copy(p[16:], dst[:])
	udp := p[ipHeader:]
	binary.BigEndian.PutUint16(udp[0:], from.Port())
	binary.BigEndian.PutUint16(udp[2:], to.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(udpHeader+len(payload)))
	copy(udp[udpHeader:], payload)
	binary.BigEndian.PutUint16(udp[6:], udpChecksum(src, dst, udp))
	return unix.Sendto(raw, p, 0, &unix.SockaddrInet4{Addr: dst})
}

func udpChecksum(src, dst [4]byte, udp []byte) uint16 {
	var sum uint32
	add := func(b []byte) {
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	add(src[:])
	add(dst[:])
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
