package inject

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"appdefender/policy"
)

// Format is what a definition is written in.
type Format string

// The formats.
const (
	TaskDefinition Format = "task-definition" // of ECS, in JSON
	CloudFormation Format = "cloudformation"  // a template or one resource, in JSON or YAML
	Dockerfile     Format = "dockerfile"
	Compose        Format = "compose"
	Kubernetes     Format = "kubernetes"      // manifests with pods or templates of pods, in YAML or JSON
	CloudRun       Format = "cloud-run"       // a service, in YAML
	ContainerGroup Format = "container-group" // of Azure, in YAML, or an ARM template in JSON
)

// Formats are all of them.
var Formats = []Format{TaskDefinition, CloudFormation, Dockerfile, Compose, Kubernetes, CloudRun, ContainerGroup}

var byteOrderMark = []byte("\ufeff")

// Embed returns the definition with every container protected. The error is an
// [*Errors] if the definition or the options have faults.
//
// A protected definition is protected anew, from the original: with the same
// options it stays as it is, with others those are changed.
func Embed(f Format, definition []byte, o Options) ([]byte, *Report, error) {
	return withoutMark(definition, func(text []byte) ([]byte, *Report, error) {
		if f == Dockerfile {
			return embedDockerfile(text, o)
		}
		return embedTree(f, text, o)
	})
}

// Remove returns the definition without protection: what [Embed] was given,
// with what has been changed by hand since.
func Remove(f Format, definition []byte) ([]byte, *Report, error) {
	return withoutMark(definition, func(text []byte) ([]byte, *Report, error) {
		if f == Dockerfile {
			return removeDockerfile(text)
		}
		return removeTree(f, text)
	})
}

// withoutMark takes a byte order mark off, which is no part of the text, and
// puts it back.
func withoutMark(definition []byte, do func([]byte) ([]byte, *Report, error)) ([]byte, *Report, error) {
	text, marked := bytes.CutPrefix(definition, byteOrderMark)
	if !utf8.Valid(text) {
		var f faults
		i := 0
		for r, size := utf8.DecodeRune(text); r != utf8.RuneError || size != 1; r, size = utf8.DecodeRune(text[i:]) {
			i += size
		}
		msg := "is not UTF-8"
		if bytes.HasPrefix(text, []byte{0xff, 0xfe}) || bytes.HasPrefix(text, []byte{0xfe, 0xff}) {
			msg = "is UTF-16; write it as UTF-8"
		}
		f.at(text, i, "", msg)
		return nil, nil, f.err()
	}
	out, rep, err := do(text)
	if err == nil && marked {
		out = append(slices.Clone(byteOrderMark), out...)
	}
	return out, rep, err
}

// A dialect is how a format says what all of them say.
type dialect interface {
	// notations reports which there are.
	notations() (json, yaml bool)
	// groups finds the groups of containers in a document.
	groups(d *document, root *node)
	// entry returns the keys of what a container starts; the second, of what
	// takes the place of the image's CMD, may be "".
	entry() (entryPoint, command string)
	// check adds the faults of a container that is to be protected.
	check(d *document, g *group, c *container, o *Options)
	// container and group return the parts that protection consists of, all of
	// them, each with what is to be added or nothing.
	container(d *document, g *group, c *container, o *Options) []part
	group(d *document, g *group, o *Options, kept [][2]string) []part
	notes(d *document, g *group, o *Options, rep *Report)
}

func dialectOf(f Format) dialect {
	switch f {
	case TaskDefinition:
		return ecs{}
	case CloudFormation:
		return ecs{pascal: true}
	case Compose:
		return compose{}
	case Kubernetes:
		return kubernetes{}
	case CloudRun:
		return cloudRun{}
	case ContainerGroup:
		return azure{}
	}
	return nil
}

// document is a file of definitions as far as we understand it.
type document struct {
	editor
	faults
	dialect
	roots  []*node
	groups []*group
	drop   map[*node]map[string]bool // members to remove
}

// group is containers that share volumes: a task, a pod, a project.
type group struct {
	*node
	name       string // what an App ID is made of; "" if it has none
	containers []*container
	sidecar    *container        // the Defender's own, or nil
	outer      *node             // of Cloud Run: what node is the spec of
	kept       map[string]string // what the sidecar keeps

	o   Options // of this group
	had *prior
}

// container is one container of a definition.
type container struct {
	*node                                // what has the members that embedding changes
	name, image         string           // as text, whatever computes it
	nameNode, imageNode *node            // nil if the definition does not say
	entryPoint, command []string         // nil if the definition does not say
	noEntryPoint        bool             // it says that there is none, whatever the image has
	noCommand           bool             // likewise
	env                 map[string]*node // the values of its variables, or what else tells them
	tokenSecret         string

	start, argv []string // what the Defender's entry point ends in, and starts
}

