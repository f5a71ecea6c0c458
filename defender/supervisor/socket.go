package supervisor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"appdefender/internal/early"
	"appdefender/internal/sys"
)

// What a message may be at most: a datagram, or the first data of a TCP fast
// open, of which less may be taken.
const (
	maxPayload = 256 << 10
	maxControl = 64 << 10
	maxName    = 128 // sizeof(struct sockaddr_storage)
	maxIovecs  = 1024
)

// connect describes a connect and hands it to the handler.
func (s *Supervisor) connect(c *Call) {
	c.Op, c.Name = Connect, "connect"
	if c.Unknown != nil {
		c.unknown(c.Unknown)
		return
	}
	name, err := c.readName(c.arg(1), c.argInt(2), true)
	if err == nil {
		err = c.openSocket(c.argInt(0))
	}
	c.perform = func(name []byte, _ int) (int, error) { return 0, sys.Connect(c.socket, name) }
	s.socketCall(c, name, err)
}

// sendto describes a sendto; the filter lets those without an address pass.
// One with an address that a stream takes no notice of is performed without
// it: another thread may exchange the descriptor for one that does.
func (s *Supervisor) sendto(c *Call) {
	c.Op, c.Name = Send, "sendto"
	if c.Unknown != nil {
		c.unknown(c.Unknown)
		return
	}
	flags := c.argInt(3)
	err := c.openSocket(c.argInt(0))
	stream := err == nil && c.ignoresAddress(flags)
	if stream && !c.kind.internet() {
		_ = c.proceed()
		return
	}
	var m sys.Message
	if err == nil && !stream {
		m.Name, err = c.readName(c.arg(4), c.argInt(5), true)
	}
	if err == nil && c.kind.domain != unix.AF_UNIX {
		m.Payload, err = c.readPayload(nil, c.arg(1), c.arg(2))
	}
	s.send(c, &m, flags, err)
}

// sendmsg describes a sendmsg. Whether it has an address is known only from
// memory, so that even one without is performed on a datagram socket: another
// thread could add the address after we looked.
func (s *Supervisor) sendmsg(c *Call) {
	c.Op, c.Name = Send, "sendmsg"
	if c.Unknown != nil {
		c.unknown(c.Unknown)
		return
	}
	flags := c.argInt(2)
	err := c.openSocket(c.argInt(0))
	if err == nil && c.ignoresAddress(flags) {
		_ = c.proceed()
		return
	}
	var m sys.Message
	if err == nil {
		err = c.readMessage(&m, c.arg(1))
	}
	s.send(c, &m, flags, err)
}

// mmsghdr is the size of struct mmsghdr and the place of msg_len in it.
const (
	msghdrSize  = 56
	mmsghdrSize = 64
)

// sendmmsg treats each message as a call of its own. The first that fails
// ends it, with its errno if it is the first of all (sendmmsg(2)).
func (s *Supervisor) sendmmsg(c *Call) {
	c.Op, c.Name = Send, "sendmmsg"
	if c.Unknown != nil {
		c.unknown(c.Unknown)
		return
	}
	flags := c.argInt(3)
	err := c.openSocket(c.argInt(0))
	if err == nil && c.ignoresAddress(flags) {
		_ = c.proceed()
		return
	}
	if err != nil {
		s.socketCall(c, nil, err)
		return
	}
	if c.task != nil && c.kind.typ == unix.SOCK_STREAM && flags&unix.MSG_FASTOPEN != 0 {
		// It waits for the network, which a tracer's thread must not, or
		// nothing of the target goes on. The kernel says the same where its
		// fast open is off (tcp_fastopen, ip-sysctl).
		_ = c.refuse(unix.EOPNOTSUPP)
		return
	}
	at, count, sent := c.arg(1), min(int(uint32(c.arg(2))), maxIovecs), 0
	var errno syscall.Errno
	for ; sent < count && errno == 0; sent++ {
		one := &Call{s: s, regs: c.regs, id: c.id, task: c.task, worker: c.worker, aside: c.aside, pids: c.pids, TID: c.TID, pid: c.pid, word: c.word, Op: Send, Name: c.Name,
			socket: c.socket, kind: c.kind, part: true}
		var m sys.Message
		s.send(one, &m, flags, one.readMessage(&m, at))
		if one.gone {
			return
		}
		if errno = one.errno; errno != 0 {
			break
		}
		var l [4]byte
		binary.NativeEndian.PutUint32(l[:], uint32(one.result))
		err := sys.AsTarget(c.TID, func() error { return sys.Write(c.TID, at+msghdrSize, l[:]) })
		if err != nil {
			errno = unix.EFAULT
		}
		at += mmsghdrSize
		if one.continued {
			// Only where we cannot perform: the kernel sends them all. Judge
			// the rest first.
			c.unperformed = true
		}
	}
	switch {
	case c.unperformed && errno != 0:
		_ = c.refuse(errno)
	case c.unperformed:
		_ = c.proceed()
	case sent > 0 || errno == 0:
		_ = c.succeed(int64(sent))
	default:
		_ = c.refuse(errno)
	}
}

