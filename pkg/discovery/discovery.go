// Package discovery owns who holds what: which members there are, what each of them holds, and which member
// is closest to a key.
//
// Members meet over libp2p connections whose handshake is bound to the cluster key, and route by Kademlia. What a
// member holds it announces, in batches, to the three members closest to each key, and it withdraws what is gone.
// Whoever looks for a key asks the closest member it knows, which refers it to a closer one if there is one. What
// members say of their peer API and zone travels along; nothing is assumed about ports.
//
// It moves no content, and neither verifies nor caches any: that somebody is said to hold something is a hint. The
// decisions are in the packages below, which are pure; this one moves their messages.
package discovery

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/discovery/internal/ledger"
	"github.com/kioo-dev/kioo/pkg/discovery/internal/members"
	"github.com/kioo-dev/kioo/pkg/discovery/internal/wire"
	"github.com/kioo-dev/kioo/pkg/door"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

const (
	recordTTL     = 15 * time.Minute
	recordRefresh = 5 * time.Minute
)

// Config says how a member takes part.
type Config struct {
	// Keys are the cluster's keys, 32 random bytes each. Any of them admits; the first one that the other side has
	// is used. To rotate, list the new and the old key on every member, then the new one alone. Required.
	Keys [][]byte
	// Listen is where the DHT listens, and exactly what is told to others: the node's own addresses, of IPv4, IPv6
	// or both. Never the unspecified address, which would advertise every bridge of the node. Port 0 lets the kernel
	// choose. Required.
	Listen []netip.AddrPort
	// PeerAPI is where others reach this member's peer API, as host:port, the preferred one first.
	PeerAPI []string
	// Zone is where this member runs. Providers of the same zone come first. Empty means unknown.
	Zone string
	// DataDir keeps the member's identity. Empty means that every start is a new member: others then take up to a
	// quarter of a minute to see that the old one is gone, if it could not say goodbye.
	DataDir string
	// Bootstrap finds the first members, and later those of other islands. Nil means none: then others come to us.
	Bootstrap Bootstrapper
	// BootstrapInterval is the mean time between two rounds of Bootstrap, once there are members. Shorter merges
	// islands sooner and asks DNS more often. Zero means 30 s.
	BootstrapInterval time.Duration
	// MaxMembers bounds how many others are known, at some 500 bytes each. Zero means 8192.
	MaxMembers int
	// MaxRecords bounds how many records are kept for others, at some 150 bytes each; more are refused. Zero means
	// one million. The mean is three times what a member holds, however large the fleet.
	MaxRecords int
	// MaxRecordsPerMember bounds MaxRecords for one member. Zero means 100,000.
	MaxRecordsPerMember int
	// GoodbyeTimeout bounds how long Run takes to say goodbye. Zero means 2 s.
	GoodbyeTimeout time.Duration
	// Log gets what happens to members. The zero value is silent.
	Log logr.Logger
	// Registerer gets the metrics; nil means that nobody does.
	Registerer prometheus.Registerer
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

func (c *Config) setDefaults() {
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{{&c.BootstrapInterval, 30 * time.Second}, {&c.GoodbyeTimeout, 2 * time.Second}} {
		if *d.v == 0 {
			*d.v = d.d
		}
	}
	for _, d := range []struct {
		v *int
		d int
	}{{&c.MaxMembers, 8192}, {&c.MaxRecords, 1_000_000}, {&c.MaxRecordsPerMember, 100_000}} {
		if *d.v == 0 {
			*d.v = d.d
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Bootstrap == nil {
		c.Bootstrap = Static(nil)
	}
	if c.Log.GetSink() == nil {
		c.Log = logr.Discard()
	}
}

func (c *Config) validate() error {
	if len(c.Keys) == 0 {
		return errors.New("no cluster key")
	}
	for i, k := range c.Keys {
		if len(k) != keySize {
			return fmt.Errorf("cluster key %d has %d bytes instead of %d", i+1, len(k), keySize)
		}
		if slices.ContainsFunc(c.Keys[:i], func(o []byte) bool { return string(o) == string(k) }) {
			return fmt.Errorf("cluster key %d is listed twice", i+1)
		}
	}
	if len(c.Listen) == 0 {
		return errors.New("no address to listen on")
	}
	for _, a := range c.Listen {
		if !a.IsValid() || a.Addr().IsUnspecified() || a.Addr().Zone() != "" || a.Addr().Is4In6() {
			return fmt.Errorf("address %s: listen on an address that others can dial", a)
		}
	}
	if min(c.BootstrapInterval, c.GoodbyeTimeout) < 0 || min(c.MaxMembers, c.MaxRecords, c.MaxRecordsPerMember) < 0 {
		return errors.New("an interval or a bound is negative")
	}
	return nil
}

// Discovery is a member. Its methods are safe for concurrent use, and answer before, during and after Run: without
// others, what is asked of it is known to nobody.
type Discovery struct {
	cfg      Config
	log      logr.Logger
	identity crypto.PrivKey
	keys     []security
	metrics  *metrics
	started  chan struct{}
	wake     chan struct{}
	tasks    sync.WaitGroup // What Run's children start, and Run waits for.
	serving  sync.WaitGroup // Streams that others opened.
	node     *node          // Set before started is closed.
	door     *door.Door
	// complaints bounds how often the log has that a member breaks the protocol.
	complaints *rate.Limiter
	pressed    chan struct{}                            // Strangers push each other out.
	listed     atomic.Pointer[map[netip.Addr]time.Time] // When bootstrap named them last. Replaced under mu, never changed.
	client     *client                                  // Likewise.

	mu    sync.Mutex // For what follows. It is never held over I/O.
	rand  *rand.Rand
	table *members.Table
	index *ledger.Index
	book  *ledger.Book
	loop  loopState
}

// New makes a member. It loads the identity, or makes one, and starts nothing.
func New(cfg Config) (*Discovery, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	priv, err := loadIdentity(cfg.DataDir)
	if priv == nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	if err != nil {
		cfg.Log.Info("this member's identity is not kept: its next start will be a new member", "reason", err.Error())
	}
	id, err := peer.IDFromPrivateKey(priv)
	if err != nil {
		return nil, fmt.Errorf("discovery: identity: %w", err)
	}
	d := &Discovery{
		cfg: cfg, log: cfg.Log, identity: priv,
		started: make(chan struct{}), wake: make(chan struct{}, 1), pressed: make(chan struct{}, 1),
		complaints: rate.NewLimiter(rate.Every(10*time.Second), 10),
		rand:       rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		index:      ledger.NewIndex(recordTTL, cfg.MaxRecordsPerMember, cfg.MaxRecords),
		book:       ledger.NewBook(recordRefresh, recordTTL),
	}
	for _, k := range cfg.Keys {
		s, err := newSecurity(k, priv)
		if err != nil {
			return nil, fmt.Errorf("discovery: %w", err)
		}
		d.keys = append(d.keys, s)
	}
	self := wire.Member{
		ID: id, Addrs: cfg.Listen, PeerAPI: cfg.PeerAPI, Zone: cfg.Zone, Epoch: uint64(cfg.Now().UnixMilli()),
	}
	if err := self.Validate(); err != nil {
		return nil, fmt.Errorf("discovery: what this member says of itself: %w", err)
	}
	d.table = members.New(members.Config{Self: self, Max: cfg.MaxMembers, Rand: d.rand})
	d.door = newDoor(d.Listed, d.press)
	d.metrics = newMetrics(cfg.Registerer, d)
	return d, nil
}

// Set notes what this member holds from now on, and what it no longer holds. It returns at once; others are told
// within moments, in batches. What is set twice is told once.
func (d *Discovery) Set(add []Entry, remove []Key) {
	d.mu.Lock()
	d.book.Set(add, remove)
	d.planIn(batchDelay)
	d.mu.Unlock()
	d.poke()
}

// Members gives the other members that are believed alive, in no order.
func (d *Discovery) Members() []Member {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.table.Members()
}

// Self gives what this member says of itself.
func (d *Discovery) Self() Member {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.table.Self()
}

// Started is closed once Run listens.
func (d *Discovery) Started() <-chan struct{} { return d.started }

// Pending gives how many things that this member holds, or no longer holds, others still have to be told of. While
// the members change that is not known yet, and it is one at least.
func (d *Discovery) Pending() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.loop.changed.IsZero() || d.loop.generation != d.table.Generation() {
		return max(1, d.book.Pending())
	}
	return d.book.Pending()
}

// ReportDead notes that a member could not be reached. It takes no part in anything here for a while.
func (d *Discovery) ReportDead(id peer.ID) {
	d.mu.Lock()
	d.table.Report(id, d.cfg.Now())
	d.evict(id)
	d.mu.Unlock()
	d.log.V(1).Info("member was reported dead", "member", id.String())
	d.poke()
}

// poke makes the loop look whether there is something to do.
func (d *Discovery) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}
