package policy

import (
	"strings"
	"testing"
)

func TestScope(t *testing.T) {
	image := func(patterns ...string) Scope { return Scope{Images: patterns} }
	of := func(image string) Workload { return Workload{Image: image} }
	task := Workload{Image: "nginx:1.27", Container: "Sample-Task", AppID: "shop:42"}
	for _, c := range []struct {
		name  string
		scope Scope
		on    Workload
		want  bool
	}{
		{"no scope", Scope{}, task, true},
		{"no scope, nothing known", Scope{}, Workload{}, true},
		{"container", Scope{Containers: list("sample-task")}, task, true},
		{"letter case", Scope{Containers: list("SAMPLE-*")}, task, true},
		{"only a part", Scope{Containers: list("sample")}, task, false},
		{"ends with", Scope{Containers: list("*-task")}, task, true},
		{"contains", Scope{Containers: list("*ple-t*")}, task, true},
		{"star inside", Scope{Containers: list("s*k")}, task, true},
		{"App ID", Scope{AppIDs: list("shop:*")}, task, true},
		{"one of two", Scope{AppIDs: list("x", "shop:*")}, task, true},
		{"all fields", Scope{list("nginx:*"), list("sample-task"), list("shop:42")}, task, true},
		{"all fields but one", Scope{list("nginx:*"), list("sample-task"), list("x")}, task, false},

		{"excluded", Scope{Containers: list("*", "-sample-*")}, task, false},
		{"exclusion written first", Scope{Containers: list("-sample-*", "*")}, task, false},
		{"exclusion of the same", Scope{Containers: list("sample-task", "-sample-task")}, task, false},
		{"other excluded", Scope{Containers: list("*", "-db")}, task, true},
		{"nothing but an exclusion", Scope{Containers: list("-db")}, task, true},
		{"nothing but an exclusion, hit", Scope{Containers: list("-sample-task")}, task, false},

		{"field not known, star", Scope{Containers: list("*")}, Workload{}, true},
		{"field not known, pattern", Scope{Containers: list("a*", "?")}, Workload{}, false},
		{"field not known, exclusion", Scope{Containers: list("*", "-a*")}, Workload{}, true},
		{"image not known, star", image("*"), Workload{}, true},
		{"image not known, pattern", image("nginx*"), Workload{}, false},

		{"short name", image("nginx"), of("nginx"), true},
		{"short name, latest", image("nginx"), of("nginx:latest"), true},
		{"latest, short name", image("nginx:latest"), of("nginx"), true},
		{"short name, another tag", image("nginx"), of("nginx:1.27"), false},
		{"short name, any tag", image("nginx:*"), of("nginx:1.27"), true},
		{"trailing star", image("nginx*"), of("nginx:1.27"), true},
		{"trailing star, full name", image("nginx*"), of("docker.io/library/nginx:1.27"), true},
		{"trailing star, index.", image("nginx*"), of("index.docker.io/library/nginx"), true},
		{"trailing star, a registry of that name", image("nginx*"), of("nginx.example.com/a"), false},
		{"trailing star, an organisation of that name", image("nginx*"), of("nginx/unit"), false},
		{"full name", image("docker.io/library/nginx:1.27"), of("nginx:1.27"), true},
		{"registry only", image("docker.io/nginx:1.27"), of("nginx:1.27"), true},
		{"organisation", image("acme/nginx"), of("docker.io/acme/nginx:latest"), true},
		{"all of the hub", image("docker.io/*"), of("acme/nginx"), true},
		{"all of the hub, by its other name", image("index.docker.io/*"), of("acme/nginx"), true},
		{"all of the hub, another registry", image("docker.io/*"), of("ghcr.io/a/b"), false},
		{"only a suffix of the registry", image("docker.io/*"), of("evil-docker.io/a"), false},
		{"registry with a port", image("localhost:5000/a"), of("localhost:5000/a"), true},
		{"registry with a port, a tag", image("localhost:5000/a:2"), of("localhost:5000/a:2"), true},
		{"registry with a port is no tag", image("reg:5000/a"), of("reg:5000/a:latest"), true},
		{"localhost is a registry", image("localhost/*"), of("localhost/a"), true},
		{"localhost is no organisation", image("docker.io/localhost/*"), of("localhost/a"), false},
		{"star for the registry", image("*/nginx:*"), of("nginx:1.27"), true},
		{"star for the registry, latest", image("*/nginx"), of("nginx"), true},
		{"star inside the registry", image("ghcr*/a"), of("ghcr.io/a"), true},
		{"star inside the tag", image("nginx*-alpine"), of("nginx:1.27-alpine"), true},
		{"letter case of an image", image("NGINX:*"), of("nginx:1.27"), true},
		{"inclusion and exclusion", image("nginx*", "-nginx:latest"), of("nginx"), false},
		{"inclusion and another's exclusion", image("*", "-mongo:latest"), of("mongo:7"), true},

		{"digest, pattern without tag", image("nginx"), of("nginx@sha256:aa"), false},
		{"digest", image("nginx@sha256:aa"), of("nginx@sha256:aa"), true},
		{"tag and digest, by tag", image("nginx:1.27"), of("nginx:1.27@sha256:aa"), true},
		{"tag and digest, by digest", image("nginx@sha256:aa"), of("nginx:1.27@sha256:aa"), true},
		{"tag and digest, by both", image("nginx:1.27@sha256:aa"), of("nginx:1.27@sha256:aa"), true},
		{"latest and digest, by name", image("nginx"), of("nginx:latest@sha256:aa"), true},
		{"another digest", image("nginx@sha256:bb"), of("nginx:1.27@sha256:aa"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &Policy{Version: 1, Rules: []Rule{{Name: "r", Scope: c.scope}}}
			e, err := Compile(p, c.on)
			if err != nil {
				t.Fatal(err)
			}
			if got := e.Rule() == "r"; got != c.want {
				t.Errorf("got %t, want %t", got, c.want)
			}
		})
	}
}

