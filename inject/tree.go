package inject

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// kind is the kind of a value, by the first byte it has in JSON; numbers are
// '0' and both booleans 't'.
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

// node is a value of a document, JSON or YAML, and where it stands:
// data[start:end]. Of a YAML value that is a block, end is behind its last
// character; comments and blank lines after that are nobody's.
type node struct {
	kind       kind
	start, end int
	inner      int    // of a collection: where it begins behind tag and anchor
	path       string // for people: containerDefinitions[0].image
	text       string // of a scalar
	tag        string // of YAML's own kind, such as !Sub; "" else
	members    []member
	elems      []*node
	dashes     []int // of a YAML block list: where the "-" of each element is

	block    bool  // a YAML block, not in brackets
	alias    bool  // YAML's *name: what it stands for is elsewhere
	shared   bool  // an alias stands for this, or for what it is in
	implicit bool  // a mapping of YAML without its braces: [a: b]
	merged   *node // what "<<" of a YAML mapping brings
}

// member is a key of an object and its value.
type member struct {
	key   string
	start int // of the key
	value *node
}

// get returns the value of a key, or nil. A nil node has no keys.
func (n *node) get(keys ...string) *node {
	for _, key := range keys {
		if n == nil {
			return nil
		}
		i := slices.IndexFunc(n.members, func(m member) bool { return m.key == key })
		if i < 0 {
			return nil
		}
		n = n.members[i].value
	}
	return n
}

// word returns the text of a string below n, "" if there is none.
func (n *node) word(keys ...string) string {
	if v := n.get(keys...); v != nil && v.kind == isString && v.tag == "" {
		return v.text
	}
	return ""
}

// none reports whether a list or object says nothing: for a platform an absent
// one, null, [] and {} are the same.
func (n *node) none() bool {
	return n == nil || n.tag == "" && n.merged == nil && !n.alias && (n.kind == isNull ||
		(n.kind == isArray || n.kind == isObject) && len(n.elems) == 0 && len(n.members) == 0)
}

// intrinsic reports whether the platform computes the value: a tag of YAML, or
// CloudFormation's {"Ref": …} and {"Fn::…": …}.
func (n *node) intrinsic() bool {
	if n == nil {
		return false
	}
	if n.tag != "" {
		return true
	}
	return n.kind == isObject && len(n.members) == 1 &&
		(n.members[0].key == "Ref" || strings.HasPrefix(n.members[0].key, "Fn::"))
}

// walk calls f for n and all below it.
func (n *node) walk(f func(*node)) {
	f(n)
	for _, m := range n.members {
		m.value.walk(f)
	}
	for _, el := range n.elems {
		el.walk(f)
	}
}

// join appends keys to a path.
func join(path string, keys ...string) string {
	for _, key := range keys {
		plain := key != "" && strings.IndexFunc(key, func(r rune) bool {
			return r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		}) < 0
		switch {
		case !plain:
			path += "[" + strconv.Quote(key) + "]"
		case path == "":
			path = key
		default:
			path += "." + key
		}
	}
	return path
}

func position(data []byte, offset int) (line, col int) {
	before := data[:max(0, min(offset, len(data)))]
	return 1 + bytes.Count(before, []byte("\n")), len(before) - bytes.LastIndexByte(before, '\n')
}

// editor changes a document by cutting and inserting text, so that everything
// else stays as it is, byte for byte.
type editor struct {
	data    []byte
	yaml    bool
	edits   []edit
	changed []string // paths
}

type edit struct {
	start, end int
	text       string
	// depth orders what is inserted at one place. In YAML the end of a line may
	// be the end of a list, of the mapping that it is in, and so on: what goes
	// into the innermost stands first.
	depth int
}

// inline is deeper than every block.
const inline = 1 << 30

func (e *editor) splice(path string, start, end int, text string) {
	e.edits = append(e.edits, edit{start, end, text, inline})
	e.changed = append(e.changed, path)
}

// bytes returns the document with all edits made. Edits must not overlap; of
// those at one place and depth the first made comes first.
func (e *editor) bytes() []byte {
	slices.SortStableFunc(e.edits, func(a, b edit) int {
		if a.start != b.start {
			return a.start - b.start
		}
		return b.depth - a.depth
	})
	var out []byte
	pos := 0
	for _, d := range e.edits {
		out = append(out, e.data[pos:d.start]...)
		out = append(out, d.text...)
		pos = d.end
	}
	return append(out, e.data[pos:]...)
}

// text returns a value as it stands.
func (e *editor) text(n *node) string { return string(e.data[n.start:n.end]) }

// nothing is what stood behind a key of YAML that has no value.
const nothing = " "

// replace puts new text in the place of n.
func (e *editor) replace(n *node, text string) {
	if n.start == n.end { // "key:"
		text = nothing + text
	}
	e.splice(n.path, n.start, n.end, text)
}

// restore puts the text back that stood in the place of n.
func (e *editor) restore(n *node, text string) {
	if text == nothing {
		e.splice(n.path, n.start-len(nothing), n.end, "")
		return
	}
	e.splice(n.path, n.start, n.end, text)
}

