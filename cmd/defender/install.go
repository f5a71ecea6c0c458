package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/urfave/cli/v2"
)

// What install puts into its folder. A protected task definition names these.
const (
	installedProgram = "defender"
	installedCA      = "ca.pem"
	installedPolicy  = "policy.yaml"
)

func installCommand(out io.Writer) *cli.Command {
	return &cli.Command{
		Name:      "install",
		Usage:     "copy this program into DIR, a volume that other containers share",
		UsageText: "defender install [flags] DIR",
		Description: "A container whose only work this is runs before those that it protects. A program\n" +
			"that is in use is replaced, not written over; one that is the same stays.",
		OnUsageError: usageError,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "ca-text", EnvVars: []string{"DEFENDER_INSTALL_CA"}, Usage: "write `PEM` to DIR/" + installedCA},
			&cli.StringFlag{Name: "policy-text", EnvVars: []string{"DEFENDER_INSTALL_POLICY"}, Usage: "write `POLICY` to DIR/" + installedPolicy},
			&cli.IntFlag{Name: "stay", Usage: "when all is there, accept connections on `PORT` and stay until told to end: for platforms whose containers must not end, and that ask a port whether one is ready"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return errors.New(`give one folder, as in "defender install /var/lib/appdefender"`)
			}
			dir := c.Args().First()
			if port := c.Int("stay"); port < 0 || port > 65535 {
				return fmt.Errorf("--stay: %d is no port", port)
			}
			if err := install(out, dir, c.String("ca-text"), c.String("policy-text")); err != nil {
				return cli.Exit(fmt.Sprintf("installing into %q: %v%s", dir, err, installHint(err)), 1)
			}
			if port := c.Int("stay"); port != 0 {
				l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
				if err != nil {
					return cli.Exit("saying that all is installed: "+err.Error(), 1)
				}
				ctx, cancel := signal.NotifyContext(c.Context, syscall.SIGTERM, syscall.SIGINT)
				defer cancel()
				return stay(ctx, l)
			}
			return nil
		},
	}
}

// stay accepts connections, which says that all is installed, until ctx ends.
func stay(ctx context.Context, l net.Listener) error {
	context.AfterFunc(ctx, func() { _ = l.Close() })
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			_ = conn.Close()
		default:
			return cli.Exit("saying that all is installed: "+err.Error(), 1)
		}
	}
}

func installHint(err error) string {
	switch {
	case errors.Is(err, syscall.EROFS):
		return "; mount a volume there that this container may write"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Sprintf("; let user %d write it, or run this container as its owner", os.Getuid())
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "; make the volume larger"
	case errors.Is(err, syscall.ENOTDIR):
		return "; it must be a folder"
	}
	return ""
}

func install(out io.Writer, dir, ca, policy string) error {
	// Not by name: the file may have been replaced since we were started.
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("reading this program: %w", err)
	}
	defer self.Close()
	program, err := io.ReadAll(self)
	if err != nil {
		return fmt.Errorf("reading this program: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
		mode os.FileMode
	}{
		// The program last: where it is, all is.
		{installedCA, []byte(ca), 0o644},
		{installedPolicy, []byte(policy), 0o644},
		{installedProgram, program, 0o755},
	} {
		if len(f.data) == 0 {
			continue
		}
		path := filepath.Join(dir, f.name)
		written, err := installFile(path, f.data, f.mode)
		if err != nil {
			return err
		}
		state := "installed"
		if !written {
			state = "already there"
		}
		_, _ = fmt.Fprintf(out, "%s: %s, %d bytes\n", path, state, len(f.data))
	}
	return nil
}

// installFile makes path hold data. Whoever opens it meanwhile sees what was
// there before or all of the new, also after a loss of power.
func installFile(path string, data []byte, mode os.FileMode) (written bool, err error) {
	if same(path, data, mode) {
		return false, nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".defender-")
	if err != nil {
		return false, err
	}
	defer func() {
		f.Close()
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return false, err
	}
	// Not the process's umask decides who may start the program.
	if err := f.Chmod(mode); err != nil {
		return false, err
	}
	if err := f.Sync(); err != nil {
		return false, err
	}
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if info.Size() != int64(len(data)) {
		return false, fmt.Errorf("%s has %d bytes of %d", f.Name(), info.Size(), len(data))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return false, err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return true, nil // a folder that may be written but not read
	}
	defer folder.Close()
	if err := folder.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) { // some file systems cannot
		return true, err
	}
	return true, nil
}

func same(path string, data []byte, mode os.FileMode) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != mode || info.Size() != int64(len(data)) {
		return false
	}
	have, err := os.ReadFile(path)
	return err == nil && bytes.Equal(have, data)
}
