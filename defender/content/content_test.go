package content

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"appdefender/policy"
)

// sample is a program of this machine.
func sample(t testing.TB) []byte {
	t.Helper()
	for _, name := range []string{"/usr/bin/ls", "/bin/ls", "/proc/self/exe"} {
		if data, err := os.ReadFile(name); err == nil && bytes.HasPrefix(data, []byte(elf.ELFMAG)) && data[elf.EI_CLASS] == byte(elf.ELFCLASS64) {
			return data
		}
	}
	t.Skip("no program to look at")
	return nil
}

func read(t testing.TB, data []byte) *Report {
	t.Helper()
	rep, err := Read(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func TestELF(t *testing.T) {
	le := binary.LittleEndian
	loads := func(b []byte, f func(segment []byte)) { // those of code
		for i := range int(le.Uint16(b[56:])) {
			s := b[int(le.Uint64(b[32:]))+56*i:]
			if elf.ProgType(le.Uint32(s)) == elf.PT_LOAD && elf.ProgFlag(le.Uint32(s[4:]))&elf.PF_X != 0 {
				f(s)
			}
		}
	}
	for _, c := range []struct {
		name   string
		change func(b []byte) []byte
		what   policy.Content // "" is nothing
		detail string
	}{
		{"as it is", func(b []byte) []byte { return b }, "", ""},
		{"stripped of sections", func(b []byte) []byte { clear(b[40:48]); clear(b[58:64]); return b }, "", ""},
		{"byte order", func(b []byte) []byte { b[elf.EI_DATA] = 2; return b }, policy.FoundELFHeader, oddOrder},
		{"no byte order", func(b []byte) []byte { b[elf.EI_DATA] = 7; return b }, policy.FoundELFHeader, oddOrder},
		{"class", func(b []byte) []byte { b[elf.EI_CLASS] = 1; return b }, policy.FoundELFHeader, oddClass},
		{"no class", func(b []byte) []byte { b[elf.EI_CLASS] = 0; return b }, policy.FoundELFHeader, oddClass},
		{"version", func(b []byte) []byte { b[elf.EI_VERSION] = 9; return b }, policy.FoundELFHeader, oddVersion},
		{"second version", func(b []byte) []byte { b[20] = 0; return b }, policy.FoundELFHeader, oddVersion},
		{"padding", func(b []byte) []byte { b[12] = 'V'; return b }, policy.FoundELFHeader, oddPadding},
		{"header size", func(b []byte) []byte { b[52]++; return b }, policy.FoundELFHeader, oddSize},
		{"sections outside", func(b []byte) []byte { le.PutUint64(b[40:], uint64(len(b))); return b }, policy.FoundELFHeader, oddTable},
		{"sections far outside", func(b []byte) []byte { le.PutUint64(b[40:], ^uint64(0)-63); return b }, policy.FoundELFHeader, oddTable},
		{"size of sections", func(b []byte) []byte { b[58] = 1; return b }, policy.FoundELFHeader, oddTable},
		{"names of sections", func(b []byte) []byte { le.PutUint16(b[62:], 0xfff0); return b }, policy.FoundELFHeader, oddNames},
		{"segments in the header", func(b []byte) []byte { le.PutUint64(b[32:], 8); return b }, policy.FoundELFHeader, oddOverlap},
		{"segments far away", func(b []byte) []byte { le.PutUint64(b[32:], 1<<40); return b }, policy.FoundELFHeader, oddFar},
		{"segments beyond numbers", func(b []byte) []byte { le.PutUint64(b[32:], ^uint64(0)-8); return b }, policy.FoundELFHeader, oddFar},
		{"writable code", func(b []byte) []byte { loads(b, func(s []byte) { s[4] |= 2 }); return b }, policy.FoundELFHeader, oddWrite},
		{"entry", func(b []byte) []byte { le.PutUint64(b[24:], 1<<50); return b }, policy.FoundELFHeader, oddEntry},
		{"another processor", func(b []byte) []byte { le.PutUint16(b[18:], uint16(elf.EM_RISCV)); return b }, policy.FoundForeignELF, "riscv"},
		{"a device", func(b []byte) []byte { le.PutUint16(b[18:], uint16(elf.EM_CUDA)); return b }, "", ""},
		{"an object for another processor", func(b []byte) []byte {
			le.PutUint16(b[16:], uint16(elf.ET_REL))
			le.PutUint16(b[18:], uint16(elf.EM_RISCV))
			return b
		}, "", ""},
		{"UPX", func(b []byte) []byte { copy(b[700:], "UPX!"); return b }, policy.FoundPacked, "UPX"},
		{"UPX at the end", func(b []byte) []byte { return append(b, "UPX!\r\f\r\n0123456789012345678901234567"...) }, policy.FoundPacked, "UPX"},
		{"UPX in its data", func(b []byte) []byte { copy(b[len(b)/2:], "UPX!"); return b }, "", ""},
		{"encrypted code", func(b []byte) []byte {
			loads(b, func(s []byte) {
				from := le.Uint64(s[8:])
				_, _ = rand.Read(b[from+64 : from+le.Uint64(s[32:])])
			})
			return b
		}, policy.FoundPacked, "its code is compressed or encrypted"},
		{"encrypted data behind it", func(b []byte) []byte {
			more := make([]byte, 40*len(b))
			_, _ = rand.Read(more)
			return append(b, more...)
		}, policy.FoundPacked, "almost all of it is compressed or encrypted"},
	} {
		rep := read(t, c.change(bytes.Clone(sample(t))))
		if rep.Type != "elf" {
			t.Errorf("%s: type %q", c.name, rep.Type)
		}
		switch {
		case c.what == "" && len(rep.Findings) > 0:
			t.Errorf("%s: %v", c.name, rep.Findings)
		case c.what != "" && (len(rep.Findings) != 1 || rep.Findings[0] != policy.Finding{What: c.what, Detail: c.detail}):
			t.Errorf("%s: %v, want %s (%s)", c.name, rep.Findings, c.what, c.detail)
		}
	}
}

func TestOtherFiles(t *testing.T) {
	const base64 = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\n"
	for _, c := range []struct {
		name, text, kind string
		what             policy.Content
	}{
		{"nothing", "", "regular", ""},
		{"text", "hello", "regular", ""},
		{"the beginning of a program", "\x7fELF", "regular", ""},
		{"key", "-----BEGIN PRIVATE KEY-----\n" + base64 + "-----END PRIVATE KEY-----\n", "secret", policy.FoundPrivateKey},
		{"RSA key behind certificates", strings.Repeat("-----BEGIN CERTIFICATE-----\n"+base64+"-----END CERTIFICATE-----\n", 300) + "-----BEGIN RSA PRIVATE KEY-----\r\n" + base64, "secret", policy.FoundPrivateKey},
		{"encrypted key", "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n", "secret", policy.FoundPrivateKey},
		{"OpenSSH", "-----BEGIN OPENSSH PRIVATE KEY-----\n" + base64, "secret", policy.FoundPrivateKey},
		{"JSON", `{"private_key": "-----BEGIN PRIVATE KEY-----\n` + base64[:52] + `\n"}`, "secret", policy.FoundPrivateKey},
		{"behind much else", strings.Repeat("x", 300<<10) + "-----BEGIN PRIVATE KEY-----\n" + base64, "secret", policy.FoundPrivateKey},
		{"across two pieces", strings.Repeat("x", headSize-30) + "-----BEGIN PRIVATE KEY-----\n" + base64, "secret", policy.FoundPrivateKey},
		{"indented", "key: |\n\t-----BEGIN PRIVATE KEY-----\n\t" + base64, "secret", policy.FoundPrivateKey},
		{"PGP", "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n" + base64, "secret", policy.FoundPrivateKey},
		{"PGP with a header", "-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: GnuPG v2\n\n" + base64, "secret", policy.FoundPrivateKey},
		{"PGP, public", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n" + base64, "regular", ""},
		{"SSH2", "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nComment: x\n", "secret", policy.FoundPrivateKey},
		{"age", "# created: 2026\nAGE-SECRET-KEY-1" + strings.Repeat("Q", 58) + "\n", "secret", policy.FoundPrivateKey},
		{"GnuPG", "Created: 20261101T000000\nKey: (private-key (rsa", "secret", policy.FoundPrivateKey},
		{"GnuPG, protected", "(21:protected-private-key(3:rsa", "secret", policy.FoundPrivateKey},
		{"PuTTY", "PuTTY-User-Key-File-3: ssh-ed25519\n", "secret", policy.FoundPrivateKey},
		{"certificate", "-----BEGIN CERTIFICATE-----\n" + base64, "regular", ""},
		{"public key", "-----BEGIN PUBLIC KEY-----\n" + base64, "regular", ""},
		{"a manual of keys", "A key begins with -----BEGIN RSA PRIVATE KEY----- and ends with …", "regular", ""},
		{"a pattern", `-----BEGIN (RSA|EC) PRIVATE KEY-----\n`, "regular", ""},
		{"gzexe", "#!/bin/sh\nskip=44\nset -C\nif tail $tail_opt \"$0\" | gzip -cd > x; then\n\n\x1f\x8b\x08\x00", "regular", policy.FoundPacked},
		{"archive", "\x1f\x8b\x08\x00" + base64, "regular", ""},
	} {
		rep := read(t, []byte(c.text))
		var what policy.Content
		if len(rep.Findings) > 0 {
			what = rep.Findings[0].What
		}
		if rep.Type != c.kind || what != c.what {
			t.Errorf("%s: %s, %v", c.name, rep.Type, rep.Findings)
		}
		if sum := md5.Sum([]byte(c.text)); rep.MD5 != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: MD5 %s", c.name, rep.MD5)
		}
	}
}

// TestBinaryKeys makes keys in every form that has a name for it.
func TestBinaryKeys(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der := func(key any, marshal func(any) ([]byte, error)) []byte {
		t.Helper()
		b, err := marshal(key)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	ec, err := x509.MarshalECPrivateKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8 := der(edKey, x509.MarshalPKCS8PrivateKey)
	encrypted := append([]byte{0x30, 0x1f, 0x30, 13}, append(bytes.Clone(pbes2), 0x30, 0)...)
	encrypted = append(encrypted, append([]byte{4, 14}, make([]byte, 14)...)...)
	for _, c := range []struct {
		name, kind string
		data       []byte
	}{
		{"PKCS #8, RSA", "PKCS #8", der(rsaKey, x509.MarshalPKCS8PrivateKey)},
		{"PKCS #8, EC", "PKCS #8", der(ecKey, x509.MarshalPKCS8PrivateKey)},
		{"PKCS #8, Ed25519", "PKCS #8", pkcs8},
		{"PKCS #1", "RSA", x509.MarshalPKCS1PrivateKey(rsaKey)},
		{"SEC 1", "EC", ec},
		{"encrypted", "encrypted PKCS #8", encrypted},
		{"OpenPGP, RSA", "OpenPGP", []byte("\x95\x03\x98\x04\x6a\x23\xae\xe6\x01\x08\x00\xc1")},
		{"OpenPGP, Ed25519", "OpenPGP", []byte("\x94\x58\x04\x6a\x23\xae\xe6\x16\x09\x2b\x06\x01")},
		{"OpenPGP, a length of its newer form", "OpenPGP", []byte("\xc5\x58\x06\x6a\x23\xae\xe6\x1b\x00\x00\x00\x20")},
		{"OpenPGP, public", "", []byte("\x99\x01\x0d\x04\x6a\x23\xae\xe6\x01\x08\x00\xc1")},
		{"public", "", der(&rsaKey.PublicKey, x509.MarshalPKIXPublicKey)},
		{"public, PKCS #1", "", x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey)},
		{"with something behind it", "", append(bytes.Clone(pkcs8), 0)},
		{"cut off", "", pkcs8[:len(pkcs8)-1]},
		{"SNMP", "", []byte("\x30\x0c\x02\x01\x01\x04\x06public\xa0")},
		{"lengths without end", "", []byte("\x30\x88\xff\xff\xff\xff\xff\xff\xff\xff")},
	} {
		rep := read(t, c.data)
		if c.kind == "" {
			if rep.Type != "regular" || len(rep.Findings) > 0 {
				t.Errorf("%s: %s, %v", c.name, rep.Type, rep.Findings)
			}
			continue
		}
		if want := (policy.Finding{What: policy.FoundPrivateKey, Detail: c.kind}); rep.Type != "secret" || len(rep.Findings) != 1 || rep.Findings[0] != want {
			t.Errorf("%s: %s, %v", c.name, rep.Type, rep.Findings)
		}
	}
}

// TestThisMachine looks for what is not there: a distribution packs nothing.
func TestThisMachine(t *testing.T) {
	looked := 0
	libraries := "/usr/lib/" + map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH] + "-linux-gnu/*.so*"
	for _, pattern := range []string{"/usr/bin/*", "/usr/sbin/*", libraries, "/lib64/*.so*", "/usr/lib/python3*/*.py", "/etc/ssl/certs/*.pem"} {
		names, _ := filepath.Glob(pattern)
		for i, name := range names {
			st, err := os.Stat(name)
			if err != nil || !st.Mode().IsRegular() || st.Size() > 20<<20 || i%sampling() != 0 {
				continue
			}
			f, err := os.Open(name)
			if err != nil {
				continue
			}
			rep, err := Read(f, st.Size())
			f.Close()
			if err != nil || len(rep.Findings) > 0 {
				t.Errorf("%s: %v, %v", name, rep.Findings, err)
			}
			looked++
		}
	}
	t.Logf("%d files", looked)
}

// sampling is how many files there are to each one that is looked at.
func sampling() int {
	if os.Getenv("TEST_LONG") != "" {
		return 1
	}
	return 10
}

func FuzzRead(f *testing.F) {
	f.Add(sample(f)[:4096], int64(100<<10))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n"), int64(10))
	f.Fuzz(func(t *testing.T, data []byte, size int64) {
		if size < 0 {
			return
		}
		if _, err := Read(bytes.NewReader(data), size); err != nil {
			t.Error(err)
		}
	})
}
