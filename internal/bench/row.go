package main

import (
	"errors"
	"fmt"
	"math"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// row is one thing to measure.
type row struct {
	name, group, what string
	unit              string // of what measure returns; "s" and its parts are told as they suit
	more              bool   // more is better
	variants          []string
	base              string   // the variant that ratios are against; the first if empty
	needs             []string // programs
	turns             int      // fewer than usual, for what takes long or does not vary
	once              bool     // one turn, without a warm-up: what is counted, not timed
	full              bool     // too long for -quick
	bounds            []bound
	measure           func(b *bench, v variant) (float64, error)
}

// bound is a promise about one variant of a row.
type bound struct {
	of    string // variant
	kind  boundKind
	limit float64
}

type boundKind uint8

const (
	ratioAtMost  boundKind = iota // times the base
	ratioAtLeast                  // times the base
	addedAtMost                   // over the base, in the row's unit
	atMost                        // by itself, in the row's unit
	atLeast
	beats // the variant is no worse than any other
)

func (o bound) text(unit string) string {
	v := fmt.Sprintf("%.4g", o.limit)
	switch o.kind {
	case ratioAtMost:
		return v + "×"
	case ratioAtLeast:
		return "≥ " + v + "×"
	case addedAtMost:
		return "+" + v + " " + unit
	case atMost:
		return "≤ " + v + " " + unit
	case atLeast:
		return "≥ " + v + " " + unit
	}
	return "the best"
}

// result is what a row came to.
type result struct {
	Row     string  `json:"row"`
	Group   string  `json:"group"`
	What    string  `json:"what"`
	Unit    string  `json:"unit"`
	More    bool    `json:"moreIsBetter,omitempty"`
	Base    string  `json:"base"`
	Missing string  `json:"missing,omitempty"` // why there is nothing
	Cells   []cell  `json:"cells,omitempty"`
	Bounds  []check `json:"bounds,omitempty"`
}

// cell is one variant of a row: medians of the turns, with quartiles.
type cell struct {
	Variant   string    `json:"variant"`
	Missing   string    `json:"missing,omitempty"`
	Median    float64   `json:"median"`
	Low       float64   `json:"low"`
	High      float64   `json:"high"`
	Ratio     float64   `json:"ratio,omitempty"` // to the base, 0 without one
	RatioLow  float64   `json:"ratioLow,omitempty"`
	RatioHigh float64   `json:"ratioHigh,omitempty"`
	Runs      []float64 `json:"runs"`
}

// check is a bound and whether it held.
type check struct {
	Variant string  `json:"variant"`
	Bound   string  `json:"bound"`
	Value   float64 `json:"value"`
	Met     bool    `json:"met"`
}

func (r *result) cell(variant string) *cell {
	for i := range r.Cells {
		if r.Cells[i].Variant == variant && r.Cells[i].Missing == "" {
			return &r.Cells[i]
		}
	}
	return nil
}

// errMissing says what a measurement lacks on this machine.
type errMissing string

func (e errMissing) Error() string { return string(e) }

// turnTime bounds one run of one variant: a hang must not end the others.
const turnTime = 5 * time.Minute

// measure runs a row's variants in turns.
func (b *bench) measure(r row) result {
	res := result{Row: r.name, Group: r.group, What: r.what, Unit: r.unit, More: r.more, Base: r.base}
	if res.Base == "" {
		res.Base = r.variants[0]
	}
	for _, p := range r.needs {
		if _, err := exec.LookPath(p); err != nil {
			res.Missing = "there is no " + p + " here"
			return res
		}
	}
	if r.full && b.quick {
		res.Missing = "left out of a quick run"
		return res
	}
	turns, first := b.turns(r.turns), -1
	if r.once {
		turns, first = 1, 0
	}
	runs := make(map[string][]float64)
	missing := make(map[string]string)
	for turn := first; turn < turns && b.ctx.Err() == nil; turn++ {
		for i := range r.variants {
			// Whoever comes first meets what the last turn left behind.
			v, err := b.variant(r.variants[(i+turn+1)%len(r.variants)])
			if missing[v.name] != "" {
				continue
			}
			value := math.NaN()
			if err == nil {
				b.progress("%s %s %d/%d", r.name, v.name, turn+1, turns)
				value, err = r.measure(b, v)
				b.sweep()
			}
			var lacks errMissing
			switch {
			case err != nil && b.ctx.Err() != nil:
			case errors.As(err, &lacks):
				missing[v.name] = string(lacks)
			case err != nil:
				missing[v.name] = "failed: " + strings.ReplaceAll(err.Error(), "\n", " ")
				b.progress("%s %s: %v\n", r.name, v.name, err)
			case turn >= 0:
				runs[v.name] = append(runs[v.name], value)
			}
		}
	}
	for _, name := range r.variants {
		c := cell{Variant: name, Missing: missing[name], Runs: runs[name]}
		if c.Missing == "" && len(c.Runs) > 0 {
			c.Low, c.Median, c.High = quartiles(c.Runs)
			if base := runs[res.Base]; name != res.Base && missing[res.Base] == "" && len(base) == len(c.Runs) {
				var ratios []float64
				for i, v := range c.Runs {
					ratios = append(ratios, v/base[i])
				}
				c.RatioLow, c.Ratio, c.RatioHigh = quartiles(ratios)
			}
		}
		res.Cells = append(res.Cells, c)
	}
	for _, o := range r.bounds {
		if c, ok := res.check(o); ok {
			res.Bounds = append(res.Bounds, c)
		}
	}
	b.progress("")
	return res
}

// check holds a bound against what was found; ok is false if nothing was.
func (r *result) check(o bound) (c check, ok bool) {
	got, base := r.cell(o.of), r.cell(r.Base)
	c = check{Variant: o.of, Bound: o.text(r.Unit)}
	if got == nil || len(got.Runs) == 0 {
		return c, false
	}
	switch o.kind {
	case ratioAtMost:
		c.Value = got.Ratio
		c.Met = got.Ratio > 0 && got.Ratio <= o.limit
	case ratioAtLeast:
		c.Value = got.Ratio
		c.Met = got.Ratio >= o.limit
	case addedAtMost:
		if base == nil {
			return c, false
		}
		c.Value = got.Median - base.Median
		c.Met = c.Value <= o.limit
	case atMost:
		c.Value, c.Met = got.Median, got.Median <= o.limit
	case atLeast:
		c.Value, c.Met = got.Median, got.Median >= o.limit
	case beats:
		c.Value, c.Met = got.Median, true
		for _, other := range r.Cells {
			if other.Missing == "" && len(other.Runs) > 0 && (other.Median > got.Median) == r.More && other.Median != got.Median {
				c.Met = false
			}
		}
	}
	return c, true
}

// quartiles returns the first, second and third quartile.
func quartiles(values []float64) (low, median, high float64) {
	s := slices.Sorted(slices.Values(values))
	at := func(q float64) float64 {
		p := q * float64(len(s)-1)
		i := int(p)
		if i+1 >= len(s) {
			return s[len(s)-1]
		}
		return s[i] + (p-float64(i))*(s[i+1]-s[i])
	}
	return at(0.25), at(0.5), at(0.75)
}
