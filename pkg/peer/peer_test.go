package peer_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func credentials(t *testing.T, keys ...peer.Key) *peer.Credentials {
	t.Helper()
	c, err := peer.NewCredentials(keys, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serve runs a server until the test ends, and gives its address.
func serve(t *testing.T, cfg peer.ServerConfig) string {
	t.Helper()
	cfg.Log = logr.Discard()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- peer.NewServer(cfg).Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func client(t *testing.T, c *peer.Credentials) *peer.Client {
	t.Helper()
	client := peer.NewClient(peer.ClientConfig{Credentials: c, Progress: time.Second, FirstByte: 2 * time.Second})
	t.Cleanup(client.Close)
	return client
}

func blobRef(body []byte) reference.Reference {
	return reference.Reference{Repository: reference.Repository{Registry: "quay.io", Path: "org/app"}, Digest: digest.FromBytes(body)}
}

// holder serves one blob, and notes what it was asked.
func holder(body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/org/app/blobs/"+digest.FromBytes(body).String() || r.URL.Query().Get("ns") != "quay.io" {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	}
}

func TestBlob(t *testing.T) {
	creds := credentials(t, peer.NewKey())
	body := bytes.Repeat([]byte("0123456789"), 100_000)
	addr := serve(t, peer.ServerConfig{Handler: holder(body), Credentials: creds})
	c := client(t, creds)
	for _, r := range []struct{ off, end int64 }{{0, -1}, {5, -1}, {0, 10}, {999_990, 1_000_000}} {
		s, err := c.Blob(t.Context(), []string{addr}, blobRef(body), r.off, r.end)
		if err != nil {
			t.Fatal(err)
		}
		end := r.end
		if end < 0 {
			end = int64(len(body))
		}
		got, err := io.ReadAll(s)
		if err != nil || s.Size() != int64(len(body)) || !bytes.Equal(got, body[r.off:end]) {
			t.Errorf("%v: %d bytes of %d, %v", r, len(got), s.Size(), err)
		}
		s.Close()
	}
	if _, err := c.Blob(t.Context(), []string{addr}, blobRef([]byte("other")), 0, -1); !errors.Is(err, peer.ErrNotHeld) {
		t.Errorf("not held: %v", err)
	}
	if _, err := c.Blob(t.Context(), []string{"127.0.0.1:1"}, blobRef(body), 0, -1); !errors.Is(err, peer.ErrDead) {
		t.Errorf("nobody there: %v", err)
	}
}

// TestKeys has members with every combination of keys that a rotation brings, and strangers.
func TestKeys(t *testing.T) {
	old, young, foreign := peer.NewKey(), peer.NewKey(), peer.NewKey()
	for _, test := range []struct {
		server, client []peer.Key
		works          bool
	}{
		{[]peer.Key{old}, []peer.Key{old}, true},
		{[]peer.Key{old}, []peer.Key{old, young}, true},
		{[]peer.Key{old}, []peer.Key{young, old}, true},
		{[]peer.Key{old, young}, []peer.Key{old}, true},
		{[]peer.Key{young, old}, []peer.Key{old}, true},
		{[]peer.Key{old, young}, []peer.Key{young}, true},
		{[]peer.Key{young}, []peer.Key{old, young}, true},
		{[]peer.Key{young}, []peer.Key{old}, false},
		{[]peer.Key{old, young}, []peer.Key{foreign}, false},
	} {
		body := []byte("blob")
		addr := serve(t, peer.ServerConfig{Handler: holder(body), Credentials: credentials(t, test.server...)})
		s, err := client(t, credentials(t, test.client...)).Blob(t.Context(), []string{addr}, blobRef(body), 0, -1)
		if (err == nil) != test.works {
			t.Errorf("server with %d keys, client with %d: %v", len(test.server), len(test.client), err)
		}
		if err == nil {
			s.Close()
		}
	}
}

func TestStrangers(t *testing.T) {
	asked := false
	addr := serve(t, peer.ServerConfig{Credentials: credentials(t, peer.NewKey()), Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true })})
	for name, transport := range map[string]*http.Transport{
		"without a certificate": {TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
		"with TLS 1.2":          {TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}},
	} {
		resp, err := (&http.Client{Transport: transport}).Get("https://" + addr + "/v2/")
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s: %s", name, resp.Status)
		}
		transport.CloseIdleConnections()
	}
	resp, err := http.Get("http://" + addr + "/v2/")
	if err == nil {
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("plain HTTP: %s", resp.Status)
		}
		resp.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	if asked {
		t.Error("a stranger's request was answered")
	}
}

// TestCertificatesAreRenewed moves the clock over the life of a certificate.
func TestCertificatesAreRenewed(t *testing.T) {
	var mu sync.Mutex
	now := time.Now()
	creds, err := peer.NewCredentials([]peer.Key{peer.NewKey()}, func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	})
	if err != nil {
		t.Fatal(err)
	}
	body := []byte("blob")
	addr := serve(t, peer.ServerConfig{Handler: holder(body), Credentials: creds})
	for range 5 {
		s, err := client(t, creds).Blob(t.Context(), []string{addr}, blobRef(body), 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		mu.Lock()
		now = now.Add(15 * time.Hour)
		mu.Unlock()
	}
}

func TestStall(t *testing.T) {
	creds := credentials(t, peer.NewKey())
	body := bytes.Repeat([]byte("x"), 1<<20)
	addr := serve(t, peer.ServerConfig{Credentials: creds, Drain: time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = w.Write(body[:1000])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})})
	s, err := client(t, creds).Blob(t.Context(), []string{addr}, blobRef(body), 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	began := time.Now()
	got, err := io.ReadAll(s)
	if !errors.Is(err, peer.ErrDead) || len(got) != 1000 || !strings.Contains(err.Error(), addr) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v to notice", took)
	}
}

