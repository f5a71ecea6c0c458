//go:build platforms

package platforms

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// gvisorVersion is the one whose runsc is tested.
const gvisorVersion = "v0.0.0-20260224225140-573d5e7127a8"

// runsc builds gVisor's runtime once, in a module of its own: it takes a
// minute, and go.mod shall not know of it.
var runsc = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(shared, "runsc")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	for _, argv := range [][]string{
		{"go", "mod", "init", "runsc"},
		{"go", "get", "gvisor.dev/gvisor/runsc@" + gvisorVersion},
		{"go", "build", "gvisor.dev/gvisor/runsc"},
	} {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod") // a dynamic one does not start
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", errors.New(string(out))
		}
	}
	return filepath.Join(dir, "runsc"), nil
})

// TestGVisor runs the sample task and the tests of cmd/defender inside gVisor,
// as Cloud Run's first generation does, under both its platforms. It has
// loopback and no other network.
//
// gVisor has no pidfd_getfd: connects are checked, so whoever races one wins,
// and one refused message refuses all of a sendmmsg. It has no fast open
// and some socket options, and its ptrace platform takes numbers of int 0x80
// for those of the other table, where 102 is getuid and 11 munmap. Its /proc shows anybody another's fdinfo.
func TestGVisor(t *testing.T) {
	root := guestRoot(t, amd64)
	program, err := runsc()
	if err != nil {
		t.Skipf("needs gVisor from the module proxy: %v", err)
	}
	for _, platform := range []string{"systrap", "ptrace"} {
		sandbox := func(t *testing.T, script string) (string, int) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // against a hang
			defer cancel()
			cmd := exec.CommandContext(ctx, program, "--network=none", "--ignore-cgroups", "--platform="+platform,
				"do", "-quiet", "-root", root, "-cwd", "/", "--", "sh", "-c", script)
			out, err := cmd.CombinedOutput()
			var status *exec.ExitError
			if err != nil && !errors.As(err, &status) {
				t.Fatalf("%v\n%s", err, out)
			}
			return string(out), cmd.ProcessState.ExitCode()
		}
		t.Run(platform+"/sample task", func(t *testing.T) {
			// As the first process, as in a container.
			out, status := sandbox(t, startServing+"; cd /tmp && exec "+sampleTaskIn("auto"))
			if status != 42 {
				t.Errorf("exit status %d, want 42", status)
			}
			checkSampleTask(t, out)
		})
		t.Run(platform+"/tests", func(t *testing.T) {
			out, _ := sandbox(t, testsIn("ptrace", "TEST_PLATFORM=gvisor TEST_DEATH_ROUNDS=1", gvisorTests, gvisorSkip))
			checkTests(t, out)
		})
	}
}

// gvisorTests are those of cmd/defender that a sandbox runs, and of these
// gvisorSkip what gVisor has not.
const (
	gvisorTests = kernelTests + "|TestExecWays|TestExecByAnother|TestConnectWays|TestUnixWays|TestFileWays|TestKilledTarget|TestScripts/status"
	gvisorSkip  = "TestConnectWays/(mapped-short|unspec|fastopen|sendmmsg$|int80-socketcall)|TestOtherTables/int80$|TestExecByAnother/loader_that_says_another_byte_order"
)
