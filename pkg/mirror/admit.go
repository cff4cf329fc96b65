package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/upstream"
	"github.com/opencontainers/go-digest"
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

// admission is on what ground one request goes on. At first it may be tentative: then nothing is known of the
// repository, upstream and members are asked for what everybody may read, and nothing that is held is given out before
// settle has found out more. It is safe for concurrent use: what clients share outlives the first of them.
type admission struct {
	m      *Mirror
	ref    reference.Reference
	kind   kind
	origin upstream.Origin // As it came.

	mu      sync.Mutex
	settled bool
	err     error // Why it is refused, once settled.
	client  bool  // The client's own credentials count.
	offline bool  // Upstream can't be asked, and the rules let it pass.
}

type admissionKey struct{}

// admissionOf gives the admission that a context's work is done for. It is nil without rules, and for all methods of
// a nil admission there are none.
func admissionOf(ctx context.Context) *admission {
	a, _ := ctx.Value(admissionKey{}).(*admission)
	return a
}

// in gives a context whose work is done for an admission.
func (a *admission) in(ctx context.Context) context.Context {
	if a == nil {
		return ctx
	}
	ctx = context.WithValue(ctx, admissionKey{}, a)
	return peer.As(ctx, a.asker)
}

// within gives a context whose work is done for those of a scope alone, which is that of the admission or was.
func (a *admission) within(ctx context.Context, scope string) context.Context {
	if a == nil {
		return ctx
	}
	return peer.As(a.in(ctx), func() peer.Asker {
		if scope == "" && a.scope() != "" {
			return peer.Asker{Claim: access.ClaimOpen} // Others read along, of whom nothing was found out.
		}
		return a.asker()
	})
}

// asker is what members are told.
func (a *admission) asker() peer.Asker {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.offline:
		return peer.Asker{Claim: access.ClaimOffline}
	case a.settled && a.err == nil:
		return peer.Asker{Claim: access.ClaimChecked}
	}
	return peer.Asker{Claim: access.ClaimOpen, Open: func(age time.Duration) { a.m.cfg.Access.Hear(a.ref.Repository, age) }}
}

// asks gives as whom upstream is asked.
func (a *admission) asks() upstream.Origin {
	o := a.origin
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.client {
		o.Credentials = access.Credentials{}
	}
	return o
}

// scope names those who may share what is fetched for them: all clients of what everybody may read, and else those of
// one repository.
func (a *admission) scope() string {
	if a == nil {
		return ""
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.client:
		return clientsOf(a.ref.Repository)
	case a.offline:
		return offlineOf(a.ref.Repository)
	}
	return ""
}

func clientsOf(repo reference.Repository) string { return "for clients of " + repo.String() }

func offlineOf(repo reference.Repository) string { return "without upstream, of " + repo.String() }

// scoped makes a key one of those who may share what it stands for.
func scoped(ctx context.Context, key string) string {
	if scope := admissionOf(ctx).scope(); scope != "" {
		return key + " " + scope
	}
	return key
}

// admitted does something for a client on the ground that there is: with the node's own credentials, or none, and
// where upstream refuses these, with the client's.
func admitted[T any](
	ctx context.Context, m *Mirror, ref reference.Reference, k kind, o upstream.Origin,
	do func(context.Context, upstream.Origin) (T, error),
) (T, error) {
	if m.cfg.Access == nil {
		o.Credentials = access.Credentials{}
		return do(ctx, o)
	}
	for again := false; ; again = true {
		var none T
		a, err := m.admit(ctx, ref, k, o)
		if err != nil {
			return none, err
		}
		got, err := pursue(ctx, a, do)
		if err == nil {
			return got, nil
		}
		if refused := a.refusal(); refused != nil {
			return none, refused
		}
		// What upstream refused just now, the book knows.
		if again || !errors.Is(err, upstream.ErrDenied) || m.cfg.Access.Mode(ref.Repository) == access.Own {
			return none, err
		}
	}
}

