package sys

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Within runs f on behalf of thread tid, without those of the given
// capabilities (a bit each) that the thread does not have itself: f must not
// do for the target what the kernel would refuse it.
//
// Capabilities count in their own user namespace only. foreign reports that
// the thread is in another one than we are, or may be; then f runs without
// any of them.
func Within(tid int, caps uint64, f func() error) (foreign bool, err error) {
	runtime.LockOSThread() // capabilities belong to it
	defer runtime.UnlockOSThread()
	ours, err := effective()
	if err != nil {
		return false, err
	}
	var theirs uint64
	if foreign = !sameUserNS(tid); !foreign {
		st, err := ReadStatus(tid)
		if err != nil {
			return false, unix.ESRCH
		}
		theirs = st.CapEff
	}
	drop := ours & caps &^ theirs
	if drop == 0 {
		return foreign, f()
	}
	if err := setEffective(ours &^ drop); err != nil {
		return foreign, err
	}
	err = f()
	if back := setEffective(ours); back != nil {
		panic(fmt.Sprintf("taking our own capabilities back: %v", back))
	}
	return foreign, err
}

var ourUserNS = func() (st unix.Stat_t) {
	_ = unix.Stat("/proc/self/ns/user", &st)
	return st
}()

func sameUserNS(tid int) bool {
	var st unix.Stat_t
	err := AsTarget(tid, func() error { return unix.Stat(fmt.Sprintf("/proc/%d/ns/user", tid), &st) })
	return err == nil && st.Dev == ourUserNS.Dev && st.Ino == ourUserNS.Ino
}

// capSets is struct __user_cap_data_struct, twice: the sets in halves.
type capSets [2]struct{ effective, permitted, inheritable uint32 }

func capget(sets *capSets) error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_, _, e := unix.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(sets)), 0)
	if e != 0 {
		return e
	}
	return nil
}

// effective returns the effective capabilities of the calling OS thread.
func effective() (uint64, error) {
	var sets capSets
	err := capget(&sets)
	return uint64(sets[0].effective) | uint64(sets[1].effective)<<32, err
}

// setEffective changes them for the calling OS thread alone.
func setEffective(caps uint64) error {
	var sets capSets
	if err := capget(&sets); err != nil {
		return err
	}
	sets[0].effective, sets[1].effective = uint32(caps), uint32(caps>>32)
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_, _, e := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&sets)), 0)
	if e != 0 {
		return e
	}
	return nil
}

// Bind is bind(2) with the bytes of a sockaddr as given.
func Bind(fd int, addr []byte) error {
	var p unsafe.Pointer
	if len(addr) > 0 {
		p = unsafe.Pointer(&addr[0])
	}
	if _, _, e := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(p), uintptr(len(addr))); e != 0 {
		return e
	}
	return nil
}
