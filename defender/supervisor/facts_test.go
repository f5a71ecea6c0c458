package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// describeFile describes an exec of path by this process.
func describeFile(t *testing.T, path string) *Program {
	t.Helper()
	yes := func() bool { return true }
	c := &Call{TID: os.Getpid(), word: 8, socket: -1, s: &Supervisor{cfg: Config{WatchPrograms: yes}}}
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
