package policy

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// paths is a list of paths, base names and patterns of either, and where
// allowed of abstract socket names.
type paths struct {
	trees    map[string]tree
	roots    letterPairs         // what the trees begin with, behind the slash
	depth    int                 // slashes of the deepest tree
	names    map[string]struct{} // base names
	abstract map[string]struct{} // "@name"

	pathGlobs, nameGlobs, abstractGlobs []string

	// above are what the entries begin with up to a star, sorted: to see
	// whether some entry lies below a folder.
	above []prefixEntry
	every bool // "*" is on the list
}

// tree is an entry that stands for all below a path, and perhaps for the path.
type tree struct {
	entry  string // as written
	itself bool
}

type prefixEntry struct{ prefix, entry string }

// newPaths reads entries and reports their faults under at. An empty list is
// nil. Entries that begin with "@" are abstract names if sockets is set.
func newPaths(entries []string, sockets bool, at string, f *faults) *paths {
	if len(entries) == 0 {
		return nil
	}
	l := &paths{trees: make(map[string]tree, len(entries)), above: make([]prefixEntry, 0, len(entries)), names: make(map[string]struct{}), abstract: make(map[string]struct{})}
	for i, s := range entries {
		if err := checkPath(s, sockets); err != nil {
			f.addEntry(at, i, err)
			continue
		}
		l.add(s, sockets)
	}
	slices.SortFunc(l.above, func(a, b prefixEntry) int { return strings.Compare(a.prefix, b.prefix) })
	return l
}

func (l *paths) add(s string, sockets bool) {
	star := strings.IndexByte(s, '*')
	switch {
	case s == "*":
		l.every = true
	case sockets && s[0] == '@' && star < 0:
		l.abstract[s] = struct{}{}
	case sockets && s[0] == '@':
		l.abstractGlobs = append(l.abstractGlobs, s)
	case !strings.Contains(s, "/") && star < 0:
		l.names[s] = struct{}{}
	case !strings.Contains(s, "/"):
		l.nameGlobs = append(l.nameGlobs, s)
	case star < 0:
		l.addTree(strings.TrimSuffix(s, "/"), s, true)
	case star == len(s)-1 && s[0] == '/' && s[star-1] == '/': // /usr/bin/*
		l.addTree(s[:star-1], s, false)
	default:
		l.pathGlobs = append(l.pathGlobs, s)
		if fixed := s[:star]; strings.HasPrefix(fixed, "/") {
			l.above = append(l.above, prefixEntry{fixed[:strings.LastIndexByte(fixed, '/')+1], s})
		}
	}
}

func (l *paths) addTree(root, entry string, itself bool) {
	if known, twice := l.trees[root]; twice && known.itself {
		return
	}
	l.trees[root] = tree{entry, itself}
	l.roots.add(rootLetters(root))
	l.depth = max(l.depth, strings.Count(root, "/"))
	l.above = append(l.above, prefixEntry{root + "/", entry})
}

// rootLetters are the first two bytes of a path behind its slash. The second of
// a name of one letter is the slash behind it, if there is one or not.
func rootLetters(p string) (a, b byte) {
	switch len(p) {
	case 0, 1:
		return '/', '/'
	case 2:
		return p[1], '/'
	}
	return p[1], p[2]
}

// match returns the entry that covers a path, which is absolute and clean, or
// an abstract name. The nil list covers nothing, and nothing covers "".
//
// It costs a hash for each folder above the path, but for no more of them than
// the deepest entry has.
func (l *paths) match(p string) (entry string, ok bool) {
	if l == nil || p == "" {
		return "", false
	}
	if l.every {
		return "*", true
	}
	if p[0] == '@' {
		if _, ok := l.abstract[p]; ok {
			return p, true
		}
		return firstGlob(l.abstractGlobs, p)
	}
	if len(l.trees) > 0 {
		if t, ok := l.trees[""]; ok && (t.itself || len(p) > 1) { // "/" and "/*"
			return t.entry, true
		}
		for depth, end := 0, 0; depth < l.depth && l.roots.has(rootLetters(p)); depth++ {
			next := strings.IndexByte(p[end+1:], '/')
			if next < 0 {
				if t, ok := l.trees[p]; ok && t.itself {
					return t.entry, true
				}
				break
			}
			end += 1 + next
			if t, ok := l.trees[p[:end]]; ok {
				return t.entry, true
			}
		}
	}
	if len(l.names)+len(l.nameGlobs) > 0 {
		name := base(p)
		if _, ok := l.names[name]; ok {
			return name, true
		}
		if entry, ok := firstGlob(l.nameGlobs, name); ok {
			return entry, true
		}
	}
	return firstGlob(l.pathGlobs, p)
}

// below returns an entry that lies below the folder p: who moves the folder,
// or mounts over it, changes what the entry protects. The nil list has none.
func (l *paths) below(p string) (entry string, ok bool) {
	if l == nil || p == "" || p[0] != '/' {
		return "", false
	}
	i, _ := slices.BinarySearchFunc(l.above, p, func(e prefixEntry, p string) int {
		return comparePrefix(e.prefix, p)
	})
	if i < len(l.above) && comparePrefix(l.above[i].prefix, p) == 0 {
		return l.above[i].entry, true
	}
	return "", false
}

// comparePrefix orders s as strings.Compare would against folder+"/", but is 0
// for whatever begins with that.
func comparePrefix(s, folder string) int {
	if folder == "/" {
		folder = ""
	}
	n := min(len(s), len(folder))
	if c := strings.Compare(s[:n], folder[:n]); c != 0 {
		return c
	}
	if len(s) <= len(folder) {
		return -1
	}
	return int(s[len(folder)]) - '/'
}

func firstGlob(patterns []string, s string) (entry string, ok bool) {
	for _, pattern := range patterns {
		if glob(pattern, s) {
			return pattern, true
		}
	}
	return "", false
}

// checkPath checks an entry of a list of paths.
func checkPath(s string, sockets bool) error {
	switch {
	case s == "":
		return errors.New("empty")
	case padded(s):
		return errPadded(s)
	case sockets && s == "@":
		return errors.New(`"@" is no name; "@*" is every name in the abstract namespace`)
	case sockets && s[0] == '@', s == "/":
		return nil
	case s == "." || s == "..":
		return fmt.Errorf("%q is no name; write an absolute path", s)
	case !strings.Contains(s, "/"):
		return nil
	case s[0] != '/' && s[0] != '*':
		return fmt.Errorf("%q is a relative path; write an absolute one or a name", s)
	case path.Clean(s) != strings.TrimSuffix(s, "/"):
		return fmt.Errorf("%q has a \".\", a \"..\" or a double slash; write %q", s, path.Clean(s))
	}
	return nil
}

// typedPath is a path as typed, without what leads nowhere: for deny lists.
func typedPath(p string) string {
	if p == "" || p[0] != '/' {
		return p
	}
	return clean(p)
}

// clean is path.Clean, which most paths are already.
func clean(p string) string {
	if len(p) > 1 && p[0] == '/' && p[len(p)-1] != '/' && !strings.Contains(p, "//") && !strings.Contains(p, "/.") {
		return p
	}
	return path.Clean(p)
}

func quote(s string) string { return strconv.Quote(s) }
