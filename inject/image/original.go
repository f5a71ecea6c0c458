package image

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"appdefender/inject"
)

// kept is what a label keeps of an original: its manifest and configuration,
// or the bytes of its indexes.
type kept struct{ text, digest string }

// pack returns texts as one that a label can hold; the same make the same.
func pack(parts [][]byte) (string, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return "", err
	}
	if err := errors.Join(json.NewEncoder(z).Encode(parts), z.Close()); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(b.Bytes()), nil
}

// maxKept bounds what a label may unpack to.
const maxKept = 16 << 20

func unpackLabel(text string) (parts [][]byte, err error) {
	z, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(text)))
	if err == nil {
		err = json.NewDecoder(io.LimitReader(z, maxKept)).Decode(&parts)
	}
	if err == nil && len(parts) == 0 {
		err = errors.New("it is empty")
	}
	return parts, err
}

func broken(err error) error {
	return fmt.Errorf("%s is not what embedding wrote: %w", labelOriginal, err)
}

func keep(img v1.Image) (*kept, error) {
	manifest, err := img.RawManifest()
	if err != nil {
		return nil, err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return nil, err
	}
	text, err := pack([][]byte{manifest, config})
	if err != nil {
		return nil, err
	}
	digest, err := img.Digest()
	return &kept{text, digest.String()}, err
}

// original is what there was before something was protected.
type original struct {
	object
	state *string // what it was protected with; nil if it was not
	label *kept   // of an image whose layers were packed anew: what its label says
	notes []string
}

// originals returns what an object was before it was protected.
func originals(o object) (*original, error) {
	if img, ok := o.(v1.Image); ok {
		return originalImage(img)
	}
	x := o.(*index)
	leaves, err := x.leaves()
	if err != nil {
		return nil, err
	}
	res := &original{object: x}
	repacked := false
	swap := make(map[v1.Hash]v1.Image)     // protected to original
	swapBack := make(map[v1.Hash]v1.Image) // the reverse
	for _, l := range leaves {
		was, err := originalImage(l.image)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.platform, err)
		}
		if was.state == nil {
			continue
		}
		if res.state == nil {
			res.state, res.notes = was.state, was.notes
		}
		repacked = repacked || was.label != nil
		digest, err := was.Digest()
		if err != nil {
			return nil, err
		}
		swap[l.digest], swapBack[digest] = was.object.(v1.Image), l.image
	}
	m, err := x.IndexManifest()
	if err != nil {
		return nil, err
	}
	text, ok := m.Annotations[labelOriginal]
	switch {
	case !ok && res.state == nil:
		return res, nil
	case !ok || repacked:
		res.notes = append(res.notes, "The index was made anew of protected images: the originals of those come back, not an index that was there before.")
		res.object, err = x.with(swap, nil)
		return res, err
	}
	parts, err := unpackLabel(text)
	if err != nil {
		return nil, broken(err)
	}
	was, err := restore(x, parts, swap)
	if err != nil {
		return nil, err
	}
	digest, err := was.Digest()
	if err != nil || digest.String() != m.Annotations[labelDigest] {
		return nil, broken(errors.Join(err, fmt.Errorf("it is of %s, not %s", digest, m.Annotations[labelDigest])))
	}
	// What else was changed since would be lost.
	again, err := was.with(swapBack, map[string]string{labelOriginal: text, labelDigest: m.Annotations[labelDigest], labelVersion: m.Annotations[labelVersion]})
	if err != nil {
		return nil, err
	}
	if same, err := sameJSON(again.raw, x.raw, func(top map[string]any) {
		if list, ok := top["annotations"].(map[string]any); ok {
			maps.DeleteFunc(list, func(name string, _ any) bool { return name == labelVersion })
		}
	}); err != nil || !same {
		return nil, errors.Join(err, errors.New("the index has been changed since it was protected; make the change in the original, and protect that"))
	}
	res.object = was
	return res, nil
}

