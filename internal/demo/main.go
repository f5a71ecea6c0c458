// Command demo shows the Defender's main job on one machine, with nothing but
// the program and a policy file: the sample task without it, the same task
// protected, the audits, and a check of each thing that was to be seen.
//
// The task gets a world of its own (world.go): its names and web pages come
// from servers of the demo on a loopback device that nobody else sees, and the
// machine's own files are never touched.
//
// With DEMO_EXIT=1 in the environment it ends by itself, with a status other
// than 0 if anything was missing. Otherwise it stays and runs what is typed.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// taskExit is the exit status of the sample task itself (entry.sh).
const taskExit = 42

func main() {
	exit, err := start()
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		exit = 1
	}
	os.Exit(exit)
}

// start runs the demo in a world of its own, or without one where the machine
// gives us none.
func start() (exit int, err error) {
	if len(os.Args) > 1 && os.Args[1] == insideWord {
		return inside()
	}
	exit, err = enterWorld()
	if errors.Is(err, errNoWorld) {
		return run(nil, err)
	}
	return exit, err
}

// demo is one showing.
type demo struct {
	world *world // nil: the machine's own
	root  string // of the repository
	dir   string // temporary, for all we write
	log   auditLog
	page  page
}

// run shows everything. reason says why w is nil.
func run(w *world, reason error) (exit int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	d := &demo{world: w}
	if d.root, err = os.Getwd(); err != nil {
		return 0, err
	}
	for _, need := range []string{d.defender(), d.task("entry.sh"), d.task("policy.yaml")} {
		if _, err := os.Stat(need); err != nil {
			return 0, fmt.Errorf(`%w; run "make demo" at the top of the repository`, err)
		}
	}
	if _, err := exec.LookPath("wget"); err != nil {
		return 0, fmt.Errorf("%w; the sample task needs it", err)
	}
	if d.dir, err = os.MkdirTemp("", "defender-demo-"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(d.dir)
	d.log.path = filepath.Join(d.dir, "audit.log")
	d.page = newPage(os.Stdout)

	var seen checks
	if w != nil {
		d.plain(ctx, &seen)
	} else {
		d.page.text("This machine gives the demo no namespaces of its own (%v).\n"+
			"The task runs in the machine's network, and only protected: both names are\n"+
			"refused without asking anybody, so nothing leaves the machine.", reason)
	}
	d.protected(ctx, &seen)
	if ctx.Err() != nil {
		return 130, nil
	}
	failed := d.page.checks(seen)
	if os.Getenv("DEMO_EXIT") == "1" {
		return failed, nil
	}
	d.stay(ctx)
	return failed, nil
}

func (d *demo) defender() string { return filepath.Join(d.root, "bin", "defender") }
func (d *demo) task(file string) string {
	return filepath.Join(d.root, "testdata", "sample-task", file)
}
func (d *demo) asTyped(p string) string { return strings.TrimPrefix(p, d.root+"/") }
func (d *demo) protection() []string {
	flags := []string{"run", "--policy", d.task("policy.yaml"), "--container", "sample-task", "--audit-log", d.log.path}
	if d.world == nil {
		flags = append(flags, "--resolv-conf", "leave")
	}
	return append(flags, "--")
}

// plain shows the task without the Defender.
func (d *demo) plain(ctx context.Context, seen *checks) {
	d.page.heading("The sample task, without the Defender")
	d.page.text("$ entry.sh")
	r := d.runTask(ctx, "plain", "entry.sh")
	d.page.text("exit status %d", r.exit)

	seen.group("Without the Defender")
	seen.add(r.made("test"), "mkdir made the directory")
	seen.add(d.world.asked("google.com") > 0 && d.world.asked("yahoo.com") > 0, "both names were looked up")
	seen.add(r.made("index.html"), "wget fetched a page")
	seen.add(r.exit == taskExit, "the task's exit status is its own, %d", taskExit)
}

// protected shows the task with the Defender in front.
func (d *demo) protected(ctx context.Context, seen *checks) {
	if ctx.Err() != nil {
		return
	}
	d.page.heading("The policy")
	policy, err := os.ReadFile(d.task("policy.yaml"))
	if err != nil {
		d.page.text("%v", err)
	}
	d.page.text("%s", policy)

	d.page.heading("The same task, protected")
	d.page.text("$ bin/defender run --policy %s --container sample-task -- entry.sh", d.asTyped(d.task("policy.yaml")))
	var google, yahoo int
	if d.world != nil {
		google, yahoo = d.world.asked("google.com"), d.world.asked("yahoo.com")
	}
	r := d.runTask(ctx, "protected", d.defender(), append(d.protection(), "entry.sh")...)
	d.page.text("exit status %d", r.exit)

	audits, err := d.log.next()
	if err != nil {
		d.page.text("%v", err)
	}
	mkdir, lookup, rest := pick(audits)
	d.page.heading("The audits")
	for _, a := range []*record{mkdir, lookup} {
		if a != nil {
			d.page.audit(a)
		}
	}
	for _, a := range rest {
		d.page.text("%s", a.Msg)
	}

	seen.group("Protected")
	seen.add(strings.Contains(r.output, "mkdir: Permission denied"), `mkdir failed with "Permission denied"`)
	seen.add(!r.made("test"), "and made nothing")
	seen.add(!r.made("index.html"), "wget fetched nothing")
	if d.world != nil {
		seen.add(d.world.asked("google.com") == google && d.world.asked("yahoo.com") == yahoo,
			"neither name was asked of the name server")
	}
	seen.add(strings.Contains(r.output, "done\n") && r.exit == taskExit,
		"the task went on to its own exit status, %d", taskExit)
	seen.add(mkdir != nil, "audited: …%s", mkdirMessage)
	seen.add(lookup != nil, "audited: %s", lookupMessage)
}

// stay runs what is typed until it is interrupted.
func (d *demo) stay(ctx context.Context) {
	d.page.heading("Try it")
	d.page.text("Type a command to run it protected, such as\n"+
		"    mkdir x        refused\n"+
		"    touch x; ls    allowed\n"+
		"    wget gmail.com allowed, unlike any other name\n"+
		"or nothing to run the task again. Ctrl-C ends the demo. The policy is read\n"+
		"anew each time: %s", d.asTyped(d.task("policy.yaml")))
	lines := make(chan string)
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			lines <- in.Text()
		}
	}()
	for {
		d.page.prompt()
		select {
		case <-ctx.Done():
			d.page.text("")
			return
		case line := <-lines:
			argv := []string{"entry.sh"}
			if strings.TrimSpace(line) != "" {
				argv = []string{"sh", "-c", line}
			}
			stop := d.page.follow(&d.log)
			r := d.runTask(ctx, "protected", d.defender(), append(d.protection(), argv...)...)
			stop()
			if r.exit != 0 {
				d.page.text("exit status %d", r.exit)
			}
		}
	}
}
