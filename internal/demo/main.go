// Command demo shows the whole procedure on one machine: the sample task
// without the Defender, a Console and its rule, the task's definition with the
// Defender in it, run as a platform runs it, the audits as the Console has
// them, and a check of each thing that was to be seen.
//
// The task gets a world of its own (world.go): its names and web pages come
// from servers of the demo on a loopback device that nobody else sees, and the
// machine's own files are never touched. Only the Console can be reached from
// the machine, by an address of its loopback device.
//
// With DEMO_EXIT=1 in the environment it ends by itself, with a status other
// than 0 if anything was missing. Otherwise it stays, with the Console, and runs
// what is typed.
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
	page  page

	console *console
	log     auditLog // of what is typed
}

// run shows everything. reason says why w is nil.
func run(w *world, reason error) (exit int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	ctx, end := context.WithCancel(ctx)
	defer end()
	d := &demo{world: w}
	if d.root, err = os.Getwd(); err != nil {
		return 0, err
	}
	for _, need := range []string{d.bin("defender"), d.bin("console"), d.bin("defenderctl"), d.task("entry.sh"), d.task("task.json")} {
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
	defer func() {
		end()
		if d.console != nil {
			<-d.console.ended
		}
		os.RemoveAll(d.dir)
	}()
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
	err = d.protected(ctx, &seen)
	if ctx.Err() != nil {
		return 130, nil
	}
	if err != nil {
		return 0, err
	}
	failed := d.page.checks(seen)
	if os.Getenv("DEMO_EXIT") == "1" {
		return failed, nil
	}
	d.stay(ctx)
	return failed, nil
}

func (d *demo) bin(name string) string { return filepath.Join(d.root, "bin", name) }
func (d *demo) token() string          { return filepath.Join(d.dir, "token") }
func (d *demo) task(file string) string {
	return filepath.Join(d.root, "testdata", "sample-task", file)
}
func (d *demo) asTyped(p string) string { return strings.TrimPrefix(p, d.root+"/") }

// protection is how the Defender is started without a definition.
func (d *demo) protection() []string {
	flags := []string{
		"run", "--console", d.console.url, "--ca", d.console.ca, "--token-file", d.token(),
		"--data-dir", filepath.Join(d.dir, "defender"), "--wait-for-policy", "15s",
		"--container", taskName, "--app-id", taskName + ":demo", "--audit-log", d.log.path,
	}
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

// protected shows the task with the Defender in front, all that this takes,
// and what the Console has of it.
func (d *demo) protected(ctx context.Context, seen *checks) error {
	if ctx.Err() != nil {
		return nil
	}
	if err := d.startConsole(ctx); err != nil {
		return err
	}
	definition, err := d.embed(ctx)
	if err != nil {
		return err
	}

	d.page.heading("The same task, protected")
	var google, yahoo int
	if d.world != nil {
		google, yahoo = d.world.asked("google.com"), d.world.asked("yahoo.com")
	}
	var r result
	group := "Protected, in the containers of the definition"
	if reason := d.noContainers(ctx); reason != nil {
		group = "Protected, without containers"
		d.page.text("The definition's containers cannot be made on this machine, which takes root\n"+
			"and overlay mounts: %v.\nInstead the Defender is started as the container would start it.\n", reason)
		d.page.text("$ bin/defender run --console … -- entry.sh")
		r = d.runTask(ctx, "protected", d.bin("defender"), append(d.protection(), "entry.sh")...)
	} else if r, err = d.runImages(ctx, definition); err != nil {
		return err
	}
	d.page.text("exit status %d", r.exit)

	d.page.heading("The audits, as the Console has them")
	d.page.text("GET %s%s\n", d.console.url, auditsPath)
	mkdir, lookup, rest, err := d.console.waitAudits(ctx)
	if err != nil {
		d.page.text("%v", err)
	}
	for _, a := range []*record{mkdir, lookup} {
		if a != nil {
			d.page.audit(a)
		}
	}
	for _, a := range rest {
		d.page.text("%s", a.Msg)
	}

	seen.group(group)
	seen.add(strings.Contains(r.output, "mkdir: Permission denied"), `mkdir failed with "Permission denied"`)
	seen.add(!r.made("test"), "and made nothing")
	seen.add(!r.made("index.html"), "wget fetched nothing")
	if d.world != nil {
		seen.add(d.world.asked("google.com") == google && d.world.asked("yahoo.com") == yahoo,
			"neither name was asked of the name server")
	}
	seen.add(strings.Contains(r.output, "done\n") && r.exit == taskExit,
		"the task went on to its own exit status, %d", taskExit)
	seen.group("In the Console")
	seen.add(mkdir != nil, "audited: …%s", mkdirMessage)
	seen.add(lookup != nil, "audited: %s", lookupMessage)
	return nil
}

// stay runs what is typed until it is interrupted.
func (d *demo) stay(ctx context.Context) {
	d.page.heading("Try it")
	d.page.text("The Console's pages can be opened from this machine until the demo ends:\n")
	d.signInData()
	d.page.text("\nType a command to run it protected, such as\n" +
		"    mkdir x        refused\n" +
		"    touch x; ls    allowed\n" +
		"    wget gmail.com allowed, unlike any other name\n" +
		"or nothing to run the task again. What is changed of the rule in the page\n" +
		"(Defend → Runtime) holds at once, and audits appear under Monitor → Events.\n" +
		"Ctrl-C ends the demo.")
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
			r := d.runTask(ctx, "typed", d.bin("defender"), append(d.protection(), argv...)...)
			stop()
			if r.exit != 0 {
				d.page.text("exit status %d", r.exit)
			}
		}
	}
}
