// Package cluster is what a node's mirror says to the Kubernetes API: who the other members are, in which zone the node
// is, that its start-up taint may go, and what an operator must know of it.
//
// Everything here is an addition. Nothing waits for the API: what can't be had is tried again, later and later, and
// the mirror serves meanwhile. It knows nothing of content, and decides nothing about it.
package cluster

import (
	"math/rand/v2"
	"time"
)

// requestTimeout bounds one request, but for watches.
const requestTimeout = 10 * time.Second

// around spreads a wait by a fifth to both sides, so that nodes that start together do not ask together.
func around(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}
