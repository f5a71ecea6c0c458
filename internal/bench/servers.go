package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// serverRows protect a server and load it from outside.
func serverRows() []row {
	seconds := func(b *bench) string {
		if b.quick {
			return "1"
		}
		return "2"
	}
	return []row{
		{
			name: "nginx", group: groupServers, what: "nginx, a small page, wrk with 32 connections kept alive", unit: "req/s", more: true, variants: ways, turns: 5,
			needs: []string{"nginx", "wrk"}, bounds: []bound{{"notify", ratioAtLeast, 0.98}},
			measure: func(b *bench, v variant) (float64, error) { return b.nginx(v, seconds(b)) },
		},
		{
			name: "nginx-close", group: groupServers, what: "the same, a connection for each request", unit: "req/s", more: true, variants: ways, turns: 5,
			needs:   []string{"nginx", "wrk"},
			measure: func(b *bench, v variant) (float64, error) { return b.nginx(v, seconds(b), "-H", "Connection: close") },
		},
		{
			name: "redis", group: groupServers, what: "redis, redis-benchmark SET and GET with 50 connections", unit: "req/s", more: true, variants: ways, turns: 5,
			needs: []string{"redis-server", "redis-benchmark"}, bounds: []bound{{"notify", ratioAtLeast, 0.98}},
			measure: (*bench).redis,
		},
		{
			name: "pgbench", group: groupServers, what: "PostgreSQL, pgbench -S with 4 clients", unit: "tps", more: true, variants: ways, turns: 5,
			needs: []string{"pgbench", "setpriv"}, bounds: []bound{{"notify", ratioAtLeast, 0.98}},
			measure: func(b *bench, v variant) (float64, error) {
				return b.postgres(v, "-S", "-c", "4", "-j", "2", "-T", seconds(b))
			},
		},
		{
			name: "pgbench-connect", group: groupServers, what: "the same, a connection for each transaction", unit: "tps", more: true, variants: ways, turns: 5,
			needs: []string{"pgbench", "setpriv"},
			measure: func(b *bench, v variant) (float64, error) {
				return b.postgres(v, "-S", "-C", "-c", "4", "-j", "2", "-T", seconds(b))
			},
		},
	}
}

// serve starts a server, waits until it takes connections, and loads it.
func (b *bench) serve(v variant, network, addr string, argv []string, load func() error) error {
	cmd := b.command(v, argv...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	var end error
	go func() { end = cmd.Wait(); close(ended) }()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial(network, addr)
		if err == nil {
			c.Close()
			break
		}
		select {
		case <-ended:
			return fmt.Errorf("%s ended early: %w: %s", argv[0], errors.Join(errors.New("it does not listen"), end), lastLine(out.Bytes()))
		case <-b.ctx.Done():
			return b.ctx.Err()
		default:
		}
		if time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			<-ended
			return fmt.Errorf("%s does not listen: %w", argv[0], err)
		}
	}
	err := load()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		_ = cmd.Process.Kill()
		<-ended
	}
	return err
}

// freePort finds a port that nobody listens on.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// number finds the first number that a pattern's group holds.
func number(text, pattern string) (float64, error) {
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("no result in %q", lastLine([]byte(text)))
	}
	return strconv.ParseFloat(m[1], 64)
}

