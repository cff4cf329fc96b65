// Package evilmember is one member that was taken over: it has the cluster's key, takes part in discovery as every
// member does, and lies to the others as it is told.
//
// It announces what it does not have, answers for tags, content and pieces with whatever it likes, is a tracker in its
// own interest, and sends others any message. What it does is a value, Lies, set over HTTP below Control. That a lie
// is of use to somebody is for the attacks to show.
package evilmember

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
)

const (
	// sayEvery is how often the other members are told what Lies.Announces has.
	sayEvery = 100 * time.Millisecond
	// callTime bounds one request to another member.
	callTime = 10 * time.Second
	// maxSeen bounds what is written down of what others asked.
	maxSeen = 1 << 16
)

// Lies says how the member lies. The zero value is an honest member that has nothing.
type Lies struct {
	// Tags are those that it says to know.
	Tags []Tag `json:"tags,omitempty"`
	// Content is what it says to have.
	Content []Content `json:"content,omitempty"`
	// Header is added to each answer of the registry's API.
	Header map[string]string `json:"header,omitempty"`
	// Relay has it pass on what honest members give it when it says that its client was checked.
	Relay bool `json:"relay,omitempty"`
	// Announces are posted to every member as a tracker, again and again, with "from" and "final" filled in.
	Announces []map[string]any `json:"announces,omitempty"`
	// Answers are what it says as a tracker, by what was announced.
	Answers map[string]json.RawMessage `json:"answers,omitempty"`
}

// Tag is what the member says of a tag.
type Tag struct {
	// Name is the tag's full name: "registry.example.com/org/app:latest".
	Name      string        `json:"name"`
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
	// Age is in seconds, as text, so that it can be anything. Empty is 0.
	Age string `json:"age,omitempty"`
}

// Content is what the member says of something by digest.
type Content struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType,omitempty"`
	// Body is what it sends, again and again if that is less than Size.
	Body []byte `json:"body"`
	// Size is what it says the size is. 0: the body's.
	Size int64 `json:"size,omitempty"`
	// Hash is what it says that each piece hashes to, 32 bytes. Empty: it says to have the whole, and no hashes.
	Hash []byte `json:"hash,omitempty"`
	// Silent content is not announced to discovery.
	Silent bool `json:"silent,omitempty"`
}

func (c *Content) size() int64 {
	if c.Size != 0 {
		return c.Size
	}
	return int64(len(c.Body))
}

// Config is what a member needs.
type Config struct {
	KeyFile string
	// PeerAPI and DHT are where it listens, and Control where it is told what to do.
	PeerAPI, DHT, Control netip.AddrPort
	// Bootstrap are other members.
	Bootstrap []netip.AddrPort
	DataDir   string
}

// Member is the member. It is safe for concurrent use.
type Member struct {
	cfg       Config
	discovery *discovery.Discovery
	creds     *peer.Credentials
	service   *tracker.Service
	client    *http.Client

	mu   sync.Mutex
	lies Lies
	told []discovery.Key // What discovery was told.
	seen []string        // What others asked, as "method path".
	said int             // How often all members were told all announces, since the lies are what they are.
}

