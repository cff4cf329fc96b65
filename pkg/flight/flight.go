// Package flight brings one blob at a time to this node: a flight per blob, however many ask for it.
//
// A flight reads the blob's bytes from its sources into a spool, in any order and each byte once, and gives them to
// its readers in order while the rest is still arriving. The whole is verified against its digest before the last
// bytes leave; then the store that made the spool keeps it. Where bytes come from, and which blob a request means, is
// for others to say.
package flight

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/semaphore"
)

var (
	// ErrHeld says that the blob has arrived since the caller looked: it is in the store that made the spool.
	ErrHeld = errors.New("blob has arrived meanwhile")
	// ErrBusy says that the node has as many flights as it may have.
	ErrBusy = errors.New("too many flights at once")
	// ErrMismatch says that what the sources sent is not the blob that its digest names.
	ErrMismatch = errors.New("content does not match its digest")
	// ErrClosed says that the group was closed.
	ErrClosed = errors.New("flights are closed")
	// errLanded says that a flight let go of its spool before a reader could open it.
	errLanded = errors.New("flight has landed")
	// ErrAbandoned says that a flight ended because nobody read it any more.
	ErrAbandoned = errors.New("nobody reads it any more")
)

// Error says why a flight failed. Readers can tell it from their own writer's or context's errors by its type.
type Error struct {
	Digest digest.Digest
	Err    error
}

func (e *Error) Error() string { return fmt.Sprintf("fetch %s: %v", e.Digest, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// Origin is who bytes of one blob came from.
type Origin interface {
	// Trusted says that wrong bytes are not to be expected. Those of other sources are held back until the whole is
	// verified, within the bounds of the configuration, so that another source can stand in unnoticed.
	Trusted() bool
	// Blame tells that a blob of which the source sent bytes does not match its digest.
	Blame(err error)
	// Kind says what sort of source it is, for logs and metrics: "peer", "upstream".
	Kind() string
	// String names the source in logs and errors.
	String() string
}

// Source is where bytes of one blob come from, such as a repository of an upstream registry. It resumes, retries and
// keeps deadlines by itself: an error of it is final for the flight. Two sources of the same name are the same.
type Source interface {
	Origin
	// Open starts to read the blob at off, up to end, or to the blob's end if end is negative.
	Open(ctx context.Context, off, end int64) (Stream, error)
}

// Stream is one read of a source. Its Read waits for at most as long as the source's deadlines allow.
type Stream interface {
	io.ReadCloser
	// Size is the size of the whole blob in bytes.
	Size() int64
	// Ranged tells whether the source can start anywhere. A source that can't is never read in two places at once.
	Ranged() bool
}

// Spool is the file that a blob arrives in. Its readers' files outlive Commit and Discard.
type Spool interface {
	io.WriterAt
	io.ReaderAt
	// Reader opens the file once more, with an offset of its own.
	Reader() (*os.File, error)
	// Commit keeps the file as the blob, whose digest the caller has verified.
	Commit(ctx context.Context, mediaType string) error
	// Discard lets go of the file, which is gone then unless Commit kept it.
	Discard() error
}

// Config is what a group needs.
type Config struct {
	// Create makes the spool for a blob of that many bytes, which an owner brings. It fails where there is no room for
	// all of them; writing fails where there is none any more.
	Create func(owner content.Owner, dgst digest.Digest, size int64) (Spool, error)
	// Held tells whether the store that makes the spools has a blob by now. It must not wait for anything.
	Held func(dgst digest.Digest) bool
	// Grace is how long a flight goes on that nobody reads any more. A client that comes back in time, or one that
	// pulls the same image elsewhere on the node, finds what has arrived. 30 seconds by default; negative ends
	// abandoned flights at once.
	Grace time.Duration
	// HoldBytes and HoldFor bound what is held back of blobs that come from a source which is not trusted: blobs of up to
	// HoldBytes, until they are verified or until HoldFor has passed. What is held back costs the time that its way
	// from the spool to the reader takes; what is not breaks a pull if it turns out wrong. 64 MiB and 5 seconds by
	// default; a negative HoldFor holds nothing back.
	HoldBytes int64
	HoldFor   time.Duration
	// Max is how many flights there are at once; more are refused with ErrBusy, as are those of one owner beyond three
	// quarters of what others leave. Each has a spool and up to four connections of its own. 256 by default.
	Max int
	// Swarm, if not nil, guides flights: they read what it says, from whom it says, for as long as it can help.
	Swarm Swarm

	Log        logr.Logger
	Registerer prometheus.Registerer
}

// Group is the flights of this node. It is safe for concurrent use.
type Group struct {
	cfg     Config
	ctx     context.Context // Flights live on it, never on the context of a request.
	cancel  context.CancelCauseFunc
	running sync.WaitGroup

	mu      sync.Mutex
	flights map[digest.Digest]*flight
	apart   map[apartKey]*flight
	owners  map[content.Owner]int // How many of the flights are each one's.
	closed  bool

	spare *semaphore.Weighted // Bytes of pieces that wait in memory.
	ended *prometheus.CounterVec
	bytes *prometheus.CounterVec
	far   prometheus.Counter
}

// New makes a group without flights.
func New(cfg Config) *Group {
	if cfg.Grace == 0 {
		cfg.Grace = 30 * time.Second
	}
	if cfg.HoldBytes == 0 {
		cfg.HoldBytes = 64 << 20
	}
	if cfg.HoldFor == 0 {
		cfg.HoldFor = 5 * time.Second
	}
	if cfg.Max == 0 {
		cfg.Max = 256
	}
	g := &Group{
		cfg: cfg, flights: map[digest.Digest]*flight{}, apart: map[apartKey]*flight{},
		owners: map[content.Owner]int{}, spare: semaphore.NewWeighted(maxSpare),
	}
	g.ctx, g.cancel = context.WithCancelCause(context.Background())
	factory := promauto.With(cfg.Registerer)
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kioo_flights", Help: "Blobs that are on their way to this node.",
	}, func() float64 {
		g.mu.Lock()
		defer g.mu.Unlock()
		return float64(len(g.flights) + len(g.apart))
	})
	g.ended = factory.NewCounterVec(prometheus.CounterOpts{
		Name: "kioo_flights_ended_total", Help: "Flights by how they ended: complete, mismatch, abandoned or failed.",
	}, []string{"result"})
	g.bytes = factory.NewCounterVec(prometheus.CounterOpts{
		Name: "kioo_flight_bytes_total", Help: "Bytes of blobs that arrived, by the kind of source.",
	}, []string{"source"})
	g.far = factory.NewCounter(prometheus.CounterOpts{
		Name: "kioo_flight_cross_zone_bytes_total", Help: "Bytes of blobs that arrived from members of other zones.",
	})
	return g
}

