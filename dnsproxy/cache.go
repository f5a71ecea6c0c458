package dnsproxy

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

const (
	cacheBytes   = 4 << 20        // of answers, unless configured
	cacheShards  = 16             // each with a lock
	entryBytes   = 320            // of an entry beside its answer and names
	staleFor     = 24 * time.Hour // how long an answer serves when no upstream does
	staleRecheck = 5 * time.Second
)

// cache keeps answers, and of those that nobody asks for again the least
// (SIEVE: an entry that was used since the hand last passed is spared once).
// It never says whether a query is allowed.
type cache struct {
	seed   maphash.Seed
	shards [cacheShards]shard
}

type shard struct {
	mu         sync.RWMutex
	byKey      map[string]*entry
	bytes, max int
	ring       entry  // the newest entry is ring.next; its key is ""
	hand       *entry // where the search for one to drop goes on
}

// entry is an answer that is kept. Only used, retry and pinned change.
type entry struct {
	*answer
	key    string
	domain string // for the judge
	qtype  string
	born   time.Time

	used   atomic.Bool
	pinned atomic.Uint64 // pins.lost plus one when its addresses were noted
	retry  atomic.Int64  // when upstreams are asked again for a stale one, in nanoseconds

	prev, next *entry
}

func newCache(bytes int) *cache {
	c := &cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		s := &c.shards[i]
		s.byKey = make(map[string]*entry)
		s.max = bytes / cacheShards
		s.ring.prev, s.ring.next = &s.ring, &s.ring
	}
	return c
}

func (c *cache) shard(key []byte) *shard {
	return &c.shards[maphash.Bytes(c.seed, key)%cacheShards]
}

// get returns the entry of key, fresh or not, or nil.
func (c *cache) get(key []byte) *entry {
	s := c.shard(key)
	s.mu.RLock()
	e := s.byKey[string(key)]
	s.mu.RUnlock()
	if e != nil && !e.used.Load() {
		e.used.Store(true)
	}
	return e
}

// put keeps an answer in place of an older one.
func (c *cache) put(e *entry) {
	s := c.shard([]byte(e.key))
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.byKey[e.key]; old != nil {
		s.drop(old)
	}
	for s.bytes+e.size() > s.max && s.ring.next != &s.ring {
		s.evict()
	}
	if s.bytes+e.size() > s.max {
		return
	}
	s.byKey[e.key] = e
	s.bytes += e.size()
	e.prev, e.next = &s.ring, s.ring.next
	e.prev.next, e.next.prev = e, e
}

func (s *shard) evict() {
	for {
		if s.hand == nil || s.hand == &s.ring {
			s.hand = s.ring.prev // the oldest
		}
		e := s.hand
		s.hand = e.prev
		if !e.used.Swap(false) {
			s.drop(e)
			return
		}
	}
}

func (s *shard) drop(e *entry) {
	if s.hand == e {
		s.hand = e.prev
	}
	e.prev.next, e.next.prev = e.next, e.prev
	delete(s.byKey, e.key)
	s.bytes -= e.size()
}

// size is what the entry takes of the memory, more or less.
func (e *entry) size() int {
	n := entryBytes + len(e.key) + len(e.domain) + cap(e.wire) + 2*cap(e.ttls) + cap(e.ede)
	for _, name := range e.about.Names {
		n += 16 + len(name)
	}
	return n + 24*len(e.about.Addrs)
}

// fresh reports whether the entry's time has not passed.
func (e *entry) fresh(now time.Time) bool {
	return now.Sub(e.born) < time.Duration(e.ttl)*time.Second
}

// usable reports whether the entry may stand in for an upstream that fails.
func (e *entry) usable(now time.Time) bool {
	return e != nil && now.Sub(e.born) < time.Duration(e.ttl)*time.Second+staleFor
}
