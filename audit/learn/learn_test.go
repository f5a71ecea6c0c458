package learn

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"appdefender/policy"
	"appdefender/policy/file"
)

var at = time.Date(2026, 3, 4, 11, 0, 0, 0, time.UTC)

// full is the header of a recording that has everything.
func full(h Header) Header {
	h.Facts = Facts(true)
	h.Sections = []policy.Section{policy.Processes, policy.DNS, policy.Network, policy.Files}
	return h
}

func record(h Header, events ...policy.Event) *Recording {
	r := NewRecording(h)
	for i := range events {
		r.Add(&events[i], at.Add(time.Duration(i)*time.Second))
	}
	return r
}

// learned builds a policy, writes it, reads it back and compiles it.
func learned(t testing.TB, r *Recording) (*policy.Engine, string) {
	t.Helper()
	res, err := Build([]*Recording{r}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := res.YAML()
	if err != nil {
		t.Fatal(err)
	}
	p, err := file.Parse("learned.yaml", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	h := r.Header()
	e, err := policy.Compile(p, h.Workload())
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return e, string(text)
}

func launch(p string, command ...string) policy.Event {
	return policy.Event{Kind: policy.Launch, Subject: policy.Process{PID: 7, Path: "/usr/bin/dash"}, Program: policy.Program{Typed: p, Path: p, Command: command}}
}

func lookup(name string) policy.Event {
	return policy.Event{Kind: policy.Lookup, Domain: name, QType: "A", Subject: policy.Process{Path: "/usr/bin/wget"}}
}

func connect(addr, name string) policy.Event {
	return policy.Event{Kind: policy.Outbound, Addr: netip.MustParseAddrPort(addr), Proto: "tcp", Name: name, Resolved: name != ""}
}

func listen(addr string) policy.Event {
	return policy.Event{Kind: policy.Listen, Addr: netip.MustParseAddrPort(addr), Proto: "tcp"}
}

func unix(p string) policy.Event {
	return policy.Event{Kind: policy.UnixConnect, File: policy.File{Path: p, Typed: p}}
}

func change(op, p, to string) policy.Event {
	return policy.Event{Kind: policy.FileWrite, File: policy.File{Path: p, Typed: p, Op: op, To: to}}
}

// many returns events of one kind, with %d in the pattern counted from 1.
func many(n int, pattern string, of func(string) policy.Event) []policy.Event {
	var list []policy.Event
	for i := range n {
		list = append(list, of(fmt.Sprintf(pattern, i+1)))
	}
	return list
}

// A learned policy refuses nothing of what it was learned from, and whatever
// else there is.
func TestLearned(t *testing.T) {
	t.Parallel()
	write := func(p string) policy.Event { return change("create", p, "") }
	for _, tt := range []struct {
		name    string
		seen    []policy.Event
		allowed []policy.Event
		refused []policy.Event
	}{
		{"nothing at all", []policy.Event{launch("/app")}, []policy.Event{launch("/app"), lookup("localhost"), connect("127.0.0.1:80", "")},
			[]policy.Event{launch("/bin/sh"), lookup("a.test"), connect("192.0.2.1:80", ""), connect("[2001:db8::1]:80", ""), connect("10.0.0.1:80", ""), listen("0.0.0.0:80"), unix("/run/docker.sock"), write("/etc/passwd"), write("/tmp/x")}},
		{"a program", []policy.Event{launch("/usr/bin/wget", "wget", "x")}, nil, []policy.Event{launch("/usr/bin/curl"), launch("/tmp/wget")}},
		{"a script", []policy.Event{{Kind: policy.Launch, Program: policy.Program{Typed: "/app/run.sh", Path: "/app/run.sh", Interpreters: []string{"/usr/bin/dash"}}}}, nil,
			[]policy.Event{launch("/usr/bin/dash"), {Kind: policy.Launch, Program: policy.Program{Typed: "/app/other.sh", Path: "/app/other.sh", Interpreters: []string{"/usr/bin/dash"}}}}},
		{"files below a folder with another name each time", []policy.Event{change("mkdir", "/tmp/run-7123456/out", ""), write("/tmp/run-7123456/out/deep/f"), write("/tmp/run-7123456/out/g")},
			[]policy.Event{write("/tmp/run-9876543/out/g"), write("/tmp/run-9876543/out/deep/f")}, []policy.Event{write("/tmp/run-9876543/out/other"), write("/tmp/other/out/g"), write("/etc/passwd")}},
		{"an applet", []policy.Event{{Kind: policy.Launch, Program: policy.Program{Typed: "/bin/mkdir", Path: "/bin/busybox", Applet: "mkdir"}}}, nil,
			[]policy.Event{{Kind: policy.Launch, Program: policy.Program{Typed: "/bin/nc", Path: "/bin/busybox", Applet: "nc"}}}},
		{"a program with a star in its name", []policy.Event{launch("/opt/x/*")}, nil, []policy.Event{launch("/opt/x/y")}},
		{"a program with a random name", []policy.Event{launch("/tmp/a81bc81b-dead-4e5d-abff-90865d1e13b1")}, nil, []policy.Event{launch("/tmp/evil")}},
		{"a versioned folder", []policy.Event{launch("/opt/node-v18.12.0-linux-x64/bin/node")}, []policy.Event{launch("/opt/node-v18.12.1-linux-x64/bin/node")},
			[]policy.Event{launch("/opt/node-v18.12.0-linux-x64/bin/npm"), launch("/opt/bin/node")}},
		{"a memfd", []policy.Event{{Kind: policy.Launch, Subject: policy.Process{Path: "/usr/bin/runc"}, Program: policy.Program{Fileless: true}}}, nil,
			[]policy.Event{{Kind: policy.Launch, Subject: policy.Process{Path: "/usr/bin/python3"}, Program: policy.Program{Fileless: true}}, launch("/bin/x")}},
		{"a name", []policy.Event{lookup("api.example.com")}, nil, []policy.Event{lookup("example.com"), lookup("b.example.com"), lookup("api.example.com.evil.test")}},
		{"many names", many(nameSiblings, "h%d.example.com", lookup), []policy.Event{lookup("new.example.com")}, []policy.Event{lookup("example.com"), lookup("example.org")}},
		{"too few names", many(nameSiblings-1, "h%d.example.com", lookup), nil, []policy.Event{lookup("new.example.com")}},
		{"many of a CDN's customers", many(40, "d%d.cloudfront.net", lookup), nil, []policy.Event{lookup("evil.cloudfront.net")}},
		{"many of a top domain", many(400, "d%d.co.uk", lookup), nil, []policy.Event{lookup("evil.co.uk")}},
		{"a hash", []policy.Event{lookup("0123456789abcdef0123.cdn.example.com")}, []policy.Event{lookup("fedcba98765432100123.cdn.example.com")}, []policy.Event{lookup("www.example.com")}},
		{"a hash below a public suffix", []policy.Event{lookup("0123456789abcdef0123.cloudfront.net")}, nil, []policy.Event{lookup("fedcba98765432100123.cloudfront.net")}},
		{"odd names", []policy.Event{lookup(`a\.b.test`), lookup("1.2.3.4"), lookup(""), lookup("a b.test"), lookup("-x.test")}, nil, []policy.Event{lookup("b.test"), lookup("1.2.3.5")}},
		{"a connection by name", []policy.Event{connect("192.0.2.7:443", "api.example.com")}, []policy.Event{connect("192.0.2.9:443", "api.example.com")},
			[]policy.Event{connect("192.0.2.7:443", ""), connect("192.0.2.7:25", "api.example.com"), connect("192.0.2.7:443", "evil.test")}},
		{"an address", []policy.Event{connect("192.0.2.7:443", ""), connect("10.1.2.3:6379", "")}, []policy.Event{connect("10.1.2.3:6380", "")},
			[]policy.Event{connect("192.0.2.8:443", ""), connect("192.0.2.7:80", ""), connect("10.1.2.4:6379", ""), connect("169.254.169.254:80", "")}},
		{"many addresses", many(addrSiblings, "10.1.2.%d:80", func(s string) policy.Event { return connect(s, "") }), []policy.Event{connect("10.1.2.200:80", "")}, []policy.Event{connect("10.1.3.1:80", "")}},
		{"metadata", []policy.Event{connect("169.254.169.254:80", "")}, nil, []policy.Event{connect("169.254.170.2:80", "")}},
		{"a port", []policy.Event{listen("0.0.0.0:8080")}, []policy.Event{listen("[::]:8080")}, []policy.Event{listen("0.0.0.0:4444")}},
		{"ports of the kernel", many(listenSiblings, "0.0.0.0:4000%d", listen), []policy.Event{listen("0.0.0.0:50000")}, []policy.Event{listen("0.0.0.0:4444"), listen("0.0.0.0:61000")}},
		{"a socket", []policy.Event{unix("/run/php/php8.2-fpm.sock")}, nil, []policy.Event{unix("/run/docker.sock"), unix("@x")}},
		{"abstract sockets", []policy.Event{unix("@/tmp/dbus-12345"), unix("@plain")}, []policy.Event{unix("@/tmp/dbus-54321")}, []policy.Event{unix("@other"), unix("/tmp/dbus-1")}},
		{"files", []policy.Event{write("/var/log/nginx/access.log"), change("rename", "/data/x/dump.rdb.tmp", "/data/x/dump.rdb")}, []policy.Event{change("unlink", "/data/x/dump.rdb", "")},
			[]policy.Event{write("/var/log/nginx/x"), change("rename", "/data/x/dump.rdb", "/etc/cron.d/x"), write("/etc/passwd")}},
		{"temporary files", []policy.Event{write("/tmp/tmp.aB3dE6gH9j/x"), write("/tmp/tmpab_12xyz"), write("/data/x/temp-12345.rdb")},
			[]policy.Event{write("/tmp/tmp.zY1xW2vU3t/x"), write("/tmp/tmpzz_99abc"), write("/data/x/temp-98765.rdb")}, []policy.Event{write("/tmp/x"), write("/data/x/dump.rdb"), write("/data/temp-98765.rdb")}},
		{"many files", many(fileSiblings, "/srv/app/cache/f%dx", write), []policy.Event{write("/srv/app/cache/new/deep")}, []policy.Event{write("/srv/app/x")}},
		{"very many files", many(3*saturated, "/srv/app/cache/f%dx", write), []policy.Event{write("/srv/app/cache/new/deep")}, []policy.Event{write("/srv/app/x")}},
		{"many files where each counts", many(200, "/etc/f%dx", write), nil, []policy.Event{write("/etc/passwd")}},
		{"many of many folders", slices.Concat(many(20, "/var/lib/app%dx/a", write), many(20, "/home/u%dx/.ssh/authorized_keys", write)), nil, []policy.Event{write("/var/lib/dpkg/status"), write("/home/x/.ssh/authorized_keys")}},
		{"a process's own", []policy.Event{write("/proc/4711/oom_score_adj")}, []policy.Event{write("/proc/12/oom_score_adj")}, []policy.Event{write("/proc/12/mem"), write("/proc/sysrq-trigger")}},
		{"files with stars", []policy.Event{write("/srv/*"), change("rename", "/srv/a*", "/srv/b*")}, nil, []policy.Event{write("/srv/x")}},
		{"sockets and files of one folder", append(many(2*saturated, "/srv/app/run/f%dx", write), unix("/srv/app/run/one")), nil, []policy.Event{unix("/srv/app/run/two")}},
		{"what cannot be read", []policy.Event{{Kind: policy.Unknown, Section: policy.Processes, Call: "execve", Why: "gone"}}, []policy.Event{{Kind: policy.Unknown, Section: policy.Processes, Call: "execveat"}}, []policy.Event{launch("/x")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			engine, text := learned(t, record(full(Header{Container: "shop"}), tt.seen...))
			for i := range tt.seen {
				if v := engine.Decide(&tt.seen[i]); !v.Allow || v.Tell() && tt.seen[i].Kind != policy.Unknown {
					t.Errorf("seen, and refused: %+v: %s", tt.seen[i], v.Reason)
				}
			}
			for i := range tt.allowed {
				if v := engine.Decide(&tt.allowed[i]); !v.Allow {
					t.Errorf("refused: %+v: %s", tt.allowed[i], v.Reason)
				}
			}
			for i := range tt.refused {
				if engine.Decide(&tt.refused[i]).Allow {
					t.Errorf("allowed: %+v", tt.refused[i])
				}
			}
			if t.Failed() {
				t.Log("\n" + text)
			}
		})
	}
}

// Detections that nothing set off are in the policy, others are named.
func TestLearnedDetections(t *testing.T) {
	t.Parallel()
	sudo := launch("/usr/bin/sudo", "sudo", "-v")
	sudo.Program.SetUID = true
	_, text := learned(t, record(full(Header{}), launch("/app"), sudo, sudo))
	for _, s := range []string{"reverseShell: default", "tunnels: default", "rawSockets: default", "sshAndAdminFiles: default",
		"# learned: processes.detect.setUID is left out: it was set off 2 times, as by sudo -v, by /usr/bin/dash."} {
		if !strings.Contains(text, s) {
			t.Errorf("%q is missing", s)
		}
	}
	if strings.Contains(text, "setUID: default") {
		t.Error("a detection that was set off is there")
	}
	if t.Failed() {
		t.Log("\n" + text)
	}
	// Audits know too little for any.
	if _, text := learned(t, record(Header{}, launch("/app"))); strings.Contains(text, "detect") || strings.Contains(text, "dns:") {
		t.Errorf("of audits:\n%s", text)
	}
}

func TestEvidence(t *testing.T) {
	t.Parallel()
	r := record(full(Header{Container: "shop", Image: "shop:1"}), launch("/bin/ls", "ls", "a\nb # c"), launch("/bin/ls", "ls"))
	_, text := learned(t, r)
	for _, s := range []string{`- /bin/ls # 2 times, 2026-03-04 11:00; ls $'a\nb # c', by /usr/bin/dash`, "containers:\n        - shop\n", "nothing was looked up"} {
		if !strings.Contains(text, s) {
			t.Errorf("%q is missing in\n%s", s, text)
		}
	}
}

// Containers get a rule each, and runs of one container one.
func TestMergedRecordings(t *testing.T) {
	t.Parallel()
	res, err := Build([]*Recording{
		record(full(Header{}), launch("/x")),
		record(full(Header{Container: "shop", Image: "shop:1"}), launch("/a")),
		record(full(Header{Container: "web"}), launch("/b")),
		record(full(Header{Container: "shop", Image: "shop:2"}), launch("/c")),
	}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range res.Policy.Rules {
		got = append(got, r.Name+": "+strings.Join(r.Processes.Allow, " "))
	}
	if want := []string{"shop: /a /c", "web: /b", "learned: /x"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A recording is bounded, says what it lost, and is read back as it was.
func TestRecordingBounds(t *testing.T) {
	t.Parallel()
	r := NewRecording(full(Header{}))
	for i := range maxObservations + 10 {
		ev := connect(fmt.Sprintf("10.%d.%d.1:80", i/250, i%250), "")
		r.Add(&ev, at)
	}
	if n, lost := len(r.List()), r.Header().Lost; n != maxObservations || lost != 10 {
		t.Errorf("%d kept, %d lost", n, lost)
	}
	if _, text := learned(t, r); !strings.Contains(text, "# learned: 10 events did not fit") {
		t.Errorf("the policy does not say so:\n%.300s", text)
	}
	big := NewRecording(Header{})
	for i := range 600 {
		ev := launch("/x/" + strings.Repeat(fmt.Sprintf("x%03d.", i), 2000))
		big.Add(&ev, at)
	}
	if h := big.Header(); h.Lost == 0 {
		t.Error("16 MiB are not the end")
	}
}

func TestRecordingFile(t *testing.T) {
	t.Parallel()
	r := record(full(Header{Container: "shop"}), randomEvents(rand.New(rand.NewPCG(1, 2)), 200)...)
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	whole := b.String()
	read, notes, err := Read("x", strings.NewReader(whole), false)
	if err != nil || len(notes) > 0 || len(read) != 1 {
		t.Fatal(err, notes, len(read))
	}
	var again bytes.Buffer
	if err := read[0].Write(&again); err != nil {
		t.Fatal(err)
	}
	if again.String() != whole {
		t.Errorf("not the same again:\n%s\n%s", whole, again.String())
	}
}

// The property that a learned policy is for, on random events.
func FuzzLearned(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed, uint64(30))
	}
	f.Fuzz(func(t *testing.T, seed, n uint64) {
		rnd := rand.New(rand.NewPCG(seed, n))
		events := randomEvents(rnd, int(n%200)+1)
		r := record(full(Header{Container: "c"}), events...)
		engine, text := learned(t, r)
		for i := range events {
			if v := engine.Decide(&events[i]); !v.Allow {
				t.Errorf("refused: %+v: %s", events[i], v.Reason)
			}
		}
		// What has nothing in common with anything that was seen.
		for _, ev := range []policy.Event{launch("/never/seen"), lookup("never.seen.example"), connect("203.0.113.77:31337", "")} {
			if engine.Decide(&ev).Allow && !strings.Contains(text, "only tells: no entry") {
				t.Errorf("allowed: %+v", ev)
			}
		}
		if t.Failed() {
			t.Log("\n" + text)
		}
	})
}

// randomEvents are events of few and many names, sound ones and odd ones.
func randomEvents(rnd *rand.Rand, n int) []policy.Event {
	pick := func(list ...string) string { return list[rnd.IntN(len(list))] }
	word := func() string {
		return pick("a", "bin", "app", "data", "x-1.2.3", "tmp", "cache", "*", "a*b", "Ab3dEf9", "sedQw3rTy", "a81bc81b-dead-4e5d-abff-90865d1e13b1", "12345", "é", "a b", "lib", "1.2", "\x01", "\"q\"",
			fmt.Sprintf("f%d", rnd.IntN(300)))
	}
	path := func() string {
		s := pick("", "", "/tmp", "/etc", "/srv/app", "/proc/77", "/var/lib/x")
		for range 1 + rnd.IntN(3) {
			s += "/" + word()
		}
		return s
	}
	domain := func() string {
		s := pick("example.com", "co.uk", "cloudfront.net", "internal", "ec2.internal", "in-addr.arpa", "cluster.local", "test", "")
		for range rnd.IntN(3) {
			s = pick("a", "www", "0123456789abcdef01", "ip-10-0-0-7", "x_y", "-", "", "a\\.b", "A", fmt.Sprintf("h%d", rnd.IntN(300))) + "." + s
		}
		return s
	}
	addr := func() netip.AddrPort {
		ip := netip.AddrFrom4([4]byte{pick("\x0a", "\xc0", "\x7f", "\x08", "\x00")[0], 0, byte(rnd.IntN(2)), byte(rnd.IntN(12))})
		if rnd.IntN(4) == 0 {
			b := [16]byte{0x20, 0x01, 0x0d, 0xb8, 15: byte(rnd.IntN(12))}
			ip = netip.AddrFrom16(b)
		}
		return netip.AddrPortFrom(ip, uint16(rnd.IntN(3)*20000+rnd.IntN(9)))
	}
	list := make([]policy.Event, n)
	for i := range list {
		ev := policy.Event{Kind: policy.Kind(rnd.IntN(8)), Subject: policy.Process{PID: rnd.IntN(99), Path: pick("", "/bin/sh", "/usr/sbin/nginx")}}
		switch ev.Kind {
		case policy.Launch:
			p := &ev.Program
			p.Typed, p.Path = path(), path()
			p.Command = []string{word(), path()}
			switch rnd.IntN(6) {
			case 0:
				p.Interpreters = []string{path(), path()}[:1+rnd.IntN(2)]
			case 1:
				p.Applet = word()
			case 2:
				p.Loaded = path()
			case 3:
				p.Path, p.Fileless = "", true
				p.Typed = pick("", path(), "/proc/self/fd/../3")
			}
			p.Modified, p.SetUID, p.Writable, p.RemoteIO = rnd.IntN(9) == 0, rnd.IntN(9) == 0, rnd.IntN(9) == 0, rnd.IntN(9) == 0
		case policy.Lookup:
			ev.Domain, ev.QType = domain(), "A"
		case policy.Outbound:
			ev.Addr, ev.Proto = addr(), "tcp"
			if ev.Resolved = rnd.IntN(2) == 0; ev.Resolved {
				ev.Name = domain()
			}
		case policy.Listen:
			ev.Addr = addr()
		case policy.UnixConnect:
			ev.File.Path = pick(path(), "@"+word(), "@", "")
		case policy.FileWrite:
			ev.File = policy.File{Path: path(), Typed: path(), Op: pick("open", "create", "rename", "link", "unlink", "symlink", "mount", "chmod")}
			if ev.File.Op == "rename" || ev.File.Op == "link" || ev.File.Op == "mount" || ev.File.Op == "symlink" {
				ev.File.To = path()
			}
		case policy.RawSocket:
			ev.Proto = pick("raw", "packet", "vsock", "can")
		default:
			ev.Section, ev.Call = policy.Section(1+rnd.IntN(4)), pick("execve", "connect")
		}
		list[i] = ev
	}
	return list
}

// A record that stands for several says so.
func TestSums(t *testing.T) {
	log := `{"time":"2026-11-23T08:24:32Z","type":"network","attackType":"explicitlyDeniedDNS","domain":"a.test","count":7,"events":[{"msg":"x","count":7}]}
{"time":"2026-11-23T08:24:33Z","type":"network","attackType":"explicitlyDeniedDNS","domain":"b.test","count":1}
`
	notes, err := Lines("log", strings.NewReader(log), func(*Line) error { return nil })
	if want := "log: of 7 events only the last of many is known; start the Defender with --every-audit to have each"; err != nil || len(notes) != 1 || notes[0] != want {
		t.Errorf("%q, %v", notes, err)
	}
}
