package file

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Errors are all the faults of one policy file.
type Errors struct {
	Name   string  // of the file
	Faults []Fault // at least one, by line and column
}

// Fault is one thing wrong with a policy file.
type Fault struct {
	Line, Col int    // from 1
	Path      string // of the value, e.g. "rules[0].dns.effect"; "" for the file
	Msg       string
}

func newErrors(name string, faults []Fault) *Errors {
	slices.SortStableFunc(faults, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return &Errors{Name: name, Faults: faults}
}

// Error returns a line for each fault, as compilers do, and for one in a script
// the script's line and a caret below:
//
//	policy.yaml:7:15: rules[0].dns.effect: "prevnt" is not an effect; one of disable, alert, prevent, block
func (e *Errors) Error() string {
	var b strings.Builder
	for i, f := range e.Faults {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s:%s", e.Name, f)
	}
	return b.String()
}

// String returns the fault as one line, from its position on.
func (f Fault) String() string {
	if f.Path == "" {
		return fmt.Sprintf("%d:%d: %s", f.Line, f.Col, f.Msg)
	}
	return fmt.Sprintf("%d:%d: %s: %s", f.Line, f.Col, f.Path, f.Msg)
}
