package main

import (
	"encoding/pem"
	"io"
	"log"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// A definition that says nothing of what it starts: the registry does, behind
// a CA of its own, or a file.
func TestLookup(t *testing.T) {
	srv := httptest.NewTLSServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	image := strings.TrimPrefix(srv.URL, "https://") + "/shop:1"
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, Config: v1.Config{Entrypoint: []string{"/shop"}, Cmd: []string{"serve"}}})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithTransport(srv.Client().Transport)); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "layout")
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	ca := write(t, "registry.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	policy := write(t, "policy.yaml", "version: 1\n")
	pod := "kind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: shop\n    image: " + image + "\n"
	for _, tt := range []struct {
		flags []string
		exit  int
		want  string
	}{
		{[]string{"--lookup", "--registry-ca", ca}, 0, "run - \"--\" - /shop - serve "},
		{[]string{"--image-from", image + "=oci:" + dir}, 0, "run - \"--\" - /shop - serve "},
		{[]string{"--lookup"}, 1, "certificate signed by unknown authority"},
		{nil, 1, "give --lookup"},
	} {
		out, errs, exit := ctl(t, pod, append([]string{"embed", "kubernetes", "-", "--defender-image", "d:1", "--policy", policy}, tt.flags...)...)
		if exit != tt.exit || !strings.Contains(strings.Join(strings.Fields(out+errs), " "), tt.want) {
			t.Errorf("%q: exit %d, %s%s, want %s", tt.flags, exit, out, errs, tt.want)
		}
	}
}
