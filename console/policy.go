package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"appdefender/console/store"
	"appdefender/policy"
	"appdefender/policy/file"
	"appdefender/wire"
)

// current is the newest policy, ready to be sent.
type current struct {
	store.PolicyVersion
	signed []byte        // JSON of a wire.SignedPolicy
	over   chan struct{} // closed when there is a newer one, or another reason to look again
}

// Policy is a generation of the policy.
type Policy struct {
	Generation uint64         `json:"generation"`
	Who        string         `json:"who"`
	At         time.Time      `json:"at"`
	Policy     *policy.Policy `json:"policy"`
}

// newPolicy decodes a version. Every call makes another copy.
func newPolicy(v store.PolicyVersion) (Policy, error) {
	p := Policy{Generation: v.Generation, Who: v.Who, At: v.At}
	if err := json.Unmarshal([]byte(v.Policy), &p.Policy); err != nil {
		return Policy{}, fmt.Errorf("reading generation %d of the policy: %w", v.Generation, err)
	}
	return p, nil
}

// systemUser is who made the first policy.
const systemUser = "system"

// loadPolicy takes the newest policy of the store; without one it makes the
// shipped default the first.
func (s *Server) loadPolicy(ctx context.Context) error {
	v, err := s.store.Policy(ctx, 0)
	if errors.Is(err, store.ErrNotFound) {
		var b []byte
		if b, err = json.Marshal(file.Default()); err == nil {
			v, err = s.store.AddPolicy(ctx, 0, string(b), systemUser, "made the first policy")
		}
	}
	if err != nil {
		return fmt.Errorf("loading the policy: %w", err)
	}
	return s.publish(v)
}

// publish signs a version, makes it the newest and wakes who waits for it.
func (s *Server) publish(v store.PolicyVersion) error {
	signed, err := json.Marshal(wire.Sign(s.key, v.Generation, v.Policy))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.current
	s.current = &current{PolicyVersion: v, signed: signed, over: make(chan struct{})}
	if old != nil {
		close(old.over)
	}
	return nil
}

// wake makes those who wait for a policy look again.
func (s *Server) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.current.over)
	again := *s.current
	again.over = make(chan struct{})
	s.current = &again
}

