package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the expected definitions")

const secret = "arn:aws:secretsmanager:us-east-1:111122223333:secret:defender"

// options are what the golden definitions are protected with.
func options(name string) Options {
	o := Options{
		DefenderImage: "registry.example.com/defender:1.0", Console: "https://console.example.com:8083",
		TokenSecret: secret, AppID: "sample:00000000-0000-4000-8000-000000000000", Version: "1.0",
	}
	switch name {
	case "shop":
		o.Entrypoints = map[string][]string{"proxy": {"/docker-entrypoint.sh"}, "cron": {}}
		o.Commands = map[string][]string{"cron": {"cron", "-f"}}
		o.Skip = []string{"log_router"}
	case "minified":
		o.Console, o.TokenSecret, o.Policy = "", "", []byte("version: 1\n")
	}
	return o
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestTask(t *testing.T) {
	for _, name := range []string{"seed", "web", "shell", "shop", "minified"} {
		t.Run(name, func(t *testing.T) {
			in := read(t, name+".json")
			out, rep, err := Embed(TaskDefinition, in, options(name))
			if err != nil {
				t.Fatal(err)
			}
			golden := name + "-protected.json"
			if *update {
				if err := os.WriteFile(filepath.Join("testdata", golden), out, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(string(read(t, golden)), string(out)); d != "" {
				t.Errorf("%s (-want +got):\n%s", golden, d)
			}
			intended(t, in, out, rep)

			back, undone, err := Remove(TaskDefinition, out)
			if err != nil || !bytes.Equal(back, in) || !undone.Exact {
				t.Errorf("Remove: err %v, exact %v:\n%s", err, undone != nil && undone.Exact, cmp.Diff(string(in), string(back)))
			}
			for what, o := range map[string]Options{"same options": options(name), "no options": {Version: "1.0"}} {
				again, rep, err := Embed(TaskDefinition, out, o)
				if err != nil || !bytes.Equal(again, out) || len(rep.Changed) > 0 {
					t.Errorf("protected twice with %s: err %v, changed %v:\n%s", what, err, rep, cmp.Diff(string(out), string(again)))
				}
			}
		})
	}
}

// intended checks that the two definitions differ in what embedding may touch
// and nothing else.
func intended(t *testing.T, in, out []byte, rep *Report) {
	t.Helper()
	before, after := flatten(t, in), flatten(t, out)
	n := len(rep.Containers)
	for path, value := range after {
		if before[path] == value || strings.HasPrefix(path, fmt.Sprintf("/containerDefinitions/%d/", n)) {
			continue
		}
		if !slices.ContainsFunc([]string{
			"/entryPoint", "/environment", "/secrets", "/volumesFrom", "/dependsOn", "/linuxParameters", "/healthCheck",
		}, func(key string) bool {
			return strings.Contains(path, key)
		}) {
			t.Errorf("%s changed from %q to %q", path, before[path], value)
		}
	}
	for path := range before {
		if _, ok := after[path]; !ok && before[path] != "null" && before[path] != "[]" && before[path] != "{}" {
			t.Errorf("%s is gone", path)
		}
	}
	for i, c := range rep.Containers {
		program := after[fmt.Sprintf("/containerDefinitions/%d/entryPoint/0", i)]
		if protected := program == `"`+Program+`"`; protected == c.Skipped {
			t.Errorf("container %s: skipped %v, but starts %s", c.Name, c.Skipped, program)
		}
	}
}

// flatten returns the leaves of a document by path.
func flatten(t *testing.T, data []byte) map[string]string {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var doc any
	if err := dec.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	leaves := make(map[string]string)
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, c := range v {
				walk(path+"/"+k, c)
			}
			if len(v) > 0 {
				return
			}
		case []any:
			for i, c := range v {
				walk(fmt.Sprintf("%s/%d", path, i), c)
			}
			if len(v) > 0 {
				return
			}
		}
		b, _ := json.Marshal(v)
		leaves[path] = string(b)
	}
	walk("", doc)
	return leaves
}

func TestArgv(t *testing.T) {
	_, rep, err := Embed(TaskDefinition, read(t, "shop.json"), options("shop"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Container{
		{Group: "shop", Name: "api", Image: "111122223333.dkr.ecr.us-east-1.amazonaws.com/api:1.2.3", Argv: []string{"dumb-init", "--", "node", "server.js"}},
		{Group: "shop", Name: "proxy", Image: "nginx:1.25", Argv: []string{"/docker-entrypoint.sh", "nginx", "-g", "daemon off;"}},
		{Group: "shop", Name: "cron", Image: "ubuntu", Argv: []string{"cron", "-f"}},
		{Group: "shop", Name: "log_router", Image: "fluent-bit", Skipped: true},
	}
	if d := cmp.Diff(want, rep.Containers); d != "" {
		t.Error(d)
	}
}

func TestAppID(t *testing.T) {
	o := options("seed")
	o.AppID = ""
	first, rep, err := Embed(TaskDefinition, read(t, "seed.json"), o)
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := strings.CutPrefix(rep.AppID, "twistlock-fargate-task:"); !ok || len(id) != 36 {
		t.Errorf("App ID %q", rep.AppID)
	}
	// It is kept, whatever else changes.
	o.DefenderImage = "registry.example.com/defender:2.0"
	second, rep2, err := Embed(TaskDefinition, first, o)
	if err != nil || rep2.AppID != rep.AppID {
		t.Errorf("App ID %q became %q: %v", rep.AppID, rep2.AppID, err)
	}
	want := bytes.Replace(first, []byte("defender:1.0"), []byte("defender:2.0"), 1)
	if !bytes.Equal(second, want) {
		t.Error(cmp.Diff(string(want), string(second)))
	}
}

// definition is the seed with a container's members replaced, or others of the
// task.
func definition(container, task string) string {
	return `{"family": "f", ` + task + `"containerDefinitions": [{"name": "web", "image": "nginx"` + container + `}]}`
}

func TestFaults(t *testing.T) {
	const entry = `, "entryPoint": ["x"]`
	const at = "containerDefinitions[0]"
	tests := []struct {
		name, in string
		want     []string // the beginning of each fault
	}{
		{"not JSON", "{\n \"a\": 1,}", []string{`is not JSON: invalid character '}'`}},
		{"not UTF-8", "\"\xff\"", []string{"is not UTF-8"}},
		{"a list", "[]", []string{"is a list, not a task definition"}},
		{"a word", "true", []string{"is a boolean, not a task definition"}},
		{"described", `{"taskDefinition": {}}`, []string{`taskDefinition: is what "describe-task-definition" wraps`}},
		{"CloudFormation", `{"Type": "AWS::ECS::TaskDefinition", "Properties": {}}`, []string{"is CloudFormation, not a task definition"}},
		{"no container", `{"containerDefinitions": []}`, []string{"containerDefinitions: missing or empty"}},
		{"nearly a key", definition(`, "EntryPoint": ["x"]`, ""), []string{at + `.EntryPoint: is not the key "entryPoint", but nearly`}},
		{"a key twice", definition(entry+entry, ""), []string{at + ".entryPoint: is there twice"}},
		{"a key twice, escaped", definition(entry+`, "entry\u0050oint": ["y"]`, ""), []string{at + ".entryPoint: is there twice"}},
		{
			"two of a name", `{"family": "f", "containerDefinitions": [{"name": "a", "image": "i", "entryPoint": ["x"]}, {"name": "a", "image": "i", "entryPoint": ["x"]}]}`,
			[]string{`containerDefinitions[1]: "a" is there twice`},
		},
		{"wrong types, all told", definition(`, "entryPoint": "x", "command": [1], "environment": {}`, `"runtimePlatform": [], `), []string{
			"runtimePlatform: is a list, not an object", at + ".entryPoint: is a string, not a list", at + ".command[0]: is a number, not a string",
			at + ".environment: is an object, not a list",
		}},
		{"no name", `{"family": "f", "containerDefinitions": [{"entryPoint": ["x"]}]}`, []string{at + ".name: missing", at + ".image: missing"}},
		{"an empty program", definition(`, "entryPoint": [""]`, ""), []string{at + ".entryPoint: begins with an empty word"}},
		{"Windows", definition(entry, `"runtimePlatform": {"operatingSystemFamily": "WINDOWS_SERVER_2022_CORE"}, `), []string{"runtimePlatform.operatingSystemFamily: "}},
		{"machines of one's own", definition(entry, `"requiresCompatibilities": ["EC2", "EXTERNAL"], `), []string{"requiresCompatibilities: is without FARGATE"}},
		{"an unknown processor", definition(entry, `"runtimePlatform": {"cpuArchitecture": "RISCV"}, `), []string{`runtimePlatform.cpuArchitecture: there is no defender for "RISCV"`}},
		{"nothing known of the image", definition("", ""), []string{at + `: "web" has neither entryPoint nor command, so what it starts is in its image "nginx"`}},
		{"empty is unset", definition(`, "entryPoint": [], "command": null`, ""), []string{at + `: "web" has neither entryPoint nor command`}},
		{"a command alone", definition(`, "command": ["nginx"]`, ""), []string{at + `: "web" has no entryPoint, so what it starts`}},
		{"our variable", definition(entry+`, "environment": [{"name": "DEFENDER_CONSOLE", "value": "https://evil.test"}]`, ""), []string{at + ".environment[0].value: sets DEFENDER_CONSOLE"}},
		{"our variable, secret", definition(entry+`, "secrets": [{"name": "DEFENDER_POLICY", "valueFrom": "x"}]`, ""), []string{at + ".secrets[0]: sets DEFENDER_POLICY"}},
		{"our volume", definition(entry+`, "mountPoints": [{"containerPath": "/var/lib/appdefender/"}]`, ""), []string{at + ".mountPoints[0].containerPath: "}},
		{"our container's name", strings.Replace(definition(entry, ""), "web", Sidecar, 1), []string{at + `.name: "appdefender" is what`}},
		{"our container, without it", definition(entry+`, "dependsOn": [{"containerName": "appdefender", "condition": "START"}]`, ""), []string{at + ".dependsOn[0]: refers to"}},
		{"the capability dropped", definition(entry+`, "linuxParameters": {"capabilities": {"drop": ["ALL", "sys_ptrace"]}}`, ""), []string{at + ".linuxParameters.capabilities.drop[1]: drops SYS_PTRACE"}},
		{"flags put in by hand", definition(`, "entryPoint": ["/var/lib/appdefender/defender", "run", "--dry-run", "--", "x"]`, ""), []string{at + `.entryPoint: has "--dry-run", which was put in by hand`}},
		{"one by hand", definition(`, "entryPoint": ["/usr/local/bin/defender"], "command": ["run", "--", "nginx"]`, ""), []string{at + `: "web" starts a defender already`}},
		{"half the prefix", definition(`, "entryPoint": ["/var/lib/appdefender/defender", "run", "x"]`, ""), []string{at + `.entryPoint: "/var/lib/appdefender/defender" is in the defender's own volume`}},
		{"only the sidecar", `{"containerDefinitions": [{"name": "appdefender", "image": "d", "entryPoint": ["/defender", "install", "/x"]}]}`, []string{"containerDefinitions: has only the defender's own container"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := options("seed")
			checkFaults(t, tt.in, o, tt.want)
		})
	}
}

func checkFaults(t *testing.T, in string, o Options, want []string) {
	t.Helper()
	out, _, err := Embed(TaskDefinition, []byte(in), o)
	var e *Errors
	if !errors.As(err, &e) {
		t.Fatalf("error %v, definition %s", err, out)
	}
	var got []string
	for _, f := range e.Faults {
		if f.Path != "" {
			f.Path += ": "
		}
		got = append(got, f.Path+f.Msg)
	}
	ok := len(got) == len(want)
	for i := range want {
		ok = ok && strings.HasPrefix(got[i], want[i])
	}
	if !ok {
		t.Errorf("faults:\n got %q\nwant %q", got, want)
	}
}

func TestOptionFaults(t *testing.T) {
	bare, plain := definition("", ""), definition(`, "entryPoint": ["x"]`, "")
	tests := []struct {
		name, in string
		change   func(*Options)
		want     []string
	}{
		{"none at all", plain, func(o *Options) { *o = Options{} }, []string{"the defender's image is missing", "neither a Console nor a policy"}},
		{"no token", plain, func(o *Options) { o.TokenSecret = "" }, []string{"the Console needs an enrolment token"}},
		{"two tokens", plain, func(o *Options) { o.Token = "t" }, []string{"two tokens"}},
		{"a token with a line break", plain, func(o *Options) { o.Token, o.TokenSecret = "t\n", "" }, []string{"the token has a blank"}},
		{"a token for nobody", plain, func(o *Options) { o.Console, o.Policy = "", []byte("version: 1") }, []string{"a token is given, but no Console"}},
		{"no URL", plain, func(o *Options) { o.Console = "console:8083" }, []string{`console "console:8083" is not a URL`}},
		{"in the clear", plain, func(o *Options) { o.Console = "http://console.example.com" }, []string{`console "http://console.example.com" must begin with https://`}},
		{"with a password", plain, func(o *Options) { o.Console = "https://a:b@c" }, []string{`console "https://a:b@c" must be scheme, host`}},
		{"not a CA", plain, func(o *Options) { o.CA = []byte("hello") }, []string{"the CA has something that is not PEM"}},
		{"a key for a CA", plain, func(o *Options) { o.CA = []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n") }, []string{"the CA has a PRIVATE KEY"}},
		{"a wait for nobody", plain, func(o *Options) { *o = Options{DefenderImage: "d", Policy: []byte("version: 1"), DataDir: "/data"} }, []string{"a wait or a data directory is given, but no Console"}},
		{"a wait of less than nothing", plain, func(o *Options) { o.Wait = new(time.Duration(-1)) }, []string{"the wait for a policy, -1ns,"}},
		{"a data directory of nobody's", plain, func(o *Options) { o.DataDir = "data" }, []string{`the data directory "data" is not`}},
		{"a data directory in the shared volume", plain, func(o *Options) { o.DataDir = Dir + "/data" }, []string{`the data directory "/var/lib/appdefender/data" is not`}},
		{"no such container", plain, func(o *Options) { o.Entrypoints, o.Skip = map[string][]string{"wbe": {"x"}}, []string{"b"} }, []string{`the option skip names the container "b"`, `the option entrypoint names the container "wbe"`}},
		{"all skipped", plain, func(o *Options) { o.Skip = []string{"web"} }, []string{"every container is to be skipped"}},
		{"two entry points", plain, func(o *Options) { o.Entrypoints = map[string][]string{"web": {"y"}} }, []string{`containerDefinitions[0]: "web" has its own entryPoint`}},
		{"ENTRYPOINT but not CMD", bare, func(o *Options) { o.Entrypoints = map[string][]string{"web": {"y"}} }, []string{`containerDefinitions[0]: "web" has neither`}},
		{"CMD but not ENTRYPOINT", bare, func(o *Options) { o.Commands = map[string][]string{"web": {"y"}} }, []string{`containerDefinitions[0]: "web" has neither`}},
		{"nothing to start", bare, func(o *Options) {
			o.Entrypoints, o.Commands = map[string][]string{"web": {}}, map[string][]string{"web": {}}
		}, []string{`containerDefinitions[0]: "web" would start nothing`}},
		{"no App ID to make", `{"containerDefinitions": [{"name": "web", "image": "i", "entryPoint": ["x"]}]}`, func(o *Options) { o.AppID = "" }, []string{"has no name: the App ID"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := options("seed")
			tt.change(&o)
			checkFaults(t, tt.in, o, tt.want)
		})
	}
}

// What people do to a protected definition stays when it is protected again
// and when it is not any more.
func TestEditedByHand(t *testing.T) {
	protected, _, err := Embed(TaskDefinition, read(t, "shop.json"), options("shop"))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name                    string
		from, to                string // in the protected definition
		originalFrom, originaTo string // what that is in the original
	}{
		{"another image", "api:1.2.3\",\n", "api:1.2.4\",\n", "api:1.2.3", "api:1.2.4"},
		{"one variable more", `{"name": "PORT", "value": "4005"}`, `{"name": "PORT", "value": "4005"}, {"name": "DEFENDER_DRY_RUN", "value": "1"}`, `{"name": "PORT", "value": "4005"}`, `{"name": "PORT", "value": "4005"}, {"name": "DEFENDER_DRY_RUN", "value": "1"}`},
		{"a dependency between ours", `"SUCCESS"}`, `"SUCCESS"}, {"containerName": "cron", "condition": "START"}`, "", ""},
		{"a capability", `"add": ["SYS_PTRACE"], "drop"`, `"add": ["NET_ADMIN", "SYS_PTRACE"], "drop"`, `"add": [], "drop"`, `"add": ["NET_ADMIN"], "drop"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			edited := strings.Replace(string(protected), tt.from, tt.to, 1)
			if edited == string(protected) {
				t.Fatalf("%q is not in the definition", tt.from)
			}
			back, rep, err := Remove(TaskDefinition, []byte(edited))
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.Replace(string(read(t, "shop.json")), tt.originalFrom, tt.originaTo, 1); tt.originalFrom != "" && string(back) != want {
				t.Error(cmp.Diff(want, string(back)))
			}
			if rep.Exact || len(rep.Notes) != 1 {
				t.Errorf("exact %v, notes %q", rep.Exact, rep.Notes)
			}
			again, _, err := Embed(TaskDefinition, []byte(edited), Options{Version: "1.0"})
			if err != nil {
				t.Fatal(err)
			}
			if back2, _, err := Remove(TaskDefinition, again); err != nil || !bytes.Equal(back2, back) {
				t.Errorf("protected again and removed: %v\n%s", err, cmp.Diff(string(back), string(back2)))
			}
		})
	}
	t.Run("a changed command of the image", func(t *testing.T) {
		edited := strings.Replace(string(protected), `"--", "cron"`, `"--", "crond"`, 1)
		checkFaults(t, edited, Options{}, []string{"containerDefinitions[2].entryPoint: has been changed by hand"})
	})
	// As "jq -S" does: every key elsewhere, every blank gone.
	t.Run("written anew, keys sorted", func(t *testing.T) {
		var doc, original, got any
		_ = json.Unmarshal(protected, &doc)
		sorted, _ := json.Marshal(doc)
		back, _, err := Remove(TaskDefinition, sorted)
		if err != nil {
			t.Fatal(err)
		}
		_ = json.Unmarshal(back, &got)
		_ = json.Unmarshal(read(t, "shop.json"), &original)
		if !reflect.DeepEqual(got, original) {
			t.Error(cmp.Diff(original, got))
		}
	})
}

// Without a wait the application would begin under the shipped default.
func TestWaitAndData(t *testing.T) {
	const def = `"DEFENDER_DATA_DIR", "value": "/tmp/appdefender"}, {"name": "DEFENDER_WAIT_FOR_POLICY", "value": "15s"}`
	const other = `"DEFENDER_DATA_DIR", "value": "/data"}, {"name": "DEFENDER_WAIT_FOR_POLICY", "value": "0s"}`
	plain := definition(`, "entryPoint": ["x"]`, "")
	chosen := options("")
	chosen.Wait, chosen.DataDir = new(time.Duration), "/data"
	local := Options{DefenderImage: "d", Policy: []byte("version: 1\n")}

	first, _, err := Embed(TaskDefinition, []byte(plain), options(""))
	if err != nil || !strings.Contains(string(first), def) {
		t.Errorf("%v:\n%s", err, first)
	}
	second, _, err := Embed(TaskDefinition, first, chosen)
	if err != nil || !strings.Contains(string(second), other) {
		t.Errorf("%v:\n%s", err, second)
	}
	if third, _, err := Embed(TaskDefinition, second, Options{Version: "1.0"}); err != nil || !bytes.Equal(third, second) {
		t.Errorf("what was chosen is not kept: %v:\n%s", err, third)
	}
	if out, _, err := Embed(TaskDefinition, []byte(plain), local); err != nil || strings.Contains(string(out), "DEFENDER_WAIT") || strings.Contains(string(out), "DEFENDER_DATA") {
		t.Errorf("without a Console: %v:\n%s", err, out)
	}
}

func TestNotProtected(t *testing.T) {
	in := read(t, "seed.json")
	out, rep, err := Remove(TaskDefinition, in)
	if err != nil || !bytes.Equal(in, out) || len(rep.Changed) > 0 || len(rep.Notes) != 1 {
		t.Errorf("Remove: %v, %+v\n%s", err, rep, out)
	}
}

func TestNotes(t *testing.T) {
	o := options("seed")
	o.Token, o.TokenSecret = "t0k", ""
	out, rep, err := Embed(TaskDefinition, read(t, "seed.json"), o)
	if err != nil || len(rep.Notes) != 1 || !bytes.Contains(out, []byte(`{"name": "DEFENDER_TOKEN", "value": "t0k"}`)) {
		t.Errorf("%v, notes %q\n%s", err, rep.Notes, out)
	}
	// From plain text to a secret.
	out, rep, err = Embed(TaskDefinition, out, Options{TokenSecret: secret})
	if err != nil || bytes.Contains(out, []byte("t0k")) || len(rep.Notes) != 1 || !strings.Contains(rep.Notes[0], "executionRoleArn") {
		t.Errorf("%v, notes %q\n%s", err, rep.Notes, out)
	}
}

func TestReadOnlyNote(t *testing.T) {
	for in, want := range map[string]bool{
		`"readonlyRootFilesystem": true`:  true,
		`"readonlyRootFilesystem": false`: false,
		`"readonlyRootFilesystem": true, "mountPoints": [{"containerPath": "/tmp/", "sourceVolume": "v"}]`: false,
		`"readonlyRootFilesystem": true, "mountPoints": [{"containerPath": "/tmpx", "sourceVolume": "v"}]`: true,
	} {
		_, rep, err := Embed(TaskDefinition, []byte(definition(`, "entryPoint": ["x"], `+in, `"executionRoleArn": "a", `)), options(""))
		if err != nil || len(rep.Notes) > 0 != want {
			t.Errorf("%s: %v, notes %q", in, err, rep.Notes)
		}
	}
}

// Whatever can be protected can be brought back, and protecting is stable.
func FuzzTask(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.json")
	for _, name := range files {
		f.Add(read(f, filepath.Base(name)))
	}
	f.Add([]byte(definition(`,"entryPoint":["x" , "y"] , "environment" : [ ] ,"linuxParameters":{"capabilities":null}`, "")))
	f.Fuzz(func(t *testing.T, in []byte) {
		o := options("seed")
		out, rep, err := Embed(TaskDefinition, in, o)
		if err != nil {
			if e := (*Errors)(nil); !errors.As(err, &e) {
				t.Fatal(err)
			}
			return
		}
		if !json.Valid(out) {
			t.Fatalf("not JSON:\n%s", out)
		}
		for _, c := range rep.Containers {
			if !c.Skipped && len(c.Argv) == 0 {
				t.Errorf("%s starts nothing", c.Name)
			}
		}
		again, _, err := Embed(TaskDefinition, out, o)
		if err != nil || !bytes.Equal(again, out) {
			t.Errorf("not stable: %v\n%s\n%s", err, out, again)
		}
		original, _, err := Remove(TaskDefinition, in)
		if err != nil {
			t.Fatal(err)
		}
		if back, _, err := Remove(TaskDefinition, out); err != nil || !bytes.Equal(back, original) {
			t.Errorf("not brought back: %v\n%s\n%s", err, original, back)
		}
	})
}
