// Package defender is the injected program: it puts the doors, the judge and
// the diary together.
//
//	kernel stop ─► supervisor.Call ─► describe ─► policy.Event ─┐
//	DNS query  ─► dnsproxy ───────────────────► policy.Event ─┴─► Engine.Decide ─► reply ─► audit.Record
//
// A call is decided and answered on the thread that received it. What is
// shared between threads is the engine behind one atomic pointer, the queue of
// records, and the proxy's memory of who asks.
package defender

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"appdefender/audit"
	"appdefender/defender/child"
	"appdefender/defender/packages"
	"appdefender/defender/supervisor"
	"appdefender/dnsproxy"
	"appdefender/internal/early"
	"appdefender/internal/sys"
	"appdefender/policy"
)

// ExitFailed is the exit status when the Defender itself fails before the
// target starts, as of container runtimes.
const ExitFailed = 125

// restGrace is what processes get to end that outlive the target's first one.
const restGrace = 5 * time.Second

// Defender protects one target.
type Defender struct {
	cfg    Config
	engine atomic.Pointer[policy.Engine]
	// shipped says that the rule's section files is the shipped policy's.
	shipped atomic.Bool
	told    atomic.Pointer[[]string] // what lacks has told last
	target  *child.Child
	levels  supervisor.Levels
	super   *supervisor.Supervisor
	// What [Defender.Wait] is to do: begin to trace, or just reap.
	traced  chan func(error)
	reap    context.Context
	noTrace context.CancelFunc
	// The target runs.
	running context.Context
	ran     context.CancelFunc

	proxy   *dnsproxy.Proxy
	askers  dnsproxy.Askers
	servers atomic.Pointer[[]netip.AddrPort] // the machine's own name servers

	src     audit.Source
	queue   *audit.Queue
	ring    *audit.Ring                    // nil: nothing is remembered
	dryRun  *audit.DryRun                  // nil unless cfg.DryRun
	refused atomic.Pointer[policy.Verdict] // what kept the target's first process from a program
	ending  atomic.Bool
	closed  atomic.Bool // the target was kept from a resolver's socket
	scans   scans
	records records
	written *written // nil without --file-monitoring
	scripts scripts
	learn   *learner // nil unless cfg.Learn

	tcpClosed  bool      // see closesTCP
	toldClosed sync.Once // of a connect that was let pass and fails for that

	started time.Time
}

// New returns a Defender for a target that the early processes will become.
// Nothing runs yet. The policy must be free of faults.
//
// It makes the target's first process, so [Defender.Wait] must be called on
// the first thread.
func New(cfg Config) (*Defender, error) {
	if !early.Available() {
		return nil, errors.New(`there is no stage: "run" must be the program's first argument`)
	}
	if len(cfg.Argv) == 0 {
		return nil, errors.New("there is no command to run")
	}
	d := &Defender{cfg: cfg, target: child.New(early.Stage().PID()), started: time.Now(),
		traced: make(chan func(error))}
	d.records.had = packages.Find("")
	d.reap, d.noTrace = context.WithCancel(context.Background())
	d.running, d.ran = context.WithCancel(context.Background())
	if cfg.Policy != nil {
		engine, err := policy.Compile(cfg.Policy, cfg.Workload)
		if err != nil {
			return nil, err
		}
		d.use(cfg.Policy, engine)
	}
	var err error
	if d.learn, err = newLearner(&cfg); err != nil {
		if !cfg.FailOpen {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "defender: %v; nothing is learned (--on-failure open)\n", err)
	}
	host, _ := os.Hostname()
	d.src = audit.Source{
		Instance: rand.Text()[:16], AppID: cfg.Workload.AppID, Container: cfg.Workload.Container,
		Image: cfg.Workload.Image, Hostname: host, Version: cfg.Version, DryRun: cfg.DryRun,
		KeepSecrets: cfg.KeepSecrets,
	}
	if cfg.Console.URL != "" { // who else would ask for it?
		d.ring = audit.NewRing(&d.src, cfg.Forensics)
	}
	d.queue = audit.NewQueue(audit.Config{Source: &d.src, Trouble: func(err error) {
		fmt.Fprintf(os.Stderr, "defender: %v; how many are missing is told when it works again\n", err)
	}})
	return d, nil
}