func (b *bench) nginx(v variant, seconds string, more ...string) (rate float64, err error) {
	port, err := freePort()
	if err != nil {
		return 0, err
	}
	dir := b.path("nginx")
	if err := os.MkdirAll(filepath.Join(dir, "html"), 0o755); err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(dir, "html/index.html"), bytes.Repeat([]byte("a page\n"), 100), 0o644); err != nil {
		return 0, err
	}
	user := ""
	if os.Getuid() == 0 {
		user = "user www-data;\n" // workers give their user up, as they do anywhere
	}
	conf := fmt.Sprintf("daemon off;\n%sworker_processes 1;\npid %s/pid;\nerror_log stderr crit;\nevents { worker_connections 1024; }\n"+
		"http { access_log off; keepalive_requests 1000000;\nclient_body_temp_path %[2]s/body; proxy_temp_path %[2]s/proxy; fastcgi_temp_path %[2]s/fastcgi;\n"+
		"uwsgi_temp_path %[2]s/uwsgi; scgi_temp_path %[2]s/scgi;\nserver { listen 127.0.0.1:%[3]d backlog=1024; root %[2]s/html; } }\n", user, dir, port)
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o644); err != nil {
		return 0, err
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	err = b.serve(v, "tcp", addr, []string{"nginx", "-p", dir, "-c", filepath.Join(dir, "nginx.conf")}, func() error {
		out, err := b.output(slices.Concat([]string{"wrk", "-t1", "-c32", "-d" + seconds}, more, []string{"http://" + addr + "/"})...)
		if err != nil {
			return err
		}
		if strings.Contains(out, "Non-2xx") {
			return errors.New("nginx answered with errors")
		}
		rate, err = number(out, `Requests/sec:\s+([\d.]+)`)
		return err
	})
	return rate, err
}

func (b *bench) redis(v variant) (rate float64, err error) {
	port, err := freePort()
	if err != nil {
		return 0, err
	}
	p := strconv.Itoa(port)
	argv := []string{"redis-server", "--port", p, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", b.dir, "--daemonize", "no"}
	err = b.serve(v, "tcp", "127.0.0.1:"+p, argv, func() error {
		out, err := b.output("redis-benchmark", "-p", p, "-t", "set,get", "-n", strconv.Itoa(b.count(200e3)), "-c", "50", "--csv")
		if err != nil {
			return err
		}
		set, err := number(out, `"SET","([\d.]+)"`)
		if err != nil {
			return err
		}
		get, err := number(out, `"GET","([\d.]+)"`)
		rate = (set + get) / 2
		return err
	})
	return rate, err
}

// postgres serves a database on a Unix socket. It refuses to run as root.
func (b *bench) postgres(v variant, args ...string) (rate float64, err error) {
	programs, err := postgresPrograms()
	if err != nil {
		return 0, err
	}
	as := func(argv ...string) []string { return argv }
	if os.Getuid() == 0 {
		as = func(argv ...string) []string {
			return append([]string{"setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"}, argv...)
		}
	}
	dir := b.path("postgres")
	data := filepath.Join(dir, "data")
	server := as(filepath.Join(programs, "postgres"), "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off")
	socket := filepath.Join(dir, ".s.PGSQL.5432")
	client := func(args ...string) []string {
		return append(as(filepath.Join(programs, "pgbench"), "-h", dir, "-U", "bench"), append(args, "postgres")...)
	}
	err = b.atMostOnce("postgres", func() error {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if os.Getuid() == 0 {
			if _, err := b.output("chown", "postgres", dir); err != nil {
				return errMissing("there is no user postgres here")
			}
		}
		if _, err := b.output(as(filepath.Join(programs, "initdb"), "-D", data, "-U", "bench", "-A", "trust", "--no-sync")...); err != nil {
			return err
		}
		return b.serve(variant{}, "unix", socket, server, func() error {
			_, err := b.output(client("-i", "-q", "-s", "5")...)
			return err
		})
	})
	if err != nil {
		return 0, err
	}
	err = b.serve(v, "unix", socket, server, func() error {
		// The socket is there before a database that was killed has recovered.
		for range 300 {
			if _, err := b.output(filepath.Join(programs, "pg_isready"), "-q", "-h", dir); err == nil || b.ctx.Err() != nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		out, err := b.output(client(args...)...)
		if err != nil {
			return err
		}
		rate, err = number(out, `tps = ([\d.]+)`)
		return err
	})
	return rate, err
}

// postgresPrograms finds Debian's folder of the newest version.
func postgresPrograms() (string, error) {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(dirs) > 0 {
		return filepath.Dir(dirs[len(dirs)-1]), nil
	}
	if p, err := exec.LookPath("postgres"); err == nil {
		return filepath.Dir(p), nil
	}
	return "", errMissing("there is no postgres here")
}
