package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"
)

var rewrite = flag.Bool("rewrite", false, "rewrite golden files; review the difference")

const header = "apiVersion: kioo.dev/v1alpha1\nkind: MirrorConfiguration\n"

// golden compares got with a file, or writes it.
func golden(t *testing.T, path, got string) {
	t.Helper()
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

func TestInvalid(t *testing.T) {
	t.Chdir("testdata/invalid")
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no invalid files", err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(file, ".yaml"), func(t *testing.T) {
			_, err := Load(file)
			var report *Error
			if !errors.As(err, &report) {
				t.Fatalf("Load() = %v, want an *Error", err)
			}
			last := 0
			for _, p := range report.Problems {
				if p.Line < last {
					t.Errorf("problem of line %d comes after one of line %d", p.Line, last)
				}
				last = p.Line
			}
			text := strings.ReplaceAll(err.Error(), here, "DIR") + "\n"
			golden(t, strings.TrimSuffix(file, ".yaml")+".txt", text)
		})
	}
}

func TestValid(t *testing.T) {
	tests := map[string]struct {
		file string
		want func(*Config)
	}{
		"nothing said":      {"", func(*Config) {}},
		"sections of null":  {"mirror:\ncache:\n  # maxBytes: 1Gi\n", func(*Config) {}},
		"relative data dir": {"dataDir: data\n", func(c *Config) { c.DataDir = "/etc/kioo/data" }},
		"lists are replaced": {"mirror: {listen: ['[::1]:1']}\n", func(c *Config) {
			c.Mirror.Listen = []string{"[::1]:1"}
		}},
		"remote when allowed": {"mirror: {listen: [':1', '10.0.0.1:1'], allowRemote: true}\n", func(c *Config) {
			c.Mirror.Listen, c.Mirror.AllowRemote = []string{":1", "10.0.0.1:1"}, true
		}},
		"loopback in disguise": {"mirror: {listen: ['127.8.0.1:1', 'localhost:1', '[::ffff:127.0.0.1]:1']}\n", func(c *Config) {
			c.Mirror.Listen = []string{"127.8.0.1:1", "localhost:1", "[::ffff:127.0.0.1]:1"}
		}},
		"several free ports": {"mirror: {listen: ['127.0.0.1:0', '127.0.0.1:0']}\nmetrics: {listen: '127.0.0.1:0'}\n", func(c *Config) {
			c.Mirror.Listen, c.Metrics.Listen = []string{"127.0.0.1:0", "127.0.0.1:0"}, "127.0.0.1:0"
		}},
		"no metrics, no default": {"metrics: {listen: ''}\nmirror: {defaultRegistry: '', pathPrefix: /a/b}\n", func(c *Config) {
			c.Metrics.Listen, c.Mirror.DefaultRegistry, c.Mirror.PathPrefix = "", "", "/a/b"
		}},
		"names of servers": {"mirror: {hosts: ['Mirror.Example.COM.', '10.0.0.5', '2001:DB8::1']}\nmetrics: {hosts: [Node-1]}\nhealth: {listen: '[::1]:1'}\n", func(c *Config) {
			c.Mirror.Hosts, c.Metrics.Hosts = []string{"mirror.example.com", "10.0.0.5", "2001:db8::1"}, []string{"node-1"}
			c.Health.Listen = "[::1]:1"
		}},
		"no health, and a socket beside the file": {"health: {listen: ''}\ncontrol: {socket: c.sock}\n", func(c *Config) {
			c.Health.Listen, c.Control.Socket = "", "/etc/kioo/c.sock"
		}},
		"names become normal": {"mirror: {defaultRegistry: Index.Docker.IO}\nregistries: [{match: 'Quay.IO:0443'}]\n", func(c *Config) {
			r := DefaultRegistry()
			r.Match = "quay.io"
			c.Registries = []Registry{r}
		}},
		"quantities": {"cache: {maxBytes: 1.5Gi, maxBlobs: 0x10}\n", func(c *Config) {
			c.Cache.MaxBytes, c.Cache.MaxBlobs = 3<<29, 16
		}},
		"quantity without unit": {"cache: {maxBytes: 2097152}\n", func(c *Config) { c.Cache.MaxBytes = 2 << 20 }},
		"durations": {"tags: {rules: [{match: 'Quay.IO:*', freshFor: 1h30m, maxAge: 0}], negativeFor: 0}\n", func(c *Config) {
			c.Tags.NegativeFor = 0
			c.Tags.Rules = []TagRule{{Match: "quay.io:*", Policy: PeersFirst, FreshFor: 90 * time.Minute}}
		}},
		"registries": {
			"registries: [{match: quay.io, action: deny}, {match: '*', maxConcurrentRequests: 4, peers: false, maxBytesPerSecond: 1Mi, endpoints: [" +
				"{url: 'http://cache:5000/a', sendNamespace: true, repository: 'hub/{repository}'}, {url: 'https://{registry}', caFile: ca.pem}]}]\n",
			func(c *Config) {
				c.Registries = []Registry{
					{Match: "quay.io", Action: Deny, Peers: true, MaxConcurrentRequests: 32},
					{Match: "*", Action: Allow, MaxConcurrentRequests: 4, MaxBytesPerSecond: 1 << 20, Endpoints: []Endpoint{
						{URL: "http://cache:5000/a", SendNamespace: true, Repository: "hub/{repository}"},
						{URL: "https://{registry}", Repository: "{repository}", CAFile: "/etc/kioo/ca.pem"},
					}},
				}
			},
		},
		"events": {"events: {endpoints: [{url: 'https://e.example.com/x', authorizationFile: token}]}\n", func(c *Config) {
			c.Events.Endpoints = []EventEndpoint{{URL: "https://e.example.com/x", AuthorizationFile: "/etc/kioo/token", Timeout: 10 * time.Second}}
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) { parses(t, tt.file, tt.want) })
	}
}

