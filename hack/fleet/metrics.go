package fleet

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Metrics are the samples of one scrape, by name and labels as they were printed: name{a="1",b="2"}.
type Metrics map[string]float64

// Metrics asks the node's Kioo for its metrics.
func (n *Node) Metrics(ctx context.Context) (Metrics, error) {
	resp, err := n.Get(ctx, "http://"+MetricsAddr+"/metrics")
	if err != nil {
		return nil, fmt.Errorf("metrics of %s: %w", n.Name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics of %s: %s", n.Name, resp.Status)
	}
	m, err := parseMetrics(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("metrics of %s: %w", n.Name, err)
	}
	return m, nil
}

// Await waits until each node's Kioo has said so once, one node after the other. ctx bounds it; what is for its error.
func (f *Fleet) Await(ctx context.Context, what string, ok func(Metrics) bool) error {
	for _, n := range f.Nodes {
		for {
			m, err := n.Metrics(ctx)
			if err != nil {
				return fmt.Errorf("wait until %s %s: %w", n.Name, what, err)
			}
			if ok(m) {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("wait until %s %s: %w", n.Name, what, ctx.Err())
			case <-time.After(awaitEvery):
			}
		}
	}
	return nil
}

// awaitEvery is how often a node is asked by who waits for it.
const awaitEvery = 50 * time.Millisecond

// Settle waits until every node knows all others. ctx bounds it.
func (f *Fleet) Settle(ctx context.Context) error {
	return f.Await(ctx, "knows all others", func(m Metrics) bool {
		return int(m.Sum("kioo_discovery_members", `state="live"`)) >= len(f.Nodes)-1
	})
}

// parseMetrics reads the text format of Prometheus, as far as Kioo writes it: without timestamps.
func parseMetrics(r io.Reader) (Metrics, error) {
	m := Metrics{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		space := strings.LastIndexByte(line, ' ')
		if space < 0 {
			return nil, fmt.Errorf("line %q has no value", line)
		}
		value, err := strconv.ParseFloat(line[space+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
		m[line[:space]] = value
	}
	return m, lines.Err()
}

// Sum adds up all samples of that name which have all these labels, each as label="value".
func (m Metrics) Sum(name string, labels ...string) float64 {
	var sum float64
	for series, value := range m {
		base, rest, _ := strings.Cut(series, "{")
		if base == name && hasAll("{"+rest, labels) {
			sum += value
		}
	}
	return sum
}

func hasAll(set string, labels []string) bool {
	for _, label := range labels {
		if !strings.Contains(set, "{"+label) && !strings.Contains(set, ","+label) {
			return false
		}
	}
	return true
}
