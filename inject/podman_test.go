//go:build platforms

package inject_test

import (
	"context"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"appdefender/inject"
	"appdefender/internal/containers"
	"appdefender/internal/runner"
)

// The seed in real containers: the image of the sidecar has nothing but the
// program, a volume and a user who is not root.
func TestRunPodman(t *testing.T) {
	containers.Need(t)
	root := seedRoot(t, "/bin/mkdir test && echo made it\nexit 42\n")
	sh := func(script string, args ...string) {
		t.Helper()
		if out, err := exec.Command("sh", append([]string{"-ec", script, "sh"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
	}
	sidecar := sidecarRoot(t, build(t, "../cmd/defender", true))
	sh(`tar -C "$1" -c . | podman import -q - runner-test-app`, root)
	sh(`tar -C "$1" -c . | podman import -q -c 'VOLUME /var/lib/appdefender' -c 'USER 65532' - runner-test-defender`, sidecar)
	defer sh(`podman rmi -f runner-test-app runner-test-defender`)

	protected, _, err := inject.Embed(inject.TaskDefinition, seed(t), inject.Options{
		DefenderImage: defenderImage,
		Policy:        []byte("version: 1\nrules: [{name: seed, processes: {effect: prevent, deny: [mkdir]}}]\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		definition []byte
		refused    bool
	}{"unprotected": {seed(t), false}, "protected": {protected, true}} {
		t.Run(name, func(t *testing.T) {
			d, err := runner.Parse(tt.definition)
			if err != nil {
				t.Fatal(err)
			}
			said := new(lines)
			task, err := runner.New(d, runner.Config{
				Engine: new(runner.Podman), Log: t.Logf,
				Images: map[string]runner.Image{seedImage: {Ref: "runner-test-app"}, defenderImage: {Ref: "runner-test-defender"}},
				Output: func(string) (io.Writer, io.Writer) { return said, said },
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			res, err := task.Run(ctx)
			if err != nil || res.Exit[seedContainer] != 42 {
				t.Errorf("%+v, %v", res, err)
			}
			if s := said.String(); strings.Contains(s, "made it") == tt.refused || strings.Contains(s, `"ruleName":"seed"`) != tt.refused {
				t.Errorf("said:\n%s", s)
			}
		})
	}
}
