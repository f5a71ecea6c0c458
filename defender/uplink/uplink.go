// Package uplink is the line from a Defender to its Console.
//
// [Uplink.Run] enrols, and then three loops share the line until it fails for
// good: one waits for policies, one sends audits from the spool, one tells how
// the Defender is. A Console that is away is asked again and again; meanwhile
// the last good policy holds and records wait in the spool. A Console that no
// longer knows this Defender makes it enrol again, as another instance: what
// waits is numbered anew, and none is lost.
//
// What has to survive a restart lies beside the spool and belongs to it: the
// credential, the Console's policy key, the last good policy. The key is
// pinned. No later answer of a Console changes it.
//
// The credential goes to the one configured address: no redirect is followed,
// no proxy is asked (the environment's is ignored, for that is the target's),
// and plain HTTP is for loopback alone.
package uplink

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"appdefender/audit"
	"appdefender/policy"
	"appdefender/wire"
)

// Config says where the Console is and who asks.
type Config struct {
	// URL is the Console's, https unless its host is loopback. Its path is
	// put before [wire.Path].
	URL string
	// Token enrols. "" is enough for an instance that is enrolled already.
	Token string
	// CA are the certificates, in PEM, of which one must have signed the
	// Console's. nil means those of the system.
	CA []byte
	// Identity is what this Defender protects.
	Identity wire.Identity
	// Spool has the audits, and keeps our files. It must not be nil. The
	// caller closes it after Run.
	Spool *audit.Spool
	// Apply puts a policy into force or returns why it cannot, and then the
	// last one stays. It must not be nil.
	Apply func(*policy.Policy) error
	// Status fills in the level and what else the Defender knows of itself.
	// Dropped gets added what the spool lost. nil fills in nothing.
	Status func(*wire.Heartbeat)
	// Forensics returns what is remembered of the container; nil where nothing
	// is.
	Forensics func() *wire.Snapshot
	// Notice is told, for people, what becomes of the line. It must not
	// block. nil tells nobody.
	Notice func(string)
	// Dial connects to the Console. nil means the system's way, which looks
	// names up by /etc/resolv.conf: where that leads to our own DNS door, the
	// policy for the target also decides whether we find the Console.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Uplink is one Defender's line. Create one with [New].
type Uplink struct {
	cfg    Config
	client *client
	spool  *audit.Spool
	pace   pace

	first    chan struct{} // closed when a policy arrived
	isFirst  sync.Once
	hurry    chan struct{} // closed when the end is near
	isHurry  sync.Once
	progress chan struct{} // receives when Flush should look again
	beat     chan struct{} // receives when there is news for a heartbeat
	snapshot chan struct{} // receives when forensic data is to be sent
	owed     atomic.Int32  // the forensic data that is still to be sent: owedNone, …
	ended    chan struct{} // closed when Run returns
	refused  atomic.Bool   // the Console wants nothing of us
	answered atomic.Bool   // a request of this session succeeded

	// Of Run alone.
	resumed bool   // the spool knows what the Console has
	sent    uint64 // the highest sequence ever sent of this instance
	batch   int    // how many records the next batch may have
	behind  int    // how often in a row the Console had less than it said

	mu          sync.Mutex
	enrolment   enrolment
	stored      *wire.SignedPolicy // the last good one
	storedErr   error
	inForce     uint64 // generation; 0 for none of the Console's
	policyError string
	told        map[string]string // topic → what is wrong with it
	started     time.Time
}

// pace is how long things take. Tests are in more of a hurry.
type pace struct {
	retryMin  time.Duration // the first pause after a failure
	retryMax  time.Duration // the longest
	refused   time.Duration // pause after a token or credential was refused
	gather    time.Duration // between two batches that are not full
	sync      time.Duration // between two looks at the spool
	heartbeat time.Duration // unless the Console asks for another
}

var usualPace = pace{
	retryMin:  500 * time.Millisecond,
	retryMax:  15 * time.Second,
	refused:   10 * time.Minute,
	gather:    100 * time.Millisecond,
	sync:      time.Second,
	heartbeat: 30 * time.Second,
}

// New returns the line that the configuration describes, with what an earlier
// run of this instance left. It starts nothing.
func New(cfg Config) (*Uplink, error) {
	if cfg.Spool == nil || cfg.Apply == nil {
		return nil, errors.New("an uplink needs a spool and somebody to apply policies")
	}
	if cfg.Notice == nil {
		cfg.Notice = func(string) {}
	}
	if cfg.Status == nil {
		cfg.Status = func(*wire.Heartbeat) {}
	}
	c, err := newClient(&cfg)
	if err != nil {
		return nil, err
	}
	u := &Uplink{
		cfg: cfg, client: c, spool: cfg.Spool, pace: usualPace,
		first: make(chan struct{}), hurry: make(chan struct{}), ended: make(chan struct{}),
		progress: make(chan struct{}, 1), beat: make(chan struct{}, 1), snapshot: make(chan struct{}, 1),
		batch: wire.MaxBatch, told: make(map[string]string), started: time.Now(),
	}
	c.reached = u.reached
	u.restore()
	return u, nil
}

// Run keeps the line until ctx ends, and then returns nil. It is called once.
func (u *Uplink) Run(ctx context.Context) error {
	defer close(u.ended)
	defer u.client.close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { u.syncSpool(ctx); return nil })
	g.Go(func() error { u.keep(ctx); return nil })
	return g.Wait()
}

