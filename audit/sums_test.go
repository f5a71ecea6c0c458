package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// summed is a sink that keeps what Sums writes.
type summed struct {
	pages
	records []Record
	fail    error // of the next write
	kept    map[string][]byte
}

func (s *summed) Save(name string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == nil {
		s.kept = make(map[string][]byte)
	}
	s.kept[name] = data
	return nil
}

func (s *summed) Load(name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.kept[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return data, nil
}

func (s *summed) Forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.kept, name)
}

func (s *summed) Write(r Record) error {
	s.mu.Lock()
	err := s.fail
	if s.fail = nil; err == nil {
		s.records = append(s.records, r)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.pages.Write(r)
}

func (s *summed) failOnce(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

func denied(n int) Record {
	r := record(fmt.Sprint("denied ", n))
	r.ID, r.AttackType, r.Refused = "x", "explicitlyDeniedDNS", true
	return r
}

func TestSums(t *testing.T) {
	const rate = "x High rate of explicitlyDeniedDNS events, reporting aggregation started; last event: denied %d 1"
	const past = " In the past 10 minutes, container web had %d events of type explicitlyDeniedDNS; The most recent event was: denied %d %d"
	write := func(s *Sums, from, to int, pause time.Duration) {
		for n := from; n <= to; n++ {
			if err := s.Write(denied(n)); err != nil {
				panic(err)
			}
			time.Sleep(pause)
		}
	}
	each := func(from, to int) (lines []string) {
		for n := from; n <= to; n++ {
			lines = append(lines, fmt.Sprintf("x denied %d 1", n))
		}
		return lines
	}
	for _, test := range []struct {
		name string
		do   func(*Sums)
		want []string
	}{
		{"five are none too many", func(s *Sums) { write(s, 1, 5, 0) }, each(1, 5)},
		{"five in each quarter of an hour", func(s *Sums) { write(s, 1, 30, 3*time.Minute+time.Second) }, each(1, 30)},
		{"a sixth within it, just so", func(s *Sums) { write(s, 1, 6, 3*time.Minute) }, append(each(1, 5), fmt.Sprintf(rate, 6))},
		{"the period", func(s *Sums) {
			write(s, 1, 6, 0)
			write(s, 7, 9, 3*time.Minute)
			time.Sleep(time.Minute + time.Nanosecond) // it is over
			write(s, 10, 16, 0)
		}, append(append(append(each(1, 5), fmt.Sprintf(rate, 6), fmt.Sprintf(past, 3, 9, 3)), each(10, 14)...), fmt.Sprintf(rate, 15), fmt.Sprintf(past, 1, 16, 1))},
		{"a period with nothing in it", func(s *Sums) {
			write(s, 1, 6, 0)
			time.Sleep(sumPeriod + time.Nanosecond)
			write(s, 7, 7, 0)
		}, append(append(each(1, 5), fmt.Sprintf(rate, 6)), each(7, 7)...)},
		{"what got through does not hide", func(s *Sums) {
			write(s, 1, 9, 0)
			r := denied(10)
			r.Refused = false
			_ = s.Write(r)
		}, append(append(each(1, 5), fmt.Sprintf(rate, 6)), each(10, 10)[0], fmt.Sprintf(past, 3, 9, 3))},
		{"nor does another custom rule, or a detection", func(s *Sums) {
			write(s, 1, 7, 0)
			r := denied(8)
			r.CustomRule = "c"
			_ = s.Write(r)
			r = denied(9)
			r.AttackType = "explicitlyDeniedIP"
			_ = s.Write(r)
		}, append(append(each(1, 5), fmt.Sprintf(rate, 6)), "x denied 8 1", "x denied 9 1", fmt.Sprintf(past, 1, 7, 1))},
		{"the Defender's own news", func(s *Sums) {
			for range 10 {
				_ = s.Write(Record{ID: "x", Type: typeDefender, Msg: "news", Count: 1})
			}
		}, strings.Split(strings.Repeat("x news 1\n", 9)+"x news 1", "\n")},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p summed
				s := NewSums(&Source{Container: "web"}, &p, &p)
				test.do(s)
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				check(t, "written", p.read(), test.want...)
				if err := s.Write(denied(99)); err != nil || !strings.Contains(p.lines[len(p.lines)-1], "denied 99") {
					t.Errorf("after the end: %q, %v", p.lines, err)
				}
			})
		})
	}
}

