//go:build platforms

package endtoend

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
)

// A miner starts: the Console has an incident, and what led to it, without
// what is secret; and it gets more when it asks.
func TestIncident(t *testing.T) {
	s := serve(t)
	s.must("POST", "/api/v1/policy/rules", map[string]any{"name": "test", "processes": map[string]any{"effect": "alert", "detect": map[string]any{"cryptoMiners": "alert"}}}, nil)
	token := s.token("t")
	dir := t.TempDir()
	p := s.protect(t, []string{"--token-file", token, "--app-id", "shop"}, "sh", "-c",
		`cp /bin/sleep "$0/xmrig" && "$0/xmrig" 0 && env API_TOKEN=hunter2 sh -c ':'; sleep 600`, dir)
	type incident struct {
		ID       string `json:"_id"`
		Category string
		AppID    string
		Instance string
		Audits   []struct{ Msg string }
	}
	var incidents []incident
	await(t, "there is an incident", func() bool {
		s.must("GET", "/api/v1/audits/incidents", nil, &incidents)
		return len(incidents) > 0
	})
	i := incidents[0]
	if len(incidents) != 1 || i.Category != "cryptoMiner" || i.AppID != "shop" || len(i.Audits) == 0 {
		t.Errorf("%+v", incidents)
	}
	type event struct{ Type, Process, Command string }
	snapshot := func(asked bool) []event {
		t.Helper()
		var list struct {
			Snapshots []struct {
				ID    int
				Asked bool
			}
		}
		at := -1
		await(t, fmt.Sprintf("there is forensic data, asked %v", asked), func() bool {
			s.must("GET", "/api/v1/defenders/"+i.Instance+"/forensics", nil, &list)
			at = slices.IndexFunc(list.Snapshots, func(sn struct {
				ID    int
				Asked bool
			}) bool {
				return sn.Asked == asked
			})
			return at >= 0
		})
		var data struct{ Events []event }
		s.must("GET", fmt.Sprintf("/api/v1/forensics/%d", list.Snapshots[at].ID), nil, &data)
		return data.Events
	}
	// Asked for, with the next heartbeat; and by itself, a little after the
	// incident.
	s.must("POST", "/api/v1/defenders/"+i.Instance+"/forensics/ask", nil, nil)
	for _, asked := range []bool{true, false} {
		events := snapshot(asked)
		for _, want := range []event{
			{"Process spawned", filepath.Join(dir, "xmrig"), filepath.Join(dir, "xmrig") + " 0"},
			{"Incident", filepath.Join(dir, "xmrig"), ""},
		} {
			if !slices.Contains(events, want) {
				t.Errorf("asked %v: %+v is not among %+v", asked, want, events)
			}
		}
		if !slices.ContainsFunc(events, func(e event) bool { return e.Command == "env API_TOKEN=REDACTED sh -c :" }) {
			t.Errorf("asked %v: no scrubbed command among %+v", asked, events)
		}
	}
	if !p.running() {
		t.Error("the target ended")
	}
}
