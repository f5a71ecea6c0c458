package inject

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// compose is a project of docker compose.
type compose struct{}

func (compose) notations() (json, yaml bool)        { return true, true }
func (compose) entry() (entryPoint, command string) { return "entrypoint", "command" }

// Compose replaces $NAME in every value; $$ is $ itself.
func escapeCompose(s string) string   { return strings.ReplaceAll(s, "$", "$$") }
func unescapeCompose(s string) string { return strings.ReplaceAll(s, "$$", "$") }

func (k compose) groups(d *document, root *node) {
	if root.kind != isObject {
		d.fault(root, "is "+root.kind.String()+", not a compose file")
		return
	}
	if n := root.get("include"); !n.none() {
		d.fault(n, `brings services that cannot be seen here and would be left unprotected; embed what "docker compose config" writes`)
	}
	services := d.object(root, "services")
	if services.none() {
		d.at(d.data, root.start, "services", "missing or empty: there is nothing to protect")
		return
	}
	g := &group{node: root, name: root.word("name")}
	if g.name == "" {
		g.name = "compose"
	}
	for _, m := range services.members {
		s := m.value
		if s.kind != isObject {
			d.fault(s, "is "+s.kind.String()+", not a service")
			continue
		}
		c := k.service(d, m.key, s)
		if m.key == Sidecar && len(c.entryPoint) > 1 && c.entryPoint[1] == "install" {
			g.sidecar, g.kept = c, make(map[string]string)
			for _, l := range s.get("labels").membersOf() {
				g.kept[strings.TrimPrefix(l.key, "appdefender.")] = unescapeCompose(l.value.text)
			}
			for _, n := range c.env {
				n.text = unescapeCompose(n.text)
			}
			continue
		}
		g.containers = append(g.containers, c)
	}
	if len(g.containers) == 0 {
		d.fault(services, "has only the defender's own service")
	}
	d.groups = append(d.groups, g)
}

func (n *node) membersOf() []member {
	if n == nil {
		return nil
	}
	return n.members
}

func (k compose) service(d *document, name string, s *node) *container {
	d.keys(s, "image", "entrypoint", "command", "environment", "volumes", "depends_on", "cap_add", "cap_drop", "secrets", "extends", "build")
	c := &container{node: s, name: name, nameNode: s, image: d.str(s, "image", false), imageNode: s.get("image"), env: make(map[string]*node)}
	if s.get("build") != nil {
		c.imageNode = nil // it is not made yet
	}
	if n := s.get("extends"); n != nil {
		d.fault(n, `takes what it starts from another service; embed what "docker compose config" writes`)
	}
	if strings.HasPrefix(s.word("platform"), "windows") {
		d.fault(s.get("platform"), "is Windows: the defender supervises Linux containers only")
	}
	c.entryPoint, c.noEntryPoint = k.line(d, s, "entrypoint")
	c.command, c.noCommand = k.line(d, s, "command")
	switch env := s.get("environment"); {
	case env == nil || env.kind == isNull:
	case env.kind == isArray:
		for _, el := range env.elems {
			name, value, _ := strings.Cut(el.text, "=")
			copied := *el
			copied.text = value
			c.env[name] = &copied
		}
	case env.kind == isObject:
		for _, m := range env.members {
			c.env[m.key] = m.value
		}
	default:
		d.fault(env, "is "+env.kind.String()+", not a list or mapping of variables")
	}
	if n := c.env[envTokenFile]; n != nil {
		c.tokenSecret = path.Base(n.text)
	}
	return c
}

// line returns the words of what a service starts, and whether it says that
// there are none.
func (compose) line(d *document, s *node, key string) (words []string, none bool) {
	n := s.get(key)
	if n != nil && n.kind == isString {
		return splitWords(n.text), strings.TrimSpace(n.text) == ""
	}
	words = d.words(s, key)
	return words, n != nil && n.kind == isArray && len(words) == 0
}

// splitWords splits a line as a shell would, as compose does.
func splitWords(s string) []string {
	var words []string
	var word strings.Builder
	quote, open := rune(0), false
	escaped := false
	for _, r := range s {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, open = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote, open = r, true
		case quote == 0 && strings.ContainsRune(" \t\r\n", r):
			if open {
				words = append(words, word.String())
				word.Reset()
				open = false
			}
		default:
			word.WriteRune(r)
			open = true
		}
	}
	if open {
		words = append(words, word.String())
	}
	return words
}

func (compose) check(d *document, g *group, c *container, o *Options) {
	if v := c.get("volumes"); v != nil {
		for _, el := range v.elems {
			at := el.word("target")
			if el.kind == isString {
				parts := strings.Split(el.text, ":")
				at = parts[min(1, len(parts)-1)]
			}
			if at = strings.TrimRight(at, "/"); at == Dir || strings.HasPrefix(at, Dir+"/") {
				d.fault(el, fmt.Sprintf("%q is where the defender's own volume goes", at))
			}
		}
	}
	d.checkDropped(c.get("cap_drop"), o)
	if o.TokenSecret != "" && g.get("secrets", o.TokenSecret) == nil {
		d.add("", fmt.Sprintf("the token's secret %q is none of the project's secrets; add it there, with the file that holds the token", o.TokenSecret))
	}
}

