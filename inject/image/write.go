package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"appdefender/inject"
)

// write puts content at a place, of which nothing is changed unless all of it
// is there.
func (p *Places) write(ctx context.Context, c *content, place string) error {
	kind, rest := kindOf(place)
	if kind == inRegistry {
		if err := noFile(place); err != nil {
			return err
		}
		ref, err := p.reference(rest)
		if err != nil {
			return err
		}
		opts, err := p.options(ctx)
		if err != nil {
			return err
		}
		return remote.Push(ref, c.object, opts...)
	}
	file, called := named(rest)
	switch kind {
	case inDocker:
		return c.toDocker(ctx, file, called)
	case inArchive:
		return inject.ReplaceFile(ctx, file, func(w io.Writer) error {
			t := &tarSink{tar.NewWriter(w), make(map[string]bool)}
			for _, dir := range []string{"blobs/", "blobs/sha256/"} {
				if err := t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
					return err
				}
			}
			if err := c.toLayout(t, called, nil); err != nil {
				return err
			}
			return t.w.Close()
		})
	}
	return c.toFolder(ctx, file, called)
}

func (c *content) toDocker(ctx context.Context, file, called string) error {
	img, ok := c.object.(v1.Image)
	if !ok {
		return errIndexInDocker
	}
	if called == "" {
		if called = c.name; called == "" {
			called = "localhost/protected:latest"
		}
	}
	ref, err := name.ParseReference(called)
	if err != nil {
		return err
	}
	return inject.ReplaceFile(ctx, file, func(w io.Writer) error { return tarball.Write(ref, img, w) })
}

var errIndexInDocker = errors.New("a docker-archive holds an image of one platform: choose it with --platform, as in --platform linux/amd64, or write an oci-archive")

// toFolder writes a layout, or into one. A new one appears when it is whole.
func (c *content) toFolder(ctx context.Context, dir, called string) error {
	dir = filepath.Clean(dir)
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return fmt.Errorf("%q is a file, not a folder", dir)
	}
	if _, err := os.Stat(filepath.Join(dir, "index.json")); err == nil {
		x, err := os.ReadFile(filepath.Join(dir, "index.json"))
		if err != nil {
			return err
		}
		return c.toLayout(&dirSink{ctx, dir}, called, x)
	}
	// An empty folder is as good as none.
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".defenderctl-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := errors.Join(os.Chmod(tmp, 0o755), c.toLayout(&dirSink{ctx, tmp}, called, nil)); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// sink takes the files of a layout.
type sink interface {
	has(name string, size int64) bool
	put(name string, size int64, r io.Reader) error
}

type tarSink struct {
	w    *tar.Writer
	seen map[string]bool
}

func (t *tarSink) has(name string, _ int64) bool { return t.seen[name] }

func (t *tarSink) put(name string, size int64, r io.Reader) error {
	t.seen[name] = true
	if err := t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644}); err != nil {
		return err
	}
	_, err := io.Copy(t.w, r)
	return err
}

type dirSink struct {
	ctx context.Context
	dir string
}

func (d *dirSink) has(name string, size int64) bool {
	info, err := os.Stat(filepath.Join(d.dir, name))
	return err == nil && info.Size() == size
}

