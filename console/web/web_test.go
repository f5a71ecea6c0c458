package web

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"appdefender/audit"
	"appdefender/console"
	"appdefender/console/store"
	"appdefender/policy"
	"appdefender/wire"
)

// allPages are what people can look at, with the role that it takes.
var allPages = map[string]store.Role{
	eventsPath: store.Auditor, runtimePath: store.Auditor, rulePath + "?name=default": store.Auditor, rulePath: store.Editor, textPath: store.Auditor, learnPath: store.Auditor,
	defendersPath: store.Auditor, tokensPath: store.Admin, usersPath: store.Admin, changesPath: store.Auditor, embedPath: store.Editor, passwordPath: store.Auditor,
}

func TestSignIn(t *testing.T) {
	b := newBench(t, Config{})
	nobody := b.as("")
	for path := range allPages {
		a := nobody.get(path).want(http.StatusSeeOther)
		if !strings.HasPrefix(a.location, console.SignInPath+"?next=") {
			t.Errorf("%s leads to %q", path, a.location)
		}
	}
	nobody.get(console.SignInPath+"?next=%2Fdefend%2Fruntime").want(http.StatusOK, `name="next" value="/defend/runtime"`)
	nobody.post(console.SignInPath, "name", "admin", "password", "wrong", "next", "/x").
		want(http.StatusUnauthorized, "Wrong name or password.", `value="admin"`, `value="/x"`).wantNot(`value="wrong"`)
	if a := nobody.post(console.SignInPath, "name", "admin", "password", testPassword, "next", "/defend/runtime").want(http.StatusSeeOther); a.location != "/defend/runtime" {
		t.Errorf("signing in leads to %q", a.location)
	}
	nobody.get("/defend/runtime").want(http.StatusOK, "<strong>admin</strong>")
	nobody.post("/signout").want(http.StatusSeeOther)
	nobody.get("/defend/runtime").want(http.StatusSeeOther)
}

func TestRolesSeeTheirPages(t *testing.T) {
	b := newBench(t, Config{})
	for _, role := range store.Roles {
		w := b.as(string(role))
		for path, need := range allPages {
			if role.May(need) {
				w.get(path).want(http.StatusOK, "<!doctype html>", "</html>")
			} else {
				w.get(path).want(http.StatusForbidden, "</html>")
			}
		}
	}
}

func TestAuditorCannotChange(t *testing.T) {
	b := newBench(t, Config{})
	d := b.enrol(wire.Identity{AppID: "a"})
	w := b.as("auditor")
	w.get(runtimePath).want(http.StatusOK, "default").wantNot("Add rule", "/defend/runtime/delete", "/defend/runtime/move", `role="switch"`)
	w.get(rulePath+"?name=default").want(http.StatusOK, "Read only", `<fieldset class="bare" disabled>`).wantNot(`id="save"`)
	w.get(defendersPath).want(http.StatusOK, d.Instance).wantNot("/manage/defenders/revoke")
	for _, post := range [][]string{
		{rulePath, "old", "default", "name", "mine"},
		{rulePath, "old", "", "name", "mine"},
		{textPath, "generation", "1", "text", "version: 1\nrules: []\n"},
		{runtimePath + "/move", "name", "default", "to", "up"},
		{runtimePath + "/disable", "name", "default", "disabled", "true"},
		{runtimePath + "/delete", "name", "default"},
		{defendersPath + "/revoke", "instance", d.Instance},
		{forensicsPath, "instance", d.Instance},
		{incidentsPath + "/acknowledge", "id", "1", "acknowledged", "true"},
		{tokensPath, "name", "mine"},
		{tokensPath + "/delete", "name", "mine"},
	} {
		w.post(post[0], post[1:]...).want(http.StatusForbidden)
	}
	if got := b.names(); got != "default" {
		t.Errorf("the rules are now %s", got)
	}
}

