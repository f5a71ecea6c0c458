package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// costRows are what the Defender itself takes.
func costRows() []row {
	supervised := []string{"notify", "ptrace", "strace"}
	all := []row{
		{
			name: "start", group: groupCost, what: "start and end of a static program", unit: "ms",
			variants: []string{"bare", "notify", "ptrace", "tini", "dumb-init", "strace", "runsc"}, turns: 21,
			bounds: []bound{{"notify", addedAtMost, 15}, {"ptrace", addedAtMost, 15}},
			measure: func(b *bench, v variant) (float64, error) {
				took, err := b.time(v, b.path("true"))
				return took * 1000, err
			},
		},
		{
			name: "resident", group: groupCost, what: "resident memory of the supervisor, target waiting", unit: "MiB",
			variants: supervised, bounds: []bound{{"notify", atMost, 24}, {"ptrace", atMost, 24}},
			measure: func(b *bench, v variant) (float64, error) { return b.residentAfter(v, 0) },
		},
		{
			name: "resident-million", group: groupCost, what: "the same after a million judged connects", unit: "MiB", once: true,
			variants: supervised, bounds: []bound{{"notify", atMost, 24}, {"ptrace", atMost, 24}},
			measure: func(b *bench, v variant) (float64, error) { return b.residentAfter(v, b.count(1e6)) },
		},
		{
			name: "size", group: groupCost, what: "the program, static and stripped", unit: "MiB", variants: []string{"defender"}, once: true,
			bounds: []bound{{"defender", atMost, 15}},
			measure: func(b *bench, _ variant) (float64, error) {
				st, err := os.Stat(b.path("defender"))
				if err != nil {
					return 0, err
				}
				return float64(st.Size()) / (1 << 20), nil
			},
		},
	}
	for _, call := range []string{"associate", "connect", "sendto", "listen", "vfork"} {
		events := map[string]int{"vfork": 2000, "listen": 10e3}[call]
		if events == 0 {
			events = 40e3
		}
		all = append(all, row{
			name: "cpu-" + call, group: groupCost, what: "processor time of the supervisor for a thousand: " + call, unit: "ms", variants: supervised,
			base: "strace", turns: 5,
			measure: func(b *bench, v variant) (float64, error) { return b.cpuOf(v, call, b.count(events)) },
		})
		all = append(all, row{
			name: "calls-" + call, group: groupCost, what: "system calls of the supervisor for one: " + call, unit: "calls", variants: []string{"notify", "ptrace"},
			base: "notify", once: true, needs: []string{"strace"},
			measure: func(b *bench, v variant) (float64, error) { return b.callsPer(v, call) },
		})
	}
	return all
}

// residentAfter returns the supervisor's memory after a number of events.
func (b *bench) residentAfter(v variant, events int) (float64, error) {
	h, err := b.hold(v, "associate", 1, max(events, 1))
	if err != nil {
		return 0, err
	}
	defer h.end()
	if events > 0 {
		if err := h.calls(); err != nil {
			return 0, err
		}
	}
	return resident(h.sup)
}

// cpuOf returns the milliseconds that a supervisor works for a thousand calls.
func (b *bench) cpuOf(v variant, call string, events int) (float64, error) {
	h, err := b.hold(v, call, 1, events)
	if err != nil {
		return 0, err
	}
	defer h.end()
	before, err := cpuTime(h.sup)
	if err != nil {
		return 0, err
	}
	if err := h.calls(); err != nil {
		return 0, err
	}
	after, err := cpuTime(h.sup)
	return (after - before) * 1000 / float64(events) * 1000, err
}

// runtimeCalls are made by Go's runtime at its own times, not for an event.
var runtimeCalls = map[string]bool{
	"futex": true, "nanosleep": true, "sched_yield": true, "epoll_pwait": true, "madvise": true, "mmap": true, "munmap": true,
	"rt_sigprocmask": true, "rt_sigreturn": true, "rt_sigaction": true, "sigaltstack": true, "clone": true, "clone3": true, "gettid": true,
	"tgkill": true, "getpid": true, "restart_syscall": true, "timer_settime": true, "exit": true, "set_robust_list": true, "rseq": true,
	"prctl": true, "mprotect": true, "brk": true, "eventfd2": true, "write": true,
}

// callsPer counts the system calls that a supervisor makes for one event: the
// slope between few events and many, so that what comes before and after them
// does not count. strace counts them, so this is no measurement of time.
func (b *bench) callsPer(v variant, call string) (float64, error) {
	few, many := 100, 300
	first, err := b.countCalls(v, call, few)
	if err != nil {
		return 0, err
	}
	second, err := b.countCalls(v, call, many)
	if err != nil {
		return 0, err
	}
	sum := 0
	for name, n := range second {
		if !runtimeCalls[name] {
			sum += n - first[name]
		}
	}
	return float64(sum) / float64(many-few), nil
}

// countCalls returns how often the supervisor made which call during events.
func (b *bench) countCalls(v variant, call string, events int) (map[string]int, error) {
	h, err := b.hold(v, call, 1, events)
	if err != nil {
		return nil, err
	}
	defer h.end()
	if h.sup == h.cmd.Process.Pid {
		return nil, errors.New("no supervisor was found below the guardian")
	}
	counts := b.path("counts")
	counter := exec.CommandContext(b.ctx, "strace", "-f", "-c", "-o", counts, "-p", strconv.Itoa(h.sup))
	told, err := counter.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := counter.Start(); err != nil {
		return nil, err
	}
	attached := make([]byte, 512) // "strace: Process N attached with M threads"
	if n, err := told.Read(attached); err != nil || !bytes.Contains(attached[:n], []byte("attached")) {
		_ = counter.Process.Kill()
		_ = counter.Wait()
		return nil, errMissing("strace may not attach: " + lastLine(attached[:n]))
	}
	go func() { _, _ = bytes.NewBuffer(nil).ReadFrom(told) }()
	err = h.calls()
	// Its summary is written when it is interrupted.
	_ = counter.Process.Signal(os.Interrupt)
	waited := make(chan struct{})
	go func() { _ = counter.Wait(); close(waited) }()
	select {
	case <-waited:
	case <-time.After(turnTime):
		_ = counter.Process.Kill()
		<-waited
	}
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(counts)
	if err != nil {
		return nil, err
	}
	return parseCounts(string(text))
}

// parseCounts reads the summary of strace -c.
func parseCounts(text string) (map[string]int, error) {
	counts := make(map[string]int)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 5 || f[len(f)-1] == "total" || f[0][0] < '0' || f[0][0] > '9' {
			continue
		}
		n, err := strconv.Atoi(f[3])
		if err != nil {
			return nil, fmt.Errorf("reading strace's line %q: %w", line, err)
		}
		counts[f[len(f)-1]] = n
	}
	if len(counts) == 0 {
		return nil, errors.New("strace counted nothing")
	}
	return counts, nil
}
