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
	return writeJSON(w, http.StatusOK, map[string]string{"token": token})
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
		return writeJSON(w, http.StatusOK, struct{}{})
	}
	lines := make([]string, len(notes))
	for i, n := range notes {
		lines[i] = n.String()
	}
	return writeJSON(w, http.StatusOK, map[string]any{"notes": lines})
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
	return writeJSON(w, http.StatusOK, out)
}

// compatBody reads what is to be imported, and the custom rules that it may
// name.
func (s *Server) compatBody(r *http.Request) (body []byte, library []policy.CustomRule, err error) {
	if body, err = io.ReadAll(r.Body); err != nil {
		return nil, nil, badBody(err)
	}
	now, err := s.Policy()
	if err != nil {
		return nil, nil, err
	}
	return body, numbered(now.Policy), nil
}

func (s *Server) putCompatPolicy(w http.ResponseWriter, r *http.Request) error {
	body, library, err := s.compatBody(r)
	if err != nil {
		return err
	}
	next, notes, err := compat.Import(body, library...)
	if err != nil {
		return compatError(http.StatusBadRequest, err)
	}
	var kept []compat.Fault
	_, err = s.ChangePolicy(r.Context(), Who(r), "replaced the policy by an import", 0, func(p *policy.Policy) error {
		for i := range next.Rules {
			to := &next.Rules[i]
			if j := slices.IndexFunc(p.Rules, func(old policy.Rule) bool { return old.Name == to.Name }); j >= 0 {
				kept = append(kept, compat.Keep(to, &p.Rules[j], fmt.Sprintf("rules[%d].", i))...)
			}
		}
		p.Version, p.Rules = next.Version, next.Rules // the library stays
		return nil
	})
	if err != nil {
		return err
	}
	return writeNotes(w, append(notes, kept...))
}

func (s *Server) postCompatRule(w http.ResponseWriter, r *http.Request) error {
	body, library, err := s.compatBody(r)
	if err != nil {
		return err
	}
	rule, notes, err := compat.ImportRule(body, library...)
	if err != nil {
		return compatError(http.StatusBadRequest, err)
	}
	if _, err := s.AddRule(r.Context(), Who(r), 0, 0, rule); err != nil {
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
	p := store.AuditPage{Limit: compatPage, OldestFirst: oldestFirst(q)}
	words := map[string]*[]string{ // several in one value, with commas between
		"type": &f.Types, "effect": &f.Effects, "attackType": &f.AttackTypes, "appID": &f.AppIDs, "id": &f.IDs, "container": &f.Containers,
		"imageName": &f.Images, "hostname": &f.Hostnames, "profileID": &f.ProfileIDs, "user": &f.Users,
	}
	texts := map[string]*[]string{"ruleName": &f.Rules, "processPath": &f.ProcessPaths, "msg": &f.Msgs}
	for key, values := range q {
		values = slices.DeleteFunc(slices.Clone(values), func(v string) bool { return v == "" })
		if len(values) == 0 {
			continue
		}
		if len(values) > maxValues {
			return f, p, Errorf(http.StatusBadRequest, "%s: more than %d values", key, maxValues)
		}
		var err error
		switch list, text := words[key], texts[key]; {
		case list != nil:
			if all := splitWords(values); len(all) > 0 {
				*list = all
			}
		case text != nil:
			*text = values
		default:
			err = compatParameter(key, values[0], now, &f, &p)
		}
		if err != nil {
			return f, p, Errorf(http.StatusBadRequest, "%s: %v", key, err)
		}
	}
	return f, p, nil
}

// splitWords returns the words of values with commas between them.
func splitWords(values []string) []string {
	var all []string
	for _, v := range values {
		for w := range strings.SplitSeq(v, ",") {
			if w = strings.TrimSpace(w); w != "" {
				all = append(all, w)
			}
		}
	}
	return all
}

// compatParameter reads a parameter of audits that has one value.
func compatParameter(key, value string, now time.Time, f *store.AuditFilter, p *store.AuditPage) error {
	if ours, err := pageParameter(key, value, now, &p.Offset, &p.Limit, &f.From, &f.To); ours {
		return err
	}
	switch {
	case key != "search":
		return errNoFilter
	case len(value) > maxText:
		return fmt.Errorf("longer than %d bytes", maxText)
	}
	f.Text = value
	return nil
}

var errNoFilter = errors.New("this filter is not supported")

// pageParameter reads a parameter that all lists of the compatible API have,
// and reports whether it is one. Their order is that of [oldestFirst].
func pageParameter(key, value string, now time.Time, offset, limit *int, from, to *time.Time) (ours bool, err error) {
	switch key {
	case "offset":
		*offset, err = upTo(value, store.MaxAuditOffset)
	case "limit":
		if *limit, err = upTo(value, compatMaxPage); *limit == 0 {
			*limit = compatPage
		}
	case "from":
		*from, err = parseTime(value, now)
	case "to":
		*to, err = parseTime(value, now)
	case "sort":
		if value != "time" {
			err = fmt.Errorf("only by time, not by %q", value)
		}
	case "reverse":
		_, err = parseBool(value)
	case "project": // there is one
	default:
		return false, nil
	}
	return true, err
}

// oldestFirst is the order that a list is asked for in. A wrong word for it is
// told by [pageParameter].
func oldestFirst(q url.Values) bool {
	reverse, _ := parseBool(q.Get("reverse"))
	return q.Get("sort") != "" && !reverse
}

func parseBool(s string) (bool, error) {
	yes, err := strconv.ParseBool(s)
	if err != nil {
		return false, fmt.Errorf("%q is neither true nor false", s)
	}
	return yes, nil
}

// upTo reads a number from 0 to most.
func upTo(s string, most int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > most {
		return 0, fmt.Errorf("%q is not from 0 to %d", s, most)
	}
	return n, nil
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
	return writeJSON(w, http.StatusOK, append([]store.Audit{}, audits...))
}
