package dnsproxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	maxIdleConns = 4 // to one upstream
	idleConnTime = 10 * time.Second
)

// newServer returns the server behind u. bootstrap are the name servers that
// know its address if it has only a name.
func newServer(u Upstream, bootstrap []netip.AddrPort, roots *x509.CertPool) *server {
	s := &server{Upstream: u}
	hostport := net.JoinHostPort(u.host, strconv.Itoa(int(u.port)))
	d := &net.Dialer{Resolver: resolver(bootstrap)}
	conf := &tls.Config{ServerName: u.name, RootCAs: roots, MinVersion: tls.VersionTLS12}
	over := func(dial func(context.Context) (net.Conn, error)) func(context.Context, []byte, []byte) (*answer, error) {
		pool := &streams{dial: dial}
		return pool.exchange
	}
	tcp := over(func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", hostport) })
	switch u.scheme {
	case "tcp":
		s.exchange = tcp
	case "tls":
		t := &tls.Dialer{NetDialer: d, Config: conf}
		s.exchange = over(func(ctx context.Context) (net.Conn, error) { return t.DialContext(ctx, "tcp", hostport) })
	case "https":
		s.exchange = overHTTPS("https://"+hostport+u.path, u.name, &http.Transport{
			DialContext: d.DialContext, TLSClientConfig: conf, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute,
		})
	default:
		addr, _ := u.addr()
		s.sockets = &sockets{to: net.UDPAddrFromAddrPort(addr), asked: make(map[*socket]struct{})}
		s.whole = func(ctx context.Context, a *answer, query, question []byte) *answer {
			if !a.truncated() {
				return a
			}
			if full, err := tcp(ctx, query, question); err == nil {
				return full
			}
			return a // the asker may see for itself whether TCP works
		}
		s.exchange = func(ctx context.Context, query, question []byte) (*answer, error) {
			a, err := s.sockets.exchange(ctx, query, question)
			if err == nil {
				a = s.whole(ctx, a, query, question)
			}
			return a, err
		}
	}
	return s
}

func (a *answer) truncated() bool { return a.wire[2]&(bitTC>>8) != 0 }

// resolver asks the given servers alone.
func resolver(servers []netip.AddrPort) *net.Resolver {
	var next int
	var mu sync.Mutex
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		if len(servers) == 0 {
			return nil, errors.New("there is no name server that could know")
		}
		mu.Lock()
		to := servers[next%len(servers)]
		next++
		mu.Unlock()
		var d net.Dialer
		return d.DialContext(ctx, network, to.String())
	}}
}

// untilDone ends what waits on conn with ctx, until the function it returns is
// called.
func untilDone(ctx context.Context, conn net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
}

// streams are connections to one server, each with one query at a time
// (RFC 7766 6.2.1, RFC 7858 3.4).
type streams struct {
	dial func(context.Context) (net.Conn, error)

	mu   sync.Mutex
	idle []idleConn // the one used last at the end
}

type idleConn struct {
	net.Conn
	since time.Time
}

func (s *streams) exchange(ctx context.Context, query, question []byte) (*answer, error) {
	for {
		conn, reused := s.take()
		if !reused {
			var err error
			if conn, err = s.dial(ctx); err != nil {
				return nil, err
			}
		}
		a, err := overStream(ctx, conn, query, question)
		if err == nil {
			s.put(conn)
			return a, nil
		}
		_ = conn.Close()
		// The server may have closed what was idle; a new one it has not.
		if !reused || ctx.Err() != nil {
			return nil, err
		}
	}
}

func overStream(ctx context.Context, conn net.Conn, query, question []byte) (*answer, error) {
	stop := untilDone(ctx, conn)
	defer stop()
	if _, err := conn.Write(frame(query)); err != nil {
		return nil, err
	}
	raw, err := readFrame(conn)
	if err != nil {
		return nil, err
	}
	a, err := readAnswer(raw, binary.BigEndian.Uint16(query), question)
	if err == nil && !stop() {
		return a, conn.SetDeadline(time.Time{}) // was too late; put finds out
	}
	return a, err
}

// take returns a connection that is idle, if there is one.
func (s *streams) take() (net.Conn, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.idle) > 0 {
		c := s.idle[len(s.idle)-1]
		s.idle = s.idle[:len(s.idle)-1]
		if time.Since(c.since) < idleConnTime {
			return c.Conn, true
		}
		_ = c.Close()
	}
	return nil, false
}

func (s *streams) put(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.idle) >= maxIdleConns {
		_ = conn.Close()
		return
	}
	s.idle = append(s.idle, idleConn{conn, time.Now()})
}

// overHTTPS posts queries, under the id 0 (RFC 8484 4.1).
func overHTTPS(url, host string, t *http.Transport) func(context.Context, []byte, []byte) (*answer, error) {
	client := &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return func(ctx context.Context, query, question []byte) (*answer, error) {
		query[0], query[1] = 0, 0
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(query))
		if err != nil {
			return nil, err
		}
		req.Host = host
		req.Header.Set("Content-Type", "application/dns-message")
		req.Header.Set("Accept", "application/dns-message")
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("it says %s", resp.Status)
		}
		raw, err := io.ReadAll(io.LimitReader(resp.Body, dns.MaxMsgSize+1))
		if err != nil {
			return nil, err
		}
		return readAnswer(raw, 0, question)
	}
}
