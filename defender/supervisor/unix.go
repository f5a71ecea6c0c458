package supervisor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// NetworkUnix is the Network of a connect or message to a socket that is a
// file or has an abstract name; Call.File says which.
const NetworkUnix = "unix"

// watchesUnix reports whether anybody asks where Unix sockets lead to.
func (s *Supervisor) watchesUnix() bool { return s.cfg.WatchUnix != nil && s.cfg.WatchUnix() }

// isUnix reports whether a connect or message goes to a Unix socket. Without
// a duplicate only the address tells.
func (c *Call) isUnix(name []byte) bool {
	return c.kind.domain == unix.AF_UNIX || c.socket < 0 && len(name) > 2 && binary.NativeEndian.Uint16(name) == unix.AF_UNIX
}

// unixCall describes a connect or message to a Unix socket. It is judged and
// goes on in the kernel: a connect of ours would show the other side our
// process and user (SO_PEERCRED, SCM_CREDENTIALS), by which PostgreSQL, D-Bus
// and systemd tell who asks.
func (s *Supervisor) unixCall(c *Call, name []byte) {
	c.perform = nil
	if c.Op == Bind && len(name) > 2 && name[2] != 0 && binary.NativeEndian.Uint16(name) == unix.AF_UNIX {
		path, _, _ := bytes.Cut(name[2:], []byte{0})
		s.change(c, change{c.Name, func(c *Call) error {
			err := c.makesName("mknod", unix.AT_FDCWD, string(path))
			if errors.Is(err, unix.EEXIST) {
				err = unix.EADDRINUSE
			}
			return err
		}})
		return
	}
	if len(name) <= 2 || binary.NativeEndian.Uint16(name) != unix.AF_UNIX || c.Op != Connect && c.Op != Send || !s.watchesUnix() {
		_ = c.proceed()
		return
	}
	err := s.pace.look(c, func() error { return c.unixPath(name[2:]) })
	var errno syscall.Errno
	var ours unreadable
	switch {
	case err == nil:
		c.Network = NetworkUnix
		s.cfg.Handler(c)
	case c.pending() != nil:
		c.replied, c.gone = true, true
	case errors.As(err, &ours) || !errors.As(err, &errno):
		c.unknown(err)
	case sameUser(c.TID):
		// Answered, not continued: another thread could have changed the name
		// to one that exists.
		_ = c.refuse(errno)
	case errno == unix.EACCES:
		c.unknown(err)
	default:
		// Another user, who may not be told whether a file exists.
		c.Network, c.File.Path = NetworkUnix, c.File.Typed
		s.cfg.Handler(c)
	}
}

// unixPath sets File to what sun_path names: the file that the target's own
// look-up leads to, or "@" and the abstract name (unix(7)).
func (c *Call) unixPath(name []byte) error {
	if name[0] == 0 {
		c.File.Path = "@" + string(name[1:])
		return nil
	}
	name, _, _ = bytes.Cut(name, []byte{0})
	c.File.Typed = absolute(c.TID, unix.AT_FDCWD, string(name))
	f, err := lookup(c.TID, c.PID, unix.AT_FDCWD, string(name))
	if err != nil {
		return err
	}
	defer f.close()
	if f.stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return unix.ECONNREFUSED
	}
	c.File.Path, c.File.Shared = f.full, f.stat.Nlink > 1
	return c.pending()
}
