package wire

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"appdefender/audit"
	"appdefender/policy/file"
)

// examples has a file of testdata/wire for every message.
const examples = "../testdata/wire"

// load decodes an example strictly.
func load[T any](t *testing.T, name string) (v T, text []byte) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(examples, name))
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v, text
}

// example reads a message, and writes it as it was. No field of an example is
// empty, so that a field that loses its name is seen.
func example[T any](t *testing.T, name string) T {
	t.Helper()
	v, text := load[T](t, name)
	again, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var want, got any
	if err := errors.Join(json.Unmarshal(text, &want), json.Unmarshal(again, &got)); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s was written as %s", name, again)
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[T]()) {
		if reflect.ValueOf(v).FieldByIndex(f.Index).IsZero() {
			t.Errorf("%s: the example lacks %s", name, f.Name)
		}
	}
	return v
}

func TestExamples(t *testing.T) {
	example[Enrol](t, "enrol.json")
	example[Enrolled](t, "enrolled.json")
	example[SignedPolicy](t, "signed-policy.json")
	example[Acknowledged](t, "acknowledged.json")
	example[Heartbeat](t, "heartbeat.json")
	example[HeartbeatReply](t, "heartbeat-reply.json")
	example[Error](t, "error.json")
	example[Snapshot](t, "snapshot.json")

	b := example[Batch](t, "batch.json")
	for i, raw := range b.Records {
		var r audit.Record
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(&r); err != nil || r.Msg == "" || r.Time.IsZero() {
			t.Errorf("record %d: %+v, %v", i, r, err)
		}
	}

	// There is no message without an example.
	files, err := filepath.Glob(filepath.Join(examples, "*.json"))
	if err != nil || len(files) != 9 {
		t.Errorf("%d examples, %v", len(files), err)
	}
}

// A Defender takes the example's policy by the example's key.
func TestExampleVerifies(t *testing.T) {
	e, _ := load[Enrolled](t, "enrolled.json")
	p, _ := load[SignedPolicy](t, "signed-policy.json")
	if err := p.Verify(e.PolicyKey); err != nil {
		t.Error(err)
	}
	if _, err := file.Parse("policy", []byte(p.Policy)); err != nil {
		t.Error(err)
	}
}

func TestTampered(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, ed25519.SeedSize))
	public := key.Public().(ed25519.PublicKey)
	const policy = `{"version":1,"rules":[]}`
	good := Sign(key, 5, policy)
	if err := good.Verify(public); err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good.Signature)
	flipped[7] ^= 1
	for _, tt := range []struct {
		name   string
		policy SignedPolicy
		key    ed25519.PublicKey
	}{
		{"another policy", SignedPolicy{5, policy + " ", good.Signature}, public},
		{"no policy", SignedPolicy{5, "", good.Signature}, public},
		{"a lower generation", SignedPolicy{4, policy, good.Signature}, public},
		{"a higher generation", SignedPolicy{6, policy, good.Signature}, public},
		{"a bit of the signature", SignedPolicy{5, policy, flipped}, public},
		{"half a signature", SignedPolicy{5, policy, good.Signature[:32]}, public},
		{"no signature", SignedPolicy{5, policy, nil}, public},
		{"the zero policy", SignedPolicy{}, public},
		{"another signer", Sign(other, 5, policy), public},
		{"another key", good, other.Public().(ed25519.PublicKey)},
		{"no key", good, nil},
		{"a short key", good, public[:31]},
		{"a bare signature of the policy", SignedPolicy{5, policy, ed25519.Sign(key, []byte(policy))}, public},
	} {
		if err := tt.policy.Verify(tt.key); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	// What is signed cannot be cut in two ways.
	shifted := Sign(key, 5, "")
	shifted.Policy = "x"
	if err := shifted.Verify(public); !errors.Is(err, ErrSignature) {
		t.Errorf("a longer policy: %v", err)
	}
}

// The other side may be newer.
func TestUnknownFields(t *testing.T) {
	var h Heartbeat
	if err := json.Unmarshal([]byte(`{"level":"notify","appID":"a","later":{"x":1}}`), &h); err != nil || h.Level != "notify" || h.AppID != "a" {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestParseURL(t *testing.T) {
	for text, fault := range map[string]string{
		"https://console.example.com:8443":        "",
		"https://10.0.0.1/console":                "",
		"http://localhost:8080":                   "",
		"http://127.0.0.2":                        "",
		"http://[::1]:8080":                       "",
		"http://console.example.com":              "https",
		"http://10.0.0.1":                         "https",
		"http://localhost.example.com":            "https",
		"ftp://localhost":                         "https",
		"console.example.com":                     "no host",
		"console.example.com:8443":                "no host",
		"https://:8443":                           "no host",
		"https://jane:secret@console.example.com": "no more than",
		"https://console.example.com/?a=b":        "no more than",
		"https://console.example.com/#a":          "no more than",
		"127.0.0.1:8443":                          "give it as https://HOST:PORT",
		"https://console.example.com:x":           "invalid port",
		"https://jane:secret@console:x":           "invalid port",
		"":                                        "no host",
	} {
		u, err := ParseURL(text)
		switch {
		case fault == "" && (err != nil || u.String() != text):
			t.Errorf("%q: %v, %v", text, u, err)
		case fault != "" && (err == nil || !strings.Contains(err.Error(), fault)):
			t.Errorf("%q: %v, %v", text, u, err)
		case err != nil && strings.Contains(err.Error(), "secret"):
			t.Errorf("tells a password: %v", err)
		}
	}
}

func TestCertificateHint(t *testing.T) {
	refused := func(err error) error {
		return fmt.Errorf("asking: %w", &tls.CertificateVerificationError{Err: err})
	}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{errors.New("connection refused"), ""},
		{refused(x509.UnknownAuthorityError{}), "--ca"},
		{refused(x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign}), "--ca"},
		{refused(x509.CertificateInvalidError{Reason: x509.Expired}), "clock"},
		{refused(x509.HostnameError{Certificate: &x509.Certificate{}, Host: "console.example.com"}), "--san console.example.com"},
	} {
		if got := CertificateHint(tt.err); !strings.Contains(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%v: %q", tt.err, got)
		}
	}
}

func FuzzVerify(f *testing.F) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	public := key.Public().(ed25519.PublicKey)
	good := Sign(key, 5, "{}")
	f.Add(uint64(5), "{}", good.Signature)
	f.Add(uint64(0), "", []byte{})
	f.Fuzz(func(t *testing.T, generation uint64, policy string, signature []byte) {
		p := SignedPolicy{generation, policy, signature}
		if p.Verify(public) == nil && (generation != 5 || policy != "{}" || !bytes.Equal(signature, good.Signature)) {
			t.Errorf("verified %+v", p)
		}
	})
}
