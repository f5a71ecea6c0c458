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

	"appdefender/policy"
)

const maxAncestors = 16

// Describe returns all there is to tell about process pid.
func Describe(pid int) policy.Process {
	p := Brief(pid)
	p.Command = command(pid)
	st := readStatus(pid)
	p.User = userName(st.uid)
	for parent := st.ppid; parent > 0 && parent != self && len(p.Ancestors) < maxAncestors; {
		p.Ancestors = append(p.Ancestors, policy.Ancestor{PID: parent, Path: path(parent)})
		parent = readStatus(parent).ppid
	}
	return p
}

// Brief returns the process with its path alone.
func Brief(pid int) policy.Process { return policy.Process{PID: pid, Path: path(pid)} }

var self = os.Getpid()

// path returns the executable's path as the process itself names it.
func path(pid int) string {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return ""
	}
	if root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", pid)); err == nil && root != "/" {
		if rest, ok := strings.CutPrefix(exe, root); ok && strings.HasPrefix(rest, "/") {
			exe = rest
		}
	}
	return strings.TrimSuffix(exe, " (deleted)")
}

const maxCommand = 64 << 10

func command(pid int) []string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/cmdline", pid))
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

type status struct {
	ppid int
	uid  string
}

func readStatus(pid int) status {
	var st status
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return st
	}
	for line := range strings.Lines(string(data)) {
		switch f := strings.Fields(line); {
		case len(f) > 1 && f[0] == "PPid:":
			st.ppid, _ = strconv.Atoi(f[1])
		case len(f) > 2 && f[0] == "Uid:":
			st.uid = f[2] // effective
		}
	}
	return st
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
