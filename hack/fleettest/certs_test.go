package fleettest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kioo-dev/kioo/hack/fleet"
)

// certsDir: containerd goes where its registry directory says, and kioo configure and kioo cleanup say it.
func certsDir(t *testing.T, f *fleet.Fleet) {
	n := f.Nodes[1]
	file := filepath.Join(n.CertsDir(), f.Upstream.Host(), "hosts.toml")
	run := func(command string) {
		t.Helper()
		if _, err := n.Output(t.Context(), n.Program, command, "--config", n.ConfigFile()); err != nil {
			t.Fatal(err)
		}
	}
	hasMirror := func() bool {
		text, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(text), fleet.MirrorAddr)
	}
	pulledBy := func(name, want string) {
		t.Helper()
		push(t, f, "org/certs:"+name, 20_000)
		f.Upstream.Forget()
		pull(t, n, f.Upstream.Image("org/certs:"+name))
		if agents := asked(f); len(agents) != 1 || !agents[want] {
			t.Errorf("%s: upstream was asked by %v, want %s alone", name, agents, want)
		}
	}
	pulledBy("configured", "kioo")
	if err := n.StopKioo(); err != nil {
		t.Error(err)
	}
	pulledBy("stopped", "containerd")
	run("cleanup")
	if text, err := os.ReadFile(file); err != nil || string(text) != "server = \""+f.Upstream.URL()+"\"\n" {
		t.Errorf("kioo cleanup leaves %q, %v", text, err)
	}
	pulledBy("cleaned", "containerd")
	run("configure")
	if !hasMirror() {
		t.Error("kioo configure wrote no mirror")
	}
	if err := n.StartKioo(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitMembers(t, n, len(f.Nodes)-1)
	pulledBy("again", "kioo")
	if err := os.WriteFile(file, []byte("server = \""+f.Upstream.URL()+"\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, settleTime, "the mirror put itself back", hasMirror)
	pulledBy("healed", "kioo")
}
