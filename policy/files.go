package policy

import (
	"errors"
	"fmt"
	"strings"
)

// fileJudge judges changes to the file system by a FilesSection.
type fileJudge struct {
	effect           Effect // of the lists
	allow, deny      *paths // nil: the list is empty
	malware, trusted digests
	checks           []active
	strictest        Effect
}

// fileChecks are the detections of a FilesSection. The list of malware is not
// among them: it is the rule's own.
var fileChecks = []detector[FilesSection]{
	{key: "detect.binaries", detection: BinaryChanged, kind: FileWrite, needs: NeedFileWrites | NeedFileType | NeedSubject | NeedAncestry,
		asks:   ifChanged(binaryChanged),
		effect: func(s *FilesSection) *Effect { return s.Detect.Binaries },
		holds:  unlessMaintained(binaryChanged)},
	{key: "detect.binaries", detection: ELFChanged, kind: FileWrite, needs: NeedFileWrites | NeedFileType | NeedSubject | NeedAncestry,
		asks:   ifChanged(elfChanged),
		effect: func(s *FilesSection) *Effect { return s.Detect.Binaries },
		holds:  unlessMaintained(elfChanged)},
	{key: "detect.certificates", detection: RegularFile, kind: FileWrite, needs: NeedFileWrites | NeedFileType | NeedSubject | NeedAncestry,
		asks:   ifChanged(certificateChanged),
		effect: func(s *FilesSection) *Effect { return s.Detect.Certificates },
		holds:  unlessMaintained(certificateChanged)},
	{key: "detect.sshAndAdminFiles", detection: AdminAccount, kind: FileWrite, needs: NeedFileWrites,
		effect: func(s *FilesSection) *Effect { return s.Detect.SSHAndAdminFiles },
		holds:  changes(adminFiles, "says who may log in and what they may do")},
	{key: "detect.sshAndAdminFiles", detection: SSHAccess, kind: FileWrite, needs: NeedFileWrites,
		effect: func(s *FilesSection) *Effect { return s.Detect.SSHAndAdminFiles },
		holds:  sshChanged},
	{key: "detect.packedBinaries", detection: EncryptedBinary, kind: FileWrite, needs: NeedContent | NeedProgramContent, late: true,
		effect: func(s *FilesSection) *Effect { return s.Detect.PackedBinaries },
		holds:  found(FoundPacked, "is packed or encrypted")},
	{key: "detect.suspiciousELF", detection: SuspiciousELF, kind: FileWrite, needs: NeedContent | NeedProgramContent, late: true,
		effect: func(s *FilesSection) *Effect { return s.Detect.SuspiciousELF },
		holds:  found(FoundELFHeader, "has headers that keep it from being analysed")},
	{key: "detect.foreignArchitecture", detection: ForeignELF, kind: FileWrite, needs: NeedContent | NeedProgramContent, late: true,
		effect: func(s *FilesSection) *Effect { return s.Detect.ForeignArchitecture },
		holds:  found(FoundForeignELF, "is a program for another processor")},
	{key: "detect.malware", detection: MalwareFile, kind: FileWrite, needs: NeedContent | NeedProgramContent | NeedProgramMalware, rests: NeedContent, late: true,
		effect: func(s *FilesSection) *Effect { return s.Detect.Malware },
		holds:  found(FoundMalware, "is malware")},
	{key: "detect.privateKeys", detection: SecretFile, kind: FileWrite, needs: NeedContent, late: true,
		effect: func(s *FilesSection) *Effect { return s.Detect.PrivateKeys },
		holds:  found(FoundPrivateKey, "has a private key in it")},
}

// found looks for one kind of content in what was written.
func found(what Content, says string) func(*Event) string {
	return func(ev *Event) string {
		if ev.File.Op != OpWritten {
			return ""
		}
		for i := range ev.File.Findings {
			if f := &ev.File.Findings[i]; f.What == what {
				reason := ev.File.name() + " " + says
				if f.Detail != "" {
					reason += " (" + f.Detail + ")"
				}
				return reason
			}
		}
		return ""
	}
}

