package audit

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText bounds a text that the target chose, in bytes.
const maxText = 4096

const ellipsis = "…"

// CommandLine joins argv as a shell would read it: quoted where needed, control
// characters and broken UTF-8 escaped, cut when it gets too long.
func CommandLine(argv []string) string {
	var b strings.Builder
	for i, arg := range argv {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(quote(shorten(arg)))
		if b.Len() > maxText {
			return shorten(b.String())
		}
	}
	return b.String()
}

// quote returns arg as one word of a shell.
func quote(arg string) string {
	switch {
	case !printable(arg):
		return "$'" + escape(arg, `'\`) + "'"
	case arg == "" || strings.ContainsFunc(arg, special):
		return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return arg
}

// special reports whether a shell gives r a meaning.
func special(r rune) bool {
	return strings.ContainsRune(" \"'`\\$&|;<>()[]{}*?!#~", r)
}

// Clean returns a text that the target chose, fit for one line of a terminal
// and of bounded length.
func Clean(s string) string {
	s = shorten(s)
	if printable(s) {
		return s
	}
	return shorten(escape(s, ""))
}

// printable reports whether s can be shown as it is. Characters that only
// steer a terminal or turn the direction of text cannot.
func printable(s string) bool {
	for i, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return false
			}
		}
	}
	return true
}

// escape writes what is not printable as a shell's $'…' would, and puts a
// backslash before the characters in also.
func escape(s, also string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < utf8.RuneSelf && !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\x%02x`, r)
		case !unicode.IsPrint(r) && r > 0xFFFF:
			fmt.Fprintf(&b, `\U%08x`, r)
		case !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		case strings.ContainsRune(also, r):
			b.WriteByte('\\')
			b.WriteRune(r)
		default:
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// shorten cuts s to maxText bytes and shows that it did.
func shorten(s string) string {
	if len(s) <= maxText {
		return s
	}
	n := maxText - len(ellipsis)
	for i := range utf8.UTFMax { // do not cut a character in two
		if utf8.RuneStart(s[n-i]) {
			n -= i
			break
		}
	}
	return s[:n] + ellipsis
}
