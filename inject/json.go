package inject

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
)

// parseJSON reads a JSON document. Of a key that stands twice in an object one
// reader sees the first value and another the last, so that is a fault.
func parseJSON(data []byte, f *faults) *node {
	var raw json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		at := len(data)
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			at = int(syntax.Offset) - 1
		}
		line, col := position(data, at)
		*f = append(*f, Fault{Line: line, Col: col, Msg: "is not JSON: " + err.Error()})
		return nil
	}
	s := scanner{data: data, faults: f}
	return s.value("")
}

// scanner makes the tree of a document that is known to be valid.
type scanner struct {
	data   []byte
	pos    int
	faults *faults
}

func (s *scanner) space() byte {
	for strings.IndexByte(" \t\r\n", s.data[s.pos]) >= 0 {
		s.pos++
	}
	return s.data[s.pos]
}

func (s *scanner) value(path string) *node {
	first := s.space()
	n := &node{kind: kind(first), start: s.pos, inner: s.pos, path: path}
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
			line, col := position(s.data, m.start)
			*s.faults = append(*s.faults, Fault{Path: path, Line: line, Col: col, Msg: "is there twice"})
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
