// Package rules is the language of custom rules.
//
//	proc.name in ("nc", "ncat") and not proc.pname = "entry.sh"
//	net.outgoing_ip >= "1.1.1.1" and net.outgoing_ip <= "1.1.1.9"
//	proc.interactive
//
// A script is one condition. It compares attributes of an event with strings
// in double quotes, integers, or other attributes:
//
//	=  !=                    equal or not; an address also with a prefix such as "10.0.0.0/8"
//	<  <=  =>  >=  >         integers and addresses
//	in (a, b), not in (a, b) equal to one of them, to none
//	startswith, contains     strings, and the text of integers and addresses
//	not, and, or             conditions; (…) groups
//
// Comparisons bind the tightest, then not, then and, then or. Keywords are
// lower-case, and strings are compared by their bytes, letter case included.
// In a string, \" \\ \n \r \t and \xHH stand for what they do in most
// languages; no other backslash is allowed. White space and line ends separate.
//
// An attribute may have several values: a process goes by several names. A
// comparison holds if it holds for one of them; != and not hold if it holds
// for none.
//
// The package knows no attribute. [Compile] is given a [Schema] of them, checks
// the types and returns closures; to evaluate these allocates nothing.
package rules

import (
	"fmt"
	"net/netip"
	"strings"
)

// Type is the type of an attribute.
type Type uint8

const (
	String  Type = iota // any number of strings
	Command             // one string, given as its parts, between which there are spaces
	Enum                // one of a few words, which need no quotes
	Bool
	Integer
	Address
)

var typeWords = [...]string{"a string", "a string", "a word", "a condition", "an integer", "an address"}

func (t Type) String() string { return typeWords[t] }

// Attribute is what a script may ask an event E for. Of the functions the one
// for the type is set.
type Attribute[E any] struct {
	Type Type
	// Strings returns the first value of a String or Enum from position i on
	// and the position behind it, which is -1 if there is no more value.
	Strings func(e E, i int) (value string, next int)
	Parts   func(e E) []string // of a Command
	Words   []string           // of an Enum
	Bool    func(e E) bool
	Integer func(e E) int
	Address func(e E) netip.Addr // the zero Addr if there is none
	// Costly says that an event has no value of it before that is asked for: see
	// [Rule.Might].
	Costly bool
}

// Schema is the attributes of one type of rule, by their names.
type Schema[E any] struct {
	Attributes map[string]Attribute[E]
	// Explain says more of a name that is no attribute, or "".
	Explain func(name string) string
}

// One returns the Strings of an attribute that has one value.
func One[E any](get func(E) string) func(E, int) (string, int) {
	return func(e E, i int) (string, int) {
		if i > 0 {
			return "", -1
		}
		return get(e), 1
	}
}

// Rule is a compiled script. It does not change and may be used by many
// goroutines at once.
type Rule[E any] struct {
	holds func(E) bool
	might func(E) bool
	uses  []string
	keys  keys
	part  needle
}

// Keys returns a String or Integer attribute and values of it of which an event
// must have one for the condition to hold. Without them ok is false: any event
// may do. With many rules, it tells which of them are worth to be evaluated.
func (r *Rule[E]) Keys() (attribute string, values []string, ok bool) {
	return r.keys.attribute, r.keys.values, r.keys.attribute != ""
}

// Needle returns an attribute and a text that one of its values must have in it
// for the condition to hold, at its beginning if start is true. Without one ok
// is false. With start it is a String, and otherwise a String or a Command, and
// the text has two bytes or more.
func (r *Rule[E]) Needle() (attribute, text string, start, ok bool) {
	return r.part.attribute, r.part.text, r.part.start, r.part.attribute != ""
}

// Matches reports whether the condition holds for e.
func (r *Rule[E]) Matches(e E) bool { return r.holds(e) }

// Might reports whether the condition may hold for e, whatever its costly
// attributes turn out to be. If not, these need not be found out.
func (r *Rule[E]) Might(e E) bool { return r.might(e) }

// Uses returns the names of the attributes that the script asks for.
func (r *Rule[E]) Uses() []string { return r.uses }

// Error is a fault in a script.
type Error struct {
	Line, Col int // from 1, in characters
	Msg       string
	source    string // the line
}

// Error returns the fault with the line it is in and a caret below the place:
//
//	line 1, column 13: "and" here; want a string, an integer or an attribute
//	  proc.name = and
//	              ^
func (e *Error) Error() string {
	caret := strings.Map(func(r rune) rune {
		if r == '\t' {
			return '\t' // as wide as above
		}
		return ' '
	}, string([]rune(e.source)[:e.Col-1]))
	return fmt.Sprintf("line %d, column %d: %s\n  %s\n  %s^", e.Line, e.Col, e.Msg, e.source, caret)
}

// maxScript is the length of a script in bytes, maxDepth how deep it nests.
const (
	maxScript = 64 << 10
	maxDepth  = 100
)

// fail is the panic with which a fault leaves the parser and the compiler.
type fail struct {
	at  int // byte of the script
	msg string
}

func failf(at int, format string, args ...any) {
	panic(fail{at, fmt.Sprintf(format, args...)})
}

// rescue turns a fail into the Error of script.
func rescue(script string, err *error) {
	switch f := recover().(type) {
	case nil:
	case fail:
		*err = newError(script, f)
	default:
		panic(f)
	}
}

func newError(script string, f fail) *Error {
	// What is missing at the end is missing behind the last word, not in the
	// empty line that a block of YAML ends with.
	before := script[:min(f.at, len(strings.TrimRight(script, " \t\r\n")))]
	start := strings.LastIndexByte(before, '\n') + 1
	line := script[start:]
	if end := strings.IndexByte(line, '\n'); end >= 0 {
		line = line[:end]
	}
	line = printable(strings.TrimSuffix(line, "\r"))
	return &Error{
		Line:   strings.Count(before, "\n") + 1,
		Col:    min(len([]rune(before[start:])), len([]rune(line))) + 1,
		Msg:    f.msg,
		source: line,
	}
}

// printable is a line in which every control character is a question mark:
// what a script holds must not move a terminal's cursor.
func printable(line string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && (r < ' ' || 0x7f <= r && r < 0xa0) {
			return '?'
		}
		return r
	}, line)
}
