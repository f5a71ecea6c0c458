package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// AuditPage says which part of what a filter selects.
type AuditPage struct {
	// Before continues a page, newest first: only smaller ids. 0 begins.
	Before int64
	// After continues a page, oldest first: only greater ids.
	After int64
	// OldestFirst turns the order.
	OldestFirst bool
	// Offset leaves out so many. It is for the compatible API; continuing by
	// id is faster.
	Offset int
	// Limit is how many at most; 0 means 50.
	Limit int
}

// MaxAuditPage is the largest Limit and MaxAuditOffset the largest Offset.
const (
	MaxAuditPage   = 1000
	MaxAuditOffset = 1_000_000
)

const (
	// maxLook is how many audits a page looks at before it asks the search.
	maxLook = 500
	// maxDriving is how many values of an index are looked up one by one, and
	// maxKinds how many kinds. Defenders send a few dozen.
	maxDriving = 16
	maxKinds   = 64
)

// Audits returns a page of the audits that the filter selects.
//
// Indexes give the audits of one value in order of time, so a query is made
// for each value and what they find is merged; they lead where they can. What
// they do not know is first looked for in the newest audits that they give:
// what is frequent is found there, and what is rare by its kind has no others.
// Only then the text search leads. It has all the words of a record, and is
// narrowed down to what the filter can only be in.
func (s *Store) Audits(ctx context.Context, f AuditFilter, p AuditPage) ([]Audit, error) {
	if p.Limit <= 0 {
		p.Limit = 50
	}
	p.Limit = min(p.Limit, MaxAuditPage)
	p.Offset = min(max(p.Offset, 0), MaxAuditOffset)
	audits, err := s.page(ctx, &f, p)
	if err != nil {
		return nil, fmt.Errorf("reading audits: %w", err)
	}
	return audits, nil
}

func (s *Store) page(ctx context.Context, f *AuditFilter, p AuditPage) ([]Audit, error) {
	text, err := s.phrases(ctx, f.Text)
	if err != nil {
		return nil, err
	}
	drivers, known, err := s.drivers(ctx, f)
	if err != nil {
		return nil, err
	}
	q := query{oldestFirst: p.OldestFirst}
	q.low, q.high = f.bounds()
	if p.Before > 0 {
		q.high = min(q.high, p.Before-1)
	}
	if p.After > 0 {
		q.low = max(q.low, p.After+1)
	}
	need := p.Offset + p.Limit
	rest := f.conditions(known)
	terms := searchTerms(f, text)
	// The search is as fast for whole words among all audits.
	whole := known == fields{} && len(terms) > 0 && !slices.ContainsFunc(text, func(p phrase) bool { return p.open })
	if len(text)+len(rest) > 0 && !whole {
		for _, look := range []int{s.look / 10, s.look} {
			if need > look {
				continue
			}
			ids, err := s.ids(ctx, q, drivers, look)
			if err != nil {
				return nil, err
			}
			audits, err := s.auditsByID(ctx, ids, p.OldestFirst)
			if err != nil {
				return nil, err
			}
			audits = slices.DeleteFunc(audits, func(a Audit) bool { return !f.match(&a, text) })
			if len(audits) >= need || len(ids) < look {
				return cut(audits, p), nil
			}
		}
	}
	if len(terms) > 0 {
		q.search, drivers, rest = strings.Join(terms, " AND "), []clause{{}}, f.conditions(fields{})
	}
	q.where = rest
	ids, err := s.ids(ctx, q, drivers, need)
	if err != nil {
		return nil, err
	}
	return s.auditsByID(ctx, cut(ids, p), p.OldestFirst)
}

// cut returns a page of what was found from the first on.
func cut[T any](all []T, p AuditPage) []T {
	all = all[min(p.Offset, len(all)):]
	return all[:min(p.Limit, len(all))]
}

// clause is a condition of SQL.
type clause struct {
	text  string
	args  []any
	index string // that answers it, in order of ids; "" leaves it to SQLite
}

// and joins two conditions, of which only one has an index.
func (c clause) and(d clause) clause {
	between := " AND "
	if c.text == "" || d.text == "" {
		between = ""
	}
	return clause{c.text + between + d.text, append(slices.Clone(c.args), d.args...), c.index + d.index}
}

// in is the condition that a column has one of the values, none without values.
func in[T any](column string, values []T) clause {
	if len(values) == 0 {
		return clause{}
	}
	c := clause{text: column + " IN (?" + strings.Repeat(", ?", len(values)-1) + ")"}
	for _, v := range values {
		c.args = append(c.args, v)
	}
	return c
}

// fields says by which fields of a filter audits are already selected.
type fields struct{ kind, app, instance, id bool }

