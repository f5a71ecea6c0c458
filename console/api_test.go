package console

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"appdefender/console/store"
	"appdefender/policy"
	"appdefender/wire"
)

const (
	aRule = `{"name":"sample","scope":{"containers":["sample-task"]},"processes":{"effect":"prevent","deny":["mkdir"]}}`
	// aPolicy has a fault in its third line, if FAULT is one.
	aPolicy = "version: 1\nrules:\n  - {name: a, dns: {effect: alert, allow: [FAULT]}}\n"
)

func TestRoles(t *testing.T) {
	b := newBench(t)
	d := b.enrolled()
	// What each role gets; the rest gets 403, and who is not signed in 401.
	for _, tt := range []struct {
		method, path, body string
		least              store.Role
		want               int
	}{
		{"GET", "/api/v1/me", "", store.Auditor, 200},
		{"GET", "/api/v1/policy", "", store.Auditor, 200},
		{"GET", "/api/v1/policy/versions", "", store.Auditor, 200},
		{"GET", "/api/v1/policy/versions/1", "", store.Auditor, 200},
		{"POST", "/api/v1/policy/validate", aPolicy, store.Auditor, 200},
		{"GET", "/api/v1/audits", "", store.Auditor, 200},
		{"GET", "/api/v1/audits/app-ids", "", store.Auditor, 200},
		{"GET", "/api/v1/defenders", "", store.Auditor, 200},
		{"GET", "/api/v1/defenders/" + d.Instance, "", store.Auditor, 200},
		{"GET", "/api/v1/changes", "", store.Auditor, 200},
		{"GET", "/api/v34.04/policies/runtime/app-embedded", "", store.Auditor, 200},
		{"GET", "/api/v1/audits/runtime/app-embedded", "", store.Auditor, 200},
		{"PUT", "/api/v1/policy", strings.Replace(aPolicy, "FAULT", "a.test", 1), store.Editor, 200},
		{"POST", "/api/v1/policy/rules/a/move", `{"position":0}`, store.Editor, 200},
		{"PUT", "/api/v1/policy/rules/a", `{"name":"a"}`, store.Editor, 200},
		{"POST", "/api/v1/defenders/" + d.Instance + "/revoke", "", store.Editor, 204},
		{"PUT", "/api/v1/policies/runtime/app-embedded", `{"rules":[]}`, store.Editor, 200},
		{"GET", "/api/v1/custom-rules", "", store.Auditor, 200},
		{"PUT", "/api/v1/custom-rules/9", `{"_id":9,"name":"nc","type":"processes","script":"proc.name = \"nc\""}`, store.Editor, 200},
		{"GET", "/api/v1/tokens", "", store.Admin, 200},
		{"GET", "/api/v1/users", "", store.Admin, 200},
		// These come last: they do what cannot be done twice.
		{"POST", "/api/v1/policy/rules", aRule, store.Editor, 201},
		{"DELETE", "/api/v1/policy/rules/sample", "", store.Editor, 200},
		{"POST", "/api/v1/policies/runtime/app-embedded", `{"name":"x","collections":[{"name":"All"}]}`, store.Editor, 200},
		{"DELETE", "/api/v1/custom-rules/9", "", store.Editor, 200},
		{"POST", "/api/v1/tokens", `{"name":"new"}`, store.Admin, 201},
		{"DELETE", "/api/v1/tokens/new", "", store.Admin, 204},
		{"POST", "/api/v1/users", `{"name":"new","role":"auditor","password":"long enough"}`, store.Admin, 201},
		{"PATCH", "/api/v1/users/new", `{"role":"editor"}`, store.Admin, 204},
		{"DELETE", "/api/v1/users/new", "", store.Admin, 204},
	} {
		what := tt.method + " " + tt.path
		if a := b.do(tt.method, tt.path, tt.body); a.status != 401 {
			t.Errorf("%s by nobody: %d %s", what, a.status, a.body)
		}
		allowed := false
		for _, role := range slices.Backward(store.Roles) { // the weakest first
			if allowed {
				continue
			}
			a := b.do(tt.method, tt.path, tt.body, cachedAs(b, string(role)))
			switch allowed = role.May(tt.least); {
			case allowed && a.status != tt.want:
				t.Errorf("%s by %s: %d %s", what, role, a.status, a.body)
			case !allowed && a.status != 403:
				t.Errorf("%s by %s: %d %s", what, role, a.status, a.body)
			}
		}
	}
	if !strings.Contains(b.log.String(), "status=403 method=PUT path=/api/v1/policy who=auditor") {
		t.Error("the log does not tell of the auditor who tried")
	}
}

var headers = map[*bench]map[string]string{}

// cachedAs is as, once for each user.
func cachedAs(b *bench, name string) string {
	if headers[b] == nil {
		headers[b] = map[string]string{}
		b.t.Cleanup(func() { delete(headers, b) })
	}
	if headers[b][name] == "" {
		headers[b][name] = b.as(name)
	}
	return headers[b][name]
}

