package audit

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// When records are summed up, as in the reference's audits.
const (
	eachOf    = 5                // so many of a kind are written as they are
	eachIn    = 15 * time.Minute // within this time; with one more a sum begins
	sumPeriod = 10 * time.Minute // which lasts so long
	// maxTallies bounds the different messages of a sum.
	maxTallies = 50
)

// Sums is a [Sink] before another. Of what comes too often it writes how much
// it was: with more than five records of a kind within 15 minutes one says
// that, and the others of the next 10 minutes become one record, the last of
// them, with their number and each different message. Then counting begins
// anew.
//
// Records are of a kind if the same was detected, by the same custom rule, and
// either all or none was refused: what got through is not lost among what was
// stopped. The Defender's own news are of none. A sum is in memory until it is
// written, and lost with a process that is killed.
type Sums struct {
	next      Sink
	container string

	mu     sync.Mutex // held while next writes
	kinds  map[kind]*kindState
	lost   error // of a sum that could not be written
	closed bool
}

type kind struct {
	attack, custom string
	refused        bool
}

// kindState is what is known of a kind: the times of its last records, or the
// sum that runs.
type kindState struct {
	times []time.Time
	sum   *period
}

// period is the records that are summed up.
type period struct {
	end     *time.Timer
	last    Record
	count   int
	tallies map[string]int
	others  int // with messages beyond maxTallies
}

// Tally says how often a message was summed up.
type Tally struct {
	Msg   string `json:"msg"`
	Count int    `json:"count"`
}

// NewSums returns a sink that sums up records of src before next.
func NewSums(src *Source, next Sink) *Sums {
	container := cmp.Or(clean(src.Container), clean(src.AppID), clean(src.Hostname), "without a name")
	return &Sums{next: next, container: container, kinds: make(map[kind]*kindState)}
}

// Write writes a record, or adds it to a sum. An error may be that of a sum
// which was written in between.
func (s *Sums) Write(r Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	lost := s.lost
	s.lost = nil
	r, whole := s.take(r)
	if !whole {
		return lost
	}
	return errors.Join(s.next.Write(r), lost)
}

// take returns what is to be written of a record, if anything is. s.mu is held.
func (s *Sums) take(r Record) (_ Record, whole bool) {
	if r.AttackType == "" || s.closed {
		return r, true
	}
	k := kind{r.AttackType, r.CustomRule, r.Refused}
	state := s.kinds[k]
	if state == nil {
		state = &kindState{}
		s.kinds[k] = state
	}
	if state.sum != nil {
		state.sum.add(r)
		return r, false
	}
	// Our clock counts, not the record's: that one may be set.
	now := time.Now()
	state.times = slices.DeleteFunc(state.times, func(t time.Time) bool { return now.Sub(t) > eachIn })
	if len(state.times) < eachOf {
		state.times = append(state.times, now)
		return r, true
	}
	running := &period{tallies: make(map[string]int)}
	running.end = time.AfterFunc(sumPeriod, func() { s.end(k, running) })
	state.times, state.sum = nil, running
	r.Msg = fmt.Sprintf("High rate of %s events, reporting aggregation started; last event: %s", r.AttackType, r.Msg)
	return r, true
}

// end writes the sum of a kind whose period is over.
func (s *Sums) end(k kind, over *period) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	delete(s.kinds, k)
	s.lost = errors.Join(s.lost, s.write(over))
}

// write writes a sum, if there is anything in it. s.mu is held.
func (s *Sums) write(over *period) error {
	if over.count == 0 {
		return nil
	}
	return s.next.Write(over.record(s.container))
}

// Close writes the sums that run and stops summing up. It leaves the next sink
// open.
func (s *Sums) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	lost := s.lost
	for _, state := range s.kinds {
		if state.sum != nil {
			state.sum.end.Stop()
			lost = errors.Join(lost, s.write(state.sum))
		}
	}
	s.kinds, s.lost, s.closed = nil, nil, true
	return lost
}

func (s *period) add(r Record) {
	s.last = r
	s.count++
	if _, known := s.tallies[r.Msg]; !known && len(s.tallies) == maxTallies {
		s.others++
		return
	}
	s.tallies[r.Msg]++
}

// record is the last of the records, and what is said of all.
func (s *period) record(container string) Record {
	r := s.last
	r.ID, r.Time, r.Count = "", time.Now().UTC().Round(time.Microsecond), s.count
	for msg, n := range s.tallies {
		r.Events = append(r.Events, Tally{msg, n})
	}
	slices.SortFunc(r.Events, func(a, b Tally) int { return cmp.Or(b.Count-a.Count, cmp.Compare(a.Msg, b.Msg)) })
	if s.others > 0 {
		r.Events = append(r.Events, Tally{"others", s.others})
	}
	r.Msg = fmt.Sprintf("In the past 10 minutes, container %s had %d events of type %s; The most recent event was: %s", container, s.count, r.AttackType, r.Msg)
	return r
}
