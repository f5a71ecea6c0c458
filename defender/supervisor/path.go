package supervisor

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"appdefender/internal/sys"
)

// A file is what a path of the target leads to, held open with O_PATH so that
// it cannot be another file later.
type file struct {
	fd   int
	path string // as the target names it: below its own root
	full string // as we name it: below the container's root
	root string // of the target, as we name it; "" where it is ours
	ours bool   // full led us to it
	stat unix.Stat_t
}

func (f *file) close() {
	if f.fd >= 0 {
		unix.Close(f.fd)
		f.fd = -1
	}
}

// known returns the name that rules know f by: ours. Below another root, or in
// other mounts, a target can have any file by any name.
func (f *file) known() string {
	if !f.ours {
		f.full, f.ours = sys.NameOf(f.fd, f.full), true
	}
	return f.full
}

// typed returns in the same way the name that f was asked for by; name is
// absolute, or below a folder that /proc has named. It is that of f where it does
// not lead us to f.
func (f *file) typed(name string, absolute bool) string {
	if absolute && f.root == "" {
		return name
	}
	if absolute {
		name = path.Join(f.root, name)
	}
	var st unix.Stat_t
	if unix.Stat(name, &st) == nil && f.id() == (id{st.Dev, st.Ino}) {
		return name
	}
	return f.known()
}

// id tells files apart.
type id struct{ dev, ino uint64 }

func (f *file) id() id { return id{f.stat.Dev, f.stat.Ino} }

// lookup resolves name as thread tid of process pid() would: from its root, its
// working directory or its descriptor dirfd (AT_FDCWD for none), in its mount
// namespace, with its /proc/self. An errno of the lookup itself is what the
// kernel would say to a target with our privileges.
//
// The kernel does the walk where its answer is the target's own. It is not
// where a symbolic link depends on who follows it: /proc/self, the magic
// links behind it, and absolute links under another root. There walk does it.
func lookup(tid int, pid func() int, dirfd int, name string) (*file, error) {
	if name == "" {
		return nil, unix.ENOENT
	}
	if len(name) >= unix.PathMax {
		return nil, unix.ENAMETOOLONG
	}
	root, err := rootOf(tid)
	if err != nil {
		return nil, err
	}
	defer root.close()
	base := root.fd
	if name[0] != '/' {
		if base, err = openBase(tid, dirfd); err != nil {
			return nil, err
		}
		defer unix.Close(base)
	}
	return lookupFrom(root, base, tid, pid, name)
}

// lookupFrom is lookup below root, for a relative name from the folder base.
// Both stay the caller's.
func lookupFrom(root root, base, tid int, pid func() int, name string) (*file, error) {
	scope := uint64(unix.RESOLVE_IN_ROOT)
	plain := name[0] == '/' // from our root, where it is the target's
	if plain {
		base = root.fd
	} else {
		scope = 0
	}
	fd, err := -1, error(unix.ELOOP)
	if scope != 0 || root.ours {
		fd, err = unix.Openat2(base, name, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_CLOEXEC,
			Resolve: scope | unix.RESOLVE_NO_MAGICLINKS,
		})
	}
	if errors.Is(err, unix.ENOENT) && (!ourNumbers(tid) || throughProc(base, scope, name)) {
		err = unix.ELOOP // not in our part of /proc, or not in one in which we exist
	}
	// ELOOP is a magic link or a real loop, ENOSYS a kernel before 5.6 or a
	// container profile that does not know the call.
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EPERM) {
		fd, err = walk(root.fd, base, tid, pid, name)
		plain = false
	}
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM) {
		err = errUnreadable(err) // it is we who lack what the walk takes
	}
	if err != nil {
		return nil, err
	}
	f, err := newFile(fd, root)
	if err == nil && plain && f.root == "" {
		f.ours = true
	}
	if err == nil && f.stat.Dev == procDev && f.stat.Mode&unix.S_IFMT != unix.S_IFLNK {
		f.close()
		if fd, err = walk(root.fd, base, tid, pid, name); err == nil { // it may be behind a "self" that is us
			f, err = newFile(fd, root)
		}
	}
	return f, err
}

