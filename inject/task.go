package inject

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Keys of a task definition.
const (
	keyContainers   = "containerDefinitions"
	keyEntryPoint   = "entryPoint"
	keyCommand      = "command"
	keyEnvironment  = "environment"
	keySecrets      = "secrets"
	keyLinux        = "linuxParameters"
	keyCapabilities = "capabilities"
	keyVolumesFrom  = "volumesFrom"
	keyDependsOn    = "dependsOn"
	keyLog          = "logConfiguration"
)

// pathAdd is what state calls linuxParameters.capabilities.add.
const pathAdd = keyLinux + "." + keyCapabilities + ".add"

// Task returns the ECS task definition, in the JSON that RegisterTaskDefinition
// takes, with every container protected. The error is an [*Errors] if the
// definition or the options have faults.
//
// A protected definition is protected anew, from the original: with the same
// options it stays as it is, with others those are changed.
func Task(definition []byte, o Options) ([]byte, *Report, error) {
	original, had, err := strip(definition)
	if err != nil {
		return nil, nil, err
	}
	t, err := readTask(original)
	if err != nil {
		return nil, nil, err
	}
	o = o.inherit(had, t)
	var f faults
	o.validate(&f)
	t.faults = append(f, t.faults...)
	t.check(&o)
	if t.faults.err() != nil {
		return nil, nil, t.faults.err()
	}
	if o.AppID == "" {
		o.AppID = t.family + ":" + newUUID()
	}
	rep := t.protect(&o)
	protected := t.bytes()
	if err := prove(original, protected, rep); err != nil {
		return nil, nil, err
	}
	if bytes.Equal(protected, definition) {
		rep.Changed = nil
	}
	return protected, rep, nil
}

// prove looks at the result as the platform and [Remove] will.
func prove(original, protected []byte, rep *Report) error {
	back, _, err := strip(protected)
	if err != nil {
		return fmt.Errorf("checking the result: %w", err)
	}
	if !bytes.Equal(back, original) {
		return errors.New("checking the result: removing the protection would not give the original back")
	}
	t, err := readTask(protected)
	if err != nil {
		return fmt.Errorf("checking the result: %w", err)
	}
	for i, c := range t.containers {
		if i < len(rep.Containers) && !rep.Containers[i].Skipped && !c.protected() {
			return fmt.Errorf("checking the result: %s is not protected", c.path)
		}
	}
	return nil
}

// task is a definition as far as we understand it.
type task struct {
	editor
	faults
	root, list *node
	family     string
	containers []*container
}

type container struct {
	*node
	name, image         string
	entryPoint, command []string // nil if the definition does not say
	start, argv         []string // what the Defender's entryPoint ends in, and starts
}

// readTask understands a definition or says what it does not.
func readTask(definition []byte) (*task, error) {
	root, err := parse(definition)
	if err != nil {
		return nil, err
	}
	t := &task{editor: editor{data: definition}, root: root}
	switch {
	case root.kind == isArray:
		t.add("", "is a list; give the whole task definition, the object with containerDefinitions in it")
		return nil, t.faults.err()
	case root.kind != isObject:
		t.add("", "is "+root.kind.String()+", not a task definition")
		return nil, t.faults.err()
	case root.get(keyContainers) == nil && root.get("taskDefinition") != nil:
		t.add("taskDefinition", `is what "describe-task-definition" wraps a definition in; give the object inside`)
		return nil, t.faults.err()
	case root.get("ContainerDefinitions") != nil || root.get("Properties") != nil || root.get("Resources") != nil:
		t.add("", "is a CloudFormation template, which is not understood yet; give the task definition that RegisterTaskDefinition takes")
		return nil, t.faults.err()
	}
	t.keys(root, keyContainers, "family", "runtimePlatform", "executionRoleArn", "memory")
	t.family = t.str(root, "family", false)
	t.platform()
	t.list = root.get(keyContainers)
	if t.list.none() {
		t.add(keyContainers, "missing or empty: there is nothing to protect")
		return nil, t.faults.err()
	}
	seen := make(map[string]bool)
	for _, n := range t.objects(root, keyContainers) {
		c := t.container(n)
		if c.name != "" && seen[c.name] {
			t.add(c.path+".name", fmt.Sprintf("%q is there twice", c.name))
		}
		seen[c.name] = true
		t.containers = append(t.containers, c)
	}
	if err := t.faults.err(); err != nil {
		return nil, err
	}
	return t, nil
}

