package console

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"appdefender/audit"
	"appdefender/console/store"
	"appdefender/wire"
)

// incidentJSON is an incident as the compatible API shows it.
type incidentJSON struct {
	ID            string        `json:"_id"`
	SerialNum     int64         `json:"serialNum"`
	Time          time.Time     `json:"time"` // of the last audit
	Type          string        `json:"type"`
	Category      string        `json:"category"`
	CustomRule    string        `json:"customRuleName,omitempty"`
	Profile       string        `json:"profileID,omitempty"`
	AppID         string        `json:"appID,omitempty"`
	Hostname      string        `json:"hostname,omitempty"`
	ContainerName string        `json:"containerName,omitempty"`
	ImageName     string        `json:"imageName,omitempty"`
	ImageID       string        `json:"imageID,omitempty"`
	Acknowledged  bool          `json:"acknowledged"`
	Audits        []store.Audit `json:"audits"`

	// Beyond the reference.
	First    time.Time `json:"firstTime"`
	Count    int       `json:"count"` // of audits, also those not kept
	Who      string    `json:"acknowledgedBy,omitempty"`
	Instance string    `json:"instance"` // of the Defender, for its forensic data
}

// incidentType is that of all incidents, in the reference's words.
const incidentType = "appEmbedded"

func newIncidentJSON(i *store.Incident) incidentJSON {
	out := incidentJSON{
		ID: strconv.FormatInt(i.ID, 10), SerialNum: i.ID, Time: i.Last, Type: incidentType, Category: i.Category,
		CustomRule: i.CustomRule, Profile: i.Profile, AppID: i.AppID, Acknowledged: i.Acknowledged,
		Audits: append([]store.Audit{}, i.Audits...), First: i.First, Count: i.Count, Who: i.Who, Instance: i.Instance,
	}
	if len(i.Audits) > 0 {
		r := &i.Audits[0].Record
		out.Hostname, out.ContainerName, out.ImageName, out.ImageID = r.Hostname, r.ContainerName, r.ImageName, r.ImageID
	}
	return out
}

// incidentQuery reads the parameters of the compatible API. A filter that we
// do not have is an error, as for audits.
func incidentQuery(q url.Values, now time.Time) (store.IncidentFilter, error) {
	f := store.IncidentFilter{Limit: compatPage, OldestFirst: oldestFirst(q)}
	lists := map[string]*[]string{"category": &f.Categories, "appID": &f.AppIDs, "profileID": &f.Profiles}
	for key, values := range q {
		words := splitWords(values)
		if len(words) == 0 {
			continue
		}
		if len(words) > maxValues {
			return f, Errorf(http.StatusBadRequest, "%s: more than %d values", key, maxValues)
		}
		if list := lists[key]; list != nil {
			*list = words
		} else if key == "customRuleName" { // which may have commas
			f.Rules = slices.DeleteFunc(slices.Clone(values), func(v string) bool { return v == "" })
		} else if err := incidentParameter(key, words, now, &f); err != nil {
			return f, Errorf(http.StatusBadRequest, "%s: %v", key, err)
		}
	}
	if types := splitWords(q["type"]); len(types) > 0 && !slices.Contains(types, incidentType) {
		f.IDs = []int64{0} // there are no others
	}
	return f, nil
}

// incidentParameter reads a parameter that is no list of words.
func incidentParameter(key string, values []string, now time.Time, f *store.IncidentFilter) error {
	if ours, err := pageParameter(key, values[0], now, &f.Offset, &f.Limit, &f.From, &f.To); ours {
		return err
	}
	switch key {
	case "id":
		for _, v := range values {
			id, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return fmt.Errorf("%q is not a number", v)
			}
			f.IDs = append(f.IDs, id)
		}
	case "acknowledged":
		yes, err := parseBool(values[0])
		f.Acknowledged = &yes
		return err
	case "type":
	default:
		return errNoFilter
	}
	return nil
}

func (s *Server) getIncidents(w http.ResponseWriter, r *http.Request) error {
	f, err := incidentQuery(r.URL.Query(), s.now())
	if err != nil {
		return err
	}
	all, err := s.store.Incidents(r.Context(), f)
	if err != nil {
		return err
	}
	out := make([]incidentJSON, len(all))
	for i := range all {
		out[i] = newIncidentJSON(&all[i])
	}
	return writeJSON(w, http.StatusOK, out)
}

