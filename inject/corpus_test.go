package inject

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// corpusOptions are what a definition of the corpus is protected with.
func corpusOptions(f Format, name string) Options {
	o := Options{
		DefenderImage: "registry.example.com/defender:1.0", Console: "https://console.example.com:8083",
		TokenSecret: "defender/token", AppID: "sample:1", Version: "1.0", Policy: []byte("version: 1\nrules:\n  - name: \"$(x) ${y}\"\n"),
		Lookup: func(string) (Image, error) {
			return Image{Entrypoint: []string{"/entry"}, Command: []string{"cmd"}}, nil
		},
	}
	switch f {
	case TaskDefinition, CloudFormation:
		o.TokenSecret = secret
	case ContainerGroup:
		o.TokenSecret, o.Token = "", "t0ken"
	case Compose, Dockerfile:
		o.TokenSecret, o.Token = "", "t0ken"
	}
	o.NoTracing = strings.HasPrefix(name, "no-ptrace")
	if strings.HasPrefix(name, "secret") {
		o.TokenSecret, o.Token = "token", ""
	}
	return o
}

// Every definition of the corpus is embedded, embedded again, upgraded and
// brought back.
func TestCorpus(t *testing.T) {
	n := 0
	for _, f := range Formats {
		files, err := filepath.Glob(filepath.Join("testdata", "corpus", string(f), "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, ".protected") {
				continue
			}
			n++
			t.Run(string(f)+"/"+filepath.Base(file), func(t *testing.T) { corpus(t, f, file) })
		}
	}
	if n < 40 {
		t.Errorf("only %d definitions", n)
	}
}

