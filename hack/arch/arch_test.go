// Package arch_test holds the repository to the rules of the house that compilers and linters do not know: which
// package may import which, one package comment each, no hidden starts, and how long is too long.
package arch_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	root   = "../.."
	module = "github.com/kioo-dev/kioo/"

	maxFileLines     = 400
	maxFunctionLines = 60
	maxCommentWidth  = 120
)

// layers says which of our packages each package may import; a name stands for what is below it too. Arrows point one
// way: from the API that clients see down to names and bytes. Tests may import what they like.
var layers = map[string][]string{
	"cmd/kioo":          {"pkg/cluster", "pkg/config", "pkg/content/cache", "pkg/content/containerd", "pkg/daemon", "pkg/hosts", "pkg/logging", "pkg/peer", "pkg/policy", "pkg/prefetch", "pkg/reference", "pkg/upstream"},
	"pkg/reference":     {},
	"pkg/sleep":         {},
	"pkg/hedge":         {},
	"pkg/swarm":         {},
	"pkg/atomicfile":    {},
	"pkg/httpclient":    {},
	"pkg/bound":         {},
	"pkg/door":          {"pkg/bound"},
	"pkg/httpserver":    {"pkg/bound", "pkg/sleep"},
	"pkg/logging":       {},
	"pkg/pattern":       {"pkg/reference"},
	"pkg/reach":         {},
	"pkg/config":        {"pkg/pattern", "pkg/reference"},
	"pkg/policy":        {"pkg/config", "pkg/pattern", "pkg/reach", "pkg/reference"},
	"pkg/events":        {"pkg/httpclient"},
	"pkg/prefetch":      {"pkg/content", "pkg/mirror", "pkg/reference", "pkg/upstream"},
	"pkg/foreign":       {"pkg/httpclient", "pkg/policy", "pkg/reach"},
	"pkg/content":       {"pkg/reference"},
	"pkg/content/cache": {"pkg/content", "pkg/reference"},
	"pkg/discovery":     {"pkg/atomicfile", "pkg/door"},
	"pkg/hosts":         {},
	"pkg/access":        {"pkg/reference"},
	"pkg/upstream":      {"pkg/access", "pkg/content", "pkg/httpclient", "pkg/reach", "pkg/reference", "pkg/sleep"},
	"pkg/swarm/tracker": {"pkg/content", "pkg/discovery", "pkg/peer", "pkg/reference", "pkg/swarm"},
	"pkg/flight":        {"pkg/content"},
	"pkg/swarm/object":  {"pkg/discovery", "pkg/sleep", "pkg/swarm", "pkg/swarm/tracker", "pkg/upstream"},
	"pkg/swarm/session": {"pkg/access", "pkg/discovery", "pkg/flight", "pkg/peer", "pkg/reference", "pkg/swarm", "pkg/swarm/tracker", "pkg/upstream"},
	"pkg/peer":          {"pkg/access", "pkg/content", "pkg/door", "pkg/hedge", "pkg/httpclient", "pkg/httpserver", "pkg/reference", "pkg/swarm"},
	"pkg/mirror":        {"pkg/access", "pkg/content", "pkg/discovery", "pkg/flight", "pkg/foreign", "pkg/hedge", "pkg/peer", "pkg/policy", "pkg/reference", "pkg/swarm/object", "pkg/swarm/tracker", "pkg/upstream"},
	"pkg/registry":      {"pkg/access", "pkg/content", "pkg/httpserver", "pkg/mirror", "pkg/peer", "pkg/reference", "pkg/upstream"}, // Who asks, and loops.
	"pkg/cluster":       {"pkg/discovery"},
	"pkg/daemon":        {"pkg"},
	"hack":              {"pkg"},
	"test/e2e":          {}, // It looks at Kioo from outside.
}

// mayPanic are the functions that may panic, with the reason.
var mayPanic = map[string]string{}

