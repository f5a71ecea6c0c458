package supervisor

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"

	seccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"

	"appdefender/internal/early"
	"appdefender/internal/sys"
)

// Self is what the filter must keep the target from touching.
type Self struct {
	Supervisor int
	Family     []int // guardian and watcher, if there are any
	Groups     []int // our process groups
}

// low is the part of a register that the kernel takes for an int: comparing
// all 64 bits would let 1<<32|pid through.
const low = 0xffffffff

// BuildFilter returns the seccomp program for a target that is supervised in
// the given way, an array of struct sock_filter.
//
// It asks about programs that start, addresses that are reached and signals
// that could end us, and about nothing else: a call that is not named here costs a lookup in the kernel's
// bitmap. A second ABI of the processor (i386, x32) does not exist for the
// target: its calls would pass unseen. io_uring does not exist either: it
// connects and sends without a call.
//
// With files it asks about every change to the file system as well.
func BuildFilter(self Self, by Backend, files bool) ([]byte, error) {
	if by == ByNotify {
		// The library says of a kernel without listeners that our rules are wrong.
		if err := sys.NotifSizes(early.SlotSize); err != nil {
			return nil, err
		}
	}
	f, err := seccomp.NewFilter(seccomp.ActAllow)
	if err != nil {
		return nil, fmt.Errorf("building filter: %w", err)
	}
	defer f.Release()
	enosys := seccomp.ActErrno.SetReturnCode(int16(unix.ENOSYS))
	eperm := seccomp.ActErrno.SetReturnCode(int16(unix.EPERM))
	if err := f.SetBadArchAction(enosys); err != nil {
		return nil, fmt.Errorf("building filter: %w", err)
	}
	// A tree by the calls' numbers: a call whose arguments count, such as an
	// open with files monitored, is not in the kernel's bitmap and walks it.
	if err := f.SetOptimize(2); err != nil {
		return nil, fmt.Errorf("building filter: %w", err)
	}
	b := builder{f: f, stop: seccomp.ActNotify}
	if by == ByPtrace {
		b.stop = seccomp.ActTrace.SetReturnCode(traceMark)
		b.onlyTracer()
		b.tellHolders(files)
	}
	for _, name := range []string{"execve", "execveat", "connect", "sendmsg", "sendmmsg", "bind", "listen"} {
		b.add(b.stop, name)
	}
	b.add(b.stop, "sendto", arg(4, seccomp.CompareNotEqual, 0))
	for family := range families {
		b.add(b.stop, "socket", isInt(0, family))
	}
	b.add(b.stop, "socket", arg(0, seccomp.CompareGreaterEqual, maxFamily))
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		for _, kind := range []uint64{unix.SOCK_RAW, unix.SOCK_PACKET} {
			b.add(b.stop, "socket", isInt(0, family), masked(1, sockTypeMask, kind))
		}
	}
	for _, name := range []string{"io_uring_setup", "io_uring_enter", "io_uring_register"} { // a ring may be inherited
		b.add(enosys, name)
	}
	b.straight(eperm)
	if files {
		b.changes()
	}
	b.protect(self, eperm)
	if b.err != nil {
		return nil, fmt.Errorf("building filter: %w", b.err)
	}
	prog, err := export(f)
	if files && err == nil {
		prog = append(readsFirst(), prog...)
	}
	return prog, err
}

// writeFlags are the flags of open(2) that make it a change.
const writeFlags = unix.O_ACCMODE | unix.O_CREAT | unix.O_TRUNC

// readsFirst allows an openat that only reads, before all other questions: no
// other call that is asked about for its arguments is made as often. Its seven
// steps would be four times as many by the library's rules, which know no
// "none of these bits". Whatever else comes falls through to what follows.
func readsFirst() []byte {
	const nr, arch, flags = 0, 4, 16 + 2*8 // offsets in struct seccomp_data
	var prog []byte
	for _, in := range []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: arch},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nativeArch, Jf: 5},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: nr},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_OPENAT, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: writeFlags, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	} {
		prog = binary.NativeEndian.AppendUint16(prog, in.Code)
		prog = append(prog, in.Jt, in.Jf)
		prog = binary.NativeEndian.AppendUint32(prog, in.K)
	}
	return prog
}