func TestAnotherSiteCannotChange(t *testing.T) {
	b := newBench(t, Config{})
	w := b.as("admin")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+runtimePath+"/delete", strings.NewReader("name=default"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", "https://evil.test")
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	w.do(r).want(http.StatusForbidden)
	if b.rule("default") == nil {
		t.Error("the rule is gone")
	}
}

// documentsRule is the form of the document's rule.
var documentsRule = []string{
	"old", "", "base", "", "name", "sample", "enabled", "true",
	"containers", "sample-task\r\n", "processes", "prevent", "processes-deny", "mkdir\r\n\r\n",
	"network", "disable", "dns-on", "true", "dns", "prevent", "dns-allow", " gmail.com ",
}

func TestAddRule(t *testing.T) {
	b := newBench(t, Config{})
	w := b.as("editor")
	if a := w.post(rulePath, documentsRule...).want(http.StatusSeeOther); a.location != runtimePath+"?done=added" {
		t.Errorf("leads to %q", a.location)
	}
	r := b.rule("sample")
	if r == nil || r.Disabled || r.Network != nil || r.OnUnknown != nil ||
		!slices.Equal(r.Scope.Containers, []string{"sample-task"}) || r.Scope.Images != nil ||
		*r.Processes.Effect != policy.Prevent || !slices.Equal(r.Processes.Deny, []string{"mkdir"}) || r.Processes.Allow != nil ||
		*r.DNS.Effect != policy.Prevent || !slices.Equal(r.DNS.Allow, []string{"gmail.com"}) {
		t.Fatalf("%+v", r)
	}
	if got := b.names(); got != "sample default" { // below default it would never be reached
		t.Errorf("the order is %s", got)
	}
	w.get(runtimePath+"?done=added").want(http.StatusOK, "The rule was added", "sample", "1 denied", "1 allowed", "just now")
	w.get(rulePath+"?name=sample").want(http.StatusOK, "\nmkdir</textarea>", "\ngmail.com</textarea>", `value="prevent" checked`)
}

// TestRuleKeeps: what the form has no field for stays.
func TestRuleKeeps(t *testing.T) {
	b := newBench(t, Config{})
	w := b.as("editor")
	w.post(rulePath, append(slices.Clone(documentsRule), "unknown", "alert")...).want(http.StatusSeeOther)
	before := b.rule("sample")
	for range 2 { // as it is, into the form and back
		form := readForm(w.get(rulePath + "?name=sample").want(http.StatusOK).body)
		w.post(rulePath, form...).want(http.StatusSeeOther)
	}
	was, _ := digest(*before)
	if is, _ := digest(*b.rule("sample")); is != was {
		t.Errorf("%+v became %+v", before, b.rule("sample"))
	}
	form := readForm(w.get(rulePath + "?name=default").body)
	w.post(rulePath, form...).want(http.StatusSeeOther)
	if r := b.rule("default"); r.DNS == nil || *r.DNS.Effect != policy.Alert || *r.Network.Effect != policy.Alert || r.Disabled {
		t.Errorf("%+v", r)
	}
}

var (
	inputs    = regexp.MustCompile(`<input ([^>]*)>`)
	areas     = regexp.MustCompile(`(?s)<textarea [^>]*name="([^"]*)"[^>]*>\n(.*?)</textarea>`)
	selects   = regexp.MustCompile(`(?s)<select id="[^"]*" name="([^"]*)"(.*?)</select>`)
	selected  = regexp.MustCompile(`value="([^"]*)" selected`)
	attribute = regexp.MustCompile(`(name|value|type)="([^"]*)"`)
)

// readForm returns what a browser would send of the form of a rule.
func readForm(page string) []string {
	var form []string
	for _, m := range inputs.FindAllStringSubmatch(page, -1) {
		a := make(map[string]string)
		for _, kv := range attribute.FindAllStringSubmatch(m[1], -1) {
			a[kv[1]] = kv[2]
		}
		if a["type"] == "radio" || a["type"] == "checkbox" {
			if !strings.HasSuffix(m[1], "checked") {
				continue
			}
		}
		form = append(form, a["name"], a["value"])
	}
	for _, m := range areas.FindAllStringSubmatch(page, -1) {
		form = append(form, m[1], m[2])
	}
	for _, m := range selects.FindAllStringSubmatch(page, -1) {
		chosen := ""
		if s := selected.FindStringSubmatch(m[2]); s != nil {
			chosen = s[1]
		}
		form = append(form, m[1], chosen)
	}
	return form
}

// TestDetections: the form has each detection of its sections, shows its effect
// and sets it; what was disabled stays so, and a form without them changes none.
func TestDetections(t *testing.T) {
	for section, detect := range map[string]any{
		"processes": policy.ProcessDetections{}, "dns": policy.DNSDetections{}, "network": policy.NetworkDetections{},
	} {
		var keys, has []string
		for _, f := range reflect.VisibleFields(reflect.TypeOf(detect)) {
			keys = append(keys, f.Tag.Get("yaml"))
		}
		for i := range detections {
			if detections[i].section == section {
				has = append(has, detections[i].key)
			}
		}
		slices.Sort(keys)
		if slices.Sort(has); !slices.Equal(keys, has) {
			t.Errorf("%s: the form has %q of %q", section, has, keys)
		}
	}

	b := newBench(t, Config{})
	w := b.as("editor")
	w.post(rulePath, append(slices.Clone(documentsRule), "processes-detect-fileless", "block", "dns-detect-tunnels", "default",
		"network-detect-portScan", "alert", "network-detect-rawSockets", "")...).want(http.StatusSeeOther)
	r := b.rule("sample")
	if r.Network == nil {
		t.Fatal("a section of detections alone is gone")
	}
	effects := []*policy.Effect{r.Processes.Detect.Fileless, r.DNS.Detect.Tunnels, r.Network.Detect.PortScan}
	for i, want := range []policy.Effect{policy.Block, policy.Inherit, policy.Alert} {
		if effects[i] == nil || *effects[i] != want {
			t.Errorf("detection %d: %v, want %v", i, effects[i], want)
		}
	}
	if r.Network.Detect.RawSockets != nil || r.Processes.Detect.Modified != nil {
		t.Errorf("more is looked for: %+v", r.Network.Detect)
	}
	page := w.get(rulePath+"?name=sample").want(http.StatusOK, "Programs without a file", "1 of 12").body
	form := readForm(page)
	at := slices.Index(form, "processes-detect-fileless")
	if at < 0 || form[at+1] != "block" {
		t.Errorf("the form says %q", form)
	}
	form[at+1] = "ban"
	w.post(rulePath, form...).want(http.StatusBadRequest, `&#34;ban&#34; is not an effect`, `id="processes-detect-fileless-faults"`)
	form[at+1] = ""
	w.post(rulePath, form...).want(http.StatusSeeOther)
	if got := b.rule("sample"); got.Processes.Detect.Fileless != nil || got.DNS.Detect.Tunnels == nil {
		t.Errorf("%+v", got.Processes.Detect)
	}
}

func TestRuleFaults(t *testing.T) {
	b := newBench(t, Config{})
	w := b.as("editor")
	for _, c := range []struct {
		name  string
		form  []string
		texts []string
	}{
		{"no name", []string{"name", " "}, []string{`id="name-faults"><li>missing</li>`}},
		{"a name that is taken", []string{"name", "default"}, []string{`id="name-faults"><li>&#34;default&#34; is already the name of another rule`}},
		{"a domain", []string{"dns-allow", "gmail.com\n\nbad domain"}, []string{`id="dns-allow-faults"><li>Line 2: `, "gmail.com\nbad domain</textarea>", `class="fault-count">1<`}},
		{"an address", []string{"ip-deny", "10.0.0.0/8\n10.0.0/8"}, []string{`id="ip-deny-faults"><li>Line 2: `}},
		{"a port", []string{"port-allow", "99999"}, []string{`id="port-allow-faults"><li>Line 1: `}},
		{"a listening port", []string{"listen-deny", "22\n0"}, []string{`id="listen-deny-faults"><li>Line 2: `, `id="tab-networking" aria-controls="panel-networking" aria-selected="true"`}},
		{"a path", []string{"files-deny", "etc/passwd"}, []string{`id="files-deny-faults"><li>Line 1: `, `id="tab-files" aria-controls="panel-files" aria-selected="true"`, `id="panel-processes" aria-labelledby="tab-processes" hidden`}},
		{"malware that nothing looks for", []string{"files-malware", "md5:0123456789abcdef0123456789abcdef"}, []string{`id="files-malware-faults"><li>nothing looks at it`}},
		{"a pattern", []string{"images", "-"}, []string{`id="images-faults"><li>Line 1: `}},
		{"an effect", []string{"processes", "ban"}, []string{`&#34;ban&#34; is not an effect`}},
		{"several", []string{"processes-deny", "a/b", "ip-allow", "x"}, []string{`id="processes-deny-faults"`, `id="ip-allow-faults"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			form := slices.Clone(documentsRule)
			for i := 0; i < len(c.form); i += 2 {
				if at := slices.Index(form, c.form[i]); at >= 0 {
					form[at+1] = c.form[i+1]
				} else {
					form = append(form, c.form[i], c.form[i+1])
				}
			}
			w.post(rulePath, form...).want(http.StatusBadRequest, append(c.texts, "The rule was not saved.")...)
			if got := b.names(); got != "default" {
				t.Errorf("the rules are now %s", got)
			}
		})
	}
}

func TestRuleConflict(t *testing.T) {
	b := newBench(t, Config{})
	editor, admin := b.as("editor"), b.as("admin")
	editor.post(rulePath, documentsRule...).want(http.StatusSeeOther)
	mine := readForm(editor.get(rulePath + "?name=sample").body)

	// Another rule may change meanwhile.
	admin.post(runtimePath+"/disable", "name", "default", "disabled", "true").want(http.StatusSeeOther)
	editor.post(rulePath, mine...).want(http.StatusSeeOther)

	theirs := readForm(admin.get(rulePath + "?name=sample").body)
	theirs[slices.Index(theirs, "processes-deny")+1] = "mkdir\nnc"
	admin.post(rulePath, theirs...).want(http.StatusSeeOther)
	mine[slices.Index(mine, "processes-deny")+1] = "mkdir\nwget"
	a := editor.post(rulePath, mine...).want(http.StatusConflict, "<strong>admin</strong> saved this rule", "mkdir\nwget</textarea>")
	if got := b.rule("sample").Processes.Deny; !slices.Equal(got, []string{"mkdir", "nc"}) {
		t.Errorf("it has %q", got)
	}
	editor.post(rulePath, readForm(a.body)...).want(http.StatusSeeOther)
	if got := b.rule("sample").Processes.Deny; !slices.Equal(got, []string{"mkdir", "wget"}) {
		t.Errorf("it has %q", got)
	}
}

func TestRuleList(t *testing.T) {
	b := newBench(t, Config{})
	w := b.as("editor")
	w.post(rulePath, documentsRule...).want(http.StatusSeeOther)
	w.post(runtimePath+"/move", "name", "sample", "to", "down").want(http.StatusSeeOther)
	if got := b.names(); got != "default sample" {
		t.Errorf("the order is %s", got)
	}
	w.get(runtimePath).want(http.StatusOK, "Never reached")
	w.post(runtimePath+"/move", "name", "sample", "to", "down").want(http.StatusSeeOther) // it is the last
	w.post(runtimePath+"/disable", "name", "default", "disabled", "true").want(http.StatusSeeOther)
	if !b.rule("default").Disabled {
		t.Error("default is enabled")
	}
	w.get(runtimePath).want(http.StatusOK).wantNot("Never reached")
	w.post(runtimePath+"/move", "name", "sample", "to", "up").want(http.StatusSeeOther)
	w.post(runtimePath+"/delete", "name", "default").want(http.StatusSeeOther)
	if got := b.names(); got != "sample" {
		t.Errorf("the rules are %s", got)
	}
	w.post(runtimePath+"/delete", "name", "default").want(http.StatusNotFound, "no rule")
	w.get(rulePath+"?name=default").want(http.StatusNotFound, "no rule")
	w.post(runtimePath+"/delete", "name", "sample").want(http.StatusSeeOther)
	w.get(runtimePath).want(http.StatusOK, "No rules")
	w.get(changesPath).want(http.StatusOK, "moved rule &#34;sample&#34; down", "disabled rule", "deleted rule", "editor")
}

func TestRuleWithAnyName(t *testing.T) {
	b := newBench(t, Config{})
	w := b.as("editor")
	for _, name := range []string{"..", "a/b?c=d&e#f", `<b>"x"</b>`, "Übung 1"} {
		form := slices.Clone(documentsRule)
		form[slices.Index(form, "name")+1] = name
		w.post(rulePath, form...).want(http.StatusSeeOther)
		for _, m := range regexp.MustCompile(`class="rule-name" href="([^"]*)"`).FindAllStringSubmatch(w.get(runtimePath).body, 1) {
			a := w.get(strings.ReplaceAll(m[1], "&amp;", "&")).want(http.StatusOK).wantNot("<b>")
			w.post(rulePath, "old", name, "base", "", "name", "x")
			_ = a
		}
		w.post(runtimePath+"/delete", "name", name).want(http.StatusSeeOther)
	}
}

