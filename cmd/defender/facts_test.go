package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func detectRule(section, keys string) string {
	return fmt.Sprintf("version: 1\nrules:\n  - name: r\n    %s: {effect: alert, %s}\n", section, keys)
}

// effects runs a command under a rule with each effect in the place of EFFECT.
// A refused one does not print what it prints alone.
func effects(t *testing.T, r run, policy, attack, ran string, argv ...string) {
	t.Helper()
	for _, effect := range []string{"disable", "alert", "prevent"} {
		r.dir = ""
		r.policy = strings.ReplaceAll(policy, "EFFECT", effect)
		got := r.protected(t, argv...)
		switch told := got.of(attack); {
		case effect != "prevent" && got.out != ran, effect == "prevent" && got.out == ran:
			t.Errorf("%s: %q %s, audits %+v", effect, got.out, got.err, got.records)
		case effect == "disable" && len(got.audits()) > 0, effect != "disable" && len(told) == 0:
			t.Errorf("%s: audits %+v", effect, got.records)
		case effect != "disable" && (told[0].Effect != effect || told[0].Refused != (effect == "prevent")):
			t.Errorf("%s: audit %+v", effect, told[0])
		}
	}
}

// ownMounts starts what follows with mounts of its own.
var ownMounts = []string{"unshare", "-m", "sh", "-c", `exec "$@"`, "sh"}

// TestAlteredPackages starts a program of a package with another content, which
// lies over it as a mount: before the start, after it, with the database
// covered as well.
func TestAlteredPackages(t *testing.T) {
	t.Parallel()
	needRoot(t)
	needTool(t, "dpkg")
	program := "/usr/bin/tac"
	if _, err := os.Stat(program); err != nil {
		t.Skip(err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	dir := workDir(t, 0)
	altered, same := filepath.Join(dir, "altered"), filepath.Join(dir, "same")
	for name, content := range map[string][]byte{altered: append(data[:len(data):len(data)], 'x'), same: data} {
		if err := os.WriteFile(name, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	rule := detectRule("processes", "detect: {alteredPackages: EFFECT}")
	use := "echo it ran | " + program
	for name, before := range map[string]string{
		"mounted over":           "mount --bind " + altered + " " + program,
		"with another database":  "mount --bind " + altered + " " + program + "; mkdir empty; mount --bind empty /var/lib/dpkg/info",
		"mounted over by folder": "mkdir bin; cp -a " + altered + " bin/tac; cp /usr/bin/mount bin; mount -t overlay -o lowerdir=bin:/usr/bin overlay /usr/bin",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if native := (run{wrap: ownMounts}).native(t, append(append([]string{}, ownMounts...), "sh", "-c", before+"; "+use)...); native.out != "it ran\n" {
				t.Skipf("alone: %+v", native)
			}
			effects(t, run{wrap: ownMounts}, rule, "alteredBinary", "it ran\n", "sh", "-c", before+"; "+use)
		})
	}
	for name, script := range map[string]string{
		"as it is":      use,
		"of no package": altered + " </dev/null; echo it ran",
		"the same":      "mount --bind " + same + " " + program + "; " + use,
		"another name":  "cp " + altered + " /dev/shm/tac.$$; echo it ran | /dev/shm/tac.$$; rm /dev/shm/tac.$$",
	} {
		t.Run("harmless: "+name, func(t *testing.T) {
			t.Parallel()
			r := run{wrap: ownMounts, policy: strings.ReplaceAll(rule, "EFFECT", "prevent")}.protected(t, "sh", "-c", script)
			if r.out != "it ran\n" || len(r.audits()) > 0 {
				t.Errorf("%q %s, audits %+v", r.out, r.err, r.records)
			}
		})
	}
}

// TestContentOfPrograms starts programs that hold what they should not.
func TestContentOfPrograms(t *testing.T) {
	t.Parallel()
	prog := victim("prog-a")
	data, err := os.ReadFile(prog)
	if err != nil {
		t.Fatal(err)
	}
	files := func(keys string) string { return detectRule("files", keys) }
	malware := fmt.Sprintf(`malware: ["sha256:%x Test.A"], detect: {malware: EFFECT}`, sha256.Sum256(data))
	poke := func(at int, octal string) string {
		return fmt.Sprintf("cp %s x; printf '\\%s' | dd of=x bs=1 seek=%d conv=notrunc 2>/dev/null; ./x", prog, octal, at)
	}
	for _, test := range []struct{ name, policy, attack, script string }{
		{"malware", files(malware), "malwareProcessCustom", prog},
		{"malware, copied", files(malware), "malwareProcessCustom", "cp " + prog + " x; ./x"},
		{"malware by a loader's way", files(malware), "malwareProcessCustom", "cp " + prog + " x; exec 7<x; rm x; exec /proc/self/fd/7"},
		{"packed", files("detect: {packedBinaries: EFFECT}"), "encryptedBinary", "(cat " + prog + `; printf 'UPX!\r\n0123456789') >x; chmod +x x; ./x`},
		{"byte order", files("detect: {suspiciousELF: EFFECT}"), "suspiciousELFHeader", poke(5, "2")},
		{"padding", files("detect: {suspiciousELF: EFFECT}"), "suspiciousELFHeader", poke(12, "1")},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if native := (run{}).native(t, "sh", "-c", test.script); native.out != "prog-a ran\n" {
				t.Skipf("alone: %+v", native)
			}
			effects(t, run{}, test.policy, test.attack, "prog-a ran\n", "sh", "-c", test.script)
		})
	}
	t.Run("trusted", func(t *testing.T) {
		t.Parallel()
		policy := fmt.Sprintf("version: 1\nrules:\n  - name: r\n    files: {effect: prevent, trusted: [\"sha256:%x\"], detect: {suspiciousELF: default}}\n", sha256.Sum256(data))
		r := run{policy: policy}.protected(t, "sh", "-c", "cp "+prog+" x; ./x")
		if r.out != "prog-a ran\n" || len(r.audits()) > 0 {
			t.Errorf("%q %s, audits %+v", r.out, r.err, r.records)
		}
	})
}

