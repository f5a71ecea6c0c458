package supervisor

import (
	"bytes"
	"debug/elf"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestShebang(t *testing.T) {
	t.Parallel()
	// The kernel looks at 256 bytes and overwrites the last one
	// (fs/binfmt_script.c): nobody is shown more than 255.
	long := "#!/bin/sh " + strings.Repeat("a", 400)
	tests := []struct {
		head             string
		interpreter, arg string
		ok               bool
	}{
		{"#!/bin/sh\n", "/bin/sh", "", true},
		{"#! /bin/sh\n", "/bin/sh", "", true},
		{"#!\t/bin/sh -e \t\n", "/bin/sh", "-e", true},
		{"#!/usr/bin/env -S a  b\nrest", "/usr/bin/env", "-S a  b", true},
		{"#!/bin/sh", "/bin/sh", "", true},
		{"#!/bin/sh\x00junk\n", "/bin/sh", "", true},
		{"#!sh\n", "sh", "", true},
		{long, "/bin/sh", strings.Repeat("a", 245), true},
		{long[:255] + "\n", "/bin/sh", strings.Repeat("a", 245), true},
		{"#!/" + strings.Repeat("x", 253), "", "", false}, // the name itself is cut
		{"#!\n", "", "", false},
		{"#!   \n", "", "", false},
		{"# !/bin/sh\n", "", "", false},
		{"\x7fELF", "", "", false},
		{"", "", "", false},
		{"#", "", "", false},
	}
	for _, test := range tests {
		interpreter, arg, ok := shebang(test.head[:min(len(test.head), headSize)])
		if !test.ok && !ok {
			continue
		}
		if interpreter != test.interpreter || arg != test.arg || ok != test.ok {
			t.Errorf("shebang(%.40q…) = %q, %q, %v, want %q, %q, %v", test.head, interpreter, arg, ok, test.interpreter, test.arg, test.ok)
		}
	}
}

// FuzzShebang looks for a line that splits into something the kernel could not
// execute.
func FuzzShebang(f *testing.F) {
	f.Add("#!/bin/sh -e\n")
	f.Add("#! \t/x\x00 y\n")
	f.Fuzz(func(t *testing.T, head string) {
		if len(head) > headSize {
			head = head[:headSize]
		}
		interpreter, arg, ok := shebang(head)
		if !ok {
			return
		}
		if interpreter == "" || strings.ContainsAny(interpreter, " \t\n\x00") || strings.ContainsAny(arg, "\n\x00") {
			t.Errorf("shebang(%q) = %q, %q", head, interpreter, arg)
		}
	})
}

func TestLoaded(t *testing.T) {
	t.Parallel()
	tests := map[string]string{ // the program, and its arguments
		"ld.so":                                    "",
		"ld.so --list":                             "",
		"ld.so --":                                 "",
		"ld.so --argv0":                            "",
		"ld.so /bin/mkdir x":                       "/bin/mkdir /bin/mkdir x",
		"ld.so -- /bin/mkdir x":                    "/bin/mkdir /bin/mkdir x",
		"ld.so --library-path /lib /bin/mkdir x":   "/bin/mkdir /bin/mkdir x",
		"ld.so --preload a --audit b ./mkdir":      "./mkdir ./mkdir",
		"ld.so --argv0 ls /bin/mkdir":              "/bin/mkdir ls",
		"ld.so --argv0 mkdir /bin/busybox x":       "/bin/busybox mkdir x",
		"ld.so --inhibit-cache mkdir":              "mkdir mkdir",
		"ld.so --list /bin/mkdir":                  "/bin/mkdir /bin/mkdir",
		"ld.so --glibc-hwcaps-mask x /bin/mkdir":   "/bin/mkdir /bin/mkdir",
		"ld.so --inhibit-rpath /a:/b /bin/mkdir -": "/bin/mkdir /bin/mkdir -",
	}
	for line, want := range tests {
		if got := strings.Join(loaded(strings.Fields(line)), " "); got != want {
			t.Errorf("loaded(%s) = %q, want %q", line, got, want)
		}
	}
}

func TestApplet(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"busybox mkdir x":                    "mkdir",
		"/bin/busybox mkdir":                 "mkdir",
		"mkdir x":                            "mkdir",
		"./a/b/mkdir":                        "mkdir",
		"-sh":                                "sh",
		"-busybox sh":                        "sh",
		"busybox /x/y/mkdir":                 "mkdir",
		"busybox":                            "busybox",
		"busybox.static mkdir":               "mkdir",
		"/x/busybox-1.36 nc -l":              "nc",
		"/bin/../bin//busybox nc":            "nc",
		"busybox busybox mkdir x y z":        "mkdir",
		"busyboxes mkdir":                    "mkdir",
		"x":                                  "x",
		"toybox mkdir":                       "mkdir",
		"coreutils --coreutils_prog=mkdir x": "mkdir",
		"coreutils mkdir x":                  "mkdir",
	}
	for line, want := range tests {
		if got := applet(strings.Fields(line)); got != want {
			t.Errorf("applet(%s) = %q, want %q", line, got, want)
		}
	}
	if got := applet(nil); got != "" {
		t.Errorf("applet of nothing = %q", got)
	}
}