// pursue does it on the ground of an admission. As long as nothing is known of the repository, members give only what
// they know everybody to read: if then upstream can't be asked, it is time to decide without it, and to ask them again.
func pursue[T any](ctx context.Context, a *admission, do func(context.Context, upstream.Origin) (T, error)) (T, error) {
	within, cancel := context.WithCancel(ctx)
	context.AfterFunc(ctx, cancel) // And not sooner: what was got may live on it.
	inTime := a.tentatively(cancel)
	got, err := do(a.in(within), a.asks())
	late := !inTime() && ctx.Err() == nil
	if err == nil || !late && !unaskable(err) || ctx.Err() != nil || a.isSettled() || a.settle(ctx) != nil {
		return got, err
	}
	return do(a.in(ctx), a.asks())
}

// tentatively bounds an attempt that may have to be made again without upstream. It gives what ends the bound, and then
// tells whether the attempt kept it.
func (a *admission) tentatively(cancel context.CancelFunc) (end func() (inTime bool)) {
	if _, expected := a.m.cfg.Access.Askable(a.ref.Registry); expected || a.isSettled() || a.kind == aList {
		return func() bool { return true }
	}
	return time.AfterFunc(confirmWithin, cancel).Stop
}

func (a *admission) isSettled() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.settled
}

// admit says on what ground a request goes on, if it may.
func (m *Mirror) admit(ctx context.Context, ref reference.Reference, k kind, o upstream.Origin) (*admission, error) {
	a := &admission{m: m, ref: ref, kind: k, origin: o}
	askable, _ := m.cfg.Access.Askable(ref.Registry)
	j := m.cfg.Access.Judge(ref.Repository, o.Credentials)
	switch {
	case j.Verdict == access.Refused && !a.doubts():
		return nil, &Denied{Repository: ref.Repository, Challenge: j.Challenge}
	case j.Verdict == access.Unknown && j.AsClient && k == aList:
		a.client = true
	case j.Verdict != access.Unknown, j.AsClient, !askable && k != aList:
		// What needs credentials is looked for nowhere before these were found good.
		if err := a.settle(ctx); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// doubts tells whether a refusal from memory is to be confirmed first.
func (a *admission) doubts() bool {
	return a.origin.Credentials.IsZero() && a.kind != aList && a.m.cfg.Access.Doubts(a.ref.Repository)
}

// refusal gives why the request was refused after it had begun.
func (a *admission) refusal() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// settle finds out whether the client may read what is held of the repository. Whoever comes meanwhile waits, which the
// deadline of upstream's answer ends.
func (a *admission) settle(ctx context.Context) error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.settled {
		a.settled = true
		a.err = a.judge(ctx)
	}
	return a.err
}

// judge asks the book, and upstream for as long as the book does not know. Called with mu held.
func (a *admission) judge(ctx context.Context) error {
	var (
		book  = a.m.cfg.Access
		repo  = a.ref.Repository
		asked = map[bool]error{} // By whether it was asked as the client.
	)
	for {
		j := book.Judge(repo, a.origin.Credentials)
		err, again := asked[j.AsClient]
		switch {
		case j.Verdict == access.Open:
			return a.count(asked, "open", nil)
		case j.Verdict == access.Accepted:
			a.client = true
			return a.count(asked, "accepted", nil)
		case j.Verdict == access.Refused && (again || !a.doubts()):
			return a.count(asked, "refused", &Denied{Repository: repo, Challenge: j.Challenge})
		case again && err == nil:
			return a.count(asked, "failed", &Denied{Repository: repo}) // It was forgotten at once.
		case again:
			return a.count(asked, "refused", err)
		}
		err = a.inquire(ctx, j.AsClient)
		asked[j.AsClient] = err
		switch {
		case err == nil, errors.Is(err, upstream.ErrDenied):
		case unaskable(err) && book.Offline(repo):
			a.offline = true
			a.m.cfg.Log.V(1).Info("given without a check, for upstream can't be asked", "ref", a.ref.String(), "reason", err.Error())
			return a.count(asked, "offline", nil)
		case j.Verdict == access.Refused: // As it was when upstream could be asked last.
			return a.count(asked, "refused", &Denied{Repository: repo, Challenge: j.Challenge})
		default:
			return a.count(asked, "failed", fmt.Errorf("ask upstream who may read %s: %w", repo, err))
		}
	}
}

// count counts what became of a question. What the book knew was none.
func (a *admission) count(asked map[bool]error, result string, err error) error {
	if len(asked) > 0 {
		a.m.checks.WithLabelValues(result).Inc()
	}
	return err
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

// inquire asks upstream whether the client may read, once for all who are that client, or nobody in particular.
func (a *admission) inquire(ctx context.Context, asClient bool) error {
	if err := a.m.asksUpstream(a.ref.Repository); err != nil {
		return fmt.Errorf("%w: %w", errDown, err)
	}
	book, ref, o := a.m.cfg.Access, a.ref, a.origin
	key := "access to " + ref.String()
	if asClient {
		key += " for " + o.Credentials.ID().String()
	} else {
		o.Credentials = access.Credentials{}
	}
	if askable, _ := book.Askable(ref.Registry); !askable {
		return fmt.Errorf("%s: %w", ref.Registry, errDown)
	}
	// Without the admission, which is locked, and is not what is asked for.
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, admissionKey{}, (*admission)(nil)), confirmWithin)
	defer cancel()
	_, err := share(ctx, a.m, key, func(ctx context.Context) (struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, confirmWithin)
		defer cancel()
		var err error
		if a.kind == aBlob {
			_, err = a.m.cfg.Upstream.StatBlob(ctx, ref.Repository, ref.Digest, o)
		} else {
			_, err = a.m.cfg.Upstream.Head(ctx, ref, "", o)
		}
		return struct{}{}, err
	})
	if errors.Is(err, upstream.ErrNotFound) && !asClient && book.Judge(ref.Repository, o.Credentials).Verdict == access.Open {
		return nil // It asks nobody who they are, and does not have this. Somebody else may.
	}
	return err
}

