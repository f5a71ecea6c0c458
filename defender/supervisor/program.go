package supervisor

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"appdefender/internal/sys"
)

// Program is what an exec would start, with every name it goes by; the fields
// are those of policy.Program.
type Program struct {
	Typed        string
	Path         string
	Interpreters []string
	Loaded       string
	Applet       string
	Within       []string
	Dev, Ino     uint64
	Facts
	// Digests are the SHA-256 of Path, the Interpreters and Loaded, in that
	// order, if Config.WatchDigests asks; "" of what cannot be read.
	Digests []string
	// Foreign says that it is for a call table that the target does not have
	// (i386): all its calls would fail.
	Foreign bool

	// Examined is what Config.Examine has said of the same files, if there is
	// such a function.
	Examined []any

	loads   version // the file the kernel will load: /proc/PID/exe after the exec
	lasts   bool    // a change to it would make another version of it
	nature  nature
	digest  string   // its SHA-256, if that is wanted
	exam    any      // what Examine has said of it
	elf     bool     // it is ELF, of this processor: nothing but it can be loaded
	gains   bool     // it gains privileges: set-uid, set-gid or capabilities
	command []string // what the new process's argv must be, where a name hangs on it
}

// Emulated reports whether an emulator that is registered for such files may be
// loaded in place of it (binfmt_misc). Which one, nobody can say before.
func (p *Program) Emulated() bool { return !p.elf && len(p.Interpreters) == 0 }

const maxScripts = 5 // nested interpreters the kernel follows (exec_binprm)

