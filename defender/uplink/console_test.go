package uplink

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"appdefender/audit"
	"appdefender/policy"
	"appdefender/wire"
)

const token = "token-0123456789"

// console is a Console in memory that keeps the contract of package wire.
type console struct {
	server *httptest.Server
	key    ed25519.PrivateKey

	mu        sync.Mutex
	instances map[string]*instance
	enrolled  int // how many ever were
	signed    wire.SignedPolicy
	newer     chan struct{} // closed when signed changes

	// Before a request is answered as it should, on may answer instead, which
	// is true. What it is given answers as usual.
	on func(w http.ResponseWriter, r *http.Request, usual func(http.ResponseWriter)) bool
}

// instance is one Defender as the console knows it.
type instance struct {
	credential string
	revoked    bool
	records    []audit.Record // the first has sequence 1
	heartbeats []wire.Heartbeat
}

func newConsole(t *testing.T) *console {
	t.Helper()
	c := unstarted()
	c.server.StartTLS()
	t.Cleanup(c.server.Close)
	return c
}

func unstarted() *console {
	c := &console{
		key:       ed25519.NewKeyFromSeed([]byte("0123456789abcdef0123456789abcdef")),
		instances: make(map[string]*instance), newer: make(chan struct{}),
	}
	c.server = httptest.NewUnstartedServer(c)
	c.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	return c
}

// ca returns the certificate that signed the console's.
func (c *console) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.server.Certificate().Raw})
}

func (c *console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if r.Header.Get("Content-Encoding") == "zstd" {
		d, _ := zstd.NewReader(nil)
		defer d.Close()
		if body, err = d.DecodeAll(body, nil); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	c.mu.Lock()
	on := c.on
	c.mu.Unlock()
	usual := func(w http.ResponseWriter) { c.answer(w, r, body) }
	if on == nil || !on(w, r, usual) {
		usual(w)
	}
}

func (c *console) answer(w http.ResponseWriter, r *http.Request, body []byte) {
	what, _ := strings.CutPrefix(r.URL.Path, wire.Path+"/")
	if what == "enrol" {
		c.enrol(w, body)
		return
	}
	id, what, _ := strings.Cut(what, "/")
	c.mu.Lock()
	i := c.instances[id]
	switch {
	case i == nil || r.Header.Get("Authorization") != "Bearer "+i.credential:
		c.mu.Unlock()
		refuse(w, http.StatusUnauthorized, "unknown Defender")
		return
	case i.revoked:
		c.mu.Unlock()
		refuse(w, http.StatusForbidden, "this Defender is revoked")
		return
	}
	switch what {
	case "policy":
		c.mu.Unlock()
		c.policy(w, r)
		return
	case "audits":
		var b struct {
			First   uint64
			Records []audit.Record
		}
		if err := json.Unmarshal(body, &b); err != nil || len(b.Records) > wire.MaxBatch || len(body) > wire.MaxBatchBytes {
			refuse(w, http.StatusBadRequest, "no batch")
			break
		}
		for n, record := range b.Records {
			sequence := b.First + uint64(n)
			if want := fmt.Sprintf("%s-%d", id, sequence); record.ID != want {
				refuse(w, http.StatusTeapot, record.ID+" should be "+want)
				break
			}
			if sequence == uint64(len(i.records))+1 {
				i.records = append(i.records, record)
			}
		}
		reply(w, wire.Acknowledged{Sequence: uint64(len(i.records))})
	case "heartbeat":
		var h wire.Heartbeat
		if err := json.Unmarshal(body, &h); err != nil {
			refuse(w, http.StatusBadRequest, "no heartbeat")
			break
		}
		i.heartbeats = append(i.heartbeats, h)
		reply(w, wire.HeartbeatReply{Seconds: 3600})
	}
	c.mu.Unlock()
}

func (c *console) enrol(w http.ResponseWriter, body []byte) {
	var e wire.Enrol
	if err := json.Unmarshal(body, &e); err != nil || e.Token != token {
		refuse(w, http.StatusUnauthorized, "wrong token")
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.enrolled++
	id := fmt.Sprintf("d%d", c.enrolled)
	c.instances[id] = &instance{credential: "secret-" + id}
	reply(w, wire.Enrolled{Instance: id, Credential: "secret-" + id, PolicyKey: c.key.Public().(ed25519.PublicKey)})
}

func (c *console) policy(w http.ResponseWriter, r *http.Request) {
	have, _ := strconv.ParseUint(r.FormValue(wire.ParamGeneration), 10, 64)
	wait, _ := strconv.Atoi(r.FormValue(wire.ParamWait))
	c.mu.Lock()
	newer := c.newer
	if c.signed.Generation <= have && wait > 0 {
		c.mu.Unlock()
		select {
		case <-newer:
		case <-r.Context().Done():
		case <-time.After(time.Duration(wait) * time.Second):
		}
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	if c.signed.Generation <= have {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	reply(w, c.signed)
}

func reply(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

func refuse(w http.ResponseWriter, code int, why string) {
	w.WriteHeader(code)
	reply(w, wire.Error{Message: why})
}

// asks reports whether a request is one for policy, audits or heartbeat.
func asks(r *http.Request, what string) bool { return strings.HasSuffix(r.URL.Path, "/"+what) }

// handle replaces what is done before a request is answered.
func (c *console) handle(on func(w http.ResponseWriter, r *http.Request, usual func(http.ResponseWriter)) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on = on
}

// publish signs a policy whose one rule has that name.
func (c *console) publish(generation uint64, rule string) {
	c.send(wire.Sign(c.key, generation, rules(rule)))
}

func (c *console) send(p wire.SignedPolicy) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.signed = p
	close(c.newer)
	c.newer = make(chan struct{})
}

func rules(name string) string {
	return fmt.Sprintf(`{"version": 1, "rules": [{"name": %q}]}`, name)
}

// get returns what the console knows of an instance.
func (c *console) get(id string) instance {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.instances[id] == nil {
		return instance{}
	}
	i := *c.instances[id]
	i.records, i.heartbeats = slices.Clone(i.records), slices.Clone(i.heartbeats)
	return i
}

func (c *console) change(id string, f func(*instance)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c.instances[id])
}

// forget loses everything that the console knows of its Defenders.
func (c *console) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.instances)
}

func (c *console) enrolments() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.enrolled
}

