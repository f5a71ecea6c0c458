package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"appdefender/audit"
	"appdefender/audit/learn"
	"appdefender/policy"
	"appdefender/policy/compat"
	"appdefender/policy/file"
)

func (a *app) policyCommands() []*cli.Command {
	return []*cli.Command{a.policyDefault(), a.policyValidate(), a.policyTest(), a.policyLearn(), a.policyImport(), a.policyExport()}
}

func (a *app) policyDefault() *cli.Command {
	return &cli.Command{
		Name:         "default",
		Usage:        "print the policy that holds where no other is given",
		UsageText:    "defenderctl policy default > policy.yaml",
		Description:  "It prevents nothing and tells of what stock programs do not do. It is the first policy of a Console as well.",
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return fmt.Errorf("unexpected %q; there is one default", c.Args().First())
			}
			_, err := a.out.Write(file.DefaultText())
			return err
		},
	}
}

func (a *app) policyValidate() *cli.Command {
	return &cli.Command{
		Name:      "validate",
		Usage:     "read policy files and say what is wrong with them, a fault a line",
		UsageText: "defenderctl policy validate FILE...",
		Description: "- is standard input. Notes say what a policy asks for and cannot have, such as to prevent what is known\n" +
			"only after the deed. The exit status is 1 if a file has a fault or cannot be read.",
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return errors.New(`give a policy file, as in "defenderctl policy validate policy.yaml"`)
			}
			bad := 0
			for _, name := range c.Args().Slice() {
				notes, err := a.validate(name)
				if err != nil {
					bad++
					fmt.Fprintln(a.out, err)
					continue
				}
				for _, n := range notes {
					fmt.Fprintf(a.out, "%s:%d:%d: note: %s: %s\n", name, n.Line, n.Col, n.Path, n.Msg)
				}
				fmt.Fprintf(a.out, "%s: ok\n", name)
			}
			if bad > 0 {
				return cli.Exit("", exitFaults)
			}
			return nil
		},
	}
}

func (a *app) validate(name string) ([]file.Fault, error) {
	data, err := a.read(name)
	if err != nil {
		return nil, err
	}
	_, notes, err := file.ParseNotes(name, data)
	return notes, err
}

// conversion is a command that reads one file and, beside it, knows another
// with custom rules.
func conversion(name, usage, description, custom, example string, do func(name, custom string) error) *cli.Command {
	return &cli.Command{
		Name:         name,
		Usage:        usage,
		UsageText:    "defenderctl policy " + name + " [--custom-rules FILE] FILE",
		Description:  description,
		Flags:        []cli.Flag{&cli.StringFlag{Name: "custom-rules", Usage: custom, TakesFile: true}},
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			file, err := oneFile(c, "defenderctl policy "+name+" "+example)
			if err != nil {
				return err
			}
			return do(file, c.String("custom-rules"))
		},
	}
}

func (a *app) policyImport() *cli.Command {
	return conversion("import", "make a policy file of the policy, rule or custom rules of a compatible system",
		"FILE is the JSON of its API or of its pages: a policy for App-Embedded Defenders, one rule, or a list of custom\n"+
			"rules. - is standard input. The policy file goes to standard output, and to standard error what was left out\n"+
			"because it is no policy, or means a little less here. What cannot be done here is a fault: then nothing is\n"+
			"written, and the exit status is 1.",
		"the `FILE` with the custom rules that the policy uses", "policy.json",
		func(name, custom string) error {
			p, notes, err := a.importPolicy(name, custom)
			if err != nil {
				return cli.Exit(err, exitFaults)
			}
			out, err := file.Marshal(p)
			if err != nil {
				return err
			}
			for _, of := range []string{custom, name} {
				a.tell(of, notes[of])
			}
			_, err = a.out.Write(out)
			return err
		})
}

// importPolicy returns a policy and the notes, by the file that they are about.
func (a *app) importPolicy(name, custom string) (*policy.Policy, map[string][]compat.Fault, error) {
	var library []policy.CustomRule
	notes := make(map[string][]compat.Fault)
	if custom != "" {
		data, err := a.read(custom)
		if err != nil {
			return nil, nil, err
		}
		if library, notes[custom], err = compat.ImportCustomRules(data); err != nil {
			return nil, nil, faultsOf(custom, err)
		}
	}
	data, err := a.read(name)
	if err != nil {
		return nil, nil, err
	}
	var p *policy.Policy
	var more []compat.Fault
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '[' {
		library, more, err = compat.ImportCustomRules(data)
		p = &policy.Policy{Version: 1, Rules: []policy.Rule{}, CustomRules: library}
	} else {
		p, more, err = compat.Import(data, library...)
	}
	notes[name] = more
	return p, notes, faultsOf(name, err)
}

func (a *app) policyExport() *cli.Command {
	return conversion("export", "write a policy file as the JSON of a compatible system",
		"- is standard input. The JSON goes to standard output, and to standard error what means a little more or less\n"+
			"there. What has no counterpart there is a fault: then nothing is written, and the exit status is 1.",
		"write the custom rules to `FILE`", "policy.yaml", a.exportPolicy)
}

func (a *app) exportPolicy(name, custom string) error {
	p, err := a.policy(name)
	if err != nil {
		return cli.Exit(err, exitFaults)
	}
	library, errLibrary := compat.ExportCustomRules(p)
	out, notes, err := compat.Export(p)
	if err := errors.Join(faultsOf(name, errLibrary), faultsOf(name, err)); err != nil {
		return cli.Exit(err, exitFaults)
	}
	switch {
	case custom != "":
		b, err := indented(library)
		if err != nil {
			return err
		}
		if err := writeFile(custom, b); err != nil {
			return cli.Exit(err, exitFaults)
		}
	case len(library) > 0:
		notes = append(notes, compat.Fault{Path: "customRules", Msg: "are not written; --custom-rules FILE writes them"})
	}
	a.tell(name, notes)
	b, err := indented(out)
	if err != nil {
		return err
	}
	_, err = a.out.Write(b)
	return err
}

