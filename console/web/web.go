// Package web is the Console's pages.
//
// [Add] mounts them. They are made on the server by html/template, which
// writes everything that a target or a person chose as text, never as markup.
// What moves, such as new audits, is moved by a few small scripts in static/;
// without them the pages still read and save. Nothing comes from another host
// and nothing is inline, as the Server's Content-Security-Policy asks.
//
// The pages call the same methods of [console.Server] as the API does, so a
// rule made here is checked by the code that checks a policy file.
package web

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"time"

	"appdefender/console"
	"appdefender/console/store"
	"appdefender/wire"
)

//go:embed templates static
var files embed.FS

// Config says what the pages tell of the Console.
type Config struct {
	// URL is where Defenders reach the Console, such as
	// https://console.example:8443. Empty is what the browser used.
	URL string
	// CA is the certificate, in PEM, that Defenders need to trust the Console;
	// nil if its own is signed by a public one, or there is no TLS.
	CA []byte
	// Version is the Console's, for people; it may be empty.
	Version string
}

// pages is all of them.
type pages struct {
	srv       *console.Server
	conf      Config
	static    string // the URL of the static files, with a hash of them
	templates map[string]*template.Template
	history   history
}

// Add mounts the pages on a Server, before its first request.
func Add(srv *console.Server, conf Config) error {
	p := &pages{srv: srv, conf: conf}
	var err error
	if p.static, err = staticPath(); err != nil {
		return err
	}
	if p.templates, err = parse(srv.Now); err != nil {
		return err
	}
	srv.Add(p.routes()...)
	srv.ErrorPage = p.errorPage
	return nil
}

// The paths of the pages.
const (
	eventsPath    = "/monitor/events"
	incidentsPath = "/monitor/incidents"
	forensicsPath = "/manage/defenders/forensics"
	runtimePath   = "/defend/runtime"
	rulePath      = "/defend/runtime/rule"
	textPath      = "/defend/runtime/text"
	learnPath     = "/defend/runtime/learn"
	embedPath     = "/defend/embed"
	defendersPath = "/manage/defenders"
	tokensPath    = "/manage/tokens"
	usersPath     = "/manage/users"
	changesPath   = "/manage/changes"
	passwordPath  = "/account/password"
)

func (p *pages) routes() []console.Route {
	const anybody, auditor, editor, admin = console.Anybody, store.Auditor, store.Editor, store.Admin
	return []console.Route{
		page("GET /{$}", auditor, p.home),
		page("GET "+console.SignInPath, anybody, p.getSignIn),
		page("POST "+console.SignInPath, anybody, p.postSignIn),
		page("POST /signout", anybody, p.postSignOut),

		page("GET "+eventsPath, auditor, p.getEvents),
		part("GET "+eventsPath+"/rows", auditor, p.getRows),
		part("GET "+eventsPath+"/detail", auditor, p.getDetail),
		part("GET "+eventsPath+"/stream", auditor, p.getStream),

		page("GET "+incidentsPath, auditor, p.getIncidents),
		page("POST "+incidentsPath+"/acknowledge", editor, p.postAcknowledge),
		page("GET "+forensicsPath, auditor, p.getForensics),
		page("POST "+forensicsPath, editor, p.postForensics),

		page("GET "+runtimePath, auditor, p.getRules),
		page("GET "+textPath, auditor, p.getPolicyText),
		{Pattern: "POST " + textPath, Role: editor, Handler: p.postPolicyText, MaxBody: wire.MaxPolicy, Page: true},
		page("GET "+learnPath, auditor, p.getLearn),
		page("GET "+rulePath, auditor, p.getRule),
		page("POST "+rulePath, editor, p.postRule),
		page("POST "+runtimePath+"/move", editor, p.postMove),
		page("POST "+runtimePath+"/disable", editor, p.postDisable),
		page("POST "+runtimePath+"/delete", editor, p.postDelete),

		page("GET "+embedPath, editor, p.getEmbed),
		{Pattern: "POST " + embedPath, Role: editor, Handler: p.postEmbed, MaxBody: maxEmbedForm, Page: true},

		page("GET "+defendersPath, auditor, p.getDefenders),
		page("POST "+defendersPath+"/revoke", editor, p.postRevoke),
		page("GET "+defendersPath+"/ca.pem", auditor, p.getCA),
		page("GET "+tokensPath, admin, p.getTokens),
		page("POST "+tokensPath, admin, p.postToken),
		page("POST "+tokensPath+"/delete", admin, p.postDeleteToken),
		page("GET "+usersPath, admin, p.getUsers),
		page("POST "+usersPath, admin, p.postUser),
		page("POST "+usersPath+"/password", admin, p.postUserPassword),
		page("POST "+usersPath+"/role", admin, p.postUserRole),
		page("POST "+usersPath+"/delete", admin, p.postDeleteUser),
		page("GET "+changesPath, auditor, p.getChanges),
		page("GET "+passwordPath, auditor, p.getPassword),
		page("POST "+passwordPath, auditor, p.postPassword),

		part("GET /static/{version}/{file}", anybody, p.getStatic),
		page("GET /", anybody, p.notFound),
	}
}