// Files that detections are about, in the words of a FilesSection.
var (
	binaryFolders = mustPaths("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/usr/libexec",
		"/lib/ld-*", "/lib64/ld-*", "/usr/lib/ld-*", "/usr/lib64/ld-*")
	certificateFiles = mustPaths("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/ca-certificates.conf", "/usr/share/ca-certificates",
		"/usr/local/share/ca-certificates", "/usr/share/pki")
	certificateNames = mustPaths("cacert.pem", "ca-bundle.crt", "ca-certificates.crt") // of the image: pip brings its own
	adminFiles       = mustPaths("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/passwd-", "/etc/shadow-", "/etc/sudoers",
		"/etc/sudoers.d", "/etc/doas.conf", "/etc/doas.d", "/etc/pam.d", "/etc/security", "/etc/subuid", "/etc/subgid",
		"/etc/polkit-1", "/etc/ld.so.preload", "/etc/pam.conf", "/etc/sudo.conf")
	sshFiles   = mustPaths("/etc/ssh", "authorized_keys", "authorized_keys2", "*/.ssh/*", "/etc/dropbear")
	sshFolders = mustPaths(".ssh")
)

// mustPaths reads a list of ours.
func mustPaths(entries ...string) *paths {
	var f faults
	l := newPaths(entries, false, "", &f)
	if len(f) > 0 {
		panic(f[0]) // a test reads them all
	}
	return l
}

// changes looks for a change to one of files, before it is made.
func changes(files *paths, says string) func(*Event) string {
	return func(ev *Event) string {
		if path := ev.File.changed(files); path != "" {
			return quote(path) + " " + says
		}
		return ""
	}
}

// sshChanged looks for a change to what SSH goes by. A folder for it may be made,
// but who moves one there, or links to one, brings what is in it.
func sshChanged(ev *Event) string {
	f := &ev.File
	path := f.changed(sshFiles)
	if path == "" && (f.Op == "rename" || f.Op == "symlink" || f.Op == "mount") {
		path = f.changed(sshFolders)
	}
	if path == "" {
		return ""
	}
	return quote(path) + " says who may log in by SSH, and how"
}

// changed returns the path on the list that is about to be changed, or "".
func (f *File) changed(l *paths) string {
	if f.Op == OpWritten {
		return ""
	}
	if _, ok := l.match(f.Path); ok && !knownHosts(f.Path) {
		return f.Path
	}
	moves := f.Op == "rename" || f.Op == "mount"
	if moves {
		if entry, ok := l.below(f.Path); ok {
			return entry
		}
	}
	if !f.pair() {
		return ""
	}
	if _, ok := l.match(f.To); ok && !knownHosts(f.To) {
		return f.To
	}
	if moves {
		if entry, ok := l.below(f.To); ok {
			return entry
		}
	}
	return ""
}

// knownHosts reports whether a file is one that every ssh and git writes to:
// it says whom to trust, but lets nobody in.
func knownHosts(path string) bool {
	return strings.HasPrefix(base(path), "known_hosts")
}

// binaryChanged finds a change below the folders where programs lie.
func binaryChanged(ev *Event) string {
	f := &ev.File
	if f.Op == "mkdir" || f.Op == "rmdir" {
		return ""
	}
	if path := f.changed(binaryFolders); path != "" {
		return quote(path) + " lies where programs do"
	}
	return ""
}

// elfChanged finds a change to a program or library of the image, wherever it
// lies.
func elfChanged(ev *Event) string {
	f := &ev.File
	if f.Op == OpWritten || f.Type != "elf" || !f.Image {
		return ""
	}
	return f.name() + " is a program or library"
}

// certificateChanged finds a change to certificates that others are trusted
// by, or to a private key.
func certificateChanged(ev *Event) string {
	f := &ev.File
	if f.Op == OpWritten {
		return ""
	}
	if f.Type == "secret" && f.Image {
		return f.name() + " has a private key in it"
	}
	path := f.changed(certificateFiles)
	if path == "" && f.Image {
		path = f.changed(certificateNames)
	}
	if path != "" {
		return quote(path) + " says whose certificates are trusted"
	}
	return ""
}

