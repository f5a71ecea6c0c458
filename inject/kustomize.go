package inject

import (
	"bytes"
	"fmt"
	"strings"
)

// Kustomize returns, in place of protected manifests, strategic merge patches
// that make protected ones of them: a document for each that has pods. What is
// in a patch is what [Embed] would have changed.
func Kustomize(definition []byte, o Options) ([]byte, *Report, error) {
	out, rep, err := Embed(Kubernetes, definition, o)
	if err != nil {
		return nil, nil, err
	}
	d, err := readTree(Kubernetes, bytes.TrimPrefix(out, byteOrderMark))
	if err != nil {
		return nil, nil, err
	}
	protected := make(map[string]bool)
	for _, c := range rep.Containers {
		protected[c.Group+"/"+c.Name] = !c.Skipped
	}
	var patches []string
	for _, g := range d.groups {
		spec := object{}
		for _, key := range []string{"initContainers", "containers"} {
			l := list{}
			for _, el := range g.get(key).elemsOf() {
				switch {
				case isSidecar(el):
					l = append(l, d.copied(el))
				case protected[g.name+"/"+el.word("name")]:
					l = append(l, d.patchOf(el))
				}
			}
			if len(l) > 0 {
				spec = append(spec, pair{key, l})
			}
		}
		spec = append(spec, pair{"volumes", list{object{{"name", volume}, {"emptyDir", object{}}}}})
		root, path := d.owner(g)
		if root == nil {
			return nil, nil, fmt.Errorf("%s: a pod of a list cannot be patched by its name; write it as a document", g.path)
		}
		var value any = spec
		for i := len(path) - 1; i >= 0; i-- {
			value = object{{path[i], value}}
		}
		patch := object{}
		for _, key := range []string{"apiVersion", "kind"} {
			patch = append(patch, pair{key, root.word(key)})
		}
		meta := object{{"name", root.word("metadata", "name")}}
		if ns := root.word("metadata", "namespace"); ns != "" {
			meta = append(meta, pair{"namespace", ns})
		}
		patch = append(append(patch, pair{"metadata", meta}), value.(object)...)
		fresh := &editor{yaml: true}
		patches = append(patches, fresh.blockText(patch, 0)+"\n")
	}
	return []byte(strings.Join(patches, "---\n")), rep, nil
}

func (n *node) elemsOf() []*node {
	if n == nil {
		return nil
	}
	return n.elems
}

// owner returns the document that a pod is in, and the way to it.
func (d *document) owner(g *group) (*node, []string) {
	for _, root := range d.roots {
		if root == nil {
			continue
		}
		path, ok := podPaths[root.word("kind")]
		if !ok {
			path = []string{"spec", "template", "spec"}
		}
		if root.get(path...) == g.node && root.word("metadata", "name") != "" {
			return root, path
		}
	}
	return nil, nil
}

// patchOf returns what of a protected container embedding has set. Lists that
// a patch replaces are there with all that is in them.
func (d *document) patchOf(c *node) object {
	p := object{{"name", c.word("name")}, {"command", d.copied(c.get("command"))}}
	env := list{}
	for _, el := range c.get("env").elemsOf() {
		if ours[el.word("name")] {
			env = append(env, d.copied(el))
		}
	}
	p = append(p, pair{"env", env}, pair{"volumeMounts", list{object{{"name", volume}, {"mountPath", Dir}, {"readOnly", true}}}})
	if add := c.get("securityContext", "capabilities", "add"); add != nil {
		p = append(p, pair{"securityContext", object{{"capabilities", object{{"add", d.copied(add)}}}}})
	}
	return p
}
