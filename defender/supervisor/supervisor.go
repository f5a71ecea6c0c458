// Package supervisor stops the target at chosen system calls and lets its
// caller answer them. It knows nothing of policy.
//
// # The life of a call
//
// The target's thread enters the kernel, its seccomp filter stops it there,
// and one of two backends hears of it: [Notify] over a listener
// (seccomp_unotify(2)), or [Trace] as its tracer (ptrace(2)), where a
// container refuses listeners. The thread that hears reads the arguments,
// resolves them as the target would, and calls the Handler: a hand-over to
// another goroutine would cost ten times the call. The handler answers with
// [Call.Reply] exactly once.
//
//	refused     an errno; final, nothing of the target's can change it
//	performed   we made the call on a duplicate of the target's socket with
//	            our copy of the arguments; final as well
//	verified    the kernel went on (exec cannot be made for another) and the
//	            file it loaded was compared before its first instruction; a
//	            different one is killed
//	checked     the kernel went on and read the arguments again: a second
//	            thread may have changed them
//
// notify.go and trace.go hold the backends; everything else is common to them.
package supervisor

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"appdefender/internal/sys"
)

// Op says what a call does.
type Op uint8

const (
	Exec Op = iota + 1
	Connect
	Send
	Bind
	Listen
	Change // of a file
	RawSocket
)

// Level says how sure an answer is; see the package comment.
type Level string

const (
	Refused   Level = "refused"
	Performed Level = "performed"
	Verified  Level = "verified"
	Checked   Level = "checked"
)

// Call is one stopped system call. It is valid until its Handler returns.
type Call struct {
	Op   Op
	Name string // of the system call
	TID  int    // the calling thread

	// Unknown says why the arguments could not be read; then nothing below
	// is set.
	Unknown error

	Program *Program // of Exec

	// Of Connect and Send: where to, in canonical form. Of Bind and Listen:
	// the socket's own address. Addr is not valid for a message without a
	// destination, and for a Unix socket, which has a File.
	Network string // "tcp", "udp", NetworkUnix, "ip" for others, "" if nobody knows; of RawSocket "raw", "packet" or a family's name
	Addr    netip.AddrPort
	Path    string

	File    File   // of Change
	Payload []byte // of Send: what it sends
	written []Written

	s        *Supervisor
	regs     sys.Data
	id       uint64 // of the notification
	slot     []byte // of shared memory, with the notification; nil without one
	lead     *lead  // of the receiver; nil without one
	task     *task  // of the tracer; nil without one
	worker   bool   // a goroutine that is not the tracer's has the call
	aside    bool   // and had it from its beginning
	pids     pids
	pid      int // 0 until asked for
	word     int // size of a pointer in the target
	argvAt   uint64
	argv     []string
	argvCut  bool
	typed    string // the path execve passes on to an interpreter
	theirs   string // the path as typed, absolute for the target
	socket   int    // duplicate of the target's socket; -1 if none
	kind     kind   // of the socket
	sockaddr []byte // as the target gave it
	perform  func(name []byte, flags int) (int, error)
	replied  bool
	gone     bool
	// One message of a sendmmsg: the answer is kept, not sent.
	part        bool
	result      int64
	errno       syscall.Errno
	continued   bool
	unperformed bool // of the whole: the kernel must send
}

// Handler answers a call with exactly one Reply.
type Handler func(*Call)

// Config is what New needs.
type Config struct {
	Handler Handler
	Levels  Levels // what the self-test found
	// NoNewPrivs says that set-uid programs gain nothing in the target anyway.
	NoNewPrivs bool
	// WatchUnix reports whether connects to Unix sockets are to be described;
	// nil never.
	WatchUnix func() bool
	// Files says that the filter asks about changes to files.
	Files bool
	// WatchFiles is WatchUnix for them.
	WatchFiles func() bool
	// WatchFileTypes reports whether Type and Born of files are to be found.
	WatchFileTypes func() bool
	// WatchContent reports whether Call.Written is to be kept.
	WatchContent func() bool
	// WatchDigests reports whether Digests of programs are to be found.
	WatchDigests func() bool
	// DeniedPaths are those that a program is compared with which has more names
	// than one; nil has none.
	DeniedPaths func() []string
	// Examine is called for each file that an exec would run, and once more for
	// what was loaded if that may have been changed in between: then it must
	// say the same, by reflect.DeepEqual. nil is not called.
	Examine func(*Executable) any
	// WatchPrograms returns which Facts of an exec are to be found; nil is none.
	WatchPrograms func() Watch
	// Exited is told of a child of ours that ended under our eyes during an
	// exec, where no other wait can see it.
	Exited func(pid int, status unix.WaitStatus)
}

