package defender

import (
	"context"
	"os"
	"path"
	"strings"
	"time"

	"appdefender/audit"
	"appdefender/defender/proc"
	"appdefender/defender/supervisor"
	"appdefender/internal/early"
	"appdefender/policy"
)

// How often /proc is looked through: where nothing else shows the target's
// processes, and for those that come from outside.
const (
	observeEvery = 250 * time.Millisecond
	enterEvery   = 2 * time.Second
)

// observed is the level of what was seen and could not be stopped.
const observed supervisor.Level = audit.Observed

// observe looks at processes that no filter of ours stops, and judges them as
// if they were just starting: at the level observe the target's own, and in a
// container those that entered it from outside, as with ECS Exec, docker exec
// or a health check. Those descend from no process in the container. What
// lives shorter than the pause between two looks is not seen.
func (d *Defender) observe(ctx context.Context) {
	var ours func(all map[int]proc.Stat, pid int) bool
	every := enterEvery
	switch {
	case d.levels.Backend == supervisor.Observe:
		every = observeEvery
		ours = func(all map[int]proc.Stat, pid int) bool {
			return proc.Below(all, pid, os.Getpid()) || entered(all, pid)
		}
	case os.Getpid() == 1:
		ours = entered
	default:
		return // on a laptop everybody else is from outside
	}
	seen := make(map[proc.Started]bool)
	own := append(early.Family(), os.Getpid())
	for _, pid := range own {
		if st, err := proc.ReadStat(pid); err == nil {
			seen[st.Started] = true
		}
	}
	var silent map[proc.Started]bool // seen once, without arguments
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if all, err := proc.Scan(); err == nil {
			now, without := make(map[proc.Started]bool, len(all)), make(map[proc.Started]bool)
			for pid, st := range all {
				if !seen[st.Started] && !st.Kernel && ours(all, pid) && !d.observed(pid, silent[st.Started]) {
					without[st.Started] = true // between fork and exec: the next look shows it
					continue
				}
				now[st.Started] = true
			}
			seen, silent = now, without
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// entered reports whether a process of our pid namespace came from outside.
func entered(all map[int]proc.Stat, pid int) bool {
	return os.Getpid() == 1 && pid != 1 && !proc.Below(all, pid, 1)
}

// observed judges a running process and records what a rule says of it. It
// reports whether there was anything to judge. One that keeps its arguments from
// us (prctl(2), PR_SET_MM) is judged by its file, where again says that it had none
// before.
func (d *Defender) observed(pid int, again bool) bool {
	who := proc.Describe(pid)
	if len(who.Command) == 0 && again {
		who.Command = []string{who.Path}
	}
	if who.Path == "" || len(who.Command) == 0 || pid == early.Stage().PID() && who.Path == proc.Brief(os.Getpid()).Path {
		return false
	}
	ev := policy.Event{Kind: policy.Launch, Subject: who, Program: policy.Program{
		Typed: who.Command[0], Path: who.Path, Command: who.Command,
	}}
	if !strings.HasPrefix(ev.Program.Typed, "/") {
		ev.Program.Typed = who.Path
	}
	if name := path.Base(who.Command[0]); strings.HasPrefix(path.Base(who.Path), "busybox") && name != path.Base(who.Path) {
		ev.Program.Applet = name
	}
	if v := d.decide(&ev); v.Tell() {
		v.Allow = true // it runs
		d.record(&ev, v, supervisor.Outcome{Level: observed}, time.Now())
	}
	return true
}
