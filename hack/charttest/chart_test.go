package charttest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/kioo-dev/kioo/hack/process"
)

const (
	root  = "../.."
	chart = root + "/charts/kioo"
)

// helm runs the version of helm that the Makefile names, with a home of its own and no cluster but one that it is told.
func helm(t *testing.T, kubeconfig string, args ...string) (string, error) {
	t.Helper()
	program, err := process.InstallPinned(context.Background(), root, "helm.sh/helm/v3/cmd/helm")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	home := t.TempDir()
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "KUBECONFIG=" + kubeconfig}
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(exit.Stderr), err
	}
	return string(out), err
}

func template(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return helm(t, "/dev/null", append([]string{"template", "kioo", chart, "--namespace", "kioo-system", "--kube-version", "1.34.0"}, args...)...)
}

// object gives the first object of a kind.
func object(t *testing.T, manifests, kind string) map[string]any {
	t.Helper()
	dec := yaml.NewDecoder(strings.NewReader(manifests))
	for {
		var o map[string]any
		if err := dec.Decode(&o); err != nil {
			t.Fatalf("no %s in what was rendered (%v)", kind, err)
		}
		if o["kind"] == kind {
			return o
		}
	}
}

// Where nothing can be looked up, no key is made that nobody else will ever have.
func TestNoKeyWithoutCluster(t *testing.T) {
	for _, args := range [][]string{nil, {"--set", "clusterKey.names={next,initial}"}, {"--is-upgrade"}} {
		out, err := template(t, args...)
		if err == nil {
			t.Errorf("%v: rendered, with the key %v", args, object(t, out, "Secret")["data"])
			continue
		}
		for _, want := range []string{"clusterKey.existingSecret", "--dry-run=server", "clusterKey.generate=always", "kubectl -n kioo-system create secret"} {
			if !strings.Contains(out, want) {
				t.Errorf("%v: the message does not say %q: %s", args, want, out)
			}
		}
	}
	out, err := template(t, "--set", "clusterKey.existingSecret=mine")
	if err != nil || strings.Contains(out, "kind: Secret\n") || !strings.Contains(out, "secretName: mine") {
		t.Errorf("with a Secret that exists: %v, %.300s", err, out)
	}
	keys := map[string]bool{}
	for range 2 {
		out, err := template(t, "--set", "clusterKey.generate=always")
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		keys[fmt.Sprint(object(t, out, "Secret")["data"])] = true
	}
	if len(keys) != 2 {
		t.Error("always is the same key twice")
	}
}

