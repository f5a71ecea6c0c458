package dnsproxy

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

const (
	dnsPort        = 53
	maxNameservers = 3 // more are ignored by every resolver
)

// errNoResolvConf means that there is no file to take over.
var errNoResolvConf = errors.New("there is no resolv.conf")

// Resolv is what a resolv.conf says about servers.
type Resolv struct {
	// Nameservers are the servers a resolver would ask if no Defender had
	// taken the file over: three at most, the local host if there are none.
	Nameservers []netip.AddrPort
	// Marked are the addresses of the Defenders that took the file over,
	// living or dead. None of them is in Nameservers.
	Marked []netip.Addr
	// Search is the search list, in lower case and without trailing dots.
	Search []string
}

// ParseResolvConf reads a resolv.conf as the C library does, which ignores
// what it cannot read: a keyword counts only at the start of a line and before
// a blank, an address ends at the next blank. Servers that a takeover put out
// of a resolver's reach are found again.
func ParseResolvConf(data []byte) Resolv {
	var r Resolv
	lines := splitLines(string(data))
	for _, line := range lines {
		if addr, ok := markerOf(line); ok {
			r.Marked = append(r.Marked, addr)
		}
	}
	for _, line := range lines {
		if _, original, ok := keptBy(line); ok {
			line = original
		}
		// The last search or domain line counts (resolv.conf(5)).
		if f := strings.Fields(line); len(f) > 1 && (f[0] == "search" || f[0] == "domain") && strings.HasPrefix(line, f[0]) {
			r.Search = nil
			for _, suffix := range f[1:] {
				if suffix = strings.ToLower(strings.Trim(suffix, ".")); suffix != "" {
					r.Search = append(r.Search, suffix)
				}
			}
		}
		addr, ok := nameserverOf(line)
		if ok && len(r.Nameservers) < maxNameservers && !slices.Contains(r.Marked, addr) {
			r.Nameservers = append(r.Nameservers, netip.AddrPortFrom(addr, dnsPort))
		}
	}
	home := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if len(r.Nameservers) == 0 && !slices.Contains(r.Marked, home) {
		r.Nameservers = []netip.AddrPort{netip.AddrPortFrom(home, dnsPort)}
	}
	return r
}

// Upstreams returns the servers to ask in place of what path says, without
// touching it. A missing file is an empty one, as for a resolver. ours is
// never among them.
func Upstreams(path string, ours netip.Addr) ([]netip.AddrPort, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading upstream servers: %w", err)
	}
	return serversOf(data, ours), nil
}

func serversOf(data []byte, ours netip.Addr) []netip.AddrPort {
	return slices.DeleteFunc(ParseResolvConf(data).Nameservers, func(a netip.AddrPort) bool {
		return a.Addr() == ours.Unmap()
	})
}

// Takeover puts ours first in the resolv.conf at path and returns the servers
// that were there, to be asked by us, and how to undo it.
//
// The file becomes
//
//	# appdefender 127.1.2.3: original nameservers follow
//	nameserver 127.1.2.3
//
// and then what it was, but that nameservers beyond the third in all are
// comments. So the original can be had back from the file alone, by whoever
// comes after a Defender that was killed. Defenders sharing a network
// namespace may share the file too: each adds its lines and takes only its own
// out, and no address in a marker line is anyone's upstream.
//
// restore is never nil and may be called twice. It puts back the original byte
// for byte, or, if somebody else has changed the file meanwhile, takes only
// our lines out. The upstreams are valid even with an error, as long as the
// file can be read or there is none.
func Takeover(path string, ours netip.Addr) (restore func() error, upstreams []netip.AddrPort, err error) {
	t := takeover{path: path, ours: ours.Unmap(), listens: listens}
	upstreams, err = t.run()
	if err != nil {
		return func() error { return nil }, upstreams, fmt.Errorf("taking over %q: %w", path, err)
	}
	return t.restore, upstreams, nil
}

type takeover struct {
	path string
	ours netip.Addr
	// listens reports whether somebody may be listening on an address.
	listens func(netip.Addr) bool

	original, written []byte
}

func (t *takeover) run() ([]netip.AddrPort, error) {
	found, err := os.ReadFile(t.path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return serversOf(nil, t.ours), errNoResolvConf
		}
		return nil, err
	}
	servers := serversOf(found, t.ours)
	t.original = found
	for _, addr := range ParseResolvConf(found).Marked {
		// Ours was left by one that was killed and whose address we have now.
		if addr == t.ours || !t.listens(addr) {
			t.original = withoutMarks(t.original, addr)
		}
	}
	t.written = withMarks(t.original, t.ours)
	if err := overwrite(t.path, t.written); err != nil {
		// Half a file would be worse than none of ours.
		return servers, errors.Join(err, t.undoHalf(found))
	}
	return servers, nil
}

// undoHalf puts found back if a failed write left something else.
func (t *takeover) undoHalf(found []byte) error {
	if now, err := os.ReadFile(t.path); err == nil && bytes.Equal(now, found) {
		return nil
	}
	return overwrite(t.path, found)
}

