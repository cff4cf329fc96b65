package daemon

import (
	"net"

	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/opencontainers/go-digest"
)

// Members is how many other members a fleet's daemon knows of.
func (d *Daemon) Members() int { return len(d.fleet.discovery.Members()) }

// Tracks tells whether a daemon is the member closest to a blob.
func (d *Daemon) Tracks(dgst digest.Digest) bool {
	nearest := d.fleet.discovery.Nearest(discovery.DigestKey(dgst), 1)
	return len(nearest) > 0 && nearest[0].ID == d.fleet.discovery.Self().ID
}

// ControlSocket is the path of the socket where the daemon takes orders.
func (d *Daemon) ControlSocket() string { return d.cfg.ControlSocket() }

// Trusted is a listener for root and one user alone.
func Trusted(l *net.UnixListener, uid int) net.Listener { return &trusted{l, uid} }
