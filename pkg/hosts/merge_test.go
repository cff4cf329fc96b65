package hosts

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// certificate makes a self-signed certificate and its key, in PEM.
func certificate(t testing.TB) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true,
		NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// awkward are files that containerd takes, and that the mirror must get into without changing their meaning.
var awkward = map[string]string{
	"empty":              "",
	"white space":        "\n\n  \n",
	"comment, no end":    "# nothing here",
	"server":             "server = \"https://up.example\"\n",
	"server, no end":     `server = "https://up.example"`,
	"server without //":  `server = "up.example:5000/some/path"`,
	"one host":           "[host.\"https://a.example\"]\n  capabilities = [\"pull\"]\n",
	"order":              "[host.\"https://z\"]\n[host.\"https://a\"]\n[host.\"https://m\"]\n",
	"crlf":               "server = \"https://u\"\r\n\r\n# note\r\n[host.\"https://a\"]\r\ncapabilities = [\"pull\"]\r\n",
	"crlf, only root":    "server = \"https://u\"\r\n",
	"mixed line ends":    "server = \"https://u\"\n[host.\"https://a\"]\r\nskip_verify = true\n",
	"literal quotes":     "server = 'https://u'\n[host.'https://a']\ncapabilities = ['pull', 'resolve']\n",
	"bare key":           "[host.mirror]\noverride_path = true\n[host.other]\n",
	"escapes":            "[host.\"https://\\u0061.example\"]\n",
	"quoted host":        "[\"host\".\"https://a\"]\n[ 'host' . 'https://b' ]\n",
	"spaces":             "  [ host . \"https://a\" ]  # trailing\n\tcapabilities = [ \"pull\" , ]\n",
	"header":             "[host.\"https://a\".header]\n\"X-A\" = \"b\"\n[host.\"https://a\"]\nskip_verify = true\n",
	"header table":       "[host.\"https://a\"]\n[host.\"https://a\".header]\nX-A = [\"b\", \"c\"]\n",
	"inline header":      "[host.\"https://a\"]\nheader = { X-A = \"b\", \"X-C\" = [\"d\"] }\n",
	"dotted header":      "[host.\"https://a\"]\nheader.X-A = \"b\"\nheader.\"X-B\" = [\"c\"]\n",
	"root header":        "server = \"https://u\"\n[header]\nX-A = \"b\"\n[host.\"https://a\"]\n",
	"header after all":   "[host.\"https://a\"]\n[header]\nX-A = \"b\"\n",
	"dotted root header": "header.X-A = \"b\"\n[host.\"https://a\"]\n",
	"host table":         "[host]\n[host.\"https://a\"]\n",
	"override":           "[host.\"https://a/v2/x\"]\noverride_path = true\n[host.\"https://b/x\"]\n",
	"unknown keys": "color = 1\n[host.\"https://a\"]\nrewrite = { a = \"b\" }\n" +
		"since = 1979-05-27T07:32:00Z\n[other]\nx = 1.5\n",
	"array of tables":   "[[plugin]]\nx = 1\n[[plugin]]\nx = 2\n[host.\"https://a\"]\n",
	"host in a string":  "note = \"\"\"\n[host.\"https://x\"]\n\"\"\"\n[host.\"https://a\"]\n",
	"host in a comment": "#[host.\"https://x\"]\n\n#x\n[host.\"https://a\"]\n",
	"long array": "capabilities = [\n  # why\n  \"pull\",\n  \"push\", # and\n]\n[host.\"https://a\"]\n" +
		"capabilities = [\n\"pull\",\n]",
	"apart": "[host.\"https://a\"]\n[host.\"https://b\"]\n[host.\"https://a\".header]\nx = \"y\"\n",
	"certificates": "ca = \"ca.crt\"\n[host.\"https://a\"]\nca = [\"ca.crt\"]\n" +
		"client = [[\"c.cert\", \"c.key\"]]\nskip_verify = true\n",
	"own directory": "server = \"https://u\"\n[host.\"http://10.0.0.1:5000\"]\n" +
		"capabilities = [\"pull\", \"resolve\"]\nskip_verify = true\n",
	"upper case":        "Server = \"https://u\"\n[host.\"https://a\"]\nCapabilities = [\"PULL\"]\n",
	"no hosts, empty":   "[host]\n",
	"mirror of another": "server = \"http://127.0.0.1:28501\"\n[host.\"http://127.0.0.1:28501\"]\n",
	"unicode":           "# größer ☃\n[host.\"https://ä.example\"]\n",
}

