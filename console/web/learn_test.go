package web

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"appdefender/policy"
	"appdefender/policy/file"
	"appdefender/wire"
)

// A policy is made of the audits that were chosen, lets them pass, and is a
// file.
func TestLearnPage(t *testing.T) {
	b := newBench(t, Config{})
	d := b.enrol(wire.Identity{AppID: "sample-app"})
	now := time.Now()
	other := lookedUp(now, "other.test", "alert")
	other.AppID, other.ContainerName = "other-app", "other"
	evil := launched(now, "/bin/<b>evil</b>", "evil", "alert")
	evil.AppID, evil.ContainerName = "evil-app", "evil"
	d.tell(launched(now, "/usr/bin/mkdir", "mkdir test", "alert"), lookedUp(now, "gmail.com", "alert"), lookedUp(now, "yahoo.test", "prevent"), other, evil)
	w := b.as("auditor")
	w.get(learnPath).want(http.StatusOK, "Learn a policy").wantNot(`id="learned"`)
	w.get(runtimePath).want(http.StatusOK, `href="`+learnPath+`"`)
	w.get(learnPath+"?effect=prevent&appID=sample-app").want(http.StatusOK, "Learned from 3 audits", "- /usr/bin/mkdir", "- gmail.com", "effect: prevent", "sample-task", "What a policy refused is left out (once)").wantNot("other.test", "yahoo.test")
	w.get(learnPath+"?effect=alert&container=other").want(http.StatusOK, "- other.test", "effect: alert").wantNot("mkdir")
	w.get(learnPath+"?effect=alert&container=evil").want(http.StatusOK, "&lt;b&gt;evil&lt;/b&gt;").wantNot("<b>evil")
	w.get(learnPath+"?effect=alert&appID=nobody").want(http.StatusOK, "Nothing to learn from")
	w.get(learnPath+"?range=custom&from=yesterday").want(http.StatusOK, `role="alert"`)
	got := w.get(learnPath + "?effect=prevent&appID=sample-app&download=true").want(http.StatusOK)
	if !strings.Contains(got.header.Get("Content-Disposition"), "learned.yaml") {
		t.Errorf("it is no file: %v", got.header)
	}
	p, err := file.Parse("learned.yaml", []byte(got.body))
	if err != nil {
		t.Fatalf("%v\n%s", err, got.body)
	}
	e, err := policy.Compile(p, policy.Workload{AppID: "sample-app", Container: "sample-task"})
	if err != nil {
		t.Fatal(err)
	}
	mkdir := policy.Program{Typed: "/usr/bin/mkdir", Path: "/usr/bin/mkdir"}
	if v := e.Decide(&policy.Event{Kind: policy.Launch, Program: mkdir}); !v.Allow {
		t.Errorf("refused: %s", v.Reason)
	}
	if v := e.Decide(&policy.Event{Kind: policy.Lookup, Domain: "other.test"}); v.Allow {
		t.Error("what was not seen is allowed")
	}
}
