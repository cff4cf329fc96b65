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
	// AnyRegistry is what nobody may write for all registries where a list of hosts is expected.
	AnyRegistry = "*"

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
	// Health is the server for those who start the mirror again when it does not answer.
	Health Health `yaml:"health"`
	// Control is where people on this machine have the mirror do something, as kioo refresh and kioo prefetch do.
	Control Control `yaml:"control"`
	// Containerd is the runtime of this node, whose images are served as well, and read only.
	Containerd Containerd `yaml:"containerd"`
	// Registries are rules that say whom requests may reach: the first one whose match fits a request's registry and
	// repository holds for it. What no rule fits is allowed, and asked directly at its own name. See docs/routes.md.
	// Default: none.
	Registries []Registry `yaml:"registries"`
	// Credentials says who the mirror is towards upstream registries.
	Credentials Credentials `yaml:"credentials"`
	// Access says who may read what: docs/access.md.
	Access Access `yaml:"access"`
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
	// Tags says who is believed about what a tag means, and for how long.
	Tags Tags `yaml:"tags"`
	// ForeignLayers is about layers that a manifest says are elsewhere, by their urls. See docs/foreign-layers.md.
	ForeignLayers ForeignLayers `yaml:"foreignLayers"`
	// Prefetch brings images into this node's cache before somebody asks for them. See docs/prefetch.md.
	Prefetch Prefetch `yaml:"prefetch"`
	// Events tells others what was pulled and what the cache holds, by webhooks. See docs/events.md.
	Events Events `yaml:"events"`
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
	// AllowRemote permits addresses in listen that other machines can reach. The mirror has no passwords of its own:
	// whoever reaches it reads what its credentials can read, and what it holds. Default: false.
	AllowRemote bool `yaml:"allowRemote"`
	// Hosts are further names by which clients ask, without ports: they stand in the Host header. Asked for other names
	// than loopback's, these, and addresses where it listens beyond loopback, the mirror answers with status 421, so that
	// no web page can have a name of its own lead here. Default: none.
	Hosts []string `yaml:"hosts"`
	// PathPrefix is a path before /v2/ that all requests must have, such as /mirror. Clients that take a mirror by
	// host name alone can't send one. Default: none.
	PathPrefix string `yaml:"pathPrefix"`
	// DefaultRegistry is the registry of requests that say none, by the query parameter ns or by a host before the
	// repository's name. Empty refuses them, so that no name is ever taken for another's. Default: docker.io.
	DefaultRegistry string `yaml:"defaultRegistry"`
	// MaxConnections is how many clients' connections are open at once, over all addresses: as many of this machine, and
	// as many of others, of which one address has no more than half. One more closes the one that has been idle for
	// longest, where others are concerned of the address that has most; if none is idle, one whose client does not read,
	// and else itself. Each costs memory and a file descriptor, two of them while it reads a blob. Default: 2048.
	MaxConnections int `yaml:"maxConnections"`
	// MaxHops is how many mirrors a request may have come through, by its Via headers, before it is refused with
	// status 508. More allow longer chains of caches; fewer notice loops of mirrors earlier. Default: 4.
	MaxHops int `yaml:"maxHops"`
}

// Metrics configures the server for those who watch the mirror.
type Metrics struct {
	// Listen is the address "host:port" of /metrics, and of what health.listen has, for those who watch from elsewhere.
	// They give no content and no names of private images away, so any address is allowed. Empty turns them off.
	// Default: 127.0.0.1:28504.
	Listen string `yaml:"listen"`
	// Hosts are names by which monitors ask, without ports, as mirror.hosts are. Addresses need none. Default: none.
	Hosts []string `yaml:"hosts"`
}

// Health configures the server for those who start the mirror again.
type Health struct {
	// Listen is the address "host:port" of /healthz and /readyz, on loopback, so that nothing that others do to the
	// ports they can reach makes the mirror look dead. Empty turns it off. Default: 127.0.0.1:28503.
	Listen string `yaml:"listen"`
}

// Control configures where the mirror takes orders.
type Control struct {
	// Socket is the path of a Unix socket, which only root and the mirror's own user may use. The system allows paths of
	// some 100 bytes. A path that is not absolute starts at this file's directory. Default: control.sock in dataDir.
	Socket string `yaml:"socket"`
}

// Credentials configures who the mirror is towards upstream registries.
type Credentials struct {
	// DockerConfig is a config.json as docker login writes it, credential helpers included (docker-credential-… on the
	// PATH), or a directory where a Secret of the type kubernetes.io/dockerconfigjson is mounted. It is read again for
	// each question, so that a Secret that changed needs no restart. All who can reach the mirror read with these
	// credentials, unless access says otherwise. Empty asks every registry anonymously. A path that is not absolute
	// starts at this file's directory. Default: empty.
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
	// Networks are those in which redirects and token services of registries are asked whatever their addresses, as
	// 10.0.0.0/8. Others may lead only to addresses as public as the registry's own, so that no registry can make this
	// node call inside its network. Storage behind a private endpoint of a cloud may need this. Link-local addresses,
	// and those that clouds have for themselves, count only where they are written by themselves, as 169.254.7.7/32.
	// Default: none.
	Networks []string `yaml:"networks"`
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
	// MaxBytes is how many bytes of blobs are held, what came of those on their way included, as 20Gi or 500M. What was
	// asked for once goes before what is asked for often, what is being read never, and each registry keeps a share.
	// See docs/cache.md. More is fetched again less often; 0 keeps nothing. Default: 20Gi.
	MaxBytes Bytes `yaml:"maxBytes"`
	// SpoolBytes is the room, on top of maxBytes, for blobs on their way that can't be kept: they are larger than three
	// quarters of maxBytes, or what is held can't make room. Without it such blobs pass through. Default: 10Gi.
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

// Default gives the configuration of a mirror without a file: all defaults are here, but for those of lists' entries,
// which are in DefaultRegistry, DefaultTagRule and DefaultEventEndpoint. DataDir is empty if the user has no cache
// directory.
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
		Health:     Health{Listen: "127.0.0.1:28503"},
		Containerd: Containerd{Namespaces: []string{"k8s.io"}, ConfigFile: "/etc/containerd/config.toml"},
		Access:     defaultAccess(),
		Upstream: Upstream{
			ConnectTimeout:   5 * time.Second,
			FirstByteTimeout: 10 * time.Second,
			ProgressTimeout:  10 * time.Second,
			QueueTimeout:     10 * time.Second,
			Attempts:         3,
			RetryWithin:      15 * time.Second,
		},
		Peers:         Peers{UploadSlots: 32, UploadQueue: 64},
		Flights:       Flights{Grace: 30 * time.Second, Max: 256},
		Cache:         Cache{MaxBytes: 20 << 30, SpoolBytes: 10 << 30, MaxBlobs: 100_000, MaxTags: 10_000, Keep: KeepAuto},
		Tags:          Tags{NegativeFor: 5 * time.Second, CacheControl: CacheControl{Least: 30 * time.Second, Most: 5 * time.Minute}},
		ForeignLayers: ForeignLayers{Action: ForeignFetch},
		Prefetch:      Prefetch{Parallel: 2},
		Events:        Events{MaxQueued: 10_000},
		Log:           Log{Level: "info", Format: "auto"},
		Shutdown:      Shutdown{Timeout: 20 * time.Second},
	}
}

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
