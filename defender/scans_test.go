package defender

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"appdefender/policy"
)

func TestScans(t *testing.T) {
	addr := func(host, port int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(host >> 8), byte(host)}), uint16(port))
	}
	start := time.Unix(1e9, 0)
	for _, c := range []struct {
		name     string
		n        int
		to       func(i int) netip.AddrPort
		resolved bool
		every    time.Duration
		told     int // how many of them
		as       policy.Scan
	}{
		{"ports of one address", 100, func(i int) netip.AddrPort { return addr(1, 1+i) }, false, time.Millisecond, 100 - manyPorts, policy.ManyPorts},
		{"ports of an address that was looked up", 100, func(i int) netip.AddrPort { return addr(1, 1+i) }, true, time.Millisecond, 100 - manyPorts, policy.ManyPorts},
		{"addresses by one port", 100, func(i int) netip.AddrPort { return addr(i, 22) }, false, time.Millisecond, 100 - manyHosts, policy.ManyHosts},
		{"addresses that were looked up", 100, func(i int) netip.AddrPort { return addr(i, 443) }, true, time.Millisecond, 0, 0},
		{"one port of one address", 1000, func(int) netip.AddrPort { return addr(1, 5432) }, false, time.Millisecond, 0, 0},
		{"few ports, again and again", 1000, func(i int) netip.AddrPort { return addr(1, 1+i%manyPorts) }, false, time.Millisecond, 0, 0},
		{"few addresses, again and again", 1000, func(i int) netip.AddrPort { return addr(i%manyHosts, 22) }, false, time.Millisecond, 0, 0},
		{"slowly", 100, func(i int) netip.AddrPort { return addr(1, 1+i) }, false, scanWindow / manyPorts, 0, 0},
		{"ports in turn", 60, func(i int) netip.AddrPort { return addr(i%2, 1+i) }, false, time.Millisecond, 60 - 2*manyPorts, policy.ManyPorts},
		{"no port", 100, func(i int) netip.AddrPort { return addr(i, 0) }, false, time.Millisecond, 0, 0},
	} {
		var s scans
		told := 0
		for i := range c.n {
			switch got := s.attempt(c.to(i), c.resolved, start.Add(time.Duration(i)*c.every)); got {
			case policy.NoScan:
			case c.as:
				told++
			default:
				t.Errorf("%s: try %d is %d", c.name, i, got)
			}
		}
		if told != c.told {
			t.Errorf("%s: told of %d, want %d", c.name, told, c.told)
		}
	}
}

// TestScanGoesOn repeats a try that was told: it is told again. One that was
// made before the scan passes, and all do when it is over.
func TestScanGoesOn(t *testing.T) {
	var s scans
	now := time.Unix(1e9, 0)
	try := func(port uint16) policy.Scan {
		return s.attempt(netip.AddrPortFrom(netip.IPv6Loopback(), port), false, now)
	}
	for port := range uint16(manyPorts) {
		if try(port+1) != policy.NoScan {
			t.Errorf("port %d counts", port+1)
		}
	}
	for range 3 {
		if try(100) != policy.ManyPorts || try(101) != policy.ManyPorts {
			t.Error("a second try passes")
		}
		if try(1) != policy.NoScan {
			t.Error("a port from before is told")
		}
	}
	now = now.Add(scanWindow)
	if try(100) != policy.NoScan {
		t.Error("it is never over")
	}
}

// TestScansAreBounded tries more addresses than are remembered.
func TestScansAreBounded(t *testing.T) {
	var s scans
	now := time.Unix(1e9, 0)
	for i := range 20000 {
		now = now.Add(time.Microsecond)
		a := netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i))
		s.attempt(netip.AddrPortFrom(a, uint16(1+i%30000)), false, now)
	}
	if a, p := len(s.ports.of), len(s.hosts.of); a > maxScanned || p > maxScanned {
		t.Errorf("%d addresses and %d ports are remembered", a, p)
	}
}
