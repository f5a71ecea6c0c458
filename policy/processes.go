package policy

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// processJudge judges the start of programs by a ProcessesSection.
type processJudge struct {
	effect      Effect    // of the lists
	allow, deny *programs // nil: the list is empty
	parents     []parentJudge
	exempt      *programs
	checks      []active
	strictest   Effect
	paths       []string // that are denied
}

// parentJudge judges programs by who starts them.
type parentJudge struct {
	effect                Effect
	programs, allow, deny *programs
}

// newProcesses prepares s and reports its faults under at. It returns nil for
// a section that says nothing.
func newProcesses(s *ProcessesSection, at string, f *faults) *processJudge {
	if s == nil {
		return nil
	}
	checkEffect(s.Effect, at+".effect", f)
	j := &processJudge{
		allow:  newPrograms(s.Allow, true, at+".allow", f),
		deny:   newPrograms(s.Deny, true, at+".deny", f),
		exempt: newPrograms(s.Exempt, true, at+".exempt", f),
		checks: newChecks(s, processChecks, s.Effect, at, f),
	}
	if speaks(s.Effect) {
		j.effect = *s.Effect
	} else {
		j.allow, j.deny = nil, nil
	}
	lists := j.allow != nil || j.deny != nil
	j.strictest = strictest(lists, j.effect, j.checks)
	for i := range s.Parents {
		if p := newParents(&s.Parents[i], s.Effect, fmt.Sprintf("%s.parents[%d]", at, i), f); p.effect != Disable {
			j.parents = append(j.parents, p)
			if severity(p.effect) > severity(j.strictest) {
				j.strictest = p.effect
			}
		}
	}
	if j.strictest == Disable {
		return nil
	}
	j.paths = j.deny.literalPaths()
	for i := range j.parents {
		j.paths = append(j.paths, j.parents[i].programs.literalPaths()...)
	}
	return j
}

// newParents prepares r and reports its faults under at. One of effect
// Disable says nothing.
func newParents(r *ParentRule, section *Effect, at string, f *faults) parentJudge {
	j := parentJudge{
		effect:   Disable,
		programs: newPrograms(r.Programs, true, at+".programs", f),
		allow:    newPrograms(r.Allow, false, at+".allow", f),
		deny:     newPrograms(r.Deny, false, at+".deny", f),
	}
	if len(r.Programs) == 0 {
		f.add(at+".programs", "missing; write which programs this is about")
	}
	if len(r.Allow) == 0 && len(r.Deny) == 0 {
		f.add(at, "says nothing; write allow, the parents that may start them, or deny")
	}
	effect := r.Effect
	if effect == nil || *effect == Inherit {
		effect = section
	}
	if effect != nil {
		if *effect > Disable && effect != section {
			f.add(at+".effect", "%d is not an effect; %s", uint8(*effect), effectWords)
		}
		j.effect = *effect
	}
	return j
}

// needs returns what the section asks about.
func (j *processJudge) needs() Needs { return allNeeds(j.checks) | j.listNeeds() }

// listNeeds returns what its lists ask about.
func (j *processJudge) listNeeds() Needs {
	var n Needs
	if len(j.parents) > 0 {
		n |= NeedSubject | NeedAncestry
	}
	for _, l := range []*programs{j.allow, j.deny, j.exempt} {
		n |= l.needs()
	}
	for i := range j.parents {
		n |= j.parents[i].programs.needs()
	}
	return n
}

// judge returns the strictest finding: of equals that of the lists, and then
// the first.
func (j *processJudge) judge(ev *Event) (f finding) {
	p := &ev.Program
	switch what, name, entry := j.deny.denies(p); {
	case what != "":
		f = finding{effect: j.effect, detection: DeniedProcess, reason: listed(what, name, entry)}
	case j.allow != nil && !j.allow.allows(p):
		f = finding{effect: j.effect, detection: DeniedProcess, reason: notListed(effective(p))}
	case j.deny.missesDigest(ev):
		f = finding{effect: j.effect, detection: Unreadable, reason: "the digest of " + effective(p) + ", which the deny list asks for, is not known"}
	}
	for i := range j.parents {
		r := &j.parents[i]
		if f.detection != NothingDetected && severity(r.effect) <= severity(f.effect) {
			continue
		}
		if reason := r.judge(ev); reason != "" {
			f = finding{effect: r.effect, detection: DeniedProcess, reason: reason}
		}
	}
	if len(j.checks) == 0 || j.exempt != nil && j.exempt.allows(p) {
		return f
	}
	return run(j.checks, ev, f)
}

// judge returns for people what is wrong with the parents, or "".
func (r *parentJudge) judge(ev *Event) string {
	what, _, _ := r.programs.denies(&ev.Program)
	if what == "" {
		return ""
	}
	who := &ev.Subject
	if who.Path == "" || ev.Unsure&(NeedSubject|NeedAncestry) != 0 {
		return what + " was started by a program that is not known"
	}
	if entry, ok := r.deny.parent(who.Path); ok {
		return what + " was started by " + listed(strconv.Quote(who.Path)+", which", who.Path, entry)
	}
	for i := range who.Ancestors {
		path := who.Ancestors[i].Path
		if entry, ok := r.deny.parent(path); ok {
			return what + " was started below " + listed(strconv.Quote(path)+", which", path, entry)
		}
	}
	if r.allow != nil {
		if _, ok := r.allow.parent(who.Path); !ok {
			return what + " was started by " + notListed(strconv.Quote(who.Path)+", which")
		}
	}
	return ""
}

