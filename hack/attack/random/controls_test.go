package random_test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"github.com/kioo-dev/kioo/hack/attack/mutate"
)

const (
	// withControls has the controls run as well: each builds a test, which takes its time.
	withControls = "KIOO_ATTACK_CONTROLS"
	// seeds is how many sequences a control may take to find a leak.
	seeds = 2000
)

// rules are the rules that keep what is private private, each with how it is taken out.
func rules() []mutate.Mutation {
	one := func(name, file, old, without string) mutate.Mutation {
		return mutate.Mutation{Name: name, Edits: []mutate.Edit{{File: file, Old: old, New: without}}}
	}
	const answer, provenance, grant = "pkg/access/answer.go", "pkg/access/provenance.go", "pkg/access/grant.go"
	return []mutate.Mutation{
		one("a 404 opens nothing", answer, `a.Status/100 == 2 && a.Named`, `(a.Status/100 == 2 && a.Named || a.Status == 404)`),
		one("a page opens nothing", answer, `a.Status/100 == 2 && a.Named`, `a.Status/100 == 2`),
		one("only the registry's word for everybody opens", answer,
			`if !word.client.IsZero() {`, `if false {`),
		one("a refusal ends by the registry's word alone", "pkg/access/access.go",
			`return s.verdict == Refused || s.verdict == Unknown`, `return s.verdict == Unknown`),
		one("a book that was lost may have held refusals", "pkg/access/snapshot.go", `b.forgotAll = true`, `b.forgotAll = false`),
		one("what is open wears off", "pkg/access/access.go",
			`return s.verdict != Unknown && now.Sub(s.at) < b.cfg.OpenFor`, `return s.verdict != Unknown && (s.verdict == Open || now.Sub(s.at) < b.cfg.OpenFor)`),
		one("a registry's word for a client wears off", "pkg/access/access.go",
			`case v.accepted && age < b.cfg.AcceptedFor:`, `case v.accepted:`),
		one("content is given in the name that its bytes came from", provenance,
			`case slices.Contains(p.proven, at), b.public(p, now):`, `case true:`),
		{Name: "a claim is no proof", Edits: []mutate.Edit{ // Nor is it noted beside one.
			{File: provenance, Old: `case len(p.proven) > 0, p.crowded,`, New: `case p.crowded,`},
			{File: "pkg/mirror/claims.go", Old: `if book.Proven(dgst) || book.Mode(repo)`, New: `if book.Mode(repo)`},
			{File: "pkg/mirror/claims.go", Old: `return l.settled(c, dgst) && !l.Access.Proven(dgst)`, New: `return l.settled(c, dgst)`},
		}},
		one("the most restricted claim decides", provenance,
			`return other != at && b.restricted(`, `return false && other != at && b.restricted(`),
		one("a registry that is down speaks for itself alone", provenance,
			`down := repo.Registry == asked.Registry || !c.since.IsZero() && now.Sub(c.missed) < coolDown`, `down := c.missed.Before(now.Add(1))`),
		one("verify takes nobody's word but upstream's", "pkg/access/access.go",
			`if mode != Verify && !b.perhapsRefused(repo) {`, `if !b.perhapsRefused(repo) {`),
		one("a request of which nothing is known gets nothing that is held or that members have", grant,
			`func (g Grant) Gives() bool { return g.ground != Nobodys }`, `func (g Grant) Gives() bool { return true }`),
		one("bytes for an unproven client are for him alone", grant,
			`return fmt.Sprintf("unproven, of %s for %v", g.repo, g.client)`, `return ""`),
		one("clients of a private repository share with each other alone", grant,
			`	case Clients:
		return clientsOf(g.repo)`, `	case Clients:
		return ""`),
		one("members are not believed about tags where the policy does not say so", "pkg/policy/policy.go",
			`believed := own.Own || t.Policy == config.PeersFirst`, `believed := true`),
		{Name: "each asks for itself where members are not believed", Edits: []mutate.Edit{
			{File: "pkg/mirror/tags.go", Old: "if known.rule.MembersFirst() {\n\t\t// One confirmation", New: "if known.rule.FallsBack() {\n\t\t// One confirmation"},
			{File: "pkg/policy/policy.go", Old: "case t.Policy != config.PeersFirst || !theirs.Known:", New: "case !theirs.Known:"},
		}},
	}
}

// TestRulesFit: each rule is taken out of the source as it is.
func TestRulesFit(t *testing.T) {
	root, err := mutate.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range rules() {
		if _, err := rule.Apply(root); err != nil {
			t.Error(err)
		}
	}
}

var leaking = regexp.MustCompile(`seed \d+: [^,\n]*`)

// TestEachRuleIsNeeded plays the sequences without one rule at a time: each time somebody gets what he should not.
func TestEachRuleIsNeeded(t *testing.T) {
	if os.Getenv(withControls) == "" {
		t.Logf("without the controls: make attack runs them, by %s=1", withControls)
		return
	}
	root, err := mutate.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range rules() {
		t.Run(rule.Name, func(t *testing.T) {
			program, err := rule.Test(t.Context(), root, t.TempDir(), "./hack/attack/random")
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), program, "-test.run", "^TestNobodyHoldsAByteTooMany$")
			cmd.Env = append(os.Environ(), fmt.Sprint("KIOO_SEQUENCES=", seeds))
			out, err := cmd.CombinedOutput()
			found := leaking.Find(out)
			if err == nil || found == nil {
				t.Fatalf("without it nobody got a byte too many in %d sequences: the rule is not needed, or the sequences don't show it", seeds)
			}
			t.Logf("%s", found)
		})
	}
}
