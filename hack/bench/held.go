package main

import (
	"context"
	"errors"
	"time"

	"github.com/kioo-dev/kioo/hack/process"
	"github.com/kioo-dev/kioo/hack/registrytest"
)

// heldRepeats is how often a turn reads the blob: the kernel counts a server's time in hundredths of a second, and
// one read takes it few of those.
const heldRepeats = 3

// held compares reading a large blob that Kioo holds with nginx serving the same file.
func (b *bench) held(ctx context.Context) ([]row, error) {
	const name = "held blob"
	if _, err := findNginx(); errors.Is(err, errNoNginx) {
		return []row{{Name: name, Unit: "MB/s", Note: err.Error()}}, nil
	}
	dir, err := b.mkdir("held")
	if err != nil {
		return nil, err
	}
	b.say("held: pushing a blob of %d MiB to the upstream", b.size>>20)
	up, err := registrytest.Start(ctx, registrytest.Config{})
	if err != nil {
		return nil, err
	}
	defer up.Close()
	img, err := push(ctx, up, "held", 1, b.size)
	if err != nil {
		return nil, err
	}
	kioo, err := b.startKioo(ctx, dir, up, nil)
	if err != nil {
		return nil, err
	}
	defer stopKioo(kioo)
	c := newClient()
	defer c.close()
	if _, err := c.pull(ctx, through(kioo), img); err != nil {
		return nil, err
	}
	blob := img.blobs[1]
	file, err := waitHeld(ctx, kioo, dir, blob)
	if err != nil {
		return nil, err
	}
	ngx, err := startNginx(ctx, dir, nginxOptions{}, served{"/blob", file, "application/octet-stream"})
	if err != nil {
		return nil, err
	}
	defer ngx.close()
	peaks, err := peakRow(name+", while fetching", kioo)
	if err != nil {
		return nil, err
	}
	if err := process.ResetPeak(kioo.PID()); err != nil {
		return nil, err
	}
	rows, err := b.heldRounds(ctx, name,
		reader{c, through(kioo).blob(blob), blob.Size, kioo.PID()},
		reader{c, "http://" + ngx.host + "/blob", blob.Size, ngx.PID()})
	if err != nil {
		return nil, err
	}
	peak, err := peakRow(name, kioo)
	return append(rows, peak, peaks), err
}

func (b *bench) heldRounds(ctx context.Context, name string, kioo, nginx reader) ([]row, error) {
	var rate, cpu pairs
	for round := -1; round < b.rounds; round++ { // The first one warms up and is forgotten.
		b.say("%s: round %d of %d", name, round+1, b.rounds)
		kiooRate, kiooCPU, err := kioo.turn(ctx)
		if err != nil {
			return nil, err
		}
		nginxRate, nginxCPU, err := nginx.turn(ctx)
		if err != nil {
			return nil, err
		}
		if round >= 0 {
			rate.add(kiooRate, nginxRate)
			cpu.add(kiooCPU, nginxCPU)
		}
	}
	return []row{
		rate.ratio(name, "MB/s", "nginx", atLeast(0.95)),
		cpu.ratio(name+": server CPU", "s/GiB", "nginx", atMost(1.1)),
	}, nil
}

// reader reads a large thing from a server.
type reader struct {
	c    *client
	url  string
	size int64
	pid  int // of the server
}

// turn reads a few times and returns megabytes per second and the server's processor seconds per GiB.
func (r reader) turn(ctx context.Context) (rate, cpu float64, err error) {
	before, err := process.ProcessorTime(r.pid)
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	for range heldRepeats {
		if _, err := r.c.fetch(ctx, r.url, r.size, nil); err != nil {
			return 0, 0, err
		}
	}
	took := time.Since(start)
	after, err := process.ProcessorTime(r.pid)
	if err != nil {
		return 0, 0, err
	}
	total := float64(r.size) * heldRepeats
	return total / 1e6 / took.Seconds(), (after - before).Seconds() / (total / (1 << 30)), nil
}
