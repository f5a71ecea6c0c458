package inject

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// maxNodes bounds what aliases of aliases may blow a document up to.
const maxNodes = 1 << 20

// parseYAML reads a file of YAML documents; an empty document is nil.
//
// The library says where a value begins, not where it ends, so the ends are
// looked for here. Nothing depends on their being right: what is written is
// read again and compared (see prove), and a mistake is a refusal.
func parseYAML(data []byte, f *faults) []*node {
	for _, odd := range []string{"\u0085", "\u2028", "\u2029"} {
		if i := bytes.Index(data, []byte(odd)); i >= 0 {
			f.at(data, i, "", fmt.Sprintf("has the character %q, which some readers of YAML take for the end of a line; write it as an escape", odd))
			return nil
		}
	}
	for i, c := range data {
		if c == '\r' && (i+1 == len(data) || data[i+1] != '\n') {
			f.at(data, i, "", "has a carriage return without a line feed")
			return nil
		}
	}
	y := yamlReader{data: data, faults: f, left: maxNodes}
	y.lines = append(y.lines, 0)
	for i, c := range data {
		if c == '\n' {
			y.lines = append(y.lines, i+1)
		}
	}
	var sources []*yaml.Node
	for dec := yaml.NewDecoder(bytes.NewReader(data)); ; {
		doc := new(yaml.Node)
		err := dec.Decode(doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			fault := Fault{Msg: "is not YAML: " + err.Error()}
			if m := lineOf.FindStringSubmatch(err.Error()); m != nil {
				fault.Line, _ = strconv.Atoi(m[1])
				fault.Col = 1
			}
			*f = append(*f, fault)
			return nil
		}
		sources = append(sources, doc)
	}
	docs := make([]*node, len(sources))
	for i, doc := range sources {
		if len(doc.Content) == 0 || doc.Content[0].ShortTag() == "!!null" && doc.Content[0].Value == "" {
			continue
		}
		path := ""
		if len(sources) > 1 {
			path = fmt.Sprintf("(document %d)", i+1)
		}
		y.anchors = make(map[*yaml.Node]*node)
		docs[i] = y.node(doc.Content[0], path)
	}
	return docs
}

var lineOf = regexp.MustCompile(`line (\d+)`)

type yamlReader struct {
	data    []byte
	lines   []int // where each begins
	faults  *faults
	anchors map[*yaml.Node]*node // nil while it is read
	left    int
}

// offset returns where a line and column are; columns count characters.
func (y *yamlReader) offset(n *yaml.Node) int {
	if n.Line < 1 || n.Line > len(y.lines) {
		return len(y.data)
	}
	at := y.lines[n.Line-1]
	for c := 1; c < n.Column && at < len(y.data); c++ {
		_, size := utf8.DecodeRune(y.data[at:])
		at += size
	}
	return at
}

func (y *yamlReader) node(src *yaml.Node, path string) *node {
	n := &node{start: y.offset(src), path: path, text: src.Value}
	if y.left--; y.left < 0 {
		if y.left == -1 {
			y.faults.at(y.data, n.start, path, "is too large with all its aliases written out")
		}
		return n
	}
	if strings.HasPrefix(src.Tag, "!") && !strings.HasPrefix(src.Tag, "!!") {
		n.tag = src.Tag
	}
	if src.Anchor != "" {
		y.anchors[src] = nil
		defer func() { y.anchors[src] = n }()
	}
	n.inner = y.properties(n.start)
	switch src.Kind {
	case yaml.AliasNode:
		y.aliasOf(n, src)
	case yaml.MappingNode:
		n.kind = isObject
		y.mapping(n, src)
	case yaml.SequenceNode:
		n.kind = isArray
		y.sequence(n, src)
	default:
		n.kind = map[string]kind{"!!int": isNumber, "!!float": isNumber, "!!bool": isBool, "!!null": isNull}[src.ShortTag()]
		if n.kind == 0 {
			n.kind = isString
		}
		n.end = y.scalarEnd(n, src)
	}
	return n
}

// aliasOf reads what an alias stands for, so that it can be understood; it
// cannot be changed.
func (y *yamlReader) aliasOf(n *node, src *yaml.Node) {
	target, known := y.anchors[src.Alias]
	if !known || target == nil {
		y.faults.at(y.data, n.start, n.path, fmt.Sprintf("*%s stands for something that it is part of", src.Value))
		return
	}
	target.walk(func(c *node) { c.shared = true; y.left-- })
	start := n.start
	path := n.path
	*n = *target
	n.start, n.inner, n.end = start, start, start+1+len(src.Value)
	n.path, n.alias, n.shared = path, true, false
}

func (y *yamlReader) mapping(n *node, src *yaml.Node) {
	n.block = src.Style&yaml.FlowStyle == 0
	n.end = n.inner
	seen := make(map[string]bool)
	for i := 0; i+1 < len(src.Content); i += 2 {
		k, v := src.Content[i], src.Content[i+1]
		m := member{key: k.Value, start: y.offset(k)}
		path := join(n.path, m.key)
		if k.Kind != yaml.ScalarNode {
			path = join(n.path, fmt.Sprintf("key %d", i/2+1))
			m.key = path
			m.value = y.node(k, path) // for its anchors
		}
		m.value = y.node(v, path)
		n.end = m.value.end
		if k.ShortTag() == "!!merge" {
			n.merged = merge(n.merged, m.value)
			// It stays a member, so that ends are right.
		}
		if seen[m.key] {
			y.faults.at(y.data, m.start, path, "is there twice")
		}
		seen[m.key] = true
		n.members = append(n.members, m)
	}
	if !n.block {
		n.end = y.closing(n, '{', '}')
	}
}