// Run protects the target until it ends and returns its exit status. An error
// means that the target did not run.
func (d *Defender) Run(ctx context.Context) (exit int, err error) {
	// A receiver must never queue for a processor behind other goroutines.
	runtime.GOMAXPROCS(max(3, runtime.GOMAXPROCS(0)))
	stopSignals := make(chan struct{})
	defer close(stopSignals)
	d.target.Forward(stopSignals)
	defer d.noTrace()

	path, exit, err := child.LookPath(d.cfg.Argv[0])
	if err != nil {
		return exit, fmt.Errorf("starting the target: %w", err)
	}
	sinks, closeSinks, err := d.openSinks()
	if err != nil {
		return ExitFailed, err
	}
	defer closeSinks()
	line, err := d.openLine()
	if err != nil {
		return ExitFailed, err
	}
	if line != nil {
		sinks = append(sinks, line.sink())
		if line.witness != nil {
			sinks = append(sinks, line.witness)
		}
	}
	defer d.startRecording(sinks, line)()

	if d.cfg.KeepSecrets {
		const loud = "passwords, tokens and keys in command lines are recorded as they are (--keep-secrets)"
		fmt.Fprintln(os.Stderr, "defender: "+loud)
		d.notice(loud)
	}
	for _, w := range d.cfg.Warnings {
		d.notice("%s", w)
	}
	err = d.chooseBackend()
	if line != nil {
		// With the levels known, for the heartbeat, and before resolv.conf
		// names us.
		d.readUpstreams()
		line.start()
	}
	if err != nil {
		return ExitFailed, err
	}
	stopDNS, err := d.startDNS(ctx)
	if err != nil {
		return ExitFailed, err
	}
	defer stopDNS()
	if line != nil {
		line.waitForPolicy(d.target.Done())
	}
	if err := d.startTarget(path); err != nil {
		if ws, ok := d.endedEarly(); ok {
			return child.Status(ws), nil
		}
		return ExitFailed, err
	}
	defer d.startObserving(ctx)()
	select {
	case <-d.target.Done():
	case <-d.guardianGone():
		// Whoever killed the guardian may kill us next: act while we can.
		d.notice("the guardian died; ending the target (--on-failure closed)")
		d.target.KillAll()
		<-d.target.Done()
	}
	d.finish()
	return child.Status(d.target.WaitStatus()), nil
}

// startRecording writes records to the sinks. Its end writes the last of them,
// and what is made of all.
func (d *Defender) startRecording(sinks []audit.Sink, line *line) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	recorded := make(chan struct{})
	go func() { defer close(recorded); _ = d.queue.Run(ctx, sinks...) }()
	return func() {
		cancel()
		<-recorded
		if d.dryRun != nil {
			_ = d.dryRun.Summary(os.Stderr)
		}
		if d.learn != nil {
			d.learn.finish()
		}
		if line != nil {
			line.stop()
		}
	}
}

// startObserving looks at processes that no call shows, and writes what is
// learned, until end is called.
func (d *Defender) startObserving(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	learned := make(chan struct{})
	go func() {
		defer close(learned)
		if d.learn != nil {
			d.learn.run(ctx, func(err error) { d.notice("%v", err) })
		}
	}()
	go d.observe(ctx)
	return func() { cancel(); <-learned }
}

func (d *Defender) notice(format string, args ...any) {
	d.queue.Notice(fmt.Sprintf(format, args...))
}

// openSinks opens the audit log. One that cannot be written ends the start,
// or with --on-failure open becomes standard error.
func (d *Defender) openSinks() ([]audit.Sink, func(), error) {
	name := d.cfg.AuditLog
	if name == "" {
		name = "-"
	}
	log, err := audit.OpenFile(name)
	if err != nil {
		err = fmt.Errorf("opening the audit log: %w (give --audit-log a writable place, - or none)", err)
		if !d.cfg.FailOpen {
			return nil, nil, err
		}
		fmt.Fprintf(os.Stderr, "defender: %v; audits go to standard error\n", err)
		if log, err = audit.OpenFile("-"); err != nil {
			return nil, nil, err
		}
	}
	sinks := []audit.Sink{log}
	if d.cfg.DryRun {
		d.dryRun = audit.NewDryRun(os.Stderr)
		sinks = append(sinks, d.dryRun)
	}
	return sinks, func() {
		for _, s := range sinks {
			if c, ok := s.(io.Closer); ok {
				_ = c.Close()
			}
		}
	}, nil
}

