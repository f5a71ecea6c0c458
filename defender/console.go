package defender

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"appdefender/audit"
	"appdefender/defender/uplink"
	"appdefender/policy"
	"appdefender/wire"
)

// What the last records get to reach the Console: less where the next start
// finds them again, for platforms kill a container ten seconds after its
// signal to stop.
const (
	flushGrace      = 5 * time.Second
	flushGraceOnDir = 2 * time.Second
)

// Console is where policy comes from and audits go. Its zero value is none.
type Console struct {
	URL   string
	Token string // enrols; not needed by an instance that is enrolled
	CA    []byte // PEM; nil for the system's
	// DataDir keeps the instance, its unsent audits and the last good policy
	// over a restart; "" keeps nothing.
	DataDir string
	// WaitForPolicy is how long the target waits for the Console's policy; 0
	// starts at once with the last good one, or with Config.Policy.
	WaitForPolicy time.Duration
	// EveryAudit sends each audit; without it what comes too often is summed
	// up (see audit.Sums).
	EveryAudit bool
}

// line is the running connection to the Console.
type line struct {
	d       *Defender
	spool   *audit.Spool
	sums    *audit.Sums // before the spool; nil: all audits are sent
	up      *uplink.Uplink
	witness *witness // nil: nothing is remembered

	cancel context.CancelFunc
	ended  chan struct{}
}

// openLine makes the connection, which [line.start] begins to use, and puts the
// last good policy into force. It returns nil without a Console.
func (d *Defender) openLine() (*line, error) {
	c := d.cfg.Console
	if c.URL == "" {
		return nil, nil
	}
	l := &line{d: d, ended: make(chan struct{})}
	l.spool = audit.OpenSpool(audit.SpoolConfig{Dir: c.DataDir, Source: &d.src, Notice: d.queue.Notice})
	if !c.EveryAudit {
		l.sums = audit.NewSums(&d.src, l.spool, l.spool)
	}
	var err error
	var forensics func() *wire.Snapshot
	if d.ring != nil {
		forensics = d.snapshot
		l.witness = &witness{ring: d.ring, send: func() { l.up.SendForensics() }}
	}
	l.up, err = uplink.New(uplink.Config{
		URL: c.URL, Token: c.Token, CA: c.CA, Spool: l.spool,
		Identity: wire.Identity{
			AppID: d.src.AppID, Container: d.src.Container, Image: d.src.Image,
			Hostname: d.src.Hostname, Version: d.src.Version,
		},
		Forensics: forensics,
		Apply:     d.apply, Status: d.status, Notice: d.queue.Notice, Dial: d.dialConsole,
	})
	if err != nil {
		_ = l.spool.Close()
		return nil, fmt.Errorf("connecting to the Console: %w", err)
	}
	last, err := l.up.LastGood()
	if err == nil && last != nil {
		err = d.apply(last)
	}
	if err != nil {
		d.notice("the Console's last policy is not used, until it answers --policy or the shipped policy holds: %v", err)
	}
	return l, nil
}

// sink is where records for the Console go.
func (l *line) sink() audit.Sink {
	if l.sums != nil {
		return l.sums
	}
	return l.spool
}

// start keeps the line until stop.
func (l *line) start() {
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	go func() {
		defer close(l.ended)
		_ = l.up.Run(ctx)
	}()
}

// waitForPolicy holds the target back until the Console's policy is in force,
// or stop is closed.
func (l *line) waitForPolicy(stop <-chan struct{}) {
	limit := l.d.cfg.Console.WaitForPolicy
	if limit <= 0 {
		return
	}
	select {
	case <-l.up.FirstPolicy():
	case <-stop:
	case <-time.After(limit):
		l.d.notice("no policy from the Console within %v: the target starts under what there is", limit)
	}
}

// stop sends what is left and ends the line. The queue must have ended.
func (l *line) stop() {
	grace := flushGrace
	if l.spool.Dir() != "" {
		grace = flushGraceOnDir
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if l.witness != nil {
		l.witness.hurry()
	}
	if l.sums != nil {
		if err := l.sums.Close(); err != nil {
			fmt.Fprintf(os.Stderr, "defender: writing audits: %v\n", err)
		}
	}
	_ = l.up.Flush(ctx) // what is left stays in the spool
	l.cancel()
	<-l.ended
	_ = l.spool.Close()
}

// apply puts a policy into force, as a whole or not at all.
func (d *Defender) apply(p *policy.Policy) error {
	engine, err := policy.Compile(p, d.cfg.Workload)
	if err != nil {
		return err
	}
	d.readRecords(engine, d.started)
	before := d.use(p, engine)
	if before != nil { // what holds at the start is told then
		d.lacks()
	}
	return nil
}

// status is what a heartbeat says beyond the line's own state.
func (d *Defender) status(h *wire.Heartbeat) {
	h.Level = string(d.levels.Backend)
	for _, lost := range d.levels.Lost {
		h.Lost = append(h.Lost, lost.String())
	}
	h.FailOpen, h.DryRun = d.cfg.FailOpen, d.cfg.DryRun
	h.Started = d.started
	h.Dropped += d.queue.Lost()
}

// dialConsole reaches the Console past our own name server, which judges for
// the target and may refuse the Console's name.
func (d *Defender) dialConsole(ctx context.Context, network, addr string) (net.Conn, error) {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var conn net.Conn
		err := errors.New("there is no name server")
		for _, server := range d.upstreams() {
			var dialer net.Dialer
			if conn, err = dialer.DialContext(ctx, network, server.String()); err == nil {
				return conn, nil
			}
		}
		return nil, err
	}}
	dialer := net.Dialer{Resolver: resolver, Timeout: 10 * time.Second}
	return dialer.DialContext(ctx, network, addr)
}

// upstreams are the machine's own name servers, once they are known.
func (d *Defender) upstreams() []netip.AddrPort {
	if u := d.servers.Load(); u != nil {
		return *u
	}
	return nil
}