type file struct {
	path  string // From the repository's root.
	dir   string
	test  bool
	lines int
	ast   *ast.File
	fset  *token.FileSet
}

func (f file) line(pos token.Pos) string {
	return f.path + ":" + strconv.Itoa(f.fset.Position(pos).Line)
}

// files parses all Go files of the repository.
func files(t *testing.T) []file {
	t.Helper()
	var all []file
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		f := file{fset: token.NewFileSet(), test: strings.HasSuffix(name, "_test.go")}
		f.path, err = filepath.Rel(root, path)
		if err != nil {
			return err
		}
		f.path = filepath.ToSlash(f.path)
		f.dir = f.path[:max(0, strings.LastIndexByte(f.path, '/'))]
		if f.ast, err = parser.ParseFile(f.fset, path, nil, parser.ParseComments); err != nil {
			return err
		}
		f.lines = f.fset.File(f.ast.FileStart).LineCount()
		if !ast.IsGenerated(f.ast) {
			all = append(all, f)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("only %d files found, so this test looks in the wrong place", len(all))
	}
	return all
}

func TestImports(t *testing.T) {
	unused := make(map[[2]string]bool)
	for layer, allowed := range layers {
		for _, name := range allowed {
			unused[[2]string{layer, name}] = true
		}
	}
	for _, f := range files(t) {
		if f.test {
			continue
		}
		layer, ok := within(f.dir)
		if !ok {
			t.Errorf("%s: package %s is in no layer; say in layers what it may import", f.path, f.dir)
			continue
		}
		for _, spec := range f.ast.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(path, "/template") && !below(f.dir, "hack") {
				t.Errorf("%s: with a template in a program the linker keeps every method of every type", f.line(spec.Pos()))
			}
			imported, ours := strings.CutPrefix(path, module)
			if !ours || below(imported, layer) || below(imported, f.dir) {
				continue
			}
			allowance, ok := longest(imported, slices.Values(layers[layer]))
			if !ok {
				t.Errorf("%s: %s may not import %s", f.line(spec.Pos()), layer, imported)
			}
			delete(unused, [2]string{layer, allowance})
		}
	}
	for allowance := range unused {
		t.Errorf("%s does not import %s; take it off layers", allowance[0], allowance[1])
	}
}

// within gives the layer of a directory. What is beside a package's code to test it, such as contenttest, belongs to
// the package around it.
func within(dir string) (layer string, ok bool) { return longest(dir, maps.Keys(layers)) }

// longest gives the longest of some names that has a directory.
func longest(dir string, names iter.Seq[string]) (longest string, ok bool) {
	for name := range names {
		if below(dir, name) && len(name) > len(longest) {
			longest, ok = name, true
		}
	}
	return longest, ok
}

func below(dir, name string) bool { return dir == name || strings.HasPrefix(dir, name+"/") }

func TestPackageComments(t *testing.T) {
	comments, names := make(map[string][]string), make(map[string]bool)
	onlyTests := make(map[string]bool)
	for _, f := range files(t) {
		if _, seen := onlyTests[f.dir]; !seen {
			onlyTests[f.dir] = true
		}
		onlyTests[f.dir] = onlyTests[f.dir] && f.test
		names[f.dir] = true
		if f.ast.Doc == nil {
			continue
		}
		comments[f.dir] = append(comments[f.dir], f.path)
		want := "Package " + f.ast.Name.Name + " "
		if f.ast.Name.Name == "main" {
			want = "Command " + f.dir[strings.LastIndexByte(f.dir, '/')+1:] + " "
		}
		if text := f.ast.Doc.Text(); !strings.HasPrefix(text, want) {
			t.Errorf("%s: the package comment does not begin with %q", f.path, want)
		}
	}
	for dir := range names {
		if n := len(comments[dir]); n != 1 {
			t.Errorf("%s has %d package comments (%s), expected one", dir, n, strings.Join(comments[dir], ", "))
		}
	}
}

