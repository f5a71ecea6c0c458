package rules

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Compile checks a script against a schema. The error is an [*Error].
func Compile[E any](script string, schema *Schema[E]) (rule *Rule[E], err error) {
	defer rescue(script, &err)
	c := &compiler[E]{schema: schema}
	n := parse(script)
	holds, might := c.condition(n), c.might(n, true)
	slices.Sort(c.uses)
	return &Rule[E]{holds, might, slices.Compact(c.uses), c.keys(n), c.needle(n)}, nil
}

type compiler[E any] struct {
	schema *Schema[E]
	uses   []string
}

// operand is one side of a comparison: an attribute, or a literal.
type operand[E any] struct {
	at   int
	name string        // as written
	attr *Attribute[E] // nil: a literal
	text string        // of a literal
	kind kind          // of a literal: str, number or word
}

// condition compiles a node that is true or false.
func (c *compiler[E]) condition(n *node) func(E) bool {
	switch n.op {
	case "value":
		return c.bare(c.operand(n))
	case "not":
		inner := c.condition(n.args[0])
		return func(e E) bool { return !inner(e) }
	case "and", "or":
		return c.chain(n)
	case "in":
		return c.in(n)
	}
	return c.compare(n.op, c.side(n, 0), c.side(n, 1), n.at)
}

// might compiles whether a condition may be as wanted, whatever the values of
// costly attributes are.
func (c *compiler[E]) might(n *node, wanted bool) func(E) bool {
	switch {
	case n.op == "not":
		return c.might(n.args[0], !wanted)
	case n.op == "and" || n.op == "or":
		parts := make([]func(E) bool, len(n.args))
		for i, arg := range n.args {
			parts[i] = c.might(arg, wanted)
		}
		return chain(parts, (n.op == "or") == wanted)
	case c.costly(n):
		return func(E) bool { return true }
	}
	holds := c.condition(n)
	return func(e E) bool { return holds(e) == wanted }
}

// costly reports whether a condition asks for a costly attribute.
func (c *compiler[E]) costly(n *node) bool {
	return n.op == "value" && n.value.kind == word && c.schema.Attributes[n.value.text].Costly || slices.ContainsFunc(n.args, c.costly)
}

// side is an operand of a comparison, which must be a value.
func (c *compiler[E]) side(n *node, i int) operand[E] {
	if n.args[i].op != "value" {
		failf(n.args[i].at, "a condition is compared; join conditions by and and or")
	}
	return c.operand(n.args[i])
}

func (c *compiler[E]) chain(n *node) func(E) bool {
	parts := make([]func(E) bool, len(n.args))
	for i, arg := range n.args {
		parts[i] = c.condition(arg)
	}
	return chain(parts, n.op == "or")
}

// chain joins conditions, with what ends the evaluation: true joins by or,
// false by and.
func chain[E any](parts []func(E) bool, end bool) func(E) bool {
	return func(e E) bool {
		for _, holds := range parts {
			if holds(e) == end {
				return end
			}
		}
		return !end
	}
}

// operand looks a value up. A word that is no attribute may still be true,
// false or a word of an Enum, which the comparison knows.
func (c *compiler[E]) operand(n *node) operand[E] {
	o := operand[E]{at: n.at, name: n.value.text, text: n.value.text, kind: n.value.kind}
	if o.kind == word {
		if a, ok := c.schema.Attributes[o.name]; ok {
			o.attr = &a
			c.uses = append(c.uses, o.name)
		}
	}
	return o
}

// unknown reports a word that means nothing.
func (c *compiler[E]) unknown(o operand[E]) {
	if c.schema.Explain != nil {
		if why := c.schema.Explain(o.name); why != "" {
			failf(o.at, "%s %s", o.name, why)
		}
	}
	var names []string
	for name := range c.schema.Attributes {
		names = append(names, name)
	}
	slices.Sort(names)
	if near := nearest(o.name, names); near != "" {
		failf(o.at, "%q is no attribute; did you mean %s?", o.name, near)
	}
	failf(o.at, "%q is no attribute; one of %s", o.name, strings.Join(names, ", "))
}

