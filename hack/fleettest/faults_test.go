package fleettest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kioo-dev/kioo/hack/fleet"
)

const (
	// faultSize takes faultLink two to three seconds: time enough for something to happen on the way, and less than for
	// how long Kioo holds back what it can't trust yet.
	faultSize = 12 << 20
	faultLink = 40e6
	// lateness is how much later than without a fault a pull may end, and grace what a busy machine adds to that.
	lateness = 3 * time.Second
	grace    = 5 * time.Second
)

// fault is something that happens while node-3 pulls from node-1, while node-2 has the image as well.
type fault struct {
	name   string
	number int
	// upstream says that the registry is there, and needed.
	upstream bool
	// before happens before the pull and after half of it.
	before, during func(t *testing.T, f *fleet.Fleet, image v1.Descriptor)
	// again is whether the pull fails and is tried again, as kubelet does.
	again bool
	// after mends.
	after func(t *testing.T, f *fleet.Fleet)
	// blamed is whether node-3 has to name node-1 and say why.
	blamed bool
}

// faults: whatever happens during a pull, it succeeds, and not much later.
func faults(t *testing.T, f *fleet.Fleet) {
	serving, other, pulling := f.Nodes[0], f.Nodes[1], f.Nodes[2]
	restart := func(n *fleet.Node) func(*testing.T, *fleet.Fleet) {
		return func(t *testing.T, _ *fleet.Fleet) { must(t, n.StartKioo(t.Context())) }
	}
	var undisturbed time.Duration
	for i, fault := range []fault{
		{name: "none"},
		{
			name:   "serving Kioo is killed",
			during: func(*testing.T, *fleet.Fleet, v1.Descriptor) { serving.KillKioo() },
			after:  restart(serving), blamed: true,
		},
		{
			name:   "serving node's link goes black",
			during: func(t *testing.T, _ *fleet.Fleet, _ v1.Descriptor) { must(t, serving.Black(t.Context())) },
			after:  func(t *testing.T, _ *fleet.Fleet) { must(t, serving.Restore(t.Context())) }, blamed: true,
		},
		{
			name: "serving node's link goes black and upstream is all that is left", upstream: true,
			during: func(t *testing.T, _ *fleet.Fleet, _ v1.Descriptor) {
				must(t, serving.Black(t.Context()))
				must(t, other.Black(t.Context()))
			},
			after: func(t *testing.T, _ *fleet.Fleet) {
				must(t, serving.Restore(t.Context()))
				must(t, other.Restore(t.Context()))
			},
			blamed: true,
		},
		{name: "serving node has wrong bytes", before: corrupt, blamed: true},
		{
			name: "serving node's containerd restarts",
			during: func(t *testing.T, _ *fleet.Fleet, _ v1.Descriptor) {
				serving.Containerd.Kill()
				must(t, serving.Containerd.Start(t.Context()))
			},
		},
		{
			name: "containerd restarts", again: true,
			during: func(t *testing.T, _ *fleet.Fleet, _ v1.Descriptor) {
				pulling.Containerd.Kill()
				must(t, pulling.Containerd.Start(t.Context()))
			},
		},
		{
			name: "Kioo restarts", upstream: true,
			during: func(t *testing.T, _ *fleet.Fleet, _ v1.Descriptor) {
				pulling.KillKioo()
				must(t, pulling.StartKioo(t.Context()))
			},
		},
	} {
		t.Run(fault.name, func(t *testing.T) {
			fault.number = i
			took := fault.run(t, f)
			if undisturbed == 0 {
				undisturbed = took
			}
			t.Logf("pulled in %v, without a fault in %v", took.Round(time.Millisecond), undisturbed.Round(time.Millisecond))
			if took > undisturbed+lateness+grace {
				t.Errorf("that is more than %v later", lateness)
			}
		})
	}
}

func (x fault) run(t *testing.T, f *fleet.Fleet) time.Duration {
	serving, pulling := f.Nodes[0], f.Nodes[2]
	// Every fault has a tag of its own, for Kioo trusts what it knows of a tag for a while.
	name := fmt.Sprintf("org/fault:v%d", x.number)
	desc := push(t, f, name, faultSize)
	image := f.Upstream.Image("org/fault@" + desc.Digest.String())
	for _, n := range f.Nodes[:2] {
		pullAnnounced(t, n, f.Upstream.Image(name), 1)
	}
	if !x.upstream {
		f.Upstream.Stop()
		defer resume(t, f)
	}
	if x.before != nil {
		x.before(t, f, desc)
	}
	if x.after != nil {
		defer func() {
			x.after(t, f)
			for _, n := range f.Nodes {
				waitMembers(t, n, len(f.Nodes)-1)
			}
		}()
	}
	must(t, pulling.Shape(t.Context(), fleet.Link{Rate: faultLink}))
	defer func() { must(t, pulling.Shape(t.Context(), fleet.Link{})) }()
	sent := func() float64 { return metrics(t, serving).Sum("kioo_peer_uploaded_bytes_total") }
	before, blamed := sent(), blames(pulling, serving)

	ctx, cancel := context.WithTimeout(t.Context(), pullTime)
	defer cancel()
	start, ended := time.Now(), make(chan error, 1)
	go func() { ended <- pulling.Pull(ctx, image) }()
	if x.during != nil {
		eventually(t, pullTime, serving.Name+" has sent a part", func() bool { return sent()-before > faultSize/4 })
		x.during(t, f, desc)
	}
	err := <-ended
	if err != nil && x.again {
		t.Logf("as expected: %v", err)
		err = pulling.Pull(ctx, image)
	}
	took := time.Since(start)
	if err != nil {
		t.Fatal(err)
	}
	if x.blamed && blames(pulling, serving) == blamed {
		t.Errorf("the log of %s does not say what was wrong with %s", pulling.Name, serving.Name)
	}
	return took
}

// blames counts the lines of a node's log that name another one with a reason.
func blames(n, other *fleet.Node) int {
	count := 0
	for line := range strings.Lines(n.Log()) {
		if strings.Contains(line, other.PeerAddr()) && strings.Contains(line, `"reason"`) {
			count++
		}
	}
	return count
}

// corrupt changes the layer in node-1's content store, as a bad disk does.
func corrupt(t *testing.T, f *fleet.Fleet, _ v1.Descriptor) {
	t.Helper()
	blobs := filepath.Join(f.Nodes[0].Containerd.ContentDir(), "blobs", "sha256")
	entries, err := os.ReadDir(blobs)
	must(t, err)
	changed := 0
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		if info.Size() != faultSize {
			continue
		}
		file, err := os.OpenFile(filepath.Join(blobs, e.Name()), os.O_WRONLY, 0)
		must(t, err)
		_, err = file.WriteAt([]byte("not what it should be"), faultSize/2)
		must(t, err)
		must(t, file.Close())
		changed++
	}
	if changed == 0 {
		t.Fatal("the layer is not where it should be")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
