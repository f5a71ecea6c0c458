package inject

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Options say how to protect. For a definition that is protected already, an
// option left out keeps what the definition has.
type Options struct {
	// DefenderImage is the image of the sidecar; its program is /defender.
	DefenderImage string

	// Console is where policy comes from and audits go: an https URL, or an
	// http one on a loopback address. Empty: the containers work from Policy.
	Console string
	// TokenSecret names the enrolment token as the platform's secret: an ARN
	// or the name of a parameter. Token is the token itself, which everybody
	// can read who may see the definition. With a Console, give one.
	TokenSecret, Token string
	// CA are the certificates, in PEM, that the Console's may be signed by;
	// empty: those of the container's system.
	CA []byte
	// Policy is a policy file. With a Console it holds until that answers.
	Policy []byte
	// Wait is how long an application waits, before it starts, for the
	// Console's policy; nil: [DefaultWait]. Until then it would run under
	// Policy or, without one, under one that refuses nothing.
	Wait *time.Duration
	// DataDir is where, in each container, the Defender keeps unsent audits
	// and the last good policy; empty: [DefaultDataDir].
	DataDir string
	// OnFailure says what a Defender that cannot supervise, or dies, does with
	// its application: "closed" ends it, "open" lets it run; "" leaves that to
	// the program, which is "closed".
	OnFailure string
	// FileMonitoring stops the calls that change files; nil: as it was, or not.
	FileMonitoring *bool

	// AppID is what the containers' App ID is; empty: the family, a colon and
	// a new random UUID.
	AppID string
	// Images are names that rules know containers by, for those whose
	// definition's image is not it; by container. As in all these tables, a
	// container is called by its name or, where several tasks or pods have one
	// of that name, by theirs, a slash and its own.
	Images map[string]string
	// Entrypoints are the ENTRYPOINTs of images, for containers that rely on
	// it; an empty list says that the image has none. Commands likewise are
	// their CMDs. By container.
	Entrypoints, Commands map[string][]string
	// Lookup finds what an image says, for containers that rely on it; nil
	// leaves it to the two tables.
	Lookup func(image string) (Image, error)
	// Target is the stage of a Dockerfile to protect; empty: the last.
	Target string
	// BuildArgs are values of a Dockerfile's ARGs that FROM uses.
	BuildArgs map[string]string
	// Context is the folder, in a Dockerfile's context, that has the Defender's
	// files; empty: they come from DefenderImage.
	Context string
	// NoTracing leaves the capability SYS_PTRACE out, for platforms that refuse
	// it. The Defender says at start what it lost.
	NoTracing bool
	// Skip are containers to leave unprotected.
	Skip []string

	// Version is what the definition says it was protected by.
	Version string
}

// inherit fills what the options leave out with what the group was protected
// with; at is the group as it then was, g the one to protect.
func (o Options) inherit(p *prior, at, g *group) Options {
	fill := func(to *string, from string) {
		if *to == "" {
			*to = from
		}
	}
	if at.sidecar != nil {
		fill(&o.DefenderImage, at.sidecar.image)
		for to, name := range map[*[]byte]string{&o.CA: envInstallCA, &o.Policy: envInstallPolicy} {
			if n := at.sidecar.env[name]; *to == nil && n != nil {
				*to = []byte(n.text)
			}
		}
	}
	fill(&o.Console, p.env[envConsole])
	fill(&o.AppID, p.env[envAppID])
	fill(&o.DataDir, p.env[envDataDir])
	if wait, err := time.ParseDuration(p.env[envWait]); o.Wait == nil && err == nil {
		o.Wait = &wait
	}
	fill(&o.OnFailure, p.env[envOnFailure])
	if o.FileMonitoring == nil && p.env[envFiles] == yes {
		o.FileMonitoring = new(true)
	}
	if o.Token == "" && o.TokenSecret == "" {
		o.TokenSecret = p.tokenSecret
		if o.TokenSecret == "" {
			o.Token = p.env[envToken]
		}
	}
	o.NoTracing = o.NoTracing || p.NoTracing
	// What names containers that are gone is forgotten.
	if o.Skip == nil {
		o.Skip = slices.DeleteFunc(slices.Clone(p.Skip), func(name string) bool { return !g.has(name) })
	}
	if o.Images == nil {
		o.Images = maps.Clone(p.Names)
		maps.DeleteFunc(o.Images, func(name, _ string) bool { return !g.has(name) })
	}
	o.Entrypoints, o.Commands = maps.Clone(o.Entrypoints), maps.Clone(o.Commands)
	for _, c := range g.containers {
		img := p.Images[c.name]
		if len(c.entryPoint) > 0 || c.noEntryPoint || img.Of != "" && img.Of != c.image {
			continue
		}
		inheritWords(&o.Entrypoints, g, c, img.Entrypoint)
		if len(c.command) == 0 {
			inheritWords(&o.Commands, g, c, img.Command)
		}
	}
	return o
}

