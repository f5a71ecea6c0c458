package store

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"appdefender/audit"
	"appdefender/wire"
)

// record returns a record as a Defender would send it.
func record(app, i int, at time.Time) json.RawMessage {
	path := []string{"/usr/bin/mkdir", "/usr/bin/wget", "/usr/bin/curl", "/opt/app/bin/worker"}[i%4]
	r := audit.Record{
		Time: at, Type: "processes", AttackType: "explicitlyDeniedProcess", Effect: []string{"alert", "prevent"}[i/7%2],
		RuleName: "sample", Severity: []string{"high", "critical"}[max(0, i%2500-2498)], Count: 1,
		Msg:   fmt.Sprintf("%s launched and is explicitly denied by runtime rule. Full command: %s job-%d", path, path, i),
		AppID: fmt.Sprintf("sample-task:%024x", app), Hostname: fmt.Sprintf("sample-task:%024x", app), ContainerName: "sample-task",
		ImageName: "registry.example.test/team/sample-task:1.2.3", ProfileID: fmt.Sprintf("sample-task:%024x_sample-task", app),
		Version: "0.1.0", User: "root", PID: 17 + i%1000, ProcessPath: path, Command: fmt.Sprintf("%s job-%d", path, i),
		Reason: fmt.Sprintf("%q is on the deny list", path), Level: "refused", Refused: true,
	}
	if i%4 == 1 {
		r.Type, r.AttackType, r.Domain, r.QueryType = "network", "explicitlyDeniedDNS", fmt.Sprintf("host%d.example.test", i%5000), "A"
		r.Msg = fmt.Sprintf("DNS resolution of domain name %s triggered by %s explicitly denied by a runtime rule", r.Domain, path)
	}
	b, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return b
}

func enrolled(tb testing.TB, s *Store, n int) []string {
	tb.Helper()
	token, err := s.AddToken(context.Background(), "test", Token{Name: "bench"})
	if err != nil {
		tb.Fatal(err)
	}
	all := make([]string, n)
	for i := range all {
		if all[i], _, err = s.Enrol(context.Background(), token, wire.Identity{AppID: fmt.Sprint(i)}); err != nil {
			tb.Fatal(err)
		}
	}
	return all
}

// BenchmarkAddAudits is 20 Defenders that send full batches as fast as they
// are acknowledged.
func BenchmarkAddAudits(b *testing.B) {
	s, err := Open(context.Background(), Config{Path: filepath.Join(b.TempDir(), "console.db")})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	const senders, size = 20, 500
	instances := enrolled(b, s, senders)
	batches := make([][]json.RawMessage, senders)
	start := time.Now().Add(-time.Hour)
	for i := range batches {
		for j := range size {
			batches[i] = append(batches[i], record(i, j, start.Add(time.Duration(j)*time.Millisecond)))
		}
	}
	b.ResetTimer()
	var wg sync.WaitGroup
	each := b.N/senders + 1
	for i := range senders {
		wg.Go(func() {
			first := uint64(1)
			for range each {
				acked, _, err := s.AddAudits(context.Background(), instances[i], first, batches[i])
				if err != nil || acked != first+size-1 {
					b.Errorf("acked %d, %v", acked, err)
					return
				}
				first = acked + 1
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(each*senders*size)/b.Elapsed().Seconds(), "audits/s")
}

// BenchmarkPages is what the page of audits asks a full database, whose number
// of audits STORE_AUDITS tells; the slowest of its pages counts.
func BenchmarkPages(b *testing.B) {
	n := 100_000
	if text := os.Getenv("STORE_AUDITS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			b.Fatalf("STORE_AUDITS: %v", err)
		}
	}
	ctx := b.Context()
	s, err := Open(ctx, Config{Path: filepath.Join(b.TempDir(), "console.db")})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	const senders, size = 20, 500
	instances := enrolled(b, s, senders)
	start := time.Now().Add(-24 * time.Hour)
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			batch := make([]json.RawMessage, size)
			for first := 0; first < n/senders; first += size {
				for j := range batch {
					batch[j] = record(i, first+j, start.Add(time.Duration(first+j)*24*time.Hour/time.Duration(n/senders+size)))
				}
				if _, _, err := s.AddAudits(ctx, instances[i], uint64(first+1), batch); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	app := fmt.Sprintf("sample-task:%024x", 7)
	day := AuditFilter{From: start, To: time.Now()}
	pages := map[string]struct {
		f AuditFilter
		p AuditPage
	}{
		"newest":      {day, AuditPage{}},
		"middle":      {AuditFilter{To: start.Add(12 * time.Hour)}, AuditPage{}},
		"application": {AuditFilter{AppIDs: []string{app}}, AuditPage{}},
		"effect":      {AuditFilter{Types: []string{"network"}, Effects: []string{"prevent"}}, AuditPage{}},
		"program":     {AuditFilter{ProcessPaths: []string{"/usr/bin/wget"}, AppIDs: []string{app}}, AuditPage{}},
		"severity":    {AuditFilter{Severities: []string{"critical"}}, AuditPage{Limit: 500}},
		"no kind":     {AuditFilter{Types: []string{"network"}, Effects: []string{"block"}}, AuditPage{}},
		"rare kind":   {AuditFilter{Severities: []string{"critical"}, Text: "root"}, AuditPage{}},
		"instance":    {AuditFilter{Instances: instances[3:4], Effects: []string{"alert"}}, AuditPage{}},
		"words":       {AuditFilter{Text: "host1709.example.test"}, AuditPage{}},
		"unfinished":  {AuditFilter{Text: "/usr/bin/wge"}, AuditPage{}},
		"many words":  {AuditFilter{Text: "hos"}, AuditPage{}},
		"nothing":     {AuditFilter{Text: "nowhere", Rules: []string{"none"}}, AuditPage{}},
	}
	slowest := make(map[string]time.Duration)
	b.ResetTimer()
	for b.Loop() {
		for name, page := range pages {
			start := time.Now()
			found, err := s.Audits(ctx, page.f, page.p)
			if err != nil || len(found) == 0 && !strings.HasPrefix(name, "no") {
				b.Fatalf("%s: %d audits, %v", name, len(found), err)
			}
			slowest[name] = max(slowest[name], time.Since(start))
		}
	}
	var worst time.Duration
	for name, took := range slowest {
		b.Logf("%s: %v", name, took)
		worst = max(worst, took)
	}
	b.ReportMetric(float64(worst)/1e6, "ms/page")
}
