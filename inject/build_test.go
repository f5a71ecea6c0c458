//go:build platforms

package inject_test

import (
	"context"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"appdefender/inject"
	"appdefender/inject/image"
	"appdefender/internal/containers"
)

// podman is a machine to build and run images on, with an image of the
// defender and one of busybox in it.
type podman struct {
	t    *testing.T
	base string // the image of busybox
	def  string // of the defender
}

func newPodman(t *testing.T) *podman {
	t.Helper()
	containers.Need(t)
	p := &podman{t: t, base: "localhost/embed-test-base", def: "localhost/embed-test-defender"}
	root := seedRoot(t, "/bin/mkdir test && echo made it\necho arguments $#\nexit 42\n")
	p.sh(`tar -C "$1" -c . | podman import -q - "$2"`, root, p.base)
	sidecar := sidecarRoot(t, build(t, "../cmd/defender", true))
	p.sh(`tar -C "$1" -c . | podman import -q -c 'VOLUME /var/lib/appdefender' -c 'USER 65532' - "$2"`, sidecar, p.def)
	t.Cleanup(func() { p.sh(`podman rmi -f "$@"`, p.base, p.def) })
	return p
}

func (p *podman) sh(script string, args ...string) string {
	p.t.Helper()
	out, err := exec.Command("sh", append([]string{"-ec", script, "sh"}, args...)...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("%s %q: %v\n%s", script, args, err, out)
	}
	return string(out)
}

// run starts an image and returns what it says and its exit status.
func (p *podman) run(args ...string) (string, int) {
	p.t.Helper()
	cmd := exec.Command("podman", append([]string{"run", "--rm", "--network", "none"}, args...)...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		p.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

const denyMkdir = "version: 1\nrules: [{name: seed, processes: {effect: prevent, deny: [mkdir]}}]\n"

// What is built from a protected Dockerfile starts what it did, protected.
func TestBuildDockerfile(t *testing.T) {
	p := newPodman(t)
	for name, tt := range map[string]struct{ text, said string }{
		"exec form":       {"FROM " + p.base + "\nENTRYPOINT [\"entry.sh\"]\nCMD [\"a\", \"b c\"]\n", "arguments 2"},
		"shell form":      {"FROM " + p.base + "\nENTRYPOINT exec entry.sh a\n", "arguments 1"},
		"CMD only":        {"FROM " + p.base + " AS base\nCMD [\"entry.sh\"]\nFROM base\nUSER 1000\n", "arguments 0"},
		"not root, SHELL": {"ARG BASE=" + p.base + "\nFROM ${BASE}\nUSER 1000\nSHELL [\"/bin/sh\", \"-e\", \"-c\"]\nWORKDIR /\nCMD entry.sh x y z || exit 42\n", "arguments 3"},
	} {
		t.Run(name, func(t *testing.T) {
			p.t = t
			o := inject.Options{DefenderImage: p.def, Policy: []byte(denyMkdir), AppID: "test:1"}
			if !strings.Contains(tt.text, "ENTRYPOINT") {
				o.Entrypoints = map[string][]string{"": {}}
			}
			if name == "CMD only" {
				o.Commands = map[string][]string{"": {}}
			}
			out, _, err := inject.Embed(inject.Dockerfile, []byte(tt.text), o)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), out, 0o644); err != nil {
				t.Fatal(err)
			}
			p.sh(`podman build --network host --no-cache --pull=never --format docker -t embed-test-built "$1"`, dir)
			defer p.sh(`podman rmi -f embed-test-built`)
			said, exit := p.run("--cap-add", "SYS_PTRACE", "embed-test-built")
			if exit != 42 || strings.Contains(said, "made it") || !strings.Contains(said, `"ruleName":"seed"`) || !strings.Contains(said, tt.said+"\n") {
				t.Errorf("exit %d, said:\n%s\nbuilt from:\n%s", exit, said, out)
			}
		})
	}
}

