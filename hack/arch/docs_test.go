package arch_test

import (
	"go/ast"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	// shown is a test that a document names, as `pkg/access.TestClaims`.
	shown = regexp.MustCompile("`((?:cmd|hack|pkg|test)/[a-z0-9/]+)\\.((?:Test|Fuzz)\\w+)`")
	// named is a place in the repository that a document names, as `pkg/access/answer.go`.
	named = regexp.MustCompile("`((?:charts|cmd|deploy|docs|hack|pkg|test)/[A-Za-z0-9_./-]+)`")
	// linked is a link within the repository.
	linked  = regexp.MustCompile(`\]\(([^)\s:]*)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noneOf  = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// documents gives the text of all documents for people, by path from the repository's root.
func documents(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"*.md", ".github/*.md", "docs/*.md", "charts/kioo/*.md"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			text, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			rel, err := filepath.Rel(root, p)
			if err != nil {
				t.Fatal(err)
			}
			all[filepath.ToSlash(rel)] = string(text)
		}
	}
	if len(all) < 10 {
		t.Fatalf("only %d documents found, so this test looks in the wrong place", len(all))
	}
	return all
}

// anchors gives what links can lead to within a document.
func anchors(text string) map[string]bool {
	all := map[string]bool{"": true}
	for _, h := range heading.FindAllStringSubmatch(text, -1) {
		all[strings.ReplaceAll(noneOf.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-")] = true
	}
	return all
}

// TestDocumentsNameWhatIsThere: the tests, places and pages that documents send their readers to exist.
func TestDocumentsNameWhatIsThere(t *testing.T) {
	tests := map[string]bool{}
	for _, f := range files(t) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.test && fn.Recv == nil {
				tests[f.dir+"."+fn.Name.Name] = true
			}
		}
	}
	docs := documents(t)
	for doc, text := range docs {
		for _, m := range shown.FindAllStringSubmatch(text, -1) {
			if !tests[m[1]+"."+m[2]] {
				t.Errorf("%s: there is no test %s in %s", doc, m[2], m[1])
			}
		}
		for _, m := range named.FindAllStringSubmatch(shown.ReplaceAllString(text, ""), -1) {
			if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
				t.Errorf("%s: %v", doc, err)
			}
		}
		for _, m := range linked.FindAllStringSubmatch(text, -1) {
			file, anchor, _ := strings.Cut(m[1], "#")
			to := path.Join(path.Dir(doc), file)
			if file == "" {
				to = doc
			}
			if _, err := os.Stat(filepath.Join(root, to)); err != nil {
				t.Errorf("%s: %v", doc, err)
			} else if there, ok := docs[to]; ok && !anchors(there)[anchor] {
				t.Errorf("%s: %s has no heading for #%s", doc, to, anchor)
			}
		}
	}
}
