package image

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"appdefender/inject"
)

// sampleOf makes an image of some layers that starts nothing.
func sampleOf(t *testing.T, layers int64) v1.Image {
	t.Helper()
	img, err := random.Image(512, layers)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// sample makes an image.
func sample(t *testing.T, change func(*v1.ConfigFile)) v1.Image {
	t.Helper()
	img := sampleOf(t, 2)
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
	cfg.Config.Entrypoint, cfg.Config.Cmd, cfg.Config.User = []string{"/entry"}, []string{"serve", "all day"}, "1000"
	cfg.Config.Env = []string{"PATH=/bin", "DEFENDER_IMAGE=old"}
	if change != nil {
		change(cfg)
	}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

// guarded is a registry that gives tokens to those who know a password, as the
// protocol of Docker's registries has it, by TLS with a CA of its own.
func guarded(t *testing.T) (host string, ca []byte) {
	t.Helper()
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var srv *httptest.Server
	srv = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			user, password, _ := r.BasicAuth()
			if user != "me" || password != "s3cret" || r.URL.Query().Get("service") != "test" {
				http.Error(w, "no", http.StatusUnauthorized)
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]string{"token": "t0ken"})
		case r.Header.Get("Authorization") != "Bearer t0ken":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test"`, srv.URL))
			http.Error(w, `{"errors": [{"code": "UNAUTHORIZED"}]}`, http.StatusUnauthorized)
		default:
			inner.ServeHTTP(w, r)
		}
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "https://"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
}

// login writes a password where "docker login" does.
func login(t *testing.T, host, password string) {
	t.Helper()
	dir := t.TempDir()
	text := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, host, base64.StdEncoding.EncodeToString([]byte("me:"+password)))
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
}

func push(t *testing.T, p *Places, place string, o object) {
	t.Helper()
	if err := p.write(context.Background(), &content{object: o}, place); err != nil {
		t.Fatalf("%s: %v", place, err)
	}
}

func TestLookup(t *testing.T) {
	host, ca := guarded(t)
	login(t, host, "s3cret")
	p := &Places{CA: ca}
	ctx := context.Background()
	img := sample(t, func(c *v1.ConfigFile) { c.Config.Shell, c.Config.OnBuild = []string{"/bash"}, []string{"RUN x"} })
	push(t, p, host+"/team/shop:1", img)
	push(t, p, host+"/bare", sample(t, func(c *v1.ConfigFile) { c.Config.Entrypoint, c.Config.Cmd = nil, []string{"x"} }))
	push(t, p, host+"/windows", sample(t, func(c *v1.ConfigFile) { c.OS = "windows" }))

	// One image of many platforms.
	arm := sample(t, func(c *v1.ConfigFile) { c.Architecture, c.Config.Entrypoint = "arm64", []string{"/arm"} })
	amd := sample(t, func(c *v1.ConfigFile) { c.Architecture, c.Config.Entrypoint = "amd64", []string{"/amd"} })
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}},
		mutate.IndexAddendum{Add: amd, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	many, err := load(index)
	if err != nil {
		t.Fatal(err)
	}
	push(t, p, host+"/many:1", many)
	dir := t.TempDir()
	for _, place := range []string{"docker-archive:" + dir + "/d.tar", "oci-archive:" + dir + "/o.tar", "oci:" + dir + "/layout"} {
		push(t, p, place, img)
	}
	tests := []struct {
		image, platform string
		want            string // entrypoint, command and shell, or the error
	}{
		{host + "/team/shop:1", "", "[/entry] [serve all day] [/bash]"},
		{"docker://" + host + "/team/shop:1", "", "[/entry] [serve all day] [/bash]"},
		{host + "/bare", "", "[] [x] []"},
		{host + "/many:1", "linux/arm64", "[/arm] [serve all day] []"},
		{host + "/many:1", "linux/amd64", "[/amd] [serve all day] []"},
		{"docker-archive:" + dir + "/d.tar", "", "[/entry] [serve all day] [/bash]"},
		{"oci-archive:" + dir + "/o.tar", "", "[/entry] [serve all day] [/bash]"},
		{"oci:" + dir + "/layout", "", "[/entry] [serve all day] [/bash]"},
		{"elsewhere", "", "[/entry] [serve all day] [/bash]"},
		{host + "/windows", "", "is an image of windows"},
		{host + "/none", "", "NAME_UNKNOWN"},
		{"shop.tar", "", "it looks like a file: say docker-archive:shop.tar or oci-archive:shop.tar"},
		{dir, "", "it is a folder here: say oci:" + dir},
		{"NO:SUCH:NAME", "", "is not the name of an image"},
		{"oci-archive:" + dir + "/none", "", "no such file"},
		{host + "/bare", "plan9/mips", `platform "plan9/mips" is not`},
		{host + "/many:1", "linux/s390x", "has no image for linux/s390x; there are linux/arm64,linux/amd64"},
	}
	for _, tt := range tests {
		t.Run(tt.image[strings.LastIndexByte(tt.image, '/')+1:]+tt.platform, func(t *testing.T) {
			q := &Places{CA: ca, Platform: tt.platform, Elsewhere: map[string]string{"elsewhere": "oci:" + dir + "/layout"}}
			got, err := q.Lookup(ctx, tt.image)
			said := fmt.Sprint(got.Entrypoint, got.Command, got.Shell)
			if err != nil {
				said = err.Error()
			}
			if said = strings.ReplaceAll(said, "][", "] ["); !strings.Contains(said, tt.want) {
				t.Errorf("%s, want %s", said, tt.want)
			}
		})
	}
	if _, err := new(Places).Lookup(ctx, host+"/bare"); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without its CA: %v", err)
	}
	login(t, host, "wrong")
	if _, err := p.Lookup(ctx, host+"/bare"); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("with a wrong password: %v", err)
	}
}

