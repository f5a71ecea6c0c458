package proc

import (
	"os"
	"os/exec"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTerminal(t *testing.T) {
	for _, c := range []struct {
		major, minor uint32
		want         bool
	}{
		{4, 1, true}, {4, 64, true}, {5, 0, true}, {5, 1, true}, {5, 2, false}, {136, 0, true}, {143, 255, true},
		{1, 3, false}, {1, 8, false}, {128, 0, false}, {10, 229, false}, {229, 0, true}, {204, 64, true},
	} {
		if got := terminal(unix.Mkdev(c.major, c.minor)); got != c.want {
			t.Errorf("device %d:%d: %t", c.major, c.minor, got)
		}
	}
}

// TestInteractive asks about processes with inputs of several kinds.
func TestInteractive(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer master.Close()
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer terminal.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, c := range []struct {
		name  string
		stdin *os.File
		want  bool
	}{{"terminal", terminal, true}, {"the other end of a terminal", master, false}, {"nothing", null, false}} {
		cmd := exec.Command("sleep", "60")
		cmd.Stdin = c.stdin
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		got, err := Interactive(cmd.Process.Pid)
		described := Describe(cmd.Process.Pid).Interactive
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err != nil || got != c.want || described != c.want {
			t.Errorf("%s: %t, %t, %v", c.name, got, described, err)
		}
	}
	if _, err := Interactive(1 << 30); err != nil {
		t.Errorf("a process that is no more: %v", err)
	}
}
