// Package scrub takes secrets out of command lines, URLs and names before they
// are written anywhere.
//
// It knows secrets by the name they are given under (--password X, PGPASSWORD=X,
// "token": "X", Authorization: X), by the program they are given to (mysql -pX,
// curl -u USER:X, sshpass -p X), by their place in a URL, and by their shape
// (keys and tokens of well-known services, JWT, private keys). It judges nothing:
// rules see what the target really said.
//
// What it writes it reads as no secret, so that scrubbing twice changes nothing.
// Its time is linear in its input.
package scrub

import (
	"slices"
	"strings"
)

// Mark is what stands in a secret's place.
const Mark = "REDACTED"

// maxDepth bounds how deep lines in lines are read: sh -c "ssh host 'sh -c …'".
// Below it, quotes are characters like any other.
const maxDepth = 6

// Args returns argv without its secrets: argv itself if there are none, a copy
// otherwise. It has as many arguments as argv.
func Args(argv []string) []string {
	words := make([]word, len(argv))
	for i, arg := range argv {
		words[i] = word{value: arg, first: i == 0}
	}
	scrubWords(words, 0)
	for i := range words {
		if words[i].value != argv[i] {
			out := make([]string, len(argv))
			for k := range words {
				out[k] = words[k].value
			}
			return out
		}
	}
	return argv
}

// Line returns s without its secrets. It is for command lines as a shell would
// read them, for URLs and names, and for sentences that quote them.
func Line(s string) string { return line(s, 0) }

func line(s string, depth int) string {
	return shellLine(text(s), depth)
}

// word is one word of a command line, without its quotes.
type word struct {
	value    string
	from, to int  // where it stands in its line, quotes included
	first    bool // a command begins with it
	piped    bool // … which reads what the one before wrote
}

// shellLine scrubs s, which text has seen, word by word.
func shellLine(s string, depth int) string {
	words := split(s, depth < maxDepth)
	was := make([]string, len(words))
	for i := range words {
		was[i] = words[i].value
	}
	scrubWords(words, depth)
	var out strings.Builder
	last := 0
	for i, w := range words {
		if w.value != was[i] {
			out.WriteString(s[last:w.from])
			out.WriteString(quote(w.value))
			last = w.to
		}
	}
	if last == 0 {
		return s
	}
	out.WriteString(s[last:])
	return out.String()
}

// quote returns s as one word of a shell.
func quote(s string) string {
	if !strings.ContainsAny(s, " \t\n\"'`\\$&|;<>()*?!#~") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// operators end a word and a command.
const operators = "|&;()\n`"

// split returns the words of a command line. With quotes it takes those away,
// as a shell does; a quote that nobody closes is a character.
func split(s string, quotes bool) []word {
	var words []word
	var value []byte
	first, piped := true, false
	unclosed := [2]bool{} // ' and ": there is none further on
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case strings.IndexByte(operators, c) >= 0:
			first, piped = true, c == '|' && (i == 0 || s[i-1] != '|') && !strings.HasPrefix(s[i+1:], "|")
			i++
			continue
		case c == ' ' || c == '\t' || c == '\r':
			i++
			continue
		}
		from := i
		value = value[:0]
		plain := true // the value is what stands in s
	scan:
		for i < len(s) {
			c := s[i]
			switch {
			case c == ' ' || c == '\t' || c == '\r' || strings.IndexByte(operators, c) >= 0:
				break scan
			case quotes && c == '\\' && i+1 < len(s):
				value, plain = append(value, s[i+1]), false
				i += 2
				continue
			case quotes && (c == '\'' || c == '"'):
				kind := 0
				if c == '"' {
					kind = 1
				}
				end := -1
				if !unclosed[kind] {
					end = closing(s, i+1, c, c == '"' || i > from && s[i-1] == '$')
					unclosed[kind] = end < 0
				}
				if end >= 0 {
					if i > from && s[i-1] == '$' && c == '\'' {
						value = value[:len(value)-1]
					}
					value, plain = append(value, s[i+1:end]...), false
					i = end + 1
					continue
				}
			}
			value = append(value, c)
			i++
		}
		w := word{value: s[from:i], from: from, to: i, first: first, piped: piped}
		if !plain {
			w.value = string(value)
		}
		words = append(words, w)
		first, piped = false, false
	}
	return words
}

// closing returns where the quote q is that closes the text from i on, or -1.
func closing(s string, i int, q byte, escapes bool) int {
	for ; i < len(s); i++ {
		switch {
		case s[i] == q:
			return i
		case s[i] == '\\' && escapes:
			i++
		}
	}
	return -1
}

// scrubWords takes the secrets out of the words of one line.
func scrubWords(words []word, depth int) {
	var p reader
	aws := false // the last word was an AWS key's name
	for i := range words {
		w := &words[i]
		if w.first {
			if w.piped && reads(words[i:]) {
				hideWritten(words[:i])
			}
			p = reader{}
		}
		if depth == 0 { // what lies deeper, text has seen already
			was := w.value
			w.value = text(was)
			if aws && awsSecret(was) {
				w.value = Mark
			}
			aws = w.value == Mark && len(was) == 20 && was[3] == 'A'
		}
		code := i > 0 && !w.first && isCode(words[i-1].value)
		switch {
		case !code && p.take(w):
		case strings.ContainsAny(w.value, " \t\n") && depth < maxDepth:
			w.value = shellLine(w.value, depth+1)
		}
	}
}

// isCode reports whether an option is one that a command line follows: -c, -lc.
func isCode(option string) bool {
	n, ok := strings.CutSuffix(option, "c")
	return ok && len(n) > 0 && len(n) < 5 && n[0] == '-' && strings.Trim(n[1:], "abcdefghijklmnopqrstuvwxyz") == ""
}

// reads reports whether a command reads a password from its standard input.
func reads(command []word) bool {
	for i, w := range command {
		if i > 0 && w.first {
			break
		}
		switch name(w.value) {
		case "chpasswd", "passwd", "smbpasswd", "cryptsetup", "--password-stdin", "--with-token", "--passphrase-fd":
			return true
		case "-S":
			if i > 0 && name(command[0].value) == "sudo" {
				return true
			}
		}
	}
	return false
}

// hideWritten takes away what the last command of before writes by itself.
func hideWritten(before []word) {
	i := len(before) - 1
	for i > 0 && !before[i].first {
		i--
	}
	if i < 0 || !slices.Contains([]string{"echo", "printf"}, name(before[i].value)) {
		return
	}
	for k := i + 1; k < len(before); k++ {
		if w := &before[k]; !strings.HasPrefix(w.value, "-") && !harmless(w.value) && w.value != `%s` {
			w.value = Mark
		}
	}
}
