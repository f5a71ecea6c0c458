package inject

import (
	"fmt"
	"strings"
)

// The sidecar of a platform without labels for containers keeps in variables
// what embedding needs to know later.
const envKept = "DEFENDER_EMBED_"

func keptEnv(key string) string {
	return envKept + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
}

// keptOf returns what a sidecar keeps in its variables.
func keptOf(env map[string]*node, unescape func(string) string) map[string]string {
	kept := make(map[string]string)
	for _, key := range []string{keepVersion, keepHash, keepState, keepEnvironment} {
		if n := env[keptEnv(key)]; n != nil {
			kept[key] = unescape(n.text)
		}
	}
	return kept
}

// volume is what the Defender's is called.
const volume = "appdefender"

func isSidecar(el *node) bool { return isText(el.get("name"), Sidecar) }

// kubernetes is manifests of pods, or of what makes pods.
type kubernetes struct{}

func (kubernetes) notations() (json, yaml bool)        { return true, true }
func (kubernetes) entry() (entryPoint, command string) { return "command", "args" }

// podPaths says where the kinds have their pods. Any other kind with one where
// a Deployment has it is like one.
var podPaths = map[string][]string{
	"Pod":         {"spec"},
	"PodTemplate": {"template", "spec"},
	"CronJob":     {"spec", "jobTemplate", "spec", "template", "spec"},
}

func (k kubernetes) groups(d *document, root *node) {
	if root.kind != isObject {
		d.fault(root, "is "+root.kind.String()+", not a manifest")
		return
	}
	kind := d.str(root, "kind", true)
	if items := root.get("items"); strings.HasSuffix(kind, "List") && items != nil {
		for _, el := range items.elems {
			k.groups(d, el)
		}
		return
	}
	path, ok := podPaths[kind]
	if !ok {
		path = []string{"spec", "template", "spec"}
	}
	pod := root.get(path...)
	if pod == nil || pod.get("containers") == nil {
		// Something else, unless containers are hidden in it.
		root.walk(func(n *node) {
			if list := n.get("containers"); list != nil && len(list.elems) > 0 && list.elems[0].get("image") != nil && len(d.faults) == 0 {
				d.fault(list, fmt.Sprintf("are containers of a kind, %q, that is not understood, and would be left unprotected", kind))
			}
		})
		return
	}
	name := root.word("metadata", "name")
	if name == "" {
		name = strings.TrimRight(root.word("metadata", "generateName"), "-")
	}
	k.pod(d, pod, name)
}

func (k kubernetes) pod(d *document, pod *node, name string) {
	g := &group{node: pod, name: name}
	d.keys(pod, "containers", "initContainers", "volumes")
	if os := pod.word("os", "name"); os == "windows" || pod.word("nodeSelector", "kubernetes.io/os") == "windows" {
		d.fault(pod, "runs on Windows: the defender supervises Linux containers only")
	}
	for _, list := range []string{"initContainers", "containers"} {
		for _, el := range d.objects(pod, list) {
			c := &container{
				node: el, name: d.str(el, "name", true), image: d.str(el, "image", true), nameNode: el.get("name"), imageNode: el.get("image"),
				entryPoint: d.words(el, "command"), command: d.words(el, "args"), env: make(map[string]*node),
			}
			d.keys(el, "name", "image", "command", "args", "env", "volumeMounts", "securityContext")
			d.readEnv(el, "env", "name", "value", c.env)
			if n := c.env[envToken].get("valueFrom", "secretKeyRef"); n != nil {
				c.tokenSecret = n.word("name") + "/" + n.word("key")
			}
			if list == "initContainers" && isSidecar(el) && len(c.entryPoint) > 1 && c.entryPoint[1] == "install" {
				g.sidecar, g.kept = c, keptOf(c.env, unescapeKube)
				for _, name := range []string{envInstallCA, envInstallPolicy} {
					if n := c.env[name]; n != nil {
						n.text = unescapeKube(n.text)
					}
				}
				continue
			}
			g.containers = append(g.containers, c)
		}
	}
	if len(g.containers) == 0 {
		d.fault(pod, "has no container: there is nothing to protect")
	}
	d.groups = append(d.groups, g)
}

// Kubernetes replaces $(NAME) in the values of variables; $$( is $( itself.
func escapeKube(s string) string   { return strings.ReplaceAll(s, "$(", "$$(") }
func unescapeKube(s string) string { return strings.ReplaceAll(s, "$$(", "$(") }