func TestSignIn(t *testing.T) {
	b := newBench(t)
	basic := func(name, password string) string {
		return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
	}
	token := b.as("admin")
	for _, tt := range []struct {
		name, header string
		want         int
	}{
		{"bearer", token, 200},
		{"basic", basic("admin", testPassword), 200},
		{"basic again, from memory", basic("admin", testPassword), 200},
		{"basic, other letters", basic("ADMIN", testPassword), 200},
		{"basic, wrong password", basic("admin", "wrong"), 401},
		{"basic, unknown user", basic("nobody", testPassword), 401},
		{"a tampered token", token + "x", 401},
		{"an empty token", "Authorization: Bearer ", 401},
		{"another scheme", "Authorization: Digest x", 401},
		{"the token as a cookie", "Cookie: session=" + strings.TrimPrefix(token, "Authorization: Bearer "), 401},
	} {
		if a := b.do("GET", "/api/v1/me", "", tt.header); a.status != tt.want {
			t.Errorf("%s: %d %s", tt.name, a.status, a.body)
		}
	}
	if a := b.do("GET", "/api/v1/me", "", "Authorization: Bearer x"); strings.Contains(a.header.Get("WWW-Authenticate"), "Basic") {
		t.Error("browsers would ask for a password")
	}

	// The end of a session: time, another password, another role.
	b.clock.pass(bearerLife - time.Second)
	if a := b.do("GET", "/api/v1/me", "", token); a.status != 200 {
		t.Errorf("before its end: %d", a.status)
	}
	b.clock.pass(2 * time.Second)
	if a := b.do("GET", "/api/v1/me", "", token); a.status != 401 || !strings.Contains(a.body, "sign in again") {
		t.Errorf("expired: %d %s", a.status, a.body)
	}
	token = b.as("admin")
	b.do("GET", "/api/v1/me", "", basic("editor", testPassword)).into(t, 200, nil)
	editor := b.as("editor")
	b.do("PATCH", "/api/v1/users/editor", `{"password":"another one"}`, token).into(t, 204, nil)
	for _, header := range []string{editor, basic("editor", testPassword)} {
		if a := b.do("GET", "/api/v1/me", "", header); a.status != 401 {
			t.Errorf("after the password changed: %d", a.status)
		}
	}
	auditor := b.as("auditor")
	b.do("DELETE", "/api/v1/users/auditor", "", token).into(t, 204, nil)
	if a := b.do("GET", "/api/v1/me", "", auditor); a.status != 401 {
		t.Errorf("after the user was deleted: %d", a.status)
	}
	for _, r := range [][2]string{{"DELETE", ""}, {"PATCH", `{"role":"auditor"}`}} {
		if a := b.do(r[0], "/api/v1/users/admin", r[1], token); a.status != 409 {
			t.Errorf("%s the last administrator: %d %s", r[0], a.status, a.body)
		}
	}
}

func TestOwnPassword(t *testing.T) {
	b := newBench(t)
	auditor := b.as("auditor")
	b.do("POST", "/api/v1/me/password", `{"old":"wrong","new":"long enough"}`, auditor).into(t, 403, nil)
	b.do("POST", "/api/v1/me/password", `{"old":"`+testPassword+`","new":"short"}`, auditor).into(t, 400, nil)
	b.do("POST", "/api/v1/me/password", `{"old":"`+testPassword+`","new":"long enough"}`, auditor).into(t, 204, nil)
	b.do("GET", "/api/v1/me", "", auditor).into(t, 401, nil)
	b.do("POST", "/api/v1/authenticate", `{"username":"auditor","password":"long enough"}`).into(t, 200, nil)
}

func TestThrottle(t *testing.T) {
	b := newBench(t)
	try := func(name, password string) answer {
		return b.do("POST", "/api/v1/authenticate", fmt.Sprintf(`{"username":%q,"password":%q}`, name, password))
	}
	for i := range 5 {
		if a := try("admin", "wrong"); a.status != 401 {
			t.Fatalf("attempt %d: %d %s", i, a.status, a.body)
		}
	}
	a := try("admin", testPassword)
	if a.status != 429 || a.header.Get("Retry-After") == "" {
		t.Errorf("after 5 wrong ones: %d %q", a.status, a.header.Get("Retry-After"))
	}
	if a := try("editor", testPassword); a.status != 200 {
		t.Errorf("another user: %d %s", a.status, a.body)
	}
	b.clock.pass(time.Minute)
	if a := try("admin", testPassword); a.status != 200 {
		t.Errorf("a minute later: %d %s", a.status, a.body)
	}
	if a := try("admin", "wrong"); a.status != 401 {
		t.Errorf("the count began anew: %d", a.status)
	}
}

func TestThrottleWaitsGrow(t *testing.T) {
	now := time.Unix(0, 0)
	th := newThrottle(func() time.Time { return now })
	keys := loginKeys("192.0.2.1", "admin")
	var waits []time.Duration
	for range 12 {
		for {
			wait := th.begin(keys)
			if wait == 0 {
				break
			}
			waits = append(waits, wait)
			now = now.Add(wait)
		}
	}
	want := []time.Duration{1, 2, 4, 8, 16, 32, 64}
	for i, w := range waits {
		if w != want[i]*time.Second {
			t.Fatalf("waits %v", waits)
		}
	}
	if len(waits) != len(want) {
		t.Errorf("waits %v", waits)
	}
	// A flood of names does not fill the memory.
	for i := range 3 * maxAttempts {
		th.begin(loginKeys(fmt.Sprint(i), "x"))
	}
	if len(th.entries) > maxAttempts+3 {
		t.Errorf("%d entries", len(th.entries))
	}
}

// signInPage gives the bench a page to sign in and one to look at.
func signInPage(b *bench) {
	b.Add(
		Route{Pattern: "POST " + SignInPath, Role: Anybody, Page: true, Handler: func(w http.ResponseWriter, r *http.Request) error {
			if _, err := b.SignIn(w, r, r.FormValue("name"), r.FormValue("password")); err != nil {
				return err
			}
			http.Redirect(w, r, NextPath(r), http.StatusSeeOther)
			return nil
		}},
		Route{Pattern: "POST /signout", Role: store.Auditor, Page: true, Handler: func(w http.ResponseWriter, r *http.Request) error { return b.SignOut(w, r) }},
		Route{Pattern: "GET /page", Role: store.Auditor, Page: true, Handler: func(w http.ResponseWriter, r *http.Request) error {
			fmt.Fprint(w, "page of ", SessionOf(r).User.Name)
			return nil
		}},
	)
}

