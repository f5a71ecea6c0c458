package uplink

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"appdefender/wire"
)

// Bounds of what a Console may ask for.
const (
	minHeartbeat = time.Second
	maxHeartbeat = time.Hour
)

// sendHeartbeats tells how we are until the Console does not know us.
func (u *Uplink) sendHeartbeats(ctx context.Context) error {
	interval := u.pace.heartbeat
	for failed := 0; ; {
		var reply wire.HeartbeatReply
		err := u.sendHeartbeat(ctx, &reply)
		switch {
		case ctx.Err() != nil, errors.Is(err, errUnknown), errors.Is(err, errRevoked):
			return err
		case err != nil:
			u.failed("heartbeat", "sending a heartbeat", err)
			u.pause(ctx, &failed)
			continue
		}
		u.succeeded("heartbeat")
		failed = 0
		if reply.Forensics {
			u.owe(owedAsked)
		}
		if reply.Seconds > 0 {
			asked := time.Duration(min(reply.Seconds, int(maxHeartbeat/time.Second))) * time.Second
			interval = max(asked, minHeartbeat)
		}
		select {
		case <-time.After(interval):
		case <-u.beat:
		case <-ctx.Done():
		}
	}
}

func (u *Uplink) sendHeartbeat(ctx context.Context, reply *wire.HeartbeatReply) error {
	body, err := json.Marshal(u.heartbeat())
	if err != nil {
		return err
	}
	r := u.request(http.MethodPost, "heartbeat")
	r.body = body
	_, err = u.client.call(ctx, r, reply)
	return err
}

func (u *Uplink) heartbeat() *wire.Heartbeat {
	h := &wire.Heartbeat{Level: "observe", Started: u.started.UTC()}
	u.cfg.Status(h)
	h.Identity = u.cfg.Identity
	h.Queue = u.spool.Len()
	h.Dropped += u.spool.Dropped()
	u.mu.Lock()
	defer u.mu.Unlock()
	h.Generation, h.PolicyError = u.inForce, u.policyError
	return h
}
