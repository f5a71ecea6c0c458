package proc

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// SocketOwner finds the process that holds the socket bound to local; network
// is "udp" or "tcp". It is the slow way to attribute a query, for platforms
// where the call itself could not be performed by us.
func SocketOwner(network string, local netip.AddrPort) (pid int, ok bool) {
	for _, table := range []string{network, network + "6"} {
		data, err := os.ReadFile("/proc/self/net/" + table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) < 10 || !sameSocket(f[1], local) || f[9] == "0" {
				continue
			}
			if pid, ok := holder("socket:[" + f[9] + "]"); ok {
				return pid, true
			}
		}
	}
	return 0, false
}

// sameSocket reports whether a local address of /proc/net/udp and its kin
// (host-order words in hexadecimal, ":", port) can be what the peer sees as
// local: the address itself, or the unspecified one.
func sameSocket(field string, local netip.AddrPort) bool {
	host, port, _ := strings.Cut(field, ":")
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil || uint16(n) != local.Port() {
		return false
	}
	b, err := hex.DecodeString(host)
	if err != nil || len(b)%4 != 0 {
		return false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	addr, ok := netip.AddrFromSlice(b)
	return ok && (addr.IsUnspecified() || addr.Unmap() == local.Addr().Unmap())
}

// holder finds a process, other than ourselves, with an open descriptor of
// the given link text.
func holder(link string) (int, bool) {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return 0, false
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid == self {
			continue
		}
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if to, err := os.Readlink(dir + "/" + fd.Name()); err == nil && to == link {
				return pid, true
			}
		}
	}
	return 0, false
}
