package sys

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Within runs f on behalf of thread tid, without those of the given
// capabilities (a bit each) that the thread does not have itself: f must not
// do for the target what the kernel would refuse it. f may be run twice: what
// is refused without a capability is tried with it, if the target has it.
//
// Capabilities count in their own user namespace only. foreign reports that f
// was refused, and that the thread is in another one than we are, or may be.
func Within(tid int, caps uint64, f func() error) (foreign bool, err error) {
	runtime.LockOSThread() // capabilities belong to it
	defer runtime.UnlockOSThread()
	ours, err := effective()
	if err != nil {
		return false, err
	}
	caps &= ours
	err = without(ours, caps, f)
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
		return false, err
	}
	if !sameUserNS(tid) {
		return true, err
	}
	st, serr := ReadStatus(tid)
	if serr != nil || st.CapEff&caps == 0 {
		return false, err
	}
	return false, without(ours, caps&^st.CapEff, f)
}

// without runs f with the capabilities ours but for some.
func without(ours, some uint64, f func() error) error {
	if some == 0 {
		return f()
	}
	if err := setEffective(ours &^ some); err != nil {
		return err
	}
	err := f()
	if back := setEffective(ours); back != nil {
		panic(fmt.Sprintf("taking our own capabilities back: %v", back))
	}
	return err
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