// installers are the programs whose work it is to change programs and
// certificates, where their packages put them.
var installers = map[string]bool{
	"/usr/bin/dpkg": true, "/usr/bin/apt": true, "/usr/bin/apt-get": true, "/sbin/apk": true, "/usr/sbin/apk": true, "/usr/bin/apk": true,
	"/usr/bin/rpm": true, "/usr/bin/dnf": true, "/usr/bin/dnf-3": true, "/usr/bin/dnf5": true, "/usr/bin/microdnf": true, "/usr/bin/tdnf": true,
	"/usr/bin/yum": true, "/usr/bin/zypper": true, "/usr/bin/pacman": true,
}

// ifChanged asks who it is that changes something of note.
func ifChanged(changed func(*Event) string) func(*Event) Needs {
	return func(ev *Event) Needs {
		if changed(ev) == "" {
			return NeedFileWrites | NeedFileType
		}
		return NeedFileWrites | NeedFileType | NeedSubject | NeedAncestry
	}
}

// unlessMaintained leaves out what package managers do.
func unlessMaintained(changed func(*Event) string) func(*Event) string {
	return func(ev *Event) string {
		if reason := changed(ev); reason != "" && !maintained(ev) {
			return reason
		}
		return ""
	}
}

// maintained reports whether a package manager does it, by itself or through
// its scripts.
func maintained(ev *Event) bool {
	if installers[ev.Subject.Path] || installers[ev.Subject.Script] {
		return true
	}
	for _, a := range ev.Subject.Ancestors {
		if installers[a.Path] || installers[a.Script] {
			return true
		}
	}
	return false
}

// Installs reports whether a path is that of a package manager.
func Installs(path string) bool { return installers[path] }

// digests is a list of files by their content.
type digests map[string]string // names by hexadecimals, without the kind: their length tells

// newDigests reads entries and reports their faults under at.
func newDigests(entries []string, at string, f *faults) digests {
	d := make(digests, len(entries))
	for i, s := range entries {
		digest, name, _ := strings.Cut(s, " ")
		if err := checkDigest(s, digest); err != nil {
			f.addEntry(at, i, err)
			continue
		}
		_, digits, _ := strings.Cut(digest, ":")
		d[strings.ToLower(digits)] = strings.TrimSpace(name)
	}
	return d
}

func checkDigest(entry, digest string) error {
	switch {
	case entry == "":
		return errors.New("empty")
	case strings.HasPrefix(digest, sha256Prefix):
		return checkHex(entry, digest[len(sha256Prefix):], 64)
	case strings.HasPrefix(digest, md5Prefix):
		return checkHex(entry, digest[len(md5Prefix):], 32)
	}
	return fmt.Errorf("%q is no digest; write it as \"sha256:…\" or \"md5:…\"", entry)
}

// has reports whether the file is on the list, and by which name.
func (d digests) has(sha256, md5 string) (name string, ok bool) {
	if len(d) == 0 {
		return "", false
	}
	if name, ok = d[sha256]; !ok {
		name, ok = d[md5]
	}
	return name, ok
}

// newFiles prepares s and reports its faults under at. It returns nil for a
// section that says nothing.
func newFiles(s *FilesSection, at string, f *faults) *fileJudge {
	if s == nil {
		return nil
	}
	checkEffect(s.Effect, at+".effect", f)
	j := &fileJudge{
		allow:   newPaths(s.Allow, false, at+".allow", f),
		deny:    newPaths(s.Deny, false, at+".deny", f),
		malware: newDigests(s.Malware, at+".malware", f),
		trusted: newDigests(s.Trusted, at+".trusted", f),
		checks:  newChecks(s, fileChecks, s.Effect, at, f),
	}
	if len(s.Malware) > 0 && s.Detect.Malware == nil {
		f.add(at+".malware", "nothing looks at it; write detect: {malware: alert} too")
	}
	if speaks(s.Effect) {
		j.effect = *s.Effect
	} else {
		j.allow, j.deny = nil, nil
	}
	j.strictest = strictest(j.allow != nil || j.deny != nil, j.effect, j.checks)
	if j.strictest == Disable {
		return nil
	}
	return j
}

