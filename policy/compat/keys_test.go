package compat

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// shapes are the other form's, as its documents have them: each key of each
// part of a policy, those of older releases too.
const shapes = `
Policy { _id, owner, rules }
Rule { name, previousName, notes, owner, modified, disabled, collections, advancedProtection, wildFireAnalysis, customRules,
  processes, network, dns, filesystem, resources }
CustomRule { _id, action, effect }
Processes { effect, whitelist, blacklist, checkCryptoMiners, checkLateralMovement, checkNewBinaries, skipModified, blockAllBinaries }
Network { effect, whitelistIPs, blacklistIPs, whitelistListeningPorts, blacklistListeningPorts, whitelistOutboundPorts, blacklistOutboundPorts }
PortRange { start, end, deny }
DNS { effect, whitelist, blacklist }
Filesystem { effect, whitelist, blacklist, checkNewFiles, backdoorFiles, skipEncryptedBinaries, suspiciousELFHeaders }
Collection { name, appIDs, images, containers, accountIDs, clusters, functions, hosts, labels, namespaces, codeRepos,
  color, description, owner, modified, system, prisma }
Resources { hosts, images, containers, labels, namespaces, functions, clusters, accountIDs, appIDs }
LibraryRule { _id, name, type, script, message, description, owner, modified, minVersion, attackTechniques, vulnIDs }
`

// readShapes returns the keys of each part.
func readShapes(t *testing.T) map[string][]string {
	t.Helper()
	parts := make(map[string][]string)
	for part := range strings.SplitSeq(strings.TrimSpace(shapes), "}") {
		name, keys, ok := strings.Cut(part, "{")
		if !ok {
			continue
		}
		parts[strings.TrimSpace(name)] = strings.FieldsFunc(keys, func(r rune) bool { return strings.ContainsRune(", \n", r) })
	}
	return parts
}

// base is a policy that says as little as can be. What a sample puts in is the
// difference.
const base = `{"rules":[{"name":"base","collections":[{"name":"base","appIDs":["a"]}],"processes":{"effect":"disable","skipModified":true},
	"network":{"effect":"disable"},"dns":{"effect":"disable"},"filesystem":{"effect":"disable","skipEncryptedBinaries":true}}]}`

// where the parts lie in a policy.
var where = map[string]string{
	"Policy": "", "Rule": "rules.0", "CustomRule": "rules.0.customRules.0", "Processes": "rules.0.processes", "Network": "rules.0.network",
	"PortRange": "rules.0.network.blacklistOutboundPorts.0", "DNS": "rules.0.dns", "Filesystem": "rules.0.filesystem",
	"Collection": "rules.0.collections.0", "Resources": "rules.0.resources",
}

// samples are values of keys, as JSON: of a part's, or else of any part's.
var samples = map[string][]string{
	"effect": {`"alert"`, `"prevent"`, `"block"`}, "CustomRule effect": {`"allow"`, `"alert"`, `"prevent"`, `"block"`, `"disable"`, `"ban"`},
	"whitelist": {`["x"]`}, "blacklist": {`["x"]`}, "DNS whitelist": {`["a.test","*.b.test"]`, `["*.s3.*.test"]`}, "DNS blacklist": {`["a.test"]`},
	"Filesystem whitelist": {`["/x"]`}, "Filesystem blacklist": {`["/x"]`},
	"whitelistIPs": {`["10.0.0.0/8"]`, `["10.1.1.1/8"]`}, "blacklistIPs": {`["10.1.1.1"]`},
	"whitelistListeningPorts": {`[{"start":1,"end":2,"deny":false}]`}, "blacklistListeningPorts": {`[{"start":1,"end":2,"deny":true}]`},
	"whitelistOutboundPorts": {`[{"start":1,"end":2,"deny":false}]`}, "blacklistOutboundPorts": {`[{"start":1,"end":2,"deny":true}]`},
	"start": {`7`}, "end": {`7`}, "deny": {`false`, `true`},
	"customRules": {`[{"_id":7,"action":"audit","effect":"alert"}]`}, "CustomRule _id": {`7`, `8`}, "action": {`"audit"`, `"incident"`},
	"wildFireAnalysis": {`"alert"`, `"disable"`}, "collections": {`[{"name":"base","appIDs":["b"]}]`}, "resources": {`{"images":["x"]}`},
	"rules":     {`[]`},
	"processes": {`{"effect":"alert","skipModified":true}`}, "network": {`{"effect":"alert"}`}, "dns": {`{"effect":"alert"}`},
	"filesystem":   {`{"effect":"alert","skipEncryptedBinaries":true}`},
	"skipModified": {`false`}, "skipEncryptedBinaries": {`false`}, "Policy _id": {`"appEmbeddedRuntime"`, `"containerRuntime"`},
}

