package containerd

import (
	"context"
	"fmt"
	"regexp"
	"time"

	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
)

// versionTimeout bounds a question that containerd answers from memory.
const versionTimeout = 2 * time.Second

// release is how a version begins that says what to expect, whatever a distribution adds to it.
var release = regexp.MustCompile(`^v?[1-9][0-9]{0,3}\.[0-9]{1,4}(\.|$)`)

// Version asks the containerd that listens on a socket which release it is, such as v2.4.2. It is empty for one
// that was built without a version, such as "unknown", or from a commit. It takes two seconds at most.
func Version(ctx context.Context, socket string) (string, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", fmt.Errorf("containerd at %s: %w", socket, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	v, err := versionapi.NewVersionClient(conn).Version(ctx, new(emptypb.Empty))
	if err != nil {
		return "", fmt.Errorf("ask containerd for its version: %w", err)
	}
	if !release.MatchString(v.GetVersion()) {
		return "", nil
	}
	return v.GetVersion(), nil
}
