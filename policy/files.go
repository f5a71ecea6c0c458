package policy

// fileJudge judges changes to the file system by a FilesSection.
type fileJudge struct {
	effect      Effect
	allow, deny *paths // nil: the list is empty
}

// newFiles prepares s and reports its faults under at. It returns nil for a
// section that says nothing.
func newFiles(s *FilesSection, at string, f *faults) *fileJudge {
	if s == nil {
		return nil
	}
	checkEffect(s.Effect, at+".effect", f)
	j := &fileJudge{
		allow: newPaths(s.Allow, false, at+".allow", f),
		deny:  newPaths(s.Deny, false, at+".deny", f),
	}
	if !speaks(s.Effect) || j.allow == nil && j.deny == nil {
		return nil
	}
	j.effect = *s.Effect
	return j
}

func (j *fileJudge) judge(file *File) finding {
	if file.Op == OpWritten {
		return finding{} // the lists were asked before it was written
	}
	if what, path, entry := j.denies(file); what != "" {
		return finding{j.effect, DeniedFile, listed(what, path, entry)}
	}
	if j.allow == nil {
		return finding{}
	}
	if _, ok := j.allow.match(file.Path); !ok {
		return finding{j.effect, DeniedFile, notListed(file.name())}
	}
	if file.pair() {
		if _, ok := j.allow.match(file.To); !ok {
			return finding{j.effect, DeniedFile, notListed(quote(file.To))}
		}
	}
	return finding{}
}

// denies reports whether the list names what the call changes. It returns the
// path for people (what), the path and the entry that matched; what is "" if
// none did.
//
// A rename or a hard link is judged by both its names: what is linked into
// another folder can be written there. Who moves a folder or mounts over it
// changes all that lies below.
func (j *fileJudge) denies(file *File) (what, path, entry string) {
	if j.deny == nil {
		return "", "", ""
	}
	if e, ok := j.deny.match(file.Path); ok {
		return quote(file.Path), file.Path, e
	}
	if file.Typed != file.Path {
		if e, ok := j.deny.match(typedPath(file.Typed)); ok {
			return quote(file.Typed), file.Typed, e
		}
	}
	if file.pair() {
		if e, ok := j.deny.match(file.To); ok {
			return quote(file.To), file.To, e
		}
	}
	if file.Op != "rename" && file.Op != "mount" {
		return "", "", ""
	}
	if e, ok := j.deny.below(file.Path); ok {
		return "what is below " + quote(file.Path), "", e
	}
	if e, ok := j.deny.below(file.To); ok {
		return "what is below " + quote(file.To), "", e
	}
	return "", "", ""
}

// pair reports whether the call acts on both names. What a symbolic link
// points to is only text, and so is the source of most mounts.
func (f *File) pair() bool {
	return f.Op == "rename" || f.Op == "link" || f.Op == "mount" && f.To != "" && f.To[0] == '/'
}

// name is the path for people.
func (f *File) name() string {
	switch {
	case f.Path != "":
		return quote(f.Path)
	case f.Typed != "":
		return quote(f.Typed)
	}
	return "a file without a name"
}