// throughProc reports whether the look-up of a name that does not exist may
// have gone by a "self" of procfs, which for the kernel's look-up is us: only
// then does walk find what we did not. Most of those names are the tries of
// a shell along PATH, which end in a folder elsewhere.
func throughProc(base int, scope uint64, name string) bool {
	dir, last := path.Split(strings.TrimRight(name, "/"))
	if dir == "" {
		dir = "."
	}
	fd, err := unix.Openat2(base, dir, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: scope | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	if onProc(fd) {
		return true
	}
	_, err = unix.Readlinkat(fd, last, make([]byte, 1))
	return err == nil // a link that leads to nothing: who knows by which way
}

// lookupFD is lookup for an open descriptor of the target.
func lookupFD(tid, fd int) (*file, error) {
	root, err := rootOf(tid)
	if err != nil {
		return nil, err
	}
	defer root.close()
	f, err := openProc(tid, fmt.Sprintf("fd/%d", fd))
	if errors.Is(err, unix.ENOENT) {
		return nil, unix.EBADF
	}
	if err != nil {
		return nil, err
	}
	return newFile(f, root)
}

func newFile(fd int, root root) (*file, error) {
	f := &file{fd: fd}
	if err := unix.Fstat(fd, &f.stat); err != nil {
		f.close()
		return nil, err
	}
	name, err := nameOf(fd)
	if err != nil {
		f.close()
		return nil, errUnreadable(fmt.Errorf("naming a file: %w", err))
	}
	if f.stat.Nlink == 0 {
		name = strings.TrimSuffix(name, " (deleted)")
	}
	f.full = name
	if root.ours {
		f.path = name
		return f, nil
	}
	f.root = "/"
	if prefix, err := nameOf(root.fd); err == nil && prefix != "/" {
		f.root = prefix
		if rest, ok := strings.CutPrefix(name, prefix); ok && strings.HasPrefix(rest, "/") {
			name = rest
		}
	}
	f.path = name
	return f, nil
}

// unreadable marks an error of ours, as opposed to an errno that the lookup
// would have had in the target.
type unreadable struct{ error }

func (u unreadable) Unwrap() error { return u.error }

func errUnreadable(err error) error { return unreadable{err} }

func openBase(tid, dirfd int) (int, error) {
	if dirfd == unix.AT_FDCWD {
		return openProc(tid, "cwd")
	}
	fd, err := openProc(tid, fmt.Sprintf("fd/%d", dirfd))
	if errors.Is(err, unix.ENOENT) {
		return -1, unix.EBADF
	}
	return fd, err
}

// nameOf returns the name that a descriptor of ours was opened by, as far as
// it still has that.
func nameOf(fd int) (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(ourFDs, strconv.Itoa(fd), buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// ourFDs is /proc/self/fd, which is quicker to look up from than by its path.
var ourFDs = func() int {
	fd, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1 // no /proc: nothing can be named
	}
	return fd
}()

// mount is a folder in a mount. Mounts of other namespaces have other ids.
type mount struct {
	id
	mnt uint64 // 0 before Linux 5.8
}

// root is the root directory of a thread of the target.
type root struct {
	fd   int
	ours bool // absolute symbolic links lead the target where they lead us
}

// ourRoot is what the supervisor itself sees, which most targets do; it is
// never closed.
var ourRoot = func() root {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	return root{fd: fd, ours: err == nil}
}()

var ourMount, _ = mountOf(ourRoot.fd, "")

// rootOf returns the root of thread tid. Where the kernel does not tell mounts
// apart (before Linux 5.8) nobody can say whether it is ours.
func rootOf(tid int) (root, error) {
	name := procName(tid, "root")
	var m mount
	err := sys.AsTarget(tid, func() (err error) { m, err = mountOf(unix.AT_FDCWD, name); return err })
	if err == nil && m.mnt != 0 && m == ourMount && ourRoot.ours {
		return ourRoot, nil
	}
	fd, err := openProc(tid, "root")
	return root{fd: fd}, err
}

func (r root) close() {
	if !r.ours {
		unix.Close(r.fd)
	}
}

// mountOf returns the folder at name from dir, or dir itself.
func mountOf(dir int, name string) (mount, error) {
	var st unix.Statx_t
	err := unix.Statx(dir, name, unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_MNT_ID, &st)
	if err != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return mount{}, err
	}
	return mount{id{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}, st.Mnt_id}, nil
}

// procDev is the device of our procfs.
var procDev = statID("/proc").dev

func statID(name string) id {
	var st unix.Stat_t
	if unix.Stat(name, &st) != nil {
		return id{}
	}
	return id{st.Dev, st.Ino}
}

const maxLinks = 40 // MAXSYMLINKS of the kernel

// walk resolves name a component at a time, as path_resolution(7) says.
func walk(root, base, tid int, pid func() int, name string) (int, error) {
	w := walker{root: root, at: -1, tid: tid, pid: pid, todo: strings.Split(name, "/")}
	if name[0] == '/' {
		base = root
	}
	err := w.enter(base)
	for err == nil && len(w.todo) > 0 {
		part := w.todo[0]
		w.todo = w.todo[1:]
		err = w.step(part)
	}
	if err != nil {
		unix.Close(w.at)
		return -1, err
	}
	return w.at, nil
}

// walker is on the way along a path.
type walker struct {
	root  int // of the target
	at    int // where it is, a descriptor of its own
	todo  []string
	links int // followed
	tid   int
	pid   func() int
}

// enter goes to where dir is.
func (w *walker) enter(dir int) error {
	fd, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return errUnreadable(err)
	}
	w.move(fd)
	return nil
}

