package mirror

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/upstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Denied says that a client may not read a repository, as far as it has shown.
type Denied struct {
	Repository reference.Repository
	// Challenge is the WWW-Authenticate that upstream refused with: with it a client can try again. It may be empty.
	Challenge []string
}

func (d *Denied) Error() string {
	if len(d.Challenge) == 0 {
		return fmt.Sprintf("%s: upstream does not let this client read there", d.Repository)
	}
	return fmt.Sprintf("%s: upstream wants to know who asks", d.Repository)
}

// Is makes it one of upstream's refusals.
func (d *Denied) Is(target error) bool { return target == upstream.ErrDenied }

// kind is what a request is for, which says how upstream is asked whether it may be.
type kind int

const (
	aManifest kind = iota
	aBlob
	aList // Comes from upstream alone, which sees for itself.
)

// request is a client's request on its way through the mirror. Its grant says what may be given, and is made once.
type request struct {
	grant  access.Grant
	origin upstream.Origin // As whom upstream is asked: its credentials are the grant's.
	heard  *heard          // What upstream said of the tag when it was asked who may read. Nil if it was not.
}

func (r request) repository() reference.Repository { return r.grant.Repository() }

// scoped makes a key one of those who may share what it stands for. What upstream gives without a client's credentials,
// it gives to everybody.
func (r request) scoped(key string) string {
	if !r.grant.Gives() && r.grant.Credentials().IsZero() {
		return key
	}
	if scope := r.grant.Scope(); scope != "" {
		return key + " " + scope
	}
	return key
}

// rememberFor notes a failed look-up for all who share it. What a registry says of one client says nothing of the
// others: the book has that, by client.
func (m *Mirror) rememberFor(r request, key string, err error) {
	if r.grant.Ground() != access.Clients || !errors.Is(err, upstream.ErrDenied) {
		m.remember(key, err)
	}
}

// heard is upstream's word of what a tag means.
type heard struct {
	desc     ocispec.Descriptor
	lifetime upstream.Lifetime
	asked    time.Time
}

// granted does something for a client on the ground that there is. Where upstream refuses it then, which the book has
// heard by that time, it is done once more on the ground that there is now.
func granted[T any](
	ctx context.Context, m *Mirror, ref reference.Reference, k kind, o upstream.Origin,
	do func(context.Context, request) (T, error),
) (T, error) {
	for again := false; ; again = true {
		var none T
		r, err := m.grant(ctx, ref, k, o)
		if err != nil {
			return none, err
		}
		got, err := do(ctx, r)
		if err == nil || !errors.Is(err, upstream.ErrDenied) || r.grant.Ground() == access.Configured {
			return got, err
		}
		if again {
			return none, m.refusal(ref.Repository, o, err)
		}
	}
}

// refusal is what a client hears that upstream has refused: the challenge, where there is one.
func (m *Mirror) refusal(repo reference.Repository, o upstream.Origin, err error) error {
	if j := m.cfg.Access.Judge(repo, o.Credentials); j.Verdict == access.Refused {
		return &Denied{Repository: repo, Challenge: j.Challenge}
	}
	return err
}

// grant says on what ground a request goes on, if it may.
func (m *Mirror) grant(ctx context.Context, ref reference.Reference, k kind, o upstream.Origin) (request, error) {
	book, repo := m.cfg.Access, ref.Repository
	if book == nil {
		return request{grant: access.Ungoverned(repo), origin: as(o, access.Credentials{})}, nil
	}
	j := book.Judge(repo, o.Credentials)
	switch {
	case j.Grant.Gives():
		return request{grant: j.Grant, origin: as(o, j.Grant.Credentials())}, nil
	case j.Verdict == access.Refused && (k == aList || !m.doubts(repo, o)):
		return request{}, &Denied{Repository: repo, Challenge: j.Challenge}
	case k == aList, !(k == aBlob && j.AsClient) && !m.elsewhereThanUpstream(ctx, ref):
		// What upstream sends is all that there is to give, and whether it does is the answer. Clients of a private
		// repository share a blob that is on its way, once they are known to be that.
		return bare(repo, o, j.AsClient), nil
	}
	key := questionOf(ref, o)
	switch err := m.failed(key); {
	case errors.Is(err, upstream.ErrDenied):
		return request{}, err
	case err != nil:
		return bare(repo, o, j.AsClient), nil
	}
	r, err := m.question(ctx, ref, k, o, j.AsClient)
	if err != nil {
		m.remember(key, err)
	}
	return r, err
}