// TestAnswersThatLie has a member answer another range than the one that was asked for.
func TestAnswersThatLie(t *testing.T) {
	creds := credentials(t, peer.NewKey())
	body := []byte("0123456789")
	for _, lie := range []struct {
		status       int
		contentRange string
	}{
		{200, ""}, {206, ""}, {206, "bytes 0-9/10"}, {206, "bytes 5-8/10"}, {206, "bytes 5-9/9"}, {206, "bytes 5-9/*"}, {206, "bytes 5-9/+10"}, {206, "bytes 9-5/10"},
	} {
		addr := serve(t, peer.ServerConfig{Credentials: creds, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if lie.contentRange != "" {
				w.Header().Set("Content-Range", lie.contentRange)
			}
			w.WriteHeader(lie.status)
			_, _ = w.Write(body[5:])
		})})
		if s, err := client(t, creds).Blob(t.Context(), []string{addr}, blobRef(body), 5, -1); err == nil {
			s.Close()
			t.Errorf("%+v was believed", lie)
		}
	}
}

func TestManifestAndTag(t *testing.T) {
	creds := credentials(t, peer.NewKey())
	body := []byte(`{"schemaVersion":2}`)
	wrong := false
	addr := serve(t, peer.ServerConfig{Credentials: creds, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/test")
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(body).String())
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.Header().Set("Age", "90")
		if wrong {
			_, _ = w.Write(bytes.ToUpper(body))
			return
		}
		_, _ = w.Write(body)
	})})
	c := client(t, creds)
	tag := blobRef(body)
	tag.Digest, tag.Tag = "", "v1"
	before := time.Now()
	answer, err := c.Tag(t.Context(), []string{addr}, tag)
	if said := before.Sub(answer.Confirmed); said < 90*time.Second || said > 92*time.Second {
		t.Errorf("an age of 90 seconds was heard as %v", said)
	}
	want := peer.TagAnswer{
		Target:    ocispec.Descriptor{MediaType: "application/test", Digest: digest.FromBytes(body), Size: int64(len(body))},
		Confirmed: answer.Confirmed, Vouched: true,
	}
	if err != nil || !reflect.DeepEqual(answer, want) {
		t.Errorf("tag: %+v, %v", answer, err)
	}
	if _, got, err := c.Manifest(t.Context(), []string{addr}, blobRef(body)); err != nil || !bytes.Equal(got, body) {
		t.Errorf("manifest: %s, %v", got, err)
	}
	wrong = true
	if _, _, err := c.Manifest(t.Context(), []string{addr}, blobRef(body)); !errors.Is(err, peer.ErrWrongBytes) {
		t.Errorf("wrong manifest: %v", err)
	}
}

func TestKeyFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := peer.NewKey()
	got, err := peer.LoadKeys([]string{write("good", " "+key.String()+"\n")})
	if err != nil || len(got) != 1 || got[0] != key {
		t.Errorf("%v, %v", got, err)
	}
	for name, text := range map[string]string{"short": "c2VjcmV0", "garbage": "!!secret!!", "empty": ""} {
		path := write(name, text)
		if _, err := peer.LoadKeys([]string{path}); err == nil || !strings.Contains(err.Error(), path) || text != "" && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := peer.LoadKeys([]string{filepath.Join(dir, "missing")}); err == nil {
		t.Error("a missing file was read")
	}
}

// TestManifestStalls has a member that stops in the middle of a manifest.
func TestManifestStalls(t *testing.T) {
	creds := credentials(t, peer.NewKey())
	addr := serve(t, peer.ServerConfig{Credentials: creds, Drain: time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte("{"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})})
	if _, _, err := client(t, creds).Manifest(t.Context(), []string{addr}, blobRef([]byte("x"))); !errors.Is(err, peer.ErrDead) {
		t.Errorf("%v", err)
	}
}

// TestSlowReaderIsNotTheMembersFault takes its time before it reads.
func TestSlowReaderIsNotTheMembersFault(t *testing.T) {
	creds := credentials(t, peer.NewKey())
	body := bytes.Repeat([]byte("x"), 1<<20)
	s, err := client(t, creds).Blob(t.Context(), []string{serve(t, peer.ServerConfig{Handler: holder(body), Credentials: creds})}, blobRef(body), 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	time.Sleep(500 * time.Millisecond) // Longer than the client lets a member be silent.
	if n, err := io.Copy(io.Discard, s); err != nil || n != int64(len(body)) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestSecondAddress has a member whose preferred address can't be reached, and one whose does not answer.
func TestSecondAddress(t *testing.T) {
	creds := credentials(t, peer.NewKey())
	body := []byte("blob")
	addr := serve(t, peer.ServerConfig{Handler: holder(body), Credentials: creds})
	c := client(t, creds)
	for _, addrs := range [][]string{{"127.0.0.1:1", addr}, {"127.0.0.1:1", "127.0.0.1:2", addr}, {addr, "127.0.0.1:1"}} {
		s, err := c.Blob(t.Context(), addrs, blobRef(body), 0, -1)
		if err != nil {
			t.Errorf("%v: %v", addrs, err)
			continue
		}
		s.Close()
	}
	if _, err := c.Blob(t.Context(), []string{"127.0.0.1:1", "127.0.0.1:2"}, blobRef(body), 0, -1); !errors.Is(err, peer.ErrDead) {
		t.Errorf("no address: %v", err)
	}
}
