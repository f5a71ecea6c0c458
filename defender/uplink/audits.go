package uplink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/klauspost/compress/zstd"

	"appdefender/wire"
)

const (
	// batchBytes is what records of a batch may have: well within
	// wire.MaxBatchBytes, and little to hold in memory.
	batchBytes = 1 << 20
	// patience is how often a Console may have less than it acknowledged
	// before we believe that it lost the rest.
	patience = 3
)

// sendAudits sends what is in the spool until the Console does not know us.
func (u *Uplink) sendAudits(ctx context.Context) error {
	// Its window bounds what it holds in memory.
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(256<<10))
	if err != nil {
		return err
	}
	defer encoder.Close()
	var last time.Time // when the last batch was sent
	for failed := 0; ; {
		if u.resumed {
			u.gather(ctx, last)
		}
		last = time.Now()
		err := u.sendBatch(ctx, encoder)
		switch {
		case ctx.Err() != nil, errors.Is(err, errUnknown), errors.Is(err, errRevoked):
			return err
		case err != nil:
			u.failed("audits", "sending audits", err)
			u.pause(ctx, &failed)
		default:
			u.succeeded("audits")
			u.moved()
			failed = 0
		}
	}
}

// gather waits for records. After a rest the first goes at once; under load
// batches fill up a little.
func (u *Uplink) gather(ctx context.Context, last time.Time) {
	full := time.NewTimer(time.Until(last.Add(u.pace.gather)))
	defer full.Stop()
	due := false
	for {
		n := u.spool.Len()
		if n >= wire.MaxBatch || due && n > 0 {
			return
		}
		hurry := u.hurry
		if due {
			hurry = nil // there is nothing
		}
		select {
		case <-u.spool.Ready():
		case <-full.C:
			due = true
		case <-hurry:
			due = true
		case <-ctx.Done():
			return
		}
	}
}

// sendBatch sends the first records that wait, and drops what the Console has.
// After a restart it first asks, with an empty batch, what that is.
func (u *Uplink) sendBatch(ctx context.Context, encoder *zstd.Encoder) error {
	n := u.batch
	if !u.resumed {
		n = 0
	}
	b := wire.Batch{}
	b.First, b.Records = u.spool.Peek(max(n, 1), batchBytes)
	if n == 0 {
		b.Records = []json.RawMessage{}
	} else if len(b.Records) == 0 {
		return nil
	}
	body, err := json.Marshal(b)
	if err != nil {
		return err
	}
	r := u.request(http.MethodPost, "audits")
	r.body, r.zstd = encoder.EncodeAll(body, nil), true
	u.sent = max(u.sent, b.First+uint64(len(b.Records))-1)
	var ack wire.Acknowledged
	if _, err := u.client.call(ctx, r, &ack); err != nil {
		return u.notTaken(err, len(b.Records))
	}
	if !u.resumed {
		u.spool.Resume(ack.Sequence)
		u.sent = max(u.sent, ack.Sequence)
		u.resumed = true
		return nil
	}
	return u.acknowledged(b, ack.Sequence)
}

// acknowledged does what the Console's answer to a batch asks.
func (u *Uplink) acknowledged(b wire.Batch, ack uint64) error {
	if ack > u.sent {
		// Its numbers are not ours: somebody copied our directory.
		return fmt.Errorf("it has record %d of an instance that sent %d: another Defender goes by the same name: %w", ack, u.sent, errUnknown)
	}
	if ack >= b.First {
		u.spool.Ack(ack)
		u.batch, u.behind = wire.MaxBatch, 0
		return nil
	}
	if ack == b.First-1 {
		u.behind = 0
		return errors.New("the Console took none of a batch")
	}
	if u.behind++; u.behind < patience {
		return fmt.Errorf("the Console has records up to %d only, and had them up to %d", ack, b.First-1)
	}
	u.cfg.Notice(fmt.Sprintf("the Console lost %d audit records that it had: numbering on from %d", b.First-1-ack, ack))
	u.spool.Rewind(ack)
	u.sent, u.behind = ack, 0
	return nil
}

// notTaken looks for the one record that makes the Console refuse a batch.
// That one is replaced, or the rest would wait for ever.
func (u *Uplink) notTaken(err error, n int) error {
	var answer *statusError
	if !errors.As(err, &answer) {
		return err
	}
	switch answer.code {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		if n == 1 {
			u.spool.Refuse()
		}
		u.batch = max(1, n/2)
	}
	return err
}
