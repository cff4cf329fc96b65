//go:build !race

package mirror_test

const (
	// pulling is how many members pull at once.
	pulling = 16
	// few is how many requests "about one" is at most. One is the rule; a machine that is busy with something else
	// makes a member look dead now and then.
	few = 3
	// soon is how long it may take when somebody fails.
	soon = 5 * second
)
