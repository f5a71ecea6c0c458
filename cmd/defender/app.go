package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"appdefender/cmd/internal/flags"
	"appdefender/defender"
	"appdefender/dnsproxy"
	"appdefender/internal/early"
	"appdefender/policy"
	"appdefender/policy/file"
)

// exitUsage is the exit status of a wrong command line.
const exitUsage = 2

type app struct {
	out, err io.Writer
	exit     int
}

func newApp(out, err io.Writer) *app { return &app{out: out, err: err} }

func (a *app) cli() *cli.App {
	return &cli.App{
		Name:            "defender",
		Usage:           "supervise an application from inside its container",
		UsageText:       "defender run [flags] -- CMD [ARG...]",
		Version:         version,
		HideHelpCommand: true,
		Writer:          a.out,
		ErrWriter:       a.err,
		// Errors are printed once, by main.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   usageError,
		Commands:       []*cli.Command{a.run(), checkCommand(a.out), installCommand(a.out), healthcheckCommand(a.out), a.version()},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return fmt.Errorf("unknown command %q; try %q", c.Args().First(), "defender run -- "+strings.Join(c.Args().Slice(), " "))
			}
			return cli.ShowAppHelp(c)
		},
	}
}

// usageError keeps the library from printing the whole help for a typo.
func usageError(c *cli.Context, err error, _ bool) error {
	return fmt.Errorf("%w; see %q", flags.Explain(c, err), c.App.Name+" "+strings.TrimSpace(c.Command.Name+" --help"))
}

func (a *app) version() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version",
		Action: func(*cli.Context) error {
			_, err := fmt.Fprintln(a.out, version)
			return err
		},
	}
}

func (a *app) run() *cli.Command {
	env := func(name string) []string { return []string{"DEFENDER_" + name} }
	return &cli.Command{
		Name:      "run",
		Usage:     "start CMD and supervise it",
		UsageText: "defender run [flags] -- CMD [ARG...]",
		Description: "Everything after -- is the target's. Its exit status is returned; 125 means that\n" +
			"the defender could not start it, 126 and 127 that CMD cannot be executed or found,\n" +
			"2 that the flags are wrong.",
		HideHelpCommand: true, // "run -- help" starts a program of that name
		OnUsageError:    usageError,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "policy", EnvVars: env("POLICY"), Usage: "policy `FILE`, YAML or JSON; without one the shipped default, which refuses nothing and tells of attacks"},
			&cli.StringFlag{Name: "console", EnvVars: env("CONSOLE"), Usage: "`URL` of the Console that policy comes from and audits go to; its policy wins over --policy"},
			&cli.StringFlag{Name: "token", EnvVars: env("TOKEN"), Usage: "enrolment token for the Console; a command line is for all to see: better as DEFENDER_TOKEN, or in a file named by DEFENDER_TOKEN_FILE"},
			&cli.StringFlag{Name: "token-file", EnvVars: env("TOKEN_FILE"), Usage: "`FILE` with the token"},
			&cli.StringFlag{Name: "ca", EnvVars: env("CA"), Usage: "`FILE` with the certificate of the Console's own CA"},
			&cli.StringFlag{Name: "data-dir", EnvVars: env("DATA_DIR"), Usage: "`DIR` that keeps unsent audits and the last good policy over a restart; without one they are in memory"},
			&cli.DurationFlag{Name: "wait-for-policy", EnvVars: env("WAIT_FOR_POLICY"), Usage: "start the target when the Console's policy is in force, or after `DURATION`, such as 15s"},
			&cli.StringFlag{Name: "app-id", EnvVars: env("APP_ID"), Usage: "App ID that rules select by"},
			&cli.StringFlag{Name: "container", EnvVars: env("CONTAINER"), Usage: "container name that rules select by"},
			&cli.StringFlag{Name: "image", EnvVars: env("IMAGE"), Usage: "image name that rules select by"},
			&cli.StringFlag{Name: "audit-log", EnvVars: env("AUDIT_LOG"), Usage: "`FILE` for audits, one JSON object a line; - is standard error, none is nowhere (default: -, or none in a dry run)"},
			&cli.StringFlag{Name: "on-failure", EnvVars: env("ON_FAILURE"), Value: "closed", Usage: "if the defender cannot supervise or dies: `closed` ends the target, open lets it run"},
			&cli.StringFlag{Name: "supervisor", EnvVars: env("SUPERVISOR"), Value: "auto", Usage: "`LEVEL` of supervision: auto for the best there is, or notify, ptrace or observe and no other"},
			&cli.BoolFlag{Name: "keep-ptrace", EnvVars: env("KEEP_PTRACE"), Usage: "leave the capability SYS_PTRACE to the target, which may then reach the defender as root"},
			&cli.BoolFlag{Name: "file-monitoring", EnvVars: env("FILE_MONITORING"), Usage: "stop calls that change files, for the section files of a rule; each costs a few microseconds"},
			&cli.StringFlag{Name: "resolv-conf", EnvVars: env("RESOLV_CONF"), Value: "auto", Usage: "auto rewrites /etc/resolv.conf in a container; `rewrite` always, leave never"},
			&cli.StringSliceFlag{Name: "upstream", EnvVars: env("UPSTREAM"), Usage: "name `SERVER` to ask in place of resolv.conf's: 10.0.0.2, tls://1.1.1.1#cloudflare-dns.com, https://HOST/PATH; /corp.internal/10.0.0.2 for these names alone. May be repeated"},
			&cli.IntFlag{Name: "forensics", EnvVars: env("FORENSICS"), Value: 2, Usage: "how many `MIB` of what happened in the container are remembered in memory for the Console, 0 to 1000"},
			&cli.BoolFlag{Name: "keep-secrets", EnvVars: env("KEEP_SECRETS"), Usage: "leave passwords, tokens and keys in the command lines, URLs and names that are recorded; without it they read REDACTED"},
			&cli.BoolFlag{Name: "every-audit", EnvVars: env("EVERY_AUDIT"), Usage: "send the Console each audit; without it, more than five of a kind within 15 minutes are summed up"},
			&cli.BoolFlag{Name: "dry-run", EnvVars: env("DRY_RUN"), Usage: "refuse nothing; tell what would be refused, and sum up at the end"},
			&cli.StringFlag{Name: "learn", EnvVars: env("LEARN"), Usage: "write to `FILE` the least policy that would have refused nothing of what CMD did; - is standard error. Without --policy and --console nothing is refused"},
		},
		Action: a.runTarget,
	}
}

