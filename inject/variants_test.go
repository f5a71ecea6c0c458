package inject

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// definitions calls f for each definition of the corpus.
func definitions(t *testing.T, f func(t *testing.T, format Format, name string, in []byte)) {
	t.Helper()
	for _, format := range Formats {
		files, err := filepath.Glob(filepath.Join("testdata", "corpus", string(format), "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, ".protected") {
				continue
			}
			in, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			t.Run(string(format)+"/"+filepath.Base(file), func(t *testing.T) { f(t, format, filepath.Base(file), in) })
		}
	}
}

var isJSONText = regexp.MustCompile(`^(\x{feff})?\s*[{\[]`)

// variants are other ways to write the same definition.
var variants = []struct {
	name string
	of   func(in []byte) []byte
}{
	{"CRLF", func(in []byte) []byte {
		return bytes.ReplaceAll(bytes.ReplaceAll(in, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
	}},
	{"LF", func(in []byte) []byte { return bytes.ReplaceAll(in, []byte("\r\n"), []byte("\n")) }},
	{"a byte order mark", func(in []byte) []byte {
		return append([]byte("\ufeff"), bytes.TrimPrefix(in, []byte("\ufeff"))...)
	}},
	{"no line break at the end", func(in []byte) []byte { return bytes.TrimRight(in, "\r\n") }},
	{"many at the end", func(in []byte) []byte { return append(bytes.Clone(in), "\n\n\n"...) }},
	{"tabs", func(in []byte) []byte { // where the format lets them be
		if isJSONText.Match(in) {
			return regexp.MustCompile(`(?m)^( {2})+`).ReplaceAllFunc(in, func(s []byte) []byte { return bytes.Repeat([]byte("\t"), len(s)/2) })
		}
		return append(bytes.Clone(in), "\n#\ta\ttab\n"...)
	}},
	{"a megabyte", func(in []byte) []byte {
		if isJSONText.Match(in) {
			i := bytes.LastIndexByte(in, '}')
			return bytes.Join([][]byte{in[:i], bytes.Repeat([]byte(" \n"), 1<<19), in[i:]}, nil)
		}
		return append(bytes.TrimRight(bytes.Clone(in), "\r\n"), "\n"+strings.Repeat("# "+strings.Repeat("x", 62)+"\n", 1<<14)...)
	}},
}

// However a definition is written, it comes out protected, the same the second
// time, upgraded, and back to the byte.
func TestVariants(t *testing.T) {
	// One of each syntax takes long enough.
	large := map[Format]bool{TaskDefinition: true, Kubernetes: true, Dockerfile: true}
	definitions(t, func(t *testing.T, format Format, name string, in []byte) {
		for _, v := range variants {
			in := v.of(in)
			if len(in) > 1<<20 {
				if !large[format] {
					continue
				}
				large[format] = false
			}
			o := corpusOptions(format, name)
			out, rep, err := Embed(format, in, o)
			if err != nil {
				t.Errorf("%s: %v", v.name, err)
				continue
			}
			for _, c := range rep.Containers {
				if !c.Skipped && len(c.Argv) == 0 {
					t.Errorf("%s: %s starts nothing", v.name, c.Name)
				}
			}
			if again, _, err := Embed(format, out, Options{Version: "1.0"}); err != nil || !bytes.Equal(again, out) {
				t.Errorf("%s: again: %v", v.name, err)
			}
			upgraded, _, err := Embed(format, out, Options{Version: "2.0", DefenderImage: "registry.example.com/defender:2.0"})
			if err != nil || bytes.Equal(upgraded, out) {
				t.Errorf("%s: upgrade: %v", v.name, err)
			}
			for _, protected := range [][]byte{out, upgraded} {
				if back, undone, err := Remove(format, protected); err != nil || !bytes.Equal(back, in) || !undone.Exact {
					t.Errorf("%s: removed: %v\n%.2000q\n%.2000q", v.name, err, in, back)
				}
			}
			if len(in) < 1<<16 {
				kept(t, format, v.name, in, out)
			}
		}
	})
}

// leaves returns how often each value stands under each path. Positions in
// lists do not count, for something may be put before others.
func leaves(t *testing.T, text []byte) map[string]int {
	t.Helper()
	all := make(map[string]int)
	var walk func(path string, n *yaml.Node)
	walk = func(path string, n *yaml.Node) {
		switch n.Kind {
		case yaml.MappingNode:
			for i := 0; i < len(n.Content); i += 2 {
				walk(path+"/"+n.Content[i].Value, n.Content[i+1])
			}
		case yaml.AliasNode:
			all[path+" *"+n.Value]++
		case yaml.ScalarNode:
			if n.Tag != "!!null" { // says nothing
				all[fmt.Sprintf("%s %s %q", path, n.Tag, n.Value)]++
			}
		default:
			for _, c := range n.Content {
				walk(path, c)
			}
		}
	}
	for d := yaml.NewDecoder(bytes.NewReader(bytes.TrimPrefix(text, []byte("\ufeff")))); ; {
		var n yaml.Node
		err := d.Decode(&n)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		walk("", &n)
	}
}

// started are the keys that say what a container starts, and compose's list of
// what that waits for, which becomes a mapping.
var started = regexp.MustCompile(`(?i)/(entrypoint|command|args|depends_on)[ /]`)

// kept reads both definitions without the engine: whatever the original says,
// the protected one says too, but for what containers start.
func kept(t *testing.T, format Format, name string, in, out []byte) {
	t.Helper()
	if format == Dockerfile {
		mark := []byte("\ufeff") // stays at the beginning
		lines(t, bytes.TrimPrefix(in, mark), bytes.TrimPrefix(out, mark))
		return
	}
	after := leaves(t, out)
	for leaf, n := range leaves(t, in) {
		if after[leaf] < n && !started.MatchString(leaf) {
			t.Errorf("%s: %s was there %d times, and is %d times", name, leaf, n, after[leaf])
		}
	}
}

// A definition that is cut off anywhere is refused, or is a whole one too: it
// never comes out half.
func TestCutOff(t *testing.T) {
	// Some faults are of a document as a whole, and some are found in the end.
	place := regexp.MustCompile(`(?m)^\s*\d+:\d+: |has nothing in it that runs containers|is no Dockerfile|has no FROM|is none of the project's secrets|checking the result, which is not written`)
	definitions(t, func(t *testing.T, format Format, name string, in []byte) {
		o := corpusOptions(format, name)
		step := max(1, len(in)/20)
		for i := step; i < len(in); i += step {
			out, _, err := Embed(format, in[:i], o)
			if err != nil {
				if out != nil {
					t.Errorf("cut at %d: refused, and written: %s", i, out)
				}
				if !place.MatchString(err.Error()) {
					t.Errorf("cut at %d: refused without a place: %v", i, err)
				}
				continue
			}
			if back, _, err := Remove(format, out); err != nil || !bytes.Equal(back, in[:i]) {
				t.Errorf("cut at %d: removed: %v\n%q\n%q", i, err, in[:i], back)
			}
		}
	})
}
