// Package sys holds the system calls and structures that golang.org/x/sys
// lacks. It decides nothing; each function is one call of the kernel.
package sys

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Data is struct seccomp_data: the registers of a stopped call.
type Data struct {
	NR   int32
	Arch uint32
	IP   uint64
	Args [6]uint64
}

// Notif is struct seccomp_notif.
type Notif struct {
	ID    uint64
	TID   uint32 // a thread, in our pid namespace; 0 if it has no number there
	Flags uint32
	Data  Data
}

// Resp is struct seccomp_notif_resp. Error is negative, as the kernel wants
// it.
type Resp struct {
	ID    uint64
	Val   int64
	Error int32
	Flags uint32
}

// ioctl numbers of linux/seccomp.h for the structures above.
const (
	notifRecv     = 0xc0502100
	notifSend     = 0xc0182101
	notifIDValid  = 0x40082102
	notifSetFlags = 0x40082104

	notifContinue   = 1
	fdSyncWakeUp    = 1
	notifSizesProbe = 3 // SECCOMP_GET_NOTIF_SIZES
)

// ErrGone means that the target died or left the call before we answered.
// It is ordinary: drop the call and take the next one.
var ErrGone = errors.New("target is gone")

// NotifSizes returns an error if the kernel's notification does not fit into
// slot bytes (seccomp(2), SECCOMP_GET_NOTIF_SIZES).
func NotifSizes(slot int) error {
	var sizes struct{ Notif, Resp, Data uint16 }
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, notifSizesProbe, 0, uintptr(unsafe.Pointer(&sizes))); e != 0 {
		return fmt.Errorf("seccomp notifications: %w", e)
	}
	if int(sizes.Notif) > slot {
		return fmt.Errorf("seccomp notifications of %d bytes: more than the %d we can take", sizes.Notif, slot)
	}
	return nil
}

// Recv waits for a notification and lets the kernel write it into slot, which
// must be zero. EINTR and ENOENT are ordinary (seccomp_unotify(2)).
func Recv(listener int, slot []byte) (*Notif, error) {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), notifRecv, uintptr(unsafe.Pointer(&slot[0])))
	if e != 0 {
		return nil, e
	}
	return (*Notif)(unsafe.Pointer(&slot[0])), nil
}

// Send answers a notification.
func Send(listener int, r *Resp) error {
	return gone(ioctlRaw(listener, notifSend, unsafe.Pointer(r)))
}

// Continue lets the call run in the kernel, which reads its arguments again.
func Continue(listener int, id uint64) error {
	return Send(listener, &Resp{ID: id, Flags: notifContinue})
}

// Valid returns ErrGone if the call is no longer pending.
func Valid(listener int, id uint64) error {
	return gone(ioctlRaw(listener, notifIDValid, unsafe.Pointer(&id)))
}

// SyncWakeUp says whether the caller and us are to wake each other on the
// processor that the other runs on (Linux 6.6).
func SyncWakeUp(listener int, on bool) error {
	flags := uintptr(0)
	if on {
		flags = fdSyncWakeUp
	}
	if _, _, e := unix.RawSyscall(unix.SYS_IOCTL, uintptr(listener), notifSetFlags, flags); e != 0 {
		return e
	}
	return nil
}

// ioctlRaw is for requests that never wait: the Go scheduler is not told.
func ioctlRaw(fd int, req uintptr, arg unsafe.Pointer) error {
	if _, _, e := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(arg)); e != 0 {
		return e
	}
	return nil
}

func gone(err error) error {
	if err == syscall.ENOENT {
		return ErrGone
	}
	return err
}
