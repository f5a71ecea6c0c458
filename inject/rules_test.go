package inject_test

import (
	"strings"
	"testing"

	"appdefender/inject"
)

// A policy that has no rule for what is protected is told of: it would refuse
// nothing, in silence.
func TestNoRule(t *testing.T) {
	task := `{"family": "f", "containerDefinitions": [{"name": "web", "image": "nginx", "entryPoint": ["nginx"]}, {"name": "db", "image": "postgres", "entryPoint": ["postgres"]}]}`
	const dockerfile = "FROM scratch\nENTRYPOINT [\"/a\"]\n"
	for _, tt := range []struct {
		what   string
		format inject.Format
		text   string
		scope  string
		images map[string]string
		skip   []string
		want   []string // in the notes, in order
	}{
		{"for all", inject.TaskDefinition, task, "{}", nil, nil, nil},
		{"for one", inject.TaskDefinition, task, "{containers: [web]}", nil, nil, []string{`container "db" (image "postgres", App ID "f:1")`}},
		{"by image", inject.TaskDefinition, task, "{images: [shop]}", map[string]string{"db": "shop"}, nil, []string{`container "web" (image "nginx"`}},
		{"by App ID", inject.TaskDefinition, task, `{appIDs: ["f:*"]}`, nil, nil, nil},
		{"for another", inject.TaskDefinition, task, "{containers: [shop]}", nil, []string{"db"}, []string{"skip says so", `container "web"`}},
		{"computed", inject.CloudFormation, `{"Type": "AWS::ECS::TaskDefinition", "Properties": {"Family": "f", "ContainerDefinitions": [{"Name": "a", "Image": {"Ref": "I"}, "EntryPoint": ["a"]}]}}`, "{images: [shop]}", nil, nil, nil},
		{"a Dockerfile", inject.Dockerfile, dockerfile, "{containers: [shop]}", nil, nil, []string{"DEFENDER_CONTAINER"}},
		{"a Dockerfile's image", inject.Dockerfile, dockerfile, "{images: [shop]}", map[string]string{"": "shop"}, nil, nil},
	} {
		t.Run(tt.what, func(t *testing.T) {
			_, rep, err := inject.Embed(tt.format, []byte(tt.text), inject.Options{
				DefenderImage: "d", AppID: "f:1", Images: tt.images, Skip: tt.skip,
				Policy: []byte("version: 1\nrules: [{name: r, scope: " + tt.scope + ", processes: {effect: prevent, deny: [nc]}}]\n"),
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(rep.Notes) != len(tt.want) {
				t.Fatalf("notes %q", rep.Notes)
			}
			for _, want := range tt.want {
				if !strings.Contains(strings.Join(rep.Notes, "\n"), want) {
					t.Errorf("notes %q", rep.Notes)
				}
			}
		})
	}
}
