package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"appdefender/policy/rules"
)

// customType is a type of custom rules, with the events they look at and what
// their scripts may ask.
type customType struct {
	name   string
	kind   Kind
	schema *rules.Schema[scene]
}

var customTypes = []customType{
	{"processes", Launch, launchSchema},
	{"filesystem", FileWrite, fileSchema},
	{"network-outgoing", Outbound, outboundSchema},
	{"dns", Lookup, lookupSchema},
	{"listening", Listen, listenSchema},
}

const customTypeWords = "one of processes, filesystem, network-outgoing, dns, listening"

// scene is what a script looks at.
type scene struct {
	ev     *Event
	w      *Workload
	domain string // of a Lookup, folded
}

// attribute is one attribute of scripts, and what it costs.
type attribute struct {
	rules.Attribute[scene]
	needs Needs
	late  bool // known only after the deed
}

func text(get func(scene) string) rules.Attribute[scene] {
	return rules.Attribute[scene]{Type: rules.String, Strings: rules.One(get)}
}

func values(get func(scene, int) (string, int)) rules.Attribute[scene] {
	return rules.Attribute[scene]{Type: rules.String, Strings: get}
}

func truth(get func(scene) bool) rules.Attribute[scene] {
	return rules.Attribute[scene]{Type: rules.Bool, Bool: get}
}

func parts(get func(scene) []string) rules.Attribute[scene] {
	return rules.Attribute[scene]{Type: rules.Command, Parts: get}
}

func each(get func(scene) []string) rules.Attribute[scene] {
	return values(func(s scene, i int) (string, int) {
		if list := get(s); i < len(list) {
			return list[i], i + 1
		}
		return "", -1
	})
}

// The attributes of every type of rule.
var everywhere = map[string]attribute{
	"app.id":          {Attribute: text(func(s scene) string { return s.w.AppID })},
	"container.name":  {Attribute: text(func(s scene) string { return s.w.Container })},
	"container.image": {Attribute: text(func(s scene) string { return s.w.Image })},
	"proc.user":       {Attribute: text(func(s scene) string { return s.ev.Subject.User }), needs: NeedUser},
	"proc.interactive": {Attribute: truth(func(s scene) bool { return s.ev.Subject.Interactive }),
		needs: NeedInteractive},
}

// subject are the attributes of a process that runs.
var subject = map[string]attribute{
	"proc.name":    {Attribute: text(func(s scene) string { return base(s.ev.Subject.Path) }), needs: NeedSubject},
	"proc.path":    {Attribute: text(func(s scene) string { return s.ev.Subject.Path }), needs: NeedSubject},
	"proc.pname":   {Attribute: text(func(s scene) string { return base(s.ancestor(0)) }), needs: NeedAncestry},
	"proc.ppath":   {Attribute: text(func(s scene) string { return s.ancestor(0) }), needs: NeedAncestry},
	"proc.cmdline": {Attribute: parts(func(s scene) []string { return s.ev.Subject.Command }), needs: NeedCommand},
	"proc.args":    {Attribute: each(func(s scene) []string { return s.ev.Subject.Command }), needs: NeedCommand},
	"proc.ancestors": {Attribute: values(func(s scene, i int) (string, int) {
		if i < len(s.ev.Subject.Ancestors) {
			return s.ev.Subject.Ancestors[i].Path, i + 1
		}
		return "", -1
	}), needs: NeedAncestry},
}

func (s scene) ancestor(i int) string {
	if i < len(s.ev.Subject.Ancestors) {
		return s.ev.Subject.Ancestors[i].Path
	}
	return ""
}

