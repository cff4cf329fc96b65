package attack

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/kioo-dev/kioo/hack/fleet"
	"github.com/kioo-dev/kioo/hack/registrytest"
)

// pull pulls as a pod of somebody, and wants it to work.
func pull(t *testing.T, n *fleet.Node, image, user, password string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pullTime)
	defer cancel()
	if _, err := n.Containerd.PullAs(ctx, image, user, password); err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
}

// pulls tells whether a pull works, and why it does not.
func pulls(t *testing.T, n *fleet.Node, image, user, password string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pullTime)
	defer cancel()
	_, err := n.Containerd.PullAs(ctx, image, user, password)
	return err
}

// pullAnnounced pulls, and waits until the other members know.
func (w *world) pullAnnounced(t *testing.T, n *fleet.Node, i *image, user, password string) {
	t.Helper()
	pull(t, n, i.name(), user, password)
	w.waitKnown(t, n, i.digests()...)
}

// fetch has a node get all of an image by its mirror alone, past containerd, and waits until the others know.
func (w *world) fetch(t *testing.T, n *fleet.Node, i *image, authorization string) {
	t.Helper()
	for _, o := range i.objects {
		a := ask(t, n, request{registry: i.registry, path: i.repo + "/" + o.path, authorization: authorization})
		if !a.is(o.digest) {
			t.Fatalf("%s: %s of %s: %v: %.300s", n.Name, o.path, i.name(), a, a.body)
		}
	}
	w.waitKnown(t, n, i.digests()...)
}

// waitKnown waits until members know that a node holds some content.
func (w *world) waitKnown(t *testing.T, n *fleet.Node, content ...digest.Digest) {
	t.Helper()
	for _, dgst := range content {
		eventually(t, settleTime, fmt.Sprintf("others know that %s holds %s", n.Name, dgst), func() bool {
			var holders []string
			err := w.member.do(t.Context(), http.MethodGet, "holders?digest="+dgst.String(), nil, &holders)
			return err == nil && slices.Contains(holders, n.PeerAddr())
		})
	}
}

// digests are those of all that an image consists of.
func (i *image) digests() (all []digest.Digest) {
	for _, o := range i.objects {
		all = append(all, o.digest)
	}
	return all
}

func (w *world) metrics(t *testing.T, n *fleet.Node) fleet.Metrics {
	t.Helper()
	m, err := n.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// down takes a registry away until up is called, or the end of the test.
func (w *world) down(t *testing.T, stop func(), back func() error) (up func()) {
	t.Helper()
	stop()
	up = func() {
		if err := back(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(up)
	return up
}

func (w *world) privateDown(t *testing.T) (up func()) {
	t.Helper()
	return w.down(t, w.Upstream.Stop, w.Upstream.Resume)
}

func (w *world) publicDown(t *testing.T) (up func()) {
	t.Helper()
	return w.down(t, w.public.sw.Stop, w.public.sw.Resume)
}

// breaks puts a hook before a registry until the end of the test.
func breaks(t *testing.T, s *side, hook registrytest.Hook) {
	t.Helper()
	s.Break(hook)
	t.Cleanup(func() { s.Break(nil) })
}

// renew gives the nodes' Kioos a program and empty data directories, and waits until they know each other.
func (w *world) renew(t *testing.T, program string) {
	t.Helper()
	for _, n := range w.Nodes {
		n.KillKioo() // One that lacks a defence may not end by itself.
		if err := os.RemoveAll(n.DataDir()); err != nil {
			t.Fatal(err)
		}
		n.Program = program
	}
	w.member.Kill() // It would go on telling those who are no more.
	for _, n := range w.Nodes {
		if err := n.StartKioo(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if w.member, err = startMember(t.Context(), w.member.place, w.Fleet, w.identity); err != nil {
		t.Fatal(err)
	}
	for _, n := range w.Nodes {
		w.waitMembers(t, n)
	}
}

// restart restarts a node's Kioo.
func (w *world) restart(t *testing.T, n *fleet.Node) {
	t.Helper()
	if err := n.RestartKioo(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.waitMembers(t, n)
}

func (w *world) waitMembers(t *testing.T, n *fleet.Node) time.Duration {
	t.Helper()
	return eventually(t, time.Minute, n.Name+" knows the others", func() bool {
		return int(w.metrics(t, n).Sum("kioo_discovery_members", `state="live"`)) == len(w.Nodes)
	})
}

// holds tells whether a node's containerd has an image of which something has that digest.
func (w *world) holds(t *testing.T, n *fleet.Node, dgst string) bool {
	t.Helper()
	images, err := n.Containerd.Images(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range images {
		for _, name := range append(i.RepoDigests, i.Id) {
			if strings.HasSuffix(name, dgst) {
				return true
			}
		}
	}
	return false
}
