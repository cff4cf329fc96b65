package reference

import (
	"net/url"
	"strings"
)

// Kind says which endpoint of the distribution API a request means.
type Kind int

// The endpoints of the pull side, by the specification's numbers.
const (
	KindBase      Kind = iota // end-1, /v2/
	KindBlob                  // end-2, /v2/<name>/blobs/<digest>
	KindManifest              // end-3, /v2/<name>/manifests/<reference>
	KindTags                  // end-8, /v2/<name>/tags/list
	KindReferrers             // end-12, /v2/<name>/referrers/<digest>
)

var kindNames = [...]string{"base", "blob", "manifest", "tags", "referrers"}

func (k Kind) String() string { return kindNames[k] }

// Request is what a request's URL means.
type Request struct {
	Kind Kind
	// Reference is empty for KindBase but for the registry, which is empty too where the client did not say one.
	Reference
	// ByQuery says that the query said the registry. Then the client knows it apart from the mirror. One that has it in
	// the path takes all registries for one, the mirror's host, and has one password for all of them.
	ByQuery bool
}

// Resolver turns the URLs that clients ask for into requests. The registry comes from the first of these that says
// one, and nothing else is tried: the query parameter ns, the path's first component where it looks like a host,
// Default.
type Resolver struct {
	// Default is the registry of requests that say none, as ParseRegistry gives it. Empty refuses such requests.
	Default string
	// Prefix is a path before /v2, such as "/mirror", or empty. Requests without it are not ours.
	Prefix string
}

// Resolve reads a request's URL. It works on the escaped path: an escaped slash or dot never becomes part of a name.
func (r Resolver) Resolve(u *url.URL) (Request, error) {
	rest, ok := strings.CutPrefix(u.EscapedPath(), r.Prefix+"/v2")
	if !ok || (rest != "" && rest[0] != '/') {
		return Request{}, invalid(CodeUnsupported, "path %s is not below %s/v2/", quote(u.EscapedPath()), r.Prefix)
	}
	registry, err := namespace(u)
	if err != nil {
		return Request{}, err
	}
	if rest == "" || rest == "/" {
		return Request{Kind: KindBase, Reference: Reference{Repository: Repository{Registry: registry}}, ByQuery: registry != ""}, nil
	}
	segments, err := unescape(strings.Split(rest[1:], "/"))
	if err != nil {
		return Request{}, err
	}
	req, err := r.endpoint(segments, registry)
	if err != nil {
		return Request{}, err
	}
	req.ByQuery = registry != ""
	return req, nil
}

// namespace gives the registry that ns names, empty if the query has no ns (distribution-spec pull request 66).
func namespace(u *url.URL) (string, error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", invalid(CodeNameInvalid, "query %s: %v", quote(u.RawQuery), err)
	}
	values, ok := query["ns"]
	if !ok {
		return "", nil
	}
	if len(values) != 1 {
		return "", invalid(CodeNameInvalid, "query has ns %d times, so the registry is ambiguous", len(values))
	}
	return ParseRegistry(values[0])
}

// unescape decodes each segment. Slashes and dots have no reason to come escaped; those that do are attempts to get
// past a check of the path.
func unescape(segments []string) ([]string, error) {
	for i, s := range segments {
		if !strings.Contains(s, "%") {
			continue
		}
		if lower := strings.ToLower(s); strings.Contains(lower, "%2f") || strings.Contains(lower, "%2e") {
			return nil, invalid(CodeNameInvalid, "path component %s has an escaped slash or dot", quote(s))
		}
		decoded, err := url.PathUnescape(s)
		if err != nil {
			return nil, invalid(CodeNameInvalid, "path component %s: %v", quote(s), err)
		}
		segments[i] = decoded
	}
	return segments, nil
}

func (r Resolver) endpoint(segments []string, registry string) (Request, error) {
	n := len(segments)
	if n < 2 {
		return Request{}, invalid(CodeUnsupported, "endpoint %s does not exist", quote(strings.Join(segments, "/")))
	}
	var (
		req    Request
		verb   = segments[n-2]
		object = segments[n-1]
		err    error
	)
	switch {
	case verb == "blobs":
		req.Kind = KindBlob
	case verb == "manifests":
		req.Kind = KindManifest
	case verb == "referrers":
		req.Kind = KindReferrers
	case verb == "tags" && object == "list":
		req.Kind = KindTags
	default:
		return Request{}, invalid(CodeUnsupported, "endpoint %s does not exist", quote(strings.Join(segments, "/")))
	}
	if req.Repository, err = r.repository(segments[:n-2], registry); err != nil {
		return Request{}, err
	}
	switch {
	case req.Kind == KindTags:
	case req.Kind == KindManifest && !strings.Contains(object, ":"):
		req.Tag, err = ParseTag(object)
	default:
		req.Digest, err = ParseDigest(object)
	}
	if err != nil {
		return Request{}, err
	}
	return req, nil
}

func (r Resolver) repository(components []string, registry string) (Repository, error) {
	if registry == "" && len(components) > 1 && looksLikeHost(components[0]) {
		registry, components = components[0], components[1:]
	}
	if registry == "" {
		registry = r.Default
	}
	if registry == "" {
		return Repository{}, invalid(CodeNameInvalid, "request says no registry (neither ns nor a host before the name), and no default registry is configured")
	}
	return NewRepository(registry, strings.Join(components, "/"))
}

// looksLikeHost tells a registry from a repository's first component, by the rule for references that users write,
// but for one of its cases: capital letters alone are a mistake here, and no host without a dot.
func looksLikeHost(s string) bool {
	return s == "localhost" || strings.ContainsAny(s, ".:")
}
