package endtoend

import (
	"bytes"
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
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bin holds the programs under test.
var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "endtoend-")
		if err == nil {
			defer os.RemoveAll(dir)
			bin = dir
			err = errors.Join(os.Chmod(dir, 0o755), build(dir))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

func build(dir string) error {
	for _, b := range []struct{ pkg, cgo, flags string }{
		{"../../cmd/defender", "1", "-s -w -linkmode external -extldflags -static"},
		{"../../cmd/console", "0", "-s -w"},
	} {
		c := exec.Command("go", "build", "-trimpath", "-tags", "netgo,osusergo,urfave_cli_no_docs", "-ldflags", b.flags, "-o", dir+"/", b.pkg)
		c.Env = append(os.Environ(), "CGO_ENABLED="+b.cgo)
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", b.pkg, err, out)
		}
	}
	return nil
}

// text collects what programs say.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *text) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *text) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// process is a program that runs.
type process struct {
	t        *testing.T
	cmd      *exec.Cmd
	out, err text
	ended    chan struct{}
}

// start starts a program, which ends with the test at the latest.
func start(t *testing.T, argv ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(argv[0], argv[1:]...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	p.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=" + t.TempDir()}
	// Nor does it outlive a test that is killed.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	p.cmd.WaitDelay = 10 * time.Second
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig is about the thread
		defer runtime.UnlockOSThread()
		defer close(p.ended)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.signal(syscall.SIGTERM)
		select {
		case <-p.ended:
		case <-time.After(20 * time.Second):
			t.Errorf("%q does not end; it said:\n%s", argv, &p.err)
			p.signal(syscall.SIGKILL)
			<-p.ended
		}
	})
	return p
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// exit waits for the end and returns the exit status.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(2 * time.Minute):
		p.t.Fatalf("%q does not end; it said:\n%s%s", p.cmd.Args, &p.out, &p.err)
	}
	return p.cmd.ProcessState.ExitCode()
}

