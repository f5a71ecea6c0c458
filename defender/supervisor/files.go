package supervisor

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// File is what a call changes in the file system; the fields are those of
// policy.File. Its paths are below our root, for a target in a root of its own
// (chroot) changes the same files under other names.
type File struct {
	Path  string
	Typed string
	Op    string
	To    string
	// What is at Path now, if Config.WatchFileTypes asks: "elf", "secret" (a
	// private key), "regular" or "folder", and since when it is there (zero
	// where the file system does not say).
	Type string
	Born time.Time

	// Shared says that the socket of a connect has other names, too.
	Shared bool

	// Replaced is what a rename puts something else in the place of; nil if
	// there is nothing.
	Replaced *File
}

// Written is a file that a call may write to, or puts in a place: FD stands for
// it, or for the folder in which it has, or gets, the Name. It is valid as long
// as the Call is.
type Written struct {
	FD      int // O_PATH
	Name    string
	Path    string // as File.Path
	Renamed bool   // it is put there: its content may be written already
}

// Written returns the files that a Change is about to write, if
// Config.WatchContent asks.
func (c *Call) Written() []Written { return c.written }

// keep notes a file for Written.
func (c *Call) keep(fd int, name, path string, renamed bool) {
	if c.s.cfg.WatchContent == nil || !c.s.cfg.WatchContent() {
		return
	}
	if kept, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); err == nil {
		c.written = append(c.written, Written{kept, name, path, renamed})
	}
}

func (c *Call) dropWritten() {
	for _, w := range c.written {
		unix.Close(w.FD)
	}
	c.written = nil
}

// errNoChange means that a call changes nothing that a rule could be about.
var errNoChange = errors.New("no change to a file")

// changes are the calls that change files, by number. Each sets Call.File, or returns the
// errno of the call, or errNoChange.
//
// What was opened for writing may be written: there are no rules for write,
// ftruncate or mmap.
var changes = func() map[int32]change {
	all := maps.Clone(newerChanges)
	maps.Copy(all, olderChanges)
	return all
}()

// newerChanges are those of all processors.
var newerChanges = map[int32]change{
	unix.SYS_OPENAT: {"openat", func(c *Call) error { return c.opens(c.argInt(0), c.arg(1), c.arg(2)) }},
	unix.SYS_OPENAT2: {"openat2", func(c *Call) error {
		how, err := c.readBytes(c.arg(2), 8) // struct open_how begins with its flags
		if err != nil {
			return err
		}
		return c.opens(c.argInt(0), c.arg(1), binary.NativeEndian.Uint64(how))
	}},
	unix.SYS_OPEN_BY_HANDLE_AT: {"open_by_handle_at", (*Call).opensByHandle},

	unix.SYS_MKDIRAT:   {"mkdirat", func(c *Call) error { return c.makes("mkdir", c.argInt(0), c.arg(1)) }},
	unix.SYS_MKNODAT:   {"mknodat", func(c *Call) error { return c.makes("mknod", c.argInt(0), c.arg(1)) }},
	unix.SYS_SYMLINKAT: {"symlinkat", func(c *Call) error { return c.symlinks(c.arg(0), c.argInt(1), c.arg(2)) }},
	unix.SYS_LINKAT: {"linkat", func(c *Call) error {
		return c.links(c.argInt(0), c.arg(1), c.argInt(2), c.arg(3), c.argInt(4))
	}},
	unix.SYS_UNLINKAT: {"unlinkat", func(c *Call) error {
		if c.argInt(2)&unix.AT_REMOVEDIR != 0 {
			return c.names("rmdir", c.argInt(0), c.arg(1))
		}
		return c.names("unlink", c.argInt(0), c.arg(1))
	}},
	unix.SYS_RENAMEAT:  {"renameat", func(c *Call) error { return c.renames(c.argInt(0), c.arg(1), c.argInt(2), c.arg(3)) }},
	unix.SYS_RENAMEAT2: {"renameat2", func(c *Call) error { return c.renames(c.argInt(0), c.arg(1), c.argInt(2), c.arg(3)) }},

	unix.SYS_TRUNCATE:  {"truncate", func(c *Call) error { return c.alters("truncate", unix.AT_FDCWD, c.arg(0), 0) }},
	unix.SYS_FCHMOD:    {"fchmod", func(c *Call) error { return c.altersFD("chmod", c.argInt(0)) }},
	unix.SYS_FCHMODAT:  {"fchmodat", func(c *Call) error { return c.alters("chmod", c.argInt(0), c.arg(1), 0) }},
	unix.SYS_FCHMODAT2: {"fchmodat2", func(c *Call) error { return c.alters("chmod", c.argInt(0), c.arg(1), c.argInt(3)) }},
	unix.SYS_FCHOWN:    {"fchown", func(c *Call) error { return c.altersFD("chown", c.argInt(0)) }},
	unix.SYS_FCHOWNAT:  {"fchownat", func(c *Call) error { return c.alters("chown", c.argInt(0), c.arg(1), c.argInt(4)) }},

	unix.SYS_SETXATTR:     {"setxattr", func(c *Call) error { return c.alters("setxattr", unix.AT_FDCWD, c.arg(0), 0) }},
	unix.SYS_LSETXATTR:    {"lsetxattr", func(c *Call) error { return c.alters("setxattr", unix.AT_FDCWD, c.arg(0), noFollow) }},
	unix.SYS_FSETXATTR:    {"fsetxattr", func(c *Call) error { return c.altersFD("setxattr", c.argInt(0)) }},
	unix.SYS_REMOVEXATTR:  {"removexattr", func(c *Call) error { return c.alters("setxattr", unix.AT_FDCWD, c.arg(0), 0) }},
	unix.SYS_LREMOVEXATTR: {"lremovexattr", func(c *Call) error { return c.alters("setxattr", unix.AT_FDCWD, c.arg(0), noFollow) }},
	unix.SYS_FREMOVEXATTR: {"fremovexattr", func(c *Call) error { return c.altersFD("setxattr", c.argInt(0)) }},
	sysSetxattrat:         {"setxattrat", func(c *Call) error { return c.alters("setxattr", c.argInt(0), c.arg(1), c.argInt(2)) }},
	sysRemovexattrat:      {"removexattrat", func(c *Call) error { return c.alters("setxattr", c.argInt(0), c.arg(1), c.argInt(2)) }},

	unix.SYS_MOUNT:      {"mount", (*Call).mounts},
	unix.SYS_MOVE_MOUNT: {"move_mount", (*Call).movesMount},
}

