package discovery

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// nowhere is a host that reaches nobody.
type nowhere struct{ host.Host }

type noNetwork struct{ network.Network }

func (nowhere) Network() network.Network                     { return noNetwork{} }
func (nowhere) Connect(context.Context, peer.AddrInfo) error { return errors.New("refused") }

func (noNetwork) Connectedness(peer.ID) network.Connectedness { return network.NotConnected }

// TestNobodyIsRemembered: members that can't be reached, of which another member may name any number, leave nothing.
func TestNobodyIsRemembered(t *testing.T) {
	c := newClient(nowhere{})
	for i := range 100 {
		if _, err := c.call(t.Context(), Member{ID: peer.ID(fmt.Sprint("member ", i))}, nil, time.Second); err == nil {
			t.Fatal("it was reached")
		}
	}
	if n := len(c.lanes); n != 0 {
		t.Errorf("%d members are remembered", n)
	}
}
