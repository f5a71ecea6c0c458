//go:build platforms

package platforms

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// root is the top of the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// run runs a command and returns its standard output.
func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

// shared is a directory for what is made once for all tests.
var shared string

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "servers" { // in a guest
		os.Exit(serve())
	}
	var err error
	if shared, err = os.MkdirTemp("", "platforms"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(shared)
	os.Exit(code)
}

// build builds the static defender once.
var build = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(shared, "defender")
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "netgo,osusergo,urfave_cli_no_docs", "-ldflags",
		"-s -w -linkmode external -extldflags -static", "-o", bin, "../../cmd/defender")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building: %w\n%s", err, out)
	}
	return bin, nil
})

func defender(t *testing.T) string {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// image imports a root file system under a name and removes it at the end.
func image(t *testing.T, name, dir string) string {
	t.Helper()
	tar := exec.Command("tar", "-C", dir, "-c", ".")
	load := exec.Command("podman", "import", "-q", "-", name)
	var err error
	if load.Stdin, err = tar.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := tar.Start(); err != nil {
		t.Fatal(err)
	}
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("importing %s: %v\n%s", name, err, out)
	}
	if err := tar.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = exec.Command("podman", "rmi", "-f", name).Run() })
	return name
}

// container is one run of a container.
type container struct {
	image   string
	network string   // as podman run takes it; "" is the machine's
	options []string // of podman run
	files   map[string]string
	command []string
}

// result is what a container did.
type result struct {
	exit    int
	stdout  string
	stderr  string // without records
	records []record
}

type record struct {
	Type, AttackType, Effect, Msg, Level, Domain string
	Count                                        int
	Refused                                      bool
}

// start runs the container to its end. Records go to standard error, as they
// do by default.
func (c container) start(t *testing.T) result {
	t.Helper()
	args := []string{"run", "--rm", "--network", cmp.Or(c.network, "host")}
	for path, text := range c.files {
		file := filepath.Join(t.TempDir(), filepath.Base(path))
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-v", file+":"+path+":ro")
	}
	args = append(append(append(args, c.options...), c.image), c.command...)
	cmd := exec.Command("podman", args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var status *exec.ExitError
	if err != nil && !errors.As(err, &status) {
		t.Fatal(err)
	}
	r := result{exit: cmd.ProcessState.ExitCode(), stdout: out.String()}
	for s := bufio.NewScanner(&errs); s.Scan(); {
		var rec record
		if strings.HasPrefix(s.Text(), "{") && json.Unmarshal(s.Bytes(), &rec) == nil {
			r.records = append(r.records, rec)
		} else {
			r.stderr += s.Text() + "\n"
		}
	}
	if t.Failed() || testing.Verbose() {
		t.Logf("exit %d\n%s%s", r.exit, r.stdout, r.stderr)
		for _, rec := range r.records {
			t.Logf("%+v", rec)
		}
	}
	return r
}

// told reports whether a record has this message.
func (r result) told(msg string) bool {
	for _, rec := range r.records {
		if rec.Msg == msg {
			return true
		}
	}
	return false
}

// mentions reports whether the Defender's own news contain this.
func (r result) mentions(text string) bool {
	for _, rec := range r.records {
		if rec.Type == "defender" && strings.Contains(rec.Msg, text) {
			return true
		}
	}
	return false
}

func (r result) detections() (n int) {
	for _, rec := range r.records {
		if rec.AttackType != "" {
			n++
		}
	}
	return n
}
