package dnsproxy

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseResolvConf(t *testing.T) {
	tests := []struct {
		what string
		conf string
		want string // nameservers
		mark string // marked addresses
	}{
		{"empty", "", "127.0.0.1", ""},
		{"no nameserver", "search example.com\noptions ndots:5\n", "127.0.0.1", ""},
		{"one", "nameserver 10.0.0.2\n", "10.0.0.2", ""},
		{"no newline at the end", "nameserver 10.0.0.2", "10.0.0.2", ""},
		{"tab", "nameserver\t10.0.0.2\n", "10.0.0.2", ""},
		{"blanks", "nameserver \t 10.0.0.2 \t\n", "10.0.0.2", ""},
		{"text after the address", "nameserver 10.0.0.2 # home\n", "10.0.0.2", ""},
		{"text glued to the address", "nameserver 10.0.0.2#home\n", "127.0.0.1", ""},
		{"a blank before the keyword", " nameserver 10.0.0.2\n", "127.0.0.1", ""},
		{"no blank after the keyword", "nameservers 10.0.0.2\nnameserver10.0.0.3\nnameserver", "127.0.0.1", ""},
		{"capitals", "NAMESERVER 10.0.0.2\n", "127.0.0.1", ""},
		{"comments", "# nameserver 10.0.0.2\n;nameserver 10.0.0.3\n", "127.0.0.1", ""},
		{"carriage return", "nameserver 10.0.0.2\r\n", "127.0.0.1", ""},
		{"nonsense between", "nameserver x\nnameserver 10.0.0.2\nnameserver\t\n", "10.0.0.2", ""},
		{"at most three", "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n", "10.0.0.1 10.0.0.2 10.0.0.3", ""},
		{"nonsense does not count", "nameserver 10.0.0.1\nnameserver x\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n", "10.0.0.1 10.0.0.2 10.0.0.3", ""},
		{"IPv6", "nameserver 2001:db8::53\n", "2001:db8::53", ""},
		{"IPv6 with scope", "nameserver fe80::1%eth0\n", "fe80::1%eth0", ""},
		{"IPv4 in IPv6", "nameserver ::ffff:10.0.0.2\n", "10.0.0.2", ""},
		{"short forms", "nameserver 127.1\nnameserver 0x0a.012.258\nnameserver 167772162\n", "127.0.0.1 10.10.1.2 10.0.0.2", ""},
		{"bad forms", "nameserver 10.0.0.256\nnameserver 10.0.0.08\nnameserver 1.2.3.4.5\nnameserver 0b1.2.3.4\nnameserver 1_0.0.0.2\nnameserver +1.2.3.4\n", "127.0.0.1", ""},
		{"unspecified", "nameserver 0.0.0.0\nnameserver ::\n", "127.0.0.1 ::1", ""},
		{
			"taken over",
			"# appdefender 127.1.2.3: original nameservers follow\nnameserver 127.1.2.3\nnameserver 10.0.0.1\n",
			"10.0.0.1", "127.1.2.3",
		},
		{
			"taken over twice",
			"# appdefender 127.1.2.3: original nameservers follow\nnameserver 127.1.2.3\n" +
				"# appdefender 127.4.5.6: original nameservers follow\nnameserver 127.4.5.6\n" +
				"nameserver 10.0.0.1\n# appdefender 127.1.2.3 kept: nameserver 10.0.0.2\n",
			"10.0.0.1 10.0.0.2", "127.1.2.3 127.4.5.6",
		},
		{
			"marked further down",
			"nameserver 127.1.2.3\nnameserver 10.0.0.1\n# appdefender 127.1.2.3: original nameservers follow\n",
			"10.0.0.1", "127.1.2.3",
		},
		{
			"taken over, nothing there before",
			"# appdefender 127.1.2.3: original nameservers follow\nnameserver 127.1.2.3\nsearch x\n",
			"127.0.0.1", "127.1.2.3",
		},
		{
			"the local host is a Defender",
			"# appdefender 127.0.0.1: original nameservers follow\nnameserver 127.0.0.1\n",
			"", "127.0.0.1",
		},
		{"no marker", "# appdefender is installed: original nameservers follow\nnameserver 127.1.2.3\n", "127.1.2.3", ""},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			r := ParseResolvConf([]byte(tt.conf))
			var got, mark []string
			for _, a := range r.Nameservers {
				if a.Port() != 53 {
					t.Errorf("port of %s", a)
				}
				got = append(got, a.Addr().String())
			}
			for _, a := range r.Marked {
				mark = append(mark, a.String())
			}
			if got := strings.Join(got, " "); got != tt.want {
				t.Errorf("nameservers %q, want %q", got, tt.want)
			}
			if mark := strings.Join(mark, " "); mark != tt.mark {
				t.Errorf("marked %q, want %q", mark, tt.mark)
			}
		})
	}
}

