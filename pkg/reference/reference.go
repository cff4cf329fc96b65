// Package reference owns names: which registry, repository, tag and digest a request means.
//
// It parses the paths of the OCI distribution API and the three ways in which a client can say the registry. It
// knows nothing of where content is or may be found, and imports nothing of ours.
package reference

import (
	_ "crypto/sha256" // digest.Validate refuses algorithms that are not linked in.
	_ "crypto/sha512"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	dref "github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

const (
	// DockerHub is the registry of names that say none, and the one whose single names live below "library/".
	DockerHub = "docker.io"

	// Probe is a name that no registry can have (RFC 2606, section 2): as a registry, or as the first component of a
	// repository in any. Whether a runtime pulls through the mirror is tested with it.
	Probe = "kioo.invalid"

	// maxNameLength bounds registry and repository each; distribution/reference has it for repositories.
	maxNameLength = dref.RepositoryNameTotalLengthMax

	// maxComponents bounds how deeply a repository nests. Registries that nest stop at about twenty.
	maxComponents = 32
)

var (
	componentGrammar = regexp.MustCompile(`^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*$`)
	tagGrammar       = regexp.MustCompile(`^` + dref.TagRegexp.String() + `$`)
)

// Repository is a repository of one registry. Only NewRepository, Parse and Resolver make it: hack/arch holds all other
// code to that. The zero value names nothing.
type Repository struct {
	// Registry is the registry's one name, as ParseRegistry gives it: "quay.io", "localhost:5000".
	Registry string
	// Path is the repository's name inside the registry: "library/nginx".
	Path string
}

// String gives the full name, registry included.
func (r Repository) String() string { return r.Registry + "/" + r.Path }

// IsProbe tells whether the repository is one that only tests whether requests arrive.
func (r Repository) IsProbe() bool {
	first, _, _ := strings.Cut(r.Path, "/")
	return r.Registry == Probe || first == Probe
}

// Reference names a manifest or a blob in a repository: by tag or by digest, never by both.
type Reference struct {
	Repository
	Tag    string
	Digest digest.Digest
}

// Object gives what the reference names inside its repository: the tag or the digest.
func (r Reference) Object() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

// String gives the full name as users write it: "docker.io/library/nginx:1.27" or "…/nginx@sha256:…".
func (r Reference) String() string {
	switch {
	case r.Digest != "":
		return r.Repository.String() + "@" + r.Digest.String()
	case r.Tag != "":
		return r.Repository.String() + ":" + r.Tag
	}
	return r.Repository.String()
}

// Code is an error code of the distribution specification ("Error Codes").
type Code string

// The codes that a name can be refused with.
const (
	CodeNameInvalid     Code = "NAME_INVALID"
	CodeDigestInvalid   Code = "DIGEST_INVALID"
	CodeManifestInvalid Code = "MANIFEST_INVALID"
	CodeUnsupported     Code = "UNSUPPORTED"
)

// Error says which part of a request is no valid name, and why.
type Error struct {
	Code    Code
	Message string
}

func (e *Error) Error() string { return e.Message }

func invalid(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// NewRepository joins a repository's path to its registry, both checked and in their one form. There is no other way
// to make a Repository of names that came from outside.
func NewRepository(registry, path string) (Repository, error) {
	registry, err := ParseRegistry(registry)
	if err != nil {
		return Repository{}, err
	}
	if err := CheckPath(path); err != nil {
		return Repository{}, err
	}
	if registry == DockerHub && !strings.Contains(path, "/") {
		path = "library/" + path
	}
	return Repository{Registry: registry, Path: path}, nil
}

// CheckPath says what is wrong with a repository's name inside of its registry.
func CheckPath(path string) error {
	if len(path) > maxNameLength {
		return invalid(CodeNameInvalid, "repository name of %d characters is longer than %d", len(path), maxNameLength)
	}
	components := strings.Split(path, "/")
	if len(components) > maxComponents {
		return invalid(CodeNameInvalid, "repository name nests %d deep, more than %d", len(components), maxComponents)
	}
	for _, c := range components {
		if !plainWord(c) && !componentGrammar.MatchString(c) {
			return invalid(CodeNameInvalid, "repository name %s: component %s breaks the grammar of names", quote(path), quote(c))
		}
	}
	return nil
}

// ParseDigest checks a digest: sha256 or sha512, as the image specification registers them.
func ParseDigest(s string) (digest.Digest, error) {
	d := digest.Digest(s)
	if err := d.Validate(); err != nil {
		return "", invalid(CodeDigestInvalid, "digest %s: %v", quote(s), err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return "", invalid(CodeDigestInvalid, "digest %s: algorithm %q is neither sha256 nor sha512", quote(s), a)
	}
	return d, nil
}

// ParseTag checks a tag.
func ParseTag(s string) (string, error) {
	if !plainWord(s) && !tagGrammar.MatchString(s) {
		return "", invalid(CodeManifestInvalid, "tag %s breaks the grammar of tags", quote(s))
	}
	return s, nil
}

// Parse reads a full reference as Reference.String and users write it. A registry that is missing is Docker Hub.
func Parse(s string) (Reference, error) {
	named, err := dref.ParseDockerRef(s)
	if err != nil {
		return Reference{}, invalid(CodeNameInvalid, "reference %s: %v", quote(s), err)
	}
	repo, err := NewRepository(dref.Domain(named), dref.Path(named))
	if err != nil {
		return Reference{}, err
	}
	ref := Reference{Repository: repo}
	switch n := named.(type) {
	case dref.Canonical:
		ref.Digest, err = ParseDigest(n.Digest().String())
	case dref.Tagged:
		ref.Tag, err = ParseTag(n.Tag())
	}
	if err != nil {
		return Reference{}, err
	}
	return ref, nil
}

// maxPlain bounds what the short cuts below decide, so that no limit on lengths gets past the grammars.
const maxPlain = 64

// plainWord tells that a component or a tag is small letters and digits alone. Most are, and then the grammars, which
// cost several times as much as everything else that is done to a name, say yes as well.
func plainWord(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && len(s) <= maxPlain
}

// plainHost tells that a host is plain words with dots between them.
func plainHost(s string) bool {
	for {
		word, rest, more := strings.Cut(s, ".")
		if !plainWord(word) {
			return false
		}
		if !more {
			return true
		}
		s = rest
	}
}

// quote makes outside input safe and short enough for an error message.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "…"
	}
	return strconv.QuoteToASCII(s)
}
