package console

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"appdefender/console/store"
)

// How long people stay signed in: a browser, and an API token.
const (
	cookieLife = 12 * time.Hour
	cookieIdle = time.Hour
	bearerLife = time.Hour
)

type sessionKey struct{}

// SessionOf returns who asks, or nil if the route is open and nobody signed
// in.
func SessionOf(r *http.Request) *store.Session {
	ses, _ := r.Context().Value(sessionKey{}).(*store.Session)
	return ses
}

// Who is the name of who asks, for the list of changes.
func Who(r *http.Request) string {
	if ses := SessionOf(r); ses != nil {
		return ses.User.Name
	}
	return "nobody"
}

// admit finds out who asks and whether they may. It returns the request with
// the session.
func (s *Server) admit(r *http.Request, route Route) (*http.Request, error) {
	if route.own {
		return r, nil
	}
	ses, err := s.authenticate(r)
	switch {
	case ses != nil:
		r = r.WithContext(context.WithValue(r.Context(), sessionKey{}, ses))
	case route.Role == Anybody:
		// Another site must not sign a browser in, either.
		return r, s.sameSite(r, false)
	case err == nil:
		return r, Errorf(http.StatusUnauthorized, "sign in first")
	default:
		return r, err
	}
	if ses.Kind == store.Cookie {
		if err := s.sameSite(r, true); err != nil {
			return r, err
		}
	}
	if route.Role != Anybody && !ses.User.Role.May(route.Role) {
		return r, Errorf(http.StatusForbidden, "this needs the role %s; %s has %s", route.Role, ses.User.Name, ses.User.Role)
	}
	return r, nil
}

// sameSite refuses a request that a page of another site made a browser send.
// A browser says where a request that changes something comes from; with a
// cookie, who does not say is refused.
func (s *Server) sameSite(r *http.Request, cookie bool) error {
	if err := s.crossSite.Check(r); err != nil {
		return &Error{Status: http.StatusForbidden, Msg: "this request comes from a page of another site", Err: err}
	}
	safe := r.Method == http.MethodGet || r.Method == http.MethodHead
	if cookie && !safe && r.Header.Get("Origin") == "" && r.Header.Get("Sec-Fetch-Site") == "" {
		return Errorf(http.StatusForbidden, "a request with a cookie needs the header Origin; programs use a bearer token")
	}
	return nil
}

// authenticate returns the session of a request, nil if it claims none.
func (s *Server) authenticate(r *http.Request) (*store.Session, error) {
	if h := r.Header.Get("Authorization"); h != "" {
		if token, ok := bearer(h); ok {
			return s.session(r.Context(), token, store.Bearer, bearerLife)
		}
		if name, password, ok := r.BasicAuth(); ok {
			u, err := s.checkBasic(r, name, password)
			if err != nil {
				return nil, err
			}
			return &store.Session{User: u, Kind: store.Bearer}, nil
		}
		return nil, Errorf(http.StatusUnauthorized, "the header Authorization is neither Bearer nor Basic")
	}
	c, err := r.Cookie(s.cookieName())
	if err != nil {
		return nil, nil
	}
	return s.session(r.Context(), c.Value, store.Cookie, cookieIdle)
}

func bearer(header string) (token string, ok bool) {
	scheme, token, ok := strings.Cut(header, " ")
	return strings.TrimSpace(token), ok && strings.EqualFold(scheme, "Bearer")
}

func (s *Server) session(ctx context.Context, secret string, kind store.SessionKind, idle time.Duration) (*store.Session, error) {
	ses, err := s.store.Session(ctx, secret, kind, idle)
	if errors.Is(err, store.ErrNotFound) {
		return nil, &Error{Status: http.StatusUnauthorized, Msg: "the session has ended; sign in again", Err: err}
	}
	if err != nil {
		return nil, err
	}
	return &ses, nil
}

// cookieName has a prefix that keeps a cookie with this name from being set
// by another host or without TLS.
func (s *Server) cookieName() string {
	if s.plain {
		return "session"
	}
	return "__Host-session"
}

func (s *Server) cookie(value string) *http.Cookie {
	return &http.Cookie{Name: s.cookieName(), Value: value, Path: "/", HttpOnly: true, Secure: !s.plain, SameSite: http.SameSiteStrictMode}
}

