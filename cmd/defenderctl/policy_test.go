package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	examples = "../../policy/compat/testdata/"
	full     = examples + "runtime-policy-app-embedded-full.json"
	library  = examples + "custom-rules.json"
)

// want fails the test unless text has each of the parts.
func want(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is missing in:\n%s", p, text)
		}
	}
}

// What is imported is a valid policy, and exports to what imports the same.
func TestPolicyImportExport(t *testing.T) {
	native, errs, exit := ctl(t, "", "policy", "import", full, "--custom-rules", library)
	if exit != 0 {
		t.Fatal(exit, errs)
	}
	want(t, native, "version: 1\n", `name: seed - deny mkdir and lookups outside gmail.com`, "modified: default", "rule: cloud metadata access",
		`script: net.outgoing_ip = "169.254.169.254" or net.outgoing_ip = "169.254.170.2"`)
	want(t, errs, full+`: note: rules[0].owner: "admin" is left out`)

	path := write(t, "policy.yaml", native)
	out, _, exit := ctl(t, "", "policy", "validate", path)
	if exit != 0 {
		t.Fatal(exit, out)
	}
	want(t, out, ": note: rules[1].files.detect.malware: alerts and cannot prevent", path+": ok")

	rules := filepath.Join(t.TempDir(), "rules.json")
	exported, errs, exit := ctl(t, native, "policy", "export", "-", "--custom-rules", rules)
	if exit != 0 || errs != "" {
		t.Fatal(exit, errs)
	}
	again, _, exit := ctl(t, exported, "policy", "import", "-", "--custom-rules", rules)
	if exit != 0 || again != native {
		t.Errorf("exit %d, not the same again:\n%s", exit, again)
	}
	_, errs, exit = ctl(t, native, "policy", "export", "-")
	if exit != 0 {
		t.Error(exit)
	}
	want(t, errs, "-: note: customRules: are not written; --custom-rules FILE writes them")

	only, _, exit := ctl(t, "", "policy", "import", library)
	if exit != 0 {
		t.Error(exit)
	}
	if out, _, exit := ctl(t, only, "policy", "validate", "-"); exit != 0 || out != "-: ok\n" {
		t.Errorf("exit %d: %s", exit, out)
	}
}

// The default is a file to begin with.
func TestPolicyDefault(t *testing.T) {
	text, _, exit := ctl(t, "", "policy", "default")
	if exit != 0 || !strings.HasPrefix(text, "# ") {
		t.Fatalf("exit %d: %s", exit, text)
	}
	if out, _, exit := ctl(t, text, "policy", "validate", "-"); exit != 0 || !strings.HasSuffix(out, "-: ok\n") {
		t.Errorf("exit %d: %s", exit, out)
	}
	if _, errs, exit := ctl(t, "", "policy", "default", "x"); exit == 0 || !strings.Contains(errs, "there is one default") {
		t.Errorf("exit %d: %s", exit, errs)
	}
}