func TestCanonical(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"127.0.0.2":        "127.0.0.2",
		"0.0.0.0":          "127.0.0.1",
		"::":               "::1",
		"::ffff:127.0.0.2": "127.0.0.2",
		"::ffff:0.0.0.0":   "127.0.0.1",
		"2001:db8::1":      "2001:db8::1",
		"::127.0.0.2":      "::127.0.0.2", // compatible, not mapped: another address
	}
	for in, want := range tests {
		if got := Canonical(netip.MustParseAddr(in)); got != netip.MustParseAddr(want) {
			t.Errorf("Canonical(%s) = %s, want %s", in, got, want)
		}
	}
}

func TestDestination(t *testing.T) {
	t.Parallel()
	v4 := sockaddr(unix.AF_INET, netip.MustParseAddrPort("192.0.2.1:80"))
	v6 := sockaddr(unix.AF_INET6, netip.MustParseAddrPort("[2001:db8::1]:80"))
	mapped := sockaddr(unix.AF_INET6, netip.MustParseAddrPort("[::ffff:192.0.2.1]:80"))
	unspec := append([]byte{0, 0}, v4[2:]...)
	tests := []struct {
		name   string
		domain int
		op     Op
		addr   []byte
		want   string // "" for none
	}{
		{"IPv4", unix.AF_INET, Connect, v4, "192.0.2.1:80"},
		{"IPv4, longer than it must be", unix.AF_INET, Connect, append(v4[:16:16], make([]byte, 100)...), "192.0.2.1:80"},
		{"IPv4, too short", unix.AF_INET, Connect, v4[:15], ""},
		{"IPv6", unix.AF_INET6, Connect, v6, "[2001:db8::1]:80"},
		{"IPv6 without a scope", unix.AF_INET6, Connect, v6[:24], "[2001:db8::1]:80"},
		{"IPv6, too short", unix.AF_INET6, Connect, v6[:23], ""},
		{"mapped", unix.AF_INET6, Connect, mapped, "192.0.2.1:80"},
		{"IPv4 on an IPv6 socket", unix.AF_INET6, Send, v4, "192.0.2.1:80"},
		{"a disconnect", unix.AF_INET, Connect, unspec, ""},
		{"unspecified in a datagram", unix.AF_INET, Send, unspec, "192.0.2.1:80"},
		{"unspecified in an IPv6 datagram", unix.AF_INET6, Send, unspec, ""},
		{"nothing", unix.AF_INET, Send, nil, ""},
		{"one byte", unix.AF_INET, Send, v4[:1], ""},
	}
	for _, test := range tests {
		c := &Call{Op: test.op, kind: kind{domain: test.domain, typ: unix.SOCK_DGRAM}}
		got, ok := c.destination(test.addr)
		if ok != (test.want != "") || ok && got.String() != test.want {
			t.Errorf("%s: %v %v, want %q", test.name, got, ok, test.want)
		}
	}
}