// A sum names each different message, and is bounded.
func TestSumOfMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p summed
		s := NewSums(&Source{AppID: "shop"}, &p, &p)
		for _, n := range []int{1, 2, 3, 4, 5, 6, 7, 8, 8} {
			_ = s.Write(denied(n))
		}
		time.Sleep(sumPeriod + time.Nanosecond)
		synctest.Wait()
		last := p.records[len(p.records)-1]
		if diff := cmp.Diff([]Tally{{"denied 8", 2}, {"denied 7", 1}}, last.Events); diff != "" || !strings.Contains(last.Msg, "container shop had 3 events") || !last.Time.Equal(time.Now().UTC().Add(-time.Nanosecond)) {
			t.Errorf("%+v\n%s", last, diff)
		}
		if last.AttackType != "explicitlyDeniedDNS" || !last.Refused || last.ID != "" {
			t.Errorf("%+v", last)
		}
		for n := range 1000 {
			r := denied(n)
			r.Msg += strings.Repeat("x", maxText)
			_ = s.Write(r)
		}
		_ = s.Close()
		last = p.records[len(p.records)-1]
		if n := len(last.Events); n != maxTallies+1 || last.Events[0] != (Tally{"others", 994 - maxTallies}) && last.Events[n-1] != (Tally{"others", 994 - maxTallies}) {
			t.Errorf("%d messages: %+v", n, last.Events[n-1])
		}
		if line, err := encodeLine(last); err != nil || len(line) > maxRecord {
			t.Errorf("a sum of %d bytes, %v", len(line), err)
		}
	})
}

// A sum that cannot be written is told with the next record.
func TestSumLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p summed
		s := NewSums(&Source{}, &p, &p)
		for n := range 8 {
			_ = s.Write(denied(n))
		}
		p.failOnce(io.ErrShortWrite)
		time.Sleep(sumPeriod + time.Nanosecond)
		synctest.Wait()
		if err := s.Write(denied(9)); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("got %v", err)
		}
		if err := s.Write(denied(10)); err != nil || len(p.records) != 8 {
			t.Errorf("%d records, %v", len(p.records), err)
		}
	})
}

// What a killed process had summed up but for the last second is written by
// the next one, once; what ended in order is not written again.
func TestSumsOfTheKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p summed
		s := NewSums(&Source{Container: "web"}, &p, &p)
		for n := 1; n <= 8; n++ {
			_ = s.Write(denied(n))
		}
		time.Sleep(keepEach)
		synctest.Wait()
		_ = s.Write(denied(9))
		killed := time.Now()
		s.mu.Lock()
		s.closed = true // it does nothing more
		s.mu.Unlock()
		p.records = nil

		next := NewSums(&Source{Container: "web"}, &p, &p)
		if len(p.records) != 1 {
			t.Fatalf("%+v", p.records)
		}
		r := p.records[0]
		if r.Count != 2 || !r.Refused || r.AttackType != "explicitlyDeniedDNS" || !r.Time.Before(killed) || len(r.Events) != 2 ||
			r.Msg != "In the past 10 minutes, container web had 2 events of type explicitlyDeniedDNS; The most recent event was: denied 8" {
			t.Errorf("%+v", r)
		}
		for n := 1; n <= 9; n++ {
			_ = next.Write(denied(n))
		}
		time.Sleep(keepEach)
		synctest.Wait()
		if len(p.kept) == 0 {
			t.Error("nothing is kept")
		}
		if err := next.Close(); err != nil || len(p.kept) != 0 || len(p.records) != 8 {
			t.Errorf("%v, %d files, %d records", err, len(p.kept), len(p.records))
		}
		time.Sleep(sumPeriod)
		NewSums(&Source{}, &p, &p)
		if len(p.records) != 8 {
			t.Errorf("%d records", len(p.records))
		}

		p.kept = map[string][]byte{sumsName: []byte(`[{"msg":`)} // torn
		NewSums(&Source{}, &p, &p)
		if len(p.records) != 8 || len(p.kept) != 0 {
			t.Errorf("%d records, %d files", len(p.records), len(p.kept))
		}
	})
}

// Sums that are kept are bounded: the messages give way, the numbers do not.
func TestSumsKeptAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p summed
		s := NewSums(&Source{}, &p, &p)
		const kinds = 20
		for kind := range kinds {
			for n := range eachOf + 1 + maxTallies {
				r := denied(n)
				r.CustomRule, r.Msg = fmt.Sprint(kind), fmt.Sprint(n, strings.Repeat("x", maxText))
				_ = s.Write(r)
			}
		}
		time.Sleep(keepEach)
		synctest.Wait()
		if n := len(p.kept[sumsName]); n > 2*maxKept {
			t.Errorf("%d bytes are kept", n)
		}
		p.records = nil
		NewSums(&Source{}, &p, &p)
		if len(p.records) != kinds || p.records[kinds-1].Count != maxTallies {
			t.Errorf("%d records", len(p.records))
		}
		_ = s.Close()
	})
}
