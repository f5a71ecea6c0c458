package web

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"appdefender/audit"
	"appdefender/console"
	"appdefender/console/store"
	"appdefender/policy"
)

// pageSize is how many audits a page has.
const pageSize = 50

// ranges are the times that the filter offers.
var ranges = []choice{
	{"", "Any time"}, {"15m", "Last 15 minutes"}, {"1h", "Last hour"}, {"24h", "Last 24 hours"}, {"168h", "Last 7 days"},
	{"custom", "Between …"},
}

type choice struct{ Value, Label string }

var (
	typeChoices   = []choice{{"", "Any type"}, {"processes", "Processes"}, {"network", "Network"}, {"filesystem", "Files"}, {"defender", "Defender"}}
	effectChosen  = []choice{{"", "Any effect"}, {"alert", "Alert"}, {"prevent", "Prevent"}, {"block", "Block"}}
	hiddenFilters = []choice{ // chosen by a link, shown as a chip
		{"rule", "Rule"}, {"attackType", "Detection"}, {"severity", "Severity"}, {"container", "Container"}, {"image", "Image"},
		{"hostname", "Host"}, {"process", "Process"}, {"user", "User"}, {"domain", "Domain"}, {"instance", "Defender"}, {"id", "Audit"},
	}
)

type eventsData struct {
	Query                  url.Values // as asked, without what says nothing
	Types, Effects, Ranges []choice
	Chips                  []chip
	AppIDs                 []string
	Fault                  string // why there are no rows
	Rows                   []row
	Older                  string // the cursor of the next page, "" if there is none
	Begin                  string // a link to the newest; "" on the page that has them
	Live                   bool   // new audits may appear
	Filtered               bool
	Empty                  bool // there are no audits at all
}

// Get returns the value of a filter.
func (d eventsData) Get(key string) string { return d.Query.Get(key) }

// OlderLink leads to the next page.
func (d eventsData) OlderLink() string {
	q := cloneValues(d.Query)
	q.Set("before", d.Older)
	return eventsPath + "?" + q.Encode()
}

// chip is a filter that was chosen by a link.
type chip struct{ Key, Label, Value, Without string }

// row is an audit in the list.
type row struct {
	store.Audit
	Msg        string
	NotStopped bool    // it was to be refused but was not
	Detail     *detail // nil: fetched when the row is opened
}

// Cursor is the audit's id as text, for a script's numbers are too small for it,
// and for ids of HTML.
func (r row) Cursor() string { return strconv.FormatInt(r.ID, 10) }

func newRow(a store.Audit) row {
	return row{
		Audit: a,
		Msg:   plain(cmp.Or(a.Record.Msg, a.Record.Reason, "An audit without a message")),
		NotStopped: (a.Record.Effect == policy.Prevent.String() || a.Record.Effect == policy.Block.String()) &&
			!a.Record.Refused && !a.Record.DryRun && a.Record.Level != "",
	}
}

func newRows(audits []store.Audit) []row {
	rows := make([]row, len(audits))
	for i, a := range audits {
		rows[i] = newRow(a)
	}
	return rows
}

// eventQuery reads the filters of a page. The parameter "range" is how long
// ago; only with "custom" or without it, "from" and "to" count.
func (p *pages) eventQuery(r *http.Request) (url.Values, store.AuditFilter, store.AuditPage, error) {
	asked := cloneValues(r.URL.Query())
	if v := asked.Get("range"); v != "" && v != "custom" {
		asked.Del("to")
		asked.Set("from", v)
	}
	f, page, err := console.AuditQuery(asked, p.srv.Now())
	page.After, page.OldestFirst = 0, false
	page.Limit = pageSize + 1
	q := cloneValues(r.URL.Query())
	q.Del("before")
	q.Del("done")
	return q, f, page, err
}

// cloneValues returns a copy without parameters that say nothing.
func cloneValues(q url.Values) url.Values {
	c := make(url.Values, len(q))
	for key, values := range q {
		for _, v := range values {
			if v != "" {
				c.Add(key, v)
			}
		}
	}
	return c
}

// events reads a page of audits.
func (p *pages) events(r *http.Request) (eventsData, error) {
	q, f, page, err := p.eventQuery(r)
	d := eventsData{Query: q, Types: typeChoices, Effects: effectChosen, Ranges: ranges, Filtered: len(q) > 0}
	if err == nil {
		var audits []store.Audit
		if audits, err = p.srv.Audits(r.Context(), f, page); err == nil {
			if len(audits) > pageSize {
				audits = audits[:pageSize]
				d.Older = strconv.FormatInt(audits[pageSize-1].ID, 10)
			}
			d.Rows = newRows(audits)
		}
	}
	if err != nil {
		if e := console.AsError(err); e.Status != http.StatusInternalServerError {
			d.Fault = sentence(e.Msg)
		}
		return d, err
	}
	if page.Before != 0 {
		d.Begin = eventsPath + "?" + q.Encode()
	}
	d.Live = page.Before == 0 && (f.To.IsZero() || f.To.After(p.srv.Now()))
	d.Empty = len(d.Rows) == 0 && !d.Filtered && page.Before == 0
	return d, nil
}