// A step of TestTakeover; the Defenders' addresses are 127.0.0.<who>, the
// letter a is 97.
type step struct {
	do   string // "start a", "exit a", "kill a", "write TEXT"
	want string // the file afterwards; "" is not looked at
	ups  string // of a start
}

func TestTakeover(t *testing.T) {
	const (
		plain = "search x\nnameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\noptions y"
		byA   = "# appdefender 127.0.0.97: original nameservers follow\nnameserver 127.0.0.97\n" +
			"search x\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n# appdefender 127.0.0.97 kept: nameserver 10.0.0.3\noptions y"
		byAB = "# appdefender 127.0.0.98: original nameservers follow\nnameserver 127.0.0.98\n" +
			"# appdefender 127.0.0.97: original nameservers follow\nnameserver 127.0.0.97\n" +
			"search x\nnameserver 10.0.0.1\n# appdefender 127.0.0.98 kept: nameserver 10.0.0.2\n" +
			"# appdefender 127.0.0.97 kept: nameserver 10.0.0.3\noptions y"
		all = "10.0.0.1 10.0.0.2 10.0.0.3"
	)
	byB := strings.ReplaceAll(byA, "127.0.0.97", "127.0.0.98")
	tests := []struct {
		what  string
		file  string
		steps []step
	}{
		{"in and out", plain, []step{{"start a", byA, all}, {"exit a", plain, ""}, {"exit a", plain, ""}}},
		{"an empty file", "", []step{
			{"start a", "# appdefender 127.0.0.97: original nameservers follow\nnameserver 127.0.0.97\n", "127.0.0.1"},
			{"exit a", "", ""},
		}},
		{"killed, again with its address", plain, []step{
			{"start a", byA, all}, {"kill a", byA, ""}, {"start a", byA, all}, {"exit a", plain, ""},
		}},
		{"killed, again with another", plain, []step{
			{"start a", byA, all}, {"kill a", byA, ""}, {"start b", byB, all}, {"exit b", plain, ""},
		}},
		{"two, first in first out", plain, []step{
			{"start a", byA, all}, {"start b", byAB, all}, {"exit a", "", ""}, {"exit b", plain, ""},
		}},
		{"two, last in first out", plain, []step{
			{"start a", byA, all}, {"start b", byAB, all}, {"exit b", byA, ""}, {"exit a", plain, ""},
		}},
		{"two, one killed", plain, []step{
			{"start a", byA, all}, {"start b", byAB, all}, {"kill a", byAB, ""}, {"exit b", byA, ""}, {"start b", byB, all}, {"exit b", plain, ""},
		}},
		{"rewritten by somebody", plain, []step{
			{"start a", byA, all}, {"write nameserver 10.9.9.9\n", "", ""}, {"exit a", "nameserver 10.9.9.9\n", ""},
		}},
		{"extended by somebody", plain, []step{
			{"start a", byA, all}, {"write # new\n" + byA + "\nnameserver 10.9.9.9\n", "", ""}, {"exit a", "# new\n" + plain + "\nnameserver 10.9.9.9\n", ""},
		}},
		{"somebody else's mention of our address stays", plain, []step{
			{"start a", byA, all}, {"write nameserver 127.0.0.97\n", "", ""}, {"exit a", "nameserver 127.0.0.97\n", ""},
		}},
		{"our address was there, unmarked", "nameserver 127.0.0.97\nnameserver 10.0.0.1\n", []step{
			{"start a", "", "10.0.0.1"}, {"exit a", "nameserver 127.0.0.97\nnameserver 10.0.0.1\n", ""},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "resolv.conf")
			if err := os.WriteFile(path, []byte(tt.file), 0o644); err != nil {
				t.Fatal(err)
			}
			before, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			living := map[netip.Addr]*takeover{}
			exited := map[netip.Addr]*takeover{}
			for i, s := range tt.steps {
				verb, arg, _ := strings.Cut(s.do, " ")
				addr := netip.AddrFrom4([4]byte{127, 0, 0, arg[0]})
				switch verb {
				case "start":
					d := &takeover{path: path, ours: addr, listens: func(a netip.Addr) bool { return living[a] != nil }}
					servers, err := d.run()
					if err != nil {
						t.Fatal(err)
					}
					var got []string
					for _, a := range servers {
						got = append(got, a.Addr().String())
					}
					if got := strings.Join(got, " "); got != s.ups {
						t.Errorf("step %d: upstreams %q, want %q", i, got, s.ups)
					}
					living[addr], exited[addr] = d, d
				case "exit":
					delete(living, addr)
					if err := exited[addr].restore(); err != nil {
						t.Fatal(err)
					}
				case "kill":
					delete(living, addr)
				case "write":
					if err := os.WriteFile(path, []byte(arg), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				now, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if s.want != "" || i == len(tt.steps)-1 {
					if diff := cmp.Diff(s.want, string(now)); diff != "" {
						t.Errorf("after step %d, %q (-want +got):\n%s", i, s.do, diff)
					}
				}
			}
			if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
				t.Errorf("another file is in its place: %v", err)
			}
		})
	}
}

func TestTakeoverWithoutFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	restore, ups, err := Takeover(path, netip.MustParseAddr("127.0.0.9"))
	home := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	if !errors.Is(err, errNoResolvConf) || cmp.Diff(home, ups, addresses) != "" {
		t.Errorf("got %v, %v", ups, err)
	}
	if err := restore(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was made: %v", err)
	}
	if ups, err = Upstreams(path, netip.Addr{}); err != nil || cmp.Diff(home, ups, addresses) != "" {
		t.Errorf("Upstreams: %v, %v", ups, err)
	}
}

// What cannot be written can still be read.
func TestTakeoverRefused(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everything")
	}
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("nameserver 10.0.0.1\n"), 0o444); err != nil {
		t.Fatal(err)
	}
	restore, ups, err := Takeover(path, netip.MustParseAddr("127.0.0.9"))
	if !errors.Is(err, os.ErrPermission) || len(ups) != 1 || ups[0].Addr().String() != "10.0.0.1" {
		t.Errorf("got %v, %v", ups, err)
	}
	if err := restore(); err != nil {
		t.Error(err)
	}
}

func FuzzResolvConf(f *testing.F) {
	f.Add([]byte("search x\nnameserver 10.0.0.1\nnameserver ::1\nnameserver 1.1\nnameserver 2.2\n"))
	f.Add(withMarks([]byte("nameserver 10.0.0.1"), netip.MustParseAddr("127.0.0.8")))
	ours := netip.MustParseAddr("127.0.0.9")
	f.Fuzz(func(t *testing.T, data []byte) {
		r := ParseResolvConf(data)
		if len(r.Nameservers) > maxNameservers {
			t.Errorf("%d nameservers", len(r.Nameservers))
		}
		for _, a := range r.Nameservers {
			for _, m := range r.Marked {
				if a.Addr() == m {
					t.Errorf("%s is marked", a)
				}
			}
		}
		if bytes.Contains(data, []byte(markStart+ours.String())) {
			return // a forged marker of ours: there is nothing to be exact about
		}
		marked := withMarks(data, ours)
		if back := withoutMarks(marked, ours); !bytes.Equal(back, data) {
			t.Errorf("%q came back as %q", data, back)
		}
		want := serversOf(data, ours)
		if diff := cmp.Diff(want, serversOf(marked, ours), addresses, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("upstreams of %q (-want +got):\n%s", data, diff)
		}
	})
}

func TestTakeoverAndBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	const plain = "nameserver 10.0.0.1\n"
	if err := os.WriteFile(path, []byte(plain), 0o644); err != nil {
		t.Fatal(err)
	}
	restore, ups, err := Takeover(path, netip.MustParseAddr("127.0.0.9"))
	if want := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53")}; err != nil || cmp.Diff(want, ups, addresses) != "" {
		t.Errorf("got %v, %v", ups, err)
	}
	for range 2 {
		if err := restore(); err != nil {
			t.Error(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != plain {
		t.Errorf("restored %q, %v", got, err)
	}
}
