package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// taintRecheck is how often the node is looked at again: one that was registered anew under its old name has its
	// start-up taint again. One request of a few KiB from the API server's cache per node.
	taintRecheck = 5 * time.Minute
	// taintRetryFirst is the time after which a failed attempt is repeated; it doubles up to taintRetryMost.
	taintRetryFirst, taintRetryMost = time.Second, 30 * time.Second
	// readyTimeout bounds one look whether the mirror answers, and readyEvery the time between two of them.
	readyTimeout, readyEvery = 5 * time.Second, 500 * time.Millisecond
)

// Zone gives where a node is, by its labels: its zone, or its region if it has no zone. Kubernetes wants the names of
// zones to be unique over all regions. It is empty if the node has neither.
func Zone(ctx context.Context, client Client, node string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	// Version 0 is answered from the API server's cache.
	n, err := client.Nodes.Get(ctx, node, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil {
		return "", fmt.Errorf("read node %s: %w", node, err)
	}
	if zone := n.Labels[corev1.LabelTopologyZone]; zone != "" {
		return zone, nil
	}
	return n.Labels[corev1.LabelTopologyRegion], nil
}

// TaintConfig says what to take off which node, and when.
type TaintConfig struct {
	Client Client
	Node   string
	// Key is the taint's. Whatever effects and values it has, it goes.
	Key string
	// Ready says whether the mirror answers, by asking it.
	Ready func(context.Context) error
	Log   logr.Logger
}

// RemoveTaint takes the taint off the node once the mirror answers, and again should it come back, until ctx ends.
func RemoveTaint(ctx context.Context, cfg TaintConfig) {
	wait, failing := time.Duration(0), taintRetryFirst
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		removed, err := cfg.remove(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			cfg.Log.Error(err, "take the start-up taint off the node", "node", cfg.Node, "taint", cfg.Key)
			wait, failing = around(failing), min(2*failing, taintRetryMost)
			continue
		case removed:
			cfg.Log.Info("took the start-up taint off the node: the mirror answers", "node", cfg.Node, "taint", cfg.Key)
		}
		wait, failing = around(taintRecheck), taintRetryFirst
	}
}

// remove does it once; it has nothing to do where the taint is not there.
func (cfg *TaintConfig) remove(ctx context.Context) (removed bool, err error) {
	if has, err := cfg.look(ctx, "0"); err != nil || has == nil {
		return false, err
	}
	if err := cfg.awaitMirror(ctx); err != nil {
		return false, err
	}
	node, err := cfg.look(ctx, "")
	if err != nil || node == nil {
		return false, err
	}
	left := slices.DeleteFunc(slices.Clone(node.Spec.Taints), func(t corev1.Taint) bool { return t.Key == cfg.Key })
	// Whoever changes the node meanwhile makes the test fail, and this is done again with what is there then.
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/resourceVersion", "value": node.ResourceVersion},
		{"op": "replace", "path": "/spec/taints", "value": left},
	})
	if err != nil {
		return false, fmt.Errorf("write patch: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := cfg.Client.Nodes.Patch(ctx, cfg.Node, types.JSONPatchType, patch, metav1.PatchOptions{}); err != nil {
		return false, fmt.Errorf("patch node %s: %w", cfg.Node, err)
	}
	return true, nil
}

// look gives the node if it has the taint, and nil if it has not.
func (cfg *TaintConfig) look(ctx context.Context, version string) (*corev1.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	n, err := cfg.Client.Nodes.Get(ctx, cfg.Node, metav1.GetOptions{ResourceVersion: version})
	if err != nil {
		return nil, fmt.Errorf("read node %s: %w", cfg.Node, err)
	}
	if !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == cfg.Key }) {
		return nil, nil
	}
	return n, nil
}

// awaitMirror waits until the mirror answers.
func (cfg *TaintConfig) awaitMirror(ctx context.Context) error {
	said := false
	for {
		attempt, cancel := context.WithTimeout(ctx, readyTimeout)
		err := cfg.Ready(attempt)
		cancel()
		if err == nil {
			return nil
		}
		if !said {
			said = true
			cfg.Log.Info("the node keeps its start-up taint until the mirror answers", "node", cfg.Node, "reason", err.Error())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(readyEvery):
		}
	}
}
