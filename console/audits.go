package console

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"appdefender/console/store"
)

// queryTime bounds a search: a rare combination over millions of audits may
// have to look at many.
const queryTime = 10 * time.Second

// auditJSON is an audit as the native API shows it: the record and where to
// continue from. The cursor is a text, for it is more than a double can hold.
func auditJSON(a *store.Audit) (json.RawMessage, error) {
	record, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		Cursor   string          `json:"cursor"`
		Instance string          `json:"instance"`
		Sequence uint64          `json:"sequence"`
		Record   json.RawMessage `json:"record"`
	}{strconv.FormatInt(a.ID, 10), a.Instance, a.Sequence, record})
}

func auditsJSON(audits []store.Audit) ([]json.RawMessage, error) {
	all := make([]json.RawMessage, len(audits))
	for i := range audits {
		var err error
		if all[i], err = auditJSON(&audits[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// AuditQuery reads a filter and a page from the parameters of a request. A
// parameter may be repeated; empty ones and "any" say nothing:
//
//	type effect appID attackType rule container image hostname process user
//	severity domain instance id    whole values
//	text                           words, see store.AuditFilter
//	from to                        RFC 3339, or how long ago: 15m, 24h
//	before after                   a cursor
//	limit                          at most 1000
//	order                          oldest or newest first, which is the default
//
// Others are not looked at: pages have more of them.
func AuditQuery(q url.Values, now time.Time) (store.AuditFilter, store.AuditPage, error) {
	var f store.AuditFilter
	var p store.AuditPage
	for key, list := range map[string]*[]string{
		"type": &f.Types, "effect": &f.Effects, "appID": &f.AppIDs, "attackType": &f.AttackTypes, "rule": &f.Rules,
		"container": &f.Containers, "image": &f.Images, "hostname": &f.Hostnames, "process": &f.ProcessPaths, "user": &f.Users,
		"severity": &f.Severities, "domain": &f.Domains, "instance": &f.Instances, "id": &f.IDs,
	} {
		for _, v := range q[key] {
			if v != "" && v != "any" {
				*list = append(*list, v)
			}
		}
		if len(*list) > maxValues {
			return f, p, Errorf(http.StatusBadRequest, "%s: more than %d values", key, maxValues)
		}
	}
	f.Text = q.Get("text")
	if len(f.Text) > maxText {
		return f, p, Errorf(http.StatusBadRequest, "text: longer than %d bytes", maxText)
	}
	for key, t := range map[string]*time.Time{"from": &f.From, "to": &f.To} {
		var err error
		if *t, err = parseTime(q.Get(key), now); err != nil {
			return f, p, Errorf(http.StatusBadRequest, "%s: %v", key, err)
		}
	}
	for key, n := range map[string]*int64{"before": &p.Before, "after": &p.After} {
		if text := q.Get(key); text != "" {
			var err error
			if *n, err = strconv.ParseInt(text, 10, 64); err != nil || *n < 0 {
				return f, p, Errorf(http.StatusBadRequest, "%s: %q is no cursor", key, text)
			}
		}
	}
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > store.MaxAuditPage {
			return f, p, Errorf(http.StatusBadRequest, "limit: %q is not from 1 to %d", text, store.MaxAuditPage)
		}
		p.Limit = n
	}
	switch order := q.Get("order"); order {
	case "oldest":
		p.OldestFirst = true
	case "", "newest":
	default:
		return f, p, Errorf(http.StatusBadRequest, "order: %q is neither oldest nor newest", order)
	}
	return f, p, nil
}

// auditParameters are all that AuditQuery reads.
var auditParameters = []string{
	"type", "effect", "appID", "attackType", "rule", "container", "image", "hostname", "process", "user",
	"severity", "domain", "instance", "id", "text", "from", "to", "before", "after", "limit", "order",
}

// strictAuditQuery is AuditQuery for programs: one whose filter is misspelt
// would take too much for what it asked for.
func strictAuditQuery(r *http.Request, now time.Time) (store.AuditFilter, store.AuditPage, error) {
	q := r.URL.Query()
	for _, key := range slices.Sorted(maps.Keys(q)) {
		if !slices.Contains(auditParameters, key) {
			return store.AuditFilter{}, store.AuditPage{}, Errorf(http.StatusBadRequest, "%s: there is no such parameter; one of %s", key, strings.Join(auditParameters, ", "))
		}
	}
	return AuditQuery(q, now)
}

const (
	maxValues = 100
	maxText   = 500
)

// parseTime reads a time, or how long it is ago. What a browser's field for a
// time gives is taken as UTC.
func parseTime(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("%q is neither a time such as 2006-01-02T15:04:05Z nor how long ago, such as 24h", s)
}

// Audits is store.Audits with a bound on the time.
func (s *Server) Audits(ctx context.Context, f store.AuditFilter, p store.AuditPage) ([]store.Audit, error) {
	bounded, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	audits, err := s.store.Audits(bounded, f, p)
	if bounded.Err() != nil && ctx.Err() == nil {
		return nil, &Error{Status: http.StatusServiceUnavailable, Msg: "this search takes too long; narrow it down, for example by time", Err: err}
	}
	return audits, err
}

func (s *Server) getAudits(w http.ResponseWriter, r *http.Request) error {
	f, p, err := strictAuditQuery(r, s.now())
	if err != nil {
		return err
	}
	audits, err := s.Audits(r.Context(), f, p)
	if err != nil {
		return err
	}
	all, err := auditsJSON(audits)
	if err != nil {
		return err
	}
	body := map[string]any{"audits": all}
	if n := len(audits); n > 0 {
		body["next"] = strconv.FormatInt(audits[n-1].ID, 10)
	}
	return writeJSON(w, http.StatusOK, body)
}

func (s *Server) getAppIDs(w http.ResponseWriter, r *http.Request) error {
	ids, err := s.store.AppIDs(r.Context(), r.URL.Query().Get("prefix"), 1000)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"appIDs": append([]string{}, ids...)})
}