// program are the attributes of a process that is about to start. The process
// that starts it is its parent.
var program = map[string]attribute{
	"proc.name":    {Attribute: values(func(s scene, i int) (string, int) { return s.ev.Program.name(i) })},
	"proc.path":    {Attribute: values(func(s scene, i int) (string, int) { return s.ev.Program.file(i) })},
	"proc.pname":   {Attribute: text(func(s scene) string { return base(s.ev.Subject.Path) }), needs: NeedSubject},
	"proc.ppath":   {Attribute: text(func(s scene) string { return s.ev.Subject.Path }), needs: NeedSubject},
	"proc.cmdline": {Attribute: parts(func(s scene) []string { return s.ev.Program.Command }), needs: NeedArgv},
	"proc.args":    {Attribute: each(func(s scene) []string { return s.ev.Program.Command }), needs: NeedArgv},
	"proc.ancestors": {Attribute: values(func(s scene, i int) (string, int) {
		if i == 0 {
			return s.ev.Subject.Path, 1
		}
		if i <= len(s.ev.Subject.Ancestors) {
			return s.ev.Subject.Ancestors[i-1].Path, i + 1
		}
		return "", -1
	}), needs: NeedSubject | NeedAncestry},
	"proc.sha256":   {Attribute: each(func(s scene) []string { return s.ev.Program.Digests }), needs: NeedDigests},
	"proc.modified": {Attribute: truth(func(s scene) bool { return s.ev.Program.Modified }), needs: NeedModified},
	"proc.new":      {Attribute: truth(func(s scene) bool { return s.ev.Program.New }), needs: NeedModified},
	"proc.altered":  {Attribute: truth(func(s scene) bool { return s.ev.Program.Altered }), needs: NeedPackages},
	"proc.fileless": {Attribute: truth(func(s scene) bool { return s.ev.Program.Fileless }), needs: NeedFileless},
	"proc.writable": {Attribute: truth(func(s scene) bool { return s.ev.Program.Writable }), needs: NeedWritable},
	"proc.setuid":   {Attribute: truth(func(s scene) bool { return s.ev.Program.SetUID }), needs: NeedSetUID},
	"proc.main":     {Attribute: truth(func(s scene) bool { return s.ev.Program.Main }), needs: NeedMain},
}

// file returns the first file of p from position i on, as Program.name does
// for names.
func (p *Program) file(i int) (path string, next int) {
	for ; i < 3+len(p.Interpreters); i++ {
		switch {
		case i == 0:
			path = p.Path
		case i == 1 && p.Typed != p.Path:
			path = p.Typed
		case i == 2:
			path = p.Loaded
		case i > 2:
			path = p.Interpreters[i-3]
		}
		if path != "" {
			return path, i + 1
		}
	}
	return "", -1
}

var files = map[string]attribute{
	"file.path": {Attribute: values(func(s scene, i int) (string, int) { return s.ev.File.path(i) })},
	"file.dir": {Attribute: values(func(s scene, i int) (string, int) {
		path, next := s.ev.File.path(i)
		return path[:max(strings.LastIndexByte(path, '/'), min(1, len(path)))], next // "/" above "/x"
	})},
	"file.name": {Attribute: values(func(s scene, i int) (string, int) {
		path, next := s.ev.File.path(i)
		return base(path), next
	})},
	"file.op": {Attribute: rules.Attribute[scene]{
		Type: rules.Enum, Strings: rules.One(func(s scene) string { return s.ev.File.Op }),
		Words: strings.Fields("open create rename link unlink symlink truncate chmod chown mkdir mknod rmdir setxattr mount"),
	}},
	"file.type": {Attribute: rules.Attribute[scene]{
		Type: rules.Enum, Strings: rules.One(func(s scene) string { return s.ev.File.kind() }), Words: strings.Fields("elf secret regular folder"),
	}, late: true},
	"file.md5":    {Attribute: text(func(s scene) string { return s.ev.File.MD5 }), late: true},
	"file.sha256": {Attribute: text(func(s scene) string { return s.ev.File.SHA256 }), late: true},
}

// path returns the first path that is changed from position i on, as
// Program.name does for names.
func (f *File) path(i int) (path string, next int) {
	switch {
	case i == 0 && f.Path != "":
		return f.Path, 1
	case i <= 1 && f.Typed != "" && f.Typed != f.Path:
		return f.Typed, 2
	case i <= 2 && f.pair():
		return f.To, 3
	}
	return "", -1
}

// kind is the type of what is written. A new folder has none of its own yet.
func (f *File) kind() string {
	if f.Op == "mkdir" {
		return "folder"
	}
	return f.Type
}

var outboundNet = map[string]attribute{
	"net.outgoing_ip": {Attribute: rules.Attribute[scene]{
		Type: rules.Address, Address: func(s scene) netip.Addr { return Translated(canonicalAddr(s.ev.Addr.Addr())) },
	}},
	"net.outgoing_port": {Attribute: rules.Attribute[scene]{
		Type: rules.Integer, Integer: func(s scene) int { return int(s.ev.Addr.Port()) },
	}},
	"net.private_subnet": {Attribute: truth(func(s scene) bool { return !internet(canonicalAddr(s.ev.Addr.Addr())) })},
	"net.protocol":       {Attribute: text(func(s scene) string { return s.ev.Proto })},
	"net.name":           {Attribute: values(func(s scene, i int) (string, int) { return s.ev.name(i) }), needs: NeedNames},
	"net.resolved":       {Attribute: truth(func(s scene) bool { return s.ev.Resolved }), needs: NeedNames},
}

