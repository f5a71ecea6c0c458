package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
)

const (
	// maxJobs is how many writes share a transaction, and how many wait.
	maxJobs = 64
	// maxRows ends a transaction early, so that nobody waits long for the
	// first write in it.
	maxRows = 8192
)

// job is a write that waits for its transaction.
type job struct {
	ctx  context.Context
	do   func(*tx) error
	err  error // of do
	done chan error
}

// tx is the writer's transaction. Its statements are prepared once.
type tx struct {
	ctx   context.Context
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
	rows  int // written
	texts []text
}

func (t *tx) stmt(query string) (*sql.Stmt, error) {
	if st, ok := t.stmts[query]; ok {
		return st, nil
	}
	st, err := t.conn.PrepareContext(t.ctx, query)
	if err != nil {
		return nil, fmt.Errorf("preparing %q: %w", query, err)
	}
	t.stmts[query] = st
	return st, nil
}

// exec returns the number of rows changed.
func (t *tx) exec(query string, args ...any) (int64, error) {
	st, err := t.stmt(query)
	if err != nil {
		return 0, err
	}
	t.rows++
	res, err := st.ExecContext(t.ctx, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// scan reads the one row of a query.
func (t *tx) scan(query string, args []any, dest ...any) error {
	st, err := t.stmt(query)
	if err != nil {
		return err
	}
	return st.QueryRowContext(t.ctx, args...).Scan(dest...)
}

// change writes what people want to know later: who did what.
func (t *tx) change(at int64, who, format string, args ...any) error {
	_, err := t.exec(`INSERT INTO changes (at, who, what) VALUES (?, ?, ?)`, at, who, fmt.Sprintf(format, args...))
	return err
}

// update runs do in the writer and returns when what it wrote is on the disk.
// If ctx ends first, the write may still happen. do must not keep the tx, and
// it may be run twice.
func (s *Store) update(ctx context.Context, do func(*tx) error) error {
	j := &job{ctx: ctx, do: do, done: make(chan error, 1)}
	select {
	case <-s.stop:
		return ErrClosed
	default:
	}
	select {
	case s.jobs <- j:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stop:
		return ErrClosed
	}
	select {
	case err := <-j.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ended:
		select {
		case err := <-j.done:
			return err
		default:
			return ErrClosed // it came too late for the writer
		}
	}
}

// writer owns conn and runs the jobs.
func (s *Store) writer(conn *sql.Conn) {
	defer close(s.ended)
	defer conn.Close()
	t := &tx{ctx: context.Background(), conn: conn, stmts: make(map[string]*sql.Stmt)}
	defer func() {
		for _, st := range t.stmts {
			st.Close()
		}
	}()
	for {
		select {
		case j := <-s.jobs:
			s.commit(t, j)
			continue
		case <-s.stop:
		}
		for { // what waits already
			select {
			case j := <-s.jobs:
				s.commit(t, j)
				continue
			default:
			}
			return
		}
	}
}

// commit runs j and what else waits in one transaction, and tells them all.
//
// There are no savepoints: they would cost a fifth of all writing. A job that
// fails before it wrote anything harms nobody; if one fails later, all are
// rolled back and run again, each in a transaction of its own.
func (s *Store) commit(t *tx, j *job) {
	jobs := make([]*job, 0, maxJobs)
	jobs = append(jobs, j)
	for more := true; more && len(jobs) < maxJobs; {
		select {
		case j := <-s.jobs:
			jobs = append(jobs, j)
		default:
			more = false
		}
	}
	for len(jobs) > 0 {
		n, err := t.transact(jobs)
		if errors.Is(err, errAlone) {
			for _, j := range jobs[:n] {
				if _, err := t.transact([]*job{j}); err != nil {
					j.err = err
				}
				j.done <- j.err
			}
		} else {
			for _, j := range jobs[:n] {
				if err != nil {
					j.err = err
				}
				j.done <- j.err
			}
		}
		jobs = jobs[n:]
	}
}

// errAlone means that the jobs must be run alone.
var errAlone = errors.New("a write failed among others")

// transact runs the first jobs, as many as fit, in one transaction and returns
// how many. What a job itself returned is in its err; an error of transact
// means that none of them counts.
func (t *tx) transact(jobs []*job) (n int, err error) {
	t.texts = t.texts[:0]
	if _, err := t.exec(`BEGIN IMMEDIATE`); err != nil {
		return len(jobs), fmt.Errorf("writing to the database: %w", full(err))
	}
	t.rows = 0
	for n < len(jobs) && t.rows < maxRows && err == nil {
		j := jobs[n]
		n++
		if j.err = j.ctx.Err(); j.err != nil {
			continue // nobody waits for it
		}
		before := t.rows
		j.err = j.do(t)
		if j.err != nil && t.rows != before {
			err = errAlone
		}
	}
	if err == nil {
		err = t.flushTexts()
	}
	if err == nil {
		_, err = t.exec(`COMMIT`)
	}
	if err == nil {
		return n, nil
	}
	if _, back := t.exec(`ROLLBACK`); back != nil && !errors.Is(err, errAlone) {
		err = errors.Join(err, back) // a failed commit may have rolled back by itself
	}
	switch {
	case n == 1 && jobs[0].err != nil:
		return n, full(jobs[0].err)
	case errors.Is(err, errAlone):
		return n, err
	}
	return n, fmt.Errorf("writing to the database: %w", full(err))
}

// text is a row of the text search.
type text struct {
	id   int64
	text string
}

// flushTexts writes what was put off until all jobs of a transaction had run:
// the search takes rows in the order of their ids many times faster.
func (t *tx) flushTexts() error {
	slices.SortFunc(t.texts, func(a, b text) int { return cmp.Compare(a.id, b.id) })
	for _, row := range t.texts {
		if _, err := t.exec(`INSERT INTO audits_text (rowid, text) VALUES (?, ?)`, row.id, row.text); err != nil {
			return err
		}
	}
	return nil
}