// part is something that protection adds below a container or a group: values
// to the list at path, or pairs to the object there.
type part struct {
	at     *node
	path   []string
	list   list
	pairs  object
	mine   func(*node) bool // which elements of the list are ours
	keys   []string         // which keys of the object are
	first  bool             // values go before those that are there
	common bool             // the owner may have put the same there
	absent object           // in place of list and pairs: the object, if there is none
	// convert says that a list at path is another way to write the object.
	convert bool
}

func (p *part) none() bool { return len(p.list)+len(p.pairs)+len(p.absent) == 0 }

// undo is the text that stood where embedding has set a value, by its path in
// the container; "" where nothing stood.
type undo map[string]string

// added is the undo of values that the owner might have put there too.
const added = "+"

// state is what a protected definition keeps, in the sidecar, of what cannot
// be seen in it any more.
type state struct {
	Undo   map[string]undo   `json:"undo,omitempty"`   // by container; "" is the group
	Images map[string]Image  `json:"images,omitempty"` // likewise
	Names  map[string]string `json:"names,omitempty"`  // Options.Images
	Skip   []string          `json:"skip,omitempty"`

	NoTracing bool `json:"noTracing,omitempty"`
}

// Image is what is known of a container's image, where the definition has no
// entry point: nil is nothing.
type Image struct {
	Entrypoint []string `json:"entrypoint"`
	Command    []string `json:"command"`
	// Of is the image's name, if it was looked up.
	Of string `json:"of,omitempty"`
	// Shell and OnBuild matter to a Dockerfile that is made from the image.
	Shell   []string `json:"shell,omitempty"`
	OnBuild []string `json:"onbuild,omitempty"`
}

// prior is what a protected group was told when it was protected.
type prior struct {
	state
	env         map[string]string // of the containers
	tokenSecret string
	protected   bool
}

// What the sidecar keeps, besides its environment.
const (
	keepVersion = "version"         // of the tool that embedded
	keepHash    = "original-sha256" // of the file before
	keepState   = "state"           // see state
)

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func embedTree(f Format, definition []byte, o Options) ([]byte, *Report, error) {
	original, had, err := stripTree(f, definition)
	if err != nil {
		return nil, nil, err
	}
	d, err := readTree(f, original)
	if err != nil {
		return nil, nil, err
	}
	var optionFaults faults
	for i, g := range d.groups {
		g.had = had.groups[i].had
		g.o = o.inherit(g.had, had.groups[i], g)
		g.o.validate(&optionFaults)
	}
	d.mentioned(&o, &optionFaults)
	protected := 0
	for _, g := range d.groups {
		for _, c := range g.containers {
			if g.o.skips(g, c) {
				continue
			}
			protected++
			d.checkContainer(g, c)
			c.start, c.argv = d.argv(g, c, &g.o)
		}
		if g.name == "" && g.o.AppID == "" {
			d.fault(g.node, "has no name: the App ID is made of it; give one of your own instead")
		}
	}
	if protected == 0 {
		optionFaults.add("", "every container is to be skipped: there is nothing to protect")
	}
	d.faults = append(distinct(optionFaults), d.faults...)
	if err := d.err(); err != nil {
		return nil, nil, err
	}
	rep := &Report{}
	for _, g := range d.groups {
		d.protect(g, rep)
	}
	if err := d.err(); err != nil {
		return nil, nil, err
	}
	out := d.bytes()
	if err := prove(f, d, out, rep); err != nil {
		return nil, nil, err
	}
	rep.Changed = slices.Compact(slices.Clone(d.changed))
	if bytes.Equal(out, definition) {
		rep.Changed = nil
	}
	return out, rep, nil
}

func distinct(f faults) faults {
	var out faults
	for _, fault := range f {
		if !slices.Contains(out, fault) {
			out = append(out, fault)
		}
	}
	return out
}

// mentioned adds a fault for each container that the options name and the
// definition does not have.
func (d *document) mentioned(o *Options, f *faults) {
	named := o.named()
	for _, name := range sortedKeys(named) {
		found := slices.ContainsFunc(d.groups, func(g *group) bool { return g.has(name) })
		if !found {
			f.add("", fmt.Sprintf("the option %s names the container %q, which is not in the definition", named[name], name))
		}
	}
}

// called reports whether a name of the options is this container's: its own,
// or the group's and its own.
func (g *group) called(c *container, name string) bool {
	return name == c.name || name == g.name+"/"+c.name
}