// TestMappedContent runs a program, changes its content through a mapping, and
// runs it again. On a file system in memory that leaves no trace: size and
// times are the same.
func TestMappedContent(t *testing.T) {
	t.Parallel()
	needTool(t, "python3")
	allowed, err := os.ReadFile(victim("prog-a"))
	if err != nil {
		t.Fatal(err)
	}
	denied, err := os.ReadFile(victim("prog-d"))
	if err != nil {
		t.Fatal(err)
	}
	if len(allowed) != len(denied) {
		t.Skip("the programs differ in size")
	}
	policy := fmt.Sprintf("version: 1\nrules:\n  - name: r\n    processes: {effect: prevent, deny: [\"sha256:%x\"]}\n", sha256.Sum256(denied))
	const script = `
import mmap, os, subprocess, sys
path = sys.argv[1] + "/mapped-%d" % os.getpid()
with open(path, "wb") as f: f.write(open(sys.argv[2], "rb").read())
os.chmod(path, 0o755)
def run():
    try: sys.stdout.write(subprocess.run([path], stdout=subprocess.PIPE).stdout.decode())
    except PermissionError: print("refused")
run()
with open(path, "r+b") as f:
    m = mmap.mmap(f.fileno(), 0)
    m[:] = open(sys.argv[3], "rb").read()
    m.close()
run()
os.unlink(path)
`
	for _, dir := range []string{"/dev/shm", "."} {
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			continue
		}
		r := run{policy: policy}.protected(t, "python3", "-c", script, dir, victim("prog-a"), victim("prog-d"))
		if r.out != "prog-a ran\nrefused\n" {
			t.Errorf("%s: %q %s", dir, r.out, r.err)
		}
	}
}

