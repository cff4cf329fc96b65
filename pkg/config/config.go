// Package config owns the configuration file of a node's mirror: its fields, their defaults, and what is wrong with
// one that was written by hand.
//
// A file is read strictly. Whatever is unknown, doubled, of the wrong type or out of range is reported, all of it at
// once, with its line. The package opens the files that a configuration names only to check that they can be used;
// what they hold is read again by the packages that need it.
package config

import (
	"os"
	"path/filepath"
	"time"
)

const (
	// APIVersion is the only version of the format that is understood.
	APIVersion = "kioo.dev/v1alpha1"
	// Kind is the kind of document that this package reads.
	Kind = "MirrorConfiguration"
	// AnyRegistry is the host of the entry that stands for all registries without an entry of their own.
	AnyRegistry = "*"
	// RegistryVariable stands in an endpoint's URL for the host of the registry that a request is for.
	RegistryVariable = "{registry}"

	// KeepAuto lets the cache go of what containerd holds.
	KeepAuto = "auto"
	// KeepAlways keeps a copy of everything in the cache.
	KeepAlways = "always"
	// KeepNever keeps nothing in the cache.
	KeepNever = "never"
)

// Config is one node's configuration. Default gives one that is valid; Load and Parse give it with what a file says
// in its place. A Config is not safe for changes while somebody reads it.
type Config struct {
	// APIVersion says which version of this format the file is written in. Required: kioo.dev/v1alpha1.
	APIVersion string `yaml:"apiVersion"`
	// Kind says what the file configures. Required: MirrorConfiguration.
	Kind string `yaml:"kind"`
	// DataDir is the directory for everything that outlives a restart: the cache, its index, what is in flight.
	// It is created if missing, and belongs to one running mirror. A path that is not absolute starts at this
	// file's directory. Default: /var/lib/kioo for root, else kioo in the user's cache directory.
	DataDir string `yaml:"dataDir"`
	// Mirror is the registry that the node's own clients talk to.
	Mirror Mirror `yaml:"mirror"`
	// Metrics is the second, plain HTTP server, for those who watch the mirror.
	Metrics Metrics `yaml:"metrics"`
	// Containerd is the runtime of this node, whose images are served as well, and read only.
	Containerd Containerd `yaml:"containerd"`
	// Registries says what is special about single upstream registries. Every other registry is asked directly, at its
	// own name. Default: none.
	Registries []Registry `yaml:"registries"`
	// Credentials says who the mirror is towards upstream registries.
	Credentials Credentials `yaml:"credentials"`
	// Upstream bounds the waiting for upstream registries. What exceeds a bound counts as a failure of that endpoint,
	// and the next one is asked. Clients give up on a mirror after half a minute, so it answers each within 20s
	// whatever is set here: longer waits help only whoever asks again once the answer is there.
	Upstream Upstream `yaml:"upstream"`
	// Peers is what members of the fleet serve to each other, over mutual TLS.
	Peers Peers `yaml:"peers"`
	// Discovery is how members find each other, and who holds what.
	Discovery Discovery `yaml:"discovery"`
	// Kubernetes is the cluster that this node belongs to. Nothing here needs it.
	Kubernetes Kubernetes `yaml:"kubernetes"`
	// Flights is about blobs on their way to this node. However many clients ask for one, it is fetched once.
	Flights Flights `yaml:"flights"`
	// Cache is the store on disk for what was fetched.
	Cache Cache `yaml:"cache"`
	// Tags says how long the mirror trusts what it knows of tags.
	Tags Tags `yaml:"tags"`
	// Log is about the mirror's own log, on standard error.
	Log Log `yaml:"log"`
	// Shutdown is about the end, after SIGTERM or SIGINT.
	Shutdown Shutdown `yaml:"shutdown"`
}

// Mirror configures the registry that clients see.
type Mirror struct {
	// Listen is where clients reach the mirror: addresses "host:port" whose host is an IP address or localhost.
	// Give several to serve IPv4 and IPv6. Port 0 takes any free one. Default: 127.0.0.1:28500.
	Listen []string `yaml:"listen"`
	// AllowRemote permits addresses in listen that other machines can reach. The mirror asks nobody for a
	// password: whoever reaches it reads what its credentials can read. Default: false.
	AllowRemote bool `yaml:"allowRemote"`
	// PathPrefix is a path before /v2/ that all requests must have, such as /mirror. Clients that take a mirror by
	// host name alone can't send one. Default: none.
	PathPrefix string `yaml:"pathPrefix"`
	// DefaultRegistry is the registry of requests that say none, by the query parameter ns or by a host before the
	// repository's name. Empty refuses them, so that no name is ever taken for another's. Default: docker.io.
	DefaultRegistry string `yaml:"defaultRegistry"`
	// MaxConnections is how many clients' connections are open at once, over all addresses. One more closes the one
	// that has been idle for longest, and is closed itself where none is idle. Each costs memory and a file descriptor,
	// two of them while it reads a blob. Default: 2048.
	MaxConnections int `yaml:"maxConnections"`
	// MaxHops is how many mirrors a request may have come through, by its Via headers, before it is refused with
	// status 508. More allow longer chains of caches; fewer notice loops of mirrors earlier. Default: 4.
	MaxHops int `yaml:"maxHops"`
}

