//go:build platforms

package endtoend

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"appdefender/internal/containers"
	"appdefender/internal/runner"
)

// shapes is a machine with an engine, the sample task's image, the Defender's,
// and a Console that knows the sample task's rules.
type shapes struct {
	*server
	t         *testing.T
	dir       string
	task, def string // names of the images
	env       []string
}

func newShapes(t *testing.T) *shapes {
	t.Helper()
	containers.Need(t, "wget")
	s := &shapes{t: t, dir: t.TempDir(), task: "localhost/shapes-task:1", def: "localhost/shapes-defender:1"}
	s.sh(`CGO_ENABLED=0 go build -trimpath -o "$1/defenderctl" ../../cmd/defenderctl`, s.dir)

	// This machine's shell and wget, with the libraries they need.
	s.sh(`cd "$1"; mkdir -p task/bin task/etc task/tmp task/usr/local/bin defender/var/lib/appdefender
		cp "$2" task/usr/local/bin/
		for p in dash mkdir wget sleep; do
			f=$(readlink -f "$(command -v $p)"); cp "$f" task/bin/$p
			for l in $(ldd "$f" | grep -o '/[^ ]*\.so[^ ]*'); do mkdir -p "task$(dirname $l)"; cp -L "$l" "task$l"; done
		done
		ln -s dash task/bin/sh
		cp "$3" defender/defender; chown 65532:65532 defender/var/lib/appdefender
		tar -C task -c . | podman import -q -c 'ENV PATH=/usr/local/bin:/bin' -c 'ENTRYPOINT ["entry.sh"]' - "$4"
		tar -C defender -c . | podman import -q -c 'VOLUME /var/lib/appdefender' -c 'USER 65532' - "$5"`,
		s.dir, abs(t, "../../testdata/sample-task/entry.sh"), filepath.Join(bin, "defender"), s.task, s.def)
	t.Cleanup(func() { s.sh(`podman rmi -f "$@"`, s.task, s.def) })

	s.server = serve(t)
	s.must("POST", "/api/v1/policy/rules", map[string]any{
		"name":      "sample",
		"processes": map[string]any{"effect": "prevent", "deny": []string{"mkdir"}},
		"dns":       map[string]any{"effect": "prevent", "allow": []string{"gmail.com"}},
	}, nil)
	return s
}

