package main

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const denySleep = "version: 1\nrules:\n  - name: no sleep\n    processes: {effect: prevent, deny: [sleep]}\n"

// awaitRecord waits for an audit that is not of the defender itself.
func awaitRecord(t *testing.T, p *started) record {
	t.Helper()
	for deadline := time.Now().Add(hangAfter); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for _, r := range readRecords(t, p.log) {
			if r.Type != "defender" {
				return r
			}
		}
	}
	t.Fatalf("no audit: %s", p.err.String())
	return record{}
}

// TestObserve runs where nothing can be stopped: a rule that refuses keeps the
// target from starting, unless it may run unsupervised; then it is told what
// the rule says of it.
func TestObserve(t *testing.T) {
	t.Parallel()
	if traced {
		t.Skip("is about another level")
	}
	argv := []string{"sh", "-c", "sleep 5; echo slept"}
	flags := []string{"--supervisor", "observe"}
	r := run{policy: denySleep, flags: flags}.protected(t, argv...)
	if r.status != 125 || r.out != "" || !strings.Contains(r.err, "observing refuses nothing") {
		t.Errorf("closed: %+v", r)
	}
	p := run{policy: denySleep, flags: append(flags, "--on-failure", "open")}.startProtected(t, argv...)
	rec := awaitRecord(t, p)
	if rec.Level != "observed" || rec.Refused || rec.Command != "sleep 5" || rec.AttackType != "explicitlyDeniedProcess" {
		t.Errorf("%+v", rec)
	}
	if r := p.wait(); r.out != "slept\n" || r.status != 0 {
		t.Errorf("open: %+v", r)
	}
}

// TestObserveSilent has a process keep its arguments from whoever reads them: it
// is seen all the same.
func TestObserveSilent(t *testing.T) {
	t.Parallel()
	needRoot(t)
	if traced {
		t.Skip("is about another level")
	}
	p := run{policy: "version: 1\nrules:\n  - name: r\n    processes: {effect: alert, deny: [fault]}\n",
		flags: []string{"--supervisor", "observe"}}.startProtected(t, "sh", "-c", `"$0" silent; :`, victim("fault"))
	waitFor(t, func() bool { return p.out.String() != "" })
	if p.out.String() == "unsupported\n" {
		t.Skip("needs a kernel that lets a process say where its arguments lie")
	}
	rec := awaitRecord(t, p)
	if rec.Level != "observed" || rec.Command != victim("fault") && rec.Command != victim("fault")+" silent" {
		t.Errorf("%+v", rec)
	}
	_ = p.cmd.Process.Kill()
	end(p.mark)
}

// TestEntered starts a process in the container from outside, as ECS Exec
// does: no filter of ours stops it, but it is told.
func TestEntered(t *testing.T) {
	t.Parallel()
	needRoot(t)
	needTool(t, "nsenter")
	p := run{policy: denySleep, wrap: []string{"unshare", "-pf", "--mount-proc"}}.startProtected(t,
		"sh", "-c", "echo ready; exec tail -f /dev/null")
	first := p.family().guardian // the child of unshare
	enter := exec.Command("nsenter", "-t", fmt.Sprint(first), "-p", "-m", "sleep", "60")
	if err := enter.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = enter.Process.Kill(); _ = enter.Wait() }()
	rec := awaitRecord(t, p)
	if rec.Level != "observed" || rec.Refused || rec.Command != "sleep 60" {
		t.Errorf("%+v", rec)
	}
}

// TestDefenderInDefender starts a second Defender below one, where neither way
// to supervise is left: it says so in one line, and its target runs.
func TestDefenderInDefender(t *testing.T) {
	t.Parallel()
	r := run{flags: []string{"--supervisor", "notify"}}.protected(t, victim("defender"), "run", "--", "echo", "done")
	if !strings.Contains(r.err, "ptrace: ") {
		t.Skipf("supervision works there: %s", r.err)
	}
	if r.out != "done\n" || r.status != 0 || !strings.Contains(r.err, "; ptrace: ") || strings.Contains(r.err, `\n`) {
		t.Errorf("status %d: %q %s", r.status, r.out, r.err)
	}
}
