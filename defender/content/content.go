// Package content looks for what is suspicious in the content of a file: packed
// or encrypted programs, headers against analysis, programs for another
// processor, private keys. It knows no paths, opens nothing, and reads a file
// once from its beginning to its end.
package content

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math"

	"appdefender/policy"
)

// Report is what a file holds.
type Report struct {
	Type        string // of policy.File
	MD5, SHA256 string // in lower-case hexadecimals
	Findings    []policy.Finding
}

// headSize is how much of a file's beginning is looked at for what is not
// counted: headers and signatures.
const headSize = 256 << 10

// Read reads a file of a number of bytes.
func Read(r io.Reader, size int64) (*Report, error) {
	head := make([]byte, min(size, headSize))
	n, err := io.ReadFull(r, head)
	head = head[:n]
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	rep := &Report{Type: "regular"}
	program, isELF := readELF(head, size)
	if isELF {
		rep.Type = "elf"
	}
	h5, h256 := md5.New(), sha256.New()
	var count counter
	count.ranges(program.code)
	var tail ring
	var key keyFinder
	all := io.MultiWriter(h5, h256, &count, &tail)
	if !isELF { // only of programs the bytes are counted
		all = io.MultiWriter(h5, h256, &key)
	}
	if _, err := all.Write(head); err != nil {
		return nil, err
	}
	if _, err := io.Copy(all, r); err != nil {
		return nil, err
	}
	rep.MD5, rep.SHA256 = hex.EncodeToString(h5.Sum(nil)), hex.EncodeToString(h256.Sum(nil))
	find := func(what policy.Content, detail string) {
		if detail != "" {
			rep.Findings = append(rep.Findings, policy.Finding{What: what, Detail: detail})
		}
	}
	if !isELF {
		if key.kind == "" {
			key.kind = binaryKey(head, size)
		}
		if key.kind != "" {
			rep.Type = "secret"
			find(policy.FoundPrivateKey, key.kind)
		}
		find(policy.FoundPacked, packedScript(head))
		return rep, nil
	}
	if !program.runs() {
		return rep, nil
	}
	find(policy.FoundForeignELF, program.foreign())
	find(policy.FoundELFHeader, program.odd)
	packer := packer(head, tail.bytes())
	if packer == "" {
		packer = count.packed()
	}
	find(policy.FoundPacked, packer)
	return rep, nil
}

// packer names the packer whose signature is in a program, "" if none is. UPX
// has one behind the program headers and one at the end.
func packer(head, tail []byte) string {
	begin := head[:min(len(head), 4<<10)]
	switch {
	case bytes.Contains(begin, []byte("UPX!")), bytes.Contains(tail, []byte("UPX!")), bytes.Contains(head, []byte("$Id: UPX ")):
		return "UPX"
	case bytes.Contains(begin, []byte("TEEE burneye")):
		return "burneye"
	case bytes.Contains(head, []byte("midgetpack")):
		return "midgetpack"
	}
	return ""
}

// packedScript names the packer of a script that unpacks itself, "" if it is
// none.
func packedScript(head []byte) string {
	if bytes.HasPrefix(head, []byte("#!")) && bytes.Contains(head, []byte("\nskip=")) && bytes.Contains(head, []byte("gzip -cd")) &&
		bytes.Contains(head, []byte("\n\x1f\x8b\x08")) {
		return "gzexe"
	}
	return ""
}

// span is a part of a file, from inclusive and to exclusive.
type span struct{ from, to int64 }

// counter counts the bytes of a file, and those of its code.
type counter struct {
	at        int64
	code      []span
	all, text [256]uint64
}

func (c *counter) ranges(code []span) { c.code = code }

func (c *counter) Write(p []byte) (int, error) {
	for _, b := range p {
		c.all[b]++
	}
	for _, s := range c.code {
		from, to := max(s.from-c.at, 0), min(s.to-c.at, int64(len(p)))
		if from >= to {
			continue
		}
		for _, b := range p[from:to] {
			c.text[b]++
		}
	}
	c.at += int64(len(p))
	return len(p), nil
}

// Machine code has about 6 bits of information a byte, what is compressed or
// encrypted nearly 8. A few bytes say nothing.
const (
	codeBits, minCode = 7.2, 4 << 10
	fileBits, minFile = 7.7, 16 << 10
)

// packed says that code, or almost all of a program, is not as compilers make
// it.
func (c *counter) packed() string {
	if bits, n := entropy(&c.text); n >= minCode && bits > codeBits {
		return "its code is compressed or encrypted"
	}
	if bits, n := entropy(&c.all); n >= minFile && bits > fileBits {
		return "almost all of it is compressed or encrypted"
	}
	return ""
}

// entropy is Shannon's, in bits a byte, and the number of bytes.
func entropy(count *[256]uint64) (bits float64, n uint64) {
	for _, c := range count {
		n += c
	}
	for _, c := range count {
		if c > 0 {
			p := float64(c) / float64(n)
			bits -= p * math.Log2(p)
		}
	}
	return bits, n
}

// ring keeps the last bytes of a file.
type ring struct{ last []byte }

const tailSize = 256

func (t *ring) Write(p []byte) (int, error) {
	n := len(p)
	if len(p) > tailSize {
		p = p[len(p)-tailSize:]
	}
	t.last = append(t.last, p...)
	if extra := len(t.last) - tailSize; extra > 0 {
		t.last = append(t.last[:0], t.last[extra:]...)
	}
	return n, nil
}

func (t *ring) bytes() []byte { return t.last }
