package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
)

// call is one that testdata/micro.c makes again and again.
type call struct {
	name, what string
	count      int
	variants   []string // with one thread; ways otherwise
	bounds     []bound
}

// callRows are single calls, with one thread and with several.
func callRows() []row {
	var all []row
	for _, c := range []call{
		{"getpid", "getppid, which no rule asks about", 1e6, unasked, free},
		{"read", "64 bytes of /dev/zero", 1e6, unasked, free},
		{"open", "open to read, and close", 100e3, unasked, free},
		{"write-open", "open to write, and close", 100e3, unasked, free},
		{"prlimit", "prlimit of oneself; only that of others is asked about", 100e3, unasked, nil},
		{"kill", "kill of oneself with no signal, likewise", 100e3, unasked, nil},
		{
			"raw", "a raw socket, and close: one notification, judged by what is in registers and let go", 5e3, ways,
			[]bound{{"notify", addedAtMost, 8}},
		},
		{
			"associate", "connect of a UDP socket: one notification, judged and performed", 5e3, append([]string{"floor", "default"}, ways...),
			[]bound{{"notify", addedAtMost, 8}},
		},
		{"unix", "connect of a Unix socket", 5e3, ways, nil},
		{"lookup", "execve of a file that is not there", 5e3, ways, nil},
		{
			"vfork", "vfork, execve of a static program, wait", 300, append([]string{"floor", "runsc", "judged", "default"}, ways...),
			[]bound{{"notify", ratioAtMost, 1.5}, {"judged", ratioAtMost, 1.25}},
		},
		{
			"fork", "fork, execve of a static program, wait", 300, append([]string{"floor", "judged", "default"}, ways...),
			[]bound{{"notify", ratioAtMost, 1.5}, {"judged", ratioAtMost, 1.25}},
		},
		{
			"connect", "socket, connect over loopback, close", 2e3, append([]string{"floor", "runsc", "default"}, ways...),
			[]bound{{"notify", ratioAtMost, 1.6}},
		},
		{"sendto", "an addressed datagram over loopback", 1e3, ways, nil},
		{"sendmsg", "the same by sendmsg", 5e3, ways, nil},
		{"sendmmsg", "eight addressed datagrams by one sendmmsg", 2e3, ways, nil},
		{"listen", "socket, bind, listen, close", 2e3, ways, nil},
	} {
		all = append(all, c.rows(groupCalls, groupThreads, (*bench).micro)...)
	}
	for _, c := range []call{
		{"files-open", "open to read, and close", 100e3, unasked, free},
		{"files-write-open", "open to write, and close", 3e3, ways, nil},
		{"files-rename", "rename, there and back", 1e3, ways, nil},
		{"files-link", "link, unlink", 1e3, ways, nil},
		{"files-mkdir", "mkdir, rmdir", 500, ways, nil},
		{"files-chmod", "chmod", 3e3, ways, nil},
		{"files-truncate", "truncate", 3e3, ways, nil},
	} {
		all = append(all, c.rows(groupFiles, groupFiles, func(b *bench, v variant, name string, threads, count int) (float64, error) {
			b.files = true
			defer func() { b.files = false }()
			v, err := b.variant(v.name)
			if err != nil {
				return 0, err
			}
			return b.micro(v, strings.TrimPrefix(name, "files-"), threads, count)
		})...)
	}
	return all
}

// rows are the call with one thread, and with 2, 8 and 64.
func (c call) rows(alone, together string, measure func(b *bench, v variant, name string, threads, count int) (float64, error)) []row {
	var all []row
	for _, threads := range []int{1, 2, 8, 64} {
		r := row{
			name: c.name, group: alone, what: c.what, unit: "µs", variants: c.variants, base: "bare", bounds: c.bounds,
			measure: func(b *bench, v variant) (float64, error) { return measure(b, v, c.name, threads, c.count) },
		}
		if threads > 1 {
			r.name = fmt.Sprintf("%s-%d", c.name, threads)
			r.group, r.bounds, r.turns = together, nil, 3
			r.what = fmt.Sprintf("%s; %d threads", c.what, threads)
			r.variants = ways[:3] // strace stops threads at every call
		}
		if &c.variants[0] == &unasked[0] {
			r.base = "filter"
			r.variants = unasked
			if threads > 1 {
				r.variants = unasked[:4]
			}
		}
		all = append(all, r)
	}
	return all
}

// A call that nobody asks about is held against a filter of four instructions
// that lets it pass as well.
var (
	unasked = []string{"filter", "bare", "notify", "ptrace", "strace"}
	free    = []bound{{"notify", ratioAtMost, 1.02}}
)

// micro returns the microseconds of one call: the median of single calls, or
// with threads the time of all divided by their number.
func (b *bench) micro(v variant, call string, threads, count int) (float64, error) {
	if v.name == "strace" { // which stops threads at every call, asked about or not: the rest would wait for it
		count = max(count/20, 200)
	}
	cmd := b.command(v, b.path("micro"), call, strconv.Itoa(threads), strconv.Itoa(b.count(count)), b.path("true"))
	var out, diagnosis bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diagnosis
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%w: %s", err, lastLine(diagnosis.Bytes()))
	}
	return microResult(out.String(), threads)
}

func microResult(text string, threads int) (float64, error) {
	var all, median, worst float64
	if _, err := fmt.Sscan(text, &all, &median, &worst); err != nil {
		return 0, fmt.Errorf("reading %q of micro: %w", text, err)
	}
	if threads > 1 {
		return all / 1000, nil
	}
	return median / 1000, nil
}

// held is a micro that waits before its calls and after them, so that its
// supervisor can be looked at.
type held struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	sup   int
	stray bytes.Buffer
}

// hold starts micro under v and stops before the first call.
func (b *bench) hold(v variant, call string, threads, count int) (*held, error) {
	h := &held{cmd: b.command(v, b.path("micro"), "-g", call, strconv.Itoa(threads), strconv.Itoa(count), b.path("true"))}
	var err error
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.out = bufio.NewReader(out)
	h.cmd.Stderr = &h.stray
	if err := h.cmd.Start(); err != nil {
		return nil, err
	}
	// micro tells when it stands at the gate: all of its threads are made.
	if _, err := h.out.ReadString('\n'); err != nil {
		h.end()
		return nil, fmt.Errorf("starting micro: %w: %s", err, lastLine(h.stray.Bytes()))
	}
	h.sup = supervisorOf(h.cmd.Process.Pid)
	return h, nil
}

// calls lets it make them.
func (h *held) calls() error {
	if _, err := io.WriteString(h.in, "\n"); err != nil {
		return err
	}
	line, err := h.out.ReadString('\n')
	if err == nil && strings.TrimSpace(line) == "" {
		err = errors.New("micro said nothing")
	}
	return err
}

// end lets it end.
func (h *held) end() {
	h.in.Close()
	_ = h.cmd.Wait()
}
