package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"appdefender/audit"
)

// Audit is one kept record.
type Audit struct {
	// ID orders audits by time; it is what pages continue from. A record of
	// the future is filed under the time it arrived, so that a Defender with a
	// fast clock does not stay on top.
	ID       int64
	Instance string
	Sequence uint64
	Record   audit.Record    // with its ID set from Instance and Sequence
	Raw      json.RawMessage // as sent, perhaps with fields that Record lacks
}

// MarshalJSON returns the record as it was sent, but for its _id.
func (a Audit) MarshalJSON() ([]byte, error) {
	fields := make(map[string]json.RawMessage)
	if err := json.Unmarshal(a.Raw, &fields); err != nil {
		return nil, err
	}
	id, err := json.Marshal(a.Record.ID)
	if err != nil {
		return nil, err
	}
	fields["_id"] = id
	return json.Marshal(fields)
}

// recordID names a record for people and other programs.
func recordID(instance string, sequence uint64) string {
	return instance + "-" + strconv.FormatUint(sequence, 10)
}

// idBits is how many bits of an audit's id are not its time.
const idBits = 21

// firstID is the lowest id of a time.
func firstID(t time.Time) int64 {
	return min(max(t.UnixMilli(), 0), 1<<(63-idBits)-1) << idBits
}

// newAudit decodes a record. One that we cannot read, perhaps of a newer
// Defender, is kept as far as we can: it has its sequence, and refusing it
// would hold up all that follow.
func newAudit(instance string, sequence uint64, raw json.RawMessage) Audit {
	a := Audit{Instance: instance, Sequence: sequence, Raw: json.RawMessage(strings.ToValidUTF8(string(raw), "\uFFFD"))}
	if !isObject(a.Raw) || tooDeep(a.Raw) {
		a.Record = audit.Record{Type: "defender", Msg: fmt.Sprintf("a record that cannot be read: %.256q", raw)}
		a.Raw, _ = json.Marshal(a.Record)
	} else if err := json.Unmarshal(a.Raw, &a.Record); err != nil {
		a.Record = readable(a.Raw)
	}
	if a.Record.Count == 0 {
		a.Record.Count = 1
	}
	a.Record.ID = recordID(instance, sequence)
	return a
}

// tooDeep reports whether a record may be nested too deep for SQLite, in which
// a thousand levels are the most: one such record would be an error for every
// search that looks into it.
func tooDeep(raw []byte) bool {
	return bytes.Count(raw, []byte{'['})+bytes.Count(raw, []byte{'{'}) > 500
}

func isObject(raw []byte) bool {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	return len(raw) > 0 && raw[0] == '{'
}

// readable decodes the fields of a record that can be decoded.
func readable(raw []byte) audit.Record {
	var fields map[string]json.RawMessage
	var r audit.Record
	if json.Unmarshal(raw, &fields) != nil {
		return r
	}
	for key, value := range fields {
		if one, err := json.Marshal(map[string]json.RawMessage{key: value}); err == nil {
			with := r
			if json.Unmarshal(one, &with) == nil {
				r = with
			}
		}
	}
	return r
}

// text is what the text search finds a record by, and what a filter by one of
// its fields is narrowed down by.
func (a *Audit) text() string {
	r := &a.Record
	text := r.Msg
	for _, s := range []string{r.ProcessPath, r.Command, r.Domain, r.IP, r.RuleName, r.AttackType, r.AppID, r.ContainerName, r.ImageName, r.User} {
		if s != "" && !containsWords(text, s) { // a message has most of them
			text += " " + s
		}
	}
	return text + " " + facet('t', r.Type) + " " + facet('e', r.Effect)
}

// containsWords reports whether s stands in text, not within longer words.
func containsWords(text, s string) bool {
	i := strings.Index(text, s)
	return i >= 0 && (i == 0 || !inWord(text[i-1])) && (i+len(s) == len(text) || !inWord(text[i+len(s)]))
}

func inWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c >= 0x80
}

// facet is a word that no text has and that says the value of a field, or ""
// if the value is none that one word could say.
func facet(field byte, value string) string {
	if value == "" || len(value) > 32 {
		return ""
	}
	for i := range len(value) {
		if c := value[i]; !inWord(c) || c >= 0x80 {
			return ""
		}
	}
	return "\uE000" + string(field) + value // the tokenizer takes private characters for letters
}

