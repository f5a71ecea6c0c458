package supervisor

import "golang.org/x/sys/unix"

// rawSocket describes the making of a socket for whole packets; the filter
// lets all others pass. Its arguments lie in registers: what is judged is what
// is made.
func (s *Supervisor) rawSocket(c *Call) {
	c.Op, c.Name, c.Network = RawSocket, "socket", "raw"
	if f := c.argInt(0); f == unix.AF_PACKET || f == unix.AF_XDP || c.argInt(1)&sockTypeMask == unix.SOCK_PACKET {
		c.Network = "packet"
	}
	if c.Unknown != nil {
		c.unknown(c.Unknown)
		return
	}
	s.cfg.Handler(c)
}

const sockTypeMask = 0xf // SOCK_TYPE_MASK
