package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// at are records of a time, n of them.
func at(when time.Time, n int, word string) []json.RawMessage {
	all := make([]json.RawMessage, n)
	for i := range all {
		all[i] = fmt.Appendf(nil, `{"time":%q,"type":"processes","msg":"%s %d"}`, when.Format(time.RFC3339Nano), word, i)
	}
	return all
}

func TestPrune(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	s := open2(t, filepath.Join(t.TempDir(), "c.db"), func() time.Time { return now })
	old, busy, out := enrolledAs(t, s, "old"), enrolledAs(t, s, "busy"), enrolledAs(t, s, "out")
	if err := s.Revoke(t.Context(), "test", out); err != nil {
		t.Fatal(err)
	}
	if err := s.AddUser(t.Context(), "test", "u", Admin, "correct horse"); err != nil {
		t.Fatal(err)
	}
	u, err := s.Users(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	secret, err := s.AddSession(t.Context(), u[0], Bearer, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	n := PruneStep + PruneStep/2
	for i := range 3 {
		add(t, s, old, uint64(i*n/3+1), uint64((i+1)*n/3), at(now, n/3, "early")...)
	}
	now = now.Add(30 * 24 * time.Hour)
	add(t, s, busy, 1, 2, at(now, 2, "late")...)

	prune := func(l Limits, want ...int) {
		t.Helper()
		for _, w := range want {
			if n, err := s.Prune(t.Context(), l); n != w || err != nil {
				t.Fatalf("%d audits are removed, not %d: %v", n, w, err)
			}
		}
	}
	month := Limits{Age: 30 * 24 * time.Hour}
	prune(Limits{}, 0)
	prune(month, 0)
	if _, err := s.Session(t.Context(), secret, Bearer, 1000*time.Hour); !errors.Is(err, ErrNotFound) {
		t.Errorf("the session: %v", err)
	}
	now = now.Add(time.Second)
	prune(month, PruneStep, n-PruneStep, 0)
	if got := msgs(t, s, AuditFilter{}, AuditPage{}); strings.Join(got, ",") != "late 1,late 0" {
		t.Errorf("there are %q", got)
	}
	if got := msgs(t, s, AuditFilter{Text: "early"}, AuditPage{}); len(got) != 0 {
		t.Errorf("the search finds %q", got)
	}
	var texts int
	if err := s.reads.QueryRow(`SELECT count(*) FROM audits_text`).Scan(&texts); err != nil || texts != 2 {
		t.Errorf("the search has %d texts: %v", texts, err)
	}
	all, err := s.Defenders(t.Context(), 10)
	if err != nil || len(all) != 2 || all[0].Instance != busy || all[1].Instance != out {
		t.Errorf("the Defenders are %+v: %v", all, err)
	}
	// What was removed is not taken for missing.
	add(t, s, busy, 1, 3, at(now, 3, "late")...)
}

func TestPruneBySize(t *testing.T) {
	s := newStore(t)
	d := enrolledAs(t, s, "d")
	for i := range 8 {
		add(t, s, d, uint64(i*PruneStep+1), uint64((i+1)*PruneStep), at(time.Now(), PruneStep, "word")...)
	}
	full, _, err := s.size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	removed := 0
	for {
		n, err := s.Prune(t.Context(), Limits{Bytes: full / 2})
		if err != nil {
			t.Fatal(err)
		}
		if removed += n; n == 0 {
			break
		}
	}
	used, free, err := s.size(t.Context())
	if err != nil || used > full/2 || free == 0 || removed == 0 || removed == 8*PruneStep {
		t.Errorf("%d audits are removed; %d bytes of %d are used and %d free: %v", removed, used, full, free, err)
	}
	// The oldest went.
	if got := msgs(t, s, AuditFilter{}, AuditPage{Limit: 1}); got[0] != fmt.Sprintf("word %d", PruneStep-1) {
		t.Errorf("the newest is %q", got)
	}
}

func TestBackup(t *testing.T) {
	s := newStore(t)
	d := enrolledAs(t, s, "d")
	add(t, s, d, 1, 2, raws("a", "b")...)
	path := filepath.Join(t.TempDir(), "backup.db")
	if err := s.Backup(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	add(t, s, d, 3, 3, raws("c")...)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := s.Backup(t.Context(), path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over another file: %v", err)
	}
	b := open2(t, path, nil)
	if got := msgs(t, b, AuditFilter{}, AuditPage{OldestFirst: true}); strings.Join(got, "") != "ab" {
		t.Errorf("it has %q", got)
	}
	add(t, b, d, 3, 3, raws("d")...)
}