func TestCookies(t *testing.T) {
	b := newBench(t)
	signInPage(b)
	form := url.Values{"name": {"editor"}, "password": {testPassword}, "next": {"/page?x=1"}}.Encode()
	const isForm = "Content-Type: application/x-www-form-urlencoded"
	own := "Origin: " + b.http.URL
	const foreign = "Origin: http://evil.test"

	if a := b.do("GET", "/page?x=1", ""); a.status != 303 || a.header.Get("Location") != "/signin?next=%2Fpage%3Fx%3D1" {
		t.Errorf("not signed in: %d %s", a.status, a.header.Get("Location"))
	}
	if a := b.do("POST", SignInPath, form, isForm, foreign); a.status != 403 {
		t.Errorf("signed in by another site: %d", a.status)
	}
	a := b.do("POST", SignInPath, form, isForm, own)
	if a.status != 303 || a.header.Get("Location") != "/page?x=1" {
		t.Fatalf("signing in: %d %s %s", a.status, a.header.Get("Location"), a.body)
	}
	set := a.header.Get("Set-Cookie")
	for _, want := range []string{"HttpOnly", "SameSite=Strict", "Path=/"} {
		if !strings.Contains(set, want) {
			t.Errorf("cookie %q lacks %s", set, want)
		}
	}
	value, _, _ := strings.Cut(set, ";")
	cookie := "Cookie: " + value
	if a := b.do("GET", "/page", "", cookie); a.status != 200 || a.body != "page of editor" {
		t.Errorf("page: %d %s", a.status, a.body)
	}

	// A change needs to come from a page of ours.
	for _, tt := range []struct {
		name    string
		headers []string
		want    int
	}{
		{"own origin", []string{cookie, own}, 201},
		{"says the browser", []string{cookie, "Sec-Fetch-Site: same-origin"}, 201},
		{"no origin", []string{cookie}, 403},
		{"another origin", []string{cookie, foreign}, 403},
		{"null", []string{cookie, "Origin: null"}, 403},
		{"another port", []string{cookie, "Origin: http://127.0.0.1:1"}, 403},
		{"same site, says the browser", []string{cookie, own, "Sec-Fetch-Site: same-site"}, 403},
		{"cross site, says the browser", []string{cookie, own, "Sec-Fetch-Site: cross-site"}, 403},
		{"a cookie of another site's with a wrong token", []string{cookie, own, "Authorization: Bearer x"}, 401},
	} {
		a := b.do("POST", "/api/v1/policy/rules", fmt.Sprintf(`{"name":%q}`, tt.name), tt.headers...)
		if a.status != tt.want {
			t.Errorf("%s: %d, want %d: %s", tt.name, a.status, tt.want, a.body)
		}
	}
	// Programs need none of that.
	if a := b.do("POST", "/api/v1/policy/rules", `{"name":"program"}`, b.as("editor")); a.status != 201 {
		t.Errorf("with a token: %d", a.status)
	}

	// A cookie is no token; it ends when nobody uses it, after a while, and by
	// signing out.
	if a := b.do("GET", "/api/v1/me", "", "Authorization: Bearer "+strings.TrimPrefix(value, "session=")); a.status != 401 {
		t.Errorf("the cookie as a token: %d", a.status)
	}
	for range 3 {
		b.clock.pass(cookieIdle - time.Minute)
		if a := b.do("GET", "/page", "", cookie); a.status != 200 {
			t.Errorf("used now and then: %d", a.status)
		}
	}
	b.clock.pass(cookieIdle + 2*time.Minute)
	if a := b.do("GET", "/page", "", cookie); a.status != 303 {
		t.Errorf("idle: %d", a.status)
	}
	a = b.do("POST", SignInPath, form, isForm, own)
	value, _, _ = strings.Cut(a.header.Get("Set-Cookie"), ";")
	cookie = "Cookie: " + value
	if a := b.do("POST", "/signout", "", cookie, own); a.status != 200 || !strings.Contains(a.header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("signing out: %d %s", a.status, a.header.Get("Set-Cookie"))
	}
	if a := b.do("GET", "/page", "", cookie); a.status != 303 {
		t.Errorf("signed out: %d", a.status)
	}

	// However much it is used, a session ends.
	a = b.do("POST", SignInPath, form, isForm, own)
	value, _, _ = strings.Cut(a.header.Get("Set-Cookie"), ";")
	cookie = "Cookie: " + value
	last := 0
	for range int(cookieLife/cookieIdle) + 1 {
		b.clock.pass(cookieIdle - time.Minute)
		last = b.do("GET", "/page", "", cookie).status
	}
	if last != 303 {
		t.Errorf("after %v of use: %d", cookieLife, last)
	}
}

func TestNextPath(t *testing.T) {
	for next, want := range map[string]string{
		"/page?x=1": "/page?x=1", "": "/", "//evil.test": "/", "/\\evil.test": "/", "https://evil.test": "/",
		"javascript:alert(1)": "/", "/\t/evil.test": "/", "/signin?next=/": "/", "page": "/",
	} {
		r, _ := http.NewRequest("GET", "/signin?"+url.Values{"next": {next}}.Encode(), nil)
		if got := NextPath(r); got != want {
			t.Errorf("%q: %q, want %q", next, got, want)
		}
	}
}

