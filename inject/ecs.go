package inject

import (
	"fmt"
	"slices"
	"strings"
)

// ecs is a task definition: as RegisterTaskDefinition takes it or, pascal, as
// a resource of CloudFormation.
type ecs struct{ pascal bool }

// key returns a key in the notation's spelling.
func (e ecs) key(s string) string {
	if e.pascal {
		return strings.ToUpper(s[:1]) + s[1:]
	}
	return s
}

func (e ecs) path(keys ...string) []string {
	for i := range keys {
		keys[i] = e.key(keys[i])
	}
	return keys
}

func (e ecs) object(pairs ...pair) object {
	for i := range pairs {
		pairs[i].key = e.key(pairs[i].key)
	}
	return pairs
}

func (e ecs) notations() (json, yaml bool) { return true, e.pascal }

func (e ecs) entry() (entryPoint, command string) { return e.key("entryPoint"), e.key("command") }

const (
	resourceType = "AWS::ECS::TaskDefinition"
	containers   = "containerDefinitions"
)

func (e ecs) groups(d *document, root *node) {
	if root.kind != isObject {
		d.fault(root, "is "+root.kind.String()+", not a task definition")
		return
	}
	if e.pascal {
		e.resources(d, root)
		return
	}
	switch {
	case root.get(containers) == nil && root.get("taskDefinition") != nil:
		d.fault(root.get("taskDefinition"), `is what "describe-task-definition" wraps a definition in; give the object inside`)
		return
	case root.get("ContainerDefinitions") != nil || root.get("Properties") != nil || root.get("Resources") != nil:
		d.fault(root, "is CloudFormation, not a task definition; embed it as cloudformation")
		return
	}
	e.task(d, root, nil)
}

// resources finds the task definitions of a template, or of what is one
// resource.
func (e ecs) resources(d *document, root *node) {
	switch {
	case root.get("ContainerDefinitions") != nil:
		e.task(d, root, nil)
		return
	case root.get("containerDefinitions") != nil:
		d.fault(root, "is a task definition, not CloudFormation; embed it as task-definition")
		return
	case isText(root.get("Type"), resourceType):
		e.resource(d, root, "")
		return
	}
	all := d.objectAt(root, "Resources")
	if all == nil {
		d.fault(root, "is neither a template with Resources nor a resource of Type "+resourceType)
		return
	}
	d.seen(root)
	for _, m := range all.members {
		if strings.HasPrefix(m.key, "Fn::ForEach::") {
			if mayMakeTasks(m.value) {
				d.fault(m.value, "makes task definitions by "+m.key+", which is not understood; write them out, or embed what it makes")
			}
			continue
		}
		d.unseen(m)
		if m.value.kind == isObject && isText(m.value.get("Type"), resourceType) {
			e.resource(d, m.value, m.key)
		}
	}
	if len(d.groups) == 0 && len(d.faults) == 0 {
		d.fault(all, "has no resource of Type "+resourceType)
	}
}

// seen refuses a key of an object that the platform exchanges for what it
// makes or takes from elsewhere: that may be a container, or what one starts.
func (d *document) seen(n *node) {
	for _, m := range n.members {
		d.unseen(m)
	}
}

func (d *document) unseen(m member) {
	if strings.HasPrefix(m.key, "Fn::") {
		d.at(d.data, m.start, m.value.path, `puts in what cannot be seen here; write it out, or embed what it makes ("aws cloudformation get-template --template-stage Processed" prints it)`)
	}
}

// mayMakeTasks reports whether a loop makes task definitions; a type may be put
// together by the loop, too.
func mayMakeTasks(loop *node) bool {
	found := false
	loop.walk(func(n *node) {
		if t := n.get("Type"); t != nil && (t.text == resourceType || t.intrinsic() || strings.ContainsAny(t.text, "$&")) {
			found = true
		}
	})
	return found
}

// objectAt returns an object that is written out, or nil without a fault.
func (d *document) objectAt(n *node, key string) *node {
	if v := n.get(key); v != nil && v.kind == isObject && v.tag == "" {
		return v
	}
	return nil
}

func (e ecs) resource(d *document, n *node, id string) {
	properties := d.objectAt(n, "Properties")
	if properties == nil {
		d.fault(n, "has no Properties that are written out")
		return
	}
	d.seen(n)
	e.task(d, properties, &id)
}

