package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// These are the parts of the promise that no noise can shake: what is counted,
// not timed. The counts are bounds, not records: lower one when the code has
// become better for good.

// guarded is a bench for tests, with the real program.
func guarded(t *testing.T) *bench {
	t.Helper()
	if testing.Short() {
		t.Skip("builds the defender")
	}
	b, err := newBench(t.Context(), true, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	return b
}

func TestSize(t *testing.T) {
	st, err := os.Stat(guarded(t).path("defender"))
	if err != nil {
		t.Fatal(err)
	}
	const most = 15 << 20
	if st.Size() > most {
		t.Errorf("the defender has %d bytes, more than %d", st.Size(), most)
	}
}

// TestCallsPerEvent counts the system calls of the supervisor for one event.
func TestCallsPerEvent(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("there is no strace here")
	}
	b := guarded(t)
	for call, most := range map[string]float64{"associate": 12, "connect": 14, "sendto": 13, "listen": 34, "vfork": 22} {
		v, err := b.variant("notify")
		if err != nil {
			t.Fatal(err)
		}
		got, err := b.callsPer(v, call)
		b.sweep()
		var lacks errMissing
		if errors.As(err, &lacks) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatalf("%s: %v", call, err)
		}
		t.Logf("%s: %.2f system calls an event", call, got)
		if got <= 1 {
			t.Errorf("%s: %.2f system calls an event: the events were not seen", call, got)
		}
		if got > most {
			t.Errorf("%s: %.2f system calls an event, more than %v", call, got, most)
		}
	}
}

// TestStart has the collector tell of itself: a start that makes it run, at
// 4 MiB, costs the target milliseconds.
func TestStart(t *testing.T) {
	b := guarded(t)
	v, err := b.variant("notify")
	if err != nil {
		t.Fatal(err)
	}
	cmd := b.command(v, b.path("true"))
	var told bytes.Buffer
	cmd.Stderr = &told
	cmd.Env = append(cmd.Environ(), "GODEBUG=gctrace=1,inittrace=1")
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, told.String())
	}
	if !strings.Contains(told.String(), "init runtime @") {
		t.Fatalf("nothing is told: %s", told.String())
	}
	collected := regexp.MustCompile(`(?m)^gc \d.*`)
	if line := collected.FindString(told.String()); line != "" {
		t.Errorf("the collector ran: %s", line)
	}
	var all int
	for _, m := range regexp.MustCompile(`(?m)^init .* (\d+) bytes, `).FindAllStringSubmatch(told.String(), -1) {
		n, _ := strconv.Atoi(m[1])
		all += n
	}
	const most = 500 << 10
	t.Logf("%d bytes are made by package initializers", all)
	if all > most {
		t.Errorf("package initializers make %d bytes, more than %d:\n%s", all, most, told.String())
	}
}

// TestMemoryPerEvent bounds what the supervisor allocates for one event: with
// the collector off, its resident memory grows by just that.
func TestMemoryPerEvent(t *testing.T) {
	b := guarded(t)
	for call, most := range map[string]float64{"associate": 2 << 10, "lookup": 8 << 10} {
		v, err := b.variant("notify")
		if err != nil {
			t.Fatal(err)
		}
		v.env = []string{"GOGC=off"}
		grown := func(events int) float64 {
			t.Helper()
			h, err := b.hold(v, call, 1, events)
			if err != nil {
				t.Fatal(err)
			}
			defer b.sweep()
			defer h.end()
			if err := h.calls(); err != nil {
				t.Fatal(err)
			}
			mib, err := resident(h.sup)
			if err != nil {
				t.Fatal(err)
			}
			return mib * (1 << 20)
		}
		const few, many = 1000, 6000
		per := (grown(many) - grown(few)) / (many - few)
		t.Logf("%s: %.0f bytes an event", call, per)
		if per > most {
			t.Errorf("%s: %.0f bytes an event, more than %.0f", call, per, most)
		}
	}
}

func TestQuartiles(t *testing.T) {
	for _, c := range []struct {
		in                []float64
		low, median, high float64
	}{
		{[]float64{5}, 5, 5, 5},
		{[]float64{3, 1}, 1.5, 2, 2.5},
		{[]float64{5, 1, 4, 2, 3}, 2, 3, 4},
	} {
		if low, median, high := quartiles(c.in); low != c.low || median != c.median || high != c.high {
			t.Errorf("quartiles of %v: %v %v %v", c.in, low, median, high)
		}
	}
}

func TestBounds(t *testing.T) {
	r := result{Unit: "µs", Base: "bare", Cells: []cell{
		{Variant: "bare", Median: 10, Runs: []float64{10}},
		{Variant: "notify", Median: 16, Ratio: 1.6, Runs: []float64{16}},
		{Variant: "ptrace", Missing: "not here"},
	}}
	more := r
	more.More = true
	for _, c := range []struct {
		r       result
		o       bound
		met, ok bool
	}{
		{r, bound{"notify", ratioAtMost, 1.6}, true, true},
		{r, bound{"notify", ratioAtMost, 1.5}, false, true},
		{r, bound{"notify", ratioAtLeast, 1.5}, true, true},
		{r, bound{"notify", addedAtMost, 6}, true, true},
		{r, bound{"notify", addedAtMost, 5}, false, true},
		{r, bound{"notify", atMost, 16}, true, true},
		{r, bound{"notify", atLeast, 17}, false, true},
		{r, bound{"notify", beats, 0}, false, true},
		{more, bound{"notify", beats, 0}, true, true},
		{r, bound{"ptrace", ratioAtMost, 9}, false, false},
	} {
		k, ok := c.r.check(c.o)
		if ok != c.ok || k.Met != c.met {
			t.Errorf("%+v: met %v, ok %v", c.o, k.Met, ok)
		}
	}
}

func TestRowsHaveDistinctNames(t *testing.T) {
	seen := make(map[string]bool)
	for _, r := range rows() {
		if seen[r.name] {
			t.Errorf("%s is there twice", r.name)
		}
		seen[r.name] = true
	}
}

func TestParseCounts(t *testing.T) {
	const text = `% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000300           1       300         1 ioctl
 40.00    0.000200           2       100           close
------ ----------- ----------- --------- --------- ----------------
100.00    0.000500           1       400         1 total
`
	got, err := parseCounts(text)
	if err != nil || len(got) != 2 || got["ioctl"] != 300 || got["close"] != 100 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseCounts("nothing"); err == nil {
		t.Error("no counts are no error")
	}
}
