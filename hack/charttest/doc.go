// Package charttest holds tests of the chart that need no cluster: what it renders, and what it refuses to render. What
// needs one is in test/e2e.
package charttest
