package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed testdata/*.c
var sources embed.FS

// policyText refuses things that no row does, so that every event is looked
// up in lists and allowed. "make" and gcc find no rule against them, but one
// is asked each time.
const policyText = `version: 1
rules:
  - name: bench
    processes: {effect: prevent, deny: [mkfifo, nc, "/usr/bin/apt-key*", /opt/evil]}
    dns: {effect: prevent, deny: [evil.example, "**.miner.example"]}
    network:
      effect: prevent
      outbound: {deny: [169.254.169.254, 10.0.0.0/8], denyPorts: [25, 6660-6669]}
      listen: {denyPorts: [23, 2323]}
    files: {effect: prevent, deny: [/etc/shadow, "/usr/bin/*", authorized_keys, "*.pem"]}
`

// straceCalls is what our filter asks about, straceFiles what it asks with
// --file-monitoring.
const (
	straceCalls = "trace=execve,execveat,connect,bind,listen,sendto,sendmsg,sendmmsg"
	straceFiles = straceCalls + ",open,openat,openat2,creat,rename,renameat,renameat2,link,linkat,unlink,unlinkat,symlink,symlinkat," +
		"truncate,chmod,fchmodat,chown,fchownat,mkdir,mkdirat,rmdir,mknod,mknodat"
)

// bench is one run of this program.
type bench struct {
	ctx   context.Context
	quick bool
	dir   string // temporary; programs, their data, the policy
	cpus  string // list for taskset, "" for all
	files bool   // changes of files are monitored

	keep map[int]bool // children of ours that sweep must spare
	mu   sync.Mutex   // progress
	once map[string]func() error
}

// variant is a way to run a command.
type variant struct {
	name string
	wrap []string // what stands before the command
	env  []string
}

func newBench(ctx context.Context, quick bool, program string) (*bench, error) {
	// What a killed wrapper leaves behind becomes ours, for sweep.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("becoming a subreaper: %w", err)
	}
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{ctx: ctx, quick: quick, dir: dir, keep: make(map[int]bool), once: make(map[string]func() error)}
	if err := b.build(program); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) close() {
	b.sweep()
	for pid := range b.keep {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	os.RemoveAll(b.dir)
}

// path is a file in the temporary folder.
func (b *bench) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

// build makes the programs: the Defender as "make build" does, and ours in C.
func (b *bench) build(program string) error {
	// Servers of other users must reach it.
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(b.path("policy.yaml"), []byte(policyText), 0o644); err != nil {
		return err
	}
	if program != "" {
		data, err := os.ReadFile(program)
		if err != nil {
			return err
		}
		if err := os.WriteFile(b.path("defender"), data, 0o755); err != nil {
			return err
		}
	} else if err := buildDefender(b.ctx, b.path("defender")); err != nil {
		return err
	}
	return fs.WalkDir(sources, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := sources.ReadFile(name)
		if err != nil {
			return err
		}
		source := b.path(filepath.Base(name))
		if err := os.WriteFile(source, text, 0o644); err != nil {
			return err
		}
		_, err = b.output("gcc", "-O2", "-Wall", "-Werror", "-pthread", "-static", "-o", strings.TrimSuffix(source, ".c"), source)
		return err
	})
}

func buildDefender(ctx context.Context, to string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-tags", "netgo,osusergo,urfave_cli_no_docs",
		"-ldflags", "-s -w -linkmode external -extldflags -static", "-o", to, "appdefender/cmd/defender")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the defender: %w\n%s", err, out)
	}
	return nil
}

// variant returns the wrapping of a variant's name.
func (b *bench) variant(name string) (variant, error) {
	v := variant{name: name}
	switch name {
	case "notify", "ptrace":
		v.wrap = b.defend(name)
	case "default": // the policy that comes with the defender
		v.wrap = slices.DeleteFunc(b.defend("notify"), func(arg string) bool { return arg == "--policy" || arg == b.path("policy.yaml") })
	case "judged": // nobody may trace: an exec is judged and not verified
		v.wrap = append([]string{b.path("floor"), "untraced"}, b.defend("notify")...)
	case "strace":
		v.wrap = []string{"strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", straceCalls}
		if b.files {
			v.wrap[len(v.wrap)-1] = straceFiles
		}
	case "filter":
		v.wrap = []string{b.path("floor"), "continue"}
	case "floor":
		v.wrap = []string{b.path("floor"), "perform"}
	case "tini":
		v.wrap = []string{"tini", "-s", "--"}
	case "dumb-init":
		v.wrap = []string{"dumb-init", "--"}
	case "runsc":
		if err := b.buildRunsc(); err != nil {
			return v, err
		}
		v.wrap = []string{b.path("runsc"), "--root", b.path("runsc.root"), "--network=none", "--platform=systrap", "--ignore-cgroups", "do"}
	}
	if len(v.wrap) > 0 {
		if _, err := exec.LookPath(v.wrap[0]); err != nil {
			return v, errMissing("there is no " + v.wrap[0] + " here")
		}
	}
	return v, nil
}

func (b *bench) defend(supervisor string) []string {
	argv := []string{b.path("defender"), "run", "--supervisor", supervisor, "--policy", b.path("policy.yaml"), "--audit-log", "none"}
	if b.files {
		argv = append(argv, "--file-monitoring")
	}
	return append(argv, "--")
}

// buildRunsc fetches and builds gVisor in a module of its own, once: ours
// must not depend on it.
func (b *bench) buildRunsc() error {
	return b.atMostOnce("runsc", func() error {
		if b.quick {
			return errMissing("left out of a quick run")
		}
		dir := b.path("gvisor")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		const version = "v0.0.0-20260224225140-573d5e7127a8"
		mod := "module runsc\n\ngo 1.26\n\nrequire gvisor.dev/gvisor " + version + "\n"
		if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o644); err != nil {
			return err
		}
		b.progress("building runsc")
		cmd := exec.CommandContext(b.ctx, "go", "build", "-mod=mod", "-buildvcs=false", "-o", b.path("runsc"), "gvisor.dev/gvisor/runsc")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return errMissing("runsc does not build: " + lastLine(out))
		}
		return nil
	})
}

// atMostOnce prepares what several rows or variants share.
func (b *bench) atMostOnce(name string, f func() error) error {
	if b.once[name] == nil {
		b.once[name] = sync.OnceValue(f)
	}
	return b.once[name]()
}

func (b *bench) turns(some int) int {
	switch {
	case b.quick:
		return 3
	case some > 0:
		return some
	}
	return 7
}

// count returns n, or a tenth of it in a quick run.
func (b *bench) count(n int) int {
	if b.quick {
		return max(n/10, 1)
	}
	return n
}

// command is argv as the variant runs it.
func (b *bench) command(v variant, argv ...string) *exec.Cmd {
	full := append(append([]string(nil), v.wrap...), argv...)
	if b.cpus != "" {
		full = append([]string{"taskset", "-c", b.cpus}, full...)
	}
	ctx, stop := context.WithTimeout(b.ctx, turnTime)
	context.AfterFunc(ctx, stop)
	cmd := exec.CommandContext(ctx, full[0], full[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	cmd.Dir = b.dir
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), v.env...)
	return cmd
}

// time runs a command to its end and returns the seconds that took.
func (b *bench) time(v variant, argv ...string) (float64, error) {
	cmd := b.command(v, argv...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start)
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, lastLine(out.Bytes()))
	}
	return took.Seconds(), nil
}

// output runs a command of ours, unprotected, and returns what it printed.
func (b *bench) output(argv ...string) (string, error) {
	cmd := b.command(variant{}, argv...)
	var out, diagnosis bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diagnosis
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, lastLine(append(out.Bytes(), diagnosis.Bytes()...)))
	}
	return out.String(), nil
}

// sweep ends what a run has left: the processes that became our children.
func (b *bench) sweep() {
	for range 100 {
		left := false
		for _, pid := range children(os.Getpid()) {
			if b.keep[pid] {
				continue
			}
			left = true
			_ = unix.Kill(pid, unix.SIGKILL)
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
		if !left {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// progress replaces the line of progress on standard error; "" ends it.
func (b *bench) progress(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fmt.Fprintf(os.Stderr, "\r\x1b[K"+format, args...)
}

// children are the processes that a process has started or adopted.
func children(pid int) []int {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil
	}
	var pids []int
	for _, name := range tasks {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for n := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(n); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// supervisorOf finds the supervisor below the process that was started: of
// its children the one with several threads, or itself, which is a peer.
func supervisorOf(pid int) int {
	for _, child := range children(pid) {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", child))
		exe, eerr := os.Readlink(fmt.Sprintf("/proc/%d/exe", child))
		if err == nil && eerr == nil && len(tasks) > 1 && filepath.Base(exe) == "defender" {
			return child
		}
	}
	return pid
}

// cpuTime is what a process has used, in seconds.
func cpuTime(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// proc_pid_stat(5): utime and stime are fields 14 and 15; the second field is
	// the only one with blanks or parentheses in it.
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(f) < 13 {
		return 0, errors.New("reading /proc/PID/stat: too short")
	}
	user, err := strconv.ParseFloat(f[11], 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseFloat(f[12], 64)
	return (user + system) / 100, err // USER_HZ
}

// resident is the resident memory of a process, in MiB.
func resident(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(text))
	if len(f) < 2 {
		return 0, errors.New("reading /proc/PID/statm: too short")
	}
	pages, err := strconv.ParseFloat(f[1], 64)
	return pages * float64(os.Getpagesize()) / (1 << 20), err
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

// machine is what the numbers were taken on.
type machine struct {
	CPU     string `json:"cpu"`
	Cores   int    `json:"cores"`
	Memory  string `json:"memory"`
	Kernel  string `json:"kernel"`
	System  string `json:"system"`
	Go      string `json:"go"`
	Virtual bool   `json:"virtual"`
	Commit  string `json:"commit"`
	Date    string `json:"date"`
}

func describeMachine() machine {
	m := machine{Cores: runtime.NumCPU(), Go: runtime.Version(), Date: time.Now().UTC().Format(time.DateOnly)}
	field := func(file, key string) string {
		text, _ := os.ReadFile(file)
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, key); ok {
				return strings.Trim(rest, " \t\n:=\"")
			}
		}
		return ""
	}
	m.CPU = field("/proc/cpuinfo", "model name")
	m.Virtual = strings.Contains(field("/proc/cpuinfo", "flags"), "hypervisor")
	m.System = field("/etc/os-release", "PRETTY_NAME")
	if kib, err := strconv.ParseFloat(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 64); err == nil {
		m.Memory = fmt.Sprintf("%.1f GiB", kib/(1<<20))
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		m.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	if out, err := exec.Command("git", "describe", "--always", "--dirty").Output(); err == nil {
		m.Commit = strings.TrimSpace(string(out))
	}
	return m
}
