package inject

import (
	"fmt"
	"slices"
	"strings"
)

// Report says what was done.
type Report struct {
	AppID      string
	Containers []Container
	Changed    []string // paths, in the order of the document; none if nothing changed
	Notes      []string // what the reader should know, each a sentence

	// Exact says of a removal that the definition is, byte for byte, what it
	// was before it was protected.
	Exact bool
}

func (r *Report) note(sentence string) {
	if !slices.Contains(r.Notes, sentence) {
		r.Notes = append(r.Notes, sentence)
	}
}

// Container is one container of the definition.
type Container struct {
	Group       string // the task, pod or project that it is in
	Name, Image string
	// Argv is what the Defender starts in it: the original command.
	Argv []string
	// Skipped containers are not protected, because the options say so.
	Skipped bool
}

// Errors are all faults of a definition and of the options for it.
type Errors struct {
	Name   string // of the file; "" if it has none
	Faults []Fault
}

// Fault is one thing that is wrong or not understood.
type Fault struct {
	Path      string // containerDefinitions[0].entryPoint; "" for the document or an option
	Line, Col int    // where it stands, from 1; 0 for what stands nowhere
	Msg       string
}

// Error returns a line for each fault.
func (e *Errors) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		if e.Name != "" {
			lines[i] = e.Name + ":"
		}
		if f.Line > 0 {
			lines[i] += fmt.Sprintf("%d:%d:", f.Line, f.Col)
		}
		if lines[i] != "" {
			lines[i] += " "
		}
		if f.Path != "" {
			lines[i] += f.Path + ": "
		}
		lines[i] += f.Msg
	}
	return strings.Join(lines, "\n")
}

// faults collects.
type faults []Fault

// add adds the fault of an option, or of the whole.
func (f *faults) add(path, msg string) { *f = append(*f, Fault{Path: path, Msg: msg}) }

// at adds a fault of what stands at offset.
func (f *faults) at(data []byte, offset int, path, msg string) {
	line, col := position(data, offset)
	*f = append(*f, Fault{Path: path, Line: line, Col: col, Msg: msg})
}

// err returns the faults as an error, or nil if there is none.
func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return &Errors{Faults: f}
}
