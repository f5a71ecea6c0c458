package proc

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"appdefender/internal/sys"
)

// Interactive reports whether the standard input of thread tid is a terminal.
// An error means that nobody can say.
func Interactive(tid int) (bool, error) {
	var st unix.Stat_t
	err := sys.AsTarget(tid, func() error { return unix.Stat(fmt.Sprintf("/proc/%d/fd/0", tid), &st) })
	if errors.Is(err, unix.ENOENT) {
		return false, nil // it is closed
	}
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && terminal(st.Rdev), err
}

// terminal reports whether a character device is one, by the kernel's list of
// numbers (Documentation/admin-guide/devices.txt).
func terminal(dev uint64) bool {
	switch major := unix.Major(dev); major {
	case 4, // consoles and serial lines
		204, 229: // serial lines of other processors, of hypervisors
		return true
	case 5:
		return unix.Minor(dev) != 2 // /dev/tty and /dev/console, but not /dev/ptmx
	default:
		return major >= 136 && major <= 143 // of a pseudo-terminal
	}
}
