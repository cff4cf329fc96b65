//go:build race

package mirror_test

// The race detector makes handshakes ten times as dear, and whole fleets run on one machine here: fewer members, and
// more patience.
const (
	pulling = 8
	few     = 5
	soon    = 20 * second
)
