package image

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"appdefender/inject"
)

// header is as much of a static program as embedding looks at: these tests make
// hundreds of layers.
func header(t *testing.T, arch string) []byte {
	t.Helper()
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machines[arch]), Version: uint32(elf.EV_CURRENT), Ehsize: 64, Phentsize: 56, Shentsize: 64}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, h); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func forArch(t *testing.T, arch string) v1.Image {
	t.Helper()
	return sample(t, func(c *v1.ConfigFile) {
		c.Architecture, c.Config.Entrypoint = arch, []string{"/" + arch}
	})
}

// written is an index of the text as it stands; children are what it names by
// %s and %d, digest and size.
func written(t *testing.T, media types.MediaType, text string, children ...partial.Describable) *index {
	t.Helper()
	x := &index{media: media, children: make(map[v1.Hash]partial.Describable)}
	var args []any
	for _, c := range children {
		d, err := descriptor(c)
		if err != nil {
			t.Fatal(err)
		}
		x.children[d.Digest] = c
		args = append(args, d.Digest.String(), d.Size)
	}
	x.raw = fmt.Appendf(nil, text, args...)
	return x
}

// published is an index as build tools push it: two platforms, what tells of
// one of them, and something of a type that nobody knows.
func published(t *testing.T, media types.MediaType) *index {
	t.Helper()
	amd, arm := forArch(t, "amd64"), forArch(t, "arm64")
	attestation := mutate.MediaType(sample(t, func(c *v1.ConfigFile) {
		*c = v1.ConfigFile{OS: "unknown", Architecture: "unknown", RootFS: c.RootFS}
	}), types.OCIManifestSchema1)
	digest, err := arm.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return written(t, media, `{
   "schemaVersion": 2,   "mediaType": "`+string(media)+`",
   "manifests": [
      {"mediaType": "application/vnd.docker.distribution.manifest.v2+json", "digest": "%s", "size": %d, "platform": {"architecture": "amd64", "os": "linux"}, "of-next-year": {"b": 1, "a": [2.0]}},
      {"mediaType": "application/vnd.docker.distribution.manifest.v2+json", "digest": "%s", "size": %d, "platform": {"architecture": "arm64", "os": "linux", "variant": "v8"}, "annotations": {"team": "<shop>"}},
      {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "%s", "size": %d, "platform": {"architecture": "unknown", "os": "unknown"},
       "annotations": {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": "`+digest.String()+`"}},
      {"mediaType": "text/x-note", "digest": "%s", "size": %d}
   ]
}
`, amd, arm, attestation, static.NewLayer([]byte("a note"), "text/x-note"))
}

func quietRegistry(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// get opens a place for the rest of the test.
func get(t *testing.T, p *Places, place string) object {
	t.Helper()
	c, done, err := p.open(context.Background(), place)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	return c.object
}

func rawOf(t *testing.T, o object) string {
	t.Helper()
	raw, err := o.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// layersOf returns the digests of the layers of each image of an index.
func layersOf(t *testing.T, x *index) map[string][]string {
	t.Helper()
	leaves, err := x.leaves()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string][]string)
	for _, l := range leaves {
		m, err := l.image.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range m.Layers {
			all[l.platform.String()] = append(all[l.platform.String()], d.Digest.String())
		}
	}
	return all
}

// protectedBy returns the processor of the program that an image starts in the
// end, and what it starts.
func protectedBy(t *testing.T, img v1.Image) (elf.Machine, []string) {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	r, err := layers[len(layers)-1].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(data[bytes.Index(data, []byte("\x7fELF")):]))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return f.Machine, cfg.Config.Entrypoint
}

