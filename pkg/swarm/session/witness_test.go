package session

import (
	"testing"

	"github.com/kioo-dev/kioo/pkg/flight"
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
	src := members([]flight.Source{asked, beside})
	if src != Members(asked) {
		t.Fatalf("members: %v", src)
	}
	var pieces flight.Origin = &origin{&session{named: src}}
	pieces.(flight.Witness).Verified()
	if asked.told != 1 || beside.told != 0 {
		t.Errorf("told: %d, and beside it %d", asked.told, beside.told)
	}
	pieces = &origin{&session{named: &app{}}} // Wants to know nothing.
	pieces.(flight.Witness).Verified()
}
