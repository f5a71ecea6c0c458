//go:build platforms

package endtoend

import (
	"crypto/tls"
	"crypto/x509"
	"debug/elf"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"appdefender/internal/containers"
)

// TestDockerfile builds the images of the Dockerfile and uses them. What it
// builds from cannot be had everywhere, so a Debian with this machine's Go in
// it stands in; modules and what is compiled already come from this machine's
// caches.
func TestDockerfile(t *testing.T) {
	containers.Need(t, "debootstrap")
	dir := t.TempDir()
	run := func(argv ...string) string {
		t.Helper()
		c := exec.Command(argv[0], argv[1:]...)
		var said text
		c.Stderr = &said
		out, err := c.Output()
		if err != nil {
			t.Fatalf("%q: %v\n%s%s", argv, err, out, &said)
		}
		return strings.TrimSpace(string(out))
	}

	// Its storage is its own and goes with the test.
	storage := []string{"podman", "--root", filepath.Join(dir, "storage"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "overlay"}
	podman := func(args ...string) string { t.Helper(); return run(append(slices.Clone(storage), args...)...) }

	const version = "appdefender-test" // of the image golang
	const standIn = "docker.io/library/golang:" + version + "-bookworm"
	base := filepath.Join(dir, "base")
	args := []string{"debootstrap", "--variant=minbase", "--include=ca-certificates,gcc,libc6-dev,pkg-config,libseccomp-dev", "bookworm", base}
	if mirror := run("sh", "-c", "apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1"); mirror != "" {
		args = append(args, mirror)
	}
	run(args...)
	run("cp", "-a", run("go", "env", "GOROOT"), filepath.Join(base, "usr/local/go"))
	run(append([]string{"sh", "-c", `base=$0; name=$1; shift; tar -C "$base" -c . | "$@" - "$name"`, base, standIn}, append(slices.Clone(storage), "import", "-q",
		"-c", "ENV PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin", "-c", "ENV GOTOOLCHAIN=local", "-c", "ENV GOCACHE=/cache",
		"-c", "ENV GOPROXY=file:///modules/cache/download,https://proxy.golang.org")...)...)
	if err := os.RemoveAll(base); err != nil {
		t.Fatal(err)
	}
	image := func(target, arch string) string {
		t.Helper()
		begun := time.Now()
		name := "appdefender-test/" + target + "-" + arch
		podman("build", "-q", "--pull=never", "--isolation=chroot", "--network=host", "--layers", "--platform", "linux/"+arch,
			"-v", run("go", "env", "GOMODCACHE")+":/modules:ro", "-v", run("go", "env", "GOCACHE")+":/cache",
			"--build-arg", "BUILDPLATFORM=linux/"+runtime.GOARCH, // which this podman does not know by itself in FROM
			"--build-arg", "GO_VERSION="+version, "--build-arg", "VERSION=1.2.3", "--target", target, "-t", name, "../..")
		var about []struct {
			Size         int64
			Architecture string
			Config       struct {
				User       string
				Entrypoint []string
				Volumes    map[string]struct{}
			}
		}
		if err := json.Unmarshal([]byte(podman("image", "inspect", name)), &about); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: built in %v, %d MiB: %+v", target, time.Since(begun).Round(time.Second), about[0].Size>>20, about[0].Config)
		if about[0].Config.User != "65532:65532" || len(about[0].Config.Volumes) != 1 || about[0].Architecture != arch {
			t.Errorf("%s: %+v", target, about[0])
		}
		// Its programs are for that processor, and need no loader.
		id := podman("create", name)
		defer podman("rm", "-v", id)
		for _, program := range map[string][]string{"defender": {"defender"}, "console": {"defender", "console"}}[target] {
			file := filepath.Join(t.TempDir(), program)
			podman("cp", id+":/"+program, file)
			f, err := elf.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]; f.Machine != want || f.Section(".interp") != nil {
				t.Errorf("%s of %s is for %s", program, name, f.Machine)
			}
		}
		return name
	}
	own, other := "amd64", "arm64"
	if runtime.GOARCH == other {
		own, other = other, own
	}

	// The defender installs itself into a volume that another container then
	// starts it from.
	def := image("defender", own)
	volume := "appdefender-test"
	t.Cleanup(func() { podman("volume", "rm", "-f", volume) })
	if said := podman("run", "--rm", "--network=none", "--read-only", "-v", volume+":/var/lib/appdefender", def); !strings.Contains(said, "/var/lib/appdefender/defender: installed") {
		t.Errorf("install said %q", said)
	}
	policy := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte("version: 1\nrules: [{name: r, processes: {effect: prevent, deny: [console]}}]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	con := image("console", own)
	in := append(slices.Clone(storage), "run", "--rm", "--network=none", "--cap-add", "SYS_PTRACE", "-v", volume+":/d:ro", "-v", policy+":/policy.yaml:ro", "--entrypoint", "/d/defender", con, "run")
	if said := run(append(in, "--", "/console", "version")...); said != "1.2.3" {
		t.Errorf("behind a defender the Console's version is %q", said)
	}
	if out, err := exec.Command(in[0], append(in[1:], "--policy", "/policy.yaml", "--", "/console", "version")...).CombinedOutput(); err == nil || !strings.Contains(string(out), `"ruleName":"r"`) {
		t.Errorf("the policy does not hold: %v: %s", err, out)
	}

	// The other architecture's are compiled on this one. TEST_IMAGES=all builds
	// the Console's too: compiling its database anew takes minutes.
	image("defender", other)
	if os.Getenv("TEST_IMAGES") == "all" {
		image("console", other)
	}

	// The Console serves, as nobody in particular, from a volume.
	addr := freeAddress(t)
	id := podman("run", "-d", "--network=host", "--read-only", "-e", "CONSOLE_LISTEN="+addr, con)
	t.Cleanup(func() { podman("rm", "-f", "-v", "-t", "5", id) })
	await(t, "the Console listens", func() bool { return strings.Contains(podman("logs", id), "Password:") })
	roots := x509.NewCertPool()
	ca := filepath.Join(dir, "ca.pem")
	podman("cp", id+":/var/lib/console/ca.pem", ca)
	pem, err := os.ReadFile(ca)
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate", err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, Timeout: time.Minute}
	resp, err := client.Get("https://" + addr + "/signin")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("signing in: %s", resp.Status)
	}
	if token := podman("exec", id, "/console", "token", "create", "t"); !strings.HasPrefix(token, "enrol-") {
		t.Errorf("the token is %q", token)
	}
}
