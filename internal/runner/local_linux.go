package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Local runs each container as a process of this machine, which must be ours
// as root. A container has its own mounts, processes and host name, a copy of
// its image's root that it may write and that is gone with it (an overlay), a
// resolv.conf of its own, and the capabilities that container engines give.
// The network is this machine's, as the containers of one task share one.
//
// It is a stage, not a prison: nothing here holds a program that wants out.
type Local struct {
	// ResolvConf is what each container's /etc/resolv.conf says; empty: what
	// this machine's does.
	ResolvConf string

	mu      sync.Mutex
	volumes map[string][]Mount // by container, to be had by volumesFrom
	temp    []string
}

// defaultCaps are what container engines leave to root.
var defaultCaps = []string{
	"CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
	"NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
}

// capNumbers are of capabilities(7), for the default ones and those that
// definitions add.
var capNumbers = map[string]uintptr{
	"CHOWN": unix.CAP_CHOWN, "DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "FSETID": unix.CAP_FSETID, "FOWNER": unix.CAP_FOWNER,
	"MKNOD": unix.CAP_MKNOD, "NET_RAW": unix.CAP_NET_RAW, "SETGID": unix.CAP_SETGID, "SETUID": unix.CAP_SETUID,
	"SETFCAP": unix.CAP_SETFCAP, "SETPCAP": unix.CAP_SETPCAP, "NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE,
	"SYS_CHROOT": unix.CAP_SYS_CHROOT, "KILL": unix.CAP_KILL, "AUDIT_WRITE": unix.CAP_AUDIT_WRITE,
	"SYS_PTRACE": unix.CAP_SYS_PTRACE, "NET_ADMIN": unix.CAP_NET_ADMIN, "SYS_ADMIN": unix.CAP_SYS_ADMIN,
	"SYS_RESOURCE": unix.CAP_SYS_RESOURCE, "SYS_NICE": unix.CAP_SYS_NICE, "IPC_LOCK": unix.CAP_IPC_LOCK,
}

// Start implements [Engine].
func (l *Local) Start(ctx context.Context, s *Spec) (Process, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("containers without an engine need root")
	}
	if len(s.Argv) == 0 {
		return nil, errors.New("neither the definition nor the image says what to start")
	}
	if s.Init {
		return nil, errors.New("initProcessEnabled is not honoured here")
	}
	caps, err := capabilities(s.CapAdd, s.CapDrop)
	if err != nil {
		return nil, err
	}
	cred, err := credential(s.User, s.Image.User)
	if err != nil {
		return nil, err
	}
	mounts, err := l.mounts(s)
	if err != nil {
		return nil, err
	}
	scratch, err := l.tempDir("runner-root-")
	if err != nil {
		return nil, err
	}
	conf, err := l.resolvConf(scratch)
	if err != nil {
		return nil, err
	}
	out, err := newPipes(s.Stdout, s.Stderr)
	if err != nil {
		return nil, err
	}
	dir := s.Dir
	if dir == "" {
		dir = s.Image.WorkingDir
	}
	c := &localContainer{output: out, done: make(chan struct{})}
	c.process, err = begin(&setup{
		Name: s.Name, Root: s.Image.Root, Scratch: scratch, ResolvConf: conf, Mounts: mounts, ReadOnly: s.ReadOnly,
		Caps: caps, User: cred, Dir: dir, Argv: s.Argv, Env: withPath(s.Env),
	}, out)
	if err != nil {
		out.close()
		return nil, err
	}
	out.started()
	go func() {
		select {
		case <-ctx.Done():
			_ = c.Kill()
		case <-c.done:
		}
	}()
	return c, nil
}

