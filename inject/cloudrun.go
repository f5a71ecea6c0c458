package inject

import (
	"fmt"
	"strings"
)

// cloudRun is a service of Cloud Run, in the YAML that "gcloud run services
// replace" takes. It has no init containers: the Defender's container stays,
// says by a port that all is there, and the others depend on it.
type cloudRun struct{ kubernetes }

const (
	stayPort         = 8799
	cloudDepends     = "run.googleapis.com/container-dependencies"
	cloudEnvironment = "run.googleapis.com/execution-environment"

	// keepEnvironment says that the environment is ours.
	keepEnvironment = "environment"
)

func (k cloudRun) groups(d *document, root *node) {
	if root.kind != isObject {
		d.fault(root, "is "+root.kind.String()+", not a service")
		return
	}
	if kind := d.str(root, "kind", true); kind != "Service" || !strings.HasPrefix(root.word("apiVersion"), "serving.knative.dev/") {
		d.fault(root, fmt.Sprintf("is a %q, not a Service of serving.knative.dev; embed the image instead", kind))
		return
	}
	template := root.get("spec", "template")
	pod := template.get("spec")
	if pod.get("containers") == nil {
		d.fault(root, "has no spec.template.spec.containers")
		return
	}
	before := len(d.groups)
	k.pod(d, pod, root.word("metadata", "name"))
	if len(d.groups) == before {
		return
	}
	g := d.groups[before]
	g.outer = template
	annotations := template.get("metadata", "annotations")
	for i, c := range g.containers {
		if c.name == Sidecar && len(c.entryPoint) > 1 && c.entryPoint[1] == "install" {
			g.sidecar, g.kept = c, keptOf(c.env, unescapeKube)
			for _, name := range []string{envInstallCA, envInstallPolicy} {
				if n := c.env[name]; n != nil {
					n.text = unescapeKube(n.text)
				}
			}
			g.containers = append(g.containers[:i:i], g.containers[i+1:]...)
			break
		}
	}
	if len(g.containers) == 0 {
		d.fault(pod, "has only the defender's own container")
	}
	if v := annotations.word(cloudEnvironment); v == "gen1" {
		d.fault(annotations.get(cloudEnvironment), "is an environment that refuses the kernel interface the defender needs; use gen2")
	}
	if g.sidecar == nil && annotations.get(cloudDepends) != nil {
		d.fault(annotations.get(cloudDepends), "is what embedding writes; order the containers by hand after embedding, or embed the image")
	}
	ports := 0
	for _, c := range g.containers {
		if !c.get("ports").none() {
			ports++
		}
	}
	if ports != 1 {
		d.fault(pod.get("containers"), fmt.Sprintf("has %d containers with ports: with more than one container the platform needs exactly one; write which port the application listens on", ports))
	}
}

func (k cloudRun) container(d *document, g *group, c *container, o *Options) []part {
	env := d.envOf(g, c, o, "env")
	if o.TokenSecret != "" {
		name, key, ok := strings.Cut(o.TokenSecret, "/")
		if !ok {
			key = "latest"
		}
		env.list = append(env.list, object{{"name", envToken}, {"valueFrom", object{{"secretKeyRef", object{{"key", key}, {"name", name}}}}}})
	}
	return []part{env, mountPart(c)}
}

func (cloudRun) group(_ *document, g *group, o *Options, kept [][2]string) []part {
	sidecar := part{at: g.node, path: []string{"containers"}, mine: func(el *node) bool { return g.sidecar != nil && el == g.sidecar.node }}
	volumes := volumePart(g)
	volumes.list = list{object{{"name", volume}, {"emptyDir", object{{"medium", "Memory"}, {"sizeLimit", "64Mi"}}}}}
	annotations := part{at: g.outer, path: []string{"metadata", "annotations"}, keys: []string{cloudDepends}}
	if g.kept[keepEnvironment] != "" {
		annotations.keys = append(annotations.keys, cloudEnvironment)
	}
	if kept == nil {
		return []part{sidecar, volumes, annotations}
	}
	waits := object{}
	for _, c := range g.containers {
		if !o.skips(g, c) {
			waits = append(waits, pair{c.name, strs(Sidecar)})
		}
	}
	annotations.pairs = object{{cloudDepends, style{colon: ":"}.write(waits)}}
	if g.outer.get("metadata", "annotations", cloudEnvironment) == nil {
		annotations.pairs = append(annotations.pairs, pair{cloudEnvironment, "gen2"})
		kept = append(kept, [2]string{keepEnvironment, "gen2"})
	}
	sidecar.list = list{object{
		{"name", Sidecar},
		{"image", o.DefenderImage},
		{"command", strs("/defender", "install", "--stay", fmt.Sprint(stayPort), Dir)},
		{"env", sidecarEnv(o, kept)},
		{"volumeMounts", list{object{{"name", volume}, {"mountPath", Dir}}}},
		{"startupProbe", object{{"tcpSocket", object{{"port", stayPort}}}, {"periodSeconds", 1}, {"failureThreshold", 60}}},
	}}
	return []part{sidecar, volumes, annotations}
}
