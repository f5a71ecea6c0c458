package policy

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The page about policies has every attribute of custom rules, and no other.
func TestDocumentedAttributes(t *testing.T) {
	page, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, tables, found := strings.Cut(string(page), "Attributes of every type:")
	tables, _, end := strings.Cut(tables, "\n## ")
	if !found || !end {
		t.Fatal("no attributes")
	}
	var rows []string
	for line := range strings.SplitSeq(tables, "\n") {
		if strings.HasPrefix(line, "| `") {
			rows = append(rows, line)
		}
	}
	name := regexp.MustCompile("`((?:proc|file|net|dns|app|container)\\.[a-z0-9_]+)`")
	namesOf := func(rows ...string) (names []string) {
		for _, m := range name.FindAllStringSubmatch(strings.Join(rows, "\n"), -1) {
			names = append(names, m[1])
		}
		return names
	}
	var common []string
	for _, row := range rows {
		if !slices.ContainsFunc(customTypes, func(c customType) bool { return strings.HasPrefix(row, "| `"+c.name+"`") }) {
			common = append(common, namesOf(row)...)
		}
	}
	for _, c := range customTypes {
		documented := slices.Clone(common)
		for _, row := range rows {
			if strings.HasPrefix(row, "| `"+c.name+"`") {
				documented = append(documented, namesOf(row)...)
			}
		}
		var real []string
		for name := range c.schema.Attributes {
			real = append(real, name)
		}
		slices.Sort(documented)
		slices.Sort(real)
		if !slices.Equal(documented, real) {
			t.Errorf("%s:\ndocumented %q\nreal       %q", c.name, documented, real)
		}
	}
}
