package policy

import "strings"

// glob reports whether s matches pattern, in which "*" stands for any run of
// bytes, the empty one and one with slashes included. Everything else stands
// for itself.
//
// It goes back to the last star only, so it takes no more than
// len(pattern)*len(s) steps: no pattern makes it explode.
func glob(pattern, s string) bool {
	head, _, starred := strings.Cut(pattern, "*")
	if !starred || !strings.HasPrefix(s, head) { // the answer for most patterns
		return !starred && pattern == s
	}
	p, i := len(head), len(head)
	star, mark := -1, 0 // the last star seen, and where in s its run ends
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// listed says for people that what is on the deny list, and by which entry
// where that reads differently.
func listed(what, name, entry string) string {
	if name == entry {
		return what + " is on the deny list"
	}
	return what + " is on the deny list (" + entry + ")"
}

// notListed says for people that what is missing from the allow list.
func notListed(what string) string { return what + " is not on the allow list" }

// padded reports whether an entry has white space at its ends, where nobody
// sees it and it keeps the entry from matching.
func padded(s string) bool { return strings.TrimSpace(s) != s }
