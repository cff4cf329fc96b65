package session

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
	"github.com/opencontainers/go-digest"
)

// TestNothingToRead has heard from a tracker that a blob of unknown size has no bytes, which any member can say. It
// must be got all the same, and one that has none in truth as well.
func TestNothingToRead(t *testing.T) {
	for name, body := range map[string][]byte{"some": bytes.Repeat([]byte("right"), 6<<20/5), "none": {}} {
		for how, said := range map[string]swarm.Assignment{
			"a lease":  {Leases: []swarm.Lease{{}}},
			"a holder": {Holders: []swarm.ID{"liar"}},
		} {
			t.Run(name+" by "+how, func(t *testing.T) {
				o := &office{answer: func(a swarm.Announce) (tracker.Answer, error) {
					said.Again = 20 * time.Millisecond
					if a.Size > 0 {
						return tracker.Answer{Assignment: swarm.Assignment{
							Size: a.Size, Again: said.Again, Leases: []swarm.Lease{{End: a.Size}},
						}}, nil
					}
					return tracker.Answer{Assignment: said, Members: map[swarm.ID]discovery.Member{"liar": {}}}, nil
				}}
				g := group(t, newSessions(t, func(c *Config) { c.Announcer, c.Peers = o, newPeers(t) }))
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				r, err := g.Join(ctx, "", "", digest.FromBytes(body), flight.SizeHint{}, &app{source{body: body}})
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				var got bytes.Buffer
				if _, err := r.CopyRange(ctx, &got, 0, r.Size()); err != nil || !bytes.Equal(got.Bytes(), body) {
					t.Errorf("%d bytes of %d, %v", got.Len(), len(body), err)
				}
			})
		}
	}
}
