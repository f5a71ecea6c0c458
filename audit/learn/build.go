package learn

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"appdefender/audit"
	"appdefender/policy"
	"appdefender/policy/file"
)

// Options are what a learned policy is to be like.
type Options struct {
	Effect policy.Effect // of its sections; 0 is Prevent
}

// Result is a learned policy.
type Result struct {
	Policy *policy.Policy
	// Comments are the evidence, by the path of what it is about:
	// "rules[0].dns.allow[2]".
	Comments map[string]string
	// Notes are what somebody should know before the policy is used.
	Notes []string
}

// YAML writes the policy as a file, with its evidence as comments.
func (r *Result) YAML() ([]byte, error) {
	b, err := file.MarshalComments(r.Policy, r.Comments)
	if err != nil {
		return nil, err
	}
	var head strings.Builder
	for _, n := range r.Notes {
		head.WriteString("# " + n + "\n")
	}
	return append([]byte(head.String()), b...), nil
}

// group are the recordings that one rule is for.
type group struct {
	name  string
	scope policy.Scope
	*Recording
}

// groups puts together the recordings of one container, or without its name of
// one application, or of one image.
func groups(recordings []*Recording) []group {
	var all []group
	for _, r := range recordings {
		h := r.Header()
		g := group{name: "learned"}
		switch {
		case h.Container != "":
			g.name, g.scope.Containers = h.Container, []string{pattern(h.Container)}
		case h.AppID != "":
			g.name, g.scope.AppIDs = h.AppID, []string{pattern(h.AppID)}
		case h.Image != "":
			g.name, g.scope.Images = h.Image, []string{pattern(h.Image)}
		}
		i := slices.IndexFunc(all, func(o group) bool {
			return o.name == g.name && weight(o.scope) == weight(g.scope)
		})
		if i < 0 {
			g.Recording = NewRecording(h)
			g.KeepSecrets()           // those that r has left
			g.Recording.head.Lost = 0 // Merge adds it
			all = append(all, g)
			i = len(all) - 1
		}
		all[i].Merge(r)
	}
	// Who is nobody in particular comes last: a rule without a scope is for all.
	slices.SortStableFunc(all, func(a, b group) int { return cmp.Compare(weight(a.scope), weight(b.scope)) })
	return all
}

// weight orders scopes by what they select by, the narrowest first.
func weight(s policy.Scope) int {
	switch {
	case len(s.Containers) > 0:
		return 0
	case len(s.AppIDs) > 0:
		return 1
	case len(s.Images) > 0:
		return 2
	}
	return 3
}

// pattern is an entry of a scope for one name: a leading "-" would exclude it.
func pattern(s string) string {
	s = strings.TrimSpace(s)
	if strings.HasPrefix(s, "-") {
		return "*" + s[1:]
	}
	return s
}

// Build makes the least policy that refuses nothing of the recordings: one rule
// for each container.
func Build(recordings []*Recording, opts Options) (*Result, error) {
	if opts.Effect == policy.Inherit {
		opts.Effect = policy.Prevent
	}
	res := &Result{Policy: &policy.Policy{Version: 1, Rules: []policy.Rule{}}, Comments: make(map[string]string)}
	res.Notes = append(res.Notes, "Learned from what was seen; what no list has was not seen, and is refused.")
	for _, g := range groups(recordings) {
		b := newBuilder(g, opts)
		b.rule.Name = g.name
		for n := 2; slices.ContainsFunc(res.Policy.Rules, func(r policy.Rule) bool { return r.Name == b.rule.Name }); n++ {
			b.rule.Name = fmt.Sprintf("%s (%d)", g.name, n)
		}
		b.build()
		b.verify(len(res.Policy.CustomRules))
		at := fmt.Sprintf("rules[%d]", len(res.Policy.Rules))
		res.Policy.Rules = append(res.Policy.Rules, b.rule)
		res.Policy.CustomRules = append(res.Policy.CustomRules, b.customs...)
		for key, text := range b.comments {
			res.Comments[at+key] = text
		}
		for _, n := range b.notes {
			res.Notes = append(res.Notes, b.rule.Name+": "+n)
		}
	}
	if len(res.Policy.Rules) == 0 {
		res.Notes = []string{"Nothing was seen: this policy has no rule, and refuses nothing."}
	}
	if _, err := policy.Compile(res.Policy, policy.Workload{}); err != nil {
		return nil, fmt.Errorf("making a policy of what was seen: %w", err)
	}
	return res, nil
}

