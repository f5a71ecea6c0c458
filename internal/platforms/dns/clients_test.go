//go:build platforms

package dns

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

const inside = "DEFENDER_TEST_INSIDE"

// TestMain starts the tests again in namespaces of their own.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command("unshare", append([]string{"--net", "--mount", os.Args[0]}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// address gives loopback one more address while the test runs.
func address(t *testing.T, addr string) {
	t.Helper()
	run(t, "ip", "addr", "add", addr, "dev", "lo", "nodad")
	t.Cleanup(func() { run(t, "ip", "addr", "del", addr, "dev", "lo") })
}

// world is a network with one name server, and a resolv.conf that names it.
func world(t *testing.T) (dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir = t.TempDir()
	run(t, "ip", "link", "set", "lo", "up")
	conf := filepath.Join(dir, "resolv.conf")
	write(t, conf, "search corp.test\nnameserver 127.0.0.3\n")
	run(t, "mount", "--make-rprivate", "/")
	run(t, "mount", "--bind", conf, "/etc/resolv.conf")
	t.Cleanup(func() { _ = exec.Command("umount", "/etc/resolv.conf").Run() })
	server(t)
	return dir
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

var zone = []string{
	"good.test. 60 IN A 127.0.0.1", "good.test. 60 IN AAAA ::1",
	"alias.test. 60 IN CNAME good.test.",
	"short.corp.test. 60 IN A 127.0.0.1",
	"evil.test. 60 IN A 127.0.0.66",
	"big.test. 60 IN A 127.0.0.9",
	"web.test. 60 IN A 192.0.2.1",
	"hidden.test. 60 IN CNAME evil.test.",
}

// server answers for the zone, on 127.0.0.3 unless it is told where else, and
// returns how often each name was asked for since the last time.
func server(t *testing.T, addrs ...string) (asked func() map[string]int) {
	t.Helper()
	if len(addrs) == 0 {
		addrs = []string{"127.0.0.3"}
	}
	var mu sync.Mutex
	count := map[string]int{}
	byName := map[string][]dns.RR{}
	for _, s := range zone {
		rr, err := dns.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		byName[rr.Header().Name] = append(byName[rr.Header().Name], rr)
	}
	for i := range 99 {
		byName["big.test."] = append(byName["big.test."], &dns.A{
			Hdr: dns.RR_Header{Name: "big.test.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(127, 0, 1, byte(i))})
	}
	h := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetReply(m)
		r.RecursionAvailable = true
		q := m.Question[0]
		mu.Lock()
		count[strings.ToLower(q.Name)]++
		mu.Unlock()
		known := false
		for name := strings.ToLower(q.Name); ; {
			next := ""
			for _, rr := range byName[name] {
				known = true
				if cname, ok := rr.(*dns.CNAME); ok {
					next = cname.Target
				}
				if rr.Header().Rrtype == q.Qtype || rr.Header().Rrtype == dns.TypeCNAME {
					r.Answer = append(r.Answer, rr)
				}
			}
			if next == "" {
				break
			}
			name = next
		}
		if len(r.Answer) == 0 {
			soa, _ := dns.NewRR("test. 60 IN SOA ns.test. a.test. 1 2 3 4 30")
			r.Ns = []dns.RR{soa}
			if !known {
				r.Rcode = dns.RcodeNameError
			}
		}
		if opt := m.IsEdns0(); opt != nil {
			r.SetEdns0(1232, opt.Do())
		}
		if w.RemoteAddr().Network() == "udp" {
			size := 512
			if opt := m.IsEdns0(); opt != nil {
				size = int(opt.UDPSize())
			}
			r.Truncate(size)
		}
		_ = w.WriteMsg(r)
	})
	for _, addr := range addrs {
		for _, network := range []string{"udp", "tcp"} {
			ready := make(chan error, 1)
			s := &dns.Server{Addr: net.JoinHostPort(addr, "53"), Net: network, Handler: h, NotifyStartedFunc: func() { ready <- nil }}
			go func() { ready <- s.ListenAndServe() }()
			if err := <-ready; err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Shutdown() })
		}
	}
	return func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		all := count
		count = map[string]int{}
		return all
	}
}

// client is a program that looks a name up; $1 is the name.
type client struct {
	what, needs, command string
	big                  bool // it knows TCP, and what to do with a hundred addresses
}

var clients = []client{
	{"glibc", "getent", "getent ahosts $1", true},
	{"glibc IPv4", "getent", "getent ahostsv4 $1", true},
	{"musl", "musl-gcc", "$DIR/musl $1", false},
	{"busybox", "busybox", "busybox nslookup $1 127.0.0.3 | tail -n +4", false},
	{"Go by itself", "go", "GODEBUG=netdns=go $DIR/go $1", true},
	{"Go by libc", "go", "GODEBUG=netdns=cgo $DIR/go $1", true},
	{"node, c-ares", "node", `node -e 'require("dns").resolve4(process.argv[1],(e,a)=>{console.log(e?e.code:a.sort().join());process.exit(e?1:0)})' $1`, true},
	{"node, libc", "node", `node -e 'require("dns").lookup(process.argv[1],{all:true},(e,a)=>{console.log(e?e.code:JSON.stringify(a));process.exit(e?1:0)})' $1`, true},
	{"python", "python3", `python3 -c 'import socket,sys
try: print(sorted(set(a[4][0] for a in socket.getaddrinfo(sys.argv[1],80))))
except OSError as e: print(e); sys.exit(1)' $1`, true},
	{"curl", "curl", "curl -sS -m 9 -o /dev/null http://$1:1/ 2>&1 | sed 's/after [0-9]* ms/after/'", false},
	{"dig", "dig", "dig +short $1", true},
	{"dig by TCP", "dig", "dig +tcp +noall +comments +answer +nocookie $1 | grep -v -e ';; Got' -e EDNS -e EDE | sed 's/id: [0-9]*//'", true},
	{"dig, another server", "dig", "dig +short @127.0.0.3 $1", true},
	{"java", "javac", "java -Xshare:auto -XX:TieredStopAtLevel=1 -cp $DIR Names $1", true},
	{"kdig", "kdig", "kdig +short $1 2>&1 | grep -v WARNING", true},
	{"drill", "drill", "drill $1 | grep -e rcode -e '^[a-z]' | grep -v SOA | sed 's/id: [0-9]*//'", true},
	{"host", "host", "host $1", true},
}

