//go:build platforms

package platforms

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// A guest is a kernel of its own, such as a virtual machine's or gVisor's. It
// has a small Debian that holds, beside the Defender,
//
//	/guest         this test's own program: "guest servers" are those of the
//	               sample task
//	/tests         the tests of cmd/defender and the programs they need
//	/policy.yaml   the sample task's
const guestProgram = "/guest"

// A machine is a processor that guests have, and what emulates it.
type machine struct {
	arch     string   // as Debian and Go name it
	build    []string // environment that builds for it
	emulator []string
	console  string
}

var amd64 = machine{
	arch:     "amd64",
	emulator: []string{"qemu-system-x86_64"}, // not with KVM: where this is a guest itself, a kernel may hang
	console:  "ttyS0",
}

// Cortex-A72 runs 32-bit programs too.
var arm64 = machine{
	arch:     "arm64",
	build:    []string{"GOARCH=arm64", "CC=aarch64-linux-gnu-gcc", "PKG_CONFIG_LIBDIR=/usr/lib/aarch64-linux-gnu/pkgconfig"},
	emulator: []string{"qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72"},
	console:  "ttyAMA0",
}

// guests are the root file systems of guests, each made once.
var guests = map[string]func() (string, error){
	amd64.arch: sync.OnceValues(func() (string, error) {
		base, err := bootstrapped()
		if err != nil {
			return "", err
		}
		return amd64.root(base)
	}),
	arm64.arch: sync.OnceValues(func() (string, error) {
		base, err := unpacked(arm64.arch)
		if err != nil {
			return "", err
		}
		return arm64.root(base)
	}),
}

// unpacked is a minimal Debian of another processor: its packages are
// unpacked, and none of their scripts has run.
func unpacked(arch string) (string, error) {
	dir := filepath.Join(shared, "debian-"+arch)
	args := []string{"--foreign", "--arch=" + arch, "--variant=minbase", "--include=wget,iproute2,procps,busybox-static", "bookworm", dir}
	steps := [][]string{
		slices.Concat([]string{"debootstrap"}, args, archive()),
		{"sh", "-c", `cd "$0" && for f in var/cache/apt/archives/*.deb; do dpkg-deb --fsys-tarfile "$f" | tar -xk --keep-directory-symlink || :; done 2>/dev/null; test -x usr/bin/wget`, dir},
		// Some of what their scripts would make; /proc is a link to the builder's.
		{"sh", "-c", `cd "$0" && rm -f proc && mkdir -p proc usr/local/bin && echo root:x:0:0::/root:/bin/sh >etc/passwd && echo root:x:0: >etc/group && ln -sf mawk usr/bin/awk`, dir},
	}
	return dir, commands(steps)
}

// archive is the place this machine's apt gets the main archive from, if it
// is known.
func archive() []string {
	out, err := exec.Command("sh", "-c",
		"apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep debian | grep -v security | head -n 1").Output()
	if err != nil {
		return nil
	}
	return strings.Fields(string(out))
}

func commands(steps [][]string) error {
	for _, argv := range steps {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
		}
	}
	return nil
}