type change struct {
	name     string
	describe func(*Call) error
}

// Of Linux 6.13; the numbers are those of all architectures.
const (
	sysSetxattrat    = 463
	sysRemovexattrat = 466
)

const noFollow = unix.AT_SYMLINK_NOFOLLOW

// change describes a call that changes files and hands it to the handler. It
// is judged and goes on in the kernel.
func (s *Supervisor) change(c *Call, ch change) {
	c.Op, c.Name = Change, ch.name
	if s.cfg.WatchFiles == nil || !s.cfg.WatchFiles() {
		_ = c.proceed()
		return
	}
	if c.Unknown != nil {
		c.unknown(c.Unknown)
		return
	}
	defer c.dropWritten()
	err := s.pace.look(c, func() error { return ch.describe(c) })
	if gone := c.pending(); gone != nil {
		c.replied = true
		return
	}
	var errno syscall.Errno
	var ours unreadable
	switch {
	case err == nil:
		if s.cfg.WatchFileTypes != nil && s.cfg.WatchFileTypes() {
			c.slow()
			c.File.look()
			if c.File.Replaced != nil {
				c.File.Replaced.look()
			}
		}
		s.cfg.Handler(c)
	case errors.Is(err, errNoChange):
		_ = c.proceed()
	case errors.As(err, &ours) || !errors.As(err, &errno):
		c.unknown(err)
	case c.File.Typed == "" || sameUser(c.TID):
		// Answered, not continued: another thread could have changed the name
		// to one for which it is not so.
		_ = c.refuse(errno)
	case errno == unix.EACCES:
		c.unknown(err)
	case errno == unix.EEXIST:
		_ = c.proceed() // to be refused
	default:
		// Another user, who may not be told whether a file exists: the kernel
		// must answer. What is known of the name is judged.
		if c.File.Path == "" {
			c.File.Path = c.File.Typed
		}
		s.cfg.Handler(c)
	}
}

// look finds out what is at Path.
func (f *File) look() {
	fd, err := unix.Open(f.Path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		f.Type = "folder"
	case unix.S_IFREG:
		f.Type = contentType(fd)
	default:
		return
	}
	f.Born = born(fd, "")
}

