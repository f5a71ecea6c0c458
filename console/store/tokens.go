package store

import (
	"context"
	"fmt"
	"time"
)

// Token lets Defenders enrol. Its secret is known only when it is made.
type Token struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Who     string    `json:"who"`
	Expires time.Time `json:"expires,omitzero"` // zero: never
	Uses    *int      `json:"uses,omitzero"`    // left; nil: any number
	Used    time.Time `json:"used,omitzero"`    // last
}

// AddToken makes a token and returns its secret. Of t, only Name, Expires and
// Uses count.
func (s *Store) AddToken(ctx context.Context, who string, token Token) (string, error) {
	switch err := CheckName(token.Name); {
	case err != nil:
		return "", invalid("adding token: %w", err)
	case token.Uses != nil && *token.Uses < 1:
		return "", invalid("adding token %q: %d uses are none", token.Name, *token.Uses)
	case !token.Expires.IsZero() && !s.now().Before(token.Expires):
		return "", invalid("adding token: it would have expired already")
	}
	secret := newSecret("enrol-")
	err := s.update(ctx, func(t *tx) error {
		now := micros(s.now())
		var expires, uses any
		if !token.Expires.IsZero() {
			expires = micros(token.Expires)
		}
		if token.Uses != nil {
			uses = *token.Uses
		}
		n, err := t.exec(`INSERT INTO tokens (name, hash, created, who, expires, uses) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			token.Name, hashSecret(secret), now, who, expires, uses)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("token %q: %w", token.Name, ErrExists)
		}
		return t.change(now, who, "added enrolment token %q", token.Name)
	})
	if err != nil {
		return "", err
	}
	return secret, nil
}

// Tokens returns all tokens, the newest first.
func (s *Store) Tokens(ctx context.Context) ([]Token, error) {
	rows, err := s.reads.QueryContext(ctx, `SELECT name, created, who, coalesce(expires, 0), uses, coalesce(used, 0) FROM tokens ORDER BY id DESC`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var tokens []Token
	for rows.Next() {
		var t Token
		var created, expires, used int64
		if err := rows.Scan(&t.Name, &created, &t.Who, &expires, &t.Uses, &used); err != nil {
			return nil, err
		}
		t.Created, t.Expires, t.Used = fromMicros(created), fromMicros(expires), fromMicros(used)
		tokens = append(tokens, t)
	}
	return tokens, rows.Err()
}

// DeleteToken deletes a token. Defenders that enrolled by it stay.
func (s *Store) DeleteToken(ctx context.Context, who, name string) error {
	return s.update(ctx, func(t *tx) error {
		n, err := t.exec(`DELETE FROM tokens WHERE name = ?`, name)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("token %q: %w", name, ErrNotFound)
		}
		return t.change(micros(s.now()), who, "deleted enrolment token %q", name)
	})
}
