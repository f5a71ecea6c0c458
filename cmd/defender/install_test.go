package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// command runs one of our commands in an application of its own.
func command(t *testing.T, cmd *cli.Command, args ...string) error {
	t.Helper()
	app := &cli.App{Name: "defender", Commands: []*cli.Command{cmd}, ExitErrHandler: func(*cli.Context, error) {}, ErrWriter: new(bytes.Buffer)}
	return app.Run(append([]string{"defender", cmd.Name}, args...))
}

func TestInstall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by-us")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	t.Setenv("DEFENDER_INSTALL_CA", "ca\n")
	if err := command(t, installCommand(&out), "--policy-text", "version: 1\n", dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"defender": string(self), "ca.pem": "ca\n", "policy.yaml": "version: 1\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(want), err)
		}
	}
	path := filepath.Join(dir, "defender")
	first, err := os.Stat(path)
	if err != nil || first.Mode() != 0o755 {
		t.Fatalf("mode %v, %v", first.Mode(), err)
	}

	out.Reset()
	if err := command(t, installCommand(&out), dir); err != nil {
		t.Fatal(err)
	}
	second, _ := os.Stat(path)
	if !os.SameFile(first, second) || strings.Count(out.String(), "already there") != 2 {
		t.Errorf("installed twice: %s", &out)
	}

	// What is damaged is replaced; so is a link, not what it leads to.
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	for name, damage := range map[string]func() error{
		"cut":        func() error { return os.Truncate(path, 100) },
		"other mode": func() error { return os.Chmod(path, 0o700) },
		"a link": func() error {
			_ = os.WriteFile(elsewhere, []byte("precious"), 0o644)
			_ = os.Remove(path)
			return os.Symlink(elsewhere, path)
		},
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if err := command(t, installCommand(&out), dir); err != nil {
			t.Fatal(err)
		}
		if !same(path, self, 0o755) {
			t.Errorf("%s: not repaired", name)
		}
	}
	if text, err := os.ReadFile(elsewhere); string(text) != "precious" {
		t.Errorf("the link's end was written: %q, %v", text, err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 3 {
		t.Errorf("%d files are there", len(list))
	}
}

func TestInstallErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	taken := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(taken, "defender", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		want []string
	}{
		{"no folder", nil, []string{"give one folder"}},
		{"two", []string{"/a", "/b"}, []string{"give one folder"}},
		{"a file", []string{file}, []string{"installing into", "it must be a folder"}},
		{"the name is a folder's", []string{taken}, []string{"installing into", "taken/defender"}},
		{"read-only", []string{"/proc/sys"}, []string{"installing into"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := command(t, installCommand(new(bytes.Buffer)), tt.args...)
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q in it", err, want)
				}
			}
		})
	}
	if list, _ := os.ReadDir(taken); len(list) != 1 {
		t.Error("a temporary file was left")
	}
}

// Where containers must not end, the installer says by a port that all is
// there, as often as it is asked, and ends when it is told to.
func TestInstallStays(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- stay(ctx, l) }()
	for range 3 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