// cluster is as much of an API server as lookup asks: the objects at some paths.
func cluster(t *testing.T, objects map[string]string) (kubeconfig string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		body, ok := objects[r.URL.Path]
		switch {
		case ok:
		case r.URL.Path == "/version":
			body = `{"major":"1","minor":"34","gitVersion":"v1.34.0"}`
		case r.URL.Path == "/api":
			body = `{"kind":"APIVersions","versions":["v1"]}`
		case r.URL.Path == "/apis":
			body = `{"kind":"APIGroupList","apiVersion":"v1","groups":[]}`
		case r.URL.Path == "/api/v1":
			body = `{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"namespaces","namespaced":false,"kind":"Namespace","verbs":["get"]},` +
				`{"name":"secrets","namespaced":true,"kind":"Secret","verbs":["get"]}]}`
		default:
			w.WriteHeader(http.StatusNotFound)
			body = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`
		}
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(s.Close)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n"+
		"users: [{name: u, user: {token: t}}]\ncurrent-context: c\n", s.URL)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// With a cluster, a key is made once, and found there again.
func TestKeyWithCluster(t *testing.T) {
	const system = "/api/v1/namespaces/kube-system"
	objects := map[string]string{system: `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"kube-system"}}`}
	render := func() map[string]any {
		t.Helper()
		out, err := helm(t, cluster(t, objects), "template", "kioo", chart, "--namespace", "kioo-system", "--kube-version", "1.34.0",
			"--dry-run=server", "--show-only", "templates/key.yaml", "--set", "clusterKey.names={next,initial}")
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return object(t, out, "Secret")["data"].(map[string]any)
	}
	first := render()
	if first["initial"] == "" || first["initial"] == first["next"] || first["initial"] == render()["initial"] {
		t.Errorf("a new release has the keys %v", first)
	}
	objects["/api/v1/namespaces/kioo-system/secrets/kioo-key"] = `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"kioo-key"},"data":{"initial":"b25l"}}`
	if got := render(); got["initial"] != "b25l" || got["next"] == "" || got["next"] == "b25l" {
		t.Errorf("a release that is there has the keys %v", got)
	}
	delete(objects, system) // Who finds the Secret need not look further.
	if got := render(); got["initial"] != "b25l" {
		t.Errorf("without the right to read namespaces: %v", got)
	}
}

// A released chart names its image by digest, unless somebody asks for another.
func TestImage(t *testing.T) {
	digest, other := "sha256:"+strings.Repeat("ab", 32), "sha256:"+strings.Repeat("cd", 32)
	dir := t.TempDir()
	released, kustomization := filepath.Join(dir, "charts/kioo"), filepath.Join(dir, "deploy/kustomization.yaml")
	for _, part := range []string{"charts/kioo", "deploy"} {
		if err := os.CopyFS(filepath.Join(dir, part), os.DirFS(filepath.Join(root, part))); err != nil {
			t.Fatal(err)
		}
	}
	write := func(digest string) error {
		return exec.CommandContext(t.Context(), root+"/hack/chart-digest.sh", digest, dir).Run()
	}
	files := func() (text string) {
		t.Helper()
		for _, name := range []string{filepath.Join(released, "Chart.yaml"), kustomization} {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			text += string(data)
		}
		return text
	}
	if err := write(""); err != nil {
		t.Fatal(err)
	}
	before := files()
	for _, wrong := range []string{"v1", "sha256:abc", "sha512:" + strings.Repeat("ab", 64), digest + "0"} {
		if write(wrong) == nil {
			t.Errorf("%s is a digest", wrong)
		}
	}
	image := func(args ...string) string {
		t.Helper()
		out, err := helm(t, "/dev/null", append([]string{"template", "kioo", released, "--kube-version", "1.34.0", "--set", "clusterKey.existingSecret=mine"}, args...)...)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		images := map[string]bool{}
		for _, m := range regexp.MustCompile(`(?m)^ +image: (\S+)$`).FindAllStringSubmatch(out, -1) {
			images[m[1]] = true
		}
		if len(images) != 1 {
			t.Fatalf("images %v", images)
		}
		for name := range images {
			return name
		}
		return ""
	}
	const repository = "ghcr.io/kioo-dev/kioo"
	if got := image(); got != repository+":v0.1.0" {
		t.Errorf("without a release the image is %s", got)
	}
	for range 2 { // A second one takes the place of the first.
		if err := write(digest); err != nil {
			t.Fatal(err)
		}
	}
	if text := files(); strings.Count(text, digest) != 2 || strings.Contains(text, "newTag") {
		t.Errorf("with the digest of a release the files are:\n%s", text)
	}
	for set, want := range map[string]string{
		"":                                      repository + "@" + digest,
		"image.repository=harbor.example.com/k": "harbor.example.com/k@" + digest,
		"image.tag=v2":                          repository + ":v2",
		"image.digest=" + other:                 repository + "@" + other,
		"image.tag=v2,image.digest=" + other:    repository + "@" + other,
	} {
		if got := image("--set", set); got != want {
			t.Errorf("--set %s: the image is %s, want %s", set, got, want)
		}
	}
	if err := write(""); err != nil {
		t.Fatal(err)
	}
	if after := files(); after != before {
		t.Errorf("taken out again, the files are not what they were:\n%s", after)
	}
}

// presets are where each has containerd's socket and content.
var presets = map[string][2]string{
	"kubeadm": {"/run/containerd", "/var/lib/containerd/io.containerd.content.v1.content"},
	"k3s":     {"/run/k3s/containerd", "/var/lib/rancher/k3s/agent/containerd/io.containerd.content.v1.content"},
	"rke2":    {"/run/k3s/containerd", "/var/lib/rancher/rke2/agent/containerd/io.containerd.content.v1.content"},
	"talos":   {"/run/containerd", "/var/lib/containerd/io.containerd.content.v1.content"},
}

// Of containerd's directories the mirror alone has mounts, and nobody may write there but into the registry directory.
func TestMounts(t *testing.T) {
	for preset, paths := range presets {
		out, err := template(t, "--set", "clusterKey.existingSecret=mine", "--set", "preset="+preset)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		spec := object(t, out, "DaemonSet")["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
		volumes := map[string]string{}
		for _, v := range spec["volumes"].([]any) {
			if host, ok := v.(map[string]any)["hostPath"].(map[string]any); ok {
				volumes[v.(map[string]any)["name"].(string)] = host["path"].(string)
			}
		}
		if volumes["runtime"] != paths[0] || volumes["content"] != paths[1] || len(volumes) != 5 {
			t.Errorf("%s: volumes %v", preset, volumes)
		}
		for _, of := range []string{"initContainers", "containers"} {
			for _, c := range spec[of].([]any) {
				for _, m := range c.(map[string]any)["volumeMounts"].([]any) {
					mount := m.(map[string]any)
					switch name := mount["name"].(string); name {
					case "runtime", "content", "containerd":
						if of != "containers" || mount["readOnly"] != true {
							t.Errorf("%s: %s of %s has %v", preset, c.(map[string]any)["name"], of, mount)
						}
					}
				}
			}
		}
	}
}
