package containerdtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Namespace is the one of CRI.
const Namespace = "k8s.io"

// Conn is a connection to containerd's socket, which outlives restarts.
func (c *Containerd) Conn() *grpc.ClientConn { return c.conn }

// Pull pulls an image as kubelet does and returns its ID.
func (c *Containerd) Pull(ctx context.Context, image string) (string, error) {
	return c.PullAs(ctx, image, "", "")
}

// PullAs is Pull with the credentials of an imagePullSecret, which kubelet sends as user name and password alone.
func (c *Containerd) PullAs(ctx context.Context, image, username, password string) (string, error) {
	req := &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: image}}
	if username != "" {
		req.Auth = &runtime.AuthConfig{Username: username, Password: password}
	}
	resp, err := runtime.NewImageServiceClient(c.conn).PullImage(ctx, req)
	if err != nil {
		return "", fmt.Errorf("pull %s: %w", image, err)
	}
	return resp.ImageRef, nil
}

// Remove removes an image, all its names with it, as kubelet does. What it consisted of is collected soon after.
func (c *Containerd) Remove(ctx context.Context, image string) error {
	_, err := runtime.NewImageServiceClient(c.conn).RemoveImage(ctx, &runtime.RemoveImageRequest{
		Image: &runtime.ImageSpec{Image: image},
	})
	if err != nil {
		return fmt.Errorf("remove %s: %w", image, err)
	}
	return nil
}

// Images lists what images CRI knows.
func (c *Containerd) Images(ctx context.Context) ([]*runtime.Image, error) {
	resp, err := runtime.NewImageServiceClient(c.conn).ListImages(ctx, &runtime.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	return resp.Images, nil
}

// Ctr runs ctr with these arguments against containerd, and returns what it printed.
func (c *Containerd) Ctr(ctx context.Context, args ...string) (string, error) {
	program, err := InstallCtr(ctx)
	if err != nil {
		return "", err
	}
	args = append([]string{"--address", c.Address()}, args...)
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ctr %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// In says which namespace a request is about.
func In(ctx context.Context, namespace string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "containerd-namespace", namespace)
}

// CreateNamespace makes a namespace, if it is not there yet.
func (c *Containerd) CreateNamespace(ctx context.Context, namespace string) error {
	_, err := namespacesapi.NewNamespacesClient(c.conn).Create(ctx, &namespacesapi.CreateNamespaceRequest{
		Namespace: &namespacesapi.Namespace{Name: namespace},
	})
	if err != nil && status.Code(err) != codes.AlreadyExists {
		return fmt.Errorf("create namespace %s: %w", namespace, err)
	}
	return nil
}

// Put writes a blob that is never collected.
func (c *Containerd) Put(ctx context.Context, namespace string, body []byte) (digest.Digest, error) {
	dgst := digest.FromBytes(body)
	if err := c.put(In(ctx, namespace), dgst, body); err != nil {
		return "", fmt.Errorf("put %s: %w", dgst, err)
	}
	return dgst, nil
}

func (c *Containerd) put(ctx context.Context, dgst digest.Digest, body []byte) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // Ends the stream.
	client := contentapi.NewContentClient(c.conn)
	stream, err := client.Write(ctx)
	if err != nil {
		return err
	}
	root := map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)}
	ref, reader, step := "put-"+dgst.String(), bytes.NewReader(body), make([]byte, 1<<20)
	for {
		offset := int64(len(body) - reader.Len())
		n, _ := reader.Read(step) // It has no errors but the end.
		req := &contentapi.WriteContentRequest{
			Action: contentapi.WriteAction_WRITE, Ref: ref, Total: int64(len(body)), Offset: offset, Data: step[:n],
		}
		if reader.Len() == 0 {
			req.Action, req.Expected, req.Labels = contentapi.WriteAction_COMMIT, dgst.String(), root
		}
		if err := stream.Send(req); err != nil && err != io.EOF {
			return err
		}
		_, err := stream.Recv()
		if status.Code(err) == codes.AlreadyExists {
			_, err = client.Update(ctx, &contentapi.UpdateRequest{
				Info:       &contentapi.Info{Digest: dgst.String(), Labels: root},
				UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels"}},
			})
			return err
		}
		if err != nil || reader.Len() == 0 {
			return err
		}
	}
}

// Collect deletes a blob from a namespace and returns once garbage collection has run, so that the blob's file is gone
// if no other namespace has it.
func (c *Containerd) Collect(ctx context.Context, namespace string, dgst digest.Digest) error {
	ctx = In(ctx, namespace)
	_, err := contentapi.NewContentClient(c.conn).Delete(ctx, &contentapi.DeleteContentRequest{Digest: dgst.String()})
	if err != nil {
		return fmt.Errorf("delete %s: %w", dgst, err)
	}
	return c.collect(ctx)
}

// collect makes and deletes a lease, for that is what can be asked to wait for garbage collection.
func (c *Containerd) collect(ctx context.Context) error {
	leases := leasesapi.NewLeasesClient(c.conn)
	lease, err := leases.Create(ctx, &leasesapi.CreateRequest{ID: fmt.Sprintf("collect-%d", time.Now().UnixNano())})
	if err == nil {
		_, err = leases.Delete(ctx, &leasesapi.DeleteRequest{ID: lease.Lease.ID, Sync: true})
	}
	if err != nil {
		return fmt.Errorf("collect garbage: %w", err)
	}
	return nil
}

// SetImage makes an image record mean a manifest, whether there is one of that name or not.
func (c *Containerd) SetImage(ctx context.Context, namespace, name string, target ocispec.Descriptor) error {
	ctx = In(ctx, namespace)
	image := &imagesapi.Image{Name: name, Target: &types.Descriptor{
		MediaType: target.MediaType, Digest: target.Digest.String(), Size: target.Size,
	}}
	client := imagesapi.NewImagesClient(c.conn)
	_, err := client.Create(ctx, &imagesapi.CreateImageRequest{Image: image})
	if status.Code(err) == codes.AlreadyExists {
		_, err = client.Update(ctx, &imagesapi.UpdateImageRequest{Image: image})
	}
	if err != nil {
		return fmt.Errorf("set image %s: %w", name, err)
	}
	return nil
}

// DeleteImage deletes an image record and returns once garbage collection has run.
func (c *Containerd) DeleteImage(ctx context.Context, namespace, name string) error {
	_, err := imagesapi.NewImagesClient(c.conn).Delete(In(ctx, namespace),
		&imagesapi.DeleteImageRequest{Name: name, Sync: true})
	if err != nil {
		return fmt.Errorf("delete image %s: %w", name, err)
	}
	return nil
}
