package supervisor

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"appdefender/internal/sys"
)

// atExecveCheck is AT_EXECVE_CHECK (Linux 6.14): only asks whether the file
// could be executed. Older kernels refuse the flag.
const atExecveCheck = 0x10000

// exec describes an execve or execveat and hands it to the handler.
//
// What cannot be found is answered at once with the kernel's own errno and is
// no event: a shell walking PATH tries a dozen files that do not exist. It
// must be answered, not continued: another thread could have changed the path
// to one that does.
func (s *Supervisor) exec(c *Call) {
	c.Op, c.Name = Exec, "execve"
	pathAt, dirfd, flags := c.arg(0), unix.AT_FDCWD, 0
	c.argvAt = c.arg(1)
	if c.regs.NR == unix.SYS_EXECVEAT {
		c.Name = "execveat"
		pathAt, dirfd, flags = c.arg(1), c.argInt(0), c.argInt(4)
		c.argvAt = c.arg(2)
	}
	if flags&atExecveCheck != 0 {
		c.Op = 0
		_ = c.proceed()
		return
	}
	if c.Unknown != nil {
		c.unknown(c.Unknown)
		return
	}
	var f *file
	var typed string
	err := s.pace.look(c, func() (err error) {
		f, typed, err = c.findProgram(pathAt, dirfd, flags)
		return err
	})
	if err == nil {
		c.Program, err = c.program(f, typed)
		for errors.Is(err, errLeased) && !c.onTracer() && c.pending() == nil {
			time.Sleep(10 * time.Millisecond)
			c.Program, err = c.program(f, typed)
		}
		f.close()
	}
	if err != nil {
		// A target that has left is no failure to read it.
		if gone := c.pending(); gone != nil {
			err = gone
		}
	}
	var errno syscall.Errno
	var ours unreadable
	switch {
	case err == nil:
		s.cfg.Handler(c)
	case errors.Is(err, sys.ErrGone):
		c.replied = true
	case !errors.As(err, &ours) && errors.As(err, &errno) && (errno != unix.EACCES || sameRights(c.TID)):
		_ = c.refuse(errno)
	default:
		c.unknown(err)
	}
}

// findProgram reads the path and resolves it; typed is the name that counts
// for rules. The file is not kept open for longer than it is read: the
// exec stop compares device and inode, and the inode cannot be reused while
// the target executes it.
func (c *Call) findProgram(pathAt uint64, dirfd, flags int) (f *file, typed string, err error) {
	name, err := readString(c.TID, pathAt, unix.PathMax)
	if err != nil && !errors.Is(err, unix.ENAMETOOLONG) {
		if errors.Is(err, unix.EFAULT) {
			return nil, "", unix.EFAULT // the kernel could not read it either
		}
		return nil, "", errUnreadable(err)
	}
	if perr := c.pending(); perr != nil {
		return nil, "", perr
	}
	if err != nil {
		return nil, "", unix.ENAMETOOLONG
	}
	c.typed = name
	switch {
	case name == "" && flags&unix.AT_EMPTY_PATH != 0:
		if dirfd == unix.AT_FDCWD {
			return nil, "", unix.EACCES // the working directory
		}
		c.typed = fmt.Sprintf("/dev/fd/%d", dirfd)
		f, err = lookupFD(c.TID, dirfd)
	default:
		if dirfd != unix.AT_FDCWD && !strings.HasPrefix(name, "/") {
			c.typed = fmt.Sprintf("/dev/fd/%d/%s", dirfd, name)
		}
		f, err = lookup(c.TID, c.PID, dirfd, name)
	}
	if err != nil {
		return nil, "", err
	}
	if flags&unix.AT_SYMLINK_NOFOLLOW != 0 && name != "" {
		// execveat(2): ELOOP if the last component is a link. The kernel will
		// say so by itself; the resolved file is judged all the same.
		c.typed = name
	}
	if name == "" {
		return f, f.known(), nil
	}
	c.theirs = absolute(c.TID, dirfd, name)
	return f, f.typed(c.theirs, strings.HasPrefix(name, "/")), nil
}

