//go:build platforms

package endtoend

import (
	"crypto/tls"
	"os"
	"strings"
	"testing"
	"time"

	"appdefender/internal/browser"
)

// TestSampleTask is the document's way with a task that runs all the while: a
// rule is made in the page, then its effect changed, and a second tab shows
// what came of it.
func TestSampleTask(t *testing.T) {
	s := serve(t)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(s.url, "https://"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	shown := conn.ConnectionState().PeerCertificates[0]
	conn.Close()
	task := s.protect(t, []string{"--token-file", s.token("sample"), "--container", "sample-task", "--app-id", "sample:1"},
		"sh", "-c", loop, t.TempDir())
	await(t, "the task makes directories", func() bool { return last(task) == "made" })

	rules := browser.New(t, browser.Config{URL: s.url, Certificate: shown, Shots: os.Getenv("WEB_SHOTS"), Within: 5 * time.Minute})
	rules.Open("/")
	rules.Type("#name", "admin")
	rules.Type("#password", s.password)
	rules.Click("#sign-in")
	rules.Says("App-Embedded audits")
	audits := rules.Another()
	audits.Open("/monitor/events")
	audits.Until(`document.getElementById("live").dataset.state === "live"`)
	audits.Mark()

	rules.Open("/defend/runtime")
	rules.Click("#add-rule")
	rules.Type("#name", "sample")
	rules.Type("#containers", "sample-task")
	rules.Click(`#processes-effect label.prevent`)
	rules.Type("#processes-deny", "mkdir")
	rules.Click("#save")
	took := await(t, "mkdir is refused", func() bool { return last(task) == "refused" })
	rules.Says("The rule was added")
	t.Logf("the first mkdir was refused %v after Save", took.Round(time.Millisecond))
	row := func(effect string) string {
		return `[...document.querySelectorAll("tr.event")].some((r) => r.innerText.includes("` + effect + `") &&
			r.innerText.includes("/usr/bin/mkdir launched and is explicitly denied by runtime rule. Full command: mkdir "))`
	}
	audits.Until(row("prevent"))

	rules.ClickXPath(`//a[@class="rule-name" and text()="sample"]`)
	rules.Says("Edit “sample”")
	if audits.Is(row("alert")) || last(task) != "refused" {
		t.Error("mkdir passed under the effect prevent")
	}
	rules.Click(`#processes-effect label.alert`)
	rules.Click("#save")
	took = await(t, "mkdir passes", func() bool { return last(task) == "made" })
	rules.Says("The rule was saved")
	t.Logf("the first mkdir passed %v after Save", took.Round(time.Millisecond))
	audits.Until(row("alert"))
	if !audits.Is(row("prevent")) || !audits.Marked() {
		t.Error("the page was loaded again")
	}
	audits.Shot("sample-audits")

	// A program may be called anything.
	nasty := s.protect(t, []string{"--token-file", s.token("nasty"), "--container", "sample-task"},
		"sh", "-c", `ln -s /usr/bin/mkdir "$0/$1"; "$0/$1"; exit 0`, t.TempDir(), "<img src=x onerror=document.title=0>")
	if status := nasty.exit(); status != 0 {
		t.Errorf("status %d: %s", status, &nasty.err)
	}
	audits.Says("<img src=x onerror=document.title=0>")
	if audits.Is(`document.querySelector("main img") || document.title === "0"`) {
		t.Error("the name of a program is markup")
	}
	rules.Open("/manage/defenders")
	rules.Says("sample:1")
	rules.Says("connected")
	rules.Shot("sample-defenders")
	if !task.running() {
		t.Errorf("the task ended: %s", &task.err)
	}
}