// An image out of a tar file and back into one, without an engine: what the
// engine then runs is protected.
func TestRunImage(t *testing.T) {
	p := newPodman(t)
	dir := t.TempDir()
	text := "FROM " + p.base + "\nUSER 1000\nENTRYPOINT [\"entry.sh\", \"a\"]\nCMD [\"b\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p.sh(`cd "$1"; podman build --network host --no-cache --pull=never -t embed-test-plain .
		podman save -q --format docker-archive -o d.tar embed-test-plain
		podman save -q --format oci-archive -o o.tar embed-test-plain
		podman save -q --format docker-archive -o defender.tar "$2"`, dir, p.def)
	defer p.sh(`podman rmi -f embed-test-plain`)
	for from, to := range map[string]string{"docker-archive:" + dir + "/d.tar": "oci-archive:" + dir + "/p.tar", "oci-archive:" + dir + "/o.tar": "docker-archive:" + dir + "/q.tar"} {
		places := new(image.Places)
		res, err := places.Embed(context.Background(), image.Job{From: from, To: to, Options: inject.Options{
			DefenderImage: "docker-archive:" + dir + "/defender.tar", Policy: []byte(denyMkdir), AppID: "test:1",
		}})
		if err != nil {
			t.Fatal(err)
		}
		id := strings.TrimSpace(p.sh(`podman pull -q "$1"`, to))
		said, exit := p.run("--cap-add", "SYS_PTRACE", id)
		p.sh(`podman rmi -f "$1"`, id)
		if exit != 42 || strings.Contains(said, "made it") || !strings.Contains(said, `"ruleName":"seed"`) || !strings.Contains(said, "arguments 2\n") {
			t.Errorf("%s: %+v, exit %d, said:\n%s", from, res, exit, said)
		}
	}
}

// A protected pod, played by an engine that knows Kubernetes: the init
// container fills the emptyDir, and the application starts protected.
func TestPlayKubernetes(t *testing.T) {
	p := newPodman(t)
	pod := "apiVersion: v1\nkind: Pod\nmetadata:\n  name: embed-test\nspec:\n  hostNetwork: true\n  restartPolicy: Never\n  containers:\n" +
		"  - name: app\n    image: " + p.base + "\n    command: [/usr/local/bin/entry.sh] # as in the image\n    args: [a, b]\n"
	out, _, err := inject.Embed(inject.Kubernetes, []byte(pod), inject.Options{DefenderImage: p.def, Policy: []byte(denyMkdir)})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pod.yaml")
	if err := os.WriteFile(file, out, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = exec.Command("podman", "kube", "down", file).Run() })
	if text, err := exec.Command("podman", "kube", "play", "--network", "host", file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, text, out)
	}
	exit := strings.TrimSpace(p.sh(`podman wait embed-test-app`))
	said := p.sh(`podman logs embed-test-app 2>&1`)
	if exit != "42" || strings.Contains(said, "made it") || !strings.Contains(said, `"ruleName":"seed"`) || !strings.Contains(said, "arguments 2\n") {
		t.Errorf("exit %s, said:\n%s", exit, said)
	}
}

// An index that other tools have made, in an archive and in a registry: they
// copy what is protected, engines run it, and what comes back is what they
// made, also after they have packed it anew.
func TestRunIndex(t *testing.T) {
	p := newPodman(t)
	for _, tool := range []string{"skopeo", "buildah"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s: make test-platforms installs it", tool)
		}
	}
	dir := t.TempDir()
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	stub := filepath.Join(dir, "stub")
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	p.sh(`cd "$1"; CGO_ENABLED=0 GOARCH=$2 go build -o "$3" ./testdata/stub`, ".", other, stub)

	// One image is built, the other is its root for the other processor, which
	// is not run.
	p.sh(`cd "$1"; printf 'FROM %s\nUSER 1000\nENTRYPOINT ["entry.sh", "a"]\nCMD ["b"]\n' "$2" >Dockerfile
		buildah bud -q --isolation chroot --pull-never -t embed-test-own .
		podman save -q --format docker-archive "$2" | tar -xO --wildcards '*.tar' |
			podman import -q --arch "$3" -c 'ENTRYPOINT ["entry.sh"]' - embed-test-other
		buildah manifest create embed-test-index
		buildah manifest add embed-test-index embed-test-own
		buildah manifest add embed-test-index embed-test-other
		buildah manifest push -q --all embed-test-index "oci-archive:$1/in.tar"
		buildah manifest push -q --all --format v2s2 --tls-verify=false embed-test-index "docker://$4/shop:1"
		skopeo copy -q --all --dest-tls-verify=false --dest-compress-format zstd --format oci "oci-archive:$1/in.tar" "docker://$4/zstd:1"
		podman save -q --format docker-archive -o defender.tar "$5"`, dir, p.base, other, host, p.def)
	defer p.sh(`buildah manifest rm embed-test-index; podman rmi -f embed-test-own embed-test-other`)
	program, err := os.ReadFile(stub)
	if err != nil {
		t.Fatal(err)
	}
	archive := func(name string) string { return "oci-archive:" + dir + "/" + name }
	for _, tt := range []struct{ name, from, to, copied string }{
		{"archive", archive("in.tar"), archive("out.tar"), "oci:" + dir + "/copied:1"},
		{"registry", "docker://" + host + "/shop:1", "docker://" + host + "/shop:2", "docker://" + host + "/copied:3"},
		{"registry to folder", "docker://" + host + "/shop:1", "oci:" + dir + "/out", "docker://" + host + "/copied:1"},
		{"zstd", "docker://" + host + "/zstd:1", "docker://" + host + "/zstd:2", "docker://" + host + "/copied:2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p.t = t
			raw := func(place string) string {
				return p.sh(`skopeo inspect --tls-verify=false --raw "$1"`, place)
			}
			places := new(image.Places)
			res, err := places.Embed(context.Background(), image.Job{From: tt.from, To: tt.to, Programs: [][]byte{program}, Options: inject.Options{
				DefenderImage: "docker-archive:" + dir + "/defender.tar", Policy: []byte(denyMkdir), AppID: "test:1", Version: "1.0",
			}})
			if err != nil {
				t.Fatal(err)
			}
			pull := "docker://" + host + "/pulled:1"
			p.sh(`skopeo copy -q --all --preserve-digests --src-tls-verify=false --dest-tls-verify=false "$1" "$2"`, tt.to, pull)
			id := strings.TrimSpace(p.sh(`podman pull -q --tls-verify=false "$1"`, pull))
			said, exit := p.run("--cap-add", "SYS_PTRACE", id)
			if exit != 42 || strings.Contains(said, "made it") || !strings.Contains(said, `"ruleName":"seed"`) || !strings.Contains(said, "arguments 2\n") {
				t.Errorf("%+v, exit %d, said:\n%s", res, exit, said)
			}
			// Pushed by an engine, which packs it anew: the image is the same.
			p.sh(`podman push -q --tls-verify=false --remove-signatures "$1" "docker://$2/engine:1"; podman rmi -f "$1"`, id, host)
			engine := "docker://" + host + "/engine:1"
			again, err := places.Embed(context.Background(), image.Job{From: engine, Options: inject.Options{DefenderImage: "docker-archive:" + dir + "/defender.tar", Version: "1.0"}})
			if err != nil || again.Changed {
				t.Errorf("after an engine pushed it: %v, %+v", err, again)
			}
			if _, err := places.Remove(context.Background(), engine, engine); err != nil {
				t.Error(err)
			}
			p.sh(`skopeo copy -q --all --preserve-digests --src-tls-verify=false --dest-tls-verify=false "$1" "$2"`, tt.to, tt.copied)
			if _, err := places.Remove(context.Background(), tt.copied, tt.copied); err != nil {
				t.Fatal(err)
			}
			if back, want := raw(tt.copied), raw(tt.from); back != want {
				t.Errorf("copied and removed:\n%s\nwant\n%s", back, want)
			}
		})
	}
}
