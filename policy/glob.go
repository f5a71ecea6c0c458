package policy

import "strings"

// glob reports whether s matches pattern, in which "*" stands for any run of
// bytes, the empty one and one with slashes included. Everything else stands
// for itself.
//
// Each part between two stars is taken where it first fits, which leaves the
// most to the parts behind it: no pattern makes it explode.
func glob(pattern, s string) bool {
	head, rest, starred := strings.Cut(pattern, "*")
	if !starred || !strings.HasPrefix(s, head) { // the answer for most patterns
		return !starred && pattern == s
	}
	s = s[len(head):]
	for {
		part, more, again := strings.Cut(rest, "*")
		if !again {
			return strings.HasSuffix(s, part)
		}
		i := indexPart(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], more
	}
}

// indexPart is strings.Index for paths: those are full of slashes, and it looks
// for what it is to find by its first byte.
func indexPart(s, part string) int {
	slashes := 0
	for slashes+1 < len(part) && part[slashes] == '/' {
		slashes++
	}
	for at := slashes; at <= len(s); at++ {
		next := strings.Index(s[at:], part[slashes:])
		if next < 0 {
			return -1
		}
		if at += next; strings.HasSuffix(s[:at], part[:slashes]) {
			return at - slashes
		}
	}
	return -1
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
