package endtoend

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"appdefender/wire"
)

// logged is an audit log of a test's Defender.
type logged string

func (l logged) says(t *testing.T, text string) {
	t.Helper()
	await(t, "the Defender says: "+text, func() bool {
		b, err := os.ReadFile(string(l))
		return err == nil && strings.Contains(string(b), text)
	})
}

// says waits for a line of the Console's log that has all the parts.
func (s *server) says(t *testing.T, parts ...string) {
	t.Helper()
	await(t, "the Console says: "+strings.Join(parts, " … "), func() bool {
	lines:
		for line := range strings.Lines(s.err.String()) {
			for _, p := range parts {
				if !strings.Contains(line, p) {
					continue lines
				}
			}
			return true
		}
		return false
	})
}

// defender starts a target that waits, behind a Defender whose audit log is
// looked at.
func (s *server) defender(t *testing.T, console, ca, token string) (*process, logged) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "audit.log")
	return start(t, filepath.Join(bin, "defender"), "run", "--console", console, "--ca", ca, "--token-file", token,
		"--resolv-conf", "leave", "--audit-log", log, "--", "sh", "-c", loop, t.TempDir()), logged(log)
}

// loop makes directories, one after the other, and says what became of each.
const loop = `i=0
while [ $i -lt 600 ]; do
	i=$((i+1))
	if mkdir "$0/d$i" 2>/dev/null; then echo "d$i made"; else echo "d$i refused"; fi
	sleep 0.2
done`

// last is the last word of a loop.
func last(p *process) string {
	words := strings.Fields(p.out.String())
	if len(words) == 0 {
		return ""
	}
	return words[len(words)-1]
}

// Whoever is refused hears of it, and so does whoever reads the Console's log.
// A target does not suffer by any of it.
func TestRefusals(t *testing.T) {
	s := serve(t)
	good := s.token("good")
	running := func(t *testing.T, p *process) {
		t.Helper()
		await(t, "the target runs", func() bool { return last(p) == "made" })
	}

	t.Run("a wrong token", func(t *testing.T) {
		bad := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(bad, []byte("enrol-wrong"), 0o600); err != nil {
			t.Fatal(err)
		}
		p, log := s.defender(t, s.url, s.ca(), bad)
		log.says(t, "the Console refused the token")
		s.says(t, "status=401", wire.Path+"/enrol", "unknown, expired or used up")
		running(t, p)
	})

	t.Run("a wrong CA", func(t *testing.T) {
		p, log := s.defender(t, s.url, serve(t).ca(), good)
		log.says(t, "is --ca the certificate of the Console's own CA")
		s.says(t, "TLS handshake error")
		running(t, p)
	})

	t.Run("a revoked Defender", func(t *testing.T) {
		p, log := s.defender(t, s.url, s.ca(), good)
		await(t, "it enrols", func() bool { return len(s.defenders()) == 1 })
		id := s.defenders()[0].Instance
		s.must("POST", wire.Path+"/"+id+"/revoke", nil, nil)
		log.says(t, "the Console revoked this Defender")
		s.says(t, "status=403", wire.Path+"/"+id, "this Defender is revoked")
		running(t, p)

		// With another credential it is nobody.
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+wire.Path+"/"+id+"/heartbeat", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer wrong")
		resp, err := s.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("a wrong credential of a revoked Defender: %s", resp.Status)
		}
		s.says(t, "status=401", wire.Path+"/"+id+"/heartbeat", "unknown Defender or wrong credential")
	})

	t.Run("a reader who changes", func(t *testing.T) {
		s.must("POST", "/api/v1/users", map[string]string{"name": "reader", "role": "auditor", "password": "correct horse"}, nil)
		admin := s.bearer
		defer func() { s.bearer = admin }()
		var answer struct{ Token string }
		s.must("POST", "/api/v1/authenticate", map[string]string{"username": "reader", "password": "correct horse"}, &answer)
		s.bearer = answer.Token
		if status, err := s.do("POST", "/api/v1/policy/rules", map[string]string{"name": "x"}, nil); status != http.StatusForbidden {
			t.Errorf("status %d, %v", status, err)
		}
		s.says(t, "status=403", "path=/api/v1/policy/rules", "who=reader", "needs the role editor")
	})
}

// between stands between a Defender and the Console and changes policies on
// the way.
type between struct {
	*httptest.Server
	change atomic.Pointer[func(wire.SignedPolicy) wire.SignedPolicy]
}

func newBetween(t *testing.T, s *server) *between {
	t.Helper()
	target, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	b := &between{}
	b.Server = httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: s.client.Transport,
		ErrorLog:  log.New(io.Discard, "", 0),
		ModifyResponse: func(r *http.Response) error {
			change := b.change.Load()
			if change == nil || !strings.HasSuffix(r.Request.URL.Path, "/policy") || r.StatusCode != http.StatusOK {
				return nil
			}
			var p wire.SignedPolicy
			if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
				return err
			}
			text, err := json.Marshal((*change)(p))
			r.Body = io.NopCloser(bytes.NewReader(text))
			r.ContentLength = int64(len(text))
			r.Header.Set("Content-Length", strconv.Itoa(len(text)))
			return err
		},
	})
	b.Config.ErrorLog = log.New(io.Discard, "", 0)
	b.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	b.StartTLS()
	t.Cleanup(b.Close)
	t.Cleanup(b.CloseClientConnections) // before, for who waits for a policy
	return b
}

// Whoever has the line may keep a policy back, but neither change it nor bring
// an old one again.
func TestPolicyTamperedWith(t *testing.T) {
	s := serve(t)
	b := newBetween(t, s)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	set := func(change func(wire.SignedPolicy) wire.SignedPolicy) { b.change.Store(&change) }

	var first atomic.Pointer[wire.SignedPolicy] // allows mkdir
	set(func(p wire.SignedPolicy) wire.SignedPolicy { first.CompareAndSwap(nil, &p); return p })
	p, log := s.defender(t, b.URL, ca, s.token("t"))
	await(t, "the first policy holds", func() bool { return first.Load() != nil && last(p) == "made" })
	s.rule("prevent", "mkdir")
	await(t, "mkdir is refused", func() bool { return last(p) == "refused" })

	reported := func(text string) {
		t.Helper()
		log.says(t, text)
		await(t, "the Console knows", func() bool { return strings.Contains(s.defenders()[0].PolicyError, text) })
		if last(p) != "refused" {
			t.Error("mkdir passes")
		}
	}
	set(func(p wire.SignedPolicy) wire.SignedPolicy {
		p.Policy = strings.ReplaceAll(p.Policy, `"mkdir"`, `"mkdirs"`)
		return p
	})
	s.rule("block", "mkdir")
	reported("the policy's signature is wrong")
	set(func(p wire.SignedPolicy) wire.SignedPolicy {
		_, key, _ := ed25519.GenerateKey(rand.Reader)
		return wire.Sign(key, p.Generation+1, p.Policy)
	})
	s.rule("prevent", "mkdir")
	reported("the policy's signature is wrong")
	set(func(wire.SignedPolicy) wire.SignedPolicy { return *first.Load() })
	s.rule("block", "mkdir")
	reported("is older than")

	b.change.Store(nil)
	s.rule("alert", "mkdir")
	await(t, "the true policy holds", func() bool { return last(p) == "made" && s.defenders()[0].PolicyError == "" })
}