func (w *walker) move(to int) {
	unix.Close(w.at)
	w.at = to
}

func (w *walker) step(part string) error {
	switch {
	case part == "" || part == ".":
		// A trailing slash asks for a directory.
		if len(w.todo) == 0 && !isDir(w.at) {
			return unix.ENOTDIR
		}
		return nil
	case part == ".." && sameFile(w.at, w.root):
		return nil
	}
	fd, err := unix.Openat(w.at, part, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return errUnreadable(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		w.move(fd)
		return nil
	}
	defer unix.Close(fd)
	if w.links++; w.links > maxLinks {
		return unix.ELOOP
	}
	return w.follow(fd, part)
}

// follow goes on where a link leads.
func (w *walker) follow(link int, name string) error {
	var to string
	var err error
	switch {
	case !onProc(link):
		to, err = readlinkat(link)
	case name == "self":
		to, err = numberIn(w.at, w.pid())
	case name == "thread-self":
		var self, thread string
		if self, err = numberIn(w.at, w.pid()); err == nil {
			if thread, err = numberIn(w.at, w.tid); err == nil {
				to = self + "/task/" + thread
			}
		}
	default:
		// A magic link leads to its object, whatever its text says; a
		// plain link inside procfs (mounts, net) is relative to it.
		fd, err := unix.Openat(w.at, name, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err == nil {
			w.move(fd)
		}
		return err
	}
	if err == nil && strings.HasPrefix(to, "/") {
		err = w.enter(w.root)
	}
	w.todo = append(strings.Split(to, "/"), w.todo...)
	return err
}

// numberIn returns the number of process or thread tid in the procfs that
// directory dir is the root of: that of a pid namespace further in may be the
// one that the target sees. A number is right if the status behind it tells
// the same numbers from there inwards. Where the kernel tells none (gVisor),
// only those of our own procfs are.
func numberIn(dir, tid int) (string, error) {
	ours, err := sys.ReadStatus(tid)
	if err != nil {
		return "", errUnreadable(err)
	}
	if ours.NSPID == nil && ourProc(dir) {
		return strconv.Itoa(tid), nil
	}
	for i, n := range ours.NSPID {
		there, err := sys.ReadStatusAt(fmt.Sprintf("/proc/self/fd/%d/%d/status", dir, n))
		if err == nil && slices.Equal(there.NSPID, ours.NSPID[i:]) {
			return strconv.Itoa(n), nil
		}
	}
	return "", unix.ENOENT // a procfs of strangers
}

func isDir(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

func sameFile(a, b int) bool {
	var x, y unix.Stat_t
	return unix.Fstat(a, &x) == nil && unix.Fstat(b, &y) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}

func onProc(fd int) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.PROC_SUPER_MAGIC
}

// ourProc reports whether a directory lies in the procfs that we see.
func ourProc(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Dev == procDev
}

func readlinkat(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func readlink(name string) (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlink(name, buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// absolute makes name absolute as typed: against the working directory or
// descriptor, without following a link.
func absolute(tid, dirfd int, name string) string {
	if strings.HasPrefix(name, "/") {
		return path.Clean(name)
	}
	link := "cwd"
	if dirfd != unix.AT_FDCWD {
		link = fmt.Sprintf("fd/%d", dirfd)
	}
	dir, err := readlinkProc(tid, link)
	if err != nil {
		return name
	}
	return path.Join(dir, name)
}
