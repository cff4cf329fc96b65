// Package sleep waits, for no longer than anybody wants the result. For how long is for others to say.
package sleep

import (
	"context"
	"time"
)

// For waits for a time. If ctx ends before that, why it did is the error.
func For(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