// name returns name i of the destination; next is -1 behind the last.
func (ev *Event) name(i int) (name string, next int) {
	switch {
	case i == 0:
		return ev.Name, 1
	case i <= len(ev.Aliases):
		return ev.Aliases[i-1], i + 1
	}
	return "", -1
}

var listenNet = map[string]attribute{
	"net.listening_ip": {Attribute: rules.Attribute[scene]{
		Type: rules.Address, Address: func(s scene) netip.Addr { return s.ev.Addr.Addr().Unmap().WithZone("") },
	}},
	"net.listening_port": {Attribute: rules.Attribute[scene]{
		Type: rules.Integer, Integer: func(s scene) int { return int(s.ev.Addr.Port()) },
	}},
	"net.protocol": {Attribute: text(func(s scene) string { return s.ev.Proto })},
}

var lookups = map[string]attribute{
	"dns.name": {Attribute: text(func(s scene) string { return s.domain })},
	"dns.type": {Attribute: text(func(s scene) string { return s.ev.QType })},
}

var (
	launchAttributes   = join(everywhere, program)
	fileAttributes     = join(everywhere, subject, files)
	outboundAttributes = join(everywhere, subject, outboundNet)
	lookupAttributes   = join(everywhere, subject, lookups)
	listenAttributes   = join(everywhere, subject, listenNet)

	launchSchema   = schema("processes", launchAttributes)
	fileSchema     = schema("filesystem", fileAttributes)
	outboundSchema = schema("network-outgoing", outboundAttributes)
	lookupSchema   = schema("dns", lookupAttributes)
	listenSchema   = schema("listening", listenAttributes)
)

func join(sets ...map[string]attribute) map[string]attribute {
	all := make(map[string]attribute)
	for _, set := range sets {
		for name, a := range set {
			all[name] = a
		}
	}
	return all
}

func schema(kind string, attributes map[string]attribute) *rules.Schema[scene] {
	s := &rules.Schema[scene]{Attributes: make(map[string]rules.Attribute[scene], len(attributes)), Explain: func(name string) string {
		return explain(kind, name)
	}}
	for name, a := range attributes {
		a.Costly = a.needs != 0 || a.late
		s.Attributes[name] = a.Attribute
	}
	return s
}

// explain says why a name that is an attribute elsewhere is none here.
func explain(kind, name string) string {
	if name == "proc.service" {
		return "is an attribute of hosts, which have services; a container has none"
	}
	for _, other := range []struct {
		kind       string
		attributes map[string]attribute
	}{{"processes", program}, {"filesystem", files}, {"network-outgoing", outboundNet}, {"dns", lookups}, {"listening", listenNet}} {
		if _, ok := other.attributes[name]; ok && other.kind != kind {
			return fmt.Sprintf("is an attribute of rules of type %s, and this one is of type %s", other.kind, kind)
		}
	}
	return ""
}

// attributesOf returns what scripts about events of a kind may ask.
func attributesOf(kind Kind) map[string]attribute {
	switch kind {
	case Launch:
		return launchAttributes
	case FileWrite:
		return fileAttributes
	case Outbound:
		return outboundAttributes
	case Lookup:
		return lookupAttributes
	}
	return listenAttributes
}

// script is a CustomRule that was compiled.
type script struct {
	name    string
	kind    Kind
	rule    *rules.Rule[scene]
	message *rules.Message[scene]
	needs   Needs
	late    bool

	techniques string // joined by commas
}

