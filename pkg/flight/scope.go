package flight

import (
	"fmt"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
)

// apartKey is a flight that is not for everybody.
type apartKey struct {
	scope string
	dgst  digest.Digest
}

// Witness is an Origin that wants to know whether the blob that it sent bytes of was what its digest says.
type Witness interface {
	Origin
	// Verified tells that the blob has arrived as a whole, from this origin and those beside it, and is right. Who sent
	// none of its bytes is not told: that others may be read proves nothing of what this one has. It must not wait for
	// anything.
	Verified()
}

// find, enter and leave are the table of flights. Called with the group's mu held.
func (g *Group) find(scope string, dgst digest.Digest) *flight {
	if scope == "" {
		return g.flights[dgst]
	}
	return g.apart[apartKey{scope, dgst}]
}

func (g *Group) enter(f *flight) {
	g.owners[f.owner]++
	if f.scope == "" {
		g.flights[f.dgst] = f
		return
	}
	g.apart[apartKey{f.scope, f.dgst}] = f
}

func (g *Group) leave(f *flight) {
	if g.owners[f.owner]--; g.owners[f.owner] == 0 {
		delete(g.owners, f.owner)
	}
	if f.scope == "" {
		delete(g.flights, f.dgst)
		return
	}
	delete(g.apart, apartKey{f.scope, f.dgst})
}

// room says whether there may be one more flight for what an owner brings: one whose sources give a byte now and then
// must not keep others from flying. So there is always a quarter left of what others leave. Called with mu held.
func (g *Group) room(owner content.Owner) error {
	all, own := len(g.flights)+len(g.apart), g.owners[owner]
	if left := g.cfg.Max - (all - own); all >= g.cfg.Max || own >= max(1, left-left/4) {
		return fmt.Errorf("%w: %d, %d of them of %q", ErrBusy, all, own, owner)
	}
	return nil
}

// attest tells those that bytes have come from that the blob is right. Called with the flight's mu held.
func (f *flight) attest() {
	for _, src := range f.from {
		if w, ok := src.(Witness); ok {
			w.Verified()
		}
	}
}
