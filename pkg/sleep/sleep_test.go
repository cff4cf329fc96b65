package sleep_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kioo-dev/kioo/pkg/sleep"
)

func TestFor(t *testing.T) {
	enough := errors.New("enough")
	for _, test := range []struct {
		name       string
		wait, ends time.Duration // Of the sleep, and of its context.
		took       time.Duration
		err        error
	}{
		{"to its end", time.Second, time.Minute, time.Second, nil},
		{"until nobody wants it any more", time.Minute, time.Second, time.Second, enough},
		{"no time", 0, time.Second, 0, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				defer time.AfterFunc(test.ends, func() { cancel(enough) }).Stop()
				began := time.Now()
				if err := sleep.For(ctx, test.wait); !errors.Is(err, test.err) || time.Since(began) != test.took {
					t.Errorf("%v after %v", err, time.Since(began))
				}
			})
		})
	}
}
