package endtoend

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// onSmallDisk starts argv where the folder dir is a disk of its own of 4 MiB,
// seen by nobody else.
func onSmallDisk(t *testing.T, dir string, argv ...string) *process {
	t.Helper()
	return start(t, append([]string{"unshare", "-m", "sh", "-c", `mount -t tmpfs -o size=4m tmpfs "$0" && exec "$@"`, dir}, argv...)...)
}

// fill launches programs, fills the disk on the way, and goes on until a file
// appears. Long arguments make long records.
const fill = `long=$(printf %04000d 0)
i=0; while [ $i -lt 300 ]; do i=$((i+1)); /usr/bin/true $i $long; done
echo "filling the disk"
head -c 8388608 /dev/zero >"$0/filler" 2>/dev/null || echo "it is full"
while [ $i -lt 3000 ]; do i=$((i+1)); /usr/bin/true $i $long || echo "failed: $i"; done
echo "launched $i"
until [ -e "$1" ]; do sleep 0.1; done
exit 7`

// TestDiskFull fills the disk under a Defender's audits while the Console is
// away, and then its memory for them: what is lost is counted and said, and
// the target does what it does without a Defender.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a disk")
	}
	log := filepath.Join(t.TempDir(), "audit.log")
	goOn := filepath.Join(t.TempDir(), "go on")
	s := serve(t)
	s.rule("alert", "true")
	disk := t.TempDir()
	p := onSmallDisk(t, disk,
		filepath.Join(bin, "defender"), "run", "--console", s.url, "--ca", s.ca(), "--token-file", s.token("t"), "--app-id", "full",
		"--data-dir", filepath.Join(disk, "data"), "--resolv-conf", "leave", "--audit-log", log, "--wait-for-policy", "1m", "--every-audit", "--",
		"sh", "-c", fill, disk, goOn)
	await(t, "the task has begun", func() bool { return len(s.audits(nil)) > 0 })
	s.kill()
	await(t, "the task has launched all", func() bool { return strings.Contains(p.out.String(), "launched") })
	// With records still on their way, the spool would fill a second time.
	await(t, "all launches are in the audit log", func() bool {
		text, err := os.ReadFile(log)
		return err == nil && strings.Count(string(text), `"processes"`) == 3000
	})
	s.start(t)
	var d known
	await(t, "the Console knows of the loss, and has the rest", func() bool {
		d = s.defenders()[0]
		return d.Dropped > 0 && d.Queue == 0
	})
	if err := os.WriteFile(goOn, nil, 0o600); err != nil {
		t.Fatal(err)
	}

	alone := onSmallDisk(t, disk, "sh", "-c", fill, disk, goOn)
	if got, want := p.exit(), alone.exit(); got != want || want != 7 {
		t.Errorf("the task ended with %d, alone with %d", got, want)
	}
	if got, want := p.out.String(), alone.out.String(); got != want || !strings.Contains(got, "it is full") {
		t.Errorf("the task said %q, alone %q", got, want)
	}

	launches, confessed, said := 0, uint64(0), ""
	sequences := make(map[uint64]bool)
	for _, a := range s.audits(url.Values{"instance": {d.Instance}}) {
		if sequences[a.Sequence] {
			t.Errorf("sequence %d is there twice", a.Sequence)
		}
		sequences[a.Sequence] = true
		if a.Record.Type == "processes" {
			launches++
			continue
		}
		said += a.Record.Msg + "\n"
		var n uint64
		if _, err := fmt.Sscanf(a.Record.Msg, "%d record", &n); err == nil {
			confessed += n
		}
	}
	t.Logf("of 3000 launches %d are there, %d records were dropped; the Defender said:\n%s", launches, d.Dropped, said)
	if confessed != d.Dropped {
		t.Errorf("%d lost records are confessed, the heartbeat has %d", confessed, d.Dropped)
	}
	// News of the Defender's own may be among what is lost.
	if lost := 3000 - launches; lost <= 0 || uint64(lost) > d.Dropped {
		t.Errorf("%d launches are missing, and %d records dropped", lost, d.Dropped)
	}
	// Who finds the disk full first, and how full, is chance: a record that does
	// not fit, the look before it, or the spool's own state.
	if n := strings.Count(said, "audit records wait in memory"); n != 1 {
		t.Errorf("the Console was told %d times that the disk is full", n)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "the audit spool is full"); n != 1 {
		t.Errorf("the audit log says %d times that the spool is full", n)
	}
}
