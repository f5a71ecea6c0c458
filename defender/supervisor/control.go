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
	_, err = sys.Within(c.TID, 1<<unix.CAP_NET_ADMIN|1<<unix.CAP_NET_RAW, func() (err error) {
		n, err = sys.Sendmsg(c.socket, m, flags)
		return err
	})
	return n, err
}