// New makes a member that does not run yet.
func New(cfg Config) (*Member, error) {
	keys, err := peer.LoadKeys([]string{cfg.KeyFile})
	if err != nil {
		return nil, err
	}
	m := &Member{cfg: cfg}
	if m.creds, err = peer.NewCredentials(keys, time.Now); err != nil {
		return nil, err
	}
	var raw [][]byte
	for _, k := range keys {
		raw = append(raw, k[:])
	}
	m.discovery, err = discovery.New(discovery.Config{
		Keys: raw, Listen: []netip.AddrPort{cfg.DHT}, PeerAPI: []string{cfg.PeerAPI.String()}, DataDir: cfg.DataDir,
		Bootstrap: discovery.Static(cfg.Bootstrap), Log: logr.Discard(),
	})
	if err != nil {
		return nil, err
	}
	m.service, err = tracker.NewService(tracker.ServiceConfig{
		Directory: m.discovery, Now: time.Now, Log: logr.Discard(), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		return nil, err
	}
	m.client = &http.Client{Timeout: callTime, Transport: &http.Transport{TLSClientConfig: m.creds.Client(), DisableKeepAlives: true}}
	return m, nil
}

// Run takes part until ctx ends.
func (m *Member) Run(ctx context.Context) error {
	listen := func(at netip.AddrPort) (net.Listener, error) { return net.Listen("tcp", at.String()) }
	api, err := listen(m.cfg.PeerAPI)
	if err != nil {
		return err
	}
	control, err := listen(m.cfg.Control)
	if err != nil {
		return errors.Join(err, api.Close())
	}
	servers := []*http.Server{
		{Handler: http.HandlerFunc(m.serve), TLSConfig: m.creds.Server(), ReadHeaderTimeout: callTime},
		{Handler: m.control(), ReadHeaderTimeout: callTime},
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return ended(servers[0].ServeTLS(api, "", "")) })
	group.Go(func() error { return ended(servers[1].Serve(control)) })
	group.Go(func() error { return ended(m.discovery.Run(ctx)) })
	group.Go(func() error { return ended(m.service.Run(ctx)) })
	group.Go(func() error { return m.say(ctx) })
	group.Go(func() error {
		<-ctx.Done()
		return errors.Join(servers[0].Close(), servers[1].Close())
	})
	return group.Wait()
}

func ended(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// set changes the lies, and has discovery announce what they claim.
func (m *Member) set(lies Lies) {
	var add []discovery.Entry
	for _, t := range lies.Tags {
		add = append(add, discovery.Entry{Key: discovery.TagKey(t.Name), Digest: t.Digest, Confirmed: time.Now()})
	}
	for _, c := range lies.Content {
		if !c.Silent {
			add = append(add, discovery.Entry{Key: discovery.DigestKey(c.Digest)})
		}
	}
	m.mu.Lock()
	before := m.told
	m.lies, m.told, m.said = lies, nil, 0
	for _, e := range add {
		m.told = append(m.told, e.Key)
	}
	m.mu.Unlock()
	m.discovery.Set(nil, before)
	m.discovery.Set(add, nil)
}

func (m *Member) now() Lies {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lies
}

func (m *Member) note(r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.seen) < maxSeen {
		m.seen = append(m.seen, r.Method+" "+r.RequestURI)
	}
}

// say posts the announces until ctx ends.
func (m *Member) say(ctx context.Context) error {
	ticker := time.NewTicker(sayEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		lies := m.now()
		for _, announce := range lies.Announces {
			body, err := m.announce(announce)
			if err != nil {
				return err
			}
			m.tell(ctx, m.cfg.PeerAPI.String(), body) // It may be the tracker itself.
			for _, other := range m.discovery.Members() {
				for _, at := range other.PeerAPI {
					m.tell(ctx, at, body)
				}
			}
		}
		m.mu.Lock()
		m.said++
		m.mu.Unlock()
	}
}

// announce fills in who says so.
func (m *Member) announce(what map[string]any) ([]byte, error) {
	full := map[string]any{"from": m.self(), "final": true, "size": -1}
	for name, value := range what {
		full[name] = value
	}
	body, err := json.Marshal(full)
	if err != nil {
		return nil, fmt.Errorf("write an announce: %w", err)
	}
	return body, nil
}

func (m *Member) self() map[string]any {
	return map[string]any{"id": m.discovery.Self().ID.String(), "peerAPI": []string{m.cfg.PeerAPI.String()}}
}

// tell posts an announce. That nobody wants to hear it is for the others to decide.
func (m *Member) tell(ctx context.Context, at string, body []byte) {
	status, _, err := m.call(ctx, call{Method: http.MethodPost, URL: "https://" + at + tracker.Path, Body: body})
	if err != nil || status != http.StatusOK {
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.seen) < maxSeen {
			m.seen = append(m.seen, fmt.Sprintf("refused %s %d %v", at, status, err))
		}
	}
}
