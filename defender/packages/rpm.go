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

// rpmHeader is what a database has of one package: index entries of tag, type,
// offset and count, of 16 bytes, and the data that they point to; all big-endian.
type rpmHeader struct{ index, data []byte }

// parseHeader reads a header: the number of its entries, that of its bytes of
// data, the entries and the data.
func parseHeader(blob []byte) (rpmHeader, error) {
	if len(blob) < 8 {
		return rpmHeader{}, errHeader
	}
	entries, size := uint64(binary.BigEndian.Uint32(blob)), uint64(binary.BigEndian.Uint32(blob[4:]))
	if entries > uint64(len(blob))/16 || 8+16*entries+size > uint64(len(blob)) {
		return rpmHeader{}, errHeader
	}
	return rpmHeader{blob[8 : 8+16*entries], blob[8+16*entries : 8+16*entries+size]}, nil
}

// tag returns what a tag points to, and how many values are said to be there;
// nothing if there is no such tag.
func (h rpmHeader) tag(want uint32) (at []byte, count int) {
	for e := h.index; len(e) > 0; e = e[16:] {
		if binary.BigEndian.Uint32(e) != want {
			continue
		}
		if from := uint64(binary.BigEndian.Uint32(e[8:])); from <= uint64(len(h.data)) {
			at = h.data[from:]
		}
		// A count is no more than there are bytes.
		return at, int(min(uint64(binary.BigEndian.Uint32(e[12:])), uint64(len(at))))
	}
	return nil, 0
}

// cutText cuts a text, which ends with a zero, off b.
func cutText(b *[]byte) ([]byte, bool) {
	s, rest, ok := bytes.Cut(*b, []byte{0})
	*b = rest
	return s, ok
}

// number returns number i of a list, 0 if the list is shorter.
func number(list []byte, i int) uint32 {
	if len(list) < 4*i+4 {
		return 0
	}
	return binary.BigEndian.Uint32(list[4*i:])
}

// hashes are the algorithms of digests (RFC 4880, 9.4).
var hashes = map[uint32]crypto.Hash{1: crypto.MD5, 2: crypto.SHA1, 8: crypto.SHA256, 9: crypto.SHA384, 10: crypto.SHA512, 11: crypto.SHA224}

// header notes the files of one package.
func (r *reader) header(blob []byte) error {
	h, err := parseHeader(blob)
	if err != nil {
		return err
	}
	folders, n := h.tag(tagDirNames)
	dirs := make([]string, 0, min(n, 1<<16))
	for range n {
		s, ok := cutText(&folders)
		if !ok {
			return errHeader
		}
		dirs = append(dirs, string(s))
	}
	hash := crypto.MD5
	if algorithm, n := h.tag(tagDigestAlgo); n > 0 {
		hash = hashes[number(algorithm, 0)]
	}
	if hash == 0 {
		return nil // newer than this
	}
	names, n := h.tag(tagBaseNames)
	sums, _ := h.tag(tagFileDigests)
	indexes, _ := h.tag(tagDirIndexes)
	flags, _ := h.tag(tagFileFlags)
	if sums == nil {
		return nil // a package without files
	}
	sum := make([]byte, hash.Size())
	for i := range n {
		name, okName := cutText(&names)
		digits, okSum := cutText(&sums)
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

// bdb is Packages, a hash table of Berkeley DB (db_page.h): its pages hold keys
// and values, and a value of the kind "off page" lies in a chain of other pages.
// The numbers are those of the machine that made it.
type bdb struct {
	r              io.ReaderAt
	size           int64
	order          binary.ByteOrder
	pageSize, last int64  // of the last page, the number
	page           []byte // of a chain
	blob           []byte
}

const (
	hashMagic = 0x061561

	pageHashUnsorted, pageOverflow, pageHash = 2, 7, 13

	offPage, pageHead = 3, 26
)

func openBDB(r io.ReaderAt, size int64) (*bdb, error) {
	var meta [72]byte
	if err := readAt(r, meta[:], 0); err != nil {
		return nil, err
	}
	b := &bdb{r: r, size: size, order: binary.LittleEndian}
	if b.order.Uint32(meta[12:]) != hashMagic {
		b.order = binary.BigEndian
	}
	if b.order.Uint32(meta[12:]) != hashMagic {
		return nil, errors.New("it is no hash table")
	}
	if meta[24] != 0 {
		return nil, errors.New("it is encrypted")
	}
	b.pageSize = int64(b.order.Uint32(meta[20:]))
	if b.pageSize < 512 || b.pageSize > 64<<10 || b.pageSize&(b.pageSize-1) != 0 {
		return nil, fmt.Errorf("pages of %d bytes", b.pageSize)
	}
	b.last = min(int64(b.order.Uint32(meta[32:])), size/b.pageSize-1)
	b.page = make([]byte, b.pageSize)
	return b, nil
}

// bdbBlobs calls f for the values that are large enough for a header.
func bdbBlobs(r io.ReaderAt, size int64, f func([]byte) error) error {
	b, err := openBDB(r, size)
	if err != nil {
		return err
	}
	page := make([]byte, b.pageSize)
	for n := int64(1); n <= b.last; n++ {
		if err := readAt(r, page, n*b.pageSize); err != nil {
			return err
		}
		if kind := page[25]; kind != pageHash && kind != pageHashUnsorted {
			continue
		}
		count := int64(b.order.Uint16(page[20:]))
		if pageHead+2*count > b.pageSize {
			return errHeader
		}
		for i := int64(1); i < count; i += 2 { // each key's value follows it
			at := int64(b.order.Uint16(page[pageHead+2*i:]))
			if at >= b.pageSize {
				return errHeader
			}
			if page[at] != offPage {
				continue // too small for a header
			}
			if at+12 > b.pageSize {
				return errHeader
			}
			blob, err := b.chain(int64(b.order.Uint32(page[at+4:])), int64(b.order.Uint32(page[at+8:])))
			if err == nil {
				err = f(blob)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// chain reads a value of that many bytes from page number next on. It holds
// until the next call.
func (b *bdb) chain(next, length int64) ([]byte, error) {
	if length > maxBlob || length > b.size {
		return nil, errHeader
	}
	b.blob = grow(b.blob, int(length))[:0]
	for int64(len(b.blob)) < length {
		if next < 1 || next > b.last {
			return nil, errHeader
		}
		if err := readAt(b.r, b.page, next*b.pageSize); err != nil {
			return nil, err
		}
		used := int64(b.order.Uint16(b.page[22:]))
		if b.page[25] != pageOverflow || used == 0 || pageHead+used > b.pageSize {
			return nil, errHeader
		}
		b.blob = append(b.blob, b.page[pageHead:pageHead+min(used, length-int64(len(b.blob)))]...)
		next = int64(b.order.Uint32(b.page[16:]))
	}
	return b.blob, nil
}
