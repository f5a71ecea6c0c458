package inject

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

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
