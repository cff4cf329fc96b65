package registrytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	issuer  = "registrytest"
	service = "registry.example.com"
	keyID   = "registrytest-1"
)

// tokenServer gives out tokens as "Token Authentication Specification" of the distribution project says, by GET with
// Basic credentials and by POST as in OAuth 2.
type tokenServer struct {
	cfg    Config
	key    *ecdsa.PrivateKey
	server *httptest.Server
	issued atomic.Int64

	mu    sync.Mutex
	given []string
}

func newTokenServer(cfg Config) (*tokenServer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	s := &tokenServer{cfg: cfg, key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /token", s.get)
	mux.HandleFunc("POST /token", s.post)
	s.server = httptest.NewServer(mux)
	return s, nil
}

// ownRealm is the token server's own address. It is a name, for clients of registries refuse realms at private
// addresses other than the registry's.
func (s *tokenServer) ownRealm() string {
	return strings.Replace(s.server.URL, "127.0.0.1", "localhost", 1) + "/token"
}

// near asks a registry from where the token server has its own address, whatever the challenges say.
type near struct {
	*http.Transport
	tokens *tokenServer
}

// RoundTrip implements http.RoundTripper.
func (n near) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := n.Transport.RoundTrip(req)
	if err == nil {
		for i, challenge := range resp.Header["Www-Authenticate"] {
			resp.Header["Www-Authenticate"][i] = strings.Replace(challenge, n.tokens.cfg.Realm, n.tokens.ownRealm(), 1)
		}
	}
	return resp, err
}

func (s *tokenServer) close() { s.server.Close() }

// configure writes the key that the registry trusts and returns the registry's auth section.
func (s *tokenServer) configure(dir string) (map[string]any, error) {
	public, err := s.key.PublicKey.Bytes() // 4, then both coordinates.
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	half := (len(public) - 1) / 2
	jwks, err := writeJSON(dir, "jwks.json", map[string]any{"keys": []any{map[string]any{
		"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": keyID,
		"x": encode(public[1 : 1+half]), "y": encode(public[1+half:]),
	}}})
	if err != nil {
		return nil, err
	}
	realm := s.cfg.Realm
	if realm == "" {
		realm = s.ownRealm()
	}
	return map[string]any{"token": map[string]any{
		"realm": realm, "service": service, "issuer": issuer, "jwks": jwks,
	}}, nil
}

func (s *tokenServer) get(w http.ResponseWriter, r *http.Request) {
	username, password, ok := r.BasicAuth()
	s.answer(w, username, password, ok, r.URL.Query()["scope"])
}

func (s *tokenServer) post(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if grant := r.PostForm.Get("grant_type"); grant != "password" {
		http.Error(w, "unsupported grant_type "+grant, http.StatusBadRequest)
		return
	}
	s.answer(w, r.PostForm.Get("username"), r.PostForm.Get("password"), true, strings.Fields(r.PostForm.Get("scope")))
}

type access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// answer gives a token: for everything to the one who has the credentials, for pulling to other users and, if so
// configured, to the anonymous, for nothing to the anonymous otherwise, and none to those whose credentials are wrong.
func (s *tokenServer) answer(w http.ResponseWriter, username, password string, claimed bool, scopes []string) {
	user, known := s.cfg.Users[username]
	known = known && password == user.Password
	all := username == s.cfg.Username && password == s.cfg.Password
	if claimed && !known && !all {
		http.Error(w, "wrong credentials", http.StatusUnauthorized)
		return
	}
	var granted []access
	for _, scope := range strings.Fields(strings.Join(scopes, " ")) {
		// type:name:actions, where a name may itself have colons.
		first, last := strings.IndexByte(scope, ':'), strings.LastIndexByte(scope, ':')
		if first == last {
			http.Error(w, "malformed scope "+scope, http.StatusBadRequest)
			return
		}
		name, actions := scope[first+1:last], strings.Split(scope[last+1:], ",")
		pulls := !claimed && s.cfg.Anonymous || known && (user.Repositories == nil || slices.Contains(user.Repositories, name))
		if !all {
			actions = slices.DeleteFunc(actions, func(a string) bool { return a != "pull" || !pulls })
		}
		granted = append(granted, access{Type: scope[:first], Name: name, Actions: actions})
	}
	token, err := s.sign(username, granted)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.issued.Add(1)
	s.keep(token)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{ // A client that has gone needs no token.
		"token": token, "access_token": token,
		"expires_in": int(s.cfg.TokenTTL.Seconds()), "issued_at": time.Now().UTC().Format(time.RFC3339),
	})
}

// keep remembers a token, for tests that look for where it should not be.
func (s *tokenServer) keep(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.given) < maxRequests {
		s.given = append(s.given, token)
	}
}

// sign makes a JSON web token, signed as ES256 (RFC 7515, RFC 7518 section 3.4).
func (s *tokenServer) sign(subject string, granted []access) (string, error) {
	header, err := json.Marshal(map[string]any{"typ": "JWT", "alg": "ES256", "kid": keyID})
	if err != nil {
		return "", err
	}
	now := time.Now()
	claims, err := json.Marshal(map[string]any{
		"iss": issuer, "aud": service, "sub": subject, "access": granted, "jti": rand.Text(),
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(s.cfg.TokenTTL).Unix(),
	})
	if err != nil {
		return "", err
	}
	signed := encode(header) + "." + encode(claims)
	sum := sha256.Sum256([]byte(signed))
	r, t, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		return "", err
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	t.FillBytes(signature[32:])
	return signed + "." + encode(signature), nil
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