// parses compares a file's meaning with the defaults and what it changes about them.
func parses(t *testing.T, file string, change func(*Config)) {
	t.Helper()
	got, err := Parse("/etc/kioo/kioo.yaml", []byte(header+file))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	change(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Parse() differs (-want +got):\n%s", diff)
	}
}

func TestValidateChangedConfig(t *testing.T) {
	c := Default()
	if err := c.Validate(); err != nil {
		t.Fatalf("the defaults are not valid: %v", err)
	}
	c.Mirror.Listen = []string{"0.0.0.0:28500"}
	err := c.Validate()
	want := `mirror.listen[0]: is "0.0.0.0:28500", which other machines can reach: ` +
		`take 127.0.0.1 or [::1], or set mirror.allowRemote`
	if err == nil || err.Error() != want {
		t.Errorf("Validate() = %v, want %s", err, want)
	}
}

func TestDefaultDataDir(t *testing.T) {
	if os.Geteuid() == 0 {
		if got := Default().DataDir; got != "/var/lib/kioo" {
			t.Errorf("root's data directory is %s", got)
		}
		return
	}
	t.Setenv("XDG_CACHE_HOME", "/home/u/cache")
	if got := Default().DataDir; got != "/home/u/cache/kioo" {
		t.Errorf("a user's data directory is %s", got)
	}
}

func TestLoadMissingFile(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "missing.yaml"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load() = %v, want one that says the file does not exist", err)
	}
}

func TestTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kioo.yaml")
	if err := os.WriteFile(path, []byte(header+strings.Repeat("#", maxFileSize)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "is larger than 1048576 bytes") {
		t.Errorf("Load() = %v, want a refusal for the size", err)
	}
}

// TestHostile holds the time and the length of the report down for files that were made to cost much.
func TestHostile(t *testing.T) {
	deep := strings.Repeat("[", 9000)
	var bomb strings.Builder
	bomb.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x]\n")
	for i := range 60 {
		n := string(rune('A' + i))
		bomb.WriteString("b" + n + ": &b" + n + " [*a0, *a0, *a0, *a0, *a0, *a0, *a0, *a0, *a0]\n")
	}
	many := make([]string, 100_000)
	for i := range many {
		many[i] = "x" + strings.Repeat("y", i%7)
	}
	tests := map[string]string{
		"nested":         header + "mirror: " + deep,
		"bomb":           bomb.String(),
		"unknown fields": strings.Join(many, ": 1\n") + ": 1\n",
		"long name":      header + strings.Repeat("n", maxFileSize/2) + ": 1\n",
		"long list":      header + "registries: [" + strings.Repeat("{},", maxListLength+1) + "]\n",
		"recursive":      header + "mirror: &m\n  listen: *m\n",
	}
	for name, file := range tests {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := Parse("kioo.yaml", []byte(file))
			if err == nil {
				t.Fatal("Parse() took it")
			}
			if n := len(err.Error()); n > 20_000 {
				t.Errorf("the report has %d characters", n)
			}
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("Parse() took %v", d)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/invalid/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, "../../docs/configuration.yaml") {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("/etc/kioo/kioo.yaml", data)
		if err != nil {
			var report *Error
			if !errors.As(err, &report) || len(report.Problems) == 0 || err.Error() == "" {
				t.Fatalf("Parse() = %v, want an *Error that says something", err)
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("what Parse took is not valid: %v", err)
		}
		written, err := yaml.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("/other/kioo.yaml", written)
		if err != nil {
			t.Fatalf("what Parse took can't be read again: %v\n%s", err, written)
		}
		// A list that is empty is written as one, whether or not it was given.
		if diff := cmp.Diff(c, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("writing and reading changed the configuration:\n%s", diff)
		}
	})
}