// drivers returns conditions that an index answers in order of ids, of which
// an audit that the filter selects meets just one.
func (s *Store) drivers(ctx context.Context, f *AuditFilter) ([]clause, fields, error) {
	var all []clause
	if len(f.IDs) > 0 {
		for _, id := range distinct(f.IDs) {
			instance, number, _ := cutLast(id, "-")
			if sequence, err := strconv.ParseInt(number, 10, 64); err == nil { // nobody has another
				all = append(all, clause{text: "a.defender = (SELECT id FROM defenders WHERE instance = ?) AND a.sequence = ?", args: []any{instance, sequence}})
			}
		}
		return all, fields{id: true}, nil
	}
	whose := []clause{{index: "audits_kind"}}
	known := fields{kind: true}
	if n := len(f.Instances); n > 0 && n <= maxDriving {
		whose, known.instance = nil, true
		for _, instance := range distinct(f.Instances) {
			whose = append(whose, clause{"a.defender = (SELECT id FROM defenders WHERE instance = ?)", []any{instance}, "audits_defender"})
		}
	} else if n := len(f.AppIDs); n > 0 && n <= maxDriving {
		whose, known.app = nil, true
		for _, app := range distinct(f.AppIDs) {
			whose = append(whose, clause{"a.app_id = ?", []any{app}, "audits_app"})
		}
	} else if len(f.Types)+len(f.Effects)+len(f.Severities) == 0 {
		return []clause{{}}, fields{}, nil
	}
	kinds, err := s.kinds(ctx, f)
	if errors.Is(err, errManyKinds) {
		return []clause{{}}, fields{}, nil
	}
	for _, k := range kinds {
		is := clause{text: "a.type = ? AND a.effect = ? AND a.severity = ?", args: []any{k.typ, k.effect, k.severity}}
		if k.severity == "" {
			is = is.and(in(inRaw("severity"), f.Severities))
		}
		for _, who := range whose {
			all = append(all, who.and(is))
		}
	}
	return all, known, err
}

func distinct(values []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(values)))
}

// kind is what audits are filed under besides their application.
type kind struct{ typ, effect, severity string }

var errManyKinds = errors.New("too many kinds of audits")

// The kinds in order. For a comparison of whole rows SQLite would read all
// audits of a type.
const (
	firstKind = `SELECT type, effect, severity FROM audits ORDER BY type, effect, severity LIMIT 1`
	nextKind  = `SELECT * FROM (SELECT type, effect, severity FROM audits WHERE type = ?1 AND effect = ?2 AND severity > ?3 ORDER BY severity LIMIT 1)
		UNION ALL SELECT * FROM (SELECT type, effect, severity FROM audits WHERE type = ?1 AND effect > ?2 ORDER BY effect, severity LIMIT 1)
		UNION ALL SELECT * FROM (SELECT type, effect, severity FROM audits WHERE type > ?1 ORDER BY type, effect, severity LIMIT 1)
		LIMIT 1`
)

// kinds returns the kinds of audits there are that the filter selects.
func (s *Store) kinds(ctx context.Context, f *AuditFilter) ([]kind, error) {
	row := s.reads.QueryRowContext(ctx, firstKind)
	var found []kind
	for n := 1; ; n++ {
		var k kind
		if err := row.Scan(&k.typ, &k.effect, &k.severity); errors.Is(err, sql.ErrNoRows) {
			return found, nil
		} else if err != nil {
			return nil, err
		}
		// Of an audit without a severity here, the record may have one.
		if selects(f.Types, k.typ) && selects(f.Effects, k.effect) && (k.severity == "" || selects(f.Severities, k.severity)) {
			found = append(found, k)
		}
		if n == maxKinds {
			return nil, errManyKinds
		}
		row = s.reads.QueryRowContext(ctx, nextKind, k.typ, k.effect, k.severity)
	}
}

func selects(values []string, v string) bool { return len(values) == 0 || slices.Contains(values, v) }

// conditions are those of a filter besides its time, its text and what is
// known of audits already.
func (f *AuditFilter) conditions(known fields) []clause {
	var all []clause
	add := func(column string, values []string) {
		if len(values) > 0 { // the plus keeps the planner from another index, and another order
			all = append(all, in("+("+column+")", values))
		}
	}
	if !known.app {
		add("a.app_id", f.AppIDs)
	}
	if !known.kind {
		add("a.type", f.Types)
		add("a.effect", f.Effects)
		add(inRaw("severity"), f.Severities)
	}
	if !known.instance {
		add("(SELECT instance FROM defenders WHERE id = a.defender)", f.Instances)
	}
	if !known.id {
		add("(SELECT instance FROM defenders WHERE id = a.defender) || '-' || a.sequence", f.IDs)
	}
	add(inRaw("attackType"), f.AttackTypes)
	add(inRaw("ruleName"), f.Rules)
	add(inRaw("containerName"), f.Containers)
	add(inRaw("imageName"), f.Images)
	add(inRaw("hostname"), f.Hostnames)
	add(inRaw("profileId"), f.ProfileIDs)
	add(inRaw("processPath"), f.ProcessPaths)
	add(inRaw("user"), f.Users)
	add(inRaw("domain"), f.Domains)
	add(inRaw("msg"), f.Msgs)
	return all
}

// inRaw is a field of the record as it was sent. Filters by such a field are
// led by the search, or are rare.
func inRaw(key string) string { return "coalesce(a.raw ->> '$." + key + "', '')" }

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// quote writes a text as a phrase of the search's language; it has the same
// words there as in a record.
func quote(text string) string {
	return `"` + strings.NewReplacer(`"`, `""`, "\x00", " ").Replace(text) + `"`
}

