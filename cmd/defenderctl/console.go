package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"appdefender/wire"
)

// consoleFlags say which Console to ask, and how.
func consoleFlags() []cli.Flag {
	env := func(name string) []string { return []string{"DEFENDERCTL_" + name} }
	return []cli.Flag{
		&cli.StringFlag{Name: "console", EnvVars: env("CONSOLE"), Usage: "ask the Console at `URL`"},
		&cli.StringFlag{Name: "ca", EnvVars: env("CA"), Usage: "`FILE` with the certificate of the Console's own CA", TakesFile: true},
		&cli.StringFlag{Name: "user", EnvVars: env("USER"), Usage: "sign in as `NAME`, with the password in DEFENDERCTL_PASSWORD or --password-file"},
		&cli.StringFlag{Name: "password-file", EnvVars: env("PASSWORD_FILE"), Usage: "`FILE` with the password", TakesFile: true},
		&cli.StringFlag{Name: "token", EnvVars: env("TOKEN"), Usage: "`TOKEN` of the Console's /api/v1/authenticate; a command line is for all to see: better as DEFENDERCTL_TOKEN"},
	}
}

// consoleClient asks one Console.
type consoleClient struct {
	base *url.URL
	http *http.Client
	auth func(*http.Request)
	hint string // what helps when that is refused
}

