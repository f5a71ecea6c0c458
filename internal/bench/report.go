package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"html"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"
)

// table prints all results for a terminal.
func (rep *report) table(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ROW\tVARIANT\tMEDIAN\tQUARTILES\tRATIO\tBOUND")
	for _, r := range rep.Results {
		if r.Missing != "" {
			fmt.Fprintf(w, "%s\t%s\n", r.Row, r.Missing)
		}
		for _, c := range r.Cells {
			if c.Missing != "" || len(c.Runs) == 0 {
				fmt.Fprintf(w, "%s\t%s\t%s\n", r.Row, c.Variant, c.why())
				continue
			}
			ratio := ""
			if c.Ratio > 0 {
				ratio = fmt.Sprintf("%.2f×", c.Ratio)
			}
			var bounds []string
			for _, k := range r.Bounds {
				if k.Variant == c.Variant {
					bounds = append(bounds, k.String())
				}
			}
			fmt.Fprintf(w, "%s\t%s\t%s %s\t%s–%s\t%s\t%s\n", r.Row, c.Variant, figure(c.Median), r.Unit, figure(c.Low), figure(c.High), ratio,
				strings.Join(bounds, ", "))
		}
	}
	w.Flush()
}

func (c *cell) why() string {
	if c.Missing != "" {
		return c.Missing
	}
	return "not measured"
}

func (k check) String() string {
	if k.Met {
		return k.Bound + " met"
	}
	return k.Bound + " NOT MET"
}

