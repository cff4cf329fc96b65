package eviction

import (
	"slices"
	"testing"
)

// TestHitRatio replays what nodes may be asked for against this policy, the least recently used one that the cache had
// before, and one who knows the future. It prints the table of docs/cache.md, and holds the policy to its promises: it
// is better where something is asked for once and much, and not much worse anywhere.
func TestHitRatio(t *testing.T) {
	const capacity = 10 << 30
	t.Logf("requests and bytes that were hits, of traces of pulls with a cache of %d GiB", capacity>>30)
	t.Logf("%-22s  %-14s  %-14s  %-14s  %-14s", "trace", "LRU", "without shares", "S3-FIFO", "knows the future")
	for _, test := range []struct {
		name string
		// gains is by how much more of all requests, and of all bytes, must be hits than with LRU.
		gains hits
	}{
		{"images, some popular", hits{0.08, 0.06}},
		{"the same, and scans", hits{0.05, 0.04}},
		{"CI's ever new tags", hits{0.04, 0.03}},
		{"moving taste", hits{0.01, 0.01}},
		{"four registries", hits{0.08, 0.07}},
		{"four of equal size", hits{0.06, 0.08}},
		{"another's scan", hits{0.2, 0.2}},
		{"another's flood", hits{0.2, 0.2}},
		{"another's favourites", hits{0.1, 0.1}},
	} {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == test.name })
		p := newPulls(1)
		scenarios[i].fill(p)
		alone := slices.Clone(p.trace)
		for i := range alone {
			alone[i].owner = ""
		}
		lru, got := replayLRU(p.trace, capacity), replayPolicy(p.trace, capacity)
		without, best := replayPolicy(alone, capacity), replayBelady(p.trace, capacity)
		t.Logf("%-22s  %s  %s  %s  %s", test.name, lru, without, got, best)
		if got.requests < lru.requests+test.gains.requests || got.bytes < lru.bytes+test.gains.bytes {
			t.Errorf("%s: %s are hits, with LRU %s", test.name, got, lru)
		}
	}
}
