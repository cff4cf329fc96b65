package config

import (
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"
)

// referenceFile is the documentation of the format: every field, with its default and what its comment in Go says.
const referenceFile = "../../docs/configuration.yaml"

// example is what the documentation shows: the defaults, and of each list one entry with everything that it can have.
func example() *Config {
	c := Default()
	c.DataDir = "/var/lib/kioo"
	r := DefaultRegistry()
	r.Match = "registry.example.com"
	endpoint := DefaultEndpoint()
	endpoint.URL = "https://registry.example.com"
	r.Endpoints = []Endpoint{endpoint}
	c.Registries = []Registry{r}
	c.Tags.Rules = []TagRule{DefaultTagRule()}
	c.Prefetch.Images = []PrefetchImage{{Image: "registry.example.com/base:1"}}
	e := DefaultEventEndpoint()
	e.URL = "https://events.example.com/kioo"
	c.Events.Endpoints = []EventEndpoint{e}
	c.Access.Rules = []AccessRule{{Match: "registry.example.com/team/*", Mode: AccessVerify}}
	return c
}

func TestReference(t *testing.T) {
	docs := fieldDocs(t)
	var root yaml.Node
	if err := root.Encode(example()); err != nil {
		t.Fatal(err)
	}
	document(t, docs, reflect.TypeFor[Config](), &root)
	var out strings.Builder
	out.WriteString("# The configuration of a Kioo mirror: every field with its default, and one example entry of each list.\n" +
		"# A file needs the first two fields and what differs. Written from pkg/config; change it there.\n\n")
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&root); err != nil {
		t.Fatal(err)
	}
	// Go writes a minute as 1m0s.
	text := regexp.MustCompile(`m0s\n`).ReplaceAllString(out.String(), "m\n")
	golden(t, referenceFile, text)

	got, err := Load(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(example(), got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the documentation is not the defaults (-default +documentation):\n%s", diff)
	}
}

// document puts the comments of a section's fields into its YAML.
func document(t *testing.T, docs map[string]string, section reflect.Type, n *yaml.Node) {
	t.Helper()
	if len(n.Content) != 2*section.NumField() {
		t.Fatalf("%s has %d fields in YAML and %d in Go", section, len(n.Content)/2, section.NumField())
	}
	for i := range section.NumField() {
		f, key, value := section.Field(i), n.Content[2*i], n.Content[2*i+1]
		if key.Value != f.Tag.Get("yaml") {
			t.Fatalf("%s.%s is %s in YAML", section, f.Name, key.Value)
		}
		key.HeadComment = docs[section.Name()+"."+f.Name]
		typ, inner := f.Type, value
		if typ.Kind() == reflect.Slice && len(value.Content) > 0 {
			typ, inner = typ.Elem(), value.Content[0]
		}
		if typ.Kind() == reflect.Struct {
			document(t, docs, typ, inner)
		}
	}
}

// fieldDocs gives the comments of all fields as Section.Field. A field without one fails the test; so does a value that
// does not say what happens without it.
func fieldDocs(t *testing.T) map[string]string {
	t.Helper()
	docs := make(map[string]string)
	for _, name := range []string{"config.go", "access.go", "fleet.go", "kubernetes.go", "rules.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		readDocs(t, file, docs)
	}
	return docs
}

func readDocs(t *testing.T, file *ast.File, docs map[string]string) {
	t.Helper()
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		section, ok := spec.Type.(*ast.StructType)
		if !ok {
			return true
		}
		for _, f := range section.Fields.List {
			name := spec.Name.Name + "." + f.Names[0].Name
			text := strings.TrimSpace(f.Doc.Text())
			if !strings.HasPrefix(text, f.Names[0].Name+" ") {
				t.Errorf("%s is not documented by a comment that begins with its name", name)
			}
			ident, ok := f.Type.(*ast.Ident)
			isSection := ok && ast.IsExported(ident.Name) && ident.Name != "Bytes"
			if !isSection && !strings.Contains(text, "Default: ") && !strings.Contains(text, "Required") {
				t.Errorf("%s does not say its default, or that it is required", name)
			}
			yamlName := reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("yaml")
			docs[name] = strings.Replace(text, f.Names[0].Name, yamlName, 1)
		}
		return true
	})
}

