package registry

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// codePage is what registries in use answer to a number of tags that is none.
const codePage reference.Code = "PAGINATION_NUMBER_INVALID"

// tags answers end-8. The link to the next page leads back here, with the registry that this page was asked of.
func (h *Handler) tags(w *response, req *http.Request, x *exchange) error {
	query := req.URL.Query()
	n, err := pageSize(query)
	if err != nil {
		return err
	}
	name := strings.TrimSuffix(strings.TrimPrefix(req.URL.Path, h.cfg.Resolver.Prefix+"/v2/"), "/tags/list")
	page, err := h.cfg.Backend.Tags(req.Context(), x.ref.Repository, n, query.Get("last"), origin(req, x))
	if err != nil {
		return err
	}
	x.source = mirror.Upstream
	if page.Next != nil {
		next := url.Values{"last": {page.Next.Last}}
		if page.Next.N > 0 {
			next.Set("n", strconv.Itoa(page.Next.N))
		}
		if query.Has("ns") {
			next.Set("ns", query.Get("ns"))
		}
		w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, req.URL.EscapedPath(), next.Encode()))
	}
	if page.Tags == nil {
		page.Tags = []string{} // An empty list, not null.
	}
	return writeJSON(w, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{name, page.Tags})
}

// pageSize gives n, negative where the client leaves it to the registry.
func pageSize(query url.Values) (int, error) {
	if !query.Has("n") {
		return -1, nil
	}
	n, err := strconv.ParseUint(query.Get("n"), 10, 31)
	if err != nil {
		return 0, refuse(http.StatusBadRequest, codePage, "n is not a number of tags: %s", strconv.QuoteToASCII(query.Get("n")))
	}
	return int(n), nil
}

// referrers answers end-12, filtered here where upstream does not filter.
func (h *Handler) referrers(w *response, req *http.Request, x *exchange) error {
	artifactType := req.URL.Query().Get("artifactType")
	index, err := h.cfg.Backend.Referrers(req.Context(), x.ref, artifactType, origin(req, x))
	if err != nil {
		return err
	}
	x.source = mirror.Upstream
	if artifactType != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return writeJSON(w, ocispec.MediaTypeImageIndex, index)
}
