package inject

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// state is what a protected definition keeps, as a label of the sidecar, of
// what cannot be seen in it any more.
type state struct {
	Undo   map[string]undo   `json:"undo,omitempty"`   // by container
	Images map[string]image  `json:"images,omitempty"` // likewise
	Names  map[string]string `json:"names,omitempty"`  // Options.Images
	Skip   []string          `json:"skip,omitempty"`
}

// image is what was said about a container's image, where the definition has
// no entryPoint: nil is nothing.
type image struct {
	Entrypoint []string `json:"entrypoint"`
	Command    []string `json:"command"`
}

// undo is the text that stood where embedding has set a value, by its path in
// the container; "" where nothing stood.
type undo map[string]string

// prior is what a protected definition was told when it was protected.
type prior struct {
	env                                    map[string]string // of the containers
	tokenSecret, defenderImage, ca, policy string
	images                                 map[string]image // by container
	names                                  map[string]string
	skipped                                []string
	hash                                   string
	protected                              bool
	changed                                []string
}

// Remove returns the task definition without protection: what [Task] was
// given, with what has been changed by hand since.
func Remove(definition []byte) ([]byte, *Report, error) {
	original, had, err := strip(definition)
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(original)
	rep := &Report{AppID: had.env[envAppID], Changed: had.changed, Exact: !had.protected || hex.EncodeToString(sum[:]) == had.hash}
	t, err := readTask(original)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range t.containers {
		rep.Containers = append(rep.Containers, Container{Name: c.name, Image: c.image, Argv: slices.Concat(c.entryPoint, c.command), Skipped: true})
	}
	switch {
	case !had.protected:
		rep.Notes = append(rep.Notes, "The definition was not protected.")
	case !rep.Exact:
		rep.Notes = append(rep.Notes, "The definition has been changed since it was protected; the changes stay.")
	}
	return original, rep, nil
}

// protected reports whether the container starts the Defender.
func (c *container) protected() bool {
	return len(c.entryPoint) >= 3 && c.entryPoint[0] == Program && c.entryPoint[1] == "run" &&
		slices.Contains(c.entryPoint[2:], "--")
}

// strip takes the protection out, if there is any.
func strip(definition []byte) ([]byte, *prior, error) {
	t, err := readTask(definition)
	if err != nil {
		return nil, nil, err
	}
	had := &prior{env: make(map[string]string), images: make(map[string]image)}
	st := t.removeSidecar(had)
	for _, c := range t.containers {
		if c.protected() {
			had.protected = true
			t.unprotect(c, &st, had)
		}
	}
	if err := t.faults.err(); err != nil {
		return nil, nil, err
	}
	had.changed = slices.Compact(slices.Clone(t.changed))
	return t.bytes(), had, nil
}

// removeSidecar takes the sidecar out and returns what it kept.
func (t *task) removeSidecar(had *prior) state {
	var st state
	i := slices.IndexFunc(t.containers, func(c *container) bool {
		return c.name == Sidecar && len(c.entryPoint) > 1 && c.entryPoint[1] == "install"
	})
	if i < 0 {
		return st
	}
	c := t.containers[i]
	had.protected, had.defenderImage = true, c.image
	labels := t.object(c.node, "dockerLabels")
	if labels != nil {
		had.hash = t.str(labels, labelHash, false)
		if text := t.str(labels, labelState, false); text != "" {
			dec := json.NewDecoder(strings.NewReader(text))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&st); err != nil {
				t.add(join(labels.path, labelState), "is not what embedding wrote: "+err.Error())
			}
		}
	}
	had.names, had.skipped = st.Names, st.Skip
	for _, el := range t.objects(c.node, keyEnvironment) {
		switch el.get("name").text {
		case envInstallCA:
			had.ca = t.str(el, "value", false)
		case envInstallPolicy:
			had.policy = t.str(el, "value", false)
		}
	}
	if len(t.containers) == 1 {
		t.add(keyContainers, "there is only the defender's own container")
		return st
	}
	t.removeElems(t.list, func(n *node) bool { return n == c.node })
	t.containers = slices.Delete(t.containers, i, i+1)
	return st
}

