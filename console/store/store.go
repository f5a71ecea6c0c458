// Package store is the Console's memory: users, tokens, Defenders, audits and
// every version of the policy, in one SQLite file.
//
// One goroutine writes. It takes all writes that wait into one transaction, so
// that a hundred Defenders cost one fsync; a write returns when that
// transaction is on the disk. What was acknowledged
// to a Defender is gone there, and a generation once given must never be given
// again: hence synchronous=FULL. Reads have connections of their own and see
// the last transaction.
//
// Another process, such as "console user add", may use the file at the same
// time.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver
)

// What callers branch on.
var (
	ErrNotFound  = errors.New("not found")
	ErrExists    = errors.New("exists already")
	ErrConflict  = errors.New("somebody else changed it in the meantime")
	ErrToken     = errors.New("the enrolment token is unknown, expired or used up")
	ErrRevoked   = errors.New("the Defender is revoked")
	ErrLastAdmin = errors.New("it is the last administrator")
	ErrInvalid   = errors.New("not acceptable") // a name, a password, a token
	ErrClosed    = errors.New("the database is closed")
)

//go:embed migrations/sqlite/*.sql
var migrations embed.FS

// Config says what to open.
type Config struct {
	// Path is the database file. It is made if it does not exist.
	Path string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Store is the database. Create one with [Open].
type Store struct {
	path  string
	now   func() time.Time
	reads *sql.DB
	write *sql.DB

	jobs   chan *job
	stop   chan struct{}
	ended  chan struct{}
	closed sync.Once

	reserve reserve

	look    int    // how many audits a page looks at before it asks the search
	numbers uint64 // the writer's: makes audit ids unique

	explain func(query string, args []any) // tests look at queries
}

// Open opens the database and brings it to the newest form. The caller closes
// it.
func Open(ctx context.Context, conf Config) (*Store, error) {
	if conf.Now == nil {
		conf.Now = time.Now
	}
	s, err := open(ctx, conf)
	if err != nil {
		return nil, fmt.Errorf("opening database %q: %w", conf.Path, err)
	}
	return s, nil
}

func open(ctx context.Context, conf Config) (*Store, error) {
	path, err := filepath.Abs(conf.Path)
	if err != nil {
		return nil, err
	}
	// SQLite gives its other files the mode of this one.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	f.Close()

	s := &Store{
		path:  path,
		now:   conf.Now,
		jobs:  make(chan *job, maxJobs),
		stop:  make(chan struct{}),
		ended: make(chan struct{}),
		look:  maxLook,
	}
	if s.write, err = connect(path, 1, "synchronous(FULL)", "wal_autocheckpoint(8192)", "cache_size(-65536)"); err != nil {
		return nil, err
	}
	if s.reads, err = connect(path, 8, "query_only(1)", "cache_size(-16384)"); err != nil {
		s.write.Close()
		return nil, err
	}
	conn, err := s.prepare(ctx)
	if err != nil {
		s.reads.Close()
		s.write.Close()
		return nil, err
	}
	go s.writer(conn)
	return s, nil
}

// connect opens a pool of at most n connections.
func connect(path string, n int, pragmas ...string) (*sql.DB, error) {
	query := url.Values{"_txlock": {"immediate"}}
	for _, p := range append([]string{"busy_timeout(10000)", "journal_mode(WAL)", "foreign_keys(1)", "temp_store(MEMORY)"}, pragmas...) {
		query.Add("_pragma", p)
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

// prepare migrates the database and returns the writer's connection.
func (s *Store) prepare(ctx context.Context) (*sql.Conn, error) {
	scripts, err := fs.Sub(migrations, "migrations/sqlite")
	if err != nil {
		return nil, err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, s.write, scripts)
	if err != nil {
		return nil, err
	}
	// Another process may do the same at this moment; whoever comes second
	// fails, and finds it done.
	for tries := 1; ; tries++ {
		if _, err := provider.Up(ctx); err == nil {
			return s.write.Conn(ctx)
		} else if tries == 3 || ctx.Err() != nil {
			return nil, fmt.Errorf("migrating: %w", err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// Close ends the writer after the writes that wait and closes the database. It
// may be called twice.
func (s *Store) Close() error {
	var err error
	s.closed.Do(func() {
		close(s.stop)
		<-s.ended
		err = errors.Join(s.write.Close(), s.reads.Close())
	})
	return err
}

// micros is a time as the tables have it; the zero time is 0.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// fromMicros is the reverse of micros.
func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// orNotFound gives the database's word for no row our name.
func orNotFound(err error, format string, args ...any) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf(format+": %w", append(args, ErrNotFound)...)
	}
	return err
}

// invalidError is an ErrInvalid that does not say so.
type invalidError struct{ error }

func (e invalidError) Is(target error) bool { return target == ErrInvalid }
func (e invalidError) Unwrap() error        { return e.error }

func invalid(format string, args ...any) error { return invalidError{fmt.Errorf(format, args...)} }
