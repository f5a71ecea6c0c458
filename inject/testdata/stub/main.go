// Command stub stands in for the defender: it installs itself, and starts its
// target without protecting it.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "stub:", err)
		os.Exit(125)
	}
}

func run(args []string) error {
	switch end := slices.Index(args, "--"); {
	case len(args) == 2 && args[0] == "install":
		program, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(args[1], "ca.pem"), []byte(os.Getenv("DEFENDER_INSTALL_CA")), 0o644); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(args[1], "defender"), program, 0o755)
	case args[0] == "run" && end > 0:
		fmt.Printf("stub: process %d\n", os.Getpid())
		for _, e := range os.Environ() {
			if strings.HasPrefix(e, "DEFENDER_") {
				fmt.Println("stub:", e)
			}
		}
		if name := os.Getenv("DEFENDER_CA"); name != "" {
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			fmt.Printf("stub: the CA has %d bytes\n", len(text))
		}
		path, err := exec.LookPath(args[end+1])
		if err != nil {
			return err
		}
		return syscall.Exec(path, args[end+1:], os.Environ())
	}
	return fmt.Errorf("arguments %q are not understood", args)
}