// An index goes in and an index comes out, wherever it lies.
func TestEmbedIndex(t *testing.T) {
	p := new(Places)
	ctx := context.Background()
	programs := [][]byte{header(t, "amd64"), header(t, "arm64")}
	host := quietRegistry(t)
	o := inject.Options{Policy: []byte("version: 1\n"), Version: "1.0", AppID: "shop:1"}
	for _, media := range []types.MediaType{types.DockerManifestList, types.OCIImageIndex} {
		single := published(t, media)
		within := single.raw
		nested := written(t, types.OCIImageIndex, `{"manifests": [{"mediaType": "`+string(media)+`", "size": %[2]d, "digest": %[1]q}], "schemaVersion": 2}`, single)
		for name, x := range map[string]*index{"flat": single, "nested": nested} {
			dir := t.TempDir()
			for _, place := range []string{host + "/shop:%s", "oci-archive:" + dir + "/%s.tar", "oci:" + dir + "/%s", "oci:" + dir + "/many:%s"} {
				place = strings.ReplaceAll(place, "%s", fmt.Sprintf("%s-%d-%%s", name, len(media)))
				at := func(what string) string { return fmt.Sprintf(place, what) }
				t.Run(place, func(t *testing.T) {
					push(t, p, at("in"), x)
					res, err := p.Embed(ctx, Job{From: at("in"), To: at("out"), Programs: programs, Options: o})
					if err != nil {
						t.Fatal(err)
					}
					if !res.Changed || !slices.Equal(res.Argv, []string{"/amd64", "serve", "all day"}) || !strings.Contains(strings.Join(res.Notes, ""), "linux/amd64,linux/arm64/v8") {
						t.Errorf("%+v", res)
					}
					made := get(t, p, at("out")).(*index)
					leaves, err := made.leaves()
					if err != nil || len(leaves) != 2 {
						t.Fatalf("%v, %d images", err, len(leaves))
					}
					for _, l := range leaves {
						machine, entry := protectedBy(t, l.image)
						if machine != machines[l.platform.Architecture] || !slices.Equal(entry, []string{inject.Program, "run", "--", "/" + l.platform.Architecture}) {
							t.Errorf("%s has a program for %s and starts %q", l.platform, machine, entry)
						}
					}
					// What is not an image is as it was, and so is each entry but for
					// digest and size.
					inner := made
					if name == "nested" {
						for _, c := range made.children {
							inner = c.(*index)
						}
					}
					var was, is struct{ Manifests []map[string]any }
					if err := errors.Join(json.Unmarshal(within, &was), json.Unmarshal(inner.raw, &is)); err != nil {
						t.Fatal(err)
					}
					for i, entry := range is.Manifests {
						if i < 2 {
							if entry["digest"] == was.Manifests[i]["digest"] {
								t.Errorf("entry %d is not protected", i)
							}
							entry["digest"], entry["size"] = was.Manifests[i]["digest"], was.Manifests[i]["size"]
						}
						if got, want := fmt.Sprint(entry), fmt.Sprint(was.Manifests[i]); got != want {
							t.Errorf("entry %d: %s, want %s", i, got, want)
						}
					}
					again, err := p.Embed(ctx, Job{From: at("out"), To: at("again"), Programs: programs, Options: inject.Options{Version: "1.0"}})
					if err != nil || again.Changed || again.Digest != res.Digest {
						t.Errorf("again: %v, %+v", err, again)
					}
					next, err := p.Embed(ctx, Job{From: at("again"), To: at("up"), Programs: programs, Options: inject.Options{Version: "2.0", Policy: []byte("version: 1\nrules: []\n")}})
					if err != nil || !next.Changed || next.AppID != "shop:1" {
						t.Fatalf("upgrade: %v, %+v", err, next)
					}
					before, after := layersOf(t, x), layersOf(t, get(t, p, at("up")).(*index))
					for platform, layers := range before {
						if got := after[platform]; len(got) != len(layers)+1 || !slices.Equal(got[:len(layers)], layers) {
							t.Errorf("upgraded %s has layers %q, before protecting %q", platform, got, layers)
						}
					}
					for _, what := range []string{"out", "up"} {
						back, err := p.Remove(ctx, at(what), at("back"))
						if err != nil || !back.Changed {
							t.Fatalf("%s, removed: %v, %+v", what, err, back)
						}
						if got := rawOf(t, get(t, p, at("back"))); got != string(x.raw) {
							t.Errorf("%s, removed:\n%s\nwant\n%s", what, got, x.raw)
						}
					}
				})
			}
		}
	}
}

