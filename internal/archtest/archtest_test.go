package archtest

import (
	"io/fs"
	"path/filepath"
	"slices"
	"testing"
)

func TestArrows(t *testing.T) {
	watch(t)
	packages, err := List("../../...")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(packages, func(p Package) bool { return p.ImportPath == module+"/cmd/defender" }) {
		t.Fatalf("cmd/defender is not among the %d packages listed", len(packages))
	}
	for _, fault := range Check(packages) {
		t.Error(fault)
	}
}

// watch opens every folder of the module. "go test" takes a result from its
// cache unless what the test itself opened has changed, and does not see what
// "go list" opens.
func watch(t *testing.T) {
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == ".git" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCheck(t *testing.T) {
	const doc = "Package x does a thing."
	pkg := func(path string, imports ...string) Package {
		return Package{ImportPath: path, Doc: doc, Imports: imports, Deps: imports}
	}
	tests := []struct {
		name string
		pkg  Package
		want []string
	}{
		{"down", pkg("appdefender/cmd/defender", "appdefender/defender", "appdefender/policy", "os"), nil},
		{"into its own folder", pkg("appdefender/defender", "appdefender/defender/supervisor"), nil},
		{"from a child to its parent", pkg("appdefender/policy/file", "appdefender/policy", "os"), nil},
		{"others' packages are not ours to judge", Package{ImportPath: "example.test/x", Imports: []string{"unsafe"}}, nil},
		{"a name that only begins alike", pkg("appdefenderx/policy", "os"), nil},

		{
			"up", pkg("appdefender/audit", "appdefender/defender"),
			[]string{"appdefender/audit: must not import appdefender/defender: arrows point down"},
		},
		{
			"sideways", pkg("appdefender/waas", "appdefender/dnsproxy"),
			[]string{"appdefender/waas: must not import appdefender/dnsproxy: arrows point down"},
		},
		{
			"a folder that only begins alike", pkg("appdefender/policyx"),
			[]string{"appdefender/policyx: is in no layer; give it a place in the table"},
		},
		{
			"up from a test", Package{ImportPath: "appdefender/audit", Doc: doc, TestImports: []string{"appdefender/defender"}},
			[]string{"appdefender/audit: must not import appdefender/defender: arrows point down"},
		},
		{
			"up from an outside test", Package{ImportPath: "appdefender/audit", Doc: doc, XTestImports: []string{"appdefender/cmd/x"}},
			[]string{"appdefender/audit: must not import appdefender/cmd/x: arrows point down"},
		},
		{
			"the demo", pkg("appdefender/cmd/defender", "appdefender/internal/demo"),
			[]string{"appdefender/cmd/defender: must not import appdefender/internal/demo: arrows point down"},
		},
		{
			"no comment", Package{ImportPath: "appdefender/audit"},
			[]string{"appdefender/audit: has no package comment"},
		},
		{
			"the judge's friends", pkg("appdefender/policy", "fmt", "os", "example.test/yaml", "time"),
			[]string{
				"appdefender/policy: must not import example.test/yaml: it knows the standard library alone",
				"appdefender/policy: must not import os: it opens nothing, reads no clock and starts nothing",
				"appdefender/policy: must not import time: it opens nothing, reads no clock and starts nothing",
			},
		},
		{
			"the judge and its own child", pkg("appdefender/policy", "appdefender/policy/file"),
			[]string{"appdefender/policy: must not import appdefender/policy/file: it knows the standard library alone"},
		},
		{
			"policy by a detour",
			Package{ImportPath: "appdefender/defender/supervisor", Doc: doc, Deps: []string{"appdefender/policy"}},
			[]string{"appdefender/defender/supervisor: must not reach appdefender/policy"},
		},
		{
			"a database in every container",
			Package{ImportPath: "appdefender/cmd/defender", Doc: doc, Deps: []string{"modernc.org/sqlite", "appdefender/console/store"}},
			[]string{
				"appdefender/cmd/defender: must not reach appdefender/console/store",
				"appdefender/cmd/defender: must not reach modernc.org/sqlite",
			},
		},
		{
			"unsafe, cgo and system calls", pkg("appdefender/dnsproxy", "C", "unsafe", "golang.org/x/sys/unix"),
			[]string{
				"appdefender/dnsproxy: must not import C: it stays in internal/sys, internal/early, defender/supervisor",
				"appdefender/dnsproxy: must not import golang.org/x/sys/unix: it stays in internal, defender",
				"appdefender/dnsproxy: must not import unsafe: it stays in internal/sys, internal/early, defender/supervisor",
			},
		},
		{"and where they belong", pkg("appdefender/internal/sys", "C", "unsafe", "golang.org/x/sys/unix"), nil},
		{
			"beside where they belong", pkg("appdefender/defender", "unsafe", "golang.org/x/sys/unix"),
			[]string{"appdefender/defender: must not import unsafe: it stays in internal/sys, internal/early, defender/supervisor"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Check([]Package{tt.pkg}); !slices.Equal(got, tt.want) {
				t.Errorf("Check:\n got %q\nwant %q", got, tt.want)
			}
		})
	}
}
