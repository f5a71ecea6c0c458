package defender

import (
	"sync"

	"golang.org/x/sys/unix"

	"appdefender/defender/proc"
	"appdefender/defender/supervisor"
	"appdefender/policy"
)

// scripts remembers the processes that run a package manager which is a script:
// their executable is an interpreter, and what their arguments say is
// theirs to choose. It holds a pidfd of each, so that a number that is used
// again is not taken for them.
type scripts struct {
	mu sync.Mutex
	by map[int]running // by process
}

type running struct {
	script string
	pidfd  int
}

// maxScripts bounds the descriptors. Who comes later is not remembered, and
// what it changes is told of.
const maxScripts = 64

// started is told of each exec that succeeded.
func (s *scripts) started(c *supervisor.Call, ev *policy.Event, level supervisor.Level) {
	p := &ev.Program
	script := level == supervisor.Verified && len(p.Interpreters) > 0 && policy.Installs(p.Path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.by) == 0 && !script {
		return
	}
	for pid, r := range s.by {
		if pid == c.PID() || !r.alive() {
			unix.Close(r.pidfd)
			delete(s.by, pid)
		}
	}
	if !script || len(s.by) >= maxScripts {
		return
	}
	pidfd, err := unix.PidfdOpen(c.PID(), 0)
	if err != nil {
		return
	}
	if s.by == nil {
		s.by = make(map[int]running)
	}
	s.by[c.PID()] = running{p.Path, pidfd}
}

// alive reports whether the process has not ended (pidfd_open(2)).
func (r running) alive() bool {
	fds := []unix.PollFd{{Fd: int32(r.pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n == 0 && err == nil
}

// name says of a process and its ancestors which scripts they are.
func (s *scripts) name(p *policy.Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.by) == 0 {
		return
	}
	if r, ok := s.by[p.PID]; ok && r.alive() {
		p.Script = r.script
	}
	for i := range p.Ancestors {
		if r, ok := s.by[p.Ancestors[i].PID]; ok && r.alive() {
			p.Ancestors[i].Script = r.script
		}
	}
}

// who describes the process that makes a call.
func (d *Defender) who(c *supervisor.Call) policy.Process {
	p := proc.Describe(c.PID())
	d.scripts.name(&p)
	return p
}