// FirstPolicy is closed when the Console's policy is in force: it came, or the
// Console said that there is none newer than the last good one.
func (u *Uplink) FirstPolicy() <-chan struct{} { return u.first }

// Flush waits until the Console has everything that is in the spool. From then
// on nothing waits for more to send, and failures are tried again at once. The
// error says how many records are left; it comes at once if the Console wants
// none of them.
func (u *Uplink) Flush(ctx context.Context) error {
	u.isHurry.Do(func() { close(u.hurry) })
	for {
		n := u.spool.Len()
		if n == 0 && u.owed.Load() == owedNone {
			return nil
		}
		left := func(err error) error { return fmt.Errorf("%d audit records were not sent: %w", n, err) }
		if u.refused.Load() {
			return left(errRefused)
		}
		select {
		case <-u.progress:
		case <-u.ended:
			return left(errors.New("the uplink has ended"))
		case <-ctx.Done():
			return left(ctx.Err())
		}
	}
}

// syncSpool looks after the spool, which has no goroutine of its own.
func (u *Uplink) syncSpool(ctx context.Context) {
	t := time.NewTicker(u.pace.sync)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			u.spool.Sync()
		case <-ctx.Done():
			u.spool.Sync()
			return
		}
	}
}

// keep enrols where that is needed, and begins a session again whenever one
// fails.
func (u *Uplink) keep(ctx context.Context) {
	for failed := 0; ctx.Err() == nil; {
		if !u.enrolled() {
			if err := u.enrol(ctx); err != nil {
				if ctx.Err() == nil {
					u.enrolFailed(ctx, err, &failed)
				}
				continue
			}
		}
		u.answered.Store(false)
		err := u.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if u.answered.Load() {
			failed = 0
		}
		switch {
		case errors.Is(err, errRevoked):
			u.wrong("credential", "revoked", fmt.Sprintf("the Console revoked this Defender: audits stay here and the last policy holds (%v)", err))
			u.refuse(ctx)
		case errors.Is(err, errUnknown):
			u.cfg.Notice(fmt.Sprintf("enrolling again: %v", err))
			u.forget()
			u.pause(ctx, &failed)
		}
	}
}

func (u *Uplink) enrolFailed(ctx context.Context, err error, failed *int) {
	switch {
	case errors.Is(err, errNoToken):
		u.wrong("credential", "none", err.Error())
	case errors.Is(err, errUnknown), errors.Is(err, errRevoked):
		u.wrong("credential", "token", fmt.Sprintf(`the Console refused the token: %v; make another with "console token create NAME"`, err))
	default:
		u.failed("enrol", "enrolling", err)
		u.pause(ctx, failed)
		return
	}
	u.refuse(ctx)
}

// refuse waits, long, for somebody to change their mind.
func (u *Uplink) refuse(ctx context.Context) {
	u.refused.Store(true)
	u.moved()
	sleep(ctx, u.pace.refused)
}

// session runs the loops until one of them cannot go on.
func (u *Uplink) session(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return u.followPolicy(ctx) })
	g.Go(func() error { return u.sendAudits(ctx) })
	g.Go(func() error { return u.sendHeartbeats(ctx) })
	g.Go(func() error { return u.sendSnapshots(ctx) })
	return g.Wait()
}

// pause waits after the failures so far: twice as long each time, and at
// random so that many Defenders do not come back at once.
func (u *Uplink) pause(ctx context.Context, failed *int) {
	d := u.pace.retryMax
	if *failed < 16 {
		d = min(d, u.pace.retryMin<<*failed)
	}
	*failed++
	d = d/2 + rand.N(d/2+1)
	select {
	case <-ctx.Done():
		return
	case <-u.hurry:
		sleep(ctx, min(d, u.pace.gather))
	case <-time.After(d):
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// moved lets Flush look again.
func (u *Uplink) moved() { signal(u.progress) }

// signal sends where a signal that nobody has taken yet is enough.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// wrong gives a notice, once until what is wrong with the topic changes.
func (u *Uplink) wrong(topic, what, msg string) {
	u.mu.Lock()
	same := u.told[topic] == what
	u.told[topic] = what
	u.mu.Unlock()
	if !same {
		u.cfg.Notice(msg)
	}
}

// well reports whether something had been wrong with the topic until now.
func (u *Uplink) well(topic string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, was := u.told[topic]
	delete(u.told, topic)
	return was
}

// failed gives notice of an answer that is no success. Where there was no
// answer, reached has done so.
func (u *Uplink) failed(topic, doing string, err error) {
	var answer *statusError
	var unreachable *reachError
	switch {
	case errors.As(err, &answer):
		u.wrong(topic, fmt.Sprint(answer.code), fmt.Sprintf("%s: %v", doing, err))
	case !errors.As(err, &unreachable):
		u.wrong(topic, err.Error(), fmt.Sprintf("%s: %v", doing, err))
	}
}

// succeeded notes that a request of a session did.
func (u *Uplink) succeeded(topic string) {
	u.well(topic)
	u.well("credential")
	u.refused.Store(false)
	u.answered.Store(true)
}

// reached is told after each attempt whether there was an answer.
func (u *Uplink) reached(err error) {
	const topic = "line"
	var unreachable *reachError
	if errors.As(err, &unreachable) {
		u.wrong(topic, unreachable.kind(), fmt.Sprintf("%v; trying again, audits wait", err))
		return
	}
	if u.well(topic) {
		u.cfg.Notice("the Console answers again")
	}
}

// key returns the pinned policy key, or nil.
func (u *Uplink) key() ed25519.PublicKey {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.enrolment.PolicyKey
}
