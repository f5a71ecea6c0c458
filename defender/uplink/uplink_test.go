package uplink

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"appdefender/audit"
	"appdefender/policy"
	"appdefender/wire"
)

func TestAudits(t *testing.T) {
	for _, tt := range []struct{ name, dir string }{{"disk", t.TempDir()}, {"memory", ""}} {
		t.Run(tt.name, func(t *testing.T) {
			c := newConsole(t)
			d := start(t, c, tt.dir)
			d.write("a", "b")
			d.await("two records", func() bool { return len(c.messages("d1")) == 2 })
			d.write("c")
			d.flush()
			check(t, "records", c.messages("d1"), "a", "b", "c")
			check(t, "notices", d.notices())
		})
	}
}

// A Console that comes and goes, and loses answers after it kept what was
// asked, gets every record once.
func TestOutageUnderLoad(t *testing.T) {
	const records = 5000
	c := newConsole(t)
	var asked atomic.Int64
	c.handle(func(w http.ResponseWriter, r *http.Request, usual func(http.ResponseWriter)) bool {
		if !asks(r, "audits") {
			return false
		}
		switch asked.Add(1) % 7 {
		case 1, 2:
			panic(http.ErrAbortHandler) // cut off before
		case 3:
			usual(httptest.NewRecorder())
			panic(http.ErrAbortHandler) // cut off after
		case 4:
			refuse(w, http.StatusServiceUnavailable, "away")
			return true
		case 5:
			usual(httptest.NewRecorder())
			refuse(w, http.StatusBadGateway, "the answer is lost")
			return true
		}
		return false
	})
	d := start(t, c, t.TempDir())
	want := numbers(records)
	for i := range 50 {
		d.write(want[i*100 : (i+1)*100]...)
		if i%10 == 0 {
			n := asked.Load()
			d.await("a request", func() bool { return asked.Load() > n })
		}
	}
	d.flush()
	check(t, "records", c.messages("d1"), want...)
	if n := d.spool.Dropped(); n > 0 {
		t.Errorf("%d are dropped", n)
	}
}

func TestBatchesAreFull(t *testing.T) {
	c := newConsole(t)
	var batches atomic.Int64
	c.handle(func(_ http.ResponseWriter, r *http.Request, _ func(http.ResponseWriter)) bool {
		if asks(r, "audits") {
			batches.Add(1)
		}
		return false
	})
	d := create(t, c, "")
	d.write(numbers(4 * wire.MaxBatch)...)
	d.run()
	d.flush()
	if n := batches.Load(); n != 4 {
		t.Errorf("%d batches", n)
	}
}

func TestRestart(t *testing.T) {
	c := newConsole(t)
	c.publish(3, "three")
	dir := t.TempDir()
	d := start(t, c, dir)
	<-d.FirstPolicy()
	d.write("a")
	d.flush()
	c.handle(func(w http.ResponseWriter, r *http.Request, usual func(http.ResponseWriter)) bool {
		if asks(r, "audits") {
			usual(httptest.NewRecorder()) // the Console has it, and we do not know
			panic(http.ErrAbortHandler)
		}
		return false
	})
	d.write("b")
	d.await("the second record", func() bool { return len(c.messages("d1")) == 2 })
	d.end()
	c.handle(nil)

	// Of the next one the hostname is another and there is no token.
	d = create(t, c, dir, func(cfg *Config) { cfg.Token, cfg.Identity.Hostname = "", "another" })
	p, err := d.LastGood()
	if err != nil || p == nil || p.Rules[0].Name != "three" {
		t.Fatalf("the last good policy is %v, %v", p, err)
	}
	d.write("c")
	d.run()
	<-d.FirstPolicy() // there is none newer
	d.flush()
	check(t, "records", c.messages("d1"), "a", "b", "c")
	check(t, "policies", d.policies())
	d.await("a heartbeat", func() bool { return c.lastHeartbeat("d1").Hostname == "another" })
	h := c.lastHeartbeat("d1")
	if h.Generation != 3 || h.Level != "notify" || h.Dropped != 5 || h.Started.IsZero() {
		t.Errorf("heartbeat %+v", h)
	}
	if n := c.enrolments(); n != 1 {
		t.Errorf("enrolled %d times", n)
	}
	check(t, "notices", d.notices())
}

