package defender

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"appdefender/defender/supervisor"
	"appdefender/internal/early"
	"appdefender/internal/sys"
)

// Report is what a container lets the Defender do, as "defender check" tells
// it.
type Report struct {
	Level    supervisor.Backend `json:"level"` // the one that "run" would choose
	Backends []BackendReport    `json:"backends"`
	Lost     []supervisor.Lost  `json:"lost"`

	Platform     string   `json:"platform,omitempty"` // "" if nothing tells
	Kernel       string   `json:"kernel"`
	User         int      `json:"user"`
	Capabilities []string `json:"capabilities"` // of those that matter here
	NoNewPrivs   bool     `json:"noNewPrivs"`

	place place
}

// BackendReport is how the self-test of one backend ended.
type BackendReport struct {
	Name        supervisor.Backend `json:"name"`
	Works       bool               `json:"works"`
	Why         string             `json:"why,omitempty"` // it does not
	Programs    supervisor.Level   `json:"programs,omitempty"`
	Connections supervisor.Level   `json:"connections,omitempty"`
}

// Check tries every backend. It needs the probes of package early.
func Check() (*Report, error) {
	if !early.Probed() {
		return nil, errors.New(`there are no probes: "check" must be the program's first argument`)
	}
	defer early.DismissProbes()
	here := placeOf(os.Environ())
	r := &Report{Level: supervisor.Observe, User: sys.Us.UID[1], Platform: here.name, place: here}
	best := observeOnly
	for n, by := range backends {
		levels, err := try(n, true)
		b := BackendReport{Name: by, Works: err == nil}
		if err != nil {
			b.Why = err.Error()
		} else {
			b.Programs, b.Connections = supervisor.Checked, supervisor.Checked
			if levels.Trace {
				b.Programs = supervisor.Verified
			}
			if levels.GetFD {
				b.Connections = supervisor.Performed
			}
			if r.Level == supervisor.Observe {
				r.Level, best = by, levels
			}
		}
		r.Backends = append(r.Backends, b)
	}
	nnp, _ := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	r.NoNewPrivs = nnp == 1
	for _, c := range capabilities {
		if sys.Can(c.number) {
			r.Capabilities = append(r.Capabilities, c.name)
		}
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		r.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	r.Lost = append(append(r.Lost, best.Lost...), r.surroundings()...)
	for i := range r.Lost {
		r.Lost[i].Cure = here.remedy(r.Lost[i].Cure)
	}
	return r, nil
}

// capabilities are those that change what the Defender can do.
var capabilities = []struct {
	name   string
	number int
}{
	{"SYS_PTRACE", unix.CAP_SYS_PTRACE}, {"SYS_ADMIN", unix.CAP_SYS_ADMIN}, {"NET_RAW", unix.CAP_NET_RAW},
	{"NET_BIND_SERVICE", unix.CAP_NET_BIND_SERVICE}, {"SETPCAP", unix.CAP_SETPCAP},
	{"SETUID", unix.CAP_SETUID}, {"SETGID", unix.CAP_SETGID},
}

// surroundings are losses that no self-test of a backend shows.
func (r *Report) surroundings() []supervisor.Lost {
	var lost []supervisor.Lost
	add := func(what, why, cure string) { lost = append(lost, supervisor.Lost{What: what, Why: why, Cure: cure}) }
	if r.Level == supervisor.ByPtrace {
		add("no debugger works inside the target, and it ends with the defender whatever --on-failure says",
			"a process has one tracer, and that is the defender", r.place.listener)
	}
	if !r.NoNewPrivs && !sys.Can(unix.CAP_SYS_ADMIN) {
		add("set-uid programs, sudo and ping among them, gain no privileges in the target",
			"without SYS_ADMIN a filter needs no_new_privs", "start the target as the user it needs")
	}
	if sys.Can(unix.CAP_SYS_PTRACE) && !sys.Can(unix.CAP_SETPCAP) && sys.Us.UID[3] == 0 {
		add("a root target keeps SYS_PTRACE and may reach the defender", "dropping it needs SETPCAP", capability+"SETPCAP")
	}
	if !sys.Can(unix.CAP_NET_RAW) {
		add("lookups to foreign name servers from sockets that are never connected are judged, and then answered by those servers",
			"answering them under the server's name needs NET_RAW", capability+"NET_RAW")
	}
	if port := firstFreePort(); port > dnsPort && !sys.Can(unix.CAP_NET_BIND_SERVICE) {
		add("resolv.conf cannot name the defender, lookups are redirected call by call",
			fmt.Sprintf("ports below %d are for the capability NET_BIND_SERVICE", port), capability+"NET_BIND_SERVICE")
	} else if err := unix.Access(resolvConf, unix.W_OK); err != nil {
		add("resolv.conf cannot be changed, lookups are redirected call by call", fmt.Sprintf("%s: %v", resolvConf, err), "")
	}
	if err := sys.LandlockNet(); err != nil {
		add("a thread that exchanges a socket while a call on another goes on may connect unjudged",
			fmt.Sprintf("Landlock has no rules for TCP (Linux 6.7): %v", err), "")
	} else if !sys.Can(unix.CAP_SYS_PTRACE) {
		add("a thread that exchanges a socket while a call on another goes on may connect unjudged, unless the policy refuses calls that cannot be read",
			"what closes this would also refuse the connects of a process that has changed its user", capability+"SYS_PTRACE")
	}
	return lost
}

// firstFreePort returns the lowest port that needs no capability (ip(7)).
func firstFreePort() int {
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if n, aerr := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && aerr == nil {
		return n
	}
	return 1024
}

// means says what a level is, for people.
var means = map[supervisor.Backend]string{
	supervisor.ByNotify: "every judged call is stopped before it happens",
	supervisor.ByPtrace: "every judged call is stopped before it happens, by a tracer; slower",
	supervisor.Observe:  "nothing is stopped",
}

// Write prints the report for people.
func (r *Report) Write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "level %s: %s\n\n", r.Level, means[r.Level])
	for _, backend := range r.Backends {
		if backend.Works {
			fmt.Fprintf(&b, "  %-8s works: programs are %s, connections are %s\n", backend.Name, backend.Programs, backend.Connections)
		} else {
			fmt.Fprintf(&b, "  %-8s does not work: %s\n", backend.Name, strings.TrimPrefix(backend.Why, string(backend.Name)+": "))
		}
	}
	if len(r.Lost) == 0 {
		b.WriteString("\nNothing is lost.\n")
	} else {
		b.WriteString("\nLost at this level:\n")
	}
	add := false
	for _, l := range r.Lost {
		fmt.Fprintf(&b, "  - %s\n", l.What)
		if l.Why != "" {
			fmt.Fprintf(&b, "    because  %s\n", l.Why)
		}
		if l.Cure != "" {
			fmt.Fprintf(&b, "    instead  %s\n", l.Cure)
			add = add || strings.HasPrefix(l.Cure, capability)
		}
	}
	if add {
		fmt.Fprintf(&b, "\nA capability is added %s.\n", r.place.how)
	}
	has := strings.Join(r.Capabilities, " ")
	if has == "" {
		has = "none"
	}
	b.WriteString("\n")
	if r.Platform != "" {
		fmt.Fprintf(&b, "platform %s, ", r.Platform)
	}
	fmt.Fprintf(&b, "kernel %s, user %d, no_new_privs %t; of the capabilities that matter: %s\n", r.Kernel, r.User, r.NoNewPrivs, has)
	_, err := io.WriteString(w, b.String())
	return err
}
