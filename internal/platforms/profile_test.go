//go:build platforms

package platforms

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"appdefender/internal/containers"
)

// dockerProfile writes the seccomp profile of the most common engine: as the
// machine's own, but that pidfd_getfd needs CAP_SYS_PTRACE.
func dockerProfile(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/usr/share/containers/seccomp.json")
	if err != nil {
		t.Skipf("needs the machine's container profile: %v", err)
	}
	var profile map[string]any
	if err := json.Unmarshal(data, &profile); err != nil {
		t.Fatal(err)
	}
	groups := profile["syscalls"].([]any)
	for _, g := range groups {
		group := g.(map[string]any)
		var names []any
		for _, n := range group["names"].([]any) {
			if n != "pidfd_getfd" {
				names = append(names, n)
			}
		}
		group["names"] = names
	}
	profile["syscalls"] = append(groups, map[string]any{
		"names": []string{"pidfd_getfd"}, "action": "SCMP_ACT_ALLOW", "args": []any{},
		"includes": map[string]any{"caps": []string{"CAP_SYS_PTRACE"}}, "excludes": map[string]any{},
	})
	data, err = json.Marshal(profile)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "profile.json")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestProfiles runs one script under the profiles that platforms give. What a
// profile takes from us must be said; what is left must hold.
func TestProfiles(t *testing.T) {
	containers.Need(t)
	servers(t)
	docker := dockerProfile(t)
	img := image(t, "appdefender-test/profiles", alpineLike(t))
	const script = `mkdir test || echo mkdir-refused
wget -q -O - http://yahoo.com/ || echo yahoo-refused
wget -q -O - http://gmail.com/ || echo gmail-refused
nslookup yahoo.com ` + upstreamAddr + ` > /dev/null || echo elsewhere-refused
exit 9`
	noGetFD, noResolv := "connections are checked", "resolv.conf stays as it is"
	for _, tc := range []struct {
		name    string
		options string
		lost    []string // what must be said
		gmail   bool     // whether the allowed name still works
	}{
		{"default", "", nil, true},
		{"SYS_PTRACE", "--cap-add SYS_PTRACE", nil, true},
		{"no capabilities", "--cap-drop ALL", []string{noResolv}, true},
		{"uid 1000", "--user 1000", []string{noResolv}, true},
		{"read-only", "--read-only", []string{noResolv}, true},
		{"uid 1000, read-only, nothing more", "--user 1000 --read-only --cap-drop ALL --security-opt no-new-privileges", []string{noResolv}, true},
		{"an init above", "--init", nil, true},
		{"a quarter of a processor", "--cpus 0.25", nil, true},
		{"one processor", "--cpuset-cpus 0", nil, true},
		{"no getfd", "--security-opt seccomp=" + docker, []string{noGetFD}, true},
		{"no getfd but SYS_PTRACE", "--security-opt seccomp=" + docker + " --cap-add SYS_PTRACE", nil, true},
		// Neither redirected nor rewritten: nothing can be judged, so a policy
		// that prevents lets no lookup pass.
		{"no getfd, uid 1000", "--user 1000 --security-opt seccomp=" + docker, []string{noGetFD, noResolv}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := os.Stat("/usr/libexec/podman/catatonit"); tc.options == "--init" && err != nil {
				t.Skip("needs catatonit: make test-platforms installs it")
			}
			if strings.Contains(tc.options, "--cpu") && !cgroups() {
				t.Skip("this machine's control groups do not limit processors for containers")
			}
			r := container{
				image: img, options: append([]string{"--dns", upstreamAddr, "-w", "/tmp"}, strings.Fields(tc.options)...),
				files:   map[string]string{"/policy.yaml": fmt.Sprintf(samplePolicy, "prevent")},
				command: []string{"/defender", "run", "--policy", "/policy.yaml", "--container", "sample-task", "--", "sh", "-c", script},
			}.start(t)
			if r.exit != 9 {
				t.Errorf("exit status %d, want 9\n%s", r.exit, r.stderr)
			}
			for _, want := range []string{"mkdir-refused", "yahoo-refused", "elsewhere-refused"} {
				if !strings.Contains(r.stdout, want) {
					t.Errorf("no %q in %q", want, r.stdout)
				}
			}
			if got := strings.Contains(r.stdout, "hello from gmail.com"); got != tc.gmail {
				t.Errorf("gmail.com works: %v, want %v: %q %s", got, tc.gmail, r.stdout, r.stderr)
			}
			for _, lost := range tc.lost {
				if !r.mentions(lost) {
					t.Errorf("does not say that %q: %+v", lost, r.records)
				}
			}
			if len(tc.lost) == 0 && (r.mentions(noGetFD) || r.mentions(noResolv)) {
				t.Errorf("says that something is lost: %+v", r.records)
			}
		})
	}
}

// cgroups reports whether podman can limit processors here.
func cgroups() bool {
	out, err := exec.Command("podman", "run", "--rm", "--cpus", "0.5", "--cpuset-cpus", "0", "appdefender-test/profiles", "sh", "-c", "exit 0").CombinedOutput()
	return err == nil && len(out) == 0
}