func (s *Server) newest() *current {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// Policy returns the newest policy. The caller may change the copy.
func (s *Server) Policy() (Policy, error) { return newPolicy(s.newest().PolicyVersion) }

// ChangePolicy changes the policy and keeps what was done (such as `added rule
// "a"`) by who. change gets a copy; if what it leaves has faults, nothing is
// changed and the error is an [*Error] that lists them.
//
// A generation other than 0 is the one that the change was made for: if it is
// not the newest any more, the error is store.ErrConflict.
func (s *Server) ChangePolicy(ctx context.Context, who, what string, generation uint64, change func(*policy.Policy) error) (Policy, error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	old, err := s.Policy()
	if err != nil {
		return Policy{}, err
	}
	if generation != 0 && generation != old.Generation {
		return Policy{}, fmt.Errorf("the policy has generation %d, not %d: %w", old.Generation, generation, store.ErrConflict)
	}
	p := old.Policy
	if err := change(p); err != nil {
		return Policy{}, err
	}
	if faults := Validate(p); len(faults) > 0 {
		return Policy{}, faulty(faults)
	}
	text, err := json.Marshal(p)
	if err != nil {
		return Policy{}, err
	}
	if len(text) > wire.MaxPolicy/2 { // as a text in JSON it grows
		return Policy{}, Errorf(http.StatusRequestEntityTooLarge, "the policy is larger than %d bytes", wire.MaxPolicy/2)
	}
	// Once begun it must be finished: if the request ended in between, the
	// store would be ahead of what we send.
	v, err := s.store.AddPolicy(context.WithoutCancel(ctx), old.Generation, string(text), who, what)
	if errors.Is(err, store.ErrConflict) { // another process wrote
		return Policy{}, errors.Join(err, s.loadPolicy(ctx))
	}
	if err != nil {
		return Policy{}, err
	}
	if err := s.publish(v); err != nil {
		return Policy{}, err
	}
	s.log.Info("policy changed", "generation", v.Generation, "who", who, "what", what)
	return newPolicy(v)
}

// Validate returns what is wrong with a policy.
func Validate(p *policy.Policy) []Fault {
	var faults []Fault
	for _, f := range p.Validate() {
		faults = append(faults, Fault{Path: f.Path, Msg: f.Msg})
	}
	return faults
}

// ParsePolicy reads a policy in YAML or JSON. The error is an [*Error] with
// the faults and their positions.
func ParsePolicy(text []byte) (*policy.Policy, error) {
	p, err := file.Parse("policy", text)
	if err != nil {
		return nil, parseFaults(err)
	}
	return p, nil
}

func parseFaults(err error) error {
	var all *file.Errors
	if !errors.As(err, &all) {
		return err
	}
	faults := make([]Fault, len(all.Faults))
	for i, f := range all.Faults {
		faults[i] = Fault{f.Path, f.Line, f.Col, f.Msg}
	}
	return faulty(faults)
}

// parseRule reads one rule in JSON, as strictly as a whole policy. The paths
// of the faults begin inside the rule.
func parseRule(text []byte) (policy.Rule, error) {
	if !json.Valid(text) {
		return policy.Rule{}, Errorf(http.StatusBadRequest, "reading the rule: it is no JSON")
	}
	const before, after = `{"version":1,"rules":[`, `]}`
	p, err := ParsePolicy(slices.Concat([]byte(before), text, []byte(after)))
	if err != nil {
		if e := AsError(err); len(e.Faults) > 0 {
			for i := range e.Faults {
				if e.Faults[i].Line == 1 {
					e.Faults[i].Col = max(1, e.Faults[i].Col-len(before))
				}
			}
			return policy.Rule{}, faulty(inRule(e.Faults, 0))
		}
		return policy.Rule{}, err
	}
	return p.Rules[0], nil
}

// inRule makes the paths of rule i begin inside the rule; faults of other
// rules stay as they are.
func inRule(faults []Fault, i int) []Fault {
	at := fmt.Sprintf("rules[%d]", i)
	for j := range faults {
		if rest, ok := strings.CutPrefix(faults[j].Path, at); ok {
			faults[j].Path = strings.TrimPrefix(rest, ".")
		}
	}
	return faults
}

// inRuleError is inRule for an error.
func inRuleError(err error, i int) error {
	if e, ok := errors.AsType[*Error](err); ok && len(e.Faults) > 0 {
		return faulty(inRule(e.Faults, i))
	}
	return err
}

func indexRule(p *policy.Policy, name string) (int, error) {
	i := slices.IndexFunc(p.Rules, func(r policy.Rule) bool { return r.Name == name })
	if i < 0 {
		return i, fmt.Errorf("rule %q: %w", name, store.ErrNotFound)
	}
	return i, nil
}

// AddRule adds a rule at a position, the last if that is negative or too
// great. Paths of faults begin inside the rule.
func (s *Server) AddRule(ctx context.Context, who string, generation uint64, at int, rule policy.Rule) (Policy, error) {
	p, err := s.ChangePolicy(ctx, who, fmt.Sprintf("added rule %q", rule.Name), generation, func(p *policy.Policy) error {
		if at < 0 || at > len(p.Rules) {
			at = len(p.Rules)
		}
		p.Rules = slices.Insert(p.Rules, at, rule)
		return nil
	})
	return p, inRuleError(err, at)
}

// UpdateRule replaces the rule of a name, perhaps with another name.
func (s *Server) UpdateRule(ctx context.Context, who string, generation uint64, name string, rule policy.Rule) (Policy, error) {
	what := fmt.Sprintf("changed rule %q", name)
	if rule.Name != name {
		what = fmt.Sprintf("changed rule %q, now %q", name, rule.Name)
	}
	at := 0
	p, err := s.ChangePolicy(ctx, who, what, generation, func(p *policy.Policy) (err error) {
		if at, err = indexRule(p, name); err == nil {
			p.Rules[at] = rule
		}
		return err
	})
	return p, inRuleError(err, at)
}

// DeleteRule deletes the rule of a name.
func (s *Server) DeleteRule(ctx context.Context, who string, generation uint64, name string) (Policy, error) {
	return s.ChangePolicy(ctx, who, fmt.Sprintf("deleted rule %q", name), generation, func(p *policy.Policy) error {
		i, err := indexRule(p, name)
		if err == nil {
			p.Rules = slices.Delete(p.Rules, i, i+1)
		}
		return err
	})
}

// MoveRule moves the rule of a name to a position, the last if that is
// negative or too great.
func (s *Server) MoveRule(ctx context.Context, who string, generation uint64, name string, to int) (Policy, error) {
	return s.ChangePolicy(ctx, who, fmt.Sprintf("moved rule %q to position %d", name, to+1), generation, func(p *policy.Policy) error {
		i, err := indexRule(p, name)
		if err != nil {
			return err
		}
		rule := p.Rules[i]
		p.Rules = slices.Delete(p.Rules, i, i+1)
		if to < 0 || to > len(p.Rules) {
			to = len(p.Rules)
		}
		p.Rules = slices.Insert(p.Rules, to, rule)
		return nil
	})
}

// ifMatch reads the generation that a change was made for: the header If-Match
// or the parameter "generation"; 0 for any.
func ifMatch(r *http.Request) (uint64, error) {
	s := strings.Trim(r.Header.Get("If-Match"), `"`)
	if s == "" || s == "*" {
		s = r.URL.Query().Get("generation")
	}
	n, err := parseUint(s)
	if err != nil {
		return 0, Errorf(http.StatusBadRequest, "generation: %v", err)
	}
	return n, nil
}

func writePolicy(w http.ResponseWriter, r *http.Request, status int, p Policy) error {
	w.Header().Set("ETag", strconv.Quote(strconv.FormatUint(p.Generation, 10)))
	if r.URL.Query().Get("format") != "yaml" {
		return writeJSON(w, status, p)
	}
	b, err := file.Marshal(p.Policy)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/yaml")
	w.WriteHeader(status)
	_, _ = w.Write(b)
	return nil
}

func (s *Server) getPolicy(w http.ResponseWriter, r *http.Request) error {
	p, err := s.Policy()
	if err != nil {
		return err
	}
	return writePolicy(w, r, http.StatusOK, p)
}

func (s *Server) putPolicy(w http.ResponseWriter, r *http.Request) error {
	generation, err := ifMatch(r)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return badBody(err)
	}
	next, err := ParsePolicy(body)
	if err != nil {
		return err
	}
	p, err := s.ChangePolicy(r.Context(), Who(r), "replaced the policy", generation, func(p *policy.Policy) error {
		*p = *next
		return nil
	})
	if err != nil {
		return err
	}
	return writePolicy(w, r, http.StatusOK, p)
}

