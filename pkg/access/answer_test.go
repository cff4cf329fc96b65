package access

import (
	"fmt"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/reference"
)

// TestOnlyTheRegistryOpens goes through all answers that there are: a repository opens by the registry's own 2xx to an
// anonymous request for content alone, and a refusal ends by nothing else either.
func TestOnlyTheRegistryOpens(t *testing.T) {
	for _, before := range []string{"unknown", "refused"} {
		for _, asked := range []Asked{List, Content} {
			for _, speaker := range []Speaker{Nobody, Storage, Registry} {
				for _, status := range []int{0, 200, 206, 301, 304, 307, 400, 401, 403, 404, 405, 416, 429, 500, 502, 503} {
					for _, named := range []bool{false, true} {
						for _, c := range []Credentials{nobody, alice} {
							b, clock := newBook(t, nil)
							if before == "refused" {
								refuse(b, private, nobody, realm)
							}
							clock.later(time.Minute)
							a := Answer{Repository: private, Credentials: c, Asked: asked, Speaker: speaker, Status: status, Named: named}
							b.Learn(a)
							yes := asked == Content && speaker == Registry && status/100 == 2 && named
							name := fmt.Sprintf("%s, then %+v", before, a)
							if got := b.Judge(private, nobody).Verdict == Open; got != (yes && c.IsZero()) {
								t.Errorf("%s: open %t", name, got)
							}
							if got := b.Judge(private, alice).Grant.Gives(); got != yes {
								t.Errorf("%s: given to the client %t", name, got)
							}
							if got := b.Judge(private, bob).Grant.Gives(); got != (yes && c.IsZero()) {
								t.Errorf("%s: given to another client %t", name, got)
							}
							refused := before == "refused" || speaker == Registry && (status == 401 || status == 403) && c.IsZero()
							if got := b.Offline(private); got != (!refused || yes && c.IsZero()) {
								t.Errorf("%s: given without upstream %t", name, got)
							}
						}
					}
				}
			}
		}
	}
}

// TestRefusalsAreNotPushedOut has a registry's owner answer in as many names as he likes, of repositories, of hosts in
// his domain and of addresses. What was refused elsewhere stays refused, also while its registry is down.
func TestRefusalsAreNotPushedOut(t *testing.T) {
	for name, repo := range map[string]func(i int) reference.Repository{
		"repositories": func(i int) reference.Repository {
			return reference.Repository{Registry: "evil.example.net", Path: fmt.Sprint("p", i)}
		},
		"hosts": func(i int) reference.Repository {
			return reference.Repository{Registry: fmt.Sprintf("h%d.evil.example.net", i), Path: "p"}
		},
		"ports": func(i int) reference.Repository {
			return reference.Repository{Registry: fmt.Sprintf("evil.example.net:%d", i+1), Path: "p"}
		},
		"addresses": func(i int) reference.Repository {
			return reference.Repository{Registry: fmt.Sprintf("10.%d.%d.%d:5000", i>>16, i>>8&255, i&255), Path: "p"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, clock := newBook(t, nil)
			refuse(b, private, nobody, realm)
			refuse(b, other, nobody, realm)
			for i := range 3 * maxRepositories {
				refuse(b, repo(i), nobody, realm)
				if i%2 == 0 {
					accept(b, repo(i), nobody)
				}
			}
			clock.later(time.Minute)
			if n := len(b.repositories.entries); n > maxRepositories {
				t.Errorf("%d repositories are remembered", n)
			}
			for _, r := range []reference.Repository{private, other} {
				expect(t, b, r, nobody, Judgement{Verdict: Refused, Challenge: realm})
				if b.Offline(r) {
					t.Errorf("%s is given while its registry is down", r)
				}
			}
		})
	}
}

// TestForgottenRefusals has a registry with more refused repositories than are remembered: what is unknown of it then
// is not given while it is down, over restarts as well, and nothing changes for others.
func TestForgottenRefusals(t *testing.T) {
	b, _ := newBook(t, nil)
	at := func(i int) reference.Repository {
		return reference.Repository{Registry: "registry.example.com", Path: fmt.Sprint("p", i)}
	}
	for i := range maxRepositories + 1 {
		refuse(b, at(i), nobody, realm)
	}
	data, err := b.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	again, _ := newBook(t, nil)
	if err := again.Restore(data); err != nil {
		t.Fatal(err)
	}
	for _, b := range []*Book{b, again} {
		if b.Offline(at(0)) || b.Offline(at(1)) || b.Offline(at(-1)) {
			t.Error("what was refused, or may have been, is given")
		}
		if !b.Offline(public) {
			t.Error("another registry suffers from it")
		}
	}
	lost, _ := newBook(t, nil)
	if err := lost.Restore([]byte("{")); err == nil || lost.Offline(public) {
		t.Errorf("error %v; what may have been refused before the book was lost is given: %t", err, lost.Offline(public))
	}
}

// TestGivenUpInOrder has one registry fill the memory: open repositories go first, refused ones last.
func TestGivenUpInOrder(t *testing.T) {
	b, _ := newBook(t, nil)
	at := func(kind string, i int) reference.Repository {
		return reference.Repository{Registry: "registry.example.com", Path: fmt.Sprint(kind, i)}
	}
	for i := range maxRepositories / 2 {
		refuse(b, at("refused", i), nobody, realm)
		accept(b, at("open", i), nobody)
	}
	for i := range maxRepositories / 2 {
		refuse(b, at("more", i), nobody, realm)
	}
	for i := range maxRepositories / 2 {
		if s, _ := b.repositories.peek(at("refused", i)); s.verdict != Refused {
			t.Fatalf("refused %d was given up while open ones were left", i)
		}
		if _, ok := b.repositories.peek(at("open", i)); ok {
			t.Fatalf("open %d is there still", i)
		}
	}
}
