package rules

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// token is a word of a script.
type token struct {
	kind kind
	at   int    // byte of the script
	text string // as written; of a str what it means
}

type kind uint8

const (
	end kind = iota
	word
	str
	number
	symbol // = != < <= > >= ( ) ,
)

// lexer splits a script.
type lexer struct {
	script string
	at     int
}

// next returns the next token.
func (l *lexer) next() token {
	for l.at < len(l.script) && strings.IndexByte(" \t\r\n", l.script[l.at]) >= 0 {
		l.at++
	}
	start := l.at
	if start == len(l.script) {
		return token{end, start, "the end"}
	}
	rest := l.script[start:]
	switch c := rest[0]; {
	case c == '"':
		return token{str, start, l.string()}
	case letter(c):
		for l.at < len(l.script) && (letter(l.script[l.at]) || digit(l.script[l.at]) || l.script[l.at] == '.') {
			l.at++
		}
		return token{word, start, l.script[start:l.at]}
	case digit(c), c == '-' && len(rest) > 1 && digit(rest[1]):
		l.at++
		for l.at < len(l.script) && (digit(l.script[l.at]) || letter(l.script[l.at]) || l.script[l.at] == '.') {
			l.at++
		}
		return token{number, start, l.script[start:l.at]}
	}
	for _, s := range []string{"!=", ">=", "<=", "=>", "=", ">", "<", "(", ")", ","} {
		if strings.HasPrefix(rest, s) && !strings.HasPrefix(rest, "==") {
			l.at += len(s)
			if s == "=>" { // as some documents print it
				s = ">="
			}
			return token{symbol, start, s}
		}
	}
	for _, hint := range [][2]string{{"==", "="}, {"&&", "and"}, {"||", "or"}, {"!", "not"}, {"'", `double quotes`}} {
		if strings.HasPrefix(rest, hint[0]) {
			failf(start, "%q is not part of the language; write %s", hint[0], hint[1])
		}
	}
	r, _ := utf8.DecodeRuneInString(rest)
	failf(start, "%q is not part of the language", r)
	panic("unreachable")
}

func letter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' || c == '_' }
func digit(c byte) bool  { return '0' <= c && c <= '9' }

// string reads a string in quotes.
func (l *lexer) string() string {
	start := l.at
	var b strings.Builder
	for l.at++; l.at < len(l.script); l.at++ {
		switch c := l.script[l.at]; c {
		case '"':
			l.at++
			return b.String()
		case '\n':
			failf(start, "the string does not end in its line")
		case '\\':
			b.WriteByte(l.escape())
		default:
			b.WriteByte(c)
		}
	}
	failf(start, "the string does not end")
	panic("unreachable")
}

// escape reads what follows a backslash and leaves the lexer at its last byte.
func (l *lexer) escape() byte {
	at := l.at
	l.at++
	rest := l.script[l.at:]
	if rest != "" {
		switch rest[0] {
		case '"', '\\':
			return rest[0]
		case 'n':
			return '\n'
		case 'r':
			return '\r'
		case 't':
			return '\t'
		case 'x':
			if len(rest) > 2 {
				if n, err := strconv.ParseUint(rest[1:3], 16, 8); err == nil {
					l.at += 2
					return byte(n)
				}
			}
		}
	}
	failf(at, `after a backslash there is one of " \ n r t and x with two hexadecimals`)
	panic("unreachable")
}

// node is a part of a script: a value or a condition.
type node struct {
	at    int
	op    string // "value", "not", "and", "or", "in", "=", "!=", "<", …, "startswith", "contains"
	value token  // of a value
	args  []*node
}

var comparisons = map[string]bool{
	"=": true, "!=": true, "<": true, "<=": true, ">": true, ">=": true, "startswith": true, "contains": true, "in": true,
}

var keywords = map[string]bool{"and": true, "or": true, "not": true, "in": true, "startswith": true, "contains": true}

// parser makes nodes of tokens, one token ahead.
type parser struct {
	lexer
	tok   token
	depth int
}

