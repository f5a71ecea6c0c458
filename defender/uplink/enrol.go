package uplink

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"

	"appdefender/wire"
)

// enrolmentName is the file beside the spool with what enrolling returned.
const enrolmentName = "enrolment.json"

// enrolment is what a Console made of us.
type enrolment struct {
	// Console is its address: the credential goes nowhere else, and another
	// Console has another key.
	Console string `json:"console"`
	// Identity is whom it enrolled. A directory that a container of another
	// kind left gives its records, but not its name.
	Identity wire.Identity `json:"identity"`

	Instance   string            `json:"instance"`
	Credential string            `json:"credential"` // "" before enrolling
	PolicyKey  ed25519.PublicKey `json:"policyKey"`  // pinned
}

// restore reads what an earlier run left. What it cannot use is forgotten.
func (u *Uplink) restore() {
	u.enrolment = enrolment{Console: u.cfg.URL}
	data, err := u.spool.Load(enrolmentName)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var e enrolment
	if err == nil {
		err = json.Unmarshal(data, &e)
	}
	if err == nil && len(e.PolicyKey) != ed25519.PublicKeySize {
		err = errors.New("it has no policy key")
	}
	if err != nil {
		u.cfg.Notice(fmt.Sprintf("reading %q: %v; enrolling anew", u.file(enrolmentName), err))
		return
	}
	if e.Console != u.cfg.URL {
		u.cfg.Notice(fmt.Sprintf("the Console moved from %q to %q: enrolling anew", e.Console, u.cfg.URL))
		return
	}
	if e.Instance != u.spool.Instance() || !alike(e.Identity, u.cfg.Identity) {
		e.Credential = "" // somebody else's numbers or name
	}
	u.enrolment = e
	u.restorePolicy()
}

// alike reports whether two Defenders protect the same kind of container. Its
// hostname changes whenever it is made again, and its version too.
func alike(a, b wire.Identity) bool {
	return a.AppID == b.AppID && a.Container == b.Container && a.Image == b.Image
}

func (u *Uplink) file(name string) string { return filepath.Join(u.spool.Dir(), name) }

func (u *Uplink) enrolled() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.enrolment.Credential != ""
}

// request returns the request that every question of a session begins with.
func (u *Uplink) request(method, what string) request {
	u.mu.Lock()
	defer u.mu.Unlock()
	return request{method: method, path: []string{u.enrolment.Instance, what}, credential: u.enrolment.Credential}
}

// forget gives up being this instance. The key stays pinned.
func (u *Uplink) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.enrolment.Credential = ""
}

// usable reports whether what the Console gave fits into paths, headers and
// record ids.
func usable(got *wire.Enrolled) bool {
	inID := func(c rune) bool {
		return c == '_' || c == '-' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
	}
	visible := func(c rune) bool { return '!' <= c && c <= '~' }
	consists := func(s string, max int, of func(rune) bool) bool {
		return s != "" && len(s) <= max && strings.IndexFunc(s, func(c rune) bool { return !of(c) }) < 0
	}
	return consists(got.Instance, 64, inID) && consists(got.Credential, 1000, visible) && len(got.PolicyKey) == ed25519.PublicKeySize
}

// enrol makes us a new instance.
func (u *Uplink) enrol(ctx context.Context) error {
	if u.cfg.Token == "" {
		return errNoToken
	}
	body, err := json.Marshal(wire.Enrol{Token: u.cfg.Token, Identity: u.cfg.Identity})
	if err != nil {
		return err
	}
	var got wire.Enrolled
	if _, err := u.client.call(ctx, request{method: http.MethodPost, path: []string{"enrol"}, body: body}, &got); err != nil {
		return err
	}
	if !usable(&got) {
		return errors.New("the Console's answer has no usable instance, credential and policy key")
	}
	e := enrolment{
		Console: u.cfg.URL, Identity: u.cfg.Identity,
		Instance: got.Instance, Credential: got.Credential, PolicyKey: got.PolicyKey,
	}
	if pinned := u.key(); pinned != nil && !pinned.Equal(got.PolicyKey) {
		u.wrong("key", "changed", "the Console has another policy key than before: its policies are refused"+u.unpin())
		e.PolicyKey = pinned
	}
	// The spool first: an instance that its numbers do not belong to is
	// enrolled again.
	u.spool.Number(e.Instance)
	u.resumed, u.sent, u.behind = true, 0, 0
	data, err := json.Marshal(e)
	if err == nil {
		err = u.spool.Save(enrolmentName, data)
	}
	if err != nil {
		u.cfg.Notice(fmt.Sprintf("keeping %q: %v; the next start enrols anew", u.file(enrolmentName), err))
	}
	u.mu.Lock()
	u.enrolment = e
	if u.stored == nil {
		u.spool.Forget(policyName) // another Console's
	}
	u.mu.Unlock()
	u.well("enrol")
	return nil
}

// unpin says how to trust another key.
func (u *Uplink) unpin() string {
	if u.spool.Dir() == "" {
		return "; restart this Defender to trust it"
	}
	return fmt.Sprintf("; stop this Defender and remove %q to trust it", u.file(enrolmentName))
}
