package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"appdefender/audit"
	"appdefender/cmd/internal/flags"
	"appdefender/console"
	"appdefender/console/store"
	"appdefender/wire"
)

const recorded = `{"recording":1,"container":"shop","sections":["processes","dns","network"]}
{"kind":"launch","subject":{"path":"/usr/bin/dash"},"program":{"typed":"/usr/bin/wget","path":"/usr/bin/wget","command":["wget","x"]},"count":3,"first":"2026-03-04T11:00:00Z","last":"2026-03-04T12:00:00Z"}
{"kind":"lookup","domain":"api.example.com","qtype":"A","count":2}
`

func TestPolicyLearn(t *testing.T) {
	one := write(t, "one.jsonl", recorded)
	two := write(t, "two.jsonl", `{"recording":1,"container":"web","sections":["dns"]}
{"kind":"lookup","domain":"web.example.com"}
`)
	learned := filepath.Join(t.TempDir(), "learned.yaml")
	out, errs, exit := ctl(t, "", "policy", "learn", "-o", learned, one, two)
	if exit != 0 || out != "" || errs != "" {
		t.Fatal(exit, out, errs)
	}
	data, err := os.ReadFile(learned)
	if err != nil {
		t.Fatal(err)
	}
	want(t, string(data), "- name: shop", "- name: web", "- /usr/bin/wget # 3 times, 2026-03-04 11:00 to 12:00; wget x, by /usr/bin/dash", "- api.example.com # 2 times", "- web.example.com # once")
	// What was learned refuses nothing of it, each under its own rule.
	out, errs, exit = ctl(t, "", "policy", "test", learned, one, two)
	if exit != 0 || errs != "" {
		t.Error(exit, out, errs)
	}
	want(t, out, "6 events, 0 refused")
	// Another container's events are refused, with their counts.
	out, _, exit = ctl(t, "", "policy", "test", "--container", "web", learned, one)
	if exit != 1 {
		t.Error(exit)
	}
	want(t, out, "would refuse lookup of api.example.com (A)", ", 2 times\n", "5 events, 2 refused", "\nwould refuse  2 ")

	// Audits become a policy too, and say nothing of what they do not mention.
	log, err := os.ReadFile("testdata/audits.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	out, _, exit = ctl(t, string(log), "policy", "learn", "--effect", "alert", "--refused", "-")
	if exit != 0 {
		t.Error(exit)
	}
	want(t, out, "effect: alert", "- /usr/bin/mkdir #", "- yahoo.com #")
	// What was refused is not allowed unless somebody asks for it.
	some, _, exit := ctl(t, string(log), "policy", "learn", "-")
	if exit != 0 || strings.Contains(some, "mkdir") || strings.Contains(some, "yahoo") {
		t.Errorf("%d: %s", exit, some)
	}
	want(t, some, "# learned: What a policy refused is left out (", "198.51.100.7")
	if strings.Contains(out, "nothing was") || strings.Contains(out, "detect") {
		t.Errorf("audits say what did not happen:\n%s", out)
	}
	for _, tt := range []struct {
		args []string
		exit int
		want string
	}{
		{[]string{}, 2, "give events"},
		{[]string{"/no/such"}, 1, "/no/such"},
		{[]string{t.TempDir()}, 1, "a folder without a spool"},
		{[]string{"--effect", "kill", one}, 2, `--effect: "kill" is not one of`},
		{[]string{"--console", "x"}, 1, "--console: reading the Console's address \"x\": it has no host; give it as https://HOST:PORT"},
		{[]string{"--console", "http://console.example.com", "--token", "x"}, 1, "plain http is for loopback alone; use https"},
		{[]string{"--console", "https://localhost"}, 1, "give --user, or --token"},
		{[]string{"--from", "/no/such", one}, 1, "/no/such"},
	} {
		if _, errs, exit := ctl(t, "", append([]string{"policy", "learn"}, tt.args...)...); exit != tt.exit || !strings.Contains(errs, tt.want) {
			t.Errorf("%q: exit %d: %s", tt.args, exit, errs)
		}
	}
}

func TestPolicyLearnFrom(t *testing.T) {
	events := write(t, "events.jsonl", recorded+`{"kind":"launch","subject":{"path":"/usr/bin/dash"},"program":{"path":"/usr/bin/nc","command":["nc"]}}
{"kind":"listen","addr":"0.0.0.0:80"}
`)
	old := write(t, "old.yaml", `# ours
version: 1
rules:
  - name: shop # the shop
    scope: {containers: [shop]}
    processes: {effect: prevent, deny: [nc]}
    dns: {effect: prevent, allow: [example.org]} # names
`)
	out, errs, exit := ctl(t, "", "policy", "learn", "--from", old, events)
	if exit != 0 {
		t.Fatal(exit, errs)
	}
	want(t, out, "# ours", "# the shop", "- example.org\n", "- api.example.com # 2 times", "deny: [nc]")
	want(t, errs, "+ rules[0].dns.allow: api.example.com  # 2 times", `note: rules[0] (shop) still says prevent to nc, by /usr/bin/dash: "/usr/bin/nc" is on the deny list (nc)`)
	if strings.Contains(out, "wget") || strings.Contains(out, "80") {
		t.Errorf("a list that said nothing says something now:\n%s", out)
	}
	extended := write(t, "new.yaml", out)
	again, errs, exit := ctl(t, "", "policy", "learn", "--from", extended, events)
	if exit != 0 || again != out || !strings.Contains(errs, "nothing is to be added") {
		t.Errorf("exit %d: %s\n%s", exit, errs, again)
	}
	_, errs, _ = ctl(t, "", "policy", "learn", "--from", write(t, "other.yaml", "version: 1\nrules:\n  - {name: a, scope: {containers: [a]}}\n"), events)
	want(t, errs, "no rule is for shop")
}

// rec is a record of an audit log.
func rec(n int, effect string) string {
	return fmt.Sprintf(`{"time":"2026-03-04T11:%02d:00Z","type":"processes","effect":%q,"ruleName":"r","appID":"shop","processPath":"/bin/x%d","command":"x","msg":"message %d","count":1}`, n, effect, n, n)
}

func TestAuditsOfFiles(t *testing.T) {
	var lines []string
	for i := range 20 {
		lines = append(lines, rec(i, []string{"alert", "prevent"}[i%2]))
	}
	dir := t.TempDir()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	fmt.Fprintln(z, strings.Join(lines[:10], "\n"))
	z.Close()
	rotated, log := filepath.Join(dir, "audit.jsonl.1.gz"), write(t, "audit.jsonl", strings.Join(lines[10:], "\n")+"\n"+lines[0][:40])
	if err := os.WriteFile(rotated, packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	spool := filepath.Join(dir, "spool")
	var kept audit.Record
	if err := json.Unmarshal([]byte(lines[3]), &kept); err != nil {
		t.Fatal(err)
	}
	s := audit.OpenSpool(audit.SpoolConfig{Dir: spool, Source: &audit.Source{}, MinFree: -1})
	if err := errors.Join(s.Write(kept), s.Close()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		want []int // messages, in this order
	}{
		{"all", []string{"--limit", "0"}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}},
		{"the newest", []string{"-n", "3"}, []int{17, 18, 19}},
		{"an effect", []string{"--effect", "prevent", "-n", "2"}, []int{17, 19}},
		{"two programs", []string{"--process", "/bin/x3", "--process", "/bin/x4"}, []int{3, 4}},
		{"a time", []string{"--since", "2026-03-04T11:05:00Z", "--until", "2026-03-04T11:06:00Z"}, []int{5, 6}},
		{"words", []string{"--text", "X12 message"}, []int{12}},
		{"nothing", []string{"--app-id", "other"}, nil},
	} {
		out, errs, exit := ctl(t, "", append([]string{"audits", "--json", rotated, log}, tt.args...)...)
		if exit != 0 || !strings.Contains(errs, log+":11: the last line is incomplete and left out") {
			t.Errorf("%s: exit %d: %s", tt.name, exit, errs)
		}
		var expect string
		for _, n := range tt.want {
			expect += lines[n] + "\n"
		}
		if out != expect {
			t.Errorf("%s:\n%swant\n%s", tt.name, out, expect)
		}
	}
	out, _, exit := ctl(t, "", "audits", spool)
	if exit != 0 {
		t.Error(exit)
	}
	want(t, out, "TIME ", "2026-03-04 11:03:00  prevent  processes  shop   r     1      message 3\n")
	for _, tt := range []struct {
		in, want string
		args     []string
		exit     int
	}{
		{"", "give --console, or an audit log", nil, 2},
		{"", "/no/such", []string{"/no/such"}, 1},
		{"", `--type: "files" is not one of processes, network, filesystem, defender`, []string{"--type", "files", log}, 2},
		{"", `--since: "soon" is neither a time`, []string{"--since", "soon", log}, 2},
		{"", "one file can be followed", []string{"-f", log, log}, 2},
		{"", "not both", []string{"--console", "https://x", log}, 2},
		{"{\"type\":\"waas\"}\n", `-:1: type: "waas"`, []string{"-"}, 1},
		{recorded, "-:1: this is no record", []string{"-"}, 1},
		{"\x28\xb5\x2f\xfd", `zstd -dc`, []string{"-"}, 1},
	} {
		_, errs, exit := ctl(t, tt.in, append([]string{"audits"}, tt.args...)...)
		if exit != tt.exit || !strings.Contains(errs, tt.want) {
			t.Errorf("%q: exit %d: %s", tt.args, exit, errs)
		}
	}
}

// watched is output that a test waits for.
type watched struct {
	mu   sync.Mutex
	b    bytes.Buffer
	more chan struct{}
}

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b.Write(b)
	select {
	case w.more <- struct{}{}:
	default:
	}
	return len(b), nil
}

