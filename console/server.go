// Package console is the server that Defenders get their policy from and send
// their audits to, and that people look at.
//
// [New] makes a [Server], which is an http.Handler. What it answers is one
// table of [Route]s; one wrapper around all of them knows who asks, whether
// they may, what the client may read of an error and what the log keeps. The
// pages of package web are added with [Server.Add].
//
// The newest policy is held in memory, signed and encoded: a thousand
// Defenders that wait for it are woken by closing one channel. A change is
// first on the disk and then in memory, under Server.changing.
package console

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"appdefender/console/store"
	"appdefender/wire"
)

// Config says how a Server works.
type Config struct {
	// Store is the memory. The caller closes it after the Server's use.
	Store *store.Store
	// Log is where requests that were refused or went wrong are told; nil is
	// nowhere.
	Log *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// PlainHTTP means that there is no TLS in front of the Server, so that
	// cookies must do without it.
	PlainHTTP bool
	// Heartbeat is how often Defenders are asked to report; 0 means every 20
	// seconds.
	Heartbeat time.Duration
	// Embed is what definitions are embedded with.
	Embed EmbedConfig
	// Keep bounds what is kept. [Server.Tend] sees to it.
	Keep store.Limits
}

// Server is the Console. Create one with [New].
type Server struct {
	store     *store.Store
	log       *slog.Logger
	now       func() time.Time
	plain     bool
	heartbeat time.Duration
	keep      store.Limits
	embedding EmbedConfig
	overtaken overtaken
	key       ed25519.PrivateKey // signs policies
	zstd      *zstd.Decoder
	mux       *http.ServeMux
	crossSite *http.CrossOriginProtection
	throttle  *throttle
	basic     basicCache
	feed      feed
	forensics wanted

	changing sync.Mutex // held while the policy changes
	mu       sync.Mutex // protects what follows
	current  *current

	stop     chan struct{}
	stopOnce sync.Once

	// ErrorPage renders an error for a route that is a page; nil renders it as
	// text. Set it before the first request.
	ErrorPage func(w http.ResponseWriter, r *http.Request, status int, msg string)
}

// New returns a Server over a store. On the first use of the store it makes
// the key that signs policies, and the first policy.
func New(ctx context.Context, conf Config) (*Server, error) {
	if conf.Log == nil {
		conf.Log = slog.New(slog.DiscardHandler)
	}
	if conf.Now == nil {
		conf.Now = time.Now
	}
	if conf.Heartbeat == 0 {
		conf.Heartbeat = 20 * time.Second
	}
	s := &Server{
		store:     conf.Store,
		log:       conf.Log,
		now:       conf.Now,
		plain:     conf.PlainHTTP,
		heartbeat: conf.Heartbeat,
		keep:      conf.Keep,
		embedding: conf.Embed,
		mux:       http.NewServeMux(),
		crossSite: http.NewCrossOriginProtection(),
		throttle:  newThrottle(conf.Now),
		stop:      make(chan struct{}),
	}
	seed, err := s.store.Setting(ctx, "policy-key", func() ([]byte, error) {
		seed := make([]byte, ed25519.SeedSize)
		_, err := io.ReadFull(rand.Reader, seed)
		return seed, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the policy key: %w", err)
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("reading the policy key: it has %d bytes, not %d", len(seed), ed25519.SeedSize)
	}
	s.key = ed25519.NewKeyFromSeed(seed)
	s.zstd, err = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(wire.MaxBatchBytes), zstd.WithDecoderConcurrency(0))
	if err != nil {
		return nil, fmt.Errorf("preparing zstd: %w", err)
	}
	if err := s.loadPolicy(ctx); err != nil {
		return nil, err
	}
	s.Add(s.routes()...)
	return s, nil
}

// Stop ends the requests that wait: long polls and live streams. It is for
// http.Server.RegisterOnShutdown and may be called twice.
func (s *Server) Stop() { s.stopOnce.Do(func() { close(s.stop) }) }

// Store returns the Server's memory. Policies are changed by
// [Server.ChangePolicy] and Defenders revoked by [Server.Revoke] only, so that
// those who wait hear of it.
func (s *Server) Store() *store.Store { return s.store }

// Now returns the time.
func (s *Server) Now() time.Time { return s.now() }

// PolicyKey is what Defenders pin.
func (s *Server) PolicyKey() ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.setHeaders(w.Header())
	s.mux.ServeHTTP(w, r)
}

// setHeaders tells a browser how little our pages need. Everything they load
// comes from us, and nothing of it is inline.
//
// There is no Strict-Transport-Security: it would hold for every port of the
// host, and a Console often shares one, such as localhost.
func (s *Server) setHeaders(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "+
		"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin") // with none, browsers hide the Origin we check
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("Cache-Control", "no-store")
}

// Handler answers a request or says what went wrong; then it has written
// nothing.
type Handler func(w http.ResponseWriter, r *http.Request) error

// Anybody is the role of a [Route] that needs no signing in.
const Anybody store.Role = "anybody"

// Route is a line of the table of what the Server answers.
type Route struct {
	// Pattern is "METHOD /path", as http.ServeMux has it.
	Pattern string
	// Role is who may; without one Add panics.
	Role    store.Role
	Handler Handler
	// MaxBody bounds the request's body, in bytes; 0 means 1 MiB.
	MaxBody int64
	// Page means that people see it in a browser: errors are pages, and who is
	// not signed in is sent to [SignInPath].
	Page bool

	// own means that the handler itself finds out who asks: a Defender's
	// credential is no session.
	own bool
}

// SignInPath is the page to sign in; "next" says where to go then.
const SignInPath = "/signin"

const defaultMaxBody = 1 << 20

// Add adds routes. It must be called before the first request.
func (s *Server) Add(routes ...Route) {
	for _, route := range routes {
		if route.Role == "" || route.Role != Anybody && !store.Admin.May(route.Role) {
			panic(fmt.Sprintf("route %q has the role %q", route.Pattern, route.Role))
		}
		s.mux.Handle(route.Pattern, s.wrap(route))
	}
}

// bodyTime is how long a client may take to send a body, and answerTime how
// long to take an answer. Those who wait or stream set their own.
const (
	bodyTime   = 30 * time.Second
	answerTime = 60 * time.Second
)

// wrap is the one place that writes an error's status and log line.
func (s *Server) wrap(route Route) http.Handler {
	if route.MaxBody == 0 {
		route.MaxBody = defaultMaxBody
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if r.ContentLength != 0 {
			_ = rc.SetReadDeadline(time.Now().Add(bodyTime))
		}
		_ = rc.SetWriteDeadline(time.Now().Add(answerTime))
		r.Body = http.MaxBytesReader(w, r.Body, route.MaxBody)
		sw := &statusWriter{ResponseWriter: w}
		r, err := s.admit(r, route)
		if err == nil {
			err = route.Handler(sw, r)
		}
		if err != nil {
			s.fail(sw, r, route, err)
		}
	})
}

// statusWriter notes whether an answer has begun.
type statusWriter struct {
	http.ResponseWriter
	begun bool
}

func (w *statusWriter) WriteHeader(status int) {
	w.begun = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	w.begun = true
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

var errStopping = errors.New("the Console is stopping")
