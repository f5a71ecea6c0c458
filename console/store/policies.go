package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// PolicyVersion is one generation of the policy.
type PolicyVersion struct {
	Generation uint64    `json:"generation"`
	Policy     string    `json:"-"` // native JSON
	Who        string    `json:"who"`
	At         time.Time `json:"at"`
}

// Policy returns a generation of the policy, 0 for the newest. The error is
// ErrNotFound if there is none.
func (s *Store) Policy(ctx context.Context, generation uint64) (PolicyVersion, error) {
	query, args := `SELECT generation, policy, who, at FROM policies ORDER BY generation DESC LIMIT 1`, []any(nil)
	if generation != 0 {
		query, args = `SELECT generation, policy, who, at FROM policies WHERE generation = ?`, []any{clampInt(generation)}
	}
	var v PolicyVersion
	var at int64
	err := s.reads.QueryRowContext(ctx, query, args...).Scan(&v.Generation, &v.Policy, &v.Who, &at)
	v.At = fromMicros(at)
	return v, orNotFound(err, "policy generation %d", generation)
}

// Policies returns at most limit generations below before (0: from the
// newest), the newest first and without their text.
func (s *Store) Policies(ctx context.Context, before uint64, limit int) ([]PolicyVersion, error) {
	if before == 0 {
		before = 1<<63 - 1
	}
	rows, err := s.reads.QueryContext(ctx, `SELECT generation, who, at FROM policies WHERE generation < ? ORDER BY generation DESC LIMIT ?`,
		clampInt(before), limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []PolicyVersion
	for rows.Next() {
		var v PolicyVersion
		var at int64
		if err := rows.Scan(&v.Generation, &v.Who, &at); err != nil {
			return nil, err
		}
		v.At = fromMicros(at)
		all = append(all, v)
	}
	return all, rows.Err()
}

// AddPolicy keeps the generation that follows after. The error is ErrConflict
// if after is not the newest any more; 0 means that there is none yet.
func (s *Store) AddPolicy(ctx context.Context, after uint64, policy, who, what string) (PolicyVersion, error) {
	v := PolicyVersion{Generation: after + 1, Policy: policy, Who: who, At: fromMicros(micros(s.now()))}
	err := s.update(ctx, func(t *tx) error {
		var newest uint64
		if err := t.scan(`SELECT coalesce(max(generation), 0) FROM policies`, nil, &newest); err != nil {
			return err
		}
		if newest != after {
			return fmt.Errorf("the policy has generation %d, not %d: %w", newest, after, ErrConflict)
		}
		if _, err := t.exec(`INSERT INTO policies (generation, policy, who, at) VALUES (?, ?, ?, ?)`, v.Generation, policy, who, micros(v.At)); err != nil {
			return err
		}
		return t.change(micros(v.At), who, "%s (generation %d)", what, v.Generation)
	})
	return v, err
}

// AdvancePolicy keeps the newest policy once more, as generation to. The error
// is ErrConflict if that is not above the newest.
func (s *Store) AdvancePolicy(ctx context.Context, to uint64, who, what string) (PolicyVersion, error) {
	v := PolicyVersion{Generation: to, Who: who, At: fromMicros(micros(s.now()))}
	err := s.update(ctx, func(t *tx) error {
		var newest uint64
		if err := t.scan(`SELECT generation, policy FROM policies ORDER BY generation DESC LIMIT 1`, nil, &newest, &v.Policy); err != nil {
			return orNotFound(err, "policy")
		}
		if to <= newest || to > 1<<62 {
			return fmt.Errorf("generation %d does not come after %d: %w", to, newest, ErrConflict)
		}
		if _, err := t.exec(`INSERT INTO policies (generation, policy, who, at) VALUES (?, ?, ?, ?)`, to, v.Policy, who, micros(v.At)); err != nil {
			return err
		}
		return t.change(micros(v.At), who, "%s (generation %d)", what, to)
	})
	return v, err
}

// Change is who did what.
type Change struct {
	ID   int64     `json:"id"`
	At   time.Time `json:"at"`
	Who  string    `json:"who"`
	What string    `json:"what"`
}

// Changes returns at most limit changes below before (0: from the newest), the
// newest first.
func (s *Store) Changes(ctx context.Context, before int64, limit int) ([]Change, error) {
	if before <= 0 {
		before = 1<<63 - 1
	}
	rows, err := s.reads.QueryContext(ctx, `SELECT id, at, who, what FROM changes WHERE id < ? ORDER BY id DESC LIMIT ?`, before, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Change
	for rows.Next() {
		var c Change
		var at int64
		if err := rows.Scan(&c.ID, &at, &c.Who, &c.What); err != nil {
			return nil, err
		}
		c.At = fromMicros(at)
		all = append(all, c)
	}
	return all, rows.Err()
}

// Note adds to the changes what somebody did that changed nothing here.
func (s *Store) Note(ctx context.Context, who, what string) error {
	return s.update(ctx, func(t *tx) error { return t.change(micros(s.now()), who, "%s", what) })
}

// Setting returns the value of a key. If there is none yet it is made with
// first and kept; of two at the same time, both get the one that was kept.
func (s *Store) Setting(ctx context.Context, key string, first func() ([]byte, error)) ([]byte, error) {
	var value []byte
	err := s.reads.QueryRowContext(ctx, `SELECT value FROM settings WHERE key = ?`, key).Scan(&value)
	if !errors.Is(err, sql.ErrNoRows) {
		return value, err
	}
	made, err := first()
	if err != nil {
		return nil, err
	}
	err = s.update(ctx, func(t *tx) error {
		if _, err := t.exec(`INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT DO NOTHING`, key, made); err != nil {
			return err
		}
		return t.scan(`SELECT value FROM settings WHERE key = ?`, []any{key}, &value)
	})
	return value, err
}
