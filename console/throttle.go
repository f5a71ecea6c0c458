package console

import (
	"strings"
	"sync"
	"time"
)

// throttle slows down who guesses passwords. Wrong ones are counted for the
// pair of address and name, for the address, and for the name; beyond a number
// of free ones each must wait longer than the one before, up to a bound. The
// bound for a name is short: who guesses from everywhere must not lock its
// owner out.
type throttle struct {
	now     func() time.Time
	mu      sync.Mutex
	entries map[string]*attempts
}

type attempts struct {
	failed int
	last   time.Time
	until  time.Time // none before
}

const (
	maxAttempts = 10_000 // entries
	forgetAfter = 15 * time.Minute
)

// loginKey is something that attempts are counted for.
type loginKey struct {
	key  string
	free int
	most time.Duration
}

func loginKeys(addr, name string) []loginKey {
	name = strings.ToLower(name)
	if len(name) > 128 {
		name = name[:128]
	}
	return []loginKey{
		{"pair " + addr + " " + name, 5, 5 * time.Minute},
		{"addr " + addr, 20, 5 * time.Minute},
		{"name " + name, 50, 2 * time.Second},
	}
}

func newThrottle(now func() time.Time) *throttle {
	return &throttle{now: now, entries: make(map[string]*attempts)}
}

// begin counts an attempt as failed until succeeded takes that back, so that
// many at once do not all pass. It returns how long to wait, 0 to go on.
func (t *throttle) begin(keys []loginKey) (wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for _, k := range keys {
		if e := t.entries[k.key]; e != nil {
			wait = max(wait, e.until.Sub(now))
		}
	}
	if wait > 0 {
		return wait
	}
	if len(t.entries) > maxAttempts {
		for key, e := range t.entries {
			if now.Sub(e.last) > forgetAfter {
				delete(t.entries, key)
			}
		}
		if len(t.entries) > maxAttempts {
			clear(t.entries) // a flood of names: start over rather than grow
		}
	}
	for _, k := range keys {
		e := t.entries[k.key]
		if e == nil || now.Sub(e.last) > forgetAfter {
			e = new(attempts)
			t.entries[k.key] = e
		}
		e.failed++
		e.last = now
		if over := e.failed - k.free; over >= 0 {
			e.until = now.Add(min(time.Second<<min(over, 20), k.most))
		}
	}
	return 0
}

// succeeded forgets the attempts of the pair and takes this one back from the
// others.
func (t *throttle) succeeded(keys []loginKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, k := range keys {
		e := t.entries[k.key]
		switch {
		case e == nil:
		case i == 0:
			delete(t.entries, k.key)
		default:
			e.failed--
			if e.failed < k.free {
				e.until = time.Time{}
			}
		}
	}
}