// restore returns the index of the bytes of it and of those within, the first
// being its own, and what is in the one that was made of it.
func restore(made *index, parts [][]byte, swap map[v1.Hash]v1.Image) (*index, error) {
	have := make(map[v1.Hash]partial.Describable)
	var collect func(x *index)
	collect = func(x *index) {
		for h, c := range x.children {
			if inner, ok := c.(*index); ok {
				collect(inner)
			} else {
				have[h] = c
			}
		}
	}
	collect(made)
	for _, img := range swap {
		h, err := img.Digest()
		if err != nil {
			return nil, err
		}
		have[h] = img
	}
	raws := make(map[v1.Hash][]byte)
	for _, raw := range parts {
		h, _, err := v1.SHA256(bytes.NewReader(raw))
		if err != nil {
			return nil, err
		}
		raws[h] = raw
	}
	var fill func(raw []byte, media types.MediaType) (*index, error)
	fill = func(raw []byte, media types.MediaType) (*index, error) {
		x := &index{raw, media, make(map[v1.Hash]partial.Describable)}
		m, err := x.IndexManifest()
		if err != nil {
			return nil, broken(err)
		}
		for _, d := range m.Manifests {
			if raw, ok := raws[d.Digest]; ok && d.MediaType.IsIndex() {
				if x.children[d.Digest], err = fill(raw, d.MediaType); err != nil {
					return nil, err
				}
			} else if c, ok := have[d.Digest]; ok {
				x.children[d.Digest] = c
			} else {
				return nil, fmt.Errorf("the index has been changed since it was protected: %s is gone", said(d))
			}
		}
		return x, nil
	}
	return fill(parts[0], made.media)
}

func originalImage(img v1.Image) (*original, error) {
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the image's configuration: %w", err)
	}
	text, ok := cfg.Config.Labels[labelOriginal]
	if !ok {
		return &original{object: img}, nil
	}
	state := cfg.Config.Labels[labelState]
	parts, err := unpackLabel(text)
	if err == nil && len(parts) != 2 {
		err = fmt.Errorf("%d parts", len(parts))
	}
	if err != nil {
		return nil, broken(err)
	}
	manifest, config := parts[0], parts[1]
	var m v1.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return nil, broken(err)
	}
	if m.MediaType == "" { // may be left out in OCI's
		m.MediaType = types.OCIManifestSchema1
	}
	res := &original{state: &state}
	was, err := assemble(manifest, config, m.MediaType, img, nil)
	if err != nil {
		return nil, broken(err)
	}
	digest, err := was.Digest()
	if err != nil || digest.String() != cfg.Config.Labels[labelDigest] {
		return nil, broken(errors.Join(err, fmt.Errorf("it is of %s, not %s", digest, cfg.Config.Labels[labelDigest])))
	}
	wasCfg, err := was.ConfigFile()
	if err != nil {
		return nil, broken(err)
	}
	// What was changed or added since would be lost.
	if since, err := changes(cfg.Config, wasCfg.Config); err != nil || len(since) > 0 {
		return nil, errors.Join(err, fmt.Errorf("the image has been changed since it was protected (%s); make the change in the original, and protect that", strings.Join(since, ", ")))
	}
	ids, now := wasCfg.RootFS.DiffIDs, cfg.RootFS.DiffIDs
	if len(now) != len(ids)+1 || !slices.Equal(now[:len(ids)], ids) {
		return nil, errors.New("the image has been changed since it was protected: it has other layers; make the change in the original, and protect that")
	}
	given, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	have := func(l v1.Descriptor) bool {
		return slices.ContainsFunc(given.Layers, func(d v1.Descriptor) bool { return d.Digest == l.Digest })
	}
	if len(m.Layers) == len(ids) && !slices.ContainsFunc(m.Layers, func(l v1.Descriptor) bool { return !have(l) }) {
		res.object = was
		return res, nil
	}
	// An engine has packed the layers anew: what they hold is the same.
	res.label = &kept{text, cfg.Config.Labels[labelDigest]}
	res.notes = []string{"Its layers were packed anew since it was protected, as engines do: the original comes back with the same image ID (configuration), not the same digest."}
	res.object, err = withoutLast(img, config)
	return res, err
}

// withoutLast returns an image without its last layer, and with the
// configuration that it had before that.
func withoutLast(img v1.Image, config []byte) (v1.Image, error) {
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	raw, err := img.RawManifest()
	if err != nil {
		return nil, err
	}
	media, err := img.MediaType()
	if err != nil {
		return nil, err
	}
	raw, err = edit(raw, func(top fields) error {
		var list []json.RawMessage
		if err := json.Unmarshal(top["layers"], &list); err != nil {
			return err
		}
		if n := len(cfg.RootFS.DiffIDs); len(list) != n {
			return fmt.Errorf("the manifest has %d layers, the configuration %d", len(list), n)
		}
		return errors.Join(top.set("layers", list[:len(list)-1]), setConfig(top, config))
	})
	if err != nil {
		return nil, err
	}
	return assemble(raw, config, media, img, nil)
}