func (p *pages) getEvents(w http.ResponseWriter, r *http.Request) error {
	status := http.StatusOK
	d, err := p.events(r)
	if err != nil {
		if d.Fault == "" {
			return err
		}
		status = console.AsError(err).Status
	}
	for _, c := range hiddenFilters {
		if v := d.Query.Get(c.Value); v != "" {
			without := cloneValues(d.Query)
			without.Del(c.Value)
			d.Chips = append(d.Chips, chip{c.Value, c.Label, v, eventsPath + "?" + without.Encode()})
		}
	}
	if d.AppIDs, err = p.srv.Store().AppIDs(r.Context(), "", 200); err != nil {
		return err
	}
	if len(d.Rows) == 1 && d.Query.Has("id") {
		if d.Rows[0].Detail, err = newDetail(&d.Rows[0].Audit); err != nil {
			return err
		}
	}
	return p.render(w, r, status, "events.html", view{Title: "App-Embedded audits", Nav: eventsPath, Data: d})
}

// getRows returns the rows of a page and nothing around them.
func (p *pages) getRows(w http.ResponseWriter, r *http.Request) error {
	d, err := p.events(r)
	if err != nil {
		return err
	}
	return p.write(w, http.StatusOK, "events.html", "page-of-rows", d)
}

// getDetail returns all fields of one audit.
func (p *pages) getDetail(w http.ResponseWriter, r *http.Request) error {
	id := r.URL.Query().Get("id")
	audits, err := p.srv.Audits(r.Context(), store.AuditFilter{IDs: []string{id}}, store.AuditPage{Limit: 1})
	if err != nil {
		return err
	}
	if len(audits) == 0 {
		return console.Errorf(http.StatusNotFound, "there is no audit %q any more", id)
	}
	d, err := newDetail(&audits[0])
	if err != nil {
		return err
	}
	return p.write(w, http.StatusOK, "events.html", "detail", d)
}

// getStream sends rows as they arrive, as server-sent events: "ready" when
// whatever comes will be seen, "rows" with the newest first, and "lost" when
// there were too many.
func (p *pages) getStream(w http.ResponseWriter, r *http.Request) error {
	_, f, _, err := p.eventQuery(r)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	opened := false
	return p.srv.Stream(w, r, f, func(e console.Event) error {
		var b bytes.Buffer
		switch {
		case !opened:
			opened = true
			b.WriteString("retry: 2000\nevent: ready\ndata:\n\n")
		case len(e.Audits) == 0 && e.Lost == 0:
			b.WriteString(": still here\n\n")
		}
		if len(e.Audits) > 0 {
			var html bytes.Buffer
			rows := newRows(e.Audits)
			slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(b.ID, a.ID) })
			if err := p.templates["events.html"].ExecuteTemplate(&html, "rows", rows); err != nil {
				return fmt.Errorf("rendering rows: %w", err)
			}
			b.WriteString("event: rows\n")
			for line := range strings.Lines(html.String()) {
				b.WriteString("data: " + strings.TrimRight(line, "\r\n") + "\n")
			}
			b.WriteString("\n")
		}
		if e.Lost > 0 {
			fmt.Fprintf(&b, "event: lost\ndata: %d\n\n", e.Lost)
		}
		_, err := w.Write(b.Bytes())
		return err
	})
}

// detail is all that is known of an audit.
type detail struct {
	ID       string
	Chain    []link // of processes, the outermost first
	Groups   []group
	Raw      string // as it was sent
	DryRun   bool
	Refused  bool
	RuleName string
}

// link is a process in a chain.
type link struct {
	PID  int
	Path string
	Last bool // the one the audit is about
}

type group struct {
	Title  string
	Fields []pair
}

// pair is a field of an audit.
type pair struct {
	Label, Value string
	Filter       string // the parameter that finds its like; "" if there is none
	Mono         bool
	Hint         string
}

var levelHints = map[string]string{
	audit.Performed: "The Defender did this itself, with the arguments it had judged.",
	audit.Verified:  "The Defender looked again after the kernel had done it.",
	audit.Checked:   "Judged, then continued: the application could have changed the arguments in between.",
	audit.Observed:  "It was seen, too late to be stopped.",
	audit.Refused:   "It was not done.",
}