// TestWrittenContent writes files that hold what they should not, in every way
// to write a file. It is told, and cannot be refused.
func TestWrittenContent(t *testing.T) {
	t.Parallel()
	prog := victim("prog-a")
	data, err := os.ReadFile(prog)
	if err != nil {
		t.Fatal(err)
	}
	const key = `printf -- '-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\n' `
	keys, headers := "detect: {privateKeys: prevent}", "detect: {suspiciousELF: prevent}"
	malware := fmt.Sprintf(`malware: ["sha256:%x Test.A"], detect: {malware: prevent}`, sha256.Sum256(data))
	for _, test := range []struct{ name, keys, attack, script, file string }{
		{"key", keys, "secretFileAccess", key + ">key", "key"},
		{"key, over a file", keys, "secretFileAccess", "echo >key; " + key + ">key", "key"},
		{"key, appended", keys, "secretFileAccess", "echo >key; " + key + ">>key", "key"},
		{"key, renamed while it is open", keys, "secretFileAccess", "mkdir d; exec 7>key; mv key d/new; " + key + ">&7", "d/new"},
		{"key, renamed from elsewhere", keys, "secretFileAccess", "mkdir d; " + key + ">d/x; mv d/x key", "key"},
		{"key, removed while it is open", keys, "secretFileAccess", "echo >key; exec 7>>key; rm key; " + key + ">&7", "key"},
		{"key, by a link", keys, "secretFileAccess", "ln -s key link; " + key + ">link", "key"},
		{"key, slowly", keys, "secretFileAccess", "exec 7>key; " + key + ">&7; sleep 0.3; exec 7>&-", "key"},
		{"key, in a file that got its name before", keys, "secretFileAccess", victim("files") + " tmpfile-late . >/dev/null", "new"},
		{"key, behind much else", keys, "secretFileAccess", "(head -c 300000 /dev/zero; " + key + ") >key", "key"},
		{"program", headers, "suspiciousELFHeader", `cp ` + prog + ` x; printf '\2' | dd of=x bs=1 seek=5 conv=notrunc 2>/dev/null`, "x"},
		{"program, for another processor", "detect: {foreignArchitecture: prevent}", "malwareDownloaded", `cp ` + prog + ` x; printf '\363' | dd of=x bs=1 seek=18 conv=notrunc 2>/dev/null`, "x"},
		{"malware", malware, "malwareFileCustom", "cp " + prog + " x", "x"},
		{"malware, by what is left of a file", malware, "malwareFileCustom", fmt.Sprintf(`(cat %s; echo x) >x; sleep 1; perl -e 'truncate("x", %d) or die'`, prog, len(data)), "x"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := run{policy: detectRule("files", test.keys), flags: monitoring}.protected(t, "sh", "-c", test.script+"; echo done; echo hello >other")
			told := r.of(test.attack)
			if r.out != "done\n" || len(told) == 0 || len(told) != len(r.audits()) {
				t.Fatalf("%q %s, audits %+v", r.out, r.err, r.records)
			}
			for _, rec := range told {
				if rec.Effect != "alert" || rec.Refused || rec.Level != "observed" || rec.ProcessPath == "" {
					t.Errorf("audit %+v", rec)
				}
			}
			if last := told[len(told)-1]; !strings.Contains(last.Msg, filepath.Join(r.dir, test.file)) {
				t.Errorf("%s is not named: %q", test.file, last.Msg)
			}
		})
	}
	t.Run("flood", func(t *testing.T) {
		t.Parallel()
		r := run{policy: detectRule("files", keys), flags: monitoring}.protected(t, "sh", "-c", `i=0; while [ $i -lt 3000 ]; do echo x >f$i; i=$((i+1)); done; echo done`)
		if r.out != "done\n" || len(r.audits()) > 0 {
			t.Errorf("%q %s, audits %+v", r.out, r.err, r.audits())
		}
	})
	t.Run("block", func(t *testing.T) {
		t.Parallel()
		r := run{policy: detectRule("files", "detect: {privateKeys: block}"), flags: monitoring}.protected(t, "sh", "-c", key+">key; sleep 60; echo alive")
		if r.out != "" || len(r.of("secretFileAccess")) == 0 {
			t.Errorf("%q %s, audits %+v", r.out, r.err, r.records)
		}
	})
	t.Run("no file", func(t *testing.T) {
		t.Parallel()
		r := run{policy: detectRule("files", keys), flags: monitoring}.protected(t, "sh", "-c", `mkfifo p; cat p & echo x >p; wait; echo y >/dev/null; truncate -s 1T huge; echo done`)
		if r.out != "x\ndone\n" || len(r.audits()) > 0 {
			t.Errorf("%q %s, audits %+v", r.out, r.err, r.audits())
		}
	})
	t.Run("custom rule", func(t *testing.T) {
		t.Parallel()
		policy := fmt.Sprintf("version: 1\ncustomRules:\n  - {name: c, type: filesystem, script: 'file.type = elf and file.sha256 = \"%x\"', message: '%%proc.name wrote %%file.name'}\nrules:\n  - name: r\n    custom: [{rule: c, effect: alert}]\n", sha256.Sum256(data))
		r := run{policy: policy, flags: monitoring}.protected(t, "sh", "-c", "cp "+prog+" x; cp /etc/hostname y; echo done")
		if told := r.of("customRule"); r.out != "done\n" || len(told) != 1 || told[0].Msg != "cp wrote x" {
			t.Errorf("%q %s, audits %+v", r.out, r.err, r.records)
		}
	})
}

