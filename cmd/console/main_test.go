package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"appdefender/wire"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"console": main})
}

// The scripts run the program as a user would.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}

// running is a Console that was started by the command line.
type running struct {
	url, ca, password string
	said              bytes.Buffer // whole once stop has returned
	stop              func() error
}

// start runs "console serve" and reads what it prints.
func start(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	var log bytes.Buffer
	go func() {
		err := (&app{in: strings.NewReader(""), out: w, err: &log}).cli().RunContext(ctx, append([]string{"console", "serve"}, args...))
		w.CloseWithError(io.EOF)
		ended <- err
	}()
	c := &running{}
	read := make(chan struct{})
	c.stop = func() error {
		cancel()
		select {
		case err := <-ended:
			<-read
			return err
		case <-time.After(30 * time.Second):
			return fmt.Errorf("it does not end:\n%s", &log)
		}
	}
	t.Cleanup(cancel)
	lines := bufio.NewScanner(io.TeeReader(r, &c.said))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Console":
			c.url = strings.TrimSuffix(value, "/")
		case "Certificate":
			c.ca, _, _ = strings.Cut(value, ",")
		case "Password":
			c.password = value
		}
		if c.url != "" && (c.password != "" || c.ca != "") {
			break
		}
	}
	go func() {
		defer close(read)
		for lines.Scan() {
		}
	}()
	if c.url == "" {
		t.Fatalf("it did not start: %v", <-ended)
	}
	return c
}

// client trusts the Console's authority, and nothing else.
func (c *running) client(t *testing.T) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	text, err := os.ReadFile(c.ca)
	if err != nil || !pool.AppendCertsFromPEM(text) {
		t.Fatalf("ca.pem: %v", err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func TestServeHTTPS(t *testing.T) {
	dir := t.TempDir()
	args := []string{"--data-dir", dir, "--listen", "127.0.0.1:0", "--san", "console.example.test"}
	c := start(t, args...)
	client := c.client(t)
	if resp, err := http.Get(c.url + "/api/v1/ping"); err == nil {
		t.Errorf("who does not know the authority got %d", resp.StatusCode)
	}
	resp, err := client.Get(c.url + "/api/v1/ping")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.ProtoMajor != 2 {
		t.Errorf("status %d, %s", resp.StatusCode, resp.Proto)
	}
	if err := resp.TLS.PeerCertificates[0].VerifyHostname("console.example.test"); err != nil {
		t.Error(err)
	}
	// A token of the command line is good at once.
	var out bytes.Buffer
	a := &app{out: &out, err: io.Discard}
	if err := a.cli().RunContext(t.Context(), []string{"console", "token", "create", "--data-dir", dir, "t"}); err != nil {
		t.Fatal(err)
	}
	body, _ := json.Marshal(wire.Enrol{Token: strings.TrimSpace(out.String())})
	resp, err = client.Post(c.url+wire.Path+"/enrol", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	var e wire.Enrolled
	if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || e.Instance == "" {
		t.Fatalf("enrolling: %d, %v", resp.StatusCode, err)
	}
	resp.Body.Close()

	// The end does not wait for those who wait, for 55 s.
	waiting := make(chan error, 1)
	asked := make(chan struct{})
	written := sync.OnceFunc(func() { close(asked) }) // it may be written again
	go func() {
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { written() }})
		r, _ := http.NewRequestWithContext(ctx, "GET", c.url+wire.Path+"/"+e.Instance+"/policy?generation=1&wait=55", nil)
		r.Header.Set("Authorization", "Bearer "+e.Credential)
		resp, err := client.Do(r)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusNotModified {
				err = fmt.Errorf("status %d", resp.StatusCode)
			}
		}
		waiting <- err
	}()
	<-asked
	time.Sleep(300 * time.Millisecond) // until it waits; one that is waited for would be cut off, without an answer
	if err := c.stop(); err != nil {
		t.Error(err)
	}
	if err := <-waiting; err != nil {
		t.Errorf("who waited: %v", err)
	}

	// The second start has the same authority and says no password.
	before, _ := os.ReadFile(filepath.Join(dir, "ca.pem"))
	c = start(t, args...)
	after, _ := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if !bytes.Equal(before, after) {
		t.Error("another authority")
	}
	if err := c.stop(); err != nil {
		t.Error(err)
	}
	if strings.Contains(c.said.String(), "Password") {
		t.Errorf("the second start said:\n%s", &c.said)
	}
}

func TestServeHTTP(t *testing.T) {
	c := start(t, "--data-dir", t.TempDir(), "--http", "--listen", "127.0.0.1:0")
	body := fmt.Sprintf(`{"username":"admin","password":%q}`, c.password)
	resp, err := http.Post(c.url+"/api/v1/authenticate", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("the first password: %d", resp.StatusCode)
	}
	if err := c.stop(); err != nil {
		t.Error(err)
	}
}
