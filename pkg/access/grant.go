package access

import (
	"fmt"
	"time"

	"github.com/kioo-dev/kioo/pkg/reference"
)

// Ground is on whose word a grant stands.
type Ground uint8

const (
	// Nobodys is a request of which nothing is known. It gets what its registry sends for it now, and nothing else: not
	// what this node holds, and not what other members have.
	Nobodys Ground = iota
	// Configured is the operator's word: everybody who reaches this node may read the repository.
	Configured
	// Everybodys is the registry's word that everybody may read there.
	Everybodys
	// Clients is the registry's word that this client may.
	Clients
	// Unasked says that the registry can't be asked, and that the rules let the request pass all the same.
	Unasked
)

var grounds = map[Ground]string{
	Nobodys: "nobody's word", Configured: "configuration", Everybodys: "the registry's word for everybody",
	Clients: "the registry's word for this client", Unasked: "no word, for the registry can't be asked",
}

// String implements fmt.Stringer.
func (g Ground) String() string { return grounds[g] }

// Grant says what a client may be given of one repository, and on whose word. It is a value that is made here alone,
// once for a request, and passed on to all who do something for that request. The zero value gives nothing.
type Grant struct {
	repo   reference.Repository
	ground Ground
	at     time.Time
	client Credentials
}

// Ungoverned is the grant where there are no rules: everybody may read everything, with nobody's credentials.
func Ungoverned(repo reference.Repository) Grant { return Grant{repo: repo, ground: Configured} }

// Bare is the grant of a request of which nothing is known. Its registry is asked as the client if that has
// credentials.
func Bare(repo reference.Repository, client Credentials) Grant {
	return Grant{repo: repo, client: client}
}

// Repository is what the grant is for.
func (g Grant) Repository() reference.Repository { return g.repo }

// Ground says on whose word it stands.
func (g Grant) Ground() Ground { return g.ground }

// At is when that was said. It is zero for words that have no time.
func (g Grant) At() time.Time { return g.at }

// Gives tells whether what this node or another member holds may be given. Without that only bytes may that the
// registry sends for this very request.
func (g Grant) Gives() bool { return g.ground != Nobodys }

// Credentials are those that the registry is asked with: the client's where these count, else none, which means the
// node's own where it has some.
func (g Grant) Credentials() Credentials { return g.client }

// Scope names those who may share what is fetched on this ground. It is empty for what everybody on this node may read.
func (g Grant) Scope() string {
	switch g.ground {
	case Configured, Everybodys:
		return ""
	case Clients:
		return clientsOf(g.repo)
	case Unasked:
		return unaskedOf(g.repo)
	}
	if g.client.IsZero() {
		return fmt.Sprintf("unproven, of %s", g.repo)
	}
	return fmt.Sprintf("unproven, of %s for %v", g.repo, g.client)
}

func clientsOf(repo reference.Repository) string { return "for clients of " + repo.String() }

func unaskedOf(repo reference.Repository) string { return "without upstream, of " + repo.String() }

// Scopes are those in which a member has what another member's client may share, by what that one says of the client.
func Scopes(repo reference.Repository) []string {
	return []string{"", clientsOf(repo), unaskedOf(repo)}
}

// Claim is what other members are told of the client.
func (g Grant) Claim() Claim {
	switch g.ground {
	case Nobodys:
		return ClaimOpen
	case Unasked:
		return ClaimOffline
	}
	return ClaimChecked
}

// String says it for logs.
func (g Grant) String() string { return fmt.Sprintf("%s on %s", g.repo, g.ground) }

// Claim is what a member says of its own client when it asks another one. It gives nobody access on the node that
// hears it but to what that node itself knows to belong to the repository: see Book.Serves.
type Claim string

const (
	// ClaimChecked says that the client may read the repository, as this member has heard from the registry itself.
	ClaimChecked Claim = "checked"
	// ClaimOpen says that nothing is known: only what everybody may read is wanted. No claim means the same.
	ClaimOpen Claim = "open"
	// ClaimOffline says that the registry can't be asked: all is wanted but what is known to need credentials.
	ClaimOffline Claim = "offline"
)
