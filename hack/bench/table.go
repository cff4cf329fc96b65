package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one line of the table: one quantity of Kioo and of what it is compared with.
type row struct {
	Name string `json:"name"`
	Unit string `json:"unit"`
	// Against says what Other is of.
	Against string  `json:"against,omitempty"`
	Kioo    float64 `json:"kioo"`
	Other   float64 `json:"other,omitempty"`
	// Result is the median over the rounds of Kioo/Other, or of Kioo-Other in Unit where Difference says so.
	Result     float64 `json:"result,omitempty"`
	Difference bool    `json:"difference,omitempty"`
	// Least and Most are the extremes of Result in single rounds.
	Least float64 `json:"least,omitempty"`
	Most  float64 `json:"most,omitempty"`
	Goal  *goal   `json:"goal,omitempty"`
	Met   *bool   `json:"met,omitempty"`
	// Note says why there is nothing to see.
	Note string `json:"note,omitempty"`
	// Foot is what a reader must know of this row and those after it.
	Foot string `json:"foot,omitempty"`
}

// goal bounds a result.
type goal struct {
	AtLeast float64 `json:"atLeast,omitempty"`
	AtMost  float64 `json:"atMost,omitempty"`
}

func atLeast(v float64) *goal { return &goal{AtLeast: v} }
func atMost(v float64) *goal  { return &goal{AtMost: v} }

func (g *goal) met(v float64) bool {
	if g.AtMost > 0 {
		return v <= g.AtMost
	}
	return v >= g.AtLeast
}

func (g *goal) String() string {
	if g.AtMost > 0 {
		return fmt.Sprintf("<= %.4g", g.AtMost)
	}
	return fmt.Sprintf(">= %.4g", g.AtLeast)
}

// pairs are measurements taken in turns: the n-th of each belong together.
type pairs struct{ kioo, other []float64 }

func (p *pairs) add(kioo, other float64) {
	p.kioo, p.other = append(p.kioo, kioo), append(p.other, other)
}

// ratio makes a row of the ratios, each of one round.
func (p *pairs) ratio(name, unit, against string, g *goal) row {
	return p.row(row{Name: name, Unit: unit, Against: against, Goal: g}, func(k, o float64) float64 { return k / o })
}

// difference makes a row of the differences, each of one round.
func (p *pairs) difference(name, unit, against string, g *goal) row {
	return p.row(row{Name: name, Unit: unit, Against: against, Goal: g, Difference: true}, func(k, o float64) float64 { return k - o })
}

func (p *pairs) row(r row, compare func(kioo, other float64) float64) row {
	results := make([]float64, len(p.kioo))
	for i := range results {
		results[i] = compare(p.kioo[i], p.other[i])
		if math.IsNaN(results[i]) || math.IsInf(results[i], 0) { // A processor's time is counted in hundredths of a second.
			r.Note = "too little to measure"
			return r
		}
	}
	r.Kioo, r.Other, r.Result = median(p.kioo), median(p.other), median(results)
	r.Least, r.Most = slices.Min(results), slices.Max(results)
	if r.Goal != nil {
		met := r.Goal.met(r.Result)
		r.Met = &met
	}
	return r
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func printTable(w io.Writer, rows []row, about string, took time.Duration) error {
	fmt.Fprintf(w, "%s; took %v\n\n", about, took.Round(time.Second))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	var width int // The first column is flushed left, the others right.
	for _, r := range rows {
		width = max(width, len(r.title()))
	}
	fmt.Fprintf(t, "%-*s\tkioo\tother\t\tkioo:other\t(rounds)\tgoal\tmet\t\n", width, "what")
	for _, r := range rows {
		fmt.Fprintf(t, "%-*s\t%s\n", width, r.title(), r.cells())
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print the table: %w", err)
	}
	notes := "\nMedians; \"rounds\" are the extremes of single rounds; CPU and memory are the servers' own, if not said otherwise.\n"
	for _, r := range rows {
		if r.Foot != "" {
			notes += fmt.Sprintf("%s: %s\n", r.Name, r.Foot)
		}
	}
	_, err := io.WriteString(w, notes)
	return err
}

func (r row) title() string { return r.Name + ", " + r.Unit }

func (r row) cells() string {
	if r.Note != "" {
		return r.Note
	}
	if r.Against == "" {
		return number(r.Kioo) + "\t\t\t\t\t\t\t"
	}
	result, span := fmt.Sprintf("%.3f", r.Result), fmt.Sprintf("(%.2f-%.2f)", r.Least, r.Most)
	if r.Difference {
		result, span = fmt.Sprintf("%+.2f %s", r.Result, r.Unit), fmt.Sprintf("(%+.1f to %+.1f)", r.Least, r.Most)
	}
	cells := []string{number(r.Kioo), number(r.Other), r.Against, result, span, "", "", ""}
	if r.Goal != nil {
		cells[5], cells[6] = r.Goal.String(), "NO"
		if *r.Met {
			cells[6] = "yes"
		}
	}
	return strings.Join(cells, "\t")
}

// number writes three digits or so, and large numbers in full.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// machine says where the numbers are from.
func machine() string {
	model := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d x %s, %s, %s/%s", runtime.NumCPU(), model, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
