package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// smallRows run where processors or memory are short.
func smallRows() []row {
	one := func(name, what string, measure func(*bench, variant) (float64, error)) row {
		return row{
			name: name, group: groupSmall, what: what + ", on one processor", unit: "µs", variants: ways, base: "bare", needs: []string{"taskset"}, turns: 5,
			measure: func(b *bench, v variant) (float64, error) {
				b.cpus = "0"
				defer func() { b.cpus = "" }()
				return measure(b, v)
			},
		}
	}
	loop := func(b *bench) []string {
		return []string{"sh", "-c", "i=0; while [ $i -lt " + strconv.Itoa(b.count(200)) + " ]; do " + b.path("true") + "; i=$((i+1)); done"}
	}
	build := one("one-cpu-build", "make -j of 120 C files", func(b *bench, v variant) (float64, error) {
		if err := b.atMostOnce("build", func() error { return prepareBuild(b) }); err != nil {
			return 0, err
		}
		took, err := b.time(v, "make", "-s", "-B", "-C", b.path("cbuild"), "-j", "2")
		return took * 1000, err
	})
	build.unit, build.turns, build.needs = "ms", 3, []string{"taskset", "make", "gcc"}
	return []row{
		one("one-cpu-associate", "connect of a UDP socket", func(b *bench, v variant) (float64, error) { return b.micro(v, "associate", 1, 5e3) }),
		one("one-cpu-connect", "socket, connect, close", func(b *bench, v variant) (float64, error) { return b.micro(v, "connect", 1, 2e3) }),
		one("one-cpu-vfork", "vfork, execve, wait", func(b *bench, v variant) (float64, error) { return b.micro(v, "vfork", 1, 300) }),
		one("one-cpu-vfork-8", "vfork, execve, wait; 8 threads", func(b *bench, v variant) (float64, error) { return b.micro(v, "vfork", 8, 300) }),
		build,
		{
			name: "quarter-cpu", group: groupSmall, what: "a shell loop of 200 commands in 0.25 of a processor and 64 MiB", unit: "ms", variants: ways, turns: 3,
			measure: func(b *bench, v variant) (float64, error) {
				c, err := newCgroup(0.25, 64<<20)
				if err != nil {
					return 0, errMissing("no cgroup can be made here: " + err.Error())
				}
				defer c.remove()
				// The shell enters it and becomes the wrapper: all of the Defender is inside.
				enter := variant{name: v.name, wrap: append([]string{"sh", "-c", c.enter() + `exec "$@"`, "sh"}, v.wrap...), env: v.env}
				took, err := b.time(enter, loop(b)...)
				b.sweep()
				return took * 1000, err
			},
		},
	}
}

// cgroup limits what enters it; of version 2, or of version 1 with a folder
// for each controller.
type cgroup struct{ dirs []string }

func newCgroup(cpus float64, memory int) (*cgroup, error) {
	const period = 100_000
	quota, limit := strconv.Itoa(int(cpus*period)), strconv.Itoa(memory)
	name := fmt.Sprintf("/defender-bench-%d", os.Getpid())
	type control struct{ file, value string }
	versions := [][]struct {
		dir      string
		controls []control
	}{
		{{"/sys/fs/cgroup" + name, []control{{"cpu.max", quota + " " + strconv.Itoa(period)}, {"memory.max", limit}}}},
		{
			{"/sys/fs/cgroup/cpu" + name, []control{{"cpu.cfs_period_us", strconv.Itoa(period)}, {"cpu.cfs_quota_us", quota}}},
			{"/sys/fs/cgroup/memory" + name, []control{{"memory.limit_in_bytes", limit}}},
		},
	}
	var faults []error
	for _, version := range versions {
		c := &cgroup{}
		var fault error
		for _, part := range version {
			if fault = os.Mkdir(part.dir, 0o755); fault != nil {
				break
			}
			c.dirs = append(c.dirs, part.dir)
			for _, ctl := range part.controls {
				// O_CREATE would make a plain file where this is no cgroup.
				f, err := os.OpenFile(part.dir+"/"+ctl.file, os.O_WRONLY, 0)
				if err == nil {
					_, err = f.WriteString(ctl.value)
					err = errors.Join(err, f.Close())
				}
				fault = errors.Join(fault, err)
			}
		}
		if fault == nil {
			return c, nil
		}
		c.remove()
		faults = append(faults, fault)
	}
	return nil, errors.New(strings.ReplaceAll(errors.Join(faults...).Error(), "\n", "; "))
}

// enter is what a shell does to go in.
func (c *cgroup) enter() string {
	var text strings.Builder
	for _, d := range c.dirs {
		text.WriteString("echo $$ > " + d + "/cgroup.procs && ")
	}
	return text.String()
}

func (c *cgroup) remove() {
	for _, d := range c.dirs {
		os.Remove(d)
	}
}