func (g *group) has(name string) bool {
	return slices.ContainsFunc(g.containers, func(c *container) bool { return g.called(c, name) })
}

// ofContainer returns what a table of the options says of a container.
func ofContainer[V any](m map[string]V, g *group, c *container) (V, bool) {
	if v, ok := m[g.name+"/"+c.name]; ok {
		return v, true
	}
	v, ok := m[c.name]
	return v, ok
}

func (o *Options) skips(g *group, c *container) bool {
	return slices.ContainsFunc(o.Skip, func(name string) bool { return g.called(c, name) })
}

// checkContainer refuses what is ours where nothing should be: a later removal
// could not tell whose it is.
func (d *document) checkContainer(g *group, c *container) {
	key, _ := d.entry()
	if c.name == Sidecar {
		d.fault(c.nameNode, fmt.Sprintf("%q is what the defender's own container is called", Sidecar))
	}
	if len(c.entryPoint) > 0 && strings.HasPrefix(c.entryPoint[0], Dir+"/") {
		d.fault(c.get(key), fmt.Sprintf("%q is in the defender's own volume", c.entryPoint[0]))
	}
	if len(c.entryPoint) > 0 && c.entryPoint[0] == "" {
		d.fault(c.get(key), "begins with an empty word: there is no such program")
	}
	for _, name := range sortedKeys(c.env) {
		if ours[name] {
			d.fault(c.env[name], fmt.Sprintf("sets %s, which embedding sets; take it out", name))
		}
	}
	d.check(d, g, c, &g.o)
}

// argv returns what the Defender of a container starts, and how much of it the
// definition's entry point must say.
//
// The platforms' rule: a command of the definition replaces the image's CMD,
// an entry point of the definition both the image's ENTRYPOINT and its CMD.
func (d *document) argv(g *group, c *container, o *Options) (entryPoint, argv []string) {
	entry, hasEntry := ofContainer(o.Entrypoints, g, c)
	cmd, hasCmd := ofContainer(o.Commands, g, c)
	key, cmdKey := d.entry()
	switch {
	case (len(c.entryPoint) > 0 || c.noEntryPoint) && (hasEntry || hasCmd):
		d.fault(c.node, fmt.Sprintf("%q has its own %s, so what its image says is not used; leave the options entrypoint and command away", c.name, key))
		return nil, nil
	case len(c.command) > 0 && hasCmd:
		d.fault(c.node, fmt.Sprintf("%q has its own %s, so its image's CMD is not used; leave the option command away", c.name, cmdKey))
		return nil, nil
	case len(c.entryPoint) > 0 || c.noEntryPoint:
		entryPoint = c.entryPoint
	default:
		needCmd := len(c.command) == 0 && !c.noCommand
		if o.Lookup != nil && c.imageNode != nil && !c.imageNode.intrinsic() && (!hasEntry || needCmd && !hasCmd) {
			img, err := o.Lookup(c.image)
			if err != nil {
				d.fault(c.imageNode, fmt.Sprintf("%q starts what its image says, and looking that up failed: %v; %s", c.name, err, d.remedy(c)))
				return nil, nil
			}
			entry, hasEntry = img.Entrypoint, true
			if needCmd {
				cmd, hasCmd = img.Command, true
			}
			g.found(c, Image{Entrypoint: nonNil(entry), Command: cmd, Of: c.image})
		}
		if !hasEntry || needCmd && !hasCmd {
			lacks := "no " + key
			if needCmd && cmdKey != "" {
				lacks = "neither " + key + " nor " + cmdKey
			}
			d.fault(c.node, fmt.Sprintf("%q has %s, so what it starts is in its image %q, which was not looked up; %s", c.name, lacks, c.image, d.remedy(c)))
			return nil, nil
		}
		entryPoint = slices.Concat(entry, cmd)
	}
	argv = slices.Concat(entryPoint, c.command)
	if len(argv) == 0 {
		d.fault(c.node, fmt.Sprintf("%q would start nothing: neither its entry point nor its command has a word", c.name))
	}
	if StartsDefender(argv) {
		d.fault(c.node, fmt.Sprintf("%q %s", c.name, DefenderTwice))
	}
	return entryPoint, argv
}

// StartsDefender reports whether somebody has put a defender there by hand. One
// in our folder is told of by that.
func StartsDefender(argv []string) bool {
	return len(argv) > 1 && path.Base(argv[0]) == "defender" && argv[1] == "run" && !strings.HasPrefix(argv[0], Dir+"/")
}

// DefenderTwice is what is said of that.
const DefenderTwice = `starts a defender already ("defender run"), and only one can supervise: take that out`

func nonNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// found remembers what was looked up.
func (g *group) found(c *container, img Image) {
	if g.had.Images == nil {
		g.had.Images = make(map[string]Image)
	}
	g.had.Images[c.name] = img
}

func (d *document) remedy(c *container) string {
	key, _ := d.entry()
	s := fmt.Sprintf(`write %s into the definition, or give --lookup, or --entrypoint '%s=["…"]' with the image's ENTRYPOINT, [] if it has none`, key, c.name)
	if len(c.command) == 0 {
		s += fmt.Sprintf(`, and --command '%s=["…"]' with its CMD`, c.name)
	}
	return s
}

// prefix is what stands before what a container starts.
var prefix = []string{Program, "run", "--"}

// protect makes the edits.
func (d *document) protect(g *group, rep *Report) {
	o := &g.o
	if o.AppID == "" {
		o.AppID = g.name + ":" + NewUUID()
	}
	if rep.AppID == "" {
		rep.AppID = o.AppID
	}
	rules := o.scopes()
	st := state{Undo: make(map[string]undo), Images: make(map[string]Image), Names: o.Images, Skip: o.Skip, NoTracing: o.NoTracing}
	for _, c := range g.containers {
		if o.skips(g, c) {
			rep.Containers = append(rep.Containers, Container{Group: g.name, Name: c.name, Image: c.image, Skipped: true})
			rep.Notes = append(rep.Notes, fmt.Sprintf("The container %q is not protected: the option skip says so.", c.name))
			continue
		}
		u := make(undo)
		d.prefixEntry(c, u)
		for _, p := range d.container(d, g, c, o) {
			d.extend(p, u)
		}
		if len(u) > 0 {
			st.Undo[c.name] = u
		}
		if len(c.entryPoint) == 0 && !c.noEntryPoint {
			img := g.had.Images[c.name]
			if img.Of != c.image {
				img = Image{}
				img.Entrypoint, _ = ofContainer(o.Entrypoints, g, c)
				img.Command, _ = ofContainer(o.Commands, g, c)
			}
			st.Images[c.name] = img
		}
		rep.Containers = append(rep.Containers, Container{Group: g.name, Name: c.name, Image: c.image, Argv: c.argv})
		name, named := ofContainer(o.Images, g, c)
		if !named {
			name = c.image
		}
		w := policy.Workload{Image: name, Container: c.name, AppID: o.AppID}
		computed := c.nameNode != nil && c.nameNode.intrinsic() || !named && c.imageNode != nil && c.imageNode.intrinsic()
		if !computed && rules.none(w) {
			rep.note(noRule(w))
		}
	}
	d.protectGroup(g, st)
	if o.Token != "" {
		rep.note("The enrolment token stands in the definition, for everybody to read who may see it; a secret of the platform keeps it.")
	}
	d.notes(d, g, o, rep)
}

// protectGroup makes the edits outside the containers. The sidecar holds what
// those edits undo: so they are made twice, first to learn that.
func (d *document) protectGroup(g *group, st state) {
	edits, changed := len(d.edits), len(d.changed)
	u := make(undo)
	for {
		before := len(u)
		text, err := json.Marshal(st)
		if err != nil {
			panic(err) // maps of strings
		}
		var kept [][2]string
		if g.o.Version != "" {
			kept = append(kept, [2]string{keepVersion, g.o.Version})
		}
		kept = append(kept, [2]string{keepHash, digest(d.data)}, [2]string{keepState, string(text)})
		d.edits, d.changed = d.edits[:edits], d.changed[:changed]
		for _, p := range d.group(d, g, &g.o, kept) {
			d.extend(p, u)
		}
		if len(u) == before || d.err() != nil {
			return
		}
		st.Undo[""] = u
	}
}

// prefixEntry puts the Defender before what a container starts.
func (d *document) prefixEntry(c *container, u undo) {
	key, _ := d.entry()
	n := c.get(key)
	switch {
	case n != nil && n.kind == isString && len(c.entryPoint) > 0: // a line of words
		if d.mayChange(n) {
			at := d.textStart(n)
			d.splice(n.path, at, at, strings.Join(prefix, " ")+" ")
		}
	case len(c.entryPoint) > 0:
		if d.mayChange(n) {
			d.prepend(n, strs(prefix...))
		}
	case d.mayChange(c.node):
		d.set(c.node, key, append(strs(prefix...), strs(c.start...)...), u, key)
	}
}

// textStart returns where the text of a string begins, behind quote or |.
func (d *document) textStart(n *node) int {
	at := n.inner
	switch d.data[at] {
	case '"', '\'':
		return at + 1
	case '|', '>':
		for at = d.lineEnd(at); strings.IndexByte(" \r\n", d.data[at]) >= 0; at++ {
		}
	}
	return at
}

