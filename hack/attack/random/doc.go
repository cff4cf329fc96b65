// Package random attacks two nodes by chance. Its test plays thousands of random sequences of pulls, pushes, lies,
// revocations, restarts, evictions and outages over two nodes, two tenants and two registries, one of which is an
// attacker's, beside a model of who has really been given what by the registries. Nobody may ever hold a byte that the
// model does not give him.
//
// What decides is real: mirrors, books, registry clients, and the peer API between the nodes. Stores are in memory, and
// the clock is the sequence's own.
package random
