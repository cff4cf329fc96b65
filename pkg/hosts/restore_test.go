package hosts

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func entryOf(t testing.TB, r Result, dir string) Entry {
	t.Helper()
	for _, e := range r.Entries {
		if e.Dir == dir {
			return e
		}
	}
	t.Fatalf("nothing about %s in %+v", dir, r)
	return Entry{}
}

// TestEditsSurvive is about what others do between configure and cleanup.
func TestEditsSurvive(t *testing.T) {
	const original = "server = \"https://u\"\n[host.\"https://a\"]\n"
	merged, err := merge([]byte(original), testMirror)
	if err != nil {
		t.Fatal(err)
	}
	block := entry(testMirror, "\n")
	for name, tc := range map[string]struct {
		edited string // Empty: deleted.
		left   string
		action Action
	}{
		"untouched": {string(merged), original, Restored},
		"added": {
			string(merged) + "[host.\"https://b\"]\n",
			original + "[host.\"https://b\"]\n",
			Stripped,
		},
		"deleted":  {"", "", Removed},
		"put back": {original, original, Restored},
		"replaced": {"server = \"https://v\"\n", "server = \"https://v\"\n", Unchanged},
		"without marks": {
			strings.ReplaceAll(string(merged), "# kioo", "# x"),
			"server = \"https://u\"\n# x: begin (written by \"kioo configure\", taken out by \"kioo cleanup\")\n" +
				"# x: end\n[host.\"https://a\"]\n",
			Stripped,
		},
		"entry edited": {
			strings.Replace(string(merged), capabilitiesLine, "skip_verify = true", 1),
			original,
			Restored,
		},
		"entry gets table": {
			strings.Replace(string(merged), endMark, "["+"host.\""+testMirror+"\".header]\nx = \"y\"", 1),
			original,
			Restored,
		},
		"not TOML now": {string(merged) + "= oops", original + "= oops", Stripped},
		"moved":        {original + block, original, Restored},
		"keys below": {
			string(merged[:len(original)-len("[host.\"https://a\"]\n")]) + block + "skip_verify = true\n",
			"server = \"https://u\"\nskip_verify = true\n",
			Stripped,
		},
		"keys below, late": {original + block + "skip_verify = true\n", original, Restored},
		"doubled":          {string(merged) + "\n[x]\n" + endMark + "\n", original + "\n[x]\n", Stripped},
	} {
		t.Run(name, func(t *testing.T) {
			root := newRoot(t)
			put(t, root, map[string]string{"reg.example/hosts.toml": original})
			mustConfigure(t, testConfig(root))
			path := filepath.Join(root, "reg.example/hosts.toml")
			edit := func() {
				if tc.edited == "" {
					os.Remove(path)
				} else {
					put(t, root, map[string]string{"reg.example/hosts.toml": tc.edited})
				}
			}
			check := func(when string) {
				left := ""
				if _, err := os.Stat(path); err == nil {
					left = read(t, path)
				}
				if left != tc.left {
					t.Errorf("%s: left %q, want %q", when, left, tc.left)
				}
				if _, err := os.Stat(filepath.Join(root, storeDir)); err == nil {
					t.Errorf("%s: records are left", when)
				}
			}
			edit()
			result := mustCleanup(t, root)
			if tc.action != Unchanged {
				if e := entryOf(t, result, "reg.example"); e.Action != tc.action {
					t.Errorf("got %+v, want action %s", e, tc.action)
				}
			}
			check("edited, cleaned up")

			put(t, root, map[string]string{"reg.example/hosts.toml": original})
			mustConfigure(t, testConfig(root))
			edit()
			result, err := Configure(context.Background(), testConfig(root))
			if (err != nil) != (name == "not TOML now") {
				t.Fatalf("heal: %v", err)
			}
			if err == nil {
				if v := askLinked(t, root, "reg.example"); len(v.Hosts) == 0 || !isMirror(v.Hosts[0]) {
					t.Errorf("healed to %+v by %+v", v, result)
				}
			}
			mustCleanup(t, root)
			check("edited, healed, cleaned up")
		})
	}
}

func TestDirectoriesThatOthersRemoveOrUse(t *testing.T) {
	root := newRoot(t)
	put(t, root, map[string]string{"a.example/hosts.toml": "server = \"https://u\"\n", "b.example/": ""})
	mustConfigure(t, testConfig(root))
	for _, dir := range []string{"a.example", defaultDir} {
		if err := os.RemoveAll(filepath.Join(root, dir)); err != nil {
			t.Fatal(err)
		}
	}
	result := mustConfigure(t, testConfig(root))
	if e := entryOf(t, result, "a.example"); e.Action != Removed {
		t.Errorf("got %+v", e)
	}
	if e := entryOf(t, result, defaultDir); e.Action != Written {
		t.Errorf("got %+v", e)
	}
	if v := askLinked(t, root, "a.example"); len(v.Hosts) != 2 || !isMirror(v.Hosts[0]) {
		t.Errorf("got %+v", v)
	}
	put(t, root, map[string]string{"_default/mine.txt": "x"})
	mustCleanup(t, root)
	want := "_default drwxr-xr-x\n_default/mine.txt -rw-r--r-- \"x\"\nb.example drwxr-xr-x\n"
	if got := strings.TrimPrefix(treeOf(t, root), ". drwxr-xr-x\n"); got != want {
		t.Errorf("left\n%s", got)
	}
}

func TestRootIsCreatedAndRemoved(t *testing.T) {
	parent := t.TempDir()
	root := filepath.Join(parent, "certs.d")
	before := treeOf(t, parent)
	mustConfigure(t, testConfig(root))
	if v := askLinked(t, root, "docker.io"); len(v.Hosts) != 2 || !isMirror(v.Hosts[0]) {
		t.Errorf("got %+v", v)
	}
	mustCleanup(t, root)
	if now := treeOf(t, parent); now != before {
		t.Errorf("left\n%s", now)
	}
	mustConfigure(t, testConfig(root))
	put(t, root, map[string]string{"reg.example/ca.crt": "x"})
	mustCleanup(t, root)
	if got := treeOf(t, root); got != ". drwxr-xr-x\nreg.example drwxr-xr-x\nreg.example/ca.crt -rw-r--r-- \"x\"\n" {
		t.Errorf("left\n%s", got)
	}
	if _, err := Configure(context.Background(), testConfig(filepath.Join(parent, "no/certs.d"))); err == nil {
		t.Error("a root without a parent was taken")
	}
	mustCleanup(t, filepath.Join(parent, "no/certs.d"))
}

func TestModesAndLinks(t *testing.T) {
	root, elsewhere := newRoot(t), t.TempDir()
	put(t, root, map[string]string{
		"mode.example/hosts.toml": "server = \"https://u\"\n", "linked.example/": "", "dangling.example/": "",
		"fifo.example/": "",
	})
	put(t, elsewhere, map[string]string{"hosts.toml": "server = \"https://v\"\n",
		"dir/hosts.toml": "server = \"https://w\"\n"})
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(root, "mode.example/hosts.toml"), 0o440); err != nil {
		t.Fatal(err)
	}
	link(filepath.Join(elsewhere, "hosts.toml"), "linked.example/hosts.toml")
	link("nowhere", "dangling.example/hosts.toml")
	link(filepath.Join(elsewhere, "dir"), "dir.example")
	link(filepath.Join(elsewhere, "dir"), "again.example")
	link("mode.example", "alias.example")
	link("nowhere", "broken.example")
	before, outside := treeOf(t, root), treeOf(t, elsewhere)
	mustConfigure(t, testConfig(root))
	for host, hosts := range map[string]string{
		"mode.example": "u", "linked.example": "v", "dangling.example": "dangling.example", "dir.example": "w",
		"again.example": "w",
		"alias.example": "u",
	} {
		v := askLinked(t, root, host)
		if len(v.Hosts) != 2 || !isMirror(v.Hosts[0]) || v.Hosts[1].Host != hosts {
			t.Errorf("%s: got %+v", host, v)
		}
	}
	if info, err := os.Stat(filepath.Join(root, "mode.example/hosts.toml")); err != nil || info.Mode() != 0o440 {
		t.Errorf("got mode %v, error %v", info.Mode(), err)
	}
	// What the link leads to changes: the mirror's file follows at the next pass.
	put(t, elsewhere, map[string]string{"hosts.toml": "server = \"https://x\"\n"})
	mustConfigure(t, testConfig(root))
	if v := askLinked(t, root, "linked.example"); len(v.Hosts) != 2 || v.Hosts[1].Host != "x" {
		t.Errorf("got %+v", v)
	}
	put(t, elsewhere, map[string]string{"hosts.toml": "server = \"https://v\"\n"})
	if mustConfigure(t, testConfig(root)); mustConfigure(t, testConfig(root)).Changed() {
		t.Error("configuring twice changed something")
	}
	mustCleanup(t, root)
	if now := treeOf(t, root); now != before {
		t.Errorf("after cleaning up:\n%s\nbefore:\n%s", now, before)
	}
	if now := treeOf(t, elsewhere); now != outside {
		t.Errorf("elsewhere, after cleaning up:\n%s\nbefore:\n%s", now, outside)
	}
}