// send finishes the description of one message and hands it to the handler.
func (s *Supervisor) send(c *Call, m *sys.Message, flags int, err error) {
	c.Payload = m.Payload
	c.perform = func(name []byte, more int) (int, error) {
		if flags&unix.MSG_ZEROCOPY != 0 { // without the option the kernel takes no notice of it
			if on, err := unix.GetsockoptInt(c.socket, unix.SOL_SOCKET, unix.SO_ZEROCOPY); err == nil && on != 0 {
				return 0, unix.ENOBUFS // as if over the limit: the sender copies then (msg_zerocopy)
			}
		}
		out := *m
		out.Name = name
		n, err := c.sendmsg(&out, flags|more|unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EPIPE) && flags&unix.MSG_NOSIGNAL == 0 && c.kind.typ == unix.SOCK_STREAM {
			_ = unix.Tgkill(c.PID(), c.TID, unix.SIGPIPE)
		}
		return n, err
	}
	s.socketCall(c, m.Name, err)
}

// socketCall hands a described connect or message to the handler, or answers
// what is no event: an errno that the kernel would have given as well, a
// socket outside the Internet, a message to where the socket is connected.
func (s *Supervisor) socketCall(c *Call, name []byte, err error) {
	// A target that has left is no failure to read it.
	if gone := c.pending(); gone != nil {
		err = gone
	}
	var errno syscall.Errno
	var ours unreadable
	switch {
	case errors.Is(err, sys.ErrGone):
		c.replied, c.gone = true, true
		return
	case errors.As(err, &errno) && !errors.As(err, &ours):
		_ = c.refuse(errno)
		return
	case err != nil:
		c.unknown(err)
		return
	}
	if c.isUnix(name) {
		s.unixCall(c, name)
		return
	}
	if !c.kind.internet() && c.socket >= 0 {
		_ = c.proceed()
		return
	}
	if c.socket < 0 {
		c.perform = nil
	} else {
		c.Network = c.kind.network()
	}
	c.sockaddr = name
	addr, ok := c.address(name)
	switch {
	case ok:
		c.Addr = addr
		s.cfg.Handler(c)
	case c.perform == nil:
		_ = c.proceed()
	default:
		// No destination to judge: a disconnect, a connected datagram, or an
		// address that the kernel will refuse. A message goes without it, for
		// one kind of socket may take for an address what another does not.
		if c.Op == Send {
			name = nil
		}
		c.attempt(name, func(n int, err error) { _ = c.finish(n, err) })
	}
}

// kind is what a socket is.
type kind struct{ domain, typ, proto int }

func (k kind) internet() bool { return k.domain == unix.AF_INET || k.domain == unix.AF_INET6 }

