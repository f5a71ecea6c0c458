package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// kind is the kind of a JSON value, by its first byte; numbers are '0' and
// both booleans 't'.
type kind byte

const (
	isObject kind = '{'
	isArray  kind = '['
	isString kind = '"'
	isNumber kind = '0'
	isBool   kind = 't'
	isNull   kind = 'n'
)

func (k kind) String() string {
	return map[kind]string{
		isObject: "an object", isArray: "a list", isString: "a string",
		isNumber: "a number", isBool: "a boolean", isNull: "null",
	}[k]
}

// node is a value of a document and where it stands: data[start:end].
type node struct {
	kind       kind
	start, end int
	path       string // for people: containerDefinitions[0].image
	text       string // of a string
	members    []member
	elems      []*node
}

// member is a key of an object and its value.
type member struct {
	key   string
	start int // of the key
	value *node
}

// get returns the value of a key, or nil. A nil node has no keys.
func (n *node) get(key string) *node {
	if n == nil {
		return nil
	}
	for _, m := range n.members {
		if m.key == key {
			return m.value
		}
	}
	return nil
}

// none reports whether a list or object says nothing: for the platform an
// absent one, null, [] and {} are the same.
func (n *node) none() bool {
	return n == nil || n.kind == isNull ||
		(n.kind == isArray || n.kind == isObject) && len(n.elems) == 0 && len(n.members) == 0
}

// parse reads a JSON document. Of a key that stands twice in an object one
// reader sees the first value and another the last, so that is a fault.
func parse(data []byte) (*node, error) {
	if !utf8.Valid(data) {
		return nil, &Errors{Faults: []Fault{{"", "is not UTF-8"}}}
	}
	var any json.RawMessage
	if err := json.Unmarshal(data, &any); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			line, col := position(data, int(syntax.Offset)-1)
			err = fmt.Errorf("line %d, column %d: %w", line, col, err)
		}
		return nil, &Errors{Faults: []Fault{{"", "is not JSON: " + err.Error()}}}
	}
	s := scanner{data: data}
	root := s.value("")
	return root, s.faults.err()
}

func position(data []byte, offset int) (line, col int) {
	before := data[:max(0, min(offset, len(data)))]
	return 1 + bytes.Count(before, []byte("\n")), len(before) - bytes.LastIndexByte(before, '\n')
}

// scanner makes the tree of a document that is known to be valid.
type scanner struct {
	data   []byte
	pos    int
	faults faults
}

func (s *scanner) space() byte {
	for strings.IndexByte(" \t\r\n", s.data[s.pos]) >= 0 {
		s.pos++
	}
	return s.data[s.pos]
}

func (s *scanner) value(path string) *node {
	first := s.space()
	n := &node{kind: kind(first), start: s.pos, path: path}
	switch n.kind {
	case isObject:
		s.object(n)
	case isArray:
		s.pos++
		for s.space() != ']' {
			n.elems = append(n.elems, s.value(path+"["+strconv.Itoa(len(n.elems))+"]"))
			if s.space() == ',' {
				s.pos++
			}
		}
		s.pos++
	case isString:
		n.text = s.text()
	default:
		for s.pos < len(s.data) && strings.IndexByte(" \t\r\n,]}", s.data[s.pos]) < 0 {
			s.pos++
		}
		switch {
		case n.kind == 'f':
			n.kind = isBool
		case n.kind == '-' || n.kind >= '0' && n.kind <= '9':
			n.kind = isNumber
		}
	}
	n.end = s.pos
	return n
}

func (s *scanner) object(n *node) {
	s.pos++
	seen := make(map[string]bool)
	for s.space() != '}' {
		m := member{start: s.pos}
		m.key = s.text()
		path := join(n.path, m.key)
		if seen[m.key] {
			s.faults.add(path, "is there twice")
		}
		seen[m.key] = true
		s.space()
		s.pos++ // the colon
		m.value = s.value(path)
		n.members = append(n.members, m)
		if s.space() == ',' {
			s.pos++
		}
	}
	s.pos++
}

func (s *scanner) text() string {
	start := s.pos
	for s.pos++; s.data[s.pos] != '"'; s.pos++ {
		if s.data[s.pos] == '\\' {
			s.pos++
		}
	}
	s.pos++
	var text string
	_ = json.Unmarshal(s.data[start:s.pos], &text) // valid, by parse
	return text
}

// join appends a key to a path.
func join(path, key string) string {
	plain := key != "" && strings.IndexFunc(key, func(r rune) bool {
		return r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) < 0
	switch {
	case !plain:
		return path + "[" + strconv.Quote(key) + "]"
	case path == "":
		return key
	}
	return path + "." + key
}

// editor changes a document by cutting and inserting text, so that everything
// else stays as it is, byte for byte.
type editor struct {
	data    []byte
	edits   []edit
	changed []string // paths
}

type edit struct {
	start, end int
	text       string
}

func (e *editor) splice(path string, start, end int, text string) {
	e.edits = append(e.edits, edit{start, end, text})
	e.changed = append(e.changed, path)
}

// bytes returns the document with all edits made. Edits must not overlap; of
// those at one place the first made comes first.
func (e *editor) bytes() []byte {
	slices.SortStableFunc(e.edits, func(a, b edit) int { return a.start - b.start })
	var out []byte
	pos := 0
	for _, d := range e.edits {
		out = append(out, e.data[pos:d.start]...)
		out = append(out, d.text...)
		pos = d.end
	}
	return append(out, e.data[pos:]...)
}

// replace puts a new value in the place of n.
func (e *editor) replace(n *node, text string) { e.splice(n.path, n.start, n.end, text) }

// prepend inserts values before the first of a list that has some.
func (e *editor) prepend(list *node, values []any) {
	st := e.styleIn(list)
	var b strings.Builder
	for _, v := range values {
		b.WriteString(st.encode(v))
		b.WriteString(st.comma())
	}
	e.splice(list.path, list.elems[0].start, list.elems[0].start, b.String())
}

// append inserts values after the last of a list that has some.
func (e *editor) append(list *node, values []any) {
	st := e.styleIn(list)
	var b strings.Builder
	for _, v := range values {
		b.WriteString(st.comma())
		b.WriteString(st.encode(v))
	}
	end := list.elems[len(list.elems)-1].end
	e.splice(list.path, end, end, b.String())
}

// addMember gives an object that has some members another one.
func (e *editor) addMember(object *node, key string, value any) {
	st := e.styleIn(object)
	end := object.members[len(object.members)-1].value.end
	e.splice(join(object.path, key), end, end, st.comma()+quote(key)+st.colon+st.encode(value))
}

// removeMembers is the reverse of addMember.
func (e *editor) removeMembers(object *node, keys map[string]bool) {
	leading := true
	for i, m := range object.members {
		switch {
		case !keys[m.key]:
			leading = false
		case !leading:
			e.splice(m.value.path, object.members[i-1].value.end, m.value.end, "")
		case i+1 < len(object.members):
			e.splice(m.value.path, m.start, object.members[i+1].start, "")
		default:
			e.splice(m.value.path, m.start, m.value.end, "")
		}
	}
}

// removeElems is the reverse of prepend and append: it takes the elements out
// that ours picks, which must not be all of them.
func (e *editor) removeElems(list *node, ours func(*node) bool) {
	leading := true
	for i, el := range list.elems {
		switch {
		case !ours(el):
			leading = false
		case leading:
			e.splice(list.path, el.start, list.elems[i+1].start, "")
		default:
			e.splice(list.path, list.elems[i-1].end, el.end, "")
		}
	}
}
