package console

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"appdefender/policy"
	"appdefender/policy/compat"
)

// numbered is the library of custom rules of a policy, each with the number that
// the compatible API knows it by.
func numbered(p *policy.Policy) []policy.CustomRule {
	ids := compat.IDs(p)
	library := slices.Clone(p.CustomRules)
	for i := range library {
		library[i].ID = ids[library[i].Name]
	}
	return library
}

// customRule returns where in the policy the custom rule of that number is; -1
// is nowhere.
func customRule(p *policy.Policy, id int) int {
	return slices.IndexFunc(numbered(p), func(r policy.CustomRule) bool { return r.ID == id })
}

func (s *Server) getCompatCustomRules(w http.ResponseWriter, _ *http.Request) error {
	p, err := s.Policy()
	if err != nil {
		return err
	}
	out, err := compat.ExportCustomRules(p.Policy)
	if err != nil {
		return compatError(http.StatusConflict, err)
	}
	return writeJSON(w, http.StatusOK, out)
}

func customRuleID(r *http.Request) (int, error) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil || id < 1 {
		return 0, Errorf(http.StatusBadRequest, "id: %q is not the number of a custom rule", r.PathValue("id"))
	}
	return id, nil
}

// putCompatCustomRule changes a custom rule, or adds one. Rules that use it
// follow it to its new name.
func (s *Server) putCompatCustomRule(w http.ResponseWriter, r *http.Request) error {
	id, err := customRuleID(r)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return badBody(err)
	}
	rules, notes, err := compat.ImportCustomRules(body)
	switch {
	case err != nil:
		return compatError(http.StatusBadRequest, err)
	case len(rules) == 0 && len(notes) > 0:
		return Errorf(http.StatusBadRequest, "%s", notes[0])
	case len(rules) != 1:
		return Errorf(http.StatusBadRequest, "reading the body: %d custom rules; give one", len(rules))
	case rules[0].ID != id:
		return Errorf(http.StatusBadRequest, "_id: is %d, and the path says %d", rules[0].ID, id)
	}
	rule := rules[0]
	_, err = s.ChangePolicy(r.Context(), Who(r), fmt.Sprintf("changed the custom rule %q", rule.Name), 0, func(p *policy.Policy) error {
		p.CustomRules = numbered(p) // another rule's number must not change with this one's
		i := customRule(p, id)
		if i < 0 {
			p.CustomRules = append(p.CustomRules, rule)
			return nil
		}
		for j := range p.Rules {
			for k := range p.Rules[j].Custom {
				if ref := &p.Rules[j].Custom[k]; ref.Rule == p.CustomRules[i].Name {
					ref.Rule = rule.Name
				}
			}
		}
		p.CustomRules[i] = rule
		return nil
	})
	if err != nil {
		return err
	}
	return writeNotes(w, notes)
}

func (s *Server) deleteCompatCustomRule(w http.ResponseWriter, r *http.Request) error {
	id, err := customRuleID(r)
	if err != nil {
		return err
	}
	_, err = s.ChangePolicy(r.Context(), Who(r), fmt.Sprintf("deleted the custom rule %d", id), 0, func(p *policy.Policy) error {
		i := customRule(p, id)
		if i < 0 {
			return Errorf(http.StatusNotFound, "there is no custom rule %d", id)
		}
		var users []string
		for _, rule := range p.Rules {
			if slices.ContainsFunc(rule.Custom, func(ref policy.CustomRef) bool { return ref.Rule == p.CustomRules[i].Name }) {
				users = append(users, strconv.Quote(rule.Name))
			}
		}
		if len(users) > 0 {
			return Errorf(http.StatusConflict, "custom rule %d is used by %s; take it out there first", id, strings.Join(users, ", "))
		}
		p.CustomRules = slices.Delete(numbered(p), i, i+1)
		return nil
	})
	if err != nil {
		return err
	}
	return writeNotes(w, nil)
}