func TestChangesOfMirrorAndLostRecords(t *testing.T) {
	root := newRoot(t)
	put(t, root, map[string]string{"reg.example/hosts.toml": "server = \"https://u\"\n# end\n" +
		"[host.\"https://a\"]\n", "e/": ""})
	before := treeOf(t, root)
	mustConfigure(t, testConfig(root))
	other := testConfig(root)
	other.Mirror = "http://127.0.0.1:30500/"
	if e := entryOf(t, mustConfigure(t, other), "reg.example"); e.Action != Written {
		t.Errorf("got %+v", e)
	}
	if got := read(t, filepath.Join(root, "reg.example/hosts.toml")); strings.Contains(got, "28500") ||
		!strings.Contains(got, "30500\"") {
		t.Errorf("got %q", got)
	}
	mustCleanup(t, root)
	if now := treeOf(t, root); now != before {
		t.Errorf("after cleaning up:\n%s\nbefore:\n%s", now, before)
	}
	mustConfigure(t, testConfig(root))
	if err := os.RemoveAll(filepath.Join(root, storeDir)); err != nil {
		t.Fatal(err)
	}
	if mustConfigure(t, testConfig(root)).Changed() {
		t.Error("lost records made files change")
	}
	if err := os.RemoveAll(filepath.Join(root, storeDir)); err != nil {
		t.Fatal(err)
	}
	mustCleanup(t, root)
	if now := treeOf(t, root); now != ". drwxr-xr-x\n_default drwxr-xr-x\n"+strings.TrimPrefix(before, ". drwxr-xr-x\n") {
		t.Errorf("after cleaning up without records:\n%s\nbefore:\n%s", now, before)
	}
}

// pieces are what random files are made of.
var pieces = []string{
	"server = \"https://u\"\n", "# c\n", "\n", "\r\n", "capabilities = [\"pull\"]\n", "ca = 'x.pem'\n",
	"skip_verify = true\r\n",
	"[host.\"https://a\"]\n", "[host.'https://b']\n", "[host.\"https://a\".header]\n", "x = \"y\"\n",
	"[header]\n", "[host]\n", "[[z]]\n",
	"override_path = true\n", "client = [[\"a\",\"b\"]]\n", "note = '''\n[host.\"q\"]\n'''\n", "[host.\"" +
		testMirror + "\"]\n",
	beginMark + "\n", endMark + "\n", entry(testMirror, "\n"), "host.x.y = 1\n", "  ", "\"", "=",
	"header = { a = \"b\" }\n", "# no end",
}

func randomFile(r *rand.Rand) string {
	var b strings.Builder
	for range r.IntN(9) {
		b.WriteString(pieces[r.IntN(len(pieces))])
	}
	return b.String()
}

// tries counts hosts. One that comes twice in a row counts once: what stood in between may have been the mirror.
func tries(hosts []hostView) int {
	names := make([]string, 0, len(hosts))
	for _, h := range hosts {
		names = append(names, h.Host+h.Path)
	}
	return len(slices.Compact(names))
}

// TestRandomTrees configures and cleans up directories of random content, once with a pass in between that has
// another mirror. What containerd understands is compared as well.
func TestRandomTrees(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	merged := 0
	for i := range 300 {
		root := newRoot(t)
		files := map[string]string{}
		for d := range 1 + r.IntN(3) {
			files[fmt.Sprintf("r%d/hosts.toml", d)] = randomFile(r)
		}
		put(t, root, files)
		before := treeOf(t, root)
		cfg := testConfig(root)
		views := map[string]view{}
		for d := range files {
			views[d] = askLinked(t, root, filepath.Dir(d))
		}
		result, _ := Configure(context.Background(), cfg)
		for d, content := range files {
			is, was := askLinked(t, root, filepath.Dir(d)), views[d]
			e := entryOf(t, result, filepath.Dir(d))
			if e.Err != nil || was.Error != "" || strings.Contains(content, "kioo") {
				continue
			}
			merged++
			if is.Error != "" || !isMirror(is.Hosts[0]) || tries(is.Hosts) != tries(withMirror(was)) {
				t.Fatalf("seed %d, %d: %s: got %+v, before %+v\n%s", seed, i, d, is, was, before)
			}
		}
		if r.IntN(2) == 0 {
			cfg.Mirror = "http://127.0.0.1:1"
			_, _ = Configure(context.Background(), cfg)
		}
		mustCleanup(t, root)
		if now := treeOf(t, root); now != before && !strings.Contains(before, "# kioo") {
			t.Fatalf("seed %d, %d: after cleaning up:\n%s\nbefore:\n%s", seed, i, now, before)
		}
	}
	if merged < 50 {
		t.Errorf("only %d of the files could be merged: the test shows little", merged)
	}
}

// FuzzMerge looks for files that a merge changes, or that it can't take its entry out of.
func FuzzMerge(f *testing.F) {
	for _, content := range awkward {
		f.Add([]byte(content))
	}
	for _, p := range pieces {
		f.Add([]byte(p))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		merged, err := merge(data, testMirror)
		if err != nil {
			return
		}
		root := newRoot(t)
		put(t, root, map[string]string{"r/hosts.toml": string(merged)})
		if v := askLinked(t, root, "r"); v.Error == "" && !isMirror(v.Hosts[0]) {
			t.Fatalf("containerd makes of it %+v", v)
		}
		again, err := merge(merged, testMirror)
		if err != nil || string(again) != string(merged) {
			t.Fatalf("merging again: error %v, %q became %q", err, merged, again)
		}
		if strings.Contains(string(data), "kioo") || strings.Contains(string(data), "28500") {
			return
		}
		rest, err := strip(merged, []string{testMirror}, true)
		if err != nil || string(rest) != string(data) && strings.TrimRight(string(rest), "\r\n") != string(data) {
			t.Fatalf("error %v, %q became %q", err, data, rest)
		}
	})
}
