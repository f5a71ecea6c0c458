package web

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"appdefender/console/store"
	"appdefender/policy"
)

// history knows who changed which rule last. The store keeps whole policies,
// so it compares each with the one before.
type history struct {
	mu         sync.Mutex // held while it reads
	generation uint64     // read up to here
	rules      map[string]lastChange
}

// lastChange is the last change of a rule. The zero At is before what the
// history looked at.
type lastChange struct {
	Who string
	At  time.Time

	text string // the rule
}

// historyDepth bounds how many generations are read at first.
const historyDepth = 100

// of returns the last change of every rule of a generation, by the rule's
// name.
func (h *history) of(ctx context.Context, st *store.Store, generation uint64) (map[string]lastChange, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	first := h.generation + 1
	if generation > historyDepth && first < generation-historyDepth {
		first = generation - historyDepth
		h.rules = nil
	}
	for g := first; g <= generation; g++ {
		v, err := st.Policy(ctx, g)
		if errors.Is(err, store.ErrNotFound) { // cleaned away
			h.rules = nil
			continue
		}
		if err != nil {
			return nil, err
		}
		var p policy.Policy
		if err := json.Unmarshal([]byte(v.Policy), &p); err != nil {
			return nil, err
		}
		rules := make(map[string]lastChange, len(p.Rules))
		for i := range p.Rules {
			text, err := json.Marshal(&p.Rules[i])
			if err != nil {
				return nil, err
			}
			c := lastChange{text: string(text)}
			switch old, known := h.rules[p.Rules[i].Name]; {
			case known && old.text == c.text:
				c = old
			case h.rules != nil || g == 1:
				c.Who, c.At = v.Who, v.At
			}
			rules[p.Rules[i].Name] = c
		}
		h.rules, h.generation = rules, g
	}
	return h.rules, nil
}
