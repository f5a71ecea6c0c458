package content

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"time"
)

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
// 6.2; PuTTY; age; GnuPG's own). What only speaks of keys, a program or a manual, has no key
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
	case hasAnyPrefix(text, "(11:private-key", "(21:protected-private-key", "Key: (private-key", "Key: (protected-private-key"),
		bytes.Contains(text, []byte("\nKey: (private-key")), bytes.Contains(text, []byte("\nKey: (protected-private-key")):
		return "GnuPG"
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
	return hasAnyPrefix(body, "Proc-Type:", "Version:", "Comment:")
}

func hasAnyPrefix(text []byte, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return bytes.HasPrefix(text, []byte(prefix)) })
}

// pbes2 begins how a key is encrypted (RFC 8018, A.4).
var pbes2 = []byte{6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 0x0d}

// binaryKey says of which kind the private key is that a file of a number of
// bytes is or begins with: in DER by RFC 5958, RFC 8017 A.1.2 or RFC 5915, in
// a store, or as OpenPGP packets.
func binaryKey(head []byte, size int64) string {
	switch {
	case storedPKCS12(head):
		return "PKCS #12"
	case storedJKS(head):
		return "Java keystore"
	case secretPacket(head):
		return "OpenPGP"
	}
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

// keyBags name a private key in a store, as it is or encrypted (RFC 7292,
// appendix D). Their last byte is left out.
var keyBags = []byte{6, 11, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 10, 1}

// storedPKCS12 reports whether a store begins so that has a private key in it (RFC
// 7292): keys are encrypted each by itself in a part that is not. One of
// certificates alone has none.
func storedPKCS12(head []byte) bool {
	body, _ := sequence(head)
	if len(head) > 2 && head[0] == 0x30 && head[1] == 0x80 { // a length that comes at the end (X.690, 8.1.3.6)
		body = head[2:]
	}
	if !bytes.HasPrefix(body, []byte{2, 1, 3, 0x30}) {
		return false
	}
	for rest := body; ; {
		_, after, ok := bytes.Cut(rest, keyBags)
		if !ok {
			return false
		}
		if len(after) > 0 && (after[0] == 1 || after[0] == 2) {
			return true
		}
		rest = after
	}
}

// storedJKS reports whether a Java keystore begins so that has a private or secret
// key in it: a magic number, the version, how many entries there are, and of
// each its tag, name, date and content. Certificates that are trusted have the
// tag 2.
func storedJKS(head []byte) bool {
	r := bytes.NewReader(head)
	number := func(n any) bool { return binary.Read(r, binary.BigEndian, n) == nil }
	skip := func(n int64) bool {
		_, err := r.Seek(n, io.SeekCurrent)
		return err == nil
	}
	text := func() bool {
		var n uint16
		return number(&n) && skip(int64(n))
	}
	var start struct{ Magic, Version, Entries uint32 }
	if !number(&start) || start.Magic != 0xfeedfeed && start.Magic != 0xcececece || start.Version != 1 && start.Version != 2 {
		return false
	}
	for range start.Entries {
		var tag, n uint32
		if !number(&tag) {
			return false
		}
		if tag != 2 {
			return tag == 1 || tag == 3
		}
		if !text() || !skip(8) || start.Version == 2 && !text() || !number(&n) || !skip(int64(n)) {
			return false
		}
	}
	return false
}

// secretPacket reports whether an OpenPGP secret key begins so (RFC 9580, sections
// 4.2 and 5.5.3): a packet of tag 5 with a version, a time and a number of an algorithm.
func secretPacket(head []byte) bool {
	if len(head) < 12 {
		return false
	}
	at := 2
	switch head[0] {
	case 0x94: // the length has one byte, or two, or four
	case 0x95:
		at = 3
	case 0x96:
		at = 5
	case 0xc5:
		switch {
		case head[1] == 0xff:
			at = 6
		case head[1] >= 192:
			at = 3
		}
	default:
		return false
	}
	made := time.Unix(int64(binary.BigEndian.Uint32(head[at+1:])), 0)
	algorithm := head[at+5]
	return 3 <= head[at] && head[at] <= 6 && made.Year() > 1990 && made.Before(time.Now().AddDate(1, 0, 0)) &&
		(1 <= algorithm && algorithm <= 3 || 16 <= algorithm && algorithm <= 28)
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
