package supervisor

import (
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// machine runs a classic BPF program over a struct seccomp_data, as the kernel
// does (seccomp_check_filter says which instructions there are). steps is how
// many it takes.
func machine(prog []byte, data [64]byte) (action uint32, steps int, err error) {
	var a, x uint32
	var mem [16]uint32
	for pc := 0; pc*8 < len(prog); pc++ {
		steps++
		in := prog[pc*8:]
		code := binary.NativeEndian.Uint16(in)
		jt, jf := int(in[2]), int(in[3])
		k := binary.NativeEndian.Uint32(in[4:])
		jump := func(yes bool) {
			if yes {
				pc += jt
			} else {
				pc += jf
			}
		}
		switch code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = binary.NativeEndian.Uint32(data[k:])
		case unix.BPF_ST:
			mem[k] = a
		case unix.BPF_LD | unix.BPF_MEM:
			a = mem[k]
		case unix.BPF_MISC | unix.BPF_TAX:
			x = a
		case unix.BPF_MISC | unix.BPF_TXA:
			a = x
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= k
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(k)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(a == k)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump(a > k)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(a >= k)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			jump(a&k != 0)
		case unix.BPF_RET | unix.BPF_K:
			return k, steps, nil
		default:
			return 0, steps, fmt.Errorf("instruction %d: unknown code %#x", pc, code)
		}
	}
	return 0, steps, fmt.Errorf("no return")
}

const (
	allow  = unix.SECCOMP_RET_ALLOW
	stop   = unix.SECCOMP_RET_USER_NOTIF
	trace  = unix.SECCOMP_RET_TRACE | traceMark
	ebusy  = unix.SECCOMP_RET_ERRNO | uint32(unix.EBUSY)
	enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	eperm  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
)

func ask(t *testing.T, prog []byte, arch uint32, nr int, args ...uint64) uint32 {
	t.Helper()
	var d [64]byte
	binary.NativeEndian.PutUint32(d[0:], uint32(nr))
	binary.NativeEndian.PutUint32(d[4:], arch)
	for i, v := range args {
		binary.NativeEndian.PutUint64(d[16+8*i:], v)
	}
	action, _, err := machine(prog, d)
	if err != nil {
		t.Fatal(err)
	}
	return action
}

// neg is how a negative int lies in a register, whatever its upper half.
func neg(n int) uint64 { return uint64(uint32(-n)) }

