package clienttest

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// skopeo runs Debian's skopeo, which shares no code with Kioo, nor with the other clients.
func skopeo(t *testing.T, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath("skopeo")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI must have skopeo: apt-get install skopeo")
		}
		t.Skip("no skopeo here: apt-get install skopeo")
	}
	cmd := exec.CommandContext(t.Context(), path, append([]string{"--insecure-policy", "--override-os=linux", "--override-arch=amd64"}, args...)...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_RUNTIME_DIR="+home, "REGISTRY_AUTH_FILE=")
	out, err := cmd.Output()
	if err != nil {
		var stderr []byte
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			stderr = exit.Stderr
		}
		t.Fatalf("skopeo %s: %v\n%s", strings.Join(args, " "), err, stderr)
	}
	return out
}

// checkDir hashes the files that skopeo wrote, each named by its digest, and compares them with what must be there.
// The one that is not so named is the manifest that was asked for; skopeo writes indexes anew, so those have no top.
func checkDir(t *testing.T, dir string, top *v1.Descriptor, want []v1.Descriptor) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		switch name := strings.TrimSuffix(file.Name(), ".manifest.json"); name {
		case "version":
		case "manifest.json":
			if top != nil && hexOf(sum[:]) != top.Digest.Hex {
				t.Errorf("manifest.json is %x, want %v", sum, top.Digest)
			}
		default:
			if hexOf(sum[:]) != name {
				t.Errorf("%s has digest %x", file.Name(), sum)
			}
			got = append(got, name)
		}
	}
	var wanted []string
	for _, desc := range want {
		wanted = append(wanted, desc.Digest.Hex)
	}
	slices.Sort(got)
	slices.Sort(wanted)
	if !slices.Equal(got, wanted) {
		t.Errorf("skopeo has\n%v, want\n%v", got, wanted)
	}
}

func TestSkopeo(t *testing.T) {
	eachUpstream(t, func(t *testing.T, n *node) {
		source := "docker://" + pathForm(n.host, ":"+tag)
		t.Run("all", func(t *testing.T) {
			want := append(slices.Clone(n.image.manifests), n.image.blobs...)
			n.pullTwice(t, n.image.blobs, func(t *testing.T) {
				dir := t.TempDir()
				skopeo(t, "copy", "--all", "--src-tls-verify=false", source, "dir:"+dir)
				checkDir(t, dir, nil, want)
				raw := sha256.Sum256(skopeo(t, "inspect", "--raw", "--tls-verify=false", source))
				if hexOf(raw[:]) != n.image.index.Digest.Hex {
					t.Errorf("the tag is %x, want %v", raw, n.image.index.Digest)
				}
			})
		})
		t.Run("one platform", func(t *testing.T) {
			n.upstream.Forget()
			dir := t.TempDir()
			skopeo(t, "copy", "--src-tls-verify=false", source, "dir:"+dir)
			checkDir(t, dir, &n.image.manifests[0], n.image.amd64)
			n.checkNothingAsked(t)
		})
		t.Run("what refers to it", func(t *testing.T) {
			n.upstream.Forget()
			all := slices.Clone(n.image.signature.blobs)
			for _, blob := range n.image.sbom.blobs { // The configurations are the same.
				if !slices.ContainsFunc(all, func(d v1.Descriptor) bool { return d.Digest == blob.Digest }) {
					all = append(all, blob)
				}
			}
			n.pullTwice(t, all, func(t *testing.T) {
				for _, artifact := range []artifact{n.image.signature, n.image.sbom} {
					dir := t.TempDir()
					source := "docker://" + pathForm(n.host, "@"+artifact.Digest.String())
					skopeo(t, "copy", "--src-tls-verify=false", source, "dir:"+dir)
					checkDir(t, dir, &artifact.Descriptor, artifact.blobs)
				}
			})
		})
		t.Run("tags", func(t *testing.T) {
			var list struct{ Tags []string }
			out := skopeo(t, "list-tags", "--tls-verify=false", "docker://"+pathForm(n.host, ""))
			if err := json.Unmarshal(out, &list); err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(list.Tags, tag) {
				t.Errorf("tags %v, want one of them to be %s", list.Tags, tag)
			}
		})
	})
}
