package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/prefetch"
	"github.com/kioo-dev/kioo/pkg/reference"
)

// The paths below which people on this node, and members, ask for what is no pull. Arguments are in the query.
const (
	RefreshPath  = "/kioo/v1/refresh"
	PrefetchPath = "/kioo/v1/prefetch"
)

const (
	// tellWithin bounds how long a member may take to hear that a tag is to be forgotten.
	tellWithin = 3 * time.Second
	// maxImages bounds the images of one request, and maxPrefetches the requests of members at once.
	maxImages, maxPrefetches = 100, 64
	// maxLine bounds a line of progress.
	maxLine = 64 << 10
	// silence is how long a member may say nothing of an image. Progress comes far more often, but a blob's first
	// byte may take as long as all deadlines of upstream together.
	silence = 3 * time.Minute
)

// ThisNode is what progress calls the node that was asked.
const ThisNode = "this node"

// control does what people ask for beside pulls, here and at the other members.
type control struct {
	refresh  func(ctx context.Context, ref reference.Reference) error
	prefetch *prefetch.Prefetcher
	gate     *prefetch.Gate
	fleet    *fleet // Nil without one.
	log      logr.Logger
}

// Refreshed is the answer to a refresh.
type Refreshed struct {
	// Members is how many other members were told, and Failed those that could not be.
	Members int      `json:"members"`
	Failed  []string `json:"failed,omitempty"`
}

// local gives the handler for the people of this node, behind a socket that nobody else may use.
func (c *control) local() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+RefreshPath, func(w http.ResponseWriter, r *http.Request) { c.serveRefresh(w, r, true) })
	mux.HandleFunc("POST "+PrefetchPath, c.servePrefetch)
	return mux
}

// members gives the handlers for other members, by pattern.
func (c *control) members() map[string]http.Handler {
	return map[string]http.Handler{
		"POST " + RefreshPath:  http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.serveRefresh(w, r, false) }),
		"POST " + PrefetchPath: http.HandlerFunc(c.serveMemberPrefetch),
	}
}

// arguments reads a request's: people have them in the query, and members in the body.
func arguments(r *http.Request) url.Values {
	if r.URL.RawQuery != "" {
		return r.URL.Query()
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxLine))
	if err != nil {
		return nil
	}
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return nil
	}
	return values
}

// serveRefresh forgets what a tag meant, and has all members do so if everywhere is set.
func (c *control) serveRefresh(w http.ResponseWriter, r *http.Request, everywhere bool) {
	ref, err := reference.Parse(arguments(r).Get("image"))
	if err == nil {
		err = c.refresh(r.Context(), ref)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var answer Refreshed
	if everywhere && c.fleet != nil {
		answer = c.tell(r.Context(), ref)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // Who asked may have left.
}

// tell has all other members forget a tag.
func (c *control) tell(ctx context.Context, ref reference.Reference) (answer Refreshed) {
	ctx, cancel := context.WithTimeout(ctx, tellWithin)
	defer cancel()
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		slots = make(chan struct{}, 32)
	)
	for _, m := range c.fleet.discovery.Members() {
		if len(m.PeerAPI) == 0 {
			continue
		}
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			err := c.call(ctx, m, RefreshPath, url.Values{"image": {ref.String()}}, func(io.Reader) error { return nil })
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				answer.Failed = append(answer.Failed, m.PeerAPI[0])
				c.log.Info("member not told to forget a tag", "address", m.PeerAPI, "ref", ref.String(), "reason", err.Error())
				return
			}
			answer.Members++
		})
	}
	group.Wait()
	slices.Sort(answer.Failed)
	return answer
}

// call asks a member, and has its answer read.
func (c *control) call(ctx context.Context, m discovery.Member, path string, query url.Values, read func(io.Reader) error) error {
	resp, err := c.fleet.client.Call(ctx, http.MethodPost, m.PeerAPI, path, []byte(query.Encode()))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // Half of it may still say why.
		return fmt.Errorf("status %d: %s", resp.StatusCode, strings.TrimSpace(string(why)))
	}
	return read(resp.Body)
}

