package web

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"appdefender/audit"
	"appdefender/console"
	"appdefender/console/store"
	"appdefender/policy"
	"appdefender/wire"
)

const testPassword = "correct horse"

// testCA is no certificate: nobody here reads it.
const testCA = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"

// bench is a Console with pages and a user of each role, whose name is the
// role.
type bench struct {
	*console.Server
	t    *testing.T
	http *httptest.Server
	url  string
	down atomic.Bool // for browsers
}

func newBench(t *testing.T, conf Config) *bench {
	t.Helper()
	st, err := store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "console.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	for _, role := range store.Roles {
		if err := st.AddUser(t.Context(), "test", string(role), role, testPassword); err != nil {
			t.Fatal(err)
		}
	}
	srv, err := console.New(t.Context(), console.Config{Store: st, PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := Add(srv, conf); err != nil {
		t.Fatal(err)
	}
	b := &bench{Server: srv, t: t}
	b.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.down.Load() && !strings.HasPrefix(r.URL.Path, wire.Path) {
			panic(http.ErrAbortHandler)
		}
		srv.ServeHTTP(w, r)
	}))
	b.url = b.http.URL
	t.Cleanup(b.http.Close)
	t.Cleanup(srv.Stop) // before, so that who waits goes
	return b
}

// browser is what a browser would be without its scripts.
type browser struct {
	*bench
	client *http.Client
}

// as returns a browser in which a user is signed in; "" is nobody.
func (b *bench) as(name string) *browser {
	b.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	w := &browser{b, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	if name != "" {
		w.post(console.SignInPath, "name", name, "password", testPassword).want(http.StatusSeeOther)
	}
	return w
}

// answer is a response, read.
type answer struct {
	t        *testing.T
	what     string
	status   int
	header   http.Header
	body     string
	location string
}

func (w *browser) do(r *http.Request) answer {
	w.t.Helper()
	resp, err := w.client.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{w.t, r.Method + " " + r.URL.RequestURI(), resp.StatusCode, resp.Header, string(body), resp.Header.Get("Location")}
}

func (w *browser) get(path string) answer {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.url+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.do(r)
}

// post sends a form of keys and values as one of our pages does.
func (w *browser) post(path string, form ...string) answer {
	w.t.Helper()
	values := make(url.Values)
	for i := 0; i < len(form); i += 2 {
		values.Add(form[i], form[i+1])
	}
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.url+path, strings.NewReader(values.Encode()))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", w.url)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return w.do(r)
}

// main is the page without what is around it, on few lines.
func (a answer) main() string {
	_, s, ok := strings.Cut(a.body, "<main")
	if !ok {
		s = a.body
	}
	return strings.Join(strings.Fields(s), " ")
}

func (a answer) want(status int, texts ...string) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s: status %d, want %d: %s", a.what, a.status, status, a.main())
	}
	for _, text := range texts {
		if !strings.Contains(a.body, text) {
			a.t.Errorf("%s: no %q in %s", a.what, text, a.main())
		}
	}
	return a
}

func (a answer) wantNot(texts ...string) answer {
	a.t.Helper()
	for _, text := range texts {
		if strings.Contains(a.body, text) {
			at := strings.Index(a.body, text)
			a.t.Errorf("%s: there is %q in %s", a.what, text, a.body[max(0, at-100):min(len(a.body), at+100)])
		}
	}
	return a
}

// rule returns a rule of the policy, nil if there is none.
func (b *bench) rule(name string) *policy.Rule {
	b.t.Helper()
	p, err := b.Policy()
	if err != nil {
		b.t.Fatal(err)
	}
	for i := range p.Policy.Rules {
		if p.Policy.Rules[i].Name == name {
			return &p.Policy.Rules[i]
		}
	}
	return nil
}

// names are the rules in their order.
func (b *bench) names() string {
	b.t.Helper()
	p, err := b.Policy()
	if err != nil {
		b.t.Fatal(err)
	}
	var names []string
	for i := range p.Policy.Rules {
		names = append(names, p.Policy.Rules[i].Name)
	}
	return strings.Join(names, " ")
}

// device is an enrolled Defender.
type device struct {
	*bench
	wire.Enrolled
	next uint64
}

func (b *bench) enrol(id wire.Identity) *device {
	b.t.Helper()
	token, err := b.Store().AddToken(b.t.Context(), "admin", store.Token{Name: fmt.Sprintf("token-%d", time.Now().UnixNano())})
	if err != nil {
		b.t.Fatal(err)
	}
	d := &device{bench: b, next: 1}
	d.send("/enrol", wire.Enrol{Token: token, Identity: id}, &d.Enrolled)
	return d
}

// send sends a message as a Defender does: what the store alone takes, nobody
// who watches would see.
func (d *device) send(path string, message, into any) {
	d.t.Helper()
	body, err := json.Marshal(message)
	if err != nil {
		d.t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(d.t.Context(), http.MethodPost, d.url+wire.Path+path, strings.NewReader(string(body)))
	if err != nil {
		d.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+d.Credential)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		d.t.Fatalf("%s: %s %s %v", path, resp.Status, text, err)
	}
	if into != nil {
		if err := json.Unmarshal(text, into); err != nil {
			d.t.Fatal(err)
		}
	}
}

// tell sends records.
func (d *device) tell(records ...audit.Record) {
	d.t.Helper()
	batch := wire.Batch{First: d.next}
	for _, r := range records {
		raw, err := json.Marshal(r)
		if err != nil {
			d.t.Fatal(err)
		}
		batch.Records = append(batch.Records, raw)
	}
	d.send("/"+d.Instance+"/audits", batch, nil)
	d.next += uint64(len(records))
}

func (d *device) heartbeat(h wire.Heartbeat) {
	d.t.Helper()
	d.send("/"+d.Instance+"/heartbeat", h, nil)
}

// The audits of the sample task.

func launched(at time.Time, path, command, effect string) audit.Record {
	r := sample(at, "processes", effect)
	r.AttackType = "explicitlyDeniedProcess"
	r.Msg = path + " launched and is explicitly denied by runtime rule. Full command: " + command
	r.ProcessPath, r.Command = path, command
	r.Reason = `"mkdir" is on the deny list`
	r.Ancestry = []policy.Ancestor{{PID: 17, Path: "/usr/bin/dash"}, {PID: 1, Path: "/defender/defender"}}
	r.PID = 17
	return r
}

func lookedUp(at time.Time, domain, effect string) audit.Record {
	r := sample(at, "network", effect)
	r.AttackType = "explicitlyDeniedDNS"
	r.Msg = "DNS resolution of domain name " + domain + " triggered by /usr/bin/wget explicitly denied by a runtime rule"
	r.ProcessPath, r.Command = "/usr/bin/wget", "wget http://"+domain
	r.Domain, r.QueryType = domain, "A"
	r.Reason = `"` + domain + `" is not on the allow list`
	r.Ancestry = []policy.Ancestor{{PID: 17, Path: "/usr/bin/dash"}, {PID: 1, Path: "/defender/defender"}}
	r.PID = 23
	return r
}

func sample(at time.Time, kind, effect string) audit.Record {
	r := audit.Record{
		Time: at.UTC(), Type: kind, Effect: effect, RuleName: "sample", Severity: "high", Count: 1,
		AppID: "sample-app", Hostname: "sample-app", ContainerName: "sample-task", ImageName: "example/sample-task", ProfileID: "sample-app_sample-task",
		Version: "0.1.0", User: "root", Level: audit.Refused, Refused: true,
	}
	if effect == "alert" {
		r.Severity, r.Level, r.Refused = "medium", audit.Verified, false
	}
	return r
}
