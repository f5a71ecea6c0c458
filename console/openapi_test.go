package console

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"appdefender/console/store"
	"appdefender/wire"
)

// document is the part of the OpenAPI document that tests look at.
type document struct {
	Paths      map[string]map[string]any
	Components struct{ Schemas map[string]map[string]any }
}

// fits says how a value differs from a schema. A schema with a description is
// of something that has more in it.
func (d *document) fits(at string, v any, schema map[string]any) []string {
	if ref, ok := schema["$ref"].(string); ok {
		name := strings.TrimPrefix(ref, "#/components/schemas/")
		if d.Components.Schemas[name] == nil {
			return []string{at + ": there is no schema " + ref}
		}
		return d.fits(at, v, d.Components.Schemas[name])
	}
	var faults []string
	kind := ""
	switch v := v.(type) {
	case map[string]any:
		kind = "object"
		properties, _ := schema["properties"].(map[string]any)
		for key, value := range v {
			if p, ok := properties[key].(map[string]any); ok {
				faults = append(faults, d.fits(at+"."+key, value, p)...)
			} else if schema["description"] == nil {
				faults = append(faults, at+"."+key+": is not described")
			}
		}
	case []any:
		kind = "array"
		items, _ := schema["items"].(map[string]any)
		for i, value := range v {
			faults = append(faults, d.fits(fmt.Sprintf("%s[%d]", at, i), value, items)...)
		}
	case string:
		kind = "string"
	case bool:
		kind = "boolean"
	case float64:
		kind = "integer"
	}
	if want := schema["type"]; want != nil && want != kind {
		faults = append(faults, fmt.Sprintf("%s: is %s, not %v", at, kind, want))
	}
	return faults
}

// The document says of every route who may ask, and of no other; and what the
// Server answers is what it says.
func TestOpenAPI(t *testing.T) {
	b := newBench(t)
	var d document
	if err := yaml.Unmarshal([]byte(b.do("GET", "/api/v1/openapi.yaml", "").body), &d); err != nil {
		t.Fatal(err)
	}
	described := make(map[string]any)
	for path, item := range d.Paths {
		for method, op := range item {
			if op, ok := op.(map[string]any); ok {
				described[strings.ToUpper(method)+" "+path] = op["x-role"]
			}
		}
	}
	for _, route := range b.routes() {
		if strings.HasSuffix(route.Pattern, "/api/") {
			continue // for what is not there
		}
		want := string(route.Role)
		if route.own && !strings.HasSuffix(route.Pattern, "/enrol") {
			want = "defender"
		}
		if got := described[route.Pattern]; got != want {
			t.Errorf("%s: needs %q, the document says %v", route.Pattern, want, got)
		}
		delete(described, route.Pattern)
	}
	for pattern := range described {
		t.Errorf("%s: there is no such route", pattern)
	}

	uses := 3
	b.token(store.Token{Name: "t", Uses: &uses})
	def := b.enrolled()
	def.send(1, rec("a", "m")).into(t, 200, nil)
	def.do("POST", "/heartbeat", `{"level":"notify","lost":["x"],"started":"2026-03-04T05:00:00Z"}`).into(t, 200, nil)
	admin := b.as("admin")
	asked := 0
	for path, item := range d.Paths {
		op, ok := item["get"].(map[string]any)
		if !ok || strings.HasSuffix(path, "/stream") || strings.HasSuffix(path, ".yaml") || strings.Contains(path, "{snapshot}") || op["x-role"] == "defender" {
			continue
		}
		url := strings.NewReplacer("{version}", "v1", "{generation}", "1", "{id}", def.Instance).Replace(path)
		var value any
		b.do("GET", url, "", admin).into(t, 200, &value)
		content := op["responses"].(map[string]any)["200"].(map[string]any)["content"].(map[string]any)
		for _, fault := range d.fits(url, value, content["application/json"].(map[string]any)["schema"].(map[string]any)) {
			t.Error(fault)
		}
		asked++
	}
	var e any
	_ = json.Unmarshal([]byte(b.do("POST", wire.Path+"/enrol", "{").body), &e)
	for _, fault := range d.fits("an error", e, d.Components.Schemas["Error"]) {
		t.Error(fault)
	}
	if asked < 12 {
		t.Errorf("%d answers were compared", asked)
	}
}
