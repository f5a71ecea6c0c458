package file

import (
	"encoding"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"appdefender/policy"
)

// maxAliased bounds the values that aliases may add to a file. Without it a
// few kilobytes of aliases to aliases stand for more than memory holds.
const maxAliased = 100_000

// decoder fills the policy types from nodes and collects every fault on the
// way. The types are the schema: a field's yaml tag is its key, and what has
// no field is unknown.
type decoder struct {
	faults []Fault
	notes  []Fault

	// spoiled are the paths of values that were not decoded. What Validate
	// finds there or below is the consequence of a fault reported already.
	spoiled map[string]bool

	aliased int // values decoded inside of aliases
	inAlias int // aliases around the current node
}

// add reports a fault at a node.
func (d *decoder) add(n *yaml.Node, path, format string, args ...any) {
	d.faults = append(d.faults, Fault{n.Line, n.Column, path, fmt.Sprintf(format, args...)})
}

// spoil reports a fault because of which the value at path was not decoded.
func (d *decoder) spoil(n *yaml.Node, path, format string, args ...any) {
	d.add(n, path, format, args...)
	d.markSpoiled(path)
}

func (d *decoder) markSpoiled(path string) {
	if d.spoiled == nil {
		d.spoiled = make(map[string]bool)
	}
	d.spoiled[path] = true
}

// isSpoiled reports whether path or a parent of it was not decoded.
func (d *decoder) isSpoiled(path string) bool {
	for {
		if d.spoiled[path] {
			return true
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return d.spoiled[""]
		}
		path = path[:cut]
	}
}

// root decodes the whole file.
func (d *decoder) root(n *yaml.Node, p *policy.Policy) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		d.spoil(n, "", "empty; a policy begins with version: 1")
		return
	}
	d.value(n, "", reflect.ValueOf(p).Elem())
}

// value decodes a node into v, which must be settable.
func (d *decoder) value(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind == yaml.AliasNode {
		d.inAlias++
		defer func() { d.inAlias-- }()
		n = n.Alias
	}
	if d.inAlias > 0 {
		switch d.aliased++; {
		case d.aliased == maxAliased+1:
			d.spoil(n, path, "too much: the file's aliases stand for more than %d values", maxAliased)
			return
		case d.aliased > maxAliased:
			d.markSpoiled(path)
			return
		}
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		d.spoil(n, path, "empty; leave it out or give it a value")
		return
	}
	if v.Kind() == reflect.Pointer {
		fresh := reflect.New(v.Type().Elem())
		if text, ok := fresh.Interface().(encoding.TextUnmarshaler); ok {
			if d.text(n, path, text) {
				v.Set(fresh)
			}
			return
		}
		v.Set(fresh)
		v = fresh.Elem()
	}
	switch v.Kind() {
	case reflect.Struct:
		d.mapping(n, path, v)
	case reflect.Slice:
		d.sequence(n, path, v)
	case reflect.String:
		// A port is an integer to YAML; it is taken as written.
		if tag := n.ShortTag(); n.Kind == yaml.ScalarNode && (tag == "!!str" || tag == "!!int") {
			v.SetString(n.Value)
		} else {
			d.mismatch(n, path, "a string")
		}
	case reflect.Bool:
		if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" {
			v.SetBool(strings.EqualFold(n.Value, "true"))
		} else {
			d.mismatch(n, path, "true or false")
		}
	case reflect.Int:
		i, err := strconv.Atoi(n.Value)
		if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" && err == nil {
			v.SetInt(int64(i))
		} else {
			d.mismatch(n, path, "a decimal integer")
		}
	default:
		panic("policy has a field of type " + v.Type().String()) // a test reads them all
	}
}

// text decodes a scalar that has its own words, such as an effect.
func (d *decoder) text(n *yaml.Node, path string, v encoding.TextUnmarshaler) bool {
	if n.Kind != yaml.ScalarNode {
		d.mismatch(n, path, "a word")
		return false
	}
	if err := v.UnmarshalText([]byte(n.Value)); err != nil {
		d.spoil(n, path, "%s", err)
		return false
	}
	if n.ShortTag() != "!!str" { // !secret prevent
		d.mismatch(n, path, "a word")
		return false
	}
	return true
}

// mapping decodes a mapping into a struct.
func (d *decoder) mapping(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.mismatch(n, path, "a mapping (key: value)")
		return
	}
	fields := fieldsOf(v.Type())
	lines := make(map[string]int) // of the keys seen
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name := resolve(key)
		if name.Kind != yaml.ScalarNode || name.ShortTag() != "!!str" && name.ShortTag() != "!!merge" {
			d.add(key, path, "%s as a key; keys are strings", describe(name))
			continue
		}
		at := join(path, name.Value)
		if line, twice := lines[name.Value]; twice {
			d.add(key, at, "a second time; first in line %d", line)
			continue
		}
		lines[name.Value] = key.Line
		if field, ok := fields.index[name.Value]; ok {
			d.value(value, at, v.Field(field))
		} else {
			d.unknown(key, path, name.Value, fields)
		}
	}
}

