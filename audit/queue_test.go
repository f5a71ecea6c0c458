package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"appdefender/policy"
)

// sinkFunc is a sink made of a function.
type sinkFunc func(Record) error

func (f sinkFunc) Write(r Record) error { return f(r) }

// pages is a sink that keeps what matters of each record.
type pages struct {
	mu    sync.Mutex
	lines []string // "id msg count"
}

func (p *pages) Write(r Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines = append(p.lines, fmt.Sprintf("%s %s %d", r.ID, r.Msg, r.Count))
	return nil
}

func (p *pages) read() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...)
}

func check(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func record(msg string) Record {
	return Record{Msg: msg, Count: 1, Type: typeNetwork, Time: time.Now()}
}

func launch(msg string, pid int, ino uint64, argv string) Record {
	return Record{Msg: msg, Count: 1, Type: typeProcesses, PID: pid, Ino: ino, Command: argv, Refused: true, Time: time.Now()}
}

// run runs a queue in a bubble of fake time and returns what ends it.
func run(q *Queue, sinks ...Sink) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- q.Run(ctx, sinks...) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			panic(err)
		}
	}
}

func TestQueueConfessesItsLosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(Config{Source: src, Size: 2})
		for i := range 5 {
			q.Add(record(fmt.Sprint("r", i)))
		}
		var p pages
		end := run(q, &p)
		synctest.Wait()
		check(t, "before the next record", p.read(),
			"i1-1 3 records were lost: the audit queue was full 3", "i1-2 r0 1", "i1-3 r1 1")
		q.Add(record("next"))
		end()
		check(t, "all", p.read()[3:], "i1-4 next 1")
		if q.Lost() != 3 {
			t.Errorf("%d lost", q.Lost())
		}
	})
}

func TestQueueConfessesAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(Config{Source: src, Size: 1})
		written, proceed := make(chan bool), make(chan bool)
		var p pages
		end := run(q, sinkFunc(func(r Record) error {
			written <- true
			<-proceed
			return p.Write(r)
		}))
		q.Add(record("r0"))
		<-written
		q.Add(record("r1"))
		q.Add(record("lost"))
		go func() {
			for range 2 {
				proceed <- true
				<-written
			}
			proceed <- true
		}()
		end()
		check(t, "all", p.read(), "i1-1 r0 1", "i1-2 1 record was lost: the audit queue was full 1", "i1-3 r1 1")
	})
}

// A sink that never returns neither blocks Add nor holds up the end for ever.
func TestStuckSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unstick := make(chan bool)
		q := NewQueue(Config{Source: src, Size: 2})
		end := run(q, sinkFunc(func(Record) error { <-unstick; return nil }))
		for range 100 {
			q.Add(record("r"))
		}
		begin := time.Now()
		end()
		if took := time.Since(begin); took != flushTimeout {
			t.Errorf("the end took %v", took)
		}
		if q.Lost() == 0 {
			t.Error("nothing was lost")
		}
		close(unstick) // or the bubble would not end
	})
}

func TestSinkConfessesItsLosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var troubles []string
		q := NewQueue(Config{Source: src, Trouble: func(err error) { troubles = append(troubles, err.Error()) }})
		var good, bad pages
		var full bool
		end := run(q, &good, sinkFunc(func(r Record) error {
			if full {
				return errors.New("no space left on device")
			}
			return bad.Write(r)
		}))
		add := func(msg string) {
			q.Add(record(msg))
			synctest.Wait()
		}
		add("r1")
		full = true
		add("r2")
		add("r3")
		full = false
		add("r4")
		add("r5")
		full = true
		add("r6")
		end()
		const lost = "2 records were lost: writing them: no space left on device 2"
		check(t, "good", good.read(), "i1-1 r1 1", "i1-2 r2 1", "i1-3 r3 1", "i1-4 r4 1", "i1-5 "+lost, "i1-6 r5 1", "i1-7 r6 1")
		check(t, "bad", bad.read(), "i1-1 r1 1", "i1-4 r4 1", "i1-5 "+lost, "i1-6 r5 1")
		const trouble = "writing audit record: no space left on device"
		check(t, "told", troubles, trouble, trouble)
	})
}

