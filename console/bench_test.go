package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"appdefender/console/store"
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
