package hosts

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// endpoint is what containerd understands of one [host] table, or of the file's root.
type endpoint struct {
	name         string // The address as it is written; of the root, its "server".
	capabilities []string
	ca           []string
	client       [][2]string // Certificate and key; an empty key means that the certificate's file has it.
	skipVerify   *bool
	header       map[string][]string
	overridePath bool
	dialTimeout  string
}

// document is what containerd understands of a hosts.toml: the hosts in the order of trying, then the root.
type document struct {
	hosts []endpoint
	root  endpoint
}

// rawEndpoint has containerd's keys and their types. Keys that containerd does not know are ignored, as it does.
type rawEndpoint struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   *bool          `toml:"skip_verify"`
	Header       map[string]any `toml:"header"`
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// parse reads a hosts.toml as containerd 2.x does, and refuses what that refuses. Containerd then falls back to
// upstream alone with one line in its log, so a file that fails here has no effect there.
func parse(data []byte) (document, error) {
	names, err := orderedHosts(data)
	if err != nil {
		return document{}, err
	}
	var raw struct {
		rawEndpoint
		Server string                 `toml:"server"`
		Hosts  map[string]rawEndpoint `toml:"host"`
	}
	if err := toml.Unmarshal(data, &raw); err != nil {
		return document{}, fmt.Errorf("read TOML: %w", err)
	}
	var doc document
	for _, name := range names {
		e, err := raw.Hosts[name].endpoint(name)
		if err != nil {
			return document{}, fmt.Errorf("host %q: %w", name, err)
		}
		doc.hosts = append(doc.hosts, e)
	}
	if doc.root, err = raw.endpoint(raw.Server); err != nil {
		return document{}, err
	}
	return doc, nil
}

// orderedHosts gives the hosts in the order of their tables. Like containerd, it knows only hosts that have a table
// header, and names one twice whose tables are not together.
func orderedHosts(data []byte) ([]string, error) {
	exprs, err := scan(data)
	if err != nil {
		return nil, err
	}
	var names []string
	last := ""
	for _, e := range exprs {
		if e.kind != unstable.Table || len(e.key) < 2 || e.key[0] != "host" || e.key[1] == last {
			continue
		}
		last = e.key[1]
		names = append(names, last)
	}
	return names, nil
}

func (r rawEndpoint) endpoint(name string) (endpoint, error) {
	e := endpoint{name: name, skipVerify: r.SkipVerify, overridePath: r.OverridePath, dialTimeout: r.DialTimeout}
	address := name
	if address != "" && !strings.HasPrefix(address, "http") {
		address = "https://" + address
	}
	if _, err := url.Parse(address); err != nil {
		return e, fmt.Errorf("read address: %w", err)
	}
	for _, c := range r.Capabilities {
		switch c = strings.ToLower(c); c {
		case "pull", "resolve", "push", "referrers":
			e.capabilities = append(e.capabilities, c)
		default:
			return e, fmt.Errorf("unknown capability %q", c)
		}
	}
	if r.DialTimeout != "" {
		if _, err := time.ParseDuration(r.DialTimeout); err != nil {
			return e, fmt.Errorf("read dial_timeout: %w", err)
		}
	}
	var err error
	if e.ca, err = stringList(r.CA); err != nil {
		return e, fmt.Errorf("read ca: %w", err)
	}
	if e.client, err = clientPairs(r.Client); err != nil {
		return e, fmt.Errorf("read client: %w", err)
	}
	for key, value := range r.Header {
		list, err := stringList(value)
		if err != nil {
			return e, fmt.Errorf("read header %q: %w", key, err)
		}
		if e.header == nil {
			e.header = map[string][]string{}
		}
		e.header[key] = list
	}
	return e, nil
}

// stringList reads a string or a list of strings. An empty list is not nil: containerd tells the two apart.
func stringList(value any) ([]string, error) {
	switch v := value.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		list := make([]string, 0, len(v))
		for _, item := range v {
			s, ok := item.(string)
			if !ok {
				return nil, fmt.Errorf("%T where a string should be", item)
			}
			list = append(list, s)
		}
		return list, nil
	default:
		return nil, fmt.Errorf("%T where a string or a list of strings should be", value)
	}
}

// clientPairs reads a string, a list of strings, or a list of pairs of strings.
func clientPairs(value any) ([][2]string, error) {
	if s, ok := value.(string); ok {
		return [][2]string{{s, ""}}, nil
	}
	items, ok := value.([]any)
	if !ok && value != nil {
		return nil, fmt.Errorf("%T where a list should be", value)
	}
	var pairs [][2]string
	for _, item := range items {
		list, err := stringList(item)
		if err != nil {
			return nil, err
		}
		_, single := item.(string)
		switch {
		case single:
			pairs = append(pairs, [2]string{list[0], ""})
		case len(list) == 2:
			pairs = append(pairs, [2]string{list[0], list[1]})
		default:
			return nil, errors.New("want pairs of a certificate and its key")
		}
	}
	return pairs, nil
}

// certificates finds what containerd takes from a directory without a hosts.toml: certificates by their names. The
// paths are the bare names, which are relative to the directory in a hosts.toml as well.
func certificates(dir string) (document, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return document{}, fmt.Errorf("look for certificates: %w", err)
	}
	var doc document
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() {
			continue
		}
		if strings.HasSuffix(name, ".crt") {
			doc.root.ca = append(doc.root.ca, name)
		}
		if stem, ok := strings.CutSuffix(name, ".cert"); ok {
			pair := [2]string{name, ""}
			switch _, err := os.Stat(filepath.Join(dir, stem+".key")); {
			case err == nil:
				pair[1] = stem + ".key"
			case !os.IsNotExist(err):
				return document{}, fmt.Errorf("look for certificates: %w", err)
			}
			doc.root.client = append(doc.root.client, pair)
		}
	}
	return doc, nil
}

// rebase makes the paths of certificates absolute.
func (d document) rebase(dir string) document {
	out := document{root: d.root.rebase(dir)}
	for _, h := range d.hosts {
		out.hosts = append(out.hosts, h.rebase(dir))
	}
	return out
}

func (e endpoint) rebase(dir string) endpoint {
	abs := func(p string) string {
		if p == "" || filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(dir, p)
	}
	if e.ca != nil {
		list := make([]string, 0, len(e.ca))
		for _, p := range e.ca {
			list = append(list, abs(p))
		}
		e.ca = list
	}
	var pairs [][2]string
	for _, p := range e.client {
		pairs = append(pairs, [2]string{abs(p[0]), abs(p[1])})
	}
	e.client = pairs
	return e
}

// empty says that a file of this document would say no more than none does.
func (d document) empty() bool { return reflect.DeepEqual(d, document{}) }
