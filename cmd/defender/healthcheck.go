package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
)

// healthcheckCommand answers by what the kernel says in /proc, and by nothing
// that the target could say for the defender: no socket, no file. It sees that
// a supervisor lives and is not stopped, and that a child of its own, the
// target, has a seccomp filter more than it has. It does not see a supervisor
// that lives but hangs.
func healthcheckCommand(out io.Writer) *cli.Command {
	return &cli.Command{
		Name:      "healthcheck",
		Usage:     "exit with 0 if this container's defender lives and supervises, else with 1",
		UsageText: "defender healthcheck [flags]",
		Description: "For a container's health check, which the platform runs beside the target:\n" +
			`as in HEALTHCHECK CMD ["/var/lib/appdefender/defender", "healthcheck"].`,
		OnUsageError: usageError,
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "pid", Usage: "the supervisor's process `ID` (default: 1 if that is a defender, else the one of our control group)"},
			&cli.StringFlag{Name: "on-failure", EnvVars: []string{"DEFENDER_ON_FAILURE"}, Value: "closed", Usage: "`closed`: a target that is not supervised is unhealthy; open: it is not"},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return fmt.Errorf("unexpected argument %q", c.Args().First())
			}
			open := c.String("on-failure") == "open"
			if !open && c.String("on-failure") != "closed" {
				return fmt.Errorf("--on-failure: %q is not one of closed, open", c.String("on-failure"))
			}
			text, err := procfs("/proc").health(c.Int("pid"), open)
			if err != nil {
				return cli.Exit("unhealthy: "+err.Error(), 1)
			}
			_, err = fmt.Fprintln(out, "healthy: "+text)
			return err
		},
	}
}

// procfs is where /proc is.
type procfs string

// process is what /proc says about one.
type process struct {
	pid, parent int
	state       string // R, S, D, T, t, Z, X
	comm        string
	filters     int // of seccomp
	argv        []string
	cgroup      string
}

func (fs procfs) health(pid int, open bool) (string, error) {
	all, err := fs.processes()
	if err != nil {
		return "", err
	}
	s, err := supervisorOf(all, pid)
	if err != nil {
		return "", err
	}
	switch s.state {
	case "Z", "X":
		return "", fmt.Errorf("the supervisor, process %d, is dead", s.pid)
	case "T", "t":
		return "", fmt.Errorf("the supervisor, process %d, is stopped", s.pid)
	}
	for _, p := range all {
		if p.parent == s.pid && p.filters > s.filters && p.state != "Z" && p.state != "X" {
			return fmt.Sprintf("process %d supervises process %d", s.pid, p.pid), nil
		}
	}
	if open {
		return fmt.Sprintf("process %d lives, but supervises nothing (--on-failure open)", s.pid), nil
	}
	return "", fmt.Errorf("the supervisor, process %d, has no target under its filter: not yet, or not any more", s.pid)
}

// supervisorOf picks the supervisor. Guardian and supervisor, and until the
// target has started its first process too, are of one command line; the
// supervisor is the topmost that is neither guardian nor watcher.
func supervisorOf(all map[int]process, pid int) (process, error) {
	if pid != 0 {
		p, ok := all[pid]
		switch {
		case !ok:
			return p, fmt.Errorf("there is no process %d", pid)
		case !p.defender():
			return p, fmt.Errorf("process %d is %q, not a defender", pid, p.comm)
		}
		return p, nil
	}
	if p := all[1]; p.defender() {
		return p, nil
	}
	// The first process is an init, or belongs to all containers of the task.
	own := all[os.Getpid()].cgroup
	var found []process
	for _, p := range all {
		if p.defender() && p.cgroup == own && !(all[p.parent].defender()) {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 0:
		return process{}, errors.New("there is no defender here")
	case 1:
		return found[0], nil
	}
	pids := make([]int, len(found))
	for i := range found {
		pids[i] = found[i].pid
	}
	slices.Sort(pids)
	return process{}, fmt.Errorf("processes %d are defenders; say which with --pid", pids)
}

// How guardian and watcher call themselves.
const (
	guardian = "defender-guard"
	watcher  = "defender-watch"
)

func (p process) defender() bool {
	return p.comm != guardian && p.comm != watcher && len(p.argv) > 2 && p.argv[1] == "run" && filepath.Base(p.argv[0]) == installedProgram
}

func (fs procfs) processes() (map[int]process, error) {
	dirs, err := os.ReadDir(string(fs))
	if err != nil {
		return nil, err
	}
	all := make(map[int]process)
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if p, err := fs.process(pid); err == nil { // else it is gone
			all[pid] = p
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s shows no process", fs)
	}
	return all, nil
}

func (fs procfs) process(pid int) (process, error) {
	p := process{pid: pid}
	dir := filepath.Join(string(fs), strconv.Itoa(pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return p, err
	}
	mode := 0
	counted := false
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Name":
			p.comm = value
		case "State":
			p.state, _, _ = strings.Cut(value, " ")
		case "PPid":
			p.parent, _ = strconv.Atoi(value)
		case "Seccomp":
			mode, _ = strconv.Atoi(value)
		case "Seccomp_filters":
			p.filters, err = strconv.Atoi(value)
			counted = err == nil
		}
	}
	if !counted && mode == 2 {
		p.filters = 1 // before Linux 5.9: some
	}
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return p, err
	}
	for arg := range bytes.SplitSeq(bytes.TrimSuffix(cmdline, []byte{0}), []byte{0}) {
		p.argv = append(p.argv, string(arg))
	}
	cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup")) // none where the kernel has none
	p.cgroup = string(cgroup)
	return p, nil
}
