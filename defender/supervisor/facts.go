package supervisor

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"appdefender/internal/sys"
)

// Facts are what is known about the files that an exec would start: the
// program, the interpreters of a #! chain, the program behind a loader. Each
// holds if it holds for one of them; the times are the latest. What costs system
// calls is there if Config.WatchPrograms asks.
type Facts struct {
	Fileless bool      // no name leads to it: in memory, unlinked, in a mount that is nowhere
	Writable bool      // on a temporary file system, or where anybody may write
	SetUID   bool      // gives its starter another user's, a group's or new capabilities' rights
	Changed  time.Time // last change of content, name or mode; nobody can set it back
	Born     time.Time // zero where the file system does not say
}

// Watch is a set of the Facts that cost system calls.
type Watch uint8

const (
	WatchFileless Watch = 1 << iota // of files that have a name
	WatchWritable
	WatchSetUID // for capabilities alone
	WatchTimes
)

// facts adds what is known about f; loaded says that the kernel loads it.
func (c *Call) facts(p *Program, f *file, loaded bool) {
	if f.stat.Nlink == 0 {
		p.Fileless = true
	}
	if loaded && p.gains && !c.s.cfg.NoNewPrivs {
		p.SetUID = true
	}
	if c.s.cfg.WatchPrograms == nil {
		return
	}
	watch := c.s.cfg.WatchPrograms()
	p.Fileless = p.Fileless || watch&WatchFileless != 0 && !c.named(f)
	p.Writable = p.Writable || watch&WatchWritable != 0 && writable(f)
	if watch&WatchTimes != 0 {
		if changed := time.Unix(f.stat.Ctim.Unix()); changed.After(p.Changed) {
			p.Changed = changed
		}
		if b := born(f.fd, ""); b.After(p.Born) {
			p.Born = b
		}
	}
	if watch&WatchSetUID != 0 && loaded && !c.s.cfg.NoNewPrivs && !p.SetUID {
		_, err := unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d", f.fd), "security.capability", nil)
		p.SetUID = err == nil
	}
}

// born returns when a file came into being, zero where the file system does
// not say.
func born(dir int, name string) time.Time {
	var st unix.Statx_t
	err := unix.Statx(dir, name, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BTIME, &st)
	if err != nil || st.Mask&unix.STATX_BTIME == 0 {
		return time.Time{}
	}
	return time.Unix(st.Btime.Sec, int64(st.Btime.Nsec))
}

// named reports whether the name of f leads to it, from our root or from the
// target's. It does not for a file in a mount without a place (open_tree(2)),
// whose name could be any.
func (c *Call) named(f *file) bool {
	var st unix.Stat_t
	if unix.Stat(f.full, &st) == nil && f.id() == (id{st.Dev, st.Ino}) {
		return true
	}
	again, err := lookup(c.TID, c.PID, unix.AT_FDCWD, f.path)
	if err != nil {
		return false
	}
	defer again.close()
	return again.id() == f.id()
}

// writable reports whether f is where programs do not belong: on a temporary
// file system, in a folder for everybody, in mounts of the target's own, or
// itself everybody's.
func writable(f *file) bool {
	const others = 0o002
	if f.stat.Mode&others != 0 || strings.HasPrefix(f.known(), sys.Unreachable) {
		return true
	}
	var fs unix.Statfs_t
	if unix.Fstatfs(f.fd, &fs) == nil && (fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC) && fs.Flags&unix.ST_RDONLY == 0 {
		return true
	}
	var dir unix.Stat_t
	return unix.Stat(path.Dir(f.full), &dir) == nil && dir.Mode&others != 0
}

