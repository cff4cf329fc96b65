package config

import "time"

const (
	// Allow asks the node, other members and upstream.
	Allow = "allow"
	// Deny refuses without asking anybody.
	Deny = "deny"
	// Local asks the node and other members, never upstream.
	Local = "local"

	// PeersFirst believes other members about a tag.
	PeersFirst = "peers-first"
	// UpstreamFirst asks upstream about a tag, and falls back to what is known.
	UpstreamFirst = "upstream-first"
	// UpstreamOnly asks upstream about a tag, and believes nobody else.
	UpstreamOnly = "upstream-only"
	// Never answers for no tag.
	Never = "never"

	// ForeignFetch gets foreign layers from their urls.
	ForeignFetch = "fetch"
	// ForeignRedirect sends clients to the urls of foreign layers.
	ForeignRedirect = "redirect"
	// ForeignRefuse leaves foreign layers to the clients.
	ForeignRefuse = "refuse"

	// RegistryVariable stands in an endpoint for the name of the registry that a request is for.
	RegistryVariable = "{registry}"
	// RepositoryVariable stands in an endpoint's repository for that of the request.
	RepositoryVariable = "{repository}"
	// RestVariable stands in an endpoint's repository for what the last * of the rule's match stands for.
	RestVariable = "{*}"
)

// Registry is a rule for requests that are for some registries or repositories.
type Registry struct {
	// Match is the pattern of what the rule is for: quay.io is a whole registry, registry.local:5000 one with a port,
	// "quay.io/org/*" a part of one, and "*" everything, which at the end of the list is for all that no rule before
	// it fits. * stands for any characters, slashes too. Required.
	Match string `yaml:"match"`
	// Action says what may be asked: allow, this node, other members and upstream; deny, nobody, so that all requests
	// get 404 at once; local, this node and other members, so that nothing is asked outside of the cluster. Clients
	// then ask the registry themselves unless their own configuration keeps them. Default: allow.
	Action string `yaml:"action"`
	// Peers gives content of these repositories to other members, and takes it from them. Default: true.
	Peers bool `yaml:"peers"`
	// Endpoints are asked in this order, the next one when one can't answer: so a cache of your own can stand before
	// the registry itself, and nothing but what is listed is asked. Default: the registry at its own name, by HTTPS,
	// or by plain HTTP if it is on this machine (docker.io is https://registry-1.docker.io).
	Endpoints []Endpoint `yaml:"endpoints"`
	// MaxConcurrentRequests is how many requests to one of these registries are under way at once; more of them wait.
	// More use a fast line better, fewer keep clear of a registry's rate limits. Default: 32.
	MaxConcurrentRequests int `yaml:"maxConcurrentRequests"`
	// MaxBytesPerSecond caps what blobs are fetched with from upstream for this rule and each registry, as 50Mi. Less
	// leaves more of the line to others. 0 is no cap. Default: 0.
	MaxBytesPerSecond Bytes `yaml:"maxBytesPerSecond"`
}

