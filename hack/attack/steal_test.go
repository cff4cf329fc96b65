package attack

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"

	"github.com/kioo-dev/kioo/hack/fleet"
)

// bearer gives the Authorization header with which somebody pulls from the private registry. Nobody has none to show.
func (w *world) bearer(t *testing.T, user, password, repo string) string {
	t.Helper()
	u := "http://" + netip.AddrPortFrom(w.Upstream.Addr, tokenPort).String() + "/token?" +
		url.Values{"service": {"registry.example.com"}, "scope": {"repository:" + repo + ":pull"}}.Encode()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	resp, err := w.Nodes[0].Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var given struct{ Token string }
	if err := errors.Join(transport.CheckError(resp, http.StatusOK), json.NewDecoder(resp.Body).Decode(&given)); err != nil {
		t.Fatal(err)
	}
	return "Bearer " + given.Token
}

// outsiders are the Authorization headers of those who may not read an image of tenant A's.
func (w *world) outsiders(t *testing.T, i *image) map[string]string {
	t.Helper()
	return map[string]string{"nobody": "", "tenant B": w.bearer(t, tenantB, passwordB, tenantB+"/app-0"), "junk": "Bearer junk"}
}

// stolen asks all nodes for all of an image as some who may not read it, by its own name, and gives what they got.
func (w *world) stolen(t *testing.T, i *image, who map[string]string) (got []string) {
	t.Helper()
	return w.stolenAs(t, i, i.registry, i.repo, who)
}

// stolenAs does so in the name of some repository.
func (w *world) stolenAs(t *testing.T, i *image, registry, repo string, who map[string]string) (got []string) {
	t.Helper()
	return tryAll(t, w.thefts(i, registry, repo, who))
}

// thefts are the attempts to get all of an image, at all nodes, in the name of some repository.
func (w *world) thefts(i *image, registry, repo string, who map[string]string) (all []attempt) {
	for _, n := range w.Nodes {
		for name, authorization := range who {
			for _, o := range i.objects {
				all = append(all, attempt{n, request{registry: registry, path: repo + "/" + o.path, authorization: authorization}, func(a answer) string {
					if a.is(o.digest) {
						return fmt.Sprintf("%s got %s on %s, in the name of %s/%s", name, o.path, n.Name, registry, repo)
					}
					return ""
				}})
			}
		}
	}
	return all
}

// attempt is a request of an attacker's, and what he reached by its answer; nothing if that is empty.
type attempt struct {
	node *fleet.Node
	request
	reached func(a answer) string
}

// parallel is how many requests an attacker has under way.
const parallel = 48

// tryAll makes many attempts, several at once, and gives what they reached.
func tryAll(t *testing.T, attempts []attempt) (reached []string) {
	t.Helper()
	found := make([]string, len(attempts))
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(parallel)
	for i, a := range attempts {
		group.Go(func() error {
			got, err := try(ctx, a.node, a.request)
			if err != nil {
				return fmt.Errorf("%s: %w", a.node.Name, err)
			}
			found[i] = a.reached(got)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(found, func(what string) bool { return what == "" })
}

// nobody is who brings no credentials.
func nobody() map[string]string { return map[string]string{"nobody": ""} }
