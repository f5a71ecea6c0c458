package endtoend

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// A Console is lost with its disk and comes back from a backup: Defenders then
// have a later policy and more audits acknowledged than it knows. None of them
// is stuck, and what they have from then on arrives.
func TestRestoredFromABackup(t *testing.T) {
	t.Parallel()
	s := serve(t)
	token := s.token("t")
	s.rule("prevent", "mkdir")
	task := s.protect(t, []string{"--token-file", token, "--app-id", "task", "--data-dir", t.TempDir()}, "sh", "-c", loop, t.TempDir())
	await(t, "mkdir is refused", func() bool { return last(task) == "refused" && len(s.audits(nil)) > 0 })

	copied := filepath.Join(t.TempDir(), "copy")
	run := func(want string) {
		t.Helper()
		out, err := exec.Command(filepath.Join(bin, "console"), "backup", "--data-dir", s.dir, copied).CombinedOutput()
		if !strings.Contains(string(out), want) {
			t.Fatalf("backup: %v: %s", err, out)
		}
	}
	run("and the certificate authority")
	run("exists")
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(copied), ".backup*")); len(left) > 0 {
		t.Errorf("there is %q", left)
	}

	// What nobody will know of after the restore.
	for _, effect := range []string{"alert", "disable", "alert"} {
		s.rule(effect, "mkdir")
	}
	later := s.protect(t, []string{"--token-file", token, "--app-id", "later"}, "sh", "-c", loop, t.TempDir())
	var before known
	await(t, "both have the latest policy and have sent audits", func() bool {
		all := s.defenders()
		for _, d := range all {
			if d.AppID == "task" {
				before = d
			}
		}
		return len(all) == 2 && !slices.ContainsFunc(all, func(d known) bool { return d.Generation != all[0].Generation || d.Acknowledged < 5 }) &&
			last(task) == "made" && last(later) == "made"
	})

	s.kill()
	if err := errors.Join(os.Rename(s.dir, s.dir+"-lost"), os.Rename(copied, s.dir)); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	s.signIn()
	await(t, "the policy of the backup holds", func() bool { return last(task) == "refused" && last(later) == "refused" })
	await(t, "the Console is above what it once gave", func() bool {
		all := s.defenders()
		return len(all) == 2 && !slices.ContainsFunc(all, func(d known) bool { return d.Generation <= before.Generation || d.PolicyError != "" })
	})
	s.says(t, "was it restored from a backup?")
	s.rule("alert", "mkdir")
	await(t, "a change holds", func() bool { return last(task) == "made" && last(later) == "made" })

	// From here on every audit is there.
	now := task.out.String()
	from := strings.Count(now, "\n") + 1
	await(t, "the task goes on", func() bool { return strings.Count(task.out.String(), "\n") > from+5 })
	for _, p := range []*process{task, later} {
		p.signal(syscall.SIGTERM)
		p.exit()
	}
	till := strings.Count(task.out.String(), "\n")
	has := func(i int) bool {
		return slices.ContainsFunc(s.audits(url.Values{"appID": {"task"}, "type": {"processes"}}), func(a kept) bool {
			return strings.HasSuffix(a.Record.Command, fmt.Sprintf("/d%d", i))
		})
	}
	for i := from; i <= till; i++ {
		await(t, fmt.Sprintf("the audit of d%d is there", i), func() bool { return has(i) })
	}
	if said := s.audits(url.Values{"text": {"numbering on"}}); len(said) == 0 {
		t.Error("nobody says that the Console lost audits")
	}
}

// TestConsoleDiskFull lets the Console's disk run full: audits wait with their
// Defenders, people can sign in and change the policy, and when there is room
// nothing is lost and nothing doubled.
func TestConsoleDiskFull(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a disk")
	}
	s := serve(t, "--max-size", "0")
	s.kill()
	// The same data on a disk of its own, which nobody else sees.
	keep := s.dir + "-keep"
	if err := errors.Join(os.Rename(s.dir, keep), os.Mkdir(s.dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	s.before = []string{"unshare", "-m", "sh", "-c", `mount -t tmpfs -o size=48m tmpfs "$0" && cp -a "$1/." "$0" && shift && exec "$@"`, s.dir, keep}
	s.start(t)
	inside := func(script string) string {
		t.Helper()
		out, err := exec.Command("nsenter", "-m", "-t", fmt.Sprint(s.cmd.Process.Pid), "sh", "-c", script, s.dir).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", script, err, out)
		}
		return string(out)
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(inside(filepath.Join(bin, "console")+` token create --data-dir "$0" t`)), 0o600); err != nil {
		t.Fatal(err)
	}
	src, _ := s.newSource(t, t.TempDir(), token, "load")
	ended := make(chan struct{})
	told := make(chan int)
	go func() { told <- src.tell(4000, ended) }()
	s.says(t, "status=507", "the Console's disk is full")
	await(t, "the Defender says so", func() bool {
		return strings.Contains(src.said(), "507 Insufficient Storage: the Console's disk is full")
	})
	close(ended)
	n := <-told

	s.signIn()
	s.rule("alert", "mkdir")
	if d := s.defenders(); len(d) != 1 || d[0].State != "connected" {
		t.Errorf("the Defenders are %+v", d)
	}
	t.Logf("the disk was full after %d records:\n%s", n, inside(`df "$0"; ls -l "$0"`))

	inside(`mount -o remount,size=512m "$0"`)
	if err := src.line.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	all := s.audits(url.Values{"type": {"processes"}})
	for _, a := range all {
		seen[a.Record.Msg] = true
	}
	if len(all) != n || len(seen) != n {
		t.Errorf("of %d records there are %d, %d of them different", n, len(all), len(seen))
	}
}