func (k kind) network() string {
	switch {
	case k.typ == unix.SOCK_STREAM:
		return "tcp"
	case k.typ == unix.SOCK_DGRAM && k.proto == unix.IPPROTO_UDP, k.typ == unix.SOCK_DGRAM && k.proto == 0:
		return "udp"
	}
	return "ip"
}

// openSocket duplicates the target's socket and finds out what it is. Where
// the platform does not let us, c.socket stays -1 and the call can only be
// checked.
func (c *Call) openSocket(fd int) error {
	if !c.s.cfg.Levels.GetFD {
		return nil
	}
	err := c.duplicate(fd)
	if err != nil {
		return err
	}
	option := func(opt int) (v int) {
		if err == nil {
			v, err = sys.SocketOption(c.socket, opt)
		}
		return v
	}
	c.kind = kind{option(unix.SO_DOMAIN), option(unix.SO_TYPE), option(unix.SO_PROTOCOL)}
	switch {
	case c.kind.domain == unix.AF_SMC && c.kind.proto == smcProto6:
		c.kind = kind{unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP}
	case c.kind.domain == unix.AF_SMC: // TCP under another name, with its addresses
		c.kind = kind{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP}
	case c.kind.domain == unix.AF_RDS: // messages over TCP connections that the kernel makes
		c.kind.domain = unix.AF_INET
	}
	return err // ENOTSOCK, as the kernel would say
}

// duplicate sets socket to a duplicate of the target's descriptor.
func (c *Call) duplicate(fd int) error {
	err := sys.AsTarget(c.TID, func() (err error) {
		c.socket, err = c.pids.getFD(c, fd)
		return err
	})
	if err == nil {
		return nil
	}
	c.socket = -1
	if errors.Is(err, unix.EBADF) {
		return unix.EBADF
	}
	return errUnreadable(fmt.Errorf("duplicating descriptor %d of %d: %w", fd, c.TID, err))
}

const smcProto6 = 1 // SMCPROTO_SMC6

// ignoresAddress reports whether the kernel takes no notice of a message's
// address: outside the Internet, and on an established stream.
func (c *Call) ignoresAddress(flags int) bool {
	if c.socket < 0 {
		return false
	}
	if !c.kind.internet() {
		return c.kind.domain != unix.AF_UNIX || c.kind.typ != unix.SOCK_DGRAM || !c.s.watchesUnix()
	}
	tcp := c.kind.proto == unix.IPPROTO_TCP || c.kind.proto == unix.IPPROTO_MPTCP
	return c.kind.typ == unix.SOCK_STREAM && tcp && flags&unix.MSG_FASTOPEN == 0
}

func (c *Call) readName(at uint64, size int, strict bool) ([]byte, error) {
	if at == 0 || size == 0 {
		return nil, nil
	}
	if size < 0 || size > maxName && strict {
		return nil, unix.EINVAL
	}
	return c.readBytes(at, min(size, maxName))
}

func (c *Call) readBytes(at uint64, size int) ([]byte, error) {
	if size == 0 {
		return nil, nil
	}
	buf := make([]byte, size)
	err := readFull(c.TID, at, buf)
	if errors.Is(err, unix.EFAULT) {
		return nil, unix.EFAULT
	}
	if err != nil {
		return nil, errUnreadable(err)
	}
	return buf, nil
}

func (c *Call) readPayload(to []byte, at, size uint64) ([]byte, error) {
	// One byte too many for a datagram still makes the kernel say so.
	b, err := c.readBytes(at, int(min(size, maxPayload-uint64(len(to)))))
	return append(to, b...), err
}