// TestPortScan tries many ports, and many machines, with a process for each
// try.
func TestPortScan(t *testing.T) {
	t.Parallel()
	needTool(t, "bash")
	rule := detectRule("network", "detect: {portScan: EFFECT}")
	for _, test := range []struct {
		name, attack, to string
		tries            int
	}{
		{"ports", "verticalPortScanning", "127.9.9.9/$((2000+i))", 60},
		{"machines", "horizontalPortScanning", "127.9.8.$i/2000", 60},
		{"few ports", "", "127.9.7.9/$((2000+i%10))", 60},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			script := fmt.Sprintf(`for ((i=1; i<=%d; i++)); do (: >/dev/tcp/%s) 2>&1 | sed 's/.*: //'; done | sort | uniq -c | sed 's/^ *//'`, test.tries, test.to)
			native := run{}.native(t, "bash", "-c", script)
			if !strings.HasSuffix(native.out, "Connection refused\n") {
				t.Skipf("alone: %q %s", native.out, native.err)
			}
			if test.attack != "" {
				effects(t, run{}, rule, test.attack, native.out, "bash", "-c", script)
				return
			}
			r := run{policy: strings.ReplaceAll(rule, "EFFECT", "prevent")}.protected(t, "bash", "-c", script)
			if r.out != native.out || len(r.audits()) > 0 {
				t.Errorf("%q %s, audits %+v", r.out, r.err, r.records)
			}
		})
	}
}

// TestInteractive starts a program from a terminal and without one.
func TestInteractive(t *testing.T) {
	t.Parallel()
	needTool(t, "script")
	policy := `version: 1
customRules:
  - {name: c, type: processes, script: 'proc.interactive and proc.name = "prog-a"', message: '%proc.name at a terminal'}
rules:
  - name: r
    custom: [{rule: c, effect: prevent}]
`
	at := []string{"script", "-qec", victim("prog-a"), "/dev/null"}
	if native := (run{}).native(t, at...); !strings.Contains(native.out, "prog-a ran") {
		t.Skipf("alone: %+v", native)
	}
	r := run{policy: policy}.protected(t, at...)
	if told := r.of("customRule"); strings.Contains(r.out, "prog-a ran") || len(told) == 0 || told[0].Msg != "prog-a at a terminal" {
		t.Errorf("at a terminal: %q %s, audits %+v", r.out, r.err, r.records)
	}
	if r := (run{policy: policy}).protected(t, victim("prog-a")); r.out != "prog-a ran\n" || len(r.audits()) > 0 {
		t.Errorf("without one: %q %s, audits %+v", r.out, r.err, r.records)
	}
}

// TestModified starts programs that were written, renamed, linked or mounted
// when the target had started. They wait for the end of the grace.
func TestModified(t *testing.T) {
	t.Parallel()
	needRoot(t)
	const made = `
cp $1 early; mkdir low up work all; cp -p $1 low/prog; cp -p $1 low/other
(cat $1) >old; cp -p $1 preserved; touch -d 2001-01-01 early
sleep 11
cp $1 written; cp -p $1 preserved-later; touch -d 2001-01-01 preserved-later
cp $1 over; mv over old
cp -p early linked-from; ln early linked
mount -t tmpfs none work; cp -p $1 work/in-memory
mount -t overlay -o lowerdir=low,upperdir=up,workdir=up none all 2>/dev/null || { mkdir all/w; mkdir ovl; mount -t tmpfs none ovl; mkdir ovl/up ovl/work; mount -t overlay -o lowerdir=low,upperdir=ovl/up,workdir=ovl/work none all; }
cp $1 all/upper; chmod 755 all/other
for f in preserved written preserved-later old linked work/in-memory all/upper all/other all/prog; do echo "$f: $(./$f 2>&1)"; done
`
	name := victim("prog-a")
	argv := []string{"sh", "-c", made, "sh", name}
	r := run{wrap: ownMounts, policy: detectRule("processes", "detect: {modified: prevent}")}.protected(t, argv...)
	for _, f := range []string{"preserved", "all/prog"} {
		if !strings.Contains(r.out, f+": prog-a ran") {
			t.Errorf("%s did not run", f)
		}
	}
	for _, f := range []string{"written", "preserved-later", "old", "linked", "work/in-memory", "all/upper", "all/other"} {
		if !strings.Contains(r.out, f+": ") || strings.Contains(r.out, f+": prog-a ran") {
			t.Errorf("%s ran", f)
		}
	}
	if t.Failed() {
		t.Logf("%q %s", r.out, r.err)
	}
}
