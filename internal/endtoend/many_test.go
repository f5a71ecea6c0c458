//go:build platforms

package endtoend

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// resident returns the memory of all processes of a program, in bytes: what
// several share is counted once.
func resident(program string) (processes int, total int64) {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		if exe, err := os.Readlink(link); err != nil || exe != program {
			continue
		}
		text, err := os.ReadFile(filepath.Join(filepath.Dir(link), "smaps_rollup"))
		if err != nil {
			continue
		}
		processes++
		for line := range bytes.Lines(text) {
			if f := strings.Fields(string(line)); len(f) > 1 && f[0] == "Pss:" {
				n, _ := strconv.ParseInt(f[1], 10, 64)
				total += n << 10
			}
		}
	}
	return processes, total
}

// TestTwoHundredDefenders has them all on one Console at the same time: each
// enrols, is listed as healthy and gets every change of the policy.
func TestTwoHundredDefenders(t *testing.T) {
	const many, atOnce = 200, 8
	s := serve(t)
	s.rule("alert", "mkdir")
	token := s.token("many")

	begun := time.Now()
	all := make([]*process, many)
	var starting sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range all {
		slots <- struct{}{}
		starting.Add(1)
		// What has started says so: a machine of two processors need not start
		// all of them at the same moment.
		p := s.protect(t, []string{"--token-file", token, "--app-id", fmt.Sprintf("app-%d", i)}, "sh", "-c", "echo started; exec sleep 3600")
		all[i] = p
		go func() {
			defer starting.Done()
			for p.running() && p.out.String() == "" {
				time.Sleep(5 * time.Millisecond)
			}
			<-slots
		}()
	}
	starting.Wait()
	t.Logf("%d Defenders have started after %v", many, time.Since(begun).Round(time.Millisecond))

	healthy := func() int {
		var policy struct{ Generation uint64 }
		s.must("GET", "/api/v1/policy", nil, &policy)
		n := 0
		for _, d := range s.defenders() {
			if d.State == "connected" && d.Level == "notify" && d.PolicyError == "" && d.Dropped == 0 && d.Generation == policy.Generation {
				n++
			}
		}
		return n
	}
	await(t, "all are healthy and have the policy", func() bool { return healthy() == many })
	t.Logf("all are healthy after %v", time.Since(begun).Round(time.Millisecond))
	if n, bytes := resident(filepath.Join(bin, "defender")); n > 0 {
		t.Logf("%d processes of Defenders have %d KiB each, %d MiB together", n, bytes/int64(n)>>10, bytes>>20)
	}
	if _, bytes := resident(filepath.Join(bin, "console")); bytes > 0 {
		t.Logf("the Console has %d MiB", bytes>>20)
	}

	changed := time.Now()
	s.rule("prevent", "mkdir")
	saved := time.Since(changed)
	await(t, "all have the change", func() bool { return healthy() == many })
	t.Logf("a change was saved in %v and in force everywhere, and known to be, after %v", saved.Round(time.Millisecond), time.Since(changed).Round(time.Millisecond))

	s.kill()
	s.start(t)
	back := time.Now()
	s.rule("alert", "mkdir")
	await(t, "all come back to a Console that was killed", func() bool { return healthy() == many })
	t.Logf("all are back and have another change %v after the Console was started again", time.Since(back).Round(time.Millisecond))
	if n := len(s.defenders()); n != many {
		t.Errorf("there are %d Defenders", n)
	}
	for i, p := range all {
		if !p.running() {
			t.Errorf("target %d ended: %s", i, &p.err)
		}
	}
	// All at once, as when a platform stops a service.
	for _, p := range all {
		p.signal(15)
	}
	for i, p := range all {
		if status := p.exit(); status != 128+15 {
			t.Errorf("target %d ended with %d: %s", i, status, &p.err)
			break
		}
	}
}
