package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestHealth(t *testing.T) {
	const ours = "/var/lib/appdefender/defender run -- app"
	type proc struct {
		pid, parent int
		state, comm string
		filters     int
		cmdline     string
		cgroup      string
	}
	self := proc{pid: os.Getpid(), state: "R", comm: "defender", cmdline: "/x/defender healthcheck"}
	one := proc{pid: 1, state: "S", comm: "defender", filters: 1, cmdline: ours}
	target := proc{pid: 7, parent: 1, state: "S", comm: "app", filters: 2, cmdline: "app"}
	with := func(p proc, change func(*proc)) proc { change(&p); return p }
	guarded := []proc{
		self,
		{pid: 1, state: "S", comm: "tini", cmdline: "tini -- defender"},
		{pid: 5, parent: 1, state: "S", comm: "defender-guard", cmdline: ours},
		{pid: 6, parent: 5, state: "S", comm: "defender", cmdline: ours},
	}
	stage := proc{pid: 8, parent: 6, state: "S", comm: "defender", cmdline: ours}
	app := proc{pid: 8, parent: 6, state: "S", comm: "app", filters: 1, cmdline: "app"}
	other := proc{pid: 90, parent: 1, state: "S", comm: "defender", cmdline: ours, cgroup: "0::/another\n"}
	tests := []struct {
		name  string
		procs []proc
		pid   int
		open  bool
		want  string // of the answer, or of the error
		ok    bool
	}{
		{"as the first process", []proc{self, one, target}, 0, false, "process 1 supervises process 7", true},
		{"a target that is not supervised", []proc{self, one, with(target, func(p *proc) { p.filters = 1 })}, 0, false, "no target under its filter", false},
		{"and need not be", []proc{self, one, with(target, func(p *proc) { p.filters = 1 })}, 0, true, "supervises nothing", true},
		{"a dead target", []proc{self, one, with(target, func(p *proc) { p.state = "Z" })}, 0, false, "no target", false},
		{"somebody else's child", []proc{self, one, with(target, func(p *proc) { p.parent = 3 })}, 0, false, "no target", false},
		{"a stopped supervisor", []proc{self, with(one, func(p *proc) { p.state = "T" }), target}, 0, false, "is stopped", false},
		{"a dead supervisor, even if it may fail open", []proc{self, with(one, func(p *proc) { p.state = "Z" }), target}, 0, true, "is dead", false},
		{"below an init", append(guarded[:4:4], app), 0, false, "process 6 supervises process 8", true},
		{"starting", append(guarded[:4:4], stage), 0, false, "no target", false},
		{"another container's", append(guarded[:2:2], other), 0, false, "there is no defender here", false},
		{"another container's beside ours", append(guarded[:4:4], app, other), 0, false, "process 6 supervises process 8", true},
		{"two", append(guarded[:4:4], app, with(guarded[3], func(p *proc) { p.pid, p.parent = 60, 1 })), 0, false, "processes [6 60] are defenders", false},
		{"one named", append(guarded[:4:4], app), 6, false, "process 6 supervises process 8", true},
		{"named, not a defender", append(guarded[:4:4], app), 8, false, `process 8 is "app", not a defender`, false},
		{"named, nobody", guarded, 44, false, "there is no process 44", false},
		{"nobody at all", nil, 0, false, "shows no process", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			for _, p := range tt.procs {
				dir := filepath.Join(root, fmt.Sprint(p.pid))
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				for name, text := range map[string]string{
					"status":  fmt.Sprintf("Name:\t%s\nState:\t%s (x)\nPPid:\t%d\nSeccomp:\t2\nSeccomp_filters:\t%d\n", p.comm, p.state, p.parent, p.filters),
					"cmdline": strings.ReplaceAll(p.cmdline, " ", "\x00") + "\x00",
					"cgroup":  p.cgroup,
				} {
					if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			got, err := procfs(root).health(tt.pid, tt.open)
			if err != nil {
				got = err.Error()
			}
			if (err == nil) != tt.ok || !strings.Contains(got, tt.want) {
				t.Errorf("healthy %v: %s; want %v, %q", err == nil, got, tt.ok, tt.want)
			}
		})
	}
}

func TestHealthcheckCommand(t *testing.T) {
	err := command(t, healthcheckCommand(new(bytes.Buffer)), "--pid", fmt.Sprint(os.Getpid()))
	var exit cli.ExitCoder
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(err.Error(), "not a defender") {
		t.Errorf("error %v", err)
	}
	if err := command(t, healthcheckCommand(new(bytes.Buffer)), "--on-failure", "maybe"); err == nil {
		t.Error("a wrong flag is accepted")
	}
}