func indented(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	return append(b, '\n'), err
}

// faultsOf puts the file's name before each fault of a conversion.
func faultsOf(name string, err error) error {
	var faults compat.Errors
	if !errors.As(err, &faults) {
		return err
	}
	errs := make([]error, len(faults))
	for i, f := range faults {
		errs[i] = fmt.Errorf("%s: %s", name, f)
	}
	return errors.Join(errs...)
}

func (a *app) tell(name string, notes []compat.Fault) {
	for _, n := range notes {
		fmt.Fprintf(a.err, "%s: note: %s\n", name, n)
	}
}

func (a *app) policyTest() *cli.Command {
	return &cli.Command{
		Name:      "test",
		Usage:     "say what a policy would have done to recorded events",
		UsageText: "defenderctl policy test [--image IMAGE] [--container NAME] [--app-id ID] POLICY EVENTS...",
		Description: "EVENTS are recordings (of \"defender run --learn\"), events, audit logs, which tell of less, or folders with the\n" +
			"spool of a Defender. - is standard input. Rules are selected by the workload that recordings and records name, or\n" +
			"by that of the flags. Each event that the policy refuses or tells of is a line, and a table counts them by rule.\n" +
			"The exit status is 1 if something would have been refused, or a file has a fault.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "image", Usage: "the `IMAGE` that a rule's scope is matched with"},
			&cli.StringFlag{Name: "container", Usage: "the container's `NAME` for it"},
			&cli.StringFlag{Name: "app-id", Usage: "the application's `ID` for it"},
		},
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if c.Args().Len() < 2 {
				return errors.New(`give a policy and events, as in "defenderctl policy test policy.yaml events.jsonl"`)
			}
			var w *policy.Workload
			if c.IsSet("image") || c.IsSet("container") || c.IsSet("app-id") {
				w = &policy.Workload{Image: c.String("image"), Container: c.String("container"), AppID: c.String("app-id")}
			}
			return a.test(c.Args().First(), c.Args().Tail(), w)
		},
	}
}

func (a *app) test(name string, events []string, w *policy.Workload) error {
	p, err := a.policy(name)
	if err != nil {
		return cli.Exit(err, exitFaults)
	}
	t := &trial{app: a, policy: p, workload: w, engines: make(map[policy.Workload]*policy.Engine), report: audit.NewDryRun(a.out)}
	if err := a.eachFile(events, t.read); err != nil {
		return cli.Exit(err, exitFaults)
	}
	fmt.Fprintf(a.out, "%d events, %d refused\n", t.total, t.refused)
	if err := t.report.Summary(a.out); err != nil {
		return err
	}
	if t.refused > 0 {
		return cli.Exit("", exitFaults)
	}
	return nil
}

// trial judges recorded events.
type trial struct {
	*app
	policy         *policy.Policy
	workload       *policy.Workload // for all events; nil is each one's own
	engines        map[policy.Workload]*policy.Engine
	report         *audit.DryRun
	total, refused int
}

// engine is that for a workload.
func (t *trial) engine(w policy.Workload) (*policy.Engine, error) {
	if t.workload != nil {
		w = *t.workload
	}
	if e := t.engines[w]; e != nil {
		return e, nil
	}
	e, err := policy.Compile(t.policy, w)
	if err == nil && e.Rule() == "" {
		fmt.Fprintf(t.err, "no rule of the policy is for this workload (image %q, container %q, App ID %q); see --image, --container and --app-id\n", w.Image, w.Container, w.AppID)
	}
	t.engines[w] = e
	return e, err
}

func (t *trial) read(name string, in io.Reader) error {
	var recorded policy.Workload // of the recording
	notes, err := learn.Lines(name, in, func(l *learn.Line) error {
		if l.Header != nil {
			recorded = l.Workload()
			return nil
		}
		if l.Observation == nil {
			return nil
		}
		w := recorded
		if l.Record != nil {
			w = l.Workload()
		}
		engine, err := t.engine(w)
		if err != nil {
			return err
		}
		o := l.Observation
		t.total += o.Count
		v := engine.Decide(&o.Event)
		if !v.Allow {
			t.refused += o.Count
		}
		if !v.Tell() {
			return nil
		}
		r := audit.New(&audit.Source{DryRun: true}, &o.Event, v, audit.Outcome{Level: audit.Checked, Time: o.Last})
		r.Count = o.Count
		return t.report.Write(r)
	})
	for _, n := range notes {
		fmt.Fprintf(t.err, "note: %s\n", n)
	}
	return err
}

func oneFile(c *cli.Context, example string) (string, error) {
	if c.Args().Len() != 1 {
		return "", fmt.Errorf("give one file, as in %q", example)
	}
	return c.Args().First(), nil
}

// policy reads a policy file.
func (a *app) policy(name string) (*policy.Policy, error) {
	data, err := a.read(name)
	if err != nil {
		return nil, err
	}
	return file.Parse(name, data)
}

// read reads a file; - is standard input.
func (a *app) read(name string) ([]byte, error) {
	if name == "-" {
		data, err := io.ReadAll(a.in)
		if err != nil {
			return nil, fmt.Errorf("reading standard input: %w", err)
		}
		return data, nil
	}
	return os.ReadFile(name)
}
