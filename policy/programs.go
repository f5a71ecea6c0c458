package policy

import "strings"

// processChecks are the detections of a ProcessesSection. Of several that have
// one effect the first is told, so those that say the most come first: a miner
// that was written a minute ago is a miner.
var processChecks = []detector[ProcessesSection]{
	{key: "detect.cryptoMiners", detection: CryptoMiner, kind: Launch, needs: NeedArgv,
		effect: func(s *ProcessesSection) *Effect { return s.Detect.CryptoMiners },
		holds:  func(ev *Event) string { return miner(&ev.Program) }},
	{key: "detect.reverseShell", detection: ReverseShell, kind: Launch, needs: NeedArgv | NeedRemoteIO,
		asks:   ifCalled(NeedArgv|NeedRemoteIO, shells, interpreters, relays),
		effect: func(s *ProcessesSection) *Effect { return s.Detect.ReverseShell },
		holds:  func(ev *Event) string { return reverseShell(&ev.Program, ev.Unsure&NeedRemoteIO != 0) }},
	{key: "detect.fileless", detection: Fileless, kind: Launch, needs: NeedFileless, rests: NeedFileless,
		effect: func(s *ProcessesSection) *Effect { return s.Detect.Fileless },
		holds:  flag(func(p *Program) bool { return p.Fileless }, " is in memory or deleted: no name leads to it")},
	{key: "detect.lateralMovement", detection: LateralMovement, kind: Launch, needs: NeedArgv,
		asks:   ifCalled(NeedArgv, lateralTools),
		effect: func(s *ProcessesSection) *Effect { return s.Detect.LateralMovement },
		holds: func(ev *Event) string {
			if name := ev.Program.called(lateralTools); name != "" && !waitsForPort(&ev.Program) {
				return quote(name) + " is a tool for moving from machine to machine"
			}
			return ""
		}},
	{key: "detect.shellsFromServers", detection: WebShell, kind: Launch, needs: NeedSubject | NeedAncestry | NeedArgv,
		asks:   ifCalled(NeedSubject|NeedAncestry|NeedArgv, shells),
		effect: func(s *ProcessesSection) *Effect { return s.Detect.ShellsFromServers },
		holds: func(ev *Event) string {
			if commanded(ev) {
				return ""
			}
			return fromServer(ev, shells)
		}},
	{key: "detect.packageManagersFromServers", detection: UnexpectedProcess, kind: Launch, needs: NeedSubject | NeedAncestry,
		asks:   ifCalled(NeedSubject|NeedAncestry, packageManagers),
		effect: func(s *ProcessesSection) *Effect { return s.Detect.PackageManagersFromServers },
		holds:  func(ev *Event) string { return fromServer(ev, packageManagers) }},
	{key: "detect.alteredPackages", detection: AlteredBinary, kind: Launch, needs: NeedPackages, rests: NeedPackages,
		effect: func(s *ProcessesSection) *Effect { return s.Detect.AlteredPackages },
		holds:  flag(func(p *Program) bool { return p.Altered }, " is not as its package recorded it")},
	{key: "detect.modified", detection: ModifiedProcess, kind: Launch, needs: NeedModified | NeedSubject | NeedAncestry, rests: NeedModified,
		asks:   ifPackageScript,
		effect: func(s *ProcessesSection) *Effect { return s.Detect.Modified },
		holds:  sinceStart(func(p *Program) bool { return p.Modified }, " was written after the target had started")},
	{key: "detect.newBinaries", detection: NewProcess, kind: Launch, needs: NeedModified | NeedSubject | NeedAncestry, rests: NeedModified,
		asks:   ifPackageScript,
		effect: func(s *ProcessesSection) *Effect { return s.Detect.NewBinaries },
		holds:  sinceStart(func(p *Program) bool { return p.New }, " was made after the target had started")},
	{key: "detect.writablePath", detection: WritablePath, kind: Launch, needs: NeedWritable, rests: NeedWritable,
		effect: func(s *ProcessesSection) *Effect { return s.Detect.WritablePath },
		holds:  flag(func(p *Program) bool { return p.Writable }, " lies where anybody may write")},
	{key: "detect.setUID", detection: SetUID, kind: Launch, needs: NeedSetUID, rests: NeedSetUID,
		effect: func(s *ProcessesSection) *Effect { return s.Detect.SetUID },
		holds:  flag(func(p *Program) bool { return p.SetUID }, " gains privileges when it starts")},
	{key: "detect.onlyMainProcess", detection: UnexpectedProcess, kind: Launch, needs: NeedMain, rests: NeedMain,
		effect: func(s *ProcessesSection) *Effect { return s.Detect.OnlyMainProcess },
		holds: func(ev *Event) string {
			if ev.Program.Main {
				return ""
			}
			return effective(&ev.Program) + " is not the main process"
		}},
}

// flag looks at one fact of the program.
func flag(has func(*Program) bool, what string) func(*Event) string {
	return func(ev *Event) string {
		if has(&ev.Program) {
			return effective(&ev.Program) + what
		}
		return ""
	}
}