func (a *app) runTarget(c *cli.Context) error {
	early.WipeEnvironment() // the flags have been read
	cfg, err := config(c)
	if err != nil {
		return err
	}
	cfg.Warnings = a.strays(os.Environ())
	for _, w := range cfg.Warnings {
		fmt.Fprintf(a.err, "defender: %s\n", w)
	}
	if cfg.Policy, err = a.policy(c.String("policy"), cfg.FailOpen); err != nil {
		a.exit = defender.ExitFailed
		return err
	}
	d, err := defender.New(cfg)
	if err != nil {
		a.exit = defender.ExitFailed
		return err
	}
	// The main goroutine has the first thread, and with it the children.
	ended := make(chan error, 1)
	go func() {
		var err error
		a.exit, err = d.Run(context.Background())
		ended <- err
	}()
	go func() {
		// Run may end before a target exists.
		err := <-ended
		early.DismissAll()
		ended <- err
	}()
	d.Wait()
	return <-ended
}

// ourNames is how the names of our variables begin. The target gets none that
// does (internal/early).
const ourNames = "DEFENDER_"

// notOurs are names of the same beginning that others give: what Kubernetes tells
// of a service that is called defender, and what embedding keeps for itself.
var notOurs = regexp.MustCompile(`^DEFENDER_(EMBED_.*|(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_.*)?)?))$`)

// strays says for people which variables of an environment look like ours and
// are none: somebody has misspelt one, or means the target to have it.
func (a *app) strays(environ []string) []string {
	var known []string
	for _, command := range a.cli().Commands {
		for _, f := range command.Flags {
			if f, ok := f.(cli.DocGenerationFlag); ok {
				known = append(known, f.GetEnvVars()...)
			}
		}
	}
	var said []string
	for _, v := range environ {
		name, _, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, ourNames) || slices.Contains(known, name) || notOurs.MatchString(name) {
			continue
		}
		says := fmt.Sprintf("the variable %q means nothing to the defender, and the target does not get it", name)
		if near := file.Nearest(name[len(ourNames):], trimmed(known)); near != "" {
			says += "; did you mean " + ourNames + near + "?"
		}
		said = append(said, says)
	}
	slices.Sort(said)
	return said
}

func trimmed(names []string) []string {
	short := make([]string, len(names))
	for i, name := range names {
		short[i] = strings.TrimPrefix(name, ourNames)
	}
	return short
}

