package dnsproxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/miekg/dns"
)

// Upstream is a resolver to ask. The zero Upstream is none.
type Upstream struct {
	// Suffixes are the names that it is asked for: those themselves and what
	// is below them, as a judge wants them. Without any it is asked for what
	// no other upstream is for.
	Suffixes []string

	scheme string // "udp", "tcp", "tls" or "https"
	host   string // an address or a name
	port   uint16
	name   string // in the certificate, of "tls" and "https"
	path   string // of "https"
}

// Plain returns upstreams that are asked by UDP, and by TCP where that is too
// small.
func Plain(addrs ...netip.AddrPort) []Upstream {
	var ups []Upstream
	for _, a := range addrs {
		ups = append(ups, Upstream{scheme: "udp", host: a.Addr().Unmap().String(), port: a.Port()})
	}
	return ups
}

var schemes = map[string]uint16{"udp": dnsPort, "tcp": dnsPort, "tls": 853, "https": 443}

// ParseUpstream reads an upstream as a person writes it:
//
//	10.0.0.2, 10.0.0.2:5353, udp://…, tcp://…     plain DNS
//	tls://1.1.1.1#cloudflare-dns.com              DNS over TLS (RFC 7858)
//	https://dns.example/dns-query                 DNS over HTTPS (RFC 8484)
//	/corp.internal/10.0.0.2                       for these names alone
//
// The name behind # is what the certificate must be for.
func ParseUpstream(s string) (Upstream, error) {
	var u Upstream
	rest := s
	if strings.HasPrefix(rest, "/") {
		end := strings.LastIndexByte(rest, '/')
		if i := strings.Index(rest, "://"); i >= 0 {
			end = strings.LastIndexByte(rest[:i], '/')
		}
		for suffix := range strings.SplitSeq(strings.Trim(rest[:end+1], "/"), "/") {
			var buf [maxName + 1]byte
			n, err := dns.PackDomainName(dns.Fqdn(suffix), buf[:], 0, nil, false)
			if _, ok := dns.IsDomainName(suffix); err != nil || !ok || suffix == "" {
				return u, fmt.Errorf("upstream %q: %q is no name; write /corp.internal/10.0.0.2", s, suffix)
			}
			u.Suffixes = append(u.Suffixes, domain(buf[:n]))
		}
		rest = rest[end+1:]
	}
	if _, err := netip.ParseAddr(rest); err == nil && strings.Contains(rest, ":") {
		rest = "[" + rest + "]"
	}
	if !strings.Contains(rest, "://") {
		rest = "udp://" + rest
	}
	at, err := url.Parse(rest)
	if err != nil {
		return u, fmt.Errorf("upstream %q: want an address, tls://ADDRESS#NAME or https://HOST/PATH", s)
	}
	port, known := schemes[at.Scheme]
	u.scheme, u.host, u.name, u.path, u.port = at.Scheme, at.Hostname(), at.Fragment, at.RequestURI(), port
	addr, notAddr := netip.ParseAddr(u.host)
	secure := u.secure()
	switch {
	case !known:
		return u, fmt.Errorf("upstream %q: %q is none of udp, tcp, tls, https", s, at.Scheme)
	case u.host == "" || at.User != nil:
		return u, fmt.Errorf("upstream %q: no address", s)
	case notAddr != nil && !secure:
		return u, fmt.Errorf("upstream %q: %q is no address, and there is nobody else to ask for a name's", s, u.host)
	case notAddr == nil && addr.IsUnspecified():
		return u, fmt.Errorf("upstream %q: %s is no one's address", s, addr)
	case !secure && u.name != "":
		return u, fmt.Errorf("upstream %q: there is no certificate to find %q in; write tls://", s, u.name)
	case u.scheme != "https" && u.path != "/" && u.path != "":
		return u, fmt.Errorf("upstream %q: a path is for https alone", s)
	}
	if p := at.Port(); p != "" {
		ap, err := netip.ParseAddrPort("0.0.0.0:" + p)
		if err != nil || ap.Port() == 0 {
			return u, fmt.Errorf("upstream %q: %q is no port", s, p)
		}
		u.port = ap.Port()
	}
	if u.name == "" {
		u.name = u.host
	}
	return u, nil
}

// String returns the upstream as ParseUpstream reads it.
func (u Upstream) String() string {
	s := net.JoinHostPort(u.host, fmt.Sprint(u.port))
	if u.scheme != "udp" {
		s = u.scheme + "://" + s
	}
	if u.scheme == "https" {
		s += u.path
	}
	if u.secure() && u.name != u.host {
		s += "#" + u.name
	}
	if len(u.Suffixes) > 0 {
		s = "/" + strings.Join(u.Suffixes, "/") + "/" + s
	}
	return s
}

// addr returns the address, if it is one.
func (u Upstream) addr() (netip.AddrPort, bool) {
	a, err := netip.ParseAddr(u.host)
	return netip.AddrPortFrom(a.Unmap(), u.port), err == nil
}

func (u Upstream) secure() bool { return u.scheme == "tls" || u.scheme == "https" }

func (u Upstream) check() error {
	if a, ok := u.addr(); u.scheme == "" || u.port == 0 || (ok && !a.IsValid()) {
		return errors.New("no address with a port")
	}
	return nil
}

// routes says which servers are asked for which names.
type routes struct {
	bySuffix map[string][]*server
	rest     []*server
}

func newRoutes(servers []*server) routes {
	r := routes{bySuffix: map[string][]*server{}}
	for _, s := range servers {
		if len(s.Suffixes) == 0 {
			r.rest = append(r.rest, s)
		}
		for _, suffix := range s.Suffixes {
			r.bySuffix[suffix] = append(r.bySuffix[suffix], s)
		}
	}
	return r
}

// of returns the servers for a name: those of the longest suffix that it has.
func (r routes) of(name string) []*server {
	if len(r.bySuffix) == 0 {
		return r.rest
	}
	for {
		if s := r.bySuffix[name]; s != nil {
			return s
		}
		_, parent, more := strings.Cut(name, ".")
		if !more {
			return r.rest
		}
		name = parent
	}
}