// The machine crashed, and the disk has less than the Console.
func TestRestartWithLess(t *testing.T) {
	c := newConsole(t)
	dir := t.TempDir()
	d := start(t, c, dir)
	d.write("a")
	d.flush()
	d.spool.Sync()
	before := t.TempDir()
	if err := os.CopyFS(before, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	d.write("b", "c")
	d.flush()
	d.end()

	d = start(t, c, before)
	d.write("d")
	d.flush()
	check(t, "records", c.messages("d1"), "a", "b", "c", "d")
	if n := c.enrolments(); n != 1 {
		t.Errorf("enrolled %d times", n)
	}
}

func TestAnotherContainerInTheDirectory(t *testing.T) {
	c := newConsole(t)
	dir := t.TempDir()
	d := create(t, c, dir)
	d.write("old")
	d.end()
	d = start(t, c, dir)
	d.flush()
	d.end()
	d = start(t, c, dir, func(cfg *Config) { cfg.Identity.AppID = "another" })
	d.write("new")
	d.flush()
	check(t, "records of the first", c.messages("d1"), "old")
	check(t, "records of the second", c.messages("d2"), "new")
}

func TestEnrolsAgain(t *testing.T) {
	c := newConsole(t)
	c.publish(1, "one")
	d := start(t, c, t.TempDir())
	<-d.FirstPolicy()
	d.write("a", "b")
	d.flush()
	d.await("a heartbeat", func() bool { return len(c.get("d1").heartbeats) > 0 })
	c.forget()
	c.publish(2, "two") // ends the long poll
	d.write("c", "d")
	d.await("records of another instance", func() bool { return len(c.messages("d2")) == 2 })
	check(t, "records", c.messages("d2"), "c", "d")
	d.write("e")
	d.await("a policy", func() bool { return len(d.policies()) == 2 })
	d.flush()
	check(t, "records", c.messages("d2"), "c", "d", "e")
	if d.noticed("enrolling again") != 1 {
		t.Errorf("notices %q", d.notices())
	}
}

// Answers that a Console should not give cost no record.
func TestAcknowledgements(t *testing.T) {
	tests := []struct {
		name   string
		answer func(n int64, right uint64) uint64 // to the n-th batch after the first
	}{
		{"right", func(_ int64, right uint64) uint64 { return right }},
		{"older", func(n int64, right uint64) uint64 {
			if n < patience {
				return 1
			}
			return right
		}},
		{"of the batch before", func(n int64, right uint64) uint64 {
			if n < 4 {
				return 2
			}
			return right
		}},
		{"in part", func(n int64, right uint64) uint64 { return min(right, uint64(n+2)) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newConsole(t)
			d := start(t, c, t.TempDir())
			d.write("a", "b")
			d.flush()
			var n atomic.Int64
			c.handle(func(w http.ResponseWriter, r *http.Request, usual func(http.ResponseWriter)) bool {
				if !asks(r, "audits") {
					return false
				}
				usual(httptest.NewRecorder())
				reply(w, wire.Acknowledged{Sequence: tt.answer(n.Add(1), uint64(len(c.messages("d1"))))})
				return true
			})
			d.write("c", "d", "e", "f")
			d.flush()
			check(t, "records", c.messages("d1"), "a", "b", "c", "d", "e", "f")
			if c.enrolments() != 1 {
				t.Error("enrolled again")
			}
		})
	}
}

// A Console restored from a backup has less than it acknowledged. What it lost
// is gone, but what comes then is not.
func TestConsoleLostRecords(t *testing.T) {
	c := newConsole(t)
	d := start(t, c, t.TempDir())
	d.write("a", "b", "c")
	d.flush()
	c.change("d1", func(i *instance) { i.records = i.records[:1] })
	d.write("d")
	d.flush()
	check(t, "records", c.messages("d1"), "a", "d")
	if d.noticed("the Console lost 2 audit records") != 1 {
		t.Errorf("notices %q", d.notices())
	}
}

// Two Defenders with copies of one directory must not take each other's
// records for their own.
func TestCopiedDirectory(t *testing.T) {
	c := newConsole(t)
	dir := t.TempDir()
	d := start(t, c, dir)
	d.write("a")
	d.flush()
	c.change("d1", func(i *instance) { // by the other one
		i.records = append(i.records, audit.Record{Msg: "x"}, audit.Record{Msg: "y"}, audit.Record{Msg: "z"})
	})
	d.write("b")
	d.flush()
	check(t, "records", c.messages("d2"), "b")
	if d.noticed("another Defender goes by the same name") != 1 {
		t.Errorf("notices %q", d.notices())
	}
}

// One record that the Console will not take does not hold up the others.
func TestRecordNotTaken(t *testing.T) {
	for _, code := range []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			c := newConsole(t)
			c.handle(func(w http.ResponseWriter, r *http.Request, usual func(http.ResponseWriter)) bool {
				if !asks(r, "audits") {
					return false
				}
				before := len(c.messages("d1"))
				usual(httptest.NewRecorder())
				if msgs := c.messages("d1"); strings.Contains(strings.Join(msgs, " "), "poison") {
					c.change("d1", func(i *instance) { i.records = i.records[:before] })
					refuse(w, code, "not this")
					return true
				}
				return false
			})
			d := create(t, c, "")
			d.write("a", "b", "poison", "c", "d")
			d.run()
			d.flush()
			check(t, "records", c.messages("d1"), "a", "b", "1 record was lost: the Console did not take it", "c", "d")
		})
	}
}