func abs(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *shapes) write(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// sh runs a script and returns what it prints.
func (s *shapes) sh(script string, args ...string) string {
	s.t.Helper()
	c := exec.Command("sh", append([]string{"-ec", script, "sh"}, args...)...)
	c.Env = append(os.Environ(), s.env...)
	var said text
	c.Stderr = &said
	out, err := c.Output()
	if err != nil {
		s.t.Fatalf("%s %q: %v\n%s%s", script, args, err, out, &said)
	}
	return string(out)
}

// embed runs the tool on a file and returns the protected one's name.
func (s *shapes) embed(format, name, text string, flags ...string) string {
	s.t.Helper()
	in := s.write(name, text)
	out := filepath.Join(s.dir, "protected-"+name)
	s.sh(`"$@"`, append([]string{filepath.Join(s.dir, "defenderctl"), "embed", format, in, "-o", out, "--defender-image", s.def,
		"--console", s.url, "--ca", s.ca(), "--app-id", format + ":1"}, flags...)...)
	return out
}

// arrived waits for the sample task's audits: of the program it starts and the
// names it asks for.
func (s *shapes) arrived(t *testing.T, appID string) {
	t.Helper()
	for _, want := range []string{
		"/mkdir launched and is explicitly denied by runtime rule. Full command: mkdir test",
		"DNS resolution of domain name google.com triggered by /bin/wget explicitly denied by a runtime rule",
		"DNS resolution of domain name yahoo.com triggered by /bin/wget explicitly denied by a runtime rule",
	} {
		await(t, appID+": "+want, func() bool {
			for _, a := range s.audits(url.Values{"appID": {appID}}) {
				if strings.Contains(a.Record.Msg, want) && a.Record.Refused {
					return true
				}
			}
			return false
		})
	}
}

func (s *shapes) tokenOf(name string) string {
	s.t.Helper()
	data, err := os.ReadFile(s.token(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// TestShapes protects the sample task in each shape, as people would by the
// documentation, and starts it as its platform does: it ends as it did, and
// its audits reach the Console.
func TestShapes(t *testing.T) {
	s := newShapes(t)
	dir := func(name string) string { return filepath.Join(s.dir, name) }

	const dockerfile = "FROM localhost/shapes-task:1\nENTRYPOINT [\"entry.sh\"]\n"
	built := func(t *testing.T, appID, file string) {
		t.Helper()
		s.sh(`podman build -q --network host --pull=never --format docker -t localhost/shapes-built -f "$1" "$(dirname "$1")"`, file)
		defer s.sh(`podman rmi -f localhost/shapes-built`)
		if exit := s.sh(`e=0; podman run --rm --network host --cap-add SYS_PTRACE -e DEFENDER_TOKEN="$1" localhost/shapes-built >&2 || e=$?; echo $e`, s.tokenOf(appID)); exit != "42\n" {
			t.Errorf("exit status %s", exit)
		}
		s.arrived(t, appID)
	}
	t.Run("dockerfile", func(t *testing.T) {
		built(t, "dockerfile:1", s.embed("dockerfile", "Dockerfile", dockerfile))
	})

	// With all that it copies, where no image of the Defender can be had.
	t.Run("zip", func(t *testing.T) {
		s.sh(`cd "$1"; ./defenderctl embed dockerfile Dockerfile --zip out.zip --defender "$2" --console "$3" --ca "$4" --app-id zip:1
			python3 -m zipfile -e out.zip unzipped; chmod +x unzipped/appdefender/defender`, s.dir, filepath.Join(bin, "defender"), s.url, s.ca())
		built(t, "zip:1", dir("unzipped/Dockerfile"))
	})

	t.Run("image", func(t *testing.T) {
		s.sh(`cd "$1"; podman save -q --format oci-archive -o in.tar "$2"; podman save -q --format docker-archive -o def.tar "$3"
			./defenderctl embed image oci-archive:in.tar oci-archive:out.tar --defender-image docker-archive:def.tar --console "$4" --ca "$5" --app-id image:1`,
			s.dir, s.task, s.def, s.url, s.ca())
		id := strings.TrimSpace(s.sh(`podman pull -q "$1"`, "oci-archive:"+dir("out.tar")))
		if exit := s.sh(`e=0; podman run --rm --network host --cap-add SYS_PTRACE -e DEFENDER_TOKEN="$1" "$2" >&2 || e=$?; echo $e`, s.tokenOf("image"), id); exit != "42\n" {
			t.Errorf("exit status %s", exit)
		}
		s.arrived(t, "image:1")
	})

	t.Run("compose", func(t *testing.T) {
		if _, err := exec.LookPath("docker-compose"); err != nil {
			t.Skip("needs docker-compose: make test-platforms installs it")
		}
		// The engine, as compose asks for it.
		socket := filepath.Join(s.dir, "engine.sock")
		engine := start(t, "env", "CONTAINERS_CONF="+os.Getenv("CONTAINERS_CONF"), "podman", "system", "service", "-t", "0", "unix://"+socket)
		await(t, "the engine listens", func() bool {
			if !engine.running() {
				t.Fatal(&engine.err)
			}
			_, err := os.Stat(socket)
			return err == nil
		})
		s.write("token", s.tokenOf("compose"))
		file := s.embed("compose", "compose.yaml", `# the sample task
services:
  sample-task:
    image: `+s.task+`
    entrypoint: entry.sh
    network_mode: host
secrets:
  enrolment: {file: ./token}
`, "--token-secret", "enrolment")
		s.env = []string{"DOCKER_HOST=unix://" + socket, "COMPOSE_PROJECT_NAME=shapes"}
		defer func() { s.env = nil }()
		defer s.sh(`docker-compose -f "$1" down -v`, file)
		s.sh(`docker-compose -f "$1" up -d`, file)
		id := strings.TrimSpace(s.sh(`docker-compose -f "$1" ps -q sample-task`, file))
		if exit := s.sh(`podman wait "$1"`, id); exit != "42\n" {
			t.Errorf("exit status %s, said:\n%s", exit, s.sh(`podman logs "$1" 2>&1`, id))
		}
		s.arrived(t, "compose:1")
	})

	t.Run("kubernetes", func(t *testing.T) {
		// A Secret, as this engine keeps it: it cannot read those that it is given as manifests.
		s.sh(`printf '{"token": "%s"}' "$(printf %s "$1" | base64 -w0)" | podman secret create enrolment -`, s.tokenOf("kubernetes"))
		file := s.embed("kubernetes", "pod.yaml", `apiVersion: v1
kind: Pod
metadata:
  name: shapes
spec:
  hostNetwork: true
  restartPolicy: Never
  containers:
  - name: sample-task
    image: `+s.task+`
    command: [entry.sh]
`, "--token-secret", "enrolment")
		defer s.sh(`podman kube down "$1"; podman secret rm enrolment`, file)
		s.sh(`podman kube play --network host "$1"`, file)
		if exit := s.sh(`podman wait shapes-sample-task`); exit != "42\n" {
			t.Errorf("exit status %s, said:\n%s", exit, s.sh(`podman logs shapes-sample-task 2>&1`))
		}
		s.arrived(t, "kubernetes:1")
	})

	t.Run("task-definition", func(t *testing.T) {
		definition, err := os.ReadFile("../../testdata/sample-task/task.json")
		if err != nil {
			t.Fatal(err)
		}
		file := s.embed("task-definition", "task.json", string(definition), "--token-secret", "arn:token")
		protected, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d, err := runner.Parse(protected)
		if err != nil {
			t.Fatal(err)
		}
		said := new(text)
		task, err := runner.New(d, runner.Config{
			Engine: new(runner.Podman), Log: t.Logf, Secrets: map[string]string{"arn:token": s.tokenOf("ecs")},
			Images: map[string]runner.Image{"example.com/sample-task": {Ref: s.task}, s.def: {Ref: s.def}},
			Output: func(string) (io.Writer, io.Writer) { return said, said },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		res, err := task.Run(ctx)
		if err != nil || res.Exit["sample-task"] != 42 {
			t.Errorf("%+v, %v, said:\n%s", res, err, said)
		}
		s.arrived(t, "task-definition:1")
	})
	if t.Failed() {
		t.Log(fmt.Sprint(s.audits(nil)))
	}
}
