package policy

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// processJudge judges the start of programs by the lists of a
// ProcessesSection.
type processJudge struct {
	effect      Effect
	allow, deny *programs // nil: the list is empty
}

// newProcesses prepares s and reports its faults under at. It returns nil for
// a section that says nothing.
func newProcesses(s *ProcessesSection, at string, f *faults) *processJudge {
	if s == nil {
		return nil
	}
	checkEffect(s.Effect, at+".effect", f)
	j := &processJudge{
		allow: newPrograms(s.Allow, at+".allow", f),
		deny:  newPrograms(s.Deny, at+".deny", f),
	}
	if !speaks(s.Effect) || j.allow == nil && j.deny == nil {
		return nil
	}
	j.effect = *s.Effect
	return j
}

func (j *processJudge) judge(p *Program) (Detection, string) {
	if what, name, entry := j.deny.denies(p); what != "" {
		return DeniedProcess, listed(what, name, entry)
	}
	if j.allow != nil && !j.allow.allows(p) {
		return DeniedProcess, notListed(effective(p))
	}
	return NothingDetected, ""
}

// denies reports whether the list names p by any of its names: as typed and
// resolved, the interpreters, the program behind a loader, the applet. It
// returns the name for people (what), the name and the entry that matched;
// what is "" if none did.
//
// Any name counts, as each is a way to the same deed: `busybox nc`,
// `ld-linux.so /usr/bin/nc` and a link to nc are all nc.
func (l *programs) denies(p *Program) (what, name, entry string) {
	if l == nil {
		return "", "", ""
	}
	if p.Typed != "" {
		if e, ok := l.file(path.Clean(p.Typed)); ok { // /bin/../bin/sh, //bin/sh
			return strconv.Quote(p.Typed), p.Typed, e
		}
	}
	if p.Path != p.Typed {
		if e, ok := l.file(p.Path); ok {
			return strconv.Quote(p.Path), p.Path, e
		}
	}
	for _, interpreter := range p.Interpreters {
		if e, ok := l.file(interpreter); ok {
			return "interpreter " + strconv.Quote(interpreter), interpreter, e
		}
	}
	if e, ok := l.file(p.Loaded); ok {
		return strconv.Quote(p.Loaded), p.Loaded, e
	}
	if e, ok := l.name(p.Applet); ok {
		return "applet " + strconv.Quote(p.Applet), p.Applet, e
	}
	if l.every {
		return "a program without a name", "", "*"
	}
	return "", "", ""
}

// allows reports whether the list names the program that would really run.
//
//   - A script runs if it or the last interpreter, which the kernel loads, is
//     on the list.
//   - An applet runs if it or its multi-call binary is: who lists busybox
//     lists all of it.
//   - A program behind a loader runs if it is on the list, or if an entry
//     without a star names the loader. /usr/* covers the loader's file, but
//     nobody who writes it wants every program on the disk.
//   - Any other program runs if its file is, as typed or resolved.
//
// A program of which nothing is known is on no list.
func (l *programs) allows(p *Program) bool {
	own := p.Path // the file the kernel loads
	script := len(p.Interpreters) > 0
	if script {
		if l.typed(p.Typed) || l.hasFile(p.Path) {
			return true
		}
		own = p.Interpreters[len(p.Interpreters)-1]
	}
	switch {
	case p.Applet != "":
		if _, ok := l.name(p.Applet); ok || l.hasFile(own) {
			return true
		}
		return !script && base(p.Typed) == p.Applet && l.typed(p.Typed)
	case p.Loaded != "":
		return l.hasFile(p.Loaded) || l.literalFile(own)
	case script:
		return l.hasFile(own)
	}
	return l.typed(p.Typed) || p.Path != p.Typed && l.hasFile(p.Path)
}