// maxNarrow is how much of a value narrows a filter down, in bytes.
const maxNarrow = 256

// anyOf is a term of the search that all records have whose field is one of
// values; "" if there is none.
func anyOf(values []string) string {
	terms := make([]string, len(values))
	for i, v := range values {
		if len(v) > maxNarrow {
			v = strings.ToValidUTF8(v[:maxNarrow], "")
			v = v[:max(0, strings.LastIndexFunc(v, func(r rune) bool { return !isWord(r) }))] // no half word
		}
		if len(words(v)) == 0 {
			return ""
		}
		terms[i] = quote(v)
	}
	return "(" + strings.Join(terms, " OR ") + ")"
}

func facets(field byte, values []string) []string {
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = facet(field, v)
	}
	return all
}

// phrases returns the phrases of a search. Only what occurs nowhere as it is
// may go on.
func (s *Store) phrases(ctx context.Context, text string) ([]phrase, error) {
	all := phrases(text)
	for i := range all {
		if all[i].open {
			ids, err := s.queryIDs(ctx, `SELECT rowid FROM audits_text WHERE audits_text MATCH ? LIMIT 1`, quote(all[i].text))
			if err != nil {
				return nil, err
			}
			all[i].open = len(ids) == 0
		}
	}
	return all, nil
}

// searchTerms returns what the search must find, nothing if an index serves
// the filter better.
func searchTerms(f *AuditFilter, text []phrase) []string {
	var terms []string
	for _, p := range text {
		term := quote(p.text)
		if p.open {
			term += " *"
		}
		terms = append(terms, term)
	}
	narrow := func(lists ...[]string) {
		for _, values := range lists {
			if len(values) > 0 {
				if term := anyOf(values); term != "" {
					terms = append(terms, term)
				}
			}
		}
	}
	narrow(f.Msgs, f.Rules, f.AttackTypes, f.Containers, f.Images, f.Hostnames, f.ProcessPaths, f.Domains, f.Users)
	if len(terms) > 0 {
		narrow(f.AppIDs, facets('t', f.Types), facets('e', f.Effects))
	}
	return terms
}

// query is one for ids, without what drives it.
type query struct {
	low, high   int64
	oldestFirst bool
	search      string // of the text search; "" without
	where       []clause
}

// ids returns the first ids that meet one of the drivers and everything else.
func (s *Store) ids(ctx context.Context, q query, drivers []clause, need int) ([]int64, error) {
	from, id, order := "audits a", "a.id", "DESC"
	if q.search != "" {
		from, id = "audits_text t CROSS JOIN audits a ON a.id = t.rowid", "t.rowid"
		q.where = append(q.where, clause{text: "t.audits_text MATCH ?", args: []any{q.search}})
	}
	if q.oldestFirst {
		order = "ASC"
	}
	var all []int64
	for _, driver := range drivers {
		where := clause{text: id + " BETWEEN ? AND ?", args: []any{q.low, q.high}}.and(driver)
		for _, c := range q.where {
			where = where.and(c)
		}
		indexed := ""
		if where.index != "" {
			indexed = " INDEXED BY " + where.index
		}
		some, err := s.queryIDs(ctx, "SELECT "+id+" FROM "+from+indexed+" WHERE "+where.text+" ORDER BY "+id+" "+order+" LIMIT ?", append(where.args, need)...)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		slices.SortFunc(all, func(a, b int64) int {
			if q.oldestFirst {
				return cmp.Compare(a, b)
			}
			return cmp.Compare(b, a)
		})
		if len(all) < need {
			continue
		}
		all = all[:need] // and the next driver's can only be between
		if q.oldestFirst {
			q.high = all[need-1]
		} else {
			q.low = all[need-1]
		}
	}
	return all, nil
}

func (s *Store) queryIDs(ctx context.Context, query string, args ...any) ([]int64, error) {
	if s.explain != nil {
		s.explain(query, args)
	}
	rows, err := s.reads.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

func (s *Store) auditsByID(ctx context.Context, ids []int64, oldestFirst bool) ([]Audit, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	order := "DESC"
	if oldestFirst {
		order = "ASC"
	}
	rows, err := s.reads.QueryContext(ctx, `SELECT a.id, d.instance, a.sequence, a.raw FROM audits a JOIN defenders d ON d.id = a.defender
		WHERE a.id IN (?`+strings.Repeat(", ?", len(ids)-1)+`) ORDER BY a.id `+order, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	audits := make([]Audit, 0, len(ids))
	for rows.Next() {
		var id int64
		var instance, raw string
		var sequence uint64
		if err := rows.Scan(&id, &instance, &sequence, &raw); err != nil {
			return nil, err
		}
		a := newAudit(instance, sequence, json.RawMessage(raw))
		a.ID = id
		if a.Record.Time.IsZero() {
			a.Record.Time = time.UnixMilli(id >> idBits).UTC()
		}
		audits = append(audits, a)
	}
	return audits, rows.Err()
}