func TestRetries(t *testing.T) {
	type add struct {
		at time.Duration
		r  func() Record
	}
	same := func() Record { return launch("mkdir", 12, 7, "mkdir test") }
	other := func(r func() Record, change func(*Record)) func() Record {
		return func() Record {
			x := r()
			change(&x)
			return x
		}
	}
	tests := []struct {
		what string
		adds []add
		want []string
	}{
		{"one", []add{{0, same}}, []string{"i1-1 mkdir 1"}},
		{"tried again", []add{{0, same}, {time.Millisecond, same}, {time.Second, same}}, []string{"i1-1 mkdir 3"}},
		{"too late", []add{{0, same}, {1100 * time.Millisecond, same}}, []string{"i1-1 mkdir 1", "i1-2 mkdir 1"}},
		{"another process", []add{{0, same}, {0, other(same, func(r *Record) { r.PID++ })}}, []string{"i1-1 mkdir 1", "i1-2 mkdir 1"}},
		{"another file", []add{{0, same}, {0, other(same, func(r *Record) { r.Ino++ })}}, []string{"i1-1 mkdir 1", "i1-2 mkdir 1"}},
		{"another device", []add{{0, same}, {0, other(same, func(r *Record) { r.Dev++ })}}, []string{"i1-1 mkdir 1", "i1-2 mkdir 1"}},
		{"other arguments", []add{{0, same}, {0, other(same, func(r *Record) { r.Command = "mkdir x" })}}, []string{"i1-1 mkdir 1", "i1-2 mkdir 1"}},
		{"another outcome", []add{{0, same}, {0, other(same, func(r *Record) { r.Refused = false })}}, []string{"i1-1 mkdir 1", "i1-2 mkdir 1"}},
		{"another detection", []add{{0, same}, {0, other(same, func(r *Record) { r.AttackType = "x" })}}, []string{"i1-1 mkdir 1", "i1-2 mkdir 1"}},
		{"the first one's message", []add{{0, same}, {0, other(same, func(r *Record) { r.Msg = "second" })}}, []string{"i1-1 mkdir 2"}},
		{
			"an unknown file",
			[]add{{0, other(same, func(r *Record) { r.Ino = 0 })}, {0, other(same, func(r *Record) { r.Ino = 0 })}},
			[]string{"i1-1 mkdir 1", "i1-2 mkdir 1"},
		},
		{
			"others pass at once",
			[]add{{0, same}, {0, func() Record { return record("lookup") }}, {0, same}},
			[]string{"i1-1 lookup 1", "i1-2 mkdir 2"},
		},
	}
	for _, tt := range tests {
		for _, patient := range []bool{true, false} { // or ended before the window is over
			t.Run(fmt.Sprintf("%s, patient %v", tt.what, patient), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					q := NewQueue(Config{Source: src})
					var p pages
					end := run(q, &p)
					begin := time.Now()
					for _, a := range tt.adds {
						time.Sleep(a.at - time.Since(begin))
						q.Add(a.r())
						synctest.Wait()
					}
					if patient {
						time.Sleep(3 * time.Second)
						synctest.Wait()
						check(t, "after the window", p.read(), tt.want...)
					}
					end()
					check(t, "at the end", p.read(), tt.want...)
				})
			})
		}
	}
}

// A slow sink makes us late; the records' own times still decide.
func TestRetriesBehindASlowSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(Config{Source: src})
		var p pages
		end := run(q, sinkFunc(func(r Record) error {
			time.Sleep(10 * time.Second)
			return p.Write(r)
		}))
		q.Add(record("slow"))
		for range 3 {
			q.Add(launch("mkdir", 12, 7, "mkdir test"))
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		end()
		check(t, "all", p.read(), "i1-1 slow 1", "i1-2 mkdir 3")
	})
}

func TestHeldLaunchesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(Config{Source: src})
		var p pages
		end := run(q, &p)
		for i := range maxHeld + 10 {
			q.Add(launch("x", i, 7, "x"))
		}
		synctest.Wait()
		if n := len(p.read()); n != 10 {
			t.Errorf("%d were written before their time", n)
		}
		end()
		if n := len(p.read()); n != maxHeld+10 {
			t.Errorf("%d were written", n)
		}
	})
}

func TestQueueUnderLoad(t *testing.T) {
	q := NewQueue(Config{Source: src, Size: 100})
	ctx, cancel := context.WithCancel(context.Background())
	var sum int
	ended := make(chan error)
	go func() {
		ended <- q.Run(ctx, sinkFunc(func(r Record) error { sum += r.Count; return nil }))
	}()
	var adders sync.WaitGroup
	for range 8 {
		adders.Go(func() {
			for range 1000 {
				q.Add(record("r"))
			}
		})
	}
	adders.Wait()
	q.Notice("the end")
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if sum != 8001 {
		t.Errorf("%d records were written or confessed, want 8001", sum)
	}
}

// part writes n bytes of each write, then all.
type part struct {
	strings.Builder
	limits []int
}

func (p *part) Write(b []byte) (int, error) {
	if len(p.limits) == 0 {
		return p.Builder.Write(b)
	}
	n := p.limits[0]
	p.limits = p.limits[1:]
	_, _ = p.Builder.Write(b[:n])
	return n, nil
}

func TestTornLine(t *testing.T) {
	w := &part{limits: []int{5, 0}}
	l := newLines(w)
	for i, want := range []error{io.ErrShortWrite, io.ErrShortWrite, nil, nil} {
		if err := l.Write(Record{Msg: "x"}); !errors.Is(err, want) {
			t.Errorf("write %d: %v", i, err)
		}
	}
	const line = `{"msg":"x"}` + "\n"
	if got, want := w.String(), line[:5]+"\n"+line+line; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOpenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	for range 2 { // the second time appends
		l, err := OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Write(New(src, &mkdir, process, Outcome{})); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := l.Write(Record{}); err == nil {
			t.Error("wrote to a closed file")
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines", len(lines))
	}
	for _, line := range lines {
		var r Record
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.AttackType != string(policy.DeniedProcess) {
			t.Errorf("%s: %v", line, err)
		}
	}
	for _, special := range []string{"none", "-"} {
		l, err := OpenFile(special)
		if err != nil {
			t.Fatal(err)
		}
		if special == "none" {
			if err := l.Write(Record{}); err != nil {
				t.Error(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stderr.WriteString(""); err != nil {
		t.Errorf("our own standard error was closed: %v", err)
	}
	if _, err := OpenFile(filepath.Join(path, "x")); err == nil {
		t.Error("opened a file below a file")
	}
}
