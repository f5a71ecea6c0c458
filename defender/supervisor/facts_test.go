package supervisor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// describeFile describes an exec of path by this process.
func describeFile(t *testing.T, path string) *Program {
	t.Helper()
	all := func() Watch { return WatchFileless | WatchWritable | WatchSetUID | WatchTimes }
	c := &Call{TID: os.Getpid(), word: 8, socket: -1, s: &Supervisor{cfg: Config{WatchPrograms: all}}}
	f, err := lookup(c.TID, c.PID, unix.AT_FDCWD, path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	p, err := c.program(f, path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFacts(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Skip(err)
	}
	start := time.Now().Add(-time.Second)
	dir := t.TempDir()
	place := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	deleted, err := os.Open(place("deleted", 0o755))
	if err != nil {
		t.Fatal(err)
	}
	defer deleted.Close()
	if err := os.Remove(deleted.Name()); err != nil {
		t.Fatal(err)
	}
	memory, err := unix.MemfdCreate("x", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(memory)
	if _, err := unix.Write(memory, data); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fchmod(memory, 0o755); err != nil {
		t.Fatal(err)
	}
	old := place("old", 0o755)
	if err := os.Chtimes(old, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	procFD := func(fd uintptr) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
	tests := []struct {
		name, path string
		want       func(*Program) bool
	}{
		{"of the system", "/bin/true", func(p *Program) bool { return !p.Fileless && !p.Writable && !p.SetUID && p.Changed.Before(start) }},
		{"new", place("new", 0o755), func(p *Program) bool { return !p.Fileless && !p.SetUID && p.Changed.After(start) }},
		{"new, dated back", old, func(p *Program) bool { return p.Changed.After(start) }},
		{"everybody's", place("everybody", 0o777), func(p *Program) bool { return p.Writable }},
		{"set-uid", place("setuid", 0o755|os.ModeSetuid), func(p *Program) bool { return p.SetUID }},
		{"set-gid", place("setgid", 0o755|os.ModeSetgid), func(p *Program) bool { return p.SetUID }},
		{"deleted", procFD(deleted.Fd()), func(p *Program) bool { return p.Fileless }},
		{"in memory", procFD(uintptr(memory)), func(p *Program) bool { return p.Fileless && p.Path == "/memfd:x" }},
	}
	for _, test := range tests {
		if p := describeFile(t, test.path); !test.want(p) {
			t.Errorf("%s: %+v", test.name, p)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if p := describeFile(t, filepath.Join(dir, "new")); !p.Writable {
		t.Errorf("in a folder for everybody: %+v", p)
	}
}

// TestLeadsAway tells by tables where a socket leads that cannot be had.
func TestLeadsAway(t *testing.T) {
	inode := func(fd int) string {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		return strconv.FormatUint(st.Ino, 10)
	}
	refused := errors.New("no descriptor")
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	if away, err := leadsAway("/proc/self/net/", inode(pair[0]), refused); away || err != nil {
		t.Errorf("a pair: %t, %v", away, err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if away, err := leadsAway("/proc/self/net/", inode(int(f.Fd())), refused); away || err != nil {
		t.Errorf("to this machine: %t, %v", away, err)
	}
	if _, err := leadsAway("/proc/self/net/", "1", refused); !errors.Is(err, refused) {
		t.Errorf("a socket that is nowhere: %v", err)
	}
	// Lines of proc_net(5), as a little-endian machine has them.
	dir := t.TempDir() + "/"
	const line = "   0: 0100007F:1F90 %s 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 20 4 30 10 -1\n"
	for table, peers := range map[string]map[string]bool{
		"tcp":  {"0A09080A:0050": true, "0100007F:0050": false, "00000000:0000": false},
		"udp6": {"B80D0120000000000000000001000000:0050": true, "0000000000000000FFFF00000100007F:0050": false},
	} {
		for peer, want := range peers {
			if err := os.WriteFile(dir+table, fmt.Appendf([]byte("  sl  local_address rem_address\n"), line, peer), 0o600); err != nil {
				t.Fatal(err)
			}
			if away, err := leadsAway(dir, "4711", refused); away != want || err != nil {
				t.Errorf("%s to %s: %t, %v", table, peer, away, err)
			}
		}
		if err := os.Remove(dir + table); err != nil {
			t.Fatal(err)
		}
	}
}
