package defender

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"appdefender/audit/learn"
	"appdefender/defender/supervisor"
	"appdefender/policy"
)

// How often a learned policy is written: when something new was seen, and when
// only counts have changed.
const (
	learnNews   = 2 * time.Second
	learnCounts = time.Minute
)

// learner records what the target does, and keeps the recording and the policy
// made of it in files.
type learner struct {
	file string // of the policy; "-" is standard error, at the end
	rec  *learn.Recording
	// needs is what is found out about events beside what rules ask for.
	needs policy.Needs

	lock *os.File // the recording, locked; nil for "-"

	mu sync.Mutex
	// chosen are processes that had the kernel choose a port: one that they
	// then listen on is another in the next run.
	chosen map[int]bool
}

// newLearner returns nil if nothing is to be learned. What an earlier run has
// learned into the same file stays.
func newLearner(cfg *Config) (*learner, error) {
	if cfg.Learn == "" {
		return nil, nil
	}
	w := cfg.Workload
	sections := []policy.Section{policy.Processes, policy.DNS, policy.Network}
	if cfg.FileMonitoring {
		sections = append(sections, policy.Files)
	}
	l := &learner{file: cfg.Learn, needs: learn.Facts(cfg.FileMonitoring), chosen: make(map[int]bool),
		rec: learn.NewRecording(learn.Header{
			Container: w.Container, Image: w.Image, AppID: w.AppID, Version: cfg.Version,
			Facts: learn.Facts(cfg.FileMonitoring), Sections: sections,
		})}
	if cfg.KeepSecrets {
		l.rec.KeepSecrets()
	}
	if l.file == "-" {
		return l, nil
	}
	name := learn.RecordingName(l.file)
	var err error
	if l.lock, err = claimRecording(name); err != nil {
		if errors.Is(err, errLearning) {
			return nil, fmt.Errorf("learning into %q: %w", l.file, err)
		}
		return nil, fmt.Errorf("learning into %q: %w (%s)", l.file, err, writablePlaces())
	}
	earlier, notes, err := learn.Read(name, l.lock, true)
	if err == nil && len(notes) > 0 {
		err = errors.New(notes[0])
	}
	if err != nil {
		return nil, fmt.Errorf("learning into %q: reading what was learned before: %w (move it away to begin anew)", l.file, err)
	}
	if _, err := os.Lstat(l.file); err == nil && len(earlier) == 0 {
		_ = l.lock.Close()
		_ = os.Remove(name)
		return nil, fmt.Errorf("learning into %q: it exists, and %q, which it would have been learned from, does not; give another name", l.file, name)
	}
	for _, r := range earlier {
		if h := r.Header(); h.Container != w.Container || h.AppID != w.AppID {
			return nil, fmt.Errorf("learning into %q: it has what container %q of application %q does; give this one another file, and put them together with \"defenderctl policy learn\"", l.file, h.Container, h.AppID)
		}
		l.rec.Resume(r)
	}
	return l, l.save()
}

// errLearning means that a recording is another Defender's.
var errLearning = errors.New(`another Defender is learning into it; give each a file of its own, and put them together with "defenderctl policy learn"`)

// claimRecording opens a recording for us alone. It is replaced as a whole
// while it is locked, so that the lock counts only if the name still leads to
// what was locked.
func claimRecording(name string) (*os.File, error) {
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			var at, is os.FileInfo
			if is, err = f.Stat(); err == nil && !is.Mode().IsRegular() {
				err = fmt.Errorf("%q is not a regular file", name)
			}
			if err == nil {
				if at, err = os.Lstat(name); err == nil && os.SameFile(at, is) {
					return f, nil
				}
			}
		}
		f.Close()
		switch {
		case errors.Is(err, unix.EWOULDBLOCK):
			return nil, errLearning
		case err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
}

// writablePlaces says where this process can write.
func writablePlaces() string {
	candidates := []string{os.TempDir(), "/tmp", "/var/tmp", "/dev/shm", "/run"}
	if data, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) > 5 && !strings.HasPrefix(f[4], "/proc") && !strings.HasPrefix(f[4], "/sys") && !strings.HasPrefix(f[4], "/dev") {
				candidates = append(candidates, f[4])
			}
		}
	}
	var places []string
	for _, dir := range candidates {
		if info, err := os.Stat(dir); err == nil && info.IsDir() && unix.Access(dir, unix.W_OK) == nil && !slices.Contains(places, dir) {
			places = append(places, dir)
		}
	}
	if len(places) == 0 {
		return `no place to write to was found; mount a volume, or give "-" for standard error`
	}
	return "places to write to: " + strings.Join(places[:min(len(places), 8)], ", ") + `, or "-" for standard error`
}

// add records what a target was let do.
func (l *learner) add(ev *policy.Event) {
	if ev.Kind == policy.Listen && l.kernelChose(ev.Subject.PID) {
		l.rec.AddListen(ev, time.Now())
		return
	}
	l.rec.Add(ev, time.Now())
}

// bound notes a process that binds a stream socket to whatever port is free.
func (l *learner) bound(c *supervisor.Call) {
	if c.Op != supervisor.Bind || c.Network != "tcp" || c.Addr.Port() != 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.chosen) < 1<<16 {
		l.chosen[c.PID()] = true
	}
}

func (l *learner) kernelChose(pid int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.chosen[pid]
}

// run writes the files from time to time until ctx ends.
func (l *learner) run(ctx context.Context, trouble func(error)) {
	if l.file == "-" {
		return
	}
	news, counts := l.rec.Changes()
	written := time.Now()
	tick := time.NewTicker(learnNews)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n, c := l.rec.Changes()
		if n == news && (c == counts || time.Since(written) < learnCounts) {
			continue
		}
		if err := l.save(); err != nil {
			trouble(err)
		}
		news, counts, written = n, c, time.Now()
	}
}

// finish writes the files a last time and says where.
func (l *learner) finish() {
	if err := l.save(); err != nil {
		fmt.Fprintf(os.Stderr, "defender: %v\n", err)
		return
	}
	if l.file != "-" {
		fmt.Fprintf(os.Stderr, "defender: learned from %d different events: %s\n", len(l.rec.List()), l.file)
	}
}

// save writes both files. A crash leaves the old ones or the new ones.
func (l *learner) save() error {
	res, err := learn.Build([]*learn.Recording{l.rec}, learn.Options{})
	if err != nil {
		return err
	}
	text, err := res.YAML()
	if err != nil {
		return err
	}
	if l.file == "-" {
		_, err := os.Stderr.Write(text)
		return err
	}
	var rec bytes.Buffer
	if err := l.rec.Write(&rec); err != nil {
		return err
	}
	lock, err := replace(learn.RecordingName(l.file), rec.Bytes(), true)
	if err != nil {
		return fmt.Errorf("writing what was learned: %w (%s)", err, writablePlaces())
	}
	l.lock.Close()
	l.lock = lock
	if _, err := replace(l.file, text, false); err != nil {
		return fmt.Errorf("writing what was learned: %w (%s)", err, writablePlaces())
	}
	return nil
}

// replace replaces a file as a whole. It returns the new one locked if locked
// is set.
func replace(name string, data []byte, locked bool) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".learn-*")
	if err != nil {
		return nil, err
	}
	if locked {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		_ = f.Close()
		return nil, err
	}
	if !locked {
		return nil, f.Close()
	}
	return f, nil
}