// as is who asks, with these credentials.
func as(o upstream.Origin, c access.Credentials) upstream.Origin {
	o.Credentials = c
	return o
}

// bare is a request that gets what upstream sends for it, and nothing else.
func bare(repo reference.Repository, o upstream.Origin, asClient bool) request {
	if !asClient {
		o.Credentials = access.Credentials{}
	}
	return request{grant: access.Bare(repo, o.Credentials), origin: o}
}

// anew is a request of which nothing was known, on the ground that there is by now: others may have asked meanwhile.
func (m *Mirror) anew(r request) request {
	if r.grant.Gives() || m.cfg.Access == nil {
		return r
	}
	if j := m.cfg.Access.Judge(r.repository(), r.origin.Credentials); j.Grant.Gives() {
		r.grant, r.origin = j.Grant, as(r.origin, j.Grant.Credentials())
	}
	return r
}

// doubts tells whether a refusal from memory is to be confirmed first.
func (m *Mirror) doubts(repo reference.Repository, o upstream.Origin) bool {
	return o.Credentials.IsZero() && m.cfg.Access.Doubts(repo)
}

// elsewhereThanUpstream tells whether what is asked for may be had without upstream: other members may have it, this
// node does, or a manifest says where else it is.
func (m *Mirror) elsewhereThanUpstream(ctx context.Context, ref reference.Reference) bool {
	route := m.cfg.Policy.Route(ref.Repository)
	if m.cfg.Members != nil && route.AsksMembers() || !route.AsksUpstream() {
		return true
	}
	if _, foreign := m.elsewhere.layer(ref); foreign {
		return true
	}
	dgst := ref.Digest
	if dgst == "" {
		tag, _, err := m.local.tag(ctx, ref)
		if err != nil {
			return false
		}
		dgst = tag.Target.Digest
	}
	return m.keeps(ctx, dgst)
}

// question asks upstream whether the client may read, as nobody in particular and then as the client, until upstream
// has said a word that counts. An answer that is none leaves the request bare.
func (m *Mirror) question(ctx context.Context, ref reference.Reference, k kind, o upstream.Origin, asClient bool) (request, error) {
	book, repo := m.cfg.Access, ref.Repository
	for {
		said, err := m.inquire(ctx, ref, k, o, asClient)
		j := book.Judge(repo, o.Credentials)
		switch {
		case j.Grant.Gives():
			m.checks.WithLabelValues(verdicts[j.Verdict]).Inc()
			return request{grant: j.Grant, origin: as(o, j.Grant.Credentials()), heard: said}, nil
		case unaskable(err):
			return m.unasked(repo, o, j, err)
		case !asClient && !o.Credentials.IsZero():
			asClient = true
		case j.Verdict == access.Refused:
			m.checks.WithLabelValues("refused").Inc()
			return request{}, &Denied{Repository: repo, Challenge: j.Challenge}
		case errors.Is(err, upstream.ErrDenied):
			m.checks.WithLabelValues("refused").Inc()
			return request{}, err
		case ctx.Err() != nil:
			return request{}, err
		default:
			m.checks.WithLabelValues("failed").Inc()
			if err != nil { // It will say so again.
				m.remember(questionOf(ref, o), err)
			}
			return bare(repo, o, asClient), nil
		}
	}
}

// questionOf is the key under which it is remembered that a question led to nothing.
func questionOf(ref reference.Reference, o upstream.Origin) string {
	return fmt.Sprintf("question of %s for %v", ref, o.Credentials)
}

// verdicts are the names of verdicts in metrics.
var verdicts = map[access.Verdict]string{access.Open: "open", access.Accepted: "accepted"}

// unasked says what becomes of a request whose registry can't be asked.
func (m *Mirror) unasked(repo reference.Repository, o upstream.Origin, j access.Judgement, why error) (request, error) {
	if g, ok := m.cfg.Access.Unasked(repo); ok {
		m.checks.WithLabelValues("offline").Inc()
		m.cfg.Log.V(1).Info("given without a check, for upstream can't be asked", "repository", repo.String(), "reason", why.Error())
		return request{grant: g, origin: as(o, g.Credentials())}, nil
	}
	if j.Verdict == access.Refused { // As it was when upstream could be asked last.
		m.checks.WithLabelValues("refused").Inc()
		return request{}, &Denied{Repository: repo, Challenge: j.Challenge}
	}
	m.checks.WithLabelValues("failed").Inc()
	return request{}, fmt.Errorf("ask upstream who may read %s: %w", repo, why)
}

var errDown = errors.New("it could not be reached a moment ago")

