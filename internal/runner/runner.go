// Package runner runs an ECS task definition on this machine as the platform
// would: for the demo and for tests of what embedding makes.
//
// It honours, of each container, entryPoint and command over those of its
// image, environment, secrets (from a table), volumesFrom and mountPoints,
// dependsOn, essential, user, workingDirectory, readonlyRootFilesystem,
// linuxParameters.capabilities and stopTimeout. Limits of memory and
// processors, ports, logs and roles mean nothing here, and what a definition
// asks for that would change how it runs and is not in the list is an error.
//
// The containers are those of an [Engine]: [Local], which needs no images, or
// [Podman].
package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Definition is a task definition, as far as it is honoured.
type Definition struct {
	Family     string      `json:"family"`
	Containers []Container `json:"containerDefinitions"`
	Volumes    []struct {
		Name string `json:"name"`
		Host *struct {
			SourcePath string `json:"sourcePath"`
		} `json:"host"`
		EFS json.RawMessage `json:"efsVolumeConfiguration"`
	} `json:"volumes"`
	PIDMode string `json:"pidMode"`
}

// Container is one of its containers.
type Container struct {
	Name        string   `json:"name"`
	Image       string   `json:"image"`
	EntryPoint  []string `json:"entryPoint"` // empty: the image's
	Command     []string `json:"command"`    // empty: the image's, if EntryPoint is too
	Environment []struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	} `json:"environment"`
	Secrets []struct {
		Name      string `json:"name"`
		ValueFrom string `json:"valueFrom"`
	} `json:"secrets"`
	VolumesFrom []struct {
		SourceContainer string `json:"sourceContainer"`
		ReadOnly        bool   `json:"readOnly"`
	} `json:"volumesFrom"`
	MountPoints []struct {
		SourceVolume  string `json:"sourceVolume"`
		ContainerPath string `json:"containerPath"`
		ReadOnly      bool   `json:"readOnly"`
	} `json:"mountPoints"`
	DependsOn []struct {
		ContainerName string `json:"containerName"`
		Condition     string `json:"condition"`
	} `json:"dependsOn"`
	Essential              *bool  `json:"essential"` // nil is true
	User                   string `json:"user"`
	WorkingDirectory       string `json:"workingDirectory"`
	ReadonlyRootFilesystem bool   `json:"readonlyRootFilesystem"`
	Privileged             bool   `json:"privileged"`
	LinuxParameters        struct {
		Capabilities struct {
			Add  []string `json:"add"`
			Drop []string `json:"drop"`
		} `json:"capabilities"`
		InitProcessEnabled bool `json:"initProcessEnabled"`
	} `json:"linuxParameters"`
	StopTimeout int `json:"stopTimeout"` // seconds; 0 is 30
}

// Image is what a container starts from.
type Image struct {
	Root       string   // [Local]: its root folder; "" is this machine's
	Ref        string   // [Podman]: its name there; "" is that of the definition
	Entrypoint []string // for [Local]; Podman knows
	Cmd        []string
	Env        []string
	Volumes    []string // folders that are volumes of their own
	WorkingDir string
	User       string
}

// Config is what the definition leaves to the platform.
type Config struct {
	Engine  Engine
	Images  map[string]Image  // by name; one that is missing is the zero Image
	Secrets map[string]string // by valueFrom
	// Output returns where a container's standard output and error go; nil is
	// ours.
	Output func(container string) (stdout, stderr io.Writer)
	// Log says what happens, a line each; nil says nothing.
	Log func(format string, args ...any)
}

// Engine makes containers.
type Engine interface {
	// Start starts a container. When its first process has ended, exited gets
	// the exit status. The context's end is a Kill.
	Start(ctx context.Context, s *Spec) (Process, error)
	// Close removes what the containers leave, when all have ended.
	Close() error
}

// Process is a container that has been started.
type Process interface {
	Wait() (exit int, err error) // may be called once
	Stop() error                 // SIGTERM
	Kill() error
	// Exec runs a command in the container beside its first process, as a
	// health check is run.
	Exec(ctx context.Context, argv []string, out io.Writer) (exit int, err error)
}

// Spec is a container as an [Engine] needs it.
type Spec struct {
	Name      string
	ImageName string
	Image     Image
	// EntryPoint and Command of the definition. Argv is what they and the
	// Image come to.
	EntryPoint, Command, Argv []string
	Env                       []string
	User, Dir                 string
	ReadOnly, Init            bool
	CapAdd, CapDrop           []string
	Mounts                    []Mount
	VolumesFrom               []VolumesFrom
	Stdout, Stderr            io.Writer
}

// Mount is a folder of this machine in a container.
type Mount struct {
	Source, Target string
	ReadOnly       bool
}

// VolumesFrom says that a container has the volumes of another.
type VolumesFrom struct {
	Container string
	ReadOnly  bool
}

// Result is how a task ended.
type Result struct {
	Exit   map[string]int // of each container that was started and has ended
	Reason string         // for people
}

// Parse reads a task definition.
func Parse(data []byte) (*Definition, error) {
	var d Definition
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("reading task definition: %w", err)
	}
	return &d, d.validate()
}

func (d *Definition) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if d.PIDMode != "" {
		bad("pidMode: %q is not honoured here", d.PIDMode)
	}
	names := make(map[string]*Container)
	for i := range d.Containers {
		c := &d.Containers[i]
		if c.Name == "" || names[c.Name] != nil {
			bad("containerDefinitions[%d].name: %q is missing or there twice", i, c.Name)
		}
		names[c.Name] = c
		if c.Privileged {
			bad("%s: privileged is not honoured here", c.Name)
		}
	}
	for i := range d.Containers {
		c := &d.Containers[i]
		for _, dep := range c.DependsOn {
			on := names[dep.ContainerName]
			switch {
			case on == nil:
				bad("%s.dependsOn: there is no container %q", c.Name, dep.ContainerName)
			case !slices.Contains([]string{"START", "COMPLETE", "SUCCESS"}, dep.Condition):
				bad("%s.dependsOn: the condition %q is not honoured here", c.Name, dep.Condition)
			case dep.Condition != "START" && on.essential():
				bad("%s.dependsOn: %s is essential and must not end, so %q cannot be", c.Name, on.Name, dep.Condition)
			}
		}
		for _, v := range c.VolumesFrom {
			if names[v.SourceContainer] == nil {
				bad("%s.volumesFrom: there is no container %q", c.Name, v.SourceContainer)
			}
		}
		for _, m := range c.MountPoints {
			if _, err := d.volume(m.SourceVolume, nil); err != nil {
				bad("%s.mountPoints: %w", c.Name, err)
			}
		}
	}
	if len(d.Containers) == 0 {
		bad("containerDefinitions: there is none")
	}
	if len(errs) == 0 && d.order() == nil {
		bad("dependsOn: goes round in a circle")
	}
	return errors.Join(errs...)
}

func (c *Container) essential() bool { return c.Essential == nil || *c.Essential }

// volume returns the folder of a volume of the task; made are those made so
// far, nil to look only.
func (d *Definition) volume(name string, made map[string]string) (string, error) {
	for _, v := range d.Volumes {
		switch {
		case v.Name != name:
		case v.EFS != nil:
			return "", fmt.Errorf("the volume %q is not one of this machine", name)
		case v.Host != nil && v.Host.SourcePath != "":
			return v.Host.SourcePath, nil
		case made == nil || made[name] != "":
			return made[name], nil
		default:
			dir, err := os.MkdirTemp("", "runner-volume-")
			made[name] = dir
			return dir, err
		}
	}
	return "", fmt.Errorf("there is no volume %q", name)
}

// order returns the containers such that each comes after what it needs, or
// nil if there is no such order.
func (d *Definition) order() []*Container {
	var list []*Container
	done := make(map[string]bool)
	for len(list) < len(d.Containers) {
		before := len(list)
		for i := range d.Containers {
			c := &d.Containers[i]
			ready := !done[c.Name]
			for _, dep := range c.DependsOn {
				ready = ready && done[dep.ContainerName]
			}
			for _, v := range c.VolumesFrom {
				ready = ready && done[v.SourceContainer]
			}
			if ready {
				done[c.Name] = true
				list = append(list, c)
			}
		}
		if len(list) == before {
			return nil
		}
	}
	return list
}

// Task is a running task.
type Task struct {
	def    *Definition
	cfg    Config
	made   map[string]string // volumes
	events chan event

	mu      sync.Mutex
	running map[string]Process
	result  Result
}

type event struct {
	c    *Container
	exit int
	err  error
}

// New returns a task that has not been started.
func New(d *Definition, cfg Config) (*Task, error) {
	if err := d.validate(); err != nil {
		return nil, err
	}
	if cfg.Engine == nil {
		return nil, errors.New("there is no engine to run containers with")
	}
	return &Task{
		def: d, cfg: cfg, made: make(map[string]string),
		events:  make(chan event, len(d.Containers)),
		running: make(map[string]Process), result: Result{Exit: make(map[string]int)},
	}, nil
}

// Container returns a container that runs, or nil.
func (t *Task) Container(name string) Process {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.running[name]
}

// Run starts the containers, in the order of their dependencies, and waits
// until an essential one ends or ctx does; then it stops the others. A
// dependency that fails ends the task, as on the platform.
func (t *Task) Run(ctx context.Context) (*Result, error) {
	hard, kill := context.WithCancel(context.Background())
	defer kill()
	err := t.startAll(ctx, hard)
	if err == nil && t.result.Reason == "" {
		t.waitEssential(ctx)
	}
	err = errors.Join(err, t.stopAll())
	err = errors.Join(err, t.cfg.Engine.Close())
	for _, dir := range t.made {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return &t.result, err
}

func (t *Task) startAll(ctx, hard context.Context) error {
	for _, c := range t.def.order() {
		for _, dep := range c.DependsOn {
			if dep.Condition == "START" {
				continue
			}
			if !t.await(ctx, dep.ContainerName) {
				return nil
			}
			if exit := t.result.Exit[dep.ContainerName]; dep.Condition == "SUCCESS" && exit != 0 {
				t.because("%s waits for %s to succeed, which ended with %d", c.Name, dep.ContainerName, exit)
				return nil
			}
		}
		spec, err := t.spec(c)
		if err != nil {
			return fmt.Errorf("starting container %q: %w", c.Name, err)
		}
		p, err := t.cfg.Engine.Start(hard, spec)
		if err != nil {
			return fmt.Errorf("starting container %q: %w", c.Name, err)
		}
		t.log("%s: started %q", c.Name, spec.Argv)
		t.mu.Lock()
		t.running[c.Name] = p
		t.mu.Unlock()
		go func() {
			exit, err := p.Wait()
			t.events <- event{c, exit, err}
		}()
	}
	return nil
}

// await waits for the end of a container; false means that the task ends.
func (t *Task) await(ctx context.Context, name string) bool {
	for {
		if _, ended := t.result.Exit[name]; ended {
			return true
		}
		if !t.next(ctx) {
			return false
		}
	}
}

// next takes one event; false means that the task ends.
func (t *Task) next(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		t.because("the task is stopped")
		return false
	case e := <-t.events:
		t.ended(e)
		if e.c.essential() {
			t.because("the essential container %s ended", e.c.Name)
			return false
		}
		return true
	}
}

func (t *Task) ended(e event) {
	t.log("%s: ended with %d", e.c.Name, e.exit)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.running, e.c.Name)
	t.result.Exit[e.c.Name] = e.exit
	if e.err != nil {
		t.result.Reason = fmt.Sprintf("%s: %v", e.c.Name, e.err)
	}
}

func (t *Task) because(format string, args ...any) {
	if t.result.Reason == "" {
		t.result.Reason = fmt.Sprintf(format, args...)
		t.log("%s", t.result.Reason)
	}
}

func (t *Task) waitEssential(ctx context.Context) {
	for t.next(ctx) {
		if len(t.running) == 0 {
			t.because("every container ended")
			return
		}
	}
}

// stopAll stops what runs, dependents first.
func (t *Task) stopAll() error {
	var errs []error
	order := t.def.order()
	for _, c := range slices.Backward(order) {
		p := t.Container(c.Name)
		if p == nil {
			continue
		}
		_ = p.Stop() // it may be gone
		wait := time.Duration(c.StopTimeout) * time.Second
		if wait == 0 {
			wait = 30 * time.Second
		}
		grace := time.AfterFunc(wait, func() { _ = p.Kill() })
		for t.Container(c.Name) != nil {
			t.ended(<-t.events)
		}
		grace.Stop()
	}
	return errors.Join(errs...)
}

func (t *Task) log(format string, args ...any) {
	if t.cfg.Log != nil {
		t.cfg.Log(format, args...)
	}
}

// spec applies the image and the platform's rules.
func (t *Task) spec(c *Container) (*Spec, error) {
	img := t.cfg.Images[c.Image]
	s := &Spec{
		Name: c.Name, ImageName: c.Image, Image: img, EntryPoint: c.EntryPoint, Command: c.Command,
		Env: slices.Clone(img.Env), User: c.User, Dir: c.WorkingDirectory, ReadOnly: c.ReadonlyRootFilesystem,
		Init:   c.LinuxParameters.InitProcessEnabled,
		CapAdd: c.LinuxParameters.Capabilities.Add, CapDrop: c.LinuxParameters.Capabilities.Drop,
		Stdout: os.Stdout, Stderr: os.Stderr,
	}
	// An entryPoint of the definition replaces the image's, and its CMD too.
	entry, cmd := c.EntryPoint, c.Command
	if len(entry) == 0 {
		if len(cmd) == 0 {
			cmd = img.Cmd
		}
		entry = img.Entrypoint
	}
	s.Argv = slices.Concat(entry, cmd)
	for _, e := range c.Environment {
		s.Env = append(s.Env, e.Name+"="+e.Value)
	}
	for _, e := range c.Secrets {
		value, ok := t.cfg.Secrets[e.ValueFrom]
		if !ok {
			return nil, fmt.Errorf("the secret %q of %s is not known", e.ValueFrom, e.Name)
		}
		s.Env = append(s.Env, e.Name+"="+value)
	}
	for _, m := range c.MountPoints {
		dir, err := t.def.volume(m.SourceVolume, t.made)
		if err != nil {
			return nil, err
		}
		s.Mounts = append(s.Mounts, Mount{dir, m.ContainerPath, m.ReadOnly})
	}
	for _, v := range c.VolumesFrom {
		s.VolumesFrom = append(s.VolumesFrom, VolumesFrom{v.SourceContainer, v.ReadOnly})
	}
	s.Env = lastOfEach(s.Env)
	if t.cfg.Output != nil {
		s.Stdout, s.Stderr = t.cfg.Output(c.Name)
	}
	return s, nil
}

// lastOfEach leaves one entry of each name: C libraries take the first.
func lastOfEach(env []string) []string {
	var list []string
	seen := make(map[string]bool)
	for _, e := range slices.Backward(env) {
		name, _, _ := strings.Cut(e, "=")
		if !seen[name] {
			list = append(list, e)
		}
		seen[name] = true
	}
	slices.Reverse(list)
	return list
}
