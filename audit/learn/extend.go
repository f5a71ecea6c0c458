package learn

import (
	"fmt"
	"maps"
	"slices"

	"appdefender/policy"
	"appdefender/policy/file"
)

// Extend returns what the lists of a policy lack so that it refuses and tells
// nothing of the recordings, and for people what no entry can change. An
// allow list that is empty says nothing, and stays so.
func Extend(p *policy.Policy, recordings []*Recording) (additions []file.Addition, notes []string, err error) {
	for _, g := range groups(recordings) {
		h := g.Header()
		engine, err := policy.Compile(p, h.Workload())
		if err != nil {
			return nil, nil, err
		}
		at := slices.IndexFunc(p.Rules, func(r policy.Rule) bool { return r.Name == engine.Rule() && engine.Rule() != "" })
		if at < 0 {
			notes = append(notes, fmt.Sprintf("no rule is for %s: it is not restricted, and nothing is added", g.name))
			continue
		}
		b := newBuilder(g, Options{})
		for i := range b.obs {
			if v := engine.Decide(&b.obs[i].Event); v.Tell() {
				b.place(&b.obs[i])
			}
		}
		b.widen()
		for _, path := range allowLists {
			entries := b.lists[path]
			// What families may do is judged by other lists, too.
			if len(entries) == 0 || path != families && !has(&p.Rules[at], path) {
				continue
			}
			to := list(&p.Rules[at], path)
			for _, e := range slices.SortedFunc(maps.Keys(entries), byNumber) {
				if !slices.Contains(*to, e) {
					*to = append(*to, e)
					additions = append(additions, file.Addition{Path: fmt.Sprintf("rules[%d]%s", at, path), Entry: e, Comment: entries[e].String()})
				}
			}
		}
		if engine, err = policy.Compile(p, h.Workload()); err != nil {
			return nil, nil, err
		}
		said := make(map[string]bool)
		for i := range b.obs {
			v := engine.Decide(&b.obs[i].Event)
			if !v.Tell() || said[v.Reason] || len(said) > 100 {
				continue
			}
			said[v.Reason] = true
			notes = append(notes, fmt.Sprintf("rules[%d] (%s) still says %s to %s: %s", at, v.Rule, v.Effect, b.obs[i].example(), v.Reason))
		}
	}
	return additions, notes, nil
}

// has reports whether a rule has a list with something in it.
func has(r *policy.Rule, path string) bool {
	switch path {
	case processesAllow:
		return r.Processes != nil && len(r.Processes.Allow) > 0
	case dnsAllow:
		return r.DNS != nil && len(r.DNS.Allow) > 0
	case filesAllow:
		return r.Files != nil && len(r.Files.Allow) > 0
	}
	return r.Network != nil && len(*list(r, path)) > 0
}
