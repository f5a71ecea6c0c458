package policy

import "strings"

// processChecks are the detections of a ProcessesSection. Of several that have
// one effect the first is told, so those that say the most come first: a miner
// that was written a minute ago is a miner.
var processChecks = []detector[ProcessesSection]{
	{key: "detect.cryptoMiners", detection: CryptoMiner, kind: Launch, needs: NeedArgv, rests: NeedArgv,
		effect: func(s *ProcessesSection) *Effect { return s.Detect.CryptoMiners },
		holds:  func(ev *Event) string { return miner(&ev.Program) }},
	{key: "detect.reverseShell", detection: ReverseShell, kind: Launch, needs: NeedArgv | NeedRemoteIO,
		asks:   ifCalled(NeedArgv|NeedRemoteIO, shells, interpreters, relays),
		effect: func(s *ProcessesSection) *Effect { return s.Detect.ReverseShell },
		holds:  func(ev *Event) string { return reverseShell(&ev.Program, ev.Unsure&(NeedRemoteIO|NeedArgv) != 0) }},
	{key: "detect.fileless", detection: Fileless, kind: Launch, needs: NeedFileless, rests: NeedFileless,
		effect: func(s *ProcessesSection) *Effect { return s.Detect.Fileless },
		holds:  flag(func(p *Program) bool { return p.Fileless }, " is in memory or deleted: no name leads to it")},
	{key: "detect.lateralMovement", detection: LateralMovement, kind: Launch, needs: NeedArgv,
		asks:   ifCalled(NeedArgv, lateralTools),
		effect: func(s *ProcessesSection) *Effect { return s.Detect.LateralMovement },
		holds: func(ev *Event) string {
			if name := ev.Program.called(lateralTools); name != "" && !waitsForPort(&ev.Program) && !namesake(name, ev.Program.Command) {
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
func ifCalled(needs Needs, sets ...*nameSet) func(*Event) Needs {
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
	command := argv[2]
	if i := strings.LastIndexByte(command, ' '); i >= 0 && strings.Trim(command[i:], " 0123456789") == "" {
		command = command[:i]
	}
	by, known := ownCommands[command]
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

// namesake reports whether a program has a tool's name, and a first argument that
// the tool does not take.
func namesake(name string, command []string) bool {
	for i, arg := range command {
		if base(arg) != name { // of a script the interpreter comes before it
			continue
		}
		others := namesakes[name]
		return others != nil && i+1 < len(command) && knows(others, command[i+1])
	}
	return false
}

// fromServer finds a program of set that a server started, by itself or
// through others.
func fromServer(ev *Event, set *nameSet) string {
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
		says := minerSigns(arg)
		if says.stratum {
			return "an argument is the address of a mining pool (stratum)"
		}
		if says.option != "" {
			return "option " + quote(says.option) + " is a crypto miner's"
		}
		value := arg
		if rest, ok := strings.CutPrefix(arg, "--algo="); ok {
			value, algorithm = rest, true
		}
		if algorithm && minerAlgorithm(value) {
			return "algorithm " + quote(value) + " is a crypto miner's"
		}
		algorithm = arg == "-a" || arg == "--algo" || arg == "--coin"
		if says.pool != "" {
			return "an argument is the address of the mining pool " + says.pool
		}
	}
	return ""
}

func minerAlgorithm(s string) bool {
	for _, prefix := range []string{"rx/", "cn/", "cn-", "cryptonight", "randomx", "argon2/", "astrobwt", "kawpow", "ethash", "etchash", "ghostrider", "autolykos", "equihash", "monero"} {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}

// reverseShell finds a shell whose keyboard is another machine, or a command
// that makes one.
func reverseShell(p *Program, unsure bool) string {
	shell := p.called(shells)
	script := p.called(interpreters)
	if (p.RemoteIO || unsure) && (shell != "" || script != "") {
		return effective(p) + " reads from or writes to another machine"
	}
	// A link may give it the name of one kind and be of another.
	if shell != "" {
		for _, arg := range p.Command {
			if dialsByName(arg) {
				return "the command connects " + quote(shell) + " to another machine (/dev/tcp)"
			}
		}
	}
	if script != "" || knows(powershells, shell) {
		for _, arg := range p.Command {
			if dials(arg) && handsOver(arg) {
				return "the command connects a shell to another machine by a socket"
			}
		}
	}
	relay := p.called(relays)
	if relay == "" {
		return ""
	}
	for i := 1; i < len(p.Command); i++ {
		with, next := "", ""
		if i+1 < len(p.Command) {
			next = p.Command[i+1]
		}
		if knows(socats, relay) {
			with = socatStarts(p.Command[i])
		} else {
			with = netcatStarts(p.Command[i], next)
		}
		if with != "" {
			return quote(relay) + " connects a program to another machine (" + quote(with) + ")"
		}
	}
	return ""
}

var (
	relays      = words(`nc ncat netcat nc.traditional nc.openbsd socat cryptcat pwncat`)
	socats      = words(`socat`)
	powershells = words(`pwsh`)
)

// socatStarts returns the address in an argument that is a program, or "":
// exec:, system:, shell:, in any letters, also as half of a pair (a!!b).
func socatStarts(arg string) string {
	for address := range strings.SplitSeq(arg, "!!") {
		keyword, _, _ := strings.Cut(address, ":")
		switch strings.ToLower(keyword) {
		case "exec", "system", "shell":
			return address
		}
	}
	return ""
}

// netcatStarts returns the program that an option of netcat, with the argument
// behind it, connects to the network, or "". Long options may be cut short
// (getopt_long(3)); the value of a short one may follow it at once.
func netcatStarts(option, next string) string {
	if strings.HasPrefix(option, "--") {
		name, value, with := strings.Cut(option, "=")
		if !with {
			value = next
		}
		for _, long := range []string{"--exec", "--sh-exec", "--lua-exec"} {
			if strings.HasPrefix(long, name) && (len(name) > 3 || name == "--e") {
				return value
			}
		}
		return ""
	}
	for i := 1; i < len(option) && option[0] == '-'; i++ {
		if option[i] != 'e' && option[i] != 'c' {
			continue
		}
		value := option[i+1:]
		if value == "" {
			value = next
			if option[i] == 'e' && strings.HasPrefix(value, "/") {
				return value
			}
		}
		if name := base(firstWord(value)); knows(shells, name) || knows(interpreters, name) {
			return value
		}
	}
	return ""
}

func firstWord(s string) string {
	word, _, _ := strings.Cut(s, " ")
	return word
}

// handsOver reports whether a one-line program, which has a socket, gives it to
// a shell, or has commands run that it reads from it.
func handsOver(code string) bool {
	return hasAny(code, "dup2", "pty.spawn", "/bin/sh", "/bin/bash", "/bin/ash", "sh -i", ">&S", "<&3", "->fdopen") ||
		hasAny(code, "popen", "Popen", "child_process", "proc_open", "shell_exec", "passthru", "os.execute", "subprocess", "ProcessBuilder", "getRuntime", "iex ", "Invoke-Expression") &&
			hasAny(code, "connect", "TCPSocket", "fsockopen", "/inet", "INET", "new Socket", "TCPClient") &&
			hasAny(code, "recv", "gets", "fread", "receive", ".pipe(", "Stream", ".read")
}

func hasAny(s string, parts ...string) bool {
	for _, part := range parts {
		if strings.Contains(s, part) {
			return true
		}
	}
	return false
}