// mounts returns what is mounted into the container, and notes its volumes for
// others.
func (l *Local) mounts(s *Spec) ([]Mount, error) {
	mounts := slices.Clone(s.Mounts)
	for _, target := range s.Image.Volumes {
		dir, err := l.tempDir("runner-volume-")
		if err != nil {
			return nil, err
		}
		// A volume begins as its folder in the image; here, with its owner and
		// mode only.
		var st unix.Stat_t
		if s.Image.Root != "" && unix.Stat(filepath.Join(s.Image.Root, target), &st) == nil {
			if err := errors.Join(os.Chown(dir, int(st.Uid), int(st.Gid)), os.Chmod(dir, os.FileMode(st.Mode&0o777))); err != nil {
				return nil, err
			}
		}
		mounts = append(mounts, Mount{Source: dir, Target: target})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, from := range s.VolumesFrom {
		for _, m := range l.volumes[from.Container] {
			m.ReadOnly = m.ReadOnly || from.ReadOnly
			mounts = append(mounts, m)
		}
	}
	if l.volumes == nil {
		l.volumes = make(map[string][]Mount)
	}
	l.volumes[s.Name] = mounts
	return mounts, nil
}

func (l *Local) tempDir(pattern string) (string, error) {
	dir, err := os.MkdirTemp("", pattern)
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.temp = append(l.temp, dir)
	// As the owner of an image's folder, anybody may look into it.
	return dir, os.Chmod(dir, 0o755)
}

func (l *Local) resolvConf(dir string) (string, error) {
	text := []byte(l.ResolvConf)
	if len(text) == 0 {
		var err error
		if text, err = os.ReadFile("/etc/resolv.conf"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	name := filepath.Join(dir, "resolv.conf")
	return name, os.WriteFile(name, text, 0o644)
}

// Close implements [Engine].
func (l *Local) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, dir := range l.temp {
		errs = append(errs, os.RemoveAll(dir))
	}
	l.temp, l.volumes = nil, nil
	return errors.Join(errs...)
}

// setup is what the first process of a container is told. It is our own
// program, started again under the name initName: it makes the container
// around itself and becomes what the container starts.
type setup struct {
	Name, Root, Scratch, ResolvConf string
	Mounts                          []Mount
	ReadOnly                        bool
	Caps                            []uintptr
	User                            *syscall.Credential
	Dir                             string
	Argv, Env                       []string
}

const initName = "runner-container-init"

// begin starts a container's first process and waits until it has become what
// it is told.
func begin(st *setup, out *output) (*os.Process, error) {
	told, tell, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer told.Close()
	hear, say, err := os.Pipe()
	if err != nil {
		tell.Close()
		return nil, err
	}
	defer hear.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	p, err := os.StartProcess("/proc/self/exe", []string{initName}, &os.ProcAttr{
		Env: []string{}, Files: []*os.File{null, out.stdout, out.stderr, told, say},
		Sys: &syscall.SysProcAttr{
			Setsid:     true,
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		},
	})
	say.Close()
	if err != nil {
		tell.Close()
		return nil, err
	}
	_ = json.NewEncoder(tell).Encode(st) // if it cannot read, it says so
	tell.Close()
	// The pipe ends without a word when the program is replaced.
	if trouble, _ := io.ReadAll(hear); len(trouble) > 0 {
		_, _ = p.Wait()
		return nil, errors.New(string(trouble))
	}
	return p, nil
}

// A program that links this package is also the first process of containers.
func init() {
	if os.Args[0] != initName {
		return
	}
	// Capabilities belong to the thread, and execve takes those of its own.
	runtime.LockOSThread()
	unix.CloseOnExec(3)
	unix.CloseOnExec(4)
	err := become(os.NewFile(3, "setup"))
	_, _ = os.NewFile(4, "trouble").WriteString(err.Error())
	os.Exit(125)
}

// become returns only with an error.
func become(told io.Reader) error {
	var st setup
	if err := json.NewDecoder(told).Decode(&st); err != nil {
		return err
	}
	if err := st.enter(); err != nil {
		return err
	}
	if st.Dir == "" {
		st.Dir = "/"
	}
	if err := os.Chdir(st.Dir); err != nil {
		return err
	}
	path, err := lookPath(st.Argv[0], st.Env)
	if err != nil {
		return err
	}
	if err := limitCapabilities(st.Caps); err != nil {
		return err
	}
	if u := st.User; u != nil {
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(int(u.Gid)), syscall.Setuid(int(u.Uid))); err != nil {
			return fmt.Errorf("becoming user %d: %w", u.Uid, err)
		}
	}
	return &os.PathError{Op: "execve", Path: path, Err: syscall.Exec(path, st.Argv, st.Env)}
}

// enter makes the container's mounts and goes there.
func (s *setup) enter() error {
	if err := unix.Sethostname([]byte(s.Name)); err != nil {
		return os.NewSyscallError("sethostname", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount /", err)
	}
	layer := filepath.Join(s.Scratch, "layer")
	root := filepath.Join(layer, "root")
	if err := os.Mkdir(layer, 0o755); err != nil {
		return err
	}
	if err := mount("tmpfs", layer, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, dir := range []string{"root", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(layer, dir), 0o755); err != nil {
			return err
		}
	}
	lower := s.Root
	if lower == "" {
		lower = "/"
	}
	overlay := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, layer, layer)
	if err := mount("overlay", root, "overlay", 0, overlay); err != nil {
		return err
	}
	if err := furnish(root, s.ResolvConf, s.Mounts); err != nil {
		return err
	}
	if s.ReadOnly {
		if err := mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return err
		}
	}
	// pivot_root(2), "pivot_root(\".\", \".\")": the old root lies on the new.
	if err := unix.Chdir(root); err != nil {
		return os.NewSyscallError("chdir", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return os.NewSyscallError("umount2", err)
	}
	return os.NewSyscallError("chdir", unix.Chdir("/"))
}

// furnish mounts what every container has, and its volumes.
func furnish(root, conf string, mounts []Mount) error {
	for _, dir := range []string{"proc", "sys", "dev", "etc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o1777); err != nil {
		return err
	}
	if err := mount("proc", root+"/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := mount("/sys", root+"/sys", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := mount("", root+"/sys", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if err := mount("tmpfs", root+"/dev", "tmpfs", unix.MS_NOSUID, "mode=755"); err != nil {
		return err
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if err := bind("/dev/"+name, root+"/dev/"+name, false); err != nil {
			return err
		}
	}
	if err := os.Mkdir(root+"/dev/shm", 0o1777); err != nil {
		return err
	}
	for from, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(to, root+"/dev/"+from); err != nil {
			return err
		}
	}
	// A link would have the mount land outside.
	resolv := root + "/etc/resolv.conf"
	if info, err := os.Lstat(resolv); err == nil && !info.Mode().IsRegular() {
		if err := os.Remove(resolv); err != nil {
			return err
		}
	}
	if err := bind(conf, resolv, false); err != nil {
		return err
	}
	for _, m := range mounts {
		if err := bind(m.Source, filepath.Join(root, filepath.Clean("/"+m.Target)), m.ReadOnly); err != nil {
			return err
		}
	}
	return nil
}

