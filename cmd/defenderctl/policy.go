package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"appdefender/policy/file"
)

func (a *app) policyValidate() *cli.Command {
	return &cli.Command{
		Name:         "validate",
		Usage:        "read policy files and say what is wrong with them, a fault a line",
		UsageText:    "defenderctl policy validate FILE...",
		Description:  "- is standard input. The exit status is 1 if a file has a fault or cannot be read.",
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return errors.New(`give a policy file, as in "defenderctl policy validate policy.yaml"`)
			}
			bad := 0
			for _, name := range c.Args().Slice() {
				err := a.validate(name)
				if err == nil {
					fmt.Fprintf(a.out, "%s: ok\n", name)
					continue
				}
				bad++
				fmt.Fprintln(a.out, err)
			}
			if bad > 0 {
				return cli.Exit("", exitFaults)
			}
			return nil
		},
	}
}

func (a *app) validate(name string) error {
	data, err := a.read(name)
	if err != nil {
		return err
	}
	_, err = file.Parse(name, data)
	return err
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
