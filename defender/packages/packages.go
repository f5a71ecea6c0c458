// Package packages reads what package managers recorded of the files of an
// image: dpkg (also of distroless images), apk and rpm. It knows names and
// digests alone, and it never changes a database or looks at the files
// themselves.
//
// Databases are data of strangers. Whatever makes no sense in one ends the
// reading of that part and is told; sizes and counts are bounded.
package packages

import (
	"bytes"
	"cmp"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Database is what was recorded of the files of one root. It does not change.
type Database struct {
	seed    maphash.Seed
	entries []entry // by name
	full    bool
	changed bool
	faults  []error
}

// entry is one file: 24 bytes, for there are a hundred thousand.
type entry struct {
	name uint64 // hashed with a seed that nobody outside knows
	Sum
}

// Sum is a digest that was recorded.
type Sum struct {
	hash  uint8
	start [15]byte // of the digest: as hard to meet as all of an MD5
}

// Hash is the kind of digest.
func (s Sum) Hash() crypto.Hash { return crypto.Hash(s.hash) }

// Is reports whether a digest of that kind is the recorded one.
func (s Sum) Is(digest []byte) bool {
	return len(digest) >= len(s.start) && bytes.Equal(digest[:len(s.start)], s.start[:])
}

const (
	maxEntries = 1 << 19
	maxFile    = 256 << 20 // bytes of one database file
)

// The places of databases below a root. rpm has had several, of which one is
// often a link to the other.
const (
	dpkgInfo    = "/var/lib/dpkg/info"
	dpkgStatus  = "/var/lib/dpkg/status.d"
	diversions  = "/var/lib/dpkg/diversions"
	md5sums     = ".md5sums"
	maxLineSize = 64 << 10
)

var (
	apkPlaces = []string{"/lib/apk/db/installed", "/usr/lib/apk/db/installed"}
	rpmPlaces = []string{"/usr/lib/sysimage/rpm", "/var/lib/rpm", "/usr/share/rpm"}
	rpmFiles  = []string{"rpmdb.sqlite", "Packages.db", "Packages"}
)

// Find returns the places below root where there are databases.
func Find(root string) []string {
	var found []string
	look := func(name string) {
		if _, err := os.Stat(root + name); err == nil {
			found = append(found, name)
		}
	}
	look(dpkgInfo)
	look(dpkgStatus)
	for _, name := range apkPlaces {
		look(name)
	}
	for _, dir := range rpmPlaces {
		for _, name := range rpmFiles {
			look(dir + "/" + name)
		}
	}
	return found
}

// Read reads the databases below root. Those of had, which Find has returned
// before, should still be there, and nothing of them may have been changed
// after trust: what was changed since then is left out (see [Database.Changed]).
// The zero trust is that nobody could have.
func Read(root string, had []string, trust time.Time) *Database {
	r := &reader{
		Database: &Database{seed: maphash.MakeSeed()}, root: root, trust: trust,
		aliases: make(map[string]string), seen: make(map[[2]uint64]bool),
	}
	now := Find(root)
	for _, name := range had {
		r.changed = r.changed || !slices.Contains(now, name)
	}
	for _, name := range now {
		var err error
		switch {
		case name == dpkgInfo || name == dpkgStatus:
			err = r.dpkg(name)
		case slices.Contains(apkPlaces, name):
			err = r.apk(name)
		default:
			err = r.rpm(name)
		}
		if err != nil {
			r.faults = append(r.faults, err)
		}
	}
	if r.full {
		r.faults = append(r.faults, fmt.Errorf("there are more than %d files in packages", maxEntries))
	}
	slices.SortFunc(r.entries, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
	return r.Database
}

// Recorded returns the digests recorded of a file, by its path below the root
// with no link in it; any of them will do. nil is a file of no package.
func (d *Database) Recorded(name string) []Sum {
	key := maphash.String(d.seed, name)
	i, ok := slices.BinarySearchFunc(d.entries, key, func(e entry, key uint64) int { return cmp.Compare(e.name, key) })
	var sums []Sum
	for ; ok && i < len(d.entries) && d.entries[i].name == key; i++ {
		sums = append(sums, d.entries[i].Sum)
	}
	return sums
}

// Len is the number of files.
func (d *Database) Len() int { return len(d.entries) }

// Changed reports whether some of what was recorded is not to be had: a file
// without a record may have had one.
func (d *Database) Changed() bool { return d.changed || d.full || len(d.faults) > 0 }

// Err says what could not be read.
func (d *Database) Err() error { return errors.Join(d.faults...) }

// reader reads databases.
type reader struct {
	*Database
	root    string
	trust   time.Time
	aliases map[string]string  // folders that are links, by what they lead to
	seen    map[[2]uint64]bool // files that were read, by device and inode
}

// add takes a file and its digest. Names may begin with "./", "/" or neither.
func (r *reader) add(name string, hash crypto.Hash, sum []byte) {
	if len(r.entries) >= maxEntries {
		r.full = true
		return
	}
	e := entry{Sum: Sum{hash: uint8(hash)}}
	if copy(e.start[:], sum) < len(e.start) {
		return
	}
	e.name = maphash.String(r.seed, r.real(name))
	r.entries = append(r.entries, e)
}

// real is a recorded name as the image has it now: /bin/ls is /usr/bin/ls where
// /bin is a link. Links deeper than two folders are not looked for.
func (r *reader) real(name string) string {
	name = path.Join("/", name)
	for depth := 1; depth <= 2; depth++ {
		end := 0
		for range depth {
			next := strings.IndexByte(name[end+1:], '/')
			if next < 0 {
				return name
			}
			end += 1 + next
		}
		dir := name[:end]
		to, known := r.aliases[dir]
		if !known {
			to = dir
			if link, err := os.Readlink(r.root + dir); err == nil {
				if !path.IsAbs(link) {
					link = path.Join(path.Dir(dir), link)
				}
				to = path.Clean(link)
			}
			r.aliases[dir] = to
		}
		name = to + name[end:]
	}
	return name
}

// errChanged is a file that is not the image's any more.
var errChanged = errors.New("it was changed after the start")

// open opens a database file, which must be one.
func (r *reader) open(name string) (*os.File, error) {
	// A FIFO would be waited for.
	f, err := os.OpenFile(r.root+name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	switch {
	case err != nil:
	case !st.Mode().IsRegular():
		err = fmt.Errorf("%s is no file", name)
	case st.Size() > maxFile:
		err = fmt.Errorf("%s has %d bytes, more than %d", name, st.Size(), int64(maxFile))
	case !r.trusted(st):
		r.changed = true
		err = fmt.Errorf("%s: %w", name, errChanged)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// trusted reports whether a file is as it was at the start. Nobody can set the
// time of the last change back.
func (r *reader) trusted(st os.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && (r.trust.IsZero() || !time.Unix(sys.Ctim.Unix()).After(r.trust))
}

// again reports whether a file was read before, under another name.
func (r *reader) again(st os.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	id := [2]uint64{sys.Dev, sys.Ino}
	defer func() { r.seen[id] = true }()
	return r.seen[id]
}

// folder reads a folder's names; one that was changed has others than at the
// start.
func (r *reader) folder(name string) ([]string, error) {
	dir, err := os.Open(r.root + name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	st, err := dir.Stat()
	if err != nil {
		return nil, err
	}
	if r.again(st) {
		return nil, nil
	}
	r.changed = r.changed || !r.trusted(st)
	names, err := dir.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// dpkg reads the lists of a folder: PACKAGE.md5sums, with lines of an MD5, two
// spaces and a name (deb-md5sums(5)).
func (r *reader) dpkg(dir string) error {
	names, err := r.folder(dir)
	if err != nil {
		return err
	}
	moved, err := r.diversions()
	errs := []error{err}
	for _, name := range names {
		pkg, ok := strings.CutSuffix(name, md5sums)
		if !ok {
			continue
		}
		pkg, _, _ = strings.Cut(pkg, ":") // libc6:amd64
		f, err := r.open(dir + "/" + name)
		if errors.Is(err, errChanged) {
			continue // many are, after an upgrade
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		err = lines(f, func(line []byte) {
			digits, file, ok := bytes.Cut(line, []byte(" "))
			var sum [16]byte
			if !ok || len(digits) != 2*len(sum) {
				return
			}
			if _, err := hex.Decode(sum[:], digits); err != nil {
				return
			}
			name := path.Join("/", string(bytes.TrimLeft(file, " *")))
			if to, ok := moved[name]; ok && to.by != pkg {
				name = to.name
			}
			r.add(name, crypto.MD5, sum[:])
		})
		f.Close()
		if err != nil {
			errs = append(errs, fmt.Errorf("reading %s/%s: %w", dir, name, err))
		}
	}
	return errors.Join(errs...)
}

// diversion is where dpkg puts a file that another package has the name of.
type diversion struct{ name, by string }

// diversions reads the list of dpkg-divert(1): three lines each, of a name, of
// where it was moved, and of the package that keeps the name.
func (r *reader) diversions() (map[string]diversion, error) {
	f, err := r.open(diversions)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, errChanged) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	moved := make(map[string]diversion)
	var of [3]string
	n := 0
	err = lines(f, func(line []byte) {
		of[n] = string(line)
		if n++; n == len(of) && len(moved) < 1<<16 {
			n = 0
			moved[of[0]] = diversion{of[1], of[2]}
		}
		n %= len(of)
	})
	return moved, err
}

// apk reads the list of an Alpine image: F: names a folder, R: a file in it and
// Z: its digest, in base64 behind Q1 (SHA-1) or Q2 (SHA-256)
// (apk-installed(5)).
func (r *reader) apk(name string) error {
	f, err := r.open(name)
	if errors.Is(err, errChanged) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || r.again(st) {
		return err
	}
	var dir, file string
	err = lines(f, func(line []byte) {
		kind, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || len(kind) != 1 {
			dir, file = "", "" // a package ends
			return
		}
		switch kind[0] {
		case 'F':
			dir, file = string(value), ""
		case 'R':
			file = string(value)
		case 'Z':
			if hash, sum := apkSum(value); file != "" && hash != 0 {
				r.add(dir+"/"+file, hash, sum)
			}
			file = ""
		}
	})
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return nil
}

// lines calls f with each line of a text, without its end.
func lines(r io.Reader, f func([]byte)) error {
	buf := make([]byte, 0, maxLineSize)
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		rest := buf
		for {
			line, after, ok := bytes.Cut(rest, []byte("\n"))
			if !ok {
				break
			}
			f(line)
			rest = after
		}
		switch {
		case errors.Is(err, io.EOF):
			if len(rest) > 0 {
				f(rest)
			}
			return nil
		case err != nil:
			return err
		case len(rest) == cap(buf):
			return fmt.Errorf("a line has more than %d bytes", maxLineSize)
		}
		buf = buf[:copy(buf[:cap(buf)], rest)]
	}
}
