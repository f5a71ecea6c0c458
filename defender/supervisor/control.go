package supervisor

import (
	"golang.org/x/sys/unix"

	"appdefender/internal/sys"
)

// sendmsg sends for the target. Control data may ask for what needs a
// capability that we have and the target has not (SO_MARK, IPv4 and IPv6
// options): the kernel must answer as it would have answered the target.
func (c *Call) sendmsg(m *sys.Message, flags int) (n int, err error) {
	if len(m.Control) == 0 {
		return sys.Sendmsg(c.socket, m, flags)
	}
	if err := bends(m.Control); err != nil {
		return 0, err
	}
	_, err = sys.Within(c.TID, 1<<unix.CAP_NET_ADMIN|1<<unix.CAP_NET_RAW, func() (err error) {
		n, err = sys.Sendmsg(c.socket, m, flags)
		return err
	})
	return n, err
}

// bends returns EPERM for control data that leads a message elsewhere than its
// address says, and EINVAL for what is none.
func bends(control []byte) error {
	list, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return unix.EINVAL
	}
	for _, m := range list {
		switch [2]int32{m.Header.Level, m.Header.Type} {
		case [2]int32{unix.IPPROTO_IP, unix.IP_RETOPTS},
			[2]int32{unix.IPPROTO_IPV6, unix.IPV6_RTHDR}, [2]int32{unix.IPPROTO_IPV6, unix.IPV6_2292RTHDR},
			[2]int32{unix.IPPROTO_SCTP, sctpDestination4}, [2]int32{unix.IPPROTO_SCTP, sctpDestination6}:
			return unix.EPERM
		}
	}
	return nil
}