// Join boards the blob's flight and starts it if there is none. The sources, at least one, are added to what the
// flight can read from, each for when those before it have failed. The hint is what the caller has heard of the blob's
// size. Join returns when a source has said the size, and at the latest when ctx ends. The caller closes the reader.
// ErrHeld means to look into the store again.
//
// A flight has readers and sources of one scope alone, because a reader that boards it reads what all of its sources
// give. The empty scope is of all that anybody may read. If the call starts the flight, the room that this takes is the
// owner's, or nobody's in particular if that is empty.
func (g *Group) Join(
	ctx context.Context, scope string, owner content.Owner, dgst digest.Digest, hint SizeHint, sources ...Source,
) (*Reader, error) {
	for {
		f, err := g.board(scope, owner, dgst, hint, sources)
		if err != nil {
			return nil, err
		}
		r := &Reader{flight: f}
		err = f.board(ctx, r)
		if err == nil {
			return r, nil
		}
		if r.file != nil {
			r.file.Close() // It was only read.
		}
		f.leave()
		if !errors.Is(err, errLanded) {
			return nil, err
		}
	}
}

// board finds or starts the flight and counts the caller as one of its readers.
func (g *Group) board(
	scope string, owner content.Owner, dgst digest.Digest, hint SizeHint, sources []Source,
) (*flight, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, ErrClosed
	}
	if f := g.find(scope, dgst); f != nil && f.enter(hint, sources) {
		return f, nil
	}
	if g.cfg.Held(dgst) { // A flight lands in the store before it leaves the table, so this looks after the last one.
		return nil, ErrHeld
	}
	if err := g.room(owner); err != nil {
		return nil, err
	}
	f := newFlight(g, dgst, hint, sources)
	f.scope, f.owner = scope, owner
	g.enter(f)
	g.running.Add(1)
	go func() {
		defer g.running.Done()
		f.run()
	}()
	return f, nil
}

// forget makes room for a new flight of the same blob.
func (g *Group) forget(f *flight) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.find(f.scope, f.dgst) == f {
		g.leave(f)
	}
}

// Close ends all flights, whose readers then see ErrClosed, and returns when the last of them has let go of its spool.
func (g *Group) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.cancel(ErrClosed)
	g.running.Wait()
}
