package inject

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestReplaceFile(t *testing.T) { // not parallel: the umask is the process's
	defer syscall.Umask(syscall.Umask(0o077))
	dir := t.TempDir()
	fresh, shared, link := filepath.Join(dir, "fresh"), filepath.Join(dir, "shared"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(shared, []byte("old"), 0o600), os.Chmod(shared, 0o644), os.Symlink(shared, link)); err != nil {
		t.Fatal(err)
	}
	say := func(text string, err error) func(io.Writer) error {
		return func(w io.Writer) error {
			_, werr := io.WriteString(w, text)
			return errors.Join(werr, err)
		}
	}
	ctx := context.Background()
	if err := errors.Join(ReplaceFile(ctx, fresh, say("a token", nil)), ReplaceFile(ctx, link, say("new", nil))); err != nil {
		t.Fatal(err)
	}
	full := errors.New("the disk is full")
	if err := ReplaceFile(ctx, fresh, say("half", full)); !errors.Is(err, full) {
		t.Errorf("a write that failed is %v", err)
	}
	for name, want := range map[string]struct {
		mode os.FileMode
		text string
	}{
		fresh:  {0o600, "a token"},
		shared: {0o644, "new"},
		link:   {os.ModeSymlink | 0o777, "new"},
	} {
		info, err := os.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(name); err != nil || info.Mode() != want.mode || string(text) != want.text {
			t.Errorf("%s has mode %v and %q (%v)", name, info.Mode(), text, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 3 {
		t.Errorf("there are %v (%v)", left, err)
	}
}