// ignoredBy17 are files that containerd 1.7 could not read to begin with, so that it goes on as without them.
var ignoredBy17 = map[string]bool{"TestMergeKeepsMeaning/escapes": true}

// withMirror makes place for the mirror in what a parser saw before. A file may have had it somewhere already.
func withMirror(v view) []hostView {
	out := []hostView{{}}
	for _, h := range v.Hosts {
		if h.Host != "127.0.0.1:28500" {
			out = append(out, h)
		}
	}
	return out
}

// checkRoundTrip configures a root, asks all parsers whether the mirror comes first and all else is as before, and
// cleans up again.
func checkRoundTrip(t *testing.T, root string, list []parser, hosts ...string) {
	t.Helper()
	before := treeOf(t, root)
	views := map[string]view{}
	for _, p := range list {
		for _, host := range hosts {
			views[p.name+host] = p.ask(t, root, host)
		}
	}
	mustConfigure(t, testConfig(root))
	configured := treeOf(t, root)
	for _, p := range list {
		for _, host := range hosts {
			was, is := views[p.name+host], p.ask(t, root, host)
			if p.name == "containerd17" && host == "reg.example" && ignoredBy17[t.Name()] {
				if !reflect.DeepEqual(is, was) {
					t.Errorf("%s: %s: got %+v, want %+v", p.name, host, is, was)
				}
				continue
			}
			if was.Error != "" || is.Error != "" {
				t.Fatalf("%s: %s: before %q, after %q", p.name, host, was.Error, is.Error)
			}
			want := withMirror(was)
			if len(is.Hosts) == 0 || !isMirror(is.Hosts[0]) {
				t.Fatalf("%s: %s: the mirror is not first: %+v\n%s", p.name, host, is.Hosts, configured)
			}
			want[0] = is.Hosts[0]
			if !reflect.DeepEqual(is.Hosts, want) {
				t.Fatalf("%s: %s:\n got %+v\nwant %+v\n%s", p.name, host, is.Hosts, want, configured)
			}
		}
	}
	if result := mustConfigure(t, testConfig(root)); result.Changed() {
		t.Errorf("configuring twice changed something: %+v", result)
	}
	if now := treeOf(t, root); now != configured {
		t.Errorf("configuring twice gave\n%s\ninstead of\n%s", now, configured)
	}
	mustCleanup(t, root)
	if now := treeOf(t, root); now != before {
		t.Errorf("after cleaning up:\n%s\nbefore:\n%s", now, before)
	}
}

func TestMergeKeepsMeaning(t *testing.T) {
	list := parsers(t)
	cert, key := certificate(t)
	for name, content := range awkward {
		t.Run(name, func(t *testing.T) {
			root := newRoot(t)
			put(t, root, map[string]string{
				"reg.example/hosts.toml": content, "reg.example/ca.crt": cert, "reg.example/c.cert": cert, "reg.example/c.key": key,
			})
			checkRoundTrip(t, root, list, "reg.example", "other.example", "docker.io")
		})
	}
}

func TestMergeLeavesEveryOtherByte(t *testing.T) {
	for name, content := range awkward {
		merged, err := merge([]byte(content), testMirror)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		rest := strings.Replace(strings.Replace(string(merged), entry(testMirror, "\n"), "", 1),
			entry(testMirror, "\r\n"), "", 1)
		if rest != content && strings.TrimRight(rest, "\r\n") != content {
			t.Errorf("%s: %q became %q", name, content, rest)
		}
	}
}

