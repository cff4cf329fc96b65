package access

import (
	"fmt"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
)

var evil = reference.Repository{Registry: "evil.example.net", Path: "app"}

// claim notes that the runtime has some content in a repository's name.
func claim(b *Book, repo reference.Repository, dgst digest.Digest) {
	b.Claim(map[reference.Repository][]digest.Digest{repo: {dgst}}, nil)
}

// TestClaims says whose content is that the runtime has in somebody's name.
func TestClaims(t *testing.T) {
	layer := digest.FromString("layer")
	open := func(b *Book, repos ...reference.Repository) {
		for _, repo := range repos {
			accept(b, repo, nobody)
		}
	}
	for _, test := range []struct {
		name   string
		mode   Mode
		know   func(b *Book)
		repo   reference.Repository
		want   bool
		asleep bool // What is given while no registry can be asked.
	}{
		{"nobody's", Auto, func(*Book) {}, private, false, false},
		{"the only claim", Auto, func(b *Book) { claim(b, private, layer) }, private, true, true},
		{"the only claim, verify", Verify, func(b *Book) { claim(b, private, layer) }, private, false, false},
		{"no claim of its own", Auto, func(b *Book) { claim(b, public, layer); open(b, public) }, private, false, false},
		{"somebody's manifest names what came from elsewhere", Auto, func(b *Book) {
			b.Saw(private, layer)
			claim(b, evil, layer)
			open(b, evil)
		}, evil, false, false},
		{"somebody's manifest names what nobody saw come", Auto, func(b *Book) {
			claim(b, private, layer)
			claim(b, evil, layer)
			open(b, evil)
			refuse(b, private, nobody, realm)
		}, evil, false, false},
		{"the restricted one, of which the other is open", Auto, func(b *Book) {
			claim(b, private, layer)
			claim(b, evil, layer)
			open(b, evil)
		}, private, true, true},
		{"two of which nothing is known", Auto, func(b *Book) { claim(b, private, layer); claim(b, other, layer) }, other, false, true},
		{"one whose registry is somebody else's", Auto, func(b *Book) { claim(b, private, layer); claim(b, evil, layer) }, evil, false, false},
		{"both registries are down", Auto, func(b *Book) {
			claim(b, private, layer)
			claim(b, evil, layer)
			missed(b, private.Registry)
		}, evil, false, true},
		{"two open ones", Auto, func(b *Book) { claim(b, public, layer); claim(b, evil, layer); open(b, public, evil) }, public, true, true},
		{"a label says more", Auto, func(b *Book) {
			claim(b, evil, layer)
			b.Claim(nil, []Label{{private.Registry, private.Path, layer}})
			open(b, evil)
			refuse(b, private, nobody, realm)
		}, evil, false, false},
		{"a label says the same", Auto, func(b *Book) {
			ported := reference.Repository{Registry: private.Registry + ":5000", Path: private.Path}
			claim(b, ported, layer)
			b.Claim(nil, []Label{{private.Registry, private.Path, layer}})
		}, reference.Repository{Registry: private.Registry + ":5000", Path: private.Path}, true, true},
		{"more claims than are kept", Auto, func(b *Book) {
			for i := range maxPlaces + 1 {
				repo := reference.Repository{Registry: "r", Path: fmt.Sprint(i)}
				claim(b, repo, layer)
				open(b, repo)
			}
		}, reference.Repository{Registry: "r", Path: "0"}, false, false},
		{"own, beside a restricted one", Own, func(b *Book) { claim(b, private, layer); claim(b, other, layer) }, other, true, true},
		{"own, but not from there", Own, func(*Book) {}, other, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, _ := newBook(t, mode(test.mode))
			test.know(b)
			if got := b.Belongs(test.repo, layer, false); got != test.want {
				t.Errorf("it is given in the name of %s: %t", test.repo, got)
			}
			if got := b.Belongs(test.repo, layer, true); got != test.asleep {
				t.Errorf("it is given in the name of %s while nobody can be asked: %t", test.repo, got)
			}
		})
	}
}

// TestOpenWearsOff: what came from a repository that was open a month ago is not for everybody any more.
func TestOpenWearsOff(t *testing.T) {
	b, clock := newBook(t, nil)
	layer := digest.FromString("layer")
	accept(b, public, nobody)
	b.Saw(public, layer)
	if !b.Belongs(private, layer, false) || !b.Serves(other, layer, ClaimOpen) {
		t.Error("what everybody may read is kept back")
	}
	clock.later(30 * 24 * time.Hour)
	if b.Belongs(private, layer, false) || b.Serves(other, layer, ClaimOpen) || b.Judge(public, nobody).Grant.Gives() {
		t.Error("what was open a month ago is given")
	}
	if !b.Belongs(public, layer, false) {
		t.Error("it is not given in its own name")
	}
}

func TestProvenanceIsBounded(t *testing.T) {
	b, _ := newBook(t, nil)
	dgst := digest.FromString("x")
	b.Saw(private, dgst)
	for i := range 4 * maxPlaces {
		b.Saw(reference.Repository{Registry: fmt.Sprintf("h%d.evil.example.net", i), Path: "p"}, dgst)
	}
	if p, _ := b.seen.peek(dgst); len(p.proven) != maxPlaces || !b.Belongs(private, dgst, false) {
		t.Errorf("%d places, and the first is among them: %t", len(p.proven), b.Belongs(private, dgst, false))
	}
	for i := range maxSeen + 10 {
		b.Saw(evil, digest.Digest(fmt.Sprint(i)))
	}
	if n := len(b.seen.entries); n != maxSeen {
		t.Errorf("of %d blobs it is known where they are from", n)
	}
	if !b.Belongs(private, dgst, false) {
		t.Error("one registry's content pushed out what is known of another's")
	}
}
