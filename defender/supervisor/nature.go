package supervisor

import (
	"bytes"
	"crypto"
	_ "crypto/md5" // for what packages recorded
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// nature is what a program is by its content: a copy under another name is
// still a loader or a multi-call binary.
type nature struct {
	loader    bool   // runs the program that its arguments name
	multiCall bool   // takes its function from its arguments
	foreign   bool   // of a call table that the target does not have
	hidden    bool   // may be executed but not read
	head      string // its first bytes, headSize at most
	// interpreter is the program that the kernel loads beside it, and starts: a
	// loader, if all is as it should be (elf(5), PT_INTERP).
	interpreter string
}

// headSize is how much of a file's beginning the kernel looks at: of
// BINPRM_BUF_SIZE it keeps the last byte for itself.
const headSize = 255

// natures remembers what was found in files: reading one takes milliseconds.
type natures struct {
	mu    sync.Mutex
	known map[found]any
}

// found is one thing found in one version of a file.
type found struct {
	version
	what any
}

type version struct {
	id
	size         int64
	mtime, ctime unix.Timespec
}

func versionOf(st *unix.Stat_t) version {
	return version{id{st.Dev, st.Ino}, st.Size, st.Mtim, st.Ctim}
}

const maxNatures = 8192

// maxRead is the size of files that are read to their end.
const maxRead = 1 << 30

var errChanging = errors.New("it is changed while it is read")

// once returns what find finds in f, and remembers it where the time of the
// last change will tell of the next one (see lasting). An error is not
// remembered; with errChanging comes what was found all the same. The call is
// slow where f has to be read.
func (n *natures) once(c *Call, f *file, what any, find func(io.Reader) (any, error)) (result any, lasts bool, err error) {
	key := found{versionOf(&f.stat), what}
	n.mu.Lock()
	result, lasts = n.known[key]
	n.mu.Unlock()
	if lasts {
		return result, true, nil
	}
	c.slow()
	fd, err := openToRead(f)
	if err != nil {
		return nil, false, err
	}
	r := os.NewFile(uintptr(fd), f.path)
	defer r.Close()
	// Whoever lets it grow while it is read would have us read for ever.
	if result, err = find(io.LimitReader(r, f.stat.Size)); err != nil {
		return nil, false, err
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || versionOf(&st) != key.version {
		return result, false, errChanging
	}
	if !lasting(fd, &st) {
		return result, false, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known == nil || len(n.known) >= maxNatures {
		n.known = make(map[found]any)
	}
	n.known[key] = result
	return result, true, nil
}

const (
	tick    = 100 * time.Millisecond // the clock of files advances in steps of up to 10 ms
	written = 2 * time.Minute        // by when the kernel has written back what was changed (proc(5), dirty_expire_centisecs: 30 s)
)

// lasting reports whether any change to a file from now on is seen by its time
// of change, which nobody can set.
//
// It is not where somebody has mapped the file to write to it: the first change
// of a page sets the time, and no other one until the page was written back. On
// file systems in memory nothing is written back. A lease is refused where
// somebody may write (fcntl(2), F_SETLEASE), but on an overlay it does not know
// of mappings.
func lasting(fd int, st *unix.Stat_t) bool {
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) != nil || fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC || fs.Type == unix.HUGETLBFS_MAGIC {
		return false
	}
	switch age := time.Since(time.Unix(st.Ctim.Unix())); {
	case age > written:
		return true
	case age < tick || fs.Type == unix.OVERLAYFS_SUPER_MAGIC:
		return false
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		return false
	}
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK)
	return true
}

// digest returns a digest of f.
func (n *natures) digest(c *Call, f *file, hash crypto.Hash) ([]byte, error) {
	if f.stat.Size > maxRead {
		return nil, fmt.Errorf("it has %d bytes, more than %d", f.stat.Size, maxRead)
	}
	sum, _, err := n.once(c, f, hash, func(r io.Reader) (any, error) {
		h := hash.New()
		_, err := io.Copy(h, r)
		return h.Sum(nil), err
	})
	if err != nil {
		return nil, err
	}
	return sum.([]byte), nil
}

// sha256 returns the SHA-256 of f in lower-case hexadecimals, "" if it cannot
// be had.
func (n *natures) sha256(c *Call, f *file) string {
	sum, err := n.digest(c, f, crypto.SHA256)
	if err != nil {
		return ""
	}
	return hex.EncodeToString(sum)
}

// of returns the nature of f, and whether it lasts as long as the version of f
// does. Its name counts as well, for a file that cannot be read, or is no ELF
// file at all. Who has a lease on it is waited for: the kernel's own open will
// find it readable. What is changed while it is read, if only by a chmod, is
// what was found: what the kernel then loads is compared with that.
func (n *natures) of(c *Call, f *file) (is nature, lasts bool, err error) {
	found, lasts, err := n.once(c, f, natureOf, func(r io.Reader) (any, error) { return readNature(r, f.stat.Size) })
	switch {
	case err == nil, errors.Is(err, errChanging):
		is = found.(nature)
	case errors.Is(err, unix.EACCES):
		// It can be no script: no interpreter of the same user could read it.
		is.hidden = true
	default:
		return is, false, errUnreadable(err)
	}
	base := path.Base(f.path)
	is.loader = is.loader || isLoader(base)
	is.multiCall = is.multiCall || isMultiCall(base)
	return is, lasts, nil
}

// natureOf is what a nature is known by.
const natureOf = "nature"

// What programs say of themselves: BusyBox, Toybox and uutils; the single
// binary of the GNU coreutils; musl's loader, which has no DT_SONAME. They are
// put together here, so that this program has none of them in it.
var (
	// "multi-call binary", "multicall binary"
	multiCallMarks = [][]byte{mark(" ", "call", "binary"), mark("-", "coreutils", "prog")}
	loaderMark     = mark(" ", "Dynamic", "Program", "Loader")
)

func mark(between string, words ...string) []byte { return []byte(strings.Join(words, between)) }

// maxScan is how far marks are looked for. They are constants, which lie near
// the beginning of a file, and what is appended to it moves nothing.
const maxScan = 4 << 20

func readNature(r io.Reader, size int64) (n nature, err error) {
	data := make([]byte, min(size, headSize))
	got, err := io.ReadFull(r, data)
	n.head = string(data[:got])
	if err != nil || !strings.HasPrefix(n.head, elf.ELFMAG) {
		return n, cutShort(err)
	}
	data = append(make([]byte, 0, min(size, maxScan)), data...)
	got, err = io.ReadFull(r, data[len(data):cap(data)])
	data = data[:len(data)+got]
	for _, m := range multiCallMarks {
		n.multiCall = n.multiCall || bytes.Contains(data, m)
	}
	h := readELF(data)
	n.foreign = h.second
	// A library that is started by itself: it has nobody who loads it.
	n.interpreter = h.interpreter
	n.loader = h.typ == elf.ET_DYN && h.interpreter == "" && (h.soname || h.dynamic && bytes.Contains(data, loaderMark))
	return n, cutShort(err)
}

// cutShort is the error of a read that may find less than there was.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// beyond is an interpreter whose name lies where nobody looks.
const beyond = "\x00"

// header is what the beginning of an ELF file tells (elf(5)).
type header struct {
	typ         elf.Type
	second      bool   // for one of the secondTables
	interpreter string // PT_INTERP
	dynamic     bool   // PT_DYNAMIC
	soname      bool   // DT_SONAME
}

// secondTables are the machines of 32-bit programs that a processor runs with
// call tables of their own, which the filter closes. Others are for an
// emulator.
var secondTables = map[string][]elf.Machine{
	"amd64": {elf.EM_386},
	"arm64": {elf.EM_ARM},
}

// nativeELF reports whether a file that begins so is a program of this processor.
// One of another may have an emulator registered (binfmt_misc).
func nativeELF(head string) bool {
	native := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
	return strings.HasPrefix(head, elf.ELFMAG) && len(head) >= 20 && elf.Machine(binary.LittleEndian.Uint16([]byte(head[18:20]))) == native
}

// Sizes of a program header in files of 64 and 32 bits.
const (
	segment64 = 56
	segment32 = 32
)

// readELF reads a header as the kernel does: it looks at the machine and the
// size of a program header, and neither at the class nor at the byte order
// that the file says it has (load_elf_binary in fs/binfmt_elf.c). A loader
// whose first bytes are changed is a loader. Of what is cut off or makes no
// sense it says nothing.
func readELF(data []byte) (h header) {
	le := binary.LittleEndian
	var head [64]byte // zeros where the file is shorter
	copy(head[:], data)
	machine := elf.Machine(le.Uint16(head[18:]))
	wide := le.Uint16(head[54:]) == segment64
	// x32 is 64-bit code with 32-bit headers.
	x32 := runtime.GOARCH == "amd64" && machine == elf.EM_X86_64 && !wide && le.Uint16(head[42:]) == segment32
	h.typ, h.second = elf.Type(le.Uint16(head[16:])), x32 || slices.Contains(secondTables[runtime.GOARCH], machine)
	if h.second || !wide || len(data) < len(head) {
		return h
	}
	at, size, count := le.Uint64(data[32:]), uint64(le.Uint16(data[54:])), int(le.Uint16(data[56:]))
	for ; count > 0 && at < uint64(len(data)) && uint64(len(data))-at >= segment64; count-- {
		segment := data[at:]
		at += size
		switch elf.ProgType(le.Uint32(segment)) {
		case elf.PT_INTERP:
			from, length := le.Uint64(segment[8:]), le.Uint64(segment[32:])
			if h.interpreter != "" {
				continue // the kernel takes the first
			}
			h.interpreter = beyond
			if from < uint64(len(data)) && length <= uint64(len(data))-from {
				name, _, _ := bytes.Cut(data[from:from+length], []byte{0})
				h.interpreter = string(name)
			}
		case elf.PT_DYNAMIC:
			h.dynamic = true
			from, length := le.Uint64(segment[8:]), le.Uint64(segment[32:])
			if from >= uint64(len(data)) {
				continue
			}
			for entries := data[from:min(from+length, uint64(len(data)))]; len(entries) >= 16; entries = entries[16:] {
				h.soname = h.soname || elf.DynTag(le.Uint64(entries)) == elf.DT_SONAME
			}
		}
	}
	return h
}

// isLoader reports whether a base name is that of an ELF program loader.
func isLoader(base string) bool {
	return strings.HasPrefix(base, "ld-linux") || strings.HasPrefix(base, "ld-musl-") ||
		strings.HasPrefix(base, "ld64.so") || strings.HasPrefix(base, "ld.so") ||
		strings.HasPrefix(base, "ld-2.") && strings.HasSuffix(base, ".so")
}

// loaded returns the arguments of the program that a loader's arguments name
// (ld.so(8)), nil if they name none.
func loaded(argv []string) []string {
	argv0 := ""
	for i := 1; i < len(argv); i++ {
		a := argv[i]
		switch {
		case a == "--":
			i++
			if i >= len(argv) {
				return nil
			}
		case a == "--argv0":
			i++
			if i < len(argv) {
				argv0 = argv[i]
			}
			continue
		case a == "--library-path", a == "--inhibit-rpath", a == "--audit", a == "--preload",
			a == "--glibc-hwcaps-prepend", a == "--glibc-hwcaps-mask":
			i++
			continue
		case strings.HasPrefix(a, "-"):
			continue
		}
		program := append([]string{argv[i]}, argv[i+1:]...)
		if argv0 != "" {
			program[0] = argv0
		}
		return append([]string{argv[i]}, program...)
	}
	return nil
}

// isMultiCall reports whether a base name is one under which a multi-call
// binary takes its function from its next argument: all of them take anything
// that begins so.
func isMultiCall(base string) bool {
	for _, name := range []string{"busybox", "toybox", "coreutils"} {
		if strings.HasPrefix(base, name) {
			return true
		}
	}
	return false
}

// applet returns the function a multi-call program takes from argv: its own
// name there, or the argument behind it, as often as that is such a name
// again ("busybox busybox mkdir").
func applet(argv []string) string {
	name := ""
	for i, a := range argv {
		if i > 0 {
			if option, value, ok := strings.Cut(a, "="); ok && strings.HasPrefix(option, "--coreutils") {
				a = value // --coreutils-prog, --coreutils-prog-shebang
			}
			if strings.HasPrefix(a, "-") {
				continue
			}
		}
		name = strings.TrimPrefix(path.Base(a), "-") // a login shell
		if !isMultiCall(name) {
			return name
		}
	}
	return name
}
