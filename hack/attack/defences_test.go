package attack

import (
	"testing"

	"github.com/kioo-dev/kioo/hack/attack/mutate"
)

// control is an attack that succeeds when one defence is off.
type control struct {
	mutate.Mutation
	attack attack
}

// off says what it takes to be without a defence: triples of a file, what is in it, and what takes its place.
func off(name string, a attack, edits ...string) control {
	c := control{mutate.Mutation{Name: name}, a}
	for ; len(edits) >= 3; edits = edits[3:] {
		c.Edits = append(c.Edits, mutate.Edit{File: edits[0], Old: edits[1], New: edits[2]})
	}
	return c
}

// controls are the defences, each with the attack that it keeps from succeeding.
func controls() []control {
	return append(whoMayRead(), whatIsHeld()...)
}

const (
	answerFile, bookFile       = "pkg/access/answer.go", "pkg/access/access.go"
	provenanceFile, claimsFile = "pkg/access/provenance.go", "pkg/mirror/claims.go"
	policyFile, boundFile      = "pkg/policy/policy.go", "pkg/bound/bound.go"
	discoveryDoor, httpDoor    = "pkg/discovery/door.go", "pkg/httpserver/door.go"
	evictionRoom               = "pkg/content/cache/internal/eviction/room.go"
)

// whoMayRead are the defences of what not everybody may read or do.
func whoMayRead() []control {
	const opens = "ok := a.Asked == Content && a.Speaker == Registry && a.Status/100 == 2 && a.Named"
	return []control{
		off("A: only content opens, and no 404", unknownRoute, answerFile, opens, "ok := a.Speaker == Registry && !a.refuses()"),
		off("A: what names nothing opens nothing", frontEnd, answerFile, opens, "ok := a.Asked == Content && a.Speaker == Registry && a.Status/100 == 2"),
		off("A: a refusal outlives an outage", outage, bookFile, "if mode != Verify && !b.perhapsRefused(repo) {", "if mode != Verify {"),
		off("B: claims are no proof", named,
			provenanceFile, "p.claimed = append(slices.Clone(p.claimed), at)", "p.proven = append(slices.Clone(p.proven), at)",
			claimsFile, "if book.Proven(dgst) || book.Mode(repo) == access.Verify || !l.claimable(dgst) {", "if false {",
			claimsFile, "return l.settled(c, dgst) && !l.Access.Proven(dgst)", "return dgst != \"\""),
		off("B: what is held is given in the names that it came in", namedLayer, "pkg/mirror/grant.go",
			"if !m.local.belongs(ctx, r.repository(), dgst, r.grant.Ground() == access.Unasked) {", "if false {"),
		// What a member says of a repository is heard nowhere, so that openAge has no line that could be taken out.
		off("I: a 401 opens nothing", openAgeVerified, answerFile, opens, "ok := a.Speaker == Registry"),
		off("J: a word ends, for what it gave", expired, bookFile,
			"return s.verdict == Open && b.fresh(s, now)", "return s.verdict == Open"),
		off("J: a word ends, for who asks", circle, bookFile,
			"fresh := b.fresh(s, now)", "fresh := s.verdict != Unknown"),
		off("L: a registry has one name", otherNames, "pkg/reference/host.go", "if slices.Contains(hubNames, name) {", "if false {"),
		off("M: who knows one password is asked for none", passwordLost, "pkg/registry/registry.go",
			"x.relays = named.ByQuery || h.cfg.RelayPathForm != nil && h.cfg.RelayPathForm(named.Repository)", "x.relays = true"),
		off("N: the mirror has names", foreignHost, "pkg/httpserver/names.go", "if !n.has(req, req.Host) {", "if false {"),
		off("N: orders come by the socket alone", controlled, "pkg/daemon/status.go",
			`mux.Handle("GET /metrics", `, "mux.Handle(\"/kioo/\", s.control)\n\tmux.Handle(\"GET /metrics\", "),
		off("O: addresses of clouds are for nobody", redirected, "pkg/reach/reach.go", "if r > most {", "if r > Forbidden {"),
	}
}

// whatIsHeld are the defences of what is right, and of what is there.
func whatIsHeld() []control {
	const victim = "out = s.victim(m)"
	believe := []string{
		policyFile, "return t.Policy == config.PeersFirst }", "return true }",
		policyFile, "case t.Policy != config.PeersFirst || !theirs.Known:", "case !theirs.Known:",
	}
	const every = "return a == own || (a.total() > sure && (s == Main || a.in(s) > most))"
	return []control{
		off("C: the type is what the bytes say", retyped,
			"pkg/mirror/hints.go", `if said == "" {`, `if declared != "" {`,
			"pkg/content/cache/sniff.go", `case said != "":`, "case false:"),
		off("D: sizes are hints, of one repository", wrongSize,
			"pkg/mirror/hints.go", "m.hints.children.Get(part{ref.Repository, ref.Digest}); ok {", "m.hints.children.Get(part{dgst: ref.Digest}); ok {",
			"pkg/mirror/hints.go", "m.hints.children.Add(part{repo, c.Digest}", "m.hints.children.Add(part{dgst: c.Digest}",
			"pkg/flight/size.go", "\tif f.size == size {", "\tif hint, ok := f.hint.Bytes(); ok && hint != size {\n\t\treturn fmt.Errorf(\"%d bytes were named\", hint)\n\t}\n\tif f.size == size {"),
		off("D: only a source knows that there is nothing", memberSize, "pkg/swarm/session/announce.go", "leases[i].End = -1", "leases[i].End = l.End"),
		off("E: room is made as bytes come", promise, "pkg/content/cache/room.go", "leastStep = 1 << 20", "leastStep = 1 << 40",
			evictionRoom, every, "return sure+most >= 0", evictionRoom, "if s == Main {", "if true {"),
		off("E: what an owner has is sure, up to his share", flood,
			evictionRoom, every, "return sure+most >= 0",
			evictionRoom, "if s == Main {", "if true {"),
		off("F: who comes last goes last", healthDenied,
			httpDoor, "if d.secured || c.source.Loopback() || c.source == (bound.Source{}) {", "if d.secured {",
			httpDoor, "Max: cfg.MaxStrangers, PerSource: (cfg.MaxStrangers + 1) / 2, Stalled: stalled,", "Max: cfg.MaxStrangers,",
			boundFile, victim, "out = m"),
		off("G: strangers make room", discoveryDenied,
			discoveryDoor, "Max: maxStrangers, PerSource: strangersPerSource}", "Max: maxStrangers}",
			discoveryDoor, "Lists:     lists, Pressed: pressed,", "Pressed: pressed,",
			discoveryDoor, "handshakeTimeout = 2 * time.Second", "handshakeTimeout = time.Hour",
			boundFile, victim, "out = m"),
		off("H: members are believed where the rules say so", func(t *testing.T, w *world) []string { return tagLie(t, w, "latest") }, believe...),
		off("H: upstream-only asks upstream", func(t *testing.T, w *world) []string { return tagLie(t, w, "only") }, believe...),
		off("K: each piece is checked", zeroHash, "pkg/swarm/session/piece.go", "if got != want {", "if false {"),
	}
}
