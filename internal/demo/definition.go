package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"appdefender/inject"
	"appdefender/internal/runner"
)

// The sample task's container, and the images that the definitions name.
const (
	taskName      = "sample-task"
	taskImage     = "example.com/sample-task"
	defenderImage = "example.com/defender"
	taskDir       = "/srv/task" // where the task runs in its container
)

// embed protects the sample task's definition.
func (d *demo) embed(ctx context.Context) (definition []byte, err error) {
	d.page.heading("The task definition, protected")
	d.page.text("$ bin/console token create --data-dir %s %s >%s", filepath.Join(d.dir, "console"), taskName, d.token())
	d.page.text("$ bin/defenderctl embed task-definition %s \\\n      --defender-image %s --console %s --token-file %s --ca %s",
		d.asTyped(d.task("task.json")), defenderImage, d.console.url, d.token(), d.console.ca)
	args := []string{
		"embed", "task-definition", d.task("task.json"),
		"--defender-image", defenderImage, "--console", d.console.url, "--token-file", d.token(), "--ca", d.console.ca,
	}
	var said bytes.Buffer // advice for those who keep the definition
	cmd := exec.CommandContext(ctx, d.bin("defenderctl"), args...)
	cmd.Stderr = &said
	if definition, err = cmd.Output(); err != nil {
		return nil, fmt.Errorf("embedding: %w\n%s", err, &said)
	}
	// The certificate and our state are long lines that say nothing to people.
	for line := range strings.Lines(string(definition)) {
		line = strings.TrimSuffix(line, "\n")
		if r := []rune(line); len(r) > maxLine {
			line = string(r[:maxLine]) + "…"
		}
		d.page.text("%s", line)
	}
	return definition, nil
}

const maxLine = 100

// image is the runner's [runner.Local] with what the sample task's image and
// the folder it works in would be: this machine's files and those of the
// sample.
type image struct {
	*runner.Local

	files []runner.Mount
}

func (i *image) Start(ctx context.Context, s *runner.Spec) (runner.Process, error) {
	if s.Name == taskName {
		s.Mounts = append(s.Mounts, i.files...)
	}
	return i.Local.Start(ctx, s)
}

// runDefinition runs a task definition as the platform would, and shows what
// its containers say.
func (d *demo) runDefinition(ctx context.Context, definition []byte, images map[string]runner.Image, show io.Writer) (result, error) {
	r := result{dir: filepath.Join(d.dir, "container"), exit: -1}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return r, err
	}
	services := filepath.Join(d.dir, "nsswitch.conf")
	if err := os.WriteFile(services, []byte(nsswitchConf), 0o644); err != nil {
		return r, err
	}
	engine := &image{
		Local: &runner.Local{ResolvConf: resolvConf},
		files: []runner.Mount{
			{Source: r.dir, Target: taskDir},
			{Source: d.task("entry.sh"), Target: "/usr/local/bin/entry.sh"},
			{Source: services, Target: "/etc/nsswitch.conf"},
		},
	}
	def, err := runner.Parse(definition)
	if err != nil {
		return r, err
	}
	out := &output{show: &indent{w: show}}
	task, err := runner.New(def, runner.Config{
		Engine: engine, Images: images,
		Output: func(string) (io.Writer, io.Writer) { return out, out },
		Log:    func(format string, args ...any) { fmt.Fprintf(show, format+"\n", args...) },
	})
	if err != nil {
		return r, err
	}
	res, err := task.Run(ctx)
	if err != nil {
		return r, err
	}
	if exit, ok := res.Exit[taskName]; ok {
		r.exit = exit
	}
	r.output = out.all.String()
	return r, nil
}

// output keeps what containers say and shows it, but for the audits, which go
// to a container's log too, be it in the middle of another program's line.
type output struct {
	all, pending bytes.Buffer
	show         io.Writer
}

func (o *output) Write(b []byte) (int, error) {
	o.all.Write(b)
	o.pending.Write(b)
	for {
		line, err := o.pending.ReadString('\n')
		if err != nil { // no whole line
			o.pending.WriteString(line)
			return len(b), nil
		}
		if before, _, audit := strings.Cut(line, `{"_id":`); audit {
			line = before
		}
		if _, err := io.WriteString(o.show, line); err != nil {
			return 0, err
		}
	}
}

// runImages runs the sample's protected definition with what images it names.
func (d *demo) runImages(ctx context.Context, definition []byte) (result, error) {
	root := filepath.Join(d.dir, "defender-image")
	volume := filepath.Join(root, inject.Dir)
	if err := os.MkdirAll(volume, 0o755); err != nil {
		return result{}, err
	}
	user := "65532:65532" // of the Dockerfile
	if os.Chown(volume, 65532, 65532) != nil {
		user = "" // a user namespace may have no other than root
	}
	program, err := os.ReadFile(d.bin("defender"))
	if err != nil {
		return result{}, err
	}
	if err := os.WriteFile(filepath.Join(root, "defender"), program, 0o755); err != nil {
		return result{}, err
	}
	return d.runDefinition(ctx, definition, map[string]runner.Image{
		taskImage:     {WorkingDir: taskDir},
		defenderImage: {Root: root, Volumes: []string{inject.Dir}, User: user},
	}, d.page.w)
}

// trial is a definition that is to a machine what a protected one is, but for
// what its containers start.
const trial = `{"containerDefinitions": [
	{"name": "sidecar", "image": "trial", "essential": false, "entryPoint": ["touch", "/trial/x"], "readonlyRootFilesystem": true},
	{"name": "sample-task", "image": "` + taskImage + `", "entryPoint": ["sh", "-c"], "command": ["test -e /trial/x && wget --version"],
	 "linuxParameters": {"capabilities": {"add": ["SYS_PTRACE"]}},
	 "volumesFrom": [{"sourceContainer": "sidecar", "readOnly": true}],
	 "dependsOn": [{"containerName": "sidecar", "condition": "SUCCESS"}]}
]}`

// noContainers says why this machine does not let us make containers; nil: it
// does.
func (d *demo) noContainers(ctx context.Context) error {
	if d.world == nil {
		return errNoWorld
	}
	var said bytes.Buffer
	r, err := d.runDefinition(ctx, []byte(trial), map[string]runner.Image{"trial": {Volumes: []string{"/trial"}}, taskImage: {WorkingDir: taskDir}}, &said)
	if err == nil && r.exit != 0 {
		err = fmt.Errorf("a trial ended with %d:\n%s", r.exit, &said)
	}
	return err
}
