package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/atomicfile"
	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/sleep"
)

const (
	// accessFile is what is known of who may read what, below the data directory. Without it content that is held is
	// got from upstream again, once for each repository.
	accessFile = "access.json"
	// accessInterval is how often it is written if it changed.
	accessInterval = 30 * time.Second
	// claimsInterval is how often it is read in whose names containerd has its content. What an image claimed is known
	// then, also when it has gone.
	claimsInterval = time.Minute
)

// accessMode reads a mode of the configuration.
func accessMode(name string) access.Mode {
	switch name {
	case config.AccessRelay:
		return access.Relay
	case config.AccessVerify:
		return access.Verify
	case config.AccessOwn:
		return access.Own
	}
	return access.Auto
}

// openAccess makes the book of who may read what, from what was known before.
func (d *Daemon) openAccess() {
	a := d.cfg.Access
	d.access = access.New(access.Config{
		Mode:        func(repo reference.Repository) access.Mode { return accessMode(d.policy.Access(repo)) },
		AcceptedFor: a.AcceptedFor, RefusedFor: a.RefusedFor, OpenFor: a.OpenFor, OfflineFor: a.OfflineFor, Now: time.Now,
	})
	data, err := os.ReadFile(d.accessFile())
	if err == nil {
		err = d.access.Restore(data)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.log.Info("what is held is not known to belong to any repository, and is asked for again", "reason", err.Error())
	}
}

func (d *Daemon) accessFile() string { return filepath.Join(d.cfg.DataDir, accessFile) }

// usesOwn tells for which repositories the node's own credentials are used.
func (d *Daemon) usesOwn(repo reference.Repository) bool {
	mode := d.access.Mode(repo)
	return mode == access.Auto || mode == access.Own
}

// keepAccess writes the book down until ctx ends, and then a last time.
func (d *Daemon) keepAccess(ctx context.Context) error {
	tick := time.NewTicker(accessInterval)
	defer tick.Stop()
	written, failed := d.access.Changes(), false
	for ended := false; !ended; {
		select {
		case <-ctx.Done():
			ended = true
		case <-tick.C:
		}
		changes := d.access.Changes()
		if changes == written {
			continue
		}
		if err := d.writeAccess(); err == nil {
			written, failed = changes, false
		} else if !failed {
			failed = true
			d.log.Error(err, "write down what was seen where; it is tried again")
		}
	}
	return nil
}

// readClaims keeps up with what containerd says of where its content is from, until ctx ends.
func (d *Daemon) readClaims(ctx context.Context) error {
	if d.runtime == nil {
		return nil
	}
	for sleep.For(ctx, claimsInterval) == nil {
		d.mirror.Local().Attribute(ctx)
	}
	return nil
}

func (d *Daemon) writeAccess() error {
	data, err := d.access.Snapshot()
	if err != nil {
		return err
	}
	return atomicfile.Write(d.accessFile(), data)
}
