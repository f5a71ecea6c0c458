package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/diff"

	"appdefender/inject"
	"appdefender/policy/file"
)

// EmbedConfig is what definitions are embedded with where nobody says
// otherwise.
type EmbedConfig struct {
	// URL is where Defenders reach this Console; empty is what the request was
	// sent to.
	URL string
	// CA is the certificate, in PEM, that Defenders need to trust this Console;
	// nil if a public one has signed its own, or there is no TLS.
	CA []byte
	// DefenderImage is the image that brings the Defender's program.
	DefenderImage string
	// Program is the file of the Defender's program, for [Bundle]; empty: none.
	Program string
	// Version is what a definition says it was protected by.
	Version string
}

// MaxDefinition bounds a definition, in bytes. No platform takes more than 1
// MiB.
const MaxDefinition = 2 << 20

// EmbedRequest is a definition and how to protect it. It is
// [inject.Options], but for what would make the Console reach elsewhere: it
// asks no registry what an image starts.
type EmbedRequest struct {
	Format     inject.Format `json:"format"`
	Definition string        `json:"definition"`

	DefenderImage  string              `json:"defenderImage"`
	Console        string              `json:"console"` // empty: as the definition has it, or this one unless there is a policy
	CA             string              `json:"ca"`
	TokenSecret    string              `json:"tokenSecret"`
	Token          string              `json:"token"`
	Policy         string              `json:"policy"`
	AppID          string              `json:"appID"`
	DataDir        string              `json:"dataDir"`
	WaitForPolicy  string              `json:"waitForPolicy"` // as in 15s
	OnFailure      string              `json:"onFailure"`
	FileMonitoring *bool               `json:"fileMonitoring"`
	NoTracing      bool                `json:"noPtrace"`
	Images         map[string]string   `json:"images"`
	Entrypoints    map[string][]string `json:"entrypoints"`
	Commands       map[string][]string `json:"commands"`
	Skip           []string            `json:"skip"`
	Target         string              `json:"target"`
	BuildArgs      map[string]string   `json:"buildArgs"`
}

// Embedding is what became of a definition.
type Embedding struct {
	Definition string              `json:"definition"`
	Diff       string              `json:"diff"` // in unified form; empty if nothing changed
	AppID      string              `json:"appID,omitempty"`
	Containers []EmbeddedContainer `json:"containers,omitempty"`
	Notes      []string            `json:"notes,omitempty"` // what people should know, each a sentence
	// Exact says of a removal that the definition is, to the byte, what it was
	// before.
	Exact bool `json:"exact,omitempty"`
}

// EmbeddedContainer is one container of a definition.
type EmbeddedContainer struct {
	Group   string   `json:"group,omitempty"` // the task, pod or project that it is in
	Name    string   `json:"name"`
	Image   string   `json:"image,omitempty"`
	Starts  []string `json:"starts"` // the original command
	Skipped bool     `json:"skipped,omitempty"`
}

// EmbedWay is what a definition is made into.
type EmbedWay string

// The ways.
const (
	Protected EmbedWay = "protected" // the protected definition
	Original  EmbedWay = "original"  // without protection again
	Patches   EmbedWay = "kustomize" // of manifests: patches that protect them
	Bundle    EmbedWay = "bundle"    // of a Dockerfile: a ZIP with the Defender in it
)

// Embed makes something else of a definition. The bytes are the ZIP of a
// [Bundle]. own is the URL by which this Console was reached. An error is an
// [*Error] that lists what is wrong with the definition and where.
func (s *Server) Embed(own string, m *EmbedRequest, way EmbedWay) (*Embedding, []byte, error) {
	in := []byte(m.Definition)
	if len(in) > MaxDefinition {
		return nil, nil, Errorf(http.StatusRequestEntityTooLarge, "the definition is larger than %d bytes", MaxDefinition)
	}
	var out, zip []byte
	var rep *inject.Report
	var err error
	if way == Original {
		out, rep, err = inject.Remove(m.Format, in)
	} else {
		var o inject.Options
		if o, err = s.embedOptions(own, m); err != nil {
			return nil, nil, err
		}
		switch way {
		case Patches:
			if m.Format != inject.Kubernetes {
				return nil, nil, Errorf(http.StatusBadRequest, "patches for kustomize are made of the format %q only, not of %q", inject.Kubernetes, m.Format)
			}
			out, rep, err = inject.Kustomize(in, o)
		case Bundle:
			if m.Format != inject.Dockerfile {
				return nil, nil, Errorf(http.StatusBadRequest, "a ZIP is made of the format %q only, not of %q", inject.Dockerfile, m.Format)
			}
			var program []byte
			if program, err = s.program(); err != nil {
				return nil, nil, err
			}
			o.Context = inject.BundleDir
			if out, rep, err = inject.Embed(m.Format, in, o); err == nil {
				o.AppID = rep.AppID
				zip, _, err = inject.Bundle(in, program, o)
			}
		default:
			out, rep, err = inject.Embed(m.Format, in, o)
		}
	}
	if err != nil {
		return nil, nil, embedFault(err)
	}
	e := &Embedding{Definition: string(out), AppID: rep.AppID, Notes: rep.Notes, Exact: way == Original && rep.Exact}
	if way != Patches {
		e.Diff = string(diff.Diff("before", in, "after", out))
	}
	for _, c := range rep.Containers {
		e.Containers = append(e.Containers, EmbeddedContainer{Group: c.Group, Name: c.Name, Image: c.Image, Starts: c.Argv, Skipped: c.Skipped && way != Original})
	}
	return e, zip, nil
}

