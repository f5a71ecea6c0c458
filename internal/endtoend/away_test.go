package endtoend

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"appdefender/audit"
	"appdefender/defender/uplink"
	"appdefender/policy"
	"appdefender/wire"
)

// source is a Defender's line and spool without a target: records come as fast
// as a test wants.
type source struct {
	t     *testing.T
	spool *audit.Spool
	line  *uplink.Uplink

	mu      sync.Mutex
	notices []string
}

// newSource starts the line of a directory, which ends with stop as a Defender
// does whose target has ended.
func (s *server) newSource(t *testing.T, dir, token, appID string) (src *source, stop func()) {
	t.Helper()
	src = &source{t: t}
	by := audit.Source{AppID: appID, Container: "load"}
	src.spool = audit.OpenSpool(audit.SpoolConfig{Dir: dir, Source: &by, Notice: src.notice})
	secret, err := os.ReadFile(token)
	if err != nil {
		t.Fatal(err)
	}
	src.line, err = uplink.New(uplink.Config{
		URL: s.url, Token: strings.TrimSpace(string(secret)), CA: s.pem, Identity: wire.Identity{AppID: appID, Container: "load"},
		Spool: src.spool, Apply: func(*policy.Policy) error { return nil }, Notice: src.notice,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = src.line.Run(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-ended
		if err := src.spool.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return src, stop
}

func (src *source) notice(msg string) {
	src.mu.Lock()
	defer src.mu.Unlock()
	src.notices = append(src.notices, msg)
}

func (src *source) said() string {
	src.mu.Lock()
	defer src.mu.Unlock()
	return strings.Join(src.notices, "\n")
}

// tell writes so many records a second, numbered, until ended is closed, and
// returns how many there were.
func (src *source) tell(perSecond int, ended <-chan struct{}) int {
	begun, n := time.Now(), 0
	for ticks := time.NewTicker(20 * time.Millisecond); ; {
		select {
		case <-ended:
			return n
		case <-ticks.C:
		}
		for due := int(time.Since(begun).Seconds() * float64(perSecond)); n < due; n++ {
			r := audit.Record{Time: time.Now(), Type: "processes", Effect: "alert", Msg: fmt.Sprintf("record %d of a load", n), AppID: "load"}
			if err := src.spool.Write(r); err != nil {
				src.t.Error(err)
			}
		}
	}
}

// mkdirs launches programs until a file appears, and says how many it did: so
// many in a row as fast as a shell can, which is thousands a second, then a
// pause.
const mkdirs = `i=0
until [ -e "$0" ]; do
	i=$((i+1))
	/usr/bin/mkdir $i 2>/dev/null
	[ $((i % $1)) -ne 0 ] || sleep 0.1
done
echo $i`

// away kills the Console under load, starts it again after a while, and counts
// what it then has: of a real Defender and target, and of 1,000 records a
// second. inRow is what the target does between two pauses: what a spool holds
// is bounded.
func away(t *testing.T, gone time.Duration, inRow int) {
	s := serve(t)
	token := s.token("t")
	s.rule("prevent", "mkdir")
	enough := filepath.Join(t.TempDir(), "enough")
	flags := []string{"--token-file", token, "--app-id", "task", "--data-dir", t.TempDir()}
	task := s.protect(t, flags, "sh", "-c", mkdirs, enough, fmt.Sprint(inRow))
	src, _ := s.newSource(t, t.TempDir(), token, "load")

	ended := make(chan struct{})
	told := make(chan int)
	go func() { told <- src.tell(1000, ended) }()
	await(t, "both have sent audits", func() bool {
		n := 0
		for _, d := range s.defenders() {
			if d.Acknowledged > 0 {
				n++
			}
		}
		return n == 2
	})
	time.Sleep(2 * time.Second)
	s.kill()
	t.Logf("the Console is gone for %v", gone)
	time.Sleep(gone)
	if !task.running() {
		t.Fatalf("the task ended: %s", &task.err)
	}
	s.start(t)
	time.Sleep(2 * time.Second)
	close(ended)
	n := <-told
	if err := os.WriteFile(enough, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if status := task.exit(); status != 0 {
		t.Errorf("the task ended with %d: %s", status, &task.err)
	}
	var launches int
	if _, err := fmt.Sscan(task.out.String(), &launches); err != nil {
		t.Fatalf("the task said %q", &task.out)
	}
	begun := time.Now()
	if err := src.line.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d records of the load, the rest sent in %v; %d launches of the task", n, time.Since(begun).Round(time.Millisecond), launches)

	// A Defender does not wait long for the Console when its target has ended.
	// What is left then is the next one's.
	of := func(appID string) []kept { return s.audits(url.Values{"appID": {appID}, "type": {"processes"}}) }
	for runs := 0; runs < 20 && len(of("task")) < launches; runs++ {
		t.Log("some of the task's audits are left to the next run")
		s.protect(t, flags, "true").exit()
	}

	whole := func(appID, format string, first, last int, text func(*kept) string) {
		t.Helper()
		seen := make(map[string]int)
		sequences := make(map[uint64]bool)
		for _, a := range of(appID) {
			seen[text(&a)]++
			if sequences[a.Sequence] {
				t.Errorf("%s: sequence %d is there twice", appID, a.Sequence)
			}
			sequences[a.Sequence] = true
		}
		bad := 0
		for i := first; i <= last; i++ {
			if key := fmt.Sprintf(format, i); seen[key] != 1 && bad < 10 {
				bad++
				t.Errorf("%s: %q is there %d times", appID, key, seen[key])
			}
		}
		if n := last - first + 1; len(seen) != n {
			t.Errorf("%s: there are %d different records, not %d", appID, len(seen), n)
		}
	}
	whole("load", "record %d of a load", 0, n-1, func(a *kept) string { return a.Record.Msg })
	whole("task", "/usr/bin/mkdir %d", 1, launches, func(a *kept) string { return a.Record.Command })
	if said := src.said(); !strings.Contains(said, "trying again, audits wait") || !strings.Contains(said, "the Console answers again") {
		t.Errorf("the source said:\n%s", said)
	}
}

func TestConsoleAway(t *testing.T) { away(t, 5*time.Second, 1000) }
