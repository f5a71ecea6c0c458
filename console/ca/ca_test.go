package ca

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestAuthority(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	clock := func() time.Time { return now }
	open := func(names ...string) *Authority {
		t.Helper()
		a, err := Open(dir, names, clock)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	leaf := func(a *Authority) *x509.Certificate {
		t.Helper()
		c, err := a.TLS().GetCertificate(&tls.ClientHelloInfo{})
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf
	}
	a := open("console.example.test", "192.0.2.1", "2001:db8::1")
	first := leaf(a)
	now = now.Add(24 * time.Hour)
	again := open("other.example.test")

	// Who has the file trusts both servers, each by its names.
	pool := x509.NewCertPool()
	text, err := os.ReadFile(a.Path())
	if err != nil || !pool.AppendCertsFromPEM(text) {
		t.Fatalf("ca.pem: %v", err)
	}
	for _, tt := range []struct {
		cert *x509.Certificate
		name string
		want bool
	}{
		{first, "console.example.test", true},
		{first, "192.0.2.1", true},
		{first, "2001:db8::1", true},
		{first, "other.example.test", false},
		{leaf(again), "other.example.test", true},
	} {
		_, err := tt.cert.Verify(x509.VerifyOptions{DNSName: tt.name, Roots: pool, CurrentTime: now})
		if (err == nil) != tt.want {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "ca-key.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("ca-key.pem: %v, %v", info, err)
	}

	// The server's certificate is renewed before it ends.
	now = now.Add(serverLife - renewBefore - 25*time.Hour)
	if leaf(a) != first {
		t.Error("renewed too early")
	}
	now = now.Add(2 * time.Hour)
	if leaf(a) == first {
		t.Error("not renewed")
	}

	now = now.Add(authorityLife)
	if _, err := Open(dir, nil, clock); err == nil {
		t.Error("opened an authority that has expired")
	}
	if err := os.Remove(filepath.Join(dir, "ca-key.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, nil, nil); err == nil {
		t.Error("opened a certificate without its key, or made another")
	}
}

func TestCheckName(t *testing.T) {
	for name, want := range map[string]bool{
		"localhost": true, "a.example.test": true, "*.example.test": true, "192.0.2.1": true, "::1": true, "my_host": true,
		"": false, "a..b": false, "a b": false, "https://x": false, "a:1": false,
	} {
		if err := CheckName(name); (err == nil) != want {
			t.Errorf("%q: %v", name, err)
		}
	}
}
