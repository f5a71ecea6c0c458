package uplink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"appdefender/policy"
	"appdefender/policy/file"
	"appdefender/wire"
)

// policyName is the file beside the spool with the last good policy, signed.
const policyName = "policy.json"

// restorePolicy reads the last good policy. Somebody may have changed the
// file, but cannot sign.
func (u *Uplink) restorePolicy() {
	data, err := u.spool.Load(policyName)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var p wire.SignedPolicy
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err == nil {
		err = p.Verify(u.enrolment.PolicyKey)
	}
	if err != nil {
		u.storedErr = fmt.Errorf("reading %q: %w", u.file(policyName), err)
		return
	}
	u.stored = &p
}

// LastGood returns the policy that an earlier run had from the Console, for
// the caller to put into force, or nil if there is none.
func (u *Uplink) LastGood() (*policy.Policy, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.stored == nil {
		return nil, u.storedErr
	}
	p, err := file.Parse(u.file(policyName), []byte(u.stored.Policy))
	if err != nil {
		return nil, err
	}
	u.inForce = u.stored.Generation
	return p, nil
}

// followPolicy waits for policies until the Console does not know us.
func (u *Uplink) followPolicy(ctx context.Context) error {
	have := u.generation()
	wait := time.Duration(0) // at first, what is there
	for failed := 0; ; {
		asked := time.Now()
		p, err := u.fetchPolicy(ctx, have, wait)
		switch {
		case ctx.Err() != nil, errors.Is(err, errUnknown), errors.Is(err, errRevoked):
			return err
		case err != nil:
			u.failed("policy", "fetching the policy", err)
			u.pause(ctx, &failed)
			continue
		case p == nil:
			u.succeeded("policy")
			if have > 0 && have == u.generation() {
				u.note(nil)
				u.isFirst.Do(func() { close(u.first) })
			}
			failed = 0
			if wait > 0 && time.Since(asked) < u.pace.retryMin {
				u.pause(ctx, new(int)) // it does not wait as it should
			}
		default:
			u.succeeded("policy")
			ours, err := u.take(p)
			if ours {
				have = p.Generation
			}
			u.note(err)
			signal(u.beat)
			if err != nil {
				u.pause(ctx, &failed)
				break
			}
			failed = 0
			u.isFirst.Do(func() { close(u.first) })
		}
		wait = wire.MaxWait
	}
}

func (u *Uplink) fetchPolicy(ctx context.Context, have uint64, wait time.Duration) (*wire.SignedPolicy, error) {
	r := u.request(http.MethodGet, "policy")
	r.poll = true
	r.query = url.Values{
		wire.ParamGeneration: {strconv.FormatUint(have, 10)},
		wire.ParamWait:       {strconv.Itoa(int(wait / time.Second))},
	}
	var p wire.SignedPolicy
	changed, err := u.client.call(ctx, r, &p)
	if err != nil || !changed {
		return nil, err
	}
	return &p, nil
}

// take puts a policy into force and keeps it, or says why not. It reports
// whether the policy is the Console's: one that is and has faults is not asked
// for again.
func (u *Uplink) take(p *wire.SignedPolicy) (ours bool, err error) {
	u.mu.Lock()
	key, stored, inForce := u.enrolment.PolicyKey, u.stored, u.inForce
	u.mu.Unlock()
	if err := p.Verify(key); err != nil {
		return false, fmt.Errorf("%w; the key is that of the first enrolment%s", err, u.unpin())
	}
	if stored != nil {
		switch {
		case p.Generation < stored.Generation:
			return false, fmt.Errorf("generation %d is older than %d", p.Generation, stored.Generation)
		case p.Generation == stored.Generation && p.Policy != stored.Policy:
			return false, fmt.Errorf("there are two of generation %d", p.Generation)
		case p.Generation == inForce:
			return true, nil
		}
	}
	parsed, err := file.Parse(fmt.Sprintf("generation %d", p.Generation), []byte(p.Policy))
	if err == nil {
		err = u.cfg.Apply(parsed)
	}
	if err != nil {
		return true, err
	}
	data, err := json.Marshal(p)
	if err == nil {
		err = u.spool.Save(policyName, data)
	}
	if err != nil {
		u.wrong("policy file", err.Error(), fmt.Sprintf("keeping %q: %v; the next start has an older policy", u.file(policyName), err))
	} else {
		u.well("policy file")
	}
	u.mu.Lock()
	u.stored, u.inForce = p, p.Generation
	u.mu.Unlock()
	return true, nil
}

// note tells what became of the newest policy.
func (u *Uplink) note(err error) {
	msg := ""
	if err != nil {
		msg = err.Error()
	}
	u.mu.Lock()
	same := u.policyError == msg
	u.policyError = msg
	u.mu.Unlock()
	if same {
		return
	}
	if err != nil {
		u.cfg.Notice("refusing the Console's policy, the last good one holds: " + msg)
	}
	signal(u.beat)
}

// generation returns that of the policy in force.
func (u *Uplink) generation() uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.inForce
}
