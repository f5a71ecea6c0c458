package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/urfave/cli/v2"

	"appdefender/audit/learn"
	"appdefender/policy"
	"appdefender/policy/file"
)

// ofWorkload are the flags that select the audits to learn from.
var ofWorkload = []string{"app-id", "container", "image"}

func (a *app) policyLearn() *cli.Command {
	return &cli.Command{
		Name:      "learn",
		Usage:     "make the least policy that would have refused nothing of recorded events",
		UsageText: "defenderctl policy learn [--from POLICY] [-o FILE] EVENTS...\ndefenderctl policy learn --console URL [--app-id ID] [--since 24h] [-o FILE]",
		Description: "EVENTS are recordings (of \"defender run --learn\"), audit logs, folders with the spool of a Defender, or what a\n" +
			"Console keeps. Several are put together, with a rule for each container. What audits do not tell of stays open: only a\n" +
			"recording says what did not happen. What audits say was refused is not allowed either, but with --refused. With --from the lists of a policy get what they lack, and nothing is taken\n" +
			"from it; what is added goes to standard error. The policy goes to standard output, or to a file by -o.",
		Flags: slices.Concat([]cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write the policy to `FILE`", TakesFile: true},
			&cli.StringFlag{Name: "from", Usage: "extend the policy in `FILE`", TakesFile: true},
			&cli.BoolFlag{Name: "refused", Usage: "allow also what a policy refused when it happened; with --from that is so anyway, but for what is denied"},
			&cli.StringFlag{Name: "effect", Value: "prevent", Usage: "`EFFECT` of the sections: alert, prevent or block"},
		}, consoleFlags(), filterFlags(ofWorkload...)),
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			effect, ok := map[string]policy.Effect{"alert": policy.Alert, "prevent": policy.Prevent, "block": policy.Block}[c.String("effect")]
			if !ok {
				return fmt.Errorf("--effect: %q is not one of alert, prevent, block", c.String("effect"))
			}
			if !c.Args().Present() && c.String("console") == "" {
				return errors.New(`give events, as in "defenderctl policy learn learned.events.jsonl", or --console`)
			}
			f, err := readFilter(c)
			for _, flag := range append([]string{"since", "until"}, ofWorkload...) {
				if c.IsSet(flag) && c.String("console") == "" {
					err = errors.Join(err, fmt.Errorf("--%s: selects audits of a Console; it says nothing without --console", flag))
				}
			}
			if err != nil {
				return err
			}
			recordings, err := a.recordings(c, f)
			if err != nil {
				return cli.Exit(err, exitFaults)
			}
			text, err := a.learn(recordings, c.String("from"), effect)
			if err != nil {
				return cli.Exit(err, exitFaults)
			}
			if name := c.String("output"); name != "" {
				return exitError(writeFile(name, text))
			}
			_, err = a.out.Write(text)
			return err
		},
	}
}

func exitError(err error) error {
	if err == nil {
		return nil
	}
	return cli.Exit(err, exitFaults)
}

// recordings reads what the arguments name, or what a Console keeps.
func (a *app) recordings(c *cli.Context, f filter) ([]*learn.Recording, error) {
	var all []*learn.Recording
	refused := c.Bool("refused") || c.IsSet("from") // which lacks something
	read := func(name string, in io.Reader) error {
		r, notes, err := learn.Read(name, in, refused)
		for _, n := range notes {
			fmt.Fprintf(a.err, "note: %s\n", n)
		}
		all = append(all, r...)
		return err
	}
	if c.String("console") != "" {
		con, err := newConsole(c)
		if err != nil {
			return nil, err
		}
		if err := read(con.base.String(), con.lines(c.Context, f)); err != nil {
			return nil, err
		}
	}
	return all, a.eachFile(c.Args().Slice(), read)
}

// eachFile opens what the names stand for, one after the other.
func (a *app) eachFile(names []string, read func(name string, in io.Reader) error) error {
	for _, name := range names {
		if name == "-" {
			if err := read(name, a.in); err != nil {
				return err
			}
			continue
		}
		files, err := learn.Files(name)
		if err != nil {
			return err
		}
		for _, file := range files {
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			err = read(file, f)
			_ = f.Close()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// learn makes a policy of recordings, or extends one.
func (a *app) learn(recordings []*learn.Recording, from string, effect policy.Effect) ([]byte, error) {
	if from == "" {
		res, err := learn.Build(recordings, learn.Options{Effect: effect})
		if err != nil {
			return nil, err
		}
		return res.YAML()
	}
	data, err := a.read(from)
	if err != nil {
		return nil, err
	}
	p, err := file.Parse(from, data)
	if err != nil {
		return nil, err
	}
	additions, notes, err := learn.Extend(p, recordings)
	if err != nil {
		return nil, err
	}
	for _, add := range additions {
		fmt.Fprintf(a.err, "+ %s: %s  # %s\n", add.Path, add.Entry, add.Comment)
	}
	if len(additions) == 0 {
		fmt.Fprintf(a.err, "%s: nothing is to be added\n", from)
	}
	for _, n := range notes {
		fmt.Fprintf(a.err, "note: %s\n", n)
	}
	if len(additions) == 0 {
		return data, nil
	}
	out, err := file.Insert(data, additions)
	if err != nil {
		return nil, err
	}
	if _, err := file.Parse(from, out); err != nil {
		return nil, fmt.Errorf("the policy could not be extended:\n%w", err)
	}
	return out, nil
}