func (kubernetes) check(d *document, _ *group, c *container, o *Options) {
	for _, el := range d.objects(c.node, "volumeMounts") {
		d.checkMount(el, "mountPath")
		if isText(el.get("name"), volume) {
			d.fault(el, fmt.Sprintf("mounts the volume %q, which embedding adds; take it out", volume))
		}
	}
	d.checkDropped(c.get("securityContext", "capabilities", "drop"), o)
}

// envOf returns the part of a container's variables.
func (d *document) envOf(g *group, c *container, o *Options, key string) part {
	p := part{at: c.node, path: []string{key}, mine: func(el *node) bool { return ours[el.word("name")] }}
	for _, v := range d.variables(g, c, o) {
		value := v.value
		if s, ok := value.(string); ok {
			value = escapeKube(s)
		}
		p.list = append(p.list, object{{"name", v.key}, {"value", value}})
	}
	return p
}

func mountPart(c *container) part {
	return part{
		at: c.node, path: []string{"volumeMounts"}, mine: func(el *node) bool { return isText(el.get("name"), volume) },
		list: list{object{{"name", volume}, {"mountPath", Dir}, {"readOnly", true}}},
	}
}

// tracingPart adds the capability to the list at path.
func tracingPart(c *container, o *Options, path ...string) part {
	p := part{at: c.node, path: path, mine: mayTrace, common: true}
	if !o.NoTracing {
		p.list = strs(tracing)
	}
	return p
}

func (kubernetes) container(d *document, g *group, c *container, o *Options) []part {
	env := d.envOf(g, c, o, "env")
	if o.TokenSecret != "" {
		name, key, ok := strings.Cut(o.TokenSecret, "/")
		if !ok {
			key = "token"
		}
		env.list = append(env.list, object{{"name", envToken}, {"valueFrom", object{{"secretKeyRef", object{{"name", name}, {"key", key}}}}}})
	}
	return []part{env, mountPart(c), tracingPart(c, o, "securityContext", "capabilities", "add")}
}

// sidecarEnv returns the variables of the sidecar.
func sidecarEnv(o *Options, kept [][2]string) list {
	var variables list
	for _, v := range o.installs() {
		variables = append(variables, object{{"name", v.key}, {"value", escapeKube(v.value.(string))}})
	}
	for _, k := range kept {
		variables = append(variables, object{{"name", keptEnv(k[0])}, {"value", escapeKube(k[1])}})
	}
	return variables
}

func volumePart(g *group) part {
	return part{
		at: g.node, path: []string{"volumes"}, mine: func(el *node) bool { return isText(el.get("name"), volume) },
		list: list{object{{"name", volume}, {"emptyDir", object{}}}},
	}
}

func (kubernetes) group(_ *document, g *group, o *Options, kept [][2]string) []part {
	init := part{at: g.node, path: []string{"initContainers"}, first: true, mine: func(el *node) bool { return g.sidecar != nil && el == g.sidecar.node }}
	if kept != nil {
		init.list = list{object{
			{"name", Sidecar},
			{"image", o.DefenderImage},
			{"command", strs("/defender", "install", Dir)},
			{"env", sidecarEnv(o, kept)},
			{"volumeMounts", list{object{{"name", volume}, {"mountPath", Dir}}}},
			{"securityContext", object{
				{"readOnlyRootFilesystem", true},
				{"allowPrivilegeEscalation", false},
				{"capabilities", object{{"drop", strs("ALL")}}},
			}},
		}}
	}
	return []part{init, volumePart(g)}
}

func (kubernetes) notes(d *document, g *group, o *Options, rep *Report) {
	for _, c := range g.containers {
		readOnly := c.get("securityContext", "readOnlyRootFilesystem")
		if o.Console != "" && !o.skips(g, c) && readOnly != nil &&
			d.editor.text(readOnly) == "true" && !d.mounts(d.objects(c.node, "volumeMounts"), "mountPath", o.dataDir()) {
			rep.note(readOnlyNote(c.name, o.dataDir()))
		}
	}
}

// azure is a container group: in YAML by itself, or the resources of that type
// in an ARM template.
type azure struct{}

const azureType = "Microsoft.ContainerInstance/containerGroups"

func (azure) notations() (json, yaml bool)        { return true, true }
func (azure) entry() (entryPoint, command string) { return "command", "" }