// Lists of a rule, by their paths in it.
const (
	processesAllow  = ".processes.allow"
	dnsAllow        = ".dns.allow"
	outboundAllow   = ".network.outbound.allow"
	outboundNames   = ".network.outbound.allowNames"
	outboundPorts   = ".network.outbound.allowPorts"
	families        = ".network.outbound.allowFamilies"
	listenPorts     = ".network.listen.allowPorts"
	unixAllow       = ".network.unix.allow"
	filesAllow      = ".files.allow"
	neverAnEntry    = "*"
	customNameStart = "learned: "
)

// allowLists are all of them, in the order of a policy file.
var allowLists = []string{processesAllow, dnsAllow, outboundAllow, outboundNames, outboundPorts, families, listenPorts, unixAllow, filesAllow}

// list returns a list of a rule that is an allow list, with its section made.
func list(r *policy.Rule, path string) *[]string {
	if strings.HasPrefix(path, ".network.") && r.Network == nil {
		r.Network = &policy.NetworkSection{}
	}
	switch path {
	case processesAllow:
		if r.Processes == nil {
			r.Processes = &policy.ProcessesSection{}
		}
		return &r.Processes.Allow
	case dnsAllow:
		if r.DNS == nil {
			r.DNS = &policy.DNSSection{}
		}
		return &r.DNS.Allow
	case outboundAllow:
		return &r.Network.Outbound.Allow
	case outboundNames:
		return &r.Network.Outbound.AllowNames
	case outboundPorts:
		return &r.Network.Outbound.AllowPorts
	case families:
		return &r.Network.Outbound.AllowFamilies
	case listenPorts:
		return &r.Network.Listen.AllowPorts
	case unixAllow:
		return &r.Network.Unix.Allow
	}
	if r.Files == nil {
		r.Files = &policy.FilesSection{}
	}
	return &r.Files.Allow
}

// proof is what an entry rests on.
type proof struct {
	obs   []*Observation
	kinds int // different things it covers, if more than one
}

// builder makes one rule.
type builder struct {
	g        group
	opts     Options
	head     Header
	obs      []Observation
	lists    map[string]map[string]*proof // entries by list
	odd      []*Observation               // no list can have them
	rule     policy.Rule
	customs  []policy.CustomRule
	comments map[string]string // by the path in the rule
	notes    []string
}

func newBuilder(g group, opts Options) *builder {
	b := &builder{g: g, opts: opts, head: g.Header(), obs: g.List(), lists: make(map[string]map[string]*proof), comments: make(map[string]string)}
	b.rule.Scope = g.scope
	return b
}

func (b *builder) note(format string, args ...any) {
	b.notes = append(b.notes, fmt.Sprintf(format, args...))
}

func (b *builder) add(list, entry string, o *Observation) {
	if b.lists[list] == nil {
		b.lists[list] = make(map[string]*proof)
	}
	p := b.lists[list][entry]
	if p == nil {
		p = &proof{}
		b.lists[list][entry] = p
	}
	p.obs = append(p.obs, o)
}

func (b *builder) build() {
	for i := range b.obs {
		b.place(&b.obs[i])
	}
	b.widen()
	for _, path := range allowLists {
		entries := b.lists[path]
		if len(entries) == 0 {
			continue
		}
		to := list(&b.rule, path)
		for _, e := range slices.SortedFunc(maps.Keys(entries), byNumber) {
			b.comments[fmt.Sprintf("%s[%d]", path, len(*to))] = entries[e].String()
			*to = append(*to, e)
		}
	}
	b.close()
	b.detections()
	b.effects()
	if b.head.Lost > 0 {
		b.note("%d events did not fit into the recording: some of them may be refused.", b.head.Lost)
	}
	if n := b.g.refused; n > 0 {
		b.note("What a policy refused is left out (%s). It stays refused if that policy is extended, rather than replaced by this one.", timesText(n))
	}
}