// patchIncident acknowledges an incident, or takes that back.
func (s *Server) patchIncident(w http.ResponseWriter, r *http.Request) error {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return Errorf(http.StatusNotFound, "there is no incident %q", r.PathValue("id"))
	}
	var m struct {
		Acknowledged *bool `json:"acknowledged"`
	}
	if err := readWire(r, &m); err != nil {
		return err
	}
	if m.Acknowledged == nil {
		return Errorf(http.StatusBadRequest, `acknowledged: missing; send {"acknowledged": true}`)
	}
	if err := s.store.Acknowledge(r.Context(), Who(r), id, *m.Acknowledged); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, struct{}{})
}

// wanted are the Defenders that are to send what they remember, until they are
// told so.
type wanted struct {
	mu        sync.Mutex
	instances map[string]bool
}

func (f *wanted) ask(instance string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.instances == nil {
		f.instances = make(map[string]bool)
	}
	f.instances[instance] = true
}

// take reports whether an instance is wanted, once.
func (f *wanted) take(instance string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	yes := f.instances[instance]
	delete(f.instances, instance)
	return yes
}

// AskForensics makes a Defender send what it remembers with its next
// heartbeat.
func (s *Server) AskForensics(ctx context.Context, instance string) error {
	d, err := s.store.Defender(ctx, instance)
	if err != nil {
		return err
	}
	if !d.Revoked.IsZero() {
		return Errorf(http.StatusConflict, "Defender %q is revoked", instance)
	}
	s.forensics.ask(instance)
	return nil
}

// defenderForensics takes what a Defender remembers.
func (s *Server) defenderForensics(w http.ResponseWriter, r *http.Request) error {
	d, err := s.defender(r.Context(), r)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return badBody(err)
	}
	raw, err := unpackSnapshot(body)
	if err != nil {
		return Errorf(http.StatusBadRequest, "unpacking forensic data: %v", err)
	}
	var m wire.Snapshot
	if err := json.Unmarshal(raw, &m); err != nil {
		return badBody(err)
	}
	if err := s.store.AddSnapshot(r.Context(), &d, m.Asked, len(m.Events), body); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, struct{}{})
}

// unpackSnapshot bounds what becomes of a few bytes. The decoder is made anew:
// snapshots are rare, and its memory is large.
func unpackSnapshot(data []byte) ([]byte, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(wire.MaxSnapshot), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.DecodeAll(data, nil)
}

func (s *Server) postForensics(w http.ResponseWriter, r *http.Request) error {
	if err := s.AskForensics(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (s *Server) getSnapshots(w http.ResponseWriter, r *http.Request) error {
	all, err := s.store.Snapshots(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"snapshots": append([]store.Snapshot{}, all...)})
}

// getSnapshot sends forensic data as a file, JSON or, with format=csv, a table.
func (s *Server) getSnapshot(w http.ResponseWriter, r *http.Request) error {
	id, err := strconv.ParseInt(r.PathValue("snapshot"), 10, 64)
	if err != nil {
		return Errorf(http.StatusNotFound, "there is no forensic data %q", r.PathValue("snapshot"))
	}
	sn, data, err := s.store.SnapshotData(r.Context(), id)
	if err != nil {
		return err
	}
	raw, err := unpackSnapshot(data)
	if err != nil {
		return fmt.Errorf("unpacking forensic data %d: %w", id, err)
	}
	name := fmt.Sprintf("forensics-%s-%d", sn.Instance, sn.ID)
	switch format := r.URL.Query().Get("format"); format {
	case "", "json":
		return WriteFile(w, "application/json", name+".json", raw)
	case "csv":
	default:
		return Errorf(http.StatusBadRequest, "format: %q is neither json nor csv", format)
	}
	var m struct {
		Events []audit.ForensicEvent `json:"events"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("reading forensic data %d: %w", id, err)
	}
	var text bytes.Buffer
	table := csv.NewWriter(&text)
	_ = table.Write(audit.ForensicHeader())
	for i := range m.Events {
		row := m.Events[i].Row()
		for k, cell := range row {
			row[k] = noFormula(cell)
		}
		_ = table.Write(row)
	}
	table.Flush()
	return WriteFile(w, "text/csv; charset=utf-8", name+".csv", text.Bytes())
}

// noFormula keeps a spreadsheet from taking a target's text for a formula.
func noFormula(s string) string {
	if s != "" && strings.IndexByte("=+-@\t\r", s[0]) >= 0 {
		return "'" + s
	}
	return s
}