// Supervisor answers the calls of one target.
type Supervisor struct {
	cfg    Config
	b      backend
	closed atomic.Bool
	watch  watch
	pace   pace

	natures natures
	raw     rawSockets   // for answers under another name
	held    atomic.Int64 // sockets kept for them
	takes   sync.WaitGroup
}

// backend is a way to stop calls and to answer them.
type backend interface {
	// pending returns sys.ErrGone if the target has left the call.
	pending(*Call) error
	// answer ends the stop. The call is no longer the target's from then on.
	answer(*Call, answer) error
	// launch answers an exec that may proceed, and tells what came of it.
	launch(c *Call, r Reply, then func(Outcome))
	// wait performs what may block, and calls next where a call may be answered.
	wait(c *Call, name []byte, next func(int, error))
	// start begins to answer, close ends it: the target has ended.
	start()
	close()
}

// answer is what a stopped call returns; the zero answer is success.
type answer struct {
	proceed bool // the kernel makes the call
	value   int64
	errno   syscall.Errno
}

func newSupervisor(cfg Config) *Supervisor {
	return &Supervisor{cfg: cfg, raw: openRaw()}
}

// Start begins to answer calls.
func (s *Supervisor) Start() { s.b.start() }

// Close ends it. Calls in flight are answered first, and whoever was handed a
// message by Reply.Take returns; the target must have ended, for its next call
// would wait for ever.
func (s *Supervisor) Close() {
	if s.closed.Swap(true) {
		return
	}
	s.b.close()
	s.takes.Wait()
	s.raw.close()
}

// dispatch describes a call and hands it to the handler.
func (s *Supervisor) dispatch(c *Call) {
	switch c.regs.NR {
	case unix.SYS_EXECVE, unix.SYS_EXECVEAT:
		s.exec(c)
	case unix.SYS_CONNECT:
		s.connect(c)
	case unix.SYS_SENDTO:
		s.sendto(c)
	case unix.SYS_SENDMSG:
		s.sendmsg(c)
	case unix.SYS_SENDMMSG:
		s.sendmmsg(c)
	case unix.SYS_BIND:
		s.bind(c)
	case unix.SYS_LISTEN:
		s.listen(c)
	case unix.SYS_SOCKET:
		s.rawSocket(c)
	case unix.SYS_KILL, unix.SYS_TKILL, unix.SYS_TGKILL, unix.SYS_RT_SIGQUEUEINFO, unix.SYS_RT_TGSIGQUEUEINFO,
		unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_SEND_SIGNAL, unix.SYS_PRLIMIT64, unix.SYS_SETPGID, unix.SYS_SETPRIORITY,
		unix.SYS_IOPRIO_SET, unix.SYS_SCHED_SETAFFINITY, unix.SYS_SCHED_SETATTR, unix.SYS_SCHED_SETPARAM,
		unix.SYS_SCHED_SETSCHEDULER:
		s.protectSelf(c)
	default:
		if ch, ok := changes[c.regs.NR]; ok {
			s.change(c, ch)
		}
	}
	if !c.replied && (!c.worker || c.aside) {
		// A handler that forgot, or a call that the filter should not have
		// sent here: refuse.
		_ = c.refuse(unix.EACCES)
	}
}

// PID returns the process that the calling thread belongs to.
func (c *Call) PID() int {
	if c.pid == 0 {
		c.pid = processOf(c.TID)
	}
	return c.pid
}

// arg returns argument i as it lies in the register.
func (c *Call) arg(i int) uint64 { return c.regs.Args[i] }

// argInt returns argument i as the kernel takes an int.
func (c *Call) argInt(i int) int { return int(int32(c.regs.Args[i])) }

// pending returns sys.ErrGone if the target has left the call. What was read
// from the target's memory counts only after this check: before it, the
// number may belong to another process by now (seccomp_unotify(2)).
func (c *Call) pending() error { return c.s.b.pending(c) }

