package packages

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// sqlite reads a table of a database file, and nothing else of SQL
// (https://www.sqlite.org/fileformat2.html). A library that can do more has
// half the size of the Defender.
type sqlite struct {
	r        io.ReaderAt
	size     int64 // of the file
	pageSize int64
	usable   int64            // of a page, without what is reserved at its end
	wal      map[uint32]int64 // pages that were written since, by where they lie in the log
	log      io.ReaderAt
	pages    int // that may still be read: a tree could lead in circles
}

var errSQLite = errors.New("the database is damaged")

// sqliteBlobs calls f with the second column of each row of the table
// Packages.
func sqliteBlobs(r io.ReaderAt, size int64, wal *os.File, f func([]byte) error) error {
	var head [100]byte
	if err := readAt(r, head[:], 0); err != nil {
		return err
	}
	be := binary.BigEndian
	db := &sqlite{r: r, size: size, pageSize: int64(be.Uint16(head[16:]))}
	if db.pageSize == 1 {
		db.pageSize = 64 << 10
	}
	db.usable = db.pageSize - int64(head[20])
	if string(head[:16]) != "SQLite format 3\x00" || db.pageSize < 512 || db.pageSize&(db.pageSize-1) != 0 || db.usable < 480 {
		return errors.New("it is no database of SQLite 3")
	}
	if wal != nil {
		if err := db.readLog(wal); err != nil {
			return err
		}
	}
	db.pages = int(size/db.pageSize) + len(db.wal) + 1
	root := uint32(0)
	err := db.rows(1, 0, func(record []byte) error { // sqlite_schema
		kind, name, page := column(record, 0), column(record, 1), column(record, 3)
		if string(kind.data) == "table" && strings.EqualFold(string(name.data), "Packages") {
			root = uint32(page.integer())
		}
		return nil
	})
	if err != nil {
		return err
	}
	if root == 0 {
		return errors.New("it has no table Packages")
	}
	return db.rows(root, 0, func(record []byte) error { return f(column(record, 1).data) })
}

// readLog notes the pages of a write-ahead log, up to the last commit.
func (db *sqlite) readLog(wal *os.File) error {
	st, err := wal.Stat()
	if err != nil || st.Size() < 32 {
		return err
	}
	var head, frame [32]byte
	if err := readAt(wal, head[:], 0); err != nil {
		return err
	}
	be := binary.BigEndian
	if magic := be.Uint32(head[:]); magic&^1 != 0x377f0682 || int64(be.Uint32(head[8:])) != db.pageSize {
		return errSQLite
	}
	db.log, db.wal = wal, make(map[uint32]int64)
	pending := make(map[uint32]int64)
	for at := int64(32); at+24+db.pageSize <= st.Size(); at += 24 + db.pageSize {
		if err := readAt(wal, frame[:24], at); err != nil {
			return err
		}
		if string(frame[8:16]) != string(head[16:24]) { // salts: the rest is of an earlier time
			break
		}
		pending[be.Uint32(frame[:])] = at + 24
		if be.Uint32(frame[4:]) != 0 { // a commit
			for page, at := range pending {
				db.wal[page] = at
			}
			clear(pending)
		}
	}
	return nil
}

// page reads page n, from 1.
func (db *sqlite) page(n uint32) ([]byte, error) {
	if db.pages--; db.pages < 0 || n == 0 {
		return nil, errSQLite
	}
	b := make([]byte, db.pageSize)
	if at, ok := db.wal[n]; ok {
		return b, readAt(db.log, b, at)
	}
	if int64(n)*db.pageSize > db.size {
		return nil, errSQLite
	}
	return b, readAt(db.r, b, int64(n-1)*db.pageSize)
}

