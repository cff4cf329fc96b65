package random_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/registry"
	"github.com/kioo-dev/kioo/pkg/upstream"
	p2p "github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
)

// The windows of the nodes' configuration, over which a registry's word counts.
const (
	openFor     = 10 * time.Minute
	acceptedFor = 5 * time.Minute
	refusedFor  = 30 * time.Second
	freshFor    = time.Minute
)

// node is one of the two nodes.
type node struct {
	w       *world
	name    string
	mode    access.Mode
	store   *store
	runtime *runtime
	up      *upstream.Client
	peers   *peer.Client
	members *mirror.Members
	address string
	stop    context.CancelFunc

	// These end with each restart.
	book    *access.Book
	mirror  *mirror.Mirror
	flights *flight.Group
	local   http.Handler
	saved   []byte                        // The book as it was written down last.
	refused map[reference.Repository]bool // What was refused by then.
	mu      sync.Mutex
}

func newNode(w *world, name string, mode access.Mode) *node {
	n := &node{w: w, name: name, mode: mode, store: newStore(), runtime: newRuntime(w.now), refused: map[reference.Repository]bool{}}
	n.peers = peer.NewClient(peer.ClientConfig{Credentials: w.creds, Member: name, FirstByte: time.Second, Now: w.now})
	members, err := mirror.NewMembers(finder{n}, n.peers, w.now, logr.Discard())
	w.check(err)
	n.members = members
	n.start()
	n.address, n.stop = w.listen(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		handler := n.local
		n.mu.Unlock()
		handler.ServeHTTP(rw, r)
	}))
	return n
}

// start makes what a process has in memory.
func (n *node) start() {
	n.book = access.New(access.Config{
		Mode:    func(reference.Repository) access.Mode { return n.mode },
		OpenFor: openFor, AcceptedFor: acceptedFor, RefusedFor: refusedFor, Now: n.w.now,
	})
	if n.saved != nil {
		_ = n.book.Restore(n.saved) // What it can't read it says so of, and knows the less.
	}
	var err error
	n.up, err = upstream.New(upstream.Config{
		Registries: func(repo reference.Repository) upstream.Registry {
			return upstream.Registry{Endpoints: []upstream.Endpoint{{URL: n.w.registries[repo.Registry].URL}}}
		},
		Retries: upstream.Retries{Attempts: 1}, UserAgent: n.name, Observe: n.book.Learn,
		RedirectsFor: openFor, Now: n.w.now,
	})
	n.w.check(err)
	n.flights = flight.New(flight.Config{
		Create: func(_ content.Owner, dgst digest.Digest, _ int64) (flight.Spool, error) { return n.store.create(dgst) },
		Held:   n.store.has, Grace: -1, Log: logr.Discard(),
	})
	rules := config.Default()
	rules.Tags.Rules = []config.TagRule{
		{Match: "*:only", Policy: config.UpstreamOnly, FreshFor: freshFor},
		{Match: "*:first", Policy: config.UpstreamFirst, FreshFor: freshFor},
	}
	p, err := policy.New(rules)
	n.w.check(err)
	m, err := mirror.New(mirror.Config{
		Held: []mirror.Held{{Name: "runtime", Store: n.runtime}, {Name: "cache", Store: n.store}},
		Tags: []content.TagStore{n.runtime}, Keeper: n.store, Flights: n.flights, Members: n.members,
		Upstream: n.up, Access: n.book, Policy: p, FailedFor: time.Second, AnswerWithin: 5 * time.Second,
		Now: n.w.now, Log: logr.Discard(),
	})
	n.w.check(err)
	n.mirror = m
	n.mu.Lock()
	n.local = registry.New(registry.Config{Backend: m.Local(), Pseudonym: "members", Log: logr.Discard()})
	n.mu.Unlock()
}

// save writes the book down, as the daemon does now and then.
func (n *node) save() {
	data, err := n.book.Snapshot()
	n.w.check(err)
	n.saved = data
	for _, repo := range n.w.repos() {
		n.refused[repo.name] = repo.refused[n.name]
	}
}

// end ends the process.
func (n *node) end() {
	n.flights.Close()
	n.mirror.Close()
	n.up.Close()
}

func (n *node) close() {
	n.end()
	n.stop()
	n.peers.Close()
}

// finder stands in for discovery: everybody else says to have everything.
type finder struct{ n *node }

// Providers implements mirror.Finder.
func (f finder) Providers(context.Context, discovery.Key) ([]discovery.Provider, error) {
	var all []discovery.Provider
	for _, m := range f.n.w.members() {
		if m.name != f.n.name {
			all = append(all, discovery.Provider{Member: discovery.Member{ID: p2p.ID(m.name), PeerAPI: []string{m.address}}})
		}
	}
	return all, nil
}

// ReportDead implements mirror.Finder.
func (finder) ReportDead(p2p.ID) {}

// get reads what the node gives to a client, as the registry's API would.
func (n *node) get(client string, ref reference.Reference, blob bool) ([]byte, *mirror.Answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var o upstream.Origin
	if client != "" {
		o.Credentials = access.NewCredentials("Bearer " + client)
	}
	var a *mirror.Answer
	var err error
	if blob {
		a, err = n.mirror.Blob(ctx, ref, false, o)
	} else {
		a, err = n.mirror.Manifest(ctx, ref, o)
	}
	if err != nil {
		return nil, nil, err
	}
	defer a.Blob.Close()
	if in, ok := a.Blob.(content.Arriving); ok {
		if err := in.Ready(ctx, 0); err != nil {
			return nil, nil, err
		}
	}
	var got bytes.Buffer
	_, err = a.Blob.CopyRange(ctx, &got, 0, a.Blob.Size())
	if err != nil {
		return nil, nil, fmt.Errorf("after %d bytes: %w", got.Len(), err)
	}
	return got.Bytes(), a, nil
}

// listen serves a member's API.
func (w *world) listen(handler http.Handler) (address string, stop context.CancelFunc) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.check(err)
	ctx, cancel := context.WithCancel(context.Background())
	server := peer.NewServer(peer.ServerConfig{Handler: handler, Credentials: w.creds, Drain: time.Millisecond, Log: logr.Discard()})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Run(ctx, l) // It says only that it ended.
	}()
	return l.Addr().String(), func() {
		cancel()
		<-done
	}
}
