package discovery

import (
	"github.com/kioo-dev/kioo/pkg/discovery/internal/wire"
	"github.com/opencontainers/go-digest"
)

// Key names something that members may hold.
type Key = wire.Key

// Member is what a member says of itself.
type Member = wire.Member

// Entry is one thing that this member holds. Digest and Confirmed say what a tag means; content has neither.
type Entry = wire.Entry

// Provider is a member that holds something, with what it says of a tag's meaning.
type Provider = wire.Provider

// DigestKey is the key of a manifest or blob.
func DigestKey(d digest.Digest) Key { return wire.KeyOf("digest", d.String()) }

// TagKey is the key of a tag by its full name, registry included: "docker.io/library/nginx:1.27".
func TagKey(name string) Key { return wire.KeyOf("tag", name) }
