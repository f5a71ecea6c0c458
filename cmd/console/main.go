// Command console is the server that Defenders get their policy from and send
// their audits to, and that people look at.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"appdefender/cmd/internal/flags"
)

// version is set by the build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := (&app{in: os.Stdin, out: os.Stdout, err: os.Stderr}).cli()
	if err := c.RunContext(ctx, flags.First(c, os.Args)); err != nil {
		fmt.Fprintf(os.Stderr, "console: %v\n", err)
		if hint := hintOf(err); hint != "" {
			fmt.Fprintf(os.Stderr, "console: hint: %s\n", hint)
		}
		stop()
		os.Exit(1)
	}
}