// sequence decodes a sequence into a slice. An item with a fault keeps its
// place, so that the others keep their index.
func (d *decoder) sequence(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.mismatch(n, path, "a list")
		return
	}
	if d.inAlias > 0 && len(n.Content) > maxAliased { // before memory is taken for it
		d.aliased = max(d.aliased, maxAliased)
		d.value(n, path, v)
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		d.value(item, path+"["+strconv.Itoa(i)+"]", v.Index(i))
	}
}

// unknown reports a key that its mapping, which is at path, does not have.
func (d *decoder) unknown(key *yaml.Node, path, name string, known fields) {
	at := join(path, name)
	nearest := known.nearest(name)
	switch {
	case name == "<<":
		d.add(key, at, "merge keys are not supported; repeat the keys or use an alias for the whole value")
	case nearest != "":
		d.add(key, at, "unknown key; did you mean %q?", nearest)
		d.markSpoiled(join(path, nearest)) // do not call it missing as well
	default:
		d.add(key, at, "unknown key; one of %s", strings.Join(known.names, ", "))
	}
}

// mismatch reports a value of another type than wanted.
func (d *decoder) mismatch(n *yaml.Node, path, want string) {
	hint := ""
	switch {
	case n.Kind != yaml.ScalarNode:
	case want == "a string":
		hint = fmt.Sprintf("; write %q in quotes", n.Value)
	case want == "a list":
		hint = fmt.Sprintf("; write [%q]", n.Value)
	}
	d.spoil(n, path, "%s; want %s%s", describe(n), want, hint)
}

// describe says for people what a node is.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch tag := n.ShortTag(); tag {
	case "!!str":
		return "a string"
	case "!!int":
		return "an integer"
	case "!!float":
		return "a number"
	case "!!bool":
		return "a boolean"
	case "!!timestamp":
		return "a date"
	case "!!null":
		return "nothing"
	default:
		return fmt.Sprintf("a value of type %q", tag)
	}
}

// fields are the keys of a struct.
type fields struct {
	names []string // in order of declaration
	index map[string]int
}

func fieldsOf(t reflect.Type) fields {
	f := fields{index: make(map[string]int)}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		f.names = append(f.names, name)
		f.index[name] = i
	}
	return f
}

// nearest returns the key that a mistyped name most likely means, or "".
func (f fields) nearest(name string) string { return Nearest(name, f.names) }

// Nearest returns the name that a mistyped one most likely means, or "".
func Nearest(name string, names []string) string {
	best, least := "", 3 // two slips of the finger at most
	for _, known := range names {
		slips := distance(strings.ToLower(name), strings.ToLower(known))
		if slips < least && slips*2 < len(known) {
			best, least = known, slips
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour to make b of a. Names of very different length are simply far.
func distance(a, b string) int {
	const far = 99
	if len(a) > len(b)+2 || len(b) > len(a)+2 {
		return far
	}
	before := make([]int, len(b)+1) // the row of a[:i-2]
	above := make([]int, len(b)+1)  // of a[:i-1]
	row := make([]int, len(b)+1)    // of a[:i]
	for j := range above {
		above[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above, row = above, row, before
	}
	return above[len(b)]
}

// plain are the keys that a path shows without quotes.
var plain = regexp.MustCompile(`^[A-Za-z0-9_<-]+$`)

// join returns the path of a key. A strange key is quoted: a fault is one
// line, whatever the file says.
func join(path, key string) string {
	if !plain.MatchString(key) {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// resolve returns the node that an alias stands for, or n itself.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// locator finds the positions of values by their paths. It remembers parents,
// so that the faults of a long list do not each walk the file again.
type locator struct {
	root    *yaml.Node
	parents map[string]place
}

// place is where a value stands.
type place struct {
	value *yaml.Node // nil if the file has none
	at    *yaml.Node // what to point at: itself, its key, or its nearest parent
}

func newLocator(root *yaml.Node) *locator {
	return &locator{root: root, parents: map[string]place{"": {root, root}}}
}

// position returns where the value at path begins, or the nearest parent that
// the file has: that is the value itself if it is a scalar or a list item,
// else its key.
func (l *locator) position(path string) (line, col int) {
	at := l.find(path).at
	return at.Line, at.Column
}

func (l *locator) find(path string) place {
	cut := max(strings.LastIndexAny(path, ".["), 0)
	parent, known := l.parents[path[:cut]]
	if !known {
		parent = l.find(path[:cut])
		l.parents[path[:cut]] = parent
	}
	if path == "" || parent.value == nil {
		return parent
	}
	key, value := child(resolve(parent.value), strings.TrimPrefix(path[cut:], "."))
	switch {
	case value == nil:
		return place{nil, parent.at}
	case key != nil && value.Kind != yaml.ScalarNode:
		return place{value, key}
	}
	return place{value, value}
}

// child returns the value of n at one part of a path, "[2]" or a key, with
// the node of the key. It returns nil if n has none.
func child(n *yaml.Node, part string) (key, value *yaml.Node) {
	if number, ok := strings.CutPrefix(part, "["); ok {
		i, err := strconv.Atoi(strings.TrimSuffix(number, "]"))
		if err != nil || n.Kind != yaml.SequenceNode || i >= len(n.Content) {
			return nil, nil
		}
		return nil, n.Content[i]
	}
	if n.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if resolve(n.Content[i]).Value == part {
			return n.Content[i], n.Content[i+1]
		}
	}
	return nil, nil
}
