// Package browser lets tests use pages in Debian's Chromium, as people do:
// look for a text, click, type. Whatever the browser complains about fails the
// test, and so does a request to anybody but the Console under test.
package browser

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
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
)

// Config says which pages are looked at.
type Config struct {
	URL string // where the pages are, without a slash at the end
	// Certificate is the one that the server shows, for which the browser then
	// needs no authority. nil: it is not asked for one.
	Certificate *x509.Certificate
	// Shots is where pictures go; "" is nowhere.
	Shots string
	// Within bounds all that is done; 0 means two minutes.
	Within time.Duration
}

// Tab is a page in a browser.
type Tab struct {
	t    *testing.T
	conf Config
	ctx  context.Context

	mu       sync.Mutex
	expected []string
	wrong    []string
}

// New starts a browser and returns its first tab. The test is skipped where
// there is none.
func New(t *testing.T, conf Config) *Tab {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("there is no chromium; on Debian: apt-get install chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("no-proxy-server", true),
		chromedp.WindowSize(1280, 800))
	if conf.Certificate != nil {
		sum := sha256.Sum256(conf.Certificate.RawSubjectPublicKeyInfo)
		options = append(options, chromedp.Flag("ignore-certificate-errors-spki-list", base64.StdEncoding.EncodeToString(sum[:])))
	}
	if conf.Within == 0 {
		conf.Within = 2 * time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), conf.Within)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	return newTab(t, ctx, conf)
}

// Another opens another tab of the same browser, for the same person.
func (p *Tab) Another() *Tab {
	p.t.Helper()
	return newTab(p.t, p.ctx, p.conf)
}

func newTab(t *testing.T, ctx context.Context, conf Config) *Tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	p := &Tab{t: t, conf: conf, ctx: ctx}
	if err := chromedp.Listen(ctx, p.hear); err != nil {
		t.Fatal(err)
	}
	if _, err := cdp.Call(ctx, chromedp.FromContext(ctx).Target, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	p.Size(1280, 800)
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

// Expect names complaints that a test provokes, by a part of their text.
func (p *Tab) Expect(parts ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected = append(p.expected, parts...)
}

func (p *Tab) hear(ev any) {
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
		if url := e.Request.URL; !strings.HasPrefix(url, p.conf.URL+"/") && !strings.HasPrefix(url, "data:") {
			complaint = "a request to " + url
		}
	}
	if complaint != "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.wrong = append(p.wrong, complaint)
	}
}

// Do does steps, for which there are 20 seconds.
func (p *Tab) Do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 20*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.fatal(err.Error())
	}
}

func (p *Tab) fatal(why string) {
	p.t.Helper()
	p.Shot("failed-" + filepath.Base(p.t.Name()))
	p.t.Fatal(why)
}

// Is evaluates a script. It is not held up by the page's policy, as a poll of
// the browser's own would be.
func (p *Tab) Is(script string) bool {
	p.t.Helper()
	ok, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool]("!!("+script+")"))
	return err == nil && ok // between two pages there is nothing to ask
}

// Text evaluates a script that gives a text.
func (p *Tab) Text(script string) string {
	p.t.Helper()
	s, err := chromedp.Run(p.ctx, chromedp.Evaluate[string](script))
	if err != nil {
		p.fatal(err.Error())
	}
	return s
}

// Until waits for a script to be true.
func (p *Tab) Until(script string) {
	p.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if p.Is(script) {
			return
		}
	}
	p.fatal("never: " + script)
}

// Has reports whether a text is anywhere on the page, for people to see.
func (p *Tab) Has(text string) bool {
	p.t.Helper()
	return p.Is(has(text))
}

// Says waits for a text.
func (p *Tab) Says(text string) {
	p.t.Helper()
	p.Until(has(text))
}

// SilentOf fails the test if the page has a text.
func (p *Tab) SilentOf(text string) {
	p.t.Helper()
	if p.Has(text) {
		p.t.Errorf("the page says %q", text)
	}
}

func has(text string) string {
	b, _ := json.Marshal(text)
	return "document.body && document.body.innerText.includes(" + string(b) + ")"
}

// Open goes to a page.
func (p *Tab) Open(path string) {
	p.t.Helper()
	p.Do(chromedp.Navigate(p.conf.URL + path))
}

// Click clicks what a selector names.
func (p *Tab) Click(css string) {
	p.t.Helper()
	p.Do(chromedp.Click(chromedp.CSS(css)))
}

// ClickXPath clicks what a path names, such as a link of some text.
func (p *Tab) ClickXPath(path string) {
	p.t.Helper()
	p.Do(chromedp.Click(chromedp.Search(path)))
}

// Type types into a field.
func (p *Tab) Type(css, text string) {
	p.t.Helper()
	p.Do(chromedp.SendKeys(chromedp.CSS(css), text))
}

// Pick chooses an option, as somebody would: the page may leave at once.
func (p *Tab) Pick(id, value string) {
	p.t.Helper()
	p.Is(fmt.Sprintf(`(() => { const field = document.getElementById(%q); field.value = %q; setTimeout(() => field.dispatchEvent(new Event("change", {bubbles: true}))) })()`, id, value))
}

// Mark lets [Tab.Marked] tell whether the page was loaded again since.
func (p *Tab) Mark() {
	p.t.Helper()
	if !p.Is("window.marked = true") {
		p.fatal("the page cannot be marked")
	}
}

// Marked reports whether the page is the one that was marked.
func (p *Tab) Marked() bool {
	p.t.Helper()
	return p.Is("window.marked")
}

// Size is the window's, in pixels.
func (p *Tab) Size(width, height int64) {
	p.t.Helper()
	p.Do(chromedp.EmulateViewport(width, height))
}

// Scheme is "light" or "dark".
func (p *Tab) Scheme(name string) {
	p.t.Helper()
	_, err := cdp.Call(p.ctx, chromedp.FromContext(p.ctx).Target, emulation.SetEmulatedMedia,
		emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}})
	if err != nil {
		p.fatal(err.Error())
	}
}

// Shot keeps a picture of the page, for people to look at.
func (p *Tab) Shot(name string) {
	if p.conf.Shots == "" {
		return
	}
	b, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(p.conf.Shots, name+".png"), b, 0o644)
	}
	if err != nil {
		p.t.Log(err)
	}
}
