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

// keyFinder looks for a private key in a text that comes in pieces.
type keyFinder struct {
	kind string // "" as long as there is none
	last []byte // where one may begin
}

// keyStart is more than a key's heading and what is looked at behind it.
const keyStart = 512

func (k *keyFinder) Write(p []byte) (int, error) {
	if k.kind == "" {
		k.last = append(k.last, p...)
		k.kind = privateKey(k.last)
		if extra := len(k.last) - keyStart; extra > 0 {
			k.last = append(k.last[:0], k.last[extra:]...)
		}
	}
	return len(p), nil
}

// privateKey says of which kind the private key is that a text has in it
// (RFC 7468, section 10 and 11; RFC 4716's kin of OpenSSH; RFC 9580, section
// 6.2; PuTTY; age). What only speaks of keys, a program or a manual, has no key
// behind the heading.
func privateKey(text []byte) string {
	for rest := text; ; {
		_, after, ok := bytes.Cut(rest, []byte("-----BEGIN "))
		if !ok {
			break
		}
		rest = after
		label, body, ok := bytes.Cut(after[:min(len(after), 200)], []byte("-----"))
		if !ok || !bytes.HasSuffix(bytes.TrimSuffix(label, []byte(" BLOCK")), []byte("PRIVATE KEY")) || bytes.ContainsAny(label, "\n\\") {
			continue
		}
		body = bytes.TrimLeft(body, "\r\n\\rn\" \t") // in JSON the end of a line is two letters
		if hasHeader(body) || len(base64Run(body)) >= 40 {
			return string(label)
		}
	}
	switch {
	case bytes.HasPrefix(text, []byte("PuTTY-User-Key-File-")):
		return "PuTTY"
	case bytes.Contains(text, []byte("---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\n")):
		return "SSH2"
	}
	if _, body, ok := bytes.Cut(text, []byte("AGE-SECRET-KEY-1")); ok && len(base64Run(body)) >= 40 {
		return "age"
	}
	return ""
}

// hasHeader reports whether the lines before a key say something about it.
func hasHeader(body []byte) bool {
	for _, name := range []string{"Proc-Type:", "Version:", "Comment:"} {
		if bytes.HasPrefix(body, []byte(name)) {
			return true
		}
	}
	return false
}

// pbes2 begins how a key is encrypted (RFC 8018, A.4).
var pbes2 = []byte{6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 0x0d}

// binaryKey says of which kind the private key is that a file of a number of
// bytes is, in DER: RFC 5958, RFC 8017 A.1.2, RFC 5915.
func binaryKey(head []byte, size int64) string {
	body, whole := sequence(head)
	if whole != size || len(body) < 5 {
		return ""
	}
	if inner, _ := sequence(body); bytes.HasPrefix(inner, pbes2) {
		return "encrypted PKCS #8"
	}
	if body[0] != 2 || body[1] != 1 || body[2] > 1 { // its version
		return ""
	}
	rest := body[3:]
	algorithm, _ := sequence(rest)
	switch {
	case len(algorithm) > 0 && algorithm[0] == 6: // an object's name
		return "PKCS #8"
	case body[2] == 0 && rest[0] == 2 && rest[1] > 0x80: // a number of more than 127 bytes
		return "RSA"
	case body[2] == 1 && rest[0] == 4 && bytes.IndexByte([]byte{28, 32, 48, 66}, rest[1]) >= 0: // a number of the curve's size
		return "EC"
	}
	return ""
}

// sequence returns what the SEQUENCE has in it that b begins with, as far as b
// goes, and the size of it all; -1 is none (X.690, 8.1.3).
func sequence(b []byte) (body []byte, size int64) {
	if len(b) < 2 || b[0] != 0x30 {
		return nil, -1
	}
	n, at := int64(b[1]), 2
	if b[1] >= 0x80 {
		at += int(b[1] & 0x7f)
		if at == 2 || at > 6 || len(b) < at {
			return nil, -1
		}
		n = 0
		for _, c := range b[2:at] {
			n = n<<8 | int64(c)
		}
	}
	return b[at:], int64(at) + n
}

// base64Run is the beginning of b that is base64.
func base64Run(b []byte) []byte {
	for i, c := range b {
		if !('a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '+' || c == '/' || c == '=') {
			return b[:i]
		}
	}
	return b
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
