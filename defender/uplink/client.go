package uplink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"appdefender/wire"
)

const (
	// attemptTimeout bounds one attempt at a request that is answered at once.
	attemptTimeout = 20 * time.Second
	// quickRetries follow a failure at once. After them the loops take over,
	// with longer pauses and with what is new since.
	quickRetries = 2
	// maxAnswer bounds an answer that is no policy.
	maxAnswer = 64 << 10
	// maxPolicyAnswer has room for the escapes of JSON in JSON.
	maxPolicyAnswer = 2*wire.MaxPolicy + maxAnswer
)

var (
	// errUnknown means that the Console does not know us: enrol again.
	errUnknown = errors.New("the Console does not know this Defender")
	// errRevoked means that the Console knows us and wants nothing of us.
	errRevoked = errors.New("revoked")
	// errNoToken means that there is nothing to enrol with.
	errNoToken = errors.New("this Defender is not enrolled and has no token (give one with --token)")
	// errRefused is why Flush does not wait.
	errRefused = errors.New("the Console refuses this Defender")
)

// statusError is an answer that is no success.
type statusError struct {
	code    int
	message string // the Console's own
}

func (e *statusError) Error() string {
	s := "the Console answered " + strings.TrimSpace(fmt.Sprintf("%d %s", e.code, http.StatusText(e.code)))
	if e.message != "" {
		s += ": " + e.message
	}
	if e.code >= 300 && e.code < 400 {
		s += " (redirects are not followed)"
	}
	return s
}

func (e *statusError) Is(target error) bool {
	return e.code == http.StatusUnauthorized && target == errUnknown ||
		e.code == http.StatusForbidden && target == errRevoked
}

// reachError is no answer at all.
type reachError struct {
	url string
	err error
}

func (e *reachError) Error() string {
	s := fmt.Sprintf("reaching the Console at %q: %v", e.url, e.err)
	if hint := wire.CertificateHint(e.err); hint != "" {
		s += " (" + hint + ")"
	}
	return s
}

func (e *reachError) Unwrap() error { return e.err }

func (e *reachError) kind() string {
	if wire.CertificateHint(e.err) != "" {
		return "certificate"
	}
	return "unreachable"
}

// client speaks HTTP with one Console.
type client struct {
	base        *url.URL
	transport   *http.Transport
	quick, slow *retryablehttp.Client // for answers at once, and for long polls
	reached     func(error)           // nil if there was an answer
}

func newClient(cfg *Config) (*client, error) {
	base, err := wire.ParseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	tlsConf := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CA != nil {
		tlsConf.RootCAs = x509.NewCertPool()
		if !tlsConf.RootCAs.AppendCertsFromPEM(cfg.CA) {
			return nil, errors.New("reading the Console's CA: there is no certificate in PEM")
		}
	}
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	}
	c := &client{base: base, transport: &http.Transport{
		Proxy:                 nil,
		DialContext:           dial,
		TLSClientConfig:       tlsConf,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: wire.MaxWait + attemptTimeout,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   2,
		ForceAttemptHTTP2:     true,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
	}}
	c.quick = c.retrying(attemptTimeout)
	c.slow = c.retrying(wire.MaxWait + attemptTimeout)
	return c, nil
}

// retrying returns a client that takes so long for one attempt at most.
func (c *client) retrying(timeout time.Duration) *retryablehttp.Client {
	return &retryablehttp.Client{
		HTTPClient: &http.Client{
			Transport:     c.transport,
			Timeout:       timeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		Logger:       nil, // silent: standard error is the target's
		RetryMax:     quickRetries,
		RetryWaitMin: 200 * time.Millisecond,
		RetryWaitMax: 10 * time.Second,
		CheckRetry:   checkRetry,
		Backoff:      backoff,
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
}

func checkRetry(ctx context.Context, resp *http.Response, err error) (bool, error) {
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil:
		var cert *tls.CertificateVerificationError
		return !errors.As(err, &cert), nil
	}
	return resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= http.StatusInternalServerError, nil
}

// backoff doubles, at random, unless the Console asks for more.
func backoff(least, most time.Duration, attempt int, resp *http.Response) time.Duration {
	d := min(least<<attempt, most)
	if resp != nil {
		if s, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16); err == nil {
			d = max(d, min(time.Duration(s)*time.Second, most)) //nolint:gosec // bounded
		}
	}
	return d/2 + rand.N(d/2+1)
}

func (c *client) close() { c.transport.CloseIdleConnections() }

// request is one question to the Console.
type request struct {
	method     string
	path       []string // after wire.Path
	query      url.Values
	credential string
	body       []byte
	zstd       bool // how body is encoded
	poll       bool // the answer may take wire.MaxWait and be a policy
}

// call asks and decodes the answer into out. It reports false if the answer is
// that nothing changed.
func (c *client) call(ctx context.Context, r request, out any) (bool, error) {
	target := c.base.JoinPath(append([]string{wire.Path}, r.path...)...)
	target.RawQuery = r.query.Encode()
	var body any
	if r.body != nil {
		body = r.body
	}
	req, err := retryablehttp.NewRequestWithContext(ctx, r.method, target.String(), body)
	if err != nil {
		return false, err
	}
	req.Header.Set("User-Agent", "appdefender")
	req.Header.Set("Accept", "application/json")
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.zstd {
		req.Header.Set("Content-Encoding", "zstd")
	}
	if r.credential != "" {
		req.Header.Set("Authorization", "Bearer "+r.credential)
	}
	do, limit := c.quick.Do, int64(maxAnswer)
	if r.poll {
		do, limit = c.slow.Do, maxPolicyAnswer
	}
	resp, err := do(req)
	var answer []byte
	if resp != nil {
		defer resp.Body.Close()
	}
	if err == nil {
		if answer, err = io.ReadAll(io.LimitReader(resp.Body, limit+1)); err == nil && int64(len(answer)) > limit {
			err = fmt.Errorf("its answer is longer than %d bytes", limit)
		}
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		var with *url.Error // names the path, which means nothing to people
		if errors.As(err, &with) {
			err = with.Err
		}
		err = &reachError{c.base.String(), err}
		c.reached(err)
		return false, err
	}
	c.reached(nil)
	switch {
	case resp.StatusCode == http.StatusNotModified:
		return false, nil
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		if err := json.Unmarshal(answer, out); err != nil {
			return false, fmt.Errorf("reading the Console's answer: %w", err)
		}
		return true, nil
	}
	var why wire.Error
	_ = json.Unmarshal(answer, &why) // a proxy in between answers something else
	if len(why.Message) > 500 {
		why.Message = why.Message[:500] + "…"
	}
	return false, &statusError{resp.StatusCode, why.Message}
}