// Of these parts and keys a value is a text, true, or a list of texts.
var (
	textKeys  = strings.Fields("name previousName notes owner modified color description")
	trueKeys  = strings.Fields("disabled advancedProtection checkCryptoMiners checkLateralMovement checkNewBinaries blockAllBinaries checkNewFiles backdoorFiles suspiciousELFHeaders system prisma")
	listKeys  = strings.Fields("appIDs images containers accountIDs clusters functions hosts labels namespaces codeRepos")
	sectionOf = map[string]string{"PortRange": `[{"start":1,"end":9,"deny":true}]`, "CustomRule": `[{"_id":7,"action":"audit","effect":"alert"}]`}
)

func samplesOf(part, key string) []string {
	for _, name := range []string{part + " " + key, key} {
		if values, ok := samples[name]; ok {
			return values
		}
	}
	switch {
	case slices.Contains(textKeys, key):
		return []string{`"some"`}
	case slices.Contains(trueKeys, key):
		return []string{"true"}
	case slices.Contains(listKeys, key):
		return []string{`["some"]`}
	}
	return nil
}

// at returns the value at a path of keys and numbers.
func at(v any, path string) any {
	for step := range strings.SplitSeq(path, ".") {
		switch in := v.(type) {
		case map[string]any:
			v = in[step]
		case []any:
			i := int(step[0] - '0')
			if i >= len(in) {
				return nil
			}
			v = in[i]
		default:
			return nil
		}
	}
	return v
}

// put sets a value there, and makes what is on the way to it.
func put(v map[string]any, path string, value any) {
	steps := strings.Split(path, ".")
	for i, step := range steps[:len(steps)-1] {
		next := v[step]
		if next == nil {
			next = map[string]any{}
			if steps[i+1] == "0" {
				next = []any{map[string]any{}}
			}
			v[step] = next
		}
		if list, ok := next.([]any); ok {
			v = map[string]any{"0": list[0]}
			continue
		}
		v = next.(map[string]any) //nolint:forcetypeassert // of a test
	}
	v[steps[len(steps)-1]] = value
}