// contentType tells programs and private keys (RFC 7468) from the rest.
func contentType(fd int) string {
	r, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return "regular"
	}
	defer unix.Close(r)
	head := make([]byte, 4096)
	n, _ := unix.Pread(r, head, 0)
	head = head[:max(n, 0)]
	switch {
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		return "elf"
	case bytes.Contains(head, []byte("-----BEGIN ")) && (bytes.Contains(head, []byte("PRIVATE KEY-----")) || bytes.Contains(head, []byte("PRIVATE KEY BLOCK-----"))),
		bytes.Contains(head[:min(len(head), 64)], []byte("Private-Key: (")): // openssl's -text, with the key far behind
		return "secret"
	}
	return "regular"
}

// readPath reads a path argument. "" is for calls that take an empty one.
func (c *Call) readPath(at uint64) (string, error) {
	name, err := readString(c.TID, at, unix.PathMax)
	switch {
	case errors.Is(err, unix.ENAMETOOLONG):
		return "", unix.ENAMETOOLONG
	case errors.Is(err, unix.EFAULT):
		return "", unix.EFAULT
	case err != nil:
		return "", errUnreadable(err)
	}
	return name, nil
}

// place is a name in a folder: what rename, unlink, mkdir and others act on.
// They do not follow a link that the name may be.
type place struct {
	dir  *file
	name string
	stat *unix.Stat_t // of what is there; nil if nothing is
}

func (p *place) close() { p.dir.close() }

func (p *place) path() string { return path.Join(p.dir.full, p.name) }

func (p *place) is(format uint32) bool { return p.stat != nil && p.stat.Mode&unix.S_IFMT == format }

// place resolves all but the last component of a name.
func (c *Call) place(dirfd int, name string) (*place, error) {
	if name == "" {
		return nil, unix.ENOENT
	}
	dir, base := path.Split(strings.TrimRight(name, "/"))
	switch base {
	case "", ".", "..": // no name: the folder itself
		dir, base = name, "."
	}
	if dir == "" {
		dir = "."
	}
	f, err := lookup(c.TID, c.PID, dirfd, dir)
	if err != nil {
		return nil, err
	}
	return newPlace(f, base)
}

func newPlace(dir *file, base string) (*place, error) {
	p := &place{dir: dir, name: base}
	var st unix.Stat_t
	switch err := unix.Fstatat(dir.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == nil:
		p.stat = &st
	case !errors.Is(err, unix.ENOENT):
		p.close()
		return nil, err
	}
	return p, nil
}

// opens describes an open that may write, create or truncate. The filter lets
// all others pass, where the flags lie in a register.
//
// Devices, pipes and sockets are no files: whoever may open a terminal or
// /dev/null may write to it.
func (c *Call) opens(dirfd int, at, flags uint64) error {
	if flags&unix.O_PATH != 0 || flags&(unix.O_ACCMODE|unix.O_CREAT|unix.O_TRUNC) == 0 || flags&unix.O_TMPFILE == unix.O_TMPFILE {
		return errNoChange // nothing has a name yet where O_TMPFILE makes it
	}
	name, err := c.readPath(at)
	if err != nil {
		return err
	}
	c.File = File{Op: "open", Typed: absolute(c.TID, dirfd, name)}
	if flags&unix.O_NOFOLLOW != 0 || flags&(unix.O_CREAT|unix.O_EXCL) == unix.O_CREAT|unix.O_EXCL {
		p, err := c.place(dirfd, name)
		if err != nil {
			return err
		}
		defer p.close()
		return c.opensPlace(p, flags)
	}
	f, err := lookup(c.TID, c.PID, dirfd, name)
	if err == nil {
		defer f.close()
		return c.opensFile(f.fd, "", f.full, &f.stat)
	}
	if !errors.Is(err, unix.ENOENT) || flags&unix.O_CREAT == 0 || strings.HasSuffix(name, "/") {
		return err
	}
	p, err := c.target(dirfd, name)
	if err != nil {
		return err
	}
	defer p.close()
	return c.opensPlace(p, flags|unix.O_NOFOLLOW)
}

// opensFile describes the open of a file that is there: fd stands for it, or
// for the folder in which it has the name base.
func (c *Call) opensFile(fd int, base, name string, st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errNoChange
	}
	c.File.Op, c.File.Path = "open", name
	c.keep(fd, base, name, false)
	return nil
}

func (c *Call) opensPlace(p *place, flags uint64) error {
	c.File.Path = p.path()
	switch {
	case p.stat == nil && flags&unix.O_CREAT == 0:
		return unix.ENOENT
	case p.stat == nil:
		c.File.Op = "create"
		c.keep(p.dir.fd, p.name, p.path(), false)
		return nil
	case flags&(unix.O_CREAT|unix.O_EXCL) == unix.O_CREAT|unix.O_EXCL:
		return unix.EEXIST
	case p.is(unix.S_IFLNK):
		return unix.ELOOP
	}
	return c.opensFile(p.dir.fd, p.name, p.path(), p.stat)
}

