//go:build platforms

package platforms

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// An init is a first process for containers with a public test suite. The
// Defender stands in for it: a script of its name starts "defender run". What
// the suite asks beyond our subject is cut out or left out, and
// docs/supervision.md says why.
type initProcess struct {
	name    string
	program string            // the script's path below the source
	script  string            // before the defender is started, in sh
	cut     [][2]string       // from the first text to the second, in test
	test    string            // the file that is changed
	replace map[string]string // in test and beside it
	run     []string          // in the source
	passed  string            // what a run that passed says
}

var inits = []initProcess{
	{
		name: "tini", program: "build/tini", test: "test/run_inner_tests.py",
		cut: [][2]string{
			// TINI_KILL_PROCESS_GROUP, and the warning that zombies are not reaped.
			{"    # Run the process group test", "    # Test that the signals are properly in place here."},
		},
		replace: map[string]string{"import bitmap\n": bitmap},
		run:     []string{"python3", "test/run_inner_tests.py"}, passed: "All done, tests as expected",
	},
	{
		name: "dumb-init", program: "build/dumb-init", test: "tests/child_processes_test.py",
		script: `while :; do case $1 in -c) shift;; --) shift; break;; *) break;; esac; done`,
		replace: map[string]string{
			// Process 1 may take its time to reap the guardian and the watcher.
			"from testing import sleep_until\n": "import testing\n\ndef sleep_until(fn): testing.sleep_until(fn, timeout=30)\n",
			// We are three: guardian, watcher and supervisor.
			"assert len(living_pids(pid_tree(os.getpid()))) == 6": "assert len(living_pids(pid_tree(os.getpid()))) == 8",
			// Until the program catches signals, not for a second.
			"print_signals & sleep 1'": "print_signals & until grep -q 7ffafeff /proc/$!/status; do sleep 0.1; done'",
			// What outlived the target has ended already.
			"    os.kill(child_pid, signal.SIGKILL)\n": "",
			// A message of theirs; the status is checked.
			"    assert (\n        b'[dumb-init] /doesnotexist: No such file or directory\\n'\n        in stderr\n    )\n": "    assert proc.returncode == 127\n",
		},
		run: []string{"python3", "-m", "pytest", "-v", "-p", "no:cacheprovider", "-o", "timeout=0", "tests",
			"--ignore", "tests/cli_test.py", // options and texts
			"-k", strings.Join([]string{
				"not rewrite", "not ignored_signals", // option -r
				"not doesnt_signal_entire_group", "not dont_receive_term", // what outlives the target is ended
				"not working_directories",    // ours stay
				"not shell_background",       // stops with the target (docs/supervision.md)
				"not sighup_sigcont_ignored", // their debugging output
			}, " and ")},
		passed: " passed",
	},
}

// bitmap stands in for a module that Debian has not: the numbers of the bits
// of a string that is read from its end. Signals 32 and 33 are the C
// library's own, and ignored in whatever posix_spawn(3) has started.
const bitmap = `
class bitmap:
    class BitMap:
        def __init__(self, s): self.s = s[::-1]
        def nonzero(self): return [i for i, c in enumerate(self.s) if c == "1" and i not in (31, 32)]
        @staticmethod
        def fromstring(s): return bitmap.BitMap(s)
`

// TestInits runs the test suites of tini and dumb-init, as Debian has their
// sources, against "defender run".
func TestInits(t *testing.T) {
	root(t)
	if out, err := exec.Command("/usr/bin/python3", "-c", "import pytest, psutil, prctl").CombinedOutput(); err != nil {
		t.Skipf("needs python3-pytest, python3-psutil and python3-prctl: make test-platforms installs them: %s", out)
	}
	for _, in := range inits {
		source := in.source(t)
		for _, backend := range []string{"notify", "ptrace"} {
			t.Run(in.name+"/"+backend, func(t *testing.T) { in.suite(t, source, backend) })
		}
	}
}

