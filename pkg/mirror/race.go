package mirror

import (
	"context"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/discovery"
)

const (
	// hedge is how long a member may take to answer before the next one is asked as well. Most answer within a few
	// milliseconds; a busy one, after a tenth of a second in its queue, says so.
	hedge = 40 * time.Millisecond
	// maxAsked bounds how many members are asked at the same time for the same thing.
	maxAsked = 3
)

// attempt is one member's answer in a race.
type attempt[T any] struct {
	value  T
	member discovery.Member
	err    error
	number int
	// cancel ends what the answer still lives on. Who gets the winner calls it when done.
	cancel context.CancelFunc
}

// race asks the members in their order: the next one at once when one fails, and as well when one is silent for a
// while. It gives the first success, or the last failure. The others are cancelled, and what they still bring is given
// to discard, if that is not nil. When race returns, none of its goroutines is left.
func race[T any](ctx context.Context, members []discovery.Member, ask func(context.Context, discovery.Member) (T, error), discard func(T)) (attempt[T], error) {
	var (
		results = make(chan attempt[T])
		cancels []context.CancelFunc
		running int
		won     *attempt[T]
		last    error = content.ErrNotFound
		next          = time.NewTimer(0)
	)
	defer next.Stop()
	for running > 0 || won == nil && len(cancels) < len(members) {
		var due <-chan time.Time
		if won == nil && len(cancels) < len(members) && running < maxAsked {
			due = next.C
		}
		select {
		case <-due:
			number := len(cancels)
			askCtx, cancel := context.WithCancel(ctx)
			cancels = append(cancels, cancel)
			running++
			go func() {
				value, err := ask(askCtx, members[number])
				results <- attempt[T]{value, members[number], err, number, cancel}
			}()
			next.Reset(hedge)
		case r := <-results:
			running--
			switch {
			case r.err != nil:
				r.cancel()
				last = r.err
				next.Reset(0)
			case won != nil:
				if discard != nil {
					discard(r.value)
				}
				r.cancel()
			default:
				won = &r
				for number, cancel := range cancels {
					if number != r.number {
						cancel()
					}
				}
			}
		}
	}
	if won == nil {
		return attempt[T]{}, last
	}
	return *won, nil
}