// prepend inserts values before the first of a list that has some.
func (e *editor) prepend(l *node, values list) {
	var b strings.Builder
	if l.block {
		at := l.dashes[0]
		for _, v := range values {
			b.WriteString("- " + e.blockText(v, e.column(at)+2) + e.newline() + spaces(e.column(at)))
		}
		e.splice(l.path, at, at, b.String())
		return
	}
	st := e.styleIn(l)
	for _, v := range values {
		b.WriteString(st.encode(v) + st.comma())
	}
	e.splice(l.path, l.elems[0].start, l.elems[0].start, b.String())
}

// append inserts values after the last of a list that has some.
func (e *editor) append(l *node, values list) {
	var b strings.Builder
	if l.block {
		col := e.column(l.dashes[0])
		for _, v := range values {
			b.WriteString(e.newline() + spaces(col) + "- " + e.blockText(v, col+2))
		}
		e.insertLines(l.path, l.end, b.String(), 2*col+1)
		return
	}
	st := e.styleIn(l)
	for _, v := range values {
		b.WriteString(st.comma() + st.encode(v))
	}
	end := l.elems[len(l.elems)-1].end
	e.splice(l.path, end, end, b.String())
}

// addMember gives an object that has some members another one.
func (e *editor) addMember(o *node, key string, value any) {
	if o.block {
		col := e.column(o.members[0].start)
		text := e.newline() + spaces(col) + e.blockMember(key, value, col)
		e.insertLines(join(o.path, key), o.end, text, 2*col)
		return
	}
	st := e.styleIn(o)
	end := o.members[len(o.members)-1].value.end
	e.splice(join(o.path, key), end, end, st.comma()+st.key(key)+st.colon+st.encode(value))
}

// insertLines inserts lines behind the one in which something ends.
func (e *editor) insertLines(path string, after int, text string, depth int) {
	at := e.lineEnd(after)
	e.edits = append(e.edits, edit{at, at, text, depth})
	e.changed = append(e.changed, path)
}

// cut takes out what stands from start to end: whole lines, if something of
// its own block stands before it, or else all up to next, which takes its place.
func (e *editor) cut(path string, start, end, next int) {
	before := e.data[:start]
	line := bytes.LastIndexByte(before, '\n')
	if line >= 0 && len(bytes.TrimSpace(before[line:])) == 0 {
		if line > 0 && e.data[line-1] == '\r' {
			line--
		}
		e.splice(path, line, e.lineEnd(end), "")
		return
	}
	if next < 0 {
		next = end
	}
	e.splice(path, start, next, "")
}

// removeMembers is the reverse of addMember.
func (e *editor) removeMembers(o *node, keys map[string]bool) {
	if len(keys) == 0 {
		return
	}
	if o.block && !slices.ContainsFunc(o.members, func(m member) bool { return !keys[m.key] }) {
		e.splice(o.path, o.start, o.end, "{}")
		return
	}
	leading := true
	for i, m := range o.members {
		next := -1
		if i+1 < len(o.members) {
			next = o.members[i+1].start
		}
		switch {
		case !keys[m.key]:
			leading = false
		case o.block:
			e.cut(m.value.path, m.start, m.value.end, next)
		case !leading:
			e.splice(m.value.path, o.members[i-1].value.end, m.value.end, "")
		case next >= 0:
			e.splice(m.value.path, m.start, next, "")
		default:
			e.splice(m.value.path, m.start, m.value.end, "")
		}
	}
}

// removeElems is the reverse of prepend and append: it takes the elements out
// that ours picks, which must not be all of them.
func (e *editor) removeElems(l *node, ours func(*node) bool) {
	leading := true
	for i, el := range l.elems {
		switch mine := ours(el); {
		case !mine:
			leading = false
		case l.block && leading:
			e.splice(l.path, l.dashes[i], l.dashes[i+1], "")
		case l.block:
			e.cut(l.path, l.dashes[i], el.end, -1)
		case leading:
			e.splice(l.path, el.start, l.elems[i+1].start, "")
		default:
			e.splice(l.path, l.elems[i-1].end, el.end, "")
		}
	}
}

// column returns how many bytes stand before offset in its line.
func (e *editor) column(offset int) int {
	return offset - 1 - bytes.LastIndexByte(e.data[:offset], '\n')
}

// lineEnd returns where the line break of offset's line is.
func (e *editor) lineEnd(offset int) int {
	i := bytes.IndexByte(e.data[offset:], '\n')
	if i < 0 {
		return len(e.data)
	}
	if end := offset + i; end > offset && e.data[end-1] == '\r' {
		return end - 1
	}
	return offset + i
}

// newline returns the document's line break.
func (e *editor) newline() string {
	if i := bytes.IndexByte(e.data, '\n'); i > 0 && e.data[i-1] == '\r' {
		return "\r\n"
	}
	return "\n"
}

func spaces(n int) string { return strings.Repeat(" ", n) }
