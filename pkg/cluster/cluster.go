// Package cluster is what a node's mirror says to the Kubernetes API: who the other members are, in which zone the node
// is, that its start-up taint may go, and what an operator must know of it.
//
// Everything here is an addition. Nothing waits for the API: what can't be had is tried again, later and later, and
// the mirror serves meanwhile. It knows nothing of content, and decides nothing about it.
package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// ErrNoCluster says that this process has no service account, so that it is in no cluster.
var ErrNoCluster = errors.New("no service account of a Kubernetes cluster")

const (
	// requestTimeout bounds one request, but for watches.
	requestTimeout = 10 * time.Second
	// Few requests are made here at all; these bounds hold if something makes one after another.
	queriesPerSecond, queriesBurst = 2, 10
)

// Connect makes a client from a kubeconfig file, or from the pod's service account where the name is empty. It talks
// to nobody yet. Messages are protobuf, which is a third of JSON for what is watched here.
func Connect(kubeconfig, userAgent string) (kubernetes.Interface, error) {
	var cfg *rest.Config
	var err error
	if kubeconfig != "" {
		cfg, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	} else if cfg, err = rest.InClusterConfig(); errors.Is(err, rest.ErrNotInCluster) {
		err = ErrNoCluster
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the Kubernetes API: %w", err)
	}
	cfg.UserAgent, cfg.QPS, cfg.Burst = userAgent, queriesPerSecond, queriesBurst
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the Kubernetes API: %w", err)
	}
	return client, nil
}

// around spreads a wait by a fifth to both sides, so that nodes that start together do not ask together.
func around(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}