// rows calls f with the record of each row of the table at page n.
func (db *sqlite) rows(n uint32, depth int, f func([]byte) error) error {
	const interior, leaf = 5, 13
	if depth > 20 {
		return errSQLite
	}
	page, err := db.page(n)
	if err != nil {
		return err
	}
	be := binary.BigEndian
	head := page
	if n == 1 {
		head = page[100:]
	}
	size := 8
	switch head[0] {
	case interior:
		size = 12
	case leaf:
	default:
		return fmt.Errorf("%w: page %d is no part of a table", errSQLite, n)
	}
	count := int(be.Uint16(head[3:]))
	if len(head) < size+2*count {
		return errSQLite
	}
	for cells := head[size : size+2*count]; len(cells) > 0; cells = cells[2:] {
		at := int(be.Uint16(cells))
		if at+4 > len(page) {
			return errSQLite
		}
		if head[0] == interior {
			if err := db.rows(be.Uint32(page[at:]), depth+1, f); err != nil {
				return err
			}
			continue
		}
		record, err := db.record(page[at:])
		if err == nil {
			err = f(record)
		}
		if err != nil {
			return err
		}
	}
	if head[0] == interior {
		return db.rows(be.Uint32(head[8:]), depth+1, f)
	}
	return nil
}

// record returns the payload of a leaf's cell, with what of it lies on other
// pages.
func (db *sqlite) record(cell []byte) ([]byte, error) {
	length, n := varint(cell)
	_, m := varint(cell[n:]) // the row's number
	if n == 0 || m == 0 || length > maxBlob || int64(length) > db.size+int64(len(db.wal))*db.pageSize {
		return nil, errSQLite
	}
	cell = cell[n+m:]
	local := int64(length)
	if most, least := db.usable-35, (db.usable-12)*32/255-23; local > most {
		local = least + (local-least)%(db.usable-4)
		if local > most {
			local = least
		}
	}
	if local > int64(len(cell)) {
		return nil, errSQLite
	}
	if local == int64(length) {
		return cell[:local], nil
	}
	if local+4 > int64(len(cell)) {
		return nil, errSQLite
	}
	record := make([]byte, 0, length)
	record = append(record, cell[:local]...)
	next := binary.BigEndian.Uint32(cell[local:])
	for len(record) < int(length) {
		page, err := db.page(next)
		if err != nil {
			return nil, err
		}
		next = binary.BigEndian.Uint32(page)
		record = append(record, page[4:4+min(int(db.usable)-4, int(length)-len(record))]...)
	}
	return record, nil
}

// varint reads an integer of one to nine bytes; n is 0 if it is cut off.
func varint(b []byte) (v uint64, n int) {
	for i := range min(len(b), 9) {
		if i == 8 {
			return v<<8 | uint64(b[i]), 9
		}
		v = v<<7 | uint64(b[i]&0x7f)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}

// value is one column of a record.
type value struct {
	kind uint64 // the serial type
	data []byte
}

// integer returns an integer's value, 0 for what is none.
func (v value) integer() (n int64) {
	switch {
	case v.kind == 9:
		return 1
	case v.kind < 1 || v.kind > 6 || len(v.data) == 0:
		return 0
	}
	n = int64(int8(v.data[0]))
	for _, b := range v.data[1:] {
		n = n<<8 | int64(b)
	}
	return n
}

// column returns column i of a record. Of what makes no sense it has nothing.
func column(record []byte, i int) value {
	size, n := varint(record)
	if n == 0 || size > uint64(len(record)) || size < uint64(n) {
		return value{}
	}
	head, body := record[n:size], record[size:]
	for ; ; i-- {
		kind, n := varint(head)
		if n == 0 {
			return value{}
		}
		head = head[n:]
		length := uint64(0)
		switch {
		case kind >= 12:
			length = (kind - 12) / 2
		case kind <= 4:
			length = kind
		case kind == 5:
			length = 6
		case kind <= 7:
			length = 8
		}
		if length > uint64(len(body)) {
			return value{}
		}
		if i == 0 {
			return value{kind, body[:length]}
		}
		body = body[length:]
	}
}