// figure is a number with three digits that count.
func figure(v float64) string {
	a := math.Abs(v)
	switch {
	case a >= 1e6:
		return fmt.Sprintf("%.2fM", v/1e6)
	case a >= 1e4:
		return fmt.Sprintf("%.1fk", v/1e3)
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// group is a chapter of the page.
type group struct {
	Name     string
	Variants []string
	Rows     []result
}

func (rep *report) groups() []group {
	var all []group
	for _, name := range groupNamesInOrder() {
		g := group{Name: name}
		for _, r := range rep.Results {
			if r.Group != name {
				continue
			}
			g.Rows = append(g.Rows, r)
			for _, c := range r.Cells {
				if !slices.Contains(g.Variants, c.Variant) {
					g.Variants = append(g.Variants, c.Variant)
				}
			}
		}
		if len(g.Rows) > 0 {
			slices.SortStableFunc(g.Variants, func(a, b string) int { return slices.Index(columns, a) - slices.Index(columns, b) })
			all = append(all, g)
		}
	}
	return all
}

// columns is the order in which variants stand beside each other.
var columns = []string{"bare", "filter", "floor", "defender", "judged", "notify", "default", "ptrace", "strace", "runsc", "tini", "dumb-init", "dnsmasq", "unbound", "naive"}

// File is the name of the group's drawing.
func (g group) File() string {
	return "performance-" + strings.ReplaceAll(strings.ToLower(strings.ReplaceAll(g.Name, ",", "")), " ", "-") + ".svg"
}

// Table is the group as Markdown.
func (g group) Table() string {
	var b strings.Builder
	b.WriteString("| row | what | unit | " + strings.Join(g.Variants, " | ") + " | bound |\n|---|---|---|" + strings.Repeat("---:|", len(g.Variants)) + "---|\n")
	for _, r := range g.Rows {
		fmt.Fprintf(&b, "| %s | %s | %s |", r.Row, r.What, r.Unit)
		if r.Missing != "" {
			fmt.Fprintf(&b, " %s |%s\n", r.Missing, strings.Repeat(" |", len(g.Variants)))
			continue
		}
		for _, name := range g.Variants {
			b.WriteString(" " + r.markdown(name) + " |")
		}
		var bounds []string
		for _, k := range r.Bounds {
			text := k.Variant + " " + k.Bound + " ✓"
			if !k.Met {
				text = "**" + k.Variant + " " + k.Bound + " ✗**"
			}
			bounds = append(bounds, text)
		}
		b.WriteString(" " + strings.Join(bounds, ", ") + " |\n")
	}
	return b.String()
}

// markdown is one cell: the median, half the distance of the quartiles as its
// spread, and the ratio.
func (r *result) markdown(variant string) string {
	for _, c := range r.Cells {
		switch {
		case c.Variant != variant:
		case c.Missing != "" || len(c.Runs) == 0:
			return "–"
		case c.Ratio > 0:
			return fmt.Sprintf("%s ±%s (%.2f×)", figure(c.Median), figure((c.High-c.Low)/2), c.Ratio)
		case len(c.Runs) > 1:
			return fmt.Sprintf("%s ±%s", figure(c.Median), figure((c.High-c.Low)/2))
		default:
			return figure(c.Median)
		}
	}
	return ""
}

//go:embed performance.md.tmpl
var pageText string

// page is docs/performance.md: prose that is kept in the template, and what
// was measured.
func (rep *report) page() ([]byte, error) {
	t, err := template.New("performance.md").Parse(pageText)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, struct {
		*report
		Groups []group
		Missed []check
	}{rep, rep.groups(), rep.missed()})
	return b.Bytes(), err
}

// missed are the bounds that did not hold, with their row for a name.
func (rep *report) missed() []check {
	var all []check
	for _, r := range rep.Results {
		for _, k := range r.Bounds {
			if !k.Met {
				k.Variant = r.Row + ", " + k.Variant
				all = append(all, k)
			}
		}
	}
	return all
}

// Figure is the value of a bound, for the page.
func (k check) Figure() string { return figure(k.Value) }

// colours tell the variants apart, also for those who see few colours
// (Okabe and Ito).
var colours = map[string]string{
	"bare": "#999999", "filter": "#bbbbbb", "floor": "#f0e442", "defender": "#0072b2", "notify": "#0072b2", "judged": "#003f5c", "default": "#009e73", "ptrace": "#56b4e9", "strace": "#d55e00",
	"runsc": "#cc79a7", "tini": "#009e73", "dumb-init": "#e69f00", "dnsmasq": "#009e73", "unbound": "#e69f00",
}

// plot draws the group: a bar for each variant, as long as the logarithm of
// its ratio to the row's base, or of its value where there is none. Bars grow to
// the right where a variant costs more, to the left where less.
func (g group) plot() []byte {
	const left, width, bar, gap = 190.0, 560.0, 9.0, 10.0
	type line struct {
		label   string
		variant string
		ratio   float64
		text    string
	}
	var lines []line
	most := 2.0
	for _, r := range g.Rows {
		label := r.Row
		for _, c := range r.Cells {
			if c.Missing != "" || len(c.Runs) == 0 {
				continue
			}
			l := line{label: label, variant: c.Variant, ratio: c.Ratio}
			base := r.cell(r.Base)
			switch {
			case c.Variant == r.Base:
				l.ratio, l.text = 1, figure(c.Median)+" "+r.Unit
			case c.Ratio > 0:
				l.text = fmt.Sprintf("%.2f×", c.Ratio)
			case base == nil || base.Median == 0:
				l.ratio, l.text = 1, figure(c.Median)+" "+r.Unit
			}
			most = math.Max(most, math.Max(l.ratio, 1/l.ratio))
			lines = append(lines, l)
			label = ""
		}
	}
	lessThanBase := slices.ContainsFunc(lines, func(l line) bool { return l.ratio < 0.995 })
	zero, scale := left, width/math.Log(most)
	if lessThanBase {
		zero, scale = left+width/2, width/2/math.Log(most)
	}
	var b strings.Builder
	y := 40.0
	for i, l := range lines {
		if l.label != "" && i > 0 {
			y += gap
		}
		from, to := zero, zero+math.Log(l.ratio)*scale
		if from > to {
			from, to = to, from
		}
		if l.label != "" {
			fmt.Fprintf(&b, "<text x=%q y=%q text-anchor=\"end\">%s</text>\n", pos(left-8), pos(y+bar), html.EscapeString(l.label))
		}
		fmt.Fprintf(&b, "<rect x=%q y=%q width=%q height=%q fill=%q/>\n", pos(from), pos(y), pos(math.Max(to-from, 1.5)), pos(bar), colours[l.variant])
		fmt.Fprintf(&b, "<text x=%q y=%q font-size=\"9\">%s</text>\n", pos(to+4), pos(y+bar-1), html.EscapeString(l.text))
		y += bar + 2
	}
	var legend strings.Builder
	x := left
	for _, v := range g.Variants {
		fmt.Fprintf(&legend, "<rect x=%q y=\"14\" width=\"10\" height=\"10\" fill=%q/><text x=%q y=\"23\">%s</text>\n", pos(x), colours[v], pos(x+14), html.EscapeString(v))
		x += 30 + 7*float64(len(v))
	}
	return fmt.Appendf(nil, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 830 %s" font-family="sans-serif" font-size="11">
<title>%s: ratio to the base, logarithmic</title>
<rect width="100%%" height="100%%" fill="white"/>
<text x="8" y="23" font-weight="bold">%[2]s</text>
%s<line x1=%q x2=%[4]q y1="32" y2=%[5]q stroke="#666"/>
%[6]s</svg>
`, pos(y+10), html.EscapeString(g.Name), legend.String(), pos(zero), pos(y), b.String())
}

func pos(v float64) string { return fmt.Sprintf("%.1f", v) }