// chooseBackend finds out what supervision can do here, and leaves the filter
// for the stage.
func (d *Defender) chooseBackend() error {
	defer early.DismissProbes()
	var err error
	d.levels, err = selfTest(d.cfg.Supervisor, d.cfg.FileMonitoring)
	switch {
	case d.levels.Backend == supervisor.Observe && !d.cfg.FailOpen && d.refuses():
		if err == nil {
			err = errors.New("observing refuses nothing")
		}
		return fmt.Errorf("%w; the policy refuses things, and --on-failure is closed", err)
	case d.levels.Backend == supervisor.Observe:
		if d.learn != nil {
			d.learn.rec.Limit() // what is not seen may happen all the same
		}
		if err != nil {
			d.notice("%v", err)
		}
		early.ClearFilter()
	case err != nil:
		d.notice("%v: the level is %s", err, d.levels.Backend)
	}
	for _, lost := range d.levels.Lost {
		d.notice("%s", lost)
	}
	if d.levels.Backend == supervisor.ByPtrace && d.cfg.FailOpen {
		d.notice("under a tracer the target ends with the defender, whatever --on-failure says")
		d.cfg.FailOpen = false
	}
	return nil
}

// backends are the ways to supervise, the best first.
var backends = []supervisor.Backend{supervisor.ByNotify, supervisor.ByPtrace}

// observeOnly is what is left where no backend works.
var observeOnly = supervisor.Levels{Backend: supervisor.Observe, Lost: []supervisor.Lost{{
	What: "nothing can be refused: lookups are judged, and of processes only those that live long enough to be seen",
}}}

// selfTest tries the named backend, or all for "" and "auto", until one works.
// The error says why those before it do not.
func selfTest(name string, files bool) (supervisor.Levels, error) {
	var failed error // of all, in one line
	for n, by := range backends {
		if name != "" && name != "auto" && name != string(by) {
			continue
		}
		levels, err := try(n, files)
		if err == nil {
			return levels, failed
		}
		if failed != nil {
			err = fmt.Errorf("%w; %w", failed, err)
		}
		failed = err
	}
	return observeOnly, failed
}

// try has probe n test backend n, and leaves its filter for the stage.
func try(n int, files bool) (supervisor.Levels, error) {
	by := backends[n]
	if _, err := os.Stat(ownDescriptors); err != nil {
		return observeOnly, fmt.Errorf("%s: %w: there is no /proc, by which a target is read: mount it", by, supervisor.ErrNotSupported)
	}
	prog, err := supervisor.BuildFilter(supervisor.Self{
		Supervisor: os.Getpid(), Family: early.Family(), Groups: supervisor.OurGroups(),
	}, by, files)
	if err == nil {
		err = early.SetFilter(prog, by == supervisor.ByPtrace)
	}
	var levels supervisor.Levels
	if err == nil {
		levels, err = supervisor.SelfTest(by, early.Probe(n))
	}
	if err != nil {
		return observeOnly, fmt.Errorf("%s: %w: %w", by, supervisor.ErrNotSupported, err)
	}
	return levels, nil
}

func (d *Defender) refuses() bool {
	if d.cfg.DryRun {
		return false
	}
	e := d.engine.Load()
	return e == nil || e.Refuses(policy.Processes) || e.Refuses(policy.DNS) || e.Refuses(policy.Network) || d.cfg.FileMonitoring && e.Refuses(policy.Files)
}

// closesTCP reports whether the kernel is to refuse each TCP connect that we do
// not perform, for as long as the target runs.
//
// A guardian that lets every call pass needs the target's own connects. So does
// a policy that lets pass what cannot be read, such as the connects of a server
// that has changed its user, where we have no CAP_SYS_PTRACE.
func (d *Defender) closesTCP() bool {
	if !d.levels.GetFD || d.cfg.FailOpen {
		return false
	}
	unread := policy.Event{Kind: policy.Unknown, Section: policy.Network}
	return sys.Can(unix.CAP_SYS_PTRACE) || !d.cfg.DryRun && !d.engine.Load().Decide(&unread).Allow
}

