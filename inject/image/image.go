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
	// Platform chooses from an image of many: "linux/arm64". Empty: linux and
	// this machine's architecture.
	Platform string
	// Elsewhere says for the names of images in which place they are instead.
	Elsewhere map[string]string
}

// Lookup returns what an image starts.
func (p *Places) Lookup(ctx context.Context, image string) (inject.Image, error) {
	img, done, err := p.open(ctx, image)
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

func (p *Places) platform() (*v1.Platform, error) {
	if p.Platform == "" {
		return &v1.Platform{OS: "linux", Architecture: defaultArch}, nil
	}
	pl, err := v1.ParsePlatform(p.Platform)
	if err != nil || pl.OS != "linux" {
		return nil, fmt.Errorf("platform %q is not linux/amd64 or linux/arm64", p.Platform)
	}
	return pl, nil
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
	pl, err := p.platform()
	if err != nil {
		return nil, err
	}
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
		remote.WithContext(ctx), remote.WithTransport(transport), remote.WithPlatform(*pl), remote.WithAuthFromKeychain(authn.DefaultKeychain),
	}, nil
}

// open returns the image at a place; done ends its use.
func (p *Places) open(ctx context.Context, place string) (img v1.Image, done func(), err error) {
	if other, ok := p.Elsewhere[place]; ok {
		place = other
	}
	done = func() {}
	kind, rest := kindOf(place)
	switch kind {
	case inDocker:
		img, err = tarball.ImageFromPath(rest, nil)
	case inLayout:
		img, err = p.fromLayout(rest)
	case inArchive:
		dir, tmp := "", ""
		if tmp, err = os.MkdirTemp("", "defenderctl-"); err != nil {
			return nil, nil, err
		}
		done = func() { _ = os.RemoveAll(tmp) }
		if dir, err = unpack(rest, tmp); err == nil {
			img, err = p.fromLayout(dir)
		}
	default:
		var ref name.Reference
		var opts []remote.Option
		if ref, err = p.reference(rest); err != nil {
			return nil, nil, err
		}
		if opts, err = p.options(ctx); err != nil {
			return nil, nil, err
		}
		img, err = remote.Image(ref, opts...)
	}
	if err != nil {
		done()
		return nil, nil, fmt.Errorf("opening image %q: %w", place, err)
	}
	return img, done, nil
}

// fromLayout returns the one image of a layout, or of those the one of our
// platform.
func (p *Places) fromLayout(dir string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	pl, err := p.platform()
	if err != nil {
		return nil, err
	}
	return choose(index, pl)
}

func choose(index v1.ImageIndex, pl *v1.Platform) (v1.Image, error) {
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var images, fits []v1.Hash
	for _, m := range manifest.Manifests {
		switch {
		case m.MediaType.IsIndex():
			inner, err := index.ImageIndex(m.Digest)
			if err != nil {
				return nil, err
			}
			return choose(inner, pl)
		case m.MediaType.IsImage():
			images = append(images, m.Digest)
			if m.Platform == nil || m.Platform.Satisfies(*pl) {
				fits = append(fits, m.Digest)
			}
		}
	}
	if len(images) == 1 {
		fits = images
	}
	if len(fits) != 1 {
		return nil, fmt.Errorf("it has %d images, %d of them for %s", len(images), len(fits), pl)
	}
	return index.Image(fits[0])
}

// unpack unpacks a tar file of an OCI layout.
func unpack(file, dir string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	root, err := os.OpenRoot(dir) // nothing is written outside of it
	if err != nil {
		return "", err
	}
	defer root.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir, nil
		}
		if err != nil {
			return "", fmt.Errorf("reading the archive: %w", err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(filepath.Clean(h.Name), 0o755)
		case tar.TypeReg:
			err = unpackFile(root, filepath.Clean(h.Name), r)
		}
		if err != nil {
			return "", fmt.Errorf("unpacking %q: %w", h.Name, err)
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

// write puts an image at a place.
func (p *Places) write(ctx context.Context, img v1.Image, place, called string) error {
	kind, rest := kindOf(place)
	switch kind {
	case inDocker:
		ref, err := p.reference(called)
		if err != nil {
			return err
		}
		return tarball.WriteToFile(rest, ref, img)
	case inLayout:
		return writeLayout(rest, img)
	case inArchive:
		tmp, err := os.MkdirTemp("", "defenderctl-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		if err := writeLayout(tmp, img); err != nil {
			return err
		}
		f, err := os.Create(rest)
		if err != nil {
			return err
		}
		w := tar.NewWriter(f)
		return errors.Join(w.AddFS(os.DirFS(tmp)), w.Close(), f.Close())
	}
	ref, err := p.reference(rest)
	if err != nil {
		return err
	}
	opts, err := p.options(ctx)
	if err != nil {
		return err
	}
	return remote.Write(ref, img, opts...)
}

func writeLayout(dir string, img v1.Image) error {
	l, err := layout.FromPath(dir)
	if err != nil {
		if l, err = layout.Write(dir, emptyIndex); err != nil {
			return err
		}
	}
	return l.ReplaceImage(img, func(v1.Descriptor) bool { return true })
}