// task reads a task definition; id is that of the template's resource.
func (e ecs) task(d *document, n *node, id *string) {
	d.keys(n, e.path(containers, "family", "runtimePlatform", "executionRoleArn", "memory", "requiresCompatibilities")...)
	g := &group{node: n, name: d.str(n, e.key("family"), false)}
	if id != nil && (g.name == "" || n.get(e.key("family")).intrinsic()) {
		g.name = *id
	}
	if e.pascal {
		d.seen(n)
	}
	e.platform(d, n)
	list := n.get(e.key(containers))
	switch {
	case list.none():
		d.at(d.data, n.start, join(n.path, e.key(containers)), "missing or empty: there is nothing to protect")
		return
	case list.intrinsic():
		d.fault(list, "is computed by the platform, so that its containers cannot be seen; write it out")
		return
	case list.kind != isArray:
		d.fault(list, "is "+list.kind.String()+", not a list")
		return
	}
	for _, el := range list.elems {
		if el.kind != isObject || el.intrinsic() {
			d.fault(el, "is no container that can be seen, and would be left unprotected; write it out")
			continue
		}
		c := e.read(d, el)
		if entry := c.entryPoint; c.name == Sidecar && len(entry) > 1 && entry[1] == "install" {
			g.sidecar = c
			g.kept = make(map[string]string)
			if labels := d.object(el, e.key("dockerLabels")); labels != nil {
				for _, m := range labels.members {
					g.kept[strings.TrimPrefix(m.key, "appdefender.")] = m.value.text
				}
			}
			continue
		}
		g.containers = append(g.containers, c)
	}
	if len(g.containers) == 0 {
		d.fault(list, "has only the defender's own container")
	}
	d.groups = append(d.groups, g)
}

// platform refuses what a Linux program cannot protect, or Fargate not run.
func (e ecs) platform(d *document, n *node) {
	if p := d.object(n, e.key("runtimePlatform")); p != nil {
		d.keys(p, e.path("operatingSystemFamily", "cpuArchitecture")...)
		if os := d.str(p, e.key("operatingSystemFamily"), false); os != "" && os != "LINUX" && !p.get(e.key("operatingSystemFamily")).intrinsic() {
			d.fault(p.get(e.key("operatingSystemFamily")), fmt.Sprintf("%q is not LINUX: the defender supervises Linux containers only", os))
		}
		if arch := d.str(p, e.key("cpuArchitecture"), false); arch != "" && arch != "X86_64" && arch != "ARM64" && !p.get(e.key("cpuArchitecture")).intrinsic() {
			d.fault(p.get(e.key("cpuArchitecture")), fmt.Sprintf("there is no defender for %q", arch))
		}
	}
	compat := n.get(e.key("requiresCompatibilities"))
	if compat.none() || compat.kind != isArray {
		return
	}
	for _, el := range compat.elems {
		if el.kind != isString || el.intrinsic() || el.text == "FARGATE" || el.text == "MANAGED_INSTANCES" {
			return
		}
	}
	d.fault(compat, "is without FARGATE: on machines of your own a defender of the host sees more; add FARGATE if the task is to run there")
}

func (e ecs) read(d *document, n *node) *container {
	key := e.key
	d.keys(n, e.path("name", "image", "entryPoint", "command", "environment", "secrets", "linuxParameters", "volumesFrom",
		"dependsOn", "logConfiguration", "mountPoints", "healthCheck")...)
	if e.pascal {
		d.seen(n)
	}
	c := &container{
		node: n, name: d.str(n, key("name"), true), image: d.str(n, key("image"), true),
		nameNode: n.get(key("name")), imageNode: n.get(key("image")),
		entryPoint: d.words(n, key("entryPoint")), command: d.words(n, key("command")),
		env: make(map[string]*node),
	}
	d.readEnv(n, key("environment"), key("name"), key("value"), c.env)
	for _, el := range d.objects(n, key("secrets")) {
		d.keys(el, e.path("name", "valueFrom")...)
		name := d.str(el, key("name"), true)
		from := el.get(key("valueFrom"))
		c.env[name] = el
		if name == envToken && from != nil {
			c.tokenSecret = from.text
			if from.intrinsic() {
				c.tokenSecret = d.editor.text(from)
			}
		}
	}
	for list, field := range map[string]string{"volumesFrom": "sourceContainer", "dependsOn": "containerName"} {
		for _, el := range d.objects(n, key(list)) {
			d.keys(el, key(field))
			d.str(el, key(field), true)
		}
	}
	return c
}

func (e ecs) check(d *document, _ *group, c *container, o *Options) {
	key := e.key
	for list, field := range map[string]string{"volumesFrom": "sourceContainer", "dependsOn": "containerName"} {
		for _, el := range d.objects(c.node, key(list)) {
			if isText(el.get(key(field)), Sidecar) {
				d.fault(el, fmt.Sprintf("refers to the container %q, which embedding adds; take it out", Sidecar))
			}
		}
	}
	for _, el := range d.objects(c.node, key("mountPoints")) {
		d.keys(el, key("containerPath"))
		d.checkMount(el, key("containerPath"))
	}
	d.checkDropped(c.get(key("linuxParameters"), key("capabilities"), key("drop")), o)
}

// checkMount refuses a volume where the Defender's goes.
func (d *document) checkMount(el *node, key string) {
	at := strings.TrimRight(d.str(el, key, false), "/")
	if at == Dir || strings.HasPrefix(at, Dir+"/") || at != "" && strings.HasPrefix(Dir, at+"/") && at != "/var" && at != "/var/lib" {
		d.fault(el.get(key), fmt.Sprintf("%q is where the defender's own volume goes", at))
	}
}

// checkDropped refuses a list of capabilities to drop that names ours.
func (d *document) checkDropped(list *node, o *Options) {
	if list == nil || o.NoTracing {
		return
	}
	for _, el := range list.elems {
		if isTracing(el.text) {
			d.fault(el, fmt.Sprintf("drops %s, which the defender needs; it takes it from the application itself", tracing))
		}
	}
}

