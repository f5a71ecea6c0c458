package console

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"appdefender/inject"
)

// asked is an EmbedRequest as JSON; pairs are keys and values.
func asked(t *testing.T, pairs ...any) string {
	t.Helper()
	m := make(map[string]any)
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i].(string)] = pairs[i+1]
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const compose = "services:\r\n  web: # ours\r\n    image: shop\r\n    entrypoint: [/web]\r\n"

// What the API embeds is what the tool does, with this Console's address, and
// it comes back to the byte.
func TestEmbed(t *testing.T) {
	b := newBench(t)
	b.embedding = EmbedConfig{URL: "https://console.example:8443", DefenderImage: "defender:1", Version: "1.0"}
	editor := b.as("editor")
	body := asked(t, "format", "compose", "definition", compose, "token", "t0ken", "appID", "shop:1", "onFailure", "open", "fileMonitoring", true)
	var e Embedding
	b.do("POST", "/api/v1/embed", body, editor).into(t, 200, &e)
	want, _, err := inject.Embed(inject.Compose, []byte(compose), inject.Options{
		DefenderImage: "defender:1", Console: "https://console.example:8443", Token: "t0ken", AppID: "shop:1", OnFailure: "open",
		FileMonitoring: new(true), Version: "1.0",
	})
	if err != nil {
		t.Fatal(err)
	}
	if e.Definition != string(want) || e.AppID != "shop:1" || len(e.Containers) != 1 || strings.Join(e.Containers[0].Starts, " ") != "/web" || len(e.Notes) != 1 {
		t.Errorf("%+v", e)
	}
	for _, line := range []string{"-    entrypoint: [/web]\r\n", "+      DEFENDER_ON_FAILURE: open\r\n", "+      DEFENDER_FILE_MONITORING: \"true\"\r\n"} {
		if !strings.Contains(e.Diff, line) {
			t.Errorf("%q is missing in:\n%s", line, e.Diff)
		}
	}

	// A second time changes nothing, also where the Console now has another
	// address and image.
	b.embedding.URL, b.embedding.DefenderImage = "https://elsewhere.example", "defender:2"
	var again Embedding
	b.do("POST", "/api/v1/embed", asked(t, "format", "compose", "definition", e.Definition), editor).into(t, 200, &again)
	if again.Definition != e.Definition || again.Diff != "" {
		t.Errorf("again:\n%s", again.Diff)
	}
	var back Embedding
	b.do("POST", "/api/v1/embed/remove", asked(t, "format", "compose", "definition", e.Definition), editor).into(t, 200, &back)
	if back.Definition != compose || !back.Exact || back.Diff == "" {
		t.Errorf("removed: %+v", back)
	}

	// Who did it is kept, and no token.
	changes := b.do("GET", "/api/v1/changes", "", b.as("auditor")).body
	if strings.Count(changes, `embedded a definition (compose) for App ID \"shop:1\"`) != 2 || strings.Contains(changes, "t0ken") {
		t.Errorf("changes: %s", changes)
	}
	if log := b.log.String(); strings.Contains(log, "t0ken") {
		t.Errorf("the log has the token: %s", log)
	}
}

