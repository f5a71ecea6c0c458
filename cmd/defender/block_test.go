package main

import "testing"

// TestBlock ends the target, in order and then by force, with what it started;
// as process 1, whose end is the container's, and as any other.
func TestBlock(t *testing.T) {
	t.Parallel()
	needRoot(t)
	const (
		policy = "version: 1\nrules:\n  - name: r\n    processes: {effect: alert, detect: {cryptoMiners: block}}\n"
		blocks = "cp /bin/sleep xmrig; ./xmrig 0; while :; do sleep 0.1; done"
	)
	for _, test := range []struct {
		name, script, out string
		status            int
	}{
		{"in order", `trap "echo bye; exit 7" TERM; ` + blocks, "bye\n", 7},
		{"by default", blocks, "", 128 + 15},
		{"by force", `trap "" TERM; ` + blocks, "", 128 + 9},
		{"with the rest", `(trap "" TERM; while :; do sleep 0.1; done) & trap "echo bye; exit 7" TERM; ` + blocks, "bye\n", 7},
		{"with another session", `setsid sh -c 'trap "" TERM; while :; do sleep 0.1; done' & trap "exit 7" TERM; ` + blocks, "", 7},
		{"asked by a child", `(` + blocks + `); echo`, "", 128 + 15},
	} {
		for as, wrap := range map[string][]string{"process 1": {"unshare", "-pf", "--mount-proc"}, "another process": nil} {
			t.Run(test.name+"/"+as, func(t *testing.T) {
				t.Parallel()
				p := run{policy: policy, wrap: wrap}.startProtected(t, "sh", "-c", test.script)
				r := p.wait()
				if r.status != test.status || r.out != test.out {
					t.Errorf("status %d and %q, want %d and %q: %s", r.status, r.out, test.status, test.out, r.err)
				}
				if told := r.of("cryptoMinerProcess"); len(told) != 1 || told[0].Effect != "block" || !told[0].Refused {
					t.Errorf("told of %+v", told)
				}
				p.alone()
			})
		}
	}
}
