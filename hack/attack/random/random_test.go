package random_test

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

const (
	// sequences is how many are played by default, and steps how many steps each has.
	sequences = 150
	steps     = 60
)

// number reads a number from the environment: KIOO_SEQUENCES and KIOO_SEED say how many sequences are played, and from
// which seed on.
func number(t *testing.T, name string, std uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return std
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestNobodyHoldsAByteTooMany plays random sequences, and looks after each step whether somebody got what no registry
// gave him.
func TestNobodyHoldsAByteTooMany(t *testing.T) {
	first, n := number(t, "KIOO_SEED", 1), number(t, "KIOO_SEQUENCES", sequences)
	var next, given atomic.Uint64
	var players sync.WaitGroup
	var mu sync.Mutex
	leaks := 0
	for range 4 {
		players.Go(func() {
			for i := next.Add(1) - 1; i < n; i = next.Add(1) - 1 {
				w := sequence(t, first+i)
				given.Add(uint64(w.given))
				if w.leak == "" {
					continue
				}
				mu.Lock()
				if leaks++; leaks == 1 {
					t.Errorf("seed %d: %s, after:\n  %s", first+i, w.leak, strings.Join(w.log, "\n  "))
				}
				mu.Unlock()
				next.Store(n) // One is enough to look at.
			}
		})
	}
	players.Wait()
	t.Logf("%d sequences of %d steps from seed %d on; %d answers were looked at", min(next.Load(), n), steps, first, given.Load())
	if given.Load() == 0 {
		t.Error("nobody ever got anything")
	}
}

// sequence plays one sequence, to its end or to the first leak.
func sequence(t *testing.T, seed uint64) *world {
	t.Helper()
	w := newWorld(seed)
	defer w.close()
	w.ctx = t.Context()
	for step := 0; step < steps && w.leak == ""; step++ {
		w.play()
		if w.random.IntN(4) == 0 {
			w.nodes[w.random.IntN(len(w.nodes))].save()
		}
	}
	return w
}
