package mirror

import (
	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/reference"
)

// Source gives the members as a flight gets them.
func (m *Members) Source(ref reference.Reference, grant access.Grant) flight.Source {
	return m.source(ref, grant, nil)
}