func TestNoHiddenStarts(t *testing.T) {
	used := make(map[string]bool)
	for _, f := range files(t) {
		if f.test {
			continue
		}
		for _, decl := range f.ast.Decls {
			function, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if function.Recv == nil && function.Name.Name == "init" {
				t.Errorf("%s: init runs without anybody asking for it", f.line(function.Pos()))
			}
			name := f.dir + "." + function.Name.Name
			ast.Inspect(function, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				if ident, ok := call.Fun.(*ast.Ident); ok && ident.Name == "panic" {
					used[name] = true
					if mayPanic[name] == "" && !isHTTPAbort(call) {
						t.Errorf("%s: %s panics; return an error, or say in mayPanic which invariant is broken", f.line(n.Pos()), name)
					}
				}
				return true
			})
		}
	}
	for name := range mayPanic {
		if !used[name] {
			t.Errorf("%s does not panic any more; take it off mayPanic", name)
		}
	}
}

// isHTTPAbort tells the one panic that is an answer: net/http's way to end a response short of its length.
func isHTTPAbort(call *ast.CallExpr) bool {
	selector, ok := call.Args[0].(*ast.SelectorExpr)
	return ok && selector.Sel.Name == "ErrAbortHandler"
}

// TestNamesAreParsed keeps repositories from being put together out of strings that nobody brought into their one form:
// every rule compares names. Code makes them with reference.NewRepository, reference.Parse or a Resolver.
func TestNamesAreParsed(t *testing.T) {
	for _, f := range files(t) {
		if f.test || f.dir == "pkg/reference" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				if len(n.Elts) > 0 && isNamed(n.Type, "reference", "Repository") {
					t.Errorf("%s: a repository is put together by hand; use reference.NewRepository", f.line(n.Pos()))
				}
			case *ast.AssignStmt:
				for _, left := range n.Lhs {
					if to, ok := left.(*ast.SelectorExpr); ok && to.Sel.Name == "Registry" {
						t.Errorf("%s: a registry is set by hand; use reference.NewRepository", f.line(n.Pos()))
					}
				}
			}
			return true
		})
	}
}

// isNamed tells whether an expression is a name of a package.
func isNamed(e ast.Expr, pkg, name string) bool {
	selector, ok := e.(*ast.SelectorExpr)
	if !ok || selector.Sel.Name != name {
		return false
	}
	ident, ok := selector.X.(*ast.Ident)
	return ok && ident.Name == pkg
}

func TestLengths(t *testing.T) {
	for _, f := range files(t) {
		if f.lines > maxFileLines {
			t.Errorf("%s has %d lines, more than %d", f.path, f.lines, maxFileLines)
		}
		for _, group := range f.ast.Comments {
			for _, comment := range group.List {
				for i, line := range strings.Split(comment.Text, "\n") {
					if n := len([]rune(line)); n > maxCommentWidth && !strings.Contains(line, "://") {
						t.Errorf("%s: line %d of the comment has %d characters, more than %d", f.line(comment.Pos()), i+1, n, maxCommentWidth)
					}
				}
			}
		}
		if f.test {
			continue // A table is long and easy to read.
		}
		for _, decl := range f.ast.Decls {
			if function, ok := decl.(*ast.FuncDecl); ok && function.Body != nil {
				from, to := f.fset.Position(function.Pos()).Line, f.fset.Position(function.End()).Line
				if n := to - from + 1; n > maxFunctionLines {
					t.Errorf("%s: %s has %d lines, more than %d", f.line(function.Pos()), function.Name.Name, n, maxFunctionLines)
				}
			}
		}
	}
}

func TestNothingLeftOpen(t *testing.T) {
	for _, f := range files(t) {
		for _, group := range f.ast.Comments {
			for _, word := range []string{"TO" + "DO", "FIX" + "ME", "XX" + "X"} {
				if strings.Contains(group.Text(), word) {
					t.Errorf("%s: a comment says %s; do it, or open an issue", f.line(group.Pos()), word)
				}
			}
		}
	}
}