func TestPolicyAPI(t *testing.T) {
	b := newBench(t)
	editor := b.as("editor")
	type got struct {
		Generation uint64
		Who        string
		Policy     policy.Policy
	}
	var p got
	names := func() (all []string) {
		for _, r := range p.Policy.Rules {
			all = append(all, r.Name)
		}
		return all
	}
	step := func(method, path, body string, status int, want ...string) {
		t.Helper()
		b.do(method, "/api/v1/policy"+path, body, editor).into(t, status, &p)
		if !slices.Equal(names(), want) {
			t.Errorf("%s %s: rules %q, want %q", method, path, names(), want)
		}
	}
	step("GET", "", "", 200, "default")
	step("POST", "/rules", aRule, 201, "sample", "default") // first, or it would never count
	step("POST", "/rules?position=-1", `{"name":"last"}`, 201, "sample", "default", "last")
	step("POST", "/rules?position=1", `{"name":"a/b <i>"}`, 201, "sample", "a/b <i>", "default", "last")
	step("PUT", "/rules/a%2Fb%20%3Ci%3E", `{"name":"renamed"}`, 200, "sample", "renamed", "default", "last")
	step("POST", "/rules/last/move", `{"position":0}`, 200, "last", "sample", "renamed", "default")
	step("POST", "/rules/last/move", `{"position":2}`, 200, "sample", "renamed", "last", "default")
	step("DELETE", "/rules/renamed", "", 200, "sample", "last", "default")
	step("PUT", "", strings.Replace(aPolicy, "FAULT", "x.test", 1), 200, "a")
	if p.Generation != 9 || p.Who != "editor" {
		t.Errorf("generation %d by %s", p.Generation, p.Who)
	}
	step("GET", "/versions/2", "", 200, "sample", "default")

	// Everything was kept, with who did it.
	var versions struct{ Versions []store.PolicyVersion }
	b.do("GET", "/api/v1/policy/versions", "", editor).into(t, 200, &versions)
	var changes struct{ Changes []store.Change }
	b.do("GET", "/api/v1/changes", "", editor).into(t, 200, &changes)
	if len(versions.Versions) != 9 || versions.Versions[0].Who != "editor" || versions.Versions[8].Who != systemUser {
		t.Errorf("versions %+v", versions)
	}
	if c := changes.Changes[5]; c.Who != "editor" || c.What != `added rule "a/b <i>" (generation 4)` {
		t.Errorf("change %+v", c)
	}

	// What is wrong is told with its place, and nothing changes.
	for _, tt := range []struct {
		method, path, body string
		status             int
		want               []Fault
	}{
		{"PUT", "", strings.Replace(aPolicy, "FAULT", "a b", 1), 400, []Fault{{"rules[0].dns.allow[0]", 3, 44, `"a b": label "a b" has a ' '; letters, digits, hyphens and underscores make a label`}}},
		{"POST", "/rules", `{"name":"x","dns":{"effect":"prevnt"}}`, 400, []Fault{{"dns.effect", 1, 29, `"prevnt" is not an effect; one of disable, alert, prevent, block`}}},
		{"POST", "/rules", `{"name":"x","Dns":{}}`, 400, []Fault{{"Dns", 1, 13, `unknown key; did you mean "dns"?`}}},
		{"POST", "/rules", `{"name":"a"}`, 400, []Fault{{Path: "rules[1].name", Msg: `"a" is already the name of rules[0]`}}},
		{"PUT", "/rules/a", `{"name":""}`, 400, []Fault{{"name", 1, 9, "missing"}}},
		{"PUT", "/rules/nobody", `{"name":"x"}`, 404, nil},
		{"DELETE", "/rules/nobody", "", 404, nil},
		{"POST", "/rules/a/move", `{}`, 400, nil},
		{"POST", "/rules/a/move", `{"positoin":1}`, 400, nil},
		{"POST", "/rules", `{"name":"x"}],"rules":[{"name":"y"}`, 400, nil},
		{"POST", "/rules", "name: x", 400, nil},
	} {
		a := b.do(tt.method, "/api/v1/policy"+tt.path, tt.body, editor)
		var e errorBody
		if err := json.Unmarshal([]byte(a.body), &e); err != nil || a.status != tt.status || !slices.Equal(e.Faults, tt.want) || e.Message == "" {
			t.Errorf("%s %s %s: %d %s", tt.method, tt.path, tt.body, a.status, a.body)
		}
	}
	var check struct{ Faults []Fault }
	b.do("POST", "/api/v1/policy/validate", "version: 2\n", editor).into(t, 200, &check)
	if len(check.Faults) != 1 || check.Faults[0].Line != 1 {
		t.Errorf("faults %+v", check)
	}
	step("GET", "", "", 200, "a")
	if p.Generation != 9 {
		t.Errorf("generation %d after faults", p.Generation)
	}

	// Two editors.
	a := b.do("GET", "/api/v1/policy", "", editor)
	if a.header.Get("ETag") != `"9"` {
		t.Errorf("ETag %s", a.header.Get("ETag"))
	}
	b.do("POST", "/api/v1/policy/rules", `{"name":"mine"}`, editor, `If-Match: "9"`).into(t, 201, nil)
	b.do("POST", "/api/v1/policy/rules", `{"name":"yours"}`, editor, `If-Match: "9"`).into(t, 409, nil)
	b.do("DELETE", "/api/v1/policy/rules/a?generation=9", "", editor).into(t, 409, nil)

	a = b.do("GET", "/api/v1/policy?format=yaml", "", editor)
	if again, err := ParsePolicy([]byte(a.body)); err != nil || len(again.Rules) != 2 {
		t.Errorf("as YAML: %v\n%s", err, a.body)
	}
	if a := b.do("PUT", "/api/v1/policy", strings.Repeat("#", 17<<20), editor); a.status != 413 {
		t.Errorf("a large body: %d %s", a.status, a.body)
	}
	if a := b.do("POST", "/api/v1/users", `{"name":"`+strings.Repeat("x", 2<<20)+`"}`, b.as("admin")); a.status != 413 {
		t.Errorf("a large body: %d %s", a.status, a.body)
	}
}