// A layout with several images is an index too, if nobody says which.
func TestEmbedLayout(t *testing.T) {
	p := new(Places)
	ctx := context.Background()
	dir := t.TempDir()
	whole := published(t, types.OCIImageIndex)
	if err := p.write(ctx, &content{object: whole, whole: true}, "oci:"+dir+"/in"); err != nil {
		t.Fatal(err)
	}
	programs := [][]byte{header(t, "amd64"), header(t, "arm64")}
	res, err := p.Embed(ctx, Job{From: "oci:" + dir + "/in", To: "oci-archive:" + dir + "/out.tar", Programs: programs, Options: inject.Options{Policy: []byte("version: 1\n")}})
	if err != nil || !res.Changed {
		t.Fatal(err)
	}
	if _, err := p.Remove(ctx, "oci-archive:"+dir+"/out.tar", "oci:"+dir+"/back"); err != nil {
		t.Fatal(err)
	}
	if back, err := os.ReadFile(filepath.Join(dir, "back", "index.json")); err != nil || !bytes.Equal(back, whole.raw) {
		t.Errorf("%v, %s", err, back)
	}
	// One of several, by name; the others stay.
	push(t, p, "oci:"+dir+"/named:a", forArch(t, "amd64"))
	push(t, p, "oci:"+dir+"/named:b", forArch(t, "arm64"))
	if _, err := p.Embed(ctx, Job{From: "oci:" + dir + "/named:b", To: "oci:" + dir + "/named:b", Programs: programs, Options: inject.Options{Policy: []byte("version: 1\n")}}); err != nil {
		t.Fatal(err)
	}
	for called, want := range map[string]string{"a": "/amd64", "b": inject.Program} {
		cfg, err := get(t, p, "oci:"+dir+"/named:"+called).(v1.Image).ConfigFile()
		if err != nil || cfg.Config.Entrypoint[0] != want {
			t.Errorf("%s starts %q, %v", called, cfg.Config.Entrypoint, err)
		}
	}
	for place, want := range map[string]string{
		"oci:" + dir + "/named:c":      `it has 0 images of the name "c"; there are ["a" "b"]`,
		"oci-archive:" + dir + "/in":   "is a directory",
		"docker-archive:" + dir + "/o": "no such file",
	} {
		if _, _, err := p.open(ctx, place); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", place, err)
		}
	}
	if err := p.write(ctx, &content{object: forArch(t, "amd64")}, "oci:"+dir+"/named"); err == nil || !strings.Contains(err.Error(), "say which one this is") {
		t.Errorf("over several images: %v", err)
	}
}

