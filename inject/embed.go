package inject

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
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

// readTree understands a definition or says what it does not.
func readTree(f Format, data []byte) (*document, error) {
	d := &document{editor: editor{data: data}, dialect: dialectOf(f), drop: make(map[*node]map[string]bool)}
	if d.dialect == nil {
		return nil, fmt.Errorf("%q is no format; it is one of %q", f, Formats)
	}
	asJSON, asYAML := d.notations()
	trimmed := bytes.TrimSpace(data)
	looksJSON := len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[')
	if asJSON && (looksJSON || !asYAML) {
		d.roots = []*node{parseJSON(data, &d.faults)}
	} else {
		d.yaml = true
		d.roots = parseYAML(data, &d.faults)
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	for _, root := range d.roots {
		if root == nil {
			continue
		}
		d.dialect.groups(d, root)
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	if len(d.groups) == 0 {
		d.add("", "has nothing in it that runs containers")
	}
	for _, g := range d.groups {
		seen := make(map[string]bool)
		for _, c := range g.containers {
			if c.name != "" && seen[c.name] {
				d.fault(c.node, fmt.Sprintf("%q is there twice", c.name))
			}
			seen[c.name] = true
		}
	}
	return d, d.err()
}

// fault adds a fault of what stands at n.
func (d *document) fault(n *node, msg string) { d.at(d.data, n.start, n.path, msg) }

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
	return entryPoint, argv
}

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

// stripTree takes the protection out, if there is any. The document that it
// returns is the protected one.
func stripTree(f Format, definition []byte) ([]byte, *document, error) {
	d, err := readTree(f, definition)
	if err != nil {
		return nil, nil, err
	}
	for _, g := range d.groups {
		g.had = &prior{env: make(map[string]string)}
		d.readState(g)
		g.had.protected = g.sidecar != nil
		for _, c := range g.containers {
			if c.protected() {
				g.had.protected = true
				d.unprotect(g, c)
			}
		}
		if g.had.protected {
			for _, p := range d.group(d, g, new(Options), nil) {
				d.shrink(p, g.had.Undo[""])
			}
		}
	}
	for o, keys := range d.drop {
		d.removeMembers(o, keys)
	}
	if err := d.err(); err != nil {
		return nil, nil, err
	}
	return d.bytes(), d, nil
}

// protected reports whether the container starts the Defender.
func (c *container) protected() bool {
	return len(c.entryPoint) >= 3 && c.entryPoint[0] == Program && c.entryPoint[1] == "run" &&
		slices.Contains(c.entryPoint[2:], "--")
}

// readState reads what the sidecar keeps.
func (d *document) readState(g *group) {
	text := g.kept[keepState]
	if text == "" {
		return
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&g.had.state); err != nil {
		d.fault(g.sidecar.node, "keeps a state that is not what embedding wrote: "+err.Error())
	}
}

func (d *document) unprotect(g *group, c *container) {
	u := g.had.Undo[c.name]
	d.unprefixEntry(g, c, u)
	for name, n := range c.env {
		if ours[name] && g.had.env[name] == "" {
			g.had.env[name] = n.text
		}
	}
	if g.had.tokenSecret == "" {
		g.had.tokenSecret = c.tokenSecret
	}
	for _, p := range d.container(d, g, c, new(Options)) {
		d.shrink(p, u)
	}
}

func (d *document) unprefixEntry(g *group, c *container, u undo) {
	key, _ := d.entry()
	n := c.get(key)
	if c.entryPoint[2] != "--" {
		d.fault(n, fmt.Sprintf("has %q, which was put in by hand; set it in the container's environment as a DEFENDER_ variable instead", c.entryPoint[2]))
		return
	}
	rest := c.entryPoint[len(prefix):]
	before, replaced := u[key]
	switch {
	case n.kind == isString:
		at := d.textStart(n)
		before := strings.Join(prefix, " ") + " "
		if !strings.HasPrefix(string(d.data[at:]), before) {
			d.fault(n, "does not begin as embedding writes it; take the defender out of it by hand")
			return
		}
		d.splice(n.path, at, at+len(before), "")
	case replaced || len(rest) == 0:
		if img, ok := g.had.Images[c.name]; ok && !slices.Equal(rest, slices.Concat(img.Entrypoint, img.Command)) {
			d.fault(n, "has been changed by hand since the container was protected; take the defender out of it, and it is the container's own")
			return
		}
		d.putBack(c.node, key, n, before)
	default:
		d.removeElems(n, func(el *node) bool { return slices.Index(n.elems, el) < len(prefix) })
	}
}

// putBack restores what stood as the value of a key; "" is no such key.
func (d *document) putBack(o *node, key string, n *node, before string) {
	if before == "" || before == added {
		if d.drop[o] == nil {
			d.drop[o] = make(map[string]bool)
		}
		d.drop[o][key] = true
		return
	}
	d.restore(n, before)
}

// shrink is the reverse of extend.
func (d *document) shrink(p part, u undo) {
	chain := []*node{p.at}
	for _, key := range p.path {
		v := chain[len(chain)-1].get(key)
		if v.none() {
			return
		}
		chain = append(chain, v)
	}
	last := chain[len(chain)-1]
	isMine := func(key string) bool { return slices.Contains(p.keys, key) }
	mine, all := 0, len(last.elems)+len(last.members)
	for _, el := range last.elems {
		if p.mine != nil && p.mine(el) {
			mine++
		}
	}
	for _, m := range last.members {
		if isMine(m.key) {
			mine++
		}
	}
	made := -1 // how long the path is of what embedding made
	for i := range p.path {
		if _, ok := u[strings.Join(p.path[:i+1], ".")]; ok {
			made = i + 1
			break
		}
	}
	switch {
	case mine == 0 || p.common && made < 0:
		return
	case p.convert && made == len(p.path) && sameDepends(last, spaces(d.column(last.start))+u[strings.Join(p.path, ".")], p.keys):
		d.restore(last, u[strings.Join(p.path, ".")])
		return
	case mine < all && last.kind == isArray:
		d.removeElems(last, p.mine)
		return
	case mine < all:
		for _, m := range last.members {
			if isMine(m.key) {
				d.putBack(last, m.key, m.value, "")
			}
		}
		return
	}
	// All of it is ours: so goes what was made to hold it, if nothing else is
	// there by now.
	if made < 0 {
		made = len(p.path)
	}
	for ; made < len(p.path); made++ {
		alone := true
		for _, n := range chain[made : len(chain)-1] {
			alone = alone && len(n.members) == 1
		}
		if alone {
			break
		}
	}
	before := u[strings.Join(p.path[:made], ".")]
	if before == added { // what else stood here has been taken out since
		before = "[]"
	}
	d.putBack(chain[made-1], p.path[made-1], chain[made], before)
}

func removeTree(f Format, definition []byte) ([]byte, *Report, error) {
	original, d, err := stripTree(f, definition)
	if err != nil {
		return nil, nil, err
	}
	back, err := readTree(f, original)
	if err != nil {
		return nil, nil, fmt.Errorf("checking the result: %w", err)
	}
	rep := &Report{Exact: true}
	protected := false
	for i, g := range d.groups {
		if rep.AppID == "" {
			rep.AppID = g.had.env[envAppID]
		}
		if g.had.protected {
			protected = true
			rep.Exact = rep.Exact && digest(original) == g.kept[keepHash]
		}
		for _, c := range back.groups[i].containers {
			rep.Containers = append(rep.Containers, Container{
				Group: g.name, Name: c.name, Image: c.image, Argv: slices.Concat(c.entryPoint, c.command), Skipped: true,
			})
		}
	}
	rep.Changed = slices.Compact(slices.Clone(d.changed))
	switch {
	case !protected:
		rep.note("The definition was not protected.")
	case !rep.Exact:
		rep.note("The definition has been changed since it was protected; the changes stay.")
	}
	return original, rep, nil
}

// prove looks at the result as the platform and [Remove] will: it is read
// again, nothing but what we mean to change has changed, every container is
// protected, and removing gives the original.
func prove(f Format, original *document, protected []byte, rep *Report) error {
	wrong := func(err error) error { return fmt.Errorf("checking the result, which is not written: %w", err) }
	d, err := readTree(f, protected)
	if err != nil {
		return wrong(err)
	}
	if len(d.roots) != len(original.roots) || len(d.groups) != len(original.groups) {
		return wrong(errors.New("it has more or fewer documents than the original"))
	}
	changed := make(map[string]bool)
	for _, path := range original.changed {
		changed[path] = true
	}
	for i := range d.roots {
		if path, ok := grown(original.roots[i], d.roots[i], changed); !ok {
			return wrong(fmt.Errorf("%s would have changed; write it in another way", path))
		}
	}
	i := 0
	for _, g := range d.groups {
		for _, c := range g.containers {
			switch {
			case i == len(rep.Containers):
				return wrong(fmt.Errorf("%s is new", c.path))
			case !rep.Containers[i].Skipped && !c.protected():
				return wrong(fmt.Errorf("%s would not be protected", c.path))
			case !rep.Containers[i].Skipped && !slices.Equal(slices.Concat(c.entryPoint[len(prefix):], c.command), rep.Containers[i].Argv):
				return wrong(fmt.Errorf("%s would start something else", c.path))
			}
			i++
		}
	}
	if i != len(rep.Containers) {
		return wrong(errors.New("a container is gone"))
	}
	back, _, err := stripTree(f, protected)
	if err != nil {
		return wrong(err)
	}
	if !bytes.Equal(back, original.data) {
		return wrong(errors.New("removing the protection would not give the original back"))
	}
	return nil
}

// grown reports whether after is before, but for what is at the paths changed:
// there lists and objects may have more in them, and what was nothing may be
// something. It returns the path of the first difference.
func grown(before, after *node, changed map[string]bool) (string, bool) {
	switch {
	case before == nil || after == nil:
		return "the document", before == after
	case changed[before.path] && (before.none() || before.kind == isString && (after.kind == isString || before.text == "")):
		return "", true
	case changed[before.path] && before.kind == isArray && after.kind == isObject:
		// The two ways to write depends_on.
		for _, el := range before.elems {
			if after.get(el.text) == nil {
				return el.path, false
			}
		}
		return "", true
	case before.kind != after.kind || before.tag != after.tag || before.alias != after.alias || before.block != after.block ||
		before.kind != isArray && before.kind != isObject && before.text != after.text:
		return before.path, false
	}
	for _, m := range before.members {
		v := after.get(m.key)
		if v == nil {
			return m.value.path, false
		}
		if path, ok := grown(m.value, v, changed); !ok {
			return path, false
		}
	}
	for _, m := range after.members {
		if before.get(m.key) == nil && !changed[join(before.path, m.key)] && !changed[m.value.path] {
			return m.value.path, false
		}
	}
	more := len(after.elems) - len(before.elems)
	if more < 0 || more > 0 && !changed[before.path] {
		return before.path, false
	}
	// What was put before them moved the others.
	var path string
	for _, shift := range []int{0, more} {
		ok := true
		for i := 0; i < len(before.elems) && ok; i++ {
			path, ok = grown(before.elems[i], after.elems[i+shift], changed)
		}
		if ok {
			return "", true
		}
	}
	return path, false
}

// isText reports whether n is a plain string of that text.
func isText(n *node, text string) bool {
	return n != nil && n.kind == isString && n.tag == "" && n.text == text
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

// keys refuses keys that are ours but for their case: the platform would not
// read them as we do, whichever of us is right.
func (d *document) keys(n *node, known ...string) {
	for _, m := range n.members {
		for _, k := range known {
			if m.key != k && strings.EqualFold(m.key, k) {
				d.at(d.data, m.start, m.value.path, fmt.Sprintf("is not the key %q, but nearly", k))
			}
		}
	}
}

var aContainer = regexp.MustCompile(`(?i)container(s|definitions)\[\d+\]$`)

// str returns a string, "" if it is absent. What the platform computes is
// given as it stands.
func (d *document) str(n *node, key string, required bool) string {
	v := n.get(key)
	if v == nil {
		v = n.merged.get(key)
	}
	switch {
	case v == nil || v.kind == isNull && v.tag == "":
		if required {
			msg := "missing"
			switch {
			case key == "kind":
				msg += ": it says what a manifest is, such as Deployment"
			case strings.EqualFold(key, "name") && aContainer.MatchString(n.path):
				msg += ": containers are told apart by their names; give it one"
			}
			d.at(d.data, n.start, join(n.path, key), msg)
		}
	case v.intrinsic():
		return strings.Join(strings.Fields(d.editor.text(v)), " ")
	case v.kind != isString && d.yaml && v.kind != isObject && v.kind != isArray:
		return v.text
	case v.kind != isString:
		d.fault(v, "is "+v.kind.String()+", not a string")
	case v.text == "" && required:
		d.fault(v, "is empty")
	default:
		return v.text
	}
	return ""
}

// object returns an object, nil if it is absent or computed.
func (d *document) object(n *node, key string) *node {
	v := n.get(key)
	switch {
	case v == nil || v.kind == isNull || v.intrinsic():
		return nil
	case v.kind != isObject:
		d.fault(v, "is "+v.kind.String()+", not an object")
		return nil
	}
	return v
}

// elems returns the elements of a list that are of kind k; others, unless they
// are computed, are faults.
func (d *document) elems(n *node, key string, k kind) []*node {
	v := n.get(key)
	switch {
	case v == nil || v.kind == isNull || v.intrinsic():
		return nil
	case v.kind != isArray:
		d.fault(v, "is "+v.kind.String()+", not a list")
		return nil
	}
	good := make([]*node, 0, len(v.elems))
	for _, el := range v.elems {
		switch {
		case el.intrinsic():
		case el.kind != k:
			d.fault(el, "is "+el.kind.String()+", not "+k.String())
		default:
			good = append(good, el)
		}
	}
	return good
}

func (d *document) objects(n *node, key string) []*node { return d.elems(n, key, isObject) }

// words returns a list of strings, nil if it is absent or empty. What the
// platform computes is given as it stands.
func (d *document) words(n *node, key string) []string {
	v := n.get(key)
	if v == nil {
		if from := n.merged.get(key); from != nil {
			d.fault(n, fmt.Sprintf(`gets %s by "<<"; write it out here`, key))
		}
		return nil
	}
	switch {
	case v.kind == isNull && v.tag == "":
		return nil
	case v.intrinsic():
		d.fault(v, "is computed by the platform as a whole, so that nothing can be put before it; write it as a list, whose elements may be computed")
		return nil
	case v.kind != isArray:
		d.fault(v, "is "+v.kind.String()+", not a list")
		return nil
	}
	var words []string
	for _, el := range v.elems {
		switch {
		case el.intrinsic():
			words = append(words, strings.Join(strings.Fields(d.editor.text(el)), " "))
		case el.kind == isString || d.yaml && el.kind != isObject && el.kind != isArray && el.kind != isNull:
			words = append(words, el.text)
		default:
			d.fault(el, "is "+el.kind.String()+", not a string")
			words = append(words, "")
		}
	}
	return words
}

// readEnv reads a list of variables, each an object of a name and a value.
func (d *document) readEnv(n *node, key, name, value string, env map[string]*node) {
	for _, el := range d.objects(n, key) {
		d.keys(el, name, value)
		if s := d.str(el, name, true); s != "" && !el.get(name).intrinsic() {
			env[s] = el
			if v := el.get(value); v != nil {
				env[s] = v
			}
		}
	}
}
