package sys

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNameOf names files that are where they are said to be, that were removed,
// that are elsewhere, and that have no place.
func TestNameOf(t *testing.T) {
	dir := t.TempDir()
	make := func(name string) (string, int) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return path, fd
	}
	there, thereFD := make("there")
	gone, goneFD := make("gone")
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	memory, err := unix.MemfdCreate("x/usr/bin/git", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(memory)
	for _, test := range []struct {
		fd         int
		name, want string
	}{
		{thereFD, there, there},
		{goneFD, gone + " (deleted)", gone},
		{thereFD, "/proc/self/status", Unreachable + "/proc/self/status"}, // which is another file
		{thereFD, "/proc/nothing", Unreachable + "/proc/nothing"},
		{goneFD, "/proc/nothing (deleted)", Unreachable + "/proc/nothing"},
		{memory, "/memfd:x/usr/bin/git (deleted)", "/memfd:x/usr/bin/git"},
	} {
		if got := NameOf(test.fd, test.name); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestDumpsAll(t *testing.T) {
	for text, want := range map[string]bool{"0\n": false, "1\n": true, "2\n": false} {
		name := filepath.Join(t.TempDir(), "suid_dumpable")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := dumpsAll(name); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