// ifCalled asks about programs that have a name in one of the sets.
func ifCalled(needs Needs, sets ...map[string]struct{}) func(*Event) Needs {
	return func(ev *Event) Needs {
		for _, set := range sets {
			if ev.Program.called(set) != "" {
				return needs
			}
		}
		return 0
	}
}

// sinceStart looks at a fact about what was written since the target started.
// A package manager writes the scripts of its packages and starts them.
func sinceStart(has func(*Program) bool, what string) func(*Event) string {
	return func(ev *Event) string {
		if !has(&ev.Program) || packageScript(&ev.Program) && maintained(ev) {
			return ""
		}
		return effective(&ev.Program) + what
	}
}

// ifPackageScript asks who starts a script of a package, and of every program when it
// was written.
func ifPackageScript(ev *Event) Needs {
	if packageScript(&ev.Program) {
		return NeedModified | NeedSubject | NeedAncestry
	}
	return NeedModified
}

// packageScript reports whether a program lies where dpkg and apk keep the
// scripts of packages.
func packageScript(p *Program) bool {
	for _, folder := range []string{"/var/lib/dpkg/info/", "/var/lib/dpkg/tmp.ci/", "/var/cache/debconf/tmp.ci/", "/lib/apk/exec/", "/usr/lib/apk/exec/"} {
		if strings.HasPrefix(p.Path, folder) {
			return true
		}
	}
	return false
}

// commanded reports whether a shell has just the command that its starter, a
// server, is built to give to one: sh -c COMMAND, also with "--" before it.
func commanded(ev *Event) bool {
	argv := ev.Program.Command
	if len(argv) == 4 && argv[2] == "--" {
		argv = []string{argv[0], argv[1], argv[3]}
	}
	if len(argv) != 3 || argv[1] != "-c" {
		return false
	}
	by, known := ownCommands[argv[2]]
	return known && knows(by, base(ev.Subject.Path))
}

// waitsForPort reports whether netcat only asks whether somebody listens on one
// port, as entry points do to wait for a database: nc -z HOST PORT.
func waitsForPort(p *Program) bool {
	if p.called(relays) == "" || len(p.Command) < 4 {
		return false
	}
	asks := false
	for _, arg := range p.Command[1:] {
		if len(arg) > 1 && arg[0] == '-' {
			if strings.ContainsAny(arg, "celp") { // also all of --exec
				return false
			}
			asks = asks || strings.Contains(arg, "z")
		}
	}
	port := p.Command[len(p.Command)-1]
	return asks && port != "" && strings.Trim(port, "0123456789") == ""
}

// fromServer finds a program of set that a server started, by itself or
// through others.
func fromServer(ev *Event, set map[string]struct{}) string {
	name := ev.Program.called(set)
	if name == "" {
		return ""
	}
	if ev.Subject.Path == "" || ev.Unsure&(NeedSubject|NeedAncestry) != 0 {
		return quote(name) + " was started by a program that is not known"
	}
	if server := ev.Subject.descends(servers); server != "" {
		return quote(name) + " was started by the server " + quote(server)
	}
	return ""
}

// miner finds a crypto miner by its name, its options, or the pool it is to
// work for.
func miner(p *Program) string {
	if name := p.called(miners); name != "" {
		return quote(name) + " is a crypto miner"
	}
	algorithm := false // the argument before announced one
	for _, arg := range p.Command {
		stratum, host := poolIn(arg)
		if stratum {
			return "an argument is the address of a mining pool (stratum)"
		}
		if option := minerOption(arg); option != "" {
			return "option " + quote(option) + " is a crypto miner's"
		}
		value := arg
		if rest, ok := strings.CutPrefix(arg, "--algo="); ok {
			value, algorithm = rest, true
		}
		if algorithm && minerAlgorithm(value) {
			return "algorithm " + quote(value) + " is a crypto miner's"
		}
		algorithm = arg == "-a" || arg == "--algo" || arg == "--coin"
		if host != "" {
			return "an argument is the address of the mining pool " + host
		}
	}
	return ""
}

func letter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

var minerOptions = []string{
	"--donate-level", "--donate-over-proxy", "--randomx-", "--cpu-max-threads-hint", "--nicehash", "--coin=monero",
	"--coin monero", "--rig-id", "--cuda-bfactor-hint", "--opencl-platform=", "--asm=ryzen", "--astrobwt-",
}

// minerOptionStarts are the letters that they begin with, behind the dashes.
var minerOptionStarts = func() (starts [256]bool) {
	for _, option := range minerOptions {
		starts[option[2]] = true
	}
	return starts
}()

// minerOption finds an option that only miners have. It may stand anywhere in
// an argument: sh -c takes a whole command as one.
func minerOption(arg string) string {
	for from := 0; ; {
		at := strings.Index(arg[from:], "--")
		if at < 0 || from+at+2 == len(arg) {
			return ""
		}
		at += from
		from = at + 2
		if !minerOptionStarts[arg[from]] {
			continue
		}
		for _, option := range minerOptions {
			if strings.HasPrefix(arg[at:], option) {
				return option
			}
		}
	}
}