func corpus(t *testing.T, f Format, file string) {
	in, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	o := corpusOptions(f, filepath.Base(file))
	out, rep, err := Embed(f, in, o)
	if err != nil {
		t.Fatal(err)
	}
	golden := file + ".protected"
	if *update {
		if err := os.WriteFile(golden, out, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(out)); d != "" {
		t.Errorf("%s (-want +got):\n%s", golden, d)
	}
	if len(rep.Changed) == 0 {
		t.Error("nothing changed")
	}
	for _, c := range rep.Containers {
		if !c.Skipped && len(c.Argv) == 0 {
			t.Errorf("%s starts nothing", c.Name)
		}
	}
	for what, o := range map[string]Options{"the same options": o, "no options": {Version: "1.0"}} {
		again, rep, err := Embed(f, out, o)
		if err != nil || !bytes.Equal(again, out) || len(rep.Changed) > 0 {
			t.Errorf("again with %s: %v\n%s", what, err, cmp.Diff(string(out), string(again)))
		}
	}
	upgraded, _, err := Embed(f, out, Options{Version: "2.0", DefenderImage: "registry.example.com/defender:2.0"})
	if err != nil {
		t.Errorf("upgrade: %v", err)
	}
	if back := strings.NewReplacer("defender:2.0", "defender:1.0", `"2.0"`, `"1.0"`).Replace(string(upgraded)); back != string(out) {
		t.Errorf("an upgrade changes more than the version:\n%s", cmp.Diff(string(out), back))
	}
	for what, protected := range map[string][]byte{"protected": out, "upgraded": upgraded} {
		back, undone, err := Remove(f, protected)
		if err != nil || !bytes.Equal(back, in) || !undone.Exact {
			t.Errorf("%s, removed: %v, exact %v\n%s", what, err, undone != nil && undone.Exact, cmp.Diff(string(in), string(back)))
		}
	}
	switch filepath.Base(file) {
	case "all-empty.json", "odd-layout.json", "list.yaml", "build.yml":
		// Here what said nothing, or was in the middle of a line, has changed.
	default:
		lines(t, in, out)
	}
}

// lines checks, without the engine, that every line of the original is in the
// result, in order, but for those that the report of what may change allows:
// those that hold the beginning of something that was changed inside brackets.
func lines(t *testing.T, in, out []byte) {
	t.Helper()
	have := strings.Split(string(out), "\n")
	i := 0
	for _, line := range strings.Split(string(in), "\n") {
		trimmed := strings.TrimRight(line, "\r,")
		for i < len(have) && !strings.HasPrefix(have[i], trimmed) && !within(trimmed, have[i]) {
			i++
		}
		if i == len(have) {
			t.Errorf("the line %q is gone", line)
			return
		}
	}
}

// within reports whether a line is what remains of another when text was put
// into it at one or more places.
func within(before, after string) bool {
	if !strings.ContainsAny(before, "[{:") {
		return false
	}
	i := 0
	for j := 0; j < len(after) && i < len(before); j++ {
		if after[j] == before[i] {
			i++
		}
	}
	return i == len(before)
}

// A template of the size that CloudFormation takes.
func TestLarge(t *testing.T) {
	var in strings.Builder
	in.WriteString("Resources:\n")
	for i := 0; in.Len() < 1<<20; i++ {
		fmt.Fprintf(&in, "  Topic%d:\n    Type: AWS::SNS::Topic # %d\n    Properties: {TopicName: !Sub \"${AWS::StackName}-%d\"}\n", i, i, i)
		if i == 2000 {
			in.WriteString("  Task:\n    Type: AWS::ECS::TaskDefinition\n    Properties:\n      Family: f\n      ContainerDefinitions: [{Name: a, Image: a, EntryPoint: [/a]}]\n")
		}
	}
	out, _, err := Embed(CloudFormation, []byte(in.String()), options("seed"))
	if err != nil {
		t.Fatal(err)
	}
	if back, _, err := Remove(CloudFormation, out); err != nil || string(back) != in.String() {
		t.Errorf("removed: %v", err)
	}
}

// What is refused is refused with its place, and nothing is written.
func TestRefusals(t *testing.T) {
	pod := func(s string) string {
		return "kind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: a\n    image: a\n" + s
	}
	service := func(annotations, container string) string {
		return "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: s}\nspec: {template: {\n  metadata: {annotations: " + annotations + "},\n  spec: {containers: [" + container + "]}}}\n"
	}
	tests := []struct {
		name   string
		format Format
		in     string
		want   string
	}{
		{"not YAML", Kubernetes, "kind: Pod\n\tspec: [", "2:1: is not YAML"},
		{"not UTF-8", Kubernetes, "a: b\nc: \xff", "2:4: is not UTF-8"},
		{"UTF-16", Kubernetes, "\xff\xfek\x00", "1:1: is UTF-16"},
		{"a lone carriage return", Kubernetes, "a: b\rc: d", "1:5: has a carriage return"},
		{"another line break", Kubernetes, "a: \"b\u2028c\"", "1:6: has the character"},
		{"a key twice", Kubernetes, pod("    command: [/a]\n    command: [/b]\n"), "8:5: spec.containers[0].command: is there twice"},
		{"an alias of itself", Kubernetes, "a: &a [*a]\n", "stands for something that it is part of"},
		{"no pods", Kubernetes, "kind: Service\nspec: {}\n", "has nothing in it that runs containers"},
		{"containers of an unknown kind", Kubernetes, "kind: Foo\nspec: {deep: {containers: [{name: a, image: a}]}}\n", `2:27: spec.deep.containers: are containers of a kind, "Foo"`},
		{"an aliased command", Kubernetes, pod("    command: &c [/a]\n  - {name: b, image: b, command: *c}\n"), "7:14: spec.containers[0].command: is what an alias stands for"},
		{"an aliased list of variables", Kubernetes, "x: &e [{name: A, value: b}]\n" + pod("    command: [/a]\n    env: *e\n"), "9:10: spec.containers[0].env: is an alias"},
		{"merged variables", Kubernetes, "x: &e {env: [{name: A, value: b}]}\n" + pod("    command: [/a]\n    <<: *e\n"), `6:5: spec.containers[0]: gets env by "<<"`},
		{"a merged command", Kubernetes, "x: &e {command: [/a]}\n" + pod("    <<: *e\n"), `6:5: spec.containers[0]: gets command by "<<"`},
		{"our volume", Kubernetes, pod("    command: [/a]\n    volumeMounts: [{name: x, mountPath: /var/lib/appdefender}]\n"), "where the defender's own volume goes"},
		{"our variable", Kubernetes, pod("    command: [/a]\n    env: [{name: DEFENDER_TOKEN, value: x}]\n"), "sets DEFENDER_TOKEN"},
		{"Windows", Kubernetes, "kind: Pod\nmetadata: {name: p}\nspec: {os: {name: windows}, containers: [{name: a, image: a, command: [a]}]}\n", "runs on Windows"},
		{"the capability dropped", Kubernetes, pod("    command: [/a]\n    securityContext: {capabilities: {drop: [SYS_PTRACE]}}\n"), "drops SYS_PTRACE"},
		{"nothing known", Kubernetes, pod(""), `5:5: spec.containers[0]: "a" has neither command nor args`},
		{"env that is no list", Kubernetes, pod("    command: [/a]\n    env: {A: b}\n"), "8:10: spec.containers[0].env: is an object, not a list"},
		{"a JSON list", Kubernetes, "[]", "is a list, not a manifest"},
		{"extends", Compose, "services: {a: {extends: b, entrypoint: x}}", "takes what it starts from another service"},
		{"include", Compose, "include: [x.yaml]\nservices: {a: {entrypoint: x}}", "1:10: include: brings services"},
		{"no services", Compose, "name: x\n", "services: missing or empty"},
		{"depends_on that is not indented", Compose, "services:\n  a:\n    entrypoint: x\n    depends_on:\n    - b\n  b: {entrypoint: x}\n", "5:5: services.a.depends_on: is a list that is not indented"},
		{"a service that is no mapping", Compose, "services: {a: x}", "services.a: is a string, not a service"},
		{"our folder", Compose, "services: {a: {entrypoint: x, volumes: [\"v:/var/lib/appdefender/\"]}}", "where the defender's own volume goes"},
		{"a job of Cloud Run", CloudRun, "kind: Job\napiVersion: run.googleapis.com/v1\n", `is a "Job", not a Service`},
		{"the first generation", CloudRun, service("{run.googleapis.com/execution-environment: gen1}", "{name: a, image: a, command: [a], ports: [{containerPort: 80}]}"), "5:70: spec.template.metadata"},
		{"its own order", CloudRun, service("{run.googleapis.com/container-dependencies: '{}'}", "{name: a, image: a, command: [a], ports: [{containerPort: 80}]}"), "is what embedding writes"},
		{"no port", CloudRun, service("{}", "{name: a, image: a, command: [a]}"), "has 0 containers with ports"},
		{"no name", CloudRun, service("{}", "{image: a, command: [a], ports: [{containerPort: 80}]}"), "spec.template.spec.containers[0].name: missing"},
		{"Windows in Azure", ContainerGroup, "properties: {osType: Windows, containers: [{name: a, properties: {image: a, command: [a]}}]}", `"Windows" is not Linux`},
		{"computed containers", ContainerGroup, `{"resources": [{"type": "Microsoft.ContainerInstance/containerGroups", "properties": {"containers": "[variables('c')]"}}]}`, "is computed"},
		{"computed containers of a task", CloudFormation, "Type: AWS::ECS::TaskDefinition\nProperties: {ContainerDefinitions: !If [a, [], []]}", "is computed by the platform, so that its containers cannot be seen"},
		{"a container that may be", CloudFormation, "Type: AWS::ECS::TaskDefinition\nProperties: {ContainerDefinitions: [!If [a, {Name: x}, {Name: y}]]}", "is no container that can be seen"},
		{"computed variables", CloudFormation, "Type: AWS::ECS::TaskDefinition\nProperties: {Family: f, ContainerDefinitions: [{Name: a, Image: a, EntryPoint: [a], Environment: !Ref E}]}", "is computed by the platform, so that nothing can be added"},
		{"a loop", CloudFormation, "Resources:\n  Fn::ForEach::X:\n  - X\n  - [a]\n  - T${X}: {Type: AWS::ECS::TaskDefinition}\n", "makes task definitions by Fn::ForEach::X"},
		{"a transform", CloudFormation, "Type: AWS::ECS::TaskDefinition\nProperties:\n  Fn::Transform: {Name: AWS::Include}\n", "puts in what cannot be seen here"},
		{"a loop of types", CloudFormation, "Resources:\n  Fn::ForEach::X: [K, [TaskDefinition], {\"A${K}\": {Type: \"AWS::ECS::${K}\"}}]\n", "makes task definitions by Fn::ForEach::X"},
		{"resources from elsewhere", CloudFormation, "Resources:\n  T: {Type: AWS::ECS::TaskDefinition, Properties: {Family: f, ContainerDefinitions: [{Name: a, Image: a, EntryPoint: [a]}]}}\n  Fn::Transform: {Name: AWS::Include, Parameters: {Location: s3://b/k}}\n", `3:3: Resources["Fn::Transform"]: puts in what cannot be seen`},
		{"sections from elsewhere", CloudFormation, "Fn::Transform: {Name: AWS::Include}\nResources: {T: {Type: AWS::ECS::TaskDefinition, Properties: {Family: f, ContainerDefinitions: [{Name: a, Image: a, EntryPoint: [a]}]}}}\n", `1:1: ["Fn::Transform"]: puts in`},
		{"a resource from elsewhere", CloudFormation, "Type: AWS::ECS::TaskDefinition\nFn::Transform: {Name: AWS::Include}\nProperties: {Family: f, ContainerDefinitions: [{Name: a, Image: a, EntryPoint: [a]}]}\n", `2:1: ["Fn::Transform"]: puts in`},
		{"a container from elsewhere", CloudFormation, "Type: AWS::ECS::TaskDefinition\nProperties: {Family: f, ContainerDefinitions: [{Name: a, Image: a, EntryPoint: [a], Fn::Transform: {Name: AWS::Include}}]}\n", `ContainerDefinitions[0]["Fn::Transform"]: puts in`},
		{"properties by a loop", CloudFormation, "Type: AWS::ECS::TaskDefinition\nProperties: {Family: f, Fn::ForEach::P: [x, [a], {}], ContainerDefinitions: [{Name: a, Image: a, EntryPoint: [a]}]}\n", `Properties["Fn::ForEach::P"]: puts in`},
		{"an entry point by reference", CloudFormation, "Type: AWS::ECS::TaskDefinition\nProperties: {Family: f, ContainerDefinitions: [{Name: a, Image: a, EntryPoint: !FindInMap [a, b, c]}]}\n", "EntryPoint: is computed by the platform as a whole"},
		{"properties by a transform", CloudFormation, "Type: AWS::ECS::TaskDefinition\nProperties: !Transform {Name: AWS::Include}\n", "has no Properties that are written out"},
		{"no task", CloudFormation, "Resources: {A: {Type: AWS::SNS::Topic}}", "has no resource of Type"},
		{"not a template", CloudFormation, "a: b", "is neither a template"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := corpusOptions(tt.format, "")
			o.Lookup = nil
			out, _, err := Embed(tt.format, []byte(tt.in), o)
			if err == nil || !strings.Contains(err.Error(), tt.want) || out != nil {
				t.Errorf("error %v, want %q\n%s", err, tt.want, out)
			}
		})
	}
}

// Whatever is embedded can be brought back, and embedding is stable; the rest
// is refused.
func FuzzEmbed(f *testing.F) {
	for i, format := range Formats {
		files, _ := filepath.Glob(filepath.Join("testdata", "corpus", string(format), "*"))
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(i, data)
		}
	}
	f.Fuzz(func(t *testing.T, i int, in []byte) {
		if i < 0 || i >= len(Formats) {
			return
		}
		format := Formats[i]
		o := corpusOptions(format, "")
		out, _, err := Embed(format, in, o)
		if err != nil {
			if strings.Contains(err.Error(), "checking the result") {
				t.Logf("refused: %v", err)
			}
			return
		}
		want, _, err := Remove(format, in)
		if err != nil {
			t.Fatal(err)
		}
		if back, _, err := Remove(format, out); err != nil || !bytes.Equal(back, want) {
			t.Errorf("not brought back: %v\n%q\n%q", err, want, back)
		}
		if again, _, err := Embed(format, out, o); err != nil || !bytes.Equal(again, out) {
			t.Errorf("not stable: %v\n%s\n%s", err, out, again)
		}
	})
}