func (t *task) unprotect(c *container, st *state, had *prior) {
	u := st.Undo[c.name]
	drop := make(map[string]bool) // members that were not there
	t.unprotectEntryPoint(c, st, drop, had)
	named := func(key, want string) func(*node) bool {
		return func(el *node) bool { return el.get(key).text == want }
	}
	for _, el := range t.objects(c.node, keyEnvironment) {
		if name := el.get("name").text; ours[name] && had.env[name] == "" {
			had.env[name] = t.str(el, "value", false)
		}
	}
	for _, el := range t.objects(c.node, keySecrets) {
		if el.get("name").text == envToken && had.tokenSecret == "" {
			had.tokenSecret = t.str(el, "valueFrom", false)
		}
	}
	t.shrink(c.node, keyEnvironment, func(el *node) bool { return ours[el.get("name").text] }, u, keyEnvironment, drop)
	t.shrink(c.node, keySecrets, named("name", envToken), u, keySecrets, drop)
	t.shrink(c.node, keyVolumesFrom, named("sourceContainer", Sidecar), u, keyVolumesFrom, drop)
	t.shrink(c.node, keyDependsOn, named("containerName", Sidecar), u, keyDependsOn, drop)
	t.forbidTracing(c.node, u, drop)
	t.removeMembers(c.node, drop)
}

func (t *task) unprotectEntryPoint(c *container, st *state, drop map[string]bool, had *prior) {
	n := c.get(keyEntryPoint)
	end := 2 + slices.Index(c.entryPoint[2:], "--")
	if end > 2 {
		t.add(fmt.Sprintf("%s[2]", n.path), fmt.Sprintf("%q was put in by hand; set it in the container's environment as a DEFENDER_ variable instead", c.entryPoint[2]))
		return
	}
	rest := c.entryPoint[end+1:]
	before, replaced := st.Undo[c.name][keyEntryPoint]
	switch {
	case replaced || len(rest) == 0:
		if img, ok := st.Images[c.name]; ok {
			if !slices.Equal(rest, slices.Concat(img.Entrypoint, img.Command)) {
				t.add(n.path, "has been changed by hand since the container was protected; take the defender out of it, and it is the container's own")
			}
			had.images[c.name] = img
		}
		t.restore(n, before, keyEntryPoint, drop)
	default:
		t.splice(n.path, n.elems[0].start, n.elems[end+1].start, "")
	}
}

// restore puts the text back that stood in the place of n; "" is nothing.
func (t *task) restore(n *node, before, key string, drop map[string]bool) {
	if before == "" {
		drop[key] = true
		return
	}
	if !json.Valid([]byte(before)) {
		t.add(n.path, "what stood here before is kept in the sidecar's label, but is not JSON")
		return
	}
	t.replace(n, before)
}

// shrink takes our elements out of a list. One that then is empty was not
// there, or said nothing.
func (t *task) shrink(object *node, key string, mine func(*node) bool, u undo, name string, drop map[string]bool) {
	l := object.get(key)
	if l.none() {
		return
	}
	switch n := len(slices.DeleteFunc(slices.Clone(l.elems), mine)); {
	case n == len(l.elems):
	case n > 0:
		t.removeElems(l, mine)
	default:
		t.restore(l, u[name], key, drop)
	}
}

// forbidTracing takes SYS_PTRACE out if embedding has put it in.
func (t *task) forbidTracing(c *node, u undo, drop map[string]bool) {
	linux := c.get(keyLinux)
	caps := linux.get(keyCapabilities)
	add := caps.get("add")
	mine := func(el *node) bool { return isTracing(el.text) }
	if !slices.ContainsFunc(addElems(add), mine) {
		return
	}
	only := func(n *node) bool { return len(n.members)+len(n.elems) == 1 }
	inner := make(map[string]bool)
	if before, ok := u[keyLinux]; ok && only(linux) && only(caps) && only(add) {
		t.restore(linux, before, keyLinux, drop)
		return
	}
	_, madeAll := u[keyLinux]
	before, madeCaps := u[keyLinux+"."+keyCapabilities]
	if madeCaps && only(caps) && only(add) {
		t.restore(caps, before, keyCapabilities, inner)
		t.removeMembers(linux, inner)
		return
	}
	before, madeAdd := u[pathAdd]
	switch {
	case !madeAll && !madeCaps && !madeAdd:
	case !only(add):
		t.removeElems(add, mine)
	case madeAdd && !emptyText(before):
		// What else stood here has been taken out since.
		t.replace(add, "[]")
	default:
		t.restore(add, before, "add", inner)
		t.removeMembers(caps, inner)
	}
}

func addElems(n *node) []*node {
	if n == nil {
		return nil
	}
	return n.elems
}

// emptyText reports whether the text of a value says nothing.
func emptyText(text string) bool {
	return text == "" || text == "null" || bytes.Equal(bytes.Join(bytes.Fields([]byte(text)), nil), []byte("[]"))
}
