package main

import (
	"context"
	"fmt"

	"github.com/kioo-dev/kioo/hack/kiootest"
	"github.com/kioo-dev/kioo/hack/process"
	"github.com/kioo-dev/kioo/hack/registrytest"
)

const (
	// firstLayers and firstLayerSize make an image for measuring first bytes: layers enough for a median in every
	// round, each a few pieces long.
	firstLayers    = 12
	firstLayerSize = 4 << 20
)

// pull compares pulling an image that Kioo lacks, through Kioo, with pulling it from the upstream.
func (b *bench) pull(ctx context.Context) ([]row, error) {
	return b.pullFrom(ctx, "uncached pull", func(*registrytest.Registry) error { return nil })
}

// pullFrom prepares the upstream's line after the images are there.
func (b *bench) pullFrom(ctx context.Context, name string, prepare func(*registrytest.Registry) error) ([]row, error) {
	up, err := registrytest.Start(ctx, registrytest.Config{})
	if err != nil {
		return nil, err
	}
	defer up.Close()
	half := b.size / 2
	b.say("%s: pushing an image of %d MiB to the upstream", name, half>>20)
	big, err := push(ctx, up, "big", 3, half/2, half/4, half/4)
	if err != nil {
		return nil, err
	}
	sizes := make([]int64, firstLayers)
	for i := range sizes {
		sizes[i] = firstLayerSize
	}
	first, err := push(ctx, up, "first", 4, sizes...)
	if err != nil {
		return nil, err
	}
	if err := prepare(up); err != nil {
		return nil, err
	}
	var whole, firsts, peak pairs
	for round := range b.rounds {
		b.say("%s: round %d of %d", name, round+1, b.rounds)
		if err := b.pullRound(ctx, up, big, first, &whole, &firsts, &peak); err != nil {
			return nil, err
		}
	}
	name = fmt.Sprintf("%s of %d MiB", name, big.bytes()>>20)
	return []row{
		whole.ratio(name, "s", "direct", atMost(1.1)),
		firsts.difference(name+": first byte", "ms", "direct", atMost(5)),
		{Name: name + ": peak RSS", Unit: "MiB", Kioo: median(peak.kioo)},
	}, nil
}

// pullRound pulls directly and through a Kioo that holds nothing. Both begin without any connection.
func (b *bench) pullRound(ctx context.Context, up *registrytest.Registry, big, first image, whole, firsts, peak *pairs) error {
	dir, err := b.mkdir("pull")
	if err != nil {
		return err
	}
	kioo, err := b.startKioo(ctx, dir, up, nil)
	if err != nil {
		return err
	}
	defer stopKioo(kioo)
	kiooTime, kiooFirst, err := measurePull(ctx, through(kioo), big, first)
	if err != nil {
		return fmt.Errorf("through kioo: %w", err)
	}
	if err := checkHeld(ctx, kioo, dir, big); err != nil {
		return err
	}
	directTime, directFirst, err := measurePull(ctx, direct(up), big, first)
	if err != nil {
		return fmt.Errorf("directly: %w", err)
	}
	whole.add(kiooTime, directTime)
	firsts.add(kiooFirst, directFirst)
	mem, err := process.ReadMemory(kioo.PID())
	if err != nil {
		return err
	}
	peak.add(float64(mem.Peak)/(1<<20), 0)
	return nil
}

// checkHeld makes sure that what was measured is Kioo at its whole work: fetching and keeping.
func checkHeld(ctx context.Context, kioo *kiootest.Kioo, dir string, img image) error {
	for _, layer := range img.blobs[1:] {
		if _, err := waitHeld(ctx, kioo, dir, layer); err != nil {
			return err
		}
	}
	return nil
}

// measurePull returns the seconds that a pull of the one image takes, and the median of the milliseconds until the
// first byte of each layer of the other.
func measurePull(ctx context.Context, from source, big, first image) (seconds, firstByte float64, err error) {
	c := newClient()
	defer c.close()
	took, err := c.pull(ctx, from, big)
	if err != nil {
		return 0, 0, err
	}
	var firsts []float64
	for _, layer := range first.blobs[1:] {
		f, err := c.verified(ctx, from.blob(layer), layer)
		if err != nil {
			return 0, 0, err
		}
		firsts = append(firsts, f.first.Seconds()*1000)
	}
	return took.Seconds(), median(firsts), nil
}