// Reply is the answer to a call. The zero Reply refuses with EACCES.
type Reply struct {
	Proceed bool
	Errno   syscall.Errno // of a refusal; 0 is EACCES

	// Redirect, for Connect and Send, is where the call goes instead: the
	// first of these addresses that the target's socket can reach.
	Redirect []netip.AddrPort
	// Connected is told the local address of the target's socket once a
	// Connect or Send was performed, before the target learns of it.
	Connected func(network string, local netip.AddrPort)
	// Take, for Send where CanTake says so, swallows the message: the target
	// is told that it was sent, and Take gets it on a goroutine of its own.
	Take func(Taken)
	// Unverifiable, for Exec, is asked whether the program may start although
	// what it loads cannot be compared, because another tracer is there: a
	// debugger, or an attacker who wants us kept out. nil refuses.
	Unverifiable func(why error) bool
	// Recheck, for Exec, is asked about the loaded file where the judged one
	// needs a registered interpreter (binfmt_misc).
	Recheck func(*Program) bool
	// Then is told what happened: before Reply returns, or later and on
	// another goroutine where the call takes its time.
	Then func(Outcome)
}

// CanPerform reports whether a Connect or Send would be performed, so that it
// can be redirected, rather than checked.
func (c *Call) CanPerform() bool { return c.perform != nil }

// Outcome is what happened to a call.
type Outcome struct {
	Level  Level
	Err    error // sys.ErrGone if the target left before the answer
	Failed bool  // it proceeded and had no effect: the kernel refused it
	// Swapped is the file that an exec loaded in place of the judged one;
	// the process was killed.
	Swapped *Program
}

// Reply answers the call; r.Then is told what happened. It may block.
func (c *Call) Reply(r Reply) {
	then := r.Then
	if then == nil {
		then = func(Outcome) {}
	}
	switch {
	case c.replied:
		then(Outcome{Level: Refused, Err: errors.New("call was answered before")})
	case !r.Proceed:
		if r.Errno == 0 {
			r.Errno = unix.EACCES
		}
		then(Outcome{Level: Refused, Err: c.refuse(r.Errno)})
	case c.Op == Exec && c.Unknown == nil:
		c.s.b.launch(c, r, then)
	case c.Op != Exec && c.Unknown == nil && c.perform != nil:
		c.proceedSocket(r, then)
	default:
		then(Outcome{Level: Checked, Err: c.proceed()})
	}
}

// closeSocket drops our duplicate before the target hears the answer: its own
// close is to be the last, or the port stays taken and the peer sees no end.
func (c *Call) closeSocket() {
	if c.socket >= 0 && !c.part {
		unix.Close(c.socket)
		c.socket = -1
	}
}

func (c *Call) refuse(e syscall.Errno) error {
	c.errno = e
	return c.answer(answer{errno: e})
}

func (c *Call) proceed() error {
	c.continued = true
	return c.answer(answer{proceed: true})
}

func (c *Call) succeed(result int64) error {
	c.result = result
	return c.answer(answer{value: result})
}

func (c *Call) answer(a answer) error {
	c.replied = true
	if c.part {
		return nil
	}
	c.closeSocket()
	return c.s.b.answer(c, a)
}

// slow says that what comes may block, on a disk or on the target: other calls
// shall not wait for it.
func (c *Call) slow() { c.lead.pass() }

// pace tells whether looking names up is quick. Where it is, passing the lead
// first costs more than the look-up; where it is not, as on a network's file
// system, other calls shall not wait for it.
type pace struct{ slowUntil atomic.Int64 } // since begin

const (
	slowLookup = time.Millisecond
	slowFor    = time.Second // that a slow look-up is remembered
)

var begin = time.Now()

// look looks a name up for a call.
func (p *pace) look(c *Call, up func() error) error {
	start := time.Since(begin)
	if start < time.Duration(p.slowUntil.Load()) {
		c.slow()
	}
	err := up()
	if now := time.Since(begin); now-start > slowLookup {
		p.slowUntil.Store(int64(now + slowFor))
	}
	return err
}

// unknown hands a call to the handler whose arguments we could not read.
func (c *Call) unknown(err error) {
	c.Unknown = err
	c.s.cfg.Handler(c)
}

func (c *Call) String() string { return fmt.Sprintf("%s by %d", c.Name, c.TID) }
