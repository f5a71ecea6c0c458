package supervisor

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"appdefender/internal/sys"
)

// sendmsg sends for the target. Control data may ask for what needs a
// capability that we have and the target has not (SO_MARK, IPv4 and IPv6
// options): such a message is sent without it, so that the kernel answers as
// it would have answered the target.
func (c *Call) sendmsg(m *sys.Message, flags int) (n int, err error) {
	if harmless(m.Control) {
		return sys.Sendmsg(c.socket, m, flags)
	}
	_, err = sys.Within(c.TID, 1<<unix.CAP_NET_ADMIN|1<<unix.CAP_NET_RAW, func() (err error) {
		n, err = sys.Sendmsg(c.socket, m, flags)
		return err
	})
	return n, err
}

// harmless reports whether control data holds nothing but what anybody may
// ask for and fast senders do: QUIC sets these on each datagram.
func harmless(control []byte) bool {
	for len(control) >= unix.SizeofCmsghdr {
		size := binary.NativeEndian.Uint64(control)
		level := int(int32(binary.NativeEndian.Uint32(control[8:])))
		typ := int(int32(binary.NativeEndian.Uint32(control[12:])))
		if size < unix.SizeofCmsghdr || size > uint64(len(control)) {
			return true // the kernel reads no further
		}
		switch [2]int{level, typ} {
		case [2]int{unix.IPPROTO_IP, unix.IP_TOS}, [2]int{unix.IPPROTO_IP, unix.IP_TTL}, [2]int{unix.IPPROTO_IP, unix.IP_PKTINFO},
			[2]int{unix.IPPROTO_IPV6, unix.IPV6_TCLASS}, [2]int{unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT},
			[2]int{unix.IPPROTO_IPV6, unix.IPV6_PKTINFO}, [2]int{unix.IPPROTO_UDP, unix.UDP_SEGMENT}:
		default:
			return false
		}
		control = control[min(uint64(len(control)), (size+7)&^7):]
	}
	return true
}
