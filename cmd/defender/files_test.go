package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var monitoring = []string{"--file-monitoring"}

func denyFiles(paths ...string) string {
	for i := range paths {
		paths[i] = fmt.Sprintf("%q", paths[i])
	}
	return fmt.Sprintf(`version: 1
rules:
  - name: not these files
    files: {effect: prevent, deny: [%s]}
`, strings.Join(paths, ", "))
}

// guarded makes the folder that the victim "files" is to change.
func guarded(t *testing.T, r *run) string {
	t.Helper()
	if r.dir == "" {
		r.dir = workDir(t, r.uid)
	}
	dir := filepath.Join(r.dir, "guarded")
	for _, d := range []string{dir, filepath.Join(dir, "folder")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir, filepath.Join(dir, "folder"), filepath.Join(dir, "secret")} {
		if err := os.Chown(name, os.Getuid(), os.Getgid()); r.uid == 0 && err != nil {
			t.Fatal(err)
		}
		if r.uid != 0 {
			if err := os.Chown(name, r.uid, r.uid); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// audits returns the records but for the Defender's own news.
func (r result) audits() []record {
	return slices.DeleteFunc(slices.Clone(r.records), func(rec record) bool { return rec.Type == "defender" })
}

// says reports whether the Defender's own news have a word in them.
func (r result) says(word string) bool {
	return slices.ContainsFunc(r.records, func(rec record) bool { return rec.Type == "defender" && strings.Contains(rec.Msg, word) })
}

// TestFileWays changes files below a denied path in every way there is.
func TestFileWays(t *testing.T) {
	t.Parallel()
	ways := []string{
		"write", "read-write", "append", "mode-3", "truncate-read", "open", "creat", "openat2", "openat2-dirfd", "dirfd", "cwd",
		"dots", "symlink", "symlink-folder", "proc-fd", "dev-fd-path", "proc-fd-folder", "proc-root", "handle",
		"create", "create-read", "create-new", "create-nofollow", "dangling", "dangling-twice", "dangling-relative",
		"tmpfile-link", "tmpfile-link-empty", "truncate", "rename-away", "rename-over", "rename-in", "rename-folder",
		"rename-exchange", "link-out", "link-out-fd", "link-in", "unlink", "unlinkat", "rmdir", "rmdir-slash", "unlinkat-dir",
		"mkdir", "mkdir-slash", "mkdirat", "symlink-in", "mknod", "fifo", "socket", "chmod", "fchmod", "fchmodat", "fchmodat2",
		"chmod-folder", "chown", "lchown", "fchown", "fchownat-empty", "setxattr", "fsetxattr", "lsetxattr", "mount", "chroot",
	}
	rootOnly := map[string]bool{"handle": true, "tmpfile-link-empty": true, "link-out-fd": true, "lsetxattr": true, "mount": true, "chroot": true}
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			for _, uid := range []int{0, 1000} {
				if uid != 0 && (os.Getuid() != 0 || rootOnly[way]) || uid == 0 && os.Getuid() != 0 && rootOnly[way] {
					continue
				}
				alone := run{uid: uid}
				native := alone.native(t, victim("files"), way, guarded(t, &alone))
				if native.out != way+": ok\n" {
					t.Skipf("alone: %s%s", native.out, native.err)
				}
				denied := run{uid: uid, flags: monitoring}
				dir := guarded(t, &denied)
				denied.policy = denyFiles(dir)
				r := denied.protected(t, victim("files"), way, dir)
				if r.out != way+": EACCES\n" {
					t.Errorf("uid %d, protected: %q %s, want EACCES", uid, r.out, r.err)
				}
				if n := len(r.of("explicitlyDeniedFile")); n != 1 {
					t.Errorf("uid %d: %d audits of a denied file: %+v", uid, n, r.records)
				}
				data, err := os.ReadFile(filepath.Join(dir, "secret"))
				if string(data) != "secret" {
					t.Errorf("uid %d: the file was changed: %q, %v", uid, data, err)
				}
				// The same is done elsewhere as if we were not there.
				allowed := run{uid: uid, flags: monitoring, policy: denyFiles("/nowhere")}
				if r := allowed.protected(t, victim("files"), way, guarded(t, &allowed)); r.out != native.out || len(r.audits()) > 0 {
					t.Errorf("uid %d, allowed: %q %s, audits %+v", uid, r.out, r.err, r.records)
				}
			}
		})
	}
}

