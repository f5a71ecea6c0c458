package packages

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
)

// rpm reads a database of rpm in any of its three forms. Each holds one header
// a package.
func (r *reader) rpm(name string) error {
	f, err := r.open(name)
	if errors.Is(err, errChanged) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || r.again(st) {
		return err
	}
	size := st.Size()
	switch path.Base(name) {
	case "rpmdb.sqlite":
		wal, werr := r.open(name + "-wal")
		switch {
		case werr == nil:
			defer wal.Close()
		case errors.Is(werr, errChanged):
			return nil
		case !errors.Is(werr, os.ErrNotExist):
			return werr
		}
		err = sqliteBlobs(f, size, wal, r.header)
	case "Packages.db":
		err = ndbBlobs(f, size, r.header)
	default:
		err = bdbBlobs(f, size, r.header)
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return nil
}

// Tags of a header (rpmtag.h), and what else is said there.
const (
	tagFileFlags   = 1037
	tagFileDigests = 1035
	tagDirIndexes  = 1116
	tagBaseNames   = 1117
	tagDirNames    = 1118
	tagDigestAlgo  = 5011

	flagConfig = 1 << 0 // may be changed by whoever runs the machine
	flagGhost  = 1 << 6 // not in the package

	maxBlob = 64 << 20
)

var errHeader = errors.New("a package's header makes no sense")

// header reads one package: a number of index entries and of data bytes, the
// entries of tag, type, offset and count, and the data; all big-endian.
func (r *reader) header(blob []byte) error {
	be := binary.BigEndian
	if len(blob) < 8 {
		return errHeader
	}
	entries, size := uint64(be.Uint32(blob)), uint64(be.Uint32(blob[4:]))
	if entries > uint64(len(blob))/16 || 8+16*entries+size > uint64(len(blob)) {
		return errHeader
	}
	index, data := blob[8:8+16*entries], blob[8+16*entries:8+16*entries+size]
	tag := func(want uint32) (at []byte, count int) {
		for e := index; len(e) > 0; e = e[16:] {
			if be.Uint32(e) != want {
				continue
			}
			if from := uint64(be.Uint32(e[8:])); from <= uint64(len(data)) {
				at = data[from:]
			}
			// A count is no more than there are bytes.
			return at, int(min(uint64(be.Uint32(e[12:])), uint64(len(at))))
		}
		return nil, 0
	}
	text := func(b *[]byte) ([]byte, bool) {
		s, rest, ok := bytes.Cut(*b, []byte{0})
		*b = rest
		return s, ok
	}
	number := func(b []byte, i int) uint32 {
		if len(b) < 4*i+4 {
			return 0
		}
		return be.Uint32(b[4*i:])
	}
	folders, n := tag(tagDirNames)
	dirs := make([]string, 0, min(n, 1<<16))
	for range n {
		s, ok := text(&folders)
		if !ok {
			return errHeader
		}
		dirs = append(dirs, string(s))
	}
	hash := crypto.MD5
	if algorithm, n := tag(tagDigestAlgo); n > 0 {
		hash = map[uint32]crypto.Hash{1: crypto.MD5, 2: crypto.SHA1, 8: crypto.SHA256, 9: crypto.SHA384, 10: crypto.SHA512, 11: crypto.SHA224}[number(algorithm, 0)]
	}
	if hash == 0 {
		return nil // newer than this
	}
	names, n := tag(tagBaseNames)
	sums, _ := tag(tagFileDigests)
	indexes, _ := tag(tagDirIndexes)
	flags, _ := tag(tagFileFlags)
	if sums == nil {
		return nil // a package without files
	}
	sum := make([]byte, hash.Size())
	for i := range n {
		name, okName := text(&names)
		digits, okSum := text(&sums)
		dir := number(indexes, i)
		if !okName || !okSum || uint64(dir) >= uint64(len(dirs)) {
			return errHeader
		}
		if number(flags, i)&(flagConfig|flagGhost) != 0 || len(digits) != 2*len(sum) {
			continue // folders and links have no digest
		}
		if _, err := hex.Decode(sum, digits); err != nil {
			return errHeader
		}
		r.add(dirs[dir]+string(name), hash, sum)
	}
	return nil
}

// readAt reads exactly len(b) bytes at an offset.
func readAt(r io.ReaderAt, b []byte, at int64) error {
	if n, err := r.ReadAt(b, at); n < len(b) {
		return fmt.Errorf("at byte %d: %w", at, cmpErr(err, io.ErrUnexpectedEOF))
	}
	return nil
}

func cmpErr(err, otherwise error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return otherwise
	}
	return err
}