// A second process that changes the policy is noticed at the next change.
func TestPolicyChangedElsewhere(t *testing.T) {
	b := newBench(t)
	if _, err := b.Store().AddPolicy(t.Context(), 1, `{"version":1,"rules":[]}`, "other", "did"); err != nil {
		t.Fatal(err)
	}
	editor := b.as("editor")
	b.do("POST", "/api/v1/policy/rules", `{"name":"x"}`, editor).into(t, 409, nil)
	b.do("POST", "/api/v1/policy/rules", `{"name":"x"}`, editor).into(t, 201, nil)
	if n := b.newest().Generation; n != 3 {
		t.Errorf("generation %d", n)
	}
}

// A Console that starts again has the same key and policy.
func TestRestart(t *testing.T) {
	b := newBench(t)
	addRule(t, b, "kept")
	again, err := New(t.Context(), Config{Store: b.Store()})
	if err != nil {
		t.Fatal(err)
	}
	if !again.PolicyKey().Equal(b.PolicyKey()) || again.newest().Generation != 2 || string(again.newest().signed) != string(b.newest().signed) {
		t.Error("another key or policy")
	}
}

func TestCompatiblePolicy(t *testing.T) {
	b := newBench(t)
	editor := b.as("editor")
	const path = "/api/v34.04/policies/runtime/app-embedded"
	b.do("PUT", path, `{"rules":[{"name":"my-rule","collections":[{"name":"All"}],"dns":{"effect":"alert"}}]}`, editor).into(t, 200, nil)
	var notes struct{ Notes []string }
	b.do("POST", path, `{"name":"seed","owner":"admin","collections":[{"name":"c","containers":["sample-task"]}],
		"processes":{"effect":"prevent","blacklist":["mkdir"]},"dns":{"effect":"prevent","whitelist":["gmail.com"]}}`, editor).into(t, 200, &notes)
	if len(notes.Notes) != 2 || !strings.Contains(notes.Notes[0], "selects nothing: name") || !strings.Contains(notes.Notes[1], "owner") {
		t.Errorf("notes %q", notes)
	}
	p, err := b.Policy()
	if err != nil || len(p.Policy.Rules) != 2 || p.Policy.Rules[0].Name != "seed" || !slices.Equal(p.Policy.Rules[0].Processes.Deny, []string{"mkdir"}) {
		t.Errorf("policy %+v, %v", p, err)
	}
	a := b.do("GET", "/api/v1/policies/runtime/app-embedded", "", editor)
	if a.status != 200 || !strings.Contains(a.body, `"whitelist":["gmail.com"]`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	if again := b.do("PUT", path, a.body, editor); again.status != 200 || again.body != "{}\n" {
		t.Errorf("what was read is not taken: %d %s", again.status, again.body)
	}
	var e errorBody
	b.do("PUT", path, `{"rules":[{"name":"x","collections":[{"name":"All"}],"wildFireAnalysis":"alert","processes":{"effect":"alert","whitelist":["a/b"]}}]}`, editor).into(t, 400, &e)
	if len(e.Faults) != 2 || e.Faults[0].Path != "rules[0].wildFireAnalysis" || e.Faults[1].Path != "rules[0].processes.whitelist[0]" {
		t.Errorf("faults %+v", e)
	}
	b.do("POST", path, `{"name":"seed","collections":[{"name":"All"}]}`, editor).into(t, 400, nil)
	if a := b.do("GET", "/api/latest/policies/runtime/app-embedded", "", editor); a.status != 404 {
		t.Errorf("no version: %d", a.status)
	}
	if a := b.do("GET", "/api/v1/no/such/path", "", editor); a.status != 404 || !strings.Contains(a.body, `"err"`) {
		t.Errorf("no such path: %d %s", a.status, a.body)
	}
}

// What a client of the compatible API reads it may write back, with the library
// of custom rules too: the shipped policy has some without a number.
func TestCompatibleCustomRules(t *testing.T) {
	b := newBench(t)
	editor := b.as("editor")
	const path, rulesPath = "/api/v34.04/policies/runtime/app-embedded", "/api/v34.04/custom-rules"
	read := b.do("GET", path, "", editor)
	if a := b.do("PUT", path, read.body, editor); read.status != 200 || a.status != 200 {
		t.Fatalf("what was read is not taken: %d %s", a.status, a.body)
	}
	before, err := b.Policy()
	if err != nil || len(before.Policy.CustomRules) == 0 {
		t.Fatal(err)
	}
	var library []map[string]any
	b.do("GET", rulesPath, "", editor).into(t, 200, &library)
	if len(library) != len(before.Policy.CustomRules) {
		t.Errorf("library %+v", library)
	}
	put := func(id int, body string, want int, says string) {
		t.Helper()
		if a := b.do("PUT", fmt.Sprintf("%s/%d", rulesPath, id), body, editor); a.status != want || !strings.Contains(a.body, says) {
			t.Errorf("%d %s: %d %s", id, body, a.status, a.body)
		}
	}
	put(1001, `{"_id":1001,"name":"nc","type":"processes","script":"proc.name = \"nc\"","owner":"jane"}`, 200, "[0].owner")
	put(1001, `{"_id":1002,"name":"x","type":"processes","script":"proc.main"}`, 400, "_id: is 1002, and the path says 1001")
	put(1002, `{"_id":1002,"name":"nc","type":"processes","script":"proc.main"}`, 400, "is the name of another custom rule")
	put(1002, `{"_id":1002,"name":"x","type":"processes","script":"proc.nme = \"x\""}`, 400, "did you mean proc.name?")
	put(1002, `{"_id":1002,"name":"x","type":"waas-request","script":"x"}`, 400, "no Defender of applications judges waas-request")
	put(1002, `[]`, 400, "0 custom rules; give one")
	b.do("POST", path, `{"name":"uses","collections":[{"name":"All"}],"customRules":[{"_id":1001,"action":"audit","effect":"prevent"}]}`, editor).into(t, 200, nil)
	put(1001, `{"_id":1001,"name":"netcat","type":"processes","script":"proc.name = \"netcat\""}`, 200, "")
	p, err := b.Policy()
	if err != nil || p.Policy.Rules[0].Custom[0].Rule != "netcat" {
		t.Errorf("%+v, %v", p.Policy.Rules[0], err)
	}
	b.do("DELETE", rulesPath+"/1001", "", editor).into(t, 409, nil)
	b.do("DELETE", rulesPath+"/77", "", editor).into(t, 404, nil)
	b.do("DELETE", rulesPath+"/x", "", editor).into(t, 400, nil)
	b.do("DELETE", "/api/v1/policy/rules/uses", "", editor).into(t, 200, nil)
	b.do("DELETE", rulesPath+"/1001", "", editor).into(t, 200, nil)
	after, err := b.Policy()
	if err != nil || len(after.Policy.CustomRules) != len(before.Policy.CustomRules) {
		t.Errorf("%+v, %v", after.Policy.CustomRules, err)
	}
}

// sample fills a bench with audits: 30 of two apps and two types, a second
// apart, and one of the Defender's own.
func sample(t *testing.T, b *bench) *device {
	t.Helper()
	d := b.enrolled()
	start := b.clock.Now().Add(-time.Hour)
	var records []string
	for i := range 30 {
		typ, msg := "processes", fmt.Sprintf("/usr/bin/mkdir launched number %d", i)
		if i%3 == 0 {
			typ, msg = "network", fmt.Sprintf("DNS resolution of domain name host%d.example.test triggered by /usr/bin/wget", i)
		}
		records = append(records, fmt.Sprintf(`{"_id":"spoofed","time":%q,"type":%q,"effect":%q,"appID":"app:%d","containerName":"c","msg":%q,"later":[1]}`,
			start.Add(time.Duration(i)*time.Second).Format(time.RFC3339Nano), typ, []string{"alert", "prevent"}[i%2], i%2, msg))
	}
	records = append(records, `{"time":"2026-03-04T04:00:00Z","type":"defender","msg":"10 records were lost"}`)
	d.send(1, records...).into(t, 200, nil)
	return d
}

func TestAuditsAPI(t *testing.T) {
	b := newBench(t)
	d := sample(t, b)
	auditor := b.as("auditor")
	type item struct {
		Cursor   string
		Sequence uint64
		Record   map[string]any
	}
	list := func(query string) []item {
		t.Helper()
		var got struct{ Audits []item }
		b.do("GET", "/api/v1/audits?"+query, "", auditor).into(t, 200, &got)
		return got.Audits
	}
	for query, want := range map[string]int{
		"": 31, "type=": 31, "type=any": 31, "type=network": 10, "type=network&type=processes": 30, "effect=prevent": 15, "type=network&effect=prevent": 5,
		"appID=app:0": 15, "appID=app:0&appID=app:1": 30, "appID=app": 0, "container=c": 30, "text=mkdir": 20, "text=MKDIR+number": 20, "text=numb": 20,
		"text=nu": 0, "text=host1": 3, "text=host3.example.test": 1, "text=/usr/bin/wge": 10, "text=/usr/bin/wg": 0, "text=example+wget&type=processes": 0, "text=%22'%25": 31,
		"text=wget+OR+mkdir": 0, "text=NEAR(": 0, "from=2026-03-04T04:06:27Z": 10, "from=2026-03-04T04:06:07Z&to=2026-03-04T04:06:09Z": 3,
		"from=1h": 30, "order=newest&limit=3": 3, "instance=" + d.Instance: 31, "instance=x": 0, "id=" + d.Instance + "-5": 1, "id=x": 0, "limit=7": 7, "process=x": 0,
	} {
		if got := list(query); len(got) != want {
			t.Errorf("%q: %d audits, want %d", query, len(got), want)
		}
	}
	for _, query := range []string{"from=x", "limit=0", "limit=1001", "before=x", "before=-1", "order=up", "tpye=network", "text=" + strings.Repeat("a", 501), "type=" + strings.Repeat("a&type=", 101)} {
		if a := b.do("GET", "/api/v1/audits?"+query, "", auditor); a.status != 400 {
			t.Errorf("%.50q: %d %.100s", query, a.status, a.body)
		}
	}

	// Page by page, everything comes once, newest first.
	var seen []uint64
	for cursor := ""; ; {
		page := list("limit=4&appID=app:0&appID=app:1&before=" + cursor)
		if len(page) == 0 {
			break
		}
		for _, i := range page {
			seen = append(seen, i.Sequence)
		}
		cursor = page[len(page)-1].Cursor
	}
	if len(seen) != 30 || !slices.IsSortedFunc(seen, func(a, b uint64) int { return int(b) - int(a) }) {
		t.Errorf("saw %v", seen)
	}
	// A record is as it was sent, but its id is ours.
	one := list("id=" + d.Instance + "-5")[0].Record
	if one["_id"] != d.Instance+"-5" || one["later"] == nil {
		t.Errorf("record %v", one)
	}
	var ids struct{ AppIDs []string }
	b.do("GET", "/api/v1/audits/app-ids?prefix=app", "", auditor).into(t, 200, &ids)
	if !slices.Equal(ids.AppIDs, []string{"app:0", "app:1"}) {
		t.Errorf("App IDs %q", ids.AppIDs)
	}
}

func TestCompatibleAudits(t *testing.T) {
	b := newBench(t)
	d := sample(t, b)
	auditor := b.as("auditor")
	list := func(query string) []map[string]any {
		t.Helper()
		var got []map[string]any
		b.do("GET", "/api/v34.04/audits/runtime/app-embedded?"+query, "", auditor).into(t, 200, &got)
		return got
	}
	for query, want := range map[string]int{
		"": 30, "limit=250": 30, "type=network": 10, "type=network,processes": 30, "effect=prevent": 15, "appID=app:1": 15, "search=host1": 3, "project=x": 30,
		"msg=/usr/bin/mkdir+launched+number+4": 1, "msg=mkdir": 0, "type=,": 30, "offset=25": 5, "offset=25&limit=2": 2, "offset=31": 0, "type=filesystem": 0,
		"from=2026-03-04T04:06:27Z&to=2026-03-04T04:06:28Z": 2, "container=c": 30, "id=" + d.Instance + "-1": 1,
	} {
		if got := list(query); len(got) != want {
			t.Errorf("%q: %d audits, want %d", query, len(got), want)
		}
	}
	if a := b.do("GET", "/api/v1/audits/runtime/app-embedded?type=filesystem", "", auditor); a.body != "[]\n" {
		t.Errorf("none: %s", a.body)
	}
	newest, oldest := list("limit=1")[0]["_id"], list("limit=1&sort=time")[0]["_id"]
	if newest != d.Instance+"-30" || oldest != d.Instance+"-1" || list("limit=1&sort=time&reverse=true")[0]["_id"] != newest || list("limit=1&sort=time&reverse=1")[0]["_id"] != newest {
		t.Errorf("newest %v, oldest %v", newest, oldest)
	}
	if second := list("limit=1&offset=1")[0]["_id"]; second != d.Instance+"-29" {
		t.Errorf("second %v", second)
	}
	for _, query := range []string{"limit=251", "offset=-1", "limit=x", "from=x", "sort=msg", "cluster=x", "typ=network", "reverse=x"} {
		if a := b.do("GET", "/api/v1/audits/runtime/app-embedded?"+query, "", auditor); a.status != 400 {
			t.Errorf("%q: %d %.100s", query, a.status, a.body)
		}
	}
}

// events reads server-sent events.
func events(t *testing.T, b *bench, query string) (next func() (event, data string), end func()) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", b.http.URL+"/api/v1/audits/stream?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	key, value, _ := strings.Cut(b.as("auditor"), ": ")
	r.Header.Set(key, value)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("stream: %d", resp.StatusCode)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 16<<20)
	return func() (event, data string) {
		for lines.Scan() {
			switch line := lines.Text(); {
			case line == "" && event != "":
				return event, data
			case strings.HasPrefix(line, "event: "):
				event = line[7:]
			case strings.HasPrefix(line, "data: "):
				data = line[6:]
			case strings.HasPrefix(line, ":"):
				return "comment", line
			}
		}
		return "", ""
	}, func() { resp.Body.Close() }
}