func (s *Supervisor) exited(pid int, status unix.WaitStatus) {
	if s.cfg.Exited != nil {
		s.cfg.Exited(pid, status)
	}
}

// verify compares what process pid has loaded with what was judged and
// returns the difference. The process stands before its first instruction.
//
// Where something hangs on argv (the names of scripts, loaders and multi-call
// binaries, a rule that asks for arguments), argv is compared too: the new
// process has its own copy, out of reach of the threads that could change the
// old one.
func (c *Call) verify(pid int, r Reply) *Program {
	st, err := statProc(pid, "exe")
	if err != nil {
		if !c.stands(pid) {
			return nil // killed in its stop: nothing runs
		}
		// A program that nobody may read leaves a process that we may not look
		// into. It can only be the judged one if that was such a program.
		if c.Program.nature.hidden {
			return nil
		}
		return &Program{Path: "unreadable"}
	}
	loaded := versionOf(&st)
	judged := c.Program.command
	if judged == nil {
		judged = c.argv
	}
	kept := loaded == c.Program.loads && c.Program.lasts
	sameArgv := func() bool {
		if judged == nil {
			return true
		}
		argv, err := commandLine(pid)
		return err == nil && sameCommand(argv, judged)
	}
	if kept && sameArgv() {
		return nil
	}
	found := &Program{Dev: st.Dev, Ino: st.Ino}
	if fd, err := openProc(pid, "exe"); err == nil {
		if name, err := nameOf(fd); err == nil {
			found.Path = sys.NameOf(fd, name)
			found.Typed = found.Path
		}
		unix.Close(fd)
	}
	var same bool
	if loaded.id == c.Program.loads.id {
		same = !kept && c.sameContent(pid) && sameArgv()
	} else {
		same = !c.Program.elf && r.Recheck != nil && c.registered(pid, found) && r.Recheck(found)
	}
	if same {
		return nil
	}
	return found
}

// sameContent looks again at a file that was changed between the judgement and
// the load: nobody can write to it now.
func (c *Call) sameContent(pid int) bool {
	f, err := loadedFile(pid)
	if err != nil {
		return false
	}
	defer f.close()
	if is, _, err := c.s.natures.of(c, f); err != nil || is != c.Program.nature {
		return false
	}
	if c.Program.digest != "" && c.s.natures.sha256(c, f) != c.Program.digest {
		return false
	}
	return c.Program.exam == nil || reflect.DeepEqual(c.s.cfg.Examine(&Executable{c: c, f: f}), c.Program.exam)
}

// loadedFile opens the program that a process has loaded.
func loadedFile(pid int) (*file, error) {
	root, err := rootOf(pid)
	if err != nil {
		return nil, err
	}
	defer root.close()
	fd, err := openProc(pid, "exe")
	if err != nil {
		return nil, err
	}
	return newFile(fd, root)
}

// registered adds to p what rules ask about the interpreter that a process has
// loaded because it is registered for such files (binfmt_misc). It reports
// whether that could be read and is a program by itself: what a loader or a
// multi-call binary does is up to a command that nobody has judged.
func (c *Call) registered(pid int, p *Program) bool {
	f, err := loadedFile(pid)
	if err != nil {
		return false
	}
	defer f.close()
	if p.nature, _, err = c.s.natures.of(c, f); err != nil || p.nature.loader || p.nature.multiCall {
		return false
	}
	c.look(p, f)
	p.gains = f.stat.Mode&(unix.S_ISUID|unix.S_ISGID) != 0
	c.facts(p, f, true)
	return true
}

// sameCommand compares the arguments that a process was started with with those
// that were judged. The kernel gives who has none an empty name.
func sameCommand(argv, judged []string) bool {
	if len(judged) == 0 {
		return len(argv) == 0 || len(argv) == 1 && argv[0] == ""
	}
	return slices.Equal(argv, judged)
}
