// Package proc tells who a process is: its executable, arguments, user and
// ancestors, as /proc shows them.
//
// Everything is read while the process stands in a call that waits for our
// answer; what cannot be read stays empty.
package proc

import (
	"bytes"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"appdefender/internal/sys"
	"appdefender/policy"
)

const maxAncestors = 16

// Describe returns all there is to tell about process pid.
func Describe(pid int) policy.Process {
	p := Brief(pid)
	p.Command = command(pid)
	st, err := sys.ReadStatus(pid)
	if err != nil {
		return p
	}
	p.User = userName(strconv.Itoa(st.UID[1]))
	p.Interactive, _ = Interactive(pid)
	for parent := st.PPID; parent > 0 && parent != self && len(p.Ancestors) < maxAncestors; {
		p.Ancestors = append(p.Ancestors, policy.Ancestor{PID: parent, Path: path(parent)})
		st, err := sys.ReadStatus(parent)
		if err != nil {
			break
		}
		parent = st.PPID
	}
	return p
}

// Brief returns the process with its path alone.
func Brief(pid int) policy.Process { return policy.Process{PID: pid, Path: path(pid)} }

var self = os.Getpid()

// path returns the executable's path as we know it, "" if nobody can say. When the first
// thread of a process has ended, the others know.
func path(pid int) string {
	exe := executable(pid)
	for _, tid := range others(pid, exe == "") {
		if exe = executable(tid); exe != "" {
			break
		}
	}
	return exe
}

func executable(tid int) string {
	var fd int
	err := sys.AsTarget(tid, func() (err error) {
		fd, err = unix.Open(fmt.Sprintf("/proc/%d/exe", tid), unix.O_PATH|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	exe, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return ""
	}
	return sys.NameOf(fd, exe)
}

// others returns the threads of a process, if they are wanted.
func others(pid int, wanted bool) (tids []int) {
	if !wanted {
		return nil
	}
	dir, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil
	}
	for _, entry := range dir {
		if tid, err := strconv.Atoi(entry.Name()); err == nil && tid != pid {
			tids = append(tids, tid)
		}
	}
	return tids
}

const maxCommand = 64 << 10

// command returns the arguments; see path.
func command(pid int) []string {
	args := arguments(pid)
	for _, tid := range others(pid, args == nil) {
		if args = arguments(tid); args != nil {
			break
		}
	}
	return args
}

func arguments(tid int) []string {
	var f *os.File
	err := sys.AsTarget(tid, func() (err error) {
		f, err = os.Open(fmt.Sprintf("/proc/%d/cmdline", tid))
		return err
	})
	if err != nil {
		return nil
	}
	defer f.Close()
	buf := make([]byte, 4096)
	n := 0
	for {
		m, err := f.Read(buf[n:])
		n += m
		if err != nil || m == 0 || n >= maxCommand {
			break
		}
		if n == len(buf) {
			buf = append(buf, make([]byte, len(buf))...)
		}
	}
	if n == 0 {
		return nil
	}
	return strings.Split(string(bytes.TrimSuffix(buf[:n], []byte{0})), "\x00")
}

var users sync.Map // uid → name

// userName returns the name in the container's /etc/passwd, or the number.
func userName(uid string) string {
	if name, ok := users.Load(uid); ok {
		return name.(string)
	}
	name := uid
	if u, err := user.LookupId(uid); err == nil {
		name = u.Username
	}
	users.Store(uid, name)
	return name
}