func TestStream(t *testing.T) {
	b := newBench(t)
	d := b.enrolled()
	next, end := events(t, b, "type=network&text=yahoo")
	defer end()
	if event, _ := next(); event != "comment" {
		t.Fatalf("first %q", event)
	}
	now := b.clock.Now().Format(time.RFC3339)
	d.send(1, `{"time":"`+now+`","type":"network","msg":"lookup of yahoo.com"}`, `{"time":"`+now+`","type":"network","msg":"gmail"}`,
		`{"time":"`+now+`","type":"processes","msg":"yahoo"}`).into(t, 200, nil)
	event, data := next()
	var got []struct {
		Cursor string
		Record struct{ Msg string }
	}
	if err := json.Unmarshal([]byte(data), &got); err != nil || event != "audits" || len(got) != 1 || got[0].Record.Msg != "lookup of yahoo.com" || got[0].Cursor == "" {
		t.Errorf("%s %s", event, data)
	}
	// What was had before does not come again.
	d.send(1, rec("a", "x"), rec("a", "x"), rec("a", "x"), `{"type":"network","msg":"yahoo again"}`).into(t, 200, nil)
	if _, data := next(); !strings.Contains(data, "yahoo again") || strings.Contains(data, "lookup") {
		t.Errorf("data %s", data)
	}
	// More than a page can show is counted.
	var many []string
	for range 300 {
		many = append(many, `{"type":"network","msg":"yahoo flood"}`)
	}
	d.send(5, many...).into(t, 200, nil)
	event, data = next()
	if n := strings.Count(data, "yahoo flood"); event != "audits" || n != streamMax {
		t.Errorf("%s with %d", event, n)
	}
	if event, data = next(); event != "lost" || data != "200" {
		t.Errorf("%s %s", event, data)
	}
	b.Stop()
	if event, _ := next(); event != "" {
		t.Errorf("after the end: %s", event)
	}
}

