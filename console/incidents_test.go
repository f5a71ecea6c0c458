package console

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"appdefender/console/store"
)

func incidentRecord(category, container string) string {
	return fmt.Sprintf(`{"type":"processes","attackType":"cryptoMinerProcess","effect":"alert","category":%q,"incident":true,"msg":"m","containerName":%q,"profileId":"_%s"}`, category, container, container)
}

type incidentView struct {
	ID           string `json:"_id"`
	Type         string
	Category     string
	Count        int
	Acknowledged bool
	Audits       []map[string]any
	Instance     string
}

func TestIncidents(t *testing.T) {
	b := newBench(t)
	d := b.enrolled()
	auditor, editor := b.as("auditor"), b.as("editor")
	list := func(query string) (all []incidentView) {
		t.Helper()
		b.do("GET", "/api/v34.04/audits/incidents"+query, "", auditor).into(t, 200, &all)
		return all
	}
	raws := []string{incidentRecord("cryptoMiner", "a"), `{"type":"processes","msg":"no incident"}`, incidentRecord("cryptoMiner", "a"), incidentRecord("reverseShell", "a"), incidentRecord("cryptoMiner", "b")}
	d.send(1, raws...).into(t, 200, nil)
	d.send(1, raws...).into(t, 200, nil) // again: they are had already
	all := list("")
	if len(all) != 3 || len(list("?category=cryptoMiner")) != 2 || len(list("?profileID=_b")) != 1 {
		t.Fatalf("%+v", all)
	}
	one := list("?category=cryptoMiner&profileID=_a")[0]
	if one.Count != 2 || len(one.Audits) != 2 || one.Type != "appEmbedded" || one.Audits[0]["msg"] != "m" || one.Audits[1]["_id"] != d.Instance+"-3" {
		t.Errorf("%+v", one)
	}

	// Acknowledged, it is archived, and what follows is another.
	path := "/api/v34.04/audits/incidents/acknowledge/"
	b.do("PATCH", path+one.ID, `{"acknowledged":true}`, auditor).into(t, 403, nil)
	b.do("PATCH", path+one.ID, `{}`, editor).into(t, 400, nil)
	b.do("PATCH", path+"77", `{"acknowledged":true}`, editor).into(t, 404, nil)
	b.do("PATCH", path+one.ID, `{"acknowledged":true}`, editor).into(t, 200, nil)
	if got := list("?acknowledged=true"); len(got) != 1 || got[0].ID != one.ID || len(list("?acknowledged=false")) != 2 {
		t.Errorf("%+v", got)
	}
	d.send(6, incidentRecord("cryptoMiner", "a")).into(t, 200, nil)
	if n := len(list("?category=cryptoMiner&profileID=_a")); n != 2 {
		t.Errorf("%d incidents after one was acknowledged", n)
	}
	// A day later it is another, too.
	b.clock.pass(25 * time.Hour)
	auditor = b.as("auditor")
	d.send(7, incidentRecord("cryptoMiner", "a")).into(t, 200, nil)
	if n := len(list("?category=cryptoMiner&profileID=_a")); n != 3 {
		t.Errorf("%d incidents after a day", n)
	}
	// An attack of many audits is one incident that keeps some.
	many := make([]string, 150)
	for i := range many {
		many[i] = incidentRecord("malware", "c")
	}
	d.send(8, many...).into(t, 200, nil)
	if got := list("?category=malware")[0]; got.Count != 150 || len(got.Audits) != 100 {
		t.Errorf("%d audits counted, %d kept", got.Count, len(got.Audits))
	}
	// There are no incidents of hosts, whatever else is asked for.
	n := len(list("?type=appEmbedded,host&limit=250"))
	if got := list("?type=host&category=cryptoMiner&limit=250"); len(got) != 0 || n != 6 || len(list("?limit=0")) != n {
		t.Errorf("%d incidents of hosts, of %d", len(got), n)
	}
	if first, last := list("?sort=time")[0], list("?sort=time&reverse=1")[0]; first.Category != "cryptoMiner" || last.Category != "malware" {
		t.Errorf("from %s to %s", first.Category, last.Category)
	}
	for _, wrong := range []string{"cluster=x", "limit=251", "offset=-1", "id=x", "acknowledged=perhaps", "sort=name", "reverse=x", "from=x"} {
		b.do("GET", "/api/v1/audits/incidents?"+wrong, "", auditor).into(t, 400, nil)
	}
}

func TestForensics(t *testing.T) {
	b := newBench(t)
	d := b.enrolled()
	auditor, editor := b.as("auditor"), b.as("editor")
	beat := func() bool {
		t.Helper()
		var reply struct{ Forensics bool }
		d.do("POST", "/heartbeat", `{"level":"notify"}`).into(t, 200, &reply)
		return reply.Forensics
	}
	if beat() {
		t.Error("nobody asked")
	}
	ask := "/api/v1/defenders/" + d.Instance + "/forensics/ask"
	b.do("POST", ask, "", auditor).into(t, 403, nil)
	b.do("POST", "/api/v1/defenders/nobody/forensics/ask", "", editor).into(t, 404, nil)
	b.do("POST", ask, "", editor).into(t, 202, nil)
	if !beat() || beat() {
		t.Error("it is asked once")
	}
	pack := func(s string) string {
		e, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(e.EncodeAll([]byte(s), nil))
	}
	body := `{"asked":true,"events":[{"type":"Process spawned","timestamp":"2026-03-04T05:06:07Z","pid":7,"process":"/bin/x","command":"=cmd|x, y"}]}`
	d.do("POST", "/forensics", pack(body)).into(t, 200, nil)
	d.do("POST", "/forensics", "no zstd").into(t, 400, nil)
	d.do("POST", "/forensics", pack(strings.Repeat(" ", 40<<20))).into(t, 400, nil)

	var got struct{ Snapshots []store.Snapshot }
	b.do("GET", "/api/v1/defenders/"+d.Instance+"/forensics", "", auditor).into(t, 200, &got)
	if len(got.Snapshots) != 1 || !got.Snapshots[0].Asked || got.Snapshots[0].Events != 1 {
		t.Fatalf("%+v", got)
	}
	file := fmt.Sprintf("/api/v1/forensics/%d", got.Snapshots[0].ID)
	a := b.do("GET", file, "", auditor)
	if a.status != 200 || !json.Valid([]byte(a.body)) || !strings.Contains(a.header.Get("Content-Disposition"), d.Instance) {
		t.Errorf("%d %s", a.status, a.body)
	}
	a = b.do("GET", file+"?format=csv", "", auditor)
	if lines := strings.Split(strings.TrimSpace(a.body), "\n"); len(lines) != 2 || !strings.Contains(lines[1], `"'=cmd|x, y"`) {
		t.Errorf("%q", a.body)
	}
	b.do("GET", file+"?format=xml", "", auditor).into(t, 400, nil)
	b.do("GET", "/api/v1/forensics/999", "", auditor).into(t, 404, nil)
	b.do("GET", file, "").into(t, 401, nil)
}
