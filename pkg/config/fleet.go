package config

// Containerd configures the runtime whose images this node serves.
type Containerd struct {
	// Address is the path of containerd's socket, most often /run/containerd/containerd.sock. Nothing needs to listen
	// there yet. Empty means that this node has no containerd, and the cache is all that it holds. Default: empty.
	Address string `yaml:"address"`
	// ContentDir is the directory of containerd's content store, most often
	// /var/lib/containerd/io.containerd.content.v1.content, from which blobs are read as files. Without it they come
	// through the socket, which costs more processor time for each byte. Default: empty.
	ContentDir string `yaml:"contentDir"`
	// Namespaces are those of containerd's namespaces whose images count. Kubernetes has its own, k8s.io; moby is
	// Docker's, and default that of ctr. Default: k8s.io.
	Namespaces []string `yaml:"namespaces"`
	// CertsDir is containerd's registry directory, its config_path, most often /etc/containerd/certs.d. The mirror
	// puts itself into the hosts.toml files there, and back when somebody takes it out; kioo cleanup undoes it. Empty
	// leaves them alone. Default: empty.
	CertsDir string `yaml:"certsDir"`
	// Registries are the hosts of the registries that containerd pulls from through the mirror, for certsDir and
	// kioo configure. Default: none, which means all of them.
	Registries []string `yaml:"registries"`
	// ConfigFile is containerd's own configuration. Only kioo check reads it, and nothing writes it.
	// Default: /etc/containerd/config.toml.
	ConfigFile string `yaml:"configFile"`
}

// Peers configures what members of the fleet serve to each other.
type Peers struct {
	// KeyFiles hold one cluster key each, as kioo key prints it. Whoever has the key is a member, and reads what
	// members hold. To rotate, list the new one and the old one on every node, then the new one alone. Without a key
	// there are no peers: the mirror serves its own node only. Default: none.
	KeyFiles []string `yaml:"keyFiles"`
	// Listen is where other members reach this one: addresses of this node, "10.0.0.5:28501" or without a port, which
	// then is 28501. Strangers get nothing there. Port 0 takes any free one. Required with keyFiles. Default: none.
	Listen []string `yaml:"listen"`
	// Advertise is what other members are told instead of listen, as "host:port" with an IP address or a name, the
	// preferred one first. Required if listen has an unspecified address such as 0.0.0.0. Default: none.
	Advertise []string `yaml:"advertise"`
	// Zone is where this node is, such as eu-central-1a. Members of the same zone are asked first. Default: empty.
	Zone string `yaml:"zone"`
	// UploadSlots is how many uploads of blobs, and of long parts of blobs, to other members there are at once. More share
	// the link among more members; fewer finish each sooner. Pieces of a swarm have eight of their own. Default: 32.
	UploadSlots int `yaml:"uploadSlots"`
	// UploadQueue is how many members may wait for a slot, for a tenth of a second each. Others are sent elsewhere at
	// once. Default: 64.
	UploadQueue int `yaml:"uploadQueue"`
	// MaxUploadBytesPerSecond caps all uploads together, as 100Mi. Less leaves more of the link to the node's own
	// work, and makes the fleet slower. 0 is no cap. Default: 0.
	MaxUploadBytesPerSecond Bytes `yaml:"maxUploadBytesPerSecond"`
	// MaxDownloadBytesPerSecond caps all downloads from other members together, in the same way. 0 is no cap.
	// Default: 0.
	MaxDownloadBytesPerSecond Bytes `yaml:"maxDownloadBytesPerSecond"`
}

// Discovery configures how members find each other, and who holds what.
type Discovery struct {
	// Listen is where the distributed hash table listens, and what other members are told: addresses of this node,
	// "10.0.0.5:28502" or without a port, which then is 28502. Never an unspecified address such as 0.0.0.0, as that
	// would tell others of every bridge of the node. Required with peers.keyFiles. Default: none.
	Listen []string `yaml:"listen"`
	// Bootstrap is how the first members are found. They are looked for again and again, so that islands merge.
	// Without any, others have to come to this member.
	Bootstrap Bootstrap `yaml:"bootstrap"`
}

// Bootstrap configures how the first members are found.
type Bootstrap struct {
	// Addresses are where any of the members listen for discovery: IP addresses, with a port or without, which then
	// is 28502. This node's own may be among them. Default: none.
	Addresses []string `yaml:"addresses"`
	// DNS is a name of all members, such as a headless service's: "kioo.kioo-system.svc:28502" is looked up for
	// IPv4 and IPv6 addresses, and "_dht._tcp.kioo.kioo-system.svc", without a port, for SRV records. Default: empty.
	DNS string `yaml:"dns"`
}
