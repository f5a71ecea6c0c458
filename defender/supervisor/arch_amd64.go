package supervisor

import "golang.org/x/sys/unix"

// nativeArch is the ABI whose calls the filter judges; see audit.h.
const nativeArch = unix.AUDIT_ARCH_X86_64