func (in initProcess) suite(t *testing.T, source, backend string) {
	dir := t.TempDir()
	run(t, "", "cp", "-a", source+"/.", dir)
	build := filepath.Join(dir, "build")
	if err := os.MkdirAll(build, 0o755); err != nil {
		t.Fatal(err)
	}
	if helpers := filepath.Join(dir, "testing/__init__.py"); in.name == "dumb-init" {
		// At the end of a test each process is killed; the first of ours ends the others.
		const kill, patient = "        os.kill(pid, signal.SIGKILL)\n", "        try: os.kill(pid, signal.SIGKILL)\n        except ProcessLookupError: pass\n"
		text, err := os.ReadFile(helpers)
		if err != nil || !strings.Contains(string(text), kill) {
			t.Fatalf("%s does not kill as it did: %v", helpers, err)
		}
		if err := os.WriteFile(helpers, []byte(strings.ReplaceAll(string(text), kill, patient)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	script := "#!/bin/sh\n" + in.script + "\nexec " + defender(t) + ` run --audit-log none -- "$@"` + "\n"
	for name, text := range map[string]string{in.program: script, in.test: in.changed(t, filepath.Join(dir, in.test))} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"python", "python3"} { // Debian's own, whatever else there is
		if err := os.Symlink("/usr/bin/python3", filepath.Join(build, name)); err != nil {
			t.Fatal(err)
		}
	}
	if in.name == "tini" {
		run(t, dir, "gcc", "-o", "build/sigconf-test", "test/sigconf/sigconf-test.c")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // against a hang
	defer cancel()
	cmd := exec.CommandContext(ctx, in.run[0], in.run[1:]...)
	cmd.Path = filepath.Join(build, in.run[0])
	cmd.Dir = dir
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "PATH="+build+":"+os.Getenv("PATH"), "DEFENDER_SUPERVISOR="+backend,
		"SOURCE_DIR="+dir, "BUILD_DIR="+build, "FORCE_SUBREAPER=1", "MINIMAL=1", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), in.passed) {
		t.Errorf("%v\n%s", err, out)
		return
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "PASSED") || strings.HasPrefix(line, "Running") || strings.Contains(line, in.passed) {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// changed returns the test with what is not our subject cut out.
func (in initProcess) changed(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for _, c := range in.cut {
		from, to := strings.Index(text, c[0]), strings.Index(text, c[1])
		if from < 0 || to < from {
			t.Fatalf("%s has changed: no %q before %q", in.test, c[0], c[1])
		}
		text = text[:from] + text[to:]
	}
	for old, with := range in.replace {
		if !strings.Contains(text, old) {
			t.Fatalf("%s has changed: no %q", in.test, old)
		}
		text = strings.ReplaceAll(text, old, with)
	}
	return text
}

// source downloads and unpacks Debian's source of an init.
func (in initProcess) source(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(shared, in.name)
	list := filepath.Join(shared, "Sources.xz")
	if _, err := os.Stat(list); err != nil {
		if err := download(mirror(t)+"/dists/bookworm/main/source/Sources.xz", list); err != nil {
			t.Skipf("needs Debian's list of sources: %v", err)
		}
	}
	paragraph := regexp.MustCompile(`(?m)^Package: ` + in.name + `\n(?:[^\n]+\n)+`).FindString(run(t, "", "xz", "-dc", list))
	where := regexp.MustCompile(`(?m)^Directory: (\S+)`).FindStringSubmatch(paragraph)
	file := regexp.MustCompile(`(?m) (\S+\.orig\.tar\.\w+)$`).FindStringSubmatch(paragraph)
	if where == nil || file == nil {
		t.Fatalf("Debian has no source of %s", in.name)
	}
	archive := filepath.Join(shared, file[1])
	if err := download(mirror(t)+"/"+where[1]+"/"+file[1], archive); err != nil {
		t.Skipf("needs the source of %s: %v", in.name, err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "", "tar", "-xf", archive, "-C", dir, "--strip-components=1")
	return dir
}
