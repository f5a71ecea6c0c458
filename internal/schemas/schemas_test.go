package schemas

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerinstance/armcontainerinstance/v2"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/compose-spec/compose-go/v2/schema"
	yamlv4 "go.yaml.in/yaml/v4"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// corpus is where the definitions are.
const corpus = "../../inject/testdata/corpus"

// faulty are definitions with what no platform knows, which embedding keeps.
var faulty = map[string]string{"minified.json": `unknown field "x"`}

// Every protected definition is as its platform takes it; so is the original,
// or else the test would show nothing.
func TestGolden(t *testing.T) {
	for format, check := range map[string]func(*testing.T, []byte) error{
		"task-definition": taskDefinition, "cloudformation": cloudFormation, "compose": compose,
		"kubernetes": kubernetes, "cloud-run": cloudRun, "container-group": containerGroup,
	} {
		files, err := filepath.Glob(filepath.Join(corpus, format, "*"))
		if err != nil || len(files) < 4 {
			t.Fatalf("%s: %d definitions, %v", format, len(files), err)
		}
		for _, file := range files {
			t.Run(format+"/"+filepath.Base(file), func(t *testing.T) {
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				err = check(t, bytes.TrimPrefix(data, []byte("\ufeff")))
				if want := faulty[strings.TrimSuffix(filepath.Base(file), ".protected")]; want != "" {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("%v, want %s", err, want)
					}
				} else if err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// The checks see what does not belong.
func TestStrict(t *testing.T) {
	for name, tt := range map[string]struct {
		check func(*testing.T, []byte) error
		text  string
	}{
		"task definition": {taskDefinition, `{"family": "f", "containerDefinitions": [{"name": "a", "imgae": "b"}]}`},
		"a type":          {taskDefinition, `{"containerDefinitions": [{"name": "a", "entryPoint": "b"}]}`},
		"CloudFormation":  {cloudFormation, "Type: AWS::ECS::TaskDefinition\nProperties: {ContainerDefinitions: [{Name: a, EntryPoints: [b]}]}"},
		"compose":         {compose, "services: {a: {image: b, entripoint: c}}"},
		"Kubernetes":      {kubernetes, "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: a, comand: [b]}]}"},
		"Cloud Run":       {cloudRun, "apiVersion: serving.knative.dev/v1\nkind: Service\nspec: {template: {spec: {containers: [{name: a, comand: [b]}]}}}"},
		"container group": {containerGroup, "properties: {containers: [{name: a, properties: {image: b, comand: [c]}}]}"},
	} {
		if err := tt.check(t, []byte(tt.text)); err == nil {
			t.Errorf("%s: a wrong key is right", name)
		}
	}
}

// task is RegisterTaskDefinition's input, whose parts are the platform's types.
type task struct {
	Family, TaskRoleArn, ExecutionRoleArn, CPU, Memory, PidMode, IpcMode string
	NetworkMode                                                          types.NetworkMode
	ContainerDefinitions                                                 []types.ContainerDefinition
	Volumes                                                              []types.Volume
	PlacementConstraints                                                 []types.TaskDefinitionPlacementConstraint
	RequiresCompatibilities                                              []types.Compatibility
	Tags                                                                 []types.Tag
	ProxyConfiguration                                                   *types.ProxyConfiguration
	InferenceAccelerators                                                []types.InferenceAccelerator
	EphemeralStorage                                                     *types.EphemeralStorage
	RuntimePlatform                                                      *types.RuntimePlatform
	EnableFaultInjection                                                 bool
}

// taskDefinition also takes what DescribeTaskDefinition adds to it.
func taskDefinition(_ *testing.T, data []byte) error {
	var described struct {
		task
		TaskDefinitionArn, Status, RegisteredBy string
		Revision                                int
		RequiresAttributes                      []types.Attribute
		Compatibilities                         []types.Compatibility
	}
	return strict(data, &described)
}

func strict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// cloudFormation takes each task definition of a template, with a value of a
// parameter's kind in the place of what the platform computes.
func cloudFormation(_ *testing.T, data []byte) error {
	root, err := template(data)
	if err != nil {
		return err
	}
	all := map[string]any{"": root}
	if resources, ok := root["Resources"].(map[string]any); ok {
		all = resources
	} else if root["ContainerDefinitions"] != nil {
		all = map[string]any{"": map[string]any{"Type": "AWS::ECS::TaskDefinition", "Properties": root}}
	}
	var errs []error
	n := 0
	for id, r := range all {
		resource, _ := r.(map[string]any)
		if resource["Type"] != "AWS::ECS::TaskDefinition" {
			continue
		}
		n++
		text, err := json.Marshal(computed(resource["Properties"], reflect.TypeFor[task]()))
		if err == nil {
			err = strict(text, new(task))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", id, err))
		}
	}
	if n == 0 {
		errs = append(errs, errors.New("has no task definition"))
	}
	return errors.Join(errs...)
}

// computed puts a value of the wanted type where an intrinsic function stands;
// strings that stand for numbers, which CloudFormation takes, become those.
func computed(v any, want reflect.Type) any {
	for want.Kind() == reflect.Pointer {
		want = want.Elem()
	}
	switch v := v.(type) {
	case map[string]any:
		for key := range v {
			if len(v) == 1 && (key == "Ref" || strings.HasPrefix(key, "Fn::")) {
				return reflect.Zero(want).Interface()
			}
		}
		out := make(map[string]any, len(v))
		for key, el := range v {
			inner := reflect.TypeFor[any]()
			switch want.Kind() {
			case reflect.Struct:
				if f, ok := want.FieldByNameFunc(func(name string) bool { return strings.EqualFold(name, key) }); ok {
					inner = f.Type
				}
			case reflect.Map:
				inner = want.Elem()
			}
			out[key] = computed(el, inner)
		}
		return out
	case []any:
		for i := range v {
			inner := reflect.TypeFor[any]()
			if want.Kind() == reflect.Slice {
				inner = want.Elem()
			}
			v[i] = computed(v[i], inner)
		}
		return v
	case string:
		if want.Kind() == reflect.Bool || want.Kind() == reflect.Int32 {
			return json.RawMessage(v)
		}
	case int, float64, bool:
		if want.Kind() == reflect.String {
			return fmt.Sprint(v)
		}
	}
	return v
}

// template reads a template with its short forms written out, or JSON.
func template(data []byte) (map[string]any, error) {
	var doc yamlv4.Node
	if err := yamlv4.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	long(&doc)
	var root map[string]any
	err := doc.Decode(&root)
	return root, err
}

// long makes {"Fn::Sub": x} of "!Sub x".
func long(n *yamlv4.Node) {
	for _, c := range n.Content {
		long(c)
	}
	if name, ok := strings.CutPrefix(n.Tag, "!"); ok && !strings.HasPrefix(name, "!") {
		inner := *n
		inner.Tag, inner.Style = "", inner.Style&^yamlv4.TaggedStyle
		if name != "Ref" && name != "Condition" {
			name = "Fn::" + name
		}
		*n = yamlv4.Node{Kind: yamlv4.MappingNode, Content: []*yamlv4.Node{{Kind: yamlv4.ScalarNode, Tag: "!!str", Value: name}, &inner}}
	}
}

func compose(_ *testing.T, data []byte) error {
	var project map[string]any
	if err := yaml.Unmarshal(data, &project); err != nil {
		return err
	}
	for key := range project {
		if strings.HasPrefix(key, "x-") {
			delete(project, key) // others'
		}
	}
	return schema.Validate(project)
}

// kubernetes knows the kinds of the platform itself; a kind of others is like
// a Deployment.
func kubernetes(_ *testing.T, data []byte) error {
	var errs []error
	for _, doc := range bytes.Split(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")), []byte("\n---")) {
		var head struct {
			Kind  string
			Items []json.RawMessage
		}
		if err := yaml.Unmarshal(doc, &head); err != nil {
			return err
		}
		if head.Kind == "List" {
			for _, item := range head.Items {
				errs = append(errs, kubernetes(nil, item))
			}
			continue
		}
		if v, ok := map[string]any{
			"Pod": new(corev1.Pod), "PodTemplate": new(corev1.PodTemplate), "Deployment": new(appsv1.Deployment), "StatefulSet": new(appsv1.StatefulSet),
			"DaemonSet": new(appsv1.DaemonSet), "ReplicaSet": new(appsv1.ReplicaSet), "Job": new(batchv1.Job), "CronJob": new(batchv1.CronJob),
		}[head.Kind]; ok {
			errs = append(errs, yaml.UnmarshalStrict(doc, v))
		}
	}
	return errors.Join(errs...)
}

// discovery is the platform's own description of its messages.
type discovery struct {
	Schemas map[string]message
}

type message struct {
	Ref                  string `json:"$ref"`
	Type                 string
	Properties           map[string]message
	Items                *message
	AdditionalProperties *message
}

func cloudRun(t *testing.T, data []byte) error {
	answer, err := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", "google.golang.org/api@v0.311.0").Output()
	if err != nil {
		return err
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(answer, &module); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(module.Dir, "run", "v1", "run-api.json"))
	if err != nil {
		return err
	}
	var d discovery
	if err := json.Unmarshal(text, &d); err != nil {
		return err
	}
	var service any
	if err := yaml.Unmarshal(data, &service); err != nil {
		return err
	}
	return errors.Join(d.fits("service", service, message{Ref: "Service"})...)
}

func (d *discovery) fits(at string, v any, m message) []error {
	if m.Ref != "" {
		found, ok := d.Schemas[m.Ref]
		if !ok {
			return []error{fmt.Errorf("%s: the platform does not describe %s", at, m.Ref)}
		}
		return d.fits(at, v, found)
	}
	var errs []error
	switch v := v.(type) {
	case map[string]any:
		if m.Type != "object" {
			return []error{fmt.Errorf("%s: is an object, not %s", at, m.Type)}
		}
		for key, el := range v {
			switch p, ok := m.Properties[key]; {
			case ok:
				errs = append(errs, d.fits(at+"."+key, el, p)...)
			case m.AdditionalProperties != nil:
				errs = append(errs, d.fits(at+"."+key, el, *m.AdditionalProperties)...)
			default:
				errs = append(errs, fmt.Errorf("%s.%s: unknown", at, key))
			}
		}
	case []any:
		if m.Type != "array" {
			return []error{fmt.Errorf("%s: is a list, not %s", at, m.Type)}
		}
		for i, el := range v {
			errs = append(errs, d.fits(fmt.Sprintf("%s[%d]", at, i), el, *m.Items)...)
		}
	case string:
		if m.Type != "string" && m.Type != "any" {
			return []error{fmt.Errorf("%s: is a string, not %s", at, m.Type)}
		}
	}
	return errs
}

// containerGroup reads a group into the platform's type and writes it again:
// what that does not know is gone then.
func containerGroup(_ *testing.T, data []byte) error {
	var root map[string]any
	if err := yaml.Unmarshal(data, &root); err != nil {
		return err
	}
	groups := []any{root}
	if resources, ok := root["resources"].([]any); ok {
		groups = slices.DeleteFunc(resources, func(r any) bool {
			m, _ := r.(map[string]any)
			return m["type"] != "Microsoft.ContainerInstance/containerGroups"
		})
	}
	var errs []error
	for _, g := range groups {
		properties, _ := g.(map[string]any)["properties"].(map[string]any)
		text, err := json.Marshal(map[string]any{"properties": properties})
		if err != nil {
			return err
		}
		// The platform does not mind the case of letters, and its tool's YAML has:
		text = bytes.ReplaceAll(text, []byte(`"memoryInGb"`), []byte(`"memoryInGB"`))
		var group armcontainerinstance.ContainerGroup
		if err := json.Unmarshal(text, &group); err != nil {
			return err
		}
		again, err := json.Marshal(group)
		if err != nil {
			return err
		}
		var knows any
		if err := json.Unmarshal(again, &knows); err != nil {
			return err
		}
		var given any
		if err := json.Unmarshal(text, &given); err != nil {
			return err
		}
		errs = append(errs, missing("", given, knows)...)
	}
	return errors.Join(errs...)
}

// missing lists the keys of one value that another does not have.
func missing(at string, v, in any) []error {
	var errs []error
	switch v := v.(type) {
	case map[string]any:
		other, _ := in.(map[string]any)
		for key, el := range v {
			inner, known := other[key]
			if !known && el != nil {
				errs = append(errs, fmt.Errorf("%s.%s: unknown", at, key))
				continue
			}
			errs = append(errs, missing(at+"."+key, el, inner)...)
		}
	case []any:
		other, _ := in.([]any)
		for i, el := range v {
			if i < len(other) {
				errs = append(errs, missing(fmt.Sprintf("%s[%d]", at, i), el, other[i])...)
			}
		}
	}
	return errs
}