func TestEmbedKustomizeAndBundle(t *testing.T) {
	b := newBench(t)
	program := filepath.Join(t.TempDir(), "defender")
	if err := os.WriteFile(program, []byte("a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	editor := b.as("editor")
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: a, image: a, command: [/a]}]}\n"
	var e Embedding
	b.do("POST", "/api/v1/embed/kustomize", asked(t, "format", "kubernetes", "definition", pod, "defenderImage", "d:1", "tokenSecret", "token", "console", "https://c.example"), editor).into(t, 200, &e)
	if !strings.Contains(e.Definition, "initContainers:") || strings.Contains(e.Definition, "image: a\n") || e.Diff != "" {
		t.Errorf("%+v", e)
	}

	bundle := asked(t, "format", "dockerfile", "definition", "FROM scratch\nENTRYPOINT [\"/a\"]\n", "policy", "version: 1\n")
	if a := b.do("POST", "/api/v1/embed/bundle", bundle, editor); a.status != 501 || !strings.Contains(a.body, "--defender") {
		t.Errorf("without a program: %d %s", a.status, a.body)
	}
	b.embedding.Program = program
	a := b.do("POST", "/api/v1/embed/bundle", bundle, editor)
	a.into(t, 200, nil)
	z, err := zip.NewReader(bytes.NewReader([]byte(a.body)), int64(len(a.body)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range z.File {
		names = append(names, f.Name)
	}
	if got := strings.Join(names, " "); got != "Dockerfile appdefender/policy.yaml appdefender/defender" {
		t.Errorf("the ZIP has %s", got)
	}
}

// What is wrong is told with its place, and nothing comes back.
func TestEmbedRefusals(t *testing.T) {
	b := newBench(t)
	const pod = "kind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: a\n    image: a\n"
	for _, tt := range []struct {
		name, who, path, body string
		status                int
		want                  string
	}{
		{"an auditor", "auditor", "", asked(t, "format", "compose", "definition", compose), 403, "needs the role editor"},
		{"a place", "editor", "", asked(t, "format", "kubernetes", "definition", pod, "defenderImage", "d", "token", "t"), 400, `"line":5,"column":5,"message":"\"a\" has neither command nor args`},
		{"all faults", "editor", "", asked(t, "format", "compose", "definition", "services: {a: x, b: y}"), 400, "services.b"},
		{"options", "editor", "", asked(t, "format", "compose", "definition", compose), 400, "the defender's image is missing: it is what brings the program into the task; name it as defenderImage, or start the Console with --defender-image"},
		{"a failure nobody knows", "editor", "", asked(t, "format", "compose", "definition", compose, "defenderImage", "d", "token", "t", "onFailure", "explode"), 400, `\"explode\" is nothing to do on a failure`},
		{"no format", "editor", "", asked(t, "format", "cobol", "definition", "x"), 400, `\"cobol\" is no format`},
		{"an unknown key", "editor", "", asked(t, "format", "compose", "definition", compose, "imgae", "d"), 400, "imgae"},
		{"not UTF-8", "editor", "", "{\"format\": \"compose\", \"definition\": \"a: \xff\"}", 400, "not UTF-8"},
		{"two values", "editor", "", "{} {}", 400, "there is something behind the value"},
		{"a stray brace", "editor", "", "{}}", 400, "there is something behind the value"},
		{"a policy with a fault", "editor", "", asked(t, "format", "compose", "definition", compose, "policy", "version: 1\nrulez: []\n"), 400, "policy:2:1"},
		{"a wait", "editor", "", asked(t, "format", "compose", "definition", compose, "waitForPolicy", "soon"), 400, "is no duration"},
		{"too large", "editor", "", asked(t, "format", "compose", "definition", strings.Repeat("# much\n", MaxDefinition/7+1)), 413, "larger than 2097152 bytes"},
		{"too large a body", "editor", "", asked(t, "format", "compose", "definition", strings.Repeat("#", maxEmbed)), 413, "larger than"},
		{"patches of what has none", "editor", "/kustomize", asked(t, "format", "compose", "definition", compose), 400, "made of the format"},
		{"a ZIP of what has none", "editor", "/bundle", asked(t, "format", "compose", "definition", compose), 400, "made of the format"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := b.do("POST", "/api/v1/embed"+tt.path, tt.body, b.as(tt.who))
			if a.status != tt.status || !strings.Contains(a.body, tt.want) || strings.Contains(a.body, "definition\":") {
				t.Errorf("%d %.300s, want %d %s", a.status, a.body, tt.status, tt.want)
			}
		})
	}
	if changes := b.do("GET", "/api/v1/changes", "", b.as("auditor")).body; strings.Contains(changes, "embedded") {
		t.Errorf("changes: %s", changes)
	}
}
