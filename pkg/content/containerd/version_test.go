package containerd

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	versionapi "github.com/containerd/containerd/api/services/version/v1"

	"github.com/kioo-dev/kioo/pkg/hosts"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// TestRelease tells versions that hosts.Check takes from all else that containerd may say.
func TestRelease(t *testing.T) {
	tests := map[string]bool{
		"v2.4.2": true, "1.7.35": true, "1.7.28-0ubuntu1~24.04": true, "v2.2.0-rc.1+k3s1": true, "2.4": true,
		"": false, "unknown": false, "1a2b3c4.m": false, "2": false, "2.x": false, "v2.4-dev": false, "0.2.1": false,
	}
	for version, want := range tests {
		got := release.MatchString(version)
		if got != want {
			t.Errorf("%q is a release: %t", version, got)
		}
		if !got {
			continue
		}
		cfg := hosts.CheckConfig{Config: hosts.Config{Root: t.TempDir(), Mirror: "http://127.0.0.1:1"}, Version: version}
		if _, err := hosts.Check(t.Context(), cfg); err != nil {
			t.Errorf("hosts.Check does not take %s: %v", version, err)
		}
	}
}

// builds is a containerd that says how it was built.
type builds struct {
	versionapi.UnimplementedVersionServer
	version string
}

func (b builds) Version(context.Context, *emptypb.Empty) (*versionapi.VersionResponse, error) {
	return &versionapi.VersionResponse{Version: b.version}, nil
}

// TestVersion asks one that was built from a release, and one that was not: that is no version, and no failure.
func TestVersion(t *testing.T) {
	for says, want := range map[string]string{"v2.4.2": "v2.4.2", "unknown": "", "": ""} {
		socket := filepath.Join(t.TempDir(), "socket")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		versionapi.RegisterVersionServer(server, builds{version: says})
		done := make(chan error, 1)
		go func() { done <- server.Serve(l) }()
		if got, err := Version(t.Context(), socket); got != want || err != nil {
			t.Errorf("%q: %q, %v", says, got, err)
		}
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if _, err := Version(t.Context(), filepath.Join(t.TempDir(), "nobody")); err == nil {
		t.Error("nobody answered")
	}
}