// straight refuses what leads a socket's packets elsewhere than the judged
// address says: a source route of IPv4 (other options go with it), a routing
// header of IPv6, and the further addresses of an SCTP association. In a
// message's control data they are [bends].
func (b *builder) straight(eperm seccomp.ScmpAction) {
	b.add(eperm, "setsockopt", isInt(1, unix.IPPROTO_IP), isInt(2, unix.IP_OPTIONS), arg(4, seccomp.CompareNotEqual, 0))
	for _, opt := range []int{unix.IPV6_RTHDR, unix.IPV6_2292PKTOPTIONS} {
		b.add(eperm, "setsockopt", isInt(1, unix.IPPROTO_IPV6), isInt(2, opt))
	}
	for _, opt := range []int{sctpConnectOld, sctpConnect} {
		b.add(eperm, "setsockopt", isInt(1, unix.IPPROTO_SCTP), isInt(2, opt))
	}
	b.add(eperm, "getsockopt", isInt(1, unix.IPPROTO_SCTP), isInt(2, sctpConnect3))
}

// From linux/sctp.h: options that connect, and control data of a message that
// adds an address.
const (
	sctpConnectOld, sctpConnect, sctpConnect3 = 107, 110, 111

	sctpDestination4, sctpDestination6 = 7, 8
)

// changes asks about calls that change files. An open is one by its flags, and
// the many that only read are not stopped; openat2 has its flags in memory.
func (b *builder) changes() {
	for nr, c := range changes {
		flags := map[string]uint{"open": 1, "openat": 2, "open_by_handle_at": 2}[c.name]
		if flags == 0 {
			b.addNR(b.stop, nr)
			continue
		}
		for _, mode := range []uint64{unix.O_WRONLY, unix.O_RDWR, unix.O_ACCMODE} {
			b.addNR(b.stop, nr, masked(flags, unix.O_ACCMODE, mode))
		}
		for _, bit := range []uint64{unix.O_CREAT, unix.O_TRUNC} {
			b.addNR(b.stop, nr, masked(flags, bit, bit))
		}
	}
}

// protect keeps the target's signals and limits off our own processes.
// Memory, descriptors and environment need no rule: we are not dumpable.
//
// The filter asks about calls with a number of ours, which in a pid namespace
// of the target may be somebody else's. Each of our threads has a number too,
// and a directory of /proc is as good as a pidfd: it also asks about every
// call that could kill or stop us by such a way. self.go answers.
//
// As process 1 we need no rule for those who send signals: the kernel drops what
// would end us, and what it lets through ("kill -HUP 1") is for the target and
// passed on.
func (b *builder) protect(self Self, eperm seccomp.ScmpAction) {
	b.add(b.stop, "prlimit64", arg(0, seccomp.CompareNotEqual, 0), arg(2, seccomp.CompareNotEqual, 0))
	// 0 is the caller; any other number may be a thread of ours.
	for _, name := range []string{"sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"} {
		b.add(b.stop, name, arg(0, seccomp.CompareNotEqual, 0))
	}
	// All processes of a user are the third kind of whom there is.
	b.add(b.stop, "setpriority", arg(1, seccomp.CompareNotEqual, 0))
	b.add(b.stop, "setpriority", isInt(0, unix.PRIO_USER))
	b.add(b.stop, "ioprio_set", arg(1, seccomp.CompareNotEqual, 0))
	b.add(b.stop, "ioprio_set", isInt(0, ioprioUser))
	// The kernel sends these to whomever F_SETOWN names, and in its name: those
	// that nobody survives, and those that a Go program takes for a fault of
	// its own.
	for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGSTOP, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGBUS,
		unix.SIGFPE, unix.SIGSEGV, unix.SIGSTKFLT, unix.SIGSYS, 32, 33} {
		b.add(eperm, "fcntl", isInt(1, unix.F_SETSIG), isInt(2, int(sig)))
	}
	if self.Supervisor == 1 {
		return
	}
	for _, pid := range append([]int{self.Supervisor}, self.Family...) {
		for _, name := range []string{"kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "tkill", "pidfd_open"} {
			b.add(b.stop, name, isInt(0, pid))
		}
	}
	// Both of us at once: everybody, our group, or a group made ours.
	b.add(b.stop, "kill", isInt(0, -1))
	for _, group := range self.Groups {
		b.add(b.stop, "kill", isInt(0, -group))
		b.add(b.stop, "setpgid", isInt(1, group))
	}
	for _, sig := range []int{int(unix.SIGKILL), int(unix.SIGSTOP)} {
		for _, name := range []string{"kill", "tkill", "rt_sigqueueinfo", "pidfd_send_signal"} {
			b.add(b.stop, name, isInt(1, sig))
		}
	}
}

