package compat

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"appdefender/policy"
	"appdefender/policy/file"
)

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func ref(e policy.Effect) *policy.Effect { return &e }

// always are what the other form detects in processes unless it is told not to.
var always = policy.ProcessDetections{Modified: ref(policy.Inherit), AlteredPackages: ref(policy.Inherit)}

func TestImportExamples(t *testing.T) {
	minimal := policy.Rule{
		Name:      "my-rule",
		Processes: &policy.ProcessesSection{Effect: ref(policy.Alert), Detect: always},
		Network:   &policy.NetworkSection{Effect: ref(policy.Alert)},
		DNS:       &policy.DNSSection{Effect: ref(policy.Alert)},
	}
	p, notes, err := Import(read(t, "runtime-policy-app-embedded-minimal.json"))
	if err != nil || len(notes) > 0 {
		t.Fatal(err, notes)
	}
	if diff := cmp.Diff(&policy.Policy{Version: 1, Rules: []policy.Rule{minimal}}, p); diff != "" {
		t.Error(diff)
	}

	posted := minimal
	posted.Network = &policy.NetworkSection{Effect: ref(policy.Alert), Outbound: policy.OutboundSection{AllowPorts: []string{"4312-4555"}}}
	posted.DNS = &policy.DNSSection{Effect: ref(policy.Prevent)}
	r, _, err := ImportRule(read(t, "runtime-policy-app-embedded-post-rule.json"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(posted, r); diff != "" {
		t.Error(diff)
	}
}

func TestImportFull(t *testing.T) {
	full := read(t, "runtime-policy-app-embedded-full.json")
	if _, _, err := Import(full); err == nil || err.Error() != "rules[1].customRules[0]._id: there is no custom rule 1001 in the library; import that too\n"+
		"rules[1].customRules[1]._id: there is no custom rule 1002 in the library; import that too" {
		t.Errorf("without the library: %v", err)
	}
	library, _, err := ImportCustomRules(read(t, "custom-rules.json"))
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := Import(full, library...)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Rules[0].Scope, (policy.Scope{Containers: []string{"twistlock-fargate-task"}}); !cmp.Equal(got, want) {
		t.Errorf("scope %+v", got)
	}
	on := ref(policy.Inherit)
	processes := always
	processes.CryptoMiners = on
	want1 := policy.Rule{
		Name:  "payments - strict",
		Scope: policy.Scope{AppIDs: []string{"payments*", "-payments-dev*"}},
		Processes: &policy.ProcessesSection{
			Effect: ref(policy.Prevent), Allow: []string{"java", "sh"}, Exempt: []string{"java", "sh"}, Detect: processes,
		},
		Network: &policy.NetworkSection{Effect: ref(policy.Prevent), Outbound: policy.OutboundSection{
			Allow: []string{"10.0.0.0/8"}, Deny: []string{"10.9.9.9"}, AllowPorts: []string{"443", "5432-5433"},
		}, Listen: policy.ListenSection{AllowPorts: []string{"8080"}}},
		DNS: &policy.DNSSection{Effect: ref(policy.Prevent), Allow: []string{"*.example.com", "*.amazonaws.com"}},
		Files: &policy.FilesSection{Effect: ref(policy.Prevent), Deny: []string{"/etc", "/usr/bin"}, Detect: policy.FileDetections{
			Binaries: on, Certificates: on, PrivateKeys: on, SSHAndAdminFiles: on, PackedBinaries: on, SuspiciousELF: on,
			ForeignArchitecture: on, Malware: on,
		}},
		Custom: []policy.CustomRef{
			{Rule: "cloud metadata access", Effect: "prevent", Action: "incident"},
			{Rule: "database client started a different program", Effect: "alert", Action: "audit"},
		},
	}
	if diff := cmp.Diff(want1, p.Rules[1]); diff != "" {
		t.Error(diff)
	}
	roundTrip(t, p)
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// roundTrip exports a policy and imports it again.
func roundTrip(t *testing.T, p *policy.Policy) {
	t.Helper()
	out, _, err := Export(p)
	if err != nil {
		t.Fatal(err)
	}
	lib, err := ExportCustomRules(p)
	if err != nil {
		t.Fatal(err)
	}
	library, _, err := ImportCustomRules(encode(t, lib))
	if err != nil {
		t.Fatal(err)
	}
	again, notes, err := Import(encode(t, out), library...)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, again); diff != "" {
		t.Error(diff)
	}
	for _, n := range notes {
		if !strings.Contains(n.Msg, "block") && !strings.Contains(n.Msg, "feeds") {
			t.Errorf("note: %s", n)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for _, name := range []string{"minimal", "full"} {
		library, _, err := ImportCustomRules(read(t, "custom-rules.json"))
		if err != nil {
			t.Fatal(err)
		}
		p, _, err := Import(read(t, "runtime-policy-app-embedded-"+name+".json"), library...)
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, p)
	}
	roundTrip(t, &policy.Policy{Version: 1, Rules: []policy.Rule{
		{Name: "empty"},
		{
			Name: "all", Disabled: true,
			Scope:     policy.Scope{Images: []string{"nginx*", "-nginx:1"}, Containers: []string{"a", "b"}, AppIDs: []string{"-x"}},
			Processes: &policy.ProcessesSection{Effect: ref(policy.Block), Allow: []string{"/usr/bin/*"}, Deny: []string{"nc"}},
			Network: &policy.NetworkSection{Effect: ref(policy.Disable), Outbound: policy.OutboundSection{
				Allow: []string{"2001:db8::/32"}, Deny: []string{"169.254.169.254"}, AllowPorts: []string{"1-65535"}, DenyPorts: []string{"25"},
			}, Listen: policy.ListenSection{AllowPorts: []string{"80", "8080-8090"}, DenyPorts: []string{"22"}}},
			DNS:   &policy.DNSSection{Effect: ref(policy.Prevent), Allow: []string{"*"}, Deny: []string{"evil.test", "*.evil.test"}},
			Files: &policy.FilesSection{Effect: ref(policy.Alert), Allow: []string{"/tmp"}, Deny: []string{"/etc"}},
		},
	}})
}

// The examples come back as they were, but for history and for what the other
// form fills in by itself.
func TestRoundTripJSON(t *testing.T) {
	library, _, err := ImportCustomRules(read(t, "custom-rules.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"minimal", "full"} {
		var before Policy
		data := read(t, "runtime-policy-app-embedded-"+name+".json")
		if err := json.Unmarshal(data, &before); err != nil {
			t.Fatal(err)
		}
		p, _, err := Import(data, library...)
		if err != nil {
			t.Fatal(err)
		}
		after, notes, err := Export(p)
		if err != nil || len(notes) > 0 {
			t.Fatal(err, notes)
		}
		before.ID = PolicyID
		for i := range before.Rules {
			b, a := &before.Rules[i], &after.Rules[i]
			b.Owner, b.Modified, b.PreviousName = "", "", ""
			b.WildFireAnalysis = "disable" // as if it were not there
			for k := range b.Collections {
				c, d := &b.Collections[k], &a.Collections[k]
				c.Owner, c.Modified, c.Color, c.Description, c.System = "", "", "", "", d.System
				if c.Name != "All" {
					c.Name = d.Name // a collection has the name of its rule here
				}
				if c.AppIDs == nil {
					*c = *d // only named
				}
			}
			for _, c := range a.CustomRules {
				if c.ID == 0 {
					t.Errorf("rule %d: a custom rule without its number", i)
				}
			}
		}
		// An empty list and one that is absent are the same.
		var x, y any
		if json.Unmarshal(encode(t, before), &x) != nil || json.Unmarshal(encode(t, after), &y) != nil {
			t.Fatal("no JSON")
		}
		if diff := cmp.Diff(drop(x), drop(y)); diff != "" {
			t.Errorf("%s (-before +after):\n%s", name, diff)
		}
	}
}

// drop returns v without empty lists and nulls.
func drop(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if list, ok := value.([]any); value == nil || ok && len(list) == 0 {
				delete(v, key)
			} else {
				v[key] = drop(value)
			}
		}
	case []any:
		for i := range v {
			v[i] = drop(v[i])
		}
	}
	return v
}

// Nothing is dropped: each setting of a rule comes back or is a fault, or where it
// refuses nothing a note.
func TestExportDropsNothing(t *testing.T) {
	for _, effect := range []policy.Effect{policy.Prevent, policy.Alert} {
		t.Run(effect.String(), func(t *testing.T) { dropsNothing(t, effect) })
	}
}

func dropsNothing(t *testing.T, effect policy.Effect) {
	entries := map[string]string{
		"Scope": "a", "DNS": "a.test", "Allow": "10.0.0.0/8", "Deny": "10.0.0.0/8", "AllowNames": "a.test", "DenyNames": "a.test", "AllowFamilies": "vsock",
		"AllowPorts": "80", "DenyPorts": "80", "Malware": "md5:" + strings.Repeat("0", 32), "Trusted": "md5:" + strings.Repeat("0", 32),
	}
	entry := func(path []string) string {
		for _, key := range []string{path[len(path)-1], path[0]} {
			if s, ok := entries[key]; ok && (path[0] == "Network" || path[0] == "Scope" || path[0] == "DNS" || key != "Allow" && key != "Deny") && (path[0] != "DNS" || key == "DNS") {
				return s
			}
		}
		return "/a"
	}
	leaves := 0
	var walk func(v reflect.Value, path []string, check func())
	walk = func(v reflect.Value, path []string, check func()) {
		switch {
		case v.Type() == reflect.TypeFor[*policy.Effect]():
			if path[len(path)-1] == "Effect" { // each section has one
				return
			}
			v.Set(reflect.ValueOf(ref(policy.Inherit)))
		case v.Kind() == reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			v.Elem().FieldByName("Effect").Set(reflect.ValueOf(ref(effect)))
			walk(v.Elem(), path, check)
			v.SetZero()
			return
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				walk(v.Field(i), append(path[:len(path):len(path)], v.Type().Field(i).Name), check)
			}
			return
		case v.Type() == reflect.TypeFor[[]policy.CustomRef]():
			v.Set(reflect.ValueOf([]policy.CustomRef{{Rule: "c", Effect: "allow", Action: "audit"}}))
		case v.Type() == reflect.TypeFor[[]policy.ParentRule]():
			v.Set(reflect.ValueOf([]policy.ParentRule{{Programs: []string{"a"}, Deny: []string{"b"}}}))
		case v.Kind() == reflect.Slice:
			v.Set(reflect.ValueOf([]string{entry(path)}))
		case v.Kind() == reflect.Bool:
			v.SetBool(true)
		default:
			v.SetString("refused") // a name, a note, an answer
		}
		leaves++
		check()
		v.SetZero()
	}
	p := &policy.Policy{Version: 1, CustomRules: []policy.CustomRule{{ID: 1, Name: "c", Type: "processes", Script: "proc.interactive"}}}
	p.Rules = []policy.Rule{{}}
	walk(reflect.ValueOf(&p.Rules[0]).Elem(), nil, func() {
		if p.Rules[0].Name == "" {
			p.Rules[0].Name = "n"
			defer func() { p.Rules[0].Name = "" }()
		}
		out, notes, err := Export(p)
		if err != nil || effect == policy.Alert && len(notes) > 0 {
			return
		}
		// What is not written in the other form is on there: modified programs.
		again, _, err := Import(encode(t, out), p.CustomRules...)
		if err != nil {
			t.Fatalf("%+v: %v", p.Rules[0], err)
		}
		if diff := cmp.Diff(p, again); diff != "" {
			t.Errorf("dropped without a word:\n%s", diff)
		}
	})
	if leaves < 60 {
		t.Errorf("only %d settings", leaves)
	}
}

func TestCustomRules(t *testing.T) {
	library, notes, err := ImportCustomRules(read(t, "custom-rules.json"))
	if err != nil || len(library) != 10 || len(notes) != 20 { // an owner and a date each
		t.Fatal(len(library), notes, err)
	}
	want := policy.CustomRule{
		ID: 1001, Name: "cloud metadata access", Type: "network-outgoing", Description: "documented expression",
		Script:  `net.outgoing_ip = "169.254.169.254" or net.outgoing_ip = "169.254.170.2"`,
		Message: "%proc.name queried the instance or task metadata service", AttackTechniques: []string{"cloudInstanceMetadataAPI"},
	}
	if diff := cmp.Diff(want, library[0]); diff != "" {
		t.Error(diff)
	}
	out, err := ExportCustomRules(&policy.Policy{CustomRules: append(library, policy.CustomRule{Name: "new", Type: "processes", Script: `proc.name = "x"`})})
	if err != nil || len(out) != 11 || out[10].ID != 1011 || out[0].Script != want.Script {
		t.Errorf("%+v, %v", out, err)
	}
	one, notes, err := ImportCustomRules([]byte(` {"_id":1,"name":"a","type":"processes","script":"proc.interactive","message":"m","minVersion":"1","vulnIDs":["x"]}`))
	if err != nil || len(one) != 1 || len(notes) != 2 {
		t.Errorf("%v, %v, %v", one, notes, err)
	}
	_, _, err = ImportCustomRules([]byte(`[{"_id":1,"name":"k","type":"kubernetes-audit","script":"x"},{"name":"a","type":"processes","script":"proc.name"},
		{"_id":3,"name":"b","type":"p"},{"_id":3,"name":"c","type":"processes","script":"proc.interactive"}]`))
	if want := `[1]._id: missing; policies choose the rule by it
[1].script: line 1, column 1: proc.name is a string, not a condition; compare it
  proc.name
  ^
[2].type: "p" is not a type of custom rule; one of processes, filesystem, network-outgoing, dns, listening
[3]._id: 3 is already the id of customRules[1]`; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	_, err = ExportCustomRules(&policy.Policy{CustomRules: []policy.CustomRule{
		{Name: "a", Type: "dns", Script: `dns.name = "x"`}, {Name: "b", Type: "processes", Script: `proc.args = "-l"`, Message: "%app.id"},
	}})
	if want := `customRules[0].type: has no counterpart
customRules[0].script: dns.name has no counterpart
customRules[1].script: app.id has no counterpart
customRules[1].script: proc.args has no counterpart`; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	_, _, err = Import([]byte(`{"rules":[{"name":"a","collections":[{"name":"All"}],"customRules":[{"_id":1001,"effect":"ban","action":"page"},{"effect":"alert"}]}]}`), library...)
	if want := `rules[0].customRules[1]._id: missing; it says which custom rule
rules[0].customRules[0].effect: "ban" is not an effect of custom rules; one of allow, disable, alert, prevent, block, incident
rules[0].customRules[0].action: "page" is not an action; audit or incident`; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

// Older rules carry their scope, and a rule that was exported alone is a
// policy too.
func TestOldSpelling(t *testing.T) {
	p, _, err := Import([]byte(`{"name":"old","resources":{"hosts":["*"],"images":["nginx*"],"containers":["*"],"labels":["*"]},"dns":{"effect":"alert"}}`))
	if err != nil || len(p.Rules) != 1 || !cmp.Equal(p.Rules[0].Scope, policy.Scope{Images: []string{"nginx*"}}) {
		t.Errorf("%+v, %v", p, err)
	}
	for _, tt := range []struct{ in, want string }{
		{`{"name":"a","resources":{"labels":["x"]}}`, `resources.labels: not supported; a scope here is appIDs, images and containers`},
		{`{"name":"a","resources":{},"collections":[{"name":"All"}]}`, `resources: stands beside collections; a rule has one or the other`},
	} {
		if _, _, err := Import([]byte(tt.in)); err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v", tt.in, err)
		}
	}
}

func TestExport(t *testing.T) {
	out, _, err := Export(&policy.Policy{Version: 1, Rules: []policy.Rule{
		{Name: "a", DNS: &policy.DNSSection{Effect: ref(policy.Alert), Deny: []string{".x.test", "**.y.test", "z.test"}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := out.Rules[0].DNS.Blacklist, []string{"x.test", "*.x.test", "y.test", "*.y.test", "z.test"}; !slices.Equal(got, want) {
		t.Errorf("blacklist %q", got)
	}
	if c := out.Rules[0].Collections[0]; c.Name != "All" || !slices.Equal(c.Images, []string{"*"}) {
		t.Errorf("collection %+v", c)
	}
	_, _, err = Export(&policy.Policy{Version: 1, Rules: []policy.Rule{{Name: "a", OnUnknown: ref(policy.Prevent)}}})
	if err == nil || err.Error() != "rules[0].onUnknown: has no counterpart" {
		t.Errorf("onUnknown: %v", err)
	}
	_, _, err = Export(&policy.Policy{Version: 1, Rules: []policy.Rule{{Name: "a", Network: &policy.NetworkSection{
		Effect: ref(policy.Prevent), Unix: policy.UnixSection{Deny: []string{"docker.sock"}},
	}}}})
	if err == nil || err.Error() != "rules[0].network.unix: has no counterpart" {
		t.Errorf("unix: %v", err)
	}
}

// What has no counterpart is told, each by its path.
func TestExportFaults(t *testing.T) {
	on, prevent := ref(policy.Inherit), ref(policy.Prevent)
	for _, tt := range []struct {
		rule policy.Rule
		want string
	}{
		{policy.Rule{Processes: &policy.ProcessesSection{Effect: prevent, Detect: policy.ProcessDetections{
			ReverseShell: on, Fileless: on, WritablePath: on, SetUID: on, ShellsFromServers: on, PackageManagersFromServers: on,
		}}}, `rules[0].processes.detect.fileless: has no counterpart
rules[0].processes.detect.packageManagersFromServers: has no counterpart
rules[0].processes.detect.reverseShell: has no counterpart
rules[0].processes.detect.setUID: has no counterpart
rules[0].processes.detect.shellsFromServers: has no counterpart
rules[0].processes.detect.writablePath: has no counterpart`},
		{policy.Rule{Processes: &policy.ProcessesSection{Effect: prevent, Exempt: []string{"a"}, Parents: []policy.ParentRule{{}}, Detect: policy.ProcessDetections{
			CryptoMiners: ref(policy.Alert), Modified: on, NewBinaries: prevent, LateralMovement: ref(policy.Disable),
		}}}, `rules[0].processes.detect.modified and alteredPackages: one without the other has no counterpart
rules[0].processes.detect.cryptoMiners: "alert" has no counterpart: the section's effect is that of its detections
rules[0].processes.parents: has no counterpart
rules[0].processes.exempt: there, exactly what is on the allow list is exempt from detections`},
		{policy.Rule{Network: &policy.NetworkSection{
			Effect:   prevent,
			Outbound: policy.OutboundSection{AllowNames: []string{"a"}, DenyNames: []string{"a"}, Unresolved: on},
			Unix:     policy.UnixSection{Allow: []string{"a"}},
			Detect:   policy.NetworkDetections{CloudMetadata: on, PortScan: on, RawSockets: on, MinerPools: on},
		}, DNS: &policy.DNSSection{Effect: prevent, Detect: policy.DNSDetections{MinerPools: on}}}, `rules[0].network.outbound.allowNames: has no counterpart
rules[0].network.outbound.denyNames: has no counterpart
rules[0].network.unix: has no counterpart
rules[0].dns.detect.minerPools: has no counterpart
rules[0].network.detect.cloudMetadata: has no counterpart
rules[0].network.detect.minerPools: has no counterpart
rules[0].network.detect.portScan: has no counterpart
rules[0].network.detect.rawSockets: has no counterpart
rules[0].network.outbound.unresolved: has no counterpart`},
		{policy.Rule{Files: &policy.FilesSection{Effect: prevent, Malware: []string{"x"}, Trusted: []string{"x"}, Detect: policy.FileDetections{Binaries: on}}},
			`rules[0].files.malware: has no counterpart
rules[0].files.trusted: has no counterpart
rules[0].files.detect.binaries, certificates and privateKeys: one without the other has no counterpart`},
	} {
		tt.rule.Name = "a"
		_, _, err := Export(&policy.Policy{Version: 1, Rules: []policy.Rule{tt.rule}})
		if err == nil {
			err = errors.New("none")
		}
		if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
			t.Error(diff)
		}
	}
	_, notes, err := Export(&policy.Policy{Version: 1, Rules: []policy.Rule{{Name: "a", Processes: &policy.ProcessesSection{
		Effect: ref(policy.Alert), Allow: []string{"/usr/bin/x", "y"}, Detect: policy.ProcessDetections{CryptoMiners: on},
	}}}})
	if err != nil || len(notes) != 2 || notes[0].Path != "rules[0].processes.allow[0]" || notes[1].Path != "rules[0].processes.allow" {
		t.Errorf("%v, %v", notes, err)
	}
}

// A rule with a line of JSON put in.
func TestFaults(t *testing.T) {
	const all = `"collections":[{"name":"All"}]`
	for _, tt := range []struct{ in, want string }{
		{`x`, `this is no JSON: invalid character 'x' looking for beginning of value`},
		{`{"rules":[]} {}`, `this is no JSON: invalid character '{' after top-level value`},
		{`[]`, `a value of type array does not belong here`},
		{`{"rules":{}}`, `rules: a value of type object does not belong here`},
		{`{"rulez":[]}`, `rulez: unknown key`},
		{`{"rules":[],"rules":[]}`, `rules: stands here twice`},
		{`{"rules":[{"Name":"a"}]}`, `rules[0].Name: unknown key`},
		{`{"rules":[{"name":"a",` + all + `,"dns":{"effect":"alert","allowedList":[]}}]}`, `rules[0].dns.allowedList: unknown key: rules for containers have it; import a rule for App-Embedded Defenders`},
		{`{"rules":[{"name":"a",` + all + `,"dns":{"effect":"alert","whitelist":"x"}}]}`, `rules.dns.whitelist: a value of type string does not belong here`},
		{`{"rules":[{"name":"a"}]}`, `rules[0].collections: missing; without a collection the rule means nothing`},
		{`{"rules":[{"name":"a",` + all + `,"dns":{}}]}`, `rules[0].dns.effect: missing; one of disable, alert, prevent, block`},
		{`{"rules":[{"name":"a",` + all + `,"dns":{"effect":"prevnt"}}]}`, `rules[0].dns.effect: "prevnt" is not an effect; one of disable, alert, prevent, block`},
		{`{"rules":[{` + all + `}]}`, `rules[0].name: missing`},
		{`{"rules":[{"name":"a",` + all + `},{"name":"a",` + all + `}]}`, `rules[1].name: "a" is already the name of rules[0]`},
		{`{"rules":[{"name":"a",` + all + `,"dns":{"effect":"alert","blacklist":["*x.test"]}}]}`,
			`rules[0].dns.blacklist[0]: "*x.test": a "*" stands alone or as the whole first label ("*.example.com", "**.example.com")`},
		{`{"rules":[{"name":"a",` + all + `,"network":{"effect":"alert","blacklistIPs":["10.0.0.300"]}}]}`,
			`rules[0].network.blacklistIPs[0]: "10.0.0.300" is neither an address nor a prefix such as 10.0.0.0/8`},
		{`{"rules":[{"name":"a",` + all + `,"network":{"effect":"alert","whitelistOutboundPorts":[{"start":5,"end":4},{"start":1,"end":2,"deny":true}]}}]}`,
			"rules[0].network.whitelistOutboundPorts[0]: 5 to 4 is no range of ports\nrules[0].network.whitelistOutboundPorts[1].deny: true on a list of what is allowed"},
		{`{"rules":[{"name":"a","collections":[{"name":"prod"}]}]}`,
			`rules[0].collections[0]: what is in the collection "prod" is not known here; write its appIDs, images and containers`},
		{`{"rules":[{"name":"a","collections":[{"name":"x","appIDs":["a"],"clusters":["c"]}]}]}`,
			`rules[0].collections[0].clusters: not supported; a scope here is appIDs, images and containers`},
		{`{"rules":[{"name":"a",` + all + `,"wildFireAnalysis":"alert"}]}`,
			"rules[0].wildFireAnalysis: files are sent to no service here; write disable to import the rest"},
		{`{"rules":[{"name":"a",` + all + `,"filesystem":{"effect":"prevent","whitelist":["tmp/x"]}}]}`,
			`rules[0].filesystem.whitelist[0]: "tmp/x" is a relative path; write an absolute one or a name`},
	} {
		p, _, err := Import([]byte(tt.in))
		if p != nil || err == nil || err.Error() != tt.want {
			t.Errorf("%s\n got %v\nwant %v", tt.in, err, tt.want)
		}
	}
	// Of one rule, paths begin in the rule.
	if _, _, err := ImportRule([]byte(`{"name":"","collections":[{"name":"All"}],"dns":{"effect":"alert","whitelist":["a b"]}}`)); err == nil ||
		!strings.HasPrefix(err.Error(), "name: missing\ndns.whitelist[0]: ") {
		t.Errorf("one rule: %v", err)
	}
}

func TestNotes(t *testing.T) {
	_, notes, err := Import([]byte(`{"rules":[{"name":"a","notes":"why","owner":"o","modified":"m","previousName":"p","advancedProtection":true,"collections":[{"name":"All"}],
		"processes":{"effect":"disable","checkCryptoMiners":true},
		"network":{"effect":"block","whitelistIPs":["10.1.2.3/8"]},
		"dns":{"effect":"alert","whitelist":["*.s3.*.example.com","*.*.b.a","*amazon.com","*.s3.*amazon.com","**.plain.test"]},
		"filesystem":{"effect":"disable","skipEncryptedBinaries":true}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`rules[0].owner: "o" is left out: it is history, not policy`,
		`rules[0].modified: "m" is left out: it is history, not policy`,
		`rules[0].previousName: "p" is left out: it is history, not policy`,
		`rules[0].network.effect: block ends the whole application here`,
		`rules[0].network.whitelistIPs[0]: "10.1.2.3/8" is read as 10.0.0.0/8`,
		`rules[0].dns.whitelist[0]: "*.s3.*.example.com" is read as "*.example.com": of several stars the last counts`,
		`rules[0].dns.whitelist[1]: "*.*.b.a" is read as "*.b.a": of several stars the last counts`,
		`rules[0].dns.whitelist[2]: "*amazon.com" is read as "**.amazon.com": other names that end in these letters are not meant`,
		`rules[0].dns.whitelist[3]: "*.s3.*amazon.com" is read as "**.amazon.com": other names that end in these letters are not meant`,
		`rules[0].advancedProtection: feeds of bad names and addresses do not exist here; files are compared with the rule's own list, files.malware`,
	}
	var got []string
	for _, n := range notes {
		got = append(got, n.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCollections(t *testing.T) {
	type cs = []Collection
	for _, tt := range []struct {
		name string
		in   cs
		want policy.Scope
		ok   bool
	}{
		{"everything", cs{{Name: "All"}}, policy.Scope{}, true},
		{"stars", cs{{Name: "x", AppIDs: []string{"*"}, Images: []string{"*"}}}, policy.Scope{}, true},
		{"two of one field", cs{{Containers: []string{"a"}}, {Containers: []string{"b", "c"}}}, policy.Scope{Containers: []string{"a", "b", "c"}}, true},
		{"one inside another", cs{{AppIDs: []string{"a"}, Images: []string{"i"}}, {AppIDs: []string{"a"}}}, policy.Scope{AppIDs: []string{"a"}}, true},
		{"one and everything", cs{{AppIDs: []string{"a"}}, {Name: "All"}}, policy.Scope{}, true},
		{"two fields", cs{{AppIDs: []string{"a"}}, {Images: []string{"b"}}}, policy.Scope{}, false},
		{"an exclusion", cs{{AppIDs: []string{"*", "-a"}}, {AppIDs: []string{"a"}}}, policy.Scope{}, false},
	} {
		var c importer
		got := c.scope("r", tt.in, "collections")
		if ok := len(c.faults) == 0; ok != tt.ok || ok && !cmp.Equal(got, tt.want) {
			t.Errorf("%s: %+v, %v", tt.name, got, c.faults)
		}
	}
}

func FuzzImport(f *testing.F) {
	for _, name := range []string{"minimal", "post-rule", "full"} {
		b, err := os.ReadFile("testdata/runtime-policy-app-embedded-" + name + ".json")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, _, err := Import(data)
		if err != nil {
			if p != nil || err.Error() == "" {
				t.Errorf("%v, %q", p, err)
			}
			return
		}
		if faults := p.Validate(); len(faults) > 0 {
			t.Errorf("not valid: %v", faults)
		}
		// What imports, exports, and that imports again.
		out, _, err := Export(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := Import(encode(t, out)); err != nil {
			t.Error(err)
		}
	})
}

// The shipped policy can be read in the other form. What only tells there is
// left out, and comes back to a rule that is written back.
func TestExportDefault(t *testing.T) {
	was := file.Default()
	out, notes, err := Export(was)
	if err != nil || len(notes) == 0 {
		t.Fatalf("%v, notes %v", err, notes)
	}
	data, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	library := slices.Clone(was.CustomRules)
	for i := range library {
		library[i].ID = i + 1 // the numbers that they have in the other form
	}
	back, _, err := Import(data, library...)
	if err != nil {
		t.Fatal(err)
	}
	if len(Keep(&back.Rules[0], &was.Rules[0], "")) == 0 {
		t.Error("nothing was kept")
	}
	if diff := cmp.Diff(was.Rules[0], back.Rules[0], cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

// What only tells is a note, and what is disabled says nothing.
func TestExportNotes(t *testing.T) {
	_, notes, err := Export(&policy.Policy{Version: 1, Rules: []policy.Rule{{Name: "a", OnUnknown: ref(policy.Disable), Processes: &policy.ProcessesSection{
		Effect: ref(policy.Alert), Detect: policy.ProcessDetections{ReverseShell: ref(policy.Inherit), Fileless: ref(policy.Disable), Modified: ref(policy.Alert)},
	}}}})
	var got []string
	for _, n := range notes {
		got = append(got, n.Path)
	}
	if want := []string{"rules[0].processes.detect.modified and alteredPackages", "rules[0].processes.detect.reverseShell"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, notes %v", err, notes)
	}
}
