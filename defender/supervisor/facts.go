package supervisor

import (
	"fmt"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// Facts are what is known about the files that an exec would start: the
// program, the interpreters of a #! chain, the program behind a loader. Each
// holds if it holds for one of them; the times are the latest. Times and
// places cost system calls: they are there if Config.WatchPrograms asks.
type Facts struct {
	Fileless bool      // no name leads to it: in memory, unlinked, in a mount that is nowhere
	Writable bool      // on a temporary file system, or where anybody may write
	SetUID   bool      // gives its starter another user's, a group's or new capabilities' rights
	Changed  time.Time // last change of content, name or mode; nobody can set it back
	Born     time.Time // zero where the file system does not say
}

// facts adds what is known about f; loaded says that the kernel loads it.
func (c *Call) facts(p *Program, f *file, loaded bool) {
	if f.stat.Nlink == 0 {
		p.Fileless = true
	}
	if loaded && p.gains && !c.s.cfg.NoNewPrivs {
		p.SetUID = true
	}
	if c.s.cfg.WatchPrograms == nil || !c.s.cfg.WatchPrograms() {
		return
	}
	p.Fileless = p.Fileless || !c.named(f)
	p.Writable = p.Writable || writable(f)
	if changed := time.Unix(f.stat.Ctim.Unix()); changed.After(p.Changed) {
		p.Changed = changed
	}
	var stx unix.Statx_t
	if unix.Statx(f.fd, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &stx) == nil && stx.Mask&unix.STATX_BTIME != 0 {
		if born := time.Unix(stx.Btime.Sec, int64(stx.Btime.Nsec)); born.After(p.Born) {
			p.Born = born
		}
	}
	if loaded && !c.s.cfg.NoNewPrivs && !p.SetUID {
		_, err := unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d", f.fd), "security.capability", nil)
		p.SetUID = err == nil
	}
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
// file system, in a folder for everybody, or itself everybody's.
func writable(f *file) bool {
	const others = 0o002
	if f.stat.Mode&others != 0 {
		return true
	}
	var fs unix.Statfs_t
	if unix.Fstatfs(f.fd, &fs) == nil && (fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC) && fs.Flags&unix.ST_RDONLY == 0 {
		return true
	}
	var dir unix.Stat_t
	return unix.Stat(path.Dir(f.full), &dir) == nil && dir.Mode&others != 0
}
