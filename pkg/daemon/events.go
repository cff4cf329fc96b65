package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/content/cache"
	"github.com/kioo-dev/kioo/pkg/events"
	"github.com/kioo-dev/kioo/pkg/registry"
	"github.com/opencontainers/go-digest"
)

// eventsFile is the file of queued events below the data directory.
const eventsFile = "events.db"

// openEvents opens the queue of events; nil where nobody wants to hear of them.
func (d *Daemon) openEvents(pseudonym string) (*events.Queue, error) {
	c := d.cfg.Events
	if len(c.Endpoints) == 0 {
		return nil, nil
	}
	if err := os.MkdirAll(d.cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("open queue of events: %w", err)
	}
	cfg := events.Config{
		Path: filepath.Join(d.cfg.DataDir, eventsFile), MaxQueued: c.MaxQueued,
		Source: events.Source{Addr: d.cfg.Mirror.Listen[0], InstanceID: pseudonym},
		Log:    d.log.WithName("events"), Registerer: d.metrics,
	}
	if name, err := os.Hostname(); err == nil {
		cfg.Source.Addr = name
	}
	for _, e := range c.Endpoints {
		cfg.Endpoints = append(cfg.Endpoints, events.Endpoint{
			URL: e.URL, AuthorizationFile: e.AuthorizationFile, CAFile: e.CAFile, Actions: e.Actions, Timeout: e.Timeout,
		})
	}
	return events.Open(cfg)
}

// pulled tells of what a client got.
func pulled(q *events.Queue) func(registry.Pull) {
	if q == nil {
		return nil
	}
	return func(p registry.Pull) {
		q.Emit(events.Event{
			Action: events.Pull,
			Target: events.Target{
				MediaType: p.Descriptor.MediaType, Digest: p.Descriptor.Digest.String(), Size: p.Descriptor.Size, Length: p.Descriptor.Size,
				Repository: p.Ref.Repository.String(), URL: "http://" + p.Host + p.Path, Tag: p.Ref.Tag,
			},
			Request: events.Request{ID: p.ID, Addr: p.Client, Host: p.Host, Method: p.Method, UserAgent: p.UserAgent},
		})
	}
}

// cacheEvents tells of what the cache holds from now on, and no longer.
type cacheEvents struct {
	queue *events.Queue
	// open is set once the cache is: what it finds then is no news.
	open atomic.Bool
}

// Blob implements cache.Observer.
func (e *cacheEvents) Blob(dgst digest.Digest, held bool) {
	if !e.open.Load() {
		return
	}
	action := events.Delete
	if held {
		action = events.Push
	}
	e.queue.Emit(events.Event{Action: action, Target: events.Target{Digest: dgst.String()}})
}

// Tag implements cache.Observer.
func (e *cacheEvents) Tag(string, content.Tag, bool) {}

// observers is several of them.
type observers []cache.Observer

// Blob implements cache.Observer.
func (o observers) Blob(dgst digest.Digest, held bool) {
	for _, each := range o {
		each.Blob(dgst, held)
	}
}

// Tag implements cache.Observer.
func (o observers) Tag(name string, tag content.Tag, known bool) {
	for _, each := range o {
		each.Tag(name, tag, known)
	}
}