// bind mounts a file or folder, making the place for it.
func bind(source, target string, readOnly bool) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else {
		if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
			var f *os.File
			if f, err = os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o644); err == nil {
				f.Close()
			}
		}
	}
	if err != nil {
		return err
	}
	if err := mount(source, target, "", unix.MS_BIND, ""); err != nil || !readOnly {
		return err
	}
	return mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
}

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", source, target, err)
	}
	return nil
}

// capabilities returns the numbers of those a container has.
func capabilities(add, drop []string) ([]uintptr, error) {
	set := make(map[uintptr]bool)
	one := func(name string, on bool) error {
		n, ok := capNumbers[strings.TrimPrefix(strings.ToUpper(name), "CAP_")]
		if !ok {
			return fmt.Errorf("the capability %q is not known here", name)
		}
		set[n] = on
		return nil
	}
	if !slices.Contains(drop, "ALL") {
		for _, name := range defaultCaps {
			_ = one(name, true)
		}
		for _, name := range drop {
			if err := one(name, false); err != nil {
				return nil, err
			}
		}
	}
	for _, name := range add {
		if err := one(name, true); err != nil {
			return nil, err
		}
	}
	maps.DeleteFunc(set, func(_ uintptr, on bool) bool { return !on })
	return slices.Collect(maps.Keys(set)), nil
}