func (d *dirSink) put(name string, _ int64, r io.Reader) error {
	file := filepath.Join(d.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return inject.ReplaceFile(d.ctx, file, func(w io.Writer) error {
		_, err := io.Copy(w, r)
		return err
	})
}

// toLayout writes the files of a layout, the index.json last: had is that of
// one that is there already.
func (c *content) toLayout(s sink, called string, had []byte) error {
	next, err := c.entries(called, had)
	if err != nil {
		return err
	}
	const version = `{"imageLayoutVersion": "1.0.0"}`
	if !s.has("oci-layout", int64(len(version))) {
		if err := s.put("oci-layout", int64(len(version)), bytes.NewReader([]byte(version))); err != nil {
			return err
		}
	}
	if x, ok := c.object.(*index); ok && c.whole {
		err = putChildren(s, x)
	} else {
		err = putObject(s, c.object)
	}
	if err != nil {
		return err
	}
	return s.put("index.json", int64(len(next)), bytes.NewReader(next))
}

// entries returns the index.json of a layout with this content.
func (c *content) entries(called string, had []byte) ([]byte, error) {
	if c.whole {
		return c.object.RawManifest()
	}
	d, err := descriptor(c.object)
	if err != nil {
		return nil, err
	}
	d.Annotations = maps.Clone(c.annotations)
	if called != "" {
		if d.Annotations == nil {
			d.Annotations = make(map[string]string)
		}
		delete(d.Annotations, entryFullName)
		d.Annotations[entryName] = called
	}
	entry, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	top := map[string]json.RawMessage{"schemaVersion": json.RawMessage("2"), "mediaType": json.RawMessage(`"` + types.OCIImageIndex + `"`)}
	var list []json.RawMessage
	if had != nil {
		if err := json.Unmarshal(had, &top); err != nil {
			return nil, fmt.Errorf("reading the layout that is there: %w", err)
		}
		if err := json.Unmarshal(top["manifests"], &list); err != nil {
			return nil, fmt.Errorf("reading the layout that is there: %w", err)
		}
		switch {
		case called != "":
			list = slices.DeleteFunc(list, func(raw json.RawMessage) bool {
				var d v1.Descriptor
				return json.Unmarshal(raw, &d) == nil && isCalled(d, called)
			})
		case len(list) > 1:
			return nil, fmt.Errorf("the layout that is there has %d images: say which one this is, as in oci:DIR:NAME", len(list))
		default:
			list = nil
		}
	}
	if top["manifests"], err = json.Marshal(append(list, entry)); err != nil {
		return nil, err
	}
	return json.Marshal(top)
}

func putObject(s sink, o object) error {
	raw, err := o.RawManifest()
	if err != nil {
		return err
	}
	if x, ok := o.(*index); ok {
		if err := putChildren(s, x); err != nil {
			return err
		}
		return putBytes(s, raw)
	}
	img := o.(v1.Image)
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		media, err := l.MediaType()
		if err != nil {
			return err
		}
		// One that may not be passed on lies elsewhere, as its URLs say.
		if !media.IsDistributable() {
			if here, err := partial.Exists(l); err != nil || !here {
				continue
			}
		}
		if err := putLayer(s, l); err != nil {
			return err
		}
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	return errors.Join(putBytes(s, config), putBytes(s, raw))
}

func putChildren(s sink, x *index) error {
	for _, child := range x.children {
		var err error
		switch child := child.(type) {
		case object:
			err = putObject(s, child)
		case v1.Layer:
			err = putLayer(s, child)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func blobName(h v1.Hash) string { return path.Join("blobs", h.Algorithm, h.Hex) }

func putBytes(s sink, data []byte) error {
	h, size, err := v1.SHA256(bytes.NewReader(data))
	if err != nil || s.has(blobName(h), size) {
		return err
	}
	return s.put(blobName(h), size, bytes.NewReader(data))
}

func putLayer(s sink, l v1.Layer) error {
	h, err := l.Digest()
	if err != nil {
		return err
	}
	size, err := l.Size()
	if err != nil || s.has(blobName(h), size) {
		return err
	}
	hash, err := v1.Hasher(h.Algorithm)
	if err != nil {
		return err
	}
	r, err := l.Compressed()
	if err != nil {
		return fmt.Errorf("reading %s: %w", h, err)
	}
	defer r.Close()
	if err := s.put(blobName(h), size, &checked{io.TeeReader(r, hash), func() error {
		if got := fmt.Sprintf("%x", hash.Sum(nil)); got != h.Hex {
			return fmt.Errorf("it is %s:%s: the image is damaged", h.Algorithm, got)
		}
		return nil
	}}); err != nil {
		return fmt.Errorf("copying %s: %w", h, err)
	}
	return nil
}

// checked reads, and has a check at the end.
type checked struct {
	io.Reader
	check func() error
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		if wrong := c.check(); wrong != nil {
			return n, wrong
		}
	}
	return n, err
}
