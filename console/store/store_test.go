package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"appdefender/audit"
	"appdefender/wire"
)

func open2(t testing.TB, path string, now func() time.Time) *Store {
	t.Helper()
	s, err := Open(context.Background(), Config{Path: path, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newStore(t testing.TB) *Store { return open2(t, filepath.Join(t.TempDir(), "c #?%.db"), nil) }

// raws are records with these messages.
func raws(msgs ...string) []json.RawMessage {
	var all []json.RawMessage
	for _, m := range msgs {
		b, _ := json.Marshal(map[string]any{"msg": m, "type": "processes"})
		all = append(all, b)
	}
	return all
}

func add(t *testing.T, s *Store, instance string, first uint64, want uint64, records ...json.RawMessage) []Audit {
	t.Helper()
	acked, added, err := s.AddAudits(context.Background(), instance, first, records)
	if err != nil || acked != want {
		t.Fatalf("from %d: acknowledged %d, %v; want %d", first, acked, err, want)
	}
	return added
}

func msgs(t *testing.T, s *Store, f AuditFilter, p AuditPage) []string {
	t.Helper()
	all, err := s.Audits(context.Background(), f, p)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for _, a := range all {
		got = append(got, a.Record.Msg)
	}
	return got
}

// What was acknowledged is there after the database was opened again, and the
// count goes on.
func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.db")
	s := open2(t, path, nil)
	id := enrolled(t, s, 1)[0]
	if added := add(t, s, id, 1, 2, raws("a", "b")...); len(added) != 2 || added[1].Sequence != 2 || added[1].Record.ID != id+"-2" {
		t.Errorf("added %+v", added)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.AddAudits(context.Background(), id, 3, raws("c")); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	s = open2(t, path, nil)
	if added := add(t, s, id, 2, 3, raws("b", "c")...); len(added) != 1 || added[0].Record.Msg != "c" {
		t.Errorf("added %+v", added)
	}
	if got := msgs(t, s, AuditFilter{}, AuditPage{OldestFirst: true}); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("kept %q", got)
	}
	for _, name := range []string{"console.db", "console.db-wal"} {
		if info, err := os.Stat(filepath.Join(filepath.Dir(path), name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

// Two processes may use one file.
func TestTwoProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.db")
	var wg sync.WaitGroup
	var a, b *Store
	wg.Go(func() { a = open2(t, path, nil) })
	wg.Go(func() { b = open2(t, path, nil) })
	wg.Wait()
	for i := range 20 {
		for _, s := range []*Store{a, b} {
			wg.Go(func() {
				if _, err := s.AddToken(context.Background(), "test", Token{Name: fmt.Sprintf("%p %d", s, i)}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	tokens, err := a.Tokens(context.Background())
	if err != nil || len(tokens) != 40 {
		t.Errorf("%d tokens, %v", len(tokens), err)
	}
	key := func(s *Store) string {
		v, err := s.Setting(context.Background(), "k", func() ([]byte, error) { return fmt.Appendf(nil, "%p", s), nil })
		if err != nil {
			t.Error(err)
		}
		return string(v)
	}
	if key(a) != key(b) {
		t.Error("two keys")
	}
}

// A write that fails half way takes nothing of the others with it.
func TestFailureAmongOthers(t *testing.T) {
	s := newStore(t)
	boom := errors.New("boom")
	const n = 50
	var wg sync.WaitGroup
	errs := make([]error, n)
	hold := make(chan struct{})
	wg.Go(func() { _ = s.update(context.Background(), func(*tx) error { <-hold; return nil }) }) // so that the others share a transaction
	for i := range n {
		wg.Go(func() {
			errs[i] = s.update(context.Background(), func(t *tx) error {
				if _, err := t.exec(`INSERT INTO changes (at, who, what) VALUES (?, 'x', 'y')`, i); err != nil {
					return err
				}
				if i%10 == 0 {
					return boom
				}
				return nil
			})
		})
	}
	time.Sleep(100 * time.Millisecond)
	close(hold)
	wg.Wait()
	for i, err := range errs {
		if errors.Is(err, boom) != (i%10 == 0) || i%10 != 0 && err != nil {
			t.Errorf("write %d: %v", i, err)
		}
	}
	all, err := s.Changes(context.Background(), 0, 100)
	if err != nil || len(all) != n-n/10 {
		t.Errorf("%d kept, %v", len(all), err)
	}
	for _, c := range all {
		if micros(c.At)%10 == 0 {
			t.Errorf("kept the failed write %d", micros(c.At))
		}
	}
}

func TestCancelled(t *testing.T) {
	s := newStore(t)
	begun, hold := make(chan struct{}), make(chan struct{})
	go func() { _ = s.update(context.Background(), func(*tx) error { close(begun); <-hold; return nil }) }()
	<-begun
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := s.AddToken(ctx, "test", Token{Name: "a"}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(hold)
	if _, err := s.AddToken(context.Background(), "test", Token{Name: "b"}); err != nil {
		t.Error(err)
	}
	if tokens, _ := s.Tokens(context.Background()); len(tokens) != 1 {
		t.Errorf("%d tokens: the one that nobody waited for was made", len(tokens))
	}
}

// The order is that of time, whenever records arrive; the future is now.
func TestTimeOrder(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	s := open2(t, filepath.Join(t.TempDir(), "c.db"), func() time.Time { return now })
	ids := enrolled(t, s, 2)
	at := func(d time.Duration, msg string) json.RawMessage {
		b, _ := json.Marshal(map[string]any{"time": now.Add(d), "msg": msg})
		return b
	}
	add(t, s, ids[0], 1, 4, at(-time.Hour, "hour"), at(-time.Minute, "minute"), at(1000*time.Hour, "future"), json.RawMessage(`{"msg":"none"}`))
	add(t, s, ids[1], 1, 3, at(-30*time.Minute, "late"), at(-2e6*time.Hour, "before 1970"), json.RawMessage(`{"time":"x","msg":"odd"}`))
	now = now.Add(time.Second)
	add(t, s, ids[1], 4, 4, at(0, "now"))
	want := []string{"before 1970", "hour", "late", "minute", "future", "none", "odd", "now"}
	if got := msgs(t, s, AuditFilter{}, AuditPage{OldestFirst: true}); !slices.Equal(got, want) {
		t.Errorf("oldest first: %q", got)
	}
	slices.Reverse(want)
	if got := msgs(t, s, AuditFilter{}, AuditPage{}); !slices.Equal(got, want) {
		t.Errorf("newest first: %q", got)
	}
	all, err := s.Audits(context.Background(), AuditFilter{}, AuditPage{})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if a.Record.Time.IsZero() {
			t.Errorf("%q has no time", a.Record.Msg)
		}
		if a.Record.Msg == "future" && !a.Record.Time.After(now) {
			t.Error("what the Defender said of the time was changed")
		}
	}
}

// Many records of one millisecond get ids of their own, even if the numbers of
// another run are in the way.
func TestCrowdedMillisecond(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	seen := map[int64]bool{}
	for range 2 {
		s := open2(t, path, nil)
		id := enrolledAs(t, s, fmt.Sprint(len(seen)))
		var records []json.RawMessage
		for i := range 1000 {
			records = append(records, record(0, i, at))
		}
		for _, a := range add(t, s, id, 1, 1000, records...) {
			if seen[a.ID] || a.ID>>idBits != at.UnixMilli() {
				t.Fatalf("id %d", a.ID)
			}
			seen[a.ID] = true
		}
		s.Close()
	}
}

func enrolledAs(t testing.TB, s *Store, token string) string {
	t.Helper()
	secret, err := s.AddToken(context.Background(), "test", Token{Name: "t" + token})
	if err != nil {
		t.Fatal(err)
	}
	instance, _, err := s.Enrol(context.Background(), secret, wire.Identity{})
	if err != nil {
		t.Fatal(err)
	}
	return instance
}

func TestOddRecords(t *testing.T) {
	s := newStore(t)
	id := enrolled(t, s, 1)[0]
	deep := `{"type":"processes","x":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `}`
	odd := []json.RawMessage{
		json.RawMessage(`null`), json.RawMessage(`[1]`), json.RawMessage(`12`), json.RawMessage(` {} `), json.RawMessage(deep),
		json.RawMessage("{\"msg\":\"broken \xff utf-8\"}"), json.RawMessage(`{"msg":"nul \u0000 \ud800","type":"processes"}`),
		json.RawMessage(`{"pid":"text","msg":"half","effect":3,"type":"network"}`),
	}
	add(t, s, id, 1, uint64(len(odd)), odd...)
	for _, f := range []AuditFilter{{}, {Severities: []string{"high"}}, {Msgs: []string{"half"}}, {Text: "half"}, {Types: []string{"network"}}} {
		all, err := s.Audits(context.Background(), f, AuditPage{})
		if err != nil {
			t.Errorf("%+v: %v", f, err)
		}
		if _, err := json.Marshal(all); err != nil {
			t.Errorf("%+v: %v", f, err)
		}
		if want := map[bool]int{true: len(odd), false: 1}[f.Text == "" && f.Types == nil && f.Msgs == nil]; f.Severities == nil && len(all) != want {
			t.Errorf("%+v: %d audits, want %d", f, len(all), want)
		}
	}
}

// A live page and a search agree on what a text finds.
func TestTextAgrees(t *testing.T) {
	s := newStore(t)
	s.look = 0 // or the search itself would hardly be asked
	id := enrolled(t, s, 1)[0]
	texts := []string{
		"/usr/bin/wget launched", "DNS resolution of domain name yahoo.com", "Größe ÜBER alles", "a_b c-d", "日本語 テキスト", "café CAFÉ cafe",
		"x.y.z 10.0.0.1:443", `quote " in 'it'`, "job-17", "AND OR NOT NEAR", "e\u0301 combined", "٣٤ digits ½ ²", "emoji 🙂 end", "straße ß",
	}
	added := add(t, s, id, 1, uint64(len(texts)), raws(texts...)...)
	for _, search := range append(slices.Clone(texts),
		"wget", "wge", "we", "/usr/bin/wget", "usr/bin", "bin usr", "yahoo", "yahoo.com", "com.yahoo", "hoo", "größe", "gross", "über", "a_b", "a", "b_a",
		"日本語", "日本", "café", "cafe", "10.0.0.1", "10.0", "1.10", `"`, `it'`, "job-1", "job-17", "and", "near(", "*", "é", "34", "½", "🙂", "ß", "strasse", "ss", "",
		"/usr/bin/wge.", "wge,", "USR-BIN-WGE", "größ", "ÜBE", "caf", "domain.nam", "name domai", "digi", "combi", "e\u0301 comb", "abc…") {
		f := AuditFilter{Text: search}
		var want []string
		for i := range added {
			if f.Match(&added[i]) {
				want = append(want, added[i].Record.Msg)
			}
		}
		got := msgs(t, s, f, AuditPage{OldestFirst: true})
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%q: the search found %q, the live page %q", search, got, want)
		}
	}
}

// The audits page reads no more than it shows, whatever one of its filters
// says.
func TestQueryPlans(t *testing.T) {
	s := newStore(t)
	s.look = 0
	add(t, s, enrolled(t, s, 1)[0], 1, 1, json.RawMessage(`{"type":"x","effect":"x","severity":"x","appID":"x"}`))
	one := []string{"x"}
	for _, line := range s.planOf(t, nextKind, "x", "x", "x") {
		if strings.HasPrefix(line, "S") && strings.Contains(line, " audits") && !strings.Contains(line, "COVERING INDEX audits_kind (type") {
			t.Errorf("the next kind: %s", line)
		}
	}
	for _, tt := range []struct {
		f    AuditFilter
		want string
	}{
		{AuditFilter{}, "USING INTEGER PRIMARY KEY"},
		{AuditFilter{Types: one}, "USING COVERING INDEX audits_kind (type=? AND effect=? AND severity=? AND rowid>? AND rowid<?)"},
		{AuditFilter{Effects: one}, "USING COVERING INDEX audits_kind"},
		{AuditFilter{Severities: one, Types: one}, "USING COVERING INDEX audits_kind"},
		{AuditFilter{AppIDs: one}, "USING COVERING INDEX audits_app (app_id=? AND type=? AND effect=? AND severity=? AND rowid>? AND rowid<?)"},
		{AuditFilter{AppIDs: one, Types: one}, "USING COVERING INDEX audits_app"},
		{AuditFilter{Instances: one}, "USING COVERING INDEX audits_defender (defender=? AND type=? AND effect=? AND severity=? AND rowid>? AND rowid<?)"},
		{AuditFilter{Instances: one, Types: one}, "USING COVERING INDEX audits_defender"},
		{AuditFilter{Instances: one, AppIDs: one}, "USING INDEX audits_defender"},
		{AuditFilter{Text: "word"}, "VIRTUAL TABLE INDEX"},
		{AuditFilter{Text: "word", Types: one}, "VIRTUAL TABLE INDEX"},
		{AuditFilter{Rules: one, From: time.Unix(1, 0)}, "USING INTEGER PRIMARY KEY"},
	} {
		plan := s.plan(t, tt.f)
		if !strings.Contains(plan, tt.want) || strings.Contains(plan, "TEMP B-TREE") {
			t.Errorf("%+v: %s", tt.f, plan)
		}
	}
}

// planOf explains a query.
func (s *Store) planOf(t *testing.T, query string, args ...any) []string {
	t.Helper()
	rows, err := s.reads.Query("EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan []string
	for rows.Next() {
		var a, b, c int
		var line string
		if err := rows.Scan(&a, &b, &c, &line); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, line)
	}
	return plan
}

// plan explains the queries of a filter.
func (s *Store) plan(t *testing.T, f AuditFilter) string {
	t.Helper()
	var plan []string
	s.explain = func(query string, args []any) { plan = append(plan, s.planOf(t, query, args...)...) }
	defer func() { s.explain = nil }()
	if _, err := s.Audits(context.Background(), f, AuditPage{}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(plan, "; ")
}

func TestRolesOrder(t *testing.T) {
	for _, tt := range []struct {
		have, need Role
		want       bool
	}{
		{Admin, Auditor, true}, {Admin, Admin, true}, {Editor, Admin, false}, {Auditor, Editor, false}, {"", Auditor, false},
		{"root", Auditor, false}, {Admin, "", false}, {"", "", false}, {Admin, "root", false},
	} {
		if got := tt.have.May(tt.need); got != tt.want {
			t.Errorf("%q may %q: %v", tt.have, tt.need, got)
		}
	}
}

func TestPasswords(t *testing.T) {
	hash, err := hashPassword("correct horse")
	if err != nil || !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Fatalf("%s, %v", hash, err)
	}
	for password, want := range map[string]bool{"correct horse": true, "correct horse ": false, "": false, strings.Repeat("x", MaxPassword+1): false} {
		if got, err := checkPassword(hash, password); got != want || err != nil {
			t.Errorf("%.20q: %v, %v", password, got, err)
		}
	}
	if ok, err := checkPassword("", ""); ok || err != nil {
		t.Errorf("no user: %v, %v", ok, err)
	}
	if ok, err := checkPassword("$argon2id$x", "y"); ok || err == nil {
		t.Errorf("a broken hash: %v, %v", ok, err)
	}
}

// However a query is led, it finds what the filter says.
func TestFiltersAgree(t *testing.T) {
	s := newStore(t)
	instances := enrolled(t, s, 3)
	rnd := rand.New(rand.NewPCG(1, 2))
	odd := []string{"", "a", "b", "a b", "app:1", "app:12", "-", "/usr/bin/x", "x\"y", "ünï", "日本", "a\x00b", strings.Repeat("long ", 80), "ÀB*", "\uE000eprevent", "NOT a"}
	pick := func() string { return odd[rnd.IntN(len(odd))] }
	types, effects := []string{"processes", "network", "odd type", ""}, []string{"alert", "prevent", "block", ""}
	base := time.Now().Add(-time.Hour).UTC()
	var all []Audit
	for _, id := range instances {
		var records []json.RawMessage
		for i := range 200 {
			r := audit.Record{
				Time: base.Add(time.Duration(rnd.IntN(3600)) * time.Second), Type: types[rnd.IntN(4)], Effect: effects[rnd.IntN(4)], AppID: pick(),
				RuleName: pick(), ContainerName: pick(), ImageName: pick(), Msg: fmt.Sprint(pick(), " did ", pick(), i%5), ProcessPath: pick(), Domain: pick(),
				User: pick(), AttackType: pick(), Severity: pick(), Hostname: pick(), ProfileID: pick(),
			}
			b, _ := json.Marshal(r)
			records = append(records, b)
		}
		all = append(all, add(t, s, id, 1, 200, records...)...)
	}
	slices.SortFunc(all, func(a, b Audit) int { return cmp.Compare(b.ID, a.ID) })
	// As those are that were kept before severities had a column.
	err := s.update(t.Context(), func(x *tx) error {
		_, err := x.exec(`UPDATE audits SET severity = '' WHERE id % 3 = 0`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		var f AuditFilter
		lists := []*[]string{
			&f.AppIDs, &f.Rules, &f.Containers, &f.Images, &f.ProcessPaths, &f.Domains, &f.Users, &f.AttackTypes, &f.Severities, &f.Hostnames, &f.ProfileIDs,
		}
		for range 1 + rnd.IntN(2) {
			list := lists[rnd.IntN(len(lists))]
			for range 1 + rnd.IntN(3) {
				*list = append(*list, pick())
			}
		}
		if rnd.IntN(3) == 0 {
			f.Types = append(f.Types, types[rnd.IntN(4)])
		}
		if rnd.IntN(3) == 0 {
			f.Effects = append(f.Effects, effects[rnd.IntN(4)], effects[rnd.IntN(4)])
		}
		if rnd.IntN(4) == 0 {
			f.Msgs = []string{all[rnd.IntN(len(all))].Record.Msg}
		}
		if rnd.IntN(4) == 0 {
			f.Instances = instances[:2]
		}
		if rnd.IntN(4) == 0 {
			f.From, f.To = base.Add(10*time.Minute), base.Add(40*time.Minute)
		}
		var want []string
		for i := range all {
			if f.Match(&all[i]) {
				want = append(want, all[i].Record.ID)
			}
		}
		p := AuditPage{Limit: 5 + rnd.IntN(100), OldestFirst: rnd.IntN(2) == 0}
		s.look = []int{maxLook, 50, 0}[i%3]
		if p.OldestFirst {
			slices.Reverse(want)
		}
		var got []string
		for {
			page, err := s.Audits(context.Background(), f, p)
			if err != nil {
				t.Fatalf("%+v: %v", f, err)
			}
			for _, a := range page {
				got = append(got, a.Record.ID)
			}
			if len(page) < p.Limit {
				break
			}
			if last := page[len(page)-1].ID; p.OldestFirst {
				p.After = last
			} else {
				p.Before = last
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("filter %d, %+v: %d audits, want %d", i, f, len(got), len(want))
		}
	}
}
