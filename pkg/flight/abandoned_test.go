package flight_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/opencontainers/go-digest"
)

// TestAbandoned shows both ends of the grace: a flight that somebody comes back to, and one that nobody does.
func TestAbandoned(t *testing.T) {
	for _, back := range []bool{true, false} {
		t.Run(fmt.Sprint(back), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				spool := &memorySpool{body: make([]byte, 1<<20)}
				g := flight.New(flight.Config{
					Create: func(content.Owner, digest.Digest, int64) (flight.Spool, error) { return spool.open(t) },
					Held:   func(digest.Digest) bool { return false },
					Grace:  30 * time.Second, Log: testr.New(t),
				})
				defer g.Close()
				body := randomBody(1 << 20)
				src := &origin{name: "a", body: body, gate: make(chan struct{})}
				r, err := g.Join(t.Context(), "", "", digest.FromBytes(body), flight.SizeHint{}, src)
				if err != nil {
					t.Fatal(err)
				}
				r.Close()
				time.Sleep(29 * time.Second)
				if back {
					if r, err = g.Join(t.Context(), "", "", digest.FromBytes(body), flight.SizeHint{}, src); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if _, opens := src.counted(); opens != 1 {
					t.Errorf("%d streams", opens)
				}
				if spool.discarded() == back {
					t.Errorf("two seconds after the grace the spool is given up: %v", !back)
				}
				if back {
					r.Close()
				}
			})
		})
	}
}
