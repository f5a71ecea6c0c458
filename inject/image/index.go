package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// object is an image or an *index.
type object interface {
	partial.Describable
	RawManifest() ([]byte, error)
}

func descriptor(o partial.Describable) (v1.Descriptor, error) {
	media, errMedia := o.MediaType()
	digest, errDigest := o.Digest()
	size, errSize := o.Size()
	return v1.Descriptor{MediaType: media, Digest: digest, Size: size}, errors.Join(errMedia, errDigest, errSize)
}

// index is an index of images: its bytes, and all that it refers to.
type index struct {
	raw      []byte
	media    types.MediaType
	children map[v1.Hash]partial.Describable // v1.Image, *index, or v1.Layer for what is of another type
}

func (x *index) MediaType() (types.MediaType, error) { return x.media, nil }
func (x *index) Digest() (v1.Hash, error)            { return partial.Digest(x) }
func (x *index) Size() (int64, error)                { return int64(len(x.raw)), nil }
func (x *index) RawManifest() ([]byte, error)        { return x.raw, nil }
func (x *index) IndexManifest() (*v1.IndexManifest, error) {
	return v1.ParseIndexManifest(bytes.NewReader(x.raw))
}
func (x *index) Image(h v1.Hash) (v1.Image, error)           { return child[v1.Image](x, h) }
func (x *index) ImageIndex(h v1.Hash) (v1.ImageIndex, error) { return child[*index](x, h) }
func (x *index) Layer(h v1.Hash) (v1.Layer, error)           { return child[v1.Layer](x, h) } // those that write indexes look for this

func child[T any](x *index, h v1.Hash) (T, error) {
	c, ok := x.children[h].(T)
	if !ok {
		return c, fmt.Errorf("the index has no %T of digest %s", c, h)
	}
	return c, nil
}

// load reads an index and the manifests of all that it refers to.
func load(from v1.ImageIndex) (*index, error) {
	raw, err := from.RawManifest()
	if err != nil {
		return nil, err
	}
	media, err := from.MediaType()
	if err != nil {
		return nil, err
	}
	x := &index{raw, media, make(map[v1.Hash]partial.Describable)}
	m, err := x.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("reading the index: %w", err)
	}
	for _, d := range m.Manifests {
		var c partial.Describable
		var err error
		switch {
		case d.MediaType.IsIndex():
			var inner v1.ImageIndex
			if inner, err = from.ImageIndex(d.Digest); err == nil {
				c, err = load(inner)
			}
		case d.MediaType.IsImage():
			c, err = from.Image(d.Digest)
		case d.MediaType.IsSchema1():
			err = errors.New("is an image of Docker's first format, which no tool writes any more; push it again with a newer one")
		default:
			c, err = other(from, d)
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s of the index: %w", said(d), err)
		}
		x.children[d.Digest] = c
	}
	return x, nil
}

// said names an entry of an index.
func said(d v1.Descriptor) string {
	if d.Platform != nil && d.Platform.String() != "" {
		return d.Platform.String() + " (" + d.Digest.String() + ")"
	}
	return d.Digest.String()
}

// blob is something in an index that is neither an image nor an index.
type blob struct {
	d    v1.Descriptor
	open func() (io.ReadCloser, error)
}

func (b *blob) Digest() (v1.Hash, error)             { return b.d.Digest, nil }
func (b *blob) DiffID() (v1.Hash, error)             { return b.d.Digest, nil }
func (b *blob) Size() (int64, error)                 { return b.d.Size, nil }
func (b *blob) MediaType() (types.MediaType, error)  { return b.d.MediaType, nil }
func (b *blob) Compressed() (io.ReadCloser, error)   { return b.open() }
func (b *blob) Uncompressed() (io.ReadCloser, error) { return b.open() }

func other(from v1.ImageIndex, d v1.Descriptor) (v1.Layer, error) {
	switch from := from.(type) {
	case interface {
		Layer(v1.Hash) (v1.Layer, error)
	}:
		l, err := from.Layer(d.Digest)
		if err != nil {
			return nil, err
		}
		return &blob{d, l.Compressed}, nil
	case interface {
		Blob(v1.Hash) (io.ReadCloser, error)
	}:
		return &blob{d, func() (io.ReadCloser, error) { return from.Blob(d.Digest) }}, nil
	}
	return nil, fmt.Errorf("it is of type %q, which cannot be copied from here", d.MediaType)
}

// leaf is an image of an index that containers are started from.
type leaf struct {
	image    v1.Image
	digest   v1.Hash
	platform v1.Platform
}

// leaves returns the images that containers are started from, those of indexes
// within as well. Not among them are attestations, which say that they are for
// no platform, and what is packed as an image but has not the configuration of
// one, such as a chart.
func (x *index) leaves() ([]leaf, error) {
	m, err := x.IndexManifest()
	if err != nil {
		return nil, err
	}
	var all []leaf
	for _, d := range m.Manifests {
		switch c := x.children[d.Digest].(type) {
		case *index:
			inner, err := c.leaves()
			if err != nil {
				return nil, err
			}
			all = append(all, inner...)
		case v1.Image:
			if d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown" {
				continue
			}
			manifest, err := c.Manifest()
			if err != nil {
				return nil, err
			}
			if !manifest.Config.MediaType.IsConfig() {
				continue
			}
			cfg, err := c.ConfigFile()
			if err != nil {
				return nil, fmt.Errorf("reading the configuration of %s: %w", said(d), err)
			}
			l := leaf{image: c, digest: d.Digest}
			p := cfg.Platform()
			if p != nil {
				l.platform = *p
			}
			if d.Platform != nil {
				// Engines choose by what the index says, and start what is there.
				if p != nil && !l.platform.Satisfies(v1.Platform{OS: d.Platform.OS, Architecture: d.Platform.Architecture}) {
					return nil, fmt.Errorf("the index says that %s is for %s, its configuration says %s", d.Digest, d.Platform, l.platform)
				}
				l.platform = *d.Platform
			}
			all = append(all, l)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("the index has no image that a container can be started from")
	}
	return all, nil
}

