package flags

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/urfave/cli/v2"

	"appdefender/policy/file"
)

// What the library says of a wrong command line.
var (
	unknownFlag = regexp.MustCompile(`^flag provided but not defined: -(.+)$`)
	noValue     = regexp.MustCompile(`^flag needs an argument: -(.+)$`)
	badValue    = regexp.MustCompile(`^invalid (?:boolean )?value "(.*)" for (?:flag )?-([^:]+): `)
	badVariable = regexp.MustCompile(`^could not parse "(.*)" as .* value from environment variable "([^"]+)" for flag ([^:]+): `)
)

// Explain says what is wrong with a command line, as people write it, and what
// would be right. An error that it does not know it returns.
func Explain(c *cli.Context, err error) error {
	text := err.Error()
	if m := unknownFlag.FindStringSubmatch(text); m != nil {
		said := "there is no flag " + dashed(m[1])
		if near := file.Nearest(m[1], names(c.Command.Flags)); near != "" {
			said += "; did you mean " + dashed(near) + "?"
		}
		return errors.New(said)
	}
	if m := noValue.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("%s: a value is missing; write %[1]s %s", dashed(m[1]), wants(c.Command.Flags, m[1]))
	}
	if m := badValue.FindStringSubmatch(text); m != nil {
		return wrong(c.Command.Flags, dashed(m[2]), m[2], m[1], err)
	}
	if m := badVariable.FindStringSubmatch(text); m != nil {
		return wrong(c.Command.Flags, m[2], m[3], m[1], err)
	}
	return err
}

// wrong says what a value should have been that stands at a flag or in its
// variable.
func wrong(flags []cli.Flag, where, name, value string, err error) error {
	switch find(flags, name).(type) {
	case *cli.BoolFlag:
		return fmt.Errorf("%s: %q is neither true nor false", where, value)
	case *cli.IntFlag:
		return fmt.Errorf("%s: %q is no whole number, such as 50", where, value)
	case *cli.DurationFlag:
		return fmt.Errorf("%s: %q is no duration, such as 15s or 5m", where, value)
	}
	return err
}

// wants is what stands for a flag's value in its help.
func wants(flags []cli.Flag, name string) string {
	if f, ok := find(flags, name).(cli.DocGenerationFlag); ok {
		if _, rest, found := strings.Cut(f.GetUsage(), "`"); found {
			if word, _, closed := strings.Cut(rest, "`"); closed {
				return word
			}
		}
		if value := f.GetValue(); value != "" {
			return value
		}
	}
	return "VALUE"
}

func find(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		for _, known := range f.Names() {
			if known == name {
				return f
			}
		}
	}
	return nil
}

func names(flags []cli.Flag) []string {
	var all []string
	for _, f := range flags {
		all = append(all, f.Names()...)
	}
	return all
}

// dashed is a flag as it is written.
func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}
