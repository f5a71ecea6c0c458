package console

import (
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"appdefender/inject"
)

// enrolmentToken is the header with a token that then stands in the definition,
// for clients that cannot name a secret. An address would end in logs.
const enrolmentToken = "Enrolment-Token" //nolint:gosec // the name of a header

// compatEmbed answers a definition with the protected one, as the compatible
// API does: how is in the query, the definition is the body. What the Defender
// has no need of (an interpreter) or the Console no use for (credentials of a
// registry, which it does not ask) does not matter.
func (s *Server) compatEmbed(format inject.Format) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		q := r.URL.Query()
		m := &EmbedRequest{
			Format: format, DefenderImage: q.Get("defenderImage"), AppID: q.Get("appID"), TokenSecret: q.Get("tokenSecret"),
			Token: r.Header.Get(enrolmentToken), NoTracing: strings.HasSuffix(r.URL.Path, "/eks-fargate.yaml"),
		}
		for _, key := range []string{"filesystemMonitoring", "filestemMonitoring"} { // the second is in the reference's own examples
			if q.Get(key) == "" {
				continue
			}
			on, err := parseBool(q.Get(key))
			if err != nil {
				return Errorf(http.StatusBadRequest, "%s: %v", key, err)
			}
			m.FileMonitoring = &on
		}
		if template, _ := strconv.ParseBool(q.Get("cloudFormation")); template && format == inject.TaskDefinition {
			m.Format = inject.CloudFormation
		}
		if q.Get("defenderImagePullSecret") != "" {
			return Errorf(http.StatusBadRequest, "defenderImagePullSecret: is not known here; let the platform's own role or account read the defender's image")
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return badBody(err)
		}
		m.Definition = string(body)
		e, _, err := s.embedAt(r, q.Get("consoleaddr"), m, Protected)
		if err != nil {
			return err
		}
		kind := "application/yaml"
		if strings.HasSuffix(r.URL.Path, ".json") {
			kind = "application/json"
		}
		w.Header().Set("Content-Type", kind)
		_, _ = io.WriteString(w, e.Definition) // if the client is gone, nobody minds
		return nil
	}
}

// postCompatBundle answers a Dockerfile with a ZIP.
func (s *Server) postCompatBundle(w http.ResponseWriter, r *http.Request) error {
	var ask struct {
		AppID                string `json:"appID"`
		ConsoleAddr          string `json:"consoleAddr"`
		DataFolder           string `json:"dataFolder"`
		Dockerfile           string `json:"dockerfile"`
		FilesystemMonitoring *bool  `json:"filesystemMonitoring"`
	}
	if err := readWire(r, &ask); err != nil { // others' clients may send more
		return err
	}
	m := &EmbedRequest{
		Format: inject.Dockerfile, Definition: ask.Dockerfile, AppID: ask.AppID, FileMonitoring: ask.FilesystemMonitoring,
		Token: r.Header.Get(enrolmentToken),
	}
	if ask.DataFolder != "" { // which may be shared, such as /tmp
		m.DataDir = strings.TrimSuffix(ask.DataFolder, "/") + "/appdefender"
	}
	_, zip, err := s.embedAt(r, ask.ConsoleAddr, m, Bundle)
	if err != nil {
		return err
	}
	name := strings.Map(func(c rune) rune {
		if strings.ContainsRune("-._", c) || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			return c
		}
		return '_'
	}, ask.AppID)
	return WriteFile(w, "application/zip", "app_embedded_embed_"+name+".zip", zip)
}

// embedAt embeds for Defenders that reach this Console by a host's name, or
// host and port.
func (s *Server) embedAt(r *http.Request, addr string, m *EmbedRequest, way EmbedWay) (*Embedding, []byte, error) {
	own, _ := s.EmbedDefaults(URLOf(r))
	m.Console = own
	if addr != "" {
		u, err := url.Parse(own)
		if err != nil {
			return nil, nil, err
		}
		if strings.ContainsAny(addr, "/@?# ") {
			return nil, nil, Errorf(http.StatusBadRequest, "the Console's address %q is neither a host nor host and port", addr)
		}
		if _, _, err := net.SplitHostPort(addr); err != nil && u.Port() != "" {
			addr = net.JoinHostPort(strings.Trim(addr, "[]"), u.Port())
		}
		u.Host = addr
		m.Console = u.String()
	}
	// Whatever it is called, it is this Console.
	m.CA = string(s.embedding.CA)
	e, zip, err := s.Embed(own, m, way)
	if err != nil {
		return nil, nil, err
	}
	return e, zip, s.Embedded(r.Context(), Who(r), m, e)
}
