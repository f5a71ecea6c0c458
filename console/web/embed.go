package web

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"unicode/utf8"

	"appdefender/console"
	"appdefender/inject"
)

// embedForm is what people typed, and what became of it.
type embedForm struct {
	console.EmbedRequest
	As   string // a console.EmbedWay
	Name string // of the file; "" if it was typed
	// Source is the file to the byte, in base64: a text field knows CRLF alone
	// as the end of a line.
	Source string
	Files  bool
	// Entries, Cmds and Skipped are the text of three fields, an entry a line.
	Entries, Cmds, Skipped string

	URL, Image string // what empty fields stand for
	Bundles    bool   // the Console can make a ZIP

	Faults []string
	Result *console.Embedding
	Lines  []diffLine
}

// diffLine is a line of a comparison.
type diffLine struct{ Kind, Text string }

// embedFormat is a format as people know it.
type embedFormat struct{ Value, Label, File, Secret string }

// EmbedFormats are all of them, with the file that one is usually in, and what
// the secret is that holds the token.
func (f *embedForm) EmbedFormats() []embedFormat {
	return []embedFormat{
		{string(inject.TaskDefinition), "ECS task definition (JSON)", "task.json", "an ARN, or the name of a parameter"},
		{string(inject.CloudFormation), "CloudFormation (YAML or JSON)", "template.yaml", "an ARN, or !Ref Name"},
		{string(inject.Kubernetes), "Kubernetes manifests (YAML or JSON)", "manifests.yaml", "NAME or NAME/KEY of a Secret"},
		{string(inject.Compose), "docker compose", "compose.yaml", "one of the project's secrets"},
		{string(inject.Dockerfile), "Dockerfile", "Dockerfile", "a file in /run/secrets"},
		{string(inject.CloudRun), "Cloud Run service (YAML)", "service.yaml", "NAME or NAME/VERSION of a secret"},
		{string(inject.ContainerGroup), "Azure container group (YAML or ARM)", "group.yaml", "an ARM expression, or none: then give the token itself"},
	}
}

// Ways are what a definition may be made into.
func (f *embedForm) Ways() []choice {
	ways := []choice{
		{string(console.Protected), "The protected definition"},
		{string(console.Original), "The original: take the protection out"},
		{string(console.Patches), "Kubernetes: patches for kustomize"},
	}
	if f.Bundles {
		ways = append(ways, choice{string(console.Bundle), "Dockerfile: a ZIP with the Defender in it"})
	}
	return ways
}

// Removed reports whether the result is an original.
func (f *embedForm) Removed() bool { return f.As == string(console.Original) }

func (p *pages) newEmbedForm(r *http.Request) *embedForm {
	f := &embedForm{As: string(console.Protected), Bundles: p.srv.EmbedsBundles()}
	f.URL, f.Image = p.srv.EmbedDefaults(console.URLOf(r))
	return f
}

func (p *pages) getEmbed(w http.ResponseWriter, r *http.Request) error {
	return p.showEmbed(w, r, http.StatusOK, p.newEmbedForm(r))
}

func (p *pages) showEmbed(w http.ResponseWriter, r *http.Request, status int, f *embedForm) error {
	if !utf8.ValidString(f.Definition) {
		f.Definition = "" // the field would hold something else, and send that
	}
	return p.render(w, r, status, "embed.html", view{Title: "Embed", Nav: embedPath, Data: f})
}

// maxEmbedForm bounds the form, which has a definition up to three times: as
// text, as what the text was made of, and as a file that takes its place.
const maxEmbedForm = 5 * console.MaxDefinition

func (p *pages) postEmbed(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseMultipartForm(maxEmbedForm); err != nil && !errors.Is(err, http.ErrNotMultipart) {
		if e := console.AsError(err); e.Status == http.StatusRequestEntityTooLarge {
			return e
		}
		return console.Errorf(http.StatusBadRequest, "reading the form: %v", err)
	}
	f := p.newEmbedForm(r)
	var zip []byte
	err := f.read(r)
	if err == nil {
		f.Result, zip, err = p.srv.Embed(console.URLOf(r), &f.EmbedRequest, console.EmbedWay(f.As))
	}
	if err != nil {
		e := console.AsError(err)
		if e.Status >= http.StatusInternalServerError && e.Status != http.StatusNotImplemented {
			return err
		}
		for _, fault := range e.Faults {
			f.Faults = append(f.Faults, fault.String())
		}
		if len(f.Faults) == 0 {
			f.Faults = []string{sentence(e.Msg)}
		}
		return p.showEmbed(w, r, e.Status, f)
	}
	// What is looked at and what is then taken away are to be the same.
	if !f.Removed() {
		f.AppID = f.Result.AppID
	}
	if r.PostFormValue("do") != "download" {
		f.Lines = diffLines(f.Result.Diff)
		return p.showEmbed(w, r, http.StatusOK, f)
	}
	if !f.Removed() {
		if err := p.srv.Embedded(r.Context(), console.Who(r), &f.EmbedRequest, f.Result); err != nil {
			return err
		}
	}
	if zip != nil {
		return console.WriteFile(w, "application/zip", "protected.zip", zip)
	}
	return console.WriteFile(w, "application/octet-stream", f.fileName(), []byte(f.Result.Definition))
}

