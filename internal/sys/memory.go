package sys

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

const pageSize = 4096

// shortString is what is read at first of a string: most paths are shorter.
const shortString = 256

// Read fills buf from the memory of thread tid at addr and returns how much
// could be read: less only where the memory ends. Callers must check that the
// call is still pending (Valid) before they use what was read.
func Read(tid int, addr uint64, buf []byte) (int, error) {
	done := 0
	for done < len(buf) {
		// A transfer is partial only between iovecs (process_vm_readv(2)), so
		// no vector crosses a page.
		var remote [64]unix.RemoteIovec
		n, size := 0, 0
		for at := addr + uint64(done); n < len(remote) && done+size < len(buf); n++ {
			l := min(pageSize-int(at%pageSize), len(buf)-done-size)
			remote[n] = unix.RemoteIovec{Base: uintptr(at), Len: l}
			at += uint64(l)
			size += l
		}
		local := []unix.Iovec{{Base: &buf[done], Len: uint64(size)}}
		got, err := unix.ProcessVMReadv(tid, local, remote[:n], 0)
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
			got, err = readMem(tid, addr+uint64(done), buf[done:done+size])
		}
		if err != nil {
			if done > 0 && errors.Is(err, unix.EFAULT) {
				return done, nil
			}
			return done, fmt.Errorf("reading memory of %d at %#x: %w", tid, addr, err)
		}
		done += got
		if got < size {
			return done, nil
		}
	}
	return done, nil
}

// readMem is Read where process_vm_readv is refused by a container profile.
func readMem(tid int, addr uint64, buf []byte) (int, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/mem", tid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	n, err := unix.Pread(fd, buf, int64(addr))
	if errors.Is(err, unix.EIO) {
		err = unix.EFAULT
	}
	return n, err
}

// ReadFull is Read that fails with EFAULT unless all of buf was there.
func ReadFull(tid int, addr uint64, buf []byte) error {
	n, err := Read(tid, addr, buf)
	if err == nil && n < len(buf) {
		err = fmt.Errorf("reading memory of %d at %#x: %w", tid, addr, unix.EFAULT)
	}
	return err
}

// ReadString reads a NUL-terminated string of less than limit bytes. A longer
// one is ENAMETOOLONG.
func ReadString(tid int, addr uint64, limit int) (string, error) {
	var buf []byte
	for size := shortString; len(buf) < limit; size = pageSize {
		at := addr + uint64(len(buf))
		// To the end of the page at most: the next one may not exist.
		chunk := make([]byte, min(size, pageSize-int(at%pageSize), limit-len(buf)))
		n, err := Read(tid, at, chunk)
		if err != nil {
			return "", err
		}
		if i := bytes.IndexByte(chunk[:n], 0); i >= 0 {
			return string(append(buf, chunk[:i]...)), nil
		}
		if n < len(chunk) {
			return "", fmt.Errorf("reading a string of %d at %#x: %w", tid, addr, unix.EFAULT)
		}
		buf = append(buf, chunk...)
	}
	return "", syscall.ENAMETOOLONG
}

// Write puts buf into the memory of thread tid at addr.
func Write(tid int, addr uint64, buf []byte) error {
	if len(buf) == 0 {
		return nil
	}
	local := []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}}
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(buf)}}
	n, err := unix.ProcessVMWritev(tid, local, remote, 0)
	if err == nil && n < len(buf) {
		err = unix.EFAULT
	}
	return err
}
