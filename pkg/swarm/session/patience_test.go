package session

import (
	"testing"
	"time"
)

func TestProgress(t *testing.T) {
	type step struct {
		after            time.Duration
		arrived, fetched int64
		reading          bool
		want             mood
	}
	for name, steps := range map[string][]step{
		"nothing comes": {
			{0, 0, 0, false, moving}, {1900 * time.Millisecond, 0, 0, false, moving}, {200 * time.Millisecond, 0, 0, false, stalled},
			{100 * time.Millisecond, 0, 0, false, moving}, {200 * time.Millisecond, 0, 0, false, stalled},
			{2200 * time.Millisecond, 0, 0, false, hopeless},
		},
		"others give": {
			{0, 0, 0, false, moving}, {1900 * time.Millisecond, 10, 0, false, moving}, {1900 * time.Millisecond, 20, 0, false, moving},
			{1900 * time.Millisecond, 20, 0, false, moving}, {200 * time.Millisecond, 20, 0, false, stalled},
		},
		"a lease is read": {
			{0, 0, 0, true, moving}, {3 * time.Second, 10, 10, true, moving}, {3 * time.Second, 20, 20, true, moving},
			{time.Second, 20, 20, true, moving}, {time.Second, 20, 20, true, stalled}, {3 * time.Second, 20, 20, true, hopeless},
		},
		"a lease was read because others give nothing": {
			{0, 0, 0, false, moving}, {2 * time.Second, 0, 0, false, stalled}, {100 * time.Millisecond, 10, 10, true, moving},
			{200 * time.Millisecond, 20, 20, false, stalled}, {100 * time.Millisecond, 30, 20, false, moving},
			{300 * time.Millisecond, 30, 20, false, moving},
		},
		"others give next to nothing": {
			{0, 0, 0, false, moving}, {time.Second, 1000, 0, false, moving}, {time.Second, 1050, 0, false, moving},
			{time.Second, 1100, 0, false, stalled}, {time.Second, 1500, 0, false, moving},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := progress{patience: Patience{}.orDefault()}
			now := time.Unix(1, 0)
			for i, s := range steps {
				now = now.Add(s.after)
				if got := p.look(now, s.arrived, s.fetched, s.reading); got != s.want {
					t.Fatalf("step %d: got %d, want %d", i, got, s.want)
				}
			}
		})
	}
}
