package hedge_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kioo-dev/kioo/pkg/hedge"
)

// target is how one answers: after that time, and never if it is zero.
type target struct {
	after time.Duration
	fails bool
	deaf  bool // Its answer comes in any case.
}

func TestRace(t *testing.T) {
	const after = 100 * time.Millisecond
	silent, ms := target{}, time.Millisecond
	for _, test := range []struct {
		name      string
		targets   []target
		most      int
		wins      int // Negative for nobody.
		took      time.Duration
		asked     []time.Duration // When each was asked.
		discarded []int
	}{
		{name: "nobody", wins: -1},
		{name: "the first answers", targets: []target{{after: 99 * ms}, silent}, took: 99 * ms, asked: []time.Duration{0}},
		{name: "the first is slow", targets: []target{{after: 150 * ms}, silent}, took: 150 * ms, asked: []time.Duration{0, after}},
		{name: "the second is faster", targets: []target{{after: 150 * ms}, {after: 10 * ms}}, wins: 1, took: 110 * ms,
			asked: []time.Duration{0, after}},
		{name: "one fails and the next is asked at once", targets: []target{{after: 10 * ms, fails: true}, {after: ms}}, wins: 1,
			took: 11 * ms, asked: []time.Duration{0, 10 * ms}},
		{name: "all fail", targets: []target{{after: ms, fails: true}, {after: ms, fails: true}}, wins: -1, took: 2 * ms,
			asked: []time.Duration{0, ms}},
		{name: "two at once", targets: []target{silent, {after: 250 * ms, fails: true}, {after: ms}}, most: 2, wins: 2, took: 351 * ms,
			asked: []time.Duration{0, after, 350 * ms}},
		{name: "one who loses answers all the same", targets: []target{{after: 300 * ms, deaf: true}, {after: ms}}, wins: 1,
			took: 300 * ms, asked: []time.Duration{0, after}, discarded: []int{0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var mu sync.Mutex
				var asked []time.Duration
				var discarded []int
				ended := make([]func() error, len(test.targets))
				won, err := hedge.Race[int]{
					Targets: len(test.targets), After: after, Most: test.most,
					Ask: func(ctx context.Context, i int) (int, error) {
						mu.Lock()
						ended[i] = ctx.Err
						asked = append(asked, time.Since(began))
						mu.Unlock()
						return answer(ctx, test.targets[i], i)
					},
					Discard: func(i int) { discarded = append(discarded, i) },
				}.Run(t.Context())
				if took := time.Since(began); took != test.took || !slices.Equal(asked, test.asked) {
					t.Errorf("took %v, asked at %v, want %v, at %v", took, asked, test.took, test.asked)
				}
				if !slices.Equal(discarded, test.discarded) {
					t.Errorf("discarded %v, want %v", discarded, test.discarded)
				}
				if test.wins < 0 {
					want := error(errRefused)
					if len(test.targets) == 0 {
						want = hedge.ErrNobody
					}
					if !errors.Is(err, want) {
						t.Errorf("%v, want %v", err, want)
					}
					return
				}
				if err != nil || won.Target != test.wins || won.Value != test.wins {
					t.Fatalf("%d, of %d, %v, want %d", won.Value, won.Target, err, test.wins)
				}
				for i, err := range ended {
					if err != nil && (err() == nil) != (i == test.wins) {
						t.Errorf("the context of %d is %v", i, err())
					}
				}
				won.Cancel()
				if ended[test.wins]() == nil {
					t.Error("the winner's context does not end")
				}
			})
		})
	}
}

var errRefused = errors.New("refused")

func answer(ctx context.Context, to target, i int) (int, error) {
	done := ctx.Done()
	if to.deaf {
		done = nil
	}
	var answers <-chan time.Time
	if to.after > 0 {
		answers = time.After(to.after)
	}
	select {
	case <-answers:
	case <-done:
		return 0, context.Cause(ctx)
	}
	if to.fails {
		return 0, fmt.Errorf("%d: %w", i, errRefused)
	}
	return i, nil
}

// TestRaceEnds has a caller that goes away: nobody else is asked for long.
func TestRaceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := hedge.Race[int]{
			Targets: 9, After: time.Second,
			Ask: func(ctx context.Context, i int) (int, error) { return answer(ctx, target{}, i) },
		}.Run(ctx)
		if took := time.Since(began); took != 50*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v after %v", err, took)
		}
	})
}
