package web

import (
	"errors"
	"net/http"
	"strconv"

	"appdefender/console"
	"appdefender/console/store"
)

type signInData struct {
	Name, Next, Fault string
}

func (p *pages) getSignIn(w http.ResponseWriter, r *http.Request) error {
	next := console.NextPath(r)
	if console.SessionOf(r) != nil {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return nil
	}
	return p.render(w, r, http.StatusOK, "signin.html", view{Title: "Sign in", Data: signInData{Next: next}})
}

func (p *pages) postSignIn(w http.ResponseWriter, r *http.Request) error {
	name, next := r.PostFormValue("name"), console.NextPath(r)
	_, err := p.srv.SignIn(w, r, name, r.PostFormValue("password"))
	if err == nil {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return nil
	}
	e := console.AsError(err)
	if e.Status != http.StatusUnauthorized && e.Status != http.StatusTooManyRequests {
		return err
	}
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(e.RetryAfter.Seconds())+1))
	}
	return p.render(w, r, e.Status, "signin.html", view{Title: "Sign in", Data: signInData{name, next, sentence(e.Msg)}})
}

func (p *pages) postSignOut(w http.ResponseWriter, r *http.Request) error {
	if err := p.srv.SignOut(w, r); err != nil {
		return err
	}
	http.Redirect(w, r, console.SignInPath, http.StatusSeeOther)
	return nil
}

type passwordData struct {
	Min   int
	Fault string
}

func (p *pages) getPassword(w http.ResponseWriter, r *http.Request) error {
	return p.password(w, r, http.StatusOK, "")
}

func (p *pages) password(w http.ResponseWriter, r *http.Request, status int, fault string) error {
	return p.render(w, r, status, "password.html", view{Title: "Change password", Nav: passwordPath, Data: passwordData{store.MinPassword, sentence(fault)}})
}

func (p *pages) postPassword(w http.ResponseWriter, r *http.Request) error {
	if r.PostFormValue("new") != r.PostFormValue("again") {
		return p.password(w, r, http.StatusBadRequest, "the new passwords differ")
	}
	if err := p.srv.ChangePassword(r, r.PostFormValue("old"), r.PostFormValue("new")); err != nil {
		e := console.AsError(err)
		if e.Status >= http.StatusInternalServerError {
			return err
		}
		return p.password(w, r, e.Status, e.Msg)
	}
	http.Redirect(w, r, console.SignInPath+"?done=password", http.StatusSeeOther)
	return nil
}

type changesData struct {
	Changes []store.Change
	Older   int64 // where the next page begins; 0 if there is none
}

func (p *pages) getChanges(w http.ResponseWriter, r *http.Request) error {
	const size = 50
	var before int64
	if text := r.URL.Query().Get("before"); text != "" {
		var err error
		if before, err = strconv.ParseInt(text, 10, 64); err != nil {
			return console.Errorf(http.StatusBadRequest, "before: %q is no number", text)
		}
	}
	all, err := p.srv.Store().Changes(r.Context(), before, size+1)
	if err != nil {
		return err
	}
	d := changesData{Changes: all}
	if len(all) > size {
		d.Changes = all[:size]
		d.Older = all[size-1].ID
	}
	return p.render(w, r, http.StatusOK, "changes.html", view{Title: "Changes", Nav: changesPath, Data: d})
}

// invalid returns what a person may read of a name or token that the store
// refused, or "" if the error is of another kind.
func invalid(err error) string {
	switch e := console.AsError(err); {
	case errors.Is(err, store.ErrInvalid):
		return sentence(err.Error())
	case e.Status == http.StatusConflict:
		return sentence(e.Msg)
	}
	return ""
}

// sentence makes an error one.
func sentence(s string) string {
	if s == "" {
		return ""
	}
	if s[0] >= 'a' && s[0] <= 'z' {
		s = string(s[0]-'a'+'A') + s[1:]
	}
	if last := s[len(s)-1]; last != '.' && last != '!' && last != '?' {
		s += "."
	}
	return s
}
