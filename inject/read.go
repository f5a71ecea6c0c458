package inject

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
)

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

// isText reports whether n is a plain string of that text.
func isText(n *node, text string) bool {
	return n != nil && n.kind == isString && n.tag == "" && n.text == text
}

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