// needs returns what the section asks about.
func (j *fileJudge) needs() Needs {
	n := allNeeds(j.checks)
	if j.allow != nil || j.deny != nil {
		n |= NeedFileWrites
	}
	return n
}

// judge returns the strictest finding. Before a change the lists and what is
// there count, after it what was written.
func (j *fileJudge) judge(ev *Event) finding {
	if ev.File.Op == OpWritten {
		return j.judgeContent(ev)
	}
	return run(j.checks, ev, j.lists(&ev.File))
}

// judgeContent judges a file that was written.
func (j *fileJudge) judgeContent(ev *Event) finding {
	if _, ok := j.trusted.has(ev.File.SHA256, ev.File.MD5); ok {
		return finding{}
	}
	f := run(j.checks, ev, finding{})
	name, ok := j.malware.has(ev.File.SHA256, ev.File.MD5)
	if !ok {
		return f
	}
	for i := range j.checks {
		c := &j.checks[i]
		if c.detection == MalwareFile && (f.detection == NothingDetected || severity(c.effect) >= severity(f.effect)) {
			return finding{effect: c.effect, detection: MalwareFile, reason: ev.File.name() + " is malware (" + listedName(name) + ")", malware: name}
		}
	}
	return f
}

func listedName(name string) string {
	if name == "" {
		return "its digest is on the list"
	}
	return name
}

// judgeProgram judges what the files hold of a program that is about to start,
// and returns the strictest finding if it is stricter than f. It is not too
// late to prevent.
func (j *fileJudge) judgeProgram(ev *Event, f finding) finding {
	stricter := func(c *active) bool {
		return f.detection == NothingDetected || severity(c.asked) > severity(f.effect)
	}
	for i := range j.checks {
		c := &j.checks[i]
		if !c.needs.Has(NeedProgramContent) || !stricter(c) {
			continue
		}
		if c.rests != 0 && ev.Unsure.Has(NeedProgramContent) {
			f = finding{effect: c.asked, detection: programDetection(c.detection), reason: "it could not be found out that this is not so"}
			continue
		}
		for n := range ev.Program.Contents {
			is := &ev.Program.Contents[n]
			if _, ok := j.trusted.has(is.SHA256, is.MD5); ok {
				continue
			}
			if name, ok := j.malware.has(is.SHA256, is.MD5); ok && c.detection == MalwareFile {
				f = finding{effect: c.asked, detection: MalwareProcess, reason: quote(is.Path) + " is malware (" + listedName(name) + ")", malware: name}
				break
			}
			if len(is.Findings) == 0 {
				continue
			}
			written := &Event{Kind: FileWrite, File: File{Path: is.Path, Op: OpWritten, Findings: is.Findings}}
			if reason := c.holds(written); reason != "" {
				f = finding{effect: c.asked, detection: programDetection(c.detection), reason: reason}
				break
			}
		}
	}
	return f
}

// programDetection is what a detection of a file's content is called when the
// file is started.
func programDetection(d Detection) Detection {
	if d == MalwareFile {
		return MalwareProcess
	}
	return d
}

// startEffect is the strictest effect that judgeProgram may have.
func (j *fileJudge) startEffect() Effect {
	strict := Disable
	for i := range j.checks {
		if c := &j.checks[i]; c.needs.Has(NeedProgramContent) && severity(c.asked) > severity(strict) {
			strict = c.asked
		}
	}
	return strict
}

func (j *fileJudge) lists(file *File) finding {
	if what, path, entry := j.denies(file); what != "" {
		return finding{effect: j.effect, detection: DeniedFile, reason: listed(what, path, entry)}
	}
	if j.allow == nil {
		return finding{}
	}
	if _, ok := j.allow.match(file.Path); !ok {
		return finding{effect: j.effect, detection: DeniedFile, reason: notListed(file.name())}
	}
	if file.pair() {
		if _, ok := j.allow.match(file.To); !ok {
			return finding{effect: j.effect, detection: DeniedFile, reason: notListed(quote(file.To))}
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