func TestHeadersAndMarkup(t *testing.T) {
	b := newBench(t)
	d := b.enrolled()
	const evil = `<script>alert(1)</script>`
	d.send(1, rec(evil, "/tmp/"+evil+" launched")).into(t, 200, nil)
	d.do("POST", "/heartbeat", `{"hostname":"`+evil+`","level":"`+evil+`"}`).into(t, 200, nil)
	auditor, editor := b.as("auditor"), b.as("editor")
	b.do("POST", "/api/v1/policy/rules", `{"name":"`+evil+`"}`, editor).into(t, 201, nil)
	for _, path := range []string{
		"/api/v1/audits", "/api/v1/audits?appID=" + url.QueryEscape(evil), "/api/v1/audits/runtime/app-embedded", "/api/v1/defenders", "/api/v1/policy",
		"/api/v1/changes", "/api/v1/policies/runtime/app-embedded", "/api/v1/" + url.PathEscape(evil), "/api/v1/audits?limit=" + url.QueryEscape(evil), "/elsewhere",
	} {
		a := b.do("GET", path, "", auditor)
		if ct := a.header.Get("Content-Type"); ct != "application/json" && !strings.HasPrefix(ct, "text/plain") {
			t.Errorf("%s: type %q", path, ct)
		}
		if strings.Contains(a.body, "<script") {
			t.Errorf("%s has markup: %s", path, a.body)
		}
		csp := a.header.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", path, a.header)
		}
	}
	var got struct {
		Audits []struct{ Record struct{ Msg, AppID string } }
	}
	b.do("GET", "/api/v1/audits", "", auditor).into(t, 200, &got)
	if got.Audits[0].Record.AppID != evil || got.Audits[0].Record.Msg != "/tmp/"+evil+" launched" {
		t.Errorf("audit %+v", got)
	}
}

