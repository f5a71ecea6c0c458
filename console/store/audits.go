package store

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

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
	for _, s := range []string{r.ProcessPath, r.Command, r.Domain, r.IP, r.RuleName, r.AttackType, r.AppID, r.Hostname, r.ContainerName, r.ImageName, r.User} {
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
		n, err := t.exec(`INSERT INTO audits (id, defender, sequence, type, effect, severity, app_id, raw) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO NOTHING`, a.ID, defender, a.Sequence, r.Type, r.Effect, r.Severity, r.AppID, string(a.Raw))
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
func (f *AuditFilter) Match(a *Audit) bool { return f.match(a, phrases(f.Text)) }

func (f *AuditFilter) match(a *Audit, text []phrase) bool {
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
	if len(text) == 0 {
		return true
	}
	have := words(a.text())
	for _, p := range text {
		if !p.in(have) {
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

// phrase is one or more words of a search that stand together.
type phrase struct {
	text  string // as it was asked for
	words []string
	open  bool // the last word may go on
}

// phrases returns the phrases of a search, open where they may be.
func phrases(text string) []phrase {
	var all []phrase
	for field := range strings.FieldsSeq(text) {
		if w := words(field); len(w) > 0 {
			all = append(all, phrase{field, w, utf8.RuneCountInString(w[len(w)-1]) >= minPrefix})
		}
	}
	return all
}

// in reports whether the words have the phrase.
func (p phrase) in(have []string) bool {
	last := len(p.words) - 1
next:
	for i := 0; i+last < len(have); i++ {
		for j, w := range p.words {
			h := have[i+j]
			if h != w && !(j == last && p.open && strings.HasPrefix(h, w)) {
				continue next
			}
		}
		return true
	}
	return false
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
