package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"

	"appdefender/console/store"
	"appdefender/wire"
)

// maxIdentity bounds each text that a Defender tells of itself, in bytes.
const maxIdentity = 512

func checkIdentity(id *wire.Identity) error {
	for name, s := range map[string]string{"appID": id.AppID, "container": id.Container, "image": id.Image, "hostname": id.Hostname, "version": id.Version} {
		if len(s) > maxIdentity {
			return Errorf(http.StatusBadRequest, "%s: longer than %d bytes", name, maxIdentity)
		}
	}
	return nil
}

// readWire decodes a message of a Defender. Unknown keys are a newer
// Defender's and ignored.
func readWire(r *http.Request, v any) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return badBody(err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return badBody(err)
	}
	return nil
}

// enrolKeys throttles who guesses enrolment tokens. They are too long to be
// guessed; this only keeps the log and the processor free.
func enrolKeys(addr string) []loginKey {
	return []loginKey{{"enrol " + addr, 100, 10 * time.Second}}
}

func (s *Server) enrol(w http.ResponseWriter, r *http.Request) error {
	var m wire.Enrol
	if err := readWire(r, &m); err != nil {
		return err
	}
	if err := checkIdentity(&m.Identity); err != nil {
		return err
	}
	keys := enrolKeys(clientAddr(r))
	if wait := s.throttle.begin(keys); wait > 0 {
		return &Error{Status: http.StatusTooManyRequests, Msg: "too many wrong enrolment tokens; try again later", RetryAfter: wait}
	}
	instance, credential, err := s.store.Enrol(r.Context(), m.Token, m.Identity)
	if errors.Is(err, store.ErrToken) {
		return &Error{Status: http.StatusUnauthorized, Msg: store.ErrToken.Error()}
	}
	s.throttle.succeeded(keys)
	if err != nil {
		return err
	}
	s.log.Info("enrolled", "instance", instance, "appID", m.AppID, "container", m.Container, "from", r.RemoteAddr)
	return writeJSON(w, http.StatusOK, wire.Enrolled{Instance: instance, Credential: credential, PolicyKey: s.PolicyKey()})
}

// defender returns the Defender that asks. With 401 it enrols again, with 403
// it stops trying.
func (s *Server) defender(ctx context.Context, r *http.Request) (store.Defender, error) {
	credential, ok := bearer(r.Header.Get("Authorization"))
	if !ok {
		return store.Defender{}, Errorf(http.StatusUnauthorized, "the credential is missing")
	}
	d, err := s.store.AuthenticateDefender(ctx, r.PathValue("id"), credential)
	switch {
	case errors.Is(err, store.ErrRevoked):
		return d, &Error{Status: http.StatusForbidden, Msg: "this Defender is revoked", Err: err}
	case errors.Is(err, store.ErrNotFound):
		return d, &Error{Status: http.StatusUnauthorized, Msg: "unknown Defender or wrong credential", Err: err}
	}
	return d, err
}

// defenderPolicy answers with the policy if it is newer than the Defender's,
// and otherwise waits for one as long as asked.
func (s *Server) defenderPolicy(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	if _, err := s.defender(ctx, r); err != nil {
		return err
	}
	query := r.URL.Query()
	have, err := parseUint(query.Get(wire.ParamGeneration))
	if err != nil {
		return Errorf(http.StatusBadRequest, "%s: %v", wire.ParamGeneration, err)
	}
	seconds, err := parseUint(query.Get(wire.ParamWait))
	if err != nil {
		return Errorf(http.StatusBadRequest, "%s: %v", wire.ParamWait, err)
	}
	wait := time.Duration(min(seconds, uint64(wire.MaxWait/time.Second))) * time.Second
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait + answerTime))

	var timeout <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		timeout = timer.C
	}
	for woken := false; ; woken = true {
		c := s.newest()
		if woken {
			// It may be the revocation that woke us.
			if _, err := s.defender(ctx, r); err != nil {
				return err
			}
		}
		if c.Generation > have {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(c.signed)
			return nil
		}
		if wait == 0 {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
		select {
		case <-c.over:
		case <-timeout:
			wait = 0
		case <-s.stop:
			wait = 0
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func parseUint(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, errors.New(strconv.Quote(s) + " is not a number")
	}
	return n, nil
}

// zstdMagic is what a zstd frame begins with (RFC 8878, 3.1.1).
var zstdMagic = []byte{0x28, 0xB5, 0x2F, 0xFD}

// records are those of a batch. It stops at the first too many: a few
// megabytes of commas stand for a gigabyte of slices.
type records []json.RawMessage

func (rs *records) UnmarshalJSON(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		if t == nil && err == nil {
			return nil // null
		}
		return errors.New("records: not a list")
	}
	for d.More() {
		if len(*rs) == wire.MaxBatch {
			return errors.New("records: more than " + strconv.Itoa(wire.MaxBatch))
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return err
		}
		*rs = append(*rs, raw)
	}
	return nil
}

// readBatch reads a batch, compressed or not. A body that would unpack to more
// than MaxBatchBytes is refused before it has.
func (s *Server) readBatch(r *http.Request) (first uint64, rs records, err error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, nil, badBody(err)
	}
	if bytes.HasPrefix(body, zstdMagic) {
		body, err = s.zstd.DecodeAll(body, nil)
		if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
			return 0, nil, Errorf(http.StatusRequestEntityTooLarge, "the batch unpacks to more than %d bytes", wire.MaxBatchBytes)
		}
		if err != nil {
			return 0, nil, Errorf(http.StatusBadRequest, "unpacking the batch: %v", err)
		}
	}
	var b struct {
		First   uint64  `json:"first"`
		Records records `json:"records"`
	}
	if err := json.Unmarshal(body, &b); err != nil {
		return 0, nil, badBody(err)
	}
	if b.First == 0 || b.First > 1<<62 {
		return 0, nil, Errorf(http.StatusBadRequest, "first: %d is no sequence", b.First)
	}
	return b.First, b.Records, nil
}