// typed is hasFile for the path as typed. Its ".." would carry a path that
// matches /usr/bin/* out of /usr/bin, so that such a path counts by its base
// name only.
func (l *programs) typed(p string) bool {
	if strings.Contains(p, "..") {
		for part := range strings.SplitSeq(p, "/") {
			if part == ".." {
				_, ok := l.name(base(p))
				return ok
			}
		}
	}
	return l.hasFile(p)
}

// effective names for people the program that an allow list misses.
func effective(p *Program) string {
	file := p.Path
	if file == "" {
		file = p.Typed
	}
	if file == "" {
		return "a program without a name"
	}
	what := strconv.Quote(file)
	switch n := len(p.Interpreters); {
	case n > 0:
		return what + ", run by " + strconv.Quote(p.Interpreters[n-1]) + ","
	case p.Applet != "":
		return "applet " + strconv.Quote(p.Applet) + " of " + what
	case p.Loaded != "":
		return strconv.Quote(p.Loaded) + ", loaded by " + what + ","
	}
	return what
}

// programs is a list of names, paths and patterns of either.
type programs struct {
	literal      map[string]struct{} // names and paths: only paths have a slash
	names, paths []string            // patterns
	every        bool                // "*" is on the list
}

// newPrograms reads entries and reports their faults under at. An empty list
// is nil.
func newPrograms(entries []string, at string, f *faults) *programs {
	if len(entries) == 0 {
		return nil
	}
	l := &programs{literal: make(map[string]struct{}, len(entries))}
	for i, s := range entries {
		switch err := checkProgram(s); {
		case err != nil:
			f.addEntry(at, i, err)
		case !strings.Contains(s, "*"):
			l.literal[s] = struct{}{}
		case strings.Contains(s, "/"):
			l.paths = append(l.paths, s)
		default:
			l.names = append(l.names, s)
			l.every = l.every || s == "*"
		}
	}
	return l
}

// file returns the entry that names a file by its path or its base name. The
// file "" is none.
func (l *programs) file(p string) (entry string, ok bool) {
	if p == "" {
		return "", false
	}
	if _, ok := l.literal[p]; ok {
		return p, true
	}
	for _, pattern := range l.paths {
		if glob(pattern, p) {
			return pattern, true
		}
	}
	return l.name(base(p))
}

func (l *programs) hasFile(p string) bool {
	_, ok := l.file(p)
	return ok
}

// literalFile is hasFile by entries without a star, and by "*".
func (l *programs) literalFile(p string) bool {
	if p == "" {
		return false
	}
	_, byPath := l.literal[p]
	_, byName := l.literal[base(p)]
	return byPath || byName || l.every
}

// name returns the entry that names a base name. The name "" is none.
func (l *programs) name(n string) (entry string, ok bool) {
	if n == "" {
		return "", false
	}
	if _, ok := l.literal[n]; ok {
		return n, true
	}
	for _, pattern := range l.names {
		if glob(pattern, n) {
			return pattern, true
		}
	}
	return "", false
}

// base returns what follows the last slash. Unlike path.Base it makes no
// name of a path without one.
func base(p string) string { return p[strings.LastIndexByte(p, '/')+1:] }

// checkProgram checks an entry of a process list.
func checkProgram(s string) error {
	switch {
	case s == "":
		return errors.New("empty")
	case padded(s):
		return errPadded(s)
	case strings.HasPrefix(s, "sha256:"):
		return fmt.Errorf("%q: digests are not supported by this version", s)
	case !strings.Contains(s, "/"):
		return nil
	case s[0] != '/' && s[0] != '*':
		return fmt.Errorf("%q is a relative path; write an absolute one or a name", s)
	case strings.HasSuffix(s, "/"):
		return fmt.Errorf("%q is a directory; write %q for the programs in it", s, s+"*")
	case path.Clean(s) != s:
		return fmt.Errorf("%q has a \".\", a \"..\" or a double slash; write %q", s, path.Clean(s))
	}
	return nil
}

func errPadded(s string) error {
	return fmt.Errorf("%q has white space around it", s)
}