// Metrics configures the server for those who watch the mirror.
type Metrics struct {
	// Listen is the address "host:port" of /metrics, /healthz and /readyz. They give no content and no names of
	// private images away, so any address is allowed. Empty turns them off. Default: 127.0.0.1:28504.
	Listen string `yaml:"listen"`
}

// Registry configures one upstream registry.
type Registry struct {
	// Host is the registry's name as images have it, with its port if it has one: quay.io, registry.local:5000.
	// "*" is the entry of all registries that have none of their own. Required, and once per registry.
	Host string `yaml:"host"`
	// Block refuses everything of this registry with 404, before anyone is asked. Clients then ask the registry
	// themselves, so this keeps content out of the mirror and not away from the node. Default: false.
	Block bool `yaml:"block"`
	// Endpoints are asked in this order, the next one when one can't answer: so a cache of your own can stand before
	// the registry itself, and nothing but what is listed is asked. Default: the registry at its own name, by HTTPS,
	// or by plain HTTP if it is on this machine (docker.io is https://registry-1.docker.io).
	Endpoints []Endpoint `yaml:"endpoints"`
	// MaxConcurrentRequests is how many requests to this registry are under way at once; more of them wait. More
	// use a fast line better, fewer keep clear of a registry's rate limits. Default: 32.
	MaxConcurrentRequests int `yaml:"maxConcurrentRequests"`
}

// Endpoint configures one server that answers for a registry.
type Endpoint struct {
	// URL is where the server's /v2/ begins: https://cache.example.com or http://cache.example.com:5000/prefix.
	// "{registry}" as the host stands for the registry's own name, for the entry "*". Required.
	URL string `yaml:"url"`
	// RepositoryPrefix goes before the repository's name, for caches that keep several registries apart by project,
	// as Harbor does: dockerhub asks for /v2/dockerhub/library/nginx. Default: none.
	RepositoryPrefix string `yaml:"repositoryPrefix"`
	// CAFile holds the PEM certificates of authorities that may vouch for this server, besides those that the system
	// and kioo itself know. A path that is not absolute starts at this file's directory. Default: none.
	CAFile string `yaml:"caFile"`
	// ClientCertFile holds the PEM certificate that the mirror shows to this server. Default: none.
	ClientCertFile string `yaml:"clientCertFile"`
	// ClientKeyFile holds the PEM key of clientCertFile. Required with it. Default: none.
	ClientKeyFile string `yaml:"clientKeyFile"`
	// SendNamespace tells the server which registry a request is for, by the query parameter ns. Right for servers
	// that mirror several registries, as kioo does; some others refuse what they do not know. Default: false.
	SendNamespace bool `yaml:"sendNamespace"`
}

// Credentials configures who the mirror is towards upstream registries.
type Credentials struct {
	// DockerConfig is a config.json as docker login writes it, credential helpers included. All who can reach the
	// mirror read with these credentials. Empty asks every registry anonymously. A path that is not absolute starts
	// at this file's directory. Default: empty.
	DockerConfig string `yaml:"dockerConfig"`
}

// Upstream configures how long to wait for upstream registries.
type Upstream struct {
	// ConnectTimeout bounds the making of a connection, TLS included. Shorter finds the next endpoint sooner; too
	// short fails on slow lines. Default: 5s.
	ConnectTimeout time.Duration `yaml:"connectTimeout"`
	// FirstByteTimeout bounds the wait between a request and its response's headers. Caches that fetch the whole
	// blob before they answer need more. Default: 10s.
	FirstByteTimeout time.Duration `yaml:"firstByteTimeout"`
	// ProgressTimeout bounds the wait for the next byte of a body. What stalls longer is taken up elsewhere, or again,
	// at the byte where it stopped. Default: 10s.
	ProgressTimeout time.Duration `yaml:"progressTimeout"`
	// QueueTimeout bounds the wait for one of a registry's maxConcurrentRequests. Longer gets over longer crowds;
	// shorter sends clients elsewhere sooner. Default: 10s.
	QueueTimeout time.Duration `yaml:"queueTimeout"`
	// Attempts is how often all endpoints are tried after connection errors, 5xx and 429. 1 never tries again; more
	// get over longer hiccups, and keep a client longer from helping itself. Default: 3.
	Attempts int `yaml:"attempts"`
	// RetryWithin is the time after which no further attempt begins. Default: 15s.
	RetryWithin time.Duration `yaml:"retryWithin"`
}

// Flights configures blobs on their way to this node.
type Flights struct {
	// Grace is how long a blob is still fetched when its last reader has left. Longer spares a client that comes
	// back the start from nothing; shorter spares the network what nobody wants any more. Default: 30s.
	Grace time.Duration `yaml:"grace"`
	// Max is how many blobs are on their way at once; requests for more of them are refused, and clients go
	// upstream themselves. Each costs a connection, a spool file and its buffers. Default: 256.
	Max int `yaml:"max"`
}