// byNumber orders ports by their number and the rest as text.
func byNumber(a, b string) int {
	n, errA := strconv.Atoi(strings.SplitN(a, "-", 2)[0])
	m, errB := strconv.Atoi(strings.SplitN(b, "-", 2)[0])
	if errA == nil && errB == nil {
		return cmp.Compare(n, m)
	}
	return strings.Compare(a, b)
}

// place finds the lists and entries that let an event pass.
func (b *builder) place(o *Observation) {
	ev := &o.Event
	put := func(list, entry string) {
		if !lets(list, entry, ev) {
			b.odd = append(b.odd, o)
			return
		}
		b.add(list, entry, o)
	}
	switch ev.Kind {
	case policy.Launch:
		put(processesAllow, programEntry(&ev.Program))
	case policy.Lookup:
		if name := strings.ToLower(strings.TrimSuffix(ev.Domain, ".")); name != "localhost" && !strings.HasSuffix(name, ".localhost") {
			put(dnsAllow, maskDomain(ev.Domain))
		}
	case policy.Outbound:
		addr := plain(ev.Addr.Addr())
		if loopback(addr) || !addr.IsValid() {
			return
		}
		if named(ev) && lets(outboundNames, maskDomain(ev.Name), ev) {
			put(outboundNames, maskDomain(ev.Name))
		} else {
			b.add(outboundAllow, addr.String(), o)
		}
		if internet(addr) && ev.Addr.Port() != 0 {
			b.add(outboundPorts, strconv.Itoa(int(ev.Addr.Port())), o)
		}
	case policy.Listen:
		switch port := ev.Addr.Port(); {
		case port == 0:
		case o.KernelPort:
			b.add(listenPorts, ephemeralPorts, o)
		default:
			b.add(listenPorts, strconv.Itoa(int(port)), o)
		}
	case policy.UnixConnect:
		put(unixAllow, fileEntry(ev, ev.File.Path))
	case policy.RawSocket:
		if slices.Contains(policy.Families, ev.Proto) {
			b.add(families, ev.Proto, o)
		}
	case policy.FileWrite:
		if ev.File.Op == policy.OpWritten {
			return
		}
		entries := []string{fileEntry(ev, ev.File.Path)}
		if pair(&ev.File) {
			entries = append(entries, fileEntry(ev, ev.File.To))
		}
		// Each name needs an entry: only both together let it pass.
		r := policy.Rule{Name: "both", Files: &policy.FilesSection{Effect: new(policy.Prevent), Allow: entries}}
		if slices.Contains(entries, neverAnEntry) || !allows(r, ev) {
			b.odd = append(b.odd, o)
			return
		}
		for _, e := range entries {
			b.add(filesAllow, e, o)
		}
	}
}

// lets reports whether a list of this one entry lets an event pass.
func lets(path, entry string, ev *policy.Event) bool {
	if entry == neverAnEntry {
		return false
	}
	r := policy.Rule{Name: "one"}
	*list(&r, path) = []string{entry}
	setEffect(&r, policy.Prevent)
	return allows(r, ev)
}

func allows(r policy.Rule, ev *policy.Event) bool {
	engine, err := policy.Compile(&policy.Policy{Version: 1, Rules: []policy.Rule{r}}, policy.Workload{})
	return err == nil && engine.Decide(ev).Allow
}

func setEffect(r *policy.Rule, e policy.Effect) {
	if r.Processes != nil {
		r.Processes.Effect = new(e)
	}
	if r.DNS != nil {
		r.DNS.Effect = new(e)
	}
	if r.Network != nil {
		r.Network.Effect = new(e)
	}
	if r.Files != nil {
		r.Files.Effect = new(e)
	}
}

// programEntry is the narrowest entry for a program; see how the judge's allow
// lists read scripts, applets and loaders. A star in a real name would be an
// entry for many: such a name gets a rule of its own.
func programEntry(p *policy.Program) string {
	file := p.Path
	switch {
	case len(p.Interpreters) > 0 && file == "":
		file = p.Interpreters[len(p.Interpreters)-1]
	case len(p.Interpreters) > 0:
	case p.Applet != "":
		file = p.Applet
	case p.Loaded != "":
		file = p.Loaded
	case file == "":
		file = p.Typed
	}
	if strings.Contains(file, "*") || strings.IndexByte(file, '/') > 0 { // in mounts of the target's own
		return neverAnEntry
	}
	return maskProgram(file)
}

