package image

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"appdefender/inject"
)

// Labels of a protected image, and annotations of a protected index.
const (
	labelVersion  = "appdefender.version"
	labelDigest   = "appdefender.original-digest"
	labelState    = "appdefender.state"
	labelOriginal = "appdefender.original" // what it takes to give the original back
	labelChosen   = "appdefender.chosen-from"
	labelPrefix   = "appdefender."
)

// Job is an image to protect.
type Job struct {
	From, To string // places
	// Programs are the Defender's, one for a processor. For one that none is
	// for, the file /defender of the image Options.DefenderImage is taken.
	Programs [][]byte
	inject.Options
}

// Result is what was made.
type Result struct {
	Digest string   // of the image or index that was written
	Argv   []string // what the Defender starts in it; of an index, in its first image
	AppID  string
	Notes  []string
	// Changed is false for an image that already was what it should be.
	Changed bool
}

// Embed adds a layer with the Defender to an image and changes what it starts;
// of an index to every image of it, or of those that Places.Platform chooses.
// What is protected is protected anew, from the original.
func (p *Places) Embed(ctx context.Context, j Job) (*Result, error) {
	platforms, err := p.platforms()
	if err != nil {
		return nil, err
	}
	given, done, err := p.open(ctx, j.From)
	if err != nil {
		return nil, err
	}
	defer done()
	was, err := originals(given.object)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", j.From, err)
	}
	j.Options = j.InheritImage(was.state)
	if j.AppID == "" {
		j.AppID = given.appName(j.From) + ":" + inject.NewUUID()
	}
	res := &Result{AppID: j.AppID, Notes: was.notes}
	programs := &programs{places: p, job: &j}
	some, err := pick(was.object, platforms)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", j.From, err)
	}
	var made object
	switch o := some.(type) {
	case *index:
		made, err = protectIndex(ctx, o, j, programs, res)
	case v1.Image:
		made, err = protect(ctx, o, j, programs, was.label, res)
	}
	if err != nil {
		return nil, fmt.Errorf("%q: %w", j.From, err)
	}
	return res, p.finish(ctx, given, made, j, res)
}

// appName is what an application is called whose image is at a place: the last
// part of the image's name, or the name of the file.
func (c *content) appName(place string) string {
	if ref, err := name.ParseReference(c.name); err == nil {
		return path.Base(ref.Context().RepositoryStr())
	}
	_, rest := kindOf(place)
	file, _ := named(rest)
	file = path.Base(path.Clean(file))
	return strings.TrimSuffix(file, path.Ext(file))
}

// Remove writes the image without the Defender: the same bytes, and so the
// same digest, as before it was protected.
func (p *Places) Remove(ctx context.Context, from, to string) (*Result, error) {
	platforms, err := p.platforms()
	if err != nil {
		return nil, err
	}
	given, done, err := p.open(ctx, from)
	if err != nil {
		return nil, err
	}
	defer done()
	was, err := originals(given.object)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", from, err)
	}
	res := &Result{Notes: was.notes}
	if was.state == nil {
		res.Notes = append(res.Notes, "The image was not protected.")
	}
	some, err := pick(was.object, platforms)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", from, err)
	}
	return res, p.finish(ctx, given, some, Job{From: from, To: to}, res)
}

func (p *Places) finish(ctx context.Context, given *content, made object, j Job, res *Result) error {
	same, err := isSame(given.object, made)
	if err != nil {
		return err
	}
	next := *given
	if !same {
		next.object = made
		_, isIndex := made.(*index)
		next.whole = given.whole && isIndex
	}
	digest, err := next.Digest()
	if err != nil {
		return err
	}
	res.Digest, res.Changed = digest.String(), !same
	if j.To == "" {
		return nil
	}
	if err := p.write(ctx, &next, j.To); err != nil {
		return fmt.Errorf("writing image %q: %w", j.To, err)
	}
	return nil
}

// isSame reports whether two images are the same but for how their layers are
// packed: engines pack them anew.
func isSame(a, b object) (bool, error) {
	imgA, okA := a.(v1.Image)
	imgB, okB := b.(v1.Image)
	if okA != okB {
		return false, nil
	}
	id := func(o object, img v1.Image) (v1.Hash, error) {
		if img != nil {
			return img.ConfigName()
		}
		return o.Digest()
	}
	hashA, errA := id(a, imgA)
	hashB, errB := id(b, imgB)
	return hashA == hashB, errors.Join(errA, errB)
}

// programs finds the Defender's program for a processor.
type programs struct {
	places *Places
	job    *Job
	found  map[string][]byte
}

// machines are the processors that there is a Defender for.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