// platform refuses what a Linux program cannot protect.
func (t *task) platform() {
	p := t.object(t.root, "runtimePlatform")
	if p == nil {
		return
	}
	t.keys(p, "operatingSystemFamily", "cpuArchitecture")
	if os := t.str(p, "operatingSystemFamily", false); os != "" && os != "LINUX" {
		t.add(p.path+".operatingSystemFamily", fmt.Sprintf("%q is not LINUX: the defender supervises Linux containers only", os))
	}
	if arch := t.str(p, "cpuArchitecture", false); arch != "" && arch != "X86_64" && arch != "ARM64" {
		t.add(p.path+".cpuArchitecture", fmt.Sprintf("there is no defender for %q", arch))
	}
}

func (t *task) container(n *node) *container {
	t.keys(n, "name", "image", keyEntryPoint, keyCommand, keyEnvironment, keySecrets, keyLinux, keyVolumesFrom,
		keyDependsOn, keyLog, "mountPoints")
	c := &container{
		node: n, name: t.str(n, "name", true), image: t.str(n, "image", true),
		entryPoint: t.strings(n, keyEntryPoint), command: t.strings(n, keyCommand),
	}
	if len(c.entryPoint) > 0 && c.entryPoint[0] == "" {
		t.add(n.path+"."+keyEntryPoint+"[0]", "is empty: there is no such program")
	}
	for _, l := range []struct{ list, key string }{
		{keyEnvironment, "name"}, {keySecrets, "name"}, {keyVolumesFrom, "sourceContainer"}, {keyDependsOn, "containerName"},
	} {
		for _, el := range t.objects(n, l.list) {
			t.keys(el, l.key)
			t.str(el, l.key, true)
		}
	}
	for _, el := range t.objects(n, "mountPoints") {
		t.keys(el, "containerPath")
		at := strings.TrimRight(t.str(el, "containerPath", false), "/")
		if at == Dir || strings.HasPrefix(at, Dir+"/") || at != "" && strings.HasPrefix(Dir, at+"/") && at != "/var" && at != "/var/lib" {
			t.add(el.path+".containerPath", fmt.Sprintf("%q is where the defender's own volume goes", at))
		}
	}
	if linux := t.object(n, keyLinux); linux != nil {
		t.keys(linux, keyCapabilities)
		if caps := t.object(linux, keyCapabilities); caps != nil {
			t.keys(caps, "add", "drop")
			t.strings(caps, "add")
			for i, drop := range t.strings(caps, "drop") {
				if isTracing(drop) {
					t.add(fmt.Sprintf("%s.drop[%d]", caps.path, i), fmt.Sprintf("drops %s, which the defender needs; it takes it from the application itself", tracing))
				}
			}
		}
	}
	return c
}

func isTracing(capability string) bool {
	return strings.TrimPrefix(strings.ToUpper(capability), "CAP_") == tracing
}

// keys refuses keys that are ours but for their case: the platform would not
// read them as we do, whichever of us is right.
func (t *task) keys(n *node, known ...string) {
	for _, m := range n.members {
		for _, k := range known {
			if m.key != k && strings.EqualFold(m.key, k) {
				t.add(join(n.path, m.key), fmt.Sprintf("is not the key %q, but nearly", k))
			}
		}
	}
}

// str returns a string, "" if it is absent.
func (t *task) str(n *node, key string, required bool) string {
	v := n.get(key)
	switch {
	case v == nil || v.kind == isNull:
		if required {
			t.add(join(n.path, key), "missing")
		}
	case v.kind != isString:
		t.add(v.path, "is "+v.kind.String()+", not a string")
	case v.text == "" && required:
		t.add(v.path, "is empty")
	default:
		return v.text
	}
	return ""
}

// object returns an object, nil if it is absent.
func (t *task) object(n *node, key string) *node {
	v := n.get(key)
	switch {
	case v == nil || v.kind == isNull:
		return nil
	case v.kind != isObject:
		t.add(v.path, "is "+v.kind.String()+", not an object")
		return nil
	}
	return v
}

