//go:build platforms

package platforms

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"appdefender/internal/containers"
)

// stock are programs as their distribution ships them, each at its usual work.
// $PORT and $OTHER are free ports.
var stock = []struct {
	name   string
	need   []string
	script string
	told   []string // attack types: of what is no usual work
}{
	{name: "nginx", need: []string{"nginx", "curl"}, script: nginxScript},
	{name: "redis", need: []string{"redis-server", "redis-benchmark", "curl"}, script: redisScript},
	{name: "PostgreSQL", need: []string{"runuser", "pg_ctlcluster"}, script: postgres + `
$pg/pgbench -i -q -s 1 >/dev/null 2>&1
$pg/pgbench -c 2 -t 200 >/dev/null 2>&1
$pg/psql -qc 'create index on pgbench_accounts (abalance)'; $pg/psql -qc 'vacuum analyze'; $pg/psql -qc checkpoint
$pg/pg_dump >dump`},
	{name: "PostgreSQL, attacked", need: []string{"runuser", "pg_ctlcluster"}, script: postgres + `
$pg/psql -qc "create table t (x text); copy t from program 'id'"`, told: []string{"webShell"}},
	{name: "lighttpd", need: []string{"lighttpd", "curl"}, script: `
mkdir html; echo hello >html/index.html; chmod 777 .
sed "s|/var/www/html|$PWD/html|; s|^server.port .*|server.port = $PORT|; s|/run/lighttpd.pid|$PWD/pid|; s|/var/log/lighttpd/|$PWD/|; s|/var/cache/lighttpd/|$PWD/|" /etc/lighttpd/lighttpd.conf >conf
lighttpd -D -f conf & p=$!
` + fetched + `
kill $p; wait`},
	{name: "haproxy", need: []string{"haproxy", "curl"}, script: `
printf 'defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 5s\nfrontend f\n bind 127.0.0.1:%s\n http-request return status 200 content-type text/plain string hello\n' $PORT >conf
haproxy -W -f conf >log 2>&1 & p=$!
` + fetched + `
kill -USR2 $p; sleep 1
` + fetched + `
kill $p; wait`},
	{name: "memcached", need: []string{"memcached", "curl"}, script: `
memcached -u nobody -l 127.0.0.1 -p $PORT & p=$!
for i in $(seq 100); do printf 'set a 0 0 1\r\nb\r\nget a\r\nquit\r\n' | curl -sS -m 2 telnet://127.0.0.1:$PORT 2>/dev/null && break; sleep 0.1; done
kill $p; wait`},
	{name: "apache2", need: []string{"apache2", "rotatelogs", "curl"}, script: `
mkdir html; echo hello >html/index.html; chmod 755 . html
printf '%s\n' "ServerRoot $PWD" "PidFile pid" "ServerName localhost" "Listen 127.0.0.1:$PORT" "User www-data" "Group www-data" "DocumentRoot $PWD/html" \
  "LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so" "LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so" \
  "LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so" "ErrorLog \"|/usr/bin/rotatelogs $PWD/error.%Y 86400\"" "CustomLog \"|/usr/bin/rotatelogs $PWD/access.%Y 86400\" \"%h %r\"" >conf
apache2 -f $PWD/conf -DFOREGROUND & p=$!
` + fetched + `
apache2 -f $PWD/conf -k graceful; sleep 1
` + fetched + `
kill $p; wait || true`},
	{name: "node", need: []string{"node"}, script: `
cat >app.js <<'X'
const http = require("http"), { execSync, spawn } = require("child_process"), { Worker } = require("worker_threads");
const server = http.createServer((q, a) => a.end(execSync("echo hello | cat"))).listen(process.env.PORT, "127.0.0.1", () => {
  http.get("http://127.0.0.1:" + process.env.PORT + "/", a => a.on("data", d => {
    process.stdout.write(d);
    new Worker("require('fs').writeFileSync('w', 'x')", { eval: true }).on("exit", () => spawn("sh", ["-c", "ls"]).on("exit", () => server.close() || process.exit(0)));
  }));
});
X
node app.js`},
	{name: "python", need: []string{"python3"}, script: `
python3 -c 'from zipfile import ZipFile as Z
d = "stocked-1.dist-info/"
with Z("stocked-1-py3-none-any.whl", "w") as z:
    z.writestr("stocked.py", "print(1)")
    z.writestr(d + "METADATA", "Metadata-Version: 2.1\nName: stocked\nVersion: 1\n")
    z.writestr(d + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    z.writestr(d + "entry_points.txt", "[console_scripts]\nstocked = stocked:main\n")
    z.writestr(d + "RECORD", "")'
python3 -m venv v
v/bin/python -m pip install -q --no-index --no-deps ./stocked-1-py3-none-any.whl
v/bin/python -c 'import stocked'
python3 -c 'import multiprocessing as m, subprocess; print(sum(m.Pool(2).map(abs, range(100)))); subprocess.run("ls | sort", shell=True)'`},
	{name: "java", need: []string{"javac", "java"}, script: `
cat >Hello.java <<'X'
public class Hello {
  public static void main(String[] a) throws Exception {
    Process p = new ProcessBuilder("sh", "-c", "echo hello").inheritIO().start();
    System.exit(p.waitFor());
  }
}
X
javac Hello.java
java Hello
jar cf hello.jar Hello.class
java -cp hello.jar Hello`},
	{name: "php", need: []string{"php", "curl"}, script: `
echo '<?php echo shell_exec("echo hello"), phpversion();' >index.php
php -l index.php
php -S 127.0.0.1:$PORT >log 2>&1 &
for i in $(seq 100); do curl -fsS http://127.0.0.1:$PORT/ 2>/dev/null && break; sleep 0.1; done
php -r 'mail("a@example.com", "x", "y");' 2>/dev/null || true
kill $!`},
	{name: "git", need: []string{"git"}, script: `
export HOME=$PWD GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com
git init -q one
cd one
for i in $(seq 20); do echo $i >f$i; git add f$i; git commit -qm "commit $i"; done
git branch side; git tag v1; git gc -q --prune=now; git fsck
cd ..
git clone -q file://$PWD/one two
cd two
git log --oneline | head -3; echo x >g; git add g; git commit -qm g; git push -q origin HEAD:other; git rebase -q origin/side; git repack -adq`},
	{name: "curl", need: []string{"curl", "python3"}, script: httpServer + `
curl -fsS -o got -H 'X-A: b' http://127.0.0.1:$PORT/script; cmp got script
curl -fsS file://$PWD/script | tail -1 >/dev/null
curl -sS -d a=b http://127.0.0.1:$PORT/ >/dev/null
kill $!`},
	{name: "busybox", need: []string{"busybox", "python3"}, script: httpServer + `
busybox sh -c 'busybox mkdir d; busybox echo x >d/x; busybox tar -cf t.tar d; busybox gzip t.tar; busybox gunzip t.tar.gz; busybox awk "{print}" d/x | busybox sed s/x/y/; busybox find . -type f | busybox xargs busybox wc -c >/dev/null'
busybox wget -q -O got http://127.0.0.1:$PORT/script; busybox cmp got script
busybox vi -h >/dev/null 2>&1 || true; busybox nslookup localhost >/dev/null 2>&1 || true
kill $!`},
	{name: "make", need: []string{"make", "gcc", "ar"}, script: `
for i in $(seq 30); do echo "int f$i(void) { return $i; }" >f$i.c; done
echo 'int f1(void); int main(void) { return f1() - 1; }' >main.c
printf 'OBJ = $(patsubst %%.c,%%.o,$(wildcard f*.c))\nall: main main-static\nlib.a: $(OBJ)\n\tar rc $@ $^\nmain: main.c lib.a\n\tgcc -g -o $@ $^\nmain-static: main.c lib.a\n\tgcc -O2 -s -static -o $@ $^\n%%.o: %%.c\n\tgcc -O2 -c -o $@ $<\nclean:\n\trm -f *.o lib.a main\n' >Makefile
make -sj4 && make -s clean && make -sj2`},
	{name: "perl", need: []string{"perl"}, script: `
perl -MIO::Socket::INET -e '$l = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1:$ENV{PORT}") or die; if (fork) { $c = $l->accept; print $c "hello\n"; close $c; wait } else { $s = IO::Socket::INET->new("127.0.0.1:$ENV{PORT}"); print <$s> }'
perl -e 'print sort map { "$_\n" } qx(ls); system("true"); open F, "| cat" or die; print F "x\n"; close F'`},
	{name: "ssh-keygen", need: []string{"ssh-keygen"}, script: `
ssh-keygen -q -t ed25519 -N '' -f key
ssh-keygen -lf key.pub; ssh-keygen -y -f key >/dev/null; ssh-keygen -q -p -N secret -f key
ssh -V; ssh -o BatchMode=yes -o ConnectTimeout=1 -p $PORT 127.0.0.1 true || true`},
	{name: "coreutils", script: `
seq 1000 | sort -R | sort -n | uniq | tail -1; find /etc -name passwd | xargs -r cat | wc -l >/dev/null
env -i PATH="$PATH" sh -c 'date; id; uname -a; df . >/dev/null'; t=$(mktemp -d); cp -a /etc/hostname $t; install -m 755 /bin/true $t/true; ln -s true $t/link; tar -C $t -czf a.tgz .; rm -r $t`},
}