// startTarget turns the stage into the target, supervised.
func (d *Defender) startTarget(path string) error {
	d.inherited()
	d.readRecords(d.engine.Load(), time.Time{})
	if d.cfg.FileMonitoring {
		var err error
		if d.written, err = newWritten(d); err != nil {
			d.notice("files are not looked at when they were written, but for programs that start: %v", err)
		}
	}
	_, guarded := early.Guarded()
	d.tcpClosed = d.closesTCP()
	err := early.Give(early.Orders{
		Path: path, ArgvIndex: len(os.Args) - len(d.cfg.Argv), KeepPtrace: d.cfg.KeepPtrace,
		DieWithSupervisor: guarded && !d.cfg.FailOpen, FailOpen: d.cfg.FailOpen,
		NoTCPConnect: d.tcpClosed,
	})
	if err != nil {
		return fmt.Errorf("starting the target: %w", err)
	}
	stage := early.Stage()
	bound, _ := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	cfg := supervisor.Config{Handler: d.handle, Levels: d.levels, NoNewPrivs: bound == 1, Exited: d.target.Exited,
		WatchUnix: d.watchUnix, Files: d.cfg.FileMonitoring, WatchFiles: d.needs(policy.NeedFileWrites | policy.NeedContent),
		WatchFileTypes: d.needs(policy.NeedFileType),
		WatchContent:   d.needs(policy.NeedContent),
		WatchDigests:   d.needs(policy.NeedDigests),
		DeniedPaths:    func() []string { return d.engine.Load().DeniedPaths() },
		Examine:        d.examine,
		WatchPrograms:  d.watchPrograms}
	if d.levels.Backend == supervisor.ByPtrace {
		d.super = supervisor.Trace(cfg, d.target.Stopped)
		d.super.Start()
		err := stage.Ready()
		if err == nil {
			err = d.trace()
		}
		if err != nil {
			return fmt.Errorf("starting the target: %w", err)
		}
	}
	d.noTrace()
	stage.Go()
	listener, err := stage.Listener()
	if err != nil {
		return fmt.Errorf("starting the target: %w", err)
	}
	if listener >= 0 {
		cfg.NoNewPrivs = cfg.NoNewPrivs || stage.LostSetUID()
		d.super = supervisor.Notify(listener, cfg)
		d.super.Start()
		if err := early.ShareListener(listener); err != nil {
			d.notice("the guardian has no listener: %v", err)
		}
	}
	if err := stage.Alone(); err != nil {
		return fmt.Errorf("starting the target: %w", err)
	}
	d.lacks()
	if stage.LostSetUID() {
		d.notice("set-uid programs gain no privileges in this target: without CAP_SYS_ADMIN a filter needs no_new_privs")
	}
	if stage.KeptPtrace() && !d.cfg.KeepPtrace {
		d.notice("the target keeps CAP_SYS_PTRACE and may reach the defender: dropping it needs CAP_SETPCAP")
	}
	return releaseDescriptors()
}

// endedEarly tells how a signal ended the target before it could start: that is
// its end, as it would be a moment later, and no fault.
func (d *Defender) endedEarly() (unix.WaitStatus, bool) {
	if !early.Stage().Ended() {
		return 0, false
	}
	d.noTrace()
	<-d.target.Done()
	ws := d.target.WaitStatus()
	return ws, ws.Signaled()
}

// Wait looks after our children until none is left. It must be called on the
// first thread of the process (main, with the thread locked in an init
// function), which they belong to; a tracer works on that thread as well.
func (d *Defender) Wait() {
	select {
	case begin := <-d.traced:
		d.super.Run(d.target.PID(), begin)
	case <-d.reap.Done():
	}
	d.target.Reap()
}

// trace has the first thread begin to trace the stage.
func (d *Defender) trace() error {
	begun := make(chan error, 1)
	d.traced <- func(err error) { begun <- err }
	return <-begun
}

// ownDescriptors is where the kernel lists them.
const ownDescriptors = "/proc/self/fd"

// releaseDescriptors closes what belongs to the target, so that its readers
// see the end of file when the target closes it.
func releaseDescriptors() error {
	// All of ours are close-on-exec; what is not was left to us open.
	for _, fd := range descriptors() {
		if fd < 3 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		unix.Close(0)
		unix.Close(1)
		return nil // an image without /dev: nothing of ours reads or writes them
	}
	defer null.Close()
	for fd := range 2 {
		if err := unix.Dup3(int(null.Fd()), fd, unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("replacing descriptor %d: %w", fd, err)
		}
	}
	return nil
}

// descriptors are those that may be open: without /proc, which --on-failure open
// allows, the first thousand, for what is inherited has low numbers.
func descriptors() []int {
	var fds []int
	entries, err := os.ReadDir(ownDescriptors)
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil {
			fds = append(fds, fd)
		}
	}
	for fd := 0; err != nil && fd < 1000; fd++ {
		fds = append(fds, fd)
	}
	return fds
}

