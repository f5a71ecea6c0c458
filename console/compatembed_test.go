package console

import (
	"archive/zip"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"appdefender/inject"
)

// What others' clients send is answered as they expect it: the definition
// itself, protected, or a ZIP.
func TestCompatEmbed(t *testing.T) {
	b := newBench(t)
	b.embedding = EmbedConfig{URL: "https://console.example:8443", DefenderImage: "defender:1", Version: "1.0"}
	editor := b.as("editor")
	const (
		task    = `{"family": "f", "containerDefinitions": [{"name": "web", "image": "nginx", "entryPoint": ["nginx"], "command": null}]}`
		cfn     = "Type: AWS::ECS::TaskDefinition\nProperties:\n  Family: f\n  ContainerDefinitions: [{Name: a, Image: a, EntryPoint: [/a]}]\n"
		pod     = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: a, image: a, command: [/a]}]}\n"
		group   = "name: g\nproperties: {osType: Linux, containers: [{name: a, properties: {image: a, command: [/a]}}]}\n"
		service = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: s}\nspec: {template: {spec: {containers: [{name: a, image: a, command: [a], ports: [{containerPort: 80}]}]}}}\n"
	)
	for _, tt := range []struct {
		path, body, kind string
		format           inject.Format
		want             []string
	}{
		{"fargate.json?tokenSecret=s&consoleaddr=c.example&defenderType=appEmbedded&interpreter=/bin/sh&filesystemMonitoring=true", task, "application/json", inject.TaskDefinition,
			[]string{`"https://c.example:8443"`, `"DEFENDER_FILE_MONITORING", "value": "true"`, "SYS_PTRACE"}},
		{"fargate.json?tokenSecret=s&cloudFormation=true", cfn, "application/json", inject.CloudFormation, []string{"https://console.example:8443"}},
		{"fargate.yaml?tokenSecret=s&consoleaddr=c.example:1", cfn, "application/yaml", inject.CloudFormation, []string{"https://c.example:1"}},
		{"eks-fargate.yaml?tokenSecret=s&filestemMonitoring=false&defenderImage=d:2", pod, "application/yaml", inject.Kubernetes, []string{"d:2"}},
		{"cloud-run.yaml?tokenSecret=s", service, "application/yaml", inject.CloudRun, []string{"defender:1"}},
		{"aci.yaml", group, "application/yaml", inject.ContainerGroup, []string{"t0ken"}},
	} {
		t.Run(tt.path, func(t *testing.T) {
			headers := []string{editor}
			if tt.format == inject.ContainerGroup {
				headers = append(headers, "Enrolment-Token: t0ken")
			}
			a := b.do("POST", "/api/v34.04/defenders/"+tt.path, tt.body, headers...)
			if a.status != 200 || a.header.Get("Content-Type") != tt.kind {
				t.Fatalf("%d %s", a.status, a.body)
			}
			for _, want := range append(tt.want, "DEFENDER_CONSOLE") {
				if !strings.Contains(a.body, want) {
					t.Errorf("%s is missing in %s", want, a.body)
				}
			}
			if strings.HasPrefix(tt.path, "eks") == strings.Contains(a.body, "SYS_PTRACE") && tt.format == inject.Kubernetes {
				t.Errorf("SYS_PTRACE: %s", a.body)
			}
			if back, _, err := inject.Remove(tt.format, []byte(a.body)); err != nil || string(back) != tt.body {
				t.Errorf("removed: %v\n%s", err, back)
			}
		})
	}
	const dockerfile = `{"appID": "my app", "consoleAddr": "c.example", "dataFolder": "/tmp", "dockerfile": "FROM scratch\nENTRYPOINT [\"/a\"]\n", "filesystemMonitoring": false, "of-others": 1}`
	if a := b.do("POST", "/api/v1/defenders/app-embedded", strings.ReplaceAll(dockerfile, "my app", "my:app"), editor); a.status != 501 {
		t.Errorf("without a program: %d %s", a.status, a.body)
	}
	b.embedding.Program = filepath.Join(t.TempDir(), "defender")
	if err := os.WriteFile(b.embedding.Program, []byte("a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	a := b.do("POST", "/api/v1/defenders/app-embedded", strings.ReplaceAll(dockerfile, "my app", "my:app"), editor)
	a.into(t, 200, nil)
	if got := a.header.Get("Content-Disposition"); got != "attachment; filename=app_embedded_embed_my_app.zip" {
		t.Errorf("it is called %s", got)
	}
	z, err := zip.NewReader(strings.NewReader(a.body), int64(len(a.body)))
	if err != nil {
		t.Fatal(err)
	}
	f, err := z.Open("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`DEFENDER_CONSOLE="https://c.example:8443"`, `DEFENDER_DATA_DIR="/tmp/appdefender"`, `DEFENDER_APP_ID="my:app"`} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("%s is missing in %s", want, text)
		}
	}

	for _, tt := range []struct {
		who, path, body string
		status          int
		want            string
	}{
		{"auditor", "fargate.json?tokenSecret=s", task, 403, "needs the role editor"},
		{"editor", "fargate.json", task, 400, "needs an enrolment token"},
		{"editor", "fargate.json?tokenSecret=s", strings.Replace(task, "entryPoint", "entrypoint", 1), 400, `"line":1,"column":`},
		{"editor", "fargate.json?tokenSecret=s&filesystemMonitoring=perhaps", task, 400, "neither true nor false"},
		{"editor", "fargate.json?tokenSecret=s&defenderImagePullSecret=x", task, 400, "is not known here"},
		{"editor", "fargate.json?tokenSecret=s&consoleaddr=wss://c:8084", task, 400, "neither a host nor host and port"},
		{"editor", "fargate.yml", task, 404, ""},
		{"editor", "app-embedded", dockerfile, 400, "the App ID has a blank"},
	} {
		if a := b.do("POST", "/api/v1/defenders/"+tt.path, tt.body, b.as(tt.who)); a.status != tt.status || !strings.Contains(a.body, tt.want) {
			t.Errorf("%s: %d %s, want %d %s", tt.path, a.status, a.body, tt.status, tt.want)
		}
	}
}
