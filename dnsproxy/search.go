package dnsproxy

import (
	"strings"
	"sync"
	"time"

	"appdefender/policy"
)

const (
	repeatWithin = 10 * time.Second
	maxRefusals  = 256
)

// refusals are the names that were refused of late, and to whom. The zero
// refusals is empty and ready.
type refusals struct {
	mu   sync.Mutex
	last [maxRefusals]refusal
	next int
}

type refusal struct {
	pid  int
	name string
	at   time.Time
}

// repeats reports whether a refused name is one that a resolver made of
// another, which was refused to the same process a moment ago, and the search
// list. It remembers the name otherwise.
func (p *Proxy) repeats(ev *policy.Event) bool {
	if len(p.conf.Search) == 0 || ev.Kind != policy.Lookup || ev.Subject.PID == 0 {
		return false
	}
	r := &p.refused
	r.mu.Lock()
	defer r.mu.Unlock()
	now := p.now()
	for _, suffix := range p.conf.Search {
		name, ok := strings.CutSuffix(ev.Domain, "."+suffix)
		if !ok {
			continue
		}
		for i := range r.last {
			if known := &r.last[i]; known.pid == ev.Subject.PID && known.name == name && now.Sub(known.at) < repeatWithin {
				return true
			}
		}
	}
	r.last[r.next] = refusal{ev.Subject.PID, ev.Domain, now}
	r.next = (r.next + 1) % maxRefusals
	return false
}
