package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"appdefender/defender"
	"appdefender/defender/supervisor"
)

// checkCommand tells what this container allows. It fails where nothing could
// be refused.
func checkCommand(out io.Writer) *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "tell what this container lets the defender do, and what to change to get more",
		Description: "It tries every way to supervise on throw-away processes. Run it in the container and as\n" +
			"the user that the application has: in a task definition, as its command for once. The exit\n" +
			"status is 1 where nothing could be refused.",
		OnUsageError: usageError,
		Flags:        []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "for programs"}},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return fmt.Errorf("unexpected argument %q; see \"defender check --help\"", c.Args().First())
			}
			r, err := defender.Check()
			if err != nil {
				return err
			}
			if c.Bool("json") {
				e := json.NewEncoder(out)
				e.SetIndent("", "  ")
				err = e.Encode(r)
			} else {
				err = r.Write(out)
			}
			if err == nil && r.Level == supervisor.Observe {
				err = cli.Exit("nothing can be refused here", 1)
			}
			return err
		},
	}
}
