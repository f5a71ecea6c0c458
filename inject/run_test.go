package inject_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"appdefender/inject"
	"appdefender/internal/runner"
)

// The images of these tests.
const (
	seedImage     = "matthewabq/twistlock-fargate-auto"
	seedContainer = "twistlock-fargate-task"
	defenderImage = "registry.example.com/defender:1.0"
	tokenSecret   = "arn:aws:secretsmanager:us-east-1:111122223333:secret:defender"
)

// seedRoot makes the root of the seed's image: a shell and entry.sh in PATH.
func seedRoot(t *testing.T, script string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs busybox-static")
	}
	root := t.TempDir()
	for name, data := range map[string][]byte{"bin/busybox": busybox, "usr/local/bin/entry.sh": []byte("#!/bin/sh\n" + script)} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, applet := range []string{"sh", "mkdir", "sleep", "env", "touch"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// sidecarRoot makes the root of the defender's image: a program and nothing.
func sidecarRoot(t *testing.T, program string) string {
	t.Helper()
	root := t.TempDir()
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "defender"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, inject.Dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(root, inject.Dir), 65532, 65532); err != nil {
		t.Fatal(err)
	}
	return root
}

// build compiles a program that needs no libraries.
func build(t *testing.T, pkg string, cgo bool) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	args := []string{"build", "-trimpath", "-o", out}
	env := "CGO_ENABLED=0"
	if cgo {
		args = append(args, "-tags", "netgo,osusergo,urfave_cli_no_docs", "-ldflags", "-s -w -linkmode external -extldflags -static")
		env = "CGO_ENABLED=1"
	}
	cmd := exec.Command("go", append(args, pkg)...)
	cmd.Env = append(os.Environ(), env)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, text)
	}
	return out
}

// lines collects what several goroutines write.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *lines) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *lines) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// start runs a definition and returns what the application says, and its end.
func start(t *testing.T, definition []byte, images map[string]runner.Image) (*runner.Task, *lines, func() *runner.Result) {
	t.Helper()
	d, err := runner.Parse(definition)
	if err != nil {
		t.Fatal(err)
	}
	said := new(lines)
	task, err := runner.New(d, runner.Config{
		Engine: &runner.Local{ResolvConf: "nameserver 127.0.0.1\n"}, Images: images, Log: t.Logf,
		Secrets: map[string]string{tokenSecret: "t0k3n"},
		Output:  func(string) (io.Writer, io.Writer) { return said, said },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	type end struct {
		res *runner.Result
		err error
	}
	ended := make(chan end, 1)
	go func() {
		res, err := task.Run(ctx)
		ended <- end{res, err}
	}()
	return task, said, func() *runner.Result {
		e := <-ended
		if e.err != nil {
			t.Fatalf("%v; said:\n%s", e.err, said)
		}
		return e.res
	}
}

func seed(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/seed.json")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func ca(t *testing.T) []byte {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// The seed starts as it did, with the program of the sidecar in front.
func TestRunSeed(t *testing.T) {
	root := seedRoot(t, "echo entry: process $$, arguments $#\nmkdir test && echo made it\nexit 42\n")
	images := map[string]runner.Image{
		seedImage:     {Root: root},
		defenderImage: {Root: sidecarRoot(t, build(t, "./testdata/stub", false)), Volumes: []string{inject.Dir}, User: "65532"},
	}
	_, said, wait := start(t, seed(t), images)
	if res := wait(); res.Exit[seedContainer] != 42 || said.String() != "entry: process 1, arguments 0\nmade it\n" {
		t.Fatalf("unprotected: %+v, said:\n%s", res, said)
	}

	cert := ca(t)
	protected, rep, err := inject.Embed(inject.TaskDefinition, seed(t), inject.Options{
		DefenderImage: defenderImage, Console: "https://console.example.com:8083", TokenSecret: tokenSecret, CA: cert,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, said, wait = start(t, protected, images)
	res := wait()
	if res.Exit[seedContainer] != 42 || res.Exit[inject.Sidecar] != 0 {
		t.Errorf("protected: %+v", res)
	}
	for _, want := range []string{
		"stub: process 1\n",
		"stub: DEFENDER_CONSOLE=https://console.example.com:8083\n",
		"stub: DEFENDER_TOKEN=t0k3n\n",
		"stub: DEFENDER_APP_ID=" + rep.AppID + "\n",
		"stub: DEFENDER_CONTAINER=" + seedContainer + "\n",
		"stub: DEFENDER_IMAGE=" + seedImage + "\n",
		fmt.Sprintf("stub: the CA has %d bytes\n", len(cert)),
		"entry: process 1, arguments 0\nmade it\n",
	} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, said)
		}
	}
}

// Without the program nothing of the application starts.
func TestRunWithoutSidecar(t *testing.T) {
	images := map[string]runner.Image{
		seedImage:     {Root: seedRoot(t, "echo started\n")},
		defenderImage: {Root: sidecarRoot(t, "/bin/false"), Volumes: []string{inject.Dir}},
	}
	protected, _, err := inject.Embed(inject.TaskDefinition, seed(t), inject.Options{DefenderImage: defenderImage, Policy: []byte("version: 1\n")})
	if err != nil {
		t.Fatal(err)
	}
	d, err := runner.Parse(protected)
	if err != nil {
		t.Fatal(err)
	}
	said := new(lines)
	task, err := runner.New(d, runner.Config{
		Engine: new(runner.Local), Images: images,
		Output: func(string) (io.Writer, io.Writer) { return said, said },
	})
	if err != nil {
		t.Fatal(err)
	}
	if res, err := task.Run(context.Background()); err == nil && len(res.Exit) > 1 || strings.Contains(said.String(), "started") {
		t.Errorf("%+v, %v, said %s", res, err, said)
	}
}

// The real program, with a policy and no Console: the seed's mkdir is refused.
func TestRunDefender(t *testing.T) {
	root := seedRoot(t, "/bin/mkdir test && echo made it\necho waiting\nwhile [ ! -e /stop ]; do sleep 0.05; done\nexit 42\n")
	program := build(t, "../cmd/defender", true)
	if text, err := exec.Command(program, "install", t.TempDir()).CombinedOutput(); err != nil {
		t.Skipf("this defender cannot install itself: %s", text)
	}
	images := map[string]runner.Image{
		seedImage:     {Root: root},
		defenderImage: {Root: sidecarRoot(t, program), Volumes: []string{inject.Dir}, User: "65532"},
	}
	protected, _, err := inject.Embed(inject.TaskDefinition, seed(t), inject.Options{
		DefenderImage: defenderImage,
		Policy:        []byte("version: 1\nrules: [{name: seed, scope: {containers: [" + seedContainer + "]}, processes: {effect: prevent, deny: [mkdir]}}]\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	task, said, wait := start(t, protected, images)
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(said.String(), "waiting\n"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("said:\n%s", said)
		}
	}
	c := task.Container(seedContainer)
	var health lines
	if exit, err := c.Exec(context.Background(), []string{inject.Program, "healthcheck"}, &health); err != nil || exit != 0 {
		t.Errorf("healthcheck: %d, %v: %s", exit, err, &health)
	}
	if exit, err := c.Exec(context.Background(), []string{"/bin/touch", "/stop"}, &health); err != nil || exit != 0 {
		t.Errorf("touch: %d, %v: %s", exit, err, &health)
	}
	if res := wait(); res.Exit[seedContainer] != 42 {
		t.Errorf("%+v", res)
	}
	if s := said.String(); strings.Contains(s, "made it") || !strings.Contains(s, `"ruleName":"seed"`) {
		t.Errorf("said:\n%s", s)
	}
}
