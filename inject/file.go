package inject

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
)

// ReplaceFile writes a file in one step: a full disk, or the context's end,
// leaves what was there, with its mode; a new one has what the umask leaves. A
// link stays, and leads to the new file. What is no file, such as a pipe or
// /dev/stdout, is written to.
func ReplaceFile(ctx context.Context, name string, write func(io.Writer) error) (err error) {
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real
	}
	mode, existed := os.FileMode(0o666), false
	if info, err := os.Stat(name); err == nil {
		if !info.Mode().IsRegular() {
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			return errors.Join(write(&whileWriting{ctx, f}), f.Close())
		}
		mode, existed = info.Mode().Perm(), true
	}
	f, err := os.OpenFile(filepath.Join(filepath.Dir(name), ".defenderctl-"+rand.Text()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if existed { // whatever the umask is, and before there is anything in it
		if err := f.Chmod(mode); err != nil {
			return err
		}
	}
	if err := write(&whileWriting{ctx, f}); err != nil {
		return err
	}
	if err := errors.Join(ctx.Err(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// whileWriting writes until a context ends.
type whileWriting struct {
	ctx context.Context
	io.Writer
}

func (w *whileWriting) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.Writer.Write(p)
}
