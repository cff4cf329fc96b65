package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kioo-dev/kioo/hack/fleet"
	"github.com/kioo-dev/kioo/hack/process"
)

// fault is what happens to a node half-way. What it gives ends it, once the others have the image; nil is nothing.
type fault func(ctx context.Context, t *trial, victim *fleet.Node) (end func(context.Context) error, err error)

// happen has the fault happen half-way, and ends it when all others have the image, so that the victim gets it too.
func (t *trial) happen(ctx context.Context, others <-chan struct{}) error {
	if t.victim == 0 || t.reference == "" {
		return nil
	}
	end := t.heal
	if t.fault != nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(t.bound(t.size) / 2):
		}
		victim, err := t.choose(ctx)
		if err != nil {
			return err
		}
		if end, err = t.fault(ctx, t, victim); err != nil {
			return fmt.Errorf("half-way, on %s: %w", victim.Name, err)
		}
	}
	for range len(t.pullers) - 1 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-others:
		}
	}
	if end == nil {
		return nil
	}
	return end(ctx)
}

// choose gives the victim: the configured one, or who was asked most as a tracker so far.
func (t *trial) choose(ctx context.Context) (*fleet.Node, error) {
	if chosen := t.theVictim(); chosen != nil {
		return chosen, nil
	}
	var chosen *fleet.Node
	most := -1.0
	for _, n := range t.pullers {
		m, err := n.Metrics(ctx)
		if err != nil {
			return nil, err
		}
		if asked := m.Sum("kioo_coordinator_announces_total"); asked > most {
			most, chosen = asked, n
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.chosen = chosen
	return chosen, nil
}

// heal gives the victim's link its rate back.
func (t *trial) heal(ctx context.Context) error {
	return t.theVictim().Shape(ctx, fleet.Link{Rate: t.rate * 1e6})
}

// killed ends the mirror as kill -9 does. Its containerd goes on by itself.
func killed(_ context.Context, t *trial, victim *fleet.Node) (func(context.Context) error, error) {
	used, err := process.ProcessorTime(pid(victim))
	if err != nil {
		return nil, err
	}
	memory, err := process.ReadMemory(pid(victim))
	if err != nil {
		return nil, err
	}
	t.work, t.peak = used, memory.Peak
	victim.KillKioo()
	return nil, nil
}

// blackened drops all that leaves the node and all that comes to it, without a word.
func blackened(ctx context.Context, _ *trial, victim *fleet.Node) (func(context.Context) error, error) {
	return victim.Restore, victim.Black(ctx)
}

// corrupted changes what has arrived at the node, as a bad disk does: but only what its own client has had already, so
// that the others are those to whom it matters.
func corrupted(_ context.Context, _ *trial, victim *fleet.Node) (func(context.Context) error, error) {
	const every, margin, bad = 64 << 10, 1 << 20, "not what it should be"
	changed := 0
	err := filepath.WalkDir(filepath.Join(victim.DataDir(), "cache", "ingest"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return err
		}
		had := int64(0)
		for ; had < info.Size(); had += every {
			var there [8]byte
			if _, err := file.ReadAt(there[:], had); err != nil || there == [8]byte{} {
				break // A hole: nothing has arrived, and the client waits there.
			}
		}
		for at := int64(0); at < had-margin; at += every {
			if _, err := file.WriteAt([]byte(bad), at); err != nil {
				return err
			}
			changed++
		}
		return nil
	})
	if errors.Is(err, syscall.ENOENT) {
		err = nil // It was kept or dropped meanwhile.
	}
	if err == nil && changed == 0 {
		err = errors.New("nothing had arrived that could be changed")
	}
	return nil, err
}