func fileEntry(ev *policy.Event, p string) string {
	if strings.Contains(p, "*") || p == "/" {
		return neverAnEntry
	}
	return maskFile(p, ev.Subject.PID)
}

// widen puts one entry in place of many of a kind.
func (b *builder) widen() {
	for _, path := range []string{unixAllow, filesAllow} {
		b.widenFolders(path)
	}
	for _, path := range []string{dnsAllow, outboundNames} {
		b.join(path, nameSiblings, func(e string) string {
			if _, parent, ok := strings.Cut(strings.TrimPrefix(e, "*."), "."); ok && !strings.HasPrefix(e, "*.") && mayWiden(parent) {
				return "*." + parent
			}
			return ""
		})
	}
	b.join(outboundAllow, addrSiblings, func(e string) string {
		addr, err := netip.ParseAddr(e)
		if err != nil {
			return ""
		}
		return widerAddr(addr).String()
	})
	ephemeral := func(e string) string {
		if n, err := strconv.Atoi(e); err == nil && ephemeralLow <= n && n <= ephemeralHigh {
			return ephemeralPorts
		}
		return ""
	}
	b.join(listenPorts, listenSiblings, ephemeral)
	b.join(outboundPorts, outboundSiblings, ephemeral)
}

// widenFolders goes from the deepest folders up, as each that becomes an entry
// is one of its own folder's.
func (b *builder) widenFolders(path string) {
	deepest := 0
	for e := range b.lists[path] {
		deepest = max(deepest, strings.Count(e, "/"))
	}
	for depth := deepest; depth > 0; depth-- {
		b.join(path, fileSiblings, func(e string) string {
			i := strings.LastIndexByte(e, '/')
			if i <= 0 || strings.Count(e, "/") != depth || !mayGeneralise(e[:i]) {
				return ""
			}
			return e[:i]
		})
	}
	// What an entry covers anyway needs none of its own. A path stands for all
	// below it, a pattern for what it matches alone.
	entries := b.lists[path]
	for e, p := range entries {
		for dir := e; strings.Contains(dir, "/"); {
			dir = dir[:strings.LastIndexByte(dir, '/')]
			if over := entries[dir]; over != nil && !strings.Contains(dir, "*") {
				over.obs, over.kinds = append(over.obs, p.obs...), max(over.kinds, 1)+max(p.kinds, 1)
				delete(entries, e)
				break
			}
		}
	}
}

// join replaces the entries of a list that have the same wider one, if there
// are enough of them or the wider one is there already.
func (b *builder) join(path string, enough int, wider func(string) string) {
	entries := b.lists[path]
	by := make(map[string][]string)
	for e := range entries {
		if w := wider(e); w != "" {
			by[w] = append(by[w], e)
		}
	}
	for w, members := range by {
		if len(members) < enough && entries[w] == nil {
			continue
		}
		into := entries[w]
		if into == nil {
			into = &proof{}
			entries[w] = into
		} else {
			into.kinds = max(into.kinds, 1)
		}
		slices.Sort(members)
		for _, e := range members {
			into.obs = append(into.obs, entries[e].obs...)
			into.kinds += max(entries[e].kinds, 1)
			delete(entries, e)
		}
	}
}

// close refuses what did not happen at all in the sections of which all was
// seen: an empty allow list would say nothing.
func (b *builder) close() {
	nothing := func(path, comment string) { b.comments[path] = comment }
	for _, s := range b.head.Sections {
		switch s {
		case policy.Processes:
			if l := list(&b.rule, processesAllow); len(*l) == 0 {
				b.rule.Processes.Deny = []string{"*"}
				nothing(".processes.deny[0]", "no program was started that a list can have")
			}
		case policy.DNS:
			if l := list(&b.rule, dnsAllow); len(*l) == 0 {
				*l = []string{"localhost"}
				nothing(dnsAllow+"[0]", "nothing was looked up; this name is always allowed, and refuses all others")
			}
		case policy.Network:
			names := list(&b.rule, outboundNames)
			if l := list(&b.rule, outboundAllow); len(*l)+len(*names) == 0 {
				*l = []string{"127.0.0.0/8"}
				nothing(outboundAllow+"[0]", "no connection left the container; these addresses are always allowed, and refuse all others")
			}
			if l := list(&b.rule, listenPorts); len(*l) == 0 {
				b.rule.Network.Listen.DenyPorts = []string{"1-65535"}
				nothing(".network.listen.denyPorts[0]", "no port was listened on")
			}
			if l := list(&b.rule, unixAllow); len(*l) == 0 {
				b.rule.Network.Unix.Deny = []string{"*"}
				nothing(".network.unix.deny[0]", "no Unix socket was connected to")
			}
		case policy.Files:
			if l := list(&b.rule, filesAllow); len(*l) == 0 {
				b.rule.Files.Deny = []string{"/"}
				nothing(".files.deny[0]", "no file was changed")
			}
		}
	}
}

