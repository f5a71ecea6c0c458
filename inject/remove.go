package inject

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

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
