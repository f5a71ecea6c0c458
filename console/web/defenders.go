package web

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"appdefender/console"
	"appdefender/console/store"
)

type defendersData struct {
	Generation                 uint64 // the newest
	Defenders                  []defenderLine
	Connected, Silent, Revoked int
	Behind                     int    // connected, without the newest policy
	Dropped                    uint64 // by all
	Shown                      string // "", or the state that is shown
}

type defenderLine struct {
	console.DefenderView
	Name   string
	Behind bool
}

// Where is what else is known of its container.
func (d defenderLine) Where() string {
	known := []string{d.Container, cmp.Or(d.Image, d.Hostname)}
	return strings.Join(slices.DeleteFunc(known, func(s string) bool { return s == "" || s == d.Name }), " · ")
}

// LevelHint says what a level means.
func (d defenderLine) LevelHint() string {
	switch d.Level {
	case "notify":
		return "Every judged call is stopped before it happens."
	case "ptrace":
		return "Every judged call is stopped before it happens, by a tracer."
	case "observe":
		return "This machine does not let the Defender supervise: nothing is refused."
	case "":
		return "It has enrolled and not reported yet."
	}
	return ""
}

func (p *pages) getDefenders(w http.ResponseWriter, r *http.Request) error {
	all, err := p.srv.Defenders(r.Context())
	if err != nil {
		return err
	}
	now, err := p.srv.Policy()
	if err != nil {
		return err
	}
	d := defendersData{Generation: now.Generation, Shown: r.URL.Query().Get("state")}
	for _, def := range all {
		line := defenderLine{DefenderView: def, Name: cmp.Or(def.AppID, def.Container, def.Hostname, def.Instance)}
		switch def.State {
		case console.Connected:
			d.Connected++
			if line.Behind = def.Level != "" && def.Generation != now.Generation; line.Behind {
				d.Behind++
			}
		case console.Silent:
			d.Silent++
		case console.Revoked:
			d.Revoked++
		}
		d.Dropped += def.Dropped
		if d.Shown == "" && def.State != console.Revoked || d.Shown == def.State {
			d.Defenders = append(d.Defenders, line)
		}
	}
	return p.render(w, r, http.StatusOK, "defenders.html", view{Title: "Defenders", Nav: defendersPath, Data: d})
}

func (p *pages) postRevoke(w http.ResponseWriter, r *http.Request) error {
	if err := p.srv.Revoke(r.Context(), console.Who(r), r.PostFormValue("instance")); err != nil {
		return err
	}
	http.Redirect(w, r, defendersPath+"?done=revoked", http.StatusSeeOther)
	return nil
}

func (p *pages) getCA(w http.ResponseWriter, _ *http.Request) error {
	if len(p.conf.CA) == 0 {
		return console.Errorf(http.StatusNotFound, "This Console has no certificate authority of its own.")
	}
	return console.WriteFile(w, "application/x-pem-file", "console-ca.pem", p.conf.CA)
}

type tokensData struct {
	Tokens []tokenLine
	Lives  []choice
	Fault  string
	Made   *madeToken // shown once

	// What people typed, when it was refused.
	Name, Life, Uses string
}

type tokenLine struct {
	store.Token
	Expired, Spent bool
}

// madeToken is a new token and how to use it.
type madeToken struct {
	Name, Secret     string
	Keep, Run        string // shell lines
	Environment      string
	OwnCA            bool
	Expires          time.Time
	URLFromTheirSide bool // the URL is only what the browser used
}

var lives = []choice{{"24h", "a day"}, {"168h", "7 days"}, {"720h", "30 days"}, {"8760h", "a year"}, {"", "never"}}

func (p *pages) getTokens(w http.ResponseWriter, r *http.Request) error {
	return p.showTokens(w, r, http.StatusOK, tokensData{Life: "720h"})
}

func (p *pages) showTokens(w http.ResponseWriter, r *http.Request, status int, d tokensData) error {
	tokens, err := p.srv.Store().Tokens(r.Context())
	if err != nil {
		return err
	}
	d.Lives = lives
	for _, t := range tokens {
		d.Tokens = append(d.Tokens, tokenLine{
			Token:   t,
			Expired: !t.Expires.IsZero() && !p.srv.Now().Before(t.Expires),
			Spent:   t.Uses != nil && *t.Uses == 0,
		})
	}
	return p.render(w, r, status, "tokens.html", view{Title: "Enrolment tokens", Nav: tokensPath, Data: d})
}

func (p *pages) postToken(w http.ResponseWriter, r *http.Request) error {
	d := tokensData{Name: strings.TrimSpace(r.PostFormValue("name")), Life: r.PostFormValue("life"), Uses: strings.TrimSpace(r.PostFormValue("uses"))}
	token := store.Token{Name: d.Name}
	err := func() error {
		if d.Life != "" {
			life, err := time.ParseDuration(d.Life)
			if err != nil {
				return console.Errorf(http.StatusBadRequest, "life: %q is no duration", d.Life)
			}
			token.Expires = p.srv.Now().Add(life)
		}
		if d.Uses != "" {
			n, err := strconv.Atoi(d.Uses)
			if err != nil {
				return console.Errorf(http.StatusBadRequest, "uses: %q is no number", d.Uses)
			}
			token.Uses = &n
		}
		secret, err := p.srv.Store().AddToken(r.Context(), console.Who(r), token)
		if err == nil {
			d = tokensData{Life: "720h", Made: p.newMadeToken(r, token, secret)}
		}
		return err
	}()
	if err == nil {
		return p.showTokens(w, r, http.StatusOK, d)
	}
	e := console.AsError(err)
	if d.Fault = invalid(err); d.Fault == "" {
		if e.Status != http.StatusBadRequest {
			return err
		}
		d.Fault = sentence(e.Msg)
	}
	return p.showTokens(w, r, http.StatusBadRequest, d)
}

func (p *pages) newMadeToken(r *http.Request, token store.Token, secret string) *madeToken {
	url := cmp.Or(p.conf.URL, console.URLOf(r))
	ca, caEnv := "", ""
	if len(p.conf.CA) > 0 {
		ca, caEnv = " --ca console-ca.pem", "DEFENDER_CA=/path/to/console-ca.pem\n"
	}
	return &madeToken{
		Name: token.Name, Secret: secret, Expires: token.Expires, OwnCA: len(p.conf.CA) > 0, URLFromTheirSide: p.conf.URL == "",
		Keep:        fmt.Sprintf("(umask 077; printf '%%s\\n' %s > enrolment-token)", secret),
		Run:         fmt.Sprintf("defender run --console %s%s \\\n  --token-file enrolment-token --app-id my-app -- ./entry.sh", url, ca),
		Environment: fmt.Sprintf("DEFENDER_CONSOLE=%s\n%sDEFENDER_TOKEN=%s\nDEFENDER_APP_ID=my-app", url, caEnv, secret),
	}
}

func (p *pages) postDeleteToken(w http.ResponseWriter, r *http.Request) error {
	err := p.srv.Store().DeleteToken(r.Context(), console.Who(r), r.PostFormValue("name"))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	http.Redirect(w, r, tokensPath+"?done=untoken", http.StatusSeeOther)
	return nil
}
