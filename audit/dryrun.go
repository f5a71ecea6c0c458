package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"appdefender/policy"
)

// maxRows bounds the different things a dry run remembers.
const maxRows = 10000

// DryRun is a sink for people: one sentence a record, and a table at the end.
type DryRun struct {
	w io.Writer

	mu     sync.Mutex // not held while writing: Summary must not wait for w
	counts map[row]int
}

// row is one line of the table. Once the table is full, the rest is counted as
// "(others)".
type row struct {
	tell           bool // an alert, not a refusal
	what, by, rule string
}

// NewDryRun returns a sink that tells on w what would have been refused.
func NewDryRun(w io.Writer) *DryRun {
	return &DryRun{w: w, counts: make(map[row]int)}
}

// Write tells of one record.
func (d *DryRun) Write(r Record) error {
	if r.Type == typeDefender {
		_, err := fmt.Fprintf(d.w, "dry run: note: %s\n", r.Msg)
		return err
	}
	k := row{tell: r.Effect == "alert", what: subject(&r), by: orUnknown(r.ProcessPath), rule: r.RuleName}
	detail := fmt.Sprintf("(pid %d, by %s)", r.PID, k.by)
	if r.Type == typeProcesses && r.Call == "" {
		k.by = unknownProcess
		if len(r.Ancestry) > 0 {
			k.by = orUnknown(r.Ancestry[0].Path)
		}
		detail = fmt.Sprintf("(%s, pid %d, by %s)", orUnknown(r.ProcessPath), r.PID, k.by)
	}
	d.count(k, r.Count)

	var s strings.Builder
	fmt.Fprintf(&s, "dry run: would %s %s %s", k.verb(), k.what, detail)
	if r.Reason != "" {
		s.WriteString(": " + r.Reason)
	}
	if r.RuleName != "" {
		fmt.Fprintf(&s, " (rule %q)", r.RuleName)
	}
	if r.Count > 1 {
		fmt.Fprintf(&s, ", %d times", r.Count)
	}
	s.WriteByte('\n')
	_, err := io.WriteString(d.w, s.String())
	return err
}

func (d *DryRun) count(k row, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.counts[k]; !ok && len(d.counts) >= maxRows {
		k = row{tell: k.tell, what: "(others)"}
	}
	d.counts[k] += n
}

func (k row) verb() string {
	if k.tell {
		return "tell"
	}
	return "refuse"
}

// subject says what a record is about.
func subject(r *Record) string {
	switch {
	case r.Call != "":
		return "unreadable call " + r.Call
	case r.Domain != "" && r.IP == "":
		if r.QueryType != "" {
			return fmt.Sprintf("lookup of %s (%s)", r.Domain, r.QueryType)
		}
		return "lookup of " + r.Domain
	case r.FilePath != "" && r.Type == typeFiles:
		return "change of " + r.FilePath
	case r.FilePath != "":
		return "connection to " + r.FilePath
	case r.AttackType == string(policy.DeniedListenPort):
		return fmt.Sprintf("listening on port %d", r.Port)
	case strings.Contains(r.IP, ":"):
		return fmt.Sprintf("connection to [%s]:%d", r.IP, r.Port)
	case r.IP != "":
		return fmt.Sprintf("connection to %s:%d", r.IP, r.Port)
	case r.Command != "":
		return r.Command
	}
	return orUnknown(r.ProcessPath)
}

func orUnknown(path string) string {
	if path == "" {
		return unknownProcess
	}
	return path
}

// Summary writes what would have happened, the most frequent first.
func (d *DryRun) Summary(w io.Writer) error {
	d.mu.Lock()
	counts := maps.Clone(d.counts)
	d.mu.Unlock()
	rows := slices.SortedFunc(maps.Keys(counts), func(a, b row) int {
		return cmp.Or(
			cmp.Compare(counts[b], counts[a]),
			strings.Compare(a.verb(), b.verb()),
			strings.Compare(a.what, b.what),
			strings.Compare(a.by, b.by),
			strings.Compare(a.rule, b.rule),
		)
	})
	var err error
	if !slices.ContainsFunc(rows, func(k row) bool { return !k.tell }) {
		_, err = io.WriteString(w, "dry run: nothing would have been refused\n")
	}
	if len(rows) == 0 {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "DRY RUN\tTIMES\tWHAT\tBY\tRULE\n")
	for _, k := range rows {
		fmt.Fprintf(t, "would %s\t%d\t%s\t%s\t%s\n", k.verb(), counts[k], k.what, k.by, k.rule)
	}
	return errors.Join(err, t.Flush())
}
