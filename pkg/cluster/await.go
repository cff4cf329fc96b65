package cluster

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// awaitEvery is the time between two looks at what is waited for.
const awaitEvery = time.Second

// AwaitDaemonSet waits until a DaemonSet's pods are ready on all nodes. The error of a wait that ctx ended says how
// many lack.
func AwaitDaemonSet(ctx context.Context, client Client, namespace, name string) error {
	state := "the API has not answered"
	for {
		request, cancel := context.WithTimeout(ctx, requestTimeout)
		d, err := client.DaemonSets(namespace).Get(request, name, metav1.GetOptions{})
		cancel()
		if err == nil {
			s := d.Status
			if s.ObservedGeneration >= d.Generation && s.DesiredNumberScheduled == s.NumberReady {
				return nil
			}
			state = fmt.Sprintf("%d of %d nodes are done", s.NumberReady, s.DesiredNumberScheduled)
		} else if !over(ctx) {
			state = err.Error()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for DaemonSet %s/%s: %s: %w", namespace, name, state, ctx.Err())
		case <-time.After(awaitEvery):
		}
	}
}

// over tells whether a context's time is up, also if its timer has not noticed yet. What fails then says only that.
func over(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}