// config reads the flags of run.
func config(c *cli.Context) (defender.Config, error) {
	cfg := defender.Config{
		Workload:   policy.Workload{Image: c.String("image"), Container: c.String("container"), AppID: c.String("app-id")},
		Version:    version,
		Argv:       c.Args().Slice(),
		AuditLog:   c.String("audit-log"),
		Supervisor: c.String("supervisor"),
		KeepPtrace: c.Bool("keep-ptrace"),
		ResolvConf: defender.ResolvConf(c.String("resolv-conf")),
		DryRun:     c.Bool("dry-run"),
		Learn:      c.String("learn"),

		Forensics:   c.Int("forensics") << 20,
		KeepSecrets: c.Bool("keep-secrets"),

		FileMonitoring: c.Bool("file-monitoring"),
	}
	if cfg.Learn != "" && c.String("policy") == "" && c.String("console") == "" {
		cfg.DryRun = true
	}
	if cfg.AuditLog == "" && cfg.DryRun {
		cfg.AuditLog = "none"
	}
	var errs []error
	oneOf := func(flag string, words ...string) {
		if !slices.Contains(words, c.String(flag)) {
			errs = append(errs, fmt.Errorf("--%s: %q is not one of %s", flag, c.String(flag), strings.Join(words, ", ")))
		}
	}
	var err error
	if cfg.Console, err = console(c); err != nil {
		errs = append(errs, err)
	}
	for _, server := range c.StringSlice("upstream") {
		u, err := dnsproxy.ParseUpstream(server)
		if err != nil {
			errs = append(errs, fmt.Errorf("--upstream: %w", err))
		}
		cfg.Upstreams = append(cfg.Upstreams, u)
	}
	if n := c.Int("forensics"); n < 0 || n > 1000 {
		errs = append(errs, fmt.Errorf("--forensics: %d is not from 0 to 1000 MiB", n))
	}
	oneOf("on-failure", "closed", "open")
	oneOf("supervisor", "auto", "notify", "ptrace", "observe")
	oneOf("resolv-conf", "auto", "rewrite", "leave")
	cfg.FailOpen = c.String("on-failure") == "open"
	if len(cfg.Argv) == 0 {
		errs = append(errs, errors.New(`nothing to run: give a command after "--", as in "defender run -- nginx"`))
	}
	return cfg, flags.Faults(errs...)
}

// console reads the flags that concern the Console.
func console(c *cli.Context) (defender.Console, error) {
	con := defender.Console{
		URL: c.String("console"), Token: c.String("token"),
		DataDir: c.String("data-dir"), WaitForPolicy: c.Duration("wait-for-policy"), EveryAudit: c.Bool("every-audit"),
	}
	var errs []error
	if name := c.String("token-file"); name != "" && con.Token == "" {
		data, err := os.ReadFile(name)
		con.Token = strings.TrimSpace(string(data))
		if err == nil && con.Token == "" {
			err = fmt.Errorf("%q is empty", name)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("--token-file: %w", err))
		}
	}
	if name := c.String("ca"); name != "" {
		data, err := os.ReadFile(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("--ca: %w", err))
		}
		con.CA = data
	}
	if con.WaitForPolicy < 0 {
		errs = append(errs, fmt.Errorf("--wait-for-policy: %s is less than nothing", con.WaitForPolicy))
	}
	if con.URL == "" {
		for _, flag := range []string{"token", "token-file", "ca", "data-dir", "wait-for-policy", "every-audit"} {
			if c.IsSet(flag) {
				errs = append(errs, fmt.Errorf("--%s: says nothing without --console", flag))
			}
		}
	}
	return con, errors.Join(errs...)
}

// policy loads the policy file. A file with a fault is no policy: the target
// does not start, or with --on-failure open starts under the shipped default.
func (a *app) policy(name string, failOpen bool) (*policy.Policy, error) {
	if name == "" {
		return file.Default(), nil
	}
	p, err := file.Load(name)
	if err != nil {
		if _, faulty := errors.AsType[*file.Errors](err); faulty {
			err = fmt.Errorf("loading policy:\n%w", err) // each on a line
		}
		if !failOpen {
			return nil, err
		}
		fmt.Fprintf(a.err, "defender: %v\ndefender: the shipped default policy holds instead (--on-failure open)\n", err)
		return file.Default(), nil
	}
	return p, nil
}
