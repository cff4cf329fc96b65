package flight

import "github.com/opencontainers/go-digest"

// apartKey is a flight that is not for everybody.
type apartKey struct {
	scope string
	dgst  digest.Digest
}

// Witness is a Source that wants to know whether the blob was what its digest says.
type Witness interface {
	Source
	// Verified tells that the blob has arrived as a whole, from this source and those beside it, and is right. It must
	// not wait for anything.
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
	if f.scope == "" {
		g.flights[f.dgst] = f
		return
	}
	g.apart[apartKey{f.scope, f.dgst}] = f
}

func (g *Group) leave(f *flight) {
	if f.scope == "" {
		delete(g.flights, f.dgst)
		return
	}
	delete(g.apart, apartKey{f.scope, f.dgst})
}

// attest tells the sources that the blob is right. Called with the flight's mu held.
func (f *flight) attest() {
	for _, src := range f.sources {
		if w, ok := src.(Witness); ok {
			w.Verified()
		}
	}
}