// RemoteIO reports whether the standard input or output of whoever executes is
// a socket connected to another machine, or a terminal whose other end is held
// by one who reads or writes such a socket. An error means that nobody can say.
func (c *Call) RemoteIO() (bool, error) {
	terminal := false
	for fd := range 2 {
		link, err := readlinkProc(c.TID, fmt.Sprintf("fd/%d", fd))
		terminal = terminal || err == nil && strings.HasPrefix(link, "/dev/pts/")
		if errors.Is(err, unix.ENOENT) || err == nil && !strings.HasPrefix(link, "socket:") {
			continue
		}
		if err != nil {
			return false, err
		}
		remote, err := c.connectedAway(fd)
		if err != nil {
			// Where sockets of others cannot be had, tables say most of it.
			tables, inode := tableOf(c.TID, link)
			remote, err = leadsAway(tables, inode, err)
		}
		if remote || err != nil {
			return remote, err
		}
	}
	return terminal && c.relayed(), c.pending()
}

// relayed reports whether the parent's standard input or output leads away: it
// made the terminal, and carries to and fro what is typed and said there. Of a
// parent that cannot be looked at nothing is said.
func (c *Call) relayed() bool {
	st, err := sys.ReadStatus(c.PID())
	if err != nil || st.PPID == 0 {
		return false
	}
	for fd := range 2 {
		link, err := readlinkProc(st.PPID, fmt.Sprintf("fd/%d", fd))
		if err != nil || !strings.HasPrefix(link, "socket:") {
			continue
		}
		tables, inode := tableOf(st.PPID, link)
		if remote, _ := leadsAway(tables, inode, nil); remote {
			return true
		}
	}
	return false
}

func (c *Call) connectedAway(fd int) (bool, error) {
	var socket int
	err := sys.AsTarget(c.TID, func() (err error) {
		socket, err = c.pids.getFD(c, fd)
		return err
	})
	if err != nil {
		return false, err
	}
	defer unix.Close(socket)
	peer, err := unix.Getpeername(socket)
	if err != nil {
		return false, nil // connected to nobody
	}
	switch peer := peer.(type) {
	case *unix.SockaddrInet4:
		return !netip.AddrFrom4(peer.Addr).IsLoopback(), nil
	case *unix.SockaddrInet6:
		return !netip.AddrFrom16(peer.Addr).Unmap().IsLoopback(), nil
	case *unix.SockaddrVM:
		return peer.CID != unix.VMADDR_CID_LOCAL, nil
	case *unix.SockaddrTIPC:
		return true, nil
	}
	return false, nil
}

// tableOf is where leadsAway finds what is known of a socket that a descriptor
// of a thread is a link to.
func tableOf(tid int, link string) (tables, inode string) {
	return fmt.Sprintf("/proc/%d/net/", tid), strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]")
}

// leadsAway reports by the tables in a folder (proc_net(5), proc_pid_net(5))
// whether a socket is connected to another machine. One that is in none of them
// is not known: err says why it could not be asked itself.
func leadsAway(tables, inode string, err error) (bool, error) {
	for _, table := range []struct {
		name          string
		inode, remote int // fields
	}{{"unix", 6, -1}, {"tcp", 9, 2}, {"tcp6", 9, 2}, {"udp", 9, 2}, {"udp6", 9, 2}} {
		data, unread := os.ReadFile(tables + table.name)
		if unread != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) <= table.inode || f[table.inode] != inode {
				continue
			}
			if table.remote < 0 {
				return false, nil
			}
			peer, ok := hexAddr(f[table.remote])
			if !ok {
				return false, err
			}
			return !peer.IsUnspecified() && !peer.IsLoopback(), nil
		}
	}
	return false, err
}

// hexAddr reads an address of these tables: words in the processor's order, in
// hexadecimal, ":" and the port.
func hexAddr(field string) (netip.Addr, bool) {
	host, _, _ := strings.Cut(field, ":")
	b, err := hex.DecodeString(host)
	if err != nil || len(b)%4 != 0 {
		return netip.Addr{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	addr, ok := netip.AddrFromSlice(b)
	return addr.Unmap(), ok
}
