package file

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"appdefender/policy"
)

// Every example of the page about policies is a policy, and every key that a
// policy can have is in one.
func TestDocumentation(t *testing.T) {
	page, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(page), "```yaml\n")[1:]
	if len(blocks) < 8 {
		t.Fatalf("%d examples", len(blocks))
	}
	var all strings.Builder
	for _, block := range blocks {
		text, _, closed := strings.Cut(block, "```")
		p, err := Parse("docs/policy.md", []byte(text))
		if err != nil || !closed {
			t.Errorf("%s\n%v", text, err)
			continue
		}
		if _, err := policy.Compile(p, policy.Workload{Image: "registry.example.com/shop/web:1", Container: "shop", AppID: "shop:1"}); err != nil {
			t.Error(err)
		}
		all.WriteString(text)
	}
	for key := range keysOf(reflect.TypeFor[policy.Policy](), nil) {
		if key != "id" && key != "description" && key != "attackTechniques" && !strings.Contains(all.String(), key+":") {
			t.Errorf("no example has the key %q", key)
		}
	}
}

// keysOf returns the keys of a type and of what it is made of.
func keysOf(typ reflect.Type, keys map[string]bool) map[string]bool {
	if keys == nil {
		keys = make(map[string]bool)
	}
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice:
		keysOf(typ.Elem(), keys)
	case reflect.Struct:
		for name, i := range fieldsOf(typ).index {
			keys[name] = true
			keysOf(typ.Field(i).Type, keys)
		}
	}
	return keys
}
