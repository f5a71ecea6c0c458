package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"appdefender/audit"
)

const (
	// incidentTime is how long audits of one category and resource are one
	// incident.
	incidentTime = 24 * time.Hour
	// maxIncidentAudits is how many audits an incident keeps; more are counted.
	maxIncidentAudits = 100
	// maxIncidents and maxSnapshots are how many are kept; the oldest go.
	maxIncidents = 25_000
	maxSnapshots = 100
)

// Incident is what happened to one resource: the audits of one category within
// a day.
type Incident struct {
	ID           int64
	Category     string
	CustomRule   string
	Profile      string
	AppID        string
	Instance     string // of the Defender that saw it last
	First, Last  time.Time
	Count        int
	Acknowledged bool
	Who          string // acknowledged it
	Audits       []Audit
}

// addIncident counts an audit to its incident.
func (s *Store) addIncident(t *tx, a *Audit) error {
	r := &a.Record
	profile := r.ProfileID
	if profile == "" {
		profile = r.Hostname
	}
	at := micros(fromID(a.ID))
	var id, count int64
	err := t.scan(`SELECT id, count FROM incidents WHERE profile = ? AND category = ? AND custom_rule = ? AND first > ?
		AND acknowledged = 0 ORDER BY id DESC LIMIT 1`,
		[]any{profile, r.Category, r.CustomRule, at - incidentTime.Microseconds()}, &id, &count)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		if err := t.scan(`INSERT INTO incidents (category, custom_rule, profile, app_id, instance, first, last, count)
			VALUES (?, ?, ?, ?, ?, ?, ?, 0) RETURNING id`, []any{r.Category, r.CustomRule, profile, r.AppID, a.Instance, at, at}, &id); err != nil {
			return err
		}
		if _, err := t.exec(`DELETE FROM incidents WHERE id <= ?`, id-maxIncidents); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	if count < maxIncidentAudits {
		if _, err := t.exec(`INSERT INTO incident_audits (incident, number, id, raw) VALUES (?, ?, ?, ?)`, id, count, r.ID, string(a.Raw)); err != nil {
			return err
		}
	}
	_, err = t.exec(`UPDATE incidents SET count = count + 1, last = max(last, ?), instance = ? WHERE id = ?`, at, a.Instance, id)
	return err
}

// fromID is the time of an audit's id, to the millisecond.
func fromID(id int64) time.Time { return time.UnixMilli(id >> idBits) }

// IncidentFilter selects incidents. An empty field selects all.
type IncidentFilter struct {
	IDs                []int64
	Categories, AppIDs []string
	Profiles, Rules    []string
	Acknowledged       *bool
	From, To           time.Time // of the last audit
	OldestFirst        bool
	Offset, Limit      int // Limit 0 means 50
}

// conditions are those of the filter, in SQL.
func (f *IncidentFilter) conditions() (where string, args []any) {
	all := []string{"1"}
	add := func(condition string, values ...any) { all, args = append(all, condition), append(args, values...) }
	for column, values := range map[string][]string{"category": f.Categories, "app_id": f.AppIDs, "profile": f.Profiles, "custom_rule": f.Rules} {
		if c := in(column, values); c.text != "" {
			add(c.text, c.args...)
		}
	}
	if c := in("id", f.IDs); c.text != "" {
		add(c.text, c.args...)
	}
	if f.Acknowledged != nil {
		add("acknowledged = ?", *f.Acknowledged)
	}
	if !f.From.IsZero() {
		add("last >= ?", micros(f.From))
	}
	if !f.To.IsZero() {
		add("last <= ?", micros(f.To))
	}
	return strings.Join(all, " AND "), args
}

// Incidents returns the incidents that the filter selects, by their last
// audits, with the audits that they keep.
func (s *Store) Incidents(ctx context.Context, f IncidentFilter) ([]Incident, error) {
	where, args := f.conditions()
	order := "DESC"
	if f.OldestFirst {
		order = "ASC"
	}
	if f.Limit <= 0 {
		f.Limit = 50
	}
	rows, err := s.reads.QueryContext(ctx, `SELECT id, category, custom_rule, profile, app_id, instance, first, last, count, acknowledged, who
		FROM incidents WHERE `+where+` ORDER BY last `+order+`, id `+order+` LIMIT ? OFFSET ?`,
		append(args, f.Limit, max(f.Offset, 0))...)
	if err != nil {
		return nil, fmt.Errorf("reading incidents: %w", err)
	}
	defer rows.Close()
	var all []Incident
	for rows.Next() {
		var i Incident
		var first, last int64
		if err := rows.Scan(&i.ID, &i.Category, &i.CustomRule, &i.Profile, &i.AppID, &i.Instance, &first, &last, &i.Count, &i.Acknowledged, &i.Who); err != nil {
			return nil, fmt.Errorf("reading incidents: %w", err)
		}
		i.First, i.Last = fromMicros(first), fromMicros(last)
		all = append(all, i)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading incidents: %w", err)
	}
	for i := range all {
		if all[i].Audits, err = s.incidentAudits(ctx, all[i].ID); err != nil {
			return nil, fmt.Errorf("reading incident %d: %w", all[i].ID, err)
		}
	}
	return all, nil
}

