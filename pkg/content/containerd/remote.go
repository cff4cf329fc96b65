package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	// callTimeout bounds one request. containerd answers within milliseconds, or seconds on a disk that is very busy.
	callTimeout = 10 * time.Second

	// listTimeout bounds a listing of all images or all blobs.
	listTimeout = 30 * time.Second

	// maxMessage is containerd's own bound, on both of its sides.
	maxMessage = 16 << 20
)

// remote is containerd's API. It is safe for concurrent use.
//
// It consists of the generated clients alone, because containerd's own client brings its whole runtime along.
type remote struct {
	conn       *grpc.ClientConn
	images     imagesapi.ImagesClient
	content    contentapi.ContentClient
	events     eventsapi.EventsClient
	namespaces []string
}

func newRemote(address string, namespaces []string) (*remote, error) {
	conn, err := grpc.NewClient("unix://"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			// Who waits longer between attempts is followRuntime.
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second,
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return &remote{
		conn:       conn,
		images:     imagesapi.NewImagesClient(conn),
		content:    contentapi.NewContentClient(conn),
		events:     eventsapi.NewEventsClient(conn),
		namespaces: namespaces,
	}, nil
}

func (r *remote) close() error { return r.conn.Close() }

func in(ctx context.Context, namespace string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "containerd-namespace", namespace)
}

// subscribe asks for events, those of content too if withContent. containerd does not say when the subscription
// stands.
func (r *remote) subscribe(ctx context.Context, withContent bool) (grpc.ServerStreamingClient[types.Envelope], error) {
	var filters []string
	for _, namespace := range r.namespaces {
		filters = append(filters, fmt.Sprintf(`topic~="^/images/",namespace=="%s"`, namespace))
		if withContent {
			filters = append(filters, fmt.Sprintf(`topic~="^/content/",namespace=="%s"`, namespace))
		}
	}
	return r.events.Subscribe(ctx, &eventsapi.SubscribeRequest{Filters: filters})
}

// listImages gives all image records of a namespace.
func (r *remote) listImages(ctx context.Context, namespace string) ([]*imagesapi.Image, error) {
	ctx, cancel := context.WithTimeout(in(ctx, namespace), listTimeout)
	defer cancel()
	resp, err := r.images.List(ctx, &imagesapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containerd's images in %s: %w", namespace, err)
	}
	return resp.Images, nil
}

// image gives an image record, or nil where there is none.
func (r *remote) image(ctx context.Context, src source) (*imagesapi.Image, error) {
	ctx, cancel := context.WithTimeout(in(ctx, src.namespace), callTimeout)
	defer cancel()
	resp, err := r.images.Get(ctx, &imagesapi.GetImageRequest{Name: src.name})
	if status.Code(err) == codes.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get containerd's image %s in %s: %w", src.name, src.namespace, err)
	}
	return resp.Image, nil
}

// listBlobs calls each with every blob of the namespaces; those of several come several times.
func (r *remote) listBlobs(ctx context.Context, each func(*contentapi.Info)) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	for _, namespace := range r.namespaces {
		stream, err := r.content.List(in(ctx, namespace), &contentapi.ListContentRequest{})
		for err == nil {
			var resp *contentapi.ListContentResponse
			if resp, err = stream.Recv(); err == nil {
				for _, info := range resp.Info {
					each(info)
				}
			}
		}
		if err != io.EOF {
			return fmt.Errorf("list containerd's content in %s: %w", namespace, err)
		}
	}
	return nil
}

// info looks for a blob in all namespaces. It returns an error that wraps content.ErrNotFound where none has it.
func (r *remote) info(ctx context.Context, dgst digest.Digest) (*contentapi.Info, string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for _, namespace := range r.namespaces {
		resp, err := r.content.Info(in(ctx, namespace), &contentapi.InfoRequest{Digest: dgst.String()})
		if err == nil {
			return resp.Info, namespace, nil
		}
		if status.Code(err) != codes.NotFound {
			return nil, "", readError(ctx, dgst, err)
		}
	}
	return nil, "", fmt.Errorf("containerd's %s: %w", dgst, content.ErrNotFound)
}

// readError says why a blob can't be read, in terms that callers know.
func readError(ctx context.Context, dgst digest.Digest, err error) error {
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case status.Code(err) == codes.NotFound:
		err = content.ErrNotFound
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read containerd's %s: %w", dgst, err)
}
