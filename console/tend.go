package console

import (
	"context"
	"fmt"
	"sync"
	"time"

	"appdefender/console/store"
)

// tendEvery is how often Tend looks at what is kept.
const tendEvery = time.Minute

// Tend sees to it that no more is kept than was asked for, until ctx ends. It
// never takes more than half of the time for writing.
func (s *Server) Tend(ctx context.Context) {
	for {
		s.tend(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(tendEvery):
		}
	}
}

func (s *Server) tend(ctx context.Context) {
	if s.store.Short(ctx, 0) {
		s.log.Error("the disk is nearly full: audits wait with their Defenders; make room, or keep less (--keep-audits, --max-size)")
		if err := s.store.Checkpoint(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("making room", "error", err)
		}
	}
	for total := 0; ctx.Err() == nil; {
		begun := time.Now()
		n, err := s.store.Prune(ctx, s.keep)
		total += n
		if err != nil && ctx.Err() == nil {
			s.log.Error("removing old audits", "error", err)
		}
		if n < store.PruneStep {
			if total > 0 {
				s.log.Info("removed old audits", "count", total)
			}
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Since(begun)):
		}
	}
}

// A Console that was restored from a backup knows fewer generations of the
// policy than it once gave. A Defender that has a later one refuses all that
// it knows, for it cannot tell an old policy from one that somebody plays back.
// So the Console goes on above what it hears of.
const (
	// headroom is for other Defenders, which may have later ones still.
	headroom = 1000
	// mostAhead and overtakeEvery keep a Defender that lies from using the
	// numbers up, and from making all others fetch the policy all the time.
	mostAhead     = 1 << 20
	overtakeEvery = time.Minute
)

// overtaken remembers when that happened last.
type overtaken struct {
	mu sync.Mutex
	at time.Time
}

// overtake gives the newest policy a generation above one that a Defender has.
func (s *Server) overtake(ctx context.Context, instance string, generation uint64) {
	s.overtaken.mu.Lock()
	defer s.overtaken.mu.Unlock()
	now := s.now()
	if last := s.overtaken.at; !last.IsZero() && now.Sub(last) < overtakeEvery {
		return
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	newest := s.newest().Generation
	switch {
	case generation < newest:
		return
	case generation-newest > mostAhead:
		s.log.Warn("a Defender claims a policy that this Console cannot have given", "instance", instance, "generation", generation, "newest", newest)
		s.overtaken.at = now
		return
	}
	what := fmt.Sprintf("went on above the policy of Defender %q, which has generation %d: was this Console restored from a backup?", instance, generation)
	v, err := s.store.AdvancePolicy(context.WithoutCancel(ctx), generation+headroom, systemUser, what)
	if err == nil {
		err = s.publish(v)
	}
	if err != nil {
		s.log.Error("going on above a Defender's policy", "instance", instance, "generation", generation, "error", err)
		return
	}
	s.overtaken.at = now
	s.log.Warn("a Defender has a policy that this Console does not know; was it restored from a backup?",
		"instance", instance, "generation", generation, "now", v.Generation)
}