// elems returns the elements of a list, which all must be of kind k.
func (t *task) elems(n *node, key string, k kind) []*node {
	v := n.get(key)
	switch {
	case v == nil || v.kind == isNull:
		return nil
	case v.kind != isArray:
		t.add(v.path, "is "+v.kind.String()+", not a list")
		return nil
	}
	good := make([]*node, 0, len(v.elems))
	for _, el := range v.elems {
		if el.kind != k {
			t.add(el.path, "is "+el.kind.String()+", not "+k.String())
			continue
		}
		good = append(good, el)
	}
	return good
}

func (t *task) objects(n *node, key string) []*node { return t.elems(n, key, isObject) }

// strings returns a list of strings, nil if it is absent or empty.
func (t *task) strings(n *node, key string) []string {
	var s []string
	for _, el := range t.elems(n, key, isString) {
		s = append(s, el.text)
	}
	return s
}

// check adds the faults of a definition that is not protected, under these
// options.
func (t *task) check(o *Options) {
	for _, name := range sortedKeys(o.named()) {
		if !t.has(name) {
			t.add("", fmt.Sprintf("the option %s names the container %q, which is not in the definition", o.named()[name], name))
		}
	}
	protected := 0
	for _, c := range t.containers {
		if slices.Contains(o.Skip, c.name) {
			continue
		}
		protected++
		t.checkContainer(c)
		c.start, c.argv = t.argv(c, o)
	}
	if protected == 0 {
		t.add(keyContainers, "every container is to be skipped: there is nothing to protect")
	}
	if t.family == "" && o.AppID == "" {
		t.add("family", "missing: the App ID is made of it; give one of your own instead")
	}
}

func (t *task) has(name string) bool {
	return slices.ContainsFunc(t.containers, func(c *container) bool { return c.name == name })
}

// checkContainer refuses what is ours where nothing should be: a later removal
// could not tell whose it is.
func (t *task) checkContainer(c *container) {
	if c.name == Sidecar {
		t.add(c.path+".name", fmt.Sprintf("%q is what the defender's own container is called", Sidecar))
	}
	if len(c.entryPoint) > 0 && strings.HasPrefix(c.entryPoint[0], Dir+"/") {
		t.add(c.path+"."+keyEntryPoint+"[0]", fmt.Sprintf("%q is in the defender's own volume", c.entryPoint[0]))
	}
	for _, key := range []string{keyEnvironment, keySecrets} {
		for _, el := range t.objects(c.node, key) {
			if name := el.get("name").text; ours[name] {
				t.add(el.path, fmt.Sprintf("sets %s, which embedding sets; take it out", name))
			}
		}
	}
	for key, field := range map[string]string{keyVolumesFrom: "sourceContainer", keyDependsOn: "containerName"} {
		for _, el := range t.objects(c.node, key) {
			if el.get(field).text == Sidecar {
				t.add(el.path, fmt.Sprintf("refers to the container %q, which embedding adds; take it out", Sidecar))
			}
		}
	}
}

// argv returns what the Defender of a container starts, and how much of it the
// definition's entryPoint must say.
//
// The platform's rule: a command of the definition replaces the image's CMD,
// an entryPoint of the definition both the image's ENTRYPOINT and its CMD.
func (t *task) argv(c *container, o *Options) (entryPoint, argv []string) {
	entry, hasEntry := o.Entrypoints[c.name]
	cmd, hasCmd := o.Commands[c.name]
	switch {
	case len(c.entryPoint) > 0 && (hasEntry || hasCmd):
		t.add(c.path+"."+keyEntryPoint, fmt.Sprintf("%q has one, so what its image says is not used; leave the options entrypoint and command away", c.name))
	case len(c.command) > 0 && hasCmd:
		t.add(c.path+"."+keyCommand, fmt.Sprintf("%q has one, so its image's CMD is not used; leave the option command away", c.name))
	case len(c.entryPoint) > 0:
		entryPoint = c.entryPoint
	case !hasEntry || len(c.command) == 0 && !hasCmd:
		t.add(c.path, fmt.Sprintf("%q has %s, so what it starts is in its image %q, which is not looked up; %s",
			c.name, lacks(c), c.image, remedy(c)))
	case len(entry)+len(cmd)+len(c.command) == 0:
		t.add(c.path, fmt.Sprintf("%q would start nothing: neither entrypoint nor command has a word", c.name))
	default:
		entryPoint = slices.Concat(entry, cmd)
	}
	return entryPoint, slices.Concat(entryPoint, c.command)
}

