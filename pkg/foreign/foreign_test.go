package foreign

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/policy"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rules gives what holds for foreign layers, with loopback as a network that is allowed or not.
func rules(t *testing.T, loopback bool, hosts ...string) policy.Foreign {
	t.Helper()
	cfg := config.Default()
	cfg.ForeignLayers.Hosts, cfg.ForeignLayers.AllowHTTP = hosts, true
	if loopback {
		cfg.ForeignLayers.Networks = []string{"127.0.0.0/8", "::1/128"}
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	p, err := policy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p.Foreign()
}

func open(t *testing.T, p policy.Foreign, data []byte, off, end int64, raw ...string) ([]byte, error) {
	t.Helper()
	c := New(Config{Policy: p, UserAgent: "kioo/test", FirstByte: 2 * time.Second, Progress: time.Second})
	defer c.Close()
	var urls []*url.URL
	for _, r := range raw {
		u, err := url.Parse(r)
		if err != nil {
			t.Fatal(err)
		}
		urls = append(urls, u)
	}
	s, err := c.Open(t.Context(), Layer{Digest: digest.FromBytes(data), Size: int64(len(data))}, urls, off, end)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if s.Size() != int64(len(data)) {
		t.Errorf("size %d", s.Size())
	}
	n := int64(len(data)) - off
	if end >= 0 {
		n = end - off
	}
	return io.ReadAll(io.LimitReader(s, n))
}

func TestRanges(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 1000)
	for name, handler := range map[string]http.HandlerFunc{
		"ranges": func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		},
		"no ranges": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) },
	} {
		s := httptest.NewServer(handler)
		for _, r := range [][2]int64{{0, -1}, {0, 10}, {5, -1}, {9995, 10000}} {
			want := data[r[0]:]
			if r[1] >= 0 {
				want = data[r[0]:r[1]]
			}
			if got, err := open(t, rules(t, true, "127.0.0.1:*"), data, r[0], r[1], s.URL+"/layer"); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %v: %d bytes, %v", name, r, len(got), err)
			}
		}
		s.Close()
	}
}

func TestWrongAnswers(t *testing.T) {
	data := []byte("the layer")
	for name, handler := range map[string]http.HandlerFunc{
		"404":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) },
		"size": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a page that says sorry") },
		"range": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 1-3/9")
			w.WriteHeader(206)
		},
		"total": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 2-3/10")
			w.WriteHeader(206)
		},
		"stall": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "9")
			_, _ = io.WriteString(w, "the")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"reset": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		s := httptest.NewServer(handler)
		if got, err := open(t, rules(t, true, "127.0.0.1:*"), data, 2, -1, s.URL+"/?signature=s3cret"); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		s.Close()
	}
}

func TestNextURL(t *testing.T) {
	data := []byte("the layer")
	gone := httptest.NewServer(http.NotFoundHandler())
	defer gone.Close()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) }))
	defer s.Close()
	if got, err := open(t, rules(t, true, "127.0.0.1:*"), data, 0, -1, "http://169.254.169.254/", gone.URL, s.URL); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%q, %v", got, err)
	}
}

// TestForgery tries to make this node call inside its network, by urls and by redirects.
func TestForgery(t *testing.T) {
	var touched atomic.Int64
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		touched.Add(1)
		_, _ = io.WriteString(w, "secret")
	}))
	defer inside.Close()
	_, port, _ := net.SplitHostPort(inside.Listener.Addr().String())
	data := []byte("secret")
	everything := []string{"*"}
	for _, target := range []string{
		inside.URL, "http://localhost:" + port, "http://0.0.0.0:" + port, "http://[::]:" + port, "http://[::ffff:127.0.0.1]:" + port,
		"http://[::1]:" + port, "http://127.1:" + port, "http://2130706433:" + port, "http://0x7f.1:" + port, "http://169.254.169.254/latest/meta-data/",
		"http://metadata.google.internal/", "http://10.0.0.1/", "http://[fd00:ec2::254]/", "http://[fe80::1%25eth0]/", "http://[64:ff9b::7f00:1]:" + port,
		"http://168.63.129.16/machine", "http://[fd00:ec2::23]/v1/credentials", "http://192.0.0.192/latest", "http://[::ffff:168.63.129.16]:32526/", "http://[64:ff9b::a83f:8110]/",
		"http://user:pw@127.0.0.1:" + port, "file:///etc/passwd", "gopher://127.0.0.1:" + port, "http:127.0.0.1", "http:///x", "//127.0.0.1:" + port,
	} {
		if got, err := open(t, rules(t, false, everything...), data, 0, -1, target); err == nil {
			t.Errorf("%s gave %q", target, got)
		}
		// The same by way of a host that is allowed.
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", target)
			w.WriteHeader(http.StatusFound)
		}))
		cfg := config.Default()
		host := strings.TrimPrefix(front.URL, "http://")
		cfg.ForeignLayers.Hosts, cfg.ForeignLayers.AllowHTTP = []string{host, "localhost:*"}, true
		cfg.ForeignLayers.Networks = []string{"127.0.0.1/32"}
		p, err := policy.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(target, "http://localhost") {
			front.Close()
			continue // That one is allowed here by its name and its network.
		}
		if got, err := open(t, p.Foreign(), data, 0, -1, front.URL); err == nil {
			t.Errorf("a redirect to %s gave %q", target, got)
		}
		front.Close()
	}
	if n := touched.Load(); n != 0 {
		t.Errorf("a service inside was asked %d times", n)
	}
	if _, err := open(t, rules(t, false, everything...), data, 0, -1, "http://localhost:"+port); err == nil || strings.Contains(err.Error(), "loopback") {
		t.Errorf("the error says what there is: %v", err)
	}
}

func TestRedirects(t *testing.T) {
	data := []byte("the layer")
	var header http.Header
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/loop":
			http.Redirect(w, r, "/loop?signature=s3cret", http.StatusFound)
		case r.URL.Path == "/there":
			header = r.Header
			_, _ = w.Write(data)
		default:
			http.Redirect(w, r, "/there?signature=s3cret", http.StatusTemporaryRedirect)
		}
	}))
	defer s.Close()
	if got, err := open(t, rules(t, true, "127.0.0.1:*"), data, 0, -1, s.URL+"/here?key=s3cret"); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%q, %v", got, err)
	}
	for name := range header {
		if !strings.Contains("User-Agent Accept-Encoding Range", name) {
			t.Errorf("the server was told %s: %s", name, header.Get(name))
		}
	}
	if _, err := open(t, rules(t, true, "127.0.0.1:*"), data, 0, -1, s.URL+"/loop"); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("%v", err)
	}
}

func TestRefusedIsNoFailure(t *testing.T) {
	_, err := open(t, rules(t, false, "files.example.com"), []byte("x"), 0, -1, "https://other.example.com/x")
	var r *refused
	if !errors.As(err, &r) || !strings.Contains(fmt.Sprint(err), "foreignLayers.hosts") {
		t.Errorf("%v", err)
	}
}
