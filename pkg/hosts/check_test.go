package hosts

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// node is a made-up node below one directory, on which all is well.
type node struct {
	dir string
	cfg CheckConfig
}

func newNode(t *testing.T) node {
	t.Helper()
	dir, err := os.MkdirTemp("", "n") // Short: a socket's path has at most 108 bytes.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	put(t, dir, map[string]string{
		"etc/containerd/certs.d/": "",
		"etc/containerd/config.toml": "version = 3\n" +
			"[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/etc/containerd/certs.d'\n",
		"var/lib/containerd/" + contentPlugin + "/": "",
		"run/containerd/": "",
	})
	l, err := net.Listen("unix", filepath.Join(dir, "run/containerd/containerd.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(mirror.Close)
	n := node{dir: dir, cfg: CheckConfig{
		Config:   Config{Root: filepath.Join(dir, "etc/containerd/certs.d"), NodeRoot: DefaultRoot, Mirror: mirror.URL},
		HostRoot: dir,
	}}
	mustConfigure(t, n.cfg.Config)
	return n
}

func (n node) check(t *testing.T) []Finding {
	t.Helper()
	before := treeOf(t, filepath.Join(n.dir, "etc"))
	findings, err := Check(context.Background(), n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if now := treeOf(t, filepath.Join(n.dir, "etc")); now != before {
		t.Errorf("checking changed\n%s\nto\n%s", before, now)
	}
	for _, f := range findings {
		if f.ID == "" || f.What == "" || f.Why == "" || f.Mend == "" {
			t.Errorf("something is missing in %+v", f)
		}
	}
	return findings
}

func TestCheck(t *testing.T) {
	const v2, v3 = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'",
		"version = 3\n[plugins.'io.containerd.cri.v1.images'"
	const path, both = "config_path = '/etc/containerd/certs.d'\n",
		"config_path = '/etc/containerd/certs.d:/etc/docker/certs.d'\n"
	for name, tc := range map[string]struct {
		version string
		config  string            // containerd's; "-" removes it, empty leaves the good one.
		files   map[string]string // Below the node's directory.
		change  func(*testing.T, *node)
		want    []string // Severity and ID.
		mend    string   // A part of the first one's remedy.
	}{
		"all is well":     {},
		"all is well, v2": {version: "1.7.35", config: v2 + ".registry]\n" + path},
		"migrated":        {version: "2.4.2", config: v2 + ".registry]\n" + path},
		"version 4":       {version: "2.4.2", config: strings.Replace(v3, "3", "4", 1) + ".registry]\n" + path},
		"no config": {
			config: "-",
			want:   []string{"problem config-path-missing", "warning config-missing"},
			mend: "version = 2\n\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n" +
				"  config_path = \"/etc/containerd/certs.d\"\n",
		},
		"no config, 2.4": {
			version: "v2.4.2",
			config:  "-",
			want:    []string{"problem config-path-missing", "warning config-missing"},
			mend:    "version = 3\n\n[plugins.\"io.containerd.cri.v1.images\".registry]",
		},
		"not TOML": {config: "= oops", want: []string{"problem config-unreadable"}},
		"missing, 1.7": {
			version: "1.7.35",
			config:  "version = 2\n",
			want:    []string{"problem config-path-missing"},
			mend:    "grpc.v1.cri\".registry]",
		},
		"missing, 2.4": {
			version: "2.4.2",
			config:  "version = 3\n",
			want:    []string{"problem config-path-missing"},
			mend:    "cri.v1.images\".registry]",
		},
		"missing, local": {
			version: "2.4.2",
			config:  v3 + "]\nuse_local_image_pull = true\n",
			want:    []string{"warning config-path-missing"},
		},
		"doubled": {config: v3 + ".registry]\n" + both, want: []string{"problem config-path-doubled"}},
		"doubled, 2.1": {
			version: "2.1.9",
			config:  v3 + ".registry]\n" + both,
			want:    []string{"problem config-path-doubled"},
		},
		"doubled, 2.0": {version: "2.0.14", config: v3 + ".registry]\n" + both},
		"doubled, 1.7": {version: "1.7.35", config: v2 + ".registry]\n" + both},
		"second, 1.7": {
			version: "1.7.35",
			config:  v2 + ".registry]\nconfig_path = '/x:/etc/containerd/certs.d'\n",
			want:    []string{"warning config-path-doubled"},
		},
		"doubled, discards": {
			version: "2.3.0",
			config:  v3 + "]\ndiscard_unpacked_layers = true\n[plugins.'io.containerd.cri.v1.images'.registry]\n" + both,
			want:    []string{"warning config-path-doubled", "note layers-discarded"},
		},
		"discards, 1.7": {
			version: "1.7.0",
			config: v2 + ".registry]\n" + path + "[plugins.'io.containerd.grpc.v1.cri'.containerd]\n" +
				"discard_unpacked_layers = true\n",
			want: []string{"note layers-discarded"},
		},
		"elsewhere": {
			config: v3 + ".registry]\nconfig_path = '/etc/elsewhere'\n",
			want:   []string{"problem config-path-elsewhere"},
			mend:   "set config_path",
		},
		"misplaced": {
			config: strings.Replace(v2, "2", "3", 1) + ".registry]\n" + path,
			want:   []string{"problem config-path-misplaced"},
			mend:   "cri.v1.images",
		},
		"new one in 1.7": {
			version: "1.7.35",
			config:  strings.Replace(v3, "3", "2", 1) + ".registry]\n" + path,
			want:    []string{"problem config-path-missing"},
		},
		"mirrors": {
			config: v3 + ".registry]\n" + path +
				"[plugins.'io.containerd.cri.v1.images'.registry.mirrors.'docker.io']\nendpoint = ['https://m']\n",
			want: []string{"problem mirrors-conflict"},
		},
		"tls, 1.7": {
			version: "1.7.35",
			config: v2 + ".registry]\n" + path +
				"[plugins.'io.containerd.grpc.v1.cri'.registry.configs.'r.example'.tls]\nca_file = 'x'\n",
			want: []string{"problem tls-conflict"},
		},
		"tls, 2.0": {
			version: "2.0.0",
			config: v2 + ".registry]\n" + path +
				"[plugins.'io.containerd.grpc.v1.cri'.registry.configs.'r.example'.tls]\nca_file = 'x'\n",
			want: []string{"warning tls-conflict"},
		},
		"auth only": {
			config: v2 + ".registry]\n" + path +
				"[plugins.'io.containerd.grpc.v1.cri'.registry.configs.'r.example'.auth]\nusername = 'x'\n",
		},
		"cri disabled": {
			config: "disabled_plugins = ['cri']\n" + v3 + ".registry]\n" + path,
			want:   []string{"problem cri-disabled"},
		},
		"imported": {config: "version = 3\nimports = ['conf.d/*.toml', '/etc/containerd/config.toml']\n",
			files: map[string]string{"etc/containerd/conf.d/a.toml": v3 + ".registry]\n" + path}},
		"imports replace, 1.7": {version: "1.7.35", config: "imports = ['/etc/containerd/conf.d/*.toml']\n" +
			v2 + ".registry]\n" + path,
			files: map[string]string{"etc/containerd/conf.d/a.toml": v2 + ".containerd]\nx = 1\n"},
			want:  []string{"problem config-path-missing"}},
		"imports merge, 2.4": {version: "2.4.2", config: "imports = ['/etc/containerd/conf.d/*.toml']\n" + v2 +
			".registry]\n" + path,
			files: map[string]string{"etc/containerd/conf.d/a.toml": v2 + ".containerd]\nx = 1\n"}},
		"imports, unknown": {config: "imports = ['/etc/containerd/conf.d/*.toml']\n" + v2 + ".registry]\n" + path,
			files: map[string]string{"etc/containerd/conf.d/a.toml": v2 + ".containerd]\nx = 1\n"},
			want:  []string{"warning imports-differ"}},
		"import missing": {
			config: "imports = ['gone.toml']\n",
			want:   []string{"problem config-path-missing", "warning config-missing"},
		},
		"old": {
			version: "1.7.35",
			config:  "[plugins.cri.registry]\n" + path,
			want:    []string{"warning config-old"},
			mend:    "migrate",
		},
		"hidden": {
			files: map[string]string{"etc/containerd/certs.d/r.example/": ""},
			want:  []string{"problem hosts-missing"},
			mend:  "kioo configure",
		},
		"not ours": {
			files: map[string]string{"etc/containerd/certs.d/r.example/hosts.toml": "server = 'https://u'\n"},
			want:  []string{"problem mirror-not-first"},
		},
		"not mendable": {files: map[string]string{"etc/containerd/certs.d/r.example/hosts.toml": "host = {}\n"},
			want: []string{"problem mirror-not-first"}, mend: "Correct the file"},
		"invalid file": {
			files: map[string]string{"etc/containerd/certs.d/r.example/hosts.toml": "= oops"},
			want:  []string{"problem hosts-invalid"},
		},
		"no mirror": {
			change: func(_ *testing.T, n *node) { n.cfg.Mirror = "http://127.0.0.1:1" },
			want:   []string{"problem mirror-not-first", "problem mirror-silent"},
		},
		"no root": {
			change: func(_ *testing.T, n *node) { os.RemoveAll(n.cfg.Root) },
			want:   []string{"problem hosts-missing"},
		},
		"socket": {
			change: func(_ *testing.T, n *node) { n.cfg.Socket = n.dir + "/no.sock" },
			want:   []string{"problem socket-unreachable"},
		},
		"other socket": {
			config: v3 + ".registry]\n" + path + "[grpc]\naddress = '/run/other.sock'\n",
			want:   []string{"problem socket-unreachable"},
		},
		"socket, v4": {
			config: strings.Replace(v3, "3", "4", 1) + ".registry]\n" + path +
				"[plugins.'io.containerd.server.v1.grpc']\naddress = '/run/other.sock'\n",
			want: []string{"problem socket-unreachable"},
		},
		"content": {
			config: "root = '/var/lib/other'\n" + v3 + ".registry]\n" + path,
			want:   []string{"warning content-unreadable"},
			mend:   "/var/lib/other/" + contentPlugin,
		},
		"probe": {change: func(_ *testing.T, n *node) {
			n.cfg.Probe = func(context.Context) error { return errors.New("it did not") }
		}, want: []string{"problem pull-missed-mirror"}},
		"probe, well": {
			change: func(_ *testing.T, n *node) { n.cfg.Probe = func(context.Context) error { return nil } },
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.cfg.Version = tc.version
			switch tc.config {
			case "":
			case "-":
				os.Remove(filepath.Join(n.dir, "etc/containerd/config.toml"))
			default:
				put(t, n.dir, map[string]string{"etc/containerd/config.toml": tc.config})
			}
			put(t, n.dir, tc.files)
			if tc.change != nil {
				tc.change(t, &n)
			}
			findings := n.check(t)
			var got []string
			for _, f := range findings {
				got = append(got, f.Severity.String()+" "+f.ID)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q: %+v", got, tc.want, findings)
			}
			if tc.mend != "" && (len(findings) == 0 || !strings.Contains(findings[0].Mend, tc.mend)) {
				t.Errorf("no %q in %+v", tc.mend, findings)
			}
		})
	}
}

// TestCheckHostsFiles is about hosts.toml files that have the mirror, and something else that hurts.
func TestCheckHostsFiles(t *testing.T) {
	cert, _ := certificate(t)
	for name, tc := range map[string]struct {
		version, content string
		want             []string
	}{
		"referrers, 2.1": {
			"2.1.0",
			"[host.'https://a']\ncapabilities = ['pull', 'referrers']\n",
			[]string{"capability-unknown"},
		},
		"referrers, 2.2": {"2.2.0", "[host.'https://a']\ncapabilities = ['pull', 'referrers']\n", nil},
		"timeout, 2.0":   {"2.0.14", "[host.'http://a']\ndial_timeout = '1s'\n", []string{"dial-timeout"}},
		"timeout, 2.1":   {"2.1.0", "[host.'http://a']\ndial_timeout = '1s'\n", nil},
		"ca": {
			"",
			"ca = ['no.crt', 'ca.crt', '/etc/containerd/certs.d/r.example/ca.crt', '/etc/gone.crt']\n",
			[]string{"certificate-missing", "certificate-missing"},
		},
		"client": {
			"",
			"[host.'https://a']\nclient = [['ca.crt', 'no.key']]\n",
			[]string{"certificate-missing"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.cfg.Version = tc.version
			put(t, n.cfg.Root, map[string]string{"r.example/hosts.toml": tc.content, "r.example/ca.crt": cert})
			mustConfigure(t, n.cfg.Config)
			var got []string
			for _, f := range n.check(t) {
				got = append(got, f.ID)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestCheckRefusesNonsense(t *testing.T) {
	for _, cfg := range []CheckConfig{{}, {Config: Config{Mirror: testMirror}, Version: "new"},
		{Config: Config{Mirror: "x"}}} {
		if _, err := Check(context.Background(), cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
	n := newNode(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Check(ctx, n.cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
