package registrytest

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"strings"
	"sync"
	"sync/atomic"
)

// maxRequests bounds what a proxy remembers. No test that looks at requests makes that many.
const maxRequests = 1 << 20

// Hook stands between a proxy and its registry: it answers a request itself or hands it on.
type Hook func(next http.Handler) http.Handler

// Request is one request that came to the proxy.
type Request struct {
	Method string
	// URI is path and query as they came.
	URI string
	// Header is the request's.
	Header http.Header
	// Status is what was answered; 0 as long as nothing was.
	Status int
	// Sent is how many bytes of body were sent so far.
	Sent int64
}

// Range is the request's Range header.
func (r Request) Range() string { return r.Header.Get("Range") }

// path is the request's path without its query.
func (r Request) path() string {
	before, _, _ := strings.Cut(r.URI, "?")
	return before
}

// record is a Request while it is being answered.
type record struct {
	method, uri string
	header      http.Header
	status      atomic.Int64
	sent        atomic.Int64
}

// Proxy stands before a registry, counts what it is asked for and what it sends, and breaks what a Hook breaks. It
// is safe for concurrent use.
type Proxy struct {
	*Switch
	addr      string
	transport *http.Transport
	forward   http.Handler
	hook      atomic.Pointer[Hook]

	mu      sync.Mutex
	records []*record
}

// NewProxy runs a proxy on a free loopback port before the registry at the target URL, until Close.
func NewProxy(target string) (*Proxy, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("proxy for %s: %w", target, err)
	}
	p := &Proxy{addr: "127.0.0.1:0"}
	p.transport = &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	p.forward = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = u.Scheme, u.Host
			r.Out.Host = r.In.Host // So that the registry names the proxy where it says how to go on.
		},
		Transport:  p.transport,
		BufferPool: bufferPool{&sync.Pool{New: func() any { return new([256 << 10]byte) }}},
		ErrorLog:   log.New(io.Discard, "", 0), // Clients that go away are part of what is tested.
	}
	p.Switch = NewSwitch(p, p.listen)
	return p, p.Resume()
}

// bufferPool lets the proxy copy in larger steps than its 32 KiB, so that it isn't what a test measures.
type bufferPool struct{ pool *sync.Pool }

func (b bufferPool) Get() []byte    { return b.pool.Get().(*[256 << 10]byte)[:] }
func (b bufferPool) Put(buf []byte) { b.pool.Put((*[256 << 10]byte)(buf)) }

// Host is the address that clients use: what it is asked is counted.
func (p *Proxy) Host() string { return p.addr }

// URL is the same as a URL.
func (p *Proxy) URL() string { return "http://" + p.addr }

// listen opens the same address each time.
func (p *Proxy) listen() (net.Listener, error) {
	listener, err := net.Listen("tcp", p.addr)
	if err == nil {
		p.addr = listener.Addr().String()
	}
	return listener, err
}

// Close stops the proxy for good.
func (p *Proxy) Close() {
	p.Stop()
	p.transport.CloseIdleConnections()
}

// Break puts a hook before the registry, in place of the one before. nil mends everything.
func (p *Proxy) Break(hook Hook) {
	if hook == nil {
		p.hook.Store(nil)
		return
	}
	p.hook.Store(&hook)
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &record{method: r.Method, uri: r.RequestURI, header: r.Header.Clone()}
	p.mu.Lock()
	if len(p.records) < maxRequests {
		p.records = append(p.records, rec)
	}
	p.mu.Unlock()
	handler := p.forward
	if hook := p.hook.Load(); hook != nil {
		handler = (*hook)(handler)
	}
	handler.ServeHTTP(&countingWriter{ResponseWriter: w, rec: rec}, r)
}

type countingWriter struct {
	http.ResponseWriter
	rec *record
}

// Unwrap lets http.ResponseController flush.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *countingWriter) WriteHeader(status int) {
	w.rec.status.Store(int64(status))
	w.ResponseWriter.WriteHeader(status)
}

func (w *countingWriter) Write(b []byte) (int, error) {
	w.rec.status.CompareAndSwap(0, http.StatusOK)
	// Before it is sent: the client may have the last byte, and its test look at the count, before Write returns.
	w.rec.sent.Add(int64(len(b)))
	n, err := w.ResponseWriter.Write(b)
	w.rec.sent.Add(int64(n - len(b)))
	return n, err
}

// Forget makes the counts start from nothing.
func (p *Proxy) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.records = nil
}

// Requests are the requests so far, in the order in which they came, those under way included.
func (p *Proxy) Requests() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	requests := make([]Request, len(p.records))
	for i, rec := range p.records {
		requests[i] = Request{
			Method: rec.method,
			URI:    rec.uri,
			Header: rec.header,
			Status: int(rec.status.Load()),
			Sent:   rec.sent.Load(),
		}
	}
	return requests
}

// BlobRequests are the GET requests for a blob, or for any blob if the digest is empty.
func (p *Proxy) BlobRequests(digest string) []Request { return p.matching("blobs", digest) }

// ManifestRequests are the GET requests for a manifest by digest or tag, or for any manifest if that is empty.
func (p *Proxy) ManifestRequests(object string) []Request { return p.matching("manifests", object) }

func (p *Proxy) matching(verb, object string) []Request {
	var found []Request
	for _, r := range p.Requests() {
		dir, last := path.Split(r.path())
		if r.Method == http.MethodGet && path.Base(dir) == verb && (object == "" || object == last) {
			found = append(found, r)
		}
	}
	return found
}

// BlobBytes is how many bytes of a blob were sent, by whatever requests.
func (p *Proxy) BlobBytes(digest string) int64 {
	var total int64
	for _, r := range p.BlobRequests(digest) {
		if r.Status == http.StatusOK || r.Status == http.StatusPartialContent {
			total += r.Sent
		}
	}
	return total
}
