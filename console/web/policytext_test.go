package web

import (
	"html"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"appdefender/policy"
)

// formOf returns what the fields of the page for the text send.
func formOf(a answer) (text, generation string) {
	a.t.Helper()
	field := regexp.MustCompile(`(?s)<textarea id="text"[^>]*>\n(.*)</textarea>`).FindStringSubmatch(a.body)
	number := regexp.MustCompile(`name="generation" value="(\d+)"`).FindStringSubmatch(a.body)
	if field == nil || number == nil {
		a.t.Fatalf("%s has no text, or no generation", a.what)
	}
	return html.UnescapeString(field[1]), number[1]
}

func TestPolicyText(t *testing.T) {
	b := newBench(t, Config{})
	w := b.as("editor")
	text, generation := formOf(w.get(textPath).want(http.StatusOK, `id="save"`))

	// A browser ends lines with CRLF, and what was sent unchanged changes nothing.
	same := strings.ReplaceAll(text, "\n", "\r\n")
	if a := w.post(textPath, "generation", generation, "text", same).want(http.StatusSeeOther); a.location != runtimePath+"?done=replaced" {
		t.Errorf("saving leads to %q", a.location)
	}
	again, generation := formOf(w.get(textPath).want(http.StatusOK))
	if again != text {
		t.Errorf("it is now\n%s", again)
	}

	const mine = `version: 1
rules:
  - name: "<mine>"
    network: {effect: prevent, listen: {allowPorts: [8080]}, unix: {deny: [docker.sock]}, outbound: {denyNames: [bad.test], unresolved: alert}}
    files: {effect: alert, deny: [/etc]}
`
	w.post(textPath, "generation", generation, "text", strings.Replace(mine, "listen", "lisen", 1)).
		want(http.StatusBadRequest, "4:32: rules[0].network.lisen: unknown key", "&lt;mine&gt;").wantNot("<mine>")
	w.post(textPath, "generation", "none", "text", mine).want(http.StatusBadRequest)
	w.post(textPath, "generation", generation, "text", mine).want(http.StatusSeeOther)
	r := b.rule("<mine>")
	if r == nil || r.Network.Unix.Deny[0] != "docker.sock" || *r.Files.Effect != policy.Alert {
		t.Fatalf("the rule is %+v", r)
	}

	// The form of the rule tells what it does not show, and keeps it.
	w.get(rulePath+"?name=%3Cmine%3E").want(http.StatusOK, "<code>network.outbound.denyNames</code>, <code>network.outbound.unresolved</code>").
		wantNot("<code>network.effect</code>", "<code>name</code>", "<code>files.deny</code>")
	w.get(rulePath).want(http.StatusOK).wantNot(`id="beyond"`)

	// Somebody else saved meanwhile: nothing is lost unless it is meant.
	theirs, old := formOf(w.get(textPath))
	b.as("admin").post(textPath, "generation", old, "text", strings.Replace(theirs, "8080", "9090", 1)).want(http.StatusSeeOther)
	a := w.post(textPath, "generation", old, "text", mine).want(http.StatusConflict, "<strong>admin</strong>", "8080")
	if got := b.rule("<mine>").Network.Listen.AllowPorts[0]; got != "9090" {
		t.Errorf("the port is %s", got)
	}
	_, fresh := formOf(a)
	w.post(textPath, "generation", fresh, "text", mine).want(http.StatusSeeOther)
	if got := b.rule("<mine>").Network.Listen.AllowPorts[0]; got != "8080" {
		t.Errorf("the port is %s", got)
	}
}
