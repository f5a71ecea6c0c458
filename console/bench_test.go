package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"appdefender/console/store"
	"appdefender/policy"
	"appdefender/wire"
)

// BenchmarkAudits is 20 Defenders that send full, compressed batches over HTTP
// as fast as they are acknowledged.
func BenchmarkAudits(b *testing.B) {
	st, err := store.Open(b.Context(), store.Config{Path: filepath.Join(b.TempDir(), "console.db")})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	srv, err := New(b.Context(), Config{Store: st})
	if err != nil {
		b.Fatal(err)
	}
	server := httptest.NewServer(srv)
	defer server.Close()
	const senders, size = 20, wire.MaxBatch
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: senders}}
	defer client.CloseIdleConnections()
	token, err := st.AddToken(b.Context(), "test", store.Token{Name: "t"})
	if err != nil {
		b.Fatal(err)
	}
	each := b.N/senders + 1
	// What a Defender does is no part of the measurement.
	type sender struct {
		instance, credential string
		bodies               []string
	}
	all := make([]sender, senders)
	start := time.Now().Add(-time.Hour)
	for i := range all {
		s := &all[i]
		if s.instance, s.credential, err = st.Enrol(b.Context(), token, wire.Identity{AppID: fmt.Sprint(i)}); err != nil {
			b.Fatal(err)
		}
		for n := range each {
			var records []string
			for j := range size {
				path := []string{"/usr/bin/mkdir", "/usr/bin/wget", "/opt/app/bin/worker"}[j%3]
				at := start.Add(time.Duration(n*size+j) * time.Millisecond).UTC().Format(time.RFC3339Nano)
				records = append(records, fmt.Sprintf(`{"_id":"%s-%d","time":%q,"type":"processes","attackType":"explicitlyDeniedProcess","effect":"prevent",`+
					`"ruleName":"sample","msg":"%s launched and is explicitly denied by runtime rule. Full command: %s job-%d","severity":"high","count":1,`+
					`"appID":"sample-task:%024x","hostname":"sample-task:%024x","containerName":"sample-task","imageName":"registry.example.test/team/sample-task:1.2.3",`+
					`"profileId":"sample-task:%024x_sample-task","version":"0.1.0","user":"root","pid":%d,"processPath":%q,"command":"%s job-%d",`+
					`"ancestry":[{"pid":1,"path":"/usr/bin/dash"}],"reason":"is on the deny list","level":"refused","refused":true}`,
					s.instance, n*size+j+1, at, path, path, j, i, i, i, j, path, path, j))
			}
			s.bodies = append(s.bodies, packed(fmt.Sprintf(`{"first":%d,"records":[%s]}`, n*size+1, strings.Join(records, ","))))
		}
	}
	b.ResetTimer()
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			s := &all[i]
			for n, body := range s.bodies {
				r, _ := http.NewRequest("POST", server.URL+wire.Path+"/"+s.instance+"/audits", strings.NewReader(body))
				r.Header.Set("Authorization", "Bearer "+s.credential)
				resp, err := client.Do(r)
				if err != nil {
					b.Error(err)
					return
				}
				var ack wire.Acknowledged
				err = json.NewDecoder(resp.Body).Decode(&ack)
				resp.Body.Close()
				if err != nil || ack.Sequence != uint64((n+1)*size) {
					b.Errorf("acknowledged %d, %v", ack.Sequence, err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(each*senders*size)/b.Elapsed().Seconds(), "audits/s")
}

// BenchmarkSpread is a change of the policy that a thousand Defenders wait
// for; it tells how long the last of them had to.
func BenchmarkSpread(b *testing.B) {
	ctx := b.Context()
	st, err := store.Open(ctx, store.Config{Path: filepath.Join(b.TempDir(), "console.db")})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	srv, err := New(ctx, Config{Store: st})
	if err != nil {
		b.Fatal(err)
	}
	// A request counts as waiting when it has come and nothing has been said.
	var waiting atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		waiting.Add(1)
		srv.ServeHTTP(w, r)
	}))
	defer server.Close()
	const defenders = 1000
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: defenders}}
	defer client.CloseIdleConnections()
	token, err := st.AddToken(ctx, "test", store.Token{Name: "t"})
	if err != nil {
		b.Fatal(err)
	}
	var all [defenders]struct{ instance, credential string }
	for i := range all {
		if all[i].instance, all[i].credential, err = st.Enrol(ctx, token, wire.Identity{AppID: fmt.Sprint(i)}); err != nil {
			b.Fatal(err)
		}
	}
	generation := srv.newest().Generation
	alert := policy.Alert
	var worst time.Duration
	b.ResetTimer()
	for b.Loop() {
		b.StopTimer()
		waiting.Store(0)
		var done sync.WaitGroup
		for i := range all {
			done.Go(func() {
				url := fmt.Sprintf("%s%s/%s/policy?generation=%d&wait=55", server.URL, wire.Path, all[i].instance, generation)
				r, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
				r.Header.Set("Authorization", "Bearer "+all[i].credential)
				resp, err := client.Do(r)
				if err != nil {
					b.Error(err)
					return
				}
				defer resp.Body.Close()
				var p wire.SignedPolicy
				if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || p.Generation != generation+1 {
					b.Errorf("Defender %d: %d, generation %d, %v", i, resp.StatusCode, p.Generation, err)
				}
			})
		}
		for waiting.Load() < defenders {
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(200 * time.Millisecond)
		b.StartTimer()
		start := time.Now()
		rule := policy.Rule{Name: fmt.Sprintf("rule %d", generation), DNS: &policy.DNSSection{Effect: &alert}}
		if _, err := srv.AddRule(ctx, "bench", generation, 0, rule); err != nil {
			b.Fatal(err)
		}
		done.Wait()
		worst = max(worst, time.Since(start))
		generation++
	}
	b.ReportMetric(worst.Seconds(), "s/spread")
}
