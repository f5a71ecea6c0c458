// Command defenderctl is the operator's tool: it embeds the Defender into what
// runs an application, and checks policies.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"
)

// version is set by the build.
var version = "dev"

func main() {
	if err := run(os.Args, os.Stdin, os.Stdout, os.Stderr); err != nil {
		status := exitUsage
		if coded := (cli.ExitCoder)(nil); errors.As(err, &coded) {
			status = coded.ExitCode()
		}
		if text := err.Error(); text != "" {
			fmt.Fprintf(os.Stderr, "defenderctl: %s\n", text)
		}
		os.Exit(status)
	}
}
