package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"syscall"
)

// Lines is a sink of JSON lines.
type Lines struct {
	w    io.Writer
	torn bool // the last line is incomplete
}

// newLines returns a sink that writes each record to w with one call of Write,
// so that lines of several writers do not mix.
func newLines(w io.Writer) *Lines { return &Lines{w: w} }

// OpenFile returns a sink that appends to the file at path, which it creates
// for its owner alone; "-" is standard error and "none" is nowhere.
func OpenFile(path string) (*Lines, error) {
	switch path {
	case "none":
		return newLines(io.Discard), nil
	case "-":
		f, err := standardError()
		if err != nil {
			return nil, fmt.Errorf("opening standard error for audits: %w", err)
		}
		return newLines(f), nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return newLines(f), nil
}

// standardError returns a duplicate of descriptor 2. "A write to a broken pipe
// on file descriptors 1 or 2 will cause the program to exit with a SIGPIPE
// signal" (os/signal); on another it is an error like any other, and whoever
// closes our log does not end us.
func standardError() (*os.File, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := syscall.Dup(2)
	if err != nil {
		return nil, err
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "/dev/stderr"), nil
}

// Write writes one line.
func (l *Lines) Write(r Record) error {
	var b bytes.Buffer
	if l.torn {
		b.WriteByte('\n') // ends what a full disk left of the last line
	}
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return err
	}
	n, err := l.w.Write(b.Bytes())
	if err == nil && n < b.Len() {
		err = io.ErrShortWrite
	}
	if err != nil {
		// Of a write that wrote nothing, a torn line stays torn.
		l.torn = l.torn && n == 0 || n > 0
		return err
	}
	l.torn = false
	return nil
}

// Close closes the file, if the sink has one.
func (l *Lines) Close() error {
	if c, ok := l.w.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
