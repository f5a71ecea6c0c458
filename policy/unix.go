package policy

// unixJudge judges connections to Unix sockets by a UnixSection.
type unixJudge struct {
	allow, deny *paths // nil: the list is empty
}

func newUnix(s *UnixSection, at string, f *faults) unixJudge {
	return unixJudge{
		allow: newPaths(s.Allow, true, at+".allow", f),
		deny:  newPaths(s.Deny, true, at+".deny", f),
	}
}

func (j *unixJudge) speaks() bool { return j.allow != nil || j.deny != nil }

func (j *unixJudge) judge(file *File) (Detection, string) {
	if entry, ok := j.deny.match(file.Path); ok {
		return DeniedUnix, listed(quote(file.Path), file.Path, entry)
	}
	if file.Typed != file.Path {
		if entry, ok := j.deny.match(typedPath(file.Typed)); ok {
			return DeniedUnix, listed(quote(file.Typed), file.Typed, entry)
		}
	}
	_, allowed := j.allow.match(file.Path)
	switch {
	case j.allow != nil && !allowed:
		return DeniedUnix, notListed(file.name())
	case j.deny != nil && file.Shared && !allowed:
		return DeniedUnix, file.name() + " has other names, of which one may be on the deny list"
	}
	return NothingDetected, ""
}

// AllowsUnix reports whether the rule allows a Unix socket by name: a rule that
// says nothing about it allows it too, but does not mean it.
func (e *Engine) AllowsUnix(file *File) bool {
	if e == nil || e.network == nil {
		return false
	}
	_, ok := e.network.unix.allow.match(file.Path)
	return ok
}