const muslSource = `
#include <netdb.h>
#include <stdio.h>
#include <arpa/inet.h>
int main(int argc, char **argv) {
	struct addrinfo *a, hint = {.ai_socktype = SOCK_STREAM};
	char text[64];
	int e = getaddrinfo(argv[1], 0, &hint, &a);
	if (e) { puts(gai_strerror(e)); return 1; }
	for (; a; a = a->ai_next) {
		getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
		puts(text);
	}
}`

const goSource = `package main
import ("errors"; "fmt"; "net"; "os"; "slices")
func main() {
	a, err := net.LookupHost(os.Args[1])
	var e *net.DNSError
	if errors.As(err, &e) { fmt.Println(e.Err, e.IsNotFound, e.IsTimeout, e.IsTemporary); os.Exit(1) }
	slices.Sort(a)
	fmt.Println(a)
}`

const javaSource = `import java.net.*; import java.util.*;
class Names { public static void main(String[] a) throws Exception {
	try { TreeSet<String> all = new TreeSet<>();
		for (InetAddress i : InetAddress.getAllByName(a[0])) all.add(i.getHostAddress());
		System.out.println(all);
	} catch (UnknownHostException e) { System.out.println(e.getMessage()); System.exit(1); }
} }`

// script writes the program that asks every client for every name.
func script(t *testing.T, dir string, names []string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("export DIR=" + dir + "\n")
	for i, c := range clients {
		if _, err := exec.LookPath(c.needs); err != nil {
			t.Logf("%s is not installed: %s is left out", c.needs, c.what)
			continue
		}
		part := filepath.Join(dir, fmt.Sprintf("client%d", i))
		write(t, part, "set -o pipefail\n"+c.command+"\n")
		for _, name := range names {
			if name == "big.test" && !c.big {
				continue
			}
			fmt.Fprintf(&b, "echo '@@ %s: %s'; timeout 10 bash %s %s 2>&1; echo status $?\n", c.what, name, part, name)
		}
	}
	file := filepath.Join(dir, "clients")
	write(t, file, b.String())
	return file
}

var remaining = regexp.MustCompile(`\t[0-9]+\tIN`)

// sections are what the clients said, with the lines in order of letters.
func sections(out string) map[string]string {
	said := map[string]string{}
	for _, s := range strings.Split(out, "@@ ")[1:] {
		head, rest, _ := strings.Cut(s, "\n")
		lines := strings.Split(remaining.ReplaceAllString(strings.TrimSpace(rest), "\tTTL\tIN"), "\n")
		slices.Sort(lines)
		said[head] = strings.Join(lines, "\n")
	}
	return said
}

func TestClients(t *testing.T) {
	dir := world(t)
	write(t, filepath.Join(dir, "musl.c"), muslSource)
	write(t, filepath.Join(dir, "main.go"), goSource)
	if _, err := exec.LookPath("musl-gcc"); err == nil {
		run(t, "musl-gcc", "-static", "-o", filepath.Join(dir, "musl"), filepath.Join(dir, "musl.c"))
	}
	if _, err := exec.LookPath("javac"); err == nil {
		write(t, filepath.Join(dir, "Names.java"), javaSource)
		run(t, "javac", "-d", dir, filepath.Join(dir, "Names.java"))
	}
	run(t, "go", "build", "-o", filepath.Join(dir, "go"), filepath.Join(dir, "main.go"))
	names := []string{"good.test", "alias.test", "short", "big.test", "missing.test", "evil.test"}
	file := script(t, dir, names)
	policy := filepath.Join(dir, "policy.yaml")
	write(t, policy, "version: 1\nrules:\n  - {name: r, dns: {effect: prevent, deny: [evil.test]}}\n")
	bin, err := filepath.Abs("../../../bin/defender")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("bash", file).Output()
	if err != nil {
		t.Fatalf("the clients alone: %v\n%s", err, out)
	}
	direct := sections(string(out))
	for _, mode := range []string{"rewrite", "leave"} {
		t.Run(mode, func(t *testing.T) {
			cmd := exec.Command(bin, "run", "--policy", policy, "--resolv-conf", mode, "--audit-log", filepath.Join(dir, mode), "--", "bash", file)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v\n%s%s", err, out, &stderr)
			}
			through := sections(string(out))
			for head, want := range direct {
				if client, evil := strings.CutSuffix(head, ": evil.test"); evil {
					// Refused is as if it were not there.
					want = strings.ReplaceAll(direct[client+": missing.test"], "missing.test", "evil.test")
				}
				if diff := cmp.Diff(want, through[head]); diff != "" {
					t.Errorf("%s (-direct +through):\n%s", head, diff)
				}
			}
			if t.Failed() {
				log, _ := os.ReadFile(filepath.Join(dir, mode))
				t.Logf("%s\n%s", &stderr, log)
			}
		})
	}
}
