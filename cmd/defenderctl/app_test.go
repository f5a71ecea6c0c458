package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

const (
	plain = `{"family": "f", "containerDefinitions": [{"name": "web", "image": "nginx", "entryPoint": ["nginx"]}]}`
	bare  = `{"family": "f", "containerDefinitions": [{"name": "web", "image": "nginx"}]}`
)

// ctl runs a command line and returns what it printed and its exit status.
func ctl(t *testing.T, in string, args ...string) (out, errs string, exit int) {
	t.Helper()
	var o, e bytes.Buffer
	err := run(append([]string{"defenderctl"}, args...), strings.NewReader(in), &o, &e)
	var coded cli.ExitCoder
	switch {
	case err == nil:
	case errors.As(err, &coded):
		exit = coded.ExitCode()
	default:
		exit = exitUsage
	}
	if err != nil {
		e.WriteString(err.Error())
	}
	return o.String(), e.String(), exit
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEmbed(t *testing.T) {
	policy := write(t, "policy.yaml", "version: 1\n")
	flags := []string{"--defender-image", "d:1", "--policy", policy, "--app-id", "f:1"}
	file := write(t, "task.json", plain)

	// Before the file and behind it.
	after, _, exit := ctl(t, "", append([]string{"embed", "task-definition", file}, flags...)...)
	before, _, _ := ctl(t, "", append(append([]string{"embed", "task-definition"}, flags...), file)...)
	if exit != 0 || after != before || !strings.Contains(after, `"entryPoint": ["/var/lib/appdefender/defender", "run", "--", "nginx"]`) {
		t.Fatalf("exit %d:\n%s\n%s", exit, after, before)
	}
	stdin, _, _ := ctl(t, plain, append([]string{"embed", "task-definition", "-"}, flags...)...)
	if stdin != after {
		t.Errorf("from standard input:\n%s", stdin)
	}
	if back, _, exit := ctl(t, after, "embed", "task-definition", "-", "--undo"); back != plain || exit != 0 {
		t.Errorf("undone, exit %d:\n%s", exit, back)
	}
	for what, exit := range map[string]int{plain: 1, after: 0} {
		if out, _, got := ctl(t, what, append([]string{"embed", "task-definition", "-", "--check"}, flags...)...); got != exit || out != "" {
			t.Errorf("--check: exit %d, want %d, said %q", got, exit, out)
		}
	}
	diff, _, exit := ctl(t, "", append([]string{"embed", "task-definition", file, "--diff"}, flags...)...)
	if exit != 0 || !strings.Contains(diff, "\n-"+plain) || !strings.Contains(diff, "\n+"+after) {
		t.Errorf("exit %d, diff:\n%s", exit, diff)
	}
	if out, _, exit := ctl(t, "", append([]string{"embed", "task-definition", file, "-o", file}, flags...)...); out != "" || exit != 0 {
		t.Errorf("exit %d, said %q", exit, out)
	}
	if data, err := os.ReadFile(file); string(data) != after {
		t.Errorf("written: %s, %v", data, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	// A JSON list has commas.
	image, errs, exit := ctl(t, bare, append([]string{"embed", "task-definition", "-", "--entrypoint", `web=["sh","-c"]`, "--command", `web=["nginx -g 'a,b'"]`}, flags...)...)
	if exit != 0 || !strings.Contains(image, `"run", "--", "sh", "-c", "nginx -g 'a,b'"]`) {
		t.Errorf("exit %d, %s:\n%s", exit, errs, image)
	}
}

func TestFaults(t *testing.T) {
	bad := write(t, "policy.yaml", "version: 1\nrulse: []\n")
	empty := write(t, "token", "\n")
	tests := []struct {
		name, in string
		args     []string
		exit     int
		want     []string
	}{
		{"no command", "", []string{"embde"}, 2, []string{`unknown command "embde"`}},
		{"nothing to embed into", "", []string{"embed", "dockerfiel"}, 2, []string{`unknown command "dockerfiel"`}},
		{"no file", "", []string{"embed", "task-definition"}, 2, []string{"give one file"}},
		{"a flag", "", []string{"embed", "task-definition", "-", "--consol", "x"}, 2, []string{"-consol"}},
		{"no such file", "", []string{"embed", "task-definition", "/no/such"}, 1, []string{"/no/such"}},
		{"every flag's fault", plain, []string{"embed", "task-definition", "-", "--policy", bad, "--token-file", empty, "--entrypoint", "web", "--command", "web=null"}, 2, []string{
			`--policy: `, "rulse", `--token-file: `, "is empty", `--entrypoint: "web" is not NAME=VALUE`, `--command: container "web": null is not a list`,
		}},
		{"a container twice", plain, []string{"embed", "task-definition", "-", "--image", "web=a", "--image", "web=b"}, 2, []string{`--image: container "web" is there twice`}},
		{"undo with others", plain, []string{"embed", "task-definition", "-", "--undo", "--console", "https://c"}, 2, []string{"--console: means nothing with --remove"}},
		{"a definition's faults", bare, []string{"embed", "task-definition", "-", "--defender-image", "d"}, 1, []string{
			"nothing is written", "\n  -: neither a Console nor a policy", "\n  -:1:42: containerDefinitions[0]: \"web\" has neither entryPoint nor command", `--entrypoint 'web=["…"]'`,
		}},
		{"a policy's faults", "", []string{"policy", "validate", bad, "/no/such"}, 1, []string{"rulse: unknown key", "/no/such"}},
		{"no policy", "", []string{"policy", "validate"}, 2, []string{"give a policy file"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, errs, exit := ctl(t, tt.in, tt.args...)
			if exit != tt.exit {
				t.Errorf("exit %d, want %d", exit, tt.exit)
			}
			for _, want := range tt.want {
				if !strings.Contains(out+errs, want) {
					t.Errorf("%q is missing in:\n%s%s", want, out, errs)
				}
			}
			if strings.Contains(out, "/var/lib/appdefender") {
				t.Errorf("a definition is written:\n%s", out)
			}
		})
	}
}

// What an upgrade leaves out stays; what it says counts.
func TestEmbedSwitches(t *testing.T) {
	policy := write(t, "policy.yaml", "version: 1\n")
	first, errs, exit := ctl(t, plain, "embed", "task-definition", "-", "--defender-image", "d:1", "--policy", policy, "--app-id", "f:1", "--on-failure", "open", "--file-monitoring")
	if exit != 0 || !strings.Contains(first, `"DEFENDER_ON_FAILURE", "value": "open"`) || !strings.Contains(first, `"DEFENDER_FILE_MONITORING", "value": "true"`) {
		t.Fatalf("exit %d:\n%s%s", exit, first, errs)
	}
	if again, _, _ := ctl(t, first, "embed", "task-definition", "-"); again != first {
		t.Errorf("not kept:\n%s", again)
	}
	next, _, _ := ctl(t, first, "embed", "task-definition", "-", "--on-failure", "closed", "--file-monitoring=false")
	if !strings.Contains(next, `"DEFENDER_ON_FAILURE", "value": "closed"`) || strings.Contains(next, "DEFENDER_FILE_MONITORING") {
		t.Errorf("not changed:\n%s", next)
	}
	if back, _, _ := ctl(t, next, "embed", "task-definition", "-", "--remove"); back != plain {
		t.Errorf("removed:\n%s", back)
	}
}

func TestTerraform(t *testing.T) {
	const query = `{"container_definitions": "[{\"name\":\"web\",\"image\":\"nginx\",\"entryPoint\":[\"/web\"]}]", "family": "shop", "defender_image": "d:1", "policy": "version: 1"}`
	out, errs, exit := ctl(t, query, "embed", "terraform")
	var got map[string]string
	if err := json.Unmarshal([]byte(out), &got); err != nil || exit != 0 {
		t.Fatalf("exit %d, %v: %s%s", exit, err, out, errs)
	}
	if !strings.HasPrefix(got["app_id"], "shop:") || !strings.Contains(got["container_definitions"], `"/var/lib/appdefender/defender"`) {
		t.Errorf("%q", got)
	}
	if again, _, _ := ctl(t, query, "embed", "terraform"); again != out {
		t.Errorf("another answer to the same query:\n%s\n%s", out, again)
	}
	for in, want := range map[string]string{
		"":                                 "the query: standard input is empty",
		`{"definition": "x", "what": "y"}`: "unknown field",
		`{}`:                               "give container_definitions and family",
		`{"definition": "{}", "format": "task-definition"}`:   "app_id: missing",
		`{"container_definitions": "[]", "policy": "verson"}`: "policy",
		`{"container_definitions": "[]", "lookup": "yes"}`:    `lookup: "yes" is neither true nor false`,
	} {
		if out, errs, exit := ctl(t, in, "embed", "terraform"); exit != 1 || out != "" || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %s, want %s", in, exit, errs, want)
		}
	}
}

func TestZip(t *testing.T) {
	policy, program := write(t, "policy.yaml", "version: 1\n"), write(t, "defender", "program")
	zip := filepath.Join(t.TempDir(), "out.zip")
	args := []string{"embed", "dockerfile", "-", "--policy", policy, "--app-id", "f:1", "--zip", zip}
	if _, errs, exit := ctl(t, "FROM scratch\nCMD [\"/a\"]\n", append(args, "--defender", program)...); exit != 0 {
		t.Fatalf("exit %d: %s", exit, errs)
	}
	if data, err := os.ReadFile(zip); err != nil || !bytes.HasPrefix(data, []byte("PK")) {
		t.Errorf("%v, %d bytes", err, len(data))
	}
	if _, errs, exit := ctl(t, "FROM scratch\nCMD [\"/a\"]\n", args...); exit != 1 || !strings.Contains(errs, "--defender") {
		t.Errorf("without a program: exit %d: %s", exit, errs)
	}
}

func TestPolicyValidate(t *testing.T) {
	if out, _, exit := ctl(t, "version: 1\n", "policy", "validate", "-"); out != "-: ok\n" || exit != 0 {
		t.Errorf("exit %d, said %q", exit, out)
	}
}
