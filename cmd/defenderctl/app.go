package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"appdefender/cmd/internal/flags"
)

// Exit statuses: of what was asked about something faulty, and of a wrong
// command line.
const (
	exitFaults = 1
	exitUsage  = 2
)

type app struct {
	in       io.Reader
	out, err io.Writer
}

func run(args []string, in io.Reader, out, errs io.Writer) error {
	a := &app{in, out, errs}
	c := a.cli()
	return c.Run(flags.First(c, args))
}

func (a *app) cli() *cli.App {
	return &cli.App{
		Name:            "defenderctl",
		UsageText:       "defenderctl COMMAND [flags]",
		Usage:           "embed the defender, and check what it is told",
		Version:         version,
		HideHelpCommand: true,
		Writer:          a.out,
		ErrWriter:       a.err,
		// Values such as ["a","b"] have commas.
		DisableSliceFlagSeparator: true,
		ExitErrHandler:            func(*cli.Context, error) {}, // main prints
		OnUsageError:              usageError,
		Action:                    noSuchCommand,
		Commands: []*cli.Command{
			{
				Name: "embed", Usage: "make a protected definition of one that runs an application",
				UsageText: "defenderctl embed FORMAT FILE [flags]",
				Description: "A file goes in and a protected one comes out; nothing else of it changes, and --remove gives it\n" +
					"back. --diff shows what would change, --check is for CI. For example\n\n" +
					"    defenderctl embed kubernetes deployment.yaml --defender-image IMAGE --policy policy.yaml >protected.yaml\n\n" +
					"IMAGE is what \"docker build --target defender\" makes of the Defender's sources. Flags are in\n" +
					"\"defenderctl embed FORMAT --help\".",
				HideHelpCommand: true, Action: noSuchCommand, OnUsageError: usageError,
				Subcommands: a.embedCommands(),
			},
			{
				Name: "policy", Usage: "work on policy files",
				HideHelpCommand: true, Action: noSuchCommand, OnUsageError: usageError,
				Subcommands: a.policyCommands(),
			},
			a.audits(),
			{
				Name: "version", Usage: "print the version",
				Action: func(*cli.Context) error {
					_, err := fmt.Fprintln(a.out, version)
					return err
				},
			},
		},
	}
}

func usageError(c *cli.Context, err error, _ bool) error {
	return fmt.Errorf("%w; see %q", flags.Explain(c, err), c.Command.HelpName+" --help")
}

func noSuchCommand(c *cli.Context) error {
	if c.Args().Present() {
		var names []string
		for _, known := range c.Command.Subcommands {
			if !known.Hidden {
				names = append(names, known.Name)
			}
		}
		return fmt.Errorf("unknown command %q; there are %s", c.Args().First(), strings.Join(names, ", "))
	}
	return cli.ShowSubcommandHelp(c)
}
