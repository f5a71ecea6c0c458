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
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// rule is what the sample task may do: start any program but mkdir, and look
// up no name but gmail.com.
const rule = `{
    "name": "sample-task",
    "collections": [{"name": "sample-task", "containers": ["sample-task"]}],
    "processes": {"effect": "prevent", "blacklist": ["mkdir"], "skipModified": true},
    "dns": {"effect": "prevent", "whitelist": ["gmail.com"]}
}`

// What we ask of the Console.
const (
	authenticatePath = "/api/v1/authenticate"
	policyPath       = "/api/v1/policies/runtime/app-embedded"
	auditsPath       = "/api/v1/audits/runtime/app-embedded"
)

// console is a Console as people and their programs meet it.
type console struct {
	url, user, password string // from its first start
	ca                  string // file with its certificate
	client              *http.Client
	bearer              string
	ended               chan struct{}
}

// startConsole starts the Console on addr. It ends with ctx, or with us; with
// an error too, a Console that is returned is to be waited for.
func startConsole(ctx context.Context, program, addr, dir string) (*console, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(dir + ".log")
	if err != nil {
		r.Close()
		w.Close()
		return nil, err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, program, "serve", "--listen", addr, "--data-dir", dir)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = w, log
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 15 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGTERM}

	c := &console{ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig is about the thread
		defer runtime.UnlockOSThread()
		defer close(c.ended)
		err := cmd.Start()
		w.Close()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		r.Close()
		return nil, fmt.Errorf("starting the Console: %w", err)
	}
	err = c.welcome(r)
	go func() {
		_, _ = io.Copy(io.Discard, r) // or its next word would end it
		r.Close()
	}()
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		return c, fmt.Errorf("starting the Console: %w\n%s", err, bytes.TrimSpace(text))
	}
	return c, nil
}

// welcome reads what the Console says at its first start, the password last.
func (c *console) welcome(r io.Reader) error {
	for in := bufio.NewScanner(r); c.password == ""; {
		if !in.Scan() {
			return errors.New("it does not say how to sign in")
		}
		key, value, _ := strings.Cut(in.Text(), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Console":
			c.url = strings.TrimSuffix(value, "/")
		case "Certificate":
			c.ca, _, _ = strings.Cut(value, ",")
		case "User":
			c.user = value
		case "Password":
			c.password = value
		}
	}
	pem, err := os.ReadFile(c.ca)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	c.client = &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, // and no proxy
	}
	return nil
}

// do sends a request and reads the answer into out, unless that is nil.
func (c *console) do(ctx context.Context, method, path, body string, out any) error {
	err := func() error {
		req, err := http.NewRequestWithContext(ctx, method, c.url+path, strings.NewReader(body))
		if err != nil {
			return err
		}
		if c.bearer != "" {
			req.Header.Set("Authorization", "Bearer "+c.bearer)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := c.client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(answer))
		}
		if out == nil {
			return nil
		}
		return json.Unmarshal(answer, out)
	}()
	if err != nil {
		return fmt.Errorf("asking the Console, %s %s: %w", method, path, err)
	}
	return nil
}

// signIn gets a token for all requests that follow.
func (c *console) signIn(ctx context.Context) error {
	body, err := json.Marshal(map[string]string{"username": c.user, "password": c.password})
	if err != nil {
		return err
	}
	var answer struct {
		Token string `json:"token"`
	}
	if err := c.do(ctx, http.MethodPost, authenticatePath, string(body), &answer); err != nil {
		return err
	}
	c.bearer = answer.Token
	return nil
}

// audits returns all audits that the Console has, oldest first.
func (c *console) audits(ctx context.Context) ([]record, error) {
	var lines []json.RawMessage
	if err := c.do(ctx, http.MethodGet, auditsPath+"?sort=time", "", &lines); err != nil {
		return nil, err
	}
	list := make([]record, len(lines))
	for i, line := range lines {
		list[i].line = line
		if err := json.Unmarshal(line, &list[i]); err != nil {
			return nil, fmt.Errorf("reading an audit of the Console: %q: %w", line, err)
		}
	}
	return list, nil
}

// waitAudits returns the audits when both that the sample task is known for
// have arrived, or those there are after a while.
func (c *console) waitAudits(ctx context.Context) (mkdir, lookup *record, rest []record, err error) {
	for limit := time.Now().Add(15 * time.Second); ; {
		var list []record
		if list, err = c.audits(ctx); err == nil {
			mkdir, lookup, rest = pick(list)
		}
		if mkdir != nil && lookup != nil || time.Now().After(limit) || ctx.Err() != nil {
			return mkdir, lookup, rest, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// startConsole starts the Console, gives it the rule and makes an enrolment token.
func (d *demo) startConsole(ctx context.Context) error {
	d.page.heading("The Console")
	addr := net.JoinHostPort(home, "0")
	if d.world != nil {
		addr = d.world.consoleAddr()
	}
	dir := filepath.Join(d.dir, "console")
	var err error
	if d.console, err = startConsole(ctx, d.bin("console"), addr, dir); err != nil {
		return err
	}
	if d.world != nil {
		go d.world.forward()
	}
	d.page.text("$ bin/console serve --listen %s --data-dir %s", strings.TrimPrefix(d.console.url, "https://"), dir)
	d.signInData()

	d.page.heading("The rule")
	d.page.text("POST %s%s\n%s", d.console.url, policyPath, rule)
	if err := d.console.signIn(ctx); err != nil {
		return err
	}
	if err := d.console.do(ctx, http.MethodPost, policyPath, rule, nil); err != nil {
		return err
	}

	token, err := exec.CommandContext(ctx, d.bin("console"), "token", "create", "--data-dir", dir, taskName).Output()
	if err != nil {
		return fmt.Errorf("making an enrolment token: %w", withStderr(err))
	}
	return os.WriteFile(d.token(), token, 0o600)
}

// signInData says where the pages are, and for whom.
func (d *demo) signInData() {
	c := d.console
	d.page.text("Page:         %s/\nCertificate:  %s (a browser warns until it trusts this)\nUser:         %s\nPassword:     %s",
		c.url, c.ca, c.user, c.password)
}

// withStderr adds to an error what the program said.
func withStderr(err error) error {
	if ended, ok := errors.AsType[*exec.ExitError](err); ok && len(ended.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(ended.Stderr))
	}
	return err
}