func TestPolicy(t *testing.T) {
	c := newConsole(t)
	d := start(t, c, t.TempDir())
	c.publish(5, "five")
	<-d.FirstPolicy()
	other := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	tampered := wire.Sign(c.key, 9, rules("nine"))
	tampered.Policy = rules("evil")
	relabelled := wire.Sign(c.key, 4, rules("four"))
	relabelled.Generation = 10

	tests := []struct {
		name string
		send wire.SignedPolicy
		says string
	}{
		{"tampered", tampered, "generation 9: the policy's signature is wrong"},
		{"of another generation", relabelled, "generation 10: the policy's signature is wrong"},
		{"of another key", wire.Sign(other, 11, rules("eleven")), "generation 11: the policy's signature is wrong"},
		{"of no key", wire.SignedPolicy{Generation: 12, Policy: rules("twelve")}, "generation 12: the policy's signature is wrong"},
		{"older", wire.Sign(c.key, 4, rules("four")), "generation 4 is older than 5"},
		{"twice", wire.Sign(c.key, 5, rules("another five")), "there are two of generation 5"},
		{"with a fault", wire.Sign(c.key, 6, `{"version": 1, "rools": []}`), "generation 6:1:16: rools: unknown key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// It is sent whatever generation is asked for.
			c.handle(func(w http.ResponseWriter, r *http.Request, _ func(http.ResponseWriter)) bool {
				if asks(r, "policy") {
					reply(w, tt.send)
					return true
				}
				return false
			})
			c.publish(5, "five") // wakes who waits
			d.await("a heartbeat about it", func() bool { return strings.Contains(c.lastHeartbeat("d1").PolicyError, tt.says) })
			if g := c.lastHeartbeat("d1").Generation; g != 5 {
				t.Errorf("the generation in force is %d", g)
			}
			c.handle(nil)
		})
	}
	check(t, "policies before", d.policies(), "five")

	t.Run("that does not compile", func(t *testing.T) {
		d.mu.Lock()
		d.refuse = errors.New("no thanks")
		d.mu.Unlock()
		c.publish(7, "seven")
		d.await("a heartbeat about it", func() bool { return c.lastHeartbeat("d1").PolicyError == "no thanks" })
		d.mu.Lock()
		d.refuse = nil
		d.mu.Unlock()
	})
	c.publish(8, "eight")
	d.await("a heartbeat about the good one", func() bool {
		h := c.lastHeartbeat("d1")
		return h.Generation == 8 && h.PolicyError == ""
	})
	check(t, "policies", d.policies(), "five", "eight")
	if d.noticed("no thanks") != 1 || d.noticed("older") != 1 {
		t.Errorf("notices %q", d.notices())
	}
}