// newScript compiles r and reports its faults under at. It returns nil if it
// has any.
func newScript(r *CustomRule, at string, f *faults) *script {
	i := slices.IndexFunc(customTypes, func(t customType) bool { return t.name == r.Type })
	if i < 0 {
		f.add(at+".type", "%q is not a type of custom rule; %s", r.Type, customTypeWords)
		return nil
	}
	t := &customTypes[i]
	s := &script{name: r.Name, kind: t.kind, techniques: strings.Join(r.AttackTechniques, ",")}
	for i, technique := range r.AttackTechniques {
		if technique == "" || strings.ContainsAny(technique, ", \n") {
			f.add(fmt.Sprintf("%s.attackTechniques[%d]", at, i), "%q is not the name of a technique, such as resourceHijacking", technique)
		}
	}
	var errScript, errMessage error
	s.rule, errScript = rules.Compile(r.Script, t.schema)
	if errScript != nil {
		f.add(at+".script", "%s", errScript)
	}
	s.message, errMessage = rules.CompileMessage(r.Message, t.schema)
	if errMessage != nil {
		f.add(at+".message", "%s", errMessage)
	}
	if errors.Join(errScript, errMessage) != nil {
		return nil
	}
	all := attributesOf(t.kind)
	for _, name := range append(slices.Clone(s.message.Uses()), s.rule.Uses()...) {
		s.needs |= all[name].needs
	}
	for _, name := range s.rule.Uses() {
		s.late = s.late || all[name].late
	}
	switch t.kind {
	case FileWrite:
		s.needs |= NeedFileWrites
		if s.late {
			s.needs |= NeedContent
		}
	case Listen:
		s.needs |= NeedListenPorts
	}
	return s
}

// Attributes returns the attributes that the script and the message ask for,
// sorted, or nil if they have a fault.
func (r *CustomRule) Attributes() []string {
	s := newScript(r, "", new(faults))
	if s == nil {
		return nil
	}
	names := append(slices.Clone(s.rule.Uses()), s.message.Uses()...)
	slices.Sort(names)
	return slices.Compact(names)
}

// newScripts compiles the custom rules of p, by name, and reports their
// faults.
func newScripts(p *Policy, f *faults) map[string]*script {
	all := make(map[string]*script, len(p.CustomRules))
	ids := make(map[int]int)
	for i := range p.CustomRules {
		r, at := &p.CustomRules[i], fmt.Sprintf("customRules[%d]", i)
		if strings.TrimSpace(r.Name) == "" {
			f.add(at+".name", "missing")
		} else if _, taken := all[r.Name]; taken {
			f.add(at+".name", "%q is the name of another custom rule", r.Name)
		}
		if j, taken := ids[r.ID]; taken && r.ID != 0 {
			f.add(at+".id", "%d is already the id of customRules[%d]", r.ID, j)
		}
		ids[r.ID] = i
		all[r.Name] = newScript(r, at, f)
	}
	return all
}

// customJudge is a script that a rule uses.
type customJudge struct {
	*script
	allow    bool
	effect   Effect // if not allow
	incident bool
}

// newCustoms prepares the custom rules that r uses and reports faults under
// at.
func newCustoms(r *Rule, scripts map[string]*script, at string, f *faults) []customJudge {
	var list []customJudge
	used := make(map[string]bool)
	for i := range r.Custom {
		ref, at := &r.Custom[i], fmt.Sprintf("%s.custom[%d]", at, i)
		s, known := scripts[ref.Rule]
		switch {
		case !known:
			f.add(at+".rule", "%q is not the name of a custom rule", ref.Rule)
		case used[ref.Rule]:
			f.add(at+".rule", "%q is used already", ref.Rule)
		}
		used[ref.Rule] = true
		j := customJudge{script: s, allow: ref.Effect == "allow", incident: ref.Action == "incident"}
		if ref.Effect == "incident" { // an alert that is one
			j.effect, j.incident = Alert, true
		} else if !j.allow && (ref.Effect == Inherit.String() || j.effect.UnmarshalText([]byte(ref.Effect)) != nil) {
			f.add(at+".effect", "%q is not an effect of custom rules; one of allow, disable, alert, prevent, block, incident", ref.Effect)
		}
		if ref.Action != "" && ref.Action != "audit" && !j.incident {
			f.add(at+".action", "%q is not an action; audit or incident", ref.Action)
		}
		if s != nil && (j.allow || j.effect != Disable) {
			list = append(list, j)
		}
	}
	return list
}

// looksAt reports whether j is about such an event of its kind. What is known after the
// deed is judged then, but a new folder before.
func (j *customJudge) looksAt(ev *Event) bool {
	if ev.Kind != FileWrite {
		return true
	}
	if j.late {
		return ev.File.Op == OpWritten || ev.File.Op == "mkdir"
	}
	return ev.File.Op != OpWritten
}

