package session

import (
	"slices"
	"testing"

	"github.com/kioo-dev/kioo/pkg/swarm"
)

func TestReconcile(t *testing.T) {
	up := func(start, end int64) swarm.Lease { return swarm.Lease{Start: start, End: end} }
	for _, test := range []struct {
		name    string
		running []reading
		want    []swarm.Lease
		ends    []int64
		starts  []swarm.Lease
	}{
		{name: "nothing"},
		{name: "the first", want: []swarm.Lease{up(0, -1)}, starts: []swarm.Lease{up(0, -1)}},
		{"the size is known now", []reading{{"", 5, -1}}, []swarm.Lease{up(0, 100)}, []int64{100}, nil},
		{"cut", []reading{{"", 20, 100}}, []swarm.Lease{up(0, 50)}, []int64{50}, nil},
		{"cut behind where it is", []reading{{"", 60, 100}}, []swarm.Lease{up(0, 50)}, []int64{stop}, []swarm.Lease{up(0, 50)}},
		{"longer", []reading{{"", 20, 30}}, []swarm.Lease{up(10, 50)}, []int64{50}, nil},
		{"the beginning is done", []reading{{"", 20, 50}}, []swarm.Lease{up(16, 50)}, []int64{50}, nil},
		{"one more", []reading{{"", 20, 30}}, []swarm.Lease{up(0, 30), up(90, 100)}, []int64{30}, []swarm.Lease{up(90, 100)}},
		{"given back", []reading{{"", 20, 30}, {"a", 50, 60}}, []swarm.Lease{up(20, 30)}, []int64{30, stop}, nil},
		{"from another", []reading{{"a", 20, 30}}, []swarm.Lease{{Start: 20, End: 30, From: "b"}}, []int64{stop},
			[]swarm.Lease{{Start: 20, End: 30, From: "b"}}},
		{"two that touch", []reading{{"", 5, 10}, {"", 10, 20}}, []swarm.Lease{up(0, 10), up(10, 20)}, []int64{10, 20}, nil},
		{"two made one", []reading{{"", 5, 10}, {"", 12, 20}}, []swarm.Lease{up(0, 20)}, []int64{20, stop}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			ends, starts := reconcile(test.running, test.want)
			if !slices.Equal(ends, test.ends) || !slices.Equal(starts, test.starts) {
				t.Errorf("ends %v, starts %v; want %v, %v", ends, starts, test.ends, test.starts)
			}
		})
	}
}
