package uplink

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/klauspost/compress/zstd"

	"appdefender/wire"
)

// Why forensic data is to be sent.
const (
	owedNone  = iota
	owedEvent // an incident
	owedAsked // the Console wants it
)

// SendForensics sends what is remembered of the container as soon as the line
// allows. It does not wait.
func (u *Uplink) SendForensics() { u.owe(owedEvent) }

func (u *Uplink) owe(why int32) {
	if u.cfg.Forensics == nil {
		return
	}
	if why == owedAsked || !u.owed.CompareAndSwap(owedNone, why) {
		u.owed.Store(max(why, u.owed.Load()))
	}
	signal(u.snapshot)
}

// sendSnapshots sends forensic data until the Console does not know us. Data
// that the Console does not take is not sent again: with the next there is
// newer.
func (u *Uplink) sendSnapshots(ctx context.Context) error {
	for failed := 0; ; {
		if u.owed.Load() == owedNone {
			select {
			case <-u.snapshot:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		err := u.sendSnapshot(ctx)
		var answer *statusError
		switch {
		case ctx.Err() != nil, errors.Is(err, errUnknown), errors.Is(err, errRevoked):
			return err
		case errors.As(err, &answer) && answer.code >= 400 && answer.code < 500:
			u.failed("forensics", "sending forensic data", err)
		case err != nil:
			u.failed("forensics", "sending forensic data", err)
			u.pause(ctx, &failed)
			continue
		default:
			u.succeeded("forensics")
		}
		failed = 0
		u.owed.Store(owedNone)
		u.moved()
	}
}

func (u *Uplink) sendSnapshot(ctx context.Context) error {
	s := u.cfg.Forensics()
	s.Asked = u.owed.Load() == owedAsked
	// The newest, of what the Console takes.
	size := 0
	for i := len(s.Events) - 1; i >= 0; i-- {
		if size += len(s.Events[i]) + 1; size > wire.MaxSnapshot-1024 {
			s.Forgotten += uint64(i + 1) //nolint:gosec // an index
			s.Events = s.Events[i+1:]
			break
		}
	}
	body, err := json.Marshal(s)
	if err != nil {
		return err
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return err
	}
	defer encoder.Close()
	r := u.request(http.MethodPost, "forensics")
	r.body, r.zstd = encoder.EncodeAll(body, nil), true
	_, err = u.client.call(ctx, r, &struct{}{})
	return err
}