// wait waits until the output has a text, for as long as the tests may take.
func (w *watched) wait(t *testing.T, text string) {
	t.Helper()
	for {
		w.mu.Lock()
		got := w.b.String()
		w.mu.Unlock()
		if strings.Contains(got, text) {
			return
		}
		select {
		case <-w.more:
		case <-t.Context().Done():
			t.Fatalf("%q never came: %s", text, got)
		}
	}
}

// following runs "audits --follow" until the test ends.
func following(t *testing.T, args ...string) (out, errs *watched) {
	t.Helper()
	out, errs = &watched{more: make(chan struct{}, 1)}, &watched{more: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	a := &app{strings.NewReader(""), out, errs}
	c := a.cli()
	ended := make(chan error, 1)
	go func() {
		ended <- c.RunContext(ctx, flags.First(c, append([]string{"defenderctl", "audits", "--follow", "--json"}, args...)))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return out, errs
}

func TestFollowFile(t *testing.T) {
	log := write(t, "audit.jsonl", rec(1, "alert")+"\n")
	out, errs := following(t, log)
	out.wait(t, "message 1")
	add := func(text string) {
		f, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	half := rec(2, "alert") + "\n"
	add(half[:50])
	add(half[50:])
	out.wait(t, "message 2")
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	add(rec(3, "alert") + "\n")
	out.wait(t, "message 3")
	errs.wait(t, "is another file now")
	if err := os.Truncate(log, 0); err != nil {
		t.Fatal(err)
	}
	errs.wait(t, "was truncated")
	add(rec(4, "alert") + "\n")
	out.wait(t, "message 4")
}

// A Console in this process, with one Defender that sends.
func TestAuditsOfConsole(t *testing.T) {
	ctx := t.Context()
	st, err := store.Open(ctx, store.Config{Path: filepath.Join(t.TempDir(), "console.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	if err := st.AddUser(ctx, "test", "jane", store.Auditor, "correct horse"); err != nil {
		t.Fatal(err)
	}
	secret, err := st.AddToken(ctx, "test", store.Token{Name: "t"})
	if err != nil {
		t.Fatal(err)
	}
	server, err := console.New(ctx, console.Config{Store: st, PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(server)
	t.Cleanup(web.Close)
	t.Cleanup(server.Stop)
	var defender wire.Enrolled
	post := func(path, credential string, body []byte) []byte {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, web.URL+wire.Path+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+credential)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		var b bytes.Buffer
		if _, err := b.ReadFrom(answer.Body); err != nil || answer.StatusCode != http.StatusOK {
			t.Fatal(err, answer.Status, b.String())
		}
		return b.Bytes()
	}
	if err := json.Unmarshal(post("/enrol", "", fmt.Appendf(nil, `{"token":%q,"appID":"shop"}`, secret)), &defender); err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	sent := 1
	send := func(records ...string) {
		t.Helper()
		post("/"+defender.Instance+"/audits", defender.Credential, z.EncodeAll(fmt.Appendf(nil, `{"first":%d,"records":[%s]}`, sent, strings.Join(records, ",")), nil))
		sent += len(records)
	}
	var first []string
	for i := range 6 {
		first = append(first, rec(i, []string{"alert", "prevent"}[i%2]))
	}
	send(first...)

	password := write(t, "password", "correct horse\n")
	flags := []string{"--console", web.URL, "--user", "jane", "--password-file", password}
	out, errs, exit := ctl(t, "", append([]string{"audits", "-n", "2"}, flags...)...)
	if exit != 0 {
		t.Fatal(exit, errs)
	}
	want(t, out, "message 4", "message 5")
	want(t, errs, "there are older ones: --before ")
	cursor := strings.TrimSpace(errs[strings.Index(errs, "--before ")+len("--before "):])
	out, errs, _ = ctl(t, "", append([]string{"audits", "-n", "2", "--before", cursor}, flags...)...)
	want(t, out, "message 2", "message 3")
	out, _, _ = ctl(t, "", append([]string{"audits", "--json", "--effect", "prevent"}, flags...)...)
	if n := strings.Count(out, "\n"); n != 3 || !strings.Contains(out, `"message 5"`) {
		t.Errorf("%d lines: %s%s", n, out, errs)
	}

	learned, errs, exit := ctl(t, "", append([]string{"policy", "learn", "--app-id", "shop"}, flags...)...)
	if exit != 0 {
		t.Fatal(exit, errs)
	}
	want(t, learned, "- name: shop", "appIDs:\n        - shop", "- /bin/x5 # once, 2026-03-04 11:05; x")

	live, _ := following(t, append([]string{"--effect", "prevent"}, flags...)...)
	live.wait(t, `"message 5"`)
	send(rec(40, "alert"), rec(41, "prevent"))
	live.wait(t, `"message 41"`)
	if strings.Contains(live.b.String(), `"message 40"`) {
		t.Error("what the filter leaves out came")
	}

	_, errs, exit = ctl(t, "", "audits", "--console", web.URL, "--token", "wrong")
	if exit != 1 || !strings.Contains(errs, "401") || !strings.Contains(errs, "a token is good for an hour") {
		t.Errorf("exit %d: %s", exit, errs)
	}
	_, errs, exit = ctl(t, "", "audits", "--console", "http://127.0.0.1:1", "--token", "x")
	if exit != 1 || !strings.Contains(errs, "asking the Console: ") {
		t.Errorf("exit %d: %s", exit, errs)
	}
}