func (s *programs) of(ctx context.Context, arch string) ([]byte, error) {
	if program, ok := s.found[arch]; ok {
		return program, nil
	}
	var given []string
	var program []byte
	for _, data := range s.job.Programs {
		f, err := elf.NewFile(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("the defender's program is none: %w", err)
		}
		given = append(given, f.Machine.String())
		if f.Machine == machines[arch] {
			program = data
		}
	}
	if program == nil {
		if s.job.DefenderImage == "" && len(given) > 0 {
			return nil, fmt.Errorf("the defender's program is for %s, the image for %s: give that one's too, or its image", strings.Join(given, " and "), arch)
		}
		var err error
		if program, err = s.places.program(ctx, s.job.DefenderImage, arch); err != nil {
			return nil, err
		}
	}
	if err := checkProgram(program, machines[arch]); err != nil {
		return nil, err
	}
	if s.found == nil {
		s.found = make(map[string][]byte)
	}
	s.found[arch] = program
	return program, nil
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
	img, done, err := q.openOne(ctx, image)
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

// pick returns what is of some platforms: of one, its image.
func pick(o object, platforms []v1.Platform) (object, error) {
	if len(platforms) == 0 {
		return o, nil
	}
	if img, ok := o.(v1.Image); ok {
		cfg, err := img.ConfigFile()
		if err != nil {
			return nil, err
		}
		_, err = chosen([]leaf{{platform: platformOf(cfg)}}, platforms)
		return img, err
	}
	x := o.(*index)
	all, err := x.leaves()
	if err != nil {
		return nil, err
	}
	leaves, err := chosen(all, platforms)
	if err != nil {
		return nil, err
	}
	if len(platforms) == 1 && len(leaves) == 1 {
		return leaves[0].image, nil
	}
	return x.only(leaves, all)
}

func platformOf(cfg *v1.ConfigFile) v1.Platform {
	return v1.Platform{OS: cfg.OS, Architecture: cfg.Architecture, Variant: cfg.Variant}
}

// protectIndex protects every image of an index.
func protectIndex(ctx context.Context, x *index, j Job, s *programs, res *Result) (object, error) {
	leaves, err := x.leaves()
	if err != nil {
		return nil, err
	}
	if kind, _ := kindOf(j.To); kind == inDocker {
		return nil, fmt.Errorf("has images for %s: %w", platformsOf(leaves), errIndexInDocker)
	}
	var can, cannot []leaf
	for _, l := range leaves {
		if _, ok := machines[l.platform.Architecture]; ok && l.platform.OS == "linux" {
			can = append(can, l)
		} else {
			cannot = append(cannot, l)
		}
	}
	switch {
	case len(cannot) > 0 && len(can) > 0:
		return nil, fmt.Errorf("has images for %s, which there is no defender for; leave them out with --platform %s", platformsOf(cannot), platformsOf(can))
	case len(cannot) > 0:
		return nil, fmt.Errorf("has images for %s: there is a defender for linux/amd64 and linux/arm64", platformsOf(cannot))
	}
	swap := make(map[v1.Hash]v1.Image)
	for i, l := range leaves {
		one := *res
		made, err := protect(ctx, l.image, j, s, nil, &one)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.platform, err)
		}
		if i == 0 {
			*res = one
		}
		swap[l.digest] = made
	}
	digest, err := x.Digest()
	if err != nil {
		return nil, err
	}
	kept, err := pack(x.raws())
	if err != nil {
		return nil, err
	}
	annotations := map[string]string{labelDigest: digest.String(), labelOriginal: kept}
	if j.Version != "" {
		annotations[labelVersion] = j.Version
	}
	made, err := x.with(swap, annotations)
	if err != nil {
		return nil, err
	}
	if err := proveIndex(x, made, len(leaves)); err != nil {
		return nil, fmt.Errorf("checking the result, which is not written: %w", err)
	}
	note := "Protected for " + platformsOf(leaves) + "."
	if len(x.children) > len(swap) {
		note += " What else is in the index, such as attestations, is as it was and tells of the original."
	}
	res.Notes = append(res.Notes, note)
	return made, nil
}

// protect protects one image, and keeps k of it, or if that is nil, all.
func protect(ctx context.Context, img v1.Image, j Job, s *programs, k *kept, res *Result) (v1.Image, error) {
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	if _, ok := machines[cfg.Architecture]; cfg.OS != "linux" || !ok {
		return nil, fmt.Errorf("is an image for %s: there is a defender for linux/amd64 and linux/arm64", platformOf(cfg))
	}
	entry, cmd := cfg.Config.Entrypoint, cfg.Config.Cmd
	if len(entry)+len(cmd) == 0 {
		return nil, errors.New("starts nothing: it has neither ENTRYPOINT nor CMD")
	}
	if len(entry) > 0 && strings.HasPrefix(entry[0], inject.Dir+"/") {
		return nil, fmt.Errorf("already starts %q, but not as embedding an image leaves it; take the defender out of its Dockerfile", entry[0])
	}
	if inject.StartsDefender(slices.Concat(entry, cmd)) {
		return nil, errors.New(inject.DefenderTwice)
	}
	env, state, notes, err := j.ForImage()
	if err != nil {
		return nil, err
	}
	program, err := s.of(ctx, cfg.Architecture)
	if err != nil {
		return nil, err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	layer, err := newLayer(j, program, manifest)
	if err != nil {
		return nil, err
	}
	if k == nil {
		if k, err = keep(img); err != nil {
			return nil, err
		}
	}
	labels := map[string]string{labelDigest: k.digest, labelState: state, labelOriginal: k.text}
	if j.Version != "" {
		labels[labelVersion] = j.Version
	}
	vars := cfg.Config.Env
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		vars = append(slices.DeleteFunc(slices.Clone(vars), func(s string) bool { return strings.HasPrefix(s, name+"=") }), v)
	}
	made, err := build(img, layer, func(config fields) error {
		return errors.Join(
			config.set("Entrypoint", slices.Concat([]string{inject.Program, "run", "--"}, entry)),
			config.set("Env", vars),
			config.add("Labels", labels),
		)
	})
	if err != nil {
		return nil, err
	}
	if err := prove(img, made); err != nil {
		return nil, fmt.Errorf("checking the result, which is not written: %w", err)
	}
	res.Argv = slices.Concat(entry, cmd)
	res.Notes = append(res.Notes, notes...)
	return made, nil
}

