package flags

import (
	"io"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestExplain(t *testing.T) {
	command := func() *cli.App {
		return &cli.App{
			Name: "tool", Writer: io.Discard, ErrWriter: io.Discard, ExitErrHandler: func(*cli.Context, error) {},
			Commands: []*cli.Command{{
				Name: "do",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "policy", Usage: "the policy `FILE`"},
					&cli.StringFlag{Name: "level", Usage: "how much", Value: "auto"},
					&cli.IntFlag{Name: "limit", Aliases: []string{"n"}, Usage: "at most `N`", EnvVars: []string{"TOOL_LIMIT"}},
					&cli.DurationFlag{Name: "wait", Usage: "for `DURATION`", EnvVars: []string{"TOOL_WAIT"}},
					&cli.BoolFlag{Name: "dry-run", EnvVars: []string{"TOOL_DRY_RUN"}},
				},
				OnUsageError: func(c *cli.Context, err error, _ bool) error { return Explain(c, err) },
				Action:       func(*cli.Context) error { return nil },
			}},
		}
	}
	for _, c := range []struct {
		variable, value string
		args            []string
		want            string
	}{
		{"", "", []string{"--policy", "x", "-n", "5", "--wait", "5s"}, ""},
		{"", "", []string{"--polcy", "x"}, "there is no flag --polcy; did you mean --policy?"},
		{"", "", []string{"-polcy", "x"}, "there is no flag --polcy; did you mean --policy?"},
		{"", "", []string{"--colour"}, "there is no flag --colour"},
		{"", "", []string{"-z"}, "there is no flag -z"},
		{"", "", []string{"--policy"}, "--policy: a value is missing; write --policy FILE"},
		{"", "", []string{"--level"}, `--level: a value is missing; write --level auto`},
		{"", "", []string{"-n"}, "-n: a value is missing; write -n N"},
		{"", "", []string{"-n", "many"}, `-n: "many" is no whole number, such as 50`},
		{"", "", []string{"--wait=5"}, `--wait: "5" is no duration, such as 15s or 5m`},
		{"", "", []string{"--dry-run=maybe"}, `--dry-run: "maybe" is neither true nor false`},
		{"TOOL_LIMIT", "all", nil, `TOOL_LIMIT: "all" is no whole number, such as 50`},
		{"TOOL_WAIT", "5", nil, `TOOL_WAIT: "5" is no duration, such as 15s or 5m`},
		{"TOOL_DRY_RUN", "ja", nil, `TOOL_DRY_RUN: "ja" is neither true nor false`},
	} {
		if c.variable != "" {
			t.Setenv(c.variable, c.value)
		}
		app := command()
		err := app.Run(First(app, append([]string{"tool", "do"}, c.args...)))
		if got := text(err); got != c.want {
			t.Errorf("%q %s=%s: %q, want %q", c.args, c.variable, c.value, got, c.want)
		}
		if c.variable != "" {
			t.Setenv(c.variable, "")
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