// parse reads a whole script.
func parse(script string) *node {
	if len(script) > maxScript {
		failf(0, "longer than %d KiB", maxScript>>10)
	}
	p := &parser{lexer: lexer{script: script}}
	p.advance()
	if p.tok.kind == end {
		failf(0, `empty; write a condition, such as proc.name = "nc"`)
	}
	n := p.or()
	if low := strings.ToLower(p.tok.text); p.tok.kind == word && low != p.tok.text && keywords[low] {
		failf(p.tok.at, "%s here; keywords are lower-case: write %s", p.tok, low)
	}
	if p.tok.kind != end {
		failf(p.tok.at, "%s here; want and, or, or the end", p.tok)
	}
	return n
}

func (t token) String() string {
	switch t.kind {
	case end:
		return t.text
	case str:
		return "the string " + strconv.Quote(t.text)
	}
	return strconv.Quote(t.text)
}

func (p *parser) advance() { p.tok = p.next() }

// is reports whether the next token is a keyword or a symbol.
func (p *parser) is(text string) bool {
	return (p.tok.kind == word || p.tok.kind == symbol) && p.tok.text == text
}

func (p *parser) or() *node  { return p.chain("or", p.and) }
func (p *parser) and() *node { return p.chain("and", p.not) }

// chain reads conditions joined by op: as one node, so that a long chain nests
// no deeper than a short one.
func (p *parser) chain(op string, next func() *node) *node {
	n := next()
	if !p.is(op) {
		return n
	}
	chain := &node{at: p.tok.at, op: op, args: []*node{n}}
	for p.is(op) {
		p.advance()
		chain.args = append(chain.args, next())
	}
	return chain
}

func (p *parser) not() *node {
	if !p.is("not") {
		return p.comparison()
	}
	n := &node{at: p.tok.at, op: "not"}
	p.deeper()
	p.advance()
	n.args = []*node{p.not()}
	p.depth--
	return n
}

func (p *parser) deeper() {
	if p.depth++; p.depth > maxDepth {
		failf(p.tok.at, "nested deeper than %d", maxDepth)
	}
}

func (p *parser) comparison() *node {
	left := p.operand()
	n := &node{at: p.tok.at, op: p.tok.text}
	negated := p.is("not")
	if negated {
		p.advance()
		if !p.is("in") {
			failf(n.at, `"not" here; want an operator, or "not" before the comparison`)
		}
		n.op = "in"
	}
	if p.tok.kind != word && p.tok.kind != symbol || !comparisons[p.tok.text] {
		return left
	}
	p.advance()
	if n.op == "in" {
		n.args = append([]*node{left}, p.list()...)
	} else {
		n.args = []*node{left, p.operand()}
	}
	if (p.tok.kind == word || p.tok.kind == symbol) && comparisons[p.tok.text] {
		failf(p.tok.at, "%s here; comparisons are joined by and", p.tok)
	}
	if negated {
		return &node{at: n.at, op: "not", args: []*node{n}}
	}
	return n
}

// list reads the values in parentheses that follow in.
func (p *parser) list() []*node {
	if !p.is("(") {
		failf(p.tok.at, `%s here; want a list, such as ("a", "b")`, p.tok)
	}
	var values []*node
	for p.advance(); ; p.advance() {
		if p.tok.kind != str && p.tok.kind != number && p.tok.kind != word {
			failf(p.tok.at, "%s here; want a string or an integer", p.tok)
		}
		values = append(values, &node{at: p.tok.at, op: "value", value: p.tok})
		p.advance()
		switch {
		case p.is(")"):
			p.advance()
			return values
		case !p.is(","):
			failf(p.tok.at, `%s here; want "," or ")"`, p.tok)
		}
	}
}

func (p *parser) operand() *node {
	switch {
	case p.is("("):
		p.deeper()
		p.advance()
		n := p.or()
		if !p.is(")") {
			failf(p.tok.at, `%s here; want ")"`, p.tok)
		}
		p.advance()
		p.depth--
		return n
	case p.tok.kind == str, p.tok.kind == number, p.tok.kind == word && !keywords[p.tok.text]:
		if low := strings.ToLower(p.tok.text); p.tok.kind == word && keywords[low] {
			failf(p.tok.at, "%s here; keywords are lower-case: write %s", p.tok, low)
		}
		n := &node{at: p.tok.at, op: "value", value: p.tok}
		p.advance()
		return n
	}
	failf(p.tok.at, "%s here; want a string, an integer or an attribute", p.tok)
	panic("unreachable")
}