// TestFilesLeftAlone does to a denied folder, and elsewhere, what changes no
// file of it: all must be as it is alone.
func TestFilesLeftAlone(t *testing.T) {
	t.Parallel()
	for _, way := range []string{
		"read", "path", "missing", "missing-folder", "exists", "mkdir-exists", "folder", "below-file", "unlink-missing", "bad-address",
		"empty", "loop", "nofollow", "null", "stdout", "pipe", "substitution", "tmpfile", "memfd", "deleted", "mine", "proc",
	} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			alone := run{}
			native := alone.native(t, victim("files"), way, guarded(t, &alone))
			denied := run{flags: monitoring}
			dir := guarded(t, &denied)
			denied.policy = denyFiles(dir)
			if r := denied.protected(t, victim("files"), way, dir); r.out != native.out || r.status != native.status || len(r.audits()) > 0 {
				t.Errorf("protected: %q %s, alone: %q, audits %+v", r.out, r.err, native.out, r.records)
			}
		})
	}
}

// TestFilesUnmonitored changes a denied file without the flag.
func TestFilesUnmonitored(t *testing.T) {
	t.Parallel()
	r := run{}
	dir := guarded(t, &r)
	r.policy = denyFiles(dir)
	res := r.protected(t, victim("files"), "write", dir)
	if res.out != "write: ok\n" || !res.says("--file-monitoring") {
		t.Errorf("%q %s, audits %+v", res.out, res.err, res.records)
	}
}

// TestFilesOfAnother does as a user what only root could look at: the kernel's
// answer must not be ours, which knows what is there.
func TestFilesOfAnother(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, way := range []string{
		"write", "missing", "missing-folder", "exists", "mkdir-exists", "mkdir", "below-file", "unlink", "unlink-missing", "rename-away",
		"rename-over", "truncate", "chmod", "rmdir", "symlink-in", "link-in", "create", "create-new", "dangling", "nofollow", "mine",
	} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			private := func(r *run) string {
				dir := guarded(t, r)
				for name, mode := range map[string]os.FileMode{dir: 0o700, r.dir: 0o777} {
					if err := os.Chmod(name, mode); err != nil {
						t.Fatal(err)
					}
				}
				return dir
			}
			alone := run{}
			native := alone.native(t, victim("drop"), "exec", victim("files"), way, private(&alone))
			watched := run{flags: monitoring, policy: denyFiles("/nowhere")}
			r := watched.protected(t, victim("drop"), "exec", victim("files"), way, private(&watched))
			if r.out != native.out || len(r.audits()) > 0 {
				t.Errorf("protected: %q %s, alone: %q, audits %+v", r.out, r.err, native.out, r.records)
			}
			denied := run{flags: monitoring}
			dir := private(&denied)
			denied.policy = denyFiles(dir)
			if r := denied.protected(t, victim("drop"), "exec", victim("files"), way, dir); r.out != native.out {
				t.Errorf("denied: %q %s, alone: %q", r.out, r.err, native.out)
			}
		})
	}
}

// TestScriptedPackageManager changes programs by a package manager that is a
// script: what it starts may, and nobody who only calls himself so.
func TestScriptedPackageManager(t *testing.T) {
	t.Parallel()
	needRoot(t)
	if gvisor {
		t.Skip("an exec cannot be verified there, and then nothing is left out")
	}
	const itsOwn = `mount -t tmpfs none /mnt && mkdir /mnt/upper /mnt/work &&
		mount -t overlay none -o lowerdir=/usr/bin,upperdir=/mnt/upper,workdir=/mnt/work /usr/bin && cp yum /usr/bin/yum && chmod 755 /usr/bin/yum yum`
	if out, err := exec.Command("unshare", "-m", "sh", "-c", strings.NewReplacer("cp yum /usr/bin/yum", "true", "chmod 755 /usr/bin/yum yum", "true").Replace(itsOwn)).CombinedOutput(); err != nil {
		t.Skipf("needs an overlay: %v %s", err, out)
	}
	const policy = "version: 1\nrules:\n  - name: r\n    files: {effect: alert, detect: {binaries: alert}}\n"
	for name, c := range map[string]struct {
		script string
		told   bool
	}{
		"itself":            {"/usr/bin/yum cp /bin/true /usr/bin/made", false},
		"its script's":      {"/usr/bin/yum sh -c 'cp /bin/true /usr/bin/made; :'", false},
		"another":           {"cp /bin/true /usr/bin/made", true},
		"another, after it": {"/usr/bin/yum true; cp /bin/true /usr/bin/made", true},
		"in its place":      {"/usr/bin/yum exec cp /bin/true /usr/bin/made", true},
		"another's name":    {"bash -c 'exec -a /usr/bin/yum bash ./yum cp /bin/true /usr/bin/made'", true},
		"a namesake":        {"./yum cp /bin/true /usr/bin/made", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := workDir(t, 0)
			give(t, dir, map[string][]byte{"yum": []byte("#!/bin/sh\n\"$@\"\n")})
			r := run{dir: dir, flags: monitoring, policy: policy, wrap: inMounts(itsOwn)}.protected(t, "sh", "-c", c.script+"; /usr/bin/made && echo done")
			if r.out != "done\n" || len(r.audits()) > 0 != c.told {
				t.Errorf("%q %s, audits %+v", r.out, r.err, r.records)
			}
		})
	}
}
