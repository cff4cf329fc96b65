package daemon

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/cluster"
	"github.com/kioo-dev/kioo/pkg/content/containerd"
	"github.com/kioo-dev/kioo/pkg/hosts"
)

const (
	// checkEvery is how often containerd's settings are looked at: a few files and two connections.
	checkEvery = 10 * time.Minute
	// lonelyAfter is how long a member may be without others before that is told.
	lonelyAfter = 90 * time.Second
)

// observer finds what an operator must know of the node. It is for one goroutine.
type observer struct {
	d       *Daemon
	members *cluster.Members

	checked time.Time
	found   []cluster.Condition
	lonely  time.Time // Since when there is nobody, while others should be there.
}

func (o *observer) conditions(ctx context.Context) []cluster.Condition {
	if o.d.cfg.Containerd.CertsDir != "" && time.Since(o.checked) >= checkEvery {
		found, err := o.d.check(ctx)
		if err != nil {
			o.d.log.Error(err, "look at containerd's settings")
		} else {
			o.checked, o.found = time.Now(), conditionsOf(found)
		}
	}
	all := o.found
	if alone, ok := o.alone(ctx); ok {
		all = append(all[:len(all):len(all)], alone)
	}
	return all
}

// check looks at containerd as kioo check does, without a pull.
func (d *Daemon) check(ctx context.Context) ([]hosts.Finding, error) {
	c := &d.cfg.Containerd
	node := hosts.CheckConfig{
		Config: d.hostsConfig(), ContainerdConfig: c.ConfigFile, Socket: c.Address, ContentDir: c.ContentDir,
	}
	if c.Address != "" {
		if version, err := containerd.Version(ctx, c.Address); err == nil { // A socket that fails is a finding.
			node.Version = version
		}
	}
	return hosts.Check(ctx, node)
}

// conditionsOf takes from the findings what keeps containerd from using the mirror, and that it discards layers.
func conditionsOf(found []hosts.Finding) []cluster.Condition {
	var all []cluster.Condition
	for _, f := range found {
		note := fmt.Sprintf("%s. %s %s [%s]", strings.TrimSuffix(f.What, "."), f.Why, f.Mend, f.ID)
		switch {
		case f.ID == "layers-discarded":
			all = append(all, cluster.Condition{Reason: "LayersDiscarded", Note: note, Harmless: true})
		case f.Severity == hosts.Problem:
			all = append(all, cluster.Condition{Reason: "ContainerdNotConfigured", Note: note})
		}
	}
	return all
}

// alone tells whether this member has been without others for a while, although there should be some.
func (o *observer) alone(ctx context.Context) (cluster.Condition, bool) {
	if o.d.fleet == nil || o.members == nil {
		return cluster.Condition{}, false
	}
	listed, err := o.members.Peers(ctx)
	if err != nil || len(listed) < 2 || len(o.d.fleet.discovery.Members()) > 0 {
		o.lonely = time.Time{}
		return cluster.Condition{}, false
	}
	if o.lonely.IsZero() {
		o.lonely = time.Now()
	}
	if time.Since(o.lonely) < lonelyAfter {
		return cluster.Condition{}, false
	}
	return cluster.Condition{
		Reason: "NoPeers",
		Note: "Kubernetes lists other members, and none of them can be reached: every image comes from upstream. Do all nodes " +
			"have the same cluster key, and may they reach each other's peer and discovery ports (28501, 28502)?",
	}, true
}