func TestLastGood(t *testing.T) {
	c := newConsole(t)
	c.publish(2, "two")
	dir := t.TempDir()
	d := start(t, c, dir)
	if p, err := d.LastGood(); p != nil || err != nil {
		t.Errorf("before any: %v, %v", p, err)
	}
	<-d.FirstPolicy()
	d.end()
	name := filepath.Join(dir, policyName)
	for _, n := range []string{name, filepath.Join(dir, enrolmentName)} {
		if info, err := os.Stat(n); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(strings.Replace(string(data), "two", "ten", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	d = create(t, c, dir)
	if p, err := d.LastGood(); p != nil || !errors.Is(err, wire.ErrSignature) {
		t.Errorf("tampered: %v, %v", p, err)
	}
	d.run()
	<-d.FirstPolicy() // it is fetched again
	check(t, "policies", d.policies(), "two")
}

// Whom an earlier run believed is believed for good.
func TestKeyIsPinned(t *testing.T) {
	c := newConsole(t)
	c.publish(1, "one")
	d := start(t, c, t.TempDir())
	<-d.FirstPolicy()
	c.mu.Lock()
	c.key = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	c.mu.Unlock()
	c.forget()
	c.publish(2, "two")
	d.write("a")
	d.await("a heartbeat about it", func() bool { return strings.Contains(c.lastHeartbeat("d2").PolicyError, "signature is wrong") })
	d.flush()
	check(t, "policies", d.policies(), "one")
	check(t, "records go on", c.messages("d2"), "a")
	if d.noticed("another policy key") != 1 {
		t.Errorf("notices %q", d.notices())
	}
}

func TestRevoked(t *testing.T) {
	c := newConsole(t)
	c.publish(1, "one")
	d := start(t, c, t.TempDir())
	<-d.FirstPolicy()
	d.write("a")
	d.flush()
	c.change("d1", func(i *instance) { i.revoked = true })
	c.publish(2, "two")
	d.write("b")
	d.await("a notice", func() bool { return d.noticed("revoked this Defender") > 0 })
	if err := d.Flush(t.Context()); !errors.Is(err, errRefused) || !strings.HasPrefix(err.Error(), "1 audit records were not sent") {
		t.Errorf("Flush: %v", err)
	}
	check(t, "records", c.messages("d1"), "a")
	if c.enrolments() != 1 || d.noticed("revoked this Defender") != 1 {
		t.Errorf("enrolled %d times; notices %q", c.enrolments(), d.notices())
	}
	c.change("d1", func(i *instance) { i.revoked = false })
	d.await("the record", func() bool { return len(c.messages("d1")) == 2 })
}

func TestWrongToken(t *testing.T) {
	for name, token := range map[string]string{"the Console refused the token": "wrong", "has no token": ""} {
		t.Run(name, func(t *testing.T) {
			c := newConsole(t)
			d := start(t, c, "", func(cfg *Config) { cfg.Token = token })
			d.write("a")
			d.await("a notice", func() bool { return d.noticed(name) > 0 })
			if err := d.Flush(t.Context()); !errors.Is(err, errRefused) {
				t.Errorf("Flush: %v", err)
			}
			check(t, "notices", d.notices(), d.notices()[0])
		})
	}
}

// Nothing is sent to who is not the Console.
func TestWrongCA(t *testing.T) {
	c := newConsole(t)
	c.handle(func(http.ResponseWriter, *http.Request, func(http.ResponseWriter)) bool {
		t.Error("a request came through")
		return false
	})
	for name, ca := range map[string][]byte{"another": []byte(otherCA), "the system's": nil} {
		t.Run(name, func(t *testing.T) {
			d := start(t, c, "", func(cfg *Config) { cfg.CA = ca })
			d.await("a notice", func() bool { return d.noticed("x509: certificate signed by unknown authority (is --ca") > 0 })
			check(t, "notices", d.notices(), d.notices()[0])
		})
	}
}

func TestOldTLS(t *testing.T) {
	c := unstarted()
	c.server.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11} //nolint:gosec // that is what is refused
	c.server.StartTLS()
	t.Cleanup(c.server.Close)
	d := start(t, c, "")
	d.await("a notice", func() bool { return d.noticed("protocol version") > 0 })
	if c.enrolments() > 0 {
		t.Error("enrolled")
	}
}

func TestPlainLoopback(t *testing.T) {
	c := unstarted()
	c.server.Start()
	t.Cleanup(c.server.Close)
	d := start(t, c, "")
	d.write("a")
	d.flush()
	check(t, "records", c.messages("d1"), "a")
}

func TestRedirectIsNotFollowed(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("followed") }))
	defer elsewhere.Close()
	c := newConsole(t)
	c.handle(func(w http.ResponseWriter, r *http.Request, _ func(http.ResponseWriter)) bool {
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		return true
	})
	d := start(t, c, "")
	d.await("a notice", func() bool { return d.noticed("redirects are not followed") > 0 })
}