// unknownBeside reports a word that means nothing to the attribute that it is
// compared with.
func (c *compiler[E]) unknownBeside(left, right operand[E]) {
	if left.attr != nil {
		switch left.attr.Type {
		case Enum:
			c.checkWord(left, right)
		case Bool:
			failf(right.at, "%s is true or false", left.name)
		case Integer:
		default:
			if nearest(right.name, slices.Collect(maps.Keys(c.schema.Attributes))) == "" && (c.schema.Explain == nil || c.schema.Explain(right.name) == "") {
				failf(right.at, "%s is no attribute; a text stands in quotes: %q", right.name, right.text)
			}
		}
	}
	c.unknown(right)
}

// nearest returns the name that differs from a mistyped one by one letter
// missing, wrong or too much, or "".
func nearest(name string, names []string) string {
	for _, known := range names {
		long, short := name, known
		if len(long) < len(short) {
			long, short = short, long
		}
		i := 0
		for i < len(short) && long[i] == short[i] {
			i++
		}
		if len(short) > 2 && (len(long) == len(short)+1 && long[i+1:] == short[i:] || len(long) == len(short) && i < len(short) && long[i+1:] == short[i+1:]) {
			return known
		}
	}
	return ""
}

// bare compiles an operand that stands alone.
func (c *compiler[E]) bare(o operand[E]) func(E) bool {
	switch {
	case o.attr != nil && o.attr.Type == Bool:
		return o.attr.Bool
	case o.attr != nil:
		failf(o.at, "%s is %s, not a condition; compare it", o.name, o.attr.Type)
	case o.kind == word:
		c.unknown(o)
	}
	failf(o.at, "a condition is wanted, not a value")
	panic("unreachable")
}