// Endpoint configures one server that answers for a registry.
type Endpoint struct {
	// URL is where the server's /v2/ begins: https://cache.example.com or http://cache.example.com:5000/prefix.
	// "{registry}" as the host stands for the registry's own name, for rules that fit several. Required.
	URL string `yaml:"url"`
	// Repository is what the server calls a repository, for caches that keep several registries apart by project, as
	// Harbor does: "dockerhub/{repository}" asks for /v2/dockerhub/library/nginx. {repository} is the repository's
	// name, {*} what the last * of match stands for, and {registry} the registry's host, with - in place of what no
	// name can have. Default: "{repository}".
	Repository string `yaml:"repository"`
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

// Tags configures who is believed about what a tag means.
type Tags struct {
	// Rules are about the tags that their match fits; the first one holds. After them hold "*:latest", upstream-first,
	// and "*:*", peers-first. See docs/tags.md. Default: none.
	Rules []TagRule `yaml:"rules"`
	// CacheControl bounds what a registry's own Cache-Control: max-age says in place of freshFor.
	CacheControl CacheControl `yaml:"cacheControl"`
	// NegativeFor is how long a failed look-up is remembered, so that a client that tries again and again can't
	// hammer upstream. An image pushed within that time is seen that much later. 0s forgets at once. Default: 5s.
	NegativeFor time.Duration `yaml:"negativeFor"`
}

// TagRule says who is believed about some tags.
type TagRule struct {
	// Match is the pattern of the tags that the rule is for, with the registry and the repository before them:
	// "*:latest", "quay.io/org/*:main", "docker.io:*". * stands for any characters, slashes too. Required.
	Match string `yaml:"match"`
	// Policy says who is asked. peers-first: other members, then upstream, which spares upstream. upstream-first:
	// upstream, and only while it can't be asked what this node and other members know, marked by the headers Age and
	// Warning. upstream-only: upstream, or nobody. never: nobody, so that such a tag is always a 404 here and the
	// client asks the registry. Default: peers-first.
	Policy string `yaml:"policy"`
	// FreshFor is how long a registry's answer counts on this node without asking anybody again. Longer spares the
	// registry's rate limit; a tag that moved is seen that much later. 0s asks every time. Default: 1m.
	FreshFor time.Duration `yaml:"freshFor"`
	// MaxAge is, for peers-first, how old the word of other members may be at most to be believed by a node that knows
	// nothing of the tag itself. 0s is any age: right for tags that do not move. Default: 0s.
	MaxAge time.Duration `yaml:"maxAge"`
	// MaxStale is, for peers-first and upstream-first, how old the last known answer may be at most while upstream
	// can't be asked. Longer lets pods start through longer outages; 0s is any age. Default: 0s.
	MaxStale time.Duration `yaml:"maxStale"`
}

// CacheControl bounds what registries say of how long their answers count.
type CacheControl struct {
	// Least is how long an answer counts at least, also one that is not to be cached at all. Default: 30s.
	Least time.Duration `yaml:"least"`
	// Most is how long an answer counts at most. 0s pays no attention to what registries say. Default: 5m.
	Most time.Duration `yaml:"most"`
}

// ForeignLayers configures what becomes of layers that a manifest says are elsewhere.
type ForeignLayers struct {
	// Action is what happens when such a layer is held nowhere: fetch, get it from its urls; redirect, send the client
	// there; refuse, answer 404. Default: fetch.
	Action string `yaml:"action"`
	// Hosts are patterns of the hosts that urls, and what they redirect to, may name, with a port if it is not the
	// scheme's own: mcr.microsoft.com, "*.example.com". Manifests are written by strangers: name what you trust.
	// Default: none, so that no url is used.
	Hosts []string `yaml:"hosts"`
	// AllowHTTP permits urls without TLS. What they give is verified against its digest all the same. Default: false.
	AllowHTTP bool `yaml:"allowHTTP"`
	// Networks are those in which hosts may be though their addresses are private, as 10.1.0.0/16. All other private,
	// link-local and special addresses are refused, whatever name they have; clouds' own also where a wider network has
	// them. Default: none.
	Networks []string `yaml:"networks"`
	// Share gives layers whose media type says that they may not be distributed to other members. Ask those who know
	// the licence. Default: false.
	Share bool `yaml:"share"`
}

// Prefetch configures what is brought into the cache before somebody asks for it.
type Prefetch struct {
	// Images are brought into the cache at each start. Default: none.
	Images []PrefetchImage `yaml:"images"`
	// Every is after how long tags are looked up, and images brought in, again. 0s never does. Default: 0s.
	Every time.Duration `yaml:"every"`
	// Parallel is how many layers are on their way at once, over all images. More are there sooner; fewer leave more
	// of the line to pulls. Default: 2.
	Parallel int `yaml:"parallel"`
}

// PrefetchImage is one image that is brought into caches.
type PrefetchImage struct {
	// Image is the image's name, as in a pod: docker.io/library/nginx:1.27. Required.
	Image string `yaml:"image"`
	// Zones are those whose nodes hold it. Default: all.
	Zones []string `yaml:"zones"`
	// Copies is how many nodes hold it at least, of those in zones; which ones, they agree on by the image's name.
	// 0 is all of them. Default: 0.
	Copies int `yaml:"copies"`
}

// Events configures webhooks in the format of distribution's notifications.
type Events struct {
	// Endpoints are told, each at its own pace. Default: none.
	Endpoints []EventEndpoint `yaml:"endpoints"`
	// MaxQueued is how many events wait for each endpoint, on disk below dataDir; further ones are dropped and counted.
	// More survive a longer outage of the endpoint, at some 600 bytes each. Default: 10000.
	MaxQueued int `yaml:"maxQueued"`
}

// EventEndpoint is one receiver of events.
type EventEndpoint struct {
	// URL is where events are posted to. Required.
	URL string `yaml:"url"`
	// AuthorizationFile holds the value of the Authorization header, read again for each request. A path that is not
	// absolute starts at this file's directory. Default: none.
	AuthorizationFile string `yaml:"authorizationFile"`
	// CAFile holds the PEM certificates of authorities that may vouch for the endpoint, besides those that the system
	// and kioo itself know. A path that is not absolute starts at this file's directory. Default: none.
	CAFile string `yaml:"caFile"`
	// Actions are those that the endpoint is told of: pull, a client got content; push, the cache holds something new;
	// delete, it holds something no more. Default: all of them.
	Actions []string `yaml:"actions"`
	// Timeout bounds one request. Default: 10s.
	Timeout time.Duration `yaml:"timeout"`
}

// DefaultRegistry gives the rule for what the file has no rule for.
func DefaultRegistry() Registry {
	return Registry{Match: "*", Action: Allow, Peers: true, MaxConcurrentRequests: 32}
}

// DefaultEndpoint gives what an endpoint has that says nothing but its URL.
func DefaultEndpoint() Endpoint { return EndpointAt("") }

// EndpointAt gives a server about which nothing is special.
func EndpointAt(url string) Endpoint { return Endpoint{URL: url, Repository: RepositoryVariable} }

// DefaultTagRule gives the rule for tags that no other is for.
func DefaultTagRule() TagRule {
	return TagRule{Match: "*:*", Policy: PeersFirst, FreshFor: time.Minute}
}

// DefaultTagRules are the rules that hold after those of the file.
func DefaultTagRules() []TagRule {
	latest := DefaultTagRule()
	latest.Match, latest.Policy = "*:latest", UpstreamFirst
	return []TagRule{latest, DefaultTagRule()}
}

// DefaultEventEndpoint gives what an endpoint has that says nothing but its URL.
func DefaultEventEndpoint() EventEndpoint { return EventEndpoint{Timeout: 10 * time.Second} }
