package console

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"appdefender/console/store"
	"appdefender/policy"
	"appdefender/wire"
)

func TestEnrol(t *testing.T) {
	b := newBench(t)
	once := 1
	expiring := b.token(store.Token{Name: "expiring", Expires: b.clock.Now().Add(time.Hour)})
	single := b.token(store.Token{Name: "single", Uses: &once})
	deleted := b.token(store.Token{Name: "deleted"})
	if err := b.Store().DeleteToken(t.Context(), "test", "deleted"); err != nil {
		t.Fatal(err)
	}
	enrol := func(token string) answer {
		return b.do("POST", wire.Path+"/enrol", fmt.Sprintf(`{"token":%q,"appID":"app","container":"c","newerField":1}`, token))
	}

	var e wire.Enrolled
	enrol(expiring).into(t, 200, &e)
	if e.Instance == "" || e.Credential == "" || !slices.Equal(e.PolicyKey, b.PolicyKey()) || len(e.PolicyKey) != ed25519.PublicKeySize {
		t.Errorf("enrolled as %+v", e)
	}
	enrol(single).into(t, 200, nil)
	for name, token := range map[string]string{"no": "", "a wrong": "enrol-x", "a used up": single, "a deleted": deleted} {
		if a := enrol(token); a.status != 401 || !strings.Contains(a.body, `"err":`) {
			t.Errorf("%s token: %d %s", name, a.status, a.body)
		}
	}
	b.clock.pass(time.Hour)
	if a := enrol(expiring); a.status != 401 {
		t.Errorf("an expired token: %d %s", a.status, a.body)
	}
	d, err := b.Store().Defender(t.Context(), e.Instance)
	if err != nil || d.AppID != "app" || d.Container != "c" || d.Token != "expiring" {
		t.Errorf("kept %+v, %v", d, err)
	}
}

func TestWhoMayAsk(t *testing.T) {
	b := newBench(t)
	d := b.enrolled()
	other := b.enrolled()
	gone := b.enrolled()
	if a := b.do("POST", "/api/v1/defenders/"+gone.Instance+"/revoke", "", b.as("editor")); a.status != 204 {
		t.Fatalf("revoking: %d %s", a.status, a.body)
	}
	admin := b.as("admin")
	for _, tt := range []struct {
		name, instance, auth string
		want                 int
	}{
		{"its credential", d.Instance, "Bearer " + d.Credential, 200},
		{"no credential", d.Instance, "", 401},
		{"a tampered one", d.Instance, "Bearer " + d.Credential[:len(d.Credential)-1] + "!", 401},
		{"another's", d.Instance, "Bearer " + other.Credential, 401},
		{"an unknown instance", "nobody", "Bearer " + d.Credential, 401},
		{"an administrator's session", d.Instance, strings.TrimPrefix(admin, "Authorization: "), 401},
		{"revoked", gone.Instance, "Bearer " + gone.Credential, 403},
		{"revoked, wrong credential", gone.Instance, "Bearer x", 401},
	} {
		for _, r := range [][3]string{
			{"GET", "/policy", ""}, {"POST", "/audits", `{"first":1,"records":[]}`}, {"POST", "/heartbeat", `{"level":"notify"}`},
		} {
			if a := b.do(r[0], wire.Path+"/"+tt.instance+r[1], r[2], "Authorization: "+tt.auth); a.status != tt.want {
				t.Errorf("%s: %s: status %d, want %d: %s", tt.name, r[1], a.status, tt.want, a.body)
			}
		}
	}
	if !strings.Contains(b.log.String(), "revoked") {
		t.Error("the log does not tell of the revoked Defender")
	}
	if a := b.do("GET", "/api/v1/policy", "", "Authorization: Bearer "+d.Credential); a.status != 401 {
		t.Errorf("a Defender's credential opened the API: %d", a.status)
	}
}

func TestPolicyForDefenders(t *testing.T) {
	b := newBench(t)
	d := b.enrolled()
	var p wire.SignedPolicy
	d.do("GET", "/policy?generation=0&wait=55", "").into(t, 200, &p)
	if err := p.Verify(d.PolicyKey); err != nil || p.Generation != 1 {
		t.Errorf("generation %d, %v", p.Generation, err)
	}
	// An older generation gets the newest, the same and a later one nothing.
	addRule(t, b, "second")
	d.do("GET", "/policy?generation=1", "").into(t, 200, &p)
	if err := p.Verify(d.PolicyKey); err != nil || p.Generation != 2 {
		t.Errorf("generation %d, %v", p.Generation, err)
	}
	for _, have := range []int{2, 3} {
		if a := d.do("GET", fmt.Sprintf("/policy?generation=%d&wait=0", have), ""); a.status != 304 || a.body != "" {
			t.Errorf("with generation %d: %d %s", have, a.status, a.body)
		}
	}
	start := time.Now()
	if a := d.do("GET", "/policy?generation=2&wait=1", ""); a.status != 304 || time.Since(start) < time.Second {
		t.Errorf("waited %v: %d", time.Since(start), a.status)
	}
	for _, query := range []string{"generation=x", "generation=-1", "wait=1.5"} {
		if a := d.do("GET", "/policy?"+query, ""); a.status != 400 {
			t.Errorf("%s: %d %s", query, a.status, a.body)
		}
	}
}