func TestFilter(t *testing.T) {
	const supervisor, guardian, group = 4001, 4000, 4000
	self := Self{Supervisor: supervisor, Family: []int{guardian}, Groups: []int{group, supervisor}}
	const high = 0x7_0000_0000
	tests := []struct {
		name string
		nr   int
		args []uint64
		want uint32
	}{
		{"execve", unix.SYS_EXECVE, nil, stop},
		{"execveat", unix.SYS_EXECVEAT, nil, stop},
		{"connect", unix.SYS_CONNECT, nil, stop},
		{"sendmsg", unix.SYS_SENDMSG, nil, stop},
		{"sendmmsg", unix.SYS_SENDMMSG, nil, stop},
		{"sendto without an address", unix.SYS_SENDTO, []uint64{3, 4, 5, 0, 0, 0}, allow},
		{"sendto with one", unix.SYS_SENDTO, []uint64{3, 4, 5, 0, 0x7fff0000, 16}, stop},
		{"sendto with one in the upper half", unix.SYS_SENDTO, []uint64{3, 4, 5, 0, 0x7fff_0000_0000, 16}, stop},
		{"a raw socket", unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_RAW | unix.SOCK_CLOEXEC, 1}, stop},
		{"a raw socket of IPv6 with full registers", unix.SYS_SOCKET, []uint64{high | unix.AF_INET6, high | unix.SOCK_RAW, 1}, stop},
		{"a packet socket", unix.SYS_SOCKET, []uint64{unix.AF_PACKET, unix.SOCK_DGRAM, 3}, stop},
		{"an old packet socket", unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_PACKET, 3}, stop},
		{"a socket for packets of a device", unix.SYS_SOCKET, []uint64{unix.AF_XDP, unix.SOCK_RAW, 0}, stop},
		{"a source route", unix.SYS_SETSOCKOPT, []uint64{3, unix.IPPROTO_IP, unix.IP_OPTIONS, 0x1000, 8}, eperm},
		{"a source route with full registers", unix.SYS_SETSOCKOPT, []uint64{3, high | unix.IPPROTO_IP, high | unix.IP_OPTIONS, 0x1000, high | 8}, eperm},
		{"no IP options any more", unix.SYS_SETSOCKOPT, []uint64{3, unix.IPPROTO_IP, unix.IP_OPTIONS, 0, 0}, allow},
		{"a routing header", unix.SYS_SETSOCKOPT, []uint64{3, unix.IPPROTO_IPV6, unix.IPV6_RTHDR, 0x1000, 24}, eperm},
		{"SCTP's connect", unix.SYS_SETSOCKOPT, []uint64{3, unix.IPPROTO_SCTP, 110, 0x1000, 16}, eperm},
		{"SCTP's other connect", unix.SYS_GETSOCKOPT, []uint64{3, unix.IPPROTO_SCTP, 111, 0x1000, 0x2000}, eperm},
		{"an option", unix.SYS_SETSOCKOPT, []uint64{3, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0x1000, 4}, allow},
		{"an option's value", unix.SYS_GETSOCKOPT, []uint64{3, unix.IPPROTO_IP, unix.IP_OPTIONS, 0x1000, 0x2000}, allow},
		{"a socket", unix.SYS_SOCKET, []uint64{unix.AF_INET6, unix.SOCK_STREAM | unix.SOCK_NONBLOCK, 0}, allow},
		{"a netlink socket", unix.SYS_SOCKET, []uint64{unix.AF_NETLINK, unix.SOCK_RAW, 0}, allow},
		{"a Unix socket", unix.SYS_SOCKET, []uint64{unix.AF_UNIX, unix.SOCK_STREAM, 0}, allow},
		{"a socket to the hypervisor", unix.SYS_SOCKET, []uint64{unix.AF_VSOCK, unix.SOCK_STREAM, 0}, stop},
		{"the same with a full register", unix.SYS_SOCKET, []uint64{high | unix.AF_VSOCK, unix.SOCK_STREAM, 0}, stop},
		{"a socket over UDP by the kernel", unix.SYS_SOCKET, []uint64{unix.AF_RXRPC, unix.SOCK_DGRAM, 2}, stop},
		{"a socket of a later kernel", unix.SYS_SOCKET, []uint64{46, unix.SOCK_DGRAM, 0}, stop},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, nil, enosys},
		{"a ring that was there before", unix.SYS_IO_URING_ENTER, nil, enosys},
		{"more of it", unix.SYS_IO_URING_REGISTER, nil, enosys},

		{"kill of the supervisor", unix.SYS_KILL, []uint64{supervisor, 15}, stop},
		{"kill of it with a full register", unix.SYS_KILL, []uint64{high | supervisor, 15}, stop},
		{"kill of the guardian", unix.SYS_KILL, []uint64{guardian, 15}, stop},
		{"kill of another", unix.SYS_KILL, []uint64{4002, 15}, allow},
		{"kill of the own group", unix.SYS_KILL, []uint64{0, 15}, allow},
		{"kill of everybody", unix.SYS_KILL, []uint64{neg(1), 15}, stop},
		{"kill of everybody with a full register", unix.SYS_KILL, []uint64{^uint64(0), 15}, stop},
		{"kill of our group", unix.SYS_KILL, []uint64{neg(group), 15}, stop},
		{"kill of our group with a full register", unix.SYS_KILL, []uint64{high | neg(group), 15}, stop},
		{"SIGKILL to anybody", unix.SYS_KILL, []uint64{4002, 9}, stop},
		{"SIGKILL with a full register", unix.SYS_KILL, []uint64{4002, high | 9}, stop},
		{"SIGSTOP to anybody", unix.SYS_TKILL, []uint64{4002, 19}, stop},
		{"tgkill in the supervisor", unix.SYS_TGKILL, []uint64{supervisor, 4005, 9}, stop},
		{"joining our group", unix.SYS_SETPGID, []uint64{0, group}, stop},
		{"joining another group", unix.SYS_SETPGID, []uint64{0, 4002}, allow},
		{"pidfd of the supervisor", unix.SYS_PIDFD_OPEN, []uint64{supervisor, 0}, stop},
		{"SIGKILL by pidfd", unix.SYS_PIDFD_SEND_SIGNAL, []uint64{5, 9}, stop},
		{"SIGTERM by pidfd", unix.SYS_PIDFD_SEND_SIGNAL, []uint64{5, 15}, allow},
		{"own limits", unix.SYS_PRLIMIT64, []uint64{0, 7, 0x1000, 0}, allow},
		{"another's limits, read", unix.SYS_PRLIMIT64, []uint64{supervisor, 7, 0, 0x1000}, allow},
		{"another's limits, set", unix.SYS_PRLIMIT64, []uint64{supervisor, 7, 0x1000, 0}, stop},
		{"SIGKILL from a descriptor", unix.SYS_FCNTL, []uint64{5, unix.F_SETSIG, 9}, eperm},
		{"an ordinary fcntl", unix.SYS_FCNTL, []uint64{5, unix.F_SETFL, 9}, allow},
		{"an ordinary filter", unix.SYS_SECCOMP, []uint64{unix.SECCOMP_SET_MODE_FILTER, 0, 4}, allow},
	}
	for by, asks := range map[Backend]uint32{ByNotify: stop, ByPtrace: trace} {
		prog, err := BuildFilter(self, by, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, test := range tests {
			want := test.want
			if want == stop {
				want = asks
			}
			if got := ask(t, prog, nativeArch, test.nr, test.args...); got != want {
				t.Errorf("%s, %s: %#x, want %#x", by, test.name, got, want)
			}
		}
		if got, want := ask(t, prog, nativeArch, unix.SYS_PTRACE, unix.PTRACE_SEIZE, 4002), map[Backend]uint32{ByNotify: allow, ByPtrace: eperm}[by]; got != want {
			t.Errorf("%s, tracing: %#x, want %#x", by, got, want)
		}
		for what, args := range map[int][]uint64{
			unix.SYS_USERFAULTFD: nil, unix.SYS_MOUNT: nil, unix.SYS_FSMOUNT: nil, unix.SYS_FANOTIFY_INIT: nil,
			unix.SYS_IOCTL: {3, high | 0xaa00}, unix.SYS_FCNTL: {3, unix.F_SETLEASE, unix.F_WRLCK},
		} {
			if got, want := ask(t, prog, nativeArch, what, args...), map[Backend]uint32{ByNotify: allow, ByPtrace: trace}[by]; got != want {
				t.Errorf("%s, call %d, by which the target may hold things back: %#x, want %#x", by, what, got, want)
			}
		}
		want := map[Backend]uint32{ByNotify: allow, ByPtrace: ebusy}[by]
		for _, flags := range []uint64{unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, 0x1f, high | 8} {
			if got := ask(t, prog, nativeArch, unix.SYS_SECCOMP, high|unix.SECCOMP_SET_MODE_FILTER, flags, 4); got != want {
				t.Errorf("%s, a listener with flags %#x: %#x, want %#x", by, flags, got, want)
			}
		}
	}
}

