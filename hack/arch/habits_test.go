package arch_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var (
	target = regexp.MustCompile(`(?m)^([a-z0-9-]+):`)
	// called is a call of make in a script or a document's code: at a line's beginning, or where a command may be.
	called = regexp.MustCompile("(?m)(?:^|[`;&|]|\\]| && )\\s*make ((?:[a-z][a-z0-9-]*\\b ?)+)")
	// pinned is an action by its full version or by its commit.
	pinned = regexp.MustCompile(`^[\w.-]+/[\w./-]+@(v\d+\.\d+\.\d+|[0-9a-f]{40})$`)
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// under gives the files below a directory, by their paths from the repository's root.
func under(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := fs.WalkDir(os.DirFS(root), dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// workflow is what is looked at of one.
type workflow struct {
	Name        string
	On          any `yaml:"on"`
	Permissions map[string]string
	Jobs        map[string]struct {
		Uses           string
		RunsOn         string `yaml:"runs-on"`
		TimeoutMinutes int    `yaml:"timeout-minutes"`
		Steps          []struct {
			Uses string
			With map[string]any
			Run  string
		}
	}
}

// TestWorkflows: workflows call targets that are there, with pinned actions, no more rights than they need, and nothing
// in their scripts that somebody outside can write.
func TestWorkflows(t *testing.T) {
	var makes int
	for _, path := range under(t, ".github/workflows") {
		var w workflow
		if err := yaml.Unmarshal([]byte(read(t, path)), &w); err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if w.Name == "" || w.On == nil || len(w.Jobs) == 0 {
			t.Errorf("%s: a workflow has a name, says when it runs, and has jobs", path)
		}
		if len(w.Permissions) != 1 || w.Permissions["contents"] != "read" {
			t.Errorf("%s: the rights of all jobs are %v; contents: read, and more only for the job that needs it", path, w.Permissions)
		}
		if on, ok := w.On.(map[string]any); ok && on["pull_request_target"] != nil {
			t.Errorf("%s: pull_request_target runs what strangers write with our rights", path)
		}
		for name, job := range w.Jobs {
			if (job.RunsOn == "" || job.TimeoutMinutes == 0) && job.Uses == "" {
				t.Errorf("%s: job %s says where it runs, and for how long at most", path, name)
			}
			for _, step := range job.Steps {
				if step.Uses != "" && !pinned.MatchString(step.Uses) {
					t.Errorf("%s: %s is not pinned by its full version or commit", path, step.Uses)
				}
				if strings.HasPrefix(step.Uses, "actions/checkout@") && step.With["persist-credentials"] != false {
					t.Errorf("%s: job %s leaves the token in the checkout", path, name)
				}
				if strings.Contains(step.Run, "${{") {
					t.Errorf("%s: job %s has an expression in a script; hand it over in env", path, name)
				}
				makes += strings.Count(step.Run, "make ")
			}
		}
	}
	if makes < 5 {
		t.Errorf("the workflows call make %d times", makes)
	}
}

// TestMakeTargets: what documents, workflows and scripts have make do is in the Makefile, and has a line in make help.
func TestMakeTargets(t *testing.T) {
	makefile := read(t, "Makefile")
	targets := map[string]bool{}
	for _, m := range target.FindAllStringSubmatch(makefile, -1) {
		targets[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`(?m)^\.PHONY: (.*)$`).FindAllStringSubmatch(makefile, -1) {
		for _, name := range strings.Fields(m[1]) {
			if !regexp.MustCompile(`(?m)^` + name + `:.* ## `).MatchString(makefile) {
				t.Errorf("Makefile: make help has no line for %s", name)
			}
		}
	}
	texts := map[string]string{".ci/run": read(t, ".ci/run"), ".devcontainer/devcontainer.json": read(t, ".devcontainer/devcontainer.json")}
	for doc, text := range documents(t) {
		texts[doc] = text
	}
	for _, path := range under(t, ".github") {
		texts[path] = read(t, path)
	}
	var calls int
	for path, text := range texts {
		for _, m := range called.FindAllStringSubmatch(text, -1) {
			name, _, _ := strings.Cut(m[1], " ")
			calls++
			if !targets[name] {
				t.Errorf("%s: there is no target %s (%q)", path, name, m[0])
			}
		}
	}
	if calls < 30 {
		t.Errorf("only %d calls of make found, so this test looks in the wrong place", calls)
	}
}

// TestTemplates: what GitHub, Renovate and editors read of the repository can be read.
func TestTemplates(t *testing.T) {
	for _, path := range under(t, ".github") {
		var err error
		var into map[string]any
		switch filepath.Ext(path) {
		case ".yaml", ".yml":
			err = yaml.Unmarshal([]byte(read(t, path)), &into)
		case ".json":
			err = json.Unmarshal([]byte(read(t, path)), &into)
		default:
			continue
		}
		if err != nil || len(into) == 0 {
			t.Errorf("%s: %v", path, err)
		}
		if body, ok := into["body"].([]any); strings.Contains(path, "ISSUE_TEMPLATE/") && !strings.HasSuffix(path, "/config.yml") {
			if !ok || into["name"] == nil || into["description"] == nil {
				t.Errorf("%s: an issue's form has a name, a description and a body", path)
			}
			for _, part := range body {
				attributes, _ := part.(map[string]any)["attributes"].(map[string]any)
				if attributes["label"] == nil && attributes["value"] == nil {
					t.Errorf("%s: a part has no label: %v", path, part)
				}
			}
		}
	}
	var container map[string]any
	if err := json.Unmarshal([]byte(read(t, ".devcontainer/devcontainer.json")), &container); err != nil || container["image"] == nil {
		t.Errorf(".devcontainer/devcontainer.json: %v", err)
	}
	for _, name := range []string{"README.md", "CONTRIBUTING.md"} {
		for _, link := range []string{"(CHANGELOG.md)", "(SECURITY.md)"} {
			if !strings.Contains(read(t, name), link) {
				t.Errorf("%s does not link to %s", name, link)
			}
		}
	}
}

// TestLintReasons: each rule and each exception of golangci-lint has a reason beside it.
func TestLintReasons(t *testing.T) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(read(t, ".golangci.yaml")), &doc); err != nil {
		t.Fatal(err)
	}
	linters := child(doc.Content[0], "linters")
	var rules int
	for _, list := range []*yaml.Node{
		child(linters, "enable"), child(linters, "disable"), child(child(linters, "exclusions"), "rules"), child(child(doc.Content[0], "formatters"), "enable"),
	} {
		if list == nil {
			continue
		}
		for _, rule := range list.Content {
			rules++
			if rule.HeadComment == "" && rule.LineComment == "" {
				t.Errorf(".golangci.yaml:%d: %s has no reason", rule.Line, rule.Value)
			}
		}
	}
	if rules < 10 {
		t.Errorf("only %d rules found, so this test looks in the wrong place", rules)
	}
}

// child gives the value of a key of a mapping, or nothing.
func child(node *yaml.Node, key string) *yaml.Node {
	if node == nil {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i+1]
		}
	}
	return nil
}

// TestPinnedOnce: a program that several parts of the repository build has one version.
func TestPinnedOnce(t *testing.T) {
	makefile := read(t, "Makefile")
	for _, path := range []string{"test/e2e/suite_test.go"} {
		m := regexp.MustCompile(`helmVersion\s+= "(v[\d.]+)"`).FindStringSubmatch(read(t, path))
		if m == nil || !strings.Contains(makefile, "helm.sh/helm/v3/cmd/helm@"+m[1]) {
			t.Errorf("%s: helm is %v, and another version in the Makefile", path, m)
		}
	}
}
