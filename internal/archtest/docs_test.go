package archtest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSupervisionPage holds docs/supervision.md against the tests that it
// names: a test, or with a slash a case that the test's file names. It tells
// of each hazard, in order.
func TestSupervisionPage(t *testing.T) {
	data, err := os.ReadFile("../../docs/supervision.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	files := make(map[string][]string) // with the test, by its name
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == ".git" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(text, -1) {
			files[string(m[1])] = append(files[string(m[1])], string(text))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Test\\w+)(/[^`]+)?`").FindAllStringSubmatch(page, -1)
	if len(named) < 150 {
		t.Errorf("it names %d tests", len(named))
	}
	for _, m := range named {
		found := false
		for _, text := range files[m[1]] {
			found = found || m[2] == "" || strings.Contains(text, fmt.Sprintf("%q", m[2][1:]))
		}
		if !found {
			t.Errorf("there is no test %s%s", m[1], m[2])
		}
	}
	next := 1
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, fmt.Sprintf("| H%d |", next)) {
			next++
		}
	}
	if next != 72 {
		t.Errorf("hazard H%d is missing", next)
	}
}