func (k compose) container(d *document, g *group, c *container, o *Options) []part {
	env := part{at: c.node, path: []string{"environment"}, keys: sortedKeys(ours)}
	vars := d.variables(g, c, o)
	if o.TokenSecret != "" {
		vars = append(vars, pair{envTokenFile, "/run/secrets/" + o.TokenSecret})
	}
	for _, v := range vars {
		if v.key != envImage || v.value != c.image { // an image may have variables, which are meant
			v.value = escapeCompose(v.value.(string))
		}
		env.pairs = append(env.pairs, v)
		env.list = append(env.list, v.key+"="+v.value.(string))
	}
	if e := c.get("environment"); e != nil && e.kind == isArray && len(e.elems) > 0 {
		env.pairs = nil
		env.mine = func(el *node) bool {
			name, _, _ := strings.Cut(el.text, "=")
			return ours[name]
		}
	} else {
		env.list = nil
	}
	secrets := part{at: c.node, path: []string{"secrets"}, common: true, mine: func(el *node) bool {
		return c.tokenSecret != "" && el.text == c.tokenSecret || o.TokenSecret != "" && el.text == o.TokenSecret
	}}
	if o.TokenSecret != "" {
		secrets.list = strs(o.TokenSecret)
	}
	return []part{
		env, secrets,
		{at: c.node, path: []string{"volumes"}, mine: func(el *node) bool { return el.text == volume+":"+Dir+":ro" }, list: strs(volume + ":" + Dir + ":ro")},
		{
			at: c.node, path: []string{"depends_on"}, keys: []string{Sidecar}, convert: true,
			pairs: object{{Sidecar, object{{"condition", "service_completed_successfully"}}}},
		},
		tracingPart(c, o, "cap_add"),
	}
}

func (compose) group(_ *document, g *group, o *Options, kept [][2]string) []part {
	service := part{at: g.node, path: []string{"services"}, keys: []string{Sidecar}}
	volumes := part{at: g.node, path: []string{"volumes"}, keys: []string{volume}, pairs: object{{volume, object{}}}}
	if kept != nil {
		s := object{
			{"image", o.DefenderImage},
			{"entrypoint", strs("/defender", "install", Dir)},
			{"volumes", strs(volume + ":" + Dir)},
		}
		var env object
		for _, v := range o.installs() {
			env = append(env, pair{v.key, escapeCompose(v.value.(string))})
		}
		if env != nil {
			s = append(s, pair{"environment", env})
		}
		labels := object{}
		for _, k := range kept {
			labels = append(labels, pair{"appdefender." + k[0], escapeCompose(k[1])})
		}
		service.pairs = object{{Sidecar, append(s, pair{"read_only", true}, pair{"network_mode", "none"}, pair{"restart", "no"}, pair{"labels", labels})}}
	}
	return []part{service, volumes}
}

func (compose) notes(d *document, g *group, o *Options, rep *Report) {
	for _, c := range g.containers {
		if readOnly := c.get("read_only"); o.Console != "" && !o.skips(g, c) && readOnly != nil && d.editor.text(readOnly) == "true" {
			rep.note(readOnlyNote(c.name, o.dataDir()))
		}
	}
}

// convertDepends makes a mapping of a list of services to wait for, as the
// other form of depends_on does it.
func (d *document) convertDepends(v *node, p part, u undo) {
	if !d.mayChange(v) {
		return
	}
	if v.block && d.column(v.start) <= d.column(keyStart(p.at, p.path[0])) {
		d.fault(v, `is a list that is not indented below its key, so that a mapping cannot take its place; indent it, or write it as a mapping`)
		return
	}
	var m object
	for _, el := range v.elems {
		m = append(m, pair{el.text, object{{"condition", "service_started"}}})
	}
	u[p.path[0]] = d.editor.text(v)
	d.splice(v.path, v.start, v.end, flow.write(append(m, p.pairs...)))
}

func keyStart(o *node, key string) int {
	i := slices.IndexFunc(o.members, func(m member) bool { return m.key == key })
	return o.members[i].start
}

// sameDepends reports whether a mapping waits for what the list in text does.
func sameDepends(m *node, text string, ours []string) bool {
	var f faults
	docs := parseYAML([]byte(text), &f)
	if len(f) > 0 || len(docs) != 1 || docs[0] == nil || docs[0].kind != isArray {
		return false
	}
	var had, have []string
	for _, el := range docs[0].elems {
		had = append(had, el.text)
	}
	for _, e := range m.members {
		switch {
		case slices.Contains(ours, e.key):
		case len(e.value.members) == 1 && e.value.word("condition") == "service_started":
			have = append(have, e.key)
		default:
			return false
		}
	}
	return slices.Equal(had, have)
}