// messages returns what the records of an instance say.
func (c *console) messages(id string) []string {
	var msgs []string
	for _, r := range c.get(id).records {
		msgs = append(msgs, r.Msg)
	}
	return msgs
}

func (c *console) lastHeartbeat(id string) wire.Heartbeat {
	if all := c.get(id).heartbeats; len(all) > 0 {
		return all[len(all)-1]
	}
	return wire.Heartbeat{}
}

// defender is the Defender's side of a test.
type defender struct {
	*Uplink
	t     *testing.T
	spool *audit.Spool
	stop  func()

	mu      sync.Mutex
	told    []string
	applied []string // names of the first rules
	refuse  error    // what Apply answers
}

// start opens a spool and runs an uplink for it. What change does to the
// configuration comes last.
func start(t *testing.T, c *console, dir string, change ...func(*Config)) *defender {
	t.Helper()
	d := create(t, c, dir, change...)
	d.run()
	return d
}

func create(t *testing.T, c *console, dir string, change ...func(*Config)) *defender {
	t.Helper()
	d := &defender{t: t, stop: func() {}}
	d.spool = audit.OpenSpool(audit.SpoolConfig{Dir: dir, Source: &audit.Source{}, MinFree: -1, Notice: d.notice})
	cfg := Config{
		URL: c.server.URL, Token: token, Spool: d.spool, Apply: d.apply, Notice: d.notice,
		Identity: wire.Identity{AppID: "app", Hostname: "host"},
		Status:   func(h *wire.Heartbeat) { h.Level, h.Dropped = "notify", 5 },
	}
	if c.server.TLS != nil {
		cfg.CA = c.ca()
	}
	for _, f := range change {
		f(&cfg)
	}
	u, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	u.pace = pace{
		retryMin: time.Millisecond, retryMax: 10 * time.Millisecond, refused: 5 * time.Millisecond,
		gather: time.Millisecond, sync: time.Millisecond, heartbeat: time.Hour,
	}
	u.client.quick.RetryWaitMin, u.client.slow.RetryWaitMin = time.Millisecond, time.Millisecond
	u.client.quick.RetryWaitMax, u.client.slow.RetryWaitMax = time.Millisecond, time.Millisecond
	d.Uplink = u
	t.Cleanup(func() {
		d.end()
		for _, msg := range d.notices() {
			if strings.Contains(msg, "secret-") || strings.Contains(msg, token) {
				t.Errorf("a notice tells a secret: %s", msg)
			}
		}
	})
	return d
}

func (d *defender) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	d.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			d.t.Errorf("Run: %v", err)
		}
	})
}

// end ends everything in order.
func (d *defender) end() {
	d.stop()
	if err := d.spool.Close(); err != nil {
		d.t.Error(err)
	}
}

func (d *defender) notice(msg string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told = append(d.told, msg)
}

func (d *defender) apply(p *policy.Policy) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refuse != nil {
		return d.refuse
	}
	d.applied = append(d.applied, p.Rules[0].Name)
	return nil
}

func (d *defender) notices() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.told)
}

// noticed returns how many notices contain a text.
func (d *defender) noticed(text string) int {
	n := 0
	for _, msg := range d.notices() {
		if strings.Contains(msg, text) {
			n++
		}
	}
	return n
}

func (d *defender) policies() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.applied)
}

func (d *defender) write(msgs ...string) {
	d.t.Helper()
	for _, msg := range msgs {
		if err := d.spool.Write(audit.Record{Msg: msg}); err != nil {
			d.t.Fatal(err)
		}
	}
}

// flush lets everything be sent.
func (d *defender) flush() {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	defer cancel()
	if err := d.Flush(ctx); err != nil {
		d.t.Fatalf("%v; notices %q", err, d.notices())
	}
}

// await waits for something to come true.
func (d *defender) await(what string, is func() bool) {
	d.t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			d.t.Fatalf("%s: never; notices %q", what, d.notices())
		}
	}
}

func check(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// numbers returns "1", "2", … "n".
func numbers(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = strconv.Itoa(i + 1)
	}
	return all
}
