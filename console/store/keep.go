package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// ErrFull means that the disk has no room for what was to be kept.
var ErrFull = errors.New("the Console's disk is full")

// PruneStep is how many audits one call of [Store.Prune] removes at most: so
// few that who writes in between hardly waits.
const PruneStep = 500

// Limits say how much is kept.
type Limits struct {
	Age   time.Duration // of audits; 0: whatever their age
	Bytes int64         // of the database; 0: whatever its size
}

// Prune removes the oldest audits that are beyond the limits, PruneStep at
// most, and returns how many they were. Sessions that have ended go too, and
// Defenders of which nothing was heard for Age and no audit is left: one that
// comes back enrols again. Who was revoked stays, to stay out.
//
// The file does not become smaller; what is free in it is used again.
func (s *Store) Prune(ctx context.Context, l Limits) (int, error) {
	now := s.now()
	removed := 0      // not the result itself: update may give up waiting for what still writes this
	last := int64(-1) // the highest id to remove
	if l.Age > 0 {
		last = firstID(now.Add(-l.Age)) - 1
	}
	if l.Bytes > 0 {
		used, _, err := s.size(ctx)
		if err != nil {
			return 0, fmt.Errorf("pruning: %w", err)
		}
		if used > l.Bytes {
			last = 1<<63 - 1
		}
	}
	err := s.update(ctx, func(t *tx) error {
		const oldest = ` IN (SELECT id FROM audits WHERE id <= ? ORDER BY id LIMIT ?)`
		if _, err := t.exec(`DELETE FROM audits_text WHERE rowid`+oldest, last, PruneStep); err != nil {
			return err
		}
		n, err := t.exec(`DELETE FROM audits WHERE id`+oldest, last, PruneStep)
		if err != nil {
			return err
		}
		removed = int(n)
		if _, err := t.exec(`DELETE FROM sessions WHERE expires < ?`, micros(now)); err != nil || l.Age == 0 {
			return err
		}
		_, err = t.exec(`DELETE FROM defenders WHERE id IN (SELECT id FROM defenders d WHERE last_seen < ? AND revoked IS NULL
			AND NOT EXISTS (SELECT 1 FROM audits WHERE defender = d.id) LIMIT ?)`, micros(now.Add(-l.Age)), PruneStep)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("pruning: %w", err)
	}
	return removed, nil
}

// size returns how many bytes the database uses and how many in its file are
// free.
func (s *Store) size(ctx context.Context) (used, free int64, err error) {
	err = s.reads.QueryRowContext(ctx, `SELECT (page_count - freelist_count) * page_size, freelist_count * page_size
		FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()`).Scan(&used, &free)
	return used, free, err
}

// reserve is what audits leave of the disk, so that people can still sign in,
// look, and make room.
type reserve struct {
	mu      sync.Mutex
	at      time.Time // of the last look
	written int64     // bytes of records since
	short   bool
}

// lookEvery is how many bytes of records are taken between two looks at the
// disk; with indices and the log of writes they are several times as much.
const lookEvery = 128 << 10

// Short reports whether there is no room for so many bytes of audits: of the
// disk, a tenth is left, or 64 MiB. It looks once a second, or more often under
// load.
func (s *Store) Short(ctx context.Context, n int64) bool {
	r := &s.reserve
	r.mu.Lock()
	defer r.mu.Unlock()
	r.written += n
	if time.Since(r.at) < time.Second && (r.short || r.written < lookEvery) {
		return r.short
	}
	var disk syscall.Statfs_t
	_, free, err := s.size(ctx)
	if err != nil || syscall.Statfs(filepath.Dir(s.path), &disk) != nil {
		return r.short // writing will tell
	}
	// What the log of writes holds will need room in the database.
	if info, err := os.Stat(s.path + "-wal"); err == nil {
		free -= info.Size()
	}
	r.at, r.written = time.Now(), 0
	r.short = int64(disk.Bavail)*disk.Bsize+free < min(int64(disk.Blocks)*disk.Bsize/10, 64<<20) //nolint:gosec // sizes
	return r.short
}

// Checkpoint moves what the log of writes holds into the database and empties
// the log, which otherwise keeps its greatest size.
func (s *Store) Checkpoint(ctx context.Context) error {
	db, err := connect(s.path, 1)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`)
	return err
}

// full gives the database's word for a full disk ours.
func full(err error) error {
	if e, ok := errors.AsType[*sqlite.Error](err); ok && e.Code()&0xff == sqlite3.SQLITE_FULL || errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// Backup writes the database, as it is at this moment, to a new file. The
// Console may go on working meanwhile.
func (s *Store) Backup(ctx context.Context, path string) error {
	// SQLite would make it for all to read.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = f.Close()
	if err == nil {
		err = s.vacuumInto(ctx, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func (s *Store) vacuumInto(ctx context.Context, path string) error {
	db, err := connect(s.path, 1)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, `VACUUM INTO ?`, path); err != nil {
		return full(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
