package web

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"

	"appdefender/audit/learn"
	"appdefender/console"
	"appdefender/console/store"
	"appdefender/policy"
)

// maxLearned is how many audits a policy is made of, the newest.
const maxLearned = 20000

// learnEffects are what the sections of a learned policy may ask for.
var learnEffects = []choice{{"alert", "Tell of all else"}, {"prevent", "Refuse all else"}}

// learnData is a policy that was made of audits.
type learnData struct {
	Query           url.Values // as asked, without what says nothing
	AppIDs          []string
	Ranges, Effects []choice
	Audits          int
	More            bool   // there are older audits
	Text            string // of the policy; "" if nothing was asked, or there is nothing
	Fault           string
}

// Get returns the value of a field.
func (d learnData) Get(key string) string { return d.Query.Get(key) }

// File leads to the policy as a file.
func (d learnData) File() string {
	q := cloneValues(d.Query)
	q.Set("download", "true")
	return learnPath + "?" + q.Encode()
}

func (p *pages) getLearn(w http.ResponseWriter, r *http.Request) error {
	q, f, page, err := p.eventQuery(r)
	d := learnData{Query: q, Ranges: ranges[:len(ranges)-1], Effects: learnEffects}
	effect := policy.Alert
	if q.Get("effect") == policy.Prevent.String() {
		effect = policy.Prevent
	}
	f.Effects = nil // here it is the policy's
	if err == nil && len(q) > 0 {
		err = p.learn(r, f, page, effect, &d)
	}
	if err != nil {
		e := console.AsError(err)
		if e.Status >= http.StatusInternalServerError {
			return err
		}
		d.Fault = sentence(e.Msg)
	}
	if q.Has("download") && d.Text != "" {
		return console.WriteFile(w, "application/yaml", "learned.yaml", []byte(d.Text))
	}
	q.Del("download")
	if d.AppIDs, err = p.srv.Store().AppIDs(r.Context(), "", 200); err != nil {
		return err
	}
	return p.render(w, r, http.StatusOK, "learn.html", view{Title: "Learn a policy", Nav: runtimePath, Data: d})
}

// learn makes a policy of the audits that a filter lets through.
func (p *pages) learn(r *http.Request, f store.AuditFilter, page store.AuditPage, effect policy.Effect, d *learnData) error {
	var lines bytes.Buffer
	page.Limit = store.MaxAuditPage
	for d.Audits < maxLearned {
		audits, err := p.srv.Audits(r.Context(), f, page)
		if err != nil {
			return err
		}
		for i := range audits {
			line, err := json.Marshal(audits[i].Record)
			if err != nil {
				return err
			}
			lines.Write(append(line, '\n'))
		}
		d.Audits += len(audits)
		if d.More = len(audits) == page.Limit; !d.More {
			break
		}
		page.Before = audits[len(audits)-1].ID
	}
	recordings, _, err := learn.Read("audits", &lines, false)
	if err != nil {
		return console.Errorf(http.StatusUnprocessableEntity, "reading the audits: %v", err)
	}
	made, err := learn.Build(recordings, learn.Options{Effect: effect})
	if err != nil || len(made.Policy.Rules) == 0 {
		return err
	}
	text, err := made.YAML()
	d.Text = string(text)
	return err
}
