// Package attack runs the attacks of the threat model against the whole product: two nodes with containerd,
// registries with tenants, and an attacker's registry, member and pods, which are programs and places of their own.
//
// An attack is a function that says what its actor wants and gives what he reached, which is to be nothing. Each has
// a control: the same against a Kioo that lacks the one defence, where he has to reach something. It holds tests
// alone.
package attack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kioo-dev/kioo/hack/fleet"
	"github.com/kioo-dev/kioo/hack/kiootest"
	"github.com/kioo-dev/kioo/hack/process"
)

const (
	// settleTime is how long the nodes may take until all know what all hold.
	settleTime = 30 * time.Second
	// pullTime bounds one pull, and askTime one request.
	pullTime = time.Minute
	askTime  = 30 * time.Second
	// startTime bounds the start of everything.
	startTime = 15 * time.Minute
)

// shared is what all attacks of this package run on: a start takes seconds.
type shared struct {
	once sync.Once
	w    *world
	err  error
}

// dirVariable and current hand the shared world to the tests, which TestMain alone ends.
const dirVariable = "KIOO_ATTACK_DIR"

var current = &shared{}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "kioo-attack-")
	if err == nil {
		err = os.Setenv(dirVariable, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
		os.Exit(1)
	}
	code := m.Run()
	if current.w != nil {
		err = current.w.close()
	}
	if err = errors.Join(err, os.RemoveAll(dir)); err == nil && code == 0 {
		err = goleak.Find()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// theWorld gives what all attacks run on, as it was started, and shows what the nodes printed if the test fails.
func theWorld(t *testing.T) *world {
	t.Helper()
	if why := fleet.Unavailable(); why != "" {
		if os.Getenv("CI") == "true" && os.Geteuid() == 0 {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	current.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), startTime)
		defer cancel()
		start := time.Now()
		current.w, current.err = newWorld(ctx, os.Getenv(dirVariable))
		t.Logf("everything runs after %v", time.Since(start).Round(time.Millisecond))
	})
	if current.err != nil {
		t.Fatal(current.err)
	}
	w := current.w
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, n := range w.Nodes {
			t.Logf("%s: end of the output of kioo:\n%s", n.Name, end(n.Log()))
		}
		t.Logf("end of the output of the member that was taken over:\n%s", end(w.member.Log()))
	})
	return w
}

func end(log string) string { return log[max(0, len(log)-12<<10):] }

// build builds what runs: Kioo and the attacker's programs.
func build(ctx context.Context, dir string) error {
	for _, pkg := range []string{kiootest.Package, "./hack/attack/cmd/evilregistry", "./hack/attack/cmd/evilmember"} {
		if _, err := process.Build(ctx, pkg, dir); err != nil {
			return err
		}
	}
	return nil
}

func program(name string) string { return filepath.Join(os.Getenv(dirVariable), name) }