// validatePolicy says what is wrong with a policy and keeps nothing.
func (s *Server) validatePolicy(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return badBody(err)
	}
	faults := []Fault{}
	if _, err := ParsePolicy(body); err != nil {
		e := AsError(err)
		if len(e.Faults) == 0 {
			return err
		}
		faults = e.Faults
	}
	return writeJSON(w, http.StatusOK, map[string]any{"faults": faults})
}

func (s *Server) getVersions(w http.ResponseWriter, r *http.Request) error {
	before, err := parseUint(r.URL.Query().Get("before"))
	if err != nil {
		return Errorf(http.StatusBadRequest, "before: %v", err)
	}
	all, err := s.store.Policies(r.Context(), before, 100)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"versions": all})
}

func (s *Server) getVersion(w http.ResponseWriter, r *http.Request) error {
	generation, err := parseUint(r.PathValue("generation"))
	if err != nil || generation == 0 {
		return Errorf(http.StatusBadRequest, "generation: %q is none", r.PathValue("generation"))
	}
	v, err := s.store.Policy(r.Context(), generation)
	if err != nil {
		return err
	}
	p, err := newPolicy(v)
	if err != nil {
		return err
	}
	return writePolicy(w, r, http.StatusOK, p)
}

func (s *Server) readRule(r *http.Request) (policy.Rule, uint64, error) {
	generation, err := ifMatch(r)
	if err != nil {
		return policy.Rule{}, 0, err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return policy.Rule{}, 0, badBody(err)
	}
	rule, err := parseRule(body)
	return rule, generation, err
}

// postRule adds a rule, as the first unless told otherwise: behind a rule for
// everything it would never count.
func (s *Server) postRule(w http.ResponseWriter, r *http.Request) error {
	at := 0
	if text := r.URL.Query().Get("position"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return Errorf(http.StatusBadRequest, "position: %q is not a number", text)
		}
		at = n
	}
	rule, generation, err := s.readRule(r)
	if err != nil {
		return err
	}
	p, err := s.AddRule(r.Context(), Who(r), generation, at, rule)
	if err != nil {
		return err
	}
	return writePolicy(w, r, http.StatusCreated, p)
}

func (s *Server) putRule(w http.ResponseWriter, r *http.Request) error {
	rule, generation, err := s.readRule(r)
	if err != nil {
		return err
	}
	p, err := s.UpdateRule(r.Context(), Who(r), generation, r.PathValue("name"), rule)
	if err != nil {
		return err
	}
	return writePolicy(w, r, http.StatusOK, p)
}

func (s *Server) deleteRule(w http.ResponseWriter, r *http.Request) error {
	generation, err := ifMatch(r)
	if err != nil {
		return err
	}
	p, err := s.DeleteRule(r.Context(), Who(r), generation, r.PathValue("name"))
	if err != nil {
		return err
	}
	return writePolicy(w, r, http.StatusOK, p)
}

func (s *Server) moveRule(w http.ResponseWriter, r *http.Request) error {
	generation, err := ifMatch(r)
	if err != nil {
		return err
	}
	var m struct {
		Position *int `json:"position"` // from 0
	}
	if err := readJSON(r, &m); err != nil {
		return err
	}
	if m.Position == nil {
		return Errorf(http.StatusBadRequest, "position: missing")
	}
	p, err := s.MoveRule(r.Context(), Who(r), generation, r.PathValue("name"), *m.Position)
	if err != nil {
		return err
	}
	return writePolicy(w, r, http.StatusOK, p)
}