func (t *takeover) restore() error {
	now, err := os.ReadFile(t.path)
	if err == nil {
		back := t.original
		if !bytes.Equal(now, t.written) {
			back = withoutMarks(now, t.ours)
		}
		if bytes.Equal(now, back) {
			return nil
		}
		err = overwrite(t.path, back)
	}
	if err != nil {
		return fmt.Errorf("restoring %q: %w", t.path, err)
	}
	return nil
}

// overwrite replaces a file's content in place. The file may be a mount of its
// own, over which nothing can be renamed. It is cut only after the write, so
// that no reader finds it empty.
func overwrite(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Truncate(int64(len(data)))
	}
	return errors.Join(err, f.Close())
}

// listens finds out by trying to take the address. When even that is not
// possible, somebody may be there.
func listens(addr netip.Addr) bool {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, dnsPort)))
	if err != nil {
		return true
	}
	_ = conn.Close()
	return false
}

// withMarks returns data taken over by ours.
func withMarks(data []byte, ours netip.Addr) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nnameserver %s\n", marker(ours), ours)
	n := 1
	for _, line := range splitLines(string(data)) {
		if _, ok := nameserverOf(line); ok {
			if n++; n > maxNameservers {
				b.WriteString(keptPrefix(ours))
			}
		}
		b.WriteString(line)
	}
	return []byte(b.String())
}

// withoutMarks undoes withMarks, whatever others did to the file since.
func withoutMarks(data []byte, ours netip.Addr) []byte {
	var b strings.Builder
	own := false // our nameserver line is still to come
	for _, line := range splitLines(string(data)) {
		if addr, ok := markerOf(line); ok && addr == ours {
			own = true
			continue
		}
		if addr, ok := nameserverOf(line); ok && own && addr == ours {
			own = false
			continue
		}
		if addr, original, ok := keptBy(line); ok && addr == ours {
			line = original
		}
		b.WriteString(line)
	}
	return []byte(b.String())
}

const (
	markStart = "# appdefender "
	markerEnd = ": original nameservers follow"
	keptEnd   = " kept: "
)

func marker(addr netip.Addr) string     { return markStart + addr.String() + markerEnd }
func keptPrefix(addr netip.Addr) string { return markStart + addr.String() + keptEnd }

// markerOf returns the address in a marker line.
func markerOf(line string) (netip.Addr, bool) {
	s, ok := strings.CutPrefix(line, markStart)
	if !ok {
		return netip.Addr{}, false
	}
	if s, ok = strings.CutSuffix(strings.TrimRight(s, "\r\n"), markerEnd); !ok {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(s)
	return addr.Unmap(), err == nil
}

// keptBy returns the original of a line that a takeover made a comment, and
// whose takeover it was.
func keptBy(line string) (netip.Addr, string, bool) {
	s, ok := strings.CutPrefix(line, markStart)
	if !ok {
		return netip.Addr{}, "", false
	}
	who, original, ok := strings.Cut(s, keptEnd)
	if !ok {
		return netip.Addr{}, "", false
	}
	addr, err := netip.ParseAddr(who)
	return addr.Unmap(), original, err == nil
}

// nameserverOf returns the address of a nameserver line. The unspecified
// address is the local host, as for connect(2).
func nameserverOf(line string) (netip.Addr, bool) {
	s, ok := strings.CutPrefix(line, "nameserver")
	if !ok || s == "" || s[0] != ' ' && s[0] != '\t' {
		return netip.Addr{}, false
	}
	s = strings.TrimLeft(s, " \t")
	if i := strings.IndexAny(s, " \t\n"); i >= 0 {
		s = s[:i]
	}
	addr, ok := inetAton(s)
	if !ok {
		var err error
		addr, err = netip.ParseAddr(s)
		if err != nil || addr.Is4() {
			return netip.Addr{}, false
		}
		addr = addr.Unmap()
	}
	if addr.IsUnspecified() {
		if addr.Is4() {
			return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
		}
		return netip.IPv6Loopback(), true
	}
	return addr, true
}

// inetAton parses an IPv4 address as inet_aton(3): one to four numbers, each
// decimal, octal or hexadecimal, the last of which fills what is left.
func inetAton(s string) (netip.Addr, bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var v uint64
	for i, part := range parts {
		base := 10
		if hex, ok := strings.CutPrefix(strings.ToLower(part), "0x"); ok {
			part, base = hex, 16
		} else if len(part) > 1 && part[0] == '0' {
			base = 8
		}
		n, err := strconv.ParseUint(part, base, 32)
		if err != nil {
			return netip.Addr{}, false
		}
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (4 - i)
		}
		if n >= 1<<bits {
			return netip.Addr{}, false
		}
		v = v<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), true
}

// splitLines splits s after each newline, so that the lines make s again.
func splitLines(s string) []string { return slices.Collect(strings.Lines(s)) }