// program describes the file f that thread tid wants to execute.
//
// An errno is what execve itself would say; an unreadable error is ours.
func (c *Call) program(f *file, typed string) (*Program, error) {
	p := &Program{Typed: typed, Dev: f.stat.Dev, Ino: f.stat.Ino}
	p.Path = c.name(p, f)
	if c.theirs != "" {
		p.within(c.theirs, typed)
	}
	at, err := c.interpreted(p, f)
	if at != f {
		defer at.close()
	}
	if err != nil {
		return nil, err
	}
	if at != f {
		c.facts(p, f, false)
	}
	is := p.nature
	p.loads, p.Foreign = versionOf(&at.stat), is.foreign
	p.elf = is.hidden || nativeELF(is.head)
	p.gains = at.stat.Mode&(unix.S_ISUID|unix.S_ISGID) != 0
	c.facts(p, at, true)
	if n := len(p.Digests); n > 0 {
		p.digest = p.Digests[n-1]
	}
	if n := len(p.Examined); n > 0 {
		p.exam = p.Examined[n-1]
	}
	if is.interpreter != "" {
		started, err := c.startedBy(p, is.interpreter)
		if err != nil {
			return nil, err
		}
		is.multiCall = is.multiCall || started.multiCall
	}
	if is.loader || is.multiCall {
		if p.command == nil {
			if p.command, err = c.Argv(); err != nil {
				return nil, errUnreadable(err)
			}
		}
		if c.argvCut {
			return nil, errUnreadable(errors.New("more arguments than can be judged for a program that takes its function from them"))
		}
		if err := c.behind(p, is, p.command); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// interpreted follows "#!" lines from f to the file that the kernel loads, and
// notes in p what that is, the interpreters and their command. It returns that
// file, which is f or the caller's to close, also with an error.
func (c *Call) interpreted(p *Program, f *file) (at *file, err error) {
	for at = f; ; {
		if err := executable(at); err != nil {
			return at, err
		}
		if p.nature, p.lasts, err = c.s.natures.of(c, at); err != nil {
			return at, err
		}
		c.look(p, at)
		if at != f {
			p.Interpreters = append(p.Interpreters, c.name(p, at))
		}
		interpreter, arg, ok := shebang(p.nature.head)
		if !ok {
			return at, nil
		}
		if len(p.Interpreters) == maxScripts {
			return at, unix.ELOOP
		}
		if p.command == nil {
			argv, err := c.Argv()
			if err != nil {
				return at, errUnreadable(err)
			}
			p.command = append([]string{c.typed}, argv[min(1, len(argv)):]...)
		}
		if arg != "" {
			p.command = append([]string{arg}, p.command...)
		}
		p.command = append([]string{interpreter}, p.command...)
		next, err := lookup(c.TID, c.PID, unix.AT_FDCWD, interpreter)
		if err != nil {
			return at, err
		}
		if at != f {
			c.facts(p, at, false)
			at.close()
		}
		at = next
	}
}

// name returns what rules know f by, and notes in p what else it is called.
func (c *Call) name(p *Program, f *file) string {
	known := f.known()
	p.within(f.path, known)
	if c.s.cfg.DeniedPaths == nil || f.stat.Nlink < 2 && !strings.HasPrefix(known, sys.Unreachable) {
		return known
	}
	for _, denied := range c.s.cfg.DeniedPaths() {
		var st unix.Stat_t
		if unix.Lstat(denied, &st) == nil && f.id() == (id{st.Dev, st.Ino}) {
			p.within(denied, known)
		}
	}
	return known
}

func (p *Program) within(theirs, known string) {
	if theirs != known && !slices.Contains(p.Within, theirs) {
		p.Within = append(p.Within, theirs)
	}
}

// look reads what rules ask about the content of f.
func (c *Call) look(p *Program, f *file) {
	if c.s.cfg.WatchDigests != nil && c.s.cfg.WatchDigests() {
		p.Digests = append(p.Digests, c.s.natures.sha256(c, f))
	}
	if c.s.cfg.Examine != nil {
		p.Examined = append(p.Examined, c.s.cfg.Examine(&Executable{c: c, f: f}))
	}
}

// Executable is a file that an exec would run, while the exec is judged.
type Executable struct {
	c *Call
	f *file
}

// Name is its path below our root.
func (e *Executable) Name() string { return e.f.full }

// Changed is the time of its last change, which nobody can set.
func (e *Executable) Changed() time.Time { return time.Unix(e.f.stat.Ctim.Unix()) }

// Size is its size in bytes.
func (e *Executable) Size() int64 { return e.f.stat.Size }

// Digest returns a digest of its content, which is remembered.
func (e *Executable) Digest(hash crypto.Hash) ([]byte, error) {
	return e.c.s.natures.digest(e.c, e.f, hash)
}

// Once returns what find finds in its content. That is remembered by what,
// which is to be of a type of the caller's.
func (e *Executable) Once(what any, find func(io.Reader) (any, error)) (any, error) {
	result, _, err := e.c.s.natures.once(e.c, e.f, what, find)
	return result, err
}

// startedBy adds to the interpreters what the kernel loads beside an ELF program
// and starts in its place, unless that is a loader: it may be any program. It is
// opened again by the kernel; of a name that leads elsewhere by then the exec's
// stop tells nothing.
func (c *Call) startedBy(p *Program, name string) (is nature, err error) {
	if name == beyond {
		return is, errUnreadable(errors.New("its interpreter is named beyond what is read of a program"))
	}
	f, err := lookup(c.TID, c.PID, unix.AT_FDCWD, name)
	if err != nil {
		return is, nil //nolint:nilerr // nothing will run
	}
	defer f.close()
	if f.stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return is, nil
	}
	if is, _, err = c.s.natures.of(c, f); err != nil || is.loader {
		return is, err
	}
	p.Interpreters = append(p.Interpreters, c.name(p, f))
	c.look(p, f)
	c.facts(p, f, false)
	return is, nil
}

// behind tells which function of a multi-call binary, or which program behind
// a loader, the arguments name: that program may be a multi-call binary again.
func (c *Call) behind(p *Program, is nature, command []string) error {
	if is.loader {
		argv := loaded(command)
		if argv == nil {
			return nil
		}
		p.Loaded = absolute(c.TID, unix.AT_FDCWD, argv[0])
		f, err := lookup(c.TID, c.PID, unix.AT_FDCWD, argv[0])
		if err != nil {
			return nil // nothing will run
		}
		defer f.close()
		p.Loaded = c.name(p, f)
		c.facts(p, f, false)
		c.look(p, f)
		if f.stat.Mode&unix.S_IFMT != unix.S_IFREG {
			return nil // of a pipe nothing can be loaded
		}
		if is, _, err = c.s.natures.of(c, f); err != nil || !is.multiCall {
			return err
		}
		command = argv[1:]
	}
	p.Applet = applet(command)
	return nil
}

// executable returns the errno of an exec of something that is no program.
// Whether the target's user may execute it is left to the kernel.
func executable(f *file) error {
	if f.stat.Mode&unix.S_IFMT != unix.S_IFREG || f.stat.Mode&0o111 == 0 {
		return unix.EACCES
	}
	return nil
}

// errLeased means that another process has a lease on a file, and the kernel
// has asked it to let go (fcntl(2), F_SETLEASE). An open that waits, waits for
// up to 45 seconds.
var errLeased = errors.New("another process has a lease on it")

// openToRead opens f, and waits neither for the holder of a lease nor for the
// other end of a pipe.
func openToRead(f *file) (int, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.fd), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.EAGAIN) {
		err = errLeased
	}
	return fd, err
}

