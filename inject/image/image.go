// Package image reads and changes images of containers, in registries and in
// files, without an engine: what an image starts, for definitions that do not
// say it, and an image with the Defender in it, made by adding one layer.
//
// A place of an image is written as other tools do it:
//
//	registry.example.com/shop:1     a registry, also docker://…
//	docker-archive:FILE             what "docker save" writes
//	oci-archive:FILE                an OCI layout in a tar file
//	oci:DIR                         an OCI layout
//
// FILE and DIR may have :NAME behind them, for one of several images.
package image

import (
	"archive/tar"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"appdefender/inject"
)

// Places says how to reach images. The zero Places are public registries and
// those that "docker login" or "podman login" knows, by TLS with the system's
// certificates.
type Places struct {
	CA        []byte // PEM; of registries, besides the system's
	PlainHTTP bool   // without TLS; loopback addresses never need it
	// Platform chooses from an image of many: "linux/arm64", or several with
	// commas between them. Empty: all, or of what one is asked for, this
	// machine's.
	Platform string
	// Elsewhere says for the names of images in which place they are instead.
	Elsewhere map[string]string
}

// Lookup returns what an image starts.
func (p *Places) Lookup(ctx context.Context, image string) (inject.Image, error) {
	img, done, err := p.openOne(ctx, image)
	if err != nil {
		return inject.Image{}, err
	}
	defer done()
	cfg, err := img.ConfigFile()
	if err != nil {
		return inject.Image{}, fmt.Errorf("reading what %q starts: %w", image, err)
	}
	if cfg.OS != "" && cfg.OS != "linux" {
		return inject.Image{}, fmt.Errorf("%q is an image of %s: the defender supervises Linux containers only", image, cfg.OS)
	}
	c := cfg.Config
	return inject.Image{Entrypoint: notNil(c.Entrypoint), Command: notNil(c.Cmd), Shell: c.Shell, OnBuild: c.OnBuild}, nil
}

func notNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// kinds of places.
const (
	inRegistry = "docker://"
	inDocker   = "docker-archive:"
	inArchive  = "oci-archive:"
	inLayout   = "oci:"
)

func kindOf(place string) (kind, rest string) {
	for _, k := range []string{inRegistry, inDocker, inArchive, inLayout} {
		if rest, ok := strings.CutPrefix(place, k); ok {
			return k, rest
		}
	}
	return inRegistry, place
}

// platforms are those that were chosen; nil if none were.
func (p *Places) platforms() ([]v1.Platform, error) {
	if p.Platform == "" {
		return nil, nil
	}
	var list []v1.Platform
	for s := range strings.SplitSeq(p.Platform, ",") {
		pl, err := v1.ParsePlatform(s)
		if err != nil || pl.OS != "linux" || pl.Architecture == "" {
			return nil, fmt.Errorf("platform %q is not one such as linux/amd64 or linux/arm64", s)
		}
		list = append(list, *pl)
	}
	return list, nil
}

// reference reads the name of an image in a registry.
func (p *Places) reference(s string) (name.Reference, error) {
	var opts []name.Option
	if p.PlainHTTP {
		opts = append(opts, name.Insecure)
	}
	ref, err := name.ParseReference(s, opts...)
	if err != nil {
		return nil, fmt.Errorf("%q is not the name of an image: %w", s, err)
	}
	return ref, nil
}