// embedFault says where a definition is wrong.
func embedFault(err error) error {
	list, ok := errors.AsType[*inject.Errors](err)
	if !ok {
		return Errorf(http.StatusBadRequest, "%v", err)
	}
	faults := make([]Fault, len(list.Faults))
	for i, f := range list.Faults {
		faults[i] = Fault{Path: f.Path, Line: f.Line, Col: f.Col, Msg: f.Msg}
		if f.Msg == inject.NoImage {
			faults[i].Msg += "; name it as defenderImage, or start the Console with --defender-image"
		}
	}
	return faulty(faults)
}

// EmbedsBundles reports whether the Console has the program that a [Bundle]
// needs.
func (s *Server) EmbedsBundles() bool { return s.embedding.Program != "" }

// EmbedDefaults returns the URL and the image that a definition gets unless
// somebody says otherwise.
func (s *Server) EmbedDefaults(own string) (url, image string) {
	if s.embedding.URL != "" {
		own = s.embedding.URL
	}
	return own, s.embedding.DefenderImage
}

func (s *Server) program() ([]byte, error) {
	if s.embedding.Program == "" {
		return nil, Errorf(http.StatusNotImplemented, "this Console has no Defender to put into a ZIP; start it with --defender, or use an image of the Defender")
	}
	return os.ReadFile(s.embedding.Program)
}

// embedOptions adds what the Console knows. A definition that is protected
// keeps what it has.
func (s *Server) embedOptions(own string, m *EmbedRequest) (inject.Options, error) {
	o := inject.Options{
		DefenderImage: m.DefenderImage, Console: m.Console, TokenSecret: m.TokenSecret, Token: m.Token,
		AppID: m.AppID, DataDir: m.DataDir, OnFailure: m.OnFailure, FileMonitoring: m.FileMonitoring, NoTracing: m.NoTracing,
		Images: m.Images, Entrypoints: m.Entrypoints, Commands: m.Commands, Skip: m.Skip,
		Target: m.Target, BuildArgs: m.BuildArgs, Version: s.embedding.Version,
	}
	if m.CA != "" {
		o.CA = []byte(m.CA)
	}
	if m.Policy != "" {
		o.Policy = []byte(m.Policy)
		if _, err := file.Parse("policy", o.Policy); err != nil {
			return o, Errorf(http.StatusBadRequest, "%v", err)
		}
	}
	if m.WaitForPolicy != "" {
		wait, err := time.ParseDuration(m.WaitForPolicy)
		if err != nil {
			return o, Errorf(http.StatusBadRequest, "waitForPolicy: %q is no duration such as 15s", m.WaitForPolicy)
		}
		o.Wait = &wait
	}
	url, image := s.EmbedDefaults(own)
	if _, rep, err := inject.Remove(m.Format, []byte(m.Definition)); err != nil || rep.AppID == "" {
		if o.DefenderImage == "" {
			o.DefenderImage = image
		}
		if o.Console == "" && o.Policy == nil {
			o.Console = url
		}
	}
	if o.Console == url && o.CA == nil {
		o.CA = s.embedding.CA
	}
	return o, nil
}

// Embedded writes into the list of changes that somebody took a protected
// definition away: from then on Defenders may come that nobody remembers.
func (s *Server) Embedded(ctx context.Context, who string, m *EmbedRequest, e *Embedding) error {
	return s.store.Note(ctx, who, fmt.Sprintf("embedded a definition (%s) for App ID %q", m.Format, e.AppID))
}

// URLOf is the URL by which a request has reached the Console.
func URLOf(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// embed answers with one way to embed a definition.
func (s *Server) embed(way EmbedWay) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		m, err := readEmbed(r)
		if err != nil {
			return err
		}
		e, zip, err := s.Embed(URLOf(r), m, way)
		if err != nil {
			return err
		}
		if way != Original {
			if err := s.Embedded(r.Context(), Who(r), m, e); err != nil {
				return err
			}
		}
		if way == Bundle {
			return WriteFile(w, "application/zip", "protected.zip", zip)
		}
		return writeJSON(w, http.StatusOK, e)
	}
}

// readEmbed reads a request. Its text must be UTF-8: the decoder would put
// other characters in the place of what is not, and a definition would change.
func readEmbed(r *http.Request) (*EmbedRequest, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, badBody(err)
	}
	if !utf8.Valid(body) {
		return nil, Errorf(http.StatusBadRequest, "reading the body: it is not UTF-8")
	}
	m := new(EmbedRequest)
	return m, decodeJSON(bytes.NewReader(body), m)
}
