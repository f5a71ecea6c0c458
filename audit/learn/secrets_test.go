package learn

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"appdefender/audit"
	"appdefender/policy"
)

var marked = regexp.MustCompile("«([^»]*)»")

// TestNoSecretIsWritten has each line of the corpus of secrets run by a shell,
// and looks for them in everything that is written of it: records with the
// command in their message, forensic events, recordings, learned policies.
func TestNoSecretIsWritten(t *testing.T) {
	t.Parallel()
	corpus, err := os.ReadFile("../scrub/testdata/corpus.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for line := range strings.Lines(string(corpus)) {
		found := marked.FindAllStringSubmatch(line, -1)
		if len(found) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		lines++
		kept := marked.ReplaceAllString(line, "")
		var secrets []string
		for _, m := range found {
			if len(m[1]) > 3 && !strings.Contains(kept, m[1]) { // what is short or stands elsewhere too tells nothing
				secrets = append(secrets, m[1])
			}
		}
		command := strings.TrimSpace(marked.ReplaceAllString(line, "$1"))
		ev := launch("/usr/bin/dash", "sh", "-c", command)
		ev.Subject.Command = ev.Program.Command
		for what, text := range written(t, &ev, false) {
			for _, s := range secrets {
				if strings.Contains(text, s) {
					t.Errorf("%s: %q is in %s", command, s, what)
				}
			}
		}
	}
	if lines < 150 {
		t.Errorf("%d lines with secrets", lines)
	}
}

// written is everything that is written of an event.
func written(t *testing.T, ev *policy.Event, keep bool) map[string]string {
	t.Helper()
	src := &audit.Source{KeepSecrets: keep}
	engine, err := policy.Compile(&policy.Policy{Version: 1,
		CustomRules: []policy.CustomRule{{Name: "all", Type: "processes", Script: `not proc.name = "x"`, Message: "it ran %proc.cmdline"}},
		Rules:       []policy.Rule{{Name: "r", Custom: []policy.CustomRef{{Rule: "all", Effect: "alert"}}}},
	}, policy.Workload{})
	if err != nil {
		t.Fatal(err)
	}
	rec := audit.New(src, ev, engine.Decide(ev), audit.Outcome{Time: at})
	ring := audit.NewRing(src, 1<<20)
	ring.Event(ev, 1, 2, true, at)
	if err := ring.Write(rec); err != nil {
		t.Fatal(err)
	}
	forensic, _ := ring.Snapshot()
	r := NewRecording(full(Header{}))
	if keep {
		r.KeepSecrets()
	}
	r.Add(ev, at)
	var recording bytes.Buffer
	if err := r.Write(&recording); err != nil {
		t.Fatal(err)
	}
	_, learnt := learned(t, r)
	texts := map[string]string{"the recording": recording.String(), "the learned policy": learnt}
	for what, v := range map[string]any{"the record": rec, "the forensic data": forensic} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		texts[what] = string(b)
	}
	var rows strings.Builder
	for i := range forensic {
		rows.WriteString(strings.Join(forensic[i].Row(), ","))
	}
	texts["the forensic table"] = rows.String()
	return texts
}

// Who asks for secrets to be kept finds them everywhere.
func TestKeptSecrets(t *testing.T) {
	t.Parallel()
	ev := launch("/usr/bin/mysql", "mysql", "-phunter2")
	for what, text := range written(t, &ev, true) {
		if !strings.Contains(text, "hunter2") {
			t.Errorf("%s: %s", what, text)
		}
	}
}

// A name with a secret in it is learned as a pattern, and written nowhere.
func TestSecretsInNames(t *testing.T) {
	t.Parallel()
	const secret = "glpat-abcdefghij0123456789"
	ev := lookup(secret + ".example.com")
	r := record(full(Header{}), ev)
	engine, text := learned(t, r)
	var recording bytes.Buffer
	if err := r.Write(&recording); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text+recording.String(), secret) || !strings.Contains(text, "*.example.com") {
		t.Errorf("%s\n%s", text, recording.String())
	}
	if v := engine.Decide(&ev); !v.Allow {
		t.Errorf("refused: %s", v.Reason)
	}
	if list := r.List(); slices.ContainsFunc(list, func(o Observation) bool { return strings.Contains(o.Domain, secret) }) {
		t.Errorf("kept: %+v", list)
	}
}
