package random_test

import (
	"sync"
	"time"

	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
)

// plot plays a few steps that belong together, as an attacker would, between whatever else happens.
func (w *world) plot(n *node) {
	victim, evil := pick(w, []*repository{w.victim.repos["tenant-a/app"], w.victim.repos["tenant-b/app"]}), w.evil.repos["mallory/app"]
	tenant := map[string]string{"tenant-a/app": "a", "tenant-b/app": "b"}[victim.name.Path]
	w.calm(w.victim)
	w.calm(w.evil)
	switch w.random.IntN(6) {
	case 0, 1: // An image of his own names what the runtime has of somebody else's.
		through := w.random.IntN(3) // Whether Kioo saw it come, the runtime knows whose it is, or both.
		var came []digest.Digest
		if through > 0 {
			came = w.pull(n, tenant, victim, "v1")
		}
		if through == 2 {
			n.runtime.load(victim, came)
		} else if victim.may(tenant) {
			n.runtime.pull(victim, "v1")
		}
		named := pick(w, sorted(victim.objects))
		w.name(named, "v1")
		if evil.public {
			n.runtime.pull(evil, "v1")
		}
		w.note("the runtime of %s pulls both", n.name)
		w.pass(20 * time.Second)
		if w.random.IntN(2) == 0 {
			w.set(w.evil, gone)
		}
		for _, at := range w.nodes {
			w.ask(at, "", evil.name, named, true)
			w.ask(at, "", evil.name, named, false)
		}
	case 2: // A tenant loses access.
		w.pull(n, tenant, victim, "v1")
		victim.clients[tenant], victim.revoked[tenant] = false, w.at
		w.note("%s may not read %s any more", tenant, victim.name)
		w.pass(6 * time.Minute)
		w.pull(n, tenant, victim, "v1")
	case 3: // What was open is closed, and then its registry is down.
		open := w.victim.repos["public/app"]
		w.pull(n, "", open, "v1")
		if open.public {
			open.public, open.closed = false, w.at
		}
		w.note("%s is closed", open.name)
		w.pass(11 * time.Minute)
		w.set(w.victim, gone)
		w.pull(n, "", open, "v1")
	case 4: // A book is lost, and the registry is down.
		if victim.may(tenant) {
			n.runtime.pull(victim, "v1")
		}
		w.pass(20 * time.Second)
		w.pull(n, "", victim, "v1")
		n.end()
		n.saved = []byte("{")
		n.runtime.unload()
		n.start()
		w.note("%s starts again without its book", n.name)
		w.set(w.victim, gone)
		w.pull(n, "", victim, "v1")
	case 5: // A member says what a tag means while its registry is down, and is not believed any more when it is up.
		w.newLies()
		w.set(w.victim, gone)
		w.pull(n, "", w.victim.repos["public/app"], "first")
		w.calm(w.victim)
		w.pass(coolDown + time.Second)
		w.pull(n, "", w.victim.repos["public/app"], "first")
	}
}

// pass lets some time go by.
func (w *world) pass(d time.Duration) {
	w.at = w.at.Add(d)
	w.note("%v pass", d)
}

// set puts a registry into a mood.
func (w *world) set(reg *origin, m mood) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if reg.mood != well {
		reg.moody = w.at
	}
	if reg.mood.silent() {
		reg.silent = w.at
	}
	reg.mood = m
	w.note("%s is in mood %d", reg.host, m)
}

func (w *world) calm(reg *origin) { w.set(reg, well) }

// askTogether has all clients ask for a blob at once, each in some repository's name, so that they share what they may.
func (w *world) askTogether(n *node, dgst digest.Digest) {
	w.note("all ask for %s on %s at once", dgst[:15], n.name)
	refs, got := make([]reference.Reference, 2*len(clients)), make([][]byte, 2*len(clients))
	for i := range refs {
		refs[i] = reference.Reference{Repository: pick(w, w.repos()).name, Digest: dgst}
	}
	var asking sync.WaitGroup
	for i, ref := range refs {
		asking.Go(func() { got[i], _, _ = n.get(clients[i/2], ref, true) })
	}
	asking.Wait()
	for i, body := range got {
		if body != nil {
			w.judge(n, clients[i/2], refs[i], body)
		}
	}
}
