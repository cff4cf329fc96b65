package events

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/kioo-dev/kioo/pkg/httpclient"
)

const (
	// firstRetry and lastRetry bound the wait after a failure, which doubles from one to the other.
	firstRetry = time.Second
	lastRetry  = time.Minute
	// maxAnswer is how much of an answer is read, so that its connection can be used again.
	maxAnswer = 16 << 10
)

// sender takes one endpoint's events off its queue. It runs once.
type sender struct {
	queue    *Queue
	endpoint Endpoint
	name     string // For logs: URLs may hold secrets.
	kept     string // For the file, for the same reason.
	http     *http.Client
	news     chan struct{}
}

func (q *Queue) newSender(i int, e Endpoint) (*sender, error) {
	if e.Timeout == 0 {
		e.Timeout = 10 * time.Second
	}
	u, err := url.Parse(e.URL)
	if err != nil {
		return nil, fmt.Errorf("events.endpoints[%d].url is no URL", i)
	}
	cfg, err := httpclient.TLS(e.CAFile)
	if err != nil {
		return nil, fmt.Errorf("events.endpoints[%d].caFile: %w", i, err)
	}
	return &sender{
		queue: q, endpoint: e, name: u.Host, kept: fmt.Sprintf("%x", sha256.Sum256([]byte(e.URL))), news: make(chan struct{}, 1),
		http: &http.Client{
			Transport: &http.Transport{
				Proxy: http.ProxyFromEnvironment, TLSClientConfig: cfg, TLSHandshakeTimeout: e.Timeout, ForceAttemptHTTP2: true,
				MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute,
			},
			// A redirect would take the Authorization header, and the events, elsewhere.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func (s *sender) wake() {
	select {
	case s.news <- struct{}{}:
	default: // It is awake.
	}
}

// run sends until ctx ends.
func (s *sender) run(ctx context.Context) {
	defer s.http.CloseIdleConnections()
	pause := backoff.ExponentialBackOff{
		InitialInterval: firstRetry, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: lastRetry,
	}
	for failing := false; ; {
		more, err := s.next(ctx)
		var wait <-chan time.Time
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.queue.sent.WithLabelValues("failed").Inc()
			if !failing { // Once: an outage of a day must not fill the log.
				s.queue.cfg.Log.Info("receiver of events can't be told, and is tried again", "endpoint", s.name, "reason", err.Error())
			}
			failing = true
			wait = time.After(pause.NextBackOff())
		case more:
			if failing {
				s.queue.cfg.Log.Info("receiver of events is told again", "endpoint", s.name)
			}
			failing = false
			pause.Reset()
			continue
		}
		if wait == nil {
			select {
			case <-ctx.Done():
			case <-s.news:
			}
			continue
		}
		select { // News are no reason to be less patient.
		case <-ctx.Done():
		case <-wait:
		}
	}
}

// next sends the oldest events, and tells whether there were any.
func (s *sender) next(ctx context.Context) (bool, error) {
	items, err := s.queue.disk.first(s.kept, maxBatch)
	if err != nil || len(items) == 0 {
		return false, err
	}
	events := make([][]byte, len(items))
	for i, item := range items {
		events[i] = item.data
	}
	if err := s.post(ctx, events); err != nil {
		return false, err
	}
	s.queue.sent.WithLabelValues("ok").Inc()
	if err := s.queue.disk.remove(s.kept, items); err != nil {
		return false, fmt.Errorf("take events off the queue: %w", err) // They are sent again.
	}
	return true, nil
}

func (s *sender) send(ctx context.Context, data []byte) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.endpoint.URL, bytes.NewReader(data))
	if err != nil {
		return 0, errors.New("url can't be asked")
	}
	req.Header.Set("Content-Type", MediaType)
	if file := s.endpoint.AuthorizationFile; file != "" {
		value, err := os.ReadFile(file)
		if err != nil {
			return 0, fmt.Errorf("read authorization: %w", err)
		}
		req.Header.Set("Authorization", strings.TrimSpace(string(value)))
	}
	resp, err := s.http.Do(req)
	if err != nil {
		var whole *url.Error // Its text has the URL.
		if errors.As(err, &whole) {
			err = whole.Err
		}
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // Only the connection is at stake.
	return resp.StatusCode, nil
}