// TestFilterLeavesAlone names calls that must never be stopped: a process
// without a supervisor could not even end itself, and calls that are made all
// the time would be slow.
func TestFilterLeavesAlone(t *testing.T) {
	prog, err := BuildFilter(Self{Supervisor: 4001, Family: []int{4000}, Groups: []int{4000}}, ByNotify, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, nr := range []int{
		unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_RT_SIGRETURN, unix.SYS_RESTART_SYSCALL, unix.SYS_FUTEX,
		unix.SYS_CLOSE, unix.SYS_CLONE, unix.SYS_CLONE3, unix.SYS_WAIT4, unix.SYS_WAITID, unix.SYS_READ, unix.SYS_WRITE,
		unix.SYS_OPENAT, unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_BRK, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGACTION,
		unix.SYS_GETPID, unix.SYS_CLOCK_GETTIME, unix.SYS_NANOSLEEP, unix.SYS_SOCKETPAIR, unix.SYS_RECVMSG, unix.SYS_PPOLL,
	} {
		for _, args := range [][]uint64{nil, {4001, 9, 9, 9, 9, 9}, {^uint64(0), 9, 9, 9, 9, 9}} {
			if got := ask(t, prog, nativeArch, nr, args...); got != allow {
				t.Errorf("call %d with %v: %#x", nr, args, got)
			}
		}
	}
}

// TestFilterIsShort counts steps: what the kernel has not in its bitmap, and
// before Linux 5.11 everything, walks the program.
func TestFilterIsShort(t *testing.T) {
	for _, files := range []bool{false, true} {
		prog, err := BuildFilter(Self{Supervisor: 4001, Family: []int{4000}, Groups: []int{4000, 4001}}, ByNotify, files)
		if err != nil {
			t.Fatal(err)
		}
		for _, nr := range []int{unix.SYS_GETPID, unix.SYS_OPENAT, unix.SYS_FCNTL, unix.SYS_GETSOCKOPT, unix.SYS_SENDTO} {
			var d [64]byte
			binary.NativeEndian.PutUint32(d[0:], uint32(nr))
			binary.NativeEndian.PutUint32(d[4:], nativeArch)
			most := 40
			if nr == unix.SYS_OPENAT && files {
				most = 7
			}
			if action, steps, err := machine(prog, d); err != nil || action != allow || steps > most {
				t.Errorf("files %t: call %d takes %d steps of %d, %#x, %v", files, nr, steps, most, action, err)
			}
		}
	}
}

// TestFilterOtherTables asks about the other call tables of the processor.
func TestFilterOtherTables(t *testing.T) {
	for _, files := range []bool{false, true} {
		prog, err := BuildFilter(Self{Supervisor: 4001, Family: []int{4000}, Groups: []int{4000}}, ByNotify, files)
		if err != nil {
			t.Fatal(err)
		}
		for _, arch := range []uint32{unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM, 0} {
			if arch == nativeArch {
				continue
			}
			for nr := range 600 {
				if got := ask(t, prog, arch, nr); got != enosys {
					t.Fatalf("architecture %#x, call %d: %#x, want ENOSYS", arch, nr, got)
				}
			}
		}
		if nativeArch != unix.AUDIT_ARCH_X86_64 {
			continue
		}
		for nr := range 600 {
			if got := ask(t, prog, nativeArch, 0x40000000|nr); got != enosys {
				t.Errorf("x32 call %d: %#x, want ENOSYS", nr, got)
			}
		}
	}
}

// TestFilterOfTheFirstProcess asks about a container's first process, which
// the kernel protects itself.
func TestFilterOfTheFirstProcess(t *testing.T) {
	prog, err := BuildFilter(Self{Supervisor: 1, Groups: []int{1}}, ByNotify, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(t, prog, nativeArch, unix.SYS_KILL, 1, 1); got != allow {
		t.Errorf("kill -HUP 1: %#x", got)
	}
	if got := ask(t, prog, nativeArch, unix.SYS_FCNTL, 5, unix.F_SETSIG, uint64(unix.SIGSEGV)); got != eperm {
		t.Errorf("SIGSEGV from a descriptor: %#x", got)
	}
	if got := ask(t, prog, nativeArch, unix.SYS_EXECVE); got != stop {
		t.Errorf("execve: %#x", got)
	}
}

// TestFilterFiles asks about changes to files: with file monitoring all are
// stopped and what only reads is not; without it nothing is.
func TestFilterFiles(t *testing.T) {
	self := Self{Supervisor: 4001, Family: []int{4000}, Groups: []int{4000}}
	with, err := BuildFilter(self, ByNotify, true)
	if err != nil {
		t.Fatal(err)
	}
	without, err := BuildFilter(self, ByNotify, false)
	if err != nil {
		t.Fatal(err)
	}
	const high = 0x7_0000_0000
	var at = uint64(0xffffff9c) // AT_FDCWD
	tests := []struct {
		name  string
		flags uint64
		want  uint32
	}{
		{"read", unix.O_RDONLY, allow},
		{"read with more", unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_NOATIME, allow},
		{"path", unix.O_PATH | unix.O_CLOEXEC, allow},
		{"read with a full register", high, allow},
		{"write", unix.O_WRONLY, stop},
		{"read and write", unix.O_RDWR, stop},
		{"neither", unix.O_ACCMODE, stop},
		{"create", unix.O_CREAT, stop},
		{"truncate", unix.O_TRUNC, stop},
		{"append", unix.O_WRONLY | unix.O_APPEND, stop},
		{"unnamed", unix.O_TMPFILE | unix.O_RDWR, stop},
		{"write with a full register", high | unix.O_WRONLY, stop},
	}
	for _, test := range tests {
		if got := ask(t, with, nativeArch, unix.SYS_OPENAT, at, 1, test.flags); got != test.want {
			t.Errorf("openat to %s: %#x, want %#x", test.name, got, test.want)
		}
	}
	for nr, c := range changes {
		if got := ask(t, with, nativeArch, int(nr), at, unix.O_WRONLY, unix.O_WRONLY); got != stop {
			t.Errorf("%s: %#x with monitoring", c.name, got)
		}
		if got := ask(t, without, nativeArch, int(nr), at, unix.O_WRONLY, unix.O_WRONLY); got != allow {
			t.Errorf("%s: %#x without monitoring", c.name, got)
		}
	}
}
