package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A disk that is full leaves what was there, and no trash; the tool says so.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a small disk")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "defenderctl")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	task := write(t, "task.json", plain+strings.Repeat("\n", 100<<10))
	policy := write(t, "policy.yaml", "version: 1\n")
	flags := []string{"--defender-image", "d:1", "--policy", policy, "--app-id", "f:1"}
	inSmall := func(script string, args ...string) (string, error) {
		// The disk is this process's alone.
		c := exec.Command("unshare", append([]string{"--mount", "sh", "-c", `mount -t tmpfs -o size=64k none "$1" || exit 99
			cd "$1"; echo before >file; shift; ` + script, "sh", t.TempDir()}, args...)...)
		out, err := c.CombinedOutput()
		return string(out), err
	}
	said, err := inSmall(`"$@" -o file; echo "exit $?"; cat file; ls -A`, append([]string{program, "embed", "task-definition", task}, flags...)...)
	if err != nil {
		t.Skipf("cannot mount here: %v: %s", err, said)
	}
	if !strings.Contains(said, "no space left on device") || !strings.HasSuffix(said, "exit 1\nbefore\nfile\n") {
		t.Errorf("said %s", said)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	c := exec.Command(program, append([]string{"embed", "task-definition", task}, flags...)...)
	var errs bytes.Buffer
	c.Stdout, c.Stderr = full, &errs
	if err := c.Run(); err == nil || !strings.Contains(errs.String(), "no space left on device") {
		t.Errorf("standard output is full: %v, %s", err, &errs)
	}
}

// What is no file is written to, and stays what it is; a link stays a link.
func TestOutputs(t *testing.T) {
	dir := t.TempDir()
	policy := write(t, "policy.yaml", "version: 1\n")
	flags := []string{"embed", "task-definition", write(t, "task.json", plain), "--defender-image", "d:1", "--policy", policy, "--app-id", "f:1", "-o"}
	if _, errs, exit := ctl(t, "", append(flags, "/dev/null")...); exit != 0 {
		t.Errorf("exit %d: %s", exit, errs)
	}
	if info, err := os.Stat("/dev/null"); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		t.Fatalf("/dev/null is %v, %v", info.Mode(), err)
	}
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	if err := os.WriteFile(real, []byte("before"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", link); err != nil {
		t.Fatal(err)
	}
	if _, errs, exit := ctl(t, "", append(flags, link)...); exit != 0 {
		t.Errorf("exit %d: %s", exit, errs)
	}
	info, err := os.Lstat(link)
	if err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", info.Mode(), err)
	}
	if data, err := os.ReadFile(real); err != nil || !bytes.Contains(data, []byte("appdefender")) {
		t.Errorf("%v: %s", err, data)
	}
}