func (e ecs) container(d *document, g *group, c *container, o *Options) []part {
	key := e.key
	env := part{at: c.node, path: e.path("environment"), mine: func(el *node) bool { return ours[el.word(key("name"))] }}
	for _, v := range d.variables(g, c, o) {
		env.list = append(env.list, e.object(pair{"name", v.key}, pair{"value", v.value}))
	}
	secrets := part{at: c.node, path: e.path("secrets"), mine: func(el *node) bool { return isText(el.get(key("name")), envToken) }}
	if o.TokenSecret != "" {
		secrets.list = list{e.object(pair{"name", envToken}, pair{"valueFrom", e.secret(o.TokenSecret)})}
	}
	return []part{
		env, secrets,
		{
			at: c.node, path: e.path("volumesFrom"), mine: func(el *node) bool { return isText(el.get(key("sourceContainer")), Sidecar) },
			list: list{e.object(pair{"sourceContainer", Sidecar}, pair{"readOnly", true})},
		}, {
			at: c.node, path: e.path("dependsOn"), mine: func(el *node) bool { return isText(el.get(key("containerName")), Sidecar) },
			list: list{e.object(pair{"containerName", Sidecar}, pair{"condition", "SUCCESS"})},
		},
		tracingPart(c, o, e.path("linuxParameters", "capabilities", "add")...),
		{
			at: c.node, path: e.path("healthCheck"), keys: e.path("command", "interval", "timeout", "retries", "startPeriod"),
			absent: e.object(pair{"command", strs("CMD", Program, "healthcheck")}, pair{"interval", 30}, pair{"timeout", 5},
				pair{"retries", 3}, pair{"startPeriod", 60}), common: true,
		},
	}
}

// secret is a secret's name or, in a template, what the platform computes it
// from.
func (e ecs) secret(s string) any {
	if e.pascal && (strings.HasPrefix(s, "!") || strings.HasPrefix(s, "{")) {
		return raw(s)
	}
	return s
}

func (e ecs) group(d *document, g *group, o *Options, kept [][2]string) []part {
	key := e.key
	p := part{at: g.node, path: e.path(containers), mine: func(el *node) bool { return g.sidecar != nil && el == g.sidecar.node }}
	if kept == nil {
		return []part{p}
	}
	c := e.object(
		pair{"name", Sidecar},
		pair{"image", o.DefenderImage},
		pair{"essential", false},
		pair{"entryPoint", strs("/defender", "install", Dir)},
	)
	variables := list{}
	for _, v := range o.installs() {
		variables = append(variables, e.object(pair{"name", v.key}, pair{"value", v.value}))
	}
	if len(variables) > 0 {
		c = append(c, pair{key("environment"), variables})
	}
	c = append(c, pair{key("readonlyRootFilesystem"), true})
	if g.get(key("memory")).none() {
		// Without a limit for the task every container must have one.
		c = append(c, pair{key("memory"), 64})
	}
	if log := e.log(g); log != nil {
		c = append(c, pair{key("logConfiguration"), d.copied(log)})
	}
	labels := object{}
	for _, k := range kept {
		labels = append(labels, pair{"appdefender." + k[0], k[1]})
	}
	p.list = list{append(c, pair{key("dockerLabels"), labels})}
	return []part{p}
}

// log returns a container's logConfiguration for the sidecar to share. A log
// router that is a container of the task is none: it may itself wait for the
// sidecar.
func (e ecs) log(g *group) *node {
	for _, c := range g.containers {
		if l := c.get(e.key("logConfiguration")); !l.none() && l.kind == isObject && !l.intrinsic() {
			if driver := l.get(e.key("logDriver")); driver != nil && driver.text != "awsfirelens" {
				return l
			}
		}
	}
	return nil
}

func (e ecs) notes(d *document, g *group, o *Options, rep *Report) {
	for _, c := range g.containers {
		readOnly := c.get(e.key("readonlyRootFilesystem"))
		if o.Console != "" && !o.skips(g, c) && readOnly != nil && d.editor.text(readOnly) == "true" &&
			!d.mounts(d.objects(c.node, e.key("mountPoints")), e.key("containerPath"), o.dataDir()) {
			rep.note(readOnlyNote(c.name, o.dataDir()))
		}
	}
	if o.TokenSecret != "" && g.get(e.key("executionRoleArn")).none() {
		rep.note("The definition has no executionRoleArn; the platform needs one, with leave to read the token's secret.")
	}
}

func readOnlyNote(name, dir string) string {
	return fmt.Sprintf("The container %q may not write %s: what the Defender keeps is in memory. Give it a volume there, or another data directory.", name, dir)
}

// mounts reports whether a volume is mounted at dir or above it.
func (d *document) mounts(list []*node, key, dir string) bool {
	return slices.ContainsFunc(list, func(el *node) bool {
		at := strings.TrimRight(d.str(el, key, false), "/")
		return at == dir || strings.HasPrefix(dir, at+"/")
	})
}