func addRule(t *testing.T, b *bench, name string) {
	t.Helper()
	alert := policy.Alert
	if _, err := b.AddRule(t.Context(), "test", 0, 0, policy.Rule{Name: name, DNS: &policy.DNSSection{Effect: &alert}}); err != nil {
		t.Fatal(err)
	}
}

// A revoked Defender does not get the next policy, even if it waits already.
func TestRevokedWhileWaiting(t *testing.T) {
	b := newBench(t)
	d := b.enrolled()
	got := make(chan answer)
	go func() { got <- d.do("GET", "/policy?generation=1&wait=30", "") }()
	time.Sleep(100 * time.Millisecond)
	if err := b.Revoke(t.Context(), "test", d.Instance); err != nil {
		t.Fatal(err)
	}
	if a := <-got; a.status != 403 {
		t.Errorf("status %d: %s", a.status, a.body)
	}
}

func TestStopEndsWaiting(t *testing.T) {
	b := newBench(t)
	d := b.enrolled()
	got := make(chan answer)
	go func() { got <- d.do("GET", "/policy?generation=1&wait=30", "") }()
	time.Sleep(100 * time.Millisecond)
	b.Stop()
	if a := <-got; a.status != 304 {
		t.Errorf("status %d: %s", a.status, a.body)
	}
}

// Two hundred Defenders wait, and get a change at once.
func TestManyWait(t *testing.T) {
	b := newBench(t)
	token := b.token(store.Token{})
	const n = 200
	transport := &http.Transport{MaxIdleConnsPerHost: n}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var waiting, done sync.WaitGroup
	arrived := make([]time.Time, n)
	waiting.Add(n)
	for i := range n {
		done.Go(func() {
			instance, credential, err := b.Store().Enrol(t.Context(), token, wire.Identity{AppID: fmt.Sprint(i)})
			waiting.Done()
			if err != nil {
				t.Error(err)
				return
			}
			r, _ := http.NewRequestWithContext(t.Context(), "GET", b.http.URL+wire.Path+"/"+instance+"/policy?generation=1&wait=55", nil)
			r.Header.Set("Authorization", "Bearer "+credential)
			resp, err := client.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			var p wire.SignedPolicy
			if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || p.Generation != 2 || p.Verify(b.PolicyKey()) != nil {
				t.Errorf("Defender %d: %d, generation %d, %v", i, resp.StatusCode, p.Generation, err)
			}
			arrived[i] = time.Now()
		})
	}
	waiting.Wait()
	time.Sleep(500 * time.Millisecond) // until they all wait
	changed := time.Now()
	addRule(t, b, "new")
	done.Wait()
	last := slices.MaxFunc(arrived, time.Time.Compare)
	t.Logf("the last of %d had it after %v", n, last.Sub(changed))
}

func TestBatches(t *testing.T) {
	b := newBench(t)
	d := b.enrolled()
	send := func(first uint64, want uint64, records ...string) {
		t.Helper()
		var ack wire.Acknowledged
		d.send(first, records...).into(t, 200, &ack)
		if ack.Sequence != want {
			t.Errorf("first %d, %d records: acknowledged %d, want %d", first, len(records), ack.Sequence, want)
		}
	}
	r := func(i int) string { return rec("a", fmt.Sprintf("m%d", i)) }
	send(1, 2, r(1), r(2))
	send(1, 2, r(1), r(2))                                           // again: the answer was lost
	send(2, 3, r(2), r(3))                                           // half of it again
	send(5, 3, r(5))                                                 // a gap: nothing is taken
	send(4, 5, r(4), r(5))                                           // the gap closed
	send(1, 5)                                                       // nothing at all
	send(1, 5, r(1))                                                 // old
	send(6, 7, `"odd"`, `{"time":12,"msg":"m7","type":"processes"}`) // unreadable ones do not hold up the rest
	want := []string{"m1", "m2", "m3", "m4", "m5", `a record that cannot be read: "\"odd\""`, "m7"}
	got := b.audits()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("kept %q", got)
	}
	// Sequences are each Defender's own.
	e := b.enrolled()
	e.send(1, rec("b", "other")).into(t, 200, nil)
	if n := len(b.audits()); n != 8 {
		t.Errorf("%d audits", n)
	}
}

// The same batch from many connections is counted once.
func TestConcurrentDuplicates(t *testing.T) {
	b := newBench(t)
	d := b.enrolled()
	var records []string
	for i := range 100 {
		records = append(records, rec("a", fmt.Sprint(i)))
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { d.send(1, records...).into(t, 200, nil) })
	}
	wg.Wait()
	if n := len(b.audits()); n != 100 {
		t.Errorf("%d audits", n)
	}
}

