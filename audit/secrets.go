package audit

import (
	"strings"

	"appdefender/audit/scrub"
	"appdefender/policy"
)

// withoutSecrets returns what may be written of an event and its verdict.
func withoutSecrets(ev *policy.Event, v policy.Verdict) (policy.Event, policy.Verdict) {
	e := *ev
	var pairs []string
	for _, argv := range []*[]string{&e.Subject.Command, &e.Program.Command} {
		was := *argv
		*argv = scrub.Args(was)
		for i, arg := range *argv {
			// A message may quote an argument without its quotes.
			if arg != was[i] && len(was[i]) > 3 {
				pairs = append(pairs, was[i], arg)
			}
		}
	}
	hidden := strings.NewReplacer(pairs...)
	for _, s := range []*string{&v.Message, &v.Reason} {
		*s = scrub.Line(hidden.Replace(*s))
	}
	for _, s := range []*string{&e.Domain, &e.Name, &e.Why} {
		*s = scrub.Line(*s)
	}
	return e, v
}
