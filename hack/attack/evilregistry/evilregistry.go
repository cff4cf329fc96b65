// Package evilregistry is a registry that lies: an attacker's own, or what stands in front of a registry that is
// down.
//
// What it answers is a list of rules, of which the first that fits a request counts; what no rule fits is a 404
// without a challenge. It writes down all that it is asked and told, credentials included, for that is what an
// attacker does. The rules are set, and what it saw is read, over HTTP below Control: it is a program of its own, in
// a place of its own. What is an attack and what should have come of it is for those who use it.
package evilregistry

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Control is the path below which the attacker himself talks to his registry.
const Control = "/evil/"

const (
	// maxSeen bounds what is written down. No attack makes that many requests.
	maxSeen = 1 << 17
	// maxScript bounds a list of rules, bodies included.
	maxScript = 64 << 20
	// maxHang bounds how long an answer that never ends stays open.
	maxHang = 5 * time.Minute
)

// Rule says what to answer to some requests.
type Rule struct {
	// Method is the requests' method. Empty: any.
	Method string `json:"method,omitempty"`
	// Repository is the one that is asked for. Empty: any, and everything that is no repository's.
	Repository string `json:"repository,omitempty"`
	// Object is what comes after the repository, as "manifests/v1" or "blobs/sha256:…"; with * at its end, all that
	// begins so. Without a repository it is compared with the whole path. Empty: any.
	Object string `json:"object,omitempty"`
	// Anonymous limits the rule to requests without an Authorization header.
	Anonymous bool `json:"anonymous,omitempty"`

	// Status is answered. 0 is 200.
	Status int `json:"status,omitempty"`
	// Header is added to the answer's.
	Header map[string]string `json:"header,omitempty"`
	// Body is the answer's. A HEAD gets its length alone.
	Body []byte `json:"body,omitempty"`
	// Length is said to be the body's, whatever that is. 0 tells the truth.
	Length int64 `json:"length,omitempty"`
	// Hang leaves an answer that is shorter than it said open, instead of breaking off.
	Hang bool `json:"hang,omitempty"`
}

// fits tells whether a request is one that the rule is for.
func (r *Rule) fits(req *http.Request) bool {
	if r.Method != "" && r.Method != req.Method || r.Anonymous && req.Header.Get("Authorization") != "" {
		return false
	}
	object := req.URL.Path
	if r.Repository != "" {
		var ok bool
		if object, ok = strings.CutPrefix(object, "/v2/"+r.Repository+"/"); !ok {
			return false
		}
	}
	if prefix, ok := strings.CutSuffix(r.Object, "*"); ok {
		return strings.HasPrefix(object, prefix)
	}
	return r.Object == "" || r.Object == object
}

// Seen is a request that came.
type Seen struct {
	Method string `json:"method"`
	Host   string `json:"host"`
	// URI is path and query.
	URI string `json:"uri"`
	// Authorization is the whole header, and so what somebody lost.
	Authorization string `json:"authorization,omitempty"`
	// User and Password are what it says, if it is Basic.
	User     string `json:"user,omitempty"`
	Password string `json:"password,omitempty"`
	Agent    string `json:"agent,omitempty"`
}

// Server is the registry. It is safe for concurrent use.
type Server struct {
	mu    sync.Mutex
	rules []Rule
	seen  []Seen
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if what, ok := strings.CutPrefix(r.URL.Path, Control); ok {
		s.control(w, r, what)
		return
	}
	s.answer(w, r, s.note(r))
}

// note writes a request down and gives its rule.
func (s *Server) note(r *http.Request) *Rule {
	seen := Seen{
		Method: r.Method, Host: r.Host, URI: r.RequestURI, Authorization: r.Header.Get("Authorization"), Agent: r.UserAgent(),
	}
	seen.User, seen.Password, _ = r.BasicAuth()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) < maxSeen {
		s.seen = append(s.seen, seen)
	}
	for i := range s.rules {
		if s.rules[i].fits(r) {
			rule := s.rules[i]
			return &rule
		}
	}
	return &Rule{Status: http.StatusNotFound}
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, rule *Rule) {
	for name, value := range rule.Header {
		w.Header().Set(name, value)
	}
	length := int64(len(rule.Body))
	if rule.Length != 0 {
		length = rule.Length
	}
	w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
	w.WriteHeader(max(rule.Status, 200))
	if r.Method == http.MethodHead {
		return
	}
	if _, err := w.Write(rule.Body); err != nil {
		return // Whoever asked has had enough, or it was more than was promised.
	}
	if length <= int64(len(rule.Body)) {
		return
	}
	_ = http.NewResponseController(w).Flush() // Who has left needs nothing.
	if rule.Hang {
		timer := time.NewTimer(maxHang)
		defer timer.Stop()
		select {
		case <-r.Context().Done():
		case <-timer.C:
		}
	}
	panic(http.ErrAbortHandler)
}

// control lets the attacker set the rules (PUT rules), read what came (GET seen), and forget it (DELETE seen).
func (s *Server) control(w http.ResponseWriter, r *http.Request, what string) {
	switch r.Method + " " + what {
	case "PUT rules":
		var rules []Rule
		if err := json.NewDecoder(io.LimitReader(r.Body, maxScript)).Decode(&rules); err != nil {
			http.Error(w, fmt.Sprintf("read rules: %v", err), http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		s.rules = rules
		s.mu.Unlock()
	case "GET seen":
		s.mu.Lock()
		seen := s.seen[:len(s.seen):len(s.seen)]
		s.mu.Unlock()
		lines := json.NewEncoder(w)
		for _, one := range seen {
			if lines.Encode(one) != nil {
				return // Nobody reads any more.
			}
		}
	case "DELETE seen":
		s.mu.Lock()
		s.seen = nil
		s.mu.Unlock()
	default:
		http.NotFound(w, r)
	}
}