func TestBadBatches(t *testing.T) {
	b := newBench(t)
	d := b.enrolled()
	many := strings.Repeat("{},", wire.MaxBatch) + "{}"
	for _, tt := range []struct {
		name, body string
		want       int
	}{
		{"no JSON", "x", 400},
		{"a broken frame", packed(`{"first":1}`)[:10], 400},
		{"sequence 0", `{"first":0,"records":[{}]}`, 400},
		{"a sequence that overflows", `{"first":18446744073709551615,"records":[{}]}`, 400},
		{"a negative one", `{"first":-1,"records":[{}]}`, 400},
		{"too many records", `{"first":1,"records":[` + many + `]}`, 400},
		{"records that are no list", `{"first":1,"records":{}}`, 400},
		{"a large body", strings.Repeat(" ", wire.MaxBatchBytes+1), 413},
		{"a zip bomb", packed(`{"first":1,"records":[{"msg":"` + strings.Repeat("a", 1<<27) + `"}]}`), 413},
	} {
		if a := d.do("POST", "/audits", tt.body); a.status != tt.want {
			t.Errorf("%s: status %d, want %d: %.200s", tt.name, a.status, tt.want, a.body)
		}
	}
	if n := len(b.audits()); n != 0 {
		t.Errorf("%d audits were kept", n)
	}
	d.send(1, "null").into(t, 200, nil)
}

func TestHeartbeat(t *testing.T) {
	b := newBench(t)
	d := b.enrolled()
	if s := state(t, b, d.Instance); s != Connected {
		t.Errorf("just enrolled: %s", s)
	}
	var reply wire.HeartbeatReply
	b.clock.pass(10 * time.Minute)
	if s := state(t, b, d.Instance); s != Silent {
		t.Errorf("after 10 minutes: %s", s)
	}
	d.do("POST", "/heartbeat", `{"appID":"a2","level":"notify","lost":["pidfd"],"generation":18446744073709551615,"queue":3,"dropped":4,
		"policyError":"no","started":"2026-03-04T05:00:00Z","fromTheFuture":{}}`).into(t, 200, &reply)
	if reply.Seconds != 20 {
		t.Errorf("reply %+v", reply)
	}
	v, err := b.Store().Defender(t.Context(), d.Instance)
	if err != nil || v.AppID != "a2" || v.Level != "notify" || !slices.Equal(v.Lost, []string{"pidfd"}) || v.Queue != 3 || v.Dropped != 4 ||
		v.PolicyError != "no" || !v.LastSeen.Equal(b.clock.Now()) {
		t.Errorf("kept %+v, %v", v, err)
	}
	if s := state(t, b, d.Instance); s != Connected {
		t.Errorf("after a heartbeat: %s", s)
	}
	if a := d.do("POST", "/heartbeat", `{"appID":"`+strings.Repeat("x", 5000)+`"}`); a.status != 400 {
		t.Errorf("a long App ID: %d", a.status)
	}
}

func state(t *testing.T, b *bench, instance string) string {
	t.Helper()
	all, err := b.Defenders(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		if v.Instance == instance {
			return v.State
		}
	}
	t.Fatalf("no Defender %q", instance)
	return ""
}

// A Console that was restored from a backup goes on above the generations that
// it once gave.
func TestGoesOnAboveItsDefenders(t *testing.T) {
	b := newBench(t)
	d := b.enrolled()
	beat := func(generation uint64, policyError string, want uint64) {
		t.Helper()
		d.do("POST", "/heartbeat", fmt.Sprintf(`{"level":"notify","generation":%d,"policyError":%q}`, generation, policyError)).into(t, 200, nil)
		if got := b.newest().Generation; got != want {
			t.Errorf("after generation %d the newest is %d, not %d", generation, got, want)
		}
	}
	before := b.newest().PolicyVersion.Policy
	beat(0, "", 1)
	beat(1, "", 1)
	beat(1<<40, "", 1) // nobody changed a policy so often
	if !strings.Contains(b.log.String(), "cannot have given") {
		t.Errorf("the log is %s", b.log)
	}
	b.clock.pass(overtakeEvery)
	beat(50, "", 50+headroom)
	beat(5000, "", 50+headroom) // too soon
	b.clock.pass(overtakeEvery)
	beat(5000, "", 5000+headroom)
	b.clock.pass(overtakeEvery)
	beat(5000+headroom, "", 5000+headroom)
	// The number is the same, the policy is not.
	beat(5000+headroom, "there are two of generation 6000", 5000+2*headroom)

	var p wire.SignedPolicy
	d.do("GET", "/policy?generation=5000", "").into(t, 200, &p)
	if err := p.Verify(b.PolicyKey()); err != nil || p.Generation != 5000+2*headroom || p.Policy != before {
		t.Errorf("generation %d, %v", p.Generation, err)
	}
	changes, err := b.Store().Changes(t.Context(), 0, 1)
	if err != nil || len(changes) != 1 || !strings.Contains(changes[0].What, "restored from a backup?") {
		t.Errorf("the changes are %+v, %v", changes, err)
	}
	// And people change it as before.
	if a := b.do("POST", "/api/v1/policy/rules", `{"name":"x"}`, b.as("editor")); a.status != 201 || b.newest().Generation != 5001+2*headroom {
		t.Errorf("status %d, generation %d", a.status, b.newest().Generation)
	}
}
