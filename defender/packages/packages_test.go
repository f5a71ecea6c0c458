package packages

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// image writes a root with these files in it; the text of a link begins with
// "-> ".
func image(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		at := root + name
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(to, at)
		} else {
			err = os.WriteFile(at, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// unpacked is a database of testdata.
func unpacked(t testing.TB, name string) string {
	t.Helper()
	f, err := os.Open("testdata/" + name + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func md5Of(s string) string { sum := md5.Sum([]byte(s)); return hex.EncodeToString(sum[:]) }

// matches reports whether a file with this content is as recorded; known, that
// there is a record.
func matches(d *Database, name, content string) (is, known bool) {
	for _, sum := range d.Recorded(name) {
		h := sum.Hash().New()
		_, _ = h.Write([]byte(content))
		is, known = is || sum.Is(h.Sum(nil)), true
	}
	return is, known
}

func TestRecorded(t *testing.T) {
	sha1Of := func(s string) string { sum := sha1.Sum([]byte(s)); return base64.StdEncoding.EncodeToString(sum[:]) }
	sha256Of := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return base64.StdEncoding.EncodeToString(sum[:])
	}
	dpkg := func(files ...string) string {
		var b strings.Builder
		for _, f := range files {
			name, content, _ := strings.Cut(f, "=")
			fmt.Fprintf(&b, "%s  %s\n", md5Of(content), name)
		}
		return b.String()
	}
	rpm := func(name string) string { return unpacked(t, name) }
	for _, c := range []struct {
		name  string
		files map[string]string
		is    []string // "path=content" as recorded
		not   []string // recorded otherwise
		none  []string // paths without a record
	}{
		{"nothing", nil, nil, nil, []string{"/usr/bin/ls"}},
		{"dpkg", map[string]string{dpkgInfo + "/coreutils.md5sums": dpkg("usr/bin/ls=ls", "usr/bin/cp=cp"), dpkgInfo + "/libc6:amd64.md5sums": dpkg("usr/lib/libc.so.6=libc"), dpkgInfo + "/x.list": "/usr/bin/x\n"},
			[]string{"/usr/bin/ls=ls", "/usr/bin/cp=cp", "/usr/lib/libc.so.6=libc"}, []string{"/usr/bin/ls=other"}, []string{"/usr/bin/x", "/ls", ""}},
		{"dpkg, merged folders", map[string]string{"/bin": "-> usr/bin", "/usr/sbin": "-> /usr/bin", dpkgInfo + "/a.md5sums": dpkg("bin/ls=ls", "usr/sbin/y=y", "sbin/z=z")},
			[]string{"/usr/bin/ls=ls", "/usr/bin/y=y", "/sbin/z=z"}, nil, []string{"/bin/ls", "/usr/sbin/y"}},
		{"dpkg, diverted", map[string]string{
			dpkgInfo + "/a.md5sums": dpkg("usr/bin/x=mine"), dpkgInfo + "/b.md5sums": dpkg("usr/bin/x=theirs", "sbin/initctl=init"),
			diversions: "/usr/bin/x\n/usr/bin/x.real\na\n/sbin/initctl\n/sbin/initctl.distrib\n:\n",
		}, []string{"/usr/bin/x=mine", "/usr/bin/x.real=theirs", "/sbin/initctl.distrib=init"}, []string{"/usr/bin/x=theirs"}, []string{"/sbin/initctl"}},
		{"dpkg, in two packages", map[string]string{dpkgInfo + "/a.md5sums": dpkg("usr/bin/x=one"), dpkgInfo + "/b.md5sums": dpkg("usr/bin/x=two")},
			[]string{"/usr/bin/x=one", "/usr/bin/x=two"}, []string{"/usr/bin/x=three"}, nil},
		{"dpkg, odd lines", map[string]string{dpkgInfo + "/a.md5sums": "\n" + md5Of("x") + "\nzz" + md5Of("x")[2:] + "  usr/bin/bad\nshort  usr/bin/short\n" + md5Of("b") + " *usr/bin/b\n" + md5Of("sp") + "  usr/bin/with space"},
			[]string{"/usr/bin/b=b", "/usr/bin/with space=sp"}, nil, []string{"/usr/bin/bad", "/usr/bin/short", "/"}},
		{"distroless", map[string]string{dpkgStatus + "/base.md5sums": dpkg("./usr/bin/x=x"), dpkgStatus + "/base": "Package: base\n"}, []string{"/usr/bin/x=x"}, nil, nil},
		{"apk", map[string]string{"/lib/apk/db/installed": "C:Q1abc=\nP:busybox\nF:bin\nM:0:0:1777\nR:busybox\na:0:0:755\nZ:Q1" + sha1Of("bb") + "\nR:sh\nF:etc/x\nR:new\nZ:Q2" + sha256Of("n") + "\nR:bad\nZ:Q1!!\n\nP:other\nR:lost\nZ:Q1" + sha1Of("l") + "\n"},
			[]string{"/bin/busybox=bb", "/etc/x/new=n", "/lost=l"}, []string{"/bin/busybox=x"}, []string{"/bin/sh", "/etc/x/bad", "/etc/x/lost"}},
		{"apk, merged folders", map[string]string{"/bin": "-> usr/bin", "/lib": "-> usr/lib", "/usr/lib/apk/db/installed": "F:bin\nR:x\nZ:Q1" + sha1Of("x") + "\n"}, []string{"/usr/bin/x=x"}, nil, []string{"/bin/x"}},
		{"rpm, SQLite", map[string]string{"/usr/lib/sysimage/rpm/rpmdb.sqlite": rpm("rpmdb.sqlite"), "/var/lib/rpm": "-> ../../usr/lib/sysimage/rpm"},
			[]string{"/usr/bin/tool=tool", "/usr/share/sample/file200=file 200", "/usr/bin/twin=twin"}, []string{"/usr/bin/tool=x"}, []string{"/usr/bin/other", "/etc/sample.conf", "/usr/share/sample"}},
		{"rpm, SQLite with a log", map[string]string{"/var/lib/rpm/rpmdb.sqlite": rpm("rpmdb.sqlite"), "/var/lib/rpm/rpmdb.sqlite-wal": rpm("rpmdb.sqlite-wal")},
			[]string{"/usr/bin/tool=tool"}, nil, []string{"/usr/bin/twin"}},
		{"rpm, Berkeley DB", map[string]string{"/var/lib/rpm/Packages": rpm("Packages")}, []string{"/usr/bin/tool=tool", "/usr/bin/twin=twin", "/usr/share/sample/file1=file 1"}, nil, []string{"/etc/sample.conf"}},
		{"rpm, ndb", map[string]string{"/usr/lib/sysimage/rpm/Packages.db": rpm("Packages.db")}, []string{"/usr/bin/tool=tool", "/usr/bin/twin=twin", "/usr/share/sample/file1=file 1"}, nil, []string{"/etc/sample.conf"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := image(t, c.files)
			d := Read(root, Find(root), time.Time{})
			if d.Err() != nil || d.Changed() {
				t.Errorf("changed %t: %v", d.Changed(), d.Err())
			}
			for _, f := range c.is {
				name, content, _ := strings.Cut(f, "=")
				if is, known := matches(d, name, content); !is {
					t.Errorf("%s is not as recorded (known: %t)", f, known)
				}
			}
			for _, f := range c.not {
				name, content, _ := strings.Cut(f, "=")
				if is, known := matches(d, name, content); is || !known {
					t.Errorf("%s: as recorded %t, known %t", f, is, known)
				}
			}
			for _, name := range c.none {
				if d.Recorded(name) != nil {
					t.Errorf("%q has a record", name)
				}
			}
		})
	}
}

// TestChanged reads databases that were changed since the start.
func TestChanged(t *testing.T) {
	list := func(content string) string { return md5Of(content) + "  usr/bin/x\n" }
	files := map[string]string{
		dpkgInfo + "/a.md5sums": list("image"), dpkgInfo + "/b.md5sums": md5Of("b") + "  usr/bin/b\n",
		"/lib/apk/db/installed": "P:x\n", "/var/lib/rpm/rpmdb.sqlite": unpacked(t, "rpmdb.sqlite"),
	}
	for _, c := range []struct {
		name   string
		change func(root string) error
		known  bool // the record of /usr/bin/x is still had
	}{
		{"rewritten", func(root string) error {
			return os.WriteFile(root+dpkgInfo+"/a.md5sums", []byte(list("evil")), 0o644)
		}, false},
		{"rewritten, with its old time", func(root string) error {
			name := root + dpkgInfo + "/a.md5sums"
			st, err := os.Stat(name)
			if err == nil {
				err = os.WriteFile(name, []byte(list("evil")), 0o644)
			}
			if err == nil {
				err = os.Chtimes(name, st.ModTime(), st.ModTime())
			}
			return err
		}, false},
		{"removed", func(root string) error { return os.Remove(root + dpkgInfo + "/a.md5sums") }, false},
		{"added", func(root string) error {
			return os.WriteFile(root+dpkgInfo+"/c.md5sums", []byte(list("evil")), 0o644)
		}, true},
		{"removed as a whole", func(root string) error { return os.RemoveAll(root + dpkgInfo) }, false},
		{"apk's removed", func(root string) error { return os.Remove(root + "/lib/apk/db/installed") }, true},
		{"rpm's removed", func(root string) error { return os.Remove(root + "/var/lib/rpm/rpmdb.sqlite") }, true},
		{"a log beside rpm's", func(root string) error {
			return os.WriteFile(root+"/var/lib/rpm/rpmdb.sqlite-wal", []byte(unpacked(t, "rpmdb.sqlite-wal")), 0o644)
		}, true},
		{"a FIFO", func(root string) error {
			name := root + dpkgInfo + "/a.md5sums"
			if err := os.Remove(name); err != nil {
				return err
			}
			return unix.Mkfifo(name, 0o644)
		}, false},
		{"a link to another", func(root string) error {
			name := root + dpkgInfo + "/a.md5sums"
			if err := os.WriteFile(root+"/evil", []byte(list("evil")), 0o644); err != nil {
				return err
			}
			if err := os.Remove(name); err != nil {
				return err
			}
			return os.Symlink("/evil", name)
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := image(t, files)
			had := Find(root)
			trust := settle(t, root)
			if err := c.change(root); err != nil {
				t.Fatal(err)
			}
			d := Read(root, had, trust)
			if !d.Changed() {
				t.Error("it is not seen")
			}
			if is, _ := matches(d, "/usr/bin/x", "evil"); is {
				t.Error("what the target wrote is believed")
			}
			if _, known := matches(d, "/usr/bin/x", "image"); known != c.known {
				t.Errorf("the image's record is known: %t", known)
			}
			if _, known := matches(d, "/usr/bin/b", "b"); !known && c.name != "removed as a whole" {
				t.Error("another package's record is lost")
			}
		})
	}
	root := image(t, files)
	if d := Read(root, Find(root), settle(t, root)); d.Changed() || d.Err() != nil {
		t.Errorf("unchanged: %v", d.Err())
	}
}

// settle returns a time after all changes below root and before the next one:
// the kernel's clock of files advances in steps.
func settle(t *testing.T, root string) time.Time {
	t.Helper()
	for begin := time.Now(); ; {
		time.Sleep(5 * time.Millisecond)
		name := filepath.Join(root, "clock")
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil {
			t.Fatal(err)
		}
		if at := time.Unix(st.Ctim.Unix()); at.After(begin) {
			time.Sleep(20 * time.Millisecond)
			return at
		}
	}
}

// TestDamaged reads what is no database.
func TestDamaged(t *testing.T) {
	for name, text := range map[string]string{
		"/var/lib/rpm/rpmdb.sqlite":   "no database",
		"/var/lib/rpm/Packages.db":    "",
		"/var/lib/rpm/Packages":       strings.Repeat("x", 4096),
		"/lib/apk/db/installed":       strings.Repeat("x", maxLineSize+1),
		dpkgInfo + "/a.md5sums":       strings.Repeat("x", maxLineSize+1),
		"/usr/share/rpm/rpmdb.sqlite": unpacked(t, "rpmdb.sqlite")[:100<<10],
	} {
		root := image(t, map[string]string{name: text})
		if d := Read(root, nil, time.Time{}); d.Err() == nil || !d.Changed() {
			t.Errorf("%s: read without an error", name)
		}
	}
	root := image(t, nil)
	if err := os.MkdirAll(root+"/lib/apk/db", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(root+"/lib/apk/db/installed", 0o644); err != nil {
		t.Fatal(err)
	}
	if d := Read(root, nil, time.Time{}); d.Err() == nil {
		t.Error("a FIFO is a database")
	}
}

// TestThisMachine compares every program of this machine's packages with its
// record.
func TestThisMachine(t *testing.T) {
	begin := time.Now()
	d := Read("", Find(""), time.Time{})
	if d.Len() == 0 {
		t.Skip("this machine has no packages")
	}
	t.Logf("%d files in %v", d.Len(), time.Since(begin))
	checked, altered := 0, 0
	for _, dir := range []string{"/usr/bin", "/usr/sbin", "/bin"} {
		if real, err := filepath.EvalSymlinks(dir); err != nil || real != dir {
			continue
		}
		list, _ := os.ReadDir(dir)
		for _, f := range list {
			name := filepath.Join(dir, f.Name())
			if !f.Type().IsRegular() || d.Recorded(name) == nil || checked >= 300 {
				continue
			}
			data, err := os.ReadFile(name)
			if err != nil {
				continue
			}
			checked++
			if is, _ := matches(d, name, string(data)); !is {
				altered++
				t.Logf("%s is not as its package recorded it", name)
			}
		}
	}
	if checked == 0 || altered > checked/20 {
		t.Errorf("%d of %d programs are altered", altered, checked)
	}
}

func FuzzDatabases(f *testing.F) {
	for _, name := range []string{"rpmdb.sqlite", "Packages", "Packages.db", "rpmdb.sqlite-wal"} {
		f.Add([]byte(unpacked(f, name)))
	}
	f.Fuzz(func(_ *testing.T, data []byte) {
		r := &reader{Database: &Database{seed: maphash.MakeSeed()}, aliases: make(map[string]string)}
		in, size := bytes.NewReader(data), int64(len(data))
		_ = sqliteBlobs(in, size, nil, r.header)
		_ = ndbBlobs(in, size, r.header)
		_ = bdbBlobs(in, size, r.header)
	})
}

func FuzzHeader(f *testing.F) {
	data := unpacked(f, "Packages.db")
	if err := ndbBlobs(strings.NewReader(data), int64(len(data)), func(blob []byte) error {
		f.Add(slices.Clone(blob))
		return nil
	}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, data []byte) {
		r := &reader{Database: &Database{seed: maphash.MakeSeed()}, aliases: make(map[string]string)}
		_ = r.header(data)
	})
}

func FuzzLines(f *testing.F) {
	f.Add("F:bin\nR:busybox\nZ:Q1qvTGHdzF6KLavt4PO0gs2a6pQ00=\n")
	f.Add("d41d8cd98f00b204e9800998ecf8427e  usr/bin/x\n")
	f.Fuzz(func(t *testing.T, text string) {
		var b strings.Builder
		if lines(strings.NewReader(text), func(line []byte) { b.Write(line); b.WriteByte('\n') }) != nil {
			return
		}
		if got, want := b.String(), text; got != want && got != want+"\n" {
			t.Errorf("%q became %q", want, got)
		}
	})
}

func TestSums(t *testing.T) {
	for _, s := range []string{"", "Q", "Q1", "Q3AAAA", "Q1AAAA", "Q2AAAA", "X1" + strings.Repeat("A", 27) + "="} {
		if hash, _ := apkSum([]byte(s)); hash != 0 {
			t.Errorf("%q is a digest", s)
		}
	}
	if hash, sum := apkSum([]byte("Q1" + strings.Repeat("A", 27) + "=")); hash != crypto.SHA1 || len(sum) != 20 {
		t.Errorf("%d, %d bytes", hash, len(sum))
	}
}