func (p *Places) options(ctx context.Context) ([]remote.Option, error) {
	transport := remote.DefaultTransport.(*http.Transport).Clone()
	if len(p.CA) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(p.CA) {
			return nil, errors.New("the registry's CA has no certificate in PEM")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return []remote.Option{
		remote.WithContext(ctx), remote.WithTransport(transport), remote.WithAuthFromKeychain(authn.DefaultKeychain),
	}, nil
}

// content is what a place holds.
type content struct {
	object
	name        string            // that it has there, in full; "" if none is known
	annotations map[string]string // of its entry in a layout
	// whole is true for an index that is a layout's index.json, not an entry
	// of it.
	whole bool
}

// open returns what is at a place; done ends its use.
func (p *Places) open(ctx context.Context, place string) (c *content, done func(), err error) {
	if other, ok := p.Elsewhere[place]; ok {
		place = other
	}
	done = func() {}
	kind, rest := kindOf(place)
	switch kind {
	case inDocker:
		c, err = fromDocker(rest)
	case inLayout:
		c, err = fromLayout(named(rest))
	case inArchive:
		tmp := ""
		if tmp, err = os.MkdirTemp("", "defenderctl-"); err != nil {
			return nil, nil, err
		}
		done = func() { _ = os.RemoveAll(tmp) }
		file, called := named(rest)
		if err = unpack(ctx, file, tmp); err == nil {
			c, err = fromLayout(tmp, called)
		}
	default:
		if err = noFile(place); err == nil {
			c, err = p.fromRegistry(ctx, rest)
		}
	}
	if err != nil {
		done()
		return nil, nil, fmt.Errorf("opening image %q: %w", place, err)
	}
	return c, done, nil
}

// named cuts off the name of an image in a file, written as other tools do it:
// FILE:NAME.
func named(s string) (file, called string) {
	if _, err := os.Stat(s); err == nil {
		return s, ""
	}
	file, called, _ = strings.Cut(s, ":")
	return file, called
}

// noFile refuses what is taken for an image's name and is more likely a file's.
func noFile(place string) error {
	info, err := os.Stat(place)
	switch {
	case err == nil && info.IsDir():
		return fmt.Errorf("it is a folder here: say oci:%s, or docker://%s for a registry", place, place)
	case err == nil || strings.HasSuffix(place, ".tar"):
		return fmt.Errorf("it looks like a file: say docker-archive:%s or oci-archive:%s, or docker://%s for a registry", place, place, place)
	}
	return nil
}

func (p *Places) fromRegistry(ctx context.Context, s string) (*content, error) {
	ref, err := p.reference(s)
	if err != nil {
		return nil, err
	}
	opts, err := p.options(ctx)
	if err != nil {
		return nil, err
	}
	d, err := remote.Get(ref, opts...)
	if err != nil {
		return nil, err
	}
	c := &content{name: ref.Name()}
	switch {
	case d.MediaType.IsIndex():
		var x v1.ImageIndex
		if x, err = d.ImageIndex(); err == nil {
			c.object, err = load(x)
		}
	case d.MediaType.IsImage():
		c.object, err = d.Image()
	default:
		err = fmt.Errorf("it is of type %q, which is neither an image nor an index of images", d.MediaType)
	}
	return c, err
}

func fromDocker(s string) (*content, error) {
	file, called := named(s)
	if err := plain(file); err != nil {
		return nil, err
	}
	list, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(file) })
	if err != nil {
		return nil, fmt.Errorf("it is not what \"docker save\" writes (is it an oci-archive:?): %w", err)
	}
	var tag *name.Tag
	if called != "" {
		t, err := name.NewTag(called)
		if err != nil {
			return nil, err
		}
		tag = &t
	} else if len(list) != 1 {
		var names []string
		for _, d := range list {
			names = append(names, d.RepoTags...)
		}
		return nil, fmt.Errorf("it has %d images: choose one by its name, as in docker-archive:FILE:NAME; there are %s", len(list), strings.Join(names, ", "))
	} else if len(list[0].RepoTags) > 0 {
		called = list[0].RepoTags[0]
	}
	img, err := tarball.ImageFromPath(file, tag)
	if err != nil {
		return nil, err
	}
	return &content{object: img, name: called}, nil
}

// Annotations that say what an entry of a layout is called: its tag, and the
// whole name as some engines write it.
const (
	entryName     = "org.opencontainers.image.ref.name"
	entryFullName = "io.containerd.image.name"
)