func newDetail(a *store.Audit) (*detail, error) {
	r := &a.Record
	d := &detail{ID: r.ID, DryRun: r.DryRun, Refused: r.Refused, RuleName: r.RuleName, Chain: chain(r)}
	raw, err := a.MarshalJSON()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return nil, err
	}
	d.Raw = plain(b.String())
	count := ""
	if r.Count > 1 {
		count = times(r.Count)
	}
	d.add("What happened",
		pair{Label: "Time", Value: r.Time.UTC().Format("2006-01-02 15:04:05.000000 UTC")},
		pair{Label: "Count", Value: count},
		pair{Label: "Type", Value: r.Type},
		pair{Label: "Command", Value: r.Command, Mono: true},
		pair{Label: "Process", Value: r.ProcessPath, Filter: "process", Mono: true},
		pair{Label: "Interpreters", Value: strings.Join(r.Interpreters, " → "), Mono: true},
		pair{Label: "User", Value: r.User, Filter: "user"},
		pair{Label: "PID", Value: number(r.PID)},
		pair{Label: "Domain", Value: r.Domain, Filter: "domain", Mono: true},
		pair{Label: "Query", Value: r.QueryType},
		pair{Label: "Address", Value: r.IP, Mono: true},
		pair{Label: "Port", Value: number(r.Port)},
		pair{Label: "Call", Value: r.Call, Mono: true},
	)
	var sums []pair
	for _, e := range r.Events {
		sums = append(sums, pair{Label: times(e.Count), Value: e.Msg})
	}
	d.add("Summed up", sums...)
	d.add("Decision",
		pair{Label: "Outcome", Value: outcome(r)},
		pair{Label: "Effect", Value: r.Effect},
		pair{Label: "Rule", Value: r.RuleName, Filter: "rule"},
		pair{Label: "Reason", Value: r.Reason},
		pair{Label: "Detection", Value: r.AttackType, Filter: "attackType"},
		pair{Label: "Level", Value: r.Level, Hint: levelHints[r.Level]},
		pair{Label: "Severity", Value: r.Severity, Filter: "severity"},
		pair{Label: "Error", Value: r.Err},
	)
	d.add("Where",
		pair{Label: "App ID", Value: r.AppID, Filter: "appID"},
		pair{Label: "Container", Value: r.ContainerName, Filter: "container"},
		pair{Label: "Image", Value: r.ImageName, Filter: "image", Mono: true},
		pair{Label: "Image ID", Value: r.ImageID, Mono: true},
		pair{Label: "Host", Value: r.Hostname, Filter: "hostname"},
		pair{Label: "Profile", Value: r.ProfileID},
		pair{Label: "Defender", Value: a.Instance, Filter: "instance", Mono: true},
		pair{Label: "Record", Value: r.ID, Mono: true},
		pair{Label: "Version", Value: r.Version},
	)
	return d, nil
}

// chain are the processes that led to a record, the one it is about last.
func chain(r *audit.Record) []link {
	var links []link
	for _, parent := range slices.Backward(r.Ancestry) {
		links = append(links, link{PID: parent.PID, Path: plain(parent.Path)})
	}
	if r.ProcessPath != "" {
		self := link{Path: plain(r.ProcessPath), Last: true}
		if len(r.Ancestry) == 0 || r.Ancestry[0].PID != r.PID { // a launch has its starter's
			self.PID = r.PID
		}
		links = append(links, self)
	}
	return links
}

// outcome says what came of a record's event.
func outcome(r *audit.Record) string {
	switch {
	case r.DryRun:
		return "Dry run: nothing was refused"
	case r.Refused:
		return "Refused"
	case r.Level != "":
		return "Let through"
	}
	return ""
}

// number is n, or nothing for 0.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func times(n int) string {
	if n < 2 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// add adds the fields that have a value.
func (d *detail) add(title string, fields ...pair) {
	g := group{Title: title}
	for _, f := range fields {
		if f.Value != "" {
			g.Fields = append(g.Fields, f)
		}
	}
	if len(g.Fields) > 0 {
		d.Groups = append(d.Groups, g)
	}
}

// Link leads to the audits that have the same value.
func (f pair) Link() string { return eventsPath + "?" + url.Values{f.Filter: {f.Value}}.Encode() }

// Shown is the value as it may be shown.
func (f pair) Shown() string { return plain(f.Value) }

// RuleLink leads to the rule that answered.
func (d *detail) RuleLink() string { return rulePath + "?" + url.Values{"name": {d.RuleName}}.Encode() }
