package tracker

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/libp2p/go-libp2p/core/peer"
)

// BenchmarkThousand has a thousand members want the same small blob at once: the time is the tracker's alone.
func BenchmarkThousand(b *testing.B) {
	const members = 1000
	for b.Loop() {
		s, err := NewService(ServiceConfig{Directory: &directory{self: member("self")}, Now: time.Now, Log: logr.Discard()})
		if err != nil {
			b.Fatal(err)
		}
		var all sync.WaitGroup
		for i := range members {
			all.Go(func() {
				from := discovery.Member{ID: peer.ID(fmt.Sprintf("\x00\x08%08d", i)), PeerAPI: []string{"10.0.0.1:28501"}}
				q := &question{key: dgst, from: from, wait: maxWait, renew: time.Minute}
				q.announce = swarm.Announce{Member: ID(from.ID), Size: 10}
				for {
					a, err := s.answer(b.Context(), q, nil)
					if err != nil {
						b.Error(err)
						return
					}
					if len(a.Holders)+len(a.Leases) > 0 {
						q.announce.Complete, q.wait = true, 0
					} else if q.announce.Complete {
						return
					}
				}
			})
		}
		all.Wait()
	}
}