// shebang splits a #! line as the kernel does (fs/binfmt_script.c): the
// interpreter, and everything behind the blanks that follow it as one
// argument.
func shebang(head string) (interpreter, arg string, ok bool) {
	line, ok := strings.CutPrefix(head, "#!")
	if !ok {
		return "", "", false
	}
	line, _, whole := strings.Cut(line, "\n")
	text := strings.TrimLeft(line, " \t")
	if i := strings.IndexByte(text, 0); i >= 0 {
		text, whole = text[:i], true
	}
	i := strings.IndexAny(text, " \t")
	if i < 0 {
		// A name cut off by the end of the buffer is no interpreter.
		return text, "", text != "" && (whole || len(head) < headSize)
	}
	return text[:i], strings.Trim(text[i:], " \t"), i > 0
}

// maxArgv is what the kernel takes at most of all arguments with their pointers
// (fs/exec.c, bprm_stack_limits).
const maxArgv = 6 << 20

// maxArg is what it takes of one (MAX_ARG_STRLEN).
var maxArg = 32 * os.Getpagesize()

// Argv reads the arguments of an exec: all that the kernel would take, for what
// is not read is where an attacker hides what is looked for.
func (c *Call) Argv() ([]string, error) {
	if c.argv != nil || c.argvAt == 0 {
		return c.argv, nil
	}
	argv := make([]string, 0, 8)
	list, texts := window{tid: c.TID}, window{tid: c.TID}
	size := 0
	for at := c.argvAt; ; at += uint64(c.word) {
		if size >= maxArgv {
			c.argvCut = true
			break
		}
		var b [8]byte
		if err := list.read(at, b[:c.word]); err != nil {
			return nil, err
		}
		p := le(b[:c.word])
		if p == 0 {
			break
		}
		s, err := texts.string(p, maxArg)
		if errors.Is(err, unix.ENAMETOOLONG) {
			c.argvCut = true
			break
		}
		if err != nil {
			return nil, err
		}
		size += len(s) + 1 + c.word
		argv = append(argv, s)
	}
	if err := c.pending(); err != nil {
		return nil, err
	}
	c.argv = argv
	return argv, nil
}

// le reads a little-endian word of 4 or 8 bytes: all supported architectures
// are little-endian.
func le(b []byte) uint64 {
	var v uint64
	for i := len(b) - 1; i >= 0; i-- {
		v = v<<8 | uint64(b[i])
	}
	return v
}

// window reads the memory of a thread in pieces of 4 KiB and keeps the last
// one: what is read next mostly lies in it.
type window struct {
	tid   int
	at    uint64
	bytes []byte // nil before the first
}

const windowSize = 4 << 10 // divides every page

// move has the window hold addr, and returns what it has from there on.
func (w *window) move(addr uint64) ([]byte, error) {
	if at := addr &^ (windowSize - 1); at != w.at || w.bytes == nil {
		if w.bytes == nil {
			w.bytes = make([]byte, windowSize)
		}
		w.at = at
		if err := readFull(w.tid, at, w.bytes); err != nil {
			w.bytes = nil
			return nil, err
		}
	}
	return w.bytes[addr-w.at:], nil
}

func (w *window) read(addr uint64, into []byte) error {
	for len(into) > 0 {
		has, err := w.move(addr)
		if err != nil {
			return err
		}
		n := copy(into, has)
		addr, into = addr+uint64(n), into[n:] //nolint:gosec // a window is small
	}
	return nil
}

// string reads a text that ends with a 0, of less than limit bytes. A longer one
// is ENAMETOOLONG.
func (w *window) string(addr uint64, limit int) (string, error) {
	var begun []byte
	for len(begun) < limit {
		has, err := w.move(addr)
		if err != nil {
			return "", err
		}
		if end := bytes.IndexByte(has, 0); end >= 0 && len(begun)+end < limit {
			if begun == nil {
				return string(has[:end]), nil
			}
			return string(append(begun, has[:end]...)), nil
		}
		begun = append(begun, has...)
		addr += uint64(len(has))
	}
	return "", unix.ENAMETOOLONG
}
