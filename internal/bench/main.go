// Command bench measures what protection costs, beside the bare command and
// beside its peers, and writes the results as a table, as JSON, and as the
// pages of docs/performance.md.
//
// The machine is never assumed to be quiet. The variants of a row run in turns,
// after one turn that does not count; a ratio is that of two runs of the same
// turn, and what is told is the median of the turns with their quartiles. A row
// whose program cannot be had says so, and the rest is measured.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	quick := flags.Bool("quick", false, "a few minutes: small counts, three turns")
	jsonFile := flags.String("json", "", "also write the results to `FILE`")
	plots := flags.String("plots", "", "also write performance.md and its drawings to `DIR`")
	from := flags.String("from", "", "measure nothing: take the results of `FILE[,FILE…]`, as -json writes them; the last that has a row counts")
	list := flags.Bool("list", false, "tell the rows and end")
	serveDNS := flags.String("serve-dns", "", "be a name server of the row dns, `SERVER,UPSTREAM,LISTEN`; for the program's own use")
	program := flags.String("defender", "", "the `PROGRAM` to measure; without it one is built")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: bench [flags] [ROW…]   a row is a name or the beginning of some")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	switch {
	case *serveDNS != "":
		return serveNames(ctx, *serveDNS)
	case *list:
		for _, r := range rows() {
			fmt.Printf("%-20s %s\n", r.name, r.what)
		}
		return nil
	case *from != "":
		rep, err := readReports(strings.Split(*from, ","))
		if err != nil {
			return err
		}
		return rep.publish(os.Stdout, *jsonFile, *plots)
	}
	chosen, err := choose(rows(), flags.Args())
	if err != nil {
		return err
	}
	if err := searchAsInAnImage(); err != nil {
		return err
	}
	b, err := newBench(ctx, *quick, *program)
	if err != nil {
		return err
	}
	defer b.close()
	rep := report{Machine: describeMachine(), Quick: *quick}
	for _, r := range chosen {
		res := b.measure(r)
		if ctx.Err() != nil { // tell what there is; no page is made of it
			return errors.Join(rep.publish(os.Stdout, *jsonFile, ""), errors.New("interrupted"))
		}
		rep.Results = append(rep.Results, res)
	}
	return rep.publish(os.Stdout, *jsonFile, *plots)
}

// searchAsInAnImage lets commands be looked for where images have them, and
// Go's last: shims and folders of the one who measures would be part of every
// command.
func searchAsInAnImage() error {
	goTool, err := exec.LookPath("go")
	if err != nil {
		return err
	}
	return os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:"+filepath.Dir(goTool))
}

// choose returns the rows whose names are given or begin so.
func choose(all []row, names []string) ([]row, error) {
	if len(names) == 0 {
		return all, nil
	}
	var chosen []row
	for _, name := range names {
		if !slices.ContainsFunc(all, func(r row) bool { return strings.HasPrefix(r.name, name) }) {
			return nil, fmt.Errorf("no row is called %q; -list tells them", name)
		}
	}
	for _, r := range all {
		if slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(r.name, name) }) {
			chosen = append(chosen, r)
		}
	}
	return chosen, nil
}

// report is everything one run has found; it is what -json writes.
type report struct {
	Machine machine  `json:"machine"`
	Quick   bool     `json:"quick"` // small counts: the method's check, not a measurement
	Results []result `json:"results"`
}

func readReport(name string) (*report, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var rep report
	if err := json.Unmarshal(data, &rep); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return &rep, nil
}

// readReports puts the results of several runs into one, in the order of the rows.
func readReports(names []string) (*report, error) {
	var all report
	found := make(map[string]result)
	for _, name := range names {
		rep, err := readReport(name)
		if err != nil {
			return nil, err
		}
		all.Machine, all.Quick = rep.Machine, all.Quick || rep.Quick
		for _, r := range rep.Results {
			found[r.Row] = r
		}
	}
	for _, r := range rows() {
		if res, ok := found[r.name]; ok {
			all.Results = append(all.Results, res)
		}
	}
	return &all, nil
}

// publish prints the table and writes the files that are asked for.
func (rep *report) publish(out *os.File, jsonFile, plots string) error {
	rep.table(out)
	if jsonFile != "" {
		data, err := json.MarshalIndent(rep, "", "\t")
		if err != nil {
			return err
		}
		if err := os.WriteFile(jsonFile, append(data, '\n'), 0o644); err != nil {
			return err
		}
	}
	if plots == "" {
		return nil
	}
	if err := os.MkdirAll(plots, 0o755); err != nil {
		return err
	}
	for _, g := range rep.groups() {
		if err := os.WriteFile(filepath.Join(plots, g.File()), g.plot(), 0o644); err != nil {
			return err
		}
	}
	page, err := rep.page()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(plots, "performance.md"), page, 0o644)
}