const (
	fetched = `for i in $(seq 100); do curl -fsS http://127.0.0.1:$PORT/ 2>/dev/null && break; sleep 0.1; done`

	httpServer = `
python3 -m http.server --bind 127.0.0.1 $PORT >/dev/null 2>&1 &
for i in $(seq 100); do curl -fsS http://127.0.0.1:$PORT/ >/dev/null 2>&1 && break; sleep 0.1; done`

	nginxScript = `
mkdir html logs; echo hello >html/index.html
conf() { printf 'pid nginx.pid; error_log logs/error.log; worker_processes 2; events {} http { access_log logs/access.log; server { listen 127.0.0.1:%s; root html; } }' $1 >nginx.conf; }
conf $PORT
nginx -e logs/start -p $PWD -c nginx.conf -t 2>/dev/null
nginx -e logs/start -p $PWD -c nginx.conf -g 'daemon off;' &
for i in $(seq 100); do curl -fsS http://127.0.0.1:$PORT/ 2>/dev/null && break; sleep 0.1; done
for i in $(seq 20); do curl -fsS http://127.0.0.1:$PORT/ >/dev/null; done
nginx -e logs/start -p $PWD -c nginx.conf -s reload
sleep 0.3; curl -fsS http://127.0.0.1:$PORT/
case "$1" in "") ;; port) conf $OTHER; nginx -e logs/start -p $PWD -c nginx.conf -s reload; sleep 1;; *) sh -c "$1" || true;; esac
nginx -e logs/start -p $PWD -c nginx.conf -s quit; wait`

	redisScript = `
redis-server --port $PORT --bind 127.0.0.1 --dir $PWD --save 60 1 >log &
for i in $(seq 100); do redis-cli -p $PORT ping 2>/dev/null && break; sleep 0.1; done
redis-benchmark -p $PORT -q -n 2000 -c 10 -t set,get,lpush >/dev/null
redis-cli -p $PORT set a b; redis-cli -p $PORT bgsave; redis-cli -p $PORT eval 'return redis.call("get", "a")' 0
curl -sS -m 1 telnet://127.0.0.1:$PORT </dev/null >/dev/null || true
case "$1" in "") ;; port) redis-server --port $OTHER --bind 127.0.0.1 --save '' & sleep 1; kill $! || true;; *) sh -c "$1" || true;; esac
redis-cli -p $PORT shutdown; wait`

	postgres = `
pg=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
mkdir data; chown postgres . data
as="runuser -u postgres --"
export PGHOST=$PWD PGPORT=$PORT PGUSER=postgres
$as $pg/initdb -D data -A trust >/dev/null
$as $pg/pg_ctl -D data -o "-p $PORT -h 127.0.0.1 -k $PWD" -l log -w start >/dev/null
trap '$as $pg/pg_ctl -D data -m fast -w stop >/dev/null' EXIT`
)

