package evilmember

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/peer"
)

// Control is the path below which the attacker talks to his member.
const Control = "/evil/"

const maxScript = 256 << 20

// call is a request to another member, with the cluster's certificate.
type call struct {
	Method string            `json:"method"`
	URL    string            `json:"url"`
	Header map[string]string `json:"header,omitempty"`
	Body   []byte            `json:"body,omitempty"`
}

// control has PUT lies, GET seen (what others asked, a line each), GET state (how many others it knows, and what they
// still have to be told), GET holders?digest=… (who says to hold that), and POST call (a request to a member, whose
// answer is passed on).
func (m *Member) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT "+Control+"lies", func(w http.ResponseWriter, r *http.Request) {
		var lies Lies
		if err := json.NewDecoder(io.LimitReader(r.Body, maxScript)).Decode(&lies); err != nil {
			http.Error(w, fmt.Sprintf("read lies: %v", err), http.StatusBadRequest)
			return
		}
		m.set(lies)
	})
	mux.HandleFunc("GET "+Control+"seen", func(w http.ResponseWriter, _ *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		_ = json.NewEncoder(w).Encode(m.seen) // Who asked may have left.
	})
	mux.HandleFunc("GET "+Control+"state", func(w http.ResponseWriter, _ *http.Request) {
		m.mu.Lock()
		said := m.said
		m.mu.Unlock()
		_ = json.NewEncoder(w).Encode(map[string]int{ // Likewise.
			"members": len(m.discovery.Members()), "pending": m.discovery.Pending(), "said": said,
		})
	})
	mux.HandleFunc("GET "+Control+"holders", func(w http.ResponseWriter, r *http.Request) {
		found, err := m.discovery.Providers(r.Context(), discovery.DigestKey(digest.Digest(r.URL.Query().Get("digest"))))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		holders := []string{}
		for _, p := range found {
			holders = append(holders, p.Member.PeerAPI...)
		}
		_ = json.NewEncoder(w).Encode(holders) // Likewise.
	})
	mux.HandleFunc("POST "+Control+"call", func(w http.ResponseWriter, r *http.Request) {
		var c call
		if err := json.NewDecoder(io.LimitReader(r.Body, maxScript)).Decode(&c); err != nil {
			http.Error(w, fmt.Sprintf("read call: %v", err), http.StatusBadRequest)
			return
		}
		status, body, err := m.call(r.Context(), c)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.WriteHeader(status)
		_, _ = w.Write(body) // Likewise.
	})
	return mux
}

func (m *Member) call(ctx context.Context, c call) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, c.Method, c.URL, bytes.NewReader(c.Body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set(peer.MemberHeader, m.discovery.Self().ID.String())
	for name, value := range c.Header {
		req.Header.Set(name, value)
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxScript))
	return resp.StatusCode, body, err
}

// relay asks the honest members, in the name of a client that was checked.
func (m *Member) relay(w http.ResponseWriter, r *http.Request) {
	for _, other := range m.discovery.Members() {
		for _, at := range other.PeerAPI {
			req, err := http.NewRequestWithContext(r.Context(), r.Method, "https://"+at+r.URL.RequestURI(), nil)
			if err != nil {
				continue
			}
			req.Header.Set(peer.ClaimHeader, string(access.ClaimChecked))
			if text := r.Header.Get("Range"); text != "" {
				req.Header.Set("Range", text)
			}
			resp, err := m.client.Do(req)
			if err != nil {
				continue
			}
			defer resp.Body.Close()
			if resp.StatusCode >= http.StatusMultipleChoices {
				continue
			}
			for _, name := range []string{"Content-Type", "Content-Length", "Content-Range", "Docker-Content-Digest", "Age"} {
				if value := resp.Header.Get(name); value != "" {
					w.Header().Set(name, value)
				}
			}
			w.WriteHeader(resp.StatusCode)
			_, _ = io.Copy(w, resp.Body) // Whoever asked may have left.
			return
		}
	}
	http.NotFound(w, r)
}