// mayChange reports whether something can be put into n, or adds a fault.
func (d *document) mayChange(n *node) bool {
	switch {
	case n.alias:
		d.fault(n, "is an alias, so that changing it would change what it stands for; write it out here")
	case n.shared:
		d.fault(n, "is what an alias stands for, so that changing it would change the other too; write it out in both places")
	case n.implicit:
		d.fault(n, "is a mapping without its braces; put {} around it")
	default:
		return true
	}
	return false
}

// extend adds a part, making list or object if need be.
func (d *document) extend(p part, u undo) {
	if p.none() {
		return
	}
	cur := p.at
	for i, key := range p.path {
		if !d.mayChange(cur) {
			return
		}
		v := cur.get(key)
		if v == nil && cur.merged.get(key) != nil {
			d.fault(cur, fmt.Sprintf(`gets %s by "<<" and would lose it if it had its own; write it out here`, key))
			return
		}
		if v.none() {
			var value any
			switch {
			case p.list != nil:
				value = p.list
			case p.pairs != nil:
				value = p.pairs
			default:
				value = p.absent
			}
			for j := len(p.path) - 1; j > i; j-- {
				value = object{{p.path[j], value}}
			}
			d.set(cur, key, value, u, strings.Join(p.path[:i+1], "."))
			return
		}
		want := isObject
		if i == len(p.path)-1 && p.list != nil {
			want = isArray
		}
		switch {
		case p.convert && v.kind == isArray:
			d.convertDepends(v, p, u)
			return
		case v.intrinsic():
			d.fault(v, "is computed by the platform, so that nothing can be added to it; write it out")
			return
		case v.kind != want:
			d.fault(v, fmt.Sprintf("is %s, not %s", v.kind, want))
			return
		}
		cur = v
	}
	if p.absent != nil || !d.mayChange(cur) {
		return
	}
	if p.list == nil {
		for _, pair := range p.pairs {
			d.addMember(cur, pair.key, pair.value)
		}
		return
	}
	if p.common {
		if slices.ContainsFunc(cur.elems, p.mine) {
			return
		}
		u[strings.Join(p.path, ".")] = added
	}
	if p.first {
		d.prepend(cur, p.list)
	} else {
		d.append(cur, p.list)
	}
}

// set gives a key that says nothing a value, and remembers what was there.
func (d *document) set(o *node, key string, value any, u undo, name string) {
	v := o.get(key)
	switch {
	case v == nil:
		u[name] = ""
		d.addMember(o, key, value)
	case d.mayChange(v):
		u[name] = d.editor.text(v)
		if v.start == v.end {
			u[name] = nothing
		}
		d.replace(v, d.styleIn(o).encode(value))
	}
}

// variables returns what embedding sets in a container, in order.
func (d *document) variables(g *group, c *container, o *Options) []pair {
	if o.AppID == "" {
		return nil // of a removal
	}
	named := func(name string, n *node, text string) any {
		if name != "" || n == nil || !n.intrinsic() {
			if name == "" {
				name = text
			}
			return name
		}
		return d.copied(n)
	}
	name, _ := ofContainer(o.Images, g, c)
	var vars []pair
	for _, v := range []pair{
		{envConsole, o.Console}, {envToken, o.Token}, {envCA, ifAny(o.CA, caFile)}, {envPolicy, ifAny(o.Policy, policyFile)},
		{envAppID, o.AppID}, {envContainer, named("", c.nameNode, c.name)}, {envImage, named(name, c.imageNode, c.image)},
		{envDataDir, o.dataDir()}, {envWait, o.wait()}, {envOnFailure, o.OnFailure}, {envFiles, o.files()},
	} {
		if v.value != "" {
			vars = append(vars, v)
		}
	}
	return vars
}

// installs returns what the sidecar is told in its environment.
func (o *Options) installs() []pair {
	var vars []pair
	for _, v := range []pair{{envInstallCA, string(o.CA)}, {envInstallPolicy, string(o.Policy)}} {
		if v.value != "" {
			vars = append(vars, v)
		}
	}
	return vars
}

func ifAny(data []byte, name string) string {
	if len(data) == 0 {
		return ""
	}
	return name
}

func isTracing(capability string) bool {
	return strings.TrimPrefix(strings.ToUpper(capability), "CAP_") == tracing
}

// mayTrace reports whether an element of a list of capabilities is SYS_PTRACE
// or has it in it.
func mayTrace(el *node) bool { return isTracing(el.text) || el.text == "ALL" }