// TestRoundTrip changes every single field, writes the configuration and reads it again.
func TestRoundTrip(t *testing.T) {
	want := &Config{
		APIVersion: APIVersion, Kind: Kind, DataDir: "/data",
		Mirror: Mirror{
			Listen: []string{"0.0.0.0:1", "[::]:2"}, AllowRemote: true, PathPrefix: "/p", DefaultRegistry: "quay.io",
			MaxConnections: 1, MaxHops: 1, Hosts: []string{"mirror.example.com"},
		},
		Metrics: Metrics{Listen: "127.0.0.1:3", Hosts: []string{"node1"}},
		Health:  Health{Listen: "127.0.0.1:8"},
		Control: Control{Socket: "/control.sock"},
		Containerd: Containerd{
			Address: "/c.sock", ContentDir: "/content", Namespaces: []string{"moby"}, CertsDir: "/certs.d",
			Registries: []string{"ghcr.io"}, ConfigFile: "/c.toml",
		},
		Registries: []Registry{{
			Match: "quay.io", Action: Allow, Peers: true, MaxConcurrentRequests: 7, MaxBytesPerSecond: 1 << 20,
			Endpoints: []Endpoint{{
				URL: "https://quay.io", CAFile: "/ca.pem", ClientCertFile: "/cert.pem", ClientKeyFile: "/key.pem",
				SendNamespace: true, Repository: "proxy/{repository}",
			}},
		}},
		Credentials: Credentials{DockerConfig: "/config.json"},
		Access: Access{
			Mode: AccessRelay, Rules: []AccessRule{{Match: "quay.io/org/*", Mode: AccessOwn}},
			AcceptedFor: 13e9, RefusedFor: 14e9, OpenFor: 15e9, OfflineFor: 16e9, Realms: []string{"auth.example.com"},
			RelayPathForm: []string{"quay.io/org/*"},
		},
		Upstream: Upstream{
			ConnectTimeout: 1e9, FirstByteTimeout: 2e9, ProgressTimeout: 3e9, QueueTimeout: 11e9, Attempts: 2,
			RetryWithin: 12e9, Networks: []string{"10.0.0.0/8"},
		},
		Flights: Flights{Grace: 4e9, Max: 5},
		Peers: Peers{
			KeyFiles: []string{"/new.key", "/old.key"}, Listen: []string{"0.0.0.0:4"}, Advertise: []string{"node:4"},
			Zone: "a", UploadSlots: 1, UploadQueue: 2, MaxUploadBytesPerSecond: 1 << 20, MaxDownloadBytesPerSecond: 2 << 20,
		},
		Discovery: Discovery{
			Listen:    []string{"[fd00::1]:5"},
			Bootstrap: Bootstrap{Addresses: []string{"10.0.0.1:6"}, DNS: "kioo.svc:7"},
		},
		Kubernetes: Kubernetes{
			Service: "kioo-system/kioo", NodeName: "n1", Topology: true, Events: true, StartupTaint: "kioo.dev/not-ready",
			Kubeconfig: "/kubeconfig",
		},
		Cache: Cache{MaxBytes: 6 << 20, SpoolBytes: 6 << 10, MaxBlobs: 7, MaxTags: 8, Keep: KeepNever},
		Tags: Tags{
			NegativeFor: 9e9, CacheControl: CacheControl{Least: 1e9, Most: 2e9},
			Rules: []TagRule{{Match: "*:main", Policy: PeersFirst, FreshFor: 8e9, MaxAge: 7e9, MaxStale: 6e9}},
		},
		ForeignLayers: ForeignLayers{
			Action: ForeignRedirect, Hosts: []string{"*.example.com"}, AllowHTTP: true, Networks: []string{"10.0.0.0/8"}, Share: true,
		},
		Prefetch: Prefetch{
			Images: []PrefetchImage{{Image: "quay.io/a:1", Zones: []string{"a"}, Copies: 3}}, Every: 60e9, Parallel: 3,
		},
		Events: Events{
			Endpoints: []EventEndpoint{{
				URL: "https://e.example.com", AuthorizationFile: "/token", CAFile: "/ca.pem", Actions: []string{"pull"}, Timeout: 1e9,
			}},
			MaxQueued: 5,
		},
		Log:      Log{Level: "debug", Format: "json"},
		Shutdown: Shutdown{Timeout: 10e9},
	}
	noZeroes(t, "", reflect.ValueOf(want).Elem())
	noPrefix, noCertsDir := *want, *want // No file has both.
	noPrefix.Mirror.PathPrefix, noCertsDir.Containerd.CertsDir = "", ""
	for _, want := range []*Config{&noPrefix, &noCertsDir} {
		data, err := yaml.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse("kioo.yaml", data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("writing and reading changed the configuration (-written +read):\n%s", diff)
		}
	}
}

// noZeroes fails if a field has its zero value, because a field that is not read would pass.
func noZeroes(t *testing.T, path string, v reflect.Value) {
	t.Helper()
	if v.IsZero() {
		t.Errorf("%s is zero, so the test shows nothing for it", path)
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			noZeroes(t, join(path, v.Type().Field(i).Name), v.Field(i))
		}
	case reflect.Slice:
		for i := range v.Len() {
			noZeroes(t, path, v.Index(i))
		}
	}
}
