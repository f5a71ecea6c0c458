package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"appdefender/audit"
	"appdefender/audit/learn"
	"appdefender/cmd/internal/flags"
)

// filterFlags select records: all flags, or the named ones and those of time.
func filterFlags(names ...string) []cli.Flag {
	var list []cli.Flag
	for _, k := range filterKeys {
		if len(names) > 0 && !slices.Contains(names, k.flag) {
			continue
		}
		list = append(list, &cli.StringSliceFlag{Name: k.flag, Usage: k.usage + "; may be repeated"})
	}
	if len(names) == 0 {
		list = append(list, &cli.StringFlag{Name: "text", Usage: "only records with these `WORDS`"})
	}
	return append(list,
		&cli.StringFlag{Name: "since", Usage: "only records since `TIME`: 2006-01-02T15:04:05Z, or how long ago, such as 15m"},
		&cli.StringFlag{Name: "until", Usage: "only records up to `TIME`"})
}

// filterKeys are the flags with whole values, their parameters of the API and
// what they select by.
var filterKeys = []struct {
	flag, param, usage string
	of                 func(*audit.Record) string
	words              []string // all that there are; nil: any
}{
	{"type", "type", "only `TYPE`: processes, network, filesystem, defender", func(r *audit.Record) string { return r.Type }, []string{"processes", "network", "filesystem", "defender"}},
	{"effect", "effect", "only `EFFECT`: alert, prevent, block", func(r *audit.Record) string { return r.Effect }, []string{"alert", "prevent", "block"}},
	{"rule", "rule", "only the rule `NAME`", func(r *audit.Record) string { return r.RuleName }, nil},
	{"app-id", "appID", "only the application `ID`", func(r *audit.Record) string { return r.AppID }, nil},
	{"container", "container", "only the container `NAME`", func(r *audit.Record) string { return r.ContainerName }, nil},
	{"image", "image", "only the image `NAME`", func(r *audit.Record) string { return r.ImageName }, nil},
	{"attack-type", "attackType", "only the detection `NAME`, such as explicitlyDeniedProcess", func(r *audit.Record) string { return r.AttackType }, nil},
	{"process", "process", "only the program `PATH`", func(r *audit.Record) string { return r.ProcessPath }, nil},
	{"domain", "domain", "only the looked-up `NAME`", func(r *audit.Record) string { return r.Domain }, nil},
	{"severity", "severity", "only `SEVERITY`: medium, high", func(r *audit.Record) string { return r.Severity }, []string{"medium", "high"}},
}

// filter selects records.
type filter struct {
	values   map[string][]string // by parameter
	text     string
	from, to time.Time
}

