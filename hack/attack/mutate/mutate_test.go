package mutate

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// module writes a module with a program that has a defence.
func module(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":           "module example.com/guarded\n\ngo 1.24\n",
		"cmd/guarded/a.go": "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Print(answer(true)) }\n",
		"cmd/guarded/b.go": "package main\n\nfunc answer(stranger bool) string {\n\tif stranger {\n\t\treturn \"no\"\n\t}\n\treturn \"yes\"\n}\n",
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

var off = Mutation{Name: "strangers get nothing", Edits: []Edit{{"cmd/guarded/b.go", "if stranger {", "if false {"}}}

func TestBuildTakesTheDefenceOut(t *testing.T) {
	root := module(t)
	before, err := os.ReadFile(filepath.Join(root, "cmd/guarded/b.go"))
	if err != nil {
		t.Fatal(err)
	}
	program, err := off.Build(t.Context(), root, t.TempDir(), "./cmd/guarded")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(program).Output(); err != nil || string(out) != "yes" {
		t.Errorf("without the defence it says %q, %v", out, err)
	}
	if after, _ := os.ReadFile(filepath.Join(root, "cmd/guarded/b.go")); string(after) != string(before) {
		t.Error("the tree was changed")
	}
}

func TestStale(t *testing.T) {
	root := module(t)
	for name, edits := range map[string][]Edit{
		"nothing":          nil,
		"not there":        {{"cmd/guarded/b.go", "if friend {", "if false {"}},
		"twice":            {{"cmd/guarded/b.go", "return", "panic"}},
		"no file":          {{"cmd/guarded/c.go", "if stranger {", "if false {"}},
		"empty":            {{"cmd/guarded/b.go", "", "x"}},
		"no change":        {{"cmd/guarded/b.go", "if stranger {", "if stranger {"}},
		"the second edit":  {{"cmd/guarded/b.go", "if stranger {", "if false {"}, {"cmd/guarded/b.go", "if stranger {", "x"}},
		"does not compile": {{"cmd/guarded/b.go", "if stranger {", "if {"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Mutation{Name: name, Edits: edits}.Build(t.Context(), root, t.TempDir(), "./cmd/guarded")
			if err == nil || errors.Is(err, ErrStale) == (name == "does not compile") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestEditsOfOneFileAddUp(t *testing.T) {
	m := Mutation{Name: "two", Edits: []Edit{
		{"cmd/guarded/b.go", `"no"`, `"perhaps"`}, {"cmd/guarded/b.go", `"perhaps"`, `"maybe"`},
	}}
	changed, err := m.Apply(module(t))
	if err != nil || !strings.Contains(string(changed["cmd/guarded/b.go"]), `"maybe"`) || len(changed) != 1 {
		t.Errorf("%v: %q", err, changed)
	}
}
