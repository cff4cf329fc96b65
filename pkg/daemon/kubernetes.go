package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/cluster"
	"golang.org/x/sync/errgroup"
)

const (
	// zoneFile remembers the node's zone below the data directory, for a start while the API can't be reached.
	zoneFile = "zone"
	// zoneTimeout is how long a start waits for the API to tell the zone. The mirror serves that much later.
	zoneTimeout = 3 * time.Second
	// youngMember is the age up to which a member is taken to be newer than word that one at its address went away.
	youngMember = 15 * time.Second
)

// kube is what a mirror does with the Kubernetes API. Without the API there is none of it.
type kube struct {
	client  cluster.Client
	members *cluster.Members // Nil if members are found otherwise.
}

// openKubernetes connects, and takes the node's zone. What fails is no reason not to serve.
func (d *Daemon) openKubernetes(version string) (*kube, error) {
	c := &d.cfg.Kubernetes
	if !c.Wanted() {
		return nil, nil
	}
	client, err := cluster.Connect(c.Kubeconfig, "kioo/"+version)
	if errors.Is(err, cluster.ErrNoCluster) {
		d.log.Info("this is no pod of a Kubernetes cluster, so that nothing is asked of its API")
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	k := &kube{client: client}
	if c.NodeName != "" && c.Topology && d.cfg.Peers.Zone == "" {
		d.cfg.Peers.Zone = d.zone(client)
	}
	if namespace, service := c.ServiceName(); service != "" {
		k.members, err = cluster.NewMembers(cluster.MembersConfig{
			Client: client, Namespace: namespace, Service: service, Departed: d.departed, Log: d.log.WithName("cluster"),
		})
		if err != nil {
			return nil, fmt.Errorf("kubernetes.service: %w", err)
		}
	}
	return k, nil
}

// zone asks for the node's zone, and remembers it: it is told to others once, at the start, and never changes.
func (d *Daemon) zone(client cluster.Client) string {
	node, file := d.cfg.Kubernetes.NodeName, filepath.Join(d.cfg.DataDir, zoneFile)
	ctx, cancel := context.WithTimeout(context.Background(), zoneTimeout)
	defer cancel()
	zone, err := cluster.Zone(ctx, client, node)
	if err != nil {
		known, _ := os.ReadFile(file) // Without it the zone is unknown, which is said below.
		remembered, zone, _ := strings.Cut(strings.TrimSpace(string(known)), " ")
		if remembered != node {
			zone = ""
		}
		d.log.Info("the node's zone can't be read, so the last one that was known counts", "zone", zone, "reason", err.Error())
		return zone
	}
	if err := os.MkdirAll(d.cfg.DataDir, 0o700); err == nil {
		err = os.WriteFile(file, []byte(node+" "+zone+"\n"), 0o600)
		if err != nil {
			d.log.V(1).Info("the zone is not remembered", "reason", err.Error())
		}
	}
	return zone
}

// departed drops a member that Kubernetes says is gone, before anybody waits for it.
func (d *Daemon) departed(address netip.AddrPort) {
	if d.fleet == nil {
		return
	}
	for _, m := range d.fleet.discovery.Members() {
		born := time.UnixMilli(int64(m.Epoch))
		if slices.Contains(m.Addrs, address) && time.Since(born) > youngMember {
			d.fleet.discovery.ReportDead(m.ID)
		}
	}
}

// run follows the cluster until ctx ends.
func (k *kube) run(ctx context.Context, d *Daemon) error {
	c := &d.cfg.Kubernetes
	group, ctx := errgroup.WithContext(ctx)
	if k.members != nil {
		group.Go(func() error { k.members.Run(ctx); return nil })
	}
	if c.NodeName != "" && c.StartupTaint != "" {
		group.Go(func() error {
			cluster.RemoveTaint(ctx, cluster.TaintConfig{
				Client: k.client, Node: c.NodeName, Key: c.StartupTaint, Ready: d.answers, Log: d.log.WithName("cluster"),
			})
			return nil
		})
	}
	if c.NodeName != "" && c.Events {
		o := &observer{d: d, members: k.members}
		group.Go(func() error {
			cluster.TellEvents(ctx, cluster.EventsConfig{
				Client: k.client, Node: c.NodeName, Conditions: o.conditions, Log: d.log.WithName("cluster"),
			})
			return nil
		})
	}
	return group.Wait()
}

// answers asks the mirror as containerd does, and looks whether containerd was told to ask it.
func (d *Daemon) answers(ctx context.Context) error {
	if d.watcher != nil && !d.hooked.Load() {
		return errors.New("containerd's registry directory does not have the mirror yet")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.Addrs()[0].String()+d.cfg.Mirror.PathPrefix+"/v2/", nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the mirror answers with status %s", resp.Status)
	}
	return nil
}