// await waits for something to come true. How long it may take is generous:
// what is tested is that it happens.
func await(t *testing.T, what string, is func() bool) time.Duration {
	t.Helper()
	begun := time.Now()
	for !is() {
		if time.Since(begun) > 2*time.Minute {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(begun)
}

// server is a Console.
type server struct {
	*process
	dir, url, password string
	flags              []string // besides those that every Console gets
	before             []string // the program that starts it; nil: none does
	pem                []byte   // its authority's certificate
	client             *http.Client
	bearer             string
}

// serve starts a Console with a database of its own.
func serve(t *testing.T, flags ...string) *server {
	t.Helper()
	s := &server{flags: flags, dir: filepath.Join(t.TempDir(), "console"), url: "https://" + freeAddress(t)}
	s.start(t)
	_, rest, ok := strings.Cut(s.out.String(), "Password:")
	if !ok {
		t.Fatalf("it does not say how to sign in: %s", &s.out)
	}
	s.password = strings.Fields(rest)[0]
	roots := x509.NewCertPool()
	var err error
	if s.pem, err = os.ReadFile(s.ca()); err != nil || !roots.AppendCertsFromPEM(s.pem) {
		t.Fatal("no certificate", err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(tr.CloseIdleConnections)
	s.client = &http.Client{Transport: tr, Timeout: time.Minute}
	s.signIn()
	return s
}

func (s *server) ca() string { return filepath.Join(s.dir, "ca.pem") }

// start starts the Console, also one that was killed.
func (s *server) start(t *testing.T) {
	t.Helper()
	argv := append(slices.Clone(s.before), filepath.Join(bin, "console"), "serve", "--listen", strings.TrimPrefix(s.url, "https://"), "--data-dir", s.dir)
	s.process = start(t, append(argv, s.flags...)...)
	await(t, "the Console listens", func() bool {
		if !s.running() {
			t.Fatalf("the Console ended: %s", &s.err)
		}
		return strings.Contains(s.out.String(), "Certificate:") && (s.password != "" || strings.Contains(s.out.String(), "shown only now"))
	})
}

// kill ends the Console as a power failure would.
func (s *server) kill() {
	s.signal(syscall.SIGKILL)
	<-s.ended
}

// freeAddress is one that a Console can have again after it was killed: not of
// those that the kernel gives to anybody.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 20000+rand.N(10000))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("no port is free")
	return ""
}

func (s *server) signIn() {
	s.t.Helper()
	var answer struct{ Token string }
	s.must("POST", "/api/v1/authenticate", map[string]string{"username": "admin", "password": s.password}, &answer)
	s.bearer = answer.Token
}

// do asks the Console and returns the status.
func (s *server) do(method, path string, body, out any) (int, error) {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return 0, err
		}
	}
	r, err := http.NewRequest(method, s.url+path, bytes.NewReader(text))
	if err != nil {
		return 0, err
	}
	if s.bearer != "" {
		r.Header.Set("Authorization", "Bearer "+s.bearer)
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	if err == nil && out != nil {
		err = json.Unmarshal(answer, out)
	}
	return resp.StatusCode, err
}

func (s *server) must(method, path string, body, out any) {
	s.t.Helper()
	if _, err := s.do(method, path, body, out); err != nil {
		s.t.Fatal(err)
	}
}

// token makes an enrolment token and returns the file it is in.
func (s *server) token(name string) string {
	s.t.Helper()
	out, err := exec.Command(filepath.Join(bin, "console"), "token", "create", "--data-dir", s.dir, name).Output()
	if err != nil {
		s.t.Fatal(err)
	}
	path := filepath.Join(s.t.TempDir(), "token")
	if err := os.WriteFile(path, out, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// rule makes what launching a program does, before all other rules.
func (s *server) rule(effect, program string) {
	s.t.Helper()
	rule := map[string]any{"name": "test", "processes": map[string]any{"effect": effect, "deny": []string{program}}}
	if status, err := s.do("PUT", "/api/v1/policy/rules/test", rule, nil); status == http.StatusNotFound {
		s.must("POST", "/api/v1/policy/rules", rule, nil)
	} else if err != nil {
		s.t.Fatal(err)
	}
}

// known is a Defender as the Console has it.
type known struct {
	Instance, AppID, Container, State, Level, PolicyError string
	Generation, Dropped, Acknowledged                     uint64
	Queue                                                 int
}

func (s *server) defenders() []known {
	s.t.Helper()
	var all struct{ Defenders []known }
	s.must("GET", "/api/v1/defenders", nil, &all)
	return all.Defenders
}

// kept is an audit that the Console has.
type kept struct {
	Cursor, Instance string
	Sequence         uint64
	Record           struct {
		Type, Effect, Msg, Command, AppID string
		Count                             int
		Refused                           bool
	}
}

// audits returns all audits that a query selects, oldest first.
func (s *server) audits(query url.Values) []kept {
	s.t.Helper()
	if query == nil {
		query = url.Values{}
	}
	query.Set("limit", "1000")
	query.Set("order", "oldest")
	var all []kept
	for {
		var page struct{ Audits []kept }
		s.must("GET", "/api/v1/audits?"+query.Encode(), nil, &page)
		all = append(all, page.Audits...)
		if len(page.Audits) == 0 {
			return all
		}
		query.Set("after", page.Audits[len(page.Audits)-1].Cursor)
	}
}

// protect starts a target behind a Defender of this Console, which gets each
// audit.
func (s *server) protect(t *testing.T, flags []string, argv ...string) *process {
	t.Helper()
	args := append([]string{
		filepath.Join(bin, "defender"), "run", "--console", s.url, "--ca", s.ca(), "--resolv-conf", "leave", "--audit-log", "none",
		"--wait-for-policy", "1m", "--every-audit",
	}, flags...)
	return start(t, append(append(args, "--"), argv...)...)
}
