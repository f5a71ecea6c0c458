//go:build platforms

package platforms

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// guestKernels are those that the tests of cmd/defender can be run on.
var guestKernels = []struct {
	suite, version string
	machine        machine
}{
	{"bullseye", "5.10", amd64},
	{"bookworm", "6.1", amd64},
	{"trixie", "6.12", amd64},
	{"sid", "", amd64}, // the newest
	{"trixie", "6.12", arm64},
}

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

// TestOnKernels boots kernels, of another processor too, with a small Debian,
// and runs the sample task and tests of cmd/defender on each with both
// backends. Emulation has a tenth of a machine's speed or less, so it runs
// only if PLATFORM_TESTS names tests, as go test's -run does: "." are all.
func TestOnKernels(t *testing.T) {
	tests := os.Getenv("PLATFORM_TESTS")
	if tests == "" {
		t.Skip("needs PLATFORM_TESTS, the tests of cmd/defender to be run")
	}
	for _, k := range guestKernels {
		t.Run(k.machine.arch+"-"+k.suite, func(t *testing.T) {
			if _, err := exec.LookPath(k.machine.emulator[0]); err != nil {
				t.Skipf("needs %s", k.machine.emulator[0])
			}
			script := startServing + "\necho BEGIN check; /defender check; echo END"
			for _, backend := range []string{"notify", "ptrace"} {
				script += "\necho BEGIN " + backend + " sample; (cd /tmp && " + sampleTaskIn(backend) + " 2>&1; echo exit status $?); echo END"
				script += "\necho BEGIN " + backend + " tests; (" + testsIn(backend, "TEST_HANG=20m", tests, "^$") + "); echo END"
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
				t.Run(backend+"/tests", func(t *testing.T) { checkTests(t, section(t, out, backend+" tests")) })
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
	// Packed only, for the emulated processor would have to unpack it.
	run(t, root, "sh", "-c", "find . -xdev | cpio -o -H newc --quiet >"+initrd)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Hour) // against a hang
	defer cancel()
	cmd := exec.CommandContext(ctx, m.emulator[0], append(m.emulator[1:], "-m", "2048", "-smp", "2", "-nographic", "-no-reboot",
		"-kernel", kernel, "-initrd", initrd, "-append", "console="+m.console+" quiet panic=-1")...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.ReplaceAll(string(out), "\r", "")
}