// readMessage reads struct msghdr at address at, with all it points to.
func (c *Call) readMessage(m *sys.Message, at uint64) error {
	b, err := c.readBytes(at, msghdrSize)
	if err != nil {
		return err
	}
	word := func(i int) uint64 { return binary.NativeEndian.Uint64(b[8*i:]) }
	name, nameLen := word(0), int(int32(binary.NativeEndian.Uint32(b[8:])))
	iov, iovLen, control, controlLen := word(2), word(3), word(4), word(5)
	if m.Name, err = c.readName(name, nameLen, false); err != nil {
		return err
	}
	if c.kind.domain == unix.AF_UNIX {
		return nil // it goes on in the kernel: the name is all there is to judge
	}
	if iovLen > maxIovecs {
		return unix.EMSGSIZE
	}
	if controlLen > maxControl {
		return unix.ENOBUFS
	}
	if control != 0 {
		if m.Control, err = c.readBytes(control, int(controlLen)); err != nil {
			return err
		}
	}
	vec, err := c.readBytes(iov, int(iovLen)*16)
	if err != nil {
		return err
	}
	for ; len(vec) > 0; vec = vec[16:] {
		base, size := binary.NativeEndian.Uint64(vec), binary.NativeEndian.Uint64(vec[8:])
		if m.Payload, err = c.readPayload(m.Payload, base, size); err != nil {
			return err
		}
	}
	return nil
}

// address returns what a sockaddr names, false if it names nothing to judge.
func (c *Call) address(name []byte) (netip.AddrPort, bool) {
	if c.Op == Bind || c.Op == Listen {
		return c.localName(name)
	}
	return c.destination(name)
}