func TestIndexFaults(t *testing.T) {
	p := new(Places)
	ctx := context.Background()
	host := quietRegistry(t)
	amd, arm := header(t, "amd64"), header(t, "arm64")
	o := inject.Options{Policy: []byte("version: 1\n"), Version: "1.0"}
	const one = `{"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.docker.distribution.manifest.v2+json", "digest": "%s", "size": %d, "platform": {"architecture": "`
	const two = `"}}, {"mediaType": "application/vnd.docker.distribution.manifest.v2+json", "digest": "%s", "size": %d, "platform": {"architecture": "`
	mixed := written(t, types.OCIImageIndex, one+`amd64", "os": "linux`+two+`arm64", "os": "linux`+two+`s390x", "os": "linux"}}]}`,
		forArch(t, "amd64"), forArch(t, "arm64"), forArch(t, "s390x"))
	push(t, p, host+"/mixed", mixed)
	push(t, p, host+"/foreign", written(t, types.OCIImageIndex, one+`s390x", "os": "linux"}}]}`, forArch(t, "s390x")))
	push(t, p, host+"/lying", written(t, types.OCIImageIndex, one+`arm64", "os": "linux"}}]}`, forArch(t, "amd64")))
	push(t, p, host+"/notes", written(t, types.OCIImageIndex, `{"manifests": [{"mediaType": "text/x-note", "digest": "%s", "size": %d}]}`, static.NewLayer([]byte("n"), "text/x-note")))
	push(t, p, host+"/good", published(t, types.OCIImageIndex))
	if _, err := p.Embed(ctx, Job{From: host + "/good", To: host + "/protected", Programs: [][]byte{amd, arm}, Options: o}); err != nil {
		t.Fatal(err)
	}
	// Somebody adds a platform, or a note, to what is protected.
	grown := get(t, p, host+"/protected").(*index)
	grown.raw = bytes.Replace(grown.raw, []byte(`"of-next-year"`), []byte(`"of-this-year"`), 1)
	push(t, p, host+"/grown", grown)
	for _, tt := range []struct {
		name, from, platform, to string
		programs                 [][]byte
		want                     string
	}{
		{"no defender for one", "mixed", "", "out", [][]byte{amd, arm}, "has images for linux/s390x, which there is no defender for; leave them out with --platform linux/amd64,linux/arm64"},
		{"for none", "foreign", "", "out", [][]byte{amd, arm}, "has images for linux/s390x: there is a defender for linux/amd64 and linux/arm64"},
		{"a platform that is not there", "good", "linux/arm/v7", "out", [][]byte{amd, arm}, "has no image for linux/arm/v7; there are linux/amd64,linux/arm64/v8"},
		{"no program for one", "good", "", "out", [][]byte{amd}, "linux/arm64/v8: the defender's program is for EM_X86_64, the image for arm64"},
		{"a wrong index", "lying", "", "out", [][]byte{amd, arm}, "is for linux/arm64, its configuration says linux/amd64"},
		{"nothing to start", "notes", "", "out", [][]byte{amd, arm}, "no image that a container can be started from"},
		{"changed since", "grown", "", "out", [][]byte{amd, arm}, "the index has been changed since it was protected"},
		{"into what holds one", "good", "", "docker-archive:" + t.TempDir() + "/x", [][]byte{amd, arm}, "holds an image of one platform"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to := tt.to
			if to == "out" {
				to = host + "/out"
			}
			q := &Places{Platform: tt.platform}
			if _, err := q.Embed(ctx, Job{From: host + "/" + tt.from, To: to, Programs: tt.programs, Options: o}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if _, _, err := p.open(ctx, to); err == nil {
				t.Error("something is written")
			}
		})
	}

	// Some of the platforms, and one.
	q := &Places{Platform: "linux/amd64,linux/arm64"}
	if _, err := q.Embed(ctx, Job{From: host + "/mixed", To: host + "/some", Programs: [][]byte{amd, arm}, Options: o}); err != nil {
		t.Fatal(err)
	}
	some := get(t, p, host+"/some").(*index)
	if leaves, err := some.leaves(); err != nil || platformsOf(leaves) != "linux/amd64,linux/arm64" {
		t.Errorf("%v, %v", leaves, err)
	}
	if again, err := p.Embed(ctx, Job{From: host + "/some", Programs: [][]byte{amd, arm}, Options: inject.Options{Version: "1.0"}}); err != nil || again.Changed {
		t.Errorf("again: %v, %+v", err, again)
	}
	back, err := p.Remove(ctx, host+"/some", host+"/back")
	if err != nil {
		t.Fatal(err)
	}
	x := get(t, p, host+"/back").(*index)
	m, err := x.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	want, err := mixed.Digest()
	if err != nil || m.Annotations[labelChosen] != want.String() || len(m.Manifests) != 2 || m.Annotations[labelOriginal] != "" {
		t.Errorf("%v, %+v: %s", err, back, x.raw)
	}
	q.Platform = "linux/arm64"
	if res, err := q.Embed(ctx, Job{From: host + "/mixed", To: "docker-archive:" + t.TempDir() + "/x", Programs: [][]byte{arm}, Options: o}); err != nil || res.Argv[0] != "/arm64" {
		t.Errorf("one: %v, %+v", err, res)
	}
}