func platformsOf(leaves []leaf) string {
	var names []string
	for _, l := range leaves {
		if name := l.platform.String(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// chosen returns the images of platforms; of none, all.
func chosen(leaves []leaf, platforms []v1.Platform) ([]leaf, error) {
	if len(platforms) == 0 {
		return leaves, nil
	}
	var list []leaf
	for _, p := range platforms {
		n := len(list)
		for _, l := range leaves {
			if l.platform.Satisfies(p) {
				list = append(list, l)
			}
		}
		if len(list) == n {
			return nil, fmt.Errorf("has no image for %s; there are %s", p, platformsOf(leaves))
		}
	}
	return list, nil
}

// rewrite returns the index with f's answer in place of each entry; nil leaves
// it out. Only digests and sizes change, and what annotations are given.
func (x *index) rewrite(f func(d v1.Descriptor, c partial.Describable) (partial.Describable, error), annotations map[string]string) (*index, error) {
	m, err := x.IndexManifest()
	if err != nil {
		return nil, err
	}
	next := &index{media: x.media, children: make(map[v1.Hash]partial.Describable)}
	changed := len(annotations) > 0
	next.raw, err = edit(x.raw, func(top fields) error {
		var list, kept []json.RawMessage
		if err := json.Unmarshal(top["manifests"], &list); err != nil {
			return err
		}
		if len(list) != len(m.Manifests) {
			return errors.New(`the index has "manifests" twice`)
		}
		for i, d := range m.Manifests {
			c := x.children[d.Digest]
			if inner, ok := c.(*index); ok {
				c, err = inner.rewrite(f, nil)
			} else {
				c, err = f(d, c)
			}
			if err != nil {
				return err
			}
			if c == nil {
				changed = true
				continue
			}
			is, err := descriptor(c)
			if err != nil {
				return err
			}
			if is.Digest != d.Digest {
				changed = true
				if list[i], err = edit(list[i], func(entry fields) error {
					delete(entry, "data") // is what is no more
					return errors.Join(entry.set("digest", is.Digest), entry.set("size", is.Size))
				}); err != nil {
					return err
				}
			}
			next.children[is.Digest] = c
			kept = append(kept, list[i])
		}
		return errors.Join(top.set("manifests", kept), top.add("annotations", annotations))
	})
	if err != nil {
		return nil, err
	}
	if !changed {
		return x, nil
	}
	return next, nil
}

// with returns the index with other images in place of some, by digest.
func (x *index) with(images map[v1.Hash]v1.Image, annotations map[string]string) (*index, error) {
	return x.rewrite(func(d v1.Descriptor, c partial.Describable) (partial.Describable, error) {
		if img, ok := images[d.Digest]; ok {
			return img, nil
		}
		return c, nil
	}, annotations)
}

// attestedImage names in an attestation the digest of the image that it is of.
const attestedImage = "vnd.docker.reference.digest"

// only returns the index without the images that are not among leaves, and
// without what is told of those.
func (x *index) only(leaves, all []leaf) (*index, error) {
	if len(leaves) == len(all) {
		return x, nil
	}
	gone := make(map[string]bool)
	for _, l := range all {
		gone[l.digest.String()] = true
	}
	for _, l := range leaves {
		delete(gone, l.digest.String())
	}
	whole, err := x.Digest()
	if err != nil {
		return nil, err
	}
	return x.rewrite(func(d v1.Descriptor, c partial.Describable) (partial.Describable, error) {
		if gone[d.Digest.String()] || gone[d.Annotations[attestedImage]] {
			return nil, nil
		}
		return c, nil
	}, map[string]string{labelChosen: whole.String()})
}

// raws returns the bytes of the index and of those within it.
func (x *index) raws() [][]byte {
	all := [][]byte{x.raw}
	for _, c := range x.children {
		if inner, ok := c.(*index); ok {
			all = append(all, inner.raws()...)
		}
	}
	slices.SortFunc(all[1:], bytes.Compare) // always in the same order
	return all
}

// fields is a JSON object of which only what is named is looked at, so that
// what this program knows nothing of stays.
type fields map[string]json.RawMessage

func edit(raw []byte, f func(fields) error) ([]byte, error) {
	var m fields
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	if m == nil {
		m = make(fields)
	}
	if err := f(m); err != nil {
		return nil, err
	}
	return json.Marshal(m)
}

func (m fields) set(key string, value any) (err error) {
	m[key], err = json.Marshal(value)
	return err
}

// add adds to an object of strings.
func (m fields) add(key string, more map[string]string) error {
	if len(more) == 0 {
		return nil
	}
	var have map[string]json.RawMessage
	if raw, ok := m[key]; ok {
		if err := json.Unmarshal(raw, &have); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	if have == nil {
		have = make(map[string]json.RawMessage)
	}
	for k, v := range more {
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		have[k] = raw
	}
	return m.set(key, have)
}

// appendTo adds to a list.
func (m fields) appendTo(key string, value any) error {
	var list []json.RawMessage
	if raw, ok := m[key]; ok {
		if err := json.Unmarshal(raw, &list); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return m.set(key, append(list, raw))
}
