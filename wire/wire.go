// Package wire is what crosses between a Defender and its Console: JSON over
// HTTPS under [Path], versioned by that path. Both sides may be two versions
// apart, so a message may gain fields, and unknown ones are ignored.
//
//	POST /api/v1/defenders/enrol                 Enrol → Enrolled
//	GET  /api/v1/defenders/{id}/policy           → SignedPolicy, or 304 when nothing is newer
//	POST /api/v1/defenders/{id}/audits           Batch (zstd) → Acknowledged
//	POST /api/v1/defenders/{id}/heartbeat        Heartbeat → HeartbeatReply
//	POST /api/v1/defenders/{id}/forensics        Snapshot (zstd) → {}
//
// Enrolling needs a token; everything after it the credential that enrolling
// returned, as "Authorization: Bearer …". A Defender the Console no longer
// knows gets 401 and enrols again; a revoked one gets 403 and stops trying.
package wire

import (
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Path is where the Defenders' part of the API begins.
const Path = "/api/v1/defenders"

// Parameters of the policy request.
const (
	// ParamGeneration is the generation the Defender has; 0 for none.
	ParamGeneration = "generation"
	// ParamWait is how long to wait for a newer one, in seconds.
	ParamWait = "wait"
)

// Limits that both sides keep.
const (
	MaxBatch      = 500     // records in a batch
	MaxBatchBytes = 4 << 20 // of a batch, uncompressed
	MaxPolicy     = 16 << 20
	MaxSnapshot   = 32 << 20 // of a Snapshot, uncompressed, in bytes
	MaxWait       = 55 * time.Second
)

// Error is the body of every answer that is not 2xx or 304.
type Error struct {
	Message string `json:"err"`
}

// Identity is what a Defender protects, as it was told when it was embedded.
type Identity struct {
	AppID     string `json:"appID,omitempty"`
	Container string `json:"container,omitempty"`
	Image     string `json:"image,omitempty"`
	Hostname  string `json:"hostname,omitempty"`
	Version   string `json:"version,omitempty"` // of the Defender
}

// Enrol asks for an instance id.
type Enrol struct {
	Token string `json:"token"`
	Identity
}

// Enrolled is the answer. The Defender pins PolicyKey: a policy signed by
// another key is refused from then on.
type Enrolled struct {
	Instance   string            `json:"instance"`   // what record ids begin with
	Credential string            `json:"credential"` // secret
	PolicyKey  ed25519.PublicKey `json:"policyKey"`
}

// SignedPolicy is the whole policy in native form.
type SignedPolicy struct {
	// Generation grows with every change; a Defender refuses a lower one.
	Generation uint64 `json:"generation"`
	// Policy is JSON as text: as an object its bytes, which the signature
	// covers, would not survive every encoder.
	Policy    string `json:"policy"`
	Signature []byte `json:"signature"`
}

// ErrSignature means that a policy was not signed by the pinned key.
var ErrSignature = errors.New("the policy's signature is wrong")

// Sign returns the policy signed for its generation.
func Sign(key ed25519.PrivateKey, generation uint64, policy string) SignedPolicy {
	return SignedPolicy{Generation: generation, Policy: policy, Signature: ed25519.Sign(key, signed(generation, policy))}
}

// Verify returns ErrSignature unless key signed this policy for this
// generation.
func (p *SignedPolicy) Verify(key ed25519.PublicKey) error {
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, signed(p.Generation, p.Policy), p.Signature) {
		return fmt.Errorf("generation %d: %w", p.Generation, ErrSignature)
	}
	return nil
}

// signed is what a signature covers. The first line keeps it from being taken
// for one over anything else.
func signed(generation uint64, policy string) []byte {
	b := append([]byte("appdefender policy 1\n"), make([]byte, 8)...)
	binary.BigEndian.PutUint64(b[len(b)-8:], generation)
	return append(b, policy...)
}

// Batch is a run of records: the first has sequence First, the next First+1.
// Sequences of one instance begin at 1 and have no gaps: what a Defender
// loses, it confesses in a record.
type Batch struct {
	First   uint64            `json:"first"`
	Records []json.RawMessage `json:"records"` // audit.Record
}

// Acknowledged says up to which sequence the Console has every record. A
// Defender drops those and sends on from there, whatever it sent before.
type Acknowledged struct {
	Sequence uint64 `json:"sequence"`
}

// Heartbeat is how a Defender is.
type Heartbeat struct {
	Identity
	// Level is "notify", "ptrace", or "observe" where nothing can be refused.
	Level      string   `json:"level"`
	Lost       []string `json:"lost,omitempty"` // parts of the level that are missing, for people
	FailOpen   bool     `json:"failOpen,omitempty"`
	DryRun     bool     `json:"dryRun,omitempty"`
	Generation uint64   `json:"generation"` // of the policy in force
	// PolicyError says why the newest policy is not in force.
	PolicyError string    `json:"policyError,omitempty"`
	Queue       int       `json:"queue"`   // records that wait for an acknowledgement
	Dropped     uint64    `json:"dropped"` // records lost since the start
	Started     time.Time `json:"started"`
}

// HeartbeatReply asks for the next heartbeat.
type HeartbeatReply struct {
	Seconds int `json:"seconds"` // until then
	// Forensics asks for a Snapshot.
	Forensics bool `json:"forensics,omitempty"`
}

// Snapshot is what a Defender remembers of its container, sent a little after
// an incident or because the Console asked.
type Snapshot struct {
	Asked     bool              `json:"asked,omitempty"`     // the Console did
	Forgotten uint64            `json:"forgotten,omitempty"` // events that had to make room
	Events    []json.RawMessage `json:"events"`              // audit.ForensicEvent, oldest first
}