// Layers that cannot be unpacked here, or lie elsewhere, and what nobody knows
// in manifest and configuration, stay as they are.
func TestEmbedUnknown(t *testing.T) {
	p := new(Places)
	ctx := context.Background()
	host := quietRegistry(t)
	plain, err := sample(t, nil).Layers()
	if err != nil {
		t.Fatal(err)
	}
	zstd, err := tarball.LayerFromOpener(plain[0].Uncompressed, tarball.WithCompression(compression.ZStd), tarball.WithMediaType(types.OCILayerZStd))
	if err != nil {
		t.Fatal(err)
	}
	img := mutate.ConfigMediaType(mutate.MediaType(sample(t, nil), types.OCIManifestSchema1), types.OCIConfigJSON)
	if img, err = mutate.Append(img,
		mutate.Addendum{Layer: zstd, MediaType: types.OCILayerZStd, Annotations: map[string]string{"a": "b"}},
		mutate.Addendum{Layer: static.NewLayer([]byte("elsewhere"), types.OCIRestrictedLayer), MediaType: types.OCIRestrictedLayer, URLs: []string{"https://elsewhere.example.com/layer"}},
	); err != nil {
		t.Fatal(err)
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config, err := edit(raw, func(top fields) error {
		inner, err := edit(top["config"], func(c fields) error { return c.set("StopTimeout", 7) })
		top["config"] = inner
		return errors.Join(err, top.set("of-next-year", map[string]any{"a": 1}))
	})
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = img.RawManifest(); err != nil {
		t.Fatal(err)
	}
	manifest, err := edit(raw, func(top fields) error { return errors.Join(setConfig(top, config), top.set("of-next-year", true)) })
	if err != nil {
		t.Fatal(err)
	}
	if img, err = assemble(manifest, config, types.OCIManifestSchema1, img, nil); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	push(t, p, host+"/in", img)
	push(t, p, "oci:"+dir+"/in", img)
	want := rawOf(t, img)
	for from, to := range map[string]string{host + "/in": host + "/out", "oci:" + dir + "/in": "oci-archive:" + dir + "/out"} {
		res, err := p.Embed(ctx, Job{From: from, To: to, Programs: [][]byte{header(t, runtime.GOARCH)}, Options: inject.Options{Policy: []byte("version: 1\n")}})
		if err != nil {
			t.Fatal(err)
		}
		made := get(t, p, to).(v1.Image)
		rawConfig, err := made.RawConfigFile()
		if err != nil || !bytes.Contains(rawConfig, []byte(`"StopTimeout":7`)) || !bytes.Contains(rawConfig, []byte(`"of-next-year":{"a":1}`)) {
			t.Errorf("%v, configuration: %s", err, rawConfig)
		}
		m, err := made.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if got := rawOf(t, made); !strings.Contains(got, `"of-next-year":true`) || len(m.Layers) != 5 || m.Layers[2].MediaType != types.OCILayerZStd || m.Layers[2].Annotations["a"] != "b" || m.Layers[3].URLs[0] != "https://elsewhere.example.com/layer" {
			t.Errorf("%+v: %s", res, got)
		}
		if _, err := p.Remove(ctx, to, to); err != nil {
			t.Fatal(err)
		}
		if got := rawOf(t, get(t, p, to)); got != want {
			t.Errorf("removed: %s, want %s", got, want)
		}
	}
}

// repacked is an image as an engine pushes it that has unpacked it: the same
// configuration, and layers compressed by something else.
func repacked(t *testing.T, img v1.Image) v1.Image {
	t.Helper()
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	made := mutate.MediaType(emptyImage(t), types.DockerManifestSchema2)
	for _, l := range layers {
		again, err := tarball.LayerFromOpener(l.Uncompressed, tarball.WithCompressionLevel(9))
		if err != nil {
			t.Fatal(err)
		}
		if made, err = mutate.AppendLayers(made, again); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := edit([]byte(rawOf(t, made)), func(top fields) error { return setConfig(top, config) })
	if err != nil {
		t.Fatal(err)
	}
	made, err = assemble(raw, config, types.DockerManifestSchema2, made, nil)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func emptyImage(t *testing.T) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(sampleOf(t, 0), &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestRepacked(t *testing.T) {
	p := new(Places)
	ctx := context.Background()
	host := quietRegistry(t)
	program := header(t, runtime.GOARCH)
	img := sample(t, nil)
	push(t, p, host+"/in", img)
	if _, err := p.Embed(ctx, Job{From: host + "/in", To: host + "/out", Programs: [][]byte{program}, Options: inject.Options{Policy: []byte("version: 1\n"), Version: "1.0"}}); err != nil {
		t.Fatal(err)
	}
	protected := get(t, p, host+"/out").(v1.Image)
	push(t, p, host+"/packed", repacked(t, protected))
	if again, err := p.Embed(ctx, Job{From: host + "/packed", Programs: [][]byte{program}, Options: inject.Options{Version: "1.0"}}); err != nil || again.Changed {
		t.Errorf("again: %v, %+v", err, again)
	}
	up, err := p.Embed(ctx, Job{From: host + "/packed", To: host + "/up", Programs: [][]byte{program}, Options: inject.Options{Version: "2.0"}})
	if err != nil || !up.Changed {
		t.Fatalf("upgrade: %v, %+v", err, up)
	}
	want, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"/packed", "/up"} {
		res, err := p.Remove(ctx, host+from, host+"/back")
		if err != nil || len(res.Notes) != 1 || !strings.Contains(res.Notes[0], "same image ID") {
			t.Fatalf("%s: %v, %+v", from, err, res)
		}
		if got, err := get(t, p, host+"/back").(v1.Image).ConfigName(); err != nil || got != want {
			t.Errorf("%s: the image ID is %s, not %s", from, got, want)
		}
	}

	// What people have put upon it must not get lost.
	more, err := mutate.AppendLayers(protected, static.NewLayer([]byte("x"), types.DockerLayer))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := protected.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Config.Env, cfg.Config.Cmd = append(cfg.Config.Env, "A=b"), []string{"other"}
	other, err := mutate.ConfigFile(protected, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for want, img := range map[string]v1.Image{"it has other layers": more, "(Cmd, Env)": other} {
		push(t, p, host+"/grown", img)
		if _, err := p.Remove(ctx, host+"/grown", ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
		if _, err := p.Embed(ctx, Job{From: host + "/grown", Programs: [][]byte{program}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// A registry as Amazon's: every request carries a password that a helper of
// "docker login" knows, by TLS with a CA of its own.
func TestBasicRegistry(t *testing.T) {
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "AWS" || password != "t0ken" {
			w.Header().Set("WWW-Authenticate", `Basic realm="https://ecr.example.com/",service="ecr.amazonaws.com"`)
			http.Error(w, "Not Authorized", http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(srv.Close)
	host := strings.TrimPrefix(srv.URL, "https://")
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	config := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	helper := "#!/bin/sh\nread host\necho \"{\\\"ServerURL\\\": \\\"$host\\\", \\\"Username\\\": \\\"AWS\\\", \\\"Secret\\\": \\\"t0ken\\\"}\"\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(helper), 0o755); err != nil {
		t.Fatal(err)
	}
	p := &Places{CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})}
	ctx := context.Background()
	programs := [][]byte{header(t, "amd64"), header(t, "arm64")}
	for name, text := range map[string]string{
		"helper":   `{"credHelpers": {"` + host + `": "test"}}`,
		"password": `{"auths": {"` + host + `": {"auth": "` + base64.StdEncoding.EncodeToString([]byte("AWS:t0ken")) + `"}}}`,
	} {
		config(text)
		push(t, p, host+"/"+name, published(t, types.OCIImageIndex))
		if got, err := p.Lookup(ctx, host+"/"+name); err != nil || got.Entrypoint[0] != "/"+runtime.GOARCH {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if _, err := p.Embed(ctx, Job{From: host + "/" + name, To: host + "/" + name + ":2", Programs: programs, Options: inject.Options{Policy: []byte("version: 1\n")}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	config(`{}`)
	if _, err := p.Lookup(ctx, host+"/password"); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("without a password: %v", err)
	}
}

// What cannot be written whole leaves what was there, and no trash.
func TestInterrupted(t *testing.T) {
	p := new(Places)
	for _, place := range []string{"oci-archive:%s/file", "oci:%s/folder", "oci:%s/new"} {
		dir := t.TempDir()
		place := fmt.Sprintf(place, dir)
		_, file := kindOf(place)
		if !strings.HasSuffix(file, "new") {
			push(t, p, place, sample(t, nil))
		}
		tree := func() string {
			var names []string
			if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
				if info, infoErr := d.Info(); infoErr == nil && d.Type().IsRegular() {
					path += fmt.Sprint(info.Size(), info.ModTime())
				}
				names = append(names, path)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return strings.Join(names, "\n")
		}
		before := tree()
		for name, want := range map[string]string{"interrupted": "context canceled", "damaged": "the image is damaged"} {
			ctx, cancel := context.WithCancel(context.Background())
			data := bytes.Repeat([]byte(name), 1<<20)
			digest, size, err := v1.SHA256(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			note := &blob{v1.Descriptor{MediaType: "text/x-note", Digest: digest, Size: size}, func() (io.ReadCloser, error) {
				if name == "interrupted" {
					cancel()
				} else {
					data[0] = 'x'
				}
				return io.NopCloser(bytes.NewReader(data)), nil
			}}
			x := written(t, types.OCIImageIndex, `{"manifests": [{"mediaType": "text/x-note", "digest": "%s", "size": %d}]}`, note)
			if err := p.write(ctx, &content{object: x}, place); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want %q", place, err, want)
			}
			cancel()
			if after := tree(); after != before {
				t.Errorf("%s, %s: left\n%s\nof\n%s", place, name, after, before)
			}
		}
	}
}
