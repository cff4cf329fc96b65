package fleet

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
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
