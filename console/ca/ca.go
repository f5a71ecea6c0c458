// Package ca is the Console's own certificate authority. It is made at the
// first start, in two files of the data directory: ca.pem, which Defenders and
// browsers get, and ca-key.pem, which never leaves the directory.
//
// The server's certificate is kept in memory only: each start makes one, and
// so does its age.
package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	serverLife    = 90 * 24 * time.Hour
	renewBefore   = 30 * 24 * time.Hour
	clockSkew     = time.Hour // of clients whose clocks are behind
)

// Authority signs the server's certificates. Create one with [Open].
type Authority struct {
	path  string
	cert  *x509.Certificate
	key   crypto.Signer
	now   func() time.Time
	names []string

	mu     sync.Mutex
	server *tls.Certificate
}

const (
	certName = "ca.pem"
	keyName  = "ca-key.pem"
)

// Files are what an authority is, in its data directory.
var Files = []string{certName, keyName}

// Open reads the authority of a data directory, or makes it if there is none.
// Its server certificates are for names, which are host names and addresses.
// A nil now is time.Now.
func Open(dir string, names []string, now func() time.Time) (*Authority, error) {
	if now == nil {
		now = time.Now
	}
	a := &Authority{path: filepath.Join(dir, certName), now: now, names: names}
	keyPath := filepath.Join(dir, keyName)
	certPEM, certErr := os.ReadFile(a.path)
	keyPEM, keyErr := os.ReadFile(keyPath)
	switch {
	case errors.Is(certErr, fs.ErrNotExist) && errors.Is(keyErr, fs.ErrNotExist):
		var err error
		if certPEM, keyPEM, err = newAuthority(now()); err != nil {
			return nil, fmt.Errorf("making the certificate authority: %w", err)
		}
		// The certificate last: without it there is no authority yet.
		if err := errors.Join(write(keyPath, keyPEM, 0o600), write(a.path, certPEM, 0o644)); err != nil {
			return nil, fmt.Errorf("keeping the certificate authority: %w", err)
		}
	case certErr != nil || keyErr != nil:
		return nil, fmt.Errorf("reading the certificate authority: %w", errors.Join(certErr, keyErr))
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate authority %q and %q: %w", a.path, keyPath, err)
	}
	a.cert = pair.Leaf
	a.key, _ = pair.PrivateKey.(crypto.Signer)
	if !now().Before(a.cert.NotAfter) {
		return nil, fmt.Errorf("the certificate authority %q expired on %s", a.path, a.cert.NotAfter.Format(time.DateOnly))
	}
	if _, err := a.serverCertificate(); err != nil {
		return nil, err
	}
	return a, nil
}

// Path is the file that clients need.
func (a *Authority) Path() string { return a.path }

// PEM is what is in that file.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// TLS returns the server's configuration.
func (a *Authority) TLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return a.serverCertificate() },
	}
}

// serverCertificate returns the server's certificate, a new one if it gets
// old.
func (a *Authority) serverCertificate() (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if a.server != nil && now.Before(a.server.Leaf.NotAfter.Add(-renewBefore)) {
		return a.server, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template("Console", now, serverLife)
	if t.NotAfter.After(a.cert.NotAfter) {
		t.NotAfter = a.cert.NotAfter
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, name := range a.names {
		if ip := net.ParseIP(name); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("making the server's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making the server's certificate: %w", err)
	}
	a.server = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	return a.server, nil
}

// Names returns the names a server goes by without being told: the machine's,
// localhost, and the addresses of its interfaces; and those given.
func Names(given []string) []string {
	names := slices.Clone(given)
	names = append(names, "localhost", "127.0.0.1", "::1")
	if host, err := os.Hostname(); err == nil && validHost(host) {
		names = append(names, host)
	}
	if addrs, err := net.InterfaceAddrs(); err == nil {
		for _, addr := range addrs {
			if n, ok := addr.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				names = append(names, n.IP.String())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// CheckName reports what is wrong with a name for a certificate.
func CheckName(name string) error {
	if net.ParseIP(name) != nil || validHost(strings.TrimPrefix(name, "*.")) {
		return nil
	}
	return fmt.Errorf("%q is neither a host name nor an address", name)
}

func validHost(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

func template(name string, now time.Time, life time.Duration) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // the reader never fails
	}
	return &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(life),
		BasicConstraintsValid: true,
	}
}

func newAuthority(now time.Time) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t := template("App-Embedded Defender Console CA "+now.Format(time.DateOnly), now, authorityLife)
	t.IsCA = true
	t.MaxPathLenZero = true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}

// write makes a file that is there whole or not at all.
func write(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
