package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Podman runs each container with podman, all in this machine's network.
type Podman struct {
	Args []string // before every command, as in --runtime runc
	Run  []string // after "podman run", as in --network

	mu    sync.Mutex
	names map[string]string // of the containers, by that of the definition
}

// Start implements [Engine].
func (p *Podman) Start(ctx context.Context, s *Spec) (Process, error) {
	name := fmt.Sprintf("runner-%s-%d", s.Name, time.Now().UnixNano())
	args := append(p.args("run", "--name", name), p.Run...)
	if len(p.Run) == 0 {
		args = append(args, "--network", "host")
	}
	if len(s.EntryPoint) > 0 {
		entry, err := json.Marshal(s.EntryPoint)
		if err != nil {
			return nil, err
		}
		args = append(args, "--entrypoint", string(entry))
	}
	for _, e := range s.Env {
		args = append(args, "--env", e)
	}
	for _, c := range s.CapAdd {
		args = append(args, "--cap-add", c)
	}
	for _, c := range s.CapDrop {
		args = append(args, "--cap-drop", c)
	}
	for _, m := range s.Mounts {
		args = append(args, "--volume", m.Source+":"+m.Target+mode(m.ReadOnly))
	}
	p.mu.Lock()
	for _, v := range s.VolumesFrom {
		args = append(args, "--volumes-from", p.names[v.Container]+mode(v.ReadOnly))
	}
	if p.names == nil {
		p.names = make(map[string]string)
	}
	p.names[s.Name] = name
	p.mu.Unlock()
	for flag, value := range map[string]string{"--user": s.User, "--workdir": s.Dir} {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	if s.ReadOnly {
		args = append(args, "--read-only", "--read-only-tmpfs=false")
	}
	if s.Init {
		args = append(args, "--init")
	}
	ref := s.Image.Ref
	if ref == "" {
		ref = s.ImageName
	}
	cmd := exec.Command("podman", append(append(args, ref), s.Command...)...)
	cmd.Stdout, cmd.Stderr = s.Stdout, s.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &podmanContainer{p, name, cmd, make(chan struct{})}
	go func() {
		select {
		case <-ctx.Done():
			_ = c.Kill()
		case <-c.done:
		}
	}()
	return c, nil
}

func mode(readOnly bool) string {
	if readOnly {
		return ":ro"
	}
	return ":rw"
}

func (p *Podman) args(args ...string) []string {
	return append(append([]string(nil), p.Args...), args...)
}

func (p *Podman) podman(args ...string) error {
	out, err := exec.Command("podman", p.args(args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("podman %s: %w\n%s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// Close implements [Engine]: it removes the containers and their volumes.
func (p *Podman) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, name := range p.names {
		errs = append(errs, p.podman("rm", "--force", "--volumes", "--depend", "--ignore", name))
	}
	p.names = nil
	return errors.Join(errs...)
}

type podmanContainer struct {
	p    *Podman
	name string
	cmd  *exec.Cmd
	done chan struct{}
}

func (c *podmanContainer) Wait() (int, error) {
	defer close(c.done)
	err := c.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	return c.cmd.ProcessState.ExitCode(), err
}

func (c *podmanContainer) Stop() error { return c.p.podman("kill", "--signal", "TERM", c.name) }
func (c *podmanContainer) Kill() error { return c.p.podman("kill", c.name) }

func (c *podmanContainer) Exec(ctx context.Context, argv []string, out io.Writer) (int, error) {
	cmd := exec.CommandContext(ctx, "podman", append(c.p.args("exec", c.name), argv...)...)
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	return cmd.ProcessState.ExitCode(), err
}