// destination returns the canonical destination of a sockaddr, false if it
// names none.
//
// An IPv4 datagram socket takes AF_UNSPEC in a message for AF_INET
// (udp_sendmsg); in connect it dissolves the association.
func (c *Call) destination(name []byte) (netip.AddrPort, bool) {
	if len(name) < 2 {
		return netip.AddrPort{}, false
	}
	family := int(binary.NativeEndian.Uint16(name))
	if family == unix.AF_UNSPEC && c.Op == Send && c.kind.domain != unix.AF_INET6 {
		family = unix.AF_INET
	}
	var addr netip.Addr
	switch {
	case family == unix.AF_INET && len(name) >= 16:
		addr = netip.AddrFrom4([4]byte(name[4:8]))
	case family == unix.AF_INET6 && len(name) >= 24: // SIN6_LEN_RFC2133
		addr = netip.AddrFrom16([16]byte(name[8:24]))
	default:
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(Canonical(addr), binary.BigEndian.Uint16(name[2:])), true
}

// Canonical returns the one form of an address that rules are written in:
// IPv4 out of IPv4-mapped IPv6, and for the unspecified address the loopback
// address it reaches on Linux.
func Canonical(addr netip.Addr) netip.Addr {
	addr = addr.Unmap()
	switch addr {
	case netip.IPv4Unspecified():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case netip.IPv6Unspecified():
		return netip.IPv6Loopback()
	}
	return addr
}

// sockaddr encodes an address for a socket of the given domain.
func sockaddr(domain int, to netip.AddrPort) []byte {
	var b []byte
	if domain == unix.AF_INET {
		b = make([]byte, 16)
		a := to.Addr().Unmap().As4()
		copy(b[4:], a[:])
	} else {
		b = make([]byte, 28)
		a := to.Addr().As16()
		copy(b[8:], a[:])
	}
	binary.NativeEndian.PutUint16(b, uint16(domain))
	binary.BigEndian.PutUint16(b[2:], to.Port())
	return b
}

// proceedSocket performs a connect or message.
func (c *Call) proceedSocket(r Reply, then func(Outcome)) {
	if r.Take != nil {
		then(Outcome{Level: Performed, Err: c.take(r.Take)})
		return
	}
	name := c.sockaddr
	if len(r.Redirect) > 0 {
		to, ok := c.reachable(r.Redirect)
		if !ok {
			then(Outcome{Level: Refused, Err: c.refuse(unix.ENETUNREACH)})
			return
		}
		name = sockaddr(c.kind.domain, to)
	}
	if r.Connected != nil && c.Op == Send {
		// The message may be there before we are back.
		if local, err := c.bindLocal(); err == nil {
			r.Connected(c.Network, local)
		}
	}
	c.attempt(name, func(n int, err error) {
		if r.Connected != nil && c.Op == Connect && (err == nil || errors.Is(err, unix.EINPROGRESS)) {
			if local, lerr := localAddr(c.socket); lerr == nil {
				r.Connected(c.Network, local)
			}
		}
		failed := err != nil && !errors.Is(err, unix.EINPROGRESS)
		then(Outcome{Level: Performed, Failed: failed, Err: c.finish(n, err)})
	})
}

// reachable picks the first address that the socket can send to: an IPv6
// socket reaches IPv4 unless it was told not to (ipv6(7), IPV6_V6ONLY).
func (c *Call) reachable(addrs []netip.AddrPort) (netip.AddrPort, bool) {
	v4, v6 := c.kind.domain == unix.AF_INET, false
	if !v4 {
		only, err := unix.GetsockoptInt(c.socket, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		v4, v6 = err == nil && only == 0, true
	}
	for _, a := range addrs {
		if a.Addr().Is4() && v4 || a.Addr().Is6() && v6 {
			return a, true
		}
	}
	return netip.AddrPort{}, false
}

// finish answers a performed call with its result.
func (c *Call) finish(n int, err error) error {
	var errno syscall.Errno
	if c.slot != nil && !c.part && (err == nil || errors.As(err, &errno) && errno != errRestart) {
		early.Done(c.slot, int64(n), errno)
	}
	switch {
	case err == nil:
		return c.succeed(int64(n))
	case errors.Is(err, sys.ErrGone):
		c.replied, c.gone = true, true
		return err
	case errors.Is(err, errForeign):
		return c.proceed()
	case errors.As(err, &errno):
		return c.refuse(errno)
	}
	return errors.Join(err, c.refuse(unix.EIO))
}

// errRestart is ERESTARTSYS of the kernel: the call returns EINTR or starts
// again, as the target's handler of the waiting signal has it (SA_RESTART).
const errRestart = syscall.Errno(512)

// attempt makes the call on the duplicate and hands its result to next.
//
// A stopped call holds the target's signals back, so one that blocks is given
// up as soon as a signal waits for the target that would have ended it.
func (c *Call) attempt(name []byte, next func(int, error)) {
	if !c.mayBlock() {
		next(c.perform(name, 0))
		return
	}
	if c.Op == Send && c.kind.typ == unix.SOCK_DGRAM {
		// A datagram goes or does not: it hardly ever has to wait.
		n, err := c.perform(name, unix.MSG_DONTWAIT)
		if !errors.Is(err, unix.EAGAIN) {
			next(n, err)
			return
		}
	}
	if c.s.watch.full() {
		next(0, unix.EAGAIN)
		return
	}
	c.s.b.wait(c, name, next)
}

func (c *Call) performBlocking(name []byte) (int, error) {
	for {
		n, err := c.s.watch.run(c, name)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
		if perr := c.pending(); perr != nil {
			return 0, perr
		}
		if c.interrupted() {
			return 0, errRestart
		}
	}
}

func (c *Call) mayBlock() bool {
	if c.Op != Send && (c.Op != Connect || c.kind.typ == unix.SOCK_DGRAM) {
		return false
	}
	flags, err := unix.FcntlInt(uintptr(c.socket), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_NONBLOCK == 0
}

// bindLocal returns the socket's local address and binds an unbound one to a
// port, as the kernel would with the first message.
func (c *Call) bindLocal() (netip.AddrPort, error) {
	local, err := localAddr(c.socket)
	if err != nil || local.Port() != 0 || c.kind.typ != unix.SOCK_DGRAM {
		return local, err
	}
	var wildcard unix.Sockaddr = &unix.SockaddrInet4{}
	if c.kind.domain == unix.AF_INET6 {
		wildcard = &unix.SockaddrInet6{}
	}
	if err := unix.Bind(c.socket, wildcard); err != nil {
		return local, err
	}
	return localAddr(c.socket)
}

func localAddr(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, unix.EAFNOSUPPORT
}