// stub builds a static program.
func stub(t *testing.T) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "stub")
	cmd := exec.Command("go", "build", "-o", file, "../testdata/stub")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestEmbed(t *testing.T) {
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	p := new(Places)
	ctx := context.Background()
	img := sample(t, nil)
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	push(t, p, host+"/shop:1", img)
	dir := t.TempDir()
	program := stub(t)
	o := inject.Options{Policy: []byte("version: 1\n"), Version: "1.0", Console: "https://console.example.com"}

	for from, to := range map[string]string{
		host + "/shop:1":               host + "/shop:1-protected",
		"docker://" + host + "/shop:1": "oci-archive:" + dir + "/o.tar",
	} {
		res, err := p.Embed(ctx, Job{From: from, To: to, Programs: [][]byte{program}, Options: o})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(res.Argv, []string{"/entry", "serve", "all day"}) || !res.Changed || len(res.Notes) != 1 || !strings.HasPrefix(res.AppID, "shop:") {
			t.Errorf("%+v", res)
		}
		made, done, err := p.openOne(ctx, to)
		if err != nil {
			t.Fatal(err)
		}
		defer done()
		cfg, err := made.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		c := cfg.Config
		if got := fmt.Sprintf("%v %v %s %d", c.Entrypoint, c.Cmd, c.User, len(cfg.RootFS.DiffIDs)); got != "[/var/lib/appdefender/defender run -- /entry] [serve all day] 1000 3" {
			t.Errorf("starts %s", got)
		}
		for _, v := range []string{"PATH=/bin", "DEFENDER_CONSOLE=https://console.example.com", "DEFENDER_POLICY=/var/lib/appdefender/policy.yaml", "DEFENDER_APP_ID=" + res.AppID} {
			if !slices.Contains(c.Env, v) {
				t.Errorf("%s is missing in %q", v, c.Env)
			}
		}

		// A second run changes nothing, an upgrade our layer alone, and removing
		// gives the original, to the digest.
		again, err := p.Embed(ctx, Job{From: to, Programs: [][]byte{program}, Options: inject.Options{Version: "1.0"}})
		if err != nil || again.Changed || again.Digest != res.Digest {
			t.Errorf("again: %v, %+v", err, again)
		}
		up := "oci:" + dir + "/up"
		if next, err := p.Embed(ctx, Job{From: to, To: up, Programs: [][]byte{program}, Options: inject.Options{Version: "2.0", Policy: []byte("version: 1\nrules: []\n")}}); err != nil || !next.Changed || next.AppID != res.AppID {
			t.Errorf("upgrade: %v, %+v", err, next)
		}
		for _, place := range []string{to, up} {
			back, err := p.Remove(ctx, place, "oci:"+dir+"/back")
			if err != nil || back.Digest != want.String() {
				t.Errorf("removed: %v, %+v, want %s", err, back, want)
			}
		}
		if got, _, err := p.openOne(ctx, "oci:"+dir+"/back"); err != nil {
			t.Error(err)
		} else if d, err := got.Digest(); err != nil || d != want {
			t.Errorf("what was written back is %v, %v", d, err)
		}
	}
	if back, err := p.Remove(ctx, host+"/shop:1", ""); err != nil || back.Changed || len(back.Notes) != 1 {
		t.Errorf("removed from what has none: %v, %+v", err, back)
	}

	// The program comes out of the Defender's image.
	def := defenderImage(t, program)
	push(t, p, host+"/defender:1", def)
	o.DefenderImage = host + "/defender:1"
	if res, err := p.Embed(ctx, Job{From: host + "/shop:1", To: "docker-archive:" + dir + "/d.tar", Options: o}); err != nil || !res.Changed {
		t.Errorf("from an image: %v", err)
	}
}

