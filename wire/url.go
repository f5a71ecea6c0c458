package wire

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
)

// ParseURL reads a Console's address: https, or http on a loopback address, for
// everybody else on the way could read credentials and passwords.
func ParseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		var why *url.Error // with all that it parses, a password too
		if errors.As(err, &why) {
			err = why.Err
		}
		return nil, fmt.Errorf("reading the Console's address: %w; give it as https://HOST:PORT", err)
	}
	switch {
	case u.Host == "" || u.Hostname() == "":
		err = errors.New("it has no host; give it as https://HOST:PORT")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		err = errors.New("it must be no more than scheme, host, port and path")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		err = errors.New("plain http is for loopback alone; use https")
	case u.Scheme != "http" && u.Scheme != "https":
		err = errors.New("its scheme must be https")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the Console's address %q: %w", u.Redacted(), err)
	}
	return u, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// CertificateHint says what helps where a Console's certificate was refused,
// and "" of other errors.
func CertificateHint(err error) string {
	var refused *tls.CertificateVerificationError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case !errors.As(err, &refused):
		return ""
	case errors.As(err, &name):
		return fmt.Sprintf("give the Console that name: console serve --san %s", name.Host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "renew it, or set the clock here"
	}
	return "is --ca the certificate of the Console's own CA, ca.pem in its data directory?"
}