// changes lists what of the configuration of a protected image is neither the
// original's nor embedding's.
func changes(now, was v1.Config) ([]string, error) {
	var list []string
	parsed := make([]map[string]any, 2)
	for i, c := range []v1.Config{now, was} {
		c.Env = slices.DeleteFunc(slices.Clone(c.Env), func(v string) bool { return strings.HasPrefix(v, "DEFENDER_") })
		c.Labels = maps.Clone(c.Labels)
		maps.DeleteFunc(c.Labels, func(name, _ string) bool { return strings.HasPrefix(name, labelPrefix) })
		if i == 0 {
			c.Entrypoint = slices.Clone(c.Entrypoint)
			if ours := []string{inject.Program, "run", "--"}; len(c.Entrypoint) >= len(ours) && slices.Equal(c.Entrypoint[:len(ours)], ours) {
				c.Entrypoint = c.Entrypoint[len(ours):]
			} else {
				list = append(list, "Entrypoint")
			}
		}
		raw, err := json.Marshal(c)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(raw, &parsed[i]); err != nil {
			return nil, err
		}
	}
	for _, m := range parsed {
		for key := range m {
			if !reflect.DeepEqual(parsed[0][key], parsed[1][key]) && !slices.Contains(list, key) {
				list = append(list, key)
			}
		}
	}
	slices.Sort(list)
	return list, nil
}

// sameJSON compares two objects, but for what is taken out of both.
func sameJSON(a, b []byte, without func(map[string]any)) (bool, error) {
	var x, y map[string]any
	if err := errors.Join(json.Unmarshal(a, &x), json.Unmarshal(b, &y)); err != nil {
		return false, err
	}
	without(x)
	without(y)
	return reflect.DeepEqual(x, y), nil
}

// prove looks at the result as an engine and [Places.Remove] will.
func prove(img, made v1.Image) error {
	if err := givesBack(img, made); err != nil {
		return err
	}
	before, errBefore := img.RawManifest()
	after, errAfter := made.RawManifest()
	if err := errors.Join(errBefore, errAfter); err != nil {
		return err
	}
	var last int
	if same, err := sameJSON(before, after, func(top map[string]any) {
		if layers, ok := top["layers"].([]any); ok {
			if last == 0 {
				last = len(layers)
			}
			top["layers"] = layers[:min(last, len(layers))]
		}
		delete(top, "config")
	}); err != nil || !same {
		return errors.Join(err, errors.New("more than a layer of the manifest would change"))
	}
	before, errBefore = img.RawConfigFile()
	after, errAfter = made.RawConfigFile()
	if err := errors.Join(errBefore, errAfter); err != nil {
		return err
	}
	if same, err := sameJSON(before, after, func(top map[string]any) {
		for _, key := range []string{"rootfs", "history"} {
			delete(top, key)
		}
		config, ok := top["config"].(map[string]any)
		if !ok {
			config = make(map[string]any)
			top["config"] = config
		}
		for _, key := range []string{"Entrypoint", "Env", "Labels"} {
			delete(config, key)
		}
	}); err != nil || !same {
		return errors.Join(err, errors.New("more of the configuration would change than is meant to"))
	}
	return nil
}

// givesBack checks that removing gives an object back.
func givesBack(o, made object) error {
	was, err := originals(made)
	if err != nil {
		return err
	}
	a, errA := o.Digest()
	b, errB := was.Digest()
	if err := errors.Join(errA, errB); err != nil {
		return err
	}
	if was.label != nil { // packed anew: what is the same is the configuration
		same, err := isSame(o, was.object)
		if err != nil || !same {
			return errors.Join(err, errors.New("removing the protection would give another image back"))
		}
	} else if a != b {
		return fmt.Errorf("removing the protection would give %s, not %s back", b, a)
	}
	return nil
}

func proveIndex(x, made *index, n int) error {
	if err := givesBack(x, made); err != nil {
		return err
	}
	leaves, err := made.leaves()
	if err != nil {
		return err
	}
	if len(leaves) != n {
		return fmt.Errorf("%d images of %d are protected", len(leaves), n)
	}
	for _, l := range leaves {
		if was, err := originalImage(l.image); err != nil || was.state == nil {
			return errors.Join(err, fmt.Errorf("%s would not be protected", l.platform))
		}
	}
	return nil
}
