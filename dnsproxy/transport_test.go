package dnsproxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
)

// through returns a proxy whose only upstream is what s says.
func through(t *testing.T, s string, bootstrap []netip.AddrPort, roots *x509.CertPool) *Proxy {
	t.Helper()
	u, err := ParseUpstream(s)
	if err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, Config{CacheBytes: -1})
	p.routes = newRoutes([]*server{newServer(u, bootstrap, roots)})
	t.Cleanup(func() {
		_ = p.Close()
		p.work.Wait()
	})
	return p
}

// authority returns a certificate for example.com and 127.0.0.1, and who
// believes it.
func authority(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return s.TLS.Certificates[0], pool
}

func rcodeThrough(t *testing.T, p *Proxy) int {
	t.Helper()
	return exchange(t, p, ask("good.test.", dns.TypeA), true).Rcode
}

func TestOverTLS(t *testing.T) {
	cert, roots := authority(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	counted := &countingListener{Listener: l}
	s := &dns.Server{Listener: tls.NewListener(counted, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}), Handler: dns.HandlerFunc(answerA)}
	go func() { _ = s.ActivateAndServe() }()
	defer l.Close()
	at := "tls://" + l.Addr().String()
	p := through(t, at+"#example.com", nil, roots)
	for range 3 {
		if rcode := rcodeThrough(t, p); rcode != dns.RcodeSuccess {
			t.Errorf("got %s", dns.RcodeToString[rcode])
		}
	}
	if n := counted.conns.Load(); n != 1 {
		t.Errorf("%d connections for three queries", n)
	}
	if rcode := rcodeThrough(t, through(t, at, nil, roots)); rcode != dns.RcodeSuccess {
		t.Errorf("by its address: got %s", dns.RcodeToString[rcode])
	}
	for what, p := range map[string]*Proxy{
		"another name":                   through(t, at+"#other.example", nil, roots),
		"an authority nobody knows":      through(t, at+"#example.com", nil, x509.NewCertPool()),
		"a name without anybody to know": through(t, "tls://example.com:1", nil, roots),
	} {
		if rcode := rcodeThrough(t, p); rcode != dns.RcodeServerFailure {
			t.Errorf("%s: got %s", what, dns.RcodeToString[rcode])
		}
	}
	// A name is looked up with the machine's own servers.
	known := newUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		answering(t, 0, m.Question[0].Name+" 60 IN A 127.0.0.1")(w, m)
	})
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if rcode := rcodeThrough(t, through(t, "tls://example.com:"+port, []netip.AddrPort{known.addr}, roots)); rcode != dns.RcodeSuccess {
		t.Errorf("by its name: got %s", dns.RcodeToString[rcode])
	}
}

type countingListener struct {
	net.Listener
	conns atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.conns.Add(1)
	}
	return c, err
}

func TestOverHTTPS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/dns-query" || r.Header.Get("Content-Type") != "application/dns-message" || !strings.HasPrefix(r.Host, "example.com") {
			http.Error(w, "no", http.StatusTeapot)
			return
		}
		raw, _ := io.ReadAll(r.Body)
		m := new(dns.Msg)
		if err := m.Unpack(raw); err != nil || m.Id != 0 {
			http.Error(w, "no", http.StatusTeapot)
			return
		}
		reply := new(dns.Msg).SetReply(m)
		reply.Answer = []dns.RR{rr(t, "good.test. 60 IN A 192.0.2.1")}
		b, _ := reply.Pack()
		_, _ = w.Write(b)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	at := s.URL // https://127.0.0.1:PORT
	if rcode := rcodeThrough(t, through(t, at+"/dns-query#example.com", nil, roots)); rcode != dns.RcodeSuccess {
		t.Errorf("got %s", dns.RcodeToString[rcode])
	}
	for what, u := range map[string]string{"another path": at + "/#example.com", "another name": at + "/dns-query#other.example"} {
		if rcode := rcodeThrough(t, through(t, u, nil, roots)); rcode != dns.RcodeServerFailure {
			t.Errorf("%s: got %s", what, dns.RcodeToString[rcode])
		}
	}
}

// A server may close a connection that waits for more; the next query takes another.
func TestOverTCPAgain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			raw, err := readFrame(conn)
			m := new(dns.Msg)
			if err == nil && m.Unpack(raw) == nil {
				b, _ := new(dns.Msg).SetReply(m).Pack()
				_, _ = conn.Write(frame(b))
			}
			_ = conn.Close() // after one
		}
	}()
	p := through(t, "tcp://"+l.Addr().String(), nil, nil)
	for range 5 {
		if rcode := rcodeThrough(t, p); rcode != dns.RcodeSuccess {
			t.Errorf("got %s", dns.RcodeToString[rcode])
		}
	}
}

// A query that nobody waits for any more ends at once, whatever the upstream.
func TestClosedWhileAsking(t *testing.T) {
	for _, scheme := range []string{"udp", "tcp", "tls", "https"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		p := through(t, scheme+"://"+l.Addr().String(), nil, nil)
		go func() { _ = p.Close() }()
		raw, _ := ask("good.test.", dns.TypeA).Pack()
		if p.Exchange(context.Background(), raw, wget, true) == nil {
			t.Errorf("%s: no answer", scheme)
		}
	}
}
