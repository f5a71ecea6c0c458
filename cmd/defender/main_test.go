package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// These tests run the real, static program, as a user would. bin holds it and
// the victims: small programs of testdata/victims that do one thing a target
// may do. A victim runs twice, alone and under the defender.
var bin string

func TestMain(m *testing.M) {
	// Started in the background or under nohup we ignore these, and what we
	// start would too: a shell cannot trap what it was started to ignore.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGHUP, syscall.SIGINT)
	go func() { <-interrupted; os.Exit(1) }()
	os.Exit(func() int {
		// Another kernel has no compiler: a folder with the programs in it can
		// be brought along. An empty one is filled.
		if bin = os.Getenv("TEST_PROGRAMS"); bin != "" {
			if _, err := os.Stat(victim("defender")); err == nil {
				return m.Run()
			}
			if err := build(bin); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "defender-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		bin = dir
		if err := build(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// build compiles the defender and the victims into dir.
func build(dir string) error {
	var g errgroup.Group
	g.SetLimit(4)
	command := func(name string, args ...string) {
		g.Go(func() error {
			out, err := exec.Command(name, args...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
			}
			return nil
		})
	}
	g.Go(func() error {
		c := exec.Command("go", "build", "-trimpath", "-tags", "netgo,osusergo,urfave_cli_no_docs",
			"-ldflags", "-s -w -linkmode external -extldflags -static", "-o", filepath.Join(dir, "defender"), ".")
		c.Env = append(os.Environ(), "CGO_ENABLED=1")
		out, err := c.CombinedOutput()
		if err != nil {
			return fmt.Errorf("building the defender: %w\n%s", err, out)
		}
		return nil
	})
	const victims = "../../testdata/victims"
	sources, err := filepath.Glob(filepath.Join(victims, "*.c"))
	if err != nil || len(sources) == 0 {
		return errors.Join(err, errors.New("no victims"))
	}
	compiler := cmp.Or(os.Getenv("CC"), "gcc")
	gcc := func(out, source string, args ...string) {
		command(compiler, append([]string{"-Wall", "-Wextra", "-Werror", "-O2", "-static", "-pthread", "-o", filepath.Join(dir, out), source}, args...)...)
	}
	for _, c := range sources {
		name := strings.TrimSuffix(filepath.Base(c), ".c")
		if name == "program" { // two of it: policies allow one and deny the other
			gcc("prog-a", c, `-DNAME="prog-a"`)
			gcc("prog-d", c, `-DNAME="prog-d"`)
			continue
		}
		gcc(name, c)
	}
	return g.Wait()
}

// victim returns the path of a compiled victim.
func victim(name string) string { return filepath.Join(bin, name) }

// A run is one start of a program. The zero value runs it as we are, in a new
// directory, without a policy.
type run struct {
	policy string   // written to a file and given with --policy
	flags  []string // more flags of "defender run"
	uid    int      // 0: as we are
	wrap   []string // what starts the defender, such as taskset
	env    []string // more of the environment
	dir    string   // "": a new one
}

// traced says that all runs have the ptrace backend: "make test" runs these
// tests a second time so.
var traced = os.Getenv("DEFENDER_SUPERVISOR") == "ptrace"

// gvisor says that the kernel is gVisor's: no openat2, no pidfds, and calls
// are checked where Linux has them performed.
var gvisor = os.Getenv("TEST_PLATFORM") == "gvisor"

// needNotify skips a test of what a tracer cannot do, and says at start.
func needNotify(t *testing.T, what string) {
	t.Helper()
	if traced {
		t.Skip("under a tracer: " + what)
	}
}

// hangAfter ends what would hang for ever. It is no limit on speed: an
// emulated machine sets TEST_HANG higher.
var hangAfter = duration("TEST_HANG", 60*time.Second) + raceTime

// raceTime is how long each race is run: a minute with TEST_RACE_TIME=1m.
var raceTime = duration("TEST_RACE_TIME", 2*time.Second)

// duration reads a variable.
func duration(name string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(os.Getenv(name)); err == nil {
		return d
	}
	return otherwise
}

type result struct {
	out, err string
	status   int // 128+n after a signal
	records  []record
	dir      string
}

// record has the fields of an audit that tests look at.
type record struct {
	ID, Time, Type, AttackType, Effect, RuleName, Msg, Level, Err, Reason string
	User, ProcessPath, Command, IP, Severity, Hostname, Version, Category string
	CustomRuleName                                                        string
	Count, PID, Port                                                      int
	Refused, DryRun                                                       bool
	AttackTechniques                                                      []string
}

// of returns the records of one attack type.
func (r result) of(attack string) []record {
	var list []record
	for _, rec := range r.records {
		if rec.AttackType == attack {
			list = append(list, rec)
		}
	}
	return list
}

var runs atomic.Int64

// workDir makes a directory that user uid may write to.
func workDir(t *testing.T, uid int) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "defender-run-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if uid != 0 {
		if err := os.Chown(dir, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// native runs argv without the defender.
func (r run) native(t *testing.T, argv ...string) result {
	t.Helper()
	p := r.start(t, argv)
	return p.wait()
}

// protected runs argv under the defender. Its audits go to a file of their
// own.
func (r run) protected(t *testing.T, argv ...string) result {
	t.Helper()
	p := r.startProtected(t, argv...)
	return p.wait()
}

func (r run) startProtected(t *testing.T, argv ...string) *started {
	t.Helper()
	if r.dir == "" {
		r.dir = workDir(t, r.uid)
	}
	log := filepath.Join(r.dir, "audit.json")
	args := append(append([]string{}, r.wrap...), victim("defender"), "run", "--audit-log", log)
	if r.policy != "" {
		name := filepath.Join(r.dir, "policy.yaml")
		if err := os.WriteFile(name, []byte(r.policy), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--policy", name)
	}
	args = append(append(append(args, r.flags...), "--"), argv...)
	p := r.start(t, args)
	p.log = log
	return p
}

// started is a run that was started.
type started struct {
	t        *testing.T
	cmd      *exec.Cmd
	mark     string // in the environment of all its processes
	out, err output
	log      string
	dir      string
}

func (r run) start(t *testing.T, args []string) *started {
	t.Helper()
	if r.dir == "" {
		r.dir = workDir(t, r.uid)
	}
	p := &started{t: t, dir: r.dir}
	// The target's own environment keeps no DEFENDER_ variable.
	p.mark = fmt.Sprintf("TEST_RUN=%d-%d", os.Getpid(), runs.Add(1))
	p.cmd = exec.Command(args[0], args[1:]...)
	p.cmd.Dir = r.dir
	p.cmd.Env = append(append(os.Environ(), p.mark), r.env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	p.cmd.WaitDelay = 5 * time.Second // whoever outlives it may hold the pipes
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if r.uid != 0 {
		if os.Getuid() != 0 {
			t.Skip("needs root, to become another user")
		}
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(r.uid), Gid: uint32(r.uid)}
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(p.mark) })
	return p
}

// output may be read while it grows.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// command is an ordinary command in dir.
func (r run) command(dir string, argv ...string) *exec.Cmd {
	c := exec.Command(argv[0], argv[1:]...)
	c.Dir = dir
	c.Env = append(os.Environ(), r.env...)
	c.Stderr = os.Stderr
	return c
}

// wait waits for the end and fails the test if it does not come.
func (p *started) wait() result {
	p.t.Helper()
	ended := make(chan struct{})
	go func() {
		_ = p.cmd.Wait() // the status tells
		close(ended)
	}()
	if !within(hangAfter, func() bool { return closed(ended) }) {
		state := describe(p.mark)
		end(p.mark)
		<-ended
		p.t.Errorf("%v hangs:\n%s\nstandard output:\n%s\nstandard error:\n%s", p.cmd.Args, state, p.out.String(), p.err.String())
	}
	r := result{out: p.out.String(), err: p.err.String(), dir: p.dir, status: p.cmd.ProcessState.ExitCode()}
	if ws := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		r.status = 128 + int(ws.Signal())
	}
	if p.log != "" {
		r.records = readRecords(p.t, p.log)
	}
	return r
}

// within asks again and again whether something is so, for a time that counts
// only while we run: a machine that sleeps, or a test that is stopped, hangs
// by itself.
func within(limit time.Duration, so func() bool) bool {
	const pause = 2 * time.Millisecond
	for range limit/pause + 1 {
		if so() {
			return true
		}
		time.Sleep(pause)
	}
	return so()
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// alone fails the test unless every process of the run ends by itself.
func (p *started) alone() {
	p.t.Helper()
	if within(hangAfter/6, func() bool { return len(marked(p.mark)) == 0 }) {
		return
	}
	p.t.Errorf("processes are left over:\n%s", describe(p.mark))
	end(p.mark)
}

func readRecords(t *testing.T, name string) []record {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	var list []record
	for line := range strings.Lines(string(data)) {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Errorf("audit %q: %v", line, err)
		}
		list = append(list, r)
	}
	return list
}

// marked returns the live processes whose environment holds mark. The
// environment of the defender's own processes is readable only for root with
// CAP_SYS_PTRACE.
func marked(mark string) []int {
	dirs, _ := os.ReadDir("/proc")
	var list []int
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, err := os.ReadFile("/proc/" + d.Name() + "/environ")
		if err != nil || !bytes.Contains(append([]byte{0}, env...), []byte("\x00"+mark+"\x00")) {
			continue
		}
		list = append(list, pid)
	}
	return list
}

// end kills what a run has left.
func end(mark string) {
	for range 100 {
		list := marked(mark)
		if len(list) == 0 {
			return
		}
		for _, pid := range list {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// describe tells where the processes of a run stand.
func describe(mark string) string {
	var b strings.Builder
	for _, pid := range marked(mark) {
		dir := fmt.Sprintf("/proc/%d/", pid)
		cmd, _ := os.ReadFile(dir + "cmdline")
		fmt.Fprintf(&b, "%d %q\n", pid, bytes.ReplaceAll(cmd, []byte{0}, []byte{' '}))
		tasks, _ := os.ReadDir(dir + "task")
		for _, task := range tasks {
			stat, _ := os.ReadFile(dir + "task/" + task.Name() + "/stat")
			wchan, _ := os.ReadFile(dir + "task/" + task.Name() + "/wchan")
			call, _ := os.ReadFile(dir + "task/" + task.Name() + "/syscall")
			if i := bytes.LastIndexByte(stat, ')'); i >= 0 && len(stat) > i+2 {
				fmt.Fprintf(&b, "   %s %c %s %s", task.Name(), stat[i+2], wchan, call)
			}
		}
	}
	return b.String()
}

// kernelIs reports whether the kernel is of that version or a later one.
func kernelIs(major, minor int) bool {
	var u unix.Utsname
	var a, b int
	if err := unix.Uname(&u); err != nil {
		return false
	}
	_, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b)
	return err == nil && (a > major || a == major && b >= minor)
}

// needRoot skips a test that cannot be made without root.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// needTool skips a test without a program that it is about.
func needTool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs %s: %v", name, err)
	}
	return path
}
