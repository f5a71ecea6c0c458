package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"appdefender/policy"
)

var (
	noon = time.Date(2026, 3, 4, 12, 0, 0, 123456789, time.FixedZone("", 3600))
	src  = &Source{
		Instance: "i1", AppID: "task:0438", Container: "sample-task", Image: "sample:1",
		ImageID: "sha256:0", Hostname: "vm", Version: "0.1.0",
	}
	shell = policy.Process{
		PID: 17, Path: "/usr/bin/dash", Command: []string{"sh", "entry.sh"}, User: "root",
		Ancestors: []policy.Ancestor{{PID: 1, Path: "/entry"}},
	}
	wget  = policy.Process{PID: 18, Path: "/usr/bin/wget", Command: []string{"wget", "http://yahoo.com"}, User: "root"}
	mkdir = policy.Event{
		Kind: policy.Launch, Subject: shell,
		Program: policy.Program{
			Typed: "/bin/mkdir", Path: "/usr/bin/mkdir", Command: []string{"mkdir", "test"}, Dev: 1, Ino: 2,
		},
	}
	yahoo   = policy.Event{Kind: policy.Lookup, Subject: wget, Domain: "yahoo.com", QType: "A"}
	connect = policy.Event{Kind: policy.Outbound, Subject: wget, Proto: "tcp", Addr: netip.MustParseAddrPort("198.51.100.7:25")}

	process = policy.Verdict{Detection: policy.DeniedProcess, Rule: "sample", Reason: `"mkdir" is on the deny list`}
	name    = policy.Verdict{Detection: policy.DeniedDNS, Rule: "sample", Reason: `"yahoo.com" is not on the allow list`}
)