// AddAudits keeps a batch of an instance's records, of which the first has
// sequence first. Records had before are not added again, and of a batch that
// leaves a gap none is.
//
// With little left of the disk the error is ErrFull: Defenders keep audits
// longer than a Console without a disk can do anything.
//
// It returns the highest sequence up to which all records are kept, and the
// records that were new. Until it returns, nothing is promised.
func (s *Store) AddAudits(ctx context.Context, instance string, first uint64, records []json.RawMessage) (uint64, []Audit, error) {
	if first == 0 || first > 1<<62 {
		return 0, nil, fmt.Errorf("adding audits of %q: sequence %d is none", instance, first)
	}
	size := 0
	for _, raw := range records {
		size += len(raw)
	}
	if size > 0 && s.Short(ctx, int64(size)) {
		return 0, nil, fmt.Errorf("adding audits of %q: %w", instance, ErrFull)
	}
	batch := make([]Audit, len(records))
	texts := make([]string, len(records))
	for i, raw := range records {
		batch[i] = newAudit(instance, first+uint64(i), raw)
		texts[i] = batch[i].text()
	}
	// Not the results themselves: update may give up waiting for what still
	// writes these.
	var acked uint64
	var added []Audit
	err := s.update(ctx, func(t *tx) error {
		var defender int64
		if err := t.scan(`SELECT id, acknowledged FROM defenders WHERE instance = ?`, []any{instance}, &defender, &acked); err != nil {
			return orNotFound(err, "Defender %q", instance)
		}
		next := acked + 1
		added = nil
		if first > next || first+uint64(len(batch)) <= next {
			return nil
		}
		skip := next - first
		added = batch[skip:]
		acked += uint64(len(added))
		now := s.now()
		for i := range added {
			if err := s.insertAudit(t, defender, &added[i], texts[skip:][i], now); err != nil {
				return fmt.Errorf("record %d: %w", added[i].Sequence, err)
			}
			if isIncident(&added[i].Record) {
				if err := s.addIncident(t, &added[i]); err != nil {
					return fmt.Errorf("incident of record %d: %w", added[i].Sequence, err)
				}
			}
		}
		_, err := t.exec(`UPDATE defenders SET acknowledged = ?, last_seen = ? WHERE id = ?`, acked, micros(now), defender)
		return err
	})
	if err != nil {
		return 0, nil, fmt.Errorf("adding audits of %q: %w", instance, err)
	}
	return acked, added, nil
}

// insertAudit gives a its id and writes it.
func (s *Store) insertAudit(t *tx, defender int64, a *Audit, words string, now time.Time) error {
	r := &a.Record
	if r.Time.IsZero() {
		r.Time = now.UTC()
	}
	at := r.Time
	if at.After(now) {
		at = now
	}
	base := firstID(at)
	for tries := 0; ; tries++ {
		s.numbers++
		a.ID = base | int64(s.numbers&(1<<idBits-1))
		n, err := t.exec(`INSERT INTO audits (id, defender, sequence, type, effect, app_id, raw) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO NOTHING`, a.ID, defender, a.Sequence, r.Type, r.Effect, r.AppID, string(a.Raw))
		if err != nil {
			return err
		}
		if n > 0 {
			break
		}
		if tries == 1<<10 { // the numbers of this millisecond are crowded
			s.numbers = uint64(now.UnixNano())
			tries = 0
		}
	}
	t.texts = append(t.texts, text{a.ID, words})
	return nil
}

// AuditFilter selects audits. An empty field selects all; the values of a
// field are joined by "or", the fields by "and".
type AuditFilter struct {
	Types, Effects, AppIDs []string
	AttackTypes, Rules     []string
	Containers, Images     []string
	Hostnames, ProfileIDs  []string
	ProcessPaths, Users    []string
	Severities, Domains    []string
	Msgs                   []string // whole messages
	IDs                    []string // "<instance>-<sequence>"
	Instances              []string

	// Text is words that all must occur, in any order and letter case.
	// Punctuation only parts words, but what it joins must stand together. What
	// occurs nowhere as it is, is taken for unfinished if its last word has
	// three letters: "/usr/bin/wge" finds /usr/bin/wget.
	Text string

	From, To time.Time // both included, to the millisecond; zero: no bound
}

