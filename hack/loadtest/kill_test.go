package loadtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/kioo-dev/kioo/hack/kiootest"
	"github.com/kioo-dev/kioo/hack/registrytest"
)

const (
	kills       = 12
	killLayers  = 160
	killLayer   = 400_000
	killPullers = 6
	killTime    = 3 * time.Minute
)

var checked = regexp.MustCompile(`blobs checked: (\d+) .*dropped: (\d+)`)

// TestKill kills Kioo again and again while it fetches, at random moments, and wants every blob that it holds after
// the next start to be right.
func TestKill(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), killTime)
	defer cancel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	up := registrytest.New(t, registrytest.Config{})
	sizes := make([]int64, killLayers)
	for i := range sizes {
		sizes[i] = killLayer + int64(i)
	}
	layers := pushLayers(t, up, 31, sizes...)
	up.Break(registrytest.Throttle(20_000_000)) // So that every kill meets blobs in the middle of their way.

	dir := t.TempDir()
	cfg := kiootest.Config(dir, map[string]string{registryName: up.URL()})
	held := 0
	for kill := range kills {
		kioo, err := kiootest.Start(ctx, program, dir, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if n := verify(ctx, t, kioo); n < held {
			t.Errorf("after kill %d it holds %d blobs, before it were %d", kill, n, held)
		} else {
			held = n
		}
		pulling, stop := context.WithCancel(ctx)
		ended := make(chan struct{})
		mixed := shuffled(random, layers)
		go func() {
			defer close(ended)
			pullUntilKilled(pulling, client(t), kioo, mixed)
		}()
		select {
		case <-time.After(time.Duration(random.IntN(int(400 * time.Millisecond)))):
		case <-ended:
		}
		kioo.Kill()
		stop()
		<-ended
	}
	kioo := startKioo(t, dir, cfg)
	held = verify(ctx, t, kioo)
	t.Logf("%d of %d blobs were held after %d kills", held, killLayers, kills)
	if held == 0 {
		t.Error("no blob survived, so nothing was tested")
	}
	c := client(t)
	for _, d := range layers {
		if err := fetch(ctx, c, blobURL(kioo, d), d); err != nil {
			t.Errorf("after all kills: %v", err)
		}
	}
}

func shuffled(random *rand.Rand, layers []v1.Descriptor) []v1.Descriptor {
	mixed := append([]v1.Descriptor(nil), layers...)
	random.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
	return mixed
}

// pullUntilKilled reads blobs, several at once. It ignores what fails: most of it will be killed.
func pullUntilKilled(ctx context.Context, c *http.Client, kioo *kiootest.Kioo, layers []v1.Descriptor) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(killPullers)
	for _, d := range layers {
		group.Go(func() error { return fetch(ctx, c, blobURL(kioo, d), d) })
	}
	_ = group.Wait() // The kill is what ends it.
}

// verify runs kioo verify beside the mirror and returns how many blobs it found, all of them right.
func verify(ctx context.Context, t *testing.T, kioo *kiootest.Kioo) int {
	t.Helper()
	out, err := kioo.Verify(ctx, program)
	if err != nil {
		t.Fatal(err)
	}
	match := checked.FindStringSubmatch(out)
	if match == nil || match[2] != "0" {
		t.Fatalf("kioo verify says %q", out)
	}
	n, err := strconv.Atoi(match[1])
	if err != nil {
		t.Fatal(fmt.Errorf("kioo verify says %q: %w", out, err))
	}
	return n
}
