package web

import (
	"cmp"
	"net/http"
	"net/url"
	"strconv"

	"appdefender/console"
	"appdefender/console/store"
)

// incidentPage is how many incidents a page has.
const incidentPage = 50

type incidentsData struct {
	Archived  bool // those that somebody acknowledged
	Incidents []incidentLine
	Older     string // the link to older ones
}

type incidentLine struct {
	store.Incident
	Label     string
	Where     string
	Msg       string // of the last audit kept
	Snapshots []store.Snapshot
}

// categoryLabels are the reference's categories in words.
var categoryLabels = map[string]string{
	"portScanning": "Port scanning", "hijackedProcess": "Hijacked process", "dataExfiltration": "Data exfiltration", "kubernetes": "Kubernetes attack",
	"backdoorAdministrativeAccount": "Backdoor by administrative account", "backdoorSSHAccess": "Backdoor by SSH access", "cryptoMiner": "Crypto miner",
	"lateralMovement": "Lateral movement", "bruteForce": "Brute force", "customRule": "Custom rule", "alteredBinary": "Altered binary",
	"suspiciousBinary": "Suspicious binary", "executionFlowHijackAttempt": "Attempt to hijack the execution flow", "reverseShell": "Reverse shell",
	"malware": "Malware", "cloudProvider": "Cloud metadata",
}

func (p *pages) getIncidents(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	d := incidentsData{Archived: q.Get("archived") == "true"}
	offset, _ := strconv.Atoi(q.Get("offset"))
	all, err := p.srv.Store().Incidents(r.Context(), store.IncidentFilter{Acknowledged: &d.Archived, Offset: offset, Limit: incidentPage + 1})
	if err != nil {
		return err
	}
	if len(all) > incidentPage {
		all = all[:incidentPage]
		d.Older = incidentsPath + "?" + url.Values{"archived": {strconv.FormatBool(d.Archived)}, "offset": {strconv.Itoa(offset + incidentPage)}}.Encode()
	}
	snapshots, err := p.srv.Store().Snapshots(r.Context(), "")
	if err != nil {
		return err
	}
	for _, i := range all {
		line := incidentLine{Incident: i, Label: cmp.Or(categoryLabels[i.Category], i.Category), Where: i.Profile}
		if n := len(i.Audits); n > 0 {
			a := &i.Audits[n-1].Record
			line.Msg, line.Where = a.Msg, cmp.Or(a.AppID, a.ContainerName, a.Hostname, i.Profile)
		}
		for _, s := range snapshots {
			if s.Instance == i.Instance && s.Time.After(i.First) {
				line.Snapshots = append(line.Snapshots, s)
			}
		}
		d.Incidents = append(d.Incidents, line)
	}
	return p.render(w, r, http.StatusOK, "incidents.html", view{Title: "Incidents", Nav: incidentsPath, Data: d})
}

func (p *pages) postAcknowledge(w http.ResponseWriter, r *http.Request) error {
	id, err := strconv.ParseInt(r.PostFormValue("id"), 10, 64)
	if err != nil {
		return console.Errorf(http.StatusBadRequest, "there is no incident %q", r.PostFormValue("id"))
	}
	done := r.PostFormValue("acknowledged") == "true"
	if err := p.srv.Store().Acknowledge(r.Context(), console.Who(r), id, done); err != nil {
		return err
	}
	if done {
		http.Redirect(w, r, incidentsPath+"?done=acknowledged", http.StatusSeeOther)
	} else {
		http.Redirect(w, r, incidentsPath+"?archived=true&done=reopened", http.StatusSeeOther)
	}
	return nil
}

// forensicsData is what one Defender sent of what it remembers.
type forensicsData struct {
	Defender  console.DefenderView
	Snapshots []store.Snapshot
}

func (p *pages) getForensics(w http.ResponseWriter, r *http.Request) error {
	d, err := p.srv.Store().Defender(r.Context(), r.URL.Query().Get("instance"))
	if err != nil {
		return err
	}
	data := forensicsData{Defender: console.DefenderView{Defender: d, State: p.srv.State(&d)}}
	if data.Snapshots, err = p.srv.Store().Snapshots(r.Context(), d.Instance); err != nil {
		return err
	}
	return p.render(w, r, http.StatusOK, "forensics.html", view{Title: "Forensics", Nav: defendersPath, Data: data})
}

func (p *pages) postForensics(w http.ResponseWriter, r *http.Request) error {
	instance := r.PostFormValue("instance")
	if err := p.srv.AskForensics(r.Context(), instance); err != nil {
		return err
	}
	http.Redirect(w, r, forensicsPath+"?"+url.Values{"instance": {instance}, "done": {"asked"}}.Encode(), http.StatusSeeOther)
	return nil
}
