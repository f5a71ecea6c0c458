package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// insideWord is our first argument in the process that has the world.
const insideWord = "inside"

// exitNoWorld is the exit status of that process when its world could not be
// made; nothing was shown then.
const exitNoWorld = 99

// errNoWorld means that the machine gives us no namespaces.
var errNoWorld = errors.New("no namespaces")

// enterWorld runs the demo in mount and network namespaces of its own, and in
// a user namespace where we may not make them otherwise.
func enterWorld() (exit int, err error) {
	tries := []uintptr{unix.CLONE_NEWNS | unix.CLONE_NEWNET, unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUSER}
	if os.Geteuid() != 0 {
		tries = tries[1:]
	}
	for _, flags := range tries {
		exit, err = enter(flags)
		if !errors.Is(err, errNoWorld) {
			return exit, err
		}
	}
	return exit, err
}

func enter(flags uintptr) (exit int, err error) {
	runtime.LockOSThread() // Pdeathsig is about the thread
	defer runtime.UnlockOSThread()
	var complaint strings.Builder
	cmd := exec.Command("/proc/self/exe", insideWord)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, &complaint
	front, err := hostListener()
	if err != nil {
		return 0, err
	}
	defer front.Close()
	cmd.ExtraFiles = []*os.File{front}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: unix.SIGTERM}
	if flags&unix.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("%w: %w", errNoWorld, err)
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err = cmd.Wait()
	var ended *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &ended):
		return 0, err
	case cmd.ProcessState.ExitCode() == exitNoWorld:
		return 0, fmt.Errorf("%w: %s", errNoWorld, strings.TrimSpace(complaint.String()))
	case ended != nil && ended.ExitCode() < 0:
		return 0, ended
	}
	fmt.Fprint(os.Stderr, &complaint)
	return cmd.ProcessState.ExitCode(), nil
}

// hostListener returns a listener on a free port of the machine's network. It
// stays there, whoever accepts from it: by it a browser gets to the Console.
func hostListener() (*os.File, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(home, "0"))
	if err != nil {
		return nil, err
	}
	defer l.Close()
	return l.(*net.TCPListener).File()
}

// frontFile is the descriptor of that listener in our namespaces.
const frontFile = 3

// inside is the demo in its own namespaces.
func inside() (exit int, err error) {
	f := os.NewFile(frontFile, "listener")
	front, err := net.FileListener(f)
	f.Close() // front has its own, which no program inherits
	if err != nil {
		return 0, err
	}
	w, err := newWorld(front)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitNoWorld, nil
	}
	return run(w, nil)
}

// world is a network of our own with one name server, which knows every name,
// and one web server, which has every page.
type world struct {
	front net.Listener // in the machine's network, for the Console

	mu    sync.Mutex
	names map[string]int // how often each name was asked for
}

// home is where all names lead. Resolvers ask there too when no file names a
// server (resolv.conf(5)).
const home = "127.0.0.1"

// What the task reads there. Names must be looked up by the task itself, not by
// a service of the machine behind a socket.
const (
	resolvConf   = "nameserver " + home + "\n"
	nsswitchConf = "passwd: files\ngroup: files\nhosts: files dns\n"
)

// newWorld furnishes the namespaces that we are in.
// Precondition: they are ours alone.
func newWorld(front net.Listener) (*world, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("making mounts private: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return nil, fmt.Errorf("starting the loopback device: %w", err)
	}
	files := map[string]string{"/etc/resolv.conf": resolvConf, "/etc/nsswitch.conf": nsswitchConf}
	dir, err := os.MkdirTemp("", "defender-demo-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // what is mounted stays
	for name, text := range files {
		if err := cover(name, text, filepath.Join(dir, filepath.Base(name))); err != nil {
			return nil, err
		}
	}
	w := &world{front: front, names: make(map[string]int)}
	if err := w.serveNames(); err != nil {
		return nil, fmt.Errorf("starting the name server: %w", err)
	}
	if err := serveWeb(); err != nil {
		return nil, fmt.Errorf("starting the web server: %w", err)
	}
	return w, nil
}

// cover mounts a file of the given text over name, if there is such a file.
func cover(name, text, file string) error {
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	err := unix.Mount(file, name, "", unix.MS_BIND, "")
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("mounting over %s: %w", name, err)
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

func (w *world) serveNames() error {
	addr := net.JoinHostPort(home, "53")
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	handler := dns.HandlerFunc(w.answer)
	go func() { _ = (&dns.Server{PacketConn: pc, Handler: handler}).ActivateAndServe() }()
	go func() { _ = (&dns.Server{Listener: l, Handler: handler}).ActivateAndServe() }()
	return nil
}

func (w *world) answer(to dns.ResponseWriter, q *dns.Msg) {
	r := new(dns.Msg).SetReply(q)
	for _, question := range q.Question {
		w.mu.Lock()
		w.names[strings.TrimSuffix(strings.ToLower(question.Name), ".")]++
		w.mu.Unlock()
		if question.Qtype == dns.TypeA {
			r.Answer = append(r.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
				A:   net.ParseIP(home),
			})
		}
	}
	_ = to.WriteMsg(r)
}

// asked returns how often the name server was asked for a name.
func (w *world) asked(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.names[name]
}

func serveWeb() error {
	l, err := net.Listen("tcp", net.JoinHostPort(home, "80"))
	if err != nil {
		return err
	}
	handler := func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "This is %q, as far as the demo goes.\n", r.Host)
	}
	go func() { _ = http.Serve(l, http.HandlerFunc(handler)) }()
	return nil
}

// consoleAddr is the Console's address, the same in both networks.
func (w *world) consoleAddr() string { return w.front.Addr().String() }

// forward brings connections from the machine's network to the Console.
func (w *world) forward() {
	for {
		from, err := w.front.Accept()
		if err != nil {
			return
		}
		go func() {
			defer from.Close()
			to, err := net.Dial("tcp", w.consoleAddr())
			if err != nil {
				return
			}
			defer to.Close()
			ended := make(chan struct{}, 2)
			for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
				go func() {
					_, _ = io.Copy(way[1], way[0])
					ended <- struct{}{}
				}()
			}
			<-ended
		}()
	}
}
