package containerd

import (
	"context"
	"fmt"
	"maps"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

const (
	// settle is how long after a subscription everything is listed again. containerd starts a subscription when it
	// gets to it and does not tell, so that what changed in the meantime may be in neither the events nor the first
	// list.
	settle = 2 * time.Second

	// pollContent is the time between two lists of all blobs, where the content directory is not mounted: nothing
	// tells of blobs that are collected nor, before containerd 2.1, of new ones.
	pollContent = 10 * time.Second

	// afterImage is how long after an image came or went the blobs are listed, where the directory is not mounted:
	// what came is there already then, and collecting what went takes a moment. Several images share one list.
	afterImage = 300 * time.Millisecond
)

// followRuntime knows what containerd's API tells, until ctx ends.
func (s *Store) followRuntime(ctx context.Context, r *remote) {
	wait := retry{first: 100 * time.Millisecond, most: 3 * time.Second}
	for ctx.Err() == nil {
		err := s.follow(ctx, r, func() {
			wait.reset()
			s.setConnected(true, "")
		})
		if ctx.Err() != nil {
			return
		}
		s.setConnected(false, err.Error())
		wait.sleep(ctx)
	}
}

func (s *Store) setConnected(connected bool, reason string) {
	s.mu.Lock()
	before := s.status
	s.status.Connected, s.status.Reason = connected, reason
	s.mu.Unlock()
	switch {
	case connected && !before.Connected:
		s.log.Info("following containerd", "address", s.cfg.Address)
	case !connected && (before.Connected || before.Reason == "not started"):
		s.log.Info("containerd can't be reached; what it held is taken to be as it was", "address", s.cfg.Address, "reason", reason)
	}
	if before.Connected && !connected {
		s.metrics.disconnects.Inc()
	}
}

// follow subscribes, lists, and then keeps up with events. It returns when containerd does not answer.
func (s *Store) follow(ctx context.Context, r *remote, stands func()) error {
	ctx, cancel := context.WithCancel(ctx)
	events := make(chan *types.Envelope)
	received := make(chan error, 1)
	defer func() {
		cancel()
		<-received
	}()
	withContent := s.cfg.ContentDir == ""
	stream, err := r.subscribe(ctx, withContent)
	if err != nil {
		received <- nil // There is nobody else to do so.
		return fmt.Errorf("subscribe to containerd's events: %w", err)
	}
	go func() { received <- receive(ctx, stream, events) }()
	if err := s.listAll(ctx, r); err != nil {
		return err
	}
	stands()

	settled := time.NewTimer(settle)
	defer settled.Stop()
	reconcile := time.NewTicker(s.cfg.Reconcile)
	defer reconcile.Stop()
	poll := time.NewTimer(pollContent)
	defer poll.Stop()
	if !withContent {
		poll.Stop()
	}
	for {
		select {
		case err := <-received:
			received <- nil
			return fmt.Errorf("receive containerd's events: %w", err)
		case event := <-events:
			var image bool
			if image, err = s.runtimeEvent(ctx, r, event); image && withContent {
				poll.Reset(afterImage)
			}
		case <-settled.C:
			err = s.listAll(ctx, r)
		case <-reconcile.C:
			err = s.listAll(ctx, r)
		case <-poll.C:
			err = s.listBlobs(ctx, r)
			poll.Reset(pollContent)
		}
		if err != nil {
			return err
		}
	}
}

// receive hands events on, until ctx ends or they do.
func receive(ctx context.Context, stream grpc.ServerStreamingClient[types.Envelope], events chan<- *types.Envelope) error {
	for {
		event, err := stream.Recv()
		if err != nil {
			return err
		}
		select {
		case events <- event:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// runtimeEvent looks at what an event is about: what is so now counts, not what the event says. It tells whether that
// was an image.
func (s *Store) runtimeEvent(ctx context.Context, r *remote, event *types.Envelope) (image bool, err error) {
	switch event.Topic {
	case "/images/create", "/images/update", "/images/delete":
		name, ok := subject(event)
		if !ok {
			return true, s.listImages(ctx, r, event.Namespace)
		}
		return true, s.lookImage(ctx, r, source{event.Namespace, name})
	case "/content/create", "/content/delete":
		if dgst, ok := subject(event); ok {
			return false, s.lookRemote(ctx, r, digest.Digest(dgst))
		}
		return false, s.listBlobs(ctx, r)
	}
	return false, nil
}

// subject tells the name of the image, or the digest of the blob, that an event is about.
func subject(event *types.Envelope) (string, bool) {
	var message proto.Message
	switch event.Topic {
	case "/images/create":
		message = &eventsapi.ImageCreate{}
	case "/images/update":
		message = &eventsapi.ImageUpdate{}
	case "/images/delete":
		message = &eventsapi.ImageDelete{}
	case "/content/create":
		message = &eventsapi.ContentCreate{}
	case "/content/delete":
		message = &eventsapi.ContentDelete{}
	}
	if event.Event == nil || proto.Unmarshal(event.Event.Value, message) != nil {
		return "", false
	}
	var name string
	switch m := message.(type) {
	case interface{ GetName() string }:
		name = m.GetName()
	case interface{ GetDigest() string }:
		name = m.GetDigest()
	}
	return name, name != ""
}

// listAll compares with all that the API lists.
func (s *Store) listAll(ctx context.Context, r *remote) error {
	if s.cfg.ContentDir == "" {
		if err := s.listBlobs(ctx, r); err != nil {
			return err
		}
	}
	for _, namespace := range r.namespaces {
		if err := s.listImages(ctx, r, namespace); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.listed = true
	s.mu.Unlock()
	return nil
}

func (s *Store) listImages(ctx context.Context, r *remote, namespace string) error {
	images, err := r.listImages(ctx, namespace)
	if err != nil {
		return err
	}
	records := make(map[string]record, len(images))
	claims := make(map[string]content.Claim, len(images))
	for _, image := range images {
		if rec, ok := recordOf(image, s.cfg.Now()); ok {
			records[image.Name] = rec
		}
		if claim, ok := claimOf(image); ok {
			claims[image.Name] = claim
		}
	}
	s.mu.Lock()
	room := s.ledger.setRecords(namespace, records)
	room = s.ledger.setClaims(namespace, claims) && room
	s.mu.Unlock()
	if !room {
		s.sayFull("image records", s.cfg.MaxTags)
	}
	return nil
}

func (s *Store) lookImage(ctx context.Context, r *remote, src source) error {
	image, err := r.image(ctx, src)
	if err != nil {
		return err
	}
	var rec record
	ok := false
	if image != nil {
		rec, ok = recordOf(image, s.cfg.Now())
	}
	room := true
	s.mu.Lock()
	if ok {
		room = s.ledger.setRecord(src, rec)
	} else {
		s.ledger.removeRecord(src)
	}
	claim, claims := claimOf(image)
	room = s.ledger.setClaim(src, claim, claims) && room
	s.mu.Unlock()
	if !room {
		s.sayFull("image records", s.cfg.MaxTags)
	}
	return nil
}

func (s *Store) listBlobs(ctx context.Context, r *remote) error {
	found := make(map[digest.Digest]*contentapi.Info)
	err := r.listBlobs(ctx, func(info *contentapi.Info) {
		if dgst := digest.Digest(info.Digest); dgst.Validate() == nil {
			found[dgst] = info
		}
	})
	if err != nil {
		return err
	}
	seen := make(map[digest.Digest]struct{}, len(found))
	for dgst := range maps.Keys(found) {
		seen[dgst] = struct{}{}
	}
	s.mu.Lock()
	gone := s.ledger.missing(seen)
	s.mu.Unlock()
	for _, dgst := range gone {
		s.drop(dgst)
	}
	for dgst, info := range found {
		s.put(dgst, info.Size, info.CreatedAt.AsTime())
	}
	return nil
}

// lookRemote notes whether some namespace has a blob.
func (s *Store) lookRemote(ctx context.Context, r *remote, dgst digest.Digest) error {
	if dgst.Validate() != nil {
		return nil
	}
	info, _, err := r.info(ctx, dgst)
	switch {
	case err == nil:
		s.put(dgst, info.Size, info.CreatedAt.AsTime())
	case isMiss(err):
		s.drop(dgst)
	default:
		return err
	}
	return nil
}