// customSet are the custom rules about one kind of event. Most are found by
// the name, path, domain or port that they ask for or by its beginning, or ruled
// out by a text that a command line does not have, so that a thousand of them
// cost little more than one.
type customSet struct {
	judges []customJudge // in order
	needs  Needs         // of all
	asking []int         // of judges that need anything
	any    []int         // of judges that have neither key nor needle, in order
	keyed  []keyedSet
	starts []startSet
	within []withinSet
}

// startSet are the judges that ask for the beginning of one attribute.
type startSet struct {
	name    string
	values  func(scene, int) (string, int)
	lengths []int            // of beginnings, ascending
	judges  map[string][]int // by beginning, in order
}

// withinSet are the judges that ask for a text within one attribute, in order.
type withinSet struct {
	name  string
	attr  rules.Attribute[scene]
	judge []int
	text  []string
}

// keyedSet are the judges that ask for one attribute.
type keyedSet struct {
	name    string
	values  func(scene, int) (string, int) // nil: it is an integer
	integer func(scene) int
	judges  map[string][]int // by value, in order
}

// newCustomSets sorts judges by the kind of event.
func newCustomSets(list []customJudge) (sets [RawSocket + 1]customSet) {
	for _, j := range list {
		set := &sets[j.kind]
		set.add(j)
	}
	return sets
}

func (set *customSet) add(j customJudge) {
	n := len(set.judges)
	set.judges = append(set.judges, j)
	if set.needs |= j.needs; j.needs != 0 {
		set.asking = append(set.asking, n)
	}
	name, keys, ok := j.rule.Keys()
	if !ok {
		set.addWithin(n, j)
		return
	}
	i := slices.IndexFunc(set.keyed, func(k keyedSet) bool { return k.name == name })
	if i < 0 {
		i = len(set.keyed)
		attr := attributesOf(j.kind)[name].Attribute
		set.keyed = append(set.keyed, keyedSet{name: name, values: attr.Strings, integer: attr.Integer, judges: make(map[string][]int)})
	}
	for _, key := range keys {
		if list := set.keyed[i].judges[key]; len(list) == 0 || list[len(list)-1] != n {
			set.keyed[i].judges[key] = append(list, n)
		}
	}
}

// addWithin adds judge n, which has no key.
func (set *customSet) addWithin(n int, j customJudge) {
	name, text, start, ok := j.rule.Needle()
	switch {
	case !ok:
		set.any = append(set.any, n)
		return
	case start:
		set.addStart(n, j.kind, name, text)
		return
	}
	i := slices.IndexFunc(set.within, func(w withinSet) bool { return w.name == name })
	if i < 0 {
		i = len(set.within)
		set.within = append(set.within, withinSet{name: name, attr: attributesOf(j.kind)[name].Attribute})
	}
	w := &set.within[i]
	w.judge, w.text = append(w.judge, n), append(w.text, text)
}

// addStart adds judge n, which asks for the beginning of an attribute.
func (set *customSet) addStart(n int, kind Kind, name, text string) {
	i := slices.IndexFunc(set.starts, func(s startSet) bool { return s.name == name })
	if i < 0 {
		i = len(set.starts)
		set.starts = append(set.starts, startSet{name: name, values: attributesOf(kind)[name].Strings, judges: make(map[string][]int)})
	}
	s := &set.starts[i]
	s.judges[text] = append(s.judges[text], n)
	if at, found := slices.BinarySearch(s.lengths, len(text)); !found {
		s.lengths = slices.Insert(s.lengths, at, len(text))
	}
}

// first returns the first judge of s that holds, or best if that comes before
// it.
func (s *startSet) first(set *customSet, of scene, best int) int {
	for value, next := s.values(of, 0); next >= 0; value, next = s.values(of, next) {
		for _, n := range s.lengths {
			if n > len(value) {
				break
			}
			best = set.search(s.judges[value[:n]], of, best)
		}
	}
	return best
}

// pairs are the bytes that follow each other in a value: a bit for each two. A
// text is within it only if all of its own are among them.
type pairs [1 << 10]uint64

func (p *pairs) add(before, b byte) {
	n := uint(before)<<8 | uint(b)
	p[n>>6] |= 1 << (n & 63)
}

// addText adds the pairs of a text.
func (p *pairs) addText(text string) {
	for i := 1; i < len(text); i++ {
		p.add(text[i-1], text[i])
	}
}

