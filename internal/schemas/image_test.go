package schemas

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/opencontainers/image-spec/schema"
)

// layout is an OCI layout in a folder.
type layout struct {
	t   *testing.T
	dir string
}

// put writes a blob and returns its descriptor.
func (l layout) put(media string, content any) map[string]any {
	l.t.Helper()
	data, ok := content.([]byte)
	if !ok {
		var err error
		if data, err = json.Marshal(content); err != nil {
			l.t.Fatal(err)
		}
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	l.write(filepath.Join("blobs/sha256", sum), data)
	return map[string]any{"mediaType": media, "digest": "sha256:" + sum, "size": len(data)}
}

func (l layout) write(name string, data []byte) {
	l.t.Helper()
	file := filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		l.t.Fatal(err)
	}
}

// check holds a document, and all that it refers to, against its schema.
func (l layout) check(media string, data []byte) (n int) {
	l.t.Helper()
	if err := schema.Validator(media).Validate(bytes.NewReader(data)); err != nil {
		l.t.Errorf("%s: %v\n%s", media, err, data)
	}
	var refers struct {
		Config    *struct{ MediaType, Digest string }
		Manifests []struct{ MediaType, Digest string }
	}
	if media == string(schema.ValidatorMediaTypeImageConfig) {
		return 1
	}
	if err := json.Unmarshal(data, &refers); err != nil {
		l.t.Fatal(err)
	}
	if refers.Config != nil {
		refers.Manifests = append(refers.Manifests, *refers.Config)
	}
	for _, d := range refers.Manifests {
		blob, err := os.ReadFile(filepath.Join(l.dir, "blobs/sha256", d.Digest[len("sha256:"):]))
		if err != nil {
			l.t.Fatal(err)
		}
		n += l.check(d.MediaType, blob)
	}
	return n + 1
}

// A protected image, and a protected index, are as OCI's schemas have them.
func TestImage(t *testing.T) {
	const index, manifest, config = string(schema.ValidatorMediaTypeImageIndex), string(schema.ValidatorMediaTypeManifest), string(schema.ValidatorMediaTypeImageConfig)
	in := layout{t, t.TempDir()}
	args := []string{"run", "./cmd/defenderctl", "embed", "image", "oci:" + in.dir, "oci:" + filepath.Join(t.TempDir(), "out"), "--console", "https://c.example.com"}
	build := func(env string, argv ...string) {
		t.Helper()
		c := exec.Command("go", argv...)
		c.Dir = "../.."
		c.Env = append(os.Environ(), "CGO_ENABLED=0", env)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	empty := make([]byte, 1024) // a tar file of nothing
	var images []map[string]any
	for _, arch := range []string{"amd64", "arm64"} {
		program := filepath.Join(t.TempDir(), arch)
		build("GOARCH="+arch, "build", "-o", program, "./inject/testdata/stub")
		args = append(args, "--defender", program)
		layer := in.put("application/vnd.oci.image.layer.v1.tar", empty)
		d := in.put(manifest, map[string]any{"schemaVersion": 2, "mediaType": manifest, "layers": []any{layer}, "config": in.put(config, map[string]any{
			"architecture": arch, "os": "linux", "config": map[string]any{"Entrypoint": []string{"/a"}, "Env": []string{"A=b"}},
			"rootfs":  map[string]any{"type": "layers", "diff_ids": []any{layer["digest"]}},
			"history": []any{map[string]any{"created": "2026-01-02T03:04:05Z", "created_by": "COPY"}},
		})})
		d["platform"] = map[string]any{"architecture": arch, "os": "linux"}
		images = append(images, d)
	}
	whole := in.put(index, map[string]any{"schemaVersion": 2, "mediaType": index, "manifests": images})
	top, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{whole}})
	if err != nil {
		t.Fatal(err)
	}
	in.write("index.json", top)
	in.write("oci-layout", []byte(`{"imageLayoutVersion": "1.0.0"}`))
	build("A=b", args...)
	out := layout{t, args[5][len("oci:"):]}
	for _, l := range []layout{in, out} {
		data, err := os.ReadFile(filepath.Join(l.dir, "index.json"))
		if err != nil {
			t.Fatal(err)
		}
		if n := l.check(index, data); n != 6 {
			t.Errorf("%d documents are checked, not 6", n)
		}
	}
	if err := schema.Validator(config).Validate(bytes.NewReader([]byte(`{"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}, "config": {"Env": "A=b"}}`))); err == nil {
		t.Error("a wrong type is right")
	}
}