// A credential is for the Console that gave it.
func TestConsoleMoved(t *testing.T) {
	a, b := newConsole(t), newConsole(t)
	b.key = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	a.publish(9, "of a")
	b.publish(1, "of b")
	b.handle(func(_ http.ResponseWriter, r *http.Request, _ func(http.ResponseWriter)) bool {
		if r.Header.Get("Authorization") == "Bearer secret-a" {
			t.Error("it got the credential of another")
		}
		return false
	})
	a.handle(func(w http.ResponseWriter, r *http.Request, usual func(http.ResponseWriter)) bool {
		if !asks(r, "enrol") {
			return false
		}
		usual(httptest.NewRecorder())
		a.change("d1", func(i *instance) { i.credential = "secret-a" })
		reply(w, wire.Enrolled{Instance: "d1", Credential: "secret-a", PolicyKey: a.key.Public().(ed25519.PublicKey)})
		return true
	})
	dir := t.TempDir()
	d := start(t, a, dir)
	<-d.FirstPolicy()
	d.write("a")
	d.flush()
	d.end()
	d = create(t, b, dir)
	if p, err := d.LastGood(); p != nil || err != nil {
		t.Errorf("the last good policy is %v, %v", p, err)
	}
	d.write("b")
	d.run()
	<-d.FirstPolicy()
	d.flush()
	check(t, "policies", d.policies(), "of b")
	check(t, "records", b.messages("d1"), "b")
}

func TestConsoleIsAway(t *testing.T) {
	c := newConsole(t)
	c.server.Close()
	d := start(t, c, "")
	d.write("a")
	d.await("a notice", func() bool { return d.noticed("reaching the Console") > 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := d.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Flush: %v", err)
	}
	d.stop()
	if err := d.Flush(t.Context()); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("Flush after the end: %v", err)
	}
	check(t, "notices", d.notices(), d.notices()[0])
}

func TestConsoleComesBack(t *testing.T) {
	c := newConsole(t)
	var away atomic.Bool
	c.handle(func(http.ResponseWriter, *http.Request, func(http.ResponseWriter)) bool {
		if away.Load() {
			panic(http.ErrAbortHandler)
		}
		return false
	})
	away.Store(true)
	d := start(t, c, "")
	d.write("a")
	d.await("a notice", func() bool { return d.noticed("reaching the Console") > 0 })
	away.Store(false)
	d.flush()
	d.await("another", func() bool { return d.noticed("answers again") > 0 })
	check(t, "records", c.messages("d1"), "a")
}

// An answer without end does not fill our memory.
func TestEndlessAnswer(t *testing.T) {
	c := newConsole(t)
	c.handle(func(w http.ResponseWriter, r *http.Request, _ func(http.ResponseWriter)) bool {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				break
			}
		}
		return true
	})
	d := start(t, c, "")
	d.await("a notice", func() bool { return d.noticed("longer than 65536 bytes") > 0 })
}

func TestUnusableEnrolment(t *testing.T) {
	key := make(ed25519.PublicKey, ed25519.PublicKeySize)
	for name, e := range map[string]wire.Enrolled{
		"nothing":            {},
		"a path for an id":   {Instance: "../x", Credential: "c", PolicyKey: key},
		"a line in a secret": {Instance: "x", Credential: "c\r\nX: y", PolicyKey: key},
		"a short key":        {Instance: "x", Credential: "c", PolicyKey: key[:4]},
	} {
		t.Run(name, func(t *testing.T) {
			c := newConsole(t)
			c.handle(func(w http.ResponseWriter, r *http.Request, _ func(http.ResponseWriter)) bool {
				if !asks(r, "enrol") {
					t.Errorf("it went on to %s", r.URL.Path)
				}
				reply(w, e)
				return true
			})
			d := start(t, c, "")
			d.await("a notice", func() bool { return d.noticed("no usable instance") > 0 })
		})
	}
}

