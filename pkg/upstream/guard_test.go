package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/reach"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
)

// bait listens on this machine and counts who comes.
func bait(t *testing.T) (port string, touched *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	touched = new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			touched.Add(1)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port, touched
}

// Names of registries come from clients. One that is an address which is for nobody, or this machine's own in disguise,
// is not asked.
func TestNamesThatAreAddresses(t *testing.T) {
	port, touched := bait(t)
	cfg := fast()
	cfg.Registries = nil
	cfg.Timeouts.Connect = time.Minute // A refusal must not be a timeout.
	c := client(t, cfg)
	for _, host := range []string{
		"169.254.169.254", "169.254.169.254:80", "[fe80::1]:80", "0.0.0.0:" + port, "[::]:" + port, "127.1:" + port, "2130706433:" + port,
		"[::ffff:169.254.169.254]:80", "224.0.0.1", "255.255.255.255", "[fd00:ec2::254]", "[64:ff9b::a9fe:a9fe]:80",
		"168.63.129.16:80", "[::ffff:168.63.129.16]:80", "[fd00:ec2::23]:80", "192.0.0.192", "100.100.100.200:80", "[fd20:ce::254]:80", "[2002:a83f:8110::1]",
	} {
		name, err := reference.ParseRegistry(host)
		if err != nil {
			continue // It is not even a name.
		}
		began := time.Now()
		ref := reference.Reference{Repository: reference.Repository{Registry: name, Path: "latest/meta-data"}, Tag: "x"}
		_, err = c.Manifest(t.Context(), ref, Origin{})
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, reach.ErrRefused) {
			t.Errorf("%s: %v", host, err)
		}
		if time.Since(began) > 5*time.Second {
			t.Errorf("%s: it took %v", host, time.Since(began))
		}
		if strings.Contains(err.Error(), "link-local") {
			t.Errorf("%s: the error says what there is: %v", host, err)
		}
	}
	if n := touched.Load(); n > 0 {
		t.Errorf("this machine was asked %d times", n)
	}
}

// What a registry redirects to may be only as far in as it is itself.
func TestRedirectsInside(t *testing.T) {
	port, touched := bait(t)
	for _, target := range []string{
		"http://169.254.169.254/latest", "http://[fe80::1]/", "http://0.0.0.0:" + port + "/", "http://[::ffff:169.254.169.254]/",
		"https://[fd00:ec2::254]/", "http://[64:ff9b::a9fe:a9fe]/", "http://168.63.129.16/machine", "http://[fd00:ec2::23]/v1/credentials",
		"http://192.0.0.192/latest", "http://100.100.100.200/latest", "http://[fd20:ce::254]/", "http://[::ffff:168.63.129.16]:32526/",
	} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) { http.Redirect(w, r, target, http.StatusFound) })
		c := client(t, fast(Endpoint{URL: s.URL}))
		if _, _, err := readBlob(t, c, nil, 0, -1); !errors.Is(err, reach.ErrRefused) || len(s.seen()) != 1 {
			t.Errorf("%s: %v after %d requests", target, err, len(s.seen()))
		}
	}
	if touched.Load() != 0 {
		t.Error("this machine was asked")
	}
}

// TestGuarded checks the connections themselves: names count by what they resolve to, and whatever was dialled for
// somebody who may go further is not used for who may not.
func TestGuarded(t *testing.T) {
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer s.Close()
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	get := func(rt http.RoundTripper, host string) error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := rt.RoundTrip(req)
		if err == nil {
			drain(resp)
		}
		return err
	}
	c := client(t, fast())
	plain, err := c.transports.get(tlsFiles{})
	if err != nil {
		t.Fatal(err)
	}
	guard := func(c *Client, most reach.Reach) http.RoundTripper {
		return &guarded{client: c, plain: plain, most: func() reach.Reach { return most }}
	}
	for _, host := range []string{"127.0.0.1", "localhost"} {
		if err := get(guard(c, reach.Loopback), host); err != nil {
			t.Errorf("%s: %v", host, err)
		}
		before := asked.Load()
		for _, most := range []reach.Reach{reach.Public, reach.Private} {
			if err := get(guard(c, most), host); !errors.Is(err, reach.ErrRefused) {
				t.Errorf("%s, %s: %v", host, most, err)
			}
		}
		if asked.Load() != before {
			t.Errorf("%s was asked over a connection of somebody else", host)
		}
	}
	cfg := fast()
	cfg.Networks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	if err := get(guard(client(t, cfg), reach.Public), "127.0.0.1"); err != nil {
		t.Errorf("a network that is allowed: %v", err)
	}
	behind := fast()
	behind.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(s.URL) }
	if err := get(guard(client(t, behind), reach.Public), "10.0.0.1"); !errors.Is(err, reach.ErrRefused) {
		t.Errorf("an address behind a proxy: %v", err)
	}
	w := &watched{inner: plain, proxied: c.proxied}
	if err := get(w, "127.0.0.1"); err != nil || w.reach() != reach.Loopback {
		t.Errorf("%v, found %s", err, w.reach())
	}
}

func TestBytesPerSecond(t *testing.T) {
	data := make([]byte, 64<<10)
	s := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) { serveBlob(w, r, data) })
	cfg := fast()
	cfg.Registries = func(reference.Repository) Registry {
		return Registry{Endpoints: at(s), BytesPerSecond: 96 << 10}
	}
	began := time.Now()
	got, _, err := readBlob(t, client(t, cfg), data, 0, -1)
	if took := time.Since(began); err != nil || len(got) != len(data) || took < 400*time.Millisecond {
		t.Errorf("%d bytes in %v, %v", len(got), took, err)
	}
	cfg.Registries = func(reference.Repository) Registry { return Registry{Endpoints: at(s), BytesPerSecond: 1} }
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	b, err := client(t, cfg).Blob(ctx, repo, digest.FromBytes(data), 0, -1, Origin{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	buf := make([]byte, 32<<10)
	for err == nil {
		_, err = b.Read(buf)
	}
	if err == io.EOF || !strings.Contains(err.Error(), "bandwidth") {
		t.Errorf("%v", err)
	}
}

// Parts of one registry that are configured apart have servers of their own.
func TestRoutesOfOneRegistry(t *testing.T) {
	one := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) { serveBlob(w, r, []byte("one")) })
	two := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) { serveBlob(w, r, []byte("two")) })
	cfg := fast()
	cfg.Registries = func(r reference.Repository) Registry {
		if strings.HasPrefix(r.Path, "two/") {
			return Registry{Name: "two", Endpoints: at(two)}
		}
		return Registry{Endpoints: at(one)}
	}
	c := client(t, cfg)
	for path, want := range map[string]string{"one/a": "one", "two/a": "two"} {
		b, err := c.Blob(t.Context(), reference.Repository{Registry: "r.test", Path: path}, digest.FromBytes([]byte(want)), 0, -1, Origin{})
		if err != nil {
			t.Fatal(err)
		}
		if b.Size() != 3 || len(one.seen())+len(two.seen()) == 0 {
			t.Errorf("%s: %d bytes", path, b.Size())
		}
		b.Close()
	}
	if len(one.seen()) != 1 || len(two.seen()) != 1 {
		t.Errorf("%d and %d requests", len(one.seen()), len(two.seen()))
	}
}
