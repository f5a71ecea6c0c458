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

// path returns the executable's path as the process itself names it.
func path(pid int) string {
	exe, err := readlink(pid, "exe")
	if err != nil {
		return ""
	}
	if root, err := readlink(pid, "root"); err == nil && root != "/" {
		if rest, ok := strings.CutPrefix(exe, root); ok && strings.HasPrefix(rest, "/") {
			exe = rest
		}
	}
	return strings.TrimSuffix(exe, " (deleted)")
}

func readlink(pid int, name string) (to string, err error) {
	err = sys.AsTarget(pid, func() error {
		to, err = os.Readlink(fmt.Sprintf("/proc/%d/%s", pid, name))
		return err
	})
	return to, err
}

const maxCommand = 64 << 10

func command(pid int) []string {
	var f *os.File
	err := sys.AsTarget(pid, func() (err error) {
		f, err = os.Open(fmt.Sprintf("/proc/%d/cmdline", pid))
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
