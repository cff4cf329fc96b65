package discovery

import (
	"context"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Nearest gives the n members closest to a key that are believed alive, this one included, the closest first. It asks
// nobody: whoever is asked next may know of closer ones.
func (d *Discovery) Nearest(key Key, n int) []Member {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.table.Closest(key.Place(), n)
}

// Closer gives up to n live members that are closer to a key than this one, the closest first, without those excluded.
func (d *Discovery) Closer(key Key, n int, exclude []peer.ID) []Member {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.table.Closer(key.Place(), n, exclude)
}

// Holders gives who holds a key for the tracker of it: by the records kept here, this member's own
// included. One that joined just now may not have all of them yet; with search, it asks others if it has none. An error
// means that ctx ended.
func (d *Discovery) Holders(ctx context.Context, key Key, search bool) ([]Member, error) {
	now := d.cfg.Now()
	var found []Member
	d.mu.Lock()
	for _, r := range d.index.Get(now, key) {
		if m, alive := d.table.Get(r.ID); alive {
			found = append(found, m)
		}
	}
	fresh := d.table.Fresh(now)
	d.mu.Unlock()
	if len(found) > 0 || !fresh || !search {
		return found, nil
	}
	providers, err := d.Providers(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("ask others that are close: %w", err)
	}
	for _, p := range providers {
		found = append(found, p.Member)
	}
	return found, nil
}

// Dead gives those of some members that are known here and held for dead.
func (d *Discovery) Dead(ids []peer.ID) []peer.ID {
	d.mu.Lock()
	defer d.mu.Unlock()
	var dead []peer.ID
	for _, id := range ids {
		if d.table.Dead(id) {
			dead = append(dead, id)
		}
	}
	return dead
}