func minerAlgorithm(s string) bool {
	for _, prefix := range []string{"rx/", "cn/", "cn-", "cryptonight", "randomx", "argon2/", "astrobwt", "kawpow", "ethash", "etchash", "ghostrider", "autolykos", "equihash", "monero"} {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}

// poolIn looks for what miners are given to find their pool: a URL of the
// protocol of pools (stratum+tcp://, stratum2+ssl://, in any letters), or a
// pool's host with a port behind it (pool.supportxmr.com:3333). A URL without a
// port may be read by anybody.
func poolIn(arg string) (stratum bool, host string) {
	for from := 0; ; {
		colon := strings.IndexByte(arg[from:], ':')
		if colon < 0 {
			return false, host
		}
		end := from + colon
		from = end + 1
		switch {
		case strings.HasPrefix(arg[end:], "://"):
			if stratumScheme(arg[:end]) {
				return true, ""
			}
		case host == "" && from < len(arg) && '0' <= arg[from] && arg[from] <= '9':
			start := end
			for start > 0 && hostByte(arg[start-1]) {
				start--
			}
			host = pool(arg[start:end])
		}
	}
}

// stratumScheme reports whether a text ends in such a URL's scheme.
func stratumScheme(text string) bool {
	const name = "stratum"
	start := len(text)
	for start > 0 && (letter(text[start-1]) || '0' <= text[start-1] && text[start-1] <= '9' || text[start-1] == '+') {
		start--
	}
	scheme := text[start:]
	return len(scheme) >= len(name) && strings.EqualFold(scheme[:len(name)], name)
}

func hostByte(c byte) bool {
	return letter(c) || '0' <= c && c <= '9' || c == '.' || c == '-'
}

// reverseShell finds a shell whose keyboard is another machine, or a command
// that makes one.
func reverseShell(p *Program, unsure bool) string {
	shell := p.called(shells)
	script := p.called(interpreters)
	if (p.RemoteIO || unsure) && (shell != "" || script != "") {
		return effective(p) + " reads from or writes to another machine"
	}
	relay := ""
	switch {
	case shell != "":
		for _, arg := range p.Command {
			if dialsByName(arg) {
				return "the command connects " + quote(shell) + " to another machine (/dev/tcp)"
			}
		}
	case script != "":
		for _, arg := range p.Command {
			if dials(arg) && handsOver(arg) {
				return "the command connects a shell to another machine by a socket"
			}
		}
	default:
		relay = p.called(relays)
	}
	if relay == "" {
		return ""
	}
	for i, arg := range p.Command {
		switch {
		case knows(socats, relay):
			if strings.HasPrefix(arg, "EXEC:") || strings.HasPrefix(arg, "exec:") || strings.HasPrefix(arg, "SYSTEM:") || strings.HasPrefix(arg, "system:") {
				return quote(relay) + " connects a program to another machine (" + quote(arg) + ")"
			}
		case strings.HasPrefix(arg, "--exec"), strings.HasPrefix(arg, "--sh-exec"), strings.HasPrefix(arg, "--lua-exec"):
			return quote(relay) + " connects a program to another machine (" + quote(arg) + ")"
		case len(arg) > 1 && arg[0] == '-' && arg[1] != '-' && (arg[len(arg)-1] == 'e' || arg[len(arg)-1] == 'c') &&
			i+1 < len(p.Command) && knows(shells, base(firstWord(p.Command[i+1]))):
			return quote(relay) + " connects " + quote(p.Command[i+1]) + " to another machine"
		}
	}
	return ""
}

// dialsByName reports whether a shell's command opens a connection as a file,
// /dev/tcp/HOST/PORT.
func dialsByName(command string) bool {
	for from := 0; ; {
		at := strings.IndexByte(command[from:], 'v') // rarer than a slash
		if at < 0 {
			return false
		}
		at += from
		from = at + 1
		if rest := command[from:]; strings.HasSuffix(command[:at], "/de") && (strings.HasPrefix(rest, "/tcp/") || strings.HasPrefix(rest, "/udp/")) {
			return true
		}
	}
}

var (
	relays = words(`nc ncat netcat nc.traditional nc.openbsd socat cryptcat pwncat`)
	socats = words(`socat`)
)

func firstWord(s string) string {
	word, _, _ := strings.Cut(s, " ")
	return word
}

// dials reports whether a one-line program opens a connection.
func dials(code string) bool {
	return strings.Contains(code, "ocket") || strings.Contains(code, "fsockopen") || strings.Contains(code, "/inet/tcp") || strings.Contains(code, "net.connect")
}

// handsOver reports whether a one-line program gives a connection to a shell.
func handsOver(code string) bool {
	for _, sign := range []string{"dup2", "pty.spawn", "/bin/sh", "/bin/bash", "/bin/ash", "sh -i", ">&S", "<&3"} {
		if strings.Contains(code, sign) {
			return true
		}
	}
	return false
}
