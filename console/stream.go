package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"appdefender/console/store"
)

// feed hands audits that just arrived to those who watch.
type feed struct {
	mu   sync.Mutex
	subs map[*subscription]struct{}
}

// subscription is somebody who watches audits arrive.
type subscription struct {
	// C has batches of new audits, unfiltered. The audits are shared: they
	// must not be changed.
	C    <-chan []store.Audit
	feed *feed
	in   chan []store.Audit
	lost int // under feed.mu
}

// feedSize is how many batches wait for a slow reader.
const feedSize = 64

// subscribe begins to watch. The caller closes the subscription.
func (s *Server) subscribe() *subscription {
	in := make(chan []store.Audit, feedSize)
	sub := &subscription{C: in, feed: &s.feed, in: in}
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	if s.feed.subs == nil {
		s.feed.subs = make(map[*subscription]struct{})
	}
	s.feed.subs[sub] = struct{}{}
	return sub
}

// Close ends the watching. It may be called twice.
func (sub *subscription) Close() {
	sub.feed.mu.Lock()
	defer sub.feed.mu.Unlock()
	delete(sub.feed.subs, sub)
}

// Lost returns how many audits did not fit since the last call.
func (sub *subscription) Lost() int {
	sub.feed.mu.Lock()
	defer sub.feed.mu.Unlock()
	n := sub.lost
	sub.lost = 0
	return n
}

// publish never waits: a page that cannot follow must not slow a Defender.
func (f *feed) publish(audits []store.Audit) {
	if len(audits) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for sub := range f.subs {
		select {
		case sub.in <- audits:
		default:
			sub.lost += len(audits)
		}
	}
}

const (
	streamPause = 200 * time.Millisecond // between two events
	streamMax   = 100                    // audits in an event; the older ones are counted as lost
	streamAlive = 15 * time.Second       // between two comments that keep the line open
)

// Event is one event of a live page: what arrived since the last one.
type Event struct {
	Audits []store.Audit // as they arrived
	Lost   int           // matched, perhaps, but are left out: there were too many
}

// Stream calls send for what arrives and the filter selects, a few times a
// second at most, and with an empty Event now and then to keep the line open.
// It returns when the client is gone, its session has ended, send fails, or
// the Console stops. The response's deadlines are its business.
func (s *Server) Stream(w http.ResponseWriter, r *http.Request, f store.AuditFilter, send func(Event) error) error {
	sub := s.subscribe()
	defer sub.Close()
	rc := http.NewResponseController(w)
	say := func(e Event) error {
		_ = rc.SetWriteDeadline(time.Now().Add(answerTime))
		if err := send(e); err != nil {
			return err
		}
		return rc.Flush()
	}
	if err := say(Event{}); err != nil { // the client knows that it is connected
		return nil
	}
	alive := time.NewTicker(streamAlive)
	defer alive.Stop()
	var pending Event
	var pause <-chan time.Time
	for {
		select {
		case <-r.Context().Done():
			return nil
		case <-s.stop:
			return nil
		case <-alive.C:
			if ses, err := s.authenticate(r); err != nil || ses == nil {
				return nil
			}
			if pause == nil && say(Event{}) != nil {
				return nil
			}
			continue
		case batch := <-sub.C:
			for i := range batch {
				if f.Match(&batch[i]) {
					pending.Audits = append(pending.Audits, batch[i])
				}
			}
			if n := len(pending.Audits) - streamMax; n > 0 {
				pending.Lost += n
				pending.Audits = append([]store.Audit(nil), pending.Audits[n:]...)
			}
			if pause != nil || len(pending.Audits) == 0 {
				continue
			}
		case <-pause:
			pause = nil
		}
		pending.Lost += sub.Lost()
		if len(pending.Audits) == 0 && pending.Lost == 0 {
			continue
		}
		if say(pending) != nil {
			return nil
		}
		pending = Event{}
		pause = time.After(streamPause)
	}
}

// streamAudits sends what arrives as server-sent events: "audits" with a list,
// "lost" with how many were too many. A client that comes back asks for what
// it missed by GET /api/v1/audits.
func (s *Server) streamAudits(w http.ResponseWriter, r *http.Request) error {
	f, _, err := strictAuditQuery(r, s.now())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	return s.Stream(w, r, f, func(e Event) error {
		if len(e.Audits) == 0 && e.Lost == 0 {
			_, err := fmt.Fprint(w, ": connected\n\n")
			return err
		}
		if len(e.Audits) > 0 {
			all, err := auditsJSON(e.Audits)
			if err != nil {
				return err
			}
			b, err := json.Marshal(all)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(w, "event: audits\ndata: %s\n\n", b); err != nil {
				return err
			}
		}
		if e.Lost > 0 {
			if _, err := fmt.Fprintf(w, "event: lost\ndata: %d\n\n", e.Lost); err != nil {
				return err
			}
		}
		return nil
	})
}
