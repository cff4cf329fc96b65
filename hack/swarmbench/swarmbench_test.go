package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/hack/fleet"
)

func TestBound(t *testing.T) {
	const size = 100e6
	for _, test := range []struct {
		scenario
		want time.Duration
	}{
		{scenario{nodes: 8, rate: 100, upstream: 100}, 8 * time.Second},
		{scenario{nodes: 8, rate: 100, upstream: 25}, 32 * time.Second},
		{scenario{nodes: 8, rate: 100, upstream: 1000}, 8 * time.Second},
		{scenario{nodes: 8, rate: 100, upstream: 1, holder: true}, 8 * time.Second},
		{scenario{nodes: 8, rate: 100, upstream: 100, slow: 25}, 32 * time.Second},
		{scenario{nodes: 8, rate: 100, upstream: 100, slow: 25, reference: "others"}, 8 * time.Second},
		{scenario{nodes: 3, rate: 100, upstream: 100, stagger: time.Second}, 10 * time.Second},
	} {
		if got := test.bound(size); (got - test.want).Abs() > time.Millisecond {
			t.Errorf("%+v: %v instead of %v", test.scenario, got, test.want)
		}
	}
}

// TestScenarios checks that what a scenario is compared with is measured before it.
func TestScenarios(t *testing.T) {
	before := map[string]bool{}
	for _, s := range scenarios() {
		if s.reference != "" && !before[s.reference] || s.fault != nil && s.victim == 0 || s.victim > s.nodes {
			t.Errorf("%+v", s)
		}
		before[s.name] = true
	}
}

func TestRun(t *testing.T) {
	if why := fleet.Unavailable(); why != "" {
		if os.Getenv("CI") == "true" && os.Geteuid() == 0 {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	var out, progress bytes.Buffer
	if err := run(t.Context(), []string{"-size=8", "-only=^4 nodes"}, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	for _, want := range []string{"direct", "kioo"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("nothing of %s in\n%s", want, out.String())
		}
	}
}
