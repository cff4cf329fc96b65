package registry_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// halfway is an answer that stops after half of the body until the test lets it go on.
type halfway struct {
	reached chan struct{} // Closed when the first half is sent.
	proceed chan struct{}

	reach sync.Once
	end   sync.Once
}

func newHalfway() *halfway {
	return &halfway{reached: make(chan struct{}), proceed: make(chan struct{})}
}

// send sends the first half, and waits.
func (h *halfway) send(w http.ResponseWriter, body []byte) {
	sendHalf(w, body)
	h.reach.Do(func() { close(h.reached) })
	<-h.proceed
}

// goOn ends the wait. It may be called again.
func (h *halfway) goOn() { h.end.Do(func() { close(h.proceed) }) }

// While a tenant's blob is on its way, nobody gets aboard in another repository's name.
func TestFlightsAreApart(t *testing.T) {
	s := newStack(t, options{})
	secret := pattern(4 << 20)
	d := s.remote.putBlob("org/app", secret)
	g := newGuard(s, map[string]string{"Bearer alice": "org/app"})
	answer := newHalfway()
	defer answer.goOn()
	s.remote.set(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "evil/") {
			<-r.Context().Done() // It has all the time in the world.
			return true
		}
		if g.around(w, r) {
			return true
		}
		if r.Method == http.MethodGet {
			answer.send(w, secret)
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
	<-answer.reached
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
	answer.goOn()
	clients.Wait()
}

// Who was refused just now does not get aboard either, where everybody could when the flight began.
func TestRefusedStayBehind(t *testing.T) {
	s := newStack(t, options{})
	layer := pattern(4 << 20)
	d := s.remote.putBlob("org/app", layer)
	answer := newHalfway()
	defer answer.goOn()
	s.remote.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet {
			return false
		}
		answer.send(w, layer)
		_, _ = w.Write(layer[half:])
		return true
	})
	var clients sync.WaitGroup
	clients.Go(func() { s.get(t, blobPath("org/app", d)).expect(t, 200) })
	<-answer.reached
	// As if it had landed, and not left the table of flights yet.
	if err := s.cache.Put(t.Context(), "", ocispec.Descriptor{Digest: d, Size: int64(len(layer))}, layer); err != nil {
		t.Fatal(err)
	}
	s.book.Saw(orgApp, d)
	newGuard(s, map[string]string{"Bearer alice": "org/app"})
	s.later(2 * time.Hour)
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get(s.url + blobPath("org/app", d))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 401 || resp.Header.Get("WWW-Authenticate") != challenge {
		t.Errorf("status %d, want upstream's challenge", resp.StatusCode)
	}
	answer.goOn()
	clients.Wait()
}

// A flight has the credentials of all who asked: when the first client's are taken back, the next one's are tried.
func TestFlightUsesEveryClient(t *testing.T) {
	s := newStack(t, options{})
	secret := pattern(4 << 20)
	d := s.remote.putBlob("org/app", secret)
	g := newGuard(s, map[string]string{"Bearer alice": "org/app", "Bearer bob": "org/app"})
	answer := newHalfway()
	defer answer.goOn()
	s.remote.set(func(w http.ResponseWriter, r *http.Request) bool {
		if g.around(w, r) {
			return true
		}
		if r.Method != http.MethodGet || r.Header.Get("Authorization") != "Bearer alice" {
			return false
		}
		answer.send(w, secret)
		panic(http.ErrAbortHandler)
	})
	var clients sync.WaitGroup
	for i, name := range []string{"alice", "bob"} {
		if i > 0 {
			<-answer.reached
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
	answer.goOn()
	clients.Wait()
}
