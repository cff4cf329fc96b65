package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kioo-dev/kioo/pkg/config"
)

// member writes the configuration of a member, but for what differs from node to node, and its key.
func member(t *testing.T, more string) string {
	t.Helper()
	path := file(t, "peers: {keyFiles: [cluster.key]}\n"+more)
	key := filepath.Join(filepath.Dir(path), "cluster.key")
	if err := os.WriteFile(key, []byte(must(t, "key")), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const aMember = "--peer-listen=10.0.0.5 --discovery-listen=10.0.0.5"

// checked tells what a check of this command line says is wrong.
func checked(t *testing.T, path, flags string) string {
	t.Helper()
	code, _, stderr := call(t, append([]string{"serve", "--check", "--config", path}, strings.Fields(flags)...)...)
	if (code == exitOK) != (stderr == "") {
		t.Errorf("it ends with %d and prints %q", code, stderr)
	}
	return stderr
}

func testServePeerListen(t *testing.T) {
	path := member(t, "")
	if got := checked(t, path, "--discovery-listen=10.0.0.5"); !strings.Contains(got, ": peers.listen: is missing") {
		t.Errorf("without the flag it says %q", got)
	}
	if got := checked(t, path, aMember); got != "" {
		t.Errorf("with the flag it says %q", got)
	}
	if got := checked(t, path, aMember+" --peer-listen=node"); !strings.Contains(got, "peers.listen[1]: is \"node\"") {
		t.Errorf("of a name it says %q", got)
	}
	flags := configFlags{file: path, peerListen: []string{"10.0.0.5", "[fd00::5]"}, discoveryListen: []string{"10.0.0.5"}}
	cfg, err := flags.load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"10.0.0.5:28501", "[fd00::5]:28501"}, cfg.Peers.Listen); diff != "" {
		t.Errorf("the addresses differ (-want +got):\n%s", diff)
	}
}

func testServeDiscoveryListen(t *testing.T) {
	path := member(t, "")
	if got := checked(t, path, "--peer-listen=10.0.0.5"); !strings.Contains(got, ": discovery.listen: is missing") {
		t.Errorf("without the flag it says %q", got)
	}
	if got := checked(t, path, "--peer-listen=10.0.0.5,fd00::5 --discovery-listen=10.0.0.5,fd00::5"); got != "" {
		t.Errorf("with the flag it says %q", got)
	}
	if got := checked(t, path, "--peer-listen=10.0.0.5 --discovery-listen=0.0.0.0"); !strings.Contains(got, "discovery.listen[0]: ") {
		t.Errorf("of every address it says %q", got)
	}
	// What the file says instead does not matter, even if it is wrong.
	path = member(t, "discovery: {listen: [nonsense]}\n")
	if got := checked(t, path, aMember); got != "" {
		t.Errorf("with the flag instead of nonsense it says %q", got)
	}
}

func testServeZone(t *testing.T) {
	flags := configFlags{file: file(t, "peers: {zone: b}\n"), zone: "a"}
	cfg, err := flags.load()
	if err != nil || cfg.Peers.Zone != "a" {
		t.Fatalf("the zone is not the flag's: %v", err)
	}
	if got := checked(t, flags.file, "--zone=a"); got != "" {
		t.Errorf("it says %q", got)
	}
	if got := checked(t, flags.file, "--zone=a/b"); !strings.Contains(got, `peers.zone: is "a/b"`) {
		t.Errorf("of a zone that is none it says %q", got)
	}
}

func testServeNodeName(t *testing.T) {
	flags := configFlags{file: file(t, "kubernetes: {nodeName: b}\n"), nodeName: "a.example.com"}
	cfg, err := flags.load()
	if err != nil || cfg.Kubernetes.NodeName != "a.example.com" {
		t.Fatalf("the node's name is not the flag's: %v", err)
	}
	if got := checked(t, flags.file, "--node-name=A_b"); !strings.Contains(got, `kubernetes.nodeName: is "A_b"`) {
		t.Errorf("of a name that no node has it says %q", got)
	}
}

func TestServeChecksKeys(t *testing.T) {
	path := member(t, "")
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "cluster.key"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := checked(t, path, aMember)
	if !strings.HasPrefix(got, "kioo: peers.keyFiles: ") || !strings.Contains(got, "cluster.key") || strings.Contains(got, "secret") {
		t.Errorf("of a file that holds no key it says %q", got)
	}
}

// TestOtherCommands take the configuration of a member that leaves to the flags of serve what they leave.
func TestOtherCommands(t *testing.T) {
	flags := configFlags{file: member(t, "tags: {negativeFor: 3s}\n"), dataDir: "/data"}
	cfg, err := flags.loadAlone()
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.DataDir, want.Metrics.Listen, want.Health.Listen, want.Tags.NegativeFor = "/data", "", "", 3e9
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Errorf("the configuration differs (-want +got):\n%s", diff)
	}
}
