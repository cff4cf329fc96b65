package attack

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/hack/attack/mutate"
	"github.com/kioo-dev/kioo/hack/kiootest"
)

// withControls has the controls run as well: each builds a Kioo, which takes its time.
const withControls = "KIOO_ATTACK_CONTROLS"

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
	b := newBuilder(t, root)
	for i, c := range controls() {
		t.Run(c.Name, func(t *testing.T) {
			program, err := b.get(t.Context(), i)
			if err != nil {
				t.Fatal(err)
			}
			b.begin(i + 1)
			start := time.Now()
			w.renew(t, program)
			reached := c.attack(t, w)
			t.Logf("it ran for %v and reached %d things, such as %q", time.Since(start).Round(time.Millisecond), len(reached), reached[:min(len(reached), 2)])
			if len(reached) == 0 {
				t.Error("without the defence the attack fails too: it shows nothing")
			}
		})
	}
	w.renew(t, program("kioo"))
}

// builder builds Kioos without a defence, each while the attack before it runs.
type builder struct {
	ctx       context.Context
	root, dir string
	building  sync.WaitGroup
	begun     map[int]chan built
}

// built is a Kioo that lacks a defence, or why there is none.
type built struct {
	program string
	err     error
}

func newBuilder(t *testing.T, root string) *builder {
	t.Helper()
	b := &builder{ctx: t.Context(), root: root, dir: t.TempDir(), begun: map[int]chan built{}}
	t.Cleanup(b.building.Wait)
	return b
}

// begin begins to build what the i-th control needs, if there is one.
func (b *builder) begin(i int) {
	all := controls()
	if i >= len(all) || b.begun[i] != nil {
		return
	}
	done := make(chan built, 1)
	b.begun[i] = done
	b.building.Go(func() {
		program, err := all[i].Build(b.ctx, b.root, b.dir, kiootest.Package)
		done <- built{program, err}
	})
}

// get waits for it.
func (b *builder) get(ctx context.Context, i int) (string, error) {
	b.begin(i)
	select {
	case done := <-b.begun[i]:
		return done.program, done.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
