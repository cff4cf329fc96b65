package attack

import (
	"os"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/hack/attack/mutate"
	"github.com/kioo-dev/kioo/hack/kiootest"
)

// withControls has the controls run as well: each builds a Kioo, which takes its time.
const withControls = "KIOO_ATTACK_CONTROLS"

// control is an attack that succeeds when one defence is off.
type control struct {
	mutate.Mutation
	attack attack
}

// controls are the defences, each with the attack that it keeps from succeeding.
func controls() []control {
	one := func(name, file, old, without string, a attack) control {
		return control{mutate.Mutation{Name: name, Edits: []mutate.Edit{{File: file, Old: old, New: without}}}, a}
	}
	return []control{
		one("addresses of clouds are for nobody", "pkg/reach/reach.go", "if r := Of(addr); r > most {", "if r := Of(addr); r > Forbidden {", redirected),
	}
}

// TestControlsFit: each control takes out what it says, from the source as it is. A control that does not is stale,
// and its attack shows nothing any more.
func TestControlsFit(t *testing.T) {
	root, err := mutate.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range controls() {
		if _, err := c.Apply(root); err != nil {
			t.Error(err)
		}
	}
}

// TestControls runs each attack against a Kioo without the defence that it shows: there the attacker must reach
// something.
func TestControls(t *testing.T) {
	if os.Getenv(withControls) == "" {
		t.Logf("without the controls: make attack runs them, by %s=1", withControls)
		return
	}
	w := theWorld(t)
	root, err := mutate.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range controls() {
		t.Run(c.Name, func(t *testing.T) {
			start := time.Now()
			program, err := c.Build(t.Context(), root, t.TempDir(), kiootest.Package)
			if err != nil {
				t.Fatal(err)
			}
			built := time.Since(start)
			w.renew(t, program)
			reached := c.attack(t, w)
			t.Logf("built in %v, ran in %v; reached: %q", built.Round(time.Millisecond), (time.Since(start) - built).Round(time.Millisecond), reached)
			if len(reached) == 0 {
				t.Error("without the defence the attack fails too: it shows nothing")
			}
		})
	}
	w.renew(t, program("kioo"))
}