// TestScratch runs a static program in an image that holds nothing else: no
// shell, no /etc/passwd, no resolver library.
func TestScratch(t *testing.T) {
	containers.Need(t)
	servers(t)
	dir := t.TempDir()
	addDefenderTo := filepath.Join(dir, "etc")
	if err := os.MkdirAll(addDefenderTo, 0o755); err != nil {
		t.Fatal(err)
	}
	addDefender(t, dir)
	for _, extra := range []string{"etc/passwd", "usr"} {
		if err := os.RemoveAll(filepath.Join(dir, extra)); err != nil {
			t.Fatal(err)
		}
	}
	img := image(t, "appdefender-test/scratch", dir)
	for _, user := range []string{"0", "1000"} {
		for name, exit := range map[string]int{"gmail.com": 0, "yahoo.com": 1} {
			r := container{
				image: img, options: []string{"--dns", upstreamAddr, "--user", user},
				files:   map[string]string{"/policy.yaml": fmt.Sprintf(samplePolicy, "prevent")},
				command: []string{"/defender", "run", "--policy", "/policy.yaml", "--container", "sample-task", "--", "/goresolve", name},
			}.start(t)
			if r.exit != exit {
				t.Errorf("%s as %s: exit status %d, want %d: %s", name, user, r.exit, exit, r.stderr)
			}
		}
	}
}

// TestChangedUser: a root supervisor and a target that becomes another user,
// as entrypoints do with gosu. Between the change and the next exec the kernel
// closes it to everybody without CAP_SYS_PTRACE.
func TestChangedUser(t *testing.T) {
	containers.Need(t)
	servers(t)
	img := image(t, "appdefender-test/changed", debian(t))
	unread := "cannot be read until its next exec"
	const script = "id -u; mkdir test || echo mkdir-refused; wget -q -O - http://yahoo.com || echo yahoo-refused; wget -q -O - http://gmail.com"
	changes := map[string][]string{
		"setpriv": {"setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "sh", "-c", script},
		"gosu":    {"gosu", "1000", "sh", "-c", script},
		"su":      {"su", "-s", "/bin/sh", "user", "-c", script},
	}
	for _, tc := range []struct {
		name, options, extra string
		runs, said           bool
	}{
		{"SYS_PTRACE", "--cap-add SYS_PTRACE", "", true, false},
		{"without", "", "", false, true},
		{"without, unknown calls allowed", "", "    onUnknown: alert\n", true, true},
	} {
		for by, change := range changes {
			t.Run(tc.name+"/"+by, func(t *testing.T) {
				r := container{
					image: img, options: append([]string{"--dns", upstreamAddr, "-w", "/tmp"}, strings.Fields(tc.options)...),
					files: map[string]string{
						"/policy.yaml": fmt.Sprintf(samplePolicy, "prevent") + tc.extra,
						"/etc/shadow":  "user:*:19000:0:99999:7:::\n", // su asks whether the account holds
					},
					command: slices.Concat([]string{"/defender", "run", "--policy", "/policy.yaml", "--container", "sample-task", "--"}, change),
				}.start(t)
				if (r.exit == 0) != tc.runs {
					t.Errorf("exit status %d, runs: %v\n%s", r.exit, tc.runs, r.stderr)
				}
				if r.mentions(unread) != tc.said {
					t.Errorf("said what is lost: %v, want %v: %+v", r.mentions(unread), tc.said, r.records)
				}
				if !tc.runs {
					if r.detections() == 0 {
						t.Errorf("refused in silence: %s", r.stderr)
					}
					return
				}
				for _, want := range []string{"1000\n", "mkdir-refused", "yahoo-refused", "hello from gmail.com"} {
					if !strings.Contains(r.stdout, want) {
						t.Errorf("no %q in %q\n%s", want, r.stdout, r.stderr)
					}
				}
				for _, msg := range []string{
					"/usr/bin/mkdir launched and is explicitly denied by runtime rule. Full command: mkdir test",
					"DNS resolution of domain name yahoo.com triggered by /usr/bin/wget explicitly denied by a runtime rule",
				} {
					if !r.told(msg) {
						t.Errorf("not told: %s\n%+v", msg, r.records)
					}
				}
			})
		}
	}
}

// TestKilledFirstProcess kills the defender that is a container's first
// process: the container must end, whatever --on-failure says.
func TestKilledFirstProcess(t *testing.T) {
	containers.Need(t)
	img := image(t, "appdefender-test/killed", alpineLike(t))
	for _, mode := range []string{"closed", "open"} {
		name := "appdefender-killed-" + mode
		run(t, "", "podman", "run", "-d", "--name", name, "--network", "host", img,
			"/defender", "run", "--on-failure", mode, "--", "sh", "-c", "while :; do env true; done")
		t.Cleanup(func() { _ = exec.Command("podman", "rm", "-f", name).Run() })
		pid := strings.TrimSpace(run(t, "", "podman", "inspect", "-f", "{{.State.Pid}}", name))
		inside := strings.Fields(run(t, "", "podman", "top", name, "hpid"))[1:]
		run(t, "", "kill", "-9", pid)
		if got := strings.TrimSpace(run(t, "", "podman", "wait", name)); got != "137" {
			t.Errorf("%s: exit status %s, want 137", mode, got)
		}
		for _, p := range inside {
			for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				if _, err := os.Stat("/proc/" + p); os.IsNotExist(err) {
					break
				}
				if time.Now().After(deadline) {
					t.Errorf("%s: process %s lives on", mode, p)
					break
				}
			}
		}
	}
}
