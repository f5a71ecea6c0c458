package defender

import (
	"encoding/json"
	"sync"
	"time"

	"appdefender/audit"
	"appdefender/defender/supervisor"
	"appdefender/internal/sys"
	"appdefender/policy"
	"appdefender/wire"
)

// aftermath is how long after an incident its forensic data is sent, so that it
// tells what came of it.
const aftermath = 10 * time.Second

// remember notes what a call tries, where forensic data is kept.
func (d *Defender) remember(c *supervisor.Call, ev *policy.Event, allowed bool) {
	if d.ring == nil {
		return
	}
	switch ev.Kind {
	case policy.Launch, policy.Outbound, policy.Listen, policy.UnixConnect, policy.FileWrite, policy.Lookup:
	default:
		return
	}
	e, ppid := *ev, 0
	if ev.Kind == policy.Launch {
		if e.Program.Command == nil {
			e.Program.Command, _ = c.Argv()
		}
		if st, err := sys.ReadStatus(c.PID()); err == nil {
			ppid = st.PPID
		}
	}
	d.ring.Event(&e, c.PID(), ppid, allowed, time.Now())
}

// snapshot is what is remembered, as it goes to the Console.
func (d *Defender) snapshot() *wire.Snapshot {
	events, forgotten := d.ring.Snapshot()
	s := &wire.Snapshot{Forgotten: forgotten, Events: make([]json.RawMessage, 0, len(events))}
	for i := range events {
		if raw, err := json.Marshal(&events[i]); err == nil {
			s.Events = append(s.Events, raw)
		}
	}
	return s
}

// witness is a sink that has forensic data sent after an incident.
type witness struct {
	ring *audit.Ring
	send func()

	mu    sync.Mutex
	timer *time.Timer // nil: nothing is to be sent
}

func (w *witness) Write(r audit.Record) error {
	_ = w.ring.Write(r)
	if r.Category == "" {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer == nil {
		w.timer = time.AfterFunc(aftermath, w.due)
	}
	return nil
}

func (w *witness) due() {
	w.mu.Lock()
	w.timer = nil
	w.mu.Unlock()
	w.send()
}

// hurry sends at once what was to be sent later: the end has come.
func (w *witness) hurry() {
	w.mu.Lock()
	waits := w.timer != nil && w.timer.Stop()
	w.timer = nil
	w.mu.Unlock()
	if waits {
		w.send()
	}
}

// decideLookup decides a lookup and remembers it, once for its question and
// not for its answer.
func (d *Defender) decideLookup(ev *policy.Event) policy.Verdict {
	v := d.decide(ev)
	if ev.Answer.Empty() {
		d.ring.Event(ev, ev.Subject.PID, 0, v.Allow, time.Now())
	}
	return v
}
