package cache

import (
	"fmt"
	"syscall"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache/internal/eviction"
)

const (
	// leastStep is how much room a blob on its way gets at a time, as its bytes come: what somebody announces costs
	// nobody anything. More means fewer calls for it; less lets those who announce much and send little have less.
	leastStep = 1 << 20

	// mostSteps bounds how many steps a blob has, and with that what is noted of them: those of large blobs are larger.
	mostSteps = 1 << 16
)

// stepOf gives the step of a blob of that many bytes.
func stepOf(size int64) int64 {
	return max(leastStep, (size+mostSteps-1)/mostSteps)
}

// promise is the room that a blob on its way has, and may get. It is guarded by the cache's mu.
type promise struct {
	owner   content.Owner
	size    int64
	arrival *eviction.Arrival // Nil if it was clear from the start that it won't be kept.
	claim   *eviction.Claim   // Of the spool's room. Nil if the blob will be kept.
}

func (p *promise) kept() bool { return p.claim == nil }

// promise says whether there can be room for a blob on its way. It takes none, and evicts nothing but one blob where
// there are as many as there may be.
func (c *Cache) promise(owner content.Owner, size int64) (*promise, error) {
	if err := c.diskLacks(owner, size); err != nil {
		return nil, err
	}
	c.mu.Lock()
	crowded := c.ledger.policy.Crowded()
	if !crowded {
		defer c.mu.Unlock()
		p, _, err := c.begin(owner, size)
		return p, err
	}
	c.mu.Unlock()
	c.names.Lock()
	defer c.names.Unlock()
	c.mu.Lock()
	p, victims, err := c.begin(owner, size)
	c.mu.Unlock()
	c.evicted(victims)
	return p, err
}

// begin is promise with c.mu held.
func (c *Cache) begin(owner content.Owner, size int64) (*promise, []*eviction.Blob, error) {
	switch {
	case c.closed:
		return nil, nil, ErrClosed
	case c.space.full:
		return nil, nil, fmt.Errorf("%w: the disk is full", ErrNoSpace)
	}
	p := &promise{owner: owner, size: size}
	arrival, victims, ok := c.ledger.policy.Begin(owner, size)
	c.ledger.evicted(victims)
	if ok {
		p.arrival = arrival
		return p, victims, nil
	}
	if p.claim = c.ledger.spool.Claim(owner, size); p.claim == nil {
		return nil, victims, fmt.Errorf("%w: %d bytes may be held and %d spooled, by %q no more than its share",
			ErrNoSpace, c.cfg.MaxBytes, c.cfg.SpoolBytes, owner)
	}
	return p, victims, nil
}

// diskLacks says whether it is clear now that the disk will have no room for all of a blob, so that it need not break
// off. That alone is nobody else's concern: only what really finds no room turns caching off.
func (c *Cache) diskLacks(owner content.Owner, size int64) error {
	left := available(string(c.dir))
	c.mu.Lock()
	coming := c.ledger.policy.Outstanding(owner)
	could := c.ledger.policy.Evictable()
	c.mu.Unlock()
	if size <= left-coming || size-left <= could-coming {
		return nil
	}
	err := fmt.Errorf("the disk has %d bytes left: %w", left, syscall.ENOSPC)
	if left < probeLeast {
		return c.noSpace(err, probeLeast)
	}
	return fmt.Errorf("%w: %w", ErrNoSpace, err)
}

// grow makes room for more bytes of a blob on its way, by evicting others if it must. Where the cache has none for it,
// the rest of the blob goes on in the spool's, and it won't be kept.
func (c *Cache) grow(p *promise, n int64) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return ErrClosed
	}
	ok := p.kept() && c.ledger.policy.Room(p.arrival, n)
	if ok {
		c.ledger.policy.Grow(p.arrival, n)
	}
	kept := p.kept()
	c.mu.Unlock()
	switch {
	case ok:
		return nil
	case kept && c.growEvicting(p.arrival, n):
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.claim == nil {
		p.claim = c.ledger.spool.Claim(p.owner, p.size-p.arrival.Reserved())
	}
	if p.claim == nil || !p.claim.Take(n) {
		return fmt.Errorf("%w: what is held can't make room for more from %q", ErrNoSpace, p.owner)
	}
	return nil
}

func (c *Cache) growEvicting(a *eviction.Arrival, n int64) bool {
	c.names.Lock()
	defer c.names.Unlock()
	c.mu.Lock()
	if c.closed { // The directory may be another process's by now.
		c.mu.Unlock()
		return false
	}
	victims, ok := c.ledger.policy.Grow(a, n)
	c.ledger.evicted(victims)
	c.mu.Unlock()
	c.evicted(victims)
	return ok
}

// free evicts at least n bytes for what an owner brings, because the disk has no room, and tells whether it could.
func (c *Cache) free(owner content.Owner, n int64) bool {
	c.names.Lock()
	defer c.names.Unlock()
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return false
	}
	victims := c.ledger.evicted(c.ledger.policy.Free(owner, n))
	c.mu.Unlock()
	c.evicted(victims)
	return len(victims) > 0
}

// release gives a promise back.
func (c *Cache) release(p *promise) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger.release(p)
}

// release gives a promise back. It may be called again.
func (l *ledger) release(p *promise) {
	if p.arrival != nil {
		l.policy.End(p.arrival)
		p.arrival = nil
	}
	if p.claim != nil {
		p.claim.End()
		p.claim = nil
	}
}
