// Package flags reads command lines as people write them, and says what is
// wrong with them.
package flags

import (
	"errors"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// First puts the flags of a command line before the command's arguments: people
// write them behind those too, where the library takes them for more arguments.
func First(c *cli.App, args []string) []string {
	commands, i := c.Commands, 1
	var leaf *cli.Command
	for ; i < len(args) && len(commands) > 0; i++ {
		k := slices.IndexFunc(commands, func(cmd *cli.Command) bool { return cmd.HasName(args[i]) })
		if k < 0 {
			return args
		}
		leaf, commands = commands[k], commands[k].Subcommands
	}
	if leaf == nil {
		return args
	}
	takesValue := func(arg string) bool {
		name := strings.TrimLeft(arg, "-")
		for _, f := range leaf.Flags {
			if _, isBool := f.(*cli.BoolFlag); slices.Contains(f.Names(), name) {
				return !isBool
			}
		}
		return false
	}
	head := args[:i]
	var flags, rest []string
	for ; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "--":
			rest = append(rest, args[i+1:]...)
			i = len(args)
		case len(arg) < 2 || arg[0] != '-':
			rest = append(rest, arg)
		default:
			flags = append(flags, arg)
			if !takesValue(arg) {
				continue
			}
			if i++; i == len(args) {
				return slices.Concat(head, flags) // for the library to miss the value
			}
			flags = append(flags, args[i])
		}
	}
	return slices.Concat(head, flags, []string{"--"}, rest)
}

// Faults is the error of all, each on a line of its own; nil of none.
func Faults(errs ...error) error {
	err := errors.Join(errs...)
	if err == nil || !strings.Contains(err.Error(), "\n") {
		return err
	}
	return errors.New("the command line is wrong:\n  " + strings.ReplaceAll(err.Error(), "\n", "\n  "))
}