func (s *Store) incidentAudits(ctx context.Context, incident int64) ([]Audit, error) {
	rows, err := s.reads.QueryContext(ctx, `SELECT id, raw FROM incident_audits WHERE incident = ? ORDER BY number`, incident)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Audit
	for rows.Next() {
		var id, raw string
		if err := rows.Scan(&id, &raw); err != nil {
			return nil, err
		}
		a := Audit{Raw: json.RawMessage(raw)}
		if json.Unmarshal(a.Raw, &a.Record) != nil {
			a.Record = readable(a.Raw)
		}
		a.Record.ID = id
		a.Instance, _, _ = cutLast(id, "-")
		all = append(all, a)
	}
	return all, rows.Err()
}

// Acknowledge says that somebody has looked at an incident, or takes that back.
// What happens after it is another incident.
func (s *Store) Acknowledge(ctx context.Context, who string, id int64, done bool) error {
	err := s.update(ctx, func(t *tx) error {
		name := who
		if !done {
			name = ""
		}
		n, err := t.exec(`UPDATE incidents SET acknowledged = ?, who = ? WHERE id = ?`, done, name, id)
		if err == nil && n == 0 {
			err = fmt.Errorf("incident %d: %w", id, ErrNotFound)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("acknowledging: %w", err)
	}
	return nil
}

// Snapshot is what a Defender remembered of its container at a time.
type Snapshot struct {
	ID       int64     `json:"id"`
	Instance string    `json:"instance"`
	AppID    string    `json:"appID,omitempty"`
	Time     time.Time `json:"time"`
	Asked    bool      `json:"asked"` // somebody wanted it; otherwise an incident did
	Events   int       `json:"events"`
}

// AddSnapshot keeps a snapshot, in zstd; the oldest go.
func (s *Store) AddSnapshot(ctx context.Context, d *Defender, asked bool, events int, data []byte) error {
	if s.Short(ctx, int64(len(data))) {
		return fmt.Errorf("adding forensic data of %q: %w", d.Instance, ErrFull)
	}
	err := s.update(ctx, func(t *tx) error {
		var id int64
		if err := t.scan(`INSERT INTO snapshots (instance, app_id, at, asked, events, data) VALUES (?, ?, ?, ?, ?, ?) RETURNING id`,
			[]any{d.Instance, d.AppID, micros(s.now()), asked, events, data}, &id); err != nil {
			return err
		}
		_, err := t.exec(`DELETE FROM snapshots WHERE id <= ?`, id-maxSnapshots)
		return err
	})
	if err != nil {
		return fmt.Errorf("adding forensic data of %q: %w", d.Instance, err)
	}
	return nil
}

// Snapshots returns those of an instance, newest first; "" means of all.
func (s *Store) Snapshots(ctx context.Context, instance string) ([]Snapshot, error) {
	rows, err := s.reads.QueryContext(ctx, `SELECT id, instance, app_id, at, asked, events FROM snapshots
		WHERE ?1 = '' OR instance = ?1 ORDER BY id DESC`, instance)
	if err != nil {
		return nil, fmt.Errorf("reading forensic data: %w", err)
	}
	defer rows.Close()
	var all []Snapshot
	for rows.Next() {
		var sn Snapshot
		var at int64
		if err := rows.Scan(&sn.ID, &sn.Instance, &sn.AppID, &at, &sn.Asked, &sn.Events); err != nil {
			return nil, fmt.Errorf("reading forensic data: %w", err)
		}
		sn.Time = fromMicros(at)
		all = append(all, sn)
	}
	return all, rows.Err()
}

// SnapshotData returns what a snapshot holds, in zstd.
func (s *Store) SnapshotData(ctx context.Context, id int64) (Snapshot, []byte, error) {
	sn := Snapshot{ID: id}
	var at int64
	var data []byte
	err := s.reads.QueryRowContext(ctx, `SELECT instance, app_id, at, asked, events, data FROM snapshots WHERE id = ?`, id).
		Scan(&sn.Instance, &sn.AppID, &at, &sn.Asked, &sn.Events, &data)
	if err != nil {
		return sn, nil, orNotFound(err, "forensic data %d", id)
	}
	sn.Time = fromMicros(at)
	return sn, data, nil
}

// isIncident reports whether a record is one.
func isIncident(r *audit.Record) bool { return r.Category != "" && len(r.Category) <= 64 }