// merge returns what "<<" brings: a mapping, or several of a list.
func merge(had, v *node) *node {
	if had == nil {
		had = &node{kind: isObject}
	}
	for _, el := range v.elems {
		had = merge(had, el)
	}
	had.members = append(had.members, v.members...)
	return had
}

func (y *yamlReader) sequence(n *node, src *yaml.Node) {
	n.block = src.Style&yaml.FlowStyle == 0
	n.end = n.inner
	for i, c := range src.Content {
		el := y.node(c, fmt.Sprintf("%s[%d]", n.path, i))
		if n.block {
			dash := y.space(n.end)
			if dash == len(y.data) || y.data[dash] != '-' {
				y.faults.at(y.data, el.start, el.path, `is not behind its "-" in a way that is understood; write both on one line`)
			}
			n.dashes = append(n.dashes, dash)
			el.end = max(el.end, dash+1)
		}
		n.elems = append(n.elems, el)
		n.end = el.end
	}
	if !n.block {
		n.end = y.closing(n, '[', ']')
	}
}

// space returns the place behind blanks, line breaks and comments.
func (y *yamlReader) space(at int) int {
	for at < len(y.data) {
		switch c := y.data[at]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			at++
		case c == '#' && (at == 0 || strings.IndexByte(" \t\n,[]{}", y.data[at-1]) >= 0):
			for at < len(y.data) && y.data[at] != '\n' {
				at++
			}
		default:
			return at
		}
	}
	return at
}

// properties returns the place behind tag and anchor.
func (y *yamlReader) properties(at int) int {
	for at < len(y.data) && (y.data[at] == '!' || y.data[at] == '&') {
		for at < len(y.data) && strings.IndexByte(" \t\n\r", y.data[at]) < 0 {
			at++
		}
		behind := y.space(at)
		if behind == len(y.data) {
			return at
		}
		at = behind
	}
	return at
}

// closing returns the place behind the bracket that ends n.
func (y *yamlReader) closing(n *node, left, right byte) int {
	if n.inner >= len(y.data) || y.data[n.inner] != left {
		n.implicit = true
		return n.end
	}
	at := max(n.end, n.inner+1)
	for at = y.space(at); at < len(y.data) && y.data[at] == ','; {
		at = y.space(at + 1)
	}
	if at < len(y.data) && y.data[at] == right {
		return at + 1
	}
	y.faults.at(y.data, n.start, n.path, fmt.Sprintf("its closing %q is not where it is understood", right))
	return n.end
}

func (y *yamlReader) scalarEnd(n *node, src *yaml.Node) int {
	switch at := n.inner; {
	case src.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		quote := y.data[at]
		for at++; at < len(y.data); at++ {
			switch {
			case y.data[at] == '\\' && quote == '"':
				at++
			case y.data[at] != quote:
			case quote == '\'' && at+1 < len(y.data) && y.data[at+1] == '\'':
				at++
			default:
				return at + 1
			}
		}
		return len(y.data)
	case src.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return y.blockScalarEnd(at)
	case src.Value == "":
		// Nothing, or a tag alone.
		end := n.start
		for at := n.start; at < len(y.data) && (y.data[at] == '!' || y.data[at] == '&'); {
			for at < len(y.data) && strings.IndexByte(" \t\n\r,]}", y.data[at]) < 0 {
				at++
			}
			end = at
			for at < len(y.data) && y.data[at] == ' ' {
				at++
			}
		}
		return end
	default:
		// A plain one has no escapes; line breaks in it became blanks.
		end := at
		for _, c := range []byte(src.Value) {
			if c == ' ' || c == '\n' || c == '\t' {
				continue
			}
			for at < len(y.data) && strings.IndexByte(" \t\n\r", y.data[at]) >= 0 {
				at++
			}
			if at == len(y.data) || y.data[at] != c {
				y.faults.at(y.data, n.start, n.path, "is written in a way that is not understood; put it into quotes")
				return end
			}
			at++
			end = at
		}
		return end
	}
}

// blockScalarEnd returns the end of the last line of a text after | or >.
func (y *yamlReader) blockScalarEnd(header int) int {
	lineEnd := func(at int) int {
		if i := bytes.IndexByte(y.data[at:], '\n'); i >= 0 {
			return at + i
		}
		return len(y.data)
	}
	first := lineEnd(header)
	keep := bytes.ContainsRune(bytes.Fields(y.data[header:first])[0], '+')
	parent := y.indent(header)
	end, content := first, -1
	for at := first + 1; at <= len(y.data); {
		stop := lineEnd(at)
		line := strings.TrimRight(string(y.data[at:stop]), "\r")
		width := len(line) - len(strings.TrimLeft(line, " "))
		blank := strings.TrimSpace(line) == ""
		switch {
		case blank && keep:
			end = stop
		case blank:
		case content < 0 && width <= parent && parent >= 0, content >= 0 && width < content, width == 0:
			return y.trim(end)
		default:
			if content < 0 || width < content {
				content = width
			}
			end = stop
		}
		at = stop + 1
	}
	return y.trim(end)
}

// trim takes a carriage return from the end of a line.
func (y *yamlReader) trim(at int) int {
	if at > 0 && at < len(y.data) && y.data[at] == '\n' && y.data[at-1] == '\r' {
		return at - 1
	}
	return at
}

// indent returns how far what stands in a line is indented; "- " counts.
func (y *yamlReader) indent(at int) int {
	line := bytes.LastIndexByte(y.data[:at], '\n') + 1
	i := line
	for i < at && y.data[i] == ' ' {
		i++
	}
	return i - line
}