// allowed says whether held content may be given to who asks for it now.
func (m *Mirror) allowed(ctx context.Context, dgst digest.Digest) error {
	a := admissionOf(ctx)
	if a == nil {
		return nil
	}
	if !m.local.seen(ctx, a.ref.Repository, dgst) {
		return fmt.Errorf("%s was not seen in %s: %w", dgst, a.ref.Repository, content.ErrNotFound)
	}
	return a.settle(ctx)
}

// open opens held content for who asks for it now.
func (m *Mirror) open(ctx context.Context, dgst digest.Digest) (*Answer, error) {
	if err := m.allowed(ctx, dgst); err != nil {
		return nil, err
	}
	return m.local.open(ctx, dgst)
}

// saw notes that content came in a repository's name, verified.
func (m *Mirror) saw(ref reference.Reference, dgst digest.Digest) {
	if m.cfg.Access != nil {
		m.cfg.Access.Saw(ref.Repository, dgst)
	}
}

// Learn gives what fills a book with upstream's answers.
func Learn(book *access.Book) func(upstream.Outcome) {
	return func(o upstream.Outcome) {
		var failed *upstream.Error
		switch {
		case o.Err == nil:
			book.Accept(o.Repository, o.Credentials)
		case !errors.As(o.Err, &failed), errors.Is(o.Err, upstream.ErrBusy):
		case errors.Is(o.Err, upstream.ErrDenied):
			book.Refuse(o.Repository, o.Credentials, failed.Challenge)
		case errors.Is(o.Err, upstream.ErrNotFound) && !o.Authorized:
			book.Accept(o.Repository, access.Credentials{}) // A registry that hides nothing.
		case errors.Is(o.Err, upstream.ErrUnavailable):
			book.Missed(o.Repository.Registry)
		case failed.Status != 0:
			book.Reached(o.Repository.Registry)
		}
	}
}