// defenderImage is an image with the program at /defender.
func defenderImage(t *testing.T, program []byte) v1.Image {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "defender"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "l.tar")
	if out, err := exec.Command("tar", "-C", dir, "-cf", file, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	layer, err := tarball.LayerFromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(sample(t, nil), layer)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestEmbedFaults(t *testing.T) {
	p := new(Places)
	ctx := context.Background()
	program := stub(t)
	o := inject.Options{Policy: []byte("version: 1\n")}
	tests := []struct {
		name   string
		change func(*v1.ConfigFile)
		job    Job
		want   string
	}{
		{"Windows", func(c *v1.ConfigFile) { c.OS = "windows" }, Job{Programs: [][]byte{program}, Options: o}, "is an image for windows"},
		{"another processor", func(c *v1.ConfigFile) { c.Architecture = "riscv64" }, Job{Programs: [][]byte{program}, Options: o}, "is an image for linux/riscv64"},
		{"a program for another", func(c *v1.ConfigFile) {
			c.Architecture = map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
		}, Job{Programs: [][]byte{program}, Options: o}, "the defender's program is for"},
		{"no program", nil, Job{Programs: [][]byte{[]byte("#!/bin/sh")}, Options: o}, "the defender's program is none"},
		{"none at all", nil, Job{Options: o}, "the defender's program is missing"},
		{"a defender by hand", func(c *v1.ConfigFile) { c.Config.Entrypoint = []string{"/defender", "run", "--"} }, Job{Programs: [][]byte{program}, Options: o}, "starts a defender already"},
		{"nothing to start", func(c *v1.ConfigFile) { c.Config.Entrypoint, c.Config.Cmd = nil, nil }, Job{Programs: [][]byte{program}, Options: o}, "starts nothing"},
		{"embedded otherwise", func(c *v1.ConfigFile) { c.Config.Entrypoint = []string{inject.Program, "run", "--", "x"} }, Job{Programs: [][]byte{program}, Options: o}, "take the defender out of its Dockerfile"},
		{"no policy", nil, Job{Programs: [][]byte{program}}, "neither a Console nor a policy"},
		{"a broken label", func(c *v1.ConfigFile) { c.Config.Labels = map[string]string{labelOriginal: "AAAA"} }, Job{Programs: [][]byte{program}, Options: o}, "is not what embedding wrote"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			place := "oci:" + t.TempDir() + "/in"
			push(t, p, place, sample(t, tt.change))
			tt.job.From, tt.job.To = place, "oci:"+t.TempDir()+"/out"
			_, err := p.Embed(ctx, tt.job)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if _, err := os.Stat(strings.TrimPrefix(tt.job.To, "oci:")); err == nil {
				t.Error("something is written")
			}
		})
	}
}