func TestRuleOrder(t *testing.T) {
	p := &Policy{Version: 1, Rules: []Rule{
		{Name: "off", Disabled: true},
		{Name: "other", Scope: Scope{Containers: list("db")}},
		{Name: "web", Scope: Scope{Containers: list("web")}},
		{Name: "rest"},
		{Name: "never"},
	}}
	for _, c := range []struct{ container, want string }{
		{"db", "other"},
		{"web", "web"},
		{"cache", "rest"},
		{"", "rest"},
	} {
		e, err := Compile(p, Workload{Container: c.container})
		if err != nil {
			t.Fatal(err)
		}
		if e.Rule() != c.want {
			t.Errorf("container %q: rule %q, want %q", c.container, e.Rule(), c.want)
		}
	}
}

// A scope that excludes all that it selects is valid, and told of.
func TestScopeOfNothing(t *testing.T) {
	for _, c := range []struct {
		patterns []string
		nothing  bool
	}{
		{nil, false}, {list("nginx"), false}, {list("-nginx"), false}, {list("nginx*", "-nginx:latest"), false}, {list("*", "-mongo"), false},
		{list("nginx:1", "db", "-nginx*"), false}, {list("nginx:1", "-nginx:*"), true}, {list("-*"), true}, {list("nginx", "-*"), true}, {list("nginx*", "-nginx*"), true},
	} {
		p := &Policy{Version: 1, Rules: []Rule{{Name: "r", Scope: Scope{Images: c.patterns}}}}
		if notes := p.Notes(); (len(notes) == 1 && notes[0].Path == "rules[0].scope.images") != c.nothing || len(notes) > 1 {
			t.Errorf("%q: %v", c.patterns, notes)
		}
	}
}

func FuzzImageNames(f *testing.F) {
	for _, s := range []string{"nginx", "a/b:1@sha256:aa", "localhost:5000/x", "index.docker.io/x", "/", ":", "@", "docker.io/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, image string) {
		if len(imageNames(image)) == 0 {
			t.Error("an image without a name")
		}
		full := canonicalImage(image)
		if again := canonicalImage(full); image != "" && again != full {
			t.Errorf("%q: %q, and again %q", image, full, again)
		}
		canonicalPattern(image)
	})
}

// What a pattern names it selects, in any letters, and what is excluded never.
func FuzzScope(f *testing.F) {
	for _, s := range []string{"web", "*", "-web", "w*b", "shop:1", "ghcr.io/a/b:1@sha256:aa", "İ", "\xff"} {
		f.Add(s, "web")
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, pattern, value string) {
		selects := func(entries ...string) (containers, appIDs, images, valid bool) {
			var found faults
			w := Workload{Image: value, Container: value, AppID: value}
			containers = newSelector(&Scope{Containers: entries}, "", &found).matches(w)
			appIDs = newSelector(&Scope{AppIDs: entries}, "", &found).matches(w)
			images = newSelector(&Scope{Images: entries}, "", &found).matches(w)
			return containers, appIDs, images, len(found) == 0
		}
		if c, a, i, valid := selects(pattern, "-"+strings.TrimPrefix(pattern, "-")); valid && (c || a) && glob(strings.ToLower(strings.TrimPrefix(pattern, "-")), strings.ToLower(value)) {
			t.Errorf("%q is excluded, and selects %q: %v %v %v", pattern, value, c, a, i)
		}
		if c, a, i, valid := selects("*"); !valid || !c || !a || !i {
			t.Errorf("everything is not %q: %v %v %v", value, c, a, i)
		}
		if checkPattern(value) != nil || strings.HasPrefix(value, "-") {
			return
		}
		upper, lower := strings.ToUpper(value), strings.ToLower(value)
		if lowered := strings.ToLower(upper); lowered != lower { // some letters have no way back
			return
		}
		if c, a, _, _ := selects(upper); !c || !a {
			t.Errorf("%q does not select itself: %v %v", value, c, a)
		}
	})
}
