// Package file reads policy files, in YAML or JSON.
//
// It is strict, for a typo in a policy must not weaken it: an unknown key, a
// value of the wrong type or an entry nobody can read is a fault. Every fault
// is reported, each with its line, column and path, and a file with a fault
// gives no policy at all.
//
// JSON is read as the YAML it nearly is, with the same faults and positions.
package file

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"go.yaml.in/yaml/v4"

	"appdefender/policy"
)

// A policy of 10,000 domains has a fortieth of maxSize, in bytes, and a
// twenty-fifth of maxMarks. The parser takes up to 3 KB of memory for a mark:
// without their bound, 16 MiB of commas take about 8 GB.
const (
	maxSize  = 16 << 20
	maxMarks = 1 << 18
)

//go:embed default.yaml
var defaultPolicy []byte

// Default returns the shipped policy, which holds where no other is given.
func Default() *policy.Policy {
	p, err := Parse("default.yaml", defaultPolicy)
	if err != nil {
		panic(err) // a test reads it
	}
	return p
}

// DefaultText returns the shipped policy as a file, with its comments.
func DefaultText() []byte { return bytes.Clone(defaultPolicy) }

// Load reads the policy file at path. The error is an [*Errors] if the file
// could be read but has faults.
func Load(path string) (*policy.Policy, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading policy: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1)) // Parse refuses what is longer
	if err != nil {
		return nil, fmt.Errorf("reading policy: %w", err)
	}
	return Parse(path, data)
}

// Parse reads the policy in data. The error is an [*Errors], in which the
// file is called name.
func Parse(name string, data []byte) (*policy.Policy, error) {
	p, _, err := ParseNotes(name, data)
	return p, err
}

// ParseNotes is Parse, and returns what the policy asks for and cannot have,
// such as effects that are less than what is written.
func ParseNotes(name string, data []byte) (*policy.Policy, []Fault, error) {
	var d decoder
	p := d.policy(data)
	if len(d.faults) > 0 {
		return nil, nil, newErrors(name, d.faults)
	}
	return p, d.notes, nil
}

// policy decodes and validates data. If it adds no fault, the policy has none.
func (d *decoder) policy(data []byte) *policy.Policy {
	if len(data) > maxSize {
		d.faults = append(d.faults, Fault{1, 1, "", fmt.Sprintf("larger than %d MiB", maxSize>>20)})
		return nil
	}
	if wide(data) {
		d.faults = append(d.faults, Fault{1, 1, "", "the file is in UTF-16 or UTF-32; save it as UTF-8"})
		return nil
	}
	if marks(data) > maxMarks {
		d.faults = append(d.faults, Fault{1, 1, "", fmt.Sprintf("more than %d lines, commas and brackets", maxMarks)})
		return nil
	}
	root := d.document(data)
	if root == nil {
		return nil
	}
	p := new(policy.Policy)
	d.root(root, p)
	toASCII(p)
	positions := newLocator(root)
	for _, f := range p.Validate() {
		if !d.isSpoiled(f.Path) {
			line, col := positions.position(f.Path)
			d.faults = append(d.faults, Fault{line, col, f.Path, f.Msg})
		}
	}
	if len(d.faults) == 0 {
		for _, f := range p.Notes() {
			line, col := positions.position(f.Path)
			d.notes = append(d.notes, Fault{line, col, f.Path, f.Msg})
		}
	}
	return p
}

// wide reports whether a text has more bytes than one for each ASCII character:
// it begins with a mark that says so, or with a zero beside the first character.
func wide(data []byte) bool {
	return bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) || bytes.IndexByte(data[:min(len(data), 4)], 0) >= 0
}

// marks counts the bytes without which YAML begins no value but the first: line
// ends, commas, opening brackets, and the indicators "- " and "? ". Those in
// strings and comments count too, so it is an upper bound.
func marks(data []byte) int {
	n := 0
	for i, c := range data {
		switch c {
		case '\n', '\r', ',', '[', '{':
			n++
		case ' ', '\t':
			if i > 0 && (data[i-1] == '-' || data[i-1] == '?') {
				n++
			}
		}
	}
	return n
}

// document parses data, which must be one document, and returns its root or
// nil.
func (d *decoder) document(data []byte) *yaml.Node {
	if bytes.IndexByte(data, '\t') >= 0 && json.Valid(data) {
		// YAML has no tabs before a value. In JSON they stand only between
		// tokens, and a space is as wide.
		data = bytes.ReplaceAll(data, []byte{'\t'}, []byte{' '})
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		d.syntax(err, data)
		return nil
	}
	var first, next yaml.Node
	switch err := loader.Load(&first); {
	case errors.Is(err, io.EOF):
		d.faults = append(d.faults, Fault{1, 1, "", "empty; a policy begins with version: 1"})
		return nil
	case err != nil:
		d.syntax(err, data)
		return nil
	}
	switch err := loader.Load(&next); {
	case errors.Is(err, io.EOF):
	case err != nil:
		d.syntax(err, data)
	default:
		d.faults = append(d.faults, Fault{next.Line, next.Column, "", "another document; a policy file holds one"})
	}
	root := &first
	if root.Kind == yaml.DocumentNode {
		root = root.Content[0]
	}
	return root
}

// syntax adds the fault of a file that is no YAML. The parser stops at it, so
// there is only one.
func (d *decoder) syntax(err error, data []byte) {
	f := Fault{1, 1, "", err.Error()}
	var at *yaml.LoadError
	if errors.As(err, &at) {
		f = Fault{max(at.Mark.Line, 1), max(at.Mark.Column, 1), "", at.Message}
	}
	n := 0
	for line := range bytes.Lines(data) {
		indent := line[:len(line)-len(bytes.TrimLeft(line, " \t"))]
		if n++; n == f.Line && bytes.IndexByte(indent, '\t') >= 0 {
			f.Msg = "a tab; YAML is indented by spaces"
		}
	}
	d.faults = append(d.faults, f)
}
