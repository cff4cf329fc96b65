package mirror_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/access/accesstest"
	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/upstream"
)

// halting is a source and its stream, which gives half of a blob and then nothing for as long as the test lasts.
type halting struct {
	ctx  context.Context
	left int64
}

func (h *halting) Open(ctx context.Context, _, _ int64) (flight.Stream, error) {
	return &halting{ctx, 1 << 20}, nil
}

func (h *halting) Read(p []byte) (int, error) {
	if h.left == 0 {
		<-h.ctx.Done()
		return 0, h.ctx.Err()
	}
	n := min(int64(len(p)), h.left)
	h.left -= n
	return int(n), nil
}

func (h *halting) Close() error   { return nil }
func (h *halting) Size() int64    { return 2 << 20 }
func (h *halting) Ranged() bool   { return true }
func (h *halting) Trusted() bool  { return true }
func (h *halting) Blame(error)    {}
func (h *halting) Kind() string   { return mirror.Upstream }
func (h *halting) String() string { return "upstream" }

// TestPartsOfOthers has other members ask for what there is of a blob on its way: what came for the clients of a
// private repository is for members with such clients alone.
func TestPartsOfOthers(t *testing.T) {
	private := ref.Repository
	for _, test := range []struct {
		name  string
		scope string
		repo  reference.Repository
		claim access.Claim
		want  bool
	}{
		{"everybody's", "", private, access.ClaimOpen, true},
		{"of a checked client", "for clients of " + private.String(), private, access.ClaimChecked, true},
		{"of an unknown client", "for clients of " + private.String(), private, access.ClaimOpen, false},
		{"of a client that says nothing", "for clients of " + private.String(), private, "", false},
		{"of an unchecked client", "for clients of " + private.String(), private, access.ClaimOffline, false},
		{"in another name", "for clients of " + private.String(), reference.Repository{Registry: "quay.io", Path: "org/other"}, access.ClaimChecked, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			book := access.New(access.Config{AcceptedFor: time.Minute, RefusedFor: time.Minute, OpenFor: time.Hour, Now: time.Now})
			accesstest.Refuse(book, private, access.Credentials{}, `Basic realm="x"`)
			m, flights := newGuarded(t, mirror.Config{Access: book})
			defer m.Close()
			defer flights.Close()
			reader, err := flights.Join(t.Context(), test.scope, "", ref.Digest, flight.SizeHint{}, &halting{})
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			if err := reader.Ready(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			wanted := ref
			wanted.Repository = test.repo
			a, err := m.Local().Blob(t.Context(), wanted, false, upstream.Origin{Claim: test.claim})
			if !test.want {
				if !errors.Is(err, content.ErrNotFound) {
					t.Errorf("got %+v, %v", a, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer a.Blob.Close()
			if n, err := a.Blob.CopyRange(t.Context(), io.Discard, 0, 1<<10); n != 1<<10 || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
}
