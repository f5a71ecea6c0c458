package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

// judgeRows take the results of benchmarks that lie beside what they measure.
func judgeRows() []row {
	gotest := func(name, what, unit, pkg, pattern, metric string, more bool, scale float64, bounds []bound) row {
		return row{
			name: name, group: groupJudge, what: what, unit: unit, more: more, variants: []string{"defender"}, bounds: bounds, turns: 3,
			measure: func(b *bench, _ variant) (float64, error) { return b.goBenchmark(pkg, pattern, metric, more, scale) },
		}
	}
	pages := gotest("console-pages", "the slowest page over 10 million audits", "ms", "./console/store", "^BenchmarkPages$", "ms/page", false, 1,
		[]bound{{"defender", atMost, 100}})
	pages.full, pages.once = true, true
	return []row{
		gotest("decide", "a decision with 10,000 names and 1,000 rules, the slowest kind", "µs", "./policy", "^BenchmarkDecide$", "ns/op", false, 1e-3,
			[]bound{{"defender", atMost, 1}}),
		gotest("console-audits", "audits that a Console with SQLite takes over HTTP", "audits/s", "./console", "^BenchmarkAudits$", "audits/s", true, 1,
			[]bound{{"defender", atLeast, 20e3}}),
		gotest("console-spread", "a change of the policy, until the last of 1,000 Defenders has it", "s", "./console", "^BenchmarkSpread$", "s/spread", false, 1,
			[]bound{{"defender", atMost, 1}}),
		pages,
	}
}

// goBenchmark returns the worst of the results that go test -bench prints.
func (b *bench) goBenchmark(pkg, pattern, metric string, more bool, scale float64) (float64, error) {
	cmd := exec.CommandContext(b.ctx, "go", "test", "-buildvcs=false", "-timeout", "1h", "-run", "^$", "-bench", pattern, pkg)
	cmd.Env = append(os.Environ(), "STORE_AUDITS=10000000", "TMPDIR="+b.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // the test as well
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("benchmark of %s: %w: %s", pkg, err, lastLine(out))
	}
	number := regexp.MustCompile(`([\d.]+) ` + regexp.QuoteMeta(metric))
	worst, found := 0.0, false
	for line := range strings.Lines(string(out)) {
		m := number.FindStringSubmatch(line)
		if m == nil || !strings.HasPrefix(line, "Benchmark") {
			continue
		}
		v, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return 0, err
		}
		if !found || (v < worst) == more {
			worst, found = v, true
		}
	}
	if !found {
		return 0, fmt.Errorf("no %s in the benchmark of %s", metric, pkg)
	}
	return worst * scale, nil
}