// freePort is a port that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// guarded is a command under the defender in a folder of its own.
type guarded struct {
	dir, script string
	port, other string
}

func newGuarded(t *testing.T, script string) *guarded {
	t.Helper()
	dir, err := os.MkdirTemp("", "stock-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return &guarded{dir: dir, script: script, port: freePort(t), other: freePort(t)}
}

// run runs the script in an empty folder that has the same name each time.
func (g *guarded) run(t *testing.T, flags []string, arg string) result {
	t.Helper()
	work := filepath.Join(g.dir, "work")
	_ = os.RemoveAll(work)
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(work, "script"), []byte("set -e\n"+g.script), 0o644); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(g.dir, "audits")
	_ = os.Remove(log)
	args := append([]string{"run", "--audit-log", log}, flags...)
	cmd := exec.Command(defender(t), append(args, "--", "sh", "script", arg)...)
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "PORT="+g.port, "OTHER="+g.other, "OUTSIDE="+g.dir)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	var status *exec.ExitError
	if err != nil && !errors.As(err, &status) {
		t.Fatalf("%v\n%s", err, errs.String())
	}
	r := result{exit: cmd.ProcessState.ExitCode(), stdout: out.String(), stderr: errs.String()}
	data, err := os.ReadFile(log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var rec record
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		r.records = append(r.records, rec)
	}
	return r
}