// guardianGone is closed when the guardian dies and the target must then end.
func (d *Defender) guardianGone() <-chan struct{} {
	gone := make(chan struct{})
	guardian, ok := early.Guarded()
	if !ok || d.cfg.FailOpen {
		return gone
	}
	fd, err := unix.PidfdOpen(guardian, 0)
	if err != nil { // gVisor has no pidfds; whom we belong to tells as well
		go func() {
			for os.Getppid() == guardian {
				time.Sleep(20 * time.Millisecond)
			}
			close(gone)
		}()
		return gone
	}
	go func() {
		defer unix.Close(fd)
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			if n, err := unix.Poll(p, -1); n == 1 || err != nil && !errors.Is(err, unix.EINTR) {
				close(gone)
				return
			}
		}
	}()
	return gone
}

// finish ends what the target left behind.
func (d *Defender) finish() {
	grace := restGrace
	if os.Getpid() == 1 {
		grace = 0 // as the kernel does with a container
	}
	if n := d.target.EndRest(grace); n > 0 {
		d.notice("%d processes outlived the target's first one and were ended", n)
	}
	d.ran()
	if d.super != nil {
		d.super.Close()
	}
	if err := early.Stage().Failure(); err != nil {
		fmt.Fprintf(os.Stderr, "defender: starting %s: %v%s\n", d.cfg.Argv[0], err, d.why())
	}
	if d.written != nil {
		d.written.end()
	}
}

// why tells by which rule the target did not start, "" if by none.
func (d *Defender) why() string {
	v := d.refused.Load()
	if v == nil {
		return ""
	}
	if v.Rule == "" {
		return ": " + v.Reason
	}
	return fmt.Sprintf(": rule %q refuses it: %s", v.Rule, v.Reason)
}

// end ends the target as the effect "block" asks.
func (d *Defender) end() {
	if d.ending.Swap(true) {
		return
	}
	go func() {
		_ = unix.Kill(d.target.PID(), unix.SIGTERM)
		select {
		case <-d.target.Done():
		case <-time.After(restGrace):
			d.target.KillAll()
		}
	}()
}

// resolvConf is where resolvers look for their servers.
const resolvConf = "/etc/resolv.conf"

// readUpstreams notes the machine's own name servers.
func (d *Defender) readUpstreams() {
	upstreams, err := dnsproxy.Upstreams(resolvConf, netip.Addr{})
	if err != nil {
		d.notice("reading %s: %v", resolvConf, err)
	}
	d.servers.Store(&upstreams)
}

// startDNS starts the proxy and returns how to stop it.
func (d *Defender) startDNS(ctx context.Context) (stop func(), err error) {
	if d.servers.Load() == nil {
		d.readUpstreams()
	}
	upstreams := d.cfg.Upstreams
	if !slices.ContainsFunc(upstreams, func(u dnsproxy.Upstream) bool { return len(u.Suffixes) == 0 }) {
		upstreams = append(slices.Clone(upstreams), dnsproxy.Plain(d.upstreams()...)...)
	}
	addr, takeOver := d.proxyAddr(resolvConf)
	d.proxy, err = dnsproxy.New(dnsproxy.Config{
		Upstreams: upstreams, Bootstrap: d.upstreams(), Hosts: d.hosts(), Search: search(resolvConf), Decide: d.decideLookup, Record: d.recordLookup,
		AsksWho: func() bool { return d.engine.Load().AsksWho() },
		Asker:   d.asker, Known: d.askers.Get,
		Busy: func(n uint64) {
			d.notice("too many lookups at once: %d that are allowed failed (SERVFAIL) since the start", n)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("starting the DNS proxy: %w", err)
	}
	if err := d.listenDNS(addr, &takeOver); err != nil {
		if !d.cfg.FailOpen {
			return nil, fmt.Errorf("starting the DNS proxy: %w", err)
		}
		takeOver = false
		d.notice("starting the DNS proxy: %v: only queries that are seen in a call are judged", err)
	}
	restore := func() error { return nil }
	if takeOver {
		if restore, _, err = dnsproxy.Takeover(resolvConf, d.proxy.Addrs()[0].Addr()); err != nil {
			d.notice("%s stays as it is, name servers are redirected call by call: %v", resolvConf, err)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan struct{})
	go func() { defer close(served); _ = d.proxy.Serve(ctx) }()
	return func() {
		if err := restore(); err != nil {
			fmt.Fprintf(os.Stderr, "defender: restoring %s: %v\n", resolvConf, err)
		}
		cancel()
		<-served
	}, nil
}

// dnsPort is where resolvers ask.
const dnsPort = 53
