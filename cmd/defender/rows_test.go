package main

import (
	"strings"
	"testing"
)

// TestEffectsOfDetections runs what the messages of the reference are about,
// with each effect: what prevents stops it, what alerts tells of it, and what
// disables does neither.
func TestEffectsOfDetections(t *testing.T) {
	t.Parallel()
	const done = "done\n"
	tests := []struct {
		attack, section, key, category string
		msg                            string
		flags                          []string
		script                         string // says done if nothing stopped it
	}{
		{attack: "cryptoMinerProcess", section: "processes", key: "cryptoMiners", category: "cryptoMiner",
			msg: "xmrig launched and is identified as a crypto miner. Full command: ./xmrig 0", script: "cp /bin/sleep xmrig; ./xmrig 0 && echo done"},
		{attack: "modifiedProcess", section: "processes", key: "modified",
			msg: "A modified executable ", script: "sleep 12; cp /bin/true late; ./late && echo done"},
		{attack: "administrativeAccount", section: "files", key: "sshAndAdminFiles", category: "backdoorAdministrativeAccount", flags: []string{"--file-monitoring"},
			msg: " wrote to administrative accounts configuration file /etc/passwd", script: "(: >> /etc/passwd) && echo done"},
	}
	for _, test := range tests {
		for _, effect := range []string{"disable", "alert", "prevent"} {
			t.Run(test.attack+"/"+effect, func(t *testing.T) {
				t.Parallel()
				needRoot(t)
				policy := "version: 1\nrules:\n  - name: r\n    " + test.section + ": {effect: alert, detect: {" + test.key + ": " + effect + "}}\n"
				r := run{policy: policy, flags: test.flags}.protected(t, "sh", "-c", test.script)
				told := r.of(test.attack)
				if ran := r.out == done; ran != (effect != "prevent") {
					t.Errorf("it said %q and %q", r.out, r.err)
				}
				if effect == "disable" {
					if len(told) != 0 {
						t.Errorf("told of %+v", told)
					}
					return
				}
				if len(told) == 0 || !strings.Contains(told[0].Msg, test.msg) || told[0].Effect != effect || told[0].Refused != (effect == "prevent") {
					t.Fatalf("told of %+v", told)
				}
				if told[0].Category != test.category {
					t.Errorf("the category is %q", told[0].Category)
				}
			})
		}
	}
}

// TestBlockByForce: a target that ignores the signal to end is ended all the
// same.
func TestBlockByForce(t *testing.T) {
	t.Parallel()
	const policy = "version: 1\nrules:\n  - name: r\n    processes: {effect: alert, detect: {cryptoMiners: block}}\n"
	r := run{policy: policy}.protected(t, "sh", "-c", `cp /bin/sleep xmrig; trap "" TERM; ./xmrig 0; while :; do sleep 1; done`)
	if r.status != 128+9 {
		t.Errorf("status %d: %s", r.status, r.err)
	}
	if told := r.of("cryptoMinerProcess"); len(told) != 1 || told[0].Effect != "block" || !told[0].Refused {
		t.Errorf("told of %+v", told)
	}
}