func (a azure) groups(d *document, root *node) {
	if root.kind != isObject {
		d.fault(root, "is "+root.kind.String()+", not a container group")
		return
	}
	if root.get("resources") == nil {
		a.resource(d, root)
		return
	}
	// Templates have resources in resources, and templates in them.
	root.walk(func(n *node) {
		if n != root && strings.EqualFold(n.word("type"), azureType) {
			a.resource(d, n)
		}
	})
}

func (a azure) resource(d *document, n *node) {
	properties := n.get("properties")
	if properties == nil || properties.get("containers") == nil {
		d.fault(n, "has no properties.containers: it is no container group")
		return
	}
	g := &group{node: properties, name: n.word("name")}
	if expression(g.name) {
		g.name = "container-group"
	}
	if os := properties.get("osType"); os != nil && !strings.EqualFold(os.text, "Linux") && !expression(os.text) {
		d.fault(os, fmt.Sprintf("%q is not Linux: the defender supervises Linux containers only", os.text))
	}
	for _, list := range []string{"initContainers", "containers"} {
		if l := properties.get(list); l != nil && l.kind != isArray && l.kind != isNull {
			d.fault(l, "is computed, so that its containers cannot be seen and would be left unprotected; write it out")
			return
		}
		for _, el := range d.objects(properties, list) {
			p := d.object(el, "properties")
			if p == nil {
				d.fault(el, "has no properties")
				continue
			}
			c := &container{
				node: p, name: d.str(el, "name", true), image: d.str(p, "image", true), nameNode: el.get("name"), imageNode: p.get("image"),
				entryPoint: d.words(p, "command"), env: make(map[string]*node),
			}
			d.keys(p, "image", "command", "environmentVariables", "volumeMounts")
			d.readEnv(p, "environmentVariables", "name", "value", c.env)
			if expression(c.image) {
				c.imageNode = nil
			}
			if n := c.env[envToken].get("secureValue"); n != nil {
				c.env[envToken] = n
				if expression(n.text) {
					c.tokenSecret = n.text
				}
			}
			if list == "initContainers" && isSidecar(el) && len(c.entryPoint) > 1 && c.entryPoint[1] == "install" {
				c.node = el // what is removed
				g.sidecar, g.kept = c, keptOf(c.env, func(s string) string { return s })
				continue
			}
			g.containers = append(g.containers, c)
		}
	}
	if len(g.containers) == 0 {
		d.fault(properties, "has no container: there is nothing to protect")
	}
	d.groups = append(d.groups, g)
}

// expression reports whether an ARM template computes a text.
func expression(s string) bool { return strings.HasPrefix(s, "[") && !strings.HasPrefix(s, "[[") }

func (azure) check(d *document, _ *group, c *container, o *Options) {
	for _, el := range d.objects(c.node, "volumeMounts") {
		d.checkMount(el, "mountPath")
	}
	if o.TokenSecret != "" && o.TokenSecret != o.Token && !expression(o.TokenSecret) {
		d.add("", "the platform has no secrets that variables could be taken from: give the token as a file or, in a template, as an expression such as [parameters('token')]")
	}
}

func (azure) container(d *document, g *group, c *container, o *Options) []part {
	env := d.envOf(g, c, o, "environmentVariables")
	for i := range env.list {
		// $( is nothing special here, and a token is not shown.
		v := env.list[i].(object)
		if s, ok := v[1].value.(string); ok {
			v[1].value = unescapeKube(s)
		}
		if v[0].value == envToken {
			v[1].key = "secureValue"
		}
	}
	if o.TokenSecret != "" {
		env.list = append(env.list, object{{"name", envToken}, {"secureValue", o.TokenSecret}})
	}
	return []part{env, mountPart(c)}
}

func (azure) group(_ *document, g *group, o *Options, kept [][2]string) []part {
	init := part{at: g.node, path: []string{"initContainers"}, first: true, mine: func(el *node) bool { return g.sidecar != nil && el == g.sidecar.node }}
	if kept != nil {
		variables := sidecarEnv(o, kept)
		for _, v := range variables {
			v.(object)[1].value = unescapeKube(v.(object)[1].value.(string))
		}
		init.list = list{object{{"name", Sidecar}, {"properties", object{
			{"image", o.DefenderImage},
			{"command", strs("/defender", "install", Dir)},
			{"environmentVariables", variables},
			{"volumeMounts", list{object{{"name", volume}, {"mountPath", Dir}}}},
		}}}}
	}
	return []part{init, volumePart(g)}
}

func (azure) notes(*document, *group, *Options, *Report) {}