// alerts are the attack types that were told of.
func (r result) alerts() (list []string) {
	for _, rec := range r.records {
		if rec.AttackType != "" {
			list = append(list, rec.AttackType)
		}
	}
	return list
}

// TestStockPrograms has stock programs work under the shipped policy, with and
// without a look at files: not one alert.
func TestStockPrograms(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, s := range stock {
		t.Run(s.name, func(t *testing.T) {
			for _, tool := range s.need {
				if _, err := exec.LookPath(tool); err != nil {
					t.Skipf("needs %s: make test-platforms installs it", tool)
				}
			}
			for _, flags := range [][]string{nil, {"--file-monitoring"}} {
				r := newGuarded(t, s.script).run(t, flags, "")
				if r.exit != 0 {
					t.Errorf("%v: exit status %d\n%s%s", flags, r.exit, r.stdout, r.stderr)
				}
				if got := r.alerts(); !slices.Equal(got, s.told) {
					t.Errorf("%v: told %q, want %q: %+v", flags, got, s.told, r.records)
				}
			}
		})
	}
}

// package1 is a package with a program and with scripts that run when it is
// installed and removed, in a repository of its own.
const package1 = `
set -e
mkdir -p /tmp/p/DEBIAN /tmp/p/usr/bin /tmp/repo
cd /tmp/p
printf 'Package: stocked\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.com>\nDescription: x\n' >DEBIAN/control
for s in preinst postinst prerm postrm; do printf '#!/bin/sh\nset -e\ntest -e /usr/bin/env\n' >DEBIAN/$s; chmod 755 DEBIAN/$s; done
printf '#!/bin/sh\necho stocked\n' >usr/bin/stocked; chmod 755 usr/bin/stocked
dpkg-deb -b /tmp/p /tmp/repo/stocked.deb >/dev/null
cd /tmp/repo
(cat /tmp/p/DEBIAN/control; echo Filename: ./stocked.deb; echo Size: $(stat -c %s stocked.deb); echo SHA256: $(sha256sum stocked.deb | cut -d' ' -f1)) >Packages
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*; echo 'deb [trusted=yes] file:/tmp/repo ./' >/etc/apt/sources.list
`

