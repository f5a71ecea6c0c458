package sys

import (
	"os/exec"
	"runtime"
	"syscall"
	"testing"
)

// The kernel writes where a variable is, and a stack that grows moves it.
func TestEventMsgWhereverTheStackGrows(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	ended := make(chan struct{})
	go func() { // a stack that is small yet
		defer close(ended)
		runtime.LockOSThread()
		if err := Seize(cmd.Process.Pid, TraceAll); err != nil {
			t.Errorf("tracing: %v", err)
			return
		}
		defer func() { _ = Detach(cmd.Process.Pid, 0) }()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		for {
			_, status, err := WaitTracee()
			if err != nil {
				t.Error(err)
				return
			}
			if int(status)>>16 == EventExit {
				break
			}
			_ = Cont(cmd.Process.Pid, status.StopSignal())
		}
		at(t, cmd.Process.Pid, 4000)
	}()
	<-ended
}

// at asks at each of so many depths.
//
//go:noinline
func at(t *testing.T, pid, depth int) {
	if msg, err := EventMsg(pid); err != nil || msg != uint(syscall.SIGTERM) {
		t.Errorf("at depth %d: %d, %v", depth, msg, err)
	}
	if depth > 0 {
		at(t, pid, depth-1)
	}
}