func TestPolicyFaults(t *testing.T) {
	bad := write(t, "bad.yaml", "version: 1\nrules:\n  - {name: a, network: {effect: prevent, unix: {deny: [x]}}, onUnknown: prevent}\n")
	script := write(t, "script.yaml", "version: 1\ncustomRules:\n  - name: a\n    type: processes\n    script: proc.name = nc\n")
	event := `{"kind":"launch","program":{"path":"/bin/ls"}}`
	for _, tt := range []struct {
		name, in string
		args     []string
		exit     int
		want     []string
	}{
		{"no library", "", []string{"import", full}, 1, []string{full + ": rules[1].customRules[0]._id: there is no custom rule 1001 in the library"}},
		{"no JSON", "x", []string{"import", "-"}, 1, []string{"-: this is no JSON"}},
		{"no such file", "", []string{"import", "/no/such"}, 1, []string{"/no/such"}},
		{"no such library", "", []string{"import", full, "--custom-rules", "/no/such"}, 1, []string{"/no/such"}},
		{"a library's faults", `[{"_id":1,"name":"a","type":"processes","script":"("}]`, []string{"import", full, "--custom-rules", "-"}, 1, []string{
			"-: [0].script: line 1, column 2: the end here", "\n  (\n   ^",
		}},
		{"nothing to import", "", []string{"import"}, 2, []string{"give one file"}},
		{"no counterpart", "", []string{"export", bad}, 1, []string{bad + ": rules[0].onUnknown: has no counterpart", "rules[0].network.unix: has no counterpart"}},
		{"export of a bad policy", "x: 1", []string{"export", "-"}, 1, []string{"-:1:1: x: unknown key"}},
		{"nothing to export", "", []string{"export", "a", "b"}, 2, []string{"give one file"}},
		{"a script's fault", "", []string{"validate", script}, 1, []string{
			script + `:5:13: customRules[0].script: line 1, column 13: nc is no attribute; a text stands in quotes: "nc"`, "\n  proc.name = nc\n              ^",
		}},
		{"one argument", "", []string{"test", bad}, 2, []string{"give a policy and events"}},
		{"test of a bad policy", "x: 1", []string{"test", "-", bad}, 1, []string{"-:1:1: x: unknown key"}},
		{"no such events", "", []string{"test", bad, "/no/such"}, 1, []string{"/no/such"}},
		{"a line that is no JSON", event + "\n\nx", []string{"test", bad, "-"}, 1, []string{"-:3: invalid character"}},
		{"a key nobody knows", `{"kind":"launch","programm":{}}`, []string{"test", bad, "-"}, 1, []string{`-:1: json: unknown field "programm"`}},
		{"a kind nobody knows", `{"kind":"lunch"}`, []string{"test", bad, "-"}, 1, []string{`-:1: `, `"lunch" is not a kind of event`}},
		{"an object that is neither", `{"type":"waas"}`, []string{"test", bad, "-"}, 1, []string{`-:1: type: "waas" is not a type of record that tells of an event`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, errs, exit := ctl(t, tt.in, append([]string{"policy"}, tt.args...)...)
			if exit != tt.exit {
				t.Errorf("exit %d, want %d", exit, tt.exit)
			}
			want(t, out+errs, tt.want...)
			if strings.Contains(out, "version: 1") || strings.Contains(out, "{") {
				t.Errorf("something was written: %s", out)
			}
		})
	}
}

func TestPolicyTest(t *testing.T) {
	policy := write(t, "policy.yaml", `version: 1
rules:
  - name: shop
    scope: {containers: [shop]}
    processes: {effect: prevent, deny: [mkdir], detect: {modified: alert}}
    dns: {effect: prevent, allow: [gmail.com]}
    network: {effect: alert, listen: {denyPorts: [4444]}}
    files: {effect: prevent, deny: [/etc]}
`)
	events := write(t, "events.jsonl", `{"kind":"launch","subject":{"pid":7,"path":"/bin/sh"},"program":{"typed":"/bin/mkdir","path":"/bin/mkdir","command":["mkdir","test"]}}
{"kind":"launch","program":{"path":"/bin/ls","modified":true,"command":["ls"]}}
{"kind":"lookup","subject":{"pid":8,"path":"/usr/bin/wget"},"domain":"yahoo.com","qtype":"A"}
{"kind":"lookup","domain":"gmail.com","qtype":"A"}
{"kind":"listen","addr":"0.0.0.0:4444","proto":"tcp"}
{"kind":"fileWrite","subject":{"path":"/bin/vi"},"file":{"path":"/etc/passwd","op":"open"}}
`)
	out, errs, exit := ctl(t, "", "policy", "test", "--container", "shop", policy, events)
	if exit != 1 || errs != "" {
		t.Errorf("exit %d, said %q", exit, errs)
	}
	want(t, out,
		`would refuse mkdir test (/bin/mkdir, pid 7, by /bin/sh): "/bin/mkdir" is on the deny list (mkdir) (rule "shop")`,
		`would tell ls (/bin/ls, `, `would refuse lookup of yahoo.com (A) (pid 8, by /usr/bin/wget): "yahoo.com" is not on the allow list`,
		"would tell listening on port 4444", "would refuse change of /etc/passwd", "6 events, 3 refused\n", "TIMES")
	out, errs, exit = ctl(t, "", "policy", "test", policy, events)
	if exit != 0 || !strings.Contains(errs, "no rule of the policy is for this workload") || !strings.Contains(out, "6 events, 0 refused") {
		t.Errorf("exit %d: %s%s", exit, out, errs)
	}

	// An audit log tells of events too.
	log, err := os.ReadFile("testdata/audits.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	out, errs, exit = ctl(t, string(log), "policy", "test", "--container", "shop", policy, "-")
	if exit != 1 || errs != "" {
		t.Errorf("exit %d, said %q", exit, errs)
	}
	want(t, out, "would refuse mkdir test", "would refuse lookup of yahoo.com (A)", "would tell listening on port 4444",
		"would refuse change of /etc/passwd", "would refuse unreadable call execve", "8 events, 4 refused\n")
}