// TestStockPackages has apt-get update, install and remove in a container. What
// it installs may be started in the first ten seconds; later that is told, and
// still nothing of what apt-get does.
func TestStockPackages(t *testing.T) {
	containers.Need(t)
	img := image(t, "appdefender-test/stock", debian(t))
	const install = `apt-get -qq update; apt-get -qq install -y stocked >/dev/null 2>&1; `
	for _, flags := range [][]string{nil, {"--file-monitoring"}} {
		for _, c := range []struct {
			name, script string
			told         []string
		}{
			{"at once", install + `apt-get -qq remove -y stocked >/dev/null 2>&1; dpkg -l >/dev/null; apt-cache policy stocked >/dev/null`, nil},
			{"later", `sleep 11; ` + install + `apt-get -qq install -y --reinstall stocked >/dev/null 2>&1; apt-get -qq purge -y stocked >/dev/null 2>&1`, nil},
			{"later, and started", `sleep 11; ` + install + `stocked`, []string{"modifiedProcess"}},
		} {
			t.Run(strings.Join(append([]string{c.name}, flags...), " "), func(t *testing.T) {
				t.Parallel()
				command := append(append([]string{"/defender", "run"}, flags...), "--", "sh", "-ec", `sh /prepare >/dev/null; `+c.script)
				r := container{image: img, files: map[string]string{"/prepare": package1}, command: command}.start(t)
				if r.exit != 0 {
					t.Errorf("exit status %d\n%s%s", r.exit, r.stdout, r.stderr)
				}
				if got := r.alerts(); !slices.Equal(got, c.told) {
					t.Errorf("told %q, want %q: %+v", got, c.told, r.records)
				}
			})
		}
	}
}

// learnedAttacks are what a learned policy refuses in one of its scripts, given
// as its argument.
var learnedAttacks = map[string]string{
	"id":                                     "explicitlyDeniedProcess",
	"echo x >$OUTSIDE/owned":                 "explicitlyDeniedFile",
	"curl -s -m 2 http://192.0.2.1/ || true": "explicitlyDeniedIP",
	"port":                                   "explicitlyDeniedListeningPort",
}

// TestLearnedServers learns a policy of servers at work, under which they work
// as before and nothing else does.
func TestLearnedServers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for name, script := range map[string]string{
		"nginx": nginxScript,
		"redis": redisScript,
		"shell": httpServer + `
curl -fsS http://127.0.0.1:$PORT/script | sort | head -3 >sorted
t=$(mktemp); date >$t; mv $t dated; mkdir -p out/deep; cp dated out/deep; sh -c 'ls out | wc -l'
case "$1" in "") ;; port) python3 -m http.server --bind 127.0.0.1 $OTHER >/dev/null 2>&1 & sleep 1; kill $! || true;; *) sh -c "$1" || true;; esac
kill %1 || true`,
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuarded(t, script)
			learned := filepath.Join(g.dir, "learned.yaml")
			for range 2 { // the second run adds what comes at times
				if r := g.run(t, []string{"--learn", learned, "--file-monitoring", "--container", name}, ""); r.exit != 0 {
					t.Fatalf("learning: exit status %d\n%s%s", r.exit, r.stdout, r.stderr)
				}
			}
			under := []string{"--policy", learned, "--file-monitoring", "--container", name}
			r := g.run(t, under, "")
			if r.exit != 0 || r.detections() > 0 {
				t.Errorf("under what was learned: exit status %d, %+v\n%s%s", r.exit, r.records, r.stdout, r.stderr)
			}
			for attack, want := range learnedAttacks {
				r := g.run(t, under, attack)
				if got := r.alerts(); !slices.Contains(got, want) {
					t.Errorf("%s: told %q, want %q: %s", attack, got, want, r.stderr)
				}
				for _, rec := range r.records {
					if rec.AttackType != "" && !rec.Refused {
						t.Errorf("%s: not refused: %+v", attack, rec)
					}
				}
				if _, err := os.Stat(filepath.Join(g.dir, "owned")); err == nil || strings.Contains(r.stdout, "uid=") {
					t.Errorf("%s: it was done: %s", attack, r.stdout)
				}
			}
			if t.Failed() {
				text, _ := os.ReadFile(learned)
				t.Logf("%s", text)
			}
		})
	}
}