// The names are the format; a change of one breaks whoever reads them.
func TestJSON(t *testing.T) {
	tests := []struct {
		what string
		r    Record
		want string
	}{
		{
			"launch",
			New(src, &mkdir, process, Outcome{Level: Refused, Refused: true, Time: noon}),
			`{"time":"2026-03-04T11:00:00.123457Z","type":"processes","attackType":"explicitlyDeniedProcess","effect":"prevent",` +
				`"ruleName":"sample","msg":"/usr/bin/mkdir launched and is explicitly denied by runtime rule. Full command: mkdir test",` +
				`"severity":"high","count":1,"appID":"task:0438","hostname":"task:0438","containerName":"sample-task","imageName":"sample:1",` +
				`"imageId":"sha256:0","profileId":"task:0438_sample-task","version":"0.1.0","user":"root","pid":17,"processPath":"/usr/bin/mkdir",` +
				`"command":"mkdir test","ancestry":[{"pid":17,"path":"/usr/bin/dash"},{"pid":1,"path":"/entry"}],` +
				`"reason":"\"mkdir\" is on the deny list","level":"refused","refused":true}`,
		},
		{
			"lookup, dry run",
			New(&Source{Hostname: "vm", DryRun: true}, &yahoo, name, Outcome{Level: Checked, Time: noon}),
			`{"time":"2026-03-04T11:00:00.123457Z","type":"network","attackType":"explicitlyDeniedDNS","effect":"prevent",` +
				`"ruleName":"sample","msg":"DNS resolution of domain name yahoo.com triggered by /usr/bin/wget explicitly denied by a runtime rule",` +
				`"severity":"high","count":1,"hostname":"vm","user":"root","pid":18,"processPath":"/usr/bin/wget","command":"wget http://yahoo.com",` +
				`"domain":"yahoo.com","queryType":"A","reason":"\"yahoo.com\" is not on the allow list","level":"checked","dryRun":true}`,
		},
		{
			"connection, alert, with an error",
			New(&Source{AppID: "a"}, &connect, policy.Verdict{Allow: true, Effect: policy.Alert, Detection: policy.DeniedOutboundPort},
				Outcome{Level: Performed, Time: noon, Err: errors.New("target is\ngone")}),
			`{"time":"2026-03-04T11:00:00.123457Z","type":"network","attackType":"explicitlyDeniedOutboundPort","effect":"alert",` +
				`"msg":"Outbound connection /usr/bin/wget to port 25 (IP: 198.51.100.7) is explicitly denied by a runtime rule.",` +
				`"severity":"medium","count":1,"appID":"a","hostname":"a","profileId":"a_","user":"root","pid":18,"processPath":"/usr/bin/wget",` +
				`"command":"wget http://yahoo.com","ip":"198.51.100.7","port":25,"level":"performed","err":"target is\\ngone"}`,
		},
		{
			"notice",
			Notice(&Source{Hostname: "vm"}, "level is observe", noon),
			`{"time":"2026-03-04T11:00:00.123457Z","type":"defender","msg":"level is observe","count":1,"hostname":"vm"}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			var b bytes.Buffer
			if err := newLines(&b).Write(tt.r); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want+"\n", b.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Every field of a full record is the reference's or one of ours.
func TestFieldNames(t *testing.T) {
	reference := strings.Fields(`_id time hostname user type imageName imageId effect ruleName msg profileId pid processPath
		attackType count severity appID version containerName domain command ip port err`)
	ours := strings.Fields("ancestry level reason queryType interpreters dryRun refused call")
	ev := policy.Event{
		Kind: policy.Launch, Subject: shell, Program: mkdir.Program,
		Domain: "d", QType: "A", Addr: connect.Addr, Call: "connect",
	}
	ev.Program.Interpreters = []string{"/bin/sh"}
	full := *src
	full.DryRun = true
	r := New(&full, &ev, process, Outcome{Level: Checked, Refused: true, Err: errors.New("x")})
	r.ID = "i1-1"
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	want := slices.Sorted(slices.Values(append(reference, ours...)))
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if b, err = json.Marshal(Record{}); err != nil || string(b) != "{}" {
		t.Errorf("an empty record is %s, %v", b, err)
	}
}

func TestMessage(t *testing.T) {
	program := func(p policy.Program) policy.Event {
		return policy.Event{Kind: policy.Launch, Subject: shell, Program: p}
	}
	cmd := []string{"mkdir", "test"}
	nobody := yahoo
	nobody.Subject = policy.Process{}
	v6 := connect
	v6.Addr = netip.MustParseAddrPort("[2001:db8::1]:25")
	unread := policy.Event{Section: policy.Network, Subject: wget, Call: "connect", Why: "address beyond memory"}
	hostile := yahoo
	hostile.Domain = "a\nb\x1b[2J"
	const launched = " launched and is explicitly denied by runtime rule. Full command: mkdir test"
	listen := policy.Event{Kind: policy.Listen, Subject: wget, Addr: netip.MustParseAddrPort("0.0.0.0:4444")}
	etc := policy.Event{Kind: policy.FileWrite, Subject: wget, File: policy.File{Path: "/etc/pass\nwd", Op: "open"}}
	engine := policy.Event{Kind: policy.UnixConnect, Subject: wget, File: policy.File{Typed: "/var/run/docker.sock"}}
	written := policy.Event{Kind: policy.FileWrite, Subject: wget, File: policy.File{
		Path: "/tmp/x", Op: policy.OpWritten,
		Findings: []policy.Finding{{What: policy.FoundMalware, Detail: "Mirai"}, {What: policy.FoundForeignELF, Detail: "MIPS"}},
	}}
	unnamed := policy.Event{Kind: policy.FileWrite, Subject: wget, File: policy.File{Path: "/tmp/x", Op: policy.OpWritten, MD5: "abcd"}}
	tests := []struct {
		what string
		ev   policy.Event
		d    policy.Detection
		want string
	}{
		{"program", mkdir, policy.DeniedProcess, "/usr/bin/mkdir" + launched},
		{
			"applet by its name", program(policy.Program{Typed: "/bin/mkdir", Path: "/bin/busybox", Applet: "mkdir", Command: cmd}),
			policy.DeniedProcess, "/bin/mkdir" + launched,
		},
		{
			"applet as an argument", program(policy.Program{Typed: "/bin/busybox", Path: "/bin/busybox", Applet: "mkdir", Command: cmd}),
			policy.DeniedProcess, "/bin/busybox mkdir" + launched,
		},
		{
			"behind a loader", program(policy.Program{Typed: "/lib/ld.so", Path: "/usr/lib/ld.so", Loaded: "/usr/bin/mkdir", Command: cmd}),
			policy.DeniedProcess, "/usr/bin/mkdir" + launched,
		},
		{"no file", program(policy.Program{Typed: "/proc/self/fd/3", Command: cmd}), policy.DeniedProcess, "/proc/self/fd/3" + launched},
		{"no name", program(policy.Program{Command: cmd}), policy.DeniedProcess, "unknown process" + launched},
		{
			"swapped", mkdir, policy.Swapped,
			"/usr/bin/mkdir was launched in place of the judged program and ended",
		},
		{
			"lookup", yahoo, policy.DeniedDNS,
			"DNS resolution of domain name yahoo.com triggered by /usr/bin/wget explicitly denied by a runtime rule",
		},
		{
			"lookup by nobody", nobody, policy.DeniedDNS,
			"DNS resolution of domain name yahoo.com triggered by unknown process explicitly denied by a runtime rule",
		},
		{
			"lookup with control characters", hostile, policy.DeniedDNS,
			`DNS resolution of domain name a\nb\x1b[2J triggered by /usr/bin/wget explicitly denied by a runtime rule`,
		},
		{
			"address", connect, policy.DeniedIP,
			"Outbound connection /usr/bin/wget to IP 198.51.100.7 is explicitly denied by a runtime rule",
		},
		{
			"address, IPv6", v6, policy.DeniedIP,
			"Outbound connection /usr/bin/wget to IP 2001:db8::1 is explicitly denied by a runtime rule",
		},
		{
			"port", connect, policy.DeniedOutboundPort,
			"Outbound connection /usr/bin/wget to port 25 (IP: 198.51.100.7) is explicitly denied by a runtime rule.",
		},
		{
			"listening port", listen, policy.DeniedListenPort,
			"Process /usr/bin/wget is listening on port 4444 explicitly denied by a runtime rule",
		},
		{
			"file", etc, policy.DeniedFile,
			"/usr/bin/wget changed explicitly monitored file /etc/pass\\nwd",
		},
		{
			"file without a name", policy.Event{Kind: policy.FileWrite, Subject: wget}, policy.DeniedFile,
			"/usr/bin/wget changed explicitly monitored file without a name",
		},
		{
			"Unix socket", engine, policy.DeniedUnix,
			"Connection of /usr/bin/wget to Unix socket /var/run/docker.sock is explicitly denied by a runtime rule",
		},
		{
			"unreadable", unread, policy.Unreadable,
			"Call connect of /usr/bin/wget could not be read (address beyond memory)",
		},
		{"custom rule", mkdir, policy.Custom, "m\\n"},
		{"something new", mkdir, "new", "why"},
		{"modified", mkdir, policy.ModifiedProcess, "A modified executable /usr/bin/mkdir  was launched"},
		{"new", mkdir, policy.NewProcess, "/usr/bin/mkdir launched and is not part of the original image. Full command: mkdir test"},
		{
			"altered", mkdir, policy.AlteredBinary, "/usr/bin/mkdir launched and is detected as an altered or corrupted package binary. " +
				"The file metadata doesn't match what's reported by the package manager.",
		},
		{"miner", mkdir, policy.CryptoMiner, "/usr/bin/mkdir launched and is identified as a crypto miner. Full command: mkdir test"},
		{"reverse shell", mkdir, policy.ReverseShell, "/usr/bin/mkdir launched and is identified as a reverse shell. Full command: mkdir test"},
		{"lateral movement", mkdir, policy.LateralMovement, "/usr/bin/mkdir launched and is identified as a process used for lateral movement. Full command: mkdir test"},
		{"fileless", mkdir, policy.Fileless, "/usr/bin/mkdir launched without a file. Full command: mkdir test"},
		{"writable path", mkdir, policy.WritablePath, "/usr/bin/mkdir launched from a temporary file storage. Full command: mkdir test"},
		{"set-uid", mkdir, policy.SetUID, "/usr/bin/mkdir launched and gains privileges (SUID). Full command: mkdir test"},
		{"web shell", mkdir, policy.WebShell, "/usr/bin/mkdir launched and is not expected here: why. Full command: mkdir test"},
		{"digest not known", mkdir, policy.Unreadable, "why"},
		{"administrator", etc, policy.AdminAccount, "/usr/bin/wget wrote to administrative accounts configuration file /etc/pass\\nwd"},
		{"ssh", etc, policy.SSHAccess, "/usr/bin/wget wrote to SSH configuration file /etc/pass\\nwd"},
		{
			"packed", written, policy.EncryptedBinary,
			"/usr/bin/wget wrote a suspicious packed/encrypted binary to /tmp/x. Packing/encryption can conceal malicious executables.",
		},
		{"malware", written, policy.MalwareFile, "/usr/bin/wget created /tmp/x which was detected as Mirai malware in the custom malware feed"},
		{"malware by digest", unnamed, policy.MalwareFile, "/usr/bin/wget created /tmp/x which was detected as abcd malware in the custom malware feed"},
		{"binary", written, policy.BinaryChanged, "/usr/bin/wget changed the binary /tmp/x"},
		{"key", written, policy.SecretFile, "/usr/bin/wget created a key file at /tmp/x"},
		{"certificate", written, policy.RegularFile, "/usr/bin/wget wrote suspicious file to /tmp/x"},
		{
			"foreign", written, policy.ForeignELF,
			"Suspected malicious ELF file /tmp/x downloaded by process /usr/bin/wget. Incompatible process architecture MIPS.",
		},
		{
			"headers", written, policy.SuspiciousELF, "Suspected malicious ELF file /tmp/x. File headers indicate anti-analysis techniques " +
				"have been used to modify the file, which is used often by malware to avoid detection.",
		},
		{"metadata", connect, policy.CloudMetadata, "/usr/bin/wget asked the cloud's metadata service (IP: 198.51.100.7)"},
		{"ports", connect, policy.VerticalPorts, "/usr/bin/wget scans the ports of IP 198.51.100.7"},
		{"machines", connect, policy.HorizontalScan, "/usr/bin/wget scans many machines for port 25"},
		{"raw socket", policy.Event{Kind: policy.RawSocket, Subject: wget, Proto: "raw"}, policy.RawTraffic, "/usr/bin/wget opened a socket for whole packets (raw)"},
		{"unresolved", connect, policy.Unresolved, "Outbound connection /usr/bin/wget to IP 198.51.100.7, which no allowed DNS resolution returned"},
		{"pool", connect, policy.MiningPool, "Outbound connection /usr/bin/wget to a mining pool (IP: 198.51.100.7, port 25)"},
		{"lookup of a pool", yahoo, policy.MiningPool, "DNS resolution of mining pool yahoo.com triggered by /usr/bin/wget"},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			got := Message(&tt.ev, policy.Verdict{Detection: tt.d, Reason: "why", Message: "m\n"})
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestTechniques(t *testing.T) {
	r := New(&Source{}, &mkdir, policy.Verdict{Detection: policy.CryptoMiner, Custom: "c", Incident: true}, Outcome{})
	if !slices.Equal(r.Techniques, []string{"resourceHijacking"}) || r.CustomRule != "c" || !r.Incident {
		t.Errorf("%+v", r)
	}
}

func TestRecordOf(t *testing.T) {
	unknown := func(s policy.Section) policy.Event { return policy.Event{Section: s, Subject: wget} }
	loaded := mkdir
	loaded.Program = policy.Program{Path: "/usr/lib/ld.so", Loaded: "/usr/bin/mkdir"}
	tests := []struct {
		what                 string
		ev                   policy.Event
		effect               policy.Effect
		typ, severity, ppath string
	}{
		{"launch", mkdir, policy.Prevent, "processes", "high", "/usr/bin/mkdir"},
		{"launch behind a loader", loaded, policy.Block, "processes", "high", "/usr/bin/mkdir"},
		{"lookup", yahoo, policy.Prevent, "network", "high", "/usr/bin/wget"},
		{"lookup, alert", yahoo, policy.Alert, "network", "medium", "/usr/bin/wget"},
		{"connection", connect, policy.Alert, "network", "medium", "/usr/bin/wget"},
		{"unknown launch", unknown(policy.Processes), policy.Prevent, "processes", "high", "/usr/bin/wget"},
		{"unknown send", unknown(policy.Network), policy.Prevent, "network", "high", "/usr/bin/wget"},
		{"unknown query", unknown(policy.DNS), policy.Prevent, "network", "high", "/usr/bin/wget"},
		{"unknown write", unknown(policy.Files), policy.Prevent, "filesystem", "high", "/usr/bin/wget"},
		{"write", policy.Event{Kind: policy.FileWrite, Subject: wget}, policy.Alert, "filesystem", "medium", "/usr/bin/wget"},
		{"listen", policy.Event{Kind: policy.Listen, Subject: wget}, policy.Alert, "network", "medium", "/usr/bin/wget"},
		{"unknown", unknown(policy.NoSection), policy.Prevent, "processes", "high", "/usr/bin/wget"},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			r := New(src, &tt.ev, policy.Verdict{Effect: tt.effect}, Outcome{})
			if r.Type != tt.typ || r.Severity != tt.severity || r.ProcessPath != tt.ppath || r.Effect != tt.effect.String() {
				t.Errorf("got %s, %s, %s, %s", r.Type, r.Severity, r.ProcessPath, r.Effect)
			}
			if r.Time.IsZero() || r.Time.Location() != time.UTC {
				t.Errorf("time %v", r.Time)
			}
		})
	}
}

func TestCommandLine(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for _, tt := range []struct {
		argv []string
		want string
	}{
		{nil, ""},
		{[]string{"mkdir", "test"}, "mkdir test"},
		{[]string{"ls", "-la", "--x=/a,b:c@d%e+f_g"}, "ls -la --x=/a,b:c@d%e+f_g"},
		{[]string{"echo", ""}, "echo ''"},
		{[]string{"sh", "-c", "mkdir a; ls"}, "sh -c 'mkdir a; ls'"},
		{[]string{"echo", "it's"}, `echo 'it'\''s'`},
		{[]string{"echo", `a\b`}, `echo 'a\b'`},
		{[]string{"echo", "a\nb\t\r\x1b[0m'\\"}, `echo $'a\nb\t\r\x1b[0m\'\\'`},
		{[]string{"echo", "\xff\x7f"}, `echo $'\xff\x7f'`},
		{[]string{"echo", "grün", "日本"}, "echo grün 日本"},
		{[]string{"echo", "\u202e\u009b\u00a0\U000e0001"}, `echo $'\u202e\u009b\u00a0\U000e0001'`},
		{[]string{"echo", "\ufffd"}, "echo \ufffd"},
		{[]string{long}, long[:maxText-3] + "…"},
		{[]string{"a", long, "b"}, "a " + long[:maxText-5] + "…"},
	} {
		if got := CommandLine(tt.argv); got != tt.want {
			t.Errorf("CommandLine(%q) = %q, want %q", tt.argv, got, tt.want)
		}
	}
}

// Whatever a target calls its things, a record is one line of bounded length
// that no terminal takes for a command.
func FuzzRecord(f *testing.F) {
	f.Add("mkdir", "a\x1b]0;x\x07", "\xff\u009b\n")
	f.Add(strings.Repeat("\x80", 5000), strings.Repeat("日", 2000), "\u2028")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		ev := policy.Event{
			Kind:    policy.Launch,
			Subject: policy.Process{Path: a, User: b, Ancestors: []policy.Ancestor{{PID: 1, Path: c}}},
			Program: policy.Program{Path: b, Command: []string{a, b, c}, Interpreters: []string{c}},
			Domain:  c, QType: a, Call: b, Why: c,
		}
		for _, d := range []policy.Detection{policy.DeniedProcess, policy.DeniedDNS, policy.Unreadable, policy.Swapped, "x"} {
			var out bytes.Buffer
			r := New(src, &ev, policy.Verdict{Detection: d, Reason: a, Rule: b}, Outcome{Err: errors.New(c)})
			if err := newLines(&out).Write(r); err != nil {
				t.Fatal(err)
			}
			if err := NewDryRun(&out).Write(r); err != nil {
				t.Fatal(err)
			}
			if lines := strings.Count(out.String(), "\n"); lines != 2 {
				t.Errorf("%d lines: %q", lines, out.String())
			}
			for _, r := range out.String() {
				if r != '\n' && !unicode.IsPrint(r) {
					t.Errorf("%q in %q", r, out.String())
				}
			}
			for _, s := range []string{r.Command, r.ProcessPath, r.Reason} {
				if len(s) > maxText || !utf8.ValidString(s) {
					t.Errorf("%d bytes: %q", len(s), s)
				}
			}
		}
	})
}