// traceMark is in every stop that our filter asks for (PTRACE_GETEVENTMSG): a
// filter of the target's own may ask for a tracer as well.
const traceMark = 0x4465

// holders are calls by which a target may come to hold back what we read of it,
// its memory or its files, for as long as it likes: page faults and file
// systems served by itself (userfaultfd(2), fuse(4)), files that it is asked
// about first (fcntl(2), F_SETLEASE; fanotify(7)).
var holders = map[int32]bool{
	unix.SYS_USERFAULTFD: true, unix.SYS_IOCTL: true, unix.SYS_MOUNT: true, unix.SYS_FSMOUNT: true, unix.SYS_MOVE_MOUNT: true,
	unix.SYS_FCNTL: true, unix.SYS_FANOTIFY_INIT: true,
}

// tellHolders asks about them, not to judge them but for the tracer to take care: it is one thread. A
// listener has others that go on.
func (b *builder) tellHolders(files bool) {
	const userfaultfdNew = 0xaa00 // USERFAULTFD_IOC_NEW of /dev/userfaultfd
	for nr := range holders {
		switch _, changes := changes[nr]; {
		case nr == unix.SYS_IOCTL:
			b.addNR(b.stop, nr, isInt(1, userfaultfdNew))
		case nr == unix.SYS_FCNTL:
			b.addNR(b.stop, nr, isInt(1, unix.F_SETLEASE))
		case changes && files: // it is asked about anyway
		default:
			b.addNR(b.stop, nr)
		}
	}
}

// onlyTracer lets nobody answer in our place.
//
// A listener of the target's own would be asked before a tracer is
// (seccomp(2), order of actions). Under a listener of ours the kernel says
// EBUSY by itself.
//
// A process made with CLONE_UNTRACED, which clone3 has in memory, has no
// tracer: its calls are ENOSYS. But it may get one, who would then be asked
// instead of us. So nobody traces: all but such a process have a tracer, and
// the kernel would say EPERM.
func (b *builder) onlyTracer() {
	b.add(seccomp.ActErrno.SetReturnCode(int16(unix.EPERM)), "ptrace")
	ebusy := seccomp.ActErrno.SetReturnCode(int16(unix.EBUSY))
	const listener = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	b.add(ebusy, "seccomp", isInt(0, unix.SECCOMP_SET_MODE_FILTER),
		seccomp.ScmpCondition{Argument: 1, Op: seccomp.CompareMaskedEqual, Operand1: listener, Operand2: listener})
}

type builder struct {
	f    *seccomp.ScmpFilter
	stop seccomp.ScmpAction // asks us
	err  error
}

func (b *builder) add(action seccomp.ScmpAction, name string, when ...seccomp.ScmpCondition) {
	if b.err != nil {
		return
	}
	nr, err := seccomp.GetSyscallFromName(name)
	if err != nil {
		b.err = fmt.Errorf("%s: %w", name, err)
		return
	}
	b.addNR(action, int32(nr), when...)
}

func (b *builder) addNR(action seccomp.ScmpAction, nr int32, when ...seccomp.ScmpCondition) {
	if b.err != nil {
		return
	}
	var err error
	if len(when) == 0 {
		err = b.f.AddRuleExact(seccomp.ScmpSyscall(nr), action)
	} else {
		err = b.f.AddRuleConditionalExact(seccomp.ScmpSyscall(nr), action, when)
	}
	if err != nil {
		b.err = fmt.Errorf("call %d: %w", nr, err)
	}
}

func arg(n uint, op seccomp.ScmpCompareOp, v uint64) seccomp.ScmpCondition {
	return seccomp.ScmpCondition{Argument: n, Op: op, Operand1: v}
}

func masked(n uint, mask, v uint64) seccomp.ScmpCondition {
	return seccomp.ScmpCondition{Argument: n, Op: seccomp.CompareMaskedEqual, Operand1: mask, Operand2: v}
}

func isInt(n uint, v int) seccomp.ScmpCondition {
	return seccomp.ScmpCondition{Argument: n, Op: seccomp.CompareMaskedEqual, Operand1: low, Operand2: uint64(uint32(int32(v)))}
}

func export(f *seccomp.ScmpFilter) ([]byte, error) {
	fd, err := unix.MemfdCreate("filter", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("exporting filter: %w", err)
	}
	file := os.NewFile(uintptr(fd), "filter")
	defer file.Close()
	if err := f.ExportBPF(file); err != nil {
		return nil, fmt.Errorf("exporting filter: %w", err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("exporting filter: %w", err)
	}
	return io.ReadAll(file)
}
