//go:build platforms

package platforms

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// kernels are Debian's, by the suite that holds them. 5.10 lacks killable
// waits, synchronous wake-ups and thread pidfds; 6.1 has the first.
var kernels = []struct {
	suite, version string
	machine        machine
	tests          string // of cmd/defender; "" is the sample task alone
}{
	{"bullseye", "5.10", amd64, kernelTests},
	{"bookworm", "6.1", amd64, kernelTests},
	{"trixie", "6.12", amd64, kernelTests},
	{"trixie", "6.12", arm64, ""},
}

// kernelTests are those of cmd/defender that differ most from kernel to
// kernel: each runs its victims alone and protected. Emulation has a tenth of a
// machine's speed; all tests take hours.
const kernelTests = "TestExecWays/^(empty-path|threads|setuid)$|TestExecByAnother/^(loader|script_of_env)$|TestFileless|TestOtherTables|TestOtherFamilies|" +
	"TestConnectWays/^(connect|sendmsg|sendmmsg|mapped|fastopen|smc)$|TestOwnTable|TestListenWays/^(tcp|udp)$|TestUnixWays/^abstract$|" +
	"TestFileWays/^(write|rename-over)$|TestBlockingConnect/^(eintr|restart|kill)$|" +
	"TestKin/^(orphan|untraced)$|TestOwnFilter/^(listener|errno)$|TestSignalsArrive/^(stop|exec-storm)$|" +
	"TestReach/^uid_1000$/^parent$/^(kill|threads-tkill|pidfd|seize|mem)$|TestChangedUser/^without|TestIOUring|TestVisible|" +
	"TestDeath$/^(supervisor,_closed|supervisor,_open|watcher_and_supervisor,_closed)$|TestDeathAsFirst"

// guestInit is a guest's first process, around what it shall do.
const guestInit = `#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp
chmod 1777 /tmp
ip link set lo up
%s
echo o > /proc/sysrq-trigger
sleep 100
`

// TestKernels boots other kernels, of another processor too, with a small
// Debian, and runs the sample task and tests of cmd/defender on each with both
// backends. PLATFORM_TESTS names other tests than kernelTests, as go test's
// -run does, for each kernel: "." are all.
func TestKernels(t *testing.T) {
	for _, k := range kernels {
		t.Run(k.version+" "+k.machine.arch, func(t *testing.T) {
			if _, err := exec.LookPath(k.machine.emulator[0]); err != nil {
				t.Skipf("needs %s: make test-platforms installs it", k.machine.emulator[0])
			}
			tests := cmp.Or(os.Getenv("PLATFORM_TESTS"), k.tests)
			script := startServing + "\necho BEGIN check; /defender check; echo END"
			for _, backend := range []string{"notify", "ptrace"} {
				script += "\necho BEGIN " + backend + " sample; (cd /tmp && " + sampleTaskIn(backend) + " 2>&1; echo exit status $?); echo END"
				if tests != "" {
					script += "\necho BEGIN " + backend + " tests; (" + testsIn(backend, "TEST_HANG=20m TEST_DEATH_ROUNDS=1", tests, "^$") + "); echo END"
				}
			}
			out := k.machine.boot(t, kernel(t, k.suite, k.version, k.machine.arch), fmt.Sprintf(guestInit, script))
			if report := section(t, out, "check"); strings.Count(report, "works: programs are verified, connections are performed") != 2 {
				t.Errorf("not both backends work:\n%s", report)
			}
			for _, backend := range []string{"notify", "ptrace"} {
				t.Run(backend+"/sample task", func(t *testing.T) {
					part := section(t, out, backend+" sample")
					checkSampleTask(t, part)
					if !strings.Contains(part, "exit status 42") {
						t.Error("the exit status is not 42")
					}
				})
				if tests != "" {
					t.Run(backend+"/tests", func(t *testing.T) { checkTests(t, section(t, out, backend+" tests")) })
				}
			}
		})
	}
}

// section returns what was printed between two lines.
func section(t *testing.T, out, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(out, "BEGIN "+name+"\n")
	part, _, ended := strings.Cut(rest, "\nEND\n")
	if !ok || !ended {
		t.Fatalf("%s did not come to its end:\n%s", name, out)
	}
	return part
}

// boot runs a machine to its end and returns what it printed.
func (m machine) boot(t *testing.T, kernel, init string) string {
	t.Helper()
	root, initrd := guestRoot(t, m), filepath.Join(t.TempDir(), "initrd")
	if err := os.WriteFile(filepath.Join(root, "init"), []byte(init), 0o755); err != nil {
		t.Fatal(err)
	}
	// A socket family that the kernel would load by itself.
	run(t, filepath.Dir(filepath.Dir(kernel)), "sh", "-c", `rm -rf "$0"; mkdir "$0"; find . -name smc.ko* -o -name ib_core.ko* | xargs cp -t "$0"; xz -dqf "$0"/*.xz || :`, filepath.Join(root, modules))
	// Packed only, for the emulated processor would have to unpack it.
	run(t, root, "sh", "-c", "find . -xdev | cpio -o -H newc --quiet >"+initrd)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Hour) // against a hang
	defer cancel()
	cmd := exec.CommandContext(ctx, m.emulator[0], append(m.emulator[1:], "-m", "1024", "-smp", "2", "-nographic", "-no-reboot",
		"-kernel", kernel, "-initrd", initrd, "-append", "console="+m.console+" quiet panic=-1")...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.ReplaceAll(string(out), "\r", "")
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
