package supervisor

import "golang.org/x/sys/unix"

// families are the families of sockets that are asked about when one is made,
// for what they lead to is not known by an address of the Internet or a path:
// whole packets of a device; the hypervisor (AF_VSOCK); other machines, by
// connections of the kernel's own (AF_RXRPC and AF_TIPC over UDP, AF_PPPOX over
// PPTP and L2TP), by links and buses.
//
// Not here are those that are judged where they connect and send (AF_UNIX;
// AF_INET and AF_INET6; AF_SMC and AF_RDS, which are TCP underneath), and those
// that lead no further than this kernel: AF_NETLINK and AF_KEY, which configure
// it and need capabilities for what matters; AF_ALG, its ciphers; AF_KCM, which
// sends over TCP connections that were judged when they were made. AF_UNSPEC
// and what is left out have never been sockets.
var families = map[int]string{
	unix.AF_PACKET: packetSocket, unix.AF_XDP: packetSocket,

	unix.AF_AX25: "ax25", unix.AF_IPX: "ipx", unix.AF_APPLETALK: "appletalk", unix.AF_NETROM: "netrom", unix.AF_BRIDGE: "bridge",
	unix.AF_ATMPVC: "atmpvc", unix.AF_X25: "x25", unix.AF_ROSE: "rose", unix.AF_DECnet: "decnet", unix.AF_NETBEUI: "netbeui",
	unix.AF_SECURITY: "security", unix.AF_ASH: "ash", unix.AF_ECONET: "econet", unix.AF_ATMSVC: "atmsvc", unix.AF_SNA: "sna",
	unix.AF_IRDA: "irda", unix.AF_PPPOX: "pppox", unix.AF_WANPIPE: "wanpipe", unix.AF_LLC: "llc", unix.AF_IB: "ib", unix.AF_MPLS: "mpls",
	unix.AF_CAN: "can", unix.AF_TIPC: "tipc", unix.AF_BLUETOOTH: "bluetooth", unix.AF_IUCV: "iucv", unix.AF_RXRPC: "rxrpc",
	unix.AF_ISDN: "isdn", unix.AF_PHONET: "phonet", unix.AF_IEEE802154: "ieee802154", unix.AF_CAIF: "caif", unix.AF_NFC: "nfc",
	unix.AF_VSOCK: "vsock", unix.AF_QIPCRTR: "qipcrtr", unix.AF_MCTP: "mctp",
}

const (
	packetSocket = "packet"

	maxFamily = unix.AF_MCTP + 1 // the first that is not known here
)

// Families returns the names of the families that are neither for whole
// packets nor judged elsewhere.
func Families() []string {
	list := []string{unknownFamily}
	for _, name := range families {
		if name != packetSocket {
			list = append(list, name)
		}
	}
	return list
}

const unknownFamily = "unknown"

// rawSocket describes the making of a socket of one of these families, or of
// one for whole packets; the filter lets all others pass. Its arguments lie in
// registers: what is judged is what is made.
func (s *Supervisor) rawSocket(c *Call) {
	c.Op, c.Name = RawSocket, "socket"
	family, typ := c.argInt(0), c.argInt(1)&sockTypeMask
	c.Network = families[family]
	switch {
	case c.Network != "":
	case typ == unix.SOCK_PACKET:
		c.Network = packetSocket
	case typ == unix.SOCK_RAW && (family == unix.AF_INET || family == unix.AF_INET6):
		c.Network = "raw"
	case family < 0 || family >= maxFamily:
		c.Network = unknownFamily
	default: // by a register that is fuller than an int
		_ = c.proceed()
		return
	}
	if c.Unknown != nil {
		c.unknown(c.Unknown)
		return
	}
	s.cfg.Handler(c)
}

const sockTypeMask = 0xf // SOCK_TYPE_MASK
