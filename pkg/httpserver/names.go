package httpserver

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Names are the names by which a server is asked. It answers to no other: a page in a browser can have a name of its
// own resolve to an address of this machine, and would read what it gets (DNS rebinding). Addresses can't be given
// away so. Names are safe for concurrent use.
type Names struct {
	// Field is where more are configured, for those who are refused. Empty: nowhere.
	Field string
	// More are further hosts, in lower case and without ports. They may be addresses.
	More []string
}

// Refusal is why a request is not answered.
type Refusal struct {
	Status int
	Reason string
}

func (r *Refusal) Error() string { return r.Reason }

// Check refuses requests for other names, and those of pages that are not the server's own.
func (n *Names) Check(req *http.Request) *Refusal {
	if !n.has(req, req.Host) {
		reason := fmt.Sprintf("this server does not answer to the host %.100q: ask for 127.0.0.1 or localhost", req.Host)
		if n.Field != "" {
			reason += ", or add it to " + n.Field + " if it is this server's name"
		}
		return &Refusal{http.StatusMisdirectedRequest, reason}
	}
	foreign := &Refusal{http.StatusForbidden, "this server does not answer to pages of other sites"}
	switch req.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site": // A site has many ports, and whoever has one of them is somebody else.
		return foreign
	}
	if origins := req.Header.Values("Origin"); len(origins) > 0 {
		u, err := url.Parse(origins[0])
		if err != nil || len(origins) > 1 || u.Host == "" || !n.has(req, u.Host) {
			return foreign
		}
	}
	return nil
}

// Guard refuses in plain text what Check refuses.
func (n *Names) Guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if r := n.Check(req); r != nil {
			http.Error(w, r.Reason, r.Status)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// has tells whether a host with or without a port is the server's. Without any host, which HTTP/1.0 allows, it is not.
func (n *Names) has(req *http.Request, host string) bool {
	if h, port, err := net.SplitHostPort(host); err == nil && strings.Trim(port, "0123456789") == "" {
		host = h
	} else {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || slices.Contains(n.More, host) {
		return true
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.IsUnspecified() { // Which browsers take for loopback.
		return false
	}
	return addr.Unmap().IsLoopback() || !onLoopback(req)
}

// onLoopback tells whether a request came over loopback, where other addresses than loopback's have no business.
func onLoopback(req *http.Request) bool {
	local, ok := req.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return true
	}
	at, err := netip.ParseAddrPort(local.String())
	return err != nil || at.Addr().Unmap().IsLoopback()
}
