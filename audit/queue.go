package audit

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"appdefender/policy"
)

const (
	defaultSize = 8192
	// mergeWindow is how long the retries of a launch are gathered.
	mergeWindow = time.Second
	// maxHeld bounds the launches that wait for a retry.
	maxHeld = 256
	// flushTimeout bounds how long the end may take.
	flushTimeout = 2 * time.Second
)

// Sink is where records go. Write is called by one goroutine at a time; an
// error means that the record is lost there.
type Sink interface {
	Write(Record) error
}

// Config says how a Queue works.
type Config struct {
	// Source numbers and signs the records. It must not be nil.
	Source *Source
	// Size is how many records wait at most; 0 means 8192.
	Size int
	// Trouble is told once when a sink begins to lose records, and again only
	// after it had recovered. nil tells nobody.
	Trouble func(error)
}

// Queue takes records from many goroutines and hands them to sinks from one.
// Create one with [NewQueue].
type Queue struct {
	src     *Source
	trouble func(error)
	records chan *Record // pointers: room for the records themselves would be 5 MB that every start pays for
	lost    atomic.Uint64
	allLost atomic.Uint64
}

// NewQueue returns an empty queue. It starts nothing.
func NewQueue(conf Config) *Queue {
	if conf.Size <= 0 {
		conf.Size = defaultSize
	}
	if conf.Trouble == nil {
		conf.Trouble = func(error) {}
	}
	return &Queue{
		src:     conf.Source,
		trouble: conf.Trouble,
		records: make(chan *Record, conf.Size),
	}
}

// Add never blocks: a slow sink must not slow the target. What does not fit is
// counted, and before the next record comes one that says how many are missing.
func (q *Queue) Add(r Record) {
	select {
	case q.records <- &r:
	default:
		q.lost.Add(1)
		q.allLost.Add(1)
	}
}

// Notice adds the Defender's own news.
func (q *Queue) Notice(msg string) { q.Add(Notice(q.src, msg, time.Time{})) }

// Lost returns how many records did not fit since the start.
func (q *Queue) Lost() uint64 { return q.allLost.Load() }

// Run writes records to the sinks until ctx ends, then what is left, and
// returns nil. It is called once.
//
// The end takes two seconds at most. A sink that is then still inside Write,
// such as a pipe that nobody reads, keeps its goroutine: a blocked write(2)
// cannot be called off.
func (q *Queue) Run(ctx context.Context, sinks ...Sink) error {
	w := &writer{queue: q}
	for _, s := range sinks {
		w.sinks = append(w.sinks, &sinkState{Sink: s})
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.run(ctx)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-ended:
	case <-time.After(flushTimeout):
	}
	return nil
}

// writer is the one goroutine that numbers and writes.
type writer struct {
	queue *Queue
	sinks []*sinkState
	seq   uint64
	held  []held // in order of their first records
}

// held is a launch that waits for its retries.
type held struct {
	key    retryKey
	record Record
}

// sinkState is a sink and what it lost since it last worked.
type sinkState struct {
	Sink
	lost int
	err  error
}

func (w *writer) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case r := <-w.queue.records:
			w.take(*r)
		case <-timer.C:
			// With records waiting, theirs are the times that count: when we
			// are late, a retry that is still queued must find its first.
			if len(w.queue.records) == 0 {
				w.release(time.Now())
			}
		case <-ctx.Done():
			w.flush()
			return
		}
		if len(w.held) > 0 {
			timer.Reset(max(time.Until(w.held[0].record.Time.Add(mergeWindow)), time.Millisecond))
		} else {
			timer.Stop()
		}
	}
}

// flush writes what is there. Who still adds records cannot keep it from
// ending.
func (w *writer) flush() {
	for range cap(w.queue.records) {
		select {
		case r := <-w.queue.records:
			w.take(*r)
			continue
		default:
		}
		break
	}
	for _, h := range w.held {
		w.write(h.record)
	}
	w.held = nil
	w.confessQueue()
}

// retryKey is what the retries of one launch have in common. A shell that may
// not start a file tries the next directory of PATH, which may hold the same
// file under another name; to the reader that is one launch.
type retryKey struct {
	pid               int
	dev, ino          uint64
	command, detected string
	refused           bool
}

// keyOf also joins the tries of a process whose calls cannot be read: a shell
// makes a dozen of them along PATH.
func keyOf(r *Record) (retryKey, bool) {
	return retryKey{r.PID, r.Dev, r.Ino, r.Command, r.AttackType, r.Refused},
		r.Type == typeProcesses && (r.Ino != 0 || r.AttackType == string(policy.Unreadable))
}

// take writes r at once, or keeps it if it is a launch that may be tried again,
// or counts it if it is such a retry.
func (w *writer) take(r Record) {
	w.release(r.Time)
	key, mergeable := keyOf(&r)
	if !mergeable {
		w.write(r)
		return
	}
	for i := range w.held {
		// Threads add their records out of order, by a little.
		if first := &w.held[i].record; w.held[i].key == key && r.Time.Sub(first.Time).Abs() <= mergeWindow {
			if r.Time.Before(first.Time) {
				r, *first = *first, r
			}
			first.Count += r.Count
			return
		}
	}
	if len(w.held) == maxHeld {
		w.write(w.held[0].record)
		w.held = slices.Delete(w.held, 0, 1)
	}
	w.held = append(w.held, held{key, r})
}

// release writes the launches whose window was over at t.
func (w *writer) release(t time.Time) {
	w.held = slices.DeleteFunc(w.held, func(h held) bool {
		over := t.Sub(h.record.Time) > mergeWindow
		if over {
			w.write(h.record)
		}
		return over
	})
}

// write confesses what the queue lost, then writes r.
func (w *writer) write(r Record) {
	w.confessQueue()
	w.emit(r)
}

func (w *writer) confessQueue() {
	if n := w.queue.lost.Swap(0); n > 0 {
		w.emit(confession(w.queue.src, n, "the audit queue was full"))
	}
}

// emit numbers r and hands it to each sink. A sink that works again after it
// lost records confesses them at once, in a record that goes to all sinks, so
// that numbers have no gaps.
func (w *writer) emit(r Record) {
	w.seq++
	r.ID = w.queue.src.Instance + "-" + strconv.FormatUint(w.seq, 10)
	var recovered []*sinkState
	for _, s := range w.sinks {
		if err := s.Write(r); err != nil {
			if s.lost == 0 {
				w.queue.trouble(fmt.Errorf("writing audit record: %w", err))
			}
			s.lost++
			s.err = err
		} else if s.lost > 0 {
			recovered = append(recovered, s)
		}
	}
	for _, s := range recovered {
		n := s.lost
		if n == 0 {
			continue // it did so while another one confessed
		}
		s.lost = 0
		w.emit(confession(w.queue.src, uint64(n), "writing them: "+s.err.Error())) //nolint:gosec // n > 0
		if s.lost > 0 {
			s.lost += n // that was lost too
		}
	}
}
