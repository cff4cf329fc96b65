// Package hedge asks several for the same thing so that one who is silent holds nobody up: the next one is asked as
// well. It knows nothing of what is asked, or of whom.
package hedge

import (
	"context"
	"errors"
	"time"
)

// ErrNobody says that there was nobody to ask.
var ErrNobody = errors.New("nobody to ask")

// Race asks targets in their order: the next one at once when one fails, and as well when one is silent for a while.
type Race[T any] struct {
	// Targets is how many there are.
	Targets int
	// After is how long a target may take before the next one is asked as well. Shorter finds sooner who is there, and
	// asks more for nothing.
	After time.Duration
	// Most bounds how many are asked at the same time. Zero means all.
	Most int
	// Ask asks one target, on a goroutine of its own. The context ends when another one has won.
	Ask func(ctx context.Context, target int) (T, error)
	// Discard gets what successes after the first one bring, if that has to be released.
	Discard func(T)
}

// Won is the first success.
type Won[T any] struct {
	Value  T
	Target int
	// Cancel ends the context that the target was asked with, which Value may still live on. It must be called.
	Cancel context.CancelFunc
}

// result is how one attempt ended.
type result[T any] struct {
	Won[T]
	err error
}

// Run gives the first success, or the last failure. The others are cancelled. When Run returns, none of its goroutines
// is left.
func (r Race[T]) Run(ctx context.Context) (Won[T], error) {
	var (
		results = make(chan result[T])
		cancels []context.CancelFunc
		running int
		won     *result[T]
		last    = ErrNobody
		next    = time.NewTimer(0)
	)
	defer next.Stop()
	for running > 0 || won == nil && len(cancels) < r.Targets {
		var due <-chan time.Time
		if won == nil && len(cancels) < r.Targets && (r.Most == 0 || running < r.Most) {
			due = next.C
		}
		select {
		case <-due:
			target := len(cancels)
			attempt, cancel := context.WithCancel(ctx)
			cancels = append(cancels, cancel)
			running++
			go func() {
				value, err := r.Ask(attempt, target)
				results <- result[T]{Won[T]{value, target, cancel}, err}
			}()
			next.Reset(r.After)
		case ended := <-results:
			running--
			switch {
			case ended.err != nil:
				ended.Cancel()
				last = ended.err
				next.Reset(0)
			case won != nil:
				if r.Discard != nil {
					r.Discard(ended.Value)
				}
				ended.Cancel()
			default:
				won = &ended
				for target, cancel := range cancels {
					if target != won.Target {
						cancel()
					}
				}
			}
		}
	}
	if won == nil {
		return Won[T]{}, last
	}
	return won.Won, nil
}