func TestLayoutsOfDirectories(t *testing.T) {
	list := parsers(t)
	cert, key := certificate(t)
	both := cert + key
	for name, files := range map[string]map[string]string{
		"nothing": {},
		"default": {"_default/hosts.toml": "server = \"https://u\"\n"},
		"default and own": {
			"_default/hosts.toml":    "[host.\"https://a\"]\n",
			"reg.example/hosts.toml": "server = \"https://u\"\n",
		},
		"only certificates": {
			"reg.example/ca.crt": cert,
			"reg.example/x.crt":  cert,
			"reg.example/c.cert": cert,
			"reg.example/c.key":  key,
		},
		"no key":           {"reg.example/a.cert": both, "reg.example/c.cert": cert, "reg.example/c.key": key},
		"default has them": {"_default/ca.crt": cert},
		"empty hides":      {"_default/hosts.toml": "[host.\"https://a\"]\n", "reg.example/": ""},
		"port": {
			"reg.example_5000_/hosts.toml": "[host.\"https://a\"]\n",
			"reg.example:5000/hosts.toml":  "[host.\"https://b\"]\n",
		},
		"port, other name": {"reg.example:5000/ca.crt": cert},
		"others' and hidden": {
			"_backup/reg.example/hosts.toml": "x",
			".git/config":                    "y",
			"stray.crt":                      cert,
			"..data/hosts.toml":              "z",
		},
		"empty file, certs": {"reg.example/hosts.toml": "", "reg.example/ca.crt": cert},
		"localhost":         {"localhost:5000/ca.crt": cert, "localhost/": ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := newRoot(t)
			put(t, root, files)
			checkRoundTrip(t, root, list, "reg.example", "reg.example:5000", "docker.io", "localhost:5000", "localhost")
		})
	}
}

// TestListedRegistryKeepsDefault is about directories that we create: they hide _default, so they repeat it.
func TestListedRegistryKeepsDefault(t *testing.T) {
	list := parsers(t)
	cert, key := certificate(t)
	for name, files := range map[string]map[string]string{
		"none": {},
		"paths": {
			"_default/hosts.toml": "ca = \"ca.crt\"\nserver = \"https://u\"\n[host.\"https://a/x\"]\n" +
				"capabilities = [\"pull\"]\noverride_path = true\n" +
				"client = [[\"c.cert\", \"c.key\"]]\nskip_verify = true\n[host.\"https://a/x\".header]\n" +
				"\"X-A\" = [\"b\\\\\", \"\\t\\\"\"]\n[host.b]\n",
			"_default/ca.crt": cert, "_default/c.cert": cert, "_default/c.key": key,
		},
		"root header": {
			"_default/hosts.toml": "[header]\nX = \"y\"\n[host.\"https://a\"]\ndial_timeout = \"1s\"\n",
		},
		"certificates":  {"_default/ca.crt": cert, "_default/c.cert": cert, "_default/c.key": key},
		"invalid":       {"_default/hosts.toml": "= nonsense", "_default/ca.crt": cert},
		"ours is there": {"reg.example_5000_/hosts.toml": "[host.\"https://a\"]\n"},
		"other form":    {"reg.example:5000/hosts.toml": "[host.\"https://a\"]\n"},
	} {
		t.Run(name, func(t *testing.T) {
			root := newRoot(t)
			put(t, root, files)
			before := treeOf(t, root)
			hosts := []string{"reg.example:5000", "docker.io", "other.example"}
			views := map[string]view{}
			for _, p := range list {
				for _, h := range hosts {
					views[p.name+h] = p.ask(t, root, h)
				}
			}
			cfg := testConfig(root)
			cfg.Registries = []string{"reg.example:5000", "index.docker.io"}
			mustConfigure(t, cfg)
			for _, p := range list {
				for i, h := range hosts {
					is, want := p.ask(t, root, h), views[p.name+h].Hosts
					if i < 2 {
						if len(is.Hosts) == 0 || !isMirror(is.Hosts[0]) {
							t.Fatalf("%s: %s: the mirror is not first: %+v", p.name, h, is)
						}
						is.Hosts = is.Hosts[1:]
					}
					if !reflect.DeepEqual(is.Hosts, want) {
						t.Errorf("%s: %s:\n got %+v\nwant %+v\n%s", p.name, h, is.Hosts, want, treeOf(t, root))
					}
				}
			}
			if mustConfigure(t, cfg).Changed() {
				t.Error("configuring twice changed something")
			}
			// All of them now, then some again: what is no longer asked for goes back.
			listed := treeOf(t, root)
			if _, err := Configure(context.Background(), testConfig(root)); (err != nil) != (name == "invalid") {
				t.Fatal(err)
			}
			mustConfigure(t, cfg)
			if now := treeOf(t, root); !strings.Contains(name, "invalid") && !sameButRecords(now, listed) {
				t.Errorf("listed again:\n%s\nat first:\n%s", now, listed)
			}
			mustCleanup(t, root)
			if now := treeOf(t, root); now != before {
				t.Errorf("after cleaning up:\n%s\nbefore:\n%s", now, before)
			}
		})
	}
}

