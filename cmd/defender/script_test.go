package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs the scripts of testdata/script: the defender as a user
// meets it.
//
//	[root]         as root
//	[merged-usr]   /bin is a link to /usr/bin
//	[gvisor]       the kernel is gVisor's
//
// Besides the ordinary commands there is
//
//	mkscript FILE…   makes files of the archive executable
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Deadline:            time.Now().Add(15 * hangAfter), // or a hang would take all tests with it
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
			e.Setenv("BIN", bin)
			e.Setenv("TMPDIR", e.WorkDir)
			if traced {
				e.Setenv("DEFENDER_SUPERVISOR", "ptrace")
				e.Setenv("TRACED", "1")
			}
			return os.Chmod(e.WorkDir, 0o755)
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Getuid() == 0, nil
			case "gvisor":
				return gvisor, nil
			case "merged-usr":
				link, err := os.Readlink("/bin")
				return err == nil && filepath.Clean("/"+link) == "/usr/bin", nil
			}
			return false, os.ErrInvalid
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mkscript": func(ts *testscript.TestScript, _ bool, args []string) {
				for _, name := range args {
					ts.Check(os.Chmod(ts.MkAbs(name), 0o755))
				}
			},
		},
	})
}
