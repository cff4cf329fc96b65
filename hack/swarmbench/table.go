package main

import (
	"fmt"
	"io"
	"runtime"
	"text/tabwriter"
	"time"
)

// busy is the share of the machine's time from which on its processors, and not the links, set the pace.
const busy = 0.9

// table collects results and prints them.
type table struct {
	out   io.Writer
	size  int64
	kioo  map[string]result // Kioo's, by scenario.
	lines [][]string
}

func newTable(out io.Writer, size int64) *table {
	return &table{out: out, size: size, kioo: map[string]result{}}
}

func (t *table) add(s scenario, sys system, r result) {
	bound := s.bound(t.size * 1e6)
	// Where something happened to one node, the others count.
	ratio := r.makespan.Seconds() / bound.Seconds()
	if s.reference != "" {
		ratio = r.others.Seconds() / bound.Seconds()
	}
	goal := ""
	if s.goal > 0 && sys.kioo {
		goal = verdict(fmt.Sprintf("<= %.2f", s.goal), ratio <= s.goal)
	}
	if undisturbed, ok := t.kioo[s.reference]; ok {
		times := r.others.Seconds() / undisturbed.others.Seconds()
		goal = verdict(fmt.Sprintf("%.2f of undisturbed <= 1.5", times), times <= 1.5)
	}
	note := ""
	if r.busy > busy {
		note = "CPU, not the links, was the limit"
	}
	cells := []string{
		s.name, sys.name, seconds(r.makespan), seconds(r.others), seconds(r.median), seconds(bound), fmt.Sprintf("%.2f", ratio),
		fmt.Sprintf("%.2f", r.copies), fmt.Sprint(r.tags), "", "", fmt.Sprintf("%.0f%%", 100*r.busy), goal, note,
	}
	if sys.kioo {
		t.kioo[s.name] = r
		cells[9], cells[10] = fmt.Sprintf("%.0f", float64(r.peak)/(1<<20)), fmt.Sprintf("%.1f", r.work.Seconds())
	}
	t.lines = append(t.lines, cells)
}

// fail adds what could not be measured.
func (t *table) fail(s scenario, sys system) {
	cells := make([]string, 14)
	cells[0], cells[1], cells[2] = s.name, sys.name, "FAILED"
	t.lines = append(t.lines, cells)
}

func verdict(goal string, met bool) string {
	if met {
		return goal + " yes"
	}
	return goal + " NO"
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()) }

func (t *table) print(took time.Duration) error {
	fmt.Fprintf(t.out, "An image of %d MB in 2 layers, pulled through CRI at the same instant. %d processors, %s; took %v.\n\n",
		t.size, runtime.NumCPU(), runtime.Version(), took.Round(time.Second))
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	header := []string{
		"what", "through", "last s", "others s", "p50 s", "bound s", "ratio", "copies", "tags", "MiB", "CPU s/GiB", "busy", "goal", "",
	}
	for _, line := range append([][]string{header}, t.lines...) {
		for _, cell := range line {
			fmt.Fprintf(w, "%s\t", cell)
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print the table: %w", err)
	}
	_, err := fmt.Fprint(t.out, `
last: when the last node has the image; others: the last one to which nothing happened; bound: what the links allow at
best; ratio: last to bound, or others to bound where something happened to a node. copies: what upstream sent, in images;
tags: how often it was asked for the tag. MiB: the largest mirror's peak resident set; CPU s/GiB: what the mirrors used
for each GiB that a node got; busy: the machine, containerds and registry included.
`)
	return err
}