func sameButRecords(a, b string) bool {
	strip := func(s string) string {
		var kept []string
		for line := range strings.Lines(s) {
			if !strings.HasPrefix(line, storeDir) {
				kept = append(kept, line)
			}
		}
		return strings.Join(kept, "")
	}
	return strip(a) == strip(b)
}

func TestOwnEntryIsReplacedAndComesBack(t *testing.T) {
	for name, content := range map[string]string{
		"last":        "[host.\"https://a\"]\n[host.\"" + testMirror + "\"]\ncapabilities = [\"pull\"]\n",
		"slash":       "[host.\"" + testMirror + "/\"]\nskip_verify = true\n# end\n",
		"with header": "[host.'" + testMirror + "']\n# c\n[host.'" + testMirror + "'.header]\nx = 'y'\n\n[host.b]\n",
	} {
		t.Run(name, func(t *testing.T) {
			root := newRoot(t)
			put(t, root, map[string]string{"reg.example/hosts.toml": content})
			checkRoundTrip(t, root, parsers(t)[:1], "reg.example")
		})
	}
}

func TestRefusedFilesAreNotTouched(t *testing.T) {
	for name, content := range map[string]string{
		"no TOML":            "server = \n",
		"latin 1":            "# gr\xf6\xdfer\nserver = \"https://u\"\n",
		"utf-16":             "\xff\xfes\x00e\x00r\x00",
		"byte order mark":    "\xef\xbb\xbfserver = \"https://u\"\n",
		"zeros":              "\x00\x00\x00",
		"capability":         "[host.\"https://a\"]\ncapabilities = [\"pull\", \"fly\"]\n",
		"wrong type":         "server = 7\n",
		"bad client":         "client = [[\"a\", \"b\", \"c\"]]\n",
		"bad ca":             "ca = 1\n",
		"bad header":         "[header]\nx = 1\n",
		"bad timeout":        "dial_timeout = \"soon\"\n",
		"bad address":        "server = \"https://a b:x\"\n",
		"inline hosts":       "host = { \"https://a\" = { capabilities = [\"pull\"] } }\n",
		"dotted hosts":       "host.\"https://a\".capabilities = [\"pull\"]\n",
		"array of hosts":     "[[host]]\nx = 1\n",
		"array of our hosts": "[[host.\"" + testMirror + "\"]]\nx = 1\n",
		"ours as a key":      "[host]\n\"" + testMirror + "\" = { capabilities = [\"pull\"] }\n",
		"twice":              "[host.\"https://a\"]\n[host.\"https://a\"]\n",
		"huge":               "# " + strings.Repeat("x", maxFile) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			root := newRoot(t)
			put(t, root, map[string]string{
				"bad.example/hosts.toml": content, "good.example/hosts.toml": "server = \"https://u\"\n",
			})
			before := treeOf(t, root)
			result, err := Configure(context.Background(), testConfig(root))
			if err == nil || !strings.Contains(err.Error(), "bad.example") {
				t.Fatalf("got error %v", err)
			}
			for _, e := range result.Entries {
				if (e.Dir == "bad.example") != (e.Action == Refused) || (e.Action == Refused) != (e.Err != nil) {
					t.Errorf("got %+v", e)
				}
			}
			if got := read(t, filepath.Join(root, "bad.example/hosts.toml")); got != content {
				t.Errorf("the file became %q", got)
			}
			if v := askLinked(t, root, "good.example"); len(v.Hosts) != 2 || !isMirror(v.Hosts[0]) {
				t.Errorf("the other directory has %+v", v)
			}
			mustCleanup(t, root)
			if now := treeOf(t, root); now != before {
				t.Errorf("after cleaning up:\n%s\nbefore:\n%s", now, before)
			}
		})
	}
}
