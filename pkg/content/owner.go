package content

import "github.com/kioo-dev/kioo/pkg/reference"

// Owner is in whose name content came here, for sharing out room: all registries whose names one party may make up as
// it likes have one owner. It gives no rights. The zero Owner is whoever is not known.
type Owner string

// OwnerOf gives the owner of what a registry brings: see reference.Owner.
func OwnerOf(registry string) Owner { return Owner(reference.Owner(registry)) }
