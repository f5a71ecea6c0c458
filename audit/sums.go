package audit

import (
	"cmp"
	"encoding/json"
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
	// keepEach is how often the sums that run are kept, at most.
	keepEach = time.Second
	// sumsName is the file they are kept in, and maxKept bounds, in bytes, for
	// how many of them the different messages are kept.
	sumsName = "sums"
	maxKept  = 1 << 20
)

// Keeper keeps files over a restart. A [Spool] does.
type Keeper interface {
	Save(name string, data []byte) error
	Load(name string) ([]byte, error)
	Forget(name string)
}

// Sums is a [Sink] before another. Of what comes too often it writes how much
// it was: with more than five records of a kind within 15 minutes one says
// that, and the others of the next 10 minutes become one record, the last of
// them, with their number and each different message. Then counting begins
// anew.
//
// Records are of a kind if the same was detected, by the same custom rule, and
// either all or none was refused: what got through is not lost among what was
// stopped. The Defender's own news are of none.
//
// A sum that runs is in memory, and what it would be now is kept as a file once
// a second: a process that is killed loses the last second of it, and the next
// one writes it. Without a Keeper that keeps it is lost as a whole.
//
// Lock order: keeping, then mu.
type Sums struct {
	next      Sink
	keep      Keeper
	container string

	keeping sync.Mutex // held while the sums are kept

	mu     sync.Mutex // held while next writes
	kinds  map[kind]*kindState
	soon   bool  // the sums will be kept
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

// NewSums returns a sink that sums up records of src before next, and writes
// the sums that a killed process left.
func NewSums(src *Source, next Sink, keep Keeper) *Sums {
	container := cmp.Or(Clean(src.Container), Clean(src.AppID), Clean(src.Hostname), "without a name")
	s := &Sums{next: next, keep: keep, container: container, kinds: make(map[kind]*kindState)}
	var left []Record
	if data, err := keep.Load(sumsName); err == nil && json.Unmarshal(data, &left) == nil {
		for i := range left {
			s.lost = errors.Join(s.lost, next.Write(left[i]))
		}
	}
	keep.Forget(sumsName)
	return s
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
		s.keepSoon()
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
	s.keepSoon()
}

// keepSoon has the sums kept within a second. s.mu is held.
func (s *Sums) keepSoon() {
	if !s.soon {
		s.soon = true
		time.AfterFunc(keepEach, s.keepNow)
	}
}

// keepNow keeps the sums that run. Whether that works is seen, and said, where
// the records are kept.
func (s *Sums) keepNow() {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	s.mu.Lock()
	s.soon = false
	var list []Record
	for _, state := range s.kinds {
		if state.sum != nil && state.sum.count > 0 {
			r := state.sum.record(s.container)
			r.Time = state.sum.last.Time
			list = append(list, r)
		}
	}
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return
	}
	if len(list) == 0 {
		s.keep.Forget(sumsName)
		return
	}
	for i, size := 0, 0; i < len(list); i++ {
		for _, e := range list[i].Events {
			size += len(e.Msg)
		}
		if size > maxKept {
			list[i].Events = nil
		}
	}
	data, err := json.Marshal(list)
	if err == nil {
		_ = s.keep.Save(sumsName, data)
	}
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
	s.keeping.Lock()
	defer s.keeping.Unlock()
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
	s.keep.Forget(sumsName)
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