// newConsole reads the flags that say how to reach the Console.
func newConsole(c *cli.Context) (*consoleClient, error) {
	base, err := wire.ParseURL(c.String("console"))
	if err != nil {
		return nil, fmt.Errorf("--console: %w", err)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if name := c.String("ca"); name != "" {
		pem, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca: there is no certificate in PEM in %q", name)
		}
	}
	con := &consoleClient{base: base, http: &http.Client{
		Transport: &http.Transport{TLSClientConfig: conf, Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: 30 * time.Second, ForceAttemptHTTP2: true},
		// A redirect would take the password elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	password := os.Getenv("DEFENDERCTL_PASSWORD")
	if name := c.String("password-file"); name != "" {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("--password-file: %w", err)
		}
		password = strings.TrimRight(string(data), "\r\n")
	}
	user, token := c.String("user"), c.String("token")
	switch {
	case token != "":
		con.auth = func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
		con.hint = "; a token is good for an hour, --user and a password for longer"
	case user != "" && password != "":
		con.auth = func(r *http.Request) { r.SetBasicAuth(user, password) }
	case user != "":
		return nil, errors.New("--user: there is no password; set DEFENDERCTL_PASSWORD or give --password-file")
	default:
		return nil, errors.New("the Console wants to know who asks: give --user, or --token")
	}
	return con, nil
}

// get asks for a path of the API. The caller closes the body.
func (con *consoleClient) get(ctx context.Context, path string, q url.Values) (io.ReadCloser, error) {
	u := con.base.JoinPath(path)
	u.RawQuery = q.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	con.auth(r)
	answer, err := con.http.Do(r)
	if err != nil {
		if hint := wire.CertificateHint(err); hint != "" {
			err = fmt.Errorf("%w (%s)", err, hint)
		}
		return nil, fmt.Errorf("asking the Console: %w", err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	hint := ""
	switch {
	case answer.StatusCode == http.StatusUnauthorized:
		hint = con.hint
	case answer.StatusCode >= 300 && answer.StatusCode < 400:
		hint = fmt.Sprintf("; it leads to %q, give that by --console", answer.Header.Get("Location"))
	}
	return nil, &statusError{answer.StatusCode, fmt.Sprintf("the Console answered %s%s%s", answer.Status, apiMessage(said), hint)}
}

// statusError is an answer that is no success.
type statusError struct {
	code int
	msg  string
}

func (e *statusError) Error() string { return e.msg }

func apiMessage(body []byte) string {
	var e struct{ Err, Error, Message string }
	if json.Unmarshal(body, &e) != nil {
		return ""
	}
	for _, s := range []string{e.Err, e.Error, e.Message} {
		if s != "" {
			return ": " + s
		}
	}
	return ""
}

// kept is an audit of the Console.
type kept struct {
	Cursor string          `json:"cursor"`
	Record json.RawMessage `json:"record"`
}

// page is a page of audits, and where the next one begins, or "".
func (con *consoleClient) page(ctx context.Context, f filter, order, cursorKey, cursor string, limit int) ([]kept, string, error) {
	q := f.query()
	q.Set("limit", strconv.Itoa(limit))
	if order != "" {
		q.Set("order", order)
	}
	if cursor != "" {
		q.Set(cursorKey, cursor)
	}
	body, err := con.get(ctx, "/api/v1/audits", q)
	if err != nil {
		return nil, "", err
	}
	defer body.Close()
	var p struct {
		Audits []kept `json:"audits"`
		Next   string `json:"next"`
	}
	if err := json.NewDecoder(body).Decode(&p); err != nil {
		return nil, "", fmt.Errorf("reading what the Console answered: %w; is %q a Console?", err, con.base)
	}
	if len(p.Audits) < limit {
		p.Next = ""
	}
	return p.Audits, p.Next, nil
}

// lines are all records that a filter selects, one a line, the oldest first.
func (con *consoleClient) lines(ctx context.Context, f filter) io.Reader {
	r, w := io.Pipe()
	go func() {
		cursor := ""
		for {
			audits, next, err := con.page(ctx, f, "oldest", "after", cursor, 500)
			for i := range audits {
				if err == nil {
					_, err = w.Write(append(bytes.TrimSpace(audits[i].Record), '\n'))
				}
			}
			if err != nil || next == "" {
				w.CloseWithError(err) // nil is the end of the file
				return
			}
			cursor = next
		}
	}()
	return r
}

// follow calls each for what arrives until ctx ends or each fails. What
// arrives while the line is down is asked for when it is up again.
func (con *consoleClient) follow(ctx context.Context, f filter, cursor string, each func(json.RawMessage) error, trouble func(error)) error {
	seen := map[string]bool{}
	tell := func(a kept) error {
		if seen[a.Cursor] {
			return nil
		}
		if len(seen) > 10000 {
			clear(seen)
		}
		seen[a.Cursor] = true
		if older(cursor, a.Cursor) {
			cursor = a.Cursor
		}
		return each(a.Record)
	}
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		began := time.Now()
		err := con.stream(ctx, f, func() error { // connected: what was missed first
			for cursor != "" {
				audits, next, err := con.page(ctx, f, "oldest", "after", cursor, 500)
				if err != nil {
					return err
				}
				for _, a := range audits {
					if err := tell(a); err != nil {
						return err
					}
				}
				if next == "" {
					break
				}
			}
			return nil
		}, tell, trouble)
		var refused *statusError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errWrite):
			return err
		case errors.As(err, &refused) && refused.code < 500:
			return err
		case err != nil:
			trouble(fmt.Errorf("%w; trying again", err))
		}
		if time.Since(began) > time.Minute {
			pause = time.Second
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// older reports whether cursor a is before b.
func older(a, b string) bool { return len(a) < len(b) || len(a) == len(b) && a < b }

// stream reads one connection of server-sent events.
func (con *consoleClient) stream(ctx context.Context, f filter, connected func() error, tell func(kept) error, trouble func(error)) error {
	body, err := con.get(ctx, "/api/v1/audits/stream", f.query())
	if err != nil {
		return err
	}
	defer body.Close()
	if err := connected(); err != nil {
		return err
	}
	in := bufio.NewReader(body)
	event := ""
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return fmt.Errorf("the Console's stream ended: %w", err)
		}
		key, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ": ")
		switch {
		case key == "event":
			event = value
		case key == "data" && event == "lost":
			trouble(fmt.Errorf("%s audits came too fast and are left out; the Console has them", value))
		case key == "data" && event == "audits":
			var audits []kept
			if err := json.Unmarshal([]byte(value), &audits); err != nil {
				return fmt.Errorf("reading the Console's stream: %w", err)
			}
			for _, a := range audits {
				if err := tell(a); err != nil {
					return err
				}
			}
		}
	}
}
