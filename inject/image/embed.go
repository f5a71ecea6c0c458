package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"appdefender/inject"
)

const defaultArch = runtime.GOARCH

var emptyIndex = empty.Index

// Labels of a protected image.
const (
	labelVersion  = "appdefender.version"
	labelDigest   = "appdefender.original-digest"
	labelState    = "appdefender.state"
	labelOriginal = "appdefender.original" // manifest and configuration, to give them back
)

// Job is an image to protect.
type Job struct {
	From, To string // places
	// Program is the Defender's, for the image's processor. Empty: the file
	// /defender of the image Options.DefenderImage.
	Program []byte
	inject.Options
}

// Result is what was made.
type Result struct {
	Digest string   // of the image that was written
	Argv   []string // what the Defender starts in it
	AppID  string
	Notes  []string
	// Changed is false for an image that already was what it should be.
	Changed bool
}

// Embed adds a layer with the Defender to an image and changes what it starts.
// An image that is protected is protected anew, from the original.
func (p *Places) Embed(ctx context.Context, j Job) (*Result, error) {
	given, done, err := p.open(ctx, j.From)
	if err != nil {
		return nil, err
	}
	defer done()
	img, had, err := original(given)
	if err != nil {
		return nil, err
	}
	j.Options = j.InheritImage(had)
	if j.AppID == "" {
		j.AppID = path.Base(strings.FieldsFunc(j.From, func(r rune) bool { return r == ':' || r == '@' })[0]) + ":" + inject.NewUUID()
	}
	made, res, err := p.protect(ctx, img, j)
	if err != nil {
		return nil, err
	}
	if err := prove(img, made); err != nil {
		return nil, fmt.Errorf("checking the result, which is not written: %w", err)
	}
	return res, p.finish(ctx, given, made, j, res)
}

// Remove writes the image without the Defender: the same bytes, and so the
// same digest, as before it was protected.
func (p *Places) Remove(ctx context.Context, from, to string) (*Result, error) {
	given, done, err := p.open(ctx, from)
	if err != nil {
		return nil, err
	}
	defer done()
	img, had, err := original(given)
	if err != nil {
		return nil, err
	}
	res := new(Result)
	if had == nil {
		res.Notes = []string{"The image was not protected."}
	}
	return res, p.finish(ctx, given, img, Job{From: from, To: to}, res)
}

func (p *Places) finish(ctx context.Context, given, made v1.Image, j Job, res *Result) error {
	before, err := given.Digest()
	if err != nil {
		return err
	}
	after, err := made.Digest()
	if err != nil {
		return err
	}
	res.Digest, res.Changed = after.String(), before != after
	if j.To == "" {
		return nil
	}
	called := j.From
	if kind, _ := kindOf(called); kind != inRegistry {
		called = "localhost/protected:latest"
	}
	if err := p.write(ctx, made, j.To, called); err != nil {
		return fmt.Errorf("writing image %q: %w", j.To, err)
	}
	return nil
}

func (p *Places) protect(ctx context.Context, img v1.Image, j Job) (v1.Image, *Result, error) {
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, nil, err
	}
	machine, ok := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[cfg.Architecture]
	if cfg.OS != "linux" || !ok {
		return nil, nil, fmt.Errorf("%q is an image for %s/%s: there is a defender for linux/amd64 and linux/arm64", j.From, cfg.OS, cfg.Architecture)
	}
	entry, cmd := cfg.Config.Entrypoint, cfg.Config.Cmd
	if len(entry)+len(cmd) == 0 {
		return nil, nil, fmt.Errorf("%q starts nothing: it has neither ENTRYPOINT nor CMD", j.From)
	}
	if len(entry) > 0 && strings.HasPrefix(entry[0], inject.Dir+"/") {
		return nil, nil, fmt.Errorf("%q already starts %q, but not as embedding an image leaves it; take the defender out of its Dockerfile", j.From, entry[0])
	}
	if len(j.Program) == 0 {
		if j.Program, err = p.program(ctx, j.DefenderImage, cfg.Architecture); err != nil {
			return nil, nil, err
		}
	}
	if err := checkProgram(j.Program, machine); err != nil {
		return nil, nil, err
	}
	env, state, notes, err := j.ForImage()
	if err != nil {
		return nil, nil, err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return nil, nil, err
	}
	layer, err := newLayer(j, manifest.MediaType)
	if err != nil {
		return nil, nil, err
	}
	kept, err := keep(img)
	if err != nil {
		return nil, nil, err
	}
	digest, err := img.Digest()
	if err != nil {
		return nil, nil, err
	}
	made, err := mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{CreatedBy: "defenderctl embed image"}})
	if err != nil {
		return nil, nil, err
	}
	next, err := made.ConfigFile()
	if err != nil {
		return nil, nil, err
	}
	next = next.DeepCopy()
	next.Config.Entrypoint = slices.Concat([]string{inject.Program, "run", "--"}, entry)
	next.Config.Cmd = cmd
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		next.Config.Env = append(slices.DeleteFunc(next.Config.Env, func(s string) bool { return strings.HasPrefix(s, name+"=") }), v)
	}
	if next.Config.Labels == nil {
		next.Config.Labels = make(map[string]string)
	}
	for k, v := range map[string]string{labelVersion: j.Version, labelDigest: digest.String(), labelState: state, labelOriginal: kept} {
		if v != "" {
			next.Config.Labels[k] = v
		}
	}
	if made, err = mutate.ConfigFile(made, next); err != nil {
		return nil, nil, err
	}
	return made, &Result{Argv: slices.Concat(entry, cmd), AppID: j.AppID, Notes: notes}, nil
}

