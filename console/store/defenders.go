package store

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"time"

	"appdefender/wire"
)

// Defender is what the Console knows about one.
type Defender struct {
	Instance string `json:"instance"`
	wire.Identity
	Token        string    `json:"token"` // the name it enrolled by
	Level        string    `json:"level"` // "" before the first heartbeat
	Lost         []string  `json:"lost,omitempty"`
	FailOpen     bool      `json:"failOpen,omitempty"`
	DryRun       bool      `json:"dryRun,omitempty"`
	Generation   uint64    `json:"generation"`
	PolicyError  string    `json:"policyError,omitempty"`
	Queue        int       `json:"queue"`
	Dropped      uint64    `json:"dropped"`
	Started      time.Time `json:"started,omitzero"`
	FirstSeen    time.Time `json:"firstSeen"`
	LastSeen     time.Time `json:"lastSeen"`
	Revoked      time.Time `json:"revoked,omitzero"` // zero: not
	Acknowledged uint64    `json:"acknowledged"`

	id         int64
	credential []byte
}

const defenderColumns = `id, instance, credential, token, app_id, container, image, hostname, version, level, lost, fail_open, dry_run,
	generation, policy_error, queue, dropped, started, first_seen, last_seen, coalesce(revoked, 0), acknowledged`

func scanDefender(scan func(...any) error) (Defender, error) {
	var d Defender
	var lost string
	var started, first, last, revoked int64
	err := scan(&d.id, &d.Instance, &d.credential, &d.Token, &d.AppID, &d.Container, &d.Image, &d.Hostname, &d.Version, &d.Level, &lost,
		&d.FailOpen, &d.DryRun, &d.Generation, &d.PolicyError, &d.Queue, &d.Dropped, &started, &first, &last, &revoked, &d.Acknowledged)
	if err != nil {
		return Defender{}, err
	}
	d.Started, d.FirstSeen, d.LastSeen, d.Revoked = fromMicros(started), fromMicros(first), fromMicros(last), fromMicros(revoked)
	if err := json.Unmarshal([]byte(lost), &d.Lost); err != nil {
		return Defender{}, fmt.Errorf("reading Defender %q: %w", d.Instance, err)
	}
	return d, nil
}

// Enrol adds a Defender and returns its credential. The error is ErrToken if
// the token's secret does not let it in.
func (s *Store) Enrol(ctx context.Context, token string, id wire.Identity) (instance, credential string, err error) {
	instance, credential = newInstance(), newSecret("")
	err = s.update(ctx, func(t *tx) error {
		now := micros(s.now())
		var tokenID int64
		var name string
		err := t.scan(`SELECT id, name FROM tokens WHERE hash = ? AND (expires IS NULL OR expires > ?) AND (uses IS NULL OR uses > 0)`,
			[]any{hashSecret(token), now}, &tokenID, &name)
		if err != nil {
			if orNotFound(err, "token") != err {
				return ErrToken
			}
			return err
		}
		if _, err := t.exec(`UPDATE tokens SET uses = uses - 1, used = ? WHERE id = ?`, now, tokenID); err != nil {
			return err
		}
		_, err = t.exec(`INSERT INTO defenders (instance, credential, token, app_id, container, image, hostname, version, first_seen, last_seen)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			instance, hashSecret(credential), name, id.AppID, id.Container, id.Image, id.Hostname, id.Version, now, now)
		return err
	})
	if err != nil {
		return "", "", fmt.Errorf("enrolling: %w", err)
	}
	return instance, credential, nil
}

// AuthenticateDefender returns the Defender of an instance and credential. The
// error is ErrNotFound if the Console does not know it or the credential is
// another's, and ErrRevoked if it was turned away.
func (s *Store) AuthenticateDefender(ctx context.Context, instance, credential string) (Defender, error) {
	d, err := s.Defender(ctx, instance)
	if err != nil {
		return Defender{}, err
	}
	if subtle.ConstantTimeCompare(d.credential, hashSecret(credential)) != 1 {
		return Defender{}, fmt.Errorf("the credential of Defender %q: %w", instance, ErrNotFound)
	}
	if !d.Revoked.IsZero() {
		return Defender{}, fmt.Errorf("Defender %q: %w", instance, ErrRevoked)
	}
	return d, nil
}

// Defender returns one Defender, or ErrNotFound.
func (s *Store) Defender(ctx context.Context, instance string) (Defender, error) {
	d, err := scanDefender(s.reads.QueryRowContext(ctx, `SELECT `+defenderColumns+` FROM defenders WHERE instance = ?`, instance).Scan)
	return d, orNotFound(err, "Defender %q", instance)
}

// Defenders returns at most limit Defenders, the last seen first.
func (s *Store) Defenders(ctx context.Context, limit int) ([]Defender, error) {
	rows, err := s.reads.QueryContext(ctx, `SELECT `+defenderColumns+` FROM defenders ORDER BY last_seen DESC, id DESC LIMIT ?`, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Defender
	for rows.Next() {
		d, err := scanDefender(rows.Scan)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, rows.Err()
}

// Heartbeat notes how a Defender is.
func (s *Store) Heartbeat(ctx context.Context, instance string, h *wire.Heartbeat) error {
	lost, err := json.Marshal(h.Lost)
	if err != nil {
		return err
	}
	if h.Lost == nil {
		lost = []byte("[]")
	}
	return s.update(ctx, func(t *tx) error {
		_, err := t.exec(`UPDATE defenders SET app_id = ?, container = ?, image = ?, hostname = ?, version = ?, level = ?, lost = ?,
			fail_open = ?, dry_run = ?, generation = ?, policy_error = ?, queue = ?, dropped = ?, started = ?, last_seen = ? WHERE instance = ?`,
			h.AppID, h.Container, h.Image, h.Hostname, h.Version, h.Level, string(lost), h.FailOpen, h.DryRun,
			clampInt(h.Generation), h.PolicyError, h.Queue, clampInt(h.Dropped), micros(h.Started), micros(s.now()), instance)
		return err
	})
}

// Revoke turns a Defender away for good.
func (s *Store) Revoke(ctx context.Context, who, instance string) error {
	return s.update(ctx, func(t *tx) error {
		now := micros(s.now())
		n, err := t.exec(`UPDATE defenders SET revoked = coalesce(revoked, ?) WHERE instance = ?`, now, instance)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("Defender %q: %w", instance, ErrNotFound)
		}
		return t.change(now, who, "revoked Defender %q", instance)
	})
}

// clampInt brings what a Defender says into what SQLite can hold.
func clampInt(n uint64) int64 { return int64(min(n, 1<<63-1)) }