// ndbBlobs reads Packages.db (rpm, lib/backend/ndb/rpmpkg.c): slots of 16 bytes,
// which say where in blocks of 16 bytes a header lies. All is little-endian.
func ndbBlobs(r io.ReaderAt, size int64, f func([]byte) error) error {
	le := binary.LittleEndian
	var head [32]byte
	if err := readAt(r, head[:], 0); err != nil {
		return err
	}
	const page = 4096
	if string(head[:4]) != "RpmP" || le.Uint32(head[4:]) != 0 {
		return errors.New("it is no package database of a known version")
	}
	pages := int64(le.Uint32(head[12:]))
	if pages < 1 || pages > size/page || pages > 2048 {
		return fmt.Errorf("%d pages of slots", pages)
	}
	slots := make([]byte, pages*page)
	if err := readAt(r, slots, 0); err != nil {
		return err
	}
	var blob []byte
	for slots = slots[32:]; len(slots) >= 16; slots = slots[16:] {
		if string(slots[:4]) != "Slot" {
			return errors.New("a slot makes no sense")
		}
		number, at, blocks := le.Uint32(slots[4:]), int64(le.Uint32(slots[8:])), int64(le.Uint32(slots[12:]))
		if at == 0 || number == 0 {
			continue
		}
		if blocks < 2 || blocks*16 > maxBlob || (at+blocks)*16 > size {
			return errHeader
		}
		blob = grow(blob, int(blocks*16))
		if err := readAt(r, blob, at*16); err != nil {
			return err
		}
		length := int64(le.Uint32(blob[12:]))
		if string(blob[:4]) != "BlbS" || le.Uint32(blob[4:]) != number || length > blocks*16-16 {
			return errHeader
		}
		if err := f(blob[16 : 16+length]); err != nil {
			return err
		}
	}
	return nil
}

// grow returns a buffer of n bytes, the old one if it is large enough.
func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// bdbBlobs reads Packages, a hash table of Berkeley DB (db_page.h): its pages
// hold keys and values, and a value of the kind "off page" lies in a chain of
// other pages. The numbers are those of the machine that made it.
func bdbBlobs(r io.ReaderAt, size int64, f func([]byte) error) error {
	const (
		hashMagic = 0x061561

		pageHashUnsorted, pageOverflow, pageHash = 2, 7, 13

		offPage, headSize = 3, 26
	)
	var meta [72]byte
	if err := readAt(r, meta[:], 0); err != nil {
		return err
	}
	var order binary.ByteOrder = binary.LittleEndian
	if order.Uint32(meta[12:]) != hashMagic {
		order = binary.BigEndian
	}
	if order.Uint32(meta[12:]) != hashMagic {
		return errors.New("it is no hash table")
	}
	if meta[24] != 0 {
		return errors.New("it is encrypted")
	}
	pageSize, last := int64(order.Uint32(meta[20:])), int64(order.Uint32(meta[32:]))
	if pageSize < 512 || pageSize > 64<<10 || pageSize&(pageSize-1) != 0 {
		return fmt.Errorf("pages of %d bytes", pageSize)
	}
	last = min(last, size/pageSize-1)
	page, chained := make([]byte, pageSize), make([]byte, pageSize)
	var blob []byte
	for n := int64(1); n <= last; n++ {
		if err := readAt(r, page, n*pageSize); err != nil {
			return err
		}
		if kind := page[25]; kind != pageHash && kind != pageHashUnsorted {
			continue
		}
		count := int64(order.Uint16(page[20:]))
		if headSize+2*count > pageSize {
			return errHeader
		}
		for i := int64(1); i < count; i += 2 { // each key's value follows it
			at := int64(order.Uint16(page[headSize+2*i:]))
			if at >= pageSize {
				return errHeader
			}
			if page[at] != offPage {
				continue // too small for a header
			}
			if at+12 > pageSize {
				return errHeader
			}
			next, length := int64(order.Uint32(page[at+4:])), int64(order.Uint32(page[at+8:]))
			if length > maxBlob || length > size {
				return errHeader
			}
			blob = grow(blob, int(length))[:0]
			for int64(len(blob)) < length {
				if next < 1 || next > last {
					return errHeader
				}
				if err := readAt(r, chained, next*pageSize); err != nil {
					return err
				}
				used := int64(order.Uint16(chained[22:]))
				if chained[25] != pageOverflow || used == 0 || headSize+used > pageSize {
					return errHeader
				}
				blob = append(blob, chained[headSize:headSize+min(used, length-int64(len(blob)))]...)
				next = int64(order.Uint32(chained[16:]))
			}
			if err := f(blob); err != nil {
				return err
			}
		}
	}
	return nil
}