// A handler that fails says little to the client and all to the log.
func TestErrorsHaveTwoReaders(t *testing.T) {
	b := newBench(t)
	b.Add(Route{Pattern: "GET /broken", Role: Anybody, Page: true, Handler: func(http.ResponseWriter, *http.Request) error {
		return fmt.Errorf("opening %q: secret path", "/x")
	}})
	var shown string
	b.ErrorPage = func(w http.ResponseWriter, _ *http.Request, status int, msg string) {
		shown = msg
		w.WriteHeader(status)
	}
	if a := b.do("GET", "/broken", ""); a.status != 500 || strings.Contains(shown, "secret") || shown == "" {
		t.Errorf("%d %s", a.status, shown)
	}
	if !strings.Contains(b.log.String(), "secret path") {
		t.Error("the log does not say why")
	}
	defer func() {
		if recover() == nil {
			t.Error("a route without a role was added")
		}
	}()
	b.Add(Route{Pattern: "GET /open", Handler: ping})
}

// What is refused stands in the log, with who asked and why, but never with
// the secret that was tried.
func TestRefusalsAreLogged(t *testing.T) {
	b := newBench(t)
	expired := b.as("editor")
	b.clock.pass(bearerLife / 2)
	reader := b.as("auditor")
	b.clock.pass(bearerLife/2 + time.Minute)
	d := b.enrolled()
	for _, tt := range []struct {
		name, method, path, body, header string
		status                           int
		want                             []string
	}{
		{"an expired session", "GET", "/api/v1/policy", "", expired, 401, []string{"path=/api/v1/policy", "the session has ended"}},
		{"no session", "DELETE", "/api/v1/policy/rules/default", "", "X: y", 401, []string{"path=/api/v1/policy/rules/default", "sign in first"}},
		{"a reader who changes", "DELETE", "/api/v1/policy/rules/default", "", reader, 403, []string{"who=auditor", "needs the role editor"}},
		{"a reader who makes users", "POST", "/api/v1/users", `{"name":"x","role":"admin","password":"s3cret s3cret"}`, reader, 403, []string{"who=auditor", "needs the role admin"}},
		{"a wrong password", "POST", "/api/v1/authenticate", `{"username":"admin","password":"s3cret s3cret"}`, "X: y", 401, []string{"path=/api/v1/authenticate"}},
		{"a wrong enrolment token", "POST", wire.Path + "/enrol", `{"token":"s3cret s3cret"}`, "X: y", 401, []string{"path=" + wire.Path + "/enrol", "unknown, expired or used up"}},
		{"a wrong credential", "GET", wire.Path + "/" + d.Instance + "/policy", "", "Authorization: Bearer s3cret", 401, []string{d.Instance, "wrong credential"}},
	} {
		b.log.Reset()
		if a := b.do(tt.method, tt.path, tt.body, tt.header); a.status != tt.status {
			t.Errorf("%s: status %d, want %d: %s", tt.name, a.status, tt.status, a.body)
		}
		line := b.log.String()
		for _, want := range append(tt.want, "level=WARN", "status="+strconv.Itoa(tt.status), "from=127.0.0.1") {
			if !strings.Contains(line, want) {
				t.Errorf("%s: the log lacks %q: %s", tt.name, want, line)
			}
		}
		if strings.Contains(line, "s3cret") {
			t.Errorf("%s: the log has the secret: %s", tt.name, line)
		}
	}
}

func TestTokensAPI(t *testing.T) {
	b := newBench(t)
	admin := b.as("admin")
	var made struct{ Name, Token string }
	b.do("POST", "/api/v1/tokens", `{"name":"ci","uses":2,"expires":"2026-03-05T00:00:00Z"}`, admin).into(t, 201, &made)
	if made.Name != "ci" || len(made.Token) < 40 {
		t.Errorf("made %+v", made)
	}
	a := b.do("GET", "/api/v1/tokens", "", admin)
	if strings.Contains(a.body, made.Token) || !strings.Contains(a.body, `"uses":2`) || !strings.Contains(a.body, `"who":"admin"`) {
		t.Errorf("list %s", a.body)
	}
	for body, want := range map[string]int{
		`{"name":"ci"}`: 409, `{"name":""}`: 400, `{"name":"x","uses":0}`: 400, `{"name":"x","expires":"2020-01-01T00:00:00Z"}`: 400,
		`{"name":"x\u0000"}`: 400, `{"nam":"x"}`: 400, `{"name":"x"} {}`: 400, `x`: 400,
	} {
		if a := b.do("POST", "/api/v1/tokens", body, admin); a.status != want {
			t.Errorf("%s: %d, want %d: %s", body, a.status, want, a.body)
		}
	}
	if a := b.do("DELETE", "/api/v1/tokens/nobody", "", admin); a.status != 404 {
		t.Errorf("deleting nobody: %d", a.status)
	}
	for body, want := range map[string]int{
		`{"name":"admin","role":"admin","password":"long enough"}`: 409, `{"name":"Admin","role":"admin","password":"long enough"}`: 409,
		`{"name":"x","role":"root","password":"long enough"}`: 400, `{"name":"x","role":"admin","password":"short"}`: 400,
		`{"name":"a:b","role":"admin","password":"long enough"}`: 400, `{"name":" x","role":"admin","password":"long enough"}`: 400,
	} {
		if a := b.do("POST", "/api/v1/users", body, admin); a.status != want {
			t.Errorf("%s: %d, want %d: %s", body, a.status, want, a.body)
		}
	}
}
