package registry_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// While a tenant's blob is on its way, nobody gets aboard in another repository's name.
func TestFlightsAreApart(t *testing.T) {
	s := newStack(t, options{})
	secret := pattern(4 << 20)
	d := s.remote.putBlob("org/app", secret)
	g := newGuard(s, map[string]string{"Bearer alice": "org/app"})
	under, resume := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.remote.set(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "evil/") {
			<-r.Context().Done() // It has all the time in the world.
			return true
		}
		if g.around(w, r) {
			return true
		}
		if r.Method == http.MethodGet {
			sendHalf(w, secret)
			once.Do(func() { close(under) })
			<-resume
			_, _ = w.Write(secret[half:])
			return true
		}
		return false
	})
	var clients sync.WaitGroup
	clients.Go(func() {
		got := s.get(t, blobPath("org/app", d), "Authorization", "Bearer alice")
		if !bytes.Equal(got.body, secret) {
			t.Errorf("the tenant got %d bytes, error %v", len(got.body), got.err)
		}
	})
	<-under
	client := http.Client{Timeout: time.Second}
	for _, repo := range []string{"evil/app", "org/app"} {
		resp, err := client.Get(s.url + blobPath(repo, d))
		if err != nil {
			continue // It still waits for the registry that was named.
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode == 200 {
			t.Errorf("%s: %d bytes of what is on its way", repo, len(body))
		}
	}
	close(resume)
	clients.Wait()
}

// Who was refused just now does not get aboard either, where everybody could when the flight began.
func TestRefusedStayBehind(t *testing.T) {
	s := newStack(t, options{})
	layer := pattern(4 << 20)
	d := s.remote.putBlob("org/app", layer)
	under, resume := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(resume) })
	defer release()
	s.remote.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet {
			return false
		}
		sendHalf(w, layer)
		close(under)
		<-resume
		_, _ = w.Write(layer[half:])
		return true
	})
	var clients sync.WaitGroup
	clients.Go(func() { s.get(t, blobPath("org/app", d)).expect(t, 200) })
	<-under
	// As if it had landed, and not left the table of flights yet.
	if err := s.cache.Put(t.Context(), ocispec.Descriptor{Digest: d, Size: int64(len(layer))}, layer); err != nil {
		t.Fatal(err)
	}
	s.book.Saw(orgApp, d)
	newGuard(s, map[string]string{"Bearer alice": "org/app"})
	s.later(2 * time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+blobPath("org/app", d), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 401 || resp.Header.Get("WWW-Authenticate") != challenge {
		t.Errorf("status %d, want upstream's challenge", resp.StatusCode)
	}
	release()
	clients.Wait()
}

// A flight has the credentials of all who asked: when the first client's are taken back, the next one's are tried.
func TestFlightUsesEveryClient(t *testing.T) {
	s := newStack(t, options{})
	secret := pattern(4 << 20)
	d := s.remote.putBlob("org/app", secret)
	g := newGuard(s, map[string]string{"Bearer alice": "org/app", "Bearer bob": "org/app"})
	under, resume := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.remote.set(func(w http.ResponseWriter, r *http.Request) bool {
		if g.around(w, r) {
			return true
		}
		if r.Method != http.MethodGet || r.Header.Get("Authorization") != "Bearer alice" {
			return false
		}
		sendHalf(w, secret)
		once.Do(func() { close(under) })
		<-resume
		panic(http.ErrAbortHandler)
	})
	var clients sync.WaitGroup
	for i, name := range []string{"alice", "bob"} {
		if i > 0 {
			<-under
		}
		clients.Go(func() {
			got := s.get(t, blobPath("org/app", d), "Authorization", "Bearer "+name)
			if !bytes.Equal(got.body, secret) {
				t.Errorf("%s got status %d, %d bytes, error %v", name, got.status, len(got.body), got.err)
			}
		})
	}
	for range 1000 { // Until the second is aboard, whom upstream was asked about.
		if s.book.Judge(orgApp, access.NewCredentials("Bearer bob")).Verdict == access.Accepted {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(500 * time.Millisecond)
	g.take("Bearer alice")
	close(resume)
	clients.Wait()
}
