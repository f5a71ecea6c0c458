package supervisor

import "golang.org/x/sys/unix"

// olderChanges are the calls without a folder, which newer processors do not
// have.
var olderChanges = map[int32]change{
	unix.SYS_OPEN: {"open", func(c *Call) error { return c.opens(unix.AT_FDCWD, c.arg(0), c.arg(1)) }},
	unix.SYS_CREAT: {"creat", func(c *Call) error {
		return c.opens(unix.AT_FDCWD, c.arg(0), unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC)
	}},
	unix.SYS_MKDIR:   {"mkdir", func(c *Call) error { return c.makes("mkdir", unix.AT_FDCWD, c.arg(0)) }},
	unix.SYS_MKNOD:   {"mknod", func(c *Call) error { return c.makes("mknod", unix.AT_FDCWD, c.arg(0)) }},
	unix.SYS_SYMLINK: {"symlink", func(c *Call) error { return c.symlinks(c.arg(0), unix.AT_FDCWD, c.arg(1)) }},
	unix.SYS_LINK:    {"link", func(c *Call) error { return c.links(unix.AT_FDCWD, c.arg(0), unix.AT_FDCWD, c.arg(1), 0) }},
	unix.SYS_UNLINK:  {"unlink", func(c *Call) error { return c.names("unlink", unix.AT_FDCWD, c.arg(0)) }},
	unix.SYS_RMDIR:   {"rmdir", func(c *Call) error { return c.names("rmdir", unix.AT_FDCWD, c.arg(0)) }},
	unix.SYS_RENAME:  {"rename", func(c *Call) error { return c.renames(unix.AT_FDCWD, c.arg(0), unix.AT_FDCWD, c.arg(1)) }},
	unix.SYS_CHMOD:   {"chmod", func(c *Call) error { return c.alters("chmod", unix.AT_FDCWD, c.arg(0), 0) }},
	unix.SYS_CHOWN:   {"chown", func(c *Call) error { return c.alters("chown", unix.AT_FDCWD, c.arg(0), 0) }},
	unix.SYS_LCHOWN:  {"lchown", func(c *Call) error { return c.alters("chown", unix.AT_FDCWD, c.arg(0), noFollow) }},
}