func TestHistory(t *testing.T) {
	b := newBench(t, Config{})
	ctx := t.Context()
	var h history
	effect := policy.Alert
	for i := range 3 {
		who := fmt.Sprintf("u%d", i)
		if _, err := b.AddRule(ctx, who, 0, 0, policy.Rule{Name: fmt.Sprintf("r%d", i), DNS: &policy.DNSSection{Effect: &effect}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.UpdateRule(ctx, "v", 0, "r1", policy.Rule{Name: "r1"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		now, err := b.Policy()
		if err != nil {
			t.Fatal(err)
		}
		got, err := h.of(ctx, b.Store(), now.Generation)
		if err != nil {
			t.Fatal(err)
		}
		for name, who := range map[string]string{"default": "system", "r0": "u0", "r1": "v", "r2": "u2"} {
			if got[name].Who != who || got[name].At.IsZero() {
				t.Errorf("%s: %+v, want %s", name, got[name], who)
			}
		}
		if _, err := b.MoveRule(ctx, "w", 0, "r0", 0); err != nil { // is no change of the rule
			t.Fatal(err)
		}
	}
}

func TestEventFilters(t *testing.T) {
	b := newBench(t, Config{})
	w := b.as("auditor")
	w.get(eventsPath).want(http.StatusOK, "No audits yet")
	now := time.Now()
	d := b.enrol(wire.Identity{AppID: "sample-app"})
	d.tell(
		launched(now.Add(-2*time.Hour), "/usr/bin/mkdir", "mkdir a", "prevent"),
		lookedUp(now.Add(-time.Minute), "yahoo.com", "alert"),
		audit.Record{Time: now, Type: "defender", Msg: "a notice", AppID: "other"},
	)
	const mkdir, yahoo, notice = "mkdir launched", "yahoo.com triggered", "a notice"
	for _, c := range []struct {
		query string
		want  []string
	}{
		{"", []string{notice, yahoo, mkdir}},
		{"type=processes", []string{mkdir}},
		{"effect=alert&type=", []string{yahoo}},
		{"appID=other", []string{notice}},
		{"text=mkdi", []string{mkdir}},
		{"text=yahoo.com&effect=prevent", nil},
		{"range=15m", []string{notice, yahoo}},
		{"range=15m&from=2001-01-01T00:00", []string{notice, yahoo}},
		{"range=custom&from=" + now.Add(-3*time.Hour).UTC().Format(time.RFC3339) + "&to=" + now.Add(-time.Hour).UTC().Format(time.RFC3339), []string{mkdir}},
		{"domain=yahoo.com", []string{yahoo}},
		{"id=" + d.Instance + "-1", []string{mkdir}},
		{"rule=sample&process=/usr/bin/wget", []string{yahoo}},
	} {
		t.Run(c.query, func(t *testing.T) {
			for _, path := range []string{eventsPath, eventsPath + "/rows"} {
				body := w.get(path + "?" + c.query).want(http.StatusOK).body
				var got []string
				for _, m := range regexp.MustCompile(`(?s)<a class="msg"[^>]*>(.*?)</a>`).FindAllStringSubmatch(body, -1) {
					got = append(got, m[1])
				}
				if !slices.EqualFunc(got, c.want, strings.Contains) {
					t.Errorf("%s: %q, want %q", path, got, c.want)
				}
			}
		})
	}
	w.get(eventsPath+"?from=yesterday").want(http.StatusBadRequest, "is neither a time", `id="filters"`)
	w.get(eventsPath+"?text=nowhere").want(http.StatusOK, "Nothing matches")
	w.get(eventsPath+"?id="+d.Instance+"-1").want(http.StatusOK, "Process tree", "/usr/bin/dash", "mkdir a")
	w.get(eventsPath+"/detail?id="+d.Instance+"-2").want(http.StatusOK, "/usr/bin/wget", "yahoo.com", "Let through", "is not on the allow list").wantNot("<html")
	w.get(eventsPath + "/detail?id=" + d.Instance + "-9").want(http.StatusNotFound)
}

func TestEventPages(t *testing.T) {
	b := newBench(t, Config{})
	w := b.as("auditor")
	d := b.enrol(wire.Identity{AppID: "a"})
	const n = 2*pageSize + 7
	var records []audit.Record
	for i := range n {
		records = append(records, audit.Record{Time: time.Now().Add(time.Duration(i-n) * time.Second), Type: "processes", Effect: "alert", Msg: fmt.Sprintf("number %d.", i)})
	}
	d.tell(records...)
	older := regexp.MustCompile(`href="(/monitor/events\?[^"]*before=[^"]*)"`)
	path, next := eventsPath+"?effect=alert", n-1
	for {
		body := w.get(path).want(http.StatusOK).body
		for _, m := range regexp.MustCompile(`number (\d+)\.`).FindAllStringSubmatch(body, -1) {
			if m[1] != fmt.Sprint(next) {
				t.Fatalf("%s after %d", m[1], next+1)
			}
			next--
		}
		m := older.FindStringSubmatch(body)
		if m == nil {
			break
		}
		path = strings.ReplaceAll(m[1], "&amp;", "&")
		if !strings.Contains(path, "effect=alert") {
			t.Fatalf("the filter is lost in %s", path)
		}
	}
	if next != -1 {
		t.Errorf("%d are missing", next+1)
	}
}

const evil = `<img src=x onerror=alert(1)><script>alert(2)</script>`

// TestTextIsText: whatever a target, a Defender or a person chose is no
// markup anywhere.
func TestTextIsText(t *testing.T) {
	b := newBench(t, Config{})
	w := b.as("admin")
	d := b.enrol(wire.Identity{AppID: evil, Container: evil, Image: evil, Hostname: evil, Version: evil})
	d.heartbeat(wire.Heartbeat{Identity: wire.Identity{AppID: evil, Container: evil, Image: evil}, Level: evil, Lost: []string{evil}, PolicyError: evil, Generation: 1})
	d.tell(audit.Record{
		Time: time.Now(), Type: evil, Effect: evil, AttackType: evil, RuleName: evil, Msg: evil, Severity: evil, Category: "evil<img>", CustomRule: evil, AppID: evil, ContainerName: evil, ImageName: evil,
		ProcessPath: "/" + evil, Command: evil + "\u202e\x1b[2J", User: evil, Domain: evil, Level: evil, Reason: evil, Err: evil, IP: evil, Call: evil,
		Interpreters: []string{evil}, Ancestry: []policy.Ancestor{{PID: 1, Path: evil}}, Events: []audit.Tally{{Msg: evil, Count: 2}},
	})
	if _, err := b.AddRule(t.Context(), "admin", 0, 0, policy.Rule{Name: evil, Scope: policy.Scope{Images: []string{evil}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Store().AddToken(t.Context(), "admin", store.Token{Name: evil}); err != nil {
		t.Fatal(err)
	}
	id := d.Instance + "-1"
	for _, path := range []string{
		eventsPath, eventsPath + "?id=" + id, eventsPath + "/rows", eventsPath + "/detail?id=" + id, eventsPath + "?text=" + "%3Cimg%20src%3E", eventsPath + "?rule=%3Cimg%3E",
		runtimePath, rulePath + "?name=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E%3Cscript%3Ealert(2)%3C%2Fscript%3E",
		defendersPath, tokensPath, changesPath, incidentsPath, forensicsPath + "?instance=" + d.Instance,
	} {
		a := w.get(path).want(http.StatusOK, "&lt;").wantNot("<img", "<script>", "\u202e", "\x1b")
		if strings.Contains(a.header.Get("Content-Type"), "html") == false {
			t.Errorf("%s is %s", path, a.header.Get("Content-Type"))
		}
	}
	w.get(rulePath + "?name=%3Cimg%3E").want(http.StatusNotFound).wantNot("<img")
	w.post(console.SignInPath, "name", evil, "password", "x").want(http.StatusUnauthorized).wantNot("<img")
}

// TestStream: what a Defender sends comes to who watches, as rows, one line of
// data at a time.
func TestStream(t *testing.T) {
	b := newBench(t, Config{})
	w := b.as("auditor")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+eventsPath+"/stream?effect=prevent", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := w.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Fatalf("it is %s", got)
	}
	lines := bufio.NewScanner(resp.Body)
	until := func(want string) {
		t.Helper()
		for lines.Scan() {
			line := lines.Text()
			if strings.Contains(line, "yahoo.com") {
				t.Fatalf("it is filtered out: %s", line)
			}
			if strings.Contains(line, want) {
				return
			}
		}
		t.Fatalf("no %q: %v", want, lines.Err())
	}
	until("event: ready")
	d := b.enrol(wire.Identity{AppID: "a"})
	d.tell(lookedUp(time.Now(), "yahoo.com", "alert"), launched(time.Now(), "/usr/bin/mkdir", "mkdir a\ndata: x\n\nevent: y", "prevent"))
	until("event: rows")
	until("mkdir launched")
	b.as("").get(eventsPath + "/stream").want(http.StatusUnauthorized)
}

func TestDefenders(t *testing.T) {
	b := newBench(t, Config{})
	w := b.as("editor")
	w.get(defendersPath).want(http.StatusOK, "No Defenders yet").wantNot(tokensPath)
	d := b.enrol(wire.Identity{AppID: "shop"})
	w.get(defendersPath).want(http.StatusOK, "shop", "not yet", d.Instance)
	d.heartbeat(wire.Heartbeat{Identity: wire.Identity{AppID: "shop", Container: "web", Version: "1.2"}, Level: "notify", Lost: []string{"no SYS_PTRACE"},
		Generation: 7, PolicyError: "the policy is broken", Queue: 12, Dropped: 34, FailOpen: true, DryRun: true})
	w.get(defendersPath).want(http.StatusOK, "notify", "no SYS_PTRACE", "the policy is broken", ">12<", ">34<", "fails open", "dry run", "connected", "1.2")
	w.post(defendersPath+"/revoke", "instance", d.Instance).want(http.StatusSeeOther)
	w.get(defendersPath).want(http.StatusOK).wantNot(d.Instance)
	w.get(defendersPath+"?state=revoked").want(http.StatusOK, d.Instance).wantNot("/revoke")
	w.post(defendersPath+"/revoke", "instance", "nobody").want(http.StatusNotFound)
}

func TestTokens(t *testing.T) {
	b := newBench(t, Config{URL: "https://console.test:8443", CA: []byte(testCA)})
	w := b.as("admin")
	w.get(tokensPath).want(http.StatusOK, "No tokens")
	body := w.post(tokensPath, "name", "shop", "life", "24h", "uses", "3").want(http.StatusOK).body
	secret := regexp.MustCompile(`<code id="secret">([^<]+)</code>`).FindStringSubmatch(body)
	if secret == nil {
		t.Fatalf("no secret in %s", body)
	}
	const run = "defender run --console https://console.test:8443 --ca console-ca.pem \\\n  --token-file enrolment-token --app-id my-app -- ./entry.sh"
	if !strings.Contains(body, run) {
		t.Errorf("no %q in %s", run, body)
	}
	if _, _, err := b.Store().Enrol(t.Context(), secret[1], wire.Identity{AppID: "a"}); err != nil {
		t.Error(err)
	}
	w.get(tokensPath).want(http.StatusOK, "shop", `<td data-label="Uses left">2</td>`).wantNot(secret[1])
	w.post(tokensPath, "name", "shop").want(http.StatusBadRequest, "exists already", `value="shop"`)
	w.post(tokensPath, "name", "").want(http.StatusBadRequest, "name is empty")
	w.post(tokensPath, "name", "x", "uses", "many").want(http.StatusBadRequest, "is no number")
	w.post(tokensPath, "name", "x", "uses", "0").want(http.StatusBadRequest, "0 uses are none")
	w.post(tokensPath+"/delete", "name", "shop").want(http.StatusSeeOther)
	w.get(tokensPath).want(http.StatusOK, "No tokens")
	if a := w.get(defendersPath + "/ca.pem").want(http.StatusOK); a.body != testCA {
		t.Errorf("the certificate is %q", a.body)
	}
}

func TestUsers(t *testing.T) {
	b := newBench(t, Config{})
	w := b.as("admin")
	w.get(usersPath).want(http.StatusOK, "auditor", "editor", "you")
	password := func(a answer) string {
		t.Helper()
		found := regexp.MustCompile(`<code id="secret">([^<]+)</code>`).FindStringSubmatch(a.want(http.StatusOK).body)
		if found == nil {
			t.Fatalf("no password in %s", a.body)
		}
		return found[1]
	}
	first := password(w.post(usersPath, "name", "jo", "role", "auditor"))
	jo := b.as("")
	signIn := func(password string) answer { return jo.post(console.SignInPath, "name", "jo", "password", password) }
	signIn(first).want(http.StatusSeeOther)
	jo.get(usersPath).want(http.StatusForbidden)
	w.get(usersPath).want(http.StatusOK, "jo").wantNot(first)

	w.post(usersPath+"/role", "name", "jo", "role", "admin").want(http.StatusSeeOther)
	jo.get(eventsPath).want(http.StatusSeeOther) // the session has ended
	signIn(first).want(http.StatusSeeOther)
	jo.get(usersPath).want(http.StatusOK)

	second := password(w.post(usersPath+"/password", "name", "jo"))
	signIn(first).want(http.StatusUnauthorized)
	signIn(second).want(http.StatusSeeOther)

	w.post(usersPath, "name", "JO", "role", "auditor").want(http.StatusBadRequest, "exists already", `value="JO"`)
	w.post(usersPath, "name", "a:b", "role", "auditor").want(http.StatusBadRequest, "has a colon")
	w.post(usersPath, "name", "x", "role", "root").want(http.StatusBadRequest, "is no role")
	w.post(usersPath+"/role", "name", "jo", "role", "root").want(http.StatusBadRequest, "is no role")
	for _, what := range []string{"/role", "/password", "/delete"} {
		w.post(usersPath+what, "name", "Admin", "role", "auditor").want(http.StatusForbidden, "for others")
		w.post(usersPath+what, "name", "nobody", "role", "auditor").want(http.StatusNotFound)
	}
	w.post(usersPath+"/delete", "name", "jo").want(http.StatusSeeOther)
	signIn(second).want(http.StatusUnauthorized)
	b.as("editor").post(usersPath, "name", "y", "role", "admin").want(http.StatusForbidden)
}

func TestPassword(t *testing.T) {
	b := newBench(t, Config{})
	w := b.as("auditor")
	const next = "battery staple"
	w.post(passwordPath, "old", testPassword, "new", next, "again", "other").want(http.StatusBadRequest, "The new passwords differ.")
	w.post(passwordPath, "old", "wrong", "new", next, "again", next).want(http.StatusForbidden, "The old password is wrong.")
	w.post(passwordPath, "old", testPassword, "new", "short", "again", "short").want(http.StatusBadRequest, "shorter than")
	w.post(passwordPath, "old", testPassword, "new", next, "again", next).want(http.StatusSeeOther)
	w.get(eventsPath).want(http.StatusSeeOther)
	w.post(console.SignInPath, "name", "auditor", "password", testPassword).want(http.StatusUnauthorized)
	w.post(console.SignInPath, "name", "auditor", "password", next).want(http.StatusSeeOther)
}

func TestStatic(t *testing.T) {
	b := newBench(t, Config{})
	w := b.as("")
	body := w.get(console.SignInPath).want(http.StatusOK).body
	links := regexp.MustCompile(`(?:src|href)="(/static/[^"]+)"`).FindAllStringSubmatch(body, -1)
	if len(links) < 3 {
		t.Fatalf("only %q", links)
	}
	for _, m := range links {
		if a := w.get(m[1]).want(http.StatusOK); !strings.Contains(a.header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %s", m[1], a.header.Get("Cache-Control"))
		}
	}
	if a := w.get("/static/old/app.css").want(http.StatusOK); strings.Contains(a.header.Get("Cache-Control"), "immutable") {
		t.Errorf("another version is kept for ever: %s", a.header.Get("Cache-Control"))
	}
	w.get("/static/old/nothing").want(http.StatusNotFound)
	b.as("admin").get("/nowhere").want(http.StatusNotFound, "no such page", "</html>")
}

// TestNothingInline: the Content-Security-Policy would silently stop it.
func TestNothingInline(t *testing.T) {
	names, err := files.ReadDir("templates")
	if err != nil {
		t.Fatal(err)
	}
	bad := regexp.MustCompile(`(?i)<script(?:[^>]*[^"])?>[^<]|\son[a-z]+=|\sstyle=|<style|https?://`)
	for _, e := range names {
		if e.IsDir() {
			continue
		}
		b, err := files.ReadFile("templates/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if m := bad.Find(b); m != nil {
			t.Errorf("%s has %q", e.Name(), m)
		}
	}
}

func TestPlain(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"mkdir -p /tmp/ä", "mkdir -p /tmp/ä"},
		{"a\u202eb", `a\u202eb`},
		{"a\x1b[2Jb", `a\x1b[2Jb`},
		{"zero\u200bwidth", `zero\u200bwidth`},
		{"line\nbreak", "line\nbreak"},
	} {
		if got := plain(c.in); got != c.want {
			t.Errorf("plain(%q) is %q, want %q", c.in, got, c.want)
		}
	}
}

func TestAgo(t *testing.T) {
	for _, c := range []struct {
		d    time.Duration
		want string
	}{
		{-time.Hour, "just now"}, {4 * time.Second, "just now"}, {59 * time.Second, "59 s ago"}, {61 * time.Second, "1 min ago"},
		{59*time.Minute + 59*time.Second, "59 min ago"}, {47 * time.Hour, "47 h ago"}, {49 * time.Hour, "2 days ago"},
	} {
		if got := ago(c.d); got != c.want {
			t.Errorf("ago(%v) is %q, want %q", c.d, got, c.want)
		}
	}
}

func TestIncidents(t *testing.T) {
	b := newBench(t, Config{})
	w := b.as("editor")
	w.get(incidentsPath).want(http.StatusOK, "No incidents")
	d := b.enrol(wire.Identity{AppID: "shop"})
	d.tell(audit.Record{Type: "processes", Msg: "xmrig launched", AppID: "shop", Category: "cryptoMiner", Incident: true})
	w.get(incidentsPath).want(http.StatusOK, "Crypto miner", "xmrig launched", "/monitor/events?id="+d.Instance+"-1", "Acknowledge")
	w.post(incidentsPath+"/acknowledge", "id", "1", "acknowledged", "true").want(http.StatusSeeOther)
	w.get(incidentsPath).want(http.StatusOK, "No incidents").wantNot("xmrig")
	w.get(incidentsPath+"?archived=true").want(http.StatusOK, "xmrig launched", "by editor", "Reopen")
	w.post(incidentsPath+"/acknowledge", "id", "x").want(http.StatusBadRequest)
	w.post(incidentsPath+"/acknowledge", "id", "1", "acknowledged", "false").want(http.StatusSeeOther)
	w.get(incidentsPath).want(http.StatusOK, "xmrig launched")

	d.heartbeat(wire.Heartbeat{Level: "notify"})
	w.get(forensicsPath+"?instance="+d.Instance).want(http.StatusOK, "Ask this Defender", "Nothing yet")
	w.post(forensicsPath, "instance", d.Instance).want(http.StatusSeeOther)
	if err := b.Store().AddSnapshot(t.Context(), &store.Defender{Instance: d.Instance}, true, 3, []byte("x")); err != nil {
		t.Fatal(err)
	}
	w.get(forensicsPath+"?instance="+d.Instance).want(http.StatusOK, "a request", "/api/v1/forensics/1?format=csv")
	w.get(forensicsPath + "?instance=nobody").want(http.StatusNotFound)
}
