package console

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"appdefender/console/store"
	"appdefender/policy"
	"appdefender/policy/compat"
)

// compatible makes a handler of the compatible API refuse what is no version.
func compatible(h Handler) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		v, ok := strings.CutPrefix(r.PathValue("version"), "v")
		if !ok || v == "" || strings.Trim(v, "0123456789._-") != "" {
			return noSuchPath(w, r)
		}
		return h(w, r)
	}
}

func (s *Server) postAuthenticate(w http.ResponseWriter, r *http.Request) error {
	var m struct {
		Username string `json:"username"`
		Password string `json:"password"`
	}
	if err := readWire(r, &m); err != nil { // others' clients may send more
		return err
	}
	_, token, err := s.signIn(r, m.Username, m.Password, store.Bearer, bearerLife)
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, map[string]string{"token": token})
}

// compatError is the error of a conversion.
func compatError(status int, err error) error {
	var all compat.Errors
	if !errors.As(err, &all) {
		return err
	}
	faults := make([]Fault, len(all))
	for i, f := range all {
		faults[i] = Fault{Path: f.Path, Msg: f.Msg}
	}
	e := faulty(faults)
	e.Status = status
	return e
}

// writeNotes answers an import. Clients of the compatible API expect nothing;
// ours can show what was left out.
func writeNotes(w http.ResponseWriter, notes []compat.Fault) error {
	if len(notes) == 0 {
		return WriteJSON(w, http.StatusOK, struct{}{})
	}
	lines := make([]string, len(notes))
	for i, n := range notes {
		lines[i] = n.String()
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"notes": lines})
}

func (s *Server) getCompatPolicy(w http.ResponseWriter, _ *http.Request) error {
	p, err := s.Policy()
	if err != nil {
		return err
	}
	out, _, err := compat.Export(p.Policy)
	if err != nil {
		return compatError(http.StatusConflict, err)
	}
	return WriteJSON(w, http.StatusOK, out)
}

func (s *Server) putCompatPolicy(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return badBody(err)
	}
	now, err := s.Policy()
	if err != nil {
		return err
	}
	next, notes, err := compat.Import(body, now.Policy.CustomRules...)
	if err != nil {
		return compatError(http.StatusBadRequest, err)
	}
	_, err = s.ChangePolicy(r.Context(), who(r), "replaced the policy by an import", 0, func(p *policy.Policy) error {
		p.Version, p.Rules = next.Version, next.Rules // the library stays
		return nil
	})
	if err != nil {
		return err
	}
	return writeNotes(w, notes)
}

func (s *Server) postCompatRule(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return badBody(err)
	}
	now, err := s.Policy()
	if err != nil {
		return err
	}
	rule, notes, err := compat.ImportRule(body, now.Policy.CustomRules...)
	if err != nil {
		return compatError(http.StatusBadRequest, err)
	}
	if _, err := s.AddRule(r.Context(), who(r), 0, 0, rule); err != nil {
		return err
	}
	return writeNotes(w, notes)
}

// The compatible API's pages of audits.
const (
	compatPage    = 50
	compatMaxPage = 250
)

// compatQuery reads the parameters of the compatible API. A filter that we do
// not have is an error: without it a client would take too much for what it
// asked for.
func compatQuery(q url.Values, now time.Time) (store.AuditFilter, store.AuditPage, error) {
	// Records of Defenders' own news have a type that other clients do not
	// know.
	f := store.AuditFilter{Types: []string{"processes", "network", "filesystem"}}
	p := store.AuditPage{Limit: compatPage}
	words := func(list []string) []string {
		var all []string
		for _, v := range list {
			for w := range strings.SplitSeq(v, ",") {
				if w = strings.TrimSpace(w); w != "" {
					all = append(all, w)
				}
			}
		}
		return all
	}
	number := func(key, s string, most int) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 || n > most {
			return 0, Errorf(http.StatusBadRequest, "%s: %q is not from 0 to %d", key, s, most)
		}
		return n, nil
	}
	for key, values := range q {
		values = slices.DeleteFunc(slices.Clone(values), func(v string) bool { return v == "" })
		if len(values) == 0 {
			continue
		}
		if len(values) > maxValues {
			return f, p, Errorf(http.StatusBadRequest, "%s: more than %d values", key, maxValues)
		}
		first := values[0]
		var err error
		switch key {
		case "offset":
			p.Offset, err = number(key, first, store.MaxAuditOffset)
		case "limit":
			p.Limit, err = number(key, first, compatMaxPage)
			if p.Limit == 0 {
				p.Limit = compatPage
			}
		case "from":
			f.From, err = parseTime(first, now)
		case "to":
			f.To, err = parseTime(first, now)
		case "sort":
			if first != "time" {
				err = Errorf(http.StatusBadRequest, "sort: only by time, not by %q", first)
			}
			if q.Get("reverse") != "true" {
				p.OldestFirst = true
			}
		case "reverse":
			_, err = strconv.ParseBool(first)
		case "type":
			f.Types = words(values)
		case "effect":
			f.Effects = words(values)
		case "attackType":
			f.AttackTypes = words(values)
		case "appID":
			f.AppIDs = words(values)
		case "id":
			f.IDs = words(values)
		case "container":
			f.Containers = words(values)
		case "imageName":
			f.Images = words(values)
		case "hostname":
			f.Hostnames = words(values)
		case "profileID":
			f.ProfileIDs = words(values)
		case "user":
			f.Users = words(values)
		case "ruleName":
			f.Rules = values
		case "processPath":
			f.ProcessPaths = values
		case "msg":
			f.Msgs = values
		case "search":
			f.Text = first
			if len(first) > maxText {
				err = fmt.Errorf("longer than %d bytes", maxText)
			}
		case "project": // there is one
		default:
			err = Errorf(http.StatusBadRequest, "%s: this filter is not supported", key)
		}
		if err != nil {
			if e, ok := errors.AsType[*Error](err); ok {
				return f, p, e
			}
			return f, p, Errorf(http.StatusBadRequest, "%s: %v", key, err)
		}
	}
	return f, p, nil
}

func (s *Server) getCompatAudits(w http.ResponseWriter, r *http.Request) error {
	f, p, err := compatQuery(r.URL.Query(), s.now())
	if err != nil {
		return err
	}
	audits, err := s.Audits(r.Context(), f, p)
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, append([]store.Audit{}, audits...))
}