// SignIn checks a name and password and gives the browser a session. The
// error can be shown.
func (s *Server) SignIn(w http.ResponseWriter, r *http.Request, name, password string) (store.User, error) {
	u, secret, err := s.signIn(r, name, password, store.Cookie, cookieLife)
	if err != nil {
		return store.User{}, err
	}
	if c, err := r.Cookie(s.cookieName()); err == nil {
		if err := s.store.DeleteSession(r.Context(), c.Value); err != nil { // the old one
			return store.User{}, err
		}
	}
	http.SetCookie(w, s.cookie(secret))
	return u, nil
}

// SignOut ends the browser's session.
func (s *Server) SignOut(w http.ResponseWriter, r *http.Request) error {
	if c, err := r.Cookie(s.cookieName()); err == nil {
		if err := s.store.DeleteSession(r.Context(), c.Value); err != nil {
			return err
		}
	}
	gone := s.cookie("")
	gone.MaxAge = -1
	http.SetCookie(w, gone)
	return nil
}

// signInAndBack is the path of the page to sign in, which leads back here.
func signInAndBack(r *http.Request) string {
	return SignInPath + "?" + url.Values{"next": {r.URL.RequestURI()}}.Encode()
}

// NextPath returns the path that a page to sign in should lead to: "next" of
// the request if it is one of ours, "/" otherwise.
func NextPath(r *http.Request) string {
	next := r.FormValue("next")
	u, err := url.Parse(next)
	if err != nil || !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\t\r\n") ||
		u.Host != "" || u.Scheme != "" || u.Path == SignInPath {
		return "/"
	}
	return next
}

func (s *Server) signIn(r *http.Request, name, password string, kind store.SessionKind, life time.Duration) (store.User, string, error) {
	u, err := s.checkPassword(r, name, password)
	if err != nil {
		return store.User{}, "", err
	}
	secret, err := s.store.AddSession(r.Context(), u, kind, life)
	return u, secret, err
}

// checkPassword checks a password unless too many were wrong lately.
func (s *Server) checkPassword(r *http.Request, name, password string) (store.User, error) {
	keys := loginKeys(clientAddr(r), name)
	if wait := s.throttle.begin(keys); wait > 0 {
		return store.User{}, &Error{Status: http.StatusTooManyRequests, Msg: "too many wrong passwords; try again later", RetryAfter: wait,
			Err: errors.New("user " + name)}
	}
	u, err := s.store.CheckPassword(r.Context(), name, password)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return store.User{}, &Error{Status: http.StatusUnauthorized, Msg: "wrong name or password", Err: err}
	case err != nil:
		return store.User{}, err
	}
	s.throttle.succeeded(keys)
	return u, nil
}

// clientAddr is who asks, as far as throttling goes: an IPv6 host has a whole
// /64.
func clientAddr(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

// basicCache remembers for a minute that a name and password were right:
// programs send them with every request, and checking takes long on purpose.
type basicCache struct {
	mu      sync.Mutex
	key     []byte
	entries map[[sha256.Size]byte]basicEntry
}

type basicEntry struct {
	until   time.Time
	changed time.Time // the password
}

const maxBasic = 1024

func (c *basicCache) sum(name, password string) (sum [sha256.Size]byte) {
	c.mu.Lock()
	if c.key == nil {
		c.key = make([]byte, 32)
		rand.Read(c.key)
		c.entries = make(map[[sha256.Size]byte]basicEntry)
	}
	c.mu.Unlock()
	h := hmac.New(sha256.New, c.key)
	h.Write([]byte(name + "\x00" + password))
	h.Sum(sum[:0])
	return sum
}

func (s *Server) checkBasic(r *http.Request, name, password string) (store.User, error) {
	c, now := &s.basic, s.now()
	sum := c.sum(name, password)
	c.mu.Lock()
	e, ok := c.entries[sum]
	c.mu.Unlock()
	if ok && now.Before(e.until) {
		u, err := s.store.User(r.Context(), name)
		if err == nil && u.PasswordChanged.Equal(e.changed) {
			return u, nil
		}
	}
	u, err := s.checkPassword(r, name, password)
	if err != nil {
		return u, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries) >= maxBasic {
		clear(c.entries)
	}
	c.entries[sum] = basicEntry{now.Add(time.Minute), u.PasswordChanged}
	return u, nil
}