// root adds to a copy of base what a guest has.
func (m machine) root(base string) (string, error) {
	dir := filepath.Join(shared, "guest-"+m.arch)
	programs, builder := filepath.Join(dir, "tests/bin"), filepath.Join(shared, "builder")
	env := slices.Concat([]string{"env", "CGO_ENABLED=1"}, m.build)
	steps := [][]string{
		{"cp", "-a", base, dir},
		// A machine unpacks all of it into its memory.
		{"sh", "-c", `cd "$0" && rm -rf var/lib/apt var/cache/* usr/share/doc usr/share/locale usr/share/man usr/share/zoneinfo usr/lib/*/gconv usr/lib/*/perl-base`, dir},
		{"mkdir", "-p", programs},
		{"env", "CGO_ENABLED=1", "go", "test", "-c", "-o", builder, "../../cmd/defender"},
		// Runs no test, but builds the programs.
		slices.Concat(env, []string{"TEST_PROGRAMS=" + programs, "sh", "-c", "cd ../../cmd/defender && " + builder + " -test.run '^$'"}),
	}
	static := []string{"-tags", "netgo,osusergo,platforms", "-ldflags", "-s -w -linkmode external -extldflags -static"}
	for out, pkg := range map[string]string{"tests/tests": "../../cmd/defender", guestProgram: "."} {
		steps = append(steps, slices.Concat(env, []string{"go", "test", "-c", "-o", filepath.Join(dir, out)}, static, []string{pkg}))
	}
	steps = append(steps,
		[]string{"cp", "-r", "../../cmd/defender/testdata", filepath.Join(dir, "tests")},
		[]string{"cp", filepath.Join(programs, "defender"), filepath.Join(dir, "defender")},
		[]string{"cp", "../../testdata/sample-task/entry.sh", filepath.Join(dir, "usr/local/bin")},
		[]string{"chmod", "-R", "a+rX", dir},
	)
	if err := commands(steps); err != nil {
		return "", err
	}
	for name, text := range map[string]string{
		"policy.yaml":     fmt.Sprintf(samplePolicy, "prevent"),
		"etc/resolv.conf": "nameserver " + upstreamAddr + "\n",
		"etc/hosts":       "127.0.0.1 localhost\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func guestRoot(t *testing.T, m machine) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := exec.LookPath("debootstrap"); err != nil {
		t.Skip("needs debootstrap: make test-platforms installs it")
	}
	dir, err := guests[m.arch]()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// serving is a file that says that a guest's servers run.
const serving = "/tmp/serving"

// modules is a folder with modules for a guest's kernel.
const modules = "/modules"

// serve is a guest's servers.
func serve() int {
	for _, name := range []string{"ib_core.ko", "smc.ko"} {
		if f, err := os.Open(filepath.Join(modules, name)); err == nil {
			if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
				fmt.Fprintf(os.Stderr, "loading %s: %v\n", name, err)
			}
			f.Close()
		}
	}
	if _, err := startServers(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := os.WriteFile(serving, nil, 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	select {}
}

// startServing is the command that starts them.
const startServing = guestProgram + " servers & until [ -e " + serving + " ]; do sleep 0.05; done"

// sampleTaskIn is the command of the sample task in a guest.
func sampleTaskIn(backend string) string {
	return "/defender run --supervisor " + backend + " --policy /policy.yaml --container sample-task -- entry.sh"
}

// checkSampleTask judges what it wrote.
func checkSampleTask(t *testing.T, output string) {
	t.Helper()
	records := make(map[string]record)
	for s := bufio.NewScanner(strings.NewReader(output)); s.Scan(); {
		var r record
		// What wget says has no line's end before it.
		if _, text, ok := strings.Cut(s.Text(), `{"_id":`); ok && json.Unmarshal([]byte(`{"_id":`+strings.TrimSpace(text)), &r) == nil {
			records[r.Msg] = r
		}
	}
	for _, msg := range []string{
		"/usr/bin/mkdir launched and is explicitly denied by runtime rule. Full command: mkdir test",
		"DNS resolution of domain name google.com triggered by /usr/bin/wget explicitly denied by a runtime rule",
		"DNS resolution of domain name yahoo.com triggered by /usr/bin/wget explicitly denied by a runtime rule",
	} {
		if !records[msg].Refused {
			t.Errorf("not refused: %s", msg)
		}
	}
	if !strings.Contains(output, "mkdir: Permission denied") {
		t.Error("mkdir was not refused")
	}
	if t.Failed() {
		t.Log(output)
	}
}

// testsIn is the command that runs the tests of cmd/defender in a guest.
func testsIn(backend, environment, tests, skip string) string {
	return fmt.Sprintf("cd /tests && TEST_PROGRAMS=/tests/bin DEFENDER_SUPERVISOR=%s %s ./tests -test.v -test.timeout 4h -test.parallel 2 -test.run '%s' -test.skip '%s' 2>&1; echo tests ended with $?",
		backend, environment, tests, skip)
}

// checkTests judges what they wrote.
func checkTests(t *testing.T, output string) {
	t.Helper()
	if !strings.Contains(output, "tests ended with 0") || !strings.Contains(output, "--- PASS") {
		t.Error("the tests do not pass")
		t.Log(output)
		return
	}
	for line := range strings.Lines(output) {
		if strings.HasPrefix(line, "--- ") || strings.HasPrefix(strings.TrimSpace(line), "--- SKIP") {
			t.Log(strings.TrimSpace(line))
		}
	}
}
