package web

import (
	"net/http"
	"strings"

	"appdefender/console"
	"appdefender/console/store"
)

type usersData struct {
	Users []store.User
	Roles []choice
	Me    string
	Fault string
	Made  *madePassword // shown once

	// What people typed, when it was refused.
	Name string
	Role store.Role
}

// madePassword is one that the Console made, for a new user or an old one.
type madePassword struct {
	Name, Password string
	New            bool
}

var roleChoices = []choice{
	{string(store.Auditor), "auditor: looks at everything"},
	{string(store.Editor), "editor: changes rules, revokes Defenders"},
	{string(store.Admin), "admin: users and tokens, too"},
}

func (p *pages) getUsers(w http.ResponseWriter, r *http.Request) error {
	return p.showUsers(w, r, http.StatusOK, usersData{Role: store.Auditor})
}

func (p *pages) showUsers(w http.ResponseWriter, r *http.Request, status int, d usersData) error {
	var err error
	if d.Users, err = p.srv.Store().Users(r.Context()); err != nil {
		return err
	}
	d.Roles, d.Me = roleChoices, console.Who(r)
	return p.render(w, r, status, "users.html", view{Title: "Users", Nav: usersPath, Data: d})
}

// usersFault shows why the store refused a change, on the page it was asked
// for.
func (p *pages) usersFault(w http.ResponseWriter, r *http.Request, err error, d usersData) error {
	if d.Fault = invalid(err); d.Fault == "" {
		return err
	}
	return p.showUsers(w, r, http.StatusBadRequest, d)
}

// postUser adds a user. The Console makes the password: nobody thinks of a
// good one for somebody else.
func (p *pages) postUser(w http.ResponseWriter, r *http.Request) error {
	d := usersData{Name: strings.TrimSpace(r.PostFormValue("name")), Role: store.Role(r.PostFormValue("role"))}
	password := store.NewPassword()
	if err := p.srv.Store().AddUser(r.Context(), console.Who(r), d.Name, d.Role, password); err != nil {
		return p.usersFault(w, r, err, d)
	}
	return p.showUsers(w, r, http.StatusOK, usersData{Role: store.Auditor, Made: &madePassword{d.Name, password, true}})
}

// other returns the user that a form names, which must not be who asks: with
// one click they would lock themselves out.
func other(r *http.Request) (string, error) {
	name := r.PostFormValue("name")
	if strings.EqualFold(name, console.Who(r)) {
		return "", console.Errorf(http.StatusForbidden, "this is for others; your own password is changed under Password")
	}
	return name, nil
}

func (p *pages) postUserPassword(w http.ResponseWriter, r *http.Request) error {
	name, err := other(r)
	if err != nil {
		return err
	}
	password := store.NewPassword()
	if err := p.srv.Store().SetPassword(r.Context(), console.Who(r), name, password); err != nil {
		return p.usersFault(w, r, err, usersData{Role: store.Auditor})
	}
	return p.showUsers(w, r, http.StatusOK, usersData{Role: store.Auditor, Made: &madePassword{name, password, false}})
}

func (p *pages) postUserRole(w http.ResponseWriter, r *http.Request) error {
	name, err := other(r)
	if err != nil {
		return err
	}
	if err := p.srv.Store().SetRole(r.Context(), console.Who(r), name, store.Role(r.PostFormValue("role"))); err != nil {
		return p.usersFault(w, r, err, usersData{Role: store.Auditor})
	}
	http.Redirect(w, r, usersPath+"?done=role", http.StatusSeeOther)
	return nil
}

func (p *pages) postDeleteUser(w http.ResponseWriter, r *http.Request) error {
	name, err := other(r)
	if err != nil {
		return err
	}
	if err := p.srv.Store().DeleteUser(r.Context(), console.Who(r), name); err != nil {
		return p.usersFault(w, r, err, usersData{Role: store.Auditor})
	}
	http.Redirect(w, r, usersPath+"?done=unuser", http.StatusSeeOther)
	return nil
}
