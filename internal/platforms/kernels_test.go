//go:build platforms

package platforms

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
)

// kernels are Debian's, by the suite that holds them. 5.10 lacks killable
// waits, synchronous wake-ups and thread pidfds; 6.1 has the first.
var kernels = []struct{ suite, version string }{
	{"bullseye", "5.10"},
	{"bookworm", "6.1"},
	{"trixie", "6.12"},
}

// victim is run by the defender inside the machine: it prints what happened.
const victim = `#!/bin/busybox sh
/bin/mkdir /tmp/refused; echo "mkdir $?"
/bin/makedir /tmp/allowed; echo "makedir $?"
/goresolve yahoo.com; echo "lookup $?"
[ -d /tmp/allowed ] && [ ! -d /tmp/refused ] && exit 42
exit 1
`

const initScript = `#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox ip link set lo up
echo "nameserver 127.0.0.1" > /etc/resolv.conf
for backend in notify notify notify ptrace ptrace; do
	/defender run --supervisor $backend --policy /policy.yaml --container sample-task -- /victim; echo "exit status $?"
	/bin/busybox rm -rf /tmp/allowed
done
/bin/busybox poweroff -f
`

// TestKernels boots other kernels under software emulation and runs the same
// few refusals on each, three times by a listener and twice by a tracer.
func TestKernels(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("needs qemu-system-x86: make test-platforms installs it")
	}
	initrd := initramfs(t)
	for _, k := range kernels {
		t.Run(k.version, func(t *testing.T) {
			out := boot(t, kernel(t, k.suite, k.version, amd64.arch), initrd)
			for want, times := range map[string]int{
				"mkdir 126": 5, "makedir 0": 5, "lookup 1": 5, "exit status 42": 5,
				"mkdir launched and is explicitly denied by runtime rule": 5,
				"domain name yahoo.com triggered by /goresolve":           10, // A and AAAA
			} {
				if got := strings.Count(out, want); got != times {
					t.Errorf("%q %d times, want %d", want, got, times)
				}
			}
			if t.Failed() {
				t.Log(out)
			}
		})
	}
}

// kernel downloads and unpacks a suite's newest cloud kernel of a version.
func kernel(t *testing.T, suite, version, arch string) string {
	t.Helper()
	dir := t.TempDir()
	list := filepath.Join(dir, "Packages.xz")
	if err := download(mirror(t)+"/dists/"+suite+"/main/binary-"+arch+"/Packages.xz", list); err != nil {
		t.Skipf("needs the package list of %s: %v", suite, err)
	}
	pkg := "linux-image-" + regexp.QuoteMeta(version) + `[^\n]*-cloud-` + arch
	file := regexp.MustCompile(`(?m)^Package: ` + pkg + `\n(?:[^\n]+\n)*?Filename: (\S+)`)
	all := file.FindAllStringSubmatch(run(t, dir, "xz", "-dc", list), -1)
	if len(all) == 0 {
		t.Fatalf("%s has no %s", suite, pkg)
	}
	deb := filepath.Join(dir, "kernel.deb")
	if err := download(mirror(t)+"/"+all[len(all)-1][1], deb); err != nil {
		t.Fatal(err)
	}
	run(t, dir, "dpkg", "-x", deb, "x")
	images, err := filepath.Glob(filepath.Join(dir, "x/boot/vmlinuz-*"))
	if err != nil || len(images) != 1 {
		t.Fatalf("found %v: %v", images, err)
	}
	return images[0]
}

// mirror is where this machine has its packages from.
func mirror(t *testing.T) string {
	t.Helper()
	place := archive()
	if len(place) == 0 {
		t.Skip("needs a mirror of Debian: apt knows none")
	}
	return strings.TrimSuffix(place[0], "/")
}

func download(url, file string) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return &os.PathError{Op: "get", Path: url, Err: os.ErrNotExist}
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(f, resp.Body)
	return err
}

// initramfs packs busybox, the defender and the victim.
func initramfs(t *testing.T) string {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox-static: make test-platforms installs it")
	}
	dir := t.TempDir()
	for _, d := range []string{"bin", "proc", "sys", "dev", "etc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	addDefender(t, dir)
	run(t, "", "cp", busybox, filepath.Join(dir, "bin/busybox"))
	source := filepath.Join(t.TempDir(), "mkdir.c")
	files := map[string]string{
		source:                     "#include <sys/stat.h>\nint main(int c, char **v) { return mkdir(v[1], 0755) != 0; }\n",
		filepath.Join(dir, "init"): initScript, filepath.Join(dir, "victim"): victim,
		filepath.Join(dir, "policy.yaml"): strings.ReplaceAll(samplePolicy, "%[1]s", "prevent"),
	}
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "", "gcc", "-static", "-O2", "-o", filepath.Join(dir, "bin/mkdir"), source)
	run(t, "", "cp", filepath.Join(dir, "bin/mkdir"), filepath.Join(dir, "bin/makedir"))

	cpio := exec.Command("sh", "-c", "find . | cpio -o -H newc --quiet")
	cpio.Dir = dir
	packed, err := cpio.Output()
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write(packed); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "initrd.gz")
	if err := os.WriteFile(file, zipped.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// boot runs a machine to its end and returns what it printed.
func boot(t *testing.T, kernel, initrd string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // against a hang
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-m", "512", "-smp", "2", "-nographic", "-no-reboot",
		"-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}