// parent returns the entry that names a running program. The nil list has
// none.
func (l *programs) parent(path string) (entry string, ok bool) {
	if l == nil {
		return "", false
	}
	return l.file(path)
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
		if e, ok := l.file(clean(p.Typed)); ok { // /bin/../bin/sh, //bin/sh
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
	for _, name := range p.Within {
		if e, ok := l.file(clean(name)); ok {
			return strconv.Quote(name), name, e
		}
	}
	if len(l.digests) > 0 {
		for _, d := range p.Digests {
			if entry, ok := l.digests[d]; ok {
				return effective(p), "", entry
			}
		}
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
//   - A digest counts as the name of its file.
//
// A program of which nothing is known is on no list.
func (l *programs) allows(p *Program) bool {
	if len(l.digests) > 0 && l.allowsDigest(p) {
		return true
	}
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

// allowsDigest is allows by the digests of the files that count.
func (l *programs) allowsDigest(p *Program) bool {
	has := func(i int) bool {
		if i >= len(p.Digests) {
			return false
		}
		_, ok := l.digests[p.Digests[i]]
		return ok
	}
	n := len(p.Interpreters)
	switch {
	case p.Loaded != "":
		return has(n + 1)
	case n > 0:
		return has(0) || has(n)
	}
	return has(0)
}

// needs returns NeedDigests if the list has digests. The nil list needs
// nothing.
func (l *programs) needs() Needs {
	if l == nil || len(l.digests) == 0 {
		return 0
	}
	return NeedDigests
}

// missesDigest reports whether a digest on the list might be the program's,
// which is not known.
func (l *programs) missesDigest(ev *Event) bool {
	return l.needs() != 0 && (len(ev.Program.Digests) == 0 || ev.Unsure&NeedDigests != 0)
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
	starts       letterPairs         // of the literal ones: most others are told by them without a hash
	names, paths []string            // patterns
	digests      map[string]string   // entries by their hexadecimals
	every        bool                // "*" is on the list
}

// newPrograms reads entries, digests only where they are allowed, and reports
// their faults under at. An empty list is nil.
func newPrograms(entries []string, digests bool, at string, f *faults) *programs {
	if len(entries) == 0 {
		return nil
	}
	l := &programs{literal: make(map[string]struct{}, len(entries))}
	for i, s := range entries {
		switch err := checkProgram(s); {
		case err != nil:
			f.addEntry(at, i, err)
		case strings.HasPrefix(s, sha256Prefix) && !digests:
			f.addEntry(at, i, fmt.Errorf("%q: a digest is nothing to know a parent by; write a name or a path", s))
		case strings.HasPrefix(s, sha256Prefix):
			if l.digests == nil {
				l.digests = make(map[string]string)
			}
			l.digests[strings.ToLower(s[len(sha256Prefix):])] = s
		case !strings.Contains(s, "*"):
			l.literal[s] = struct{}{}
			l.starts.add(firstLetters(s))
		case strings.Contains(s, "/"):
			l.paths = append(l.paths, s)
		default:
			l.names = append(l.names, s)
			l.every = l.every || s == "*"
		}
	}
	return l
}

// literalPaths returns the entries that are the path of one file. The nil list
// has none.
func (l *programs) literalPaths() (paths []string) {
	if l == nil {
		return nil
	}
	for entry := range l.literal {
		if strings.Contains(entry, "/") {
			paths = append(paths, entry)
		}
	}
	return paths
}

// file returns the entry that names a file by its path or its base name. The
// file "" is none.
func (l *programs) file(p string) (entry string, ok bool) {
	if p == "" {
		return "", false
	}
	if l.isLiteral(p) {
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
	return l.every || l.isLiteral(p) || l.isLiteral(base(p))
}

func (l *programs) isLiteral(s string) bool {
	if !l.starts.has(firstLetters(s)) {
		return false
	}
	_, ok := l.literal[s]
	return ok
}

// firstLetters are the first two bytes of a name, or of a path behind its
// slash; what is missing is 0.
func firstLetters(s string) (a, b byte) {
	if len(s) > 0 && s[0] == '/' {
		s = s[1:]
	}
	switch len(s) {
	case 0:
		return 0, 0
	case 1:
		return s[0], 0
	}
	return s[0], s[1]
}

// name returns the entry that names a base name. The name "" is none.
func (l *programs) name(n string) (entry string, ok bool) {
	if n == "" {
		return "", false
	}
	if l.isLiteral(n) {
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
	case strings.HasPrefix(s, sha256Prefix):
		return checkHex(s, s[len(sha256Prefix):], 64)
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

const (
	sha256Prefix = "sha256:"
	md5Prefix    = "md5:"
)

// checkHex checks the hexadecimals of a digest that has n of them.
func checkHex(entry, digits string, n int) error {
	if len(digits) != n {
		return fmt.Errorf("%q has %d hexadecimals; this digest has %d", entry, len(digits), n)
	}
	for i := range n {
		if !strings.ContainsRune("0123456789abcdefABCDEF", rune(digits[i])) {
			return fmt.Errorf("%q has a %q; a digest is hexadecimals", entry, digits[i])
		}
	}
	return nil
}
