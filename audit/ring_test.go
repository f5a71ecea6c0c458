package audit

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"appdefender/policy"
)

func TestRingIsBounded(t *testing.T) {
	const most = 64 << 10
	r := NewRing(&Source{}, most)
	ev := policy.Event{Kind: policy.Launch, Program: policy.Program{Path: "/bin/x", Command: []string{"x", strings.Repeat("y", 1000)}}}
	for i := range 1000 {
		ev.Program.Path = fmt.Sprintf("/bin/x%d", i)
		r.Event(&ev, i, 1, true, time.Unix(int64(i), 0))
		if r.size > most {
			t.Fatalf("%d bytes of %d", r.size, most)
		}
	}
	events, forgotten := r.Snapshot()
	if len(events) < 40 || len(events)+int(forgotten) != 1001 {
		t.Errorf("%d events kept, %d forgotten", len(events), forgotten)
	}
	if last := events[len(events)-1]; last.Process != "/bin/x999" {
		t.Errorf("the last is %q", last.Process)
	}
	size := 0
	for i := range r.n {
		size += r.events[(r.first+i)%len(r.events)].bytes()
	}
	if size != r.size {
		t.Errorf("counted %d bytes, there are %d", r.size, size)
	}
	// One huge event neither fits nor empties the ring.
	ev.Program.Command = strings.Split(strings.Repeat("a ", 1<<20), " ")
	r.Event(&ev, 1, 1, true, time.Unix(2000, 0))
	if r.size > most || r.n < 10 {
		t.Errorf("%d events of %d bytes", r.n, r.size)
	}
}

func TestRingTellsWhatHappened(t *testing.T) {
	r := NewRing(&Source{}, 1<<20)
	at := time.Now()
	next := func() time.Time { at = at.Add(time.Second); return at }
	r.Event(&policy.Event{Kind: policy.Launch, Program: policy.Program{Path: "/usr/bin/curl", Command: []string{"curl", "-u", "app:hunter2"}}}, 7, 1, true, next())
	r.Event(&policy.Event{Kind: policy.Lookup, Domain: "pool.example", QType: "A"}, 7, 0, true, next())
	r.Event(&policy.Event{Kind: policy.Outbound, Addr: netip.MustParseAddrPort("198.51.100.7:3333"), Name: "pool.example"}, 7, 0, false, next())
	r.Event(&policy.Event{Kind: policy.Listen, Addr: netip.MustParseAddrPort("0.0.0.0:8080")}, 7, 0, true, next())
	r.Event(&policy.Event{Kind: policy.FileWrite, File: policy.File{Path: "/tmp/x", Op: "create", Type: "elf"}}, 7, 0, true, next())
	rec := New(&Source{}, &policy.Event{Kind: policy.Launch, Program: policy.Program{Path: "/tmp/xmrig"}},
		policy.Verdict{Effect: policy.Alert, Detection: policy.CryptoMiner}, Outcome{Time: next()})
	if err := r.Write(rec); err != nil {
		t.Fatal(err)
	}
	events, _ := r.Snapshot()
	var got []string
	for i := range events {
		e := &events[i]
		got = append(got, strings.Join([]string{e.Type, e.Process, e.Command, e.Domain, e.DstIP, e.Path, e.Category}, "|"))
		if len(e.Row()) != len(ForensicHeader()) {
			t.Errorf("%d columns, %d names", len(e.Row()), len(ForensicHeader()))
		}
	}
	want := []string{
		"Container started||||||",
		"Process spawned|/usr/bin/curl|curl -u app:REDACTED|||/usr/bin/curl|",
		"DNS query|/usr/bin/curl||pool.example|||",
		"Connection established|/usr/bin/curl||pool.example|198.51.100.7||",
		"Listening port|/usr/bin/curl|||||",
		"Binary created|/usr/bin/curl||||/tmp/x|",
		"Incident|/tmp/xmrig|||||cryptoMiner",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !events[3].Refused || events[2].Refused {
		t.Error("what was refused is not told from what was not")
	}
}

func TestNoRing(t *testing.T) {
	r := NewRing(&Source{}, 0)
	r.Event(&policy.Event{Kind: policy.Lookup}, 1, 1, true, time.Now())
	if events, _ := r.Snapshot(); r != nil || events != nil {
		t.Error("a ring of no size remembers")
	}
}

func BenchmarkRing(b *testing.B) {
	r := NewRing(&Source{}, 1<<20)
	ev := policy.Event{Kind: policy.Outbound, Addr: netip.MustParseAddrPort("198.51.100.7:3333"), Name: "pool.example"}
	at := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		r.Event(&ev, 7, 1, true, at)
	}
}