func TestSameCommand(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name         string
		argv, judged []string
		want         bool
	}{
		{"same", []string{"a", "b"}, []string{"a", "b"}, true},
		{"other", []string{"a", "b"}, []string{"a", "c"}, false},
		{"longer", []string{"a", "b", "c"}, []string{"a", "b"}, false},
		{"shorter", []string{"a"}, []string{"a", "b"}, false},
		{"empty words", []string{"a", "", "b"}, []string{"a", "", "b"}, true},
		{"none", nil, []string{}, true},
		{"none, of a later kernel", []string{""}, []string{}, true},
		{"one in place of none", []string{"a"}, []string{}, false},
	}
	for _, test := range tests {
		if got := sameCommand(test.argv, test.judged); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

func TestUDPChecksum(t *testing.T) {
	t.Parallel()
	for _, ends := range [][2]string{{"192.0.2.1:53", "127.0.0.1:4711"}, {"[2001:db8::1]:53", "[::1]:4711"}} {
		from, to := netip.MustParseAddrPort(ends[0]), netip.MustParseAddrPort(ends[1])
		for n := range 40 {
			payload := make([]byte, n)
			for i := range payload {
				payload[i] = byte(i * 37)
			}
			p, err := packet(from, to, payload)
			if err != nil {
				t.Fatal(err)
			}
			udp := p[len(p)-n-8:]
			// Summing a datagram with its checksum in place gives zero (RFC 768).
			if got := udpChecksum(from.Addr().AsSlice(), to.Addr().AsSlice(), udp); got != 0xffff && got != 0 {
				t.Errorf("%s, %d bytes: %#x is left", from, n, got)
			}
		}
		if _, err := packet(from, to, make([]byte, 1<<16)); !errors.Is(err, unix.EMSGSIZE) {
			t.Errorf("too much: %v", err)
		}
	}
}

// TestNature looks at the programs of this machine, under their own names and
// under others.
func TestNature(t *testing.T) {
	t.Parallel()
	tests := []struct {
		program string
		want    nature
	}{
		{"/bin/busybox", nature{multiCall: true}},
		{"/lib64/ld-linux-x86-64.so.2", nature{loader: true}},
		{"/lib/ld-musl-x86_64.so.1", nature{loader: true}},
		{"/bin/sh", nature{}},
		{"/usr/bin/env", nature{}},
		{"/proc/self/exe", nature{}},
	}
	for _, test := range tests {
		data, err := os.ReadFile(test.program)
		if err != nil {
			t.Logf("%s: %v", test.program, err)
			continue
		}
		name := filepath.Join(t.TempDir(), "innocent")
		if err := os.WriteFile(name, data, 0o755); err != nil {
			t.Fatal(err)
		}
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Link(name, link); err != nil {
			t.Fatal(err)
		}
		var known natures
		for _, path := range []string{test.program, name, link, name} {
			f, err := lookup(os.Getpid(), os.Getpid, unix.AT_FDCWD, path)
			if err != nil {
				t.Fatal(err)
			}
			got, _, err := known.of(new(Call), f)
			if err != nil {
				t.Fatal(err)
			}
			got.head = ""
			if got.interpreter != "" && isLoader(filepath.Base(got.interpreter)) {
				got.interpreter = "" // as it should be
			}
			if got != test.want {
				t.Errorf("%s as %s: %+v, want %+v", test.program, path, got, test.want)
			}
			f.close()
		}
		// Two files: the link is one of them.
		if len(known.known) > 2 {
			t.Errorf("%s: %d files are remembered", test.program, len(known.known))
		}
		// Overwritten, it is another file.
		if err := os.WriteFile(name, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := lookup(os.Getpid(), os.Getpid, unix.AT_FDCWD, name)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, _ := known.of(new(Call), f); got != (nature{head: "#!/bin/sh\n"}) {
			t.Errorf("%s overwritten: %+v", test.program, got)
		}
		f.close()
	}
}

// TestReadELF: what a program is follows from what the kernel looks at, not
// from what its first bytes say.
func TestReadELF(t *testing.T) {
	t.Parallel()
	if runtime.GOARCH != "amd64" {
		t.Skip("the machines are those of amd64")
	}
	made := func(class elf.Class, order elf.Data, machine elf.Machine, at, size int) []byte {
		b := make([]byte, 64)
		copy(b, elf.ELFMAG)
		b[elf.EI_CLASS], b[elf.EI_DATA] = byte(class), byte(order)
		b[16], b[18], b[at] = byte(elf.ET_EXEC), byte(machine), byte(size)
		return b
	}
	for _, test := range []struct {
		name   string
		data   []byte
		second bool
	}{
		{"amd64", made(elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_X86_64, 54, 56), false},
		{"amd64 that says 32 bits", made(elf.ELFCLASS32, elf.ELFDATA2LSB, elf.EM_X86_64, 54, 56), false},
		{"amd64 that says another order", made(elf.ELFCLASS64, elf.ELFDATA2MSB, elf.EM_X86_64, 54, 56), false},
		{"x32", made(elf.ELFCLASS32, elf.ELFDATA2LSB, elf.EM_X86_64, 42, 32), true},
		{"x32 that says 64 bits", made(elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_X86_64, 42, 32), true},
		{"i386", made(elf.ELFCLASS32, elf.ELFDATA2LSB, elf.EM_386, 42, 32), true},
		{"i386 that says 64 bits", made(elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_386, 42, 32), true},
		{"i386, no longer than its header", made(elf.ELFCLASS32, elf.ELFDATA2LSB, elf.EM_386, 42, 32)[:52], true},
		{"for an emulator", made(elf.ELFCLASS32, elf.ELFDATA2LSB, elf.EM_ARM, 42, 32), false},
		{"cut off", made(elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_X86_64, 54, 56)[:10], false},
	} {
		if h := readELF(test.data); h.second != test.second {
			t.Errorf("%s: %+v", test.name, h)
		}
	}
	data, err := os.ReadFile("/lib64/ld-linux-x86-64.so.2")
	if err != nil {
		t.Skip(err)
	}
	for _, at := range []int{elf.EI_CLASS, elf.EI_DATA, elf.EI_VERSION} {
		odd := slices.Clone(data)
		odd[at] ^= 3
		n, err := readNature(bytes.NewReader(odd), int64(len(odd)))
		if err != nil {
			t.Fatal(err)
		}
		if !n.loader || n.multiCall || n.foreign {
			t.Errorf("a loader with another byte %d: %+v", at, n)
		}
	}
}

func FuzzReadELF(f *testing.F) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(self[:min(len(self), 4096)])
	f.Add([]byte("\x7fELF\x02\x01"))
	f.Fuzz(func(_ *testing.T, data []byte) { readELF(data) })
}

func BenchmarkReadNature(b *testing.B) {
	for _, name := range []string{"/bin/busybox", "/bin/sh", "/proc/self/exe"} {
		b.Run(filepath.Base(name), func(b *testing.B) {
			data, err := os.ReadFile(name)
			if err != nil {
				b.Skip(err)
			}
			for b.Loop() {
				_, _ = readNature(bytes.NewReader(data), int64(len(data)))
			}
		})
	}
}

func BenchmarkLookup(b *testing.B) {
	dir := b.TempDir()
	name := filepath.Join(dir, "file")
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		b.Fatal(err)
	}
	b.Chdir(dir)
	for _, path := range []string{name, "file"} {
		b.Run("lookup "+strconv.FormatBool(path[0] == '/'), func(b *testing.B) {
			for b.Loop() {
				f, err := lookup(os.Getpid(), os.Getpid, unix.AT_FDCWD, path)
				if err != nil {
					b.Fatal(err)
				}
				f.close()
			}
		})
		b.Run("place "+strconv.FormatBool(path[0] == '/'), func(b *testing.B) {
			c := &Call{TID: os.Getpid(), pid: os.Getpid()}
			for b.Loop() {
				p, err := c.place(unix.AT_FDCWD, path)
				if err != nil {
					b.Fatal(err)
				}
				p.close()
			}
		})
	}
}