// detections adds those of which is known that nothing set them off.
func (b *builder) detections() {
	for _, c := range candidates() {
		if !slices.Contains(b.head.Sections, c.section) || !b.head.Facts.Has(c.engine.Needs()) {
			continue
		}
		var seen *Observation
		times := 0
		for i := range b.obs {
			if slices.Contains(b.obs[i].Detected, c.key) {
				times += max(1, b.obs[i].Count)
				if seen == nil {
					seen = &b.obs[i]
				}
			}
		}
		if seen != nil && c.usual {
			continue
		}
		if seen != nil {
			section, key, _ := strings.Cut(c.key, ".")
			b.note("%s.detect.%s is left out: it was set off %s, as by %s.", section, key, timesText(times), seen.example())
			continue
		}
		*c.set(&b.rule) = new(policy.Inherit)
	}
}

// effects gives each section that says something its effect.
func (b *builder) effects() {
	setEffect(&b.rule, b.opts.Effect)
	for i := range b.obs {
		if o := &b.obs[i]; o.Kind == policy.Unknown {
			b.rule.OnUnknown = new(policy.Alert)
			b.comments[".onUnknown"] = "calls could not be read: " + (&proof{obs: []*Observation{o}}).String()
			break
		}
	}
}

// verify makes sure that nothing of the recording is refused: what no list can
// have gets a custom rule, and if that is not enough its section only tells.
func (b *builder) verify(customsBefore int) {
	for _, o := range b.odd {
		if script := exactly(&o.Event); script != "" {
			b.custom(o, script, customsBefore)
		}
	}
	for range 5 {
		engine, err := policy.Compile(&policy.Policy{Version: 1, Rules: []policy.Rule{b.rule}, CustomRules: b.customs}, b.head.Workload())
		if err != nil {
			b.note("the rule is faulty: %v", err) // Build tells the fault
			return
		}
		var refused *Observation
		for i := range b.obs {
			if v := engine.Decide(&b.obs[i].Event); !v.Allow {
				refused = &b.obs[i]
				break
			}
		}
		if refused == nil {
			return
		}
		b.soften(refused)
	}
}

// soften has a section tell where it would refuse what was seen.
func (b *builder) soften(o *Observation) {
	section := ""
	switch o.Kind {
	case policy.Launch:
		section, b.rule.Processes.Effect = "processes", new(policy.Alert)
	case policy.Lookup:
		section, b.rule.DNS.Effect = "dns", new(policy.Alert)
	case policy.FileWrite:
		section, b.rule.Files.Effect = "files", new(policy.Alert)
	case policy.Unknown:
		section, b.rule.OnUnknown = "onUnknown", new(policy.Alert)
	default:
		section, b.rule.Network.Effect = "network", new(policy.Alert)
	}
	b.note("%s only tells: no entry can stand for %s.", section, o.example())
}

// custom adds a custom rule that lets an event pass.
func (b *builder) custom(o *Observation, script string, before int) {
	for _, c := range b.customs {
		if c.Script == script {
			return
		}
	}
	kind := map[policy.Kind]string{policy.Launch: "processes", policy.Lookup: "dns", policy.Outbound: "network-outgoing", policy.Listen: "listening", policy.FileWrite: "filesystem"}[o.Kind]
	name := fmt.Sprintf("%s%s %d", customNameStart, b.rule.Name, before+len(b.customs)+1)
	b.customs = append(b.customs, policy.CustomRule{Name: name, Type: kind, Script: script, Description: "no list can have it"})
	b.comments[fmt.Sprintf(".custom[%d]", len(b.rule.Custom))] = (&proof{obs: []*Observation{o}}).String()
	b.rule.Custom = append(b.rule.Custom, policy.CustomRef{Rule: name, Effect: "allow"})
}

