package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestValidFleet(t *testing.T) {
	keys := []string{"/etc/kioo/a.key"}
	member := func(c *Config) {
		c.Peers.KeyFiles, c.Peers.Listen, c.Discovery.Listen = keys, []string{"10.0.0.5:28501"}, []string{"10.0.0.5:28502"}
	}
	tests := map[string]struct {
		file string
		want func(*Config)
	}{
		"containerd": {
			"containerd: {address: 'unix:///run/c.sock', contentDir: content, certsDir: /certs.d, namespaces: [a, b-c.d], " +
				"registries: [Index.Docker.IO, 'localhost:5000']}\n",
			func(c *Config) {
				c.Containerd = Containerd{
					Address: "/run/c.sock", ContentDir: "/etc/kioo/content", CertsDir: "/certs.d",
					Namespaces: []string{"a", "b-c.d"}, Registries: []string{"docker.io", "localhost:5000"},
					ConfigFile: "/etc/containerd/config.toml",
				}
			},
		},
		"ports and brackets may lack": {
			"peers: {keyFiles: [a.key], listen: [10.0.0.5]}\ndiscovery: {listen: ['[10.0.0.5]']}\n", member,
		},
		"one form": {
			"peers: {keyFiles: [a.key], listen: ['[10.0.0.5]:28501']}\ndiscovery: {listen: ['::ffff:10.0.0.5']}\n", member,
		},
		"both families": {"discovery: {listen: ['fd00::1', '[fd00::1]:2', '10.0.0.5:2']}\n", func(c *Config) {
			c.Discovery.Listen = []string{"[fd00::1]:28502", "[fd00::1]:2", "10.0.0.5:2"}
		}},
		"any address, told another": {
			"peers: {listen: [':28501'], advertise: ['node-1.example.com:443', '[fd00::1]:28501']}\n",
			func(c *Config) {
				c.Peers.Listen = []string{"[::]:28501"}
				c.Peers.Advertise = []string{"node-1.example.com:443", "[fd00::1]:28501"}
			},
		},
		"listen without a key": {"peers: {listen: [10.0.0.5]}\n", func(c *Config) {
			c.Peers.Listen = []string{"10.0.0.5:28501"}
		}},
		"free ports": {"peers: {listen: ['127.0.0.1:0']}\ndiscovery: {listen: ['127.0.0.1:0', '127.0.0.1:0']}\n", func(c *Config) {
			c.Peers.Listen, c.Discovery.Listen = []string{"127.0.0.1:0"}, []string{"127.0.0.1:0", "127.0.0.1:0"}
		}},
		"bounds of uploads": {
			"peers: {zone: eu-central-1a, uploadSlots: 1, uploadQueue: 1, maxUploadBytesPerSecond: 64Ki, maxDownloadBytesPerSecond: 128Ki}\n",
			func(c *Config) {
				c.Peers = Peers{Zone: "eu-central-1a", UploadSlots: 1, UploadQueue: 1, MaxUploadBytesPerSecond: 64 << 10, MaxDownloadBytesPerSecond: 128 << 10}
			},
		},
		"bootstrap": {"discovery: {bootstrap: {addresses: ['10.0.0.1', '[fd00::1]:9'], dns: _dht._tcp.kioo.svc.}}\n", func(c *Config) {
			c.Discovery.Bootstrap = Bootstrap{Addresses: []string{"10.0.0.1:28502", "[fd00::1]:9"}, DNS: "_dht._tcp.kioo.svc."}
		}},
		"keep": {"cache: {keep: never}\n", func(c *Config) { c.Cache.Keep = KeepNever }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) { parses(t, tt.file, tt.want) })
	}
}

func TestMirrorURL(t *testing.T) {
	tests := map[string]string{
		"127.0.0.1:28500": "http://127.0.0.1:28500",
		"localhost:1":     "http://localhost:1",
		"[::1]:1":         "http://[::1]:1",
		":1":              "http://127.0.0.1:1",
		"[::]:1":          "http://127.0.0.1:1",
		"0.0.0.0:1":       "http://127.0.0.1:1",
		"10.0.0.1:1":      "http://10.0.0.1:1",
		"127.0.0.1:0":     "",
	}
	for listen, want := range tests {
		m := Mirror{Listen: []string{listen, "127.0.0.9:9"}}
		if got := m.URL(); got != want {
			t.Errorf("URL() of %s = %q, want %q", listen, got, want)
		}
	}
	m := Mirror{Listen: []string{"127.0.0.1:1"}, PathPrefix: "/a/b"}
	if got := m.URL(); got != "http://127.0.0.1:1/a/b" {
		t.Errorf("URL() with a prefix = %q", got)
	}
	if got := new(Mirror).URL(); got != "" {
		t.Errorf("URL() without an address = %q", got)
	}
}

func TestFleetAddresses(t *testing.T) {
	c, err := Parse("kioo.yaml", []byte(header+"peers: {listen: [10.0.0.5]}\n"+
		"discovery: {listen: ['fd00::1', '10.0.0.5:1'], bootstrap: {addresses: [10.0.0.6], dns: 'kioo.svc:7'}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for want, got := range map[string][]netip.AddrPort{
		"10.0.0.5:28501":             c.Peers.Addrs(),
		"[fd00::1]:28502 10.0.0.5:1": c.Discovery.Addrs(),
		"10.0.0.6:28502":             c.Discovery.Bootstrap.Addrs(),
	} {
		var texts []string
		for _, a := range got {
			texts = append(texts, a.String())
		}
		if text := strings.Join(texts, " "); text != want {
			t.Errorf("Addrs() = %s, want %s", text, want)
		}
	}
	if name, port := c.Discovery.Bootstrap.Name(); name != "kioo.svc" || port != 7 {
		t.Errorf("Name() = %s, %d", name, port)
	}
	b := Bootstrap{DNS: "_dht._tcp.kioo.svc"}
	if name, port := b.Name(); name != b.DNS || port != 0 {
		t.Errorf("Name() of SRV records = %s, %d", name, port)
	}
	if name, port := new(Bootstrap).Name(); name != "" || port != 0 {
		t.Errorf("Name() of nothing = %s, %d", name, port)
	}
}

// TestLoadLater leaves fields to the caller, and nothing else.
func TestLoadLater(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kioo.yaml")
	file := header + "peers:\n  keyFiles: [kioo.yaml]\n  listen: [nonsense]\n"
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(path, "peers.listen")
	want := path + ":1: discovery.listen: is missing, required with peers.keyFiles: an address of this node that other members reach"
	if err == nil || err.Error() != want {
		t.Errorf("Load() = %v, want %s", err, want)
	}
	c, err := Load(path, "peers.listen", "discovery.listen")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("Validate() = %v, want what is wrong with both fields", err)
	}
	c.Peers.Listen, c.Discovery.Listen = []string{"10.0.0.5"}, []string{"10.0.0.5"}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}
