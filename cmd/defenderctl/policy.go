package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"appdefender/audit"
	"appdefender/policy"
	"appdefender/policy/compat"
	"appdefender/policy/file"
)

func (a *app) policyCommands() []*cli.Command {
	return []*cli.Command{a.policyValidate(), a.policyTest(), a.policyImport(), a.policyExport()}
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

func (a *app) policyImport() *cli.Command {
	return &cli.Command{
		Name:      "import",
		Usage:     "make a policy file of the policy, rule or custom rules of a compatible system",
		UsageText: "defenderctl policy import [--custom-rules FILE] FILE",
		Description: "FILE is the JSON of its API or of its pages: a policy for App-Embedded Defenders, one rule, or a list of custom\n" +
			"rules. - is standard input. The policy file goes to standard output, and to standard error what was left out\n" +
			"because it is no policy, or means a little less here. What cannot be done here is a fault: then nothing is\n" +
			"written, and the exit status is 1.",
		Flags:        []cli.Flag{&cli.StringFlag{Name: "custom-rules", Usage: "the `FILE` with the custom rules that the policy uses", TakesFile: true}},
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			name, err := oneFile(c, "defenderctl policy import policy.json")
			if err != nil {
				return err
			}
			p, notes, err := a.importPolicy(name, c.String("custom-rules"))
			if err != nil {
				return cli.Exit(err, exitFaults)
			}
			out, err := file.Marshal(p)
			if err != nil {
				return err
			}
			a.tell(name, notes)
			_, err = a.out.Write(out)
			return err
		},
	}
}

func (a *app) importPolicy(name, custom string) (*policy.Policy, []compat.Fault, error) {
	var library []policy.CustomRule
	var notes []compat.Fault
	if custom != "" {
		data, err := a.read(custom)
		if err != nil {
			return nil, nil, err
		}
		if library, notes, err = compat.ImportCustomRules(data); err != nil {
			return nil, nil, faultsOf(custom, err)
		}
	}
	data, err := a.read(name)
	if err != nil {
		return nil, nil, err
	}
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '[' {
		library, notes, err := compat.ImportCustomRules(data)
		return &policy.Policy{Version: 1, Rules: []policy.Rule{}, CustomRules: library}, notes, faultsOf(name, err)
	}
	p, more, err := compat.Import(data, library...)
	return p, append(notes, more...), faultsOf(name, err)
}

func (a *app) policyExport() *cli.Command {
	return &cli.Command{
		Name:      "export",
		Usage:     "write a policy file as the JSON of a compatible system",
		UsageText: "defenderctl policy export [--custom-rules FILE] FILE",
		Description: "- is standard input. The JSON goes to standard output, and to standard error what means a little more or less\n" +
			"there. What has no counterpart there is a fault: then nothing is written, and the exit status is 1.",
		Flags:        []cli.Flag{&cli.StringFlag{Name: "custom-rules", Usage: "write the custom rules to `FILE`", TakesFile: true}},
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			name, err := oneFile(c, "defenderctl policy export policy.yaml")
			if err != nil {
				return err
			}
			return a.exportPolicy(name, c.String("custom-rules"))
		},
	}
}

func (a *app) exportPolicy(name, custom string) error {
	data, err := a.read(name)
	if err != nil {
		return cli.Exit(err, exitFaults)
	}
	p, err := file.Parse(name, data)
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
		if err := os.WriteFile(custom, b, 0o600); err != nil {
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
		UsageText: "defenderctl policy test [--image IMAGE] [--container NAME] [--app-id ID] POLICY EVENTS",
		Description: "EVENTS is a file with a JSON object in each line: recorded events, or the records of an audit log, which tell\n" +
			"of less. - is standard input. Each event that the policy refuses or tells of is a line, and a table counts\n" +
			"them. The exit status is 1 if something would have been refused, or a file has a fault.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "image", Usage: "the `IMAGE` that a rule's scope is matched with"},
			&cli.StringFlag{Name: "container", Usage: "the container's `NAME` for it"},
			&cli.StringFlag{Name: "app-id", Usage: "the application's `ID` for it"},
		},
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if c.Args().Len() != 2 {
				return errors.New(`give a policy and events, as in "defenderctl policy test policy.yaml events.jsonl"`)
			}
			return a.test(c.Args().Get(0), c.Args().Get(1), policy.Workload{
				Image: c.String("image"), Container: c.String("container"), AppID: c.String("app-id"),
			})
		},
	}
}

func (a *app) test(name, events string, w policy.Workload) error {
	data, err := a.read(name)
	if err != nil {
		return cli.Exit(err, exitFaults)
	}
	p, err := file.Parse(name, data)
	if err != nil {
		return cli.Exit(err, exitFaults)
	}
	engine, err := policy.Compile(p, w)
	if err != nil {
		return cli.Exit(err, exitFaults)
	}
	in := a.in
	if events != "-" {
		f, err := os.Open(events)
		if err != nil {
			return cli.Exit(err, exitFaults)
		}
		defer f.Close()
		in = f
	}
	refused, err := a.judge(engine, events, in)
	switch {
	case err != nil:
		return cli.Exit(err, exitFaults)
	case refused > 0:
		return cli.Exit("", exitFaults)
	}
	return nil
}

// maxEvent is how long the line of an event may be, in bytes.
const maxEvent = 4 << 20

// judge asks engine about each event of in and returns how many it refused.
func (a *app) judge(engine *policy.Engine, name string, in io.Reader) (refused int, err error) {
	if engine.Rule() == "" {
		fmt.Fprintln(a.err, "no rule of the policy is for this workload; see --image, --container and --app-id")
	}
	report := audit.NewDryRun(a.out)
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxEvent)
	total := 0
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		ev, ok, err := readEvent(lines.Bytes())
		if err != nil {
			return refused, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		if !ok {
			continue
		}
		total++
		v := engine.Decide(&ev)
		if !v.Allow {
			refused++
		}
		if v.Tell() {
			if err := report.Write(audit.New(&audit.Source{DryRun: true}, &ev, v, audit.Outcome{Level: audit.Checked})); err != nil {
				return refused, err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return refused, fmt.Errorf("reading %s: %w", name, err)
	}
	fmt.Fprintf(a.out, "%d events, %d refused\n", total, refused)
	return refused, report.Summary(a.out)
}

// readEvent reads a recorded event, which has a kind, or a record. It is false
// for records that tell of no event.
func readEvent(line []byte) (policy.Event, bool, error) {
	var ev policy.Event
	var keys struct{ Kind *string }
	if err := json.Unmarshal(line, &keys); err != nil {
		return ev, false, err
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields() // what is not known might have changed the verdict
	if keys.Kind != nil {
		err := d.Decode(&ev)
		return ev, true, err
	}
	var r audit.Record
	if err := d.Decode(&r); err != nil {
		return ev, false, err
	}
	return audit.Event(&r)
}

func oneFile(c *cli.Context, example string) (string, error) {
	if c.Args().Len() != 1 {
		return "", fmt.Errorf("give one file, as in %q", example)
	}
	return c.Args().First(), nil
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
