package peer

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
)

const (
	// ClaimHeader is what a member says of its client when it asks another member for content.
	ClaimHeader = "Kioo-Claim"
	// OpenHeader is how many seconds ago the answering member found that everybody may read the repository.
	OpenHeader = "Kioo-Open-Age"
)

// Asker is on what ground another member is asked. It is part of the context of a Client's calls, because it concerns
// all of them and none of those in between.
type Asker struct {
	// Claim is said of the client.
	Claim access.Claim
	// Open, if not nil, hears how long ago the repository was found to be one that everybody may read.
	Open func(age time.Duration)
}

type askerKey struct{}

// As gives a context in which members are asked on the ground that there is at the time. Without one there is no claim.
func As(ctx context.Context, ground func() Asker) context.Context {
	return context.WithValue(ctx, askerKey{}, ground)
}

// setClaim puts the claim of a context into a request.
func setClaim(ctx context.Context, req *http.Request) Asker {
	ground, ok := ctx.Value(askerKey{}).(func() Asker)
	if !ok {
		return Asker{}
	}
	a := ground()
	if a.Claim != "" {
		req.Header.Set(ClaimHeader, string(a.Claim))
	}
	return a
}

// hear reads what the answer says of the repository.
func (a Asker) hear(resp *http.Response) {
	if a.Open == nil {
		return
	}
	age, err := strconv.ParseInt(resp.Header.Get(OpenHeader), 10, 32)
	if err == nil && age >= 0 {
		a.Open(time.Duration(age) * time.Second)
	}
}
