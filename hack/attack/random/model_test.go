package random_test

import (
	"fmt"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
)

// coolDown is how long a node takes a registry for unreachable after it missed it.
const coolDown = 30 * time.Second

// may tells whether a client may have some bytes from a node: a registry gives them to him, or did so within the time
// that its word counts. While a registry can't be asked, auto and relay give what was never refused.
func (w *world) may(n *node, client string, name reference.Repository, dgst digest.Digest) bool {
	// What everybody was given once in one name, nodes may have passed on in another's, where it stays known.
	if w.offered[dgst] || w.public[dgst] && !w.registries[name.Registry].repos[name.Path].ever[dgst] {
		return true
	}
	for _, repo := range w.repos() {
		if !repo.ever[dgst] {
			continue
		}
		reg := w.registries[repo.name.Registry]
		unasked := (reg.mood.silent() || w.at.Sub(reg.silent) <= coolDown) && !w.refusedEverywhere(repo) && n.mode != access.Verify
		switch {
		case repo.public, !repo.closed.IsZero() && w.at.Sub(repo.closed) <= openFor:
			w.public[dgst] = true
			return true
		case client != "" && repo.clients[client]:
			return true
		case client != "" && !repo.revoked[client].IsZero() && w.at.Sub(repo.revoked[client]) <= acceptedFor:
			return true
		case unasked:
			return true
		}
	}
	return false
}

// refusedEverywhere tells whether all nodes have heard that not everybody may read a repository. One that has not gives
// what it holds of it while the registry can't be asked, to the other's clients too.
func (w *world) refusedEverywhere(repo *repository) bool {
	for _, n := range w.nodes {
		if !repo.refused[n.name] {
			return false
		}
	}
	return true
}

// judge looks at what a client got.
func (w *world) judge(n *node, client string, ref reference.Reference, got []byte) {
	dgst := digest.FromBytes(got)
	w.given++
	switch {
	case ref.Digest != "" && dgst != ref.Digest:
		w.leak = fmt.Sprintf("%s got wrong bytes of %s on %s", name(client), ref, n.name)
	case !w.may(n, client, ref.Repository, dgst):
		w.leak = fmt.Sprintf("%s got %s on %s, by asking for %s", name(client), w.whose(dgst), n.name, ref)
	}
}

// judgeTag looks at what a tag was answered to mean: a member's word is never given under these policies while the
// registry answers, and the node's own counts for as long as it is fresh.
func (w *world) judgeTag(n *node, client string, repo *repository, tag string, dgst digest.Digest) {
	reg := w.registries[repo.name.Registry]
	if tag == "v1" || reg.mood != well || w.at.Sub(reg.moody) <= coolDown || repo.tags[tag] == dgst {
		return
	}
	if at, ok := repo.meant[tag][dgst]; !ok || w.at.Sub(at) > freshFor {
		w.leak = fmt.Sprintf("%s got %s on %s for the tag %s of %s, which its registry did not say", name(client), w.whose(dgst), n.name, tag, repo.name)
	}
}

func name(client string) string {
	if client == "" {
		return "nobody in particular"
	}
	return client
}

// whose says for people whose content it is.
func (w *world) whose(dgst digest.Digest) string {
	for _, repo := range w.repos() {
		if repo.ever[dgst] {
			return fmt.Sprintf("%s of %s", dgst[:15], repo.name)
		}
	}
	return fmt.Sprintf("%s of nobody", dgst[:15])
}
