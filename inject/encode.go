package inject

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// What encode takes: string, bool, int, list, object, raw for a token of the
// document, and tagged for a value that YAML's !Sub or its like stands before.
type (
	list   []any
	object []pair
	pair   struct {
		key   string
		value any
	}
	raw    string
	tagged struct {
		tag   string
		value any
	}
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
	yaml    bool   // words need no quotes
}

// styleIn returns the style for new children of n.
func (e *editor) styleIn(n *node) style {
	st := style{unit: "  ", colon: ": ", blank: " ", yaml: e.yaml}
	if n.block { // what is inserted is in brackets on one line
		return st
	}
	first := n.end - 1
	switch {
	case len(n.members) > 0:
		first = n.members[0].start
	case len(n.elems) > 0:
		first = n.elems[0].start
	}
	inner := string(e.data[n.inner+1 : first])
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
	if !e.yaml && !bytes.Contains(e.data, []byte(`": `)) && !bytes.Contains(e.data, []byte("\n")) {
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
	case tagged:
		if v.value == nil {
			return v.tag
		}
		line := st
		line.newline = ""
		return v.tag + " " + line.write(v.value)
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
			b.WriteString(st.key(p.key) + st.colon + inner.encode(p.value))
		}
		b.WriteString(end + "}")
	case string:
		return st.key(v)
	default:
		return quote(v)
	}
	return b.String()
}

// key returns a string as it stands in brackets.
func (st style) key(s string) string {
	if st.yaml && plainWord.MatchString(s) && !strings.Contains(s, ":") && isPlain(s) {
		return s
	}
	return quote(s)
}

// plainWord is a string that may go without quotes in YAML.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./][A-Za-z0-9_./@:+=-]*$`)

// isPlain reports whether a YAML reader takes the word for a string; what one
// of an older YAML takes for a boolean is none.
func isPlain(s string) bool {
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "on", "off":
		return false
	}
	var n yaml.Node
	err := yaml.Unmarshal([]byte(s), &n)
	return err == nil && len(n.Content) == 1 && n.Content[0].ShortTag() == "!!str" && n.Content[0].Value == s &&
		(s[0] < '0' || s[0] > '9' || strings.ContainsAny(s, "abcdefghijklmnopqrstuvwxyz") && !strings.ContainsAny(s, "_:"))
}

// blockMember writes a key and its value as a member of a YAML block whose keys
// begin in column col.
func (e *editor) blockMember(key string, value any, col int) string {
	text := style{yaml: true}.key(key) + ":"
	switch v := value.(type) {
	case list:
		if len(v) == 0 {
			break
		}
		in := col + e.listIndent()
		for _, el := range v {
			text += e.newline() + spaces(in) + "- " + e.blockText(el, in+2)
		}
		return text
	case object:
		if len(v) == 0 {
			break
		}
		return text + e.newline() + spaces(col+2) + e.blockText(v, col+2)
	}
	return text + " " + e.blockText(value, col+2)
}

// blockText writes a value that begins in column col of a YAML block.
func (e *editor) blockText(value any, col int) string {
	switch v := value.(type) {
	case object:
		if len(v) == 0 {
			return "{}"
		}
		text := ""
		for i, p := range v {
			if i > 0 {
				text += e.newline() + spaces(col)
			}
			text += e.blockMember(p.key, p.value, col)
		}
		return text
	case list:
		return flow.write(v)
	case string:
		switch {
		case plainWord.MatchString(v) && isPlain(v):
			return v
		case literal(v):
			lines := strings.Split(strings.TrimSuffix(v, "\n"), "\n")
			text := "|"
			for _, line := range lines {
				text += e.newline()
				if line != "" {
					text += spaces(col) + line
				}
			}
			return text
		}
	}
	return flow.write(value)
}

var flow = style{colon: ": ", blank: " ", yaml: true}

// literal reports whether a text is one of lines that YAML's | can hold.
func literal(s string) bool {
	return strings.Count(s, "\n") > 1 && strings.HasSuffix(s, "\n") && !strings.HasSuffix(s, "\n\n") && s[0] != ' ' && s[0] != '\n' &&
		utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) })
}

// listIndent returns how far the document's lists stand behind their keys.
func (e *editor) listIndent() int {
	if m := listUnder.FindSubmatch(e.data); m != nil && len(m[2]) >= len(m[1]) {
		return min(len(m[2])-len(m[1]), 4)
	}
	return 2
}

var listUnder = regexp.MustCompile(`(?m)^( *)[A-Za-z]\w*:[ \t]*\r?\n( *)- `)

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
func (e *editor) copied(n *node) any {
	var v any
	switch {
	case n.kind == isObject:
		o := make(object, len(n.members))
		for i, m := range n.members {
			o[i] = pair{m.key, e.copied(m.value)}
		}
		v = o
	case n.kind == isArray:
		l := make(list, len(n.elems))
		for i, el := range n.elems {
			l[i] = e.copied(el)
		}
		v = l
	case e.yaml && n.kind == isString:
		v = n.text
	case e.yaml && n.kind == isNull:
		v = raw("null")
	case e.yaml:
		v = raw(n.text)
	default:
		return raw(e.text(n))
	}
	if n.tag == "" {
		return v
	}
	if n.kind != isObject && n.kind != isArray && n.text != "" {
		v = n.text
	} else if n.text == "" && n.kind != isObject && n.kind != isArray {
		v = nil
	}
	return tagged{n.tag, v}
}
