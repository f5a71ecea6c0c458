package sys

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Datagrams are as many datagrams as one call receives, and the answers that
// one call sends: the way into the kernel and back costs as much as what it
// does for one of them. Not for several goroutines at once.
type Datagrams struct {
	in, out    []mmsghdr
	iovs, outs []unix.Iovec
	from       []unix.RawSockaddrInet6 // or a RawSockaddrInet4, which is shorter
	bufs       []byte
	size       int
	answers    int
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// NewDatagrams makes room for n datagrams of at most size bytes each; what is
// longer is cut.
func NewDatagrams(n, size int) *Datagrams {
	d := &Datagrams{
		in: make([]mmsghdr, n), out: make([]mmsghdr, n), iovs: make([]unix.Iovec, n), outs: make([]unix.Iovec, n),
		from: make([]unix.RawSockaddrInet6, n), bufs: make([]byte, n*size), size: size,
	}
	for i := range n {
		d.iovs[i].Base = &d.bufs[i*size]
		d.iovs[i].SetLen(size)
		h := &d.in[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&d.from[i]))
		h.Iov, h.Iovlen = &d.iovs[i], 1
		d.out[i].hdr.Iov, d.out[i].hdr.Iovlen = &d.outs[i], 1
	}
	return d
}

// Receive takes what has arrived at a socket that does not block, EAGAIN if
// that is nothing, and forgets what came before (recvmmsg(2)).
func (d *Datagrams) Receive(fd uintptr) (int, error) {
	d.answers = 0
	for i := range d.in {
		d.in[i].hdr.Namelen = uint32(unsafe.Sizeof(d.from[i]))
	}
	n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&d.in[0])), uintptr(len(d.in)), 0, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// Payload returns datagram i of those received.
func (d *Datagrams) Payload(i int) []byte { return d.bufs[i*d.size:][:d.in[i].len] }

// From returns who sent it.
func (d *Datagrams) From(i int) netip.AddrPort {
	sa := &d.from[i]
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:])
	if sa.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), port)
}

// Answer has Send send b to whoever sent datagram i. b must stay as it is until
// then.
func (d *Datagrams) Answer(i int, b []byte) {
	d.outs[d.answers].Base = &b[0]
	d.outs[d.answers].SetLen(len(b))
	h := &d.out[d.answers].hdr
	h.Name, h.Namelen = d.in[i].hdr.Name, d.in[i].hdr.Namelen
	d.answers++
}

// Send sends the answers. One that cannot be sent is lost (sendmmsg(2)).
func (d *Datagrams) Send(fd uintptr) {
	for at := 0; at < d.answers; {
		n, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&d.out[at])), uintptr(d.answers-at), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case e == unix.EINTR:
		case e != 0:
			at++
		default:
			at += int(n)
		}
	}
	d.answers = 0
}
