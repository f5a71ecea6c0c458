package inject

import "strings"

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

// Container is one container of the definition.
type Container struct {
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
	Path string // containerDefinitions[0].entryPoint; "" for the document or an option
	Msg  string
}

// Error returns a line for each fault.
func (e *Errors) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		for _, part := range []string{e.Name, f.Path} {
			if part != "" {
				lines[i] += part + ": "
			}
		}
		lines[i] += f.Msg
	}
	return strings.Join(lines, "\n")
}

// faults collects.
type faults []Fault

func (f *faults) add(path, msg string) { *f = append(*f, Fault{path, msg}) }

// err returns the faults as an error, or nil if there is none.
func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return &Errors{Faults: f}
}