func inheritWords(to *map[string][]string, g *group, c *container, from []string) {
	if _, given := ofContainer(*to, g, c); given || from == nil {
		return
	}
	if *to == nil {
		*to = make(map[string][]string)
	}
	(*to)[c.name] = from
}

// NoImage is the fault of options without a Defender's image.
const NoImage = "the defender's image is missing: it is what brings the program into the task"

// validate adds the faults of the options by themselves.
func (o *Options) validate(f *faults) {
	if o.DefenderImage == "" {
		f.add("", NoImage)
	}
	switch {
	case o.Console == "" && len(o.Policy) == 0:
		f.add("", "neither a Console nor a policy is given: the defender would refuse nothing")
	case o.Console == "" && (o.Token != "" || o.TokenSecret != ""):
		f.add("", "a token is given, but no Console to show it to")
	case o.Console == "" && len(o.CA) > 0:
		f.add("", "a CA is given, but no Console to check with it")
	case o.Console == "" && (o.Wait != nil || o.DataDir != ""):
		f.add("", "a wait or a data directory is given, but no Console to wait for or to keep anything for")
	case o.Console != "" && o.Token == "" && o.TokenSecret == "":
		f.add("", "the Console needs an enrolment token: name a secret that holds it, or a file")
	case o.Token != "" && o.TokenSecret != "":
		f.add("", "two tokens are given: a secret and one in plain text")
	}
	if o.Console != "" {
		if msg := consoleFault(o.Console); msg != "" {
			f.add("", fmt.Sprintf("console %q %s", o.Console, msg))
		}
	}
	if o.Wait != nil && *o.Wait < 0 {
		f.add("", fmt.Sprintf("the wait for a policy, %s, is less than nothing", *o.Wait))
	}
	if o.OnFailure != "" && o.OnFailure != "closed" && o.OnFailure != "open" {
		f.add("", fmt.Sprintf(`%q is nothing to do on a failure; it is "closed" or "open"`, o.OnFailure))
	}
	if dir := o.DataDir; dir != "" && (!path.IsAbs(dir) || dir != path.Clean(dir) || dir == "/" || dir == Dir || strings.HasPrefix(dir, Dir+"/")) {
		f.add("", fmt.Sprintf("the data directory %q is not a folder of a container's own, such as %q (%s is shared, and closed to it)", dir, DefaultDataDir, Dir))
	}
	for what, s := range map[string]string{
		"the token": o.Token, "the token's secret": o.TokenSecret,
		"the App ID": o.AppID, "the defender's image": o.DefenderImage,
	} {
		if what == "the token's secret" && s != "" && strings.ContainsRune("!{[", rune(s[0])) {
			continue // the platform computes it
		}
		if strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
			f.add("", what+" has a blank or control character")
		}
	}
	if len(o.CA) > 0 {
		if err := certificates(o.CA); err != nil {
			f.add("", "the CA "+err.Error())
		}
	}
}

// dataDir returns the value of DEFENDER_DATA_DIR; "" is none.
func (o *Options) dataDir() string {
	if o.DataDir == "" && o.Console != "" {
		return DefaultDataDir
	}
	return o.DataDir
}

// wait returns the value of DEFENDER_WAIT_FOR_POLICY; "" is none.
func (o *Options) wait() string {
	switch {
	case o.Console == "":
		return ""
	case o.Wait == nil:
		return DefaultWait.String()
	}
	return o.Wait.String()
}

// yes is the value of a variable that switches something on.
const yes = "true"

// files returns the value of DEFENDER_FILE_MONITORING; "" is none.
func (o *Options) files() string {
	if o.FileMonitoring != nil && *o.FileMonitoring {
		return yes
	}
	return ""
}

func consoleFault(s string) string {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "":
		return `is not a URL such as "https://console.example.com:8443"`
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "must be scheme, host, port and path only"
	case u.Scheme == "https":
		return ""
	case u.Scheme == "http" && loopback(u.Hostname()):
		return ""
	}
	return "must begin with https:// (http:// only on a loopback address)"
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// certificates checks that data holds certificates and nothing else, such as
// the key beside them.
func certificates(data []byte) error {
	n := 0
	for {
		data = bytes.TrimSpace(data)
		if len(data) == 0 {
			break
		}
		block, rest := pem.Decode(data)
		switch {
		case block == nil:
			return fmt.Errorf("has something that is not PEM")
		case block.Type != "CERTIFICATE":
			return fmt.Errorf("has a %s; it must be certificates only", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("has a certificate nobody can read: %w", err)
		}
		data, n = rest, n+1
	}
	if n == 0 {
		return fmt.Errorf("has no certificate")
	}
	return nil
}

// named returns every container name that the options mention, in order, and
// which option does.
func (o *Options) named() map[string]string {
	m := make(map[string]string)
	for name := range o.Images {
		m[name] = "image"
	}
	for name := range o.Commands {
		m[name] = "command"
	}
	for name := range o.Entrypoints {
		m[name] = "entrypoint"
	}
	for _, name := range o.Skip {
		m[name] = "skip"
	}
	return m
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// NewUUID returns a random UUID (RFC 9562, version 4).
func NewUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
