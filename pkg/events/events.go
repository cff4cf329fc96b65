// Package events tells others what happened, by webhooks in the format of distribution's notifications.
//
// Events are queued on disk before they are sent, and taken off the queue when the receiver said that it has them: so
// each arrives at least once, also over a restart. Emit never waits for anything, neither for the disk nor for a
// receiver; what is more than the queues hold is dropped and counted. What is worth an event is for others to say.
package events

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/errgroup"
)

// MediaType is that of what is posted.
const MediaType = "application/vnd.docker.distribution.events.v1+json"

// The actions.
const (
	Pull   = "pull"
	Push   = "push"
	Delete = "delete"
)

const (
	// maxBuffered is how many events wait in memory for the disk.
	maxBuffered = 4096
	// gather is how long events are collected for one write to the disk. What a kill loses is no older.
	gather = 100 * time.Millisecond
	// maxBatch is how many events one request carries.
	maxBatch = 100
)

// Event is one event, as distribution writes it.
type Event struct {
	ID        string    `json:"id"`
	Timestamp time.Time `json:"timestamp"`
	Action    string    `json:"action"`
	Target    Target    `json:"target"`
	Request   Request   `json:"request"`
	Actor     struct {
		Name string `json:"name,omitempty"`
	} `json:"actor"`
	Source Source `json:"source"`
}

// Target is what an event is about.
type Target struct {
	MediaType string `json:"mediaType,omitempty"`
	Digest    string `json:"digest,omitempty"`
	Size      int64  `json:"size,omitempty"`
	// Length is Size, by the name that it had first.
	Length int64 `json:"length,omitempty"`
	// Repository is the full name, registry included.
	Repository string `json:"repository,omitempty"`
	URL        string `json:"url,omitempty"`
	Tag        string `json:"tag,omitempty"`
}

// Request is the request that caused an event, if one did.
type Request struct {
	ID        string `json:"id,omitempty"`
	Addr      string `json:"addr,omitempty"`
	Host      string `json:"host,omitempty"`
	Method    string `json:"method,omitempty"`
	UserAgent string `json:"useragent,omitempty"`
}

// Source is the mirror that tells.
type Source struct {
	Addr       string `json:"addr,omitempty"`
	InstanceID string `json:"instanceID,omitempty"`
}

// Endpoint is one receiver.
type Endpoint struct {
	URL string
	// AuthorizationFile holds the value of the Authorization header, read for each request. Default: none.
	AuthorizationFile string
	// CAFile holds authorities in PEM that are trusted besides the system's. Default: none.
	CAFile string
	// Actions are those that it is told of. Default: all.
	Actions []string
	// Timeout bounds one request. 10 seconds by default.
	Timeout time.Duration
}

// Config is what a queue needs.
type Config struct {
	// Path is the file of the queues.
	Path      string
	Endpoints []Endpoint
	// MaxQueued is how many events wait for each endpoint at most. 10,000 by default.
	MaxQueued int
	// Source is this mirror.
	Source Source

	Now        func() time.Time
	Log        logr.Logger
	Registerer prometheus.Registerer
}

// Queue takes events and sends them. It is safe for concurrent use.
type Queue struct {
	cfg     Config
	disk    *disk
	buffer  chan Event
	senders []*sender

	dropped *prometheus.CounterVec
	sent    *prometheus.CounterVec
}

// Open opens the queues of the endpoints, with what was left in them. Those of endpoints that are no more are dropped.
func Open(cfg Config) (*Queue, error) {
	if cfg.MaxQueued == 0 {
		cfg.MaxQueued = 10_000
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	factory := promauto.With(cfg.Registerer)
	q := &Queue{
		cfg: cfg, buffer: make(chan Event, maxBuffered),
		dropped: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "kioo_events_dropped_total", Help: "Events that no receiver will hear of, by reason: memory (too many at once), queue (full), disk (can't be written).",
		}, []string{"reason"}),
		sent: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "kioo_event_requests_total", Help: "Requests with events to receivers, by result: ok or failed.",
		}, []string{"result"}),
	}
	var names []string
	for i, e := range cfg.Endpoints {
		s, err := q.newSender(i, e)
		if err != nil {
			return nil, err
		}
		q.senders = append(q.senders, s)
		names = append(names, s.kept)
	}
	var err error
	if q.disk, err = openDisk(cfg.Path, names, cfg.Log); err != nil {
		return nil, err
	}
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kioo_events_queued", Help: "Events on disk that wait for a receiver, over all receivers.",
	}, func() float64 { return float64(q.disk.total()) })
	return q, nil
}

// Close closes the file. Run has returned before.
func (q *Queue) Close() error { return q.disk.close() }

// Emit takes an event, without waiting. Its ID, time and source are filled in.
func (q *Queue) Emit(e Event) {
	e.ID, e.Timestamp, e.Source = rand.Text(), q.cfg.Now().UTC(), q.cfg.Source
	select {
	case q.buffer <- e:
	default:
		q.dropped.WithLabelValues("memory").Inc()
	}
}

// Run writes events to disk and sends them until ctx ends, and then writes what is left.
func (q *Queue) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range q.senders {
		group.Go(func() error {
			s.run(ctx)
			return nil
		})
	}
	group.Go(func() error {
		q.write(ctx)
		return nil
	})
	return group.Wait()
}

// write moves events from memory to disk.
func (q *Queue) write(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			q.store(q.take(nil))
			return
		case e := <-q.buffer:
			pause := time.NewTimer(gather)
			select {
			case <-ctx.Done():
			case <-pause.C:
			}
			pause.Stop()
			q.store(q.take([]Event{e}))
		}
	}
}

// take adds what is in memory.
func (q *Queue) take(batch []Event) []Event {
	for range maxBuffered {
		select {
		case e := <-q.buffer:
			batch = append(batch, e)
		default:
			return batch
		}
	}
	return batch
}

// store puts events into the queues of those who want them.
func (q *Queue) store(batch []Event) {
	for _, s := range q.senders {
		var wanted [][]byte
		for _, e := range batch {
			if len(s.endpoint.Actions) > 0 && !slices.Contains(s.endpoint.Actions, e.Action) {
				continue
			}
			data, err := json.Marshal(e)
			if err != nil {
				q.cfg.Log.Error(err, "event can't be written") // Strings and times always can.
				continue
			}
			wanted = append(wanted, data)
		}
		if len(wanted) == 0 {
			continue
		}
		stored, err := q.disk.add(s.kept, wanted, q.cfg.MaxQueued)
		switch {
		case err != nil:
			q.dropped.WithLabelValues("disk").Add(float64(len(wanted)))
			q.cfg.Log.Error(err, "events lost, as the disk does not take them", "events", len(wanted))
			continue
		case stored < len(wanted):
			q.dropped.WithLabelValues("queue").Add(float64(len(wanted) - stored))
			q.cfg.Log.V(1).Info("events lost, as the queue is full", "events", len(wanted)-stored, "endpoint", s.name)
		}
		s.wake()
	}
}

// envelope is what is posted.
type envelope struct {
	Events []json.RawMessage `json:"events"`
}

// errRefused is an answer that is no success.
var errRefused = errors.New("receiver does not take it")

func (s *sender) post(ctx context.Context, events [][]byte) error {
	body := envelope{Events: make([]json.RawMessage, len(events))}
	for i, e := range events {
		body.Events[i] = e
	}
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("write events: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.endpoint.Timeout)
	defer cancel()
	status, err := s.send(ctx, data)
	if err != nil {
		return err
	}
	if status/100 != 2 {
		return fmt.Errorf("status %d %s: %w", status, http.StatusText(status), errRefused)
	}
	return nil
}