var flipped = map[string]string{"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}

// compare compiles left op right.
func (c *compiler[E]) compare(op string, left, right operand[E], at int) func(E) bool {
	if left.attr == nil && right.attr != nil && flipped[op] != "" {
		left, right, op = right, left, flipped[op]
	}
	switch {
	case left.attr == nil && left.kind == word:
		c.unknown(left)
	case left.attr == nil && right.attr == nil:
		if right.kind == word {
			c.unknown(right)
		}
		failf(at, "two constants are compared, which is always the same")
	case right.attr == nil && right.kind == word && !c.knows(left, right):
		c.unknownBeside(left, right)
	}
	if op == "!=" {
		equal := c.compare("=", left, right, at)
		return func(e E) bool { return !equal(e) }
	}
	if op == "startswith" || op == "contains" {
		return c.compareText(op, left, right, at)
	}
	if right.attr != nil && left.attr.Type.kind() != right.attr.Type.kind() {
		failf(at, "%s is %s and %s is %s", left.name, left.attr.Type, right.name, right.attr.Type)
	}
	switch left.attr.Type {
	case Integer:
		return c.compareIntegers(op, left, right)
	case Address:
		return c.compareAddresses(op, left, right)
	}
	if op != "=" {
		failf(at, "%s is %s, which has no order; want = or !=", left.name, left.attr.Type)
	}
	switch left.attr.Type {
	case Bool:
		return c.compareBools(left, right)
	case Enum:
		if right.attr == nil {
			c.checkWord(left, right)
		}
	}
	return c.compareText(op, left, right, at)
}

// kind groups types that compare with each other.
func (t Type) kind() Type {
	if t == Command || t == Enum {
		return String
	}
	return t
}

// knows reports whether a bare word means something to the attribute beside
// it.
func (c *compiler[E]) knows(o, bare operand[E]) bool {
	return o.attr != nil && (o.attr.Type == Enum && slices.Contains(o.attr.Words, bare.text) ||
		o.attr.Type == Bool && (bare.text == "true" || bare.text == "false"))
}

func (c *compiler[E]) checkWord(left, right operand[E]) {
	if right.kind == number || !slices.Contains(left.attr.Words, right.text) {
		failf(right.at, "%s is never %q; one of %s", left.name, right.text, strings.Join(left.attr.Words, ", "))
	}
}

func (c *compiler[E]) compareBools(left, right operand[E]) func(E) bool {
	a := left.attr.Bool
	if right.attr != nil {
		b := right.attr.Bool
		return func(e E) bool { return a(e) == b(e) }
	}
	if right.kind != word {
		failf(right.at, "%s is true or false", left.name)
	}
	wanted := right.text == "true"
	return func(e E) bool { return a(e) == wanted }
}

// integer reads a literal; one in quotes is one too.
func integer[E any](left, o operand[E]) int {
	n, err := strconv.Atoi(o.text)
	if err != nil {
		failf(o.at, "%s is an integer, and %q is none", left.name, o.text)
	}
	return n
}

func ordered(op string, c int) bool {
	switch op {
	case "=":
		return c == 0
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	}
	return c >= 0
}

func (c *compiler[E]) compareIntegers(op string, left, right operand[E]) func(E) bool {
	a := left.attr.Integer
	if right.attr != nil {
		b := right.attr.Integer
		return func(e E) bool { return ordered(op, a(e)-b(e)) }
	}
	n := integer(left, right)
	return func(e E) bool { return ordered(op, a(e)-n) }
}

// compareAddresses knows no order between the two families: it holds for
// neither side.
func (c *compiler[E]) compareAddresses(op string, left, right operand[E]) func(E) bool {
	a := left.attr.Address
	if right.attr != nil {
		b := right.attr.Address
		return func(e E) bool { return orderedAddresses(op, a(e), b(e)) }
	}
	p, single := address(left, right)
	switch {
	case single:
		b := p.Addr()
		return func(e E) bool { return orderedAddresses(op, a(e), b) }
	case op != "=":
		failf(right.at, "%q is a prefix, which has no order; want = or !=", right.text)
	}
	return func(e E) bool { return p.Contains(a(e)) }
}

func orderedAddresses(op string, a, b netip.Addr) bool {
	return a.IsValid() && a.BitLen() == b.BitLen() && ordered(op, a.Compare(b))
}

// address reads a literal, an address or a prefix.
func address[E any](left, o operand[E]) (p netip.Prefix, single bool) {
	if a, err := netip.ParseAddr(o.text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(o.text)
	if err != nil {
		failf(o.at, "%s is an address, and %q is neither one nor a prefix such as 10.0.0.0/8", left.name, o.text)
	}
	if p != p.Masked() {
		failf(o.at, "%q has host bits set; write %s", o.text, p.Masked())
	}
	return p, false
}

// compareText compiles =, startswith and contains on text.
func (c *compiler[E]) compareText(op string, left, right operand[E], at int) func(E) bool {
	if right.attr != nil && right.attr.Type != String && right.attr.Type != Enum {
		failf(right.at, "%s is %s; on this side of %s want a string", right.name, right.attr.Type, op)
	}
	if right.attr == nil && right.kind == number && (left.attr == nil || left.attr.Type.kind() == String) {
		failf(right.at, "%s is a string; write %q", left.name, right.text)
	}
	if left.attr != nil && (left.attr.Type == Bool || left.attr.Type == Enum && op != "=") {
		failf(at, "%s is %s; want = or !=", left.name, left.attr.Type)
	}
	has := c.has(op, left)
	if right.attr == nil {
		want := right.text
		return func(e E) bool { return has(e, want) }
	}
	values := right.attr.Strings
	return func(e E) bool {
		for want, next := values(e, 0); next >= 0; want, next = values(e, next) {
			if has(e, want) {
				return true
			}
		}
		return false
	}
}

// has returns whether the operand compares with a string.
func (c *compiler[E]) has(op string, o operand[E]) func(E, string) bool {
	if o.attr == nil {
		text := o.text
		return func(_ E, want string) bool { return compareStrings(op, text, want) }
	}
	switch o.attr.Type {
	case Command:
		parts := o.attr.Parts
		return func(e E, want string) bool { return compareParts(op, parts(e), want) }
	case Integer:
		get := o.attr.Integer
		return func(e E, want string) bool {
			var buf [20]byte
			return compareBytes(op, strconv.AppendInt(buf[:0], int64(get(e)), 10), want)
		}
	case Address:
		get := o.attr.Address
		return func(e E, want string) bool {
			a := get(e)
			if !a.IsValid() {
				return false
			}
			var buf [48]byte
			return compareBytes(op, a.AppendTo(buf[:0]), want)
		}
	}
	values := o.attr.Strings
	return func(e E, want string) bool {
		for value, next := values(e, 0); next >= 0; value, next = values(e, next) {
			if compareStrings(op, value, want) {
				return true
			}
		}
		return false
	}
}

func compareStrings(op, have, want string) bool {
	switch op {
	case "startswith":
		return strings.HasPrefix(have, want)
	case "contains":
		return strings.Contains(have, want)
	}
	return have == want
}

// compareBytes is compareStrings for a number's text; a conversion for the
// sake of a comparison does not allocate.
func compareBytes(op string, have []byte, want string) bool {
	if len(want) > len(have) {
		return false
	}
	if op == "contains" {
		for i := 0; i+len(want) <= len(have); i++ {
			if string(have[i:i+len(want)]) == want {
				return true
			}
		}
		return false
	}
	return string(have[:len(want)]) == want
}

// compareParts is compareStrings for strings with a space between each two,
// without joining them.
func compareParts(op string, parts []string, want string) bool {
	switch op {
	case "startswith":
		rest, _, ok := consume(parts, want)
		return ok && rest == ""
	case "contains":
		return containsParts(parts, want)
	}
	rest, left, ok := consume(parts, want)
	return ok && rest == "" && left == 0
}

// consume takes the parts off want for as long as they agree. It returns what
// is left of want and how many bytes of the parts were not needed, or false if
// they differ.
func consume(parts []string, want string) (rest string, left int, ok bool) {
	for i, part := range parts {
		if i > 0 {
			if want == "" {
				left++
			} else if want[0] != ' ' {
				return "", 0, false
			} else {
				want = want[1:]
			}
		}
		n := min(len(part), len(want))
		if part[:n] != want[:n] {
			return "", 0, false
		}
		want = want[n:]
		left += len(part) - n
	}
	return want, left, true
}

// containsParts finds want inside one part, or beginning in one and going on
// behind a space of its own.
func containsParts(parts []string, want string) bool {
	for i, part := range parts {
		if strings.Contains(part, want) {
			return true
		}
		for k := 0; k < len(want); k++ {
			if want[k] != ' ' || !strings.HasSuffix(part, want[:k]) || i+1 == len(parts) {
				continue
			}
			if rest, _, ok := consume(parts[i+1:], want[k+1:]); ok && rest == "" {
				return true
			}
		}
	}
	return want == "" && len(parts) == 0
}

// in compiles left in (…).
func (c *compiler[E]) in(n *node) func(E) bool {
	left := c.side(n, 0)
	if left.attr == nil {
		if left.kind == word {
			c.unknown(left)
		}
		failf(left.at, "in wants an attribute on its left")
	}
	list := make([]operand[E], len(n.args)-1)
	for i, arg := range n.args[1:] {
		list[i] = c.operand(arg)
		if list[i].kind == word && (list[i].attr != nil || !c.knows(left, list[i])) {
			failf(arg.at, "%q here; want a string or an integer", arg.value.text)
		}
	}
	if left.attr.Type.kind() == String && left.attr.Type != Command && len(list) > 8 {
		return c.inSet(left, list)
	}
	each := make([]func(E) bool, len(list))
	for i, o := range list {
		each[i] = c.compare("=", left, o, o.at)
	}
	return func(e E) bool {
		for _, holds := range each {
			if holds(e) {
				return true
			}
		}
		return false
	}
}

// inSet is in for long lists of strings.
func (c *compiler[E]) inSet(left operand[E], list []operand[E]) func(E) bool {
	set := make(map[string]struct{}, len(list))
	for _, o := range list {
		c.compare("=", left, o, o.at) // for its faults
		set[o.text] = struct{}{}
	}
	values := left.attr.Strings
	return func(e E) bool {
		for value, next := values(e, 0); next >= 0; value, next = values(e, next) {
			if _, ok := set[value]; ok {
				return true
			}
		}
		return false
	}
}

// keys are values of which an attribute must have one.
type keys struct {
	attribute string // "" if nothing is known
	values    []string
}

// keys finds the keys of a condition that was compiled.
func (c *compiler[E]) keys(n *node) keys {
	switch n.op {
	case "=", "in":
		values := n.args[1:]
		attribute := n.args[0]
		if n.op == "=" && !c.keyed(attribute) {
			attribute, values = n.args[1], n.args[:1]
		}
		if !c.keyed(attribute) {
			return keys{}
		}
		k := keys{attribute: attribute.value.text}
		integer := c.schema.Attributes[k.attribute].Type == Integer
		for _, v := range values {
			text := v.value.text
			if v.op != "value" || v.value.kind == word || v.value.kind != str && !integer {
				return keys{}
			}
			if integer { // as it is written shortest
				n, err := strconv.Atoi(text)
				if err != nil {
					return keys{}
				}
				text = strconv.Itoa(n)
			}
			k.values = append(k.values, text)
		}
		return k
	case "and": // any of the parts will do, a text better than a number
		var best keys
		for _, part := range n.args {
			k := c.keys(part)
			if k.attribute != "" && c.schema.Attributes[k.attribute].Type == String {
				return k
			}
			if best.attribute == "" {
				best = k
			}
		}
		return best
	case "or": // all of them are needed, of one attribute
		k := c.keys(n.args[0])
		for _, part := range n.args[1:] {
			more := c.keys(part)
			if more.attribute != k.attribute {
				return keys{}
			}
			k.values = append(k.values, more.values...)
		}
		return k
	}
	return keys{}
}

// keyed reports whether a node is a String or Integer attribute.
func (c *compiler[E]) keyed(n *node) bool {
	if n.op != "value" || n.value.kind != word {
		return false
	}
	a, ok := c.schema.Attributes[n.value.text]
	return ok && (a.Type == String || a.Type == Integer)
}

// needle is a text that must be within a value of an attribute.
type needle struct {
	attribute string // "" if nothing is known
	text      string
	start     bool // at its beginning
}

// needle finds the needle of a condition that was compiled which tells the
// most: one at a beginning, or else the longest.
func (c *compiler[E]) needle(n *node) (best needle) {
	switch n.op {
	case "contains", "startswith":
		left, right := n.args[0], n.args[1]
		if left.op != "value" || left.value.kind != word || right.op != "value" || right.value.kind != str {
			return best
		}
		found := needle{left.value.text, right.value.text, n.op == "startswith"}
		a, ok := c.schema.Attributes[found.attribute]
		if ok && (a.Type == String && found.start || (a.Type == String || a.Type == Command) && !found.start && len(found.text) > 1) {
			best = found
		}
	case "and": // any of the parts will do
		for _, part := range n.args {
			more := c.needle(part)
			if more.attribute != "" && (best.attribute == "" || more.start && !best.start || more.start == best.start && len(more.text) > len(best.text)) {
				best = more
			}
		}
	}
	return best
}
