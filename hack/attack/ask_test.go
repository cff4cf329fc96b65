package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/kioo-dev/kioo/hack/attack/evilmember"
	"github.com/kioo-dev/kioo/hack/attack/evilregistry"
	"github.com/kioo-dev/kioo/hack/fleet"
)

// remote is an attacker's program as the attacker reaches it.
type remote struct {
	place *fleet.Node
	base  string
}

// do sends a value and reads one; both may be nil.
func (r *remote) do(ctx context.Context, method, what string, send, into any) error {
	body, err := json.Marshal(send)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, r.base+what, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := r.place.Client().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body) // Half of it may still say why.
		return fmt.Errorf("%s %s: %s: %s", method, what, resp.Status, text)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// rules sets what the attacker's registry answers until the end of the test.
func (e *evil) rules(t *testing.T, rules ...[]evilregistry.Rule) {
	t.Helper()
	var all []evilregistry.Rule
	for _, some := range rules {
		all = append(all, some...)
	}
	if err := errors.Join(e.do(t.Context(), http.MethodDelete, "seen", nil, nil), e.do(t.Context(), http.MethodPut, "rules", all, nil)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.do(context.Background(), http.MethodPut, "rules", []evilregistry.Rule{}, nil); err != nil {
			t.Error(err)
		}
	})
}

// seen is what the attacker's registry was asked.
func (e *evil) seen(t *testing.T) []evilregistry.Seen {
	t.Helper()
	resp, err := e.place.Get(t.Context(), e.base+"seen")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var all []evilregistry.Seen
	for lines := json.NewDecoder(resp.Body); ; {
		var one evilregistry.Seen
		if err := lines.Decode(&one); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
}

// lies has the member lie until the end of the test, and waits until all others have heard its announcements.
func (m *member) lies(t *testing.T, lies evilmember.Lies) {
	t.Helper()
	if err := m.do(t.Context(), http.MethodPut, "lies", lies, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.do(context.Background(), http.MethodPut, "lies", evilmember.Lies{}, nil); err != nil {
			t.Error(err)
		}
	})
	eventually(t, settleTime, "the others know what the member claims", func() bool {
		var state struct{ Members, Pending int }
		if err := m.do(t.Context(), http.MethodGet, "state", nil, &state); err != nil {
			t.Fatal(err)
		}
		return state.Members == 2 && state.Pending == 0
	})
}

// eventually waits until ok says so.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > within {
			t.Fatalf("after %v still not: %s", within, what)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return time.Since(start)
}

// request is one to a node's mirror, from the node.
type request struct {
	method        string // Default: GET.
	registry      string // Said by ns. Empty: not said.
	path          string // Below /v2/.
	authorization string
	header        map[string]string
	host          string // Default: the mirror's.
}

// answer is what came of it. Status 0 is none at all.
type answer struct {
	status int
	header http.Header
	body   []byte
	broken error // Why the body is not all there.
}

func (a answer) String() string { return fmt.Sprintf("%d, %d bytes", a.status, len(a.body)) }

// is tells whether the body is, to its end, what a digest names.
func (a answer) is(d digest.Digest) bool {
	return a.status/100 == 2 && a.broken == nil && d.Algorithm().FromBytes(a.body) == d
}

func ask(t *testing.T, n *fleet.Node, r request) answer {
	t.Helper()
	a, err := try(t.Context(), n, r)
	if err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
	return a
}

// try is ask for what runs beside the test.
func try(ctx context.Context, n *fleet.Node, r request) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	u := "http://" + fleet.MirrorAddr + "/v2/" + r.path
	if r.registry != "" {
		u += "?ns=" + url.QueryEscape(r.registry)
	}
	if r.method == "" {
		r.method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u, nil)
	if err != nil {
		return answer{}, err
	}
	for name, value := range r.header {
		req.Header.Set(name, value)
	}
	if r.authorization != "" {
		req.Header.Set("Authorization", r.authorization)
	}
	if r.host != "" {
		req.Host = r.host
	}
	resp, err := n.Client().Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	a.body, a.broken = io.ReadAll(resp.Body)
	return a, nil
}

func lastOf(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }
