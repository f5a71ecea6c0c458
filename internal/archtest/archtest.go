// Package archtest keeps the arrows of ARCHITECTURE.md: which package may
// import which, what no program may link, and where unsafe, cgo and raw system
// calls may be written. Its tests read the packages as "go list" tells them.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
)

// module is our module's path.
const module = "appdefender"

// Package is what "go list -json" says about one package.
type Package struct {
	ImportPath   string
	Name         string
	Doc          string // the first sentence of the package comment
	Standard     bool   // of the standard library
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string // what is imported, and what that imports
}

// inModule returns the package's folder in our module, "" for the top.
func inModule(importPath string) (dir string, ok bool) {
	if importPath == module {
		return "", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

// List returns the packages that match the patterns and all that they import.
func List(patterns ...string) ([]Package, error) {
	cmd := exec.Command("go", append([]string{"list", "-deps", "-json"}, patterns...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing packages: %w\n%s", err, &stderr)
	}
	var list []Package
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p Package
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			return list, nil
		case err != nil:
			return nil, fmt.Errorf("listing packages: %w", err)
		}
		list = append(list, p)
	}
}

// layers are our folders from top to bottom. A package may import what lies
// in lower layers or in its own folder of this table. Two folders of one layer
// know nothing of each other.
var layers = [][]string{
	{"cmd", "internal/demo", "internal/archtest", "internal/platforms", "internal/endtoend", "internal/bench"},
	{"console", "defender"},
	{"inject", "wire", "dnsproxy", "waas"},
	{"audit"},
	{"policy"},
	{"internal/early", "internal/sys", "internal/runner", "internal/browser", "internal/containers"},
}

// walls are what a package must not reach, by whatever way. The first element
// of a wall is a folder of ours, with all below it; the others are folders of
// ours or packages of others, each with all below.
var walls = [][]string{
	{"defender/supervisor", "policy", "audit", "dnsproxy", "waas", "wire"},
	{"defender/child", "policy", "audit", "dnsproxy", "waas", "wire"},
	{"dnsproxy", "audit", "wire"},
	{"policy", "audit", "wire", "internal/early", "internal/sys", "golang.org/x/sys"},
	{"cmd", "internal/runner", "internal/browser", "internal/containers"}, // for the demo and for tests
	{
		"cmd/defender", "console", "inject", "github.com/corazawaf", "database/sql", "modernc.org",
		"github.com/jackc", "github.com/pressly", "github.com/prometheus", "github.com/moby",
		"github.com/google/go-containerregistry", "html/template", "testing",
	},
}

// pure are the package that decides and the language that it speaks: they may
// import the standard library, but nothing of it that reaches outside, and the
// first the second.
var pure = []string{"policy", "policy/rules"}

// outside is what a pure package has no use for.
var outside = []string{
	"os", "net", "net/http", "io/fs", "time", "syscall", "log", "context", "sync", "runtime",
	"math/rand", "math/rand/v2", "crypto/rand",
}

// homes are the only folders of ours where a package may be imported.
var homes = map[string][]string{
	"unsafe":                {"internal/sys", "internal/early", "defender/supervisor"},
	"C":                     {"internal/sys", "internal/early", "defender/supervisor"},
	"golang.org/x/sys/unix": {"internal", "defender"},
}

// Check returns every fault of the packages, one a line, in a fixed order.
func Check(packages []Package) []string {
	var faults []string
	for i := range packages {
		p := &packages[i]
		dir, ours := inModule(p.ImportPath)
		if !ours {
			continue
		}
		add := func(format string, args ...any) {
			faults = append(faults, p.ImportPath+": "+fmt.Sprintf(format, args...))
		}
		if p.Doc == "" {
			add("has no package comment")
		}
		checkLayer(p, dir, add)
		checkWalls(p, dir, add)
		checkPure(p, dir, add)
		checkHomes(p, dir, add)
	}
	slices.Sort(faults)
	return slices.Compact(faults)
}

type report func(format string, args ...any)

// checkLayer looks at tests too: a test that imports upward ties the package
// to its users just as well.
func checkLayer(p *Package, dir string, add report) {
	from, home := layerOf(dir)
	if home == "" {
		add("is in no layer; give it a place in the table")
		return
	}
	for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
		to, ours := inModule(imported)
		if !ours || under(to, home) {
			continue
		}
		if layer, _ := layerOf(to); layer <= from {
			add("must not import %s: arrows point down", imported)
		}
	}
}

// layerOf returns the index of a folder's layer and its folder of the table,
// or "" if it has none.
func layerOf(dir string) (int, string) {
	for i, layer := range layers {
		for _, home := range layer {
			if under(dir, home) {
				return i, home
			}
		}
	}
	return -1, ""
}

func checkWalls(p *Package, dir string, add report) {
	for _, wall := range walls {
		if !under(dir, wall[0]) {
			continue
		}
		for _, dep := range p.Deps {
			name, ours := inModule(dep)
			if !ours {
				name = dep
			}
			for _, forbidden := range wall[1:] {
				if under(name, forbidden) {
					add("must not reach %s", dep)
				}
			}
		}
	}
}

func checkPure(p *Package, dir string, add report) {
	if !slices.Contains(pure, dir) {
		return
	}
	for _, imported := range p.Imports {
		switch {
		case dir == "policy" && imported == module+"/policy/rules":
		case strings.Contains(strings.Split(imported, "/")[0], "."), under(imported, module):
			add("must not import %s: it knows the standard library alone", imported)
		case slices.Contains(outside, imported):
			add("must not import %s: it opens nothing, reads no clock and starts nothing", imported)
		}
	}
}

func checkHomes(p *Package, dir string, add report) {
	for _, imported := range p.Imports {
		folders, ok := homes[imported]
		if ok && !slices.ContainsFunc(folders, func(home string) bool { return under(dir, home) }) {
			add("must not import %s: it stays in %s", imported, strings.Join(folders, ", "))
		}
	}
}

// under reports whether a path is a folder or below it.
func under(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}