func page(pattern string, role store.Role, h console.Handler) console.Route {
	return console.Route{Pattern: pattern, Role: role, Handler: h, MaxBody: 4 << 20, Page: true}
}

// part is what scripts fetch.
func part(pattern string, role store.Role, h console.Handler) console.Route {
	return console.Route{Pattern: pattern, Role: role, Handler: h}
}

func (p *pages) home(w http.ResponseWriter, r *http.Request) error {
	http.Redirect(w, r, eventsPath, http.StatusSeeOther)
	return nil
}

func (p *pages) notFound(http.ResponseWriter, *http.Request) error {
	return console.Errorf(http.StatusNotFound, "There is no such page.")
}

// view is what every template gets.
type view struct {
	Title   string
	Nav     string // the path of the page's line in the navigation
	Static  string
	Version string
	User    *store.User // nil: nobody is signed in
	Note    string      // what just succeeded
	Data    any
}

// May reports whether who looks may do what needs a role.
func (v view) May(role store.Role) bool { return v.User != nil && v.User.Role.May(role) }

// notes are what a page says after a redirect, by the parameter "done".
var notes = map[string]string{
	"added":        "The rule was added. Defenders that are connected get it now.",
	"saved":        "The rule was saved. Defenders that are connected get it now.",
	"replaced":     "The policy was saved. Defenders that are connected get it now.",
	"deleted":      "The rule was deleted. Defenders that are connected hear of it now.",
	"revoked":      "The Defender was revoked.",
	"acknowledged": "The incident was moved to the archive. What happens from now on is another one.",
	"reopened":     "The incident is open again.",
	"asked":        "The Defender sends what it remembers with its next heartbeat.",
	"untoken":      "The token was deleted. Defenders that enrolled by it stay.",
	"role":         "The role was changed. The user has to sign in again.",
	"unuser":       "The user was deleted.",
	"password":     "The password was changed. Sign in with the new one.",
}

// render writes a page. The template is run first: half a page must not go out
// with a status of success.
func (p *pages) render(w http.ResponseWriter, r *http.Request, status int, name string, v view) error {
	v.Static, v.Version = p.static, p.conf.Version
	if ses := console.SessionOf(r); ses != nil {
		v.User = &ses.User
	}
	if r.Method == http.MethodGet {
		v.Note = notes[r.URL.Query().Get("done")]
	}
	return p.write(w, status, name, "layout", v)
}

func (p *pages) write(w http.ResponseWriter, status int, name, block string, data any) error {
	t := p.templates[name]
	if t == nil {
		return fmt.Errorf("there is no template %q", name)
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, block, data); err != nil {
		return fmt.Errorf("rendering page: %w", err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	return send(w, b.Bytes())
}

// send writes the last of an answer. If the client is gone, nobody minds.
func send(w http.ResponseWriter, b []byte) error {
	_, _ = w.Write(b)
	return nil
}

// errorPage shows what a handler refused.
func (p *pages) errorPage(w http.ResponseWriter, r *http.Request, status int, msg string) {
	err := p.render(w, r, status, "error.html", view{Title: http.StatusText(status), Data: struct {
		Status int
		Msg    string
	}{status, sentence(msg)}})
	if err != nil {
		http.Error(w, msg, status)
	}
}

// parse reads the templates, each page with the layout and the shared parts.
func parse(now func() time.Time) (map[string]*template.Template, error) {
	shared, err := template.New("").Funcs(funcs(now)).ParseFS(files, "templates/shared/*.html")
	if err != nil {
		return nil, fmt.Errorf("reading templates: %w", err)
	}
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		return nil, err
	}
	all := make(map[string]*template.Template, len(names))
	for _, name := range names {
		t, err := shared.Clone()
		if err == nil {
			t, err = t.ParseFS(files, name)
		}
		if err != nil {
			return nil, fmt.Errorf("reading templates: %w", err)
		}
		all[path.Base(name)] = t
	}
	return all, nil
}

// staticPath is where the static files are. It has a hash of them all, so that
// browsers may keep them for ever, and those that import each other agree.
func staticPath() (string, error) {
	names, err := fs.Glob(files, "static/*")
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	for _, name := range names {
		b, err := files.ReadFile(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %d\n", name, len(b))
		sum.Write(b)
	}
	return "/static/" + hex.EncodeToString(sum.Sum(nil))[:12], nil
}

// contentTypes are those of the static files: the machine's own table may
// differ.
var contentTypes = map[string]string{
	".css":   "text/css; charset=utf-8",
	".js":    "text/javascript; charset=utf-8",
	".svg":   "image/svg+xml",
	".txt":   "text/plain; charset=utf-8",
	".woff2": "font/woff2",
}

func (p *pages) getStatic(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("file")
	b, err := files.ReadFile("static/" + name)
	if err != nil {
		return console.Errorf(http.StatusNotFound, "there is no file %q", name)
	}
	h := w.Header()
	h.Set("Content-Type", cmp.Or(contentTypes[path.Ext(name)], "application/octet-stream"))
	if "/static/"+r.PathValue("version") == p.static {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	return send(w, b)
}