func isCalled(d v1.Descriptor, called string) bool {
	return d.Annotations[entryName] == called || d.Annotations[entryFullName] == called
}

// fromLayout returns what a layout holds: its only entry, the one of a name,
// or all.
func fromLayout(dir, called string) (*content, error) {
	x, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("it is no OCI layout (is it a docker-archive:?): %w", err)
	}
	m, err := x.IndexManifest()
	if err != nil {
		return nil, err
	}
	entries := m.Manifests
	if called != "" {
		var names []string
		for _, d := range entries {
			names = append(names, d.Annotations[entryName])
		}
		entries = slices.DeleteFunc(entries, func(d v1.Descriptor) bool { return !isCalled(d, called) })
		if len(entries) != 1 {
			return nil, fmt.Errorf("it has %d images of the name %q; there are %q", len(entries), called, names)
		}
	}
	c := new(content)
	switch {
	case len(entries) == 0:
		err = errors.New("it is empty")
	case len(entries) > 1:
		c.whole = true
		c.object, err = load(x)
	case entries[0].MediaType.IsIndex():
		var inner v1.ImageIndex
		if inner, err = x.ImageIndex(entries[0].Digest); err == nil {
			c.object, err = load(inner)
		}
	case entries[0].MediaType.IsImage():
		c.object, err = x.Image(entries[0].Digest)
	default:
		err = fmt.Errorf("it is of type %q, which is neither an image nor an index of images", entries[0].MediaType)
	}
	if err != nil {
		return nil, err
	}
	if !c.whole {
		c.annotations = entries[0].Annotations
		if c.name = c.annotations[entryFullName]; c.name == "" && strings.ContainsAny(c.annotations[entryName], "/:") {
			c.name = c.annotations[entryName]
		}
	}
	return c, nil
}

// openOne returns the image at a place or, of several, the one of the platform
// that was chosen or is this machine's.
func (p *Places) openOne(ctx context.Context, place string) (img v1.Image, done func(), err error) {
	platforms, err := p.platforms()
	if err != nil {
		return nil, nil, err
	}
	c, done, err := p.open(ctx, place)
	if err != nil {
		return nil, nil, err
	}
	if img, ok := c.object.(v1.Image); ok {
		return img, done, nil
	}
	leaves, err := c.object.(*index).leaves()
	if err == nil {
		if len(platforms) == 0 && len(leaves) > 1 {
			platforms = []v1.Platform{{OS: "linux", Architecture: runtime.GOARCH}}
		}
		leaves, err = chosen(leaves, platforms)
	}
	if err != nil {
		done()
		return nil, nil, fmt.Errorf("opening image %q: %w", place, err)
	}
	return leaves[0].image, done, nil
}

// plain refuses a tar file that is compressed as a whole.
func plain(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 4)
	n, _ := io.ReadFull(f, head)
	for tool, magic := range map[string]string{"gunzip": "\x1f\x8b", "unzstd": "\x28\xb5\x2f\xfd", "unxz": "\xfd7zX"} {
		if strings.HasPrefix(string(head[:n]), magic) {
			return fmt.Errorf("it is compressed: unpack it first, with %s", tool)
		}
	}
	return nil
}

// unpack unpacks a tar file of an OCI layout.
func unpack(ctx context.Context, file, dir string) error {
	if err := plain(file); err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	root, err := os.OpenRoot(dir) // nothing is written outside of it
	if err != nil {
		return err
	}
	defer root.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the archive: %w", err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(filepath.Clean(h.Name), 0o755)
		case tar.TypeReg:
			err = unpackFile(root, filepath.Clean(h.Name), until{ctx, r})
		}
		if err != nil {
			return fmt.Errorf("unpacking %q: %w", h.Name, err)
		}
	}
}

func unpackFile(root *os.Root, name string, r io.Reader) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := root.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// until reads until a context ends.
type until struct {
	ctx context.Context
	io.Reader
}

func (u until) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.Reader.Read(p)
}