// readFilter reads the flags of a filter.
func readFilter(c *cli.Context) (filter, error) {
	f := filter{values: make(map[string][]string), text: c.String("text")}
	var errs []error
	for _, k := range filterKeys {
		f.values[k.param] = c.StringSlice(k.flag)
	}
	for _, k := range filterKeys {
		for _, v := range f.values[k.param] {
			if k.words != nil && !slices.Contains(k.words, v) {
				errs = append(errs, fmt.Errorf("--%s: %q is not one of %s", k.flag, v, strings.Join(k.words, ", ")))
			}
		}
	}
	for flag, t := range map[string]*time.Time{"since": &f.from, "until": &f.to} {
		var err error
		if *t, err = parseTime(c.String(flag), time.Now()); err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	return f, flags.Faults(errs...)
}

// parseTime reads a time, or how long it is ago; "" is the zero time.
func parseTime(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("%q is neither a time such as 2006-01-02T15:04:05Z nor how long ago, such as 24h", s)
}

// query is the filter as parameters of the Console's API.
func (f *filter) query() url.Values {
	q := make(url.Values)
	for key, list := range f.values {
		q[key] = slices.Clone(list)
	}
	for key, value := range map[string]string{"text": f.text, "from": rfc3339(f.from), "to": rfc3339(f.to)} {
		if value != "" {
			q.Set(key, value)
		}
	}
	return q
}

func rfc3339(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// selects is what the Console does with the parameters, for a file.
func (f *filter) selects(r *audit.Record) bool {
	for _, k := range filterKeys {
		if list := f.values[k.param]; len(list) > 0 && !slices.Contains(list, k.of(r)) {
			return false
		}
	}
	if !f.from.IsZero() && r.Time.Before(f.from) || !f.to.IsZero() && r.Time.After(f.to) {
		return false
	}
	all := strings.ToLower(strings.Join([]string{r.Msg, r.ProcessPath, r.Command, r.Domain, r.IP, r.RuleName, r.AttackType, r.AppID, r.ContainerName, r.ImageName, r.User}, " "))
	for word := range strings.FieldsSeq(strings.ToLower(f.text)) {
		if !strings.Contains(all, word) {
			return false
		}
	}
	return true
}

func (a *app) audits() *cli.Command {
	return &cli.Command{
		Name:      "audits",
		Usage:     "list and follow the audits of a Console or of files",
		UsageText: "defenderctl audits --console URL --user NAME [flags]\ndefenderctl audits [flags] FILE...",
		Description: "FILE is an audit log, also one packed by gzip, the folder with a Defender's spool, or - for standard input. The\n" +
			"newest audits are listed, the oldest of them first. With --follow those that arrive are listed too, until Ctrl-C;\n" +
			"a file may be rotated or truncated meanwhile.",
		Flags: append(append(consoleFlags(), filterFlags()...),
			&cli.IntFlag{Name: "limit", Aliases: []string{"n"}, Value: 50, Usage: "list the newest `N`; 0 is all"},
			&cli.StringFlag{Name: "before", Usage: "list those of the Console that are older than `CURSOR`, which the page before gave"},
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with what arrives"},
			&cli.BoolFlag{Name: "json", Usage: "write records as JSON, one a line"}),
		HideHelpCommand: true,
		OnUsageError:    usageError,
		Action: func(c *cli.Context) error {
			f, err := readFilter(c)
			limit, follow, names := c.Int("limit"), c.Bool("follow"), c.Args().Slice()
			switch {
			case err != nil:
				return err
			case limit < 0:
				return fmt.Errorf("--limit: %d is less than nothing", limit)
			case c.String("console") == "" && len(names) == 0:
				return errors.New(`give --console, or an audit log, as in "defenderctl audits audit.jsonl"`)
			case c.IsSet("console") && len(names) > 0:
				return errors.New("give --console or files, not both")
			case follow && len(names) > 1:
				return errors.New("--follow: one file can be followed; give one")
			case c.IsSet("before") && (follow || len(names) > 0):
				return errors.New("--before: is for the pages of a Console, without --follow")
			}
			ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			out := &auditWriter{w: a.out, asJSON: c.Bool("json")}
			if len(names) > 0 {
				return exitError(a.fileAudits(ctx, out, f, names, limit, follow))
			}
			con, err := newConsole(c)
			if err != nil {
				return err
			}
			return exitError(a.consoleAudits(ctx, out, con, f, c.String("before"), limit, follow))
		},
	}
}

// consoleAudits lists the newest audits of a Console.
func (a *app) consoleAudits(ctx context.Context, out *auditWriter, con *consoleClient, f filter, before string, limit int, follow bool) error {
	var all []kept
	cursor := before
	for more := limit; limit == 0 || more > 0; more = limit - len(all) {
		size := 500
		if limit > 0 {
			size = min(more, 500)
		}
		audits, next, err := con.page(ctx, f, "", "before", cursor, size)
		if err != nil {
			return err
		}
		all = append(all, audits...)
		if cursor = next; next == "" {
			break
		}
	}
	slices.Reverse(all)
	newest := "1"
	for _, x := range all {
		if err := out.write(x.Record); err != nil {
			return err
		}
		newest = x.Cursor
	}
	if err := out.flush(); err != nil {
		return err
	}
	if !follow {
		if len(all) == 0 {
			fmt.Fprintln(a.err, "there are no such audits")
		}
		if cursor != "" {
			fmt.Fprintf(a.err, "there are older ones: --before %s\n", cursor)
		}
		return nil
	}
	return con.follow(ctx, f, newest, func(raw json.RawMessage) error {
		return errors.Join(out.write(raw), out.flush())
	}, func(err error) { fmt.Fprintf(a.err, "defenderctl: %v\n", err) })
}

// fileAudits lists the newest audits of files.
func (a *app) fileAudits(ctx context.Context, out *auditWriter, f filter, names []string, limit int, follow bool) error {
	var last []json.RawMessage // the newest, until we follow
	following := false
	flush := func() error {
		for _, raw := range last {
			if err := out.write(raw); err != nil {
				return err
			}
		}
		last = nil
		return out.flush()
	}
	read := func(name string, in io.Reader) error {
		notes, err := learn.Lines(name, in, func(l *learn.Line) error {
			switch {
			case l.Record == nil:
				return errors.New(`this is no record; "defenderctl policy test" and "learn" read events`)
			case !f.selects(l.Record):
				return nil
			}
			last = append(last, slices.Clone(l.Raw))
			if following {
				return flush()
			}
			if limit > 0 && len(last) > 2*limit {
				last = append([]json.RawMessage{}, last[len(last)-limit:]...)
			}
			return nil
		})
		for _, n := range notes {
			fmt.Fprintf(a.err, "note: %s\n", n)
		}
		return err
	}
	cut := func() {
		if limit > 0 && len(last) > limit {
			last = last[len(last)-limit:]
		}
	}
	if follow && names[0] != "-" {
		t, err := openTail(ctx, names[0], func() error {
			if !following {
				cut()
			}
			following = true
			return flush()
		}, func(what string) { fmt.Fprintf(a.err, "note: %s: %s\n", names[0], what) })
		if err != nil {
			return err
		}
		defer t.close()
		return read(names[0], t)
	}
	if err := a.eachFile(names, read); err != nil {
		return err
	}
	cut()
	return flush()
}

// errWrite means that standard output is closed.
var errWrite = errors.New("writing audits")

// auditWriter writes records as a table or as they are.
type auditWriter struct {
	w      io.Writer
	asJSON bool
	table  *tabwriter.Writer
}

func (o *auditWriter) write(raw json.RawMessage) error {
	if o.asJSON {
		if _, err := fmt.Fprintf(o.w, "%s\n", raw); err != nil {
			return fmt.Errorf("%w: %w", errWrite, err)
		}
		return nil
	}
	var r audit.Record
	if err := json.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("reading a record: %w", err)
	}
	if o.table == nil {
		o.table = tabwriter.NewWriter(o.w, 0, 0, 2, ' ', 0)
		fmt.Fprint(o.table, "TIME\tEFFECT\tTYPE\tWHERE\tRULE\tTIMES\tWHAT\n")
	}
	where := cmp.Or(strings.Trim(r.AppID+" "+r.ContainerName, " "), r.ImageName, r.Hostname, "-")
	fmt.Fprintf(o.table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Time.UTC().Format("2006-01-02 15:04:05"), audit.Clean(cmp.Or(r.Effect, "-")), audit.Clean(r.Type),
		audit.Clean(where), audit.Clean(cmp.Or(r.RuleName, "-")), strconv.Itoa(max(1, r.Count)), audit.Clean(r.Msg))
	return nil
}

// flush writes the table so far.
func (o *auditWriter) flush() error {
	if o.table == nil {
		return nil
	}
	if err := o.table.Flush(); err != nil {
		return fmt.Errorf("%w: %w", errWrite, err)
	}
	return nil
}

// tail reads a file that grows, also when another takes its name and when it
// is truncated, until its context ends.
type tail struct {
	ctx  context.Context //nolint:containedctx // of one reading
	name string
	f    *os.File
	at   int64
	idle func() error // everything so far has been read
	note func(string)
}

func openTail(ctx context.Context, name string, idle func() error, note func(string)) (*tail, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		_ = f.Close()
		return nil, fmt.Errorf("%s: is not a regular file, and cannot be followed", name)
	}
	return &tail{ctx: ctx, name: name, f: f, idle: idle, note: note}, nil
}

func (t *tail) close() { _ = t.f.Close() }

// tailPause is between two looks at a file that has no more.
const tailPause = 250 * time.Millisecond

func (t *tail) Read(b []byte) (int, error) {
	for {
		n, err := t.f.Read(b)
		t.at += int64(n)
		if n > 0 {
			return n, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if err := t.idle(); err != nil {
			return 0, err
		}
		if t.again() {
			// What was left of a line does not go on in the next file.
			b[0] = '\n'
			return 1, nil
		}
		select {
		case <-t.ctx.Done():
			return 0, io.EOF
		case <-time.After(tailPause):
		}
	}
}

// again begins anew if the file was truncated or is another one now.
func (t *tail) again() bool {
	is, err := t.f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(t.name)
	switch {
	case err == nil && !os.SameFile(is, named) && is.Size() <= t.at:
		f, err := os.Open(t.name)
		if err != nil {
			return false // another look will tell
		}
		_ = t.f.Close()
		t.f, t.at = f, 0
		t.note("is another file now; going on with that")
		return true
	case is.Size() < t.at:
		if _, err := t.f.Seek(0, io.SeekStart); err != nil {
			return false
		}
		t.at = 0
		t.note("was truncated; going on from its beginning")
		return true
	}
	return false
}
