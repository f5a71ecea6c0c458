package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// page is the demo's output for people.
type page struct {
	w               io.Writer
	bold, good, bad string // escape sequences, "" for a plain file
	plain           string
}

func newPage(f *os.File) page {
	p := page{w: &sharedWriter{w: f}}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err == nil && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" {
		p.bold, p.good, p.bad, p.plain = "\x1b[1m", "\x1b[32m", "\x1b[1;31m", "\x1b[0m"
	}
	return p
}

func (p page) heading(s string) {
	fmt.Fprintf(p.w, "\n%s%s%s\n%s\n", p.bold, s, p.plain, strings.Repeat("─", len(s)))
}

func (p page) text(format string, args ...any) {
	fmt.Fprintln(p.w, strings.TrimRight(fmt.Sprintf(format, args...), "\n"))
}

func (p page) prompt() { fmt.Fprintf(p.w, "\n%sprotected>%s ", p.bold, p.plain) }

// audit shows one record: its message, and the line with all there is.
func (p page) audit(a *record) {
	fmt.Fprintf(p.w, "%s%s%s\n", p.bold, a.Msg, p.plain)
	var b bytes.Buffer
	if err := json.Indent(&b, a.line, "", "    "); err != nil {
		b.Write(a.line)
	}
	fmt.Fprintf(p.w, "%s\n\n", b.Bytes())
}

// follow shows audits as they come until stop is called.
func (p page) follow(log *auditLog) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	show := func() {
		list, err := log.next()
		for _, a := range list {
			fmt.Fprintf(p.w, "%saudit:%s %s\n", p.bold, p.plain, a.Msg)
		}
		if err != nil && !os.IsNotExist(err) {
			p.text("%v", err)
		}
	}
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				show()
				return
			case <-time.After(200 * time.Millisecond):
				show()
			}
		}
	}()
	return func() { close(done); <-ended }
}

// checks are what was to be seen, in groups.
type checks []check

type check struct {
	heading bool
	ok      bool
	what    string
}

func (c *checks) group(name string) { *c = append(*c, check{heading: true, what: name}) }

func (c *checks) add(ok bool, format string, args ...any) {
	*c = append(*c, check{ok: ok, what: fmt.Sprintf(format, args...)})
}

// checks shows what was seen and returns the exit status: 1 if something was
// missing.
func (p page) checks(list checks) int {
	p.heading("What was seen")
	missing := 0
	for _, c := range list {
		switch {
		case c.heading:
			p.text("%s", c.what)
		case c.ok:
			p.text("  %sok%s       %s", p.good, p.plain, c.what)
		default:
			missing++
			p.text("  %sMISSING%s  %s", p.bad, p.plain, c.what)
		}
	}
	if missing > 0 {
		p.text("\n%sThe demo failed: %d of these were missing.%s", p.bad, missing, p.plain)
		return 1
	}
	p.text("\nAll as it should be.")
	return 0
}

// indent sets off what a task writes, line by line.
type indent struct {
	w       io.Writer
	pending bytes.Buffer
}

func (i *indent) Write(b []byte) (int, error) {
	i.pending.Write(b)
	for {
		line, err := i.pending.ReadString('\n')
		if err != nil { // no whole line
			i.pending.WriteString(line)
			return len(b), nil
		}
		if _, err := fmt.Fprintf(i.w, "    %s", line); err != nil {
			return 0, err
		}
	}
}

// sharedWriter lets several goroutines write whole lines.
type sharedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *sharedWriter) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(b)
}