// checkProgram refuses what would not start in the image.
func checkProgram(program []byte, machine elf.Machine) error {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("the defender's program is none: %w", err)
	}
	if f.Machine != machine {
		return fmt.Errorf("the defender's program is for %v, the image for %v", f.Machine, machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("the defender's program needs a loader, which the image may not have; take the static one")
		}
	}
	return nil
}

// program takes the Defender's program out of its image.
func (p *Places) program(ctx context.Context, image, arch string) ([]byte, error) {
	if image == "" {
		return nil, errors.New("the defender's program is missing: give its file or its image")
	}
	q := *p
	q.Platform = "linux/" + arch
	img, done, err := q.open(ctx, image)
	if err != nil {
		return nil, err
	}
	defer done()
	files := mutate.Extract(img)
	defer files.Close()
	for r := tar.NewReader(files); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("image %q has no /defender", image)
		}
		if err != nil {
			return nil, fmt.Errorf("reading image %q: %w", image, err)
		}
		if path.Clean("/"+h.Name) == "/defender" && h.Typeflag == tar.TypeReg {
			return io.ReadAll(r)
		}
	}
}

// newLayer makes the layer; the same files make the same bytes.
func newLayer(j Job, manifest types.MediaType) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	dir := strings.TrimPrefix(inject.Dir, "/")
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, Format: tar.FormatPAX}); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name string
		data []byte
		mode int64
	}{{"ca.pem", j.CA, 0o644}, {"policy.yaml", j.Policy, 0o644}, {"defender", j.Program, 0o755}} {
		if len(f.data) == 0 {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: dir + "/" + f.name, Mode: f.mode, Size: int64(len(f.data)), Format: tar.FormatPAX}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	media := types.DockerLayer
	if manifest == types.OCIManifestSchema1 {
		media = types.OCILayer
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil },
		tarball.WithMediaType(media))
}

// keep returns manifest and configuration of an image as a label's text.
func keep(img v1.Image) (string, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return "", err
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return "", err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return "", err
	}
	if err := json.NewEncoder(z).Encode([][]byte{manifest, config}); err != nil {
		return "", err
	}
	if err := z.Close(); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(b.Bytes()), nil
}

// maxKept bounds what a label may unpack to.
const maxKept = 16 << 20

// before is an image as it was, whose layers are still in the protected one.
type before struct {
	manifest, config []byte
	media            types.MediaType
	layers           v1.Image
}

func (b *before) RawConfigFile() ([]byte, error)      { return b.config, nil }
func (b *before) MediaType() (types.MediaType, error) { return b.media, nil }
func (b *before) RawManifest() ([]byte, error)        { return b.manifest, nil }
func (b *before) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	return b.layers.LayerByDigest(h)
}

// original returns an image as it was before it was protected, and what it was
// protected with; "" for one that is not protected.
func original(img v1.Image) (v1.Image, *string, error) {
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, nil, fmt.Errorf("reading the image's configuration: %w", err)
	}
	text, ok := cfg.Config.Labels[labelOriginal]
	if !ok {
		return img, nil, nil
	}
	state := cfg.Config.Labels[labelState]
	broken := func(err error) error {
		return fmt.Errorf("the image's label %s is not what embedding wrote: %w", labelOriginal, err)
	}
	z, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(text)))
	if err != nil {
		return nil, nil, broken(err)
	}
	var parts [][]byte
	if err := json.NewDecoder(io.LimitReader(z, maxKept)).Decode(&parts); err != nil || len(parts) != 2 {
		return nil, nil, broken(errors.Join(err, fmt.Errorf("%d parts", len(parts))))
	}
	var m v1.Manifest
	if err := json.Unmarshal(parts[0], &m); err != nil {
		return nil, nil, broken(err)
	}
	b := &before{manifest: parts[0], config: parts[1], media: m.MediaType, layers: img}
	was, err := partial.CompressedToImage(b)
	if err != nil {
		return nil, nil, broken(err)
	}
	digest, err := was.Digest()
	if err != nil || digest.String() != cfg.Config.Labels[labelDigest] {
		return nil, nil, broken(errors.Join(err, fmt.Errorf("it is of %s, not %s", digest, cfg.Config.Labels[labelDigest])))
	}
	for _, l := range m.Layers {
		if _, err := img.LayerByDigest(l.Digest); err != nil {
			return nil, nil, fmt.Errorf("the image has been changed since it was protected: layer %s is gone", l.Digest)
		}
	}
	return was, &state, nil
}

// prove looks at the result as an engine and [Places.Remove] will.
func prove(img, made v1.Image) error {
	was, _, err := original(made)
	if err != nil {
		return err
	}
	a, err := img.Digest()
	if err != nil {
		return err
	}
	b, err := was.Digest()
	if err != nil {
		return err
	}
	if a != b {
		return fmt.Errorf("removing the protection would give %s, not %s back", b, a)
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	more, err := made.Layers()
	if err != nil {
		return err
	}
	if len(more) != len(layers)+1 {
		return fmt.Errorf("it has %d layers, not %d", len(more), len(layers)+1)
	}
	for i := range layers {
		x, errX := layers[i].Digest()
		y, errY := more[i].Digest()
		if err := errors.Join(errX, errY); err != nil || x != y {
			return errors.Join(err, fmt.Errorf("layer %d would change", i))
		}
	}
	return nil
}
