package mirror

import (
	"context"
	"errors"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/hedge"
)

const (
	// askNext is how long a member may take to answer before the next one is asked as well. Most answer within a few
	// milliseconds; a busy one, after a tenth of a second in its queue, says so.
	askNext = 40 * time.Millisecond
	// maxAsked bounds how many members are asked at the same time for the same thing.
	maxAsked = 3
)

// attempt is one member's answer.
type attempt[T any] struct {
	value  T
	member discovery.Member
	// cancel ends what the answer still lives on. Who gets it calls that when done.
	cancel context.CancelFunc
}

// race asks the members in their order, and gives the first answer. What others still bring is given to discard, if
// that is not nil.
func race[T any](ctx context.Context, members []discovery.Member, ask func(context.Context, discovery.Member) (T, error), discard func(T)) (attempt[T], error) {
	won, err := hedge.Race[T]{
		Targets: len(members), After: askNext, Most: maxAsked, Discard: discard,
		Ask: func(ctx context.Context, i int) (T, error) { return ask(ctx, members[i]) },
	}.Run(ctx)
	switch {
	case errors.Is(err, hedge.ErrNobody):
		return attempt[T]{}, content.ErrNotFound
	case err != nil:
		return attempt[T]{}, err
	}
	return attempt[T]{won.Value, members[won.Target], won.Cancel}, nil
}
