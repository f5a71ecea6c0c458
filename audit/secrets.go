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
		was := FirstArgs(*argv)
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
		*s = scrub.Line(hidden.Replace((*s)[:min(len(*s), maxArgBytes)]))
	}
	for _, s := range []*string{&e.Domain, &e.Name, &e.Why} {
		*s = scrub.Line(*s)
	}
	return e, v
}

// What is looked at of a command line to write some of it, which is less: the
// judge was given all of it, which may be 6 MiB.
const (
	maxArgs     = 4096
	maxArgBytes = 128 << 10
)

// FirstArgs are the first 4096 arguments, or 128 KiB of them and the one that
// goes beyond.
func FirstArgs(argv []string) []string {
	size := 0
	for i, arg := range argv[:min(len(argv), maxArgs)] {
		if size += len(arg); size > maxArgBytes {
			return argv[:i+1]
		}
	}
	return argv[:min(len(argv), maxArgs)]
}