func lacks(c *container) string {
	if len(c.command) > 0 {
		return "no entryPoint"
	}
	return "neither entryPoint nor command"
}

func remedy(c *container) string {
	s := fmt.Sprintf(`write it into the definition, or give --entrypoint '%s=["…"]' with the image's ENTRYPOINT, [] if it has none`, c.name)
	if len(c.command) == 0 {
		s += fmt.Sprintf(`, and --command '%s=["…"]' with its CMD`, c.name)
	}
	return s
}

// protect makes the edits.
func (t *task) protect(o *Options) *Report {
	rep := &Report{AppID: o.AppID}
	st := state{Undo: make(map[string]undo), Images: make(map[string]image), Names: o.Images, Skip: o.Skip}
	for _, c := range t.containers {
		if slices.Contains(o.Skip, c.name) {
			rep.Containers = append(rep.Containers, Container{Name: c.name, Image: c.image, Skipped: true})
			rep.Notes = append(rep.Notes, fmt.Sprintf("The container %q is not protected: the option skip says so.", c.name))
			continue
		}
		u := make(undo)
		t.protectContainer(c, o, u)
		if len(u) > 0 {
			st.Undo[c.name] = u
		}
		if len(c.entryPoint) == 0 {
			st.Images[c.name] = image{o.Entrypoints[c.name], o.Commands[c.name]}
		}
		rep.Containers = append(rep.Containers, Container{Name: c.name, Image: c.image, Argv: c.argv})
	}
	t.append(t.list, []any{t.sidecar(o, st)})
	t.notes(o, rep)
	rep.Changed = slices.Compact(slices.Clone(t.changed))
	return rep
}

func (t *task) notes(o *Options, rep *Report) {
	for _, c := range t.containers {
		if o.Console != "" && !slices.Contains(o.Skip, c.name) && t.isTrue(c.get("readonlyRootFilesystem")) && !t.mounts(c, o.dataDir()) {
			rep.Notes = append(rep.Notes, fmt.Sprintf(
				"The container %q may not write %s: what the Defender keeps is in memory. Give it a volume there, or another data directory.", c.name, o.dataDir()))
		}
	}
	if o.Token != "" {
		rep.Notes = append(rep.Notes, "The enrolment token stands in the definition, for everybody to read who may see it; a secret of the platform keeps it.")
	}
	if o.TokenSecret != "" && t.root.get("executionRoleArn").none() {
		rep.Notes = append(rep.Notes, "The definition has no executionRoleArn; the platform needs one, with leave to read the token's secret.")
	}
}

func (t *task) isTrue(n *node) bool { return n != nil && string(t.data[n.start:n.end]) == "true" }

// mounts reports whether a volume is mounted at dir or above it.
func (t *task) mounts(c *container, dir string) bool {
	return slices.ContainsFunc(t.objects(c.node, "mountPoints"), func(el *node) bool {
		at := strings.TrimRight(t.str(el, "containerPath", false), "/")
		return at == dir || strings.HasPrefix(dir, at+"/")
	})
}