// TestLearnedInContainer learns as process 1, as another user, and where nothing
// can be written but a volume, or not even that.
func TestLearnedInContainer(t *testing.T) {
	containers.Need(t)
	img := image(t, "appdefender-test/learn", debian(t))
	const listens = `perl -MIO::Socket::INET -e 'IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1:'$1'") or exit 3'`
	task := func(more string) string {
		return fmt.Sprintf("set -e\nlistens() { %s; }\ndate >/dev/null; ls / | sort | head -1; listens 18081; perl -e 'print `cat /etc/hostname`' >/dev/null\n%s\n", listens, more)
	}
	for name, options := range map[string][]string{
		"root":           nil,
		"uid 1000":       {"--user", "1000"},
		"read-only":      {"--read-only", "--read-only-tmpfs=false"},
		"read-only, uid": {"--read-only", "--read-only-tmpfs=false", "--user", "1000", "--cap-drop", "all"},
	} {
		t.Run(name, func(t *testing.T) { // one at a time: they share the machine's ports
			volume := t.TempDir()
			if err := os.Chmod(volume, 0o777); err != nil {
				t.Fatal(err)
			}
			start := func(more string, flags ...string) result {
				t.Helper()
				return container{
					image: img, options: append([]string{"-v", volume + ":/out"}, options...), files: map[string]string{"/task": task(more)},
					command: append(append([]string{"/defender", "run"}, flags...), "--", "sh", "/task"),
				}.start(t)
			}
			if r := start("", "--learn", "/out/learned.yaml"); r.exit != 0 {
				t.Fatalf("learning: exit status %d\n%s", r.exit, r.stderr)
			}
			if r := start("", "--learn", "-"); r.exit != 0 || !strings.Contains(r.stderr, "\nversion: 1\n") {
				t.Errorf("learning to standard error: exit status %d\n%s", r.exit, r.stderr)
			}
			if strings.HasPrefix(name, "read-only") {
				if r := start("", "--learn", "/learned.yaml"); r.exit != 125 || !strings.Contains(r.stderr, "places to write to: ") || !strings.Contains(r.stderr, "/out") {
					t.Errorf("learning where nothing can be written: exit status %d\n%s", r.exit, r.stderr)
				}
			}
			under := []string{"--policy", "/out/learned.yaml"}
			if r := start("", under...); r.exit != 0 || r.detections() > 0 {
				t.Errorf("under what was learned: exit status %d, %+v\n%s", r.exit, r.records, r.stderr)
			}
			for more, want := range map[string]string{
				"id || exit 7":            "explicitlyDeniedProcess",
				"listens 18082 || exit 7": "explicitlyDeniedListeningPort",
				`perl -MIO::Socket::INET -e 'IO::Socket::INET->new(PeerAddr => "192.0.2.1:80", Timeout => 1) or exit 7'`: "explicitlyDeniedIP",
			} {
				if r := start(more, under...); r.exit != 7 || !slices.Contains(r.alerts(), want) {
					t.Errorf("%s: exit status %d, told %q, want %q", more, r.exit, r.alerts(), want)
				}
			}
		})
	}
}