func (s *Server) defenderAudits(w http.ResponseWriter, r *http.Request) error {
	d, err := s.defender(r.Context(), r)
	if err != nil {
		return err
	}
	first, rs, err := s.readBatch(r)
	if err != nil {
		return err
	}
	acked, added, err := s.store.AddAudits(r.Context(), d.Instance, first, rs)
	if err != nil {
		return err
	}
	s.feed.publish(added)
	if first > acked+1 {
		s.log.Info("gap in audits", "instance", d.Instance, "first", first, "acknowledged", acked)
	}
	return writeJSON(w, http.StatusOK, wire.Acknowledged{Sequence: acked})
}

func (s *Server) defenderHeartbeat(w http.ResponseWriter, r *http.Request) error {
	d, err := s.defender(r.Context(), r)
	if err != nil {
		return err
	}
	var h wire.Heartbeat
	if err := readWire(r, &h); err != nil {
		return err
	}
	if err := checkIdentity(&h.Identity); err != nil {
		return err
	}
	if err := s.store.Heartbeat(r.Context(), d.Instance, &h); err != nil {
		return err
	}
	if h.Generation > s.newest().Generation || h.Generation == s.newest().Generation && h.PolicyError != "" {
		s.overtake(r.Context(), d.Instance, h.Generation)
	}
	return writeJSON(w, http.StatusOK, wire.HeartbeatReply{Seconds: int(s.heartbeat / time.Second), Forensics: s.forensics.take(d.Instance)})
}

// The states of a Defender.
const (
	Connected = "connected"
	Silent    = "silent" // it missed three heartbeats
	Revoked   = "revoked"
)

// State says how a Defender is connected.
func (s *Server) State(d *store.Defender) string {
	switch {
	case !d.Revoked.IsZero():
		return Revoked
	case s.now().Sub(d.LastSeen) > 3*s.heartbeat+5*time.Second:
		return Silent
	}
	return Connected
}

// DefenderView is a Defender as the API shows it.
type DefenderView struct {
	store.Defender
	State string `json:"state"`
}

// maxDefenders bounds the list.
const maxDefenders = 10_000

// Defenders returns all Defenders, the last seen first.
func (s *Server) Defenders(ctx context.Context) ([]DefenderView, error) {
	all, err := s.store.Defenders(ctx, maxDefenders)
	if err != nil {
		return nil, err
	}
	views := make([]DefenderView, len(all))
	for i := range all {
		views[i] = DefenderView{all[i], s.State(&all[i])}
	}
	return views, nil
}

// Revoke turns a Defender away for good, also one that waits for a policy.
func (s *Server) Revoke(ctx context.Context, who, instance string) error {
	if err := s.store.Revoke(ctx, who, instance); err != nil {
		return err
	}
	s.wake()
	return nil
}

func (s *Server) getDefenders(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Defenders(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"defenders": all})
}

func (s *Server) getDefender(w http.ResponseWriter, r *http.Request) error {
	d, err := s.store.Defender(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, DefenderView{d, s.State(&d)})
}

func (s *Server) postRevoke(w http.ResponseWriter, r *http.Request) error {
	if err := s.Revoke(r.Context(), Who(r), r.PathValue("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