// exactly is a script that holds for an event and those that look like it, or
// "" if there is none.
func exactly(ev *policy.Event) string {
	switch ev.Kind {
	case policy.Launch:
		p := &ev.Program
		switch {
		case p.Path != "":
			return "proc.path = " + text(p.Path)
		case p.Typed != "":
			return "proc.path = " + text(p.Typed)
		case p.Loaded != "":
			return "proc.path = " + text(p.Loaded)
		case p.Applet != "":
			return "proc.name = " + text(p.Applet)
		case p.Fileless && ev.Subject.Path != "":
			return "proc.fileless and proc.ppath = " + text(ev.Subject.Path)
		}
	case policy.Lookup:
		return "dns.name = " + text(foldDomain(ev.Domain))
	case policy.Outbound:
		if ev.Addr.IsValid() {
			return fmt.Sprintf("net.outgoing_ip = %q and net.outgoing_port = %d", plain(ev.Addr.Addr()), ev.Addr.Port())
		}
	case policy.FileWrite:
		if pair(&ev.File) {
			return "file.path = " + text(ev.File.Path) + " and file.path = " + text(ev.File.To)
		}
		if ev.File.Path != "" {
			return "file.path = " + text(ev.File.Path)
		}
	}
	return ""
}

// text writes a string of the language of custom rules.
func text(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c >= 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func foldDomain(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, strings.TrimSuffix(s, "."))
}

// maxEvidence is how long a comment gets, in bytes.
const maxEvidence = 200

// String tells the evidence for people, in one line.
func (p *proof) String() string {
	count := 0
	var first, last time.Time
	var o *Observation
	for _, x := range p.obs {
		count += x.Count
		if !x.First.IsZero() && (first.IsZero() || x.First.Before(first)) {
			first = x.First
		}
		if x.Last.After(last) {
			last = x.Last
		}
		if o == nil || x.Count > o.Count {
			o = x
		}
	}
	s := timesText(count)
	if !first.IsZero() {
		s += ", " + first.UTC().Format("2006-01-02 15:04")
		if to := last.UTC().Format("2006-01-02 15:04"); to != first.UTC().Format("2006-01-02 15:04") {
			s += " to " + strings.TrimPrefix(to, first.UTC().Format("2006-01-02 "))
		}
	}
	if p.kinds > 1 {
		s += fmt.Sprintf(", for %d that were seen", p.kinds)
	}
	if example := o.example(); example != "" {
		s += "; " + example
	}
	if len(s) > maxEvidence {
		s = strings.ToValidUTF8(s[:maxEvidence], "") + "…"
	}
	return s
}

func timesText(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// example says for people what happened, and by whom.
func (o *Observation) example() string {
	ev := &o.Event
	by := ev.Subject.Path
	if by == "" {
		by = audit.CommandLine(ev.Subject.Command)
	}
	what := ""
	switch ev.Kind {
	case policy.Launch:
		what = audit.CommandLine(ev.Program.Command)
		if what == "" {
			what = cmp.Or(ev.Program.Path, ev.Program.Typed, "a program without a name")
		}
	case policy.Lookup:
		what = strings.TrimSpace("lookup of " + ev.Domain + " " + ev.QType)
	case policy.Outbound:
		what = "connection to " + ev.Addr.String()
		if ev.Name != "" {
			what += " (" + ev.Name + ")"
		}
	case policy.Listen:
		what = "listening on " + ev.Addr.String() + " " + ev.Proto
	case policy.UnixConnect:
		what = "connection to " + ev.File.Path
	case policy.FileWrite:
		what = ev.File.Op + " of " + ev.File.Path
		if ev.File.To != "" {
			what += " and " + ev.File.To
		}
	case policy.RawSocket:
		what = "a socket (" + ev.Proto + ")"
	default:
		what = strings.TrimSpace(ev.Call + " " + ev.Why)
	}
	if by != "" {
		what += ", by " + by
	}
	return audit.Clean(what)
}