// unaskable tells whether an error says nothing of the client, because nobody could be asked.
func unaskable(err error) bool {
	return errors.Is(err, upstream.ErrUnavailable) || errors.Is(err, upstream.ErrRateLimited) ||
		errors.Is(err, errDown) || errors.Is(err, context.DeadlineExceeded)
}

// challenges tells whether an error asks for credentials. Who said so is remembered elsewhere.
func challenges(err error) bool {
	var said *upstream.Error
	var denied *Denied
	return errors.As(err, &said) && len(said.Challenge) > 0 || errors.As(err, &denied)
}

// inquire asks upstream something whose answer shows whether the client may read, once for all who are that client, or
// nobody in particular. The book hears the answer. What it tells of a tag is given as well.
func (m *Mirror) inquire(ctx context.Context, ref reference.Reference, k kind, o upstream.Origin, asClient bool) (*heard, error) {
	if err := m.asksUpstream(ref.Repository); err != nil {
		return nil, fmt.Errorf("%w: %w", errDown, err)
	}
	if !m.cfg.Access.Askable(ref.Registry) {
		return nil, fmt.Errorf("%s: %w", ref.Registry, errDown)
	}
	if !asClient {
		o.Credentials = access.Credentials{}
	}
	ctx, cancel := context.WithTimeout(ctx, confirmWithin)
	defer cancel()
	key := fmt.Sprintf("access to %s for %v", ref, o.Credentials)
	return share(ctx, m, key, func(ctx context.Context) (*heard, error) {
		ctx, cancel := context.WithTimeout(ctx, confirmWithin)
		defer cancel()
		if m.cfg.Access.Judge(ref.Repository, o.Credentials).Grant.Gives() {
			return nil, nil // Somebody has asked while this one was about to.
		}
		if k == aBlob {
			return nil, m.inquireBlob(ctx, ref, o)
		}
		asked := m.cfg.Now()
		head, err := m.cfg.Upstream.Head(ctx, ref, "", o)
		if err != nil || ref.Tag == "" {
			return nil, err
		}
		return &heard{desc: head.Descriptor, lifetime: head.Lifetime, asked: asked}, nil
	})
}

// inquireBlob asks for a manifest that the repository is known to have, and where none is known for the blob.
func (m *Mirror) inquireBlob(ctx context.Context, ref reference.Reference, o upstream.Origin) error {
	if object, ok := m.cfg.Access.Manifest(ref.Repository); ok {
		known := reference.Reference{Repository: ref.Repository, Tag: object}
		if dgst, err := reference.ParseDigest(object); err == nil {
			known.Tag, known.Digest = "", dgst
		}
		if _, err := m.cfg.Upstream.Head(ctx, known, "", o); !errors.Is(err, upstream.ErrNotFound) {
			return err
		}
	}
	_, err := m.cfg.Upstream.StatBlob(ctx, ref.Repository, ref.Digest, o)
	return err
}

// allowed says whether held content may be given for a request.
func (m *Mirror) allowed(ctx context.Context, r request, dgst digest.Digest) error {
	if !r.grant.Gives() {
		return fmt.Errorf("%s: nobody has said that it may be given: %w", dgst, content.ErrNotFound)
	}
	if !m.local.belongs(ctx, r.repository(), dgst, r.grant.Ground() == access.Unasked) {
		return fmt.Errorf("%s was not seen in %s: %w", dgst, r.repository(), content.ErrNotFound)
	}
	return nil
}

// open opens held content for a request.
func (m *Mirror) open(ctx context.Context, r request, dgst digest.Digest) (*Answer, error) {
	if err := m.allowed(ctx, r, dgst); err != nil {
		return nil, err
	}
	return m.local.open(ctx, dgst)
}

// gave notes that a blob came from a repository, verified. Where the registry gave it itself, that is its word on
// whoever asked, also if it didn't name what it gave.
func (m *Mirror) gave(ref reference.Reference, c access.Credentials, itself bool) {
	m.saw(ref, ref.Digest)
	if itself && m.cfg.Access != nil {
		m.cfg.Access.Learn(access.Answer{
			Repository: ref.Repository, Credentials: c, Asked: access.Content, Speaker: access.Registry,
			Status: http.StatusOK, Named: true,
		})
	}
}

// saw notes that content came in a repository's name, verified.
func (m *Mirror) saw(ref reference.Reference, dgst digest.Digest) {
	if m.cfg.Access != nil {
		m.cfg.Access.Saw(ref.Repository, dgst)
	}
}
