package console

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"appdefender/console/store"
	"appdefender/wire"
)

const testPassword = "correct horse"

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// bench is a Console with a user of each role, whose name is the role.
type bench struct {
	*Server
	t     *testing.T
	http  *httptest.Server
	clock *clock
	log   *bytes.Buffer
}

// syncWriter lets the log be written from all requests.
type syncWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *syncWriter) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(b)
}

func newBench(t *testing.T) *bench {
	t.Helper()
	ctx := t.Context()
	c := &clock{t: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}
	st, err := store.Open(ctx, store.Config{Path: filepath.Join(t.TempDir(), "console.db"), Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	for _, role := range store.Roles {
		if err := st.AddUser(ctx, "test", string(role), role, testPassword); err != nil {
			t.Fatal(err)
		}
	}
	b := &bench{t: t, clock: c, log: new(bytes.Buffer)}
	b.Server, err = New(ctx, Config{Store: st, Now: c.Now, PlainHTTP: true, Log: slog.New(slog.NewTextHandler(&syncWriter{w: b.log}, nil))})
	if err != nil {
		t.Fatal(err)
	}
	b.http = httptest.NewServer(b.Server)
	t.Cleanup(b.http.Close)
	t.Cleanup(b.Stop) // before, so that who waits goes
	return b
}

// answer is a response, read.
type answer struct {
	status int
	header http.Header
	body   string
}

// into decodes the answer, which must have the status.
func (a answer) into(t *testing.T, status int, v any) {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	if v == nil {
		return
	}
	if err := json.Unmarshal([]byte(a.body), v); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
}

// do sends a request. Headers are "Key: value".
func (b *bench) do(method, path, body string, headers ...string) answer {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.http.URL+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, h := range headers {
		key, value, _ := strings.Cut(h, ": ")
		r.Header.Add(key, value)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

// as signs a user in by the API and returns the header.
func (b *bench) as(name string) string {
	b.t.Helper()
	var got struct{ Token string }
	b.do("POST", "/api/v1/authenticate", fmt.Sprintf(`{"username":%q,"password":%q}`, name, testPassword)).into(b.t, 200, &got)
	return "Authorization: Bearer " + got.Token
}

// token makes an enrolment token.
func (b *bench) token(t store.Token) string {
	b.t.Helper()
	if t.Name == "" {
		t.Name = fmt.Sprintf("token-%d", time.Now().UnixNano())
	}
	secret, err := b.Store().AddToken(b.t.Context(), "test", t)
	if err != nil {
		b.t.Fatal(err)
	}
	return secret
}

// device is an enrolled Defender.
type device struct {
	b *bench
	wire.Enrolled
}

func (b *bench) enrolled() *device {
	b.t.Helper()
	d := &device{b: b}
	b.do("POST", wire.Path+"/enrol", fmt.Sprintf(`{"token":%q,"appID":"a","container":"c"}`, b.token(store.Token{}))).into(b.t, 200, &d.Enrolled)
	return d
}

func (d *device) do(method, path, body string) answer {
	d.b.t.Helper()
	return d.b.do(method, wire.Path+"/"+d.Instance+path, body, "Authorization: Bearer "+d.Credential)
}

// send sends records as JSON texts.
func (d *device) send(first uint64, records ...string) answer {
	d.b.t.Helper()
	return d.do("POST", "/audits", packed(fmt.Sprintf(`{"first":%d,"records":[%s]}`, first, strings.Join(records, ","))))
}

// packed compresses with zstd.
func packed(s string) string {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return string(e.EncodeAll([]byte(s), nil))
}

func rec(app, msg string) string {
	return fmt.Sprintf(`{"time":"2026-03-04T05:00:00Z","type":"processes","effect":"prevent","appID":%q,"msg":%q,"count":1}`, app, msg)
}

// audits are the messages of the audits that the store has, oldest first.
func (b *bench) audits() []string {
	b.t.Helper()
	all, err := b.Store().Audits(context.Background(), store.AuditFilter{}, store.AuditPage{OldestFirst: true, Limit: store.MaxAuditPage})
	if err != nil {
		b.t.Fatal(err)
	}
	var msgs []string
	for _, a := range all {
		msgs = append(msgs, a.Record.Msg)
	}
	return msgs
}
