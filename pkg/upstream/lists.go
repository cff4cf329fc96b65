package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxTagsBytes bounds a page of tags: some registries ignore n and send all of them.
	maxTagsBytes = 8 << 20
	// maxReferrerPages bounds how many pages of referrers are put together; all of them together also keep to
	// Config.MaxManifestBytes.
	maxReferrerPages = 32
)

// TagList is a page of a repository's tags.
type TagList struct {
	Tags []string
	// Next asks for the page that follows; nil on the last one.
	Next *TagPage
}

// TagPage says which tags are wanted: at most N after Last, as Client.Tags takes them.
type TagPage struct {
	N    int
	Last string
}

// Tags lists tags in the registry's order: at most n of them, all if n is negative, and those after last.
func (c *Client) Tags(ctx context.Context, repo reference.Repository, n int, last string, o Origin) (TagList, error) {
	r := &request{
		op: "list tags", method: http.MethodGet, repo: repo, path: "tags/list", query: url.Values{},
		header: http.Header{"Accept": {"application/json"}}, origin: o,
	}
	if n >= 0 {
		r.query.Set("n", strconv.Itoa(n))
	}
	if last != "" {
		r.query.Set("last", last)
	}
	var list TagList
	err := c.small(ctx, r, maxTagsBytes, func(ep *endpoint, resp *http.Response, body []byte) error {
		var page struct {
			Tags []string `json:"tags"`
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return errors.New("answer is no list of tags")
		}
		list = TagList{Tags: page.Tags}
		if next := nextLink(resp.Header.Values("Link"), r.url(ep)); next != nil {
			list.Next = nextTags(next.Query(), n, last, page.Tags)
		}
		return nil
	})
	if err != nil {
		return TagList{}, err
	}
	return list, nil
}

// nextTags reads a link to the next page. Registries that page by a token of their own get the last tag instead,
// which the specification makes them understand. A page that leads nowhere new is the last.
func nextTags(query url.Values, n int, last string, tags []string) *TagPage {
	next := TagPage{N: n, Last: query.Get("last")}
	if count, err := strconv.Atoi(query.Get("n")); err == nil && count > 0 {
		next.N = count
	}
	if next.Last == "" && len(tags) > 0 {
		next.Last = tags[len(tags)-1]
	}
	if next.Last == "" || next.Last == last {
		return nil
	}
	return &next
}

// Referrers is what refers to a manifest.
type Referrers struct {
	// Index lists the referring manifests; it is empty where there are none.
	Index ocispec.Index
	// Filtered says that the registry left out other artifact types already.
	Filtered bool
}

// Referrers lists the manifests that have dgst as their subject, all pages together. A registry without the API is
// asked for the tag that clients keep the list under instead.
func (c *Client) Referrers(
	ctx context.Context, repo reference.Repository, dgst digest.Digest, artifactType string, o Origin,
) (Referrers, error) {
	found := Referrers{Index: emptyIndex()}
	left := c.cfg.MaxManifestBytes
	query := url.Values{}
	if artifactType != "" {
		query.Set("artifactType", artifactType)
	}
	for range maxReferrerPages {
		page, next, size, err := c.referrersPage(ctx, repo, dgst, query, left, o)
		if noReferrersAPI(err) {
			return c.referrersByTag(ctx, repo, dgst, o)
		}
		if err != nil {
			return Referrers{}, err
		}
		page.Index.Manifests = append(found.Index.Manifests, page.Index.Manifests...)
		found = page
		left -= size
		if next == nil || next.Encode() == query.Encode() {
			return found, nil
		}
		query = next
	}
	r := &request{op: "list referrers", repo: repo, object: dgst.String()}
	return Referrers{}, r.failed(nil, ErrTooLarge, fmt.Errorf("more than %d pages", maxReferrerPages))
}

func (c *Client) referrersPage(
	ctx context.Context, repo reference.Repository, dgst digest.Digest, query url.Values, most int64, o Origin,
) (page Referrers, next url.Values, size int64, err error) {
	r := &request{
		op: "list referrers", method: http.MethodGet, repo: repo, object: dgst.String(),
		path: "referrers/" + dgst.String(), query: query,
		header: http.Header{"Accept": {ocispec.MediaTypeImageIndex}}, origin: o,
	}
	err = c.small(ctx, r, most, func(ep *endpoint, resp *http.Response, body []byte) error {
		index, err := readIndex(body)
		if err != nil {
			return err
		}
		page = Referrers{Index: index, Filtered: filtered(resp.Header)}
		next, size = nil, int64(len(body))
		if u := nextLink(resp.Header.Values("Link"), r.url(ep)); u != nil {
			next = u.Query()
			next.Del("ns") // Endpoints differ in whether they want it.
		}
		return nil
	})
	return page, next, size, err
}

func filtered(header http.Header) bool {
	for filter := range strings.SplitSeq(strings.Join(header.Values("OCI-Filters-Applied"), ","), ",") {
		if strings.TrimSpace(filter) == "artifactType" {
			return true
		}
	}
	return false
}

// noReferrersAPI knows how registries without the API answer: 404 by the specification, others in practice. A
// registry that has the API answers an empty index where there are no referrers.
func noReferrersAPI(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Status {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	}
	return e.Code == "UNSUPPORTED"
}

// referrersByTag reads the index under the referrers tag (distribution specification, "Referrers Tag Schema").
func (c *Client) referrersByTag(
	ctx context.Context, repo reference.Repository, dgst digest.Digest, o Origin,
) (Referrers, error) {
	ref := reference.Reference{Repository: repo, Tag: referrersTag(dgst)}
	m, err := c.Manifest(ctx, ref, o)
	if errors.Is(err, ErrNotFound) {
		return Referrers{Index: emptyIndex()}, nil
	}
	if err != nil {
		return Referrers{}, err
	}
	index, err := readIndex(m.Body)
	if err != nil {
		r := &request{op: "list referrers", repo: repo, object: ref.Tag}
		return Referrers{}, r.failed(nil, ErrInvalid, err)
	}
	return Referrers{Index: index}, nil
}

func referrersTag(dgst digest.Digest) string {
	algorithm, encoded := dgst.Algorithm().String(), dgst.Encoded()
	return algorithm[:min(len(algorithm), 32)] + "-" + encoded[:min(len(encoded), 64)]
}

func readIndex(body []byte) (ocispec.Index, error) {
	var index ocispec.Index
	if err := json.Unmarshal(body, &index); err != nil || index.SchemaVersion != 2 {
		return ocispec.Index{}, errors.New("answer is no index")
	}
	index.MediaType = ocispec.MediaTypeImageIndex
	if index.Manifests == nil {
		index.Manifests = []ocispec.Descriptor{}
	}
	return index, nil
}

func emptyIndex() ocispec.Index {
	return ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{},
	}
}