// target returns where a file is made by a name that leads nowhere: a link to
// a file that does not exist yet is followed (open(2), O_CREAT).
func (c *Call) target(dirfd int, name string) (*place, error) {
	p, err := c.place(dirfd, name)
	for links := 0; err == nil && p.is(unix.S_IFLNK); links++ {
		if links == maxLinks {
			p.close()
			return nil, unix.ELOOP
		}
		p, err = c.follow(p)
	}
	return p, err
}

// follow goes one link on and closes p.
func (c *Call) follow(p *place) (*place, error) {
	defer p.close()
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(p.dir.fd, p.name, buf)
	if err != nil {
		return nil, err
	}
	root, err := rootOf(c.TID)
	if err != nil {
		return nil, err
	}
	defer root.close()
	dir, base := path.Split(strings.TrimRight(string(buf[:n]), "/"))
	if base == "" || base == "." || base == ".." {
		return nil, unix.EISDIR
	}
	if dir == "" {
		dir = "."
	}
	f, err := lookupFrom(root, p.dir.fd, c.TID, c.PID, dir)
	if err != nil {
		return nil, err
	}
	return newPlace(f, base)
}

// opensByHandle describes open_by_handle_at: a handle names a file without a
// path (CAP_DAC_READ_SEARCH).
func (c *Call) opensByHandle() error {
	flags := c.arg(2)
	if flags&unix.O_PATH != 0 || flags&(unix.O_ACCMODE|unix.O_TRUNC) == 0 {
		return errNoChange
	}
	head, err := c.readBytes(c.arg(1), 8) // struct file_handle
	if err != nil {
		return err
	}
	size := binary.NativeEndian.Uint32(head)
	if size > 128 { // MAX_HANDLE_SZ
		return unix.EINVAL
	}
	handle, err := c.readBytes(c.arg(1)+8, int(size))
	if err != nil {
		return err
	}
	mount, err := c.openMount(c.argInt(0))
	if err != nil {
		return err
	}
	defer unix.Close(mount)
	kind := int32(binary.NativeEndian.Uint32(head[4:]))
	fd, err := unix.OpenByHandleAt(mount, unix.NewFileHandle(kind, handle), unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return errUnreadable(err)
	}
	root, err := rootOf(c.TID)
	if err != nil {
		unix.Close(fd)
		return err
	}
	defer root.close()
	f, err := newFile(fd, root)
	if err != nil {
		return err
	}
	defer f.close()
	c.File.Typed = f.full
	return c.opensFile(f.fd, "", f.full, &f.stat)
}

// openMount opens what dirfd of the target stands for, to be used with a
// handle: O_PATH is not enough there.
func (c *Call) openMount(dirfd int) (int, error) {
	base, err := openBase(c.TID, dirfd)
	if err != nil {
		return -1, err
	}
	defer unix.Close(base)
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", base), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return -1, errUnreadable(err)
	}
	return fd, nil
}

// makes describes a call that makes a name.
func (c *Call) makes(op string, dirfd int, at uint64) error {
	name, err := c.readPath(at)
	if err != nil {
		return err
	}
	return c.makesName(op, dirfd, name)
}

func (c *Call) makesName(op string, dirfd int, name string) error {
	c.File = File{Op: op, Typed: absolute(c.TID, dirfd, name)}
	p, err := c.place(dirfd, name)
	if err != nil {
		return err
	}
	defer p.close()
	c.File.Path = p.path()
	if p.stat != nil {
		return unix.EEXIST
	}
	return nil
}

func (c *Call) symlinks(textAt uint64, dirfd int, at uint64) error {
	text, err := c.readPath(textAt)
	if err == nil {
		err = c.makes("symlink", dirfd, at)
	}
	c.File.To = text
	return err
}

// names describes a call on a name that exists, and not on what a link of
// that name leads to.
func (c *Call) names(op string, dirfd int, at uint64) error {
	name, err := c.readPath(at)
	if err != nil {
		return err
	}
	c.File = File{Op: op, Typed: absolute(c.TID, dirfd, name)}
	p, err := c.place(dirfd, name)
	if err != nil {
		return err
	}
	defer p.close()
	c.File.Path = p.path()
	if p.stat == nil {
		return unix.ENOENT
	}
	return nil
}

func (c *Call) renames(fromFD int, from uint64, toFD int, to uint64) error {
	if err := c.names("rename", fromFD, from); err != nil {
		return err
	}
	return c.second(toFD, to)
}

// second sets To: the second name of a call.
func (c *Call) second(dirfd int, at uint64) error {
	name, err := c.readPath(at)
	if err != nil {
		return err
	}
	c.File.To = absolute(c.TID, dirfd, name)
	p, err := c.place(dirfd, name)
	if err != nil {
		return err
	}
	defer p.close()
	c.File.To = p.path()
	for i := range c.written {
		c.written[i].Path = p.path() // the name that it gets
	}
	c.keep(p.dir.fd, p.name, p.path(), true)
	if c.File.Op == "rename" && p.stat != nil {
		c.File.Replaced = &File{Op: "unlink", Path: c.File.To, Typed: absolute(c.TID, dirfd, name)}
	}
	return nil
}

func (c *Call) links(fromFD int, from uint64, toFD int, to uint64, flags int) error {
	err := c.names("link", fromFD, from)
	if flags&(unix.AT_EMPTY_PATH|unix.AT_SYMLINK_FOLLOW) != 0 {
		err = c.altersAny("link", fromFD, from, flags&^unix.AT_SYMLINK_FOLLOW)
	}
	if err != nil {
		return err
	}
	return c.second(toFD, to)
}

// alters describes a call on a file that has a name.
func (c *Call) alters(op string, dirfd int, at uint64, flags int) error {
	return c.fileOnly(c.altersAny(op, dirfd, at, flags))
}

func (c *Call) altersFD(op string, fd int) error {
	f, err := lookupFD(c.TID, fd)
	if err != nil {
		return err
	}
	defer f.close()
	return c.fileOnly(c.altersFile(op, f, f.full))
}

func (c *Call) altersAny(op string, dirfd int, at uint64, flags int) error {
	name, err := c.readPath(at)
	if err != nil && !(at == 0 && flags&unix.AT_EMPTY_PATH != 0) { // NULL is as good as ""
		return err
	}
	switch {
	case name == "" && flags&unix.AT_EMPTY_PATH != 0 && dirfd != unix.AT_FDCWD:
		f, err := lookupFD(c.TID, dirfd)
		if err != nil {
			return err
		}
		defer f.close()
		return c.altersFile(op, f, f.full)
	case name == "" && flags&unix.AT_EMPTY_PATH != 0:
		name = "."
	case flags&noFollow != 0:
		return c.names(op, dirfd, at)
	}
	c.File = File{Op: op, Typed: absolute(c.TID, dirfd, name)}
	f, err := lookup(c.TID, c.PID, dirfd, name)
	if err != nil {
		return err
	}
	defer f.close()
	return c.altersFile(op, f, c.File.Typed)
}

func (c *Call) altersFile(op string, f *file, typed string) error {
	c.File = File{Op: op, Path: f.full, Typed: typed}
	// Nothing is closed behind a truncate(2), and what is linked by a descriptor
	// may be open for writing under no name (O_TMPFILE).
	if op == "truncate" || op == "link" {
		c.keep(f.fd, "", f.full, true)
	}
	return nil
}

// fileOnly leaves alone what has no name that a rule could be about: pipes,
// sockets, files in memory.
func (c *Call) fileOnly(err error) error {
	if err == nil && !strings.HasPrefix(c.File.Path, "/") {
		return errNoChange
	}
	return err
}

// mounts describes mount(2). What it covers is changed as a whole; changed
// options of a mount that is there cover nothing.
func (c *Call) mounts() error {
	if c.arg(3)&(unix.MS_REMOUNT|unix.MS_SHARED|unix.MS_PRIVATE|unix.MS_SLAVE|unix.MS_UNBINDABLE) != 0 {
		return errNoChange
	}
	err := c.alters("mount", unix.AT_FDCWD, c.arg(1), 0)
	if err == nil && c.arg(0) != 0 {
		if source, serr := c.readPath(c.arg(0)); serr == nil {
			c.File.To = source
			if f, ferr := lookup(c.TID, c.PID, unix.AT_FDCWD, source); ferr == nil && strings.HasPrefix(source, "/") {
				c.File.To = f.full
				f.close()
			}
		}
	}
	return err
}

const moveMountToEmpty = 0x40 // MOVE_MOUNT_T_EMPTY_PATH

func (c *Call) movesMount() error {
	flags := 0
	if c.argInt(4)&moveMountToEmpty != 0 {
		flags = unix.AT_EMPTY_PATH
	}
	return c.alters("mount", c.argInt(2), c.arg(3), flags)
}
