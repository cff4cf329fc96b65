package exchange

import (
	"testing"

	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/reference"
)

type witness struct {
	app
	told int
}

func (w *witness) Verified() { w.told++ }

// TestPiecesWitness: members give pieces in the name of the source that says what is asked for, so that this one hears
// that they were right, and those beside it don't.
func TestPiecesWitness(t *testing.T) {
	asked, beside := &witness{}, &witness{}
	src, ref, ok := named([]flight.Source{asked, beside})
	if !ok || src != flight.Source(asked) || ref == (reference.Reference{}) {
		t.Fatalf("named: %v, %v, %v", src, ref, ok)
	}
	var pieces flight.Origin = &origin{&party{named: src}}
	pieces.(flight.Witness).Verified()
	if asked.told != 1 || beside.told != 0 {
		t.Errorf("told: %d, and beside it %d", asked.told, beside.told)
	}
	pieces = &origin{&party{named: &app{}}} // Wants to know nothing.
	pieces.(flight.Witness).Verified()
}