// limitCapabilities leaves the programs that this thread starts the given
// capabilities at most.
func limitCapabilities(caps []uintptr) error {
	for n := range uintptr(64) {
		if slices.Contains(caps, n) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, n, 0, 0, 0); errors.Is(err, unix.EINVAL) {
			return nil // the kernel has no more
		} else if err != nil {
			return os.NewSyscallError("prctl", err)
		}
	}
	return nil
}

// credential reads "uid" or "uid:gid".
func credential(users ...string) (*syscall.Credential, error) {
	for _, user := range users {
		if user == "" {
			continue
		}
		u, g, both := strings.Cut(user, ":")
		uid, err := strconv.ParseUint(u, 10, 32)
		gid := uint64(0)
		if err == nil && both {
			gid, err = strconv.ParseUint(g, 10, 32)
		}
		if err != nil {
			return nil, fmt.Errorf("user %q: only numbers are understood here", user)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, nil
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// withPath adds what engines add.
func withPath(env []string) []string {
	env = slices.Clone(env)
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		env = append([]string{defaultPath}, env...)
	}
	named := slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "HOSTNAME=") })
	if host, err := os.Hostname(); err == nil && !named {
		env = append(env, "HOSTNAME="+host)
	}
	return env
}

// lookPath finds the program to start, as the calling thread's root has it.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, e := range env {
		list, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			path := filepath.Join(dir, name)
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return path, nil
			}
		}
	}
	return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
}

// output copies what a container says.
type output struct {
	stdout, stderr *os.File // the container's ends
	readers        []*os.File
	copies         []io.Writer
	wait           sync.WaitGroup
}

// newPipes makes one pipe of two writers that are the same, as package exec
// does: so nothing of one is written between the other's lines, or at once.
func newPipes(stdout, stderr io.Writer) (*output, error) {
	o := new(output)
	add := func(to io.Writer) (*os.File, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		o.readers, o.copies = append(o.readers, r), append(o.copies, to)
		return w, nil
	}
	var err error
	if o.stdout, err = add(stdout); err == nil {
		o.stderr = o.stdout
		if !equal(stdout, stderr) {
			o.stderr, err = add(stderr)
		}
	}
	if err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

func equal(a, b io.Writer) bool {
	defer func() { _ = recover() }() // of types that cannot be compared
	return a == b
}

func (o *output) started() {
	o.stdout.Close()
	o.stderr.Close()
	for i, r := range o.readers {
		o.wait.Go(func() { _, _ = io.Copy(o.copies[i], r); r.Close() })
	}
}

func (o *output) close() {
	for _, f := range append(o.readers, o.stdout, o.stderr) {
		if f != nil {
			f.Close()
		}
	}
}

type localContainer struct {
	process *os.Process
	output  *output
	done    chan struct{}
}

func (c *localContainer) Wait() (int, error) {
	defer close(c.done)
	state, err := c.process.Wait()
	if err != nil {
		return -1, err
	}
	// With the first process all of its namespace are gone, and the pipes'
	// other ends with them.
	c.output.wait.Wait()
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return state.ExitCode(), nil
}

func (c *localContainer) Stop() error { return c.process.Signal(syscall.SIGTERM) }
func (c *localContainer) Kill() error { return c.process.Kill() }

// Exec implements [Process]: as root of the container, without a limit to its
// capabilities.
func (c *localContainer) Exec(ctx context.Context, argv []string, out io.Writer) (int, error) {
	var text bytes.Buffer
	exit, finished := -1, make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good
		finished <- func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return os.NewSyscallError("unshare", err)
			}
			fd, err := unix.PidfdOpen(c.process.Pid, 0)
			if err != nil {
				return os.NewSyscallError("pidfd_open", err)
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNS|unix.CLONE_NEWPID|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS); err != nil {
				return os.NewSyscallError("setns", err)
			}
			cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
			cmd.Env, cmd.Dir = []string{defaultPath}, "/"
			cmd.Stdout, cmd.Stderr = &text, &text
			err = cmd.Run()
			if ee := (*exec.ExitError)(nil); errors.As(err, &ee) {
				err = nil
			}
			if cmd.ProcessState != nil {
				exit = cmd.ProcessState.ExitCode()
			}
			return err
		}()
	}()
	err := <-finished
	_, _ = out.Write(text.Bytes())
	return exit, err
}