func TestDamagedEnrolment(t *testing.T) {
	c := newConsole(t)
	dir := t.TempDir()
	d := start(t, c, dir)
	d.write("a")
	d.flush()
	d.end()
	if err := os.WriteFile(filepath.Join(dir, enrolmentName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	d = start(t, c, dir)
	d.write("b")
	d.flush()
	check(t, "records", c.messages("d2"), "b")
	if d.noticed("enrolling anew") != 1 {
		t.Errorf("notices %q", d.notices())
	}
}

func TestNew(t *testing.T) {
	tests := []struct{ url, says string }{
		{"https://console.test", ""},
		{"https://console.test:8083/below", ""},
		{"http://127.0.0.1:8080", ""},
		{"http://[::1]:8080", ""},
		{"http://localhost", ""},
		{"http://console.test", "plain http is for loopback alone"},
		{"http://127.0.0.1.evil.test", "plain http is for loopback alone"},
		{"console.test:8083", "no host"},
		{"", "no host"},
		{"https://", "no host"},
		{"https://:443", "no host"},
		{"ftp://console.test", "scheme must be https"},
		{"https://user:hunter2@console.test", "no more than scheme"},
		{"https://console.test/?x=y", "no more than scheme"},
		{"https://console.test/%zz", "invalid URL escape"},
	}
	spool := audit.OpenSpool(audit.SpoolConfig{Source: &audit.Source{}})
	apply := func(*policy.Policy) error { return nil }
	for _, tt := range tests {
		u, err := New(Config{URL: tt.url, Spool: spool, Apply: apply})
		switch {
		case tt.says == "" && err != nil:
			t.Errorf("%q: %v", tt.url, err)
		case tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "hunter2")):
			t.Errorf("%q: %v", tt.url, err)
		case err == nil && (u.client.transport.Proxy != nil || u.client.quick.Logger != nil || u.client.slow.Logger != nil):
			t.Errorf("%q: a proxy or a logger", tt.url)
		}
	}
	if _, err := New(Config{URL: "https://console.test", Spool: spool, Apply: apply, CA: []byte("nothing")}); err == nil {
		t.Error("a CA that is none")
	}
	if _, err := New(Config{URL: "https://console.test"}); err == nil {
		t.Error("no spool")
	}
}

func TestBackoff(t *testing.T) {
	wait := func(attempt int, after string) time.Duration {
		return backoff(time.Second, time.Minute, attempt, &http.Response{Header: http.Header{"Retry-After": {after}}})
	}
	tests := []struct {
		name        string
		got         time.Duration
		least, most time.Duration
	}{
		{"first", wait(0, ""), time.Second / 2, time.Second},
		{"fourth", wait(3, ""), 4 * time.Second, 8 * time.Second},
		{"bounded", wait(20, ""), 30 * time.Second, time.Minute},
		{"asked for", wait(0, "20"), 10 * time.Second, 20 * time.Second},
		{"asked for too much", wait(0, "60000"), 30 * time.Second, time.Minute},
		{"asked in other words", wait(0, "tomorrow"), time.Second / 2, time.Second},
	}
	for _, tt := range tests {
		if tt.got < tt.least || tt.got > tt.most {
			t.Errorf("%s: %v", tt.name, tt.got)
		}
	}
}

// otherCA is a certificate that signed nothing here.
const otherCA = `-----BEGIN CERTIFICATE-----
MIIBRTCB7aADAgECAgEBMAoGCCqGSM49BAMCMBIxEDAOBgNVBAMTB2Fub3RoZXIw
IBcNNzAwMTAxMDAwMDAwWhgPMjEwMDAxMDEwMDAwMDBaMBIxEDAOBgNVBAMTB2Fu
b3RoZXIwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARjMz8Jw0N0HTjKbrgOge6g
StBsF2NSOZS/EY1c2EVIn/l3PZd20nvpTqY+pHmxJFxCv7RPPoS5x4obgmdF9GGI
ozIwMDAPBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBTFl6WJDHHzRzEZKZ01oTNp
0qhOijAKBggqhkjOPQQDAgNHADBEAiAhuy3zacW1HiaARWEEo7/jbbN4rt798eUc
B5849g45LAIgMHBEz/G4a0IVafvBu3D+vyX7RlOwtILGCPOYqxivfvU=
-----END CERTIFICATE-----`
