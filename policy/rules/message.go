package rules

import (
	"strconv"
	"strings"
)

// Message is a text with macros: %proc.name stands for the attribute's value,
// its first if it has several. A % that no letter follows is itself.
type Message[E any] struct {
	parts []part[E]
	uses  []string
}

// part is text and the attribute behind it, if there is one.
type part[E any] struct {
	text string
	attr *Attribute[E]
}

// CompileMessage checks the macros of a text against a schema. The error is an
// [*Error].
func CompileMessage[E any](text string, schema *Schema[E]) (_ *Message[E], err error) {
	defer rescue(text, &err)
	if len(text) > maxScript {
		failf(0, "longer than %d KiB", maxScript>>10)
	}
	m := &Message[E]{}
	start := 0
	for at := 0; at < len(text); at++ {
		if text[at] != '%' || at+1 == len(text) || !letter(text[at+1]) {
			continue
		}
		stop := at + 1
		for stop < len(text) && (letter(text[stop]) || digit(text[stop]) || text[stop] == '.') {
			stop++
		}
		name := strings.TrimRight(text[at+1:stop], ".") // a sentence may end behind it
		attr, ok := schema.Attributes[name]
		if !ok {
			c := compiler[E]{schema: schema}
			c.unknown(operand[E]{at: at + 1, name: name})
		}
		m.parts = append(m.parts, part[E]{text[start:at], &attr})
		m.uses = append(m.uses, name)
		start = at + 1 + len(name)
		at = start - 1
	}
	m.parts = append(m.parts, part[E]{text[start:], nil})
	return m, nil
}

// Uses returns the names of the attributes that the macros ask for.
func (m *Message[E]) Uses() []string { return m.uses }

// Expand returns the text for e.
func (m *Message[E]) Expand(e E) string {
	var b strings.Builder
	for _, p := range m.parts {
		b.WriteString(p.text)
		if p.attr == nil {
			continue
		}
		switch p.attr.Type {
		case Command:
			b.WriteString(strings.Join(p.attr.Parts(e), " "))
		case Bool:
			b.WriteString(strconv.FormatBool(p.attr.Bool(e)))
		case Integer:
			b.WriteString(strconv.Itoa(p.attr.Integer(e)))
		case Address:
			if a := p.attr.Address(e); a.IsValid() {
				b.WriteString(a.String())
			}
		default:
			if value, next := p.attr.Strings(e, 0); next >= 0 {
				b.WriteString(value)
			}
		}
	}
	return b.String()
}