// Match reports whether the filter selects an audit. It is for audits that
// just arrived: it does not know what other audits have, and takes any word of
// the text for perhaps unfinished.
func (f *AuditFilter) Match(a *Audit) bool {
	r := &a.Record
	for _, c := range []struct {
		want []string
		have string
	}{
		{f.Types, r.Type}, {f.Effects, r.Effect}, {f.AppIDs, r.AppID}, {f.AttackTypes, r.AttackType}, {f.Rules, r.RuleName},
		{f.Containers, r.ContainerName}, {f.Images, r.ImageName}, {f.Hostnames, r.Hostname}, {f.ProfileIDs, r.ProfileID},
		{f.ProcessPaths, r.ProcessPath}, {f.Users, r.User}, {f.Severities, r.Severity}, {f.Domains, r.Domain}, {f.Msgs, r.Msg},
		{f.IDs, r.ID}, {f.Instances, a.Instance},
	} {
		if len(c.want) > 0 && !slices.Contains(c.want, c.have) {
			return false
		}
	}
	low, high := f.bounds()
	if a.ID < low || a.ID > high {
		return false
	}
	have := words(a.text())
	for _, phrase := range phrases(f.Text) {
		if !hasPhrase(have, phrase) {
			return false
		}
	}
	return true
}

// bounds are the lowest and highest id of the filter's time.
func (f *AuditFilter) bounds() (low, high int64) {
	high = 1<<63 - 1
	if !f.From.IsZero() {
		low = firstID(f.From)
	}
	if !f.To.IsZero() {
		high = firstID(f.To) | (1<<idBits - 1)
	}
	return low, high
}

// minPrefix is how long a word must be to stand for longer ones: a shorter one
// would make the search read half of the index.
const minPrefix = 3

// words cuts a text as the search's tokenizer does, in lower case.
func words(text string) []string {
	return strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !isWord(r) })
}

func isWord(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.Is(unicode.Co, r) || unicode.Is(unicode.Mn, r)
}

// phrases returns the phrases of a search, each one or more words.
func phrases(text string) [][]string {
	var all [][]string
	for field := range strings.FieldsSeq(text) {
		if p := words(field); len(p) > 0 {
			all = append(all, p)
		}
	}
	return all
}

