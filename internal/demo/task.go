package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"
)

// result is what a run of the task came to.
type result struct {
	exit   int
	output string
	dir    string // where it ran
}

// made reports whether the task made a file.
func (r result) made(name string) bool {
	_, err := os.Lstat(filepath.Join(r.dir, name))
	return err == nil
}

// runTask runs a command in a folder of that name, with the sample task in
// PATH and an environment that says nothing about the machine: a proxy or
// another language would change what there is to see.
func (d *demo) runTask(ctx context.Context, dir, name string, arg ...string) result {
	r := result{dir: filepath.Join(d.dir, dir), exit: -1}
	path := filepath.Dir(d.task("entry.sh")) + ":" + os.Getenv("PATH")
	if name == "entry.sh" {
		name = d.task(name)
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, name, arg...)
	cmd.Dir = r.dir
	cmd.Env = []string{"PATH=" + path, "HOME=" + d.dir, "LC_ALL=C"}
	cmd.Stdout = io.MultiWriter(&out, &indent{w: d.page.w})
	cmd.Stderr = cmd.Stdout
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	err := os.MkdirAll(r.dir, 0o755)
	if err == nil {
		err = cmd.Run()
	}
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		d.page.text("%v", err)
	}
	if cmd.ProcessState != nil {
		r.exit = cmd.ProcessState.ExitCode()
	}
	r.output = out.String()
	return r
}

// record is what we read of an audit; see package audit for all of it.
type record struct {
	Msg      string `json:"msg"`
	RuleName string `json:"ruleName"`

	line []byte
}

// auditLog reads the Defender's audit log as it grows.
type auditLog struct {
	path string
	at   int64
}

// next returns the records written since the last call.
func (l *auditLog) next() ([]record, error) {
	f, err := os.Open(l.path)
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, l.at, 1<<30))
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	var list []record
	for {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		if !whole {
			return list, nil
		}
		r := record{line: line}
		if err := json.Unmarshal(line, &r); err != nil {
			return list, fmt.Errorf("reading the audit log: %q: %w", line, err)
		}
		list = append(list, r)
		l.at += int64(len(line)) + 1
		data = rest
	}
}

// The messages that the sample task is known for, word by word; what varies is
// where the programs lie.
const (
	mkdirMessage  = "mkdir launched and is explicitly denied by runtime rule. Full command: mkdir test"
	lookupMessage = "DNS resolution of domain name yahoo.com triggered by …wget explicitly denied by a runtime rule"
)

var (
	mkdirPattern  = regexp.MustCompile(`^/\S*` + regexp.QuoteMeta(mkdirMessage) + `$`)
	lookupPattern = regexp.MustCompile(`^DNS resolution of domain name yahoo\.com triggered by (/\S+) explicitly denied by a runtime rule$`)
)

// pick finds the two audits that the sample task is known for.
func pick(audits []record) (mkdir, lookup *record, rest []record) {
	for i := range audits {
		a := &audits[i]
		switch {
		case mkdir == nil && mkdirPattern.MatchString(a.Msg):
			mkdir = a
		case lookup == nil && isWget(a.Msg):
			lookup = a
		default:
			rest = append(rest, *a)
		}
	}
	return mkdir, lookup, rest
}

// isWget reports whether a message is about yahoo.com and the wget that the
// task finds in PATH, which may be a link to a program of another name.
func isWget(msg string) bool {
	m := lookupPattern.FindStringSubmatch(msg)
	if m == nil {
		return false
	}
	path, err := exec.LookPath("wget")
	if err != nil {
		return false
	}
	path, err = filepath.EvalSymlinks(path)
	return err == nil && m[1] == path
}
