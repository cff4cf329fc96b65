package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// eventsEvery is how often the conditions are looked at; the first look comes when a mirror has settled in.
	eventsFirst, eventsEvery = 30 * time.Second, time.Minute
	// eventRepeat is how often a condition that lasts is told again. The API server forgets events after an hour.
	eventRepeat = 40 * time.Minute
	// maxNote is the most that an event may say, less than the API's 1024 characters.
	maxNote = 1000
	// maxConditions bounds what is told at once.
	maxConditions = 16
	// component is who says it.
	component = "kioo"
)

// Condition is something about the node that its operator must know.
type Condition struct {
	// Reason is what it is called: one word in UpperCamelCase.
	Reason string
	// Note says what is the matter, and what to do.
	Note string
	// Harmless conditions are told as normal events, others as warnings.
	Harmless bool
}

// EventsConfig says what to tell of which node.
type EventsConfig struct {
	Client Client
	Node   string
	// Conditions gives what is so now.
	Conditions func(context.Context) []Condition
	Log        logr.Logger
}

// told is one condition that was told.
type told struct {
	event *corev1.Event
	last  time.Time
}

// TellEvents tells the conditions of a node by events on its Node object, each when it comes up and now and then while
// it lasts, until ctx ends.
func TellEvents(ctx context.Context, cfg EventsConfig) {
	known := map[Condition]told{}
	wait, failing := around(eventsFirst), false
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = around(eventsEvery)
		now := cfg.Conditions(ctx)
		if ctx.Err() != nil {
			return
		}
		next := map[Condition]told{}
		var failed error
		for _, c := range now[:min(len(now), maxConditions)] {
			t, ok := known[c]
			if !ok || time.Since(t.last) >= eventRepeat {
				if event, err := cfg.tell(ctx, c, t.event); err != nil {
					failed = err
				} else {
					t = told{event: event, last: time.Now()}
				}
			}
			if t.event != nil {
				next[c] = t
			}
		}
		if failed != nil && !failing && ctx.Err() == nil {
			cfg.Log.Error(failed, "tell an event", "node", cfg.Node)
		}
		known, failing = next, failed != nil
	}
}

// tell writes an event, or counts one more of the one that was written before.
func (cfg *EventsConfig) tell(ctx context.Context, c Condition, before *corev1.Event) (*corev1.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	events := cfg.Client.Events
	now := metav1.Now()
	if before != nil {
		patch, err := json.Marshal(map[string]any{"count": before.Count + 1, "lastTimestamp": now})
		if err != nil {
			return nil, fmt.Errorf("write patch: %w", err)
		}
		event, err := events.Patch(ctx, before.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err == nil || !apierrors.IsNotFound(err) {
			return event, wrapEvent(c, err)
		}
	}
	event, err := events.Create(ctx, cfg.event(c, now), metav1.CreateOptions{})
	return event, wrapEvent(c, err)
}

func wrapEvent(c Condition, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("event %s: %w", c.Reason, err)
}

func (cfg *EventsConfig) event(c Condition, now metav1.Time) *corev1.Event {
	note := []rune(c.Note)
	if len(note) > maxNote {
		note = append(note[:maxNote-1], '…')
	}
	kind := corev1.EventTypeWarning
	if c.Harmless {
		kind = corev1.EventTypeNormal
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %d", cfg.Node, c.Reason, c.Note, now.UnixNano()))
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "kioo." + hex.EncodeToString(sum[:10]), Namespace: metav1.NamespaceDefault},
		// The kubelet names the node as its UID too, and so does whatever shows a node's events.
		InvolvedObject: corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: cfg.Node, UID: types.UID(cfg.Node)},
		Reason:         c.Reason, Message: string(note), Type: kind, Count: 1,
		FirstTimestamp: now, LastTimestamp: now,
		Source:              corev1.EventSource{Component: component, Host: cfg.Node},
		ReportingController: component, ReportingInstance: cfg.Node,
	}
}