// serveMemberPrefetch brings one image in for a member that asks.
func (c *control) serveMemberPrefetch(w http.ResponseWriter, r *http.Request) {
	leave, err := c.gate.Enter()
	if err != nil {
		http.Error(w, err.Error(), http.StatusTooManyRequests)
		return
	}
	defer leave()
	image := arguments(r).Get("image") // Before the answer begins: then there is no body any more.
	out := newLines(w)
	_ = c.prefetch.Pull(r.Context(), image, out.write) // The last line says it.
}

// servePrefetch brings images in on the nodes that are chosen, and tells how far each is, a line for each news.
func (c *control) servePrefetch(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	copies, err := strconv.Atoi(q.Get("copies"))
	images := q["image"]
	if q.Get("copies") == "" {
		copies, err = 0, nil
	}
	switch {
	case err != nil || copies < 0:
		http.Error(w, "copies is not a number of nodes", http.StatusBadRequest)
		return
	case len(images) == 0 || len(images) > maxImages:
		http.Error(w, fmt.Sprintf("expected 1 to %d images", maxImages), http.StatusBadRequest)
		return
	}
	for _, image := range images {
		if _, err := reference.Parse(image); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	out := newLines(w)
	var group sync.WaitGroup
	for _, image := range images {
		chosen := c.choose(image, q["zone"], copies, q.Get("here") != "")
		if len(chosen) == 0 {
			out.write(prefetch.Progress{Image: image, Done: true, Error: "no node is in the zones"})
		}
		for _, m := range chosen {
			group.Go(func() { c.bring(r.Context(), m, image, out.write) })
		}
	}
	group.Wait()
}

// choose gives the members that are to hold an image. One without an address is this node.
func (c *control) choose(image string, zones []string, copies int, here bool) []discovery.Member {
	if here || c.fleet == nil {
		return []discovery.Member{{}}
	}
	self := c.fleet.discovery.Self()
	byID := map[string]discovery.Member{self.ID.String(): {}}
	nodes := []prefetch.Node{{ID: self.ID.String(), Zone: self.Zone}}
	for _, m := range c.fleet.discovery.Members() {
		if len(m.PeerAPI) > 0 {
			byID[m.ID.String()] = m
			nodes = append(nodes, prefetch.Node{ID: m.ID.String(), Zone: m.Zone})
		}
	}
	var chosen []discovery.Member
	for _, n := range prefetch.Choose(image, zones, copies, nodes) {
		chosen = append(chosen, byID[n.ID])
	}
	return chosen
}

// bring has one node bring one image in.
func (c *control) bring(ctx context.Context, m discovery.Member, image string, tell func(prefetch.Progress)) {
	if len(m.PeerAPI) == 0 {
		_ = c.prefetch.Pull(ctx, image, func(p prefetch.Progress) { // The last word says it.
			p.Node = ThisNode
			tell(p)
		})
		return
	}
	ended := false
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dead := time.AfterFunc(silence, cancel)
	defer dead.Stop()
	err := c.call(ctx, m, PrefetchPath, url.Values{"image": {image}}, func(body io.Reader) error {
		lines := bufio.NewScanner(body)
		lines.Buffer(nil, maxLine)
		for lines.Scan() {
			dead.Reset(silence)
			var p prefetch.Progress
			if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
				return fmt.Errorf("read progress: %w", err)
			}
			p.Node, p.Image, ended = m.PeerAPI[0], image, p.Done
			tell(p)
		}
		return lines.Err()
	})
	if !ended {
		if err == nil {
			err = errors.New("member broke off")
		}
		tell(prefetch.Progress{Node: m.PeerAPI[0], Image: image, Done: true, Error: err.Error()})
	}
}

// lines writes progress, a line of JSON for each. It is safe for concurrent use.
type lines struct {
	mu      sync.Mutex
	w       http.ResponseWriter
	control *http.ResponseController
}

func newLines(w http.ResponseWriter) *lines {
	l := &lines{w: w, control: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	_ = l.control.Flush() // So that who asks knows at once that it was heard.
	return l
}

func (l *lines) write(p prefetch.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = json.NewEncoder(l.w).Encode(p) // Who asked may have left; the request's context then ends it.
	_ = l.control.Flush()
}
