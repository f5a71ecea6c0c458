package sys

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Unreachable is in front of a name that leads us elsewhere, or nowhere, as the
// kernel has it for a working folder that is not below the root (getcwd(3)).
const Unreachable = "(unreachable)"

// NameOf returns the name of a file as we know it; name is what /proc says that
// it is called, and fd stands for it.
//
// The kernel names a file by the mounts that its opener saw. In a mount
// namespace of its own, or a mount that is nowhere (open_tree(2)), a target
// has any file by any name: what a name is worth is where it leads us. One that
// was removed leads nowhere, but lay in the mount that its folder is in; where
// the kernel does not tell mounts apart (gVisor) it is believed.
func NameOf(fd int, name string) string {
	var here, there unix.Stat_t
	if unix.Fstat(fd, &here) != nil {
		return name
	}
	if unix.Stat(name, &there) == nil && here.Dev == there.Dev && here.Ino == there.Ino {
		return name
	}
	if here.Nlink == 0 {
		name = strings.TrimSuffix(name, " (deleted)")
		if strings.HasPrefix(name, "/memfd:") {
			return name
		}
	}
	if in := mountOf(fd, ""); in == 0 && here.Nlink == 0 || in != 0 && in == mountOf(unix.AT_FDCWD, path.Dir(name)) {
		return name
	}
	return Unreachable + name
}

// mountOf returns the id of the mount that a file is in, which is that of no
// other namespace's mount; 0 before Linux 5.8.
func mountOf(dir int, name string) uint64 {
	var st unix.Statx_t
	if unix.Statx(dir, name, unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st) != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return 0
	}
	return st.Mnt_id
}
