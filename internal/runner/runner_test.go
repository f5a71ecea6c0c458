package runner

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func parse(t *testing.T, text string) *Definition {
	t.Helper()
	d, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestParse(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"nothing", `{}`, "containerDefinitions: there is none"},
		{"a circle", `{"containerDefinitions": [{"name": "a", "dependsOn": [{"containerName": "b", "condition": "START"}]}, {"name": "b", "dependsOn": [{"containerName": "a", "condition": "START"}]}]}`, "goes round in a circle"},
		{"nobody", `{"containerDefinitions": [{"name": "a", "dependsOn": [{"containerName": "b", "condition": "START"}]}]}`, `there is no container "b"`},
		{"an essential one's success", `{"containerDefinitions": [{"name": "a", "dependsOn": [{"containerName": "b", "condition": "SUCCESS"}]}, {"name": "b"}]}`, "b is essential"},
		{"health", `{"containerDefinitions": [{"name": "a", "dependsOn": [{"containerName": "b", "condition": "HEALTHY"}]}, {"name": "b"}]}`, `"HEALTHY" is not honoured`},
		{"a volume that is elsewhere", `{"volumes": [{"name": "v", "efsVolumeConfiguration": {}}], "containerDefinitions": [{"name": "a", "mountPoints": [{"sourceVolume": "v", "containerPath": "/v"}]}]}`, `"v" is not one of this machine`},
		{"privileged", `{"containerDefinitions": [{"name": "a", "privileged": true}]}`, "privileged is not honoured"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Parse([]byte(tt.in)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// fake is an engine whose containers end with a status of their own, or run
// until they are stopped if that is negative.
type fake struct {
	mu      sync.Mutex
	exit    map[string]int
	started []*Spec
	stopped []string
}

func (f *fake) Start(_ context.Context, s *Spec) (Process, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started = append(f.started, s)
	exit, ok := f.exit[s.Name]
	if !ok {
		return nil, errors.New("no such program")
	}
	return &fakeProcess{f, s.Name, exit, make(chan struct{})}, nil
}

func (*fake) Close() error { return nil }

type fakeProcess struct {
	f    *fake
	name string
	exit int
	stop chan struct{}
}

func (p *fakeProcess) Wait() (int, error) {
	if p.exit < 0 {
		<-p.stop
		return 143, nil
	}
	return p.exit, nil
}

func (p *fakeProcess) Stop() error {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	p.f.stopped = append(p.f.stopped, p.name)
	close(p.stop)
	return nil
}
func (p *fakeProcess) Kill() error                                            { return nil }
func (p *fakeProcess) Exec(context.Context, []string, io.Writer) (int, error) { return 0, nil }

func TestTask(t *testing.T) {
	const three = `{"containerDefinitions": [
		{"name": "web", "image": "w", "dependsOn": [{"containerName": "init", "condition": "SUCCESS"}, {"containerName": "log", "condition": "START"}]},
		{"name": "log", "image": "l", "essential": false},
		{"name": "init", "image": "i", "essential": false}
	]}`
	tests := []struct {
		name    string
		exit    map[string]int
		started []string
		want    map[string]int
		reason  string
		stopped []string
	}{
		{
			"in order, until the essential one ends", map[string]int{"init": 0, "log": -1, "web": 3},
			[]string{"log", "init", "web"}, map[string]int{"init": 0, "log": 143, "web": 3}, "the essential container web ended", []string{"log"},
		},
		{
			"a dependency that fails", map[string]int{"init": 1, "log": -1, "web": 3},
			[]string{"log", "init"}, map[string]int{"init": 1, "log": 143}, "web waits for init to succeed, which ended with 1", []string{"log"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &fake{exit: tt.exit}
			task, err := New(parse(t, three), Config{Engine: f})
			if err != nil {
				t.Fatal(err)
			}
			res, err := task.Run(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			var started []string
			for _, s := range f.started {
				started = append(started, s.Name)
			}
			if !slices.Equal(started, tt.started) || !slices.Equal(f.stopped, tt.stopped) || res.Reason != tt.reason {
				t.Errorf("started %q, stopped %q, because %q", started, f.stopped, res.Reason)
			}
			for name, exit := range tt.want {
				if got, ok := res.Exit[name]; !ok || got != exit {
					t.Errorf("%s ended with %d (%v), want %d", name, got, ok, exit)
				}
			}
		})
	}
	t.Run("a container that cannot start", func(t *testing.T) {
		task, err := New(parse(t, three), Config{Engine: &fake{exit: map[string]int{"log": -1, "init": 0}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := task.Run(context.Background()); err == nil || !strings.Contains(err.Error(), `starting container "web": no such program`) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("stopped from outside", func(t *testing.T) {
		ctx, stop := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer stop()
		task, err := New(parse(t, three), Config{Engine: &fake{exit: map[string]int{"log": -1, "init": 0, "web": -1}}})
		if err != nil {
			t.Fatal(err)
		}
		if res, err := task.Run(ctx); err != nil || res.Exit["web"] != 143 || res.Reason != "the task is stopped" {
			t.Errorf("%+v, error %v", res, err)
		}
	})
}

func TestSpec(t *testing.T) {
	img := Image{Entrypoint: []string{"/entry"}, Cmd: []string{"serve"}, Env: []string{"A=image", "B=image"}}
	tests := []struct {
		name, in string
		want     []string
	}{
		{"the image's", `"entryPoint": [], "command": null`, []string{"/entry", "serve"}},
		{"another command", `"command": ["check"]`, []string{"/entry", "check"}},
		{"another entry point", `"entryPoint": ["/x"]`, []string{"/x"}},
		{"both", `"entryPoint": ["/x"], "command": ["y"]`, []string{"/x", "y"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := parse(t, `{"containerDefinitions": [{"name": "a", "image": "i", "environment": [{"name": "A", "value": "definition"}], "secrets": [{"name": "S", "valueFrom": "arn"}], `+tt.in+`}]}`)
			task, err := New(d, Config{Engine: &fake{}, Images: map[string]Image{"i": img}, Secrets: map[string]string{"arn": "secret"}})
			if err != nil {
				t.Fatal(err)
			}
			s, err := task.spec(&d.Containers[0])
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(s.Argv, tt.want) {
				t.Errorf("starts %q, want %q", s.Argv, tt.want)
			}
			if want := []string{"B=image", "A=definition", "S=secret"}; !slices.Equal(s.Env, want) {
				t.Errorf("environment %q, want %q", s.Env, want)
			}
			task.cfg.Secrets = nil
			if _, err := task.spec(&d.Containers[0]); err == nil {
				t.Error("a secret nobody knows is accepted")
			}
		})
	}
}

// local runs a definition with Local and returns what its containers said.
func local(t *testing.T, l *Local, text string, images map[string]Image) (map[string]string, *Result) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	said := make(map[string]*bytes.Buffer)
	task, err := New(parse(t, text), Config{
		Engine: l, Images: images, Log: t.Logf,
		Output: func(name string) (io.Writer, io.Writer) {
			said[name] = new(bytes.Buffer)
			return said[name], said[name]
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	res, err := task.Run(ctx)
	out := make(map[string]string)
	for name, b := range said {
		out[name] = b.String()
	}
	if err != nil {
		t.Fatalf("%v; said %q", err, out)
	}
	return out, res
}

func TestLocal(t *testing.T) {
	const script = `echo $$ $A; cat /etc/resolv.conf; echo x >/etc/marker && echo written; cat /shared/from; echo no >/shared/from || echo read-only; grep CapBnd /proc/self/status; ls /proc | grep -c '^[0-9]'; exit 7`
	out, res := local(t, &Local{ResolvConf: "nameserver 192.0.2.1\n"}, `{"containerDefinitions": [
		{"name": "init", "image": "i", "essential": false, "command": ["sh", "-c", "echo shared >/shared/from"]},
		{"name": "app", "image": "a", "entryPoint": ["sh", "-c"], "command": ["`+strings.ReplaceAll(script, `"`, `\"`)+`"],
		 "environment": [{"name": "A", "value": "b"}],
		 "linuxParameters": {"capabilities": {"add": ["SYS_PTRACE"], "drop": ["NET_RAW"]}},
		 "volumesFrom": [{"sourceContainer": "init", "readOnly": true}],
		 "dependsOn": [{"containerName": "init", "condition": "SUCCESS"}]}
	]}`, map[string]Image{"i": {Volumes: []string{"/shared"}}})
	lines := strings.Split(strings.TrimSpace(out["app"]), "\n")
	if len(lines) < 7 {
		t.Fatalf("said %q", out)
	}
	if res.Exit["app"] != 7 || res.Exit["init"] != 0 {
		t.Errorf("ended with %v", res.Exit)
	}
	for i, want := range map[int]string{0: "1 b", 1: "nameserver 192.0.2.1", 2: "written", 3: "shared"} {
		if lines[i] != want {
			t.Errorf("line %d is %q, want %q", i, lines[i], want)
		}
	}
	if !strings.Contains(out["app"], "read-only\n") {
		t.Errorf("the volume can be written: %q", out["app"])
	}
	if !strings.Contains(out["app"], "CapBnd:\t00000000a80c05fb\n") {
		t.Errorf("other capabilities: %q", out["app"])
	}
	if n, err := strconv.Atoi(lines[len(lines)-1]); err != nil || n > 5 {
		t.Errorf("/proc shows %d processes", n)
	}
	if _, err := os.Stat("/etc/marker"); err == nil {
		t.Error("a container has written to this machine")
	}
}

func TestLocalRoot(t *testing.T) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs busybox-static")
	}
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	out, res := local(t, &Local{}, `{"containerDefinitions": [
		{"name": "app", "image": "scratch", "user": "1000:1000", "readonlyRootFilesystem": true, "entryPoint": ["/busybox", "sh", "-c", "/busybox id -u; /busybox ls /; /busybox touch /x"]}
	]}`, map[string]Image{"scratch": {Root: root}})
	if want := "1000\nbusybox\ndev\netc\nproc\nsys\ntmp\n"; !strings.HasPrefix(out["app"], want) || res.Exit["app"] == 0 {
		t.Errorf("said %q, ended with %d", out["app"], res.Exit["app"])
	}
	if list, _ := os.ReadDir(root); len(list) != 1 {
		t.Errorf("the image's root has %d entries now", len(list))
	}
}

func TestLocalFailures(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, tt := range []struct{ name, container, want string }{
		{"no such program", `"entryPoint": ["no-such-program"]`, `"no-such-program": executable file not found`},
		{"no such path", `"entryPoint": ["/no/such"]`, "/no/such: no such file"},
		{"nothing", `"entryPoint": []`, "says what to start"},
		{"a user by name", `"entryPoint": ["true"], "user": "nobody"`, `user "nobody"`},
		{"a capability", `"entryPoint": ["true"], "linuxParameters": {"capabilities": {"add": ["FLY"]}}`, `"FLY" is not known`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			task, err := New(parse(t, `{"containerDefinitions": [{"name": "a", "image": "i", `+tt.container+`}]}`), Config{Engine: new(Local)})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := task.Run(context.Background()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}
