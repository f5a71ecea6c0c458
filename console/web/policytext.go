package web

import (
	"cmp"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"appdefender/console"
	"appdefender/console/store"
	"appdefender/policy"
	"appdefender/policy/file"
)

// policyText is the whole policy while it is edited as a file, perhaps with
// faults.
type policyText struct {
	Text       string // YAML or JSON
	Generation uint64 // that it was made from
	ReadOnly   bool
	Conflict   string // who saved in between
	Faults     []string
}

// Rows is how many lines the field shows.
func (f *policyText) Rows() int { return min(max(strings.Count(f.Text, "\n")+2, 16), 40) }

func (p *pages) getPolicyText(w http.ResponseWriter, r *http.Request) error {
	now, err := p.srv.Policy()
	if err != nil {
		return err
	}
	text, err := file.Marshal(now.Policy)
	if err != nil {
		return err
	}
	return p.showPolicyText(w, r, http.StatusOK, &policyText{Text: string(text), Generation: now.Generation})
}

func (p *pages) showPolicyText(w http.ResponseWriter, r *http.Request, status int, f *policyText) error {
	f.ReadOnly = !console.SessionOf(r).User.Role.May(store.Editor)
	return p.render(w, r, status, "policytext.html", view{Title: "Policy as text", Nav: runtimePath, Data: f})
}

// postPolicyText replaces the policy. If somebody else changed it since the
// text was made, people are told first; saving again is meant then.
func (p *pages) postPolicyText(w http.ResponseWriter, r *http.Request) error {
	f := &policyText{Text: unix(r.PostFormValue("text"))}
	var err error
	if f.Generation, err = strconv.ParseUint(r.PostFormValue("generation"), 10, 64); err != nil || f.Generation == 0 {
		return console.Errorf(http.StatusBadRequest, "generation: %q is none", r.PostFormValue("generation"))
	}
	next, err := console.ParsePolicy([]byte(f.Text))
	if err == nil {
		_, err = p.srv.ChangePolicy(r.Context(), console.Who(r), "replaced the policy", f.Generation, func(pol *policy.Policy) error {
			*pol = *next
			return nil
		})
	}
	if errors.Is(err, store.ErrConflict) {
		now, err := p.srv.Policy()
		if err != nil {
			return err
		}
		f.Generation, f.Conflict = now.Generation, cmp.Or(now.Who, "Somebody")
		return p.showPolicyText(w, r, http.StatusConflict, f)
	}
	if e, ok := errors.AsType[*console.Error](err); ok && e.Status < http.StatusInternalServerError {
		for _, fault := range e.Faults {
			f.Faults = append(f.Faults, fault.String())
		}
		if len(f.Faults) == 0 {
			f.Faults = []string{sentence(e.Msg)}
		}
		return p.showPolicyText(w, r, e.Status, f)
	}
	return p.backToRules(w, r, "replaced", err)
}
