// Command defender is injected into a container as its entrypoint. It starts
// the original command as its child and supervises it.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/urfave/cli/v2"

	"appdefender/internal/early"
)

// version is set by the build.
var version = "dev"

// Children belong to the thread that forked them: that is the first one, and
// it stays with the main goroutine.
func init() { runtime.LockOSThread() }

func main() {
	app := newApp(os.Stdout, os.Stderr)
	if err := app.cli().Run(os.Args); err != nil {
		fmt.Fprintf(os.Stderr, "defender: %v\n", err)
		var status cli.ExitCoder
		switch {
		case errors.As(err, &status):
			app.exit = status.ExitCode()
		case app.exit == 0:
			app.exit = exitUsage
		}
	}
	early.Finish()
	os.Exit(app.exit)
}