func hasPhrase(have, phrase []string) bool {
	last := len(phrase) - 1
next:
	for i := 0; i+last < len(have); i++ {
		for j, w := range phrase {
			h := have[i+j]
			if h != w && !(j == last && len([]rune(w)) >= minPrefix && strings.HasPrefix(h, w)) {
				continue next
			}
		}
		return true
	}
	return false
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

// searchTerms returns what the search must find, nothing if an index serves
// the filter better.
func (s *Store) searchTerms(ctx context.Context, f *AuditFilter) ([]string, error) {
	var terms []string
	for field := range strings.FieldsSeq(f.Text) {
		w := words(field)
		if len(w) == 0 {
			continue
		}
		term := quote(field)
		if len([]rune(w[len(w)-1])) >= minPrefix {
			ids, err := s.queryIDs(ctx, `SELECT rowid FROM audits_text WHERE audits_text MATCH ? LIMIT 1`, term)
			if err != nil {
				return nil, err
			}
			if len(ids) == 0 {
				term += " *"
			}
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
	narrow(f.Msgs, f.Rules, f.AttackTypes, f.Containers, f.Images, f.ProcessPaths, f.Domains, f.Users)
	if len(terms) > 0 {
		narrow(f.AppIDs, facets('t', f.Types), facets('e', f.Effects))
	}
	return terms, nil
}

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

// Audits returns a page of the audits that the filter selects.
func (s *Store) Audits(ctx context.Context, f AuditFilter, p AuditPage) ([]Audit, error) {
	if p.Limit <= 0 {
		p.Limit = 50
	}
	p.Limit = min(p.Limit, MaxAuditPage)
	p.Offset = min(max(p.Offset, 0), MaxAuditOffset)
	ids, err := s.auditIDs(ctx, &f, p)
	if err != nil {
		return nil, fmt.Errorf("reading audits: %w", err)
	}
	audits, err := s.auditsByID(ctx, ids, p.OldestFirst)
	if err != nil {
		return nil, fmt.Errorf("reading audits: %w", err)
	}
	return audits, nil
}

// maxDriving is how many values of a field are looked up one by one.
const maxDriving = 16

// auditIDs finds the ids of a page.
//
// An index gives the audits of one value in order of time, but of two values
// it gives them one after the other. So a query is made for each value of one
// field, and what they find is merged.
//
// With a text, or a field that has no index, the search leads: it has all the
// words of a record and is narrowed down to what the filter can only be in.
func (s *Store) auditIDs(ctx context.Context, f *AuditFilter, p AuditPage) ([]int64, error) {
	var where []string
	var args []any
	low, high := f.bounds()
	if p.Before > 0 {
		high = min(high, p.Before-1)
	}
	if p.After > 0 {
		low = max(low, p.After+1)
	}
	found, err := s.searchTerms(ctx, f)
	if err != nil {
		return nil, err
	}
	from := "audits a"
	if len(found) > 0 {
		from = "audits_text t CROSS JOIN audits a ON a.id = t.rowid"
		where, args = append(where, "t.audits_text MATCH ?", "t.rowid BETWEEN ? AND ?"), append(args, strings.Join(found, " AND "), low, high)
	} else {
		where, args = append(where, "a.id BETWEEN ? AND ?"), append(args, low, high)
	}

	var driver string
	var driving []string
	for _, c := range []struct {
		column  string
		values  []string
		indexed bool
	}{
		{"a.app_id", f.AppIDs, true}, {"a.effect", f.Effects, true}, {"a.type", f.Types, true},
		{inRaw("attackType"), f.AttackTypes, false}, {inRaw("ruleName"), f.Rules, false}, {inRaw("containerName"), f.Containers, false},
		{inRaw("imageName"), f.Images, false}, {inRaw("hostname"), f.Hostnames, false}, {inRaw("profileId"), f.ProfileIDs, false},
		{inRaw("processPath"), f.ProcessPaths, false}, {inRaw("user"), f.Users, false}, {inRaw("severity"), f.Severities, false},
		{inRaw("domain"), f.Domains, false}, {inRaw("msg"), f.Msgs, false},
	} {
		switch n := len(c.values); {
		case n == 0:
		case c.indexed && driver == "" && len(found) == 0 && n <= maxDriving:
			driver, driving = c.column, slices.Compact(slices.Sorted(slices.Values(c.values)))
		default:
			// The plus keeps the planner from another index, and another order.
			where = append(where, "+("+c.column+") IN (?"+strings.Repeat(", ?", n-1)+")")
			for _, v := range c.values {
				args = append(args, v)
			}
		}
	}
	if len(f.Instances) > 0 {
		where = append(where, "a.defender IN (SELECT id FROM defenders WHERE instance IN (?"+strings.Repeat(", ?", len(f.Instances)-1)+"))")
		for _, v := range f.Instances {
			args = append(args, v)
		}
	}
	if len(f.IDs) > 0 {
		var either []string
		for _, id := range f.IDs {
			instance, number, _ := cutLast(id, "-")
			sequence, err := strconv.ParseInt(number, 10, 64)
			if err != nil {
				continue // nobody has it
			}
			either = append(either, "(a.defender = (SELECT id FROM defenders WHERE instance = ?) AND a.sequence = ?)")
			args = append(args, instance, sequence)
		}
		if either == nil {
			return nil, nil
		}
		where = append(where, "("+strings.Join(either, " OR ")+")")
	}

	order, id := "DESC", "a.id"
	if p.OldestFirst {
		order = "ASC"
	}
	if len(found) > 0 {
		id = "t.rowid"
	}
	if driver == "" {
		driving = []string{""}
	}
	var ids []int64
	for _, value := range driving {
		where, args := slices.Clone(where), slices.Clone(args)
		if driver != "" {
			where, args = append(where, driver+" = ?"), append(args, value)
		}
		query := "SELECT " + id + " FROM " + from + " WHERE " + strings.Join(where, " AND ") + " ORDER BY " + id + " " + order + " LIMIT ?"
		some, err := s.queryIDs(ctx, query, append(args, p.Offset+p.Limit)...)
		if err != nil {
			return nil, err
		}
		ids = append(ids, some...)
	}
	slices.SortFunc(ids, func(a, b int64) int {
		if p.OldestFirst {
			return cmp.Compare(a, b)
		}
		return cmp.Compare(b, a)
	})
	ids = ids[min(p.Offset, len(ids)):]
	return ids[:min(p.Limit, len(ids))], nil
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

// AppIDs returns at most limit different App IDs of audits that begin with
// prefix, in order.
func (s *Store) AppIDs(ctx context.Context, prefix string, limit int) ([]string, error) {
	rows, err := s.reads.QueryContext(ctx, `WITH RECURSIVE ids (id) AS (
			SELECT (SELECT min(app_id) FROM audits WHERE app_id >= ?1)
			UNION ALL
			SELECT (SELECT min(app_id) FROM audits WHERE app_id > ids.id) FROM ids WHERE ids.id IS NOT NULL
		) SELECT id FROM ids WHERE id IS NOT NULL AND id <> '' LIMIT ?2`, prefix, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		if !strings.HasPrefix(id, prefix) {
			break
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}