func parsed(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

// TestKeys: each key that the other form has comes back as it was, or is told.
func TestKeys(t *testing.T) {
	library, _, err := ImportCustomRules([]byte(`[{"_id":7,"name":"c","type":"processes","script":"proc.interactive"}]`))
	if err != nil {
		t.Fatal(err)
	}
	for part, keys := range readShapes(t) {
		if part == "LibraryRule" {
			continue
		}
		for _, key := range keys {
			values := samplesOf(part, key)
			if len(values) == 0 {
				t.Errorf("%s.%s: no sample", part, key)
			}
			for _, value := range values {
				in, _ := parsed(t, base).(map[string]any)
				if part == "Resources" || key == "resources" {
					rule, _ := at(in, "rules.0").(map[string]any)
					delete(rule, "collections")
				}
				if section := sectionOf[part]; section != "" {
					put(in, strings.TrimSuffix(where[part], ".0"), parsed(t, section))
				}
				path := strings.TrimPrefix(where[part]+"."+key, ".")
				put(in, path, parsed(t, value))
				p, told, err := Import(encode(t, in), library...)
				if faults, ok := err.(Errors); ok { //nolint:errorlint // it is no other
					told = faults
				} else if err != nil {
					t.Fatal(err)
				}
				says := slices.ContainsFunc(told, func(f Fault) bool {
					here := strings.ReplaceAll(path, ".0", "[0]")
					parent := strings.TrimSuffix(here, "."+key)
					return f.Path == here || f.Path == here+"[0]" || f.Path == parent && strings.HasSuffix(f.Msg, " "+key)
				})
				if says || err != nil {
					if !says {
						t.Errorf("%s = %s: told of something else: %v", path, value, err)
					}
					continue
				}
				out, _, err := Export(p)
				if err != nil {
					t.Errorf("%s = %s: %v", path, value, err)
					continue
				}
				back := path
				if part == "Resources" {
					back = strings.Replace(path, "resources", "collections.0", 1)
				}
				if key == "resources" {
					back, value = "rules.0.collections.0.images", `["x"]`
				}
				if got, want := at(parsed(t, string(encode(t, out))), back), parsed(t, value); !contains(got, want) {
					t.Errorf("%s = %s came back as %v without a word", path, value, got)
				}
			}
		}
	}
}

// contains reports whether got has all of want.
func contains(got, want any) bool {
	switch want := want.(type) {
	case map[string]any:
		in, ok := got.(map[string]any)
		for key, value := range want {
			ok = ok && contains(in[key], value)
		}
		return ok
	case []any:
		in, ok := got.([]any)
		if !ok || len(in) != len(want) {
			return false
		}
		for i := range want {
			ok = ok && contains(in[i], want[i])
		}
		return ok
	}
	return got == want
}

// TestLibraryKeys is TestKeys for the library of custom rules.
func TestLibraryKeys(t *testing.T) {
	values := map[string]string{
		"_id": `9`, "name": `"other"`, "type": `"network-outgoing"`, "script": `"net.private_subnet"`, "message": `"%proc.name"`, "description": `"some"`,
		"owner": `"some"`, "modified": `1704067200`, "minVersion": `"1"`, "attackTechniques": `["webShell"]`, "vulnIDs": `["x"]`,
	}
	for _, key := range readShapes(t)["LibraryRule"] {
		in, _ := parsed(t, `{"_id":7,"name":"c","type":"network-outgoing","script":"net.outgoing_port = 1"}`).(map[string]any)
		if values[key] == "" {
			t.Errorf("%s: no sample", key)
			continue
		}
		in[key] = parsed(t, values[key])
		p, notes, err := Import([]byte(`{"rules":[]}`))
		if err != nil {
			t.Fatal(err, notes)
		}
		p.CustomRules, notes, err = ImportCustomRules(encode(t, in))
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		if slices.ContainsFunc(notes, func(f Fault) bool { return strings.HasSuffix(f.Path, "."+key) }) {
			continue
		}
		out, err := ExportCustomRules(p)
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		if got := at(parsed(t, string(encode(t, out))), "0."+key); !contains(got, in[key]) {
			t.Errorf("%s = %s came back as %v without a word", key, values[key], got)
		}
	}
}

// The shapes have the keys that are read, and no other.
func TestShapes(t *testing.T) {
	types := map[string]reflect.Type{
		"Policy": reflect.TypeFor[Policy](), "Rule": reflect.TypeFor[Rule](), "CustomRule": reflect.TypeFor[CustomRule](),
		"Processes": reflect.TypeFor[Processes](), "Network": reflect.TypeFor[Network](), "PortRange": reflect.TypeFor[PortRange](),
		"DNS": reflect.TypeFor[DNS](), "Filesystem": reflect.TypeFor[Filesystem](), "Collection": reflect.TypeFor[Collection](),
		"Resources": reflect.TypeFor[Resources](), "LibraryRule": reflect.TypeFor[LibraryRule](),
	}
	parts := readShapes(t)
	if got, want := slices.Sorted(maps.Keys(parts)), slices.Sorted(maps.Keys(types)); !slices.Equal(got, want) {
		t.Errorf("parts %q, read are %q", got, want)
	}
	for name, typ := range types {
		var read []string
		for i := range typ.NumField() {
			key, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			read = append(read, key)
		}
		slices.Sort(read)
		if keys := slices.Sorted(slices.Values(parts[name])); !slices.Equal(keys, read) {
			t.Errorf("%s: the shape has %q, read are %q", name, keys, read)
		}
	}
}