// build returns the image with one more layer and another configuration.
// Everything else in manifest and configuration stays, known or not.
func build(img v1.Image, layer v1.Layer, change func(config fields) error) (v1.Image, error) {
	diffID, err := layer.DiffID()
	if err != nil {
		return nil, err
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		return nil, err
	}
	config, err := edit(raw, func(top fields) error {
		inner, err := edit(orEmpty(top["config"]), change)
		if err != nil {
			return fmt.Errorf("config: %w", err)
		}
		rootfs, err := edit(orEmpty(top["rootfs"]), func(rootfs fields) error { return rootfs.appendTo("diff_ids", diffID) })
		if err != nil {
			return fmt.Errorf("rootfs: %w", err)
		}
		top["config"], top["rootfs"] = inner, rootfs
		if _, ok := top["history"]; !ok {
			return nil
		}
		return top.appendTo("history", map[string]string{"created_by": "defenderctl embed image"})
	})
	if err != nil {
		return nil, fmt.Errorf("reading the image's configuration: %w", err)
	}
	if raw, err = img.RawManifest(); err != nil {
		return nil, err
	}
	added, err := descriptor(layer)
	if err != nil {
		return nil, err
	}
	manifest, err := edit(raw, func(top fields) error {
		return errors.Join(top.appendTo("layers", added), setConfig(top, config))
	})
	if err != nil {
		return nil, fmt.Errorf("reading the image's manifest: %w", err)
	}
	media, err := img.MediaType()
	if err != nil {
		return nil, err
	}
	return assemble(manifest, config, media, img, layer)
}

func orEmpty(raw json.RawMessage) json.RawMessage {
	if raw == nil {
		return json.RawMessage("{}")
	}
	return raw
}

// setConfig makes a manifest that of another configuration.
func setConfig(manifest fields, config []byte) error {
	digest, size, err := v1.SHA256(bytes.NewReader(config))
	if err != nil {
		return err
	}
	manifest["config"], err = edit(manifest["config"], func(d fields) error {
		delete(d, "data")
		return errors.Join(d.set("digest", digest), d.set("size", size))
	})
	return err
}

// assembled is an image whose layers are another's, and perhaps one more.
type assembled struct {
	v1.Image
	layers v1.Image
	added  v1.Layer
}

func assemble(manifest, config []byte, media types.MediaType, layers v1.Image, added v1.Layer) (v1.Image, error) {
	a := &assembled{layers: layers, added: added}
	var err error
	a.Image, err = partial.CompressedToImage(&core{manifest, config, media, a})
	return a, err
}

func (a *assembled) LayerByDigest(h v1.Hash) (v1.Layer, error) {
	if a.added != nil {
		if d, err := a.added.Digest(); err != nil || d == h {
			return a.added, err
		}
	}
	return a.layers.LayerByDigest(h)
}

// Layers are the others' own, which know how to be mounted from one repository
// into another.
func (a *assembled) Layers() ([]v1.Layer, error) {
	m, err := a.Manifest()
	if err != nil {
		return nil, err
	}
	var all []v1.Layer
	for _, d := range m.Layers {
		l, err := a.LayerByDigest(d.Digest)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

type core struct {
	manifest, config []byte
	media            types.MediaType
	image            *assembled
}

func (c *core) RawConfigFile() ([]byte, error)      { return c.config, nil }
func (c *core) MediaType() (types.MediaType, error) { return c.media, nil }
func (c *core) RawManifest() ([]byte, error)        { return c.manifest, nil }
func (c *core) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	return c.image.LayerByDigest(h)
}

// newLayer makes the layer; the same files make the same bytes.
func newLayer(j Job, program []byte, m *v1.Manifest) (v1.Layer, error) {
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
	}{{"ca.pem", j.CA, 0o644}, {"policy.yaml", j.Policy, 0o644}, {"defender", program, 0o755}} {
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
	if m.Config.MediaType == types.OCIConfigJSON {
		media = types.OCILayer
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil },
		tarball.WithMediaType(media), tarball.WithCompressedCaching)
}