// Cache configures the store on disk.
type Cache struct {
	// MaxBytes is how many bytes of blobs are held, those on their way included, as 20Gi or 500M. What was used least
	// recently goes first, but never what is being read. More is fetched again less often; 0 keeps nothing.
	// Default: 20Gi.
	MaxBytes Bytes `yaml:"maxBytes"`
	// SpoolBytes is the room, on top of maxBytes, for blobs on their way that can't be kept: they are larger than
	// maxBytes, or all that is held is being read. Without it such blobs are refused. Default: 10Gi.
	SpoolBytes Bytes `yaml:"spoolBytes"`
	// MaxBlobs is how many blobs are kept, so that many small ones can't use up the file system's inodes, nor the
	// index the memory. Default: 100000.
	MaxBlobs int `yaml:"maxBlobs"`
	// MaxTags is how many tags are known at once; those confirmed the longest ago go first. Default: 10000.
	MaxTags int `yaml:"maxTags"`
	// Keep says what stays here: auto, what containerd lacks or threw away after unpacking; always, a copy of
	// everything, as containerd's images come and go; never, only what is on its way. Default: auto.
	Keep string `yaml:"keep"`
}

// Tags configures how long the mirror trusts what it knows of tags.
type Tags struct {
	// FreshFor is how long a tag's answer counts without asking upstream again. Longer spares the registry's rate
	// limit; a tag that moved is seen that much later. 0s asks every time. Default: 1m.
	FreshFor time.Duration `yaml:"freshFor"`
	// StaleIfError gives the last known answer when upstream can't be reached or limits the rate, marked by the
	// headers Age and Warning, so that pods start while a registry is down. Without it such requests fail, and no
	// old image starts unnoticed. Default: true.
	StaleIfError bool `yaml:"staleIfError"`
	// NegativeFor is how long a failed look-up is remembered, so that a client that tries again and again can't
	// hammer upstream. An image pushed within that time is seen that much later. 0s forgets at once. Default: 5s.
	NegativeFor time.Duration `yaml:"negativeFor"`
	// Mutable are patterns of tags that are expected to move: upstream is asked for them first, and other members only
	// when upstream does not answer. All other tags come from members first, which spares upstream. A pattern is
	// compared with the whole name, as docker.io/library/nginx:1.27, and * stands for any characters, slashes too.
	// Default: "*:latest".
	Mutable []string `yaml:"mutable"`
}

// Log configures the mirror's own log.
type Log struct {
	// Level is what is logged: error, info (also one line per request) or debug (also each decision). Default: info.
	Level string `yaml:"level"`
	// Format is text for people, json for machines, or auto: text on a terminal, json elsewhere. Default: auto.
	Format string `yaml:"format"`
}

// Shutdown configures the end.
type Shutdown struct {
	// Timeout is how long responses under way may take to finish; what is left is then cut off, and clients
	// take it up elsewhere. New connections are refused at once. It should be shorter than what Kubernetes waits before
	// it kills a pod, by default 30s. Default: 20s.
	Timeout time.Duration `yaml:"timeout"`
}

// Default gives the configuration of a mirror without a file: all defaults are here, but for those of a registry's
// entry, which are in DefaultRegistry. DataDir is empty if the user has no cache directory.
func Default() *Config {
	return &Config{
		APIVersion: APIVersion,
		Kind:       Kind,
		Kubernetes: Kubernetes{Topology: true, Events: true},
		DataDir:    defaultDataDir(),
		Mirror: Mirror{
			Listen:          []string{"127.0.0.1:28500"},
			DefaultRegistry: "docker.io",
			MaxConnections:  2048,
			MaxHops:         4,
		},
		Metrics:    Metrics{Listen: "127.0.0.1:28504"},
		Containerd: Containerd{Namespaces: []string{"k8s.io"}, ConfigFile: "/etc/containerd/config.toml"},
		Upstream: Upstream{
			ConnectTimeout:   5 * time.Second,
			FirstByteTimeout: 10 * time.Second,
			ProgressTimeout:  10 * time.Second,
			QueueTimeout:     10 * time.Second,
			Attempts:         3,
			RetryWithin:      15 * time.Second,
		},
		Peers:   Peers{UploadSlots: 32, UploadQueue: 64},
		Flights: Flights{Grace: 30 * time.Second, Max: 256},
		Cache:   Cache{MaxBytes: 20 << 30, SpoolBytes: 10 << 30, MaxBlobs: 100_000, MaxTags: 10_000, Keep: KeepAuto},
		Tags: Tags{
			FreshFor: time.Minute, StaleIfError: true, NegativeFor: 5 * time.Second, Mutable: []string{"*:latest"},
		},
		Log:      Log{Level: "info", Format: "auto"},
		Shutdown: Shutdown{Timeout: 20 * time.Second},
	}
}

// DefaultRegistry gives the entry of a registry that the file does not mention.
func DefaultRegistry() Registry { return Registry{MaxConcurrentRequests: 32} }

func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/kioo"
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "kioo")
}
