package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	auditArchAArch64 = 0xc00000b7
	ntPrStatus       = 1
	ntARMSystemCall  = 0x404 // NT_ARM_SYSTEM_CALL
)

// Regs are the registers of a thread that stands in a call.
type Regs struct {
	tid  int
	regs unix.PtraceRegsArm64
}

// ReadRegs reads the registers of a stopped tracee.
func ReadRegs(tid int, r *Regs) error {
	r.tid = tid
	return unix.PtraceGetRegSetArm64(tid, ntPrStatus, &r.regs)
}

// Data returns the call as a filter sees it.
func (r *Regs) Data() Data {
	u := &r.regs
	return Data{NR: int32(u.Regs[8]), Arch: auditArchAArch64, IP: u.Pc, Args: [6]uint64(u.Regs[:6])}
}

// Skip makes the kernel leave the call out and return result in its place. The
// thread must stand before the call.
func (r *Regs) Skip(result int64) error { return r.set(-1, result) }

// Return makes call nr return result; the kernel then treats the two as its
// own, so that ERESTARTSYS restarts the call. The thread must stand at the
// exit of a call that was skipped.
func (r *Regs) Return(nr int32, result int64) error { return r.set(nr, result) }

func (r *Regs) set(nr int32, result int64) error {
	r.regs.Regs[0] = uint64(result)
	if err := unix.PtraceSetRegSetArm64(r.tid, ntPrStatus, &r.regs); err != nil {
		return err
	}
	iov := unix.Iovec{Base: (*byte)(unsafe.Pointer(&nr)), Len: 4}
	if _, _, e := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SETREGSET, uintptr(r.tid), ntARMSystemCall,
		uintptr(unsafe.Pointer(&iov)), 0, 0); e != 0 {
		return e
	}
	return nil
}