func (t *task) protectContainer(c *container, o *Options, u undo) {
	prefix := strs(Program, "run", "--")
	if len(c.entryPoint) > 0 {
		t.prepend(c.get(keyEntryPoint), prefix)
	} else {
		t.set(c.node, keyEntryPoint, append(prefix, strs(c.start...)...), u, keyEntryPoint)
	}
	name := o.Images[c.name]
	if name == "" {
		name = c.image
	}
	variables := list{}
	for _, v := range [][2]string{
		{envConsole, o.Console}, {envToken, o.Token}, {envCA, ifAny(o.CA, caFile)}, {envPolicy, ifAny(o.Policy, policyFile)},
		{envAppID, o.AppID}, {envContainer, c.name}, {envImage, name}, {envDataDir, o.dataDir()}, {envWait, o.wait()},
	} {
		if v[1] != "" {
			variables = append(variables, object{{"name", v[0]}, {"value", v[1]}})
		}
	}
	t.extend(c.node, keyEnvironment, variables, u)
	if o.TokenSecret != "" {
		t.extend(c.node, keySecrets, list{object{{"name", envToken}, {"valueFrom", o.TokenSecret}}}, u)
	}
	t.extend(c.node, keyVolumesFrom, list{object{{"sourceContainer", Sidecar}, {"readOnly", true}}}, u)
	t.extend(c.node, keyDependsOn, list{object{{"containerName", Sidecar}, {"condition", "SUCCESS"}}}, u)
	t.allowTracing(c.node, u)
}

func ifAny(data []byte, name string) string {
	if len(data) == 0 {
		return ""
	}
	return name
}

// allowTracing adds SYS_PTRACE to what the container may do.
func (t *task) allowTracing(c *node, u undo) {
	linux := c.get(keyLinux)
	caps := linux.get(keyCapabilities)
	add := caps.get("add")
	switch {
	case linux.none():
		t.set(c, keyLinux, object{{keyCapabilities, object{{"add", strs(tracing)}}}}, u, keyLinux)
	case caps.none():
		t.set(linux, keyCapabilities, object{{"add", strs(tracing)}}, u, keyLinux+"."+keyCapabilities)
	case add.none():
		t.set(caps, "add", strs(tracing), u, pathAdd)
	case !slices.ContainsFunc(add.elems, func(el *node) bool { return isTracing(el.text) || el.text == "ALL" }):
		u[pathAdd] = string(t.data[add.start:add.end])
		t.append(add, strs(tracing))
	}
}

// extend adds values to a list, making it if need be.
func (t *task) extend(object *node, key string, values list, u undo) {
	if v := object.get(key); !v.none() {
		t.append(v, values)
		return
	}
	t.set(object, key, values, u, key)
}

// set gives a key that says nothing a value, and remembers what was there.
func (t *task) set(object *node, key string, value any, u undo, name string) {
	v := object.get(key)
	if v == nil {
		u[name] = ""
		t.addMember(object, key, value)
		return
	}
	u[name] = string(t.data[v.start:v.end])
	t.replace(v, t.styleIn(object).encode(value))
}

// sidecar returns the container that brings the program.
func (t *task) sidecar(o *Options, st state) object {
	c := object{
		{"name", Sidecar},
		{"image", o.DefenderImage},
		{"essential", false},
		{keyEntryPoint, strs("/defender", "install", Dir)},
	}
	variables := list{}
	for _, v := range [][2]string{{envInstallCA, string(o.CA)}, {envInstallPolicy, string(o.Policy)}} {
		if v[1] != "" {
			variables = append(variables, object{{"name", v[0]}, {"value", v[1]}})
		}
	}
	if len(variables) > 0 {
		c = append(c, pair{keyEnvironment, variables})
	}
	c = append(c, pair{"readonlyRootFilesystem", true})
	if t.root.get("memory").none() {
		// Without a limit for the task every container must have one.
		c = append(c, pair{"memory", 64})
	}
	if log := t.log(); log != nil {
		c = append(c, pair{keyLog, copied(t.data, log)})
	}
	text, err := json.Marshal(st)
	if err != nil {
		panic(err) // maps of strings
	}
	sum := sha256.Sum256(t.data)
	labels := object{}
	if o.Version != "" {
		labels = append(labels, pair{labelVersion, o.Version})
	}
	labels = append(labels, pair{labelHash, hex.EncodeToString(sum[:])}, pair{labelState, string(text)})
	return append(c, pair{"dockerLabels", labels})
}

// log returns a container's logConfiguration for the sidecar to share. A log
// router that is a container of the task is none: it may itself wait for the
// sidecar.
func (t *task) log() *node {
	for _, c := range t.containers {
		if l := c.get(keyLog); !l.none() && l.kind == isObject {
			if driver := l.get("logDriver"); driver != nil && driver.text != "awsfirelens" {
				return l
			}
		}
	}
	return nil
}
