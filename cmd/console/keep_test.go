package main

import (
	"testing"
	"time"
)

func TestLimits(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"30d": 720 * time.Hour, "12h": 12 * time.Hour, "90m": 90 * time.Minute, "0": 0,
		"": -1, "30": -1, "-1d": -1, "1.5d": -1, "5m": -1, "0d": -1, "70000d": -1, "d": -1,
	} {
		if d, err := age(s); err == nil && d != want || err != nil && want >= 0 {
			t.Errorf("age %q: %v, %v", s, d, err)
		}
	}
	for s, want := range map[string]int64{
		"500MiB": 500 << 20, "10GiB": 10 << 30, "2 TiB": 2 << 40, "0": 0,
		"": -1, "10": -1, "10GB": -1, "1MiB": -1, "-1GiB": -1, "1.5GiB": -1, "99999999TiB": -1,
	} {
		if n, err := size(s); err == nil && n != want || err != nil && want >= 0 {
			t.Errorf("size %q: %d, %v", s, n, err)
		}
	}
}
