package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"
)

// asKioo makes the test binary behave as kioo, for tests that need a process of its own.
const asKioo = "KIOO_TEST_RUN_MAIN"

var rewrite = flag.Bool("rewrite", false, "rewrite golden files; review the difference")

func TestMain(m *testing.M) {
	if os.Getenv(asKioo) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// call runs one command line to its end.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, streams{out: &out, err: &errs})
	return code, out.String(), errs.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs, after review run with -rewrite (-file +got):\n%s", path, diff)
	}
}

// flagTests has a test for every flag that proves its effect.
var flagTests = map[string]func(*testing.T){
	"kioo serve --config":           testServeConfig,
	"kioo serve --data-dir":         testServeDataDir,
	"kioo serve --listen":           testServeListen,
	"kioo serve --peer-listen":      testServePeerListen,
	"kioo serve --discovery-listen": testServeDiscoveryListen,
	"kioo serve --zone":             testServeZone,
	"kioo serve --node-name":        testServeNodeName,
	"kioo serve --check":            testServeCheck,
	"kioo serve --guide":            testServeGuide,
	"kioo configure --config":       testConfigureConfig,
	"kioo configure --certs-dir":    testConfigureCertsDir,
	"kioo configure --mirror":       testConfigureMirror,
	"kioo configure --registry":     testConfigureRegistry,
	"kioo cleanup --config":         testCleanupConfig,
	"kioo cleanup --certs-dir":      testCleanupCertsDir,
	"kioo cleanup --purge":          testCleanupPurge,
	"kioo cleanup --stay":           testCleanupStay,
	"kioo await --daemonset":        testAwaitDaemonSet,
	"kioo await --timeout":          testAwaitTimeout,
	"kioo await --kubeconfig":       testAwaitDaemonSet,
	"kioo check --config":           testCheckConfig,
	"kioo check --certs-dir":        testCheckCertsDir,
	"kioo check --mirror":           testCheckMirror,
	"kioo check --registry":         testCheckRegistry,
	"kioo check --host-root":        testCheckHostRoot,
	"kioo check --pull":             testCheckPull,
	"kioo check --output":           testCheckOutput,
	"kioo explain --config":         testExplainConfig,
	"kioo explain --output":         testExplainOutput,
	"kioo refresh --config":         testRefreshConfig,
	"kioo refresh --data-dir":       testControlDataDir,
	"kioo prefetch --config":        testPrefetchConfig,
	"kioo prefetch --data-dir":      testControlDataDir,
	"kioo prefetch --zone":          testPrefetchChoice,
	"kioo prefetch --copies":        testPrefetchChoice,
	"kioo prefetch --this-node":     testPrefetchChoice,
	"kioo verify --config":          testVerifyConfig,
	"kioo verify --data-dir":        testVerifyDataDir,
	"kioo version --output":         testVersionOutput,
}

func TestFlags(t *testing.T) {
	for name, test := range flagTests {
		t.Run(name, test)
	}
	have := make(map[string]bool)
	walk(newRoot(streams{}), func(cmd *cobra.Command) {
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			name := cmd.CommandPath() + " --" + f.Name
			have[name] = true
			if flagTests[name] == nil {
				t.Errorf("%s has no test", name)
			}
		})
	})
	for name := range flagTests {
		if !have[name] {
			t.Errorf("%s does not exist, so what is tested is something else", name)
		}
	}
}

func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, c := range cmd.Commands() {
		walk(c, visit)
	}
}

func TestHelpTeaches(t *testing.T) {
	walk(newRoot(streams{}), func(cmd *cobra.Command) {
		if cmd.Short == "" || cmd.Long == "" || !strings.Contains(cmd.Example, "kioo") {
			t.Errorf("%s lacks a short text, a long text or examples", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Long + "\n" + cmd.Example) {
			if len(line) > 101 {
				t.Errorf("%s: a line of its help is wider than a screen: %s", cmd.CommandPath(), line)
			}
		}
		code, stdout, stderr := call(t, append(strings.Fields(cmd.CommandPath())[1:], "--help")...)
		if code != exitOK || !strings.Contains(stdout, cmd.Long) || stderr != "" {
			t.Errorf("%s --help ends with %d and prints %q, %q", cmd.CommandPath(), code, stdout, stderr)
		}
	})
	if _, stdout, _ := call(t); !strings.Contains(stdout, "Available Commands:") {
		t.Errorf("kioo alone does not say what there is: %s", stdout)
	}
}

func TestUsageErrors(t *testing.T) {
	tests := map[string]string{
		"serv":                   "kioo: there is no command \"serv\", did you mean serve?\nRun 'kioo --help' for what there is.\n",
		"frobnicate":             "kioo: there is no command \"frobnicate\"\nRun 'kioo --help' for what there is.\n",
		"serve kioo.yaml":        "kioo: kioo serve takes flags only, got \"kioo.yaml\"\nRun 'kioo serve --help' for what there is.\n",
		"serve --conf kioo.yaml": "kioo: unknown flag: --conf\nRun 'kioo serve --help' for what there is.\n",
		"version -o xml":         "kioo: --output is \"xml\", expected text or json\nRun 'kioo version --help' for what there is.\n",
	}
	for line, want := range tests {
		code, stdout, stderr := call(t, strings.Fields(line)...)
		if code != exitUsage || stdout != "" || stderr != want {
			t.Errorf("kioo %s ends with %d and prints %q, %q; want %q", line, code, stdout, stderr, want)
		}
	}
}

func testVersionOutput(t *testing.T) {
	_, text, _ := call(t, "version")
	code, out, _ := call(t, "version", "-o", "json")
	var b build
	if err := json.Unmarshal([]byte(out), &b); err != nil || code != exitOK {
		t.Fatalf("version -o json ends with %d and prints %q: %v", code, out, err)
	}
	if b.Version == "" || b.GoVersion == "" || b.Platform == "" {
		t.Errorf("something is missing: %+v", b)
	}
	if !strings.HasPrefix(text, "kioo "+b.Version+" ") || !strings.HasSuffix(text, b.Platform+"\n") {
		t.Errorf("the text is %q, and the JSON %+v", text, b)
	}
}