func (p *pairs) has(text string) bool {
	for i := 1; i < len(text); i++ {
		n := uint(text[i-1])<<8 | uint(text[i])
		if p[n>>6]>>(n&63)&1 == 0 {
			return false
		}
	}
	return true
}

// addParts adds the pairs of a command's text.
func (p *pairs) addParts(parts []string) {
	last, any := byte(0), false
	for i, part := range parts {
		if i > 0 {
			if any {
				p.add(last, ' ')
			}
			last, any = ' ', true
		}
		if part == "" {
			continue
		}
		if any {
			p.add(last, part[0])
		}
		p.addText(part)
		last, any = part[len(part)-1], true
	}
}

// few rules are asked as they are.
const few = 16

// first returns the first judge of w that holds, or best if that comes before
// it.
func (w *withinSet) first(set *customSet, s scene, best int) int {
	if len(w.judge) < few {
		return set.search(w.judge, s, best)
	}
	var p pairs
	if w.attr.Type == rules.Command {
		p.addParts(w.attr.Parts(s))
	} else {
		for value, next := w.attr.Strings(s, 0); next >= 0; value, next = w.attr.Strings(s, next) {
			p.addText(value)
		}
	}
	for i, n := range w.judge {
		if n >= best {
			break
		}
		if p.has(w.text[i]) && set.search(w.judge[i:i+1], s, best) == n {
			return n
		}
	}
	return best
}

// first returns the first judge that holds, or nil.
func (set *customSet) first(s scene) *customJudge {
	best := set.search(set.any, s, len(set.judges))
	for i := range set.starts {
		best = set.starts[i].first(set, s, best)
	}
	for i := range set.within {
		best = set.within[i].first(set, s, best)
	}
	for i := range set.keyed {
		k := &set.keyed[i]
		if k.values == nil {
			var buf [20]byte
			best = set.search(k.judges[string(strconv.AppendInt(buf[:0], int64(k.integer(s)), 10))], s, best)
			continue
		}
		for value, next := k.values(s, 0); next >= 0; value, next = k.values(s, next) {
			best = set.search(k.judges[value], s, best)
		}
	}
	if best == len(set.judges) {
		return nil
	}
	return &set.judges[best]
}

// search returns the first of the judges that holds, or best if that comes
// before it.
func (set *customSet) search(judges []int, s scene, best int) int {
	for _, i := range judges {
		if i >= best {
			break
		}
		if j := &set.judges[i]; j.looksAt(s.ev) && j.rule.Matches(s) {
			return i
		}
	}
	return best
}

// maxMight is how many scripts cost less to be evaluated than what they ask for
// costs to be found out.
const maxMight = 100

// needsFor returns what the judges ask about s that may hold for it. Of very
// many that ask, all are taken to.
func (set *customSet) needsFor(s scene) (n Needs) {
	if len(set.asking) > maxMight {
		return set.needs
	}
	for _, i := range set.asking {
		if j := &set.judges[i]; !n.Has(j.needs) && j.looksAt(s.ev) && j.rule.Might(s) {
			n |= j.needs
		}
	}
	return n
}

// scene returns what scripts see of an event.
func (e *Engine) scene(ev *Event) scene {
	s := scene{ev: ev, w: &e.workload}
	if ev.Kind == Lookup {
		s.domain = foldDomain(ev.Domain)
	}
	return s
}

// custom returns the verdict of the first custom rule that holds. Nothing else
// is asked then.
func (e *Engine) custom(ev *Event) (Verdict, bool) {
	if int(ev.Kind) >= len(e.customs) || len(e.customs[ev.Kind].judges) == 0 {
		return Verdict{}, false
	}
	s := e.scene(ev)
	j := e.customs[ev.Kind].first(s)
	switch {
	case j == nil:
		return Verdict{}, false
	case j.allow:
		return Verdict{Allow: true, Rule: e.rule}, true
	}
	effect := j.effect
	if effect == Prevent && ev.Kind == FileWrite && ev.File.Op == OpWritten {
		effect = Alert // it is too late
	}
	return Verdict{
		Allow: !effect.Refuses(), Effect: effect, Detection: Custom, Rule: e.rule, Answer: e.answer(ev, effect),
		Reason: "custom rule " + quote(j.name), techniques: j.techniques, Custom: j.name, Message: j.message.Expand(s), Incident: j.incident,
	}, true
}