// fileName is what the result is called.
func (f *embedForm) fileName() string {
	name := f.Name
	for _, format := range f.EmbedFormats() {
		if name == "" && format.Value == string(f.Format) {
			name = format.File
		}
	}
	if f.As == string(console.Patches) {
		name = "appdefender-patch.yaml"
	}
	return name
}

// read reads the form.
func (f *embedForm) read(r *http.Request) error {
	value := func(name string) string { return strings.TrimSpace(r.PostFormValue(name)) }
	f.As = value("as")
	f.Format, f.AppID, f.Console, f.DefenderImage = inject.Format(value("format")), value("app-id"), value("console"), value("image")
	f.TokenSecret, f.Token, f.OnFailure, f.DataDir, f.Target = value("token-secret"), value("token"), value("on-failure"), value("data-dir"), value("target")
	f.NoTracing, f.Files = value("no-ptrace") != "", value("files") != ""
	if f.Files {
		f.FileMonitoring = new(true)
	}
	f.Entries, f.Cmds, f.Skipped = r.PostFormValue("entrypoints"), r.PostFormValue("commands"), r.PostFormValue("skip")
	f.Skip = entries(f.Skipped)
	if err := f.definition(r); err != nil {
		return err
	}
	var err error
	if f.Entrypoints, err = words("Entry points of images", f.Entries); err != nil {
		return err
	}
	if f.Commands, err = words("Commands of images", f.Cmds); err != nil {
		return err
	}
	if f.Definition == "" {
		return console.Errorf(http.StatusBadRequest, "choose a file or paste a definition")
	}
	return nil
}

// definition finds the definition's bytes: those of a file, or the text, which
// keeps the ends of lines that it had when it came.
func (f *embedForm) definition(r *http.Request) error {
	f.Name, f.Source = path.Base("/"+r.PostFormValue("name")), r.PostFormValue("source")
	if f.Name == "/" {
		f.Name = ""
	}
	if r.MultipartForm != nil {
		if list := r.MultipartForm.File["file"]; len(list) > 0 && list[0].Size > 0 {
			part, err := list[0].Open()
			if err != nil {
				return err
			}
			defer part.Close()
			data, err := io.ReadAll(part)
			if err != nil {
				return err
			}
			f.Definition, f.Name = string(data), path.Base(strings.ReplaceAll(list[0].Filename, `\`, "/"))
			f.Source = base64.StdEncoding.EncodeToString(data)
			return nil
		}
	}
	source, err := base64.StdEncoding.DecodeString(f.Source)
	if err != nil {
		source, f.Source = nil, ""
	}
	was, text := string(source), unix(r.PostFormValue("text"))
	switch {
	case unix(was) == text:
		f.Definition = was
	case strings.Contains(was, "\r\n"):
		f.Definition = strings.ReplaceAll(text, "\n", "\r\n")
	default:
		f.Definition = text
	}
	f.Source = base64.StdEncoding.EncodeToString([]byte(f.Definition))
	return nil
}

// unix ends lines with a line feed.
func unix(s string) string { return strings.ReplaceAll(s, "\r\n", "\n") }

// words reads lines such as web=["nginx", "-g"]. A list by itself is for the
// only container there is.
func words(field, text string) (map[string][]string, error) {
	var m map[string][]string
	for _, line := range entries(text) {
		name, list := "", line
		if line[0] != '[' {
			name, list, _ = strings.Cut(line, "=")
		}
		var argv []string
		if err := json.Unmarshal([]byte(list), &argv); err != nil || argv == nil {
			return nil, console.Errorf(http.StatusBadRequest, `%s: %q is not as in web=["nginx", "-g"]; [] says that there is none`, field, line)
		}
		if m == nil {
			m = make(map[string][]string)
		}
		if _, twice := m[strings.TrimSpace(name)]; twice {
			return nil, console.Errorf(http.StatusBadRequest, "%s: %q is there twice", field, name)
		}
		m[strings.TrimSpace(name)] = argv
	}
	return m, nil
}

// maxDiffLine bounds what is shown of a line: a whole template may be one.
const maxDiffLine = 2000

// diffLines takes a comparison in unified form apart.
func diffLines(text string) []diffLine {
	var lines []diffLine
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		kind := ""
		switch {
		case strings.HasPrefix(line, "diff "), strings.HasPrefix(line, "--- before"), strings.HasPrefix(line, "+++ after"):
			continue
		case strings.HasPrefix(line, "@@"):
			kind = "at"
		case strings.HasPrefix(line, "+"):
			kind = "added"
		case strings.HasPrefix(line, "-"):
			kind = "gone"
		}
		if len(line) > maxDiffLine {
			line = strings.ToValidUTF8(line[:maxDiffLine], "") + fmt.Sprintf(" … and %d more bytes", len(line)-maxDiffLine)
		}
		parts := strings.Split(line, "\t")
		for i := range parts {
			parts[i] = plain(parts[i])
		}
		lines = append(lines, diffLine{cmp.Or(kind, "same"), strings.Join(parts, "\t")})
	}
	return lines
}
