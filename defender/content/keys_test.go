package content

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"appdefender/policy"
)

// TestStores has the tools of the field make stores with and without a key.
func TestStores(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := func(argv ...string) bool {
		t.Helper()
		if _, err := exec.LookPath(argv[0]); err != nil {
			return false
		}
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Logf("%q: %v\n%s", argv, err, out)
			return false
		}
		return true
	}
	if !run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=x") {
		t.Skip("needs openssl")
	}
	store := []string{"openssl", "pkcs12", "-export", "-in", "cert.pem", "-passout", "pass:x", "-out"}
	java := []string{"keytool", "-storepass", "changeit", "-keystore"}
	for _, c := range []struct {
		file, kind string
		argv       []string
	}{
		{"key.p12", "PKCS #12", append(store, "key.p12", "-inkey", "key.pem")},
		{"plain.p12", "PKCS #12", append(store, "plain.p12", "-inkey", "key.pem", "-keypbe", "NONE", "-certpbe", "NONE", "-nomac")},
		{"trust.p12", "", append(store, "trust.p12", "-nokeys")},
		{"trust.jks", "", append(java, "trust.jks", "-import", "-noprompt", "-alias", "t", "-file", "cert.pem", "-storetype", "JKS")},
		{"key.jks", "Java keystore", append(java, "key.jks", "-genkeypair", "-alias", "k", "-keyalg", "RSA", "-storetype", "JKS", "-keypass", "changeit", "-dname", "CN=x")},
		{"key.jks", "Java keystore", append(java, "key.jks", "-import", "-noprompt", "-alias", "a", "-file", "cert.pem")},
		{"java.p12", "PKCS #12", append(java, "java.p12", "-genkeypair", "-alias", "k", "-keyalg", "RSA", "-storetype", "PKCS12", "-dname", "CN=x")},
	} {
		if !run(c.argv...) {
			t.Logf("%s: not made here", c.file)
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, c.file))
		if err != nil {
			t.Fatal(err)
		}
		var kind string
		if rep := read(t, data); len(rep.Findings) > 0 {
			kind = rep.Findings[0].Detail
		}
		if kind != c.kind {
			t.Errorf("%s: %q, want %q", c.file, kind, c.kind)
		}
	}
}

// What only begins like a store or a packet has no key in it.
func TestNoStores(t *testing.T) {
	for name, text := range map[string]string{
		"a keystore cut off":       "\xfe\xed\xfe\xed\x00\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00\x02\x00\x05abcde",
		"an empty keystore":        "\xfe\xed\xfe\xed\x00\x00\x00\x02\x00\x00\x00\x00",
		"entries without end":      "\xfe\xed\xfe\xed\x00\x00\x00\x02\xff\xff\xff\xff",
		"a Mach-O program":         "\xfe\xed\xfa\xce\x00\x00\x00\x12",
		"a store of certificates":  "\x30\x80\x02\x01\x03\x30\x80\x06\x09" + "\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01\x03",
		"a packet of another time": "\x95\x01\x02\x04\xff\xff\xff\xff\x01\x02\x03\x04",
		"a packet of another kind": "\x99\x01\x02\x04\x60\x00\x00\x00\x01\x02\x03\x04",
	} {
		if rep := read(t, []byte(text)); rep.Type != "regular" || len(rep.Findings) > 0 {
			t.Errorf("%s: %s, %v", name, rep.Type, rep.Findings)
		}
	}
}

func FuzzBinaryKey(f *testing.F) {
	f.Add([]byte("\xfe\xed\xfe\xed\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x01"))
	f.Add([]byte("\x95\x01\x02\x04\x60\x00\x00\x00\x01\x02\x03\x04"))
	f.Add(append([]byte("\x30\x80\x02\x01\x03\x30\x80"), append(bytes.Clone(keyBags), 2)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		rep, err := Read(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range rep.Findings {
			if found.What == policy.FoundPrivateKey && rep.Type != "secret" {
				t.Errorf("%q is a %s with %v", data, rep.Type, found)
			}
		}
	})
}
