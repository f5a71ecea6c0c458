package sys

import (
	"golang.org/x/sys/unix"
)

const (
	auditArchX86_64 = 0xc000003e
	auditArchI386   = 0x40000003
	userCS32        = 0x23 // __USER32_CS: the thread runs 32-bit code
)

// Regs are the registers of a thread that stands in a call.
type Regs struct {
	tid  int
	regs unix.PtraceRegs
}

// ReadRegs reads the registers of a stopped tracee.
func ReadRegs(tid int, r *Regs) error {
	r.tid = tid
	return unix.PtraceGetRegs(tid, &r.regs)
}

// Data returns the call as a filter sees it.
func (r *Regs) Data() Data {
	u := &r.regs
	d := Data{NR: int32(u.Orig_rax), Arch: auditArchX86_64, IP: u.Rip, Args: [6]uint64{u.Rdi, u.Rsi, u.Rdx, u.R10, u.R8, u.R9}}
	if u.Cs == userCS32 {
		d.Arch = auditArchI386
		d.Args = [6]uint64{low32(u.Rbx), low32(u.Rcx), low32(u.Rdx), low32(u.Rsi), low32(u.Rdi), low32(u.Rbp)}
	}
	return d
}

func low32(v uint64) uint64 { return v & 0xffffffff }

// Skip makes the kernel leave the call out and return result in its place. The
// thread must stand before the call.
func (r *Regs) Skip(result int64) error {
	r.regs.Orig_rax, r.regs.Rax = ^uint64(0), uint64(result)
	return unix.PtraceSetRegs(r.tid, &r.regs)
}

// Return makes call nr return result; the kernel then treats the two as its
// own, so that ERESTARTSYS restarts the call. The thread must stand at the
// exit of a call that was skipped.
func (r *Regs) Return(nr int32, result int64) error {
	r.regs.Orig_rax, r.regs.Rax = uint64(nr), uint64(result)
	return unix.PtraceSetRegs(r.tid, &r.regs)
}
