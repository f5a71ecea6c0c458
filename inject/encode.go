package inject

import (
	"bytes"
	"encoding/json"
	"strings"
)

// What encode takes: string, bool, int, list, object, and raw for a token of
// the document.
type (
	list   []any
	object []pair
	pair   struct {
		key   string
		value any
	}
	raw string
)

// strs returns a list of strings.
func strs(s ...string) list {
	l := make(list, len(s))
	for i := range s {
		l[i] = s[i]
	}
	return l
}

// maxInline is how long a value may be and still stand on one line.
const maxInline = 110

// style is how what we insert is written, taken from what surrounds it.
type style struct {
	newline string // line break and indentation of the siblings; "" if they stand on one line
	unit    string // one more level of indentation
	colon   string
	blank   string // after a comma on one line
}

// styleIn returns the style for new children of n.
func (e *editor) styleIn(n *node) style {
	st := style{unit: "  ", colon: ": ", blank: " "}
	first := n.end - 1
	switch {
	case len(n.members) > 0:
		first = n.members[0].start
	case len(n.elems) > 0:
		first = n.elems[0].start
	}
	inner := string(e.data[n.start+1 : first])
	if i := strings.LastIndexByte(inner, '\n'); i >= 0 {
		st.newline = inner[i:]
		if strings.HasSuffix(inner[:i], "\r") {
			st.newline = "\r" + st.newline
		}
		line := string(e.data[:n.end-1])
		closing := line[strings.LastIndexByte(line, '\n')+1:]
		if strings.TrimLeft(closing, " \t") == "" && strings.HasPrefix(inner[i+1:], closing) && len(inner[i+1:]) > len(closing) {
			st.unit = inner[i+1+len(closing):]
		}
	}
	// A document without one blank after a colon is a minified one.
	if !bytes.Contains(e.data, []byte(`": `)) && !bytes.Contains(e.data, []byte("\n")) {
		st.colon, st.blank = ":", ""
	}
	return st
}

// comma separates siblings.
func (st style) comma() string {
	if st.newline != "" {
		return "," + st.newline
	}
	return "," + st.blank
}

// encode writes a value as a child: on one line if it is short, or all is.
func (st style) encode(v any) string {
	line := st
	line.newline = ""
	inline := line.write(v)
	if st.newline == "" || len(inline) <= maxInline {
		return inline
	}
	return st.write(v)
}

func (st style) write(v any) string {
	inner, sep, end := st, ","+st.blank, ""
	if st.newline != "" {
		inner.newline = st.newline + st.unit
		sep, end = ","+inner.newline, st.newline
	}
	var b strings.Builder
	switch v := v.(type) {
	case raw:
		return string(v)
	case list:
		b.WriteString("[" + inner.newline)
		for i, el := range v {
			if i > 0 {
				b.WriteString(sep)
			}
			b.WriteString(inner.encode(el))
		}
		b.WriteString(end + "]")
	case object:
		b.WriteString("{" + inner.newline)
		for i, p := range v {
			if i > 0 {
				b.WriteString(sep)
			}
			b.WriteString(quote(p.key) + st.colon + inner.encode(p.value))
		}
		b.WriteString(end + "}")
	default:
		return quote(v)
	}
	return b.String()
}

// quote returns a scalar as JSON, without the escapes that only HTML needs.
func quote(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // strings, booleans and numbers only
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// copied returns a value of the document, to be written elsewhere in it.
func copied(data []byte, n *node) any {
	switch n.kind {
	case isObject:
		o := make(object, len(n.members))
		for i, m := range n.members {
			o[i] = pair{m.key, copied(data, m.value)}
		}
		return o
	case isArray:
		l := make(list, len(n.elems))
		for i, el := range n.elems {
			l[i] = copied(data, el)
		}
		return l
	}
	return raw(data[n.start:n.end])
}
